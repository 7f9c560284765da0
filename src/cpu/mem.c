#include "cpu/mem.h"

#include "cpu/debug.h"
#include "cpu/exception.h"

/*
 * An access of up to 8 bytes is at most two pieces, each in one page. Both are translated before
 * either is touched, and MMIO goes before RAM: the outside may interrupt it (see struct cpu_io), and
 * RAM must not have changed when the instruction starts again.
 */
struct piece {
	u8 *host; /* NULL: MMIO */
	u64 gpa;
	unsigned size;
};

/* Data accesses wrap at 4 GiB outside 64-bit code; a system structure may lie anywhere in long mode. */
static u64 la_mask(const struct cpu *c, bool system)
{
	return c->code_bits == 64 || (system && (c->efer & EFER_LMA)) ? ~0ull : 0xffffffffull;
}

/* The part of an access that lies in the page of @la. */
static struct piece piece_get(struct cpu *c, enum mmu_index idx, enum seg_reg seg, u64 la, unsigned size,
			      enum access acc)
{
	u64 gpa = 0;
	u8 *host = tlb_hit(c, idx, la, size, acc);

	if (!host)
		host = mmu_fill(c, seg, la, size, acc, idx, &gpa);
	return (struct piece){host, gpa, size};
}

static unsigned room_in_page(u64 la)
{
	return PAGE_SIZE - (unsigned)(la & (PAGE_SIZE - 1));
}

/* #AC for an operand that is not on its natural boundary (SDM vol. 3A, table 6-7). */
static void align_check(struct cpu *c, u64 la, unsigned size)
{
	if (size <= 8 && !(size & (size - 1)) && (la & (size - 1)))
		raise_error(c, VEC_AC, 0);
}

/* The MMU index of a data access of the running code, after its alignment check. */
static enum mmu_index data_index(struct cpu *c, u64 la, unsigned size)
{
	if (likely(c->mmu_index != MMU_USER_ALIGN))
		return (enum mmu_index)c->mmu_index;
	/* A misaligned access to a page that is not there is a page fault on some processors; here #AC is first. */
	if (la_canonical(c, la))
		align_check(c, la, size);
	return MMU_USER;
}

static void watch(struct cpu *c, u64 la, unsigned size, enum access acc)
{
	if (unlikely(c->watch_active))
		debug_access(c, la, size, acc);
}

static u64 host_load(const u8 *host, unsigned size)
{
	u64 v = 0;

	switch (size) {
	case 1: return *host;
	case 2: memcpy(&v, host, 2); return v;
	case 4: memcpy(&v, host, 4); return v;
	case 8: memcpy(&v, host, 8); return v;
	default: memcpy(&v, host, size); return v;
	}
}

static void host_store(struct cpu *c, u8 *host, unsigned size, u64 v)
{
	switch (size) {
	case 1: *host = (u8)v; break;
	case 2: memcpy(host, &v, 2); break;
	case 4: memcpy(host, &v, 4); break;
	case 8: memcpy(host, &v, 8); break;
	default: memcpy(host, &v, size); break;
	}
	mem_stored(c, host);
}

static u64 piece_read(struct cpu *c, const struct piece *p)
{
	return p->host ? host_load(p->host, p->size) : cpu_io(c, IO_MMIO_READ, p->gpa, p->size, 0);
}

static void piece_write_ram(struct cpu *c, const struct piece *p, u64 v)
{
	if (p->host)
		host_store(c, p->host, p->size, v);
}

static void piece_write_mmio(struct cpu *c, const struct piece *p, u64 v)
{
	if (!p->host)
		cpu_io(c, IO_MMIO_WRITE, p->gpa, p->size, p->size == 8 ? v : v & (BIT64(p->size * 8) - 1));
}

static u64 read_at(struct cpu *c, enum mmu_index idx, enum seg_reg seg, u64 la, unsigned size, u64 mask)
{
	const u8 *hit = tlb_hit(c, idx, la, size, ACC_READ);
	u64 v;

	if (likely(hit))
		return host_load(hit, size);
	if (likely(tlb_in_page(la, size))) {
		struct piece p = piece_get(c, idx, seg, la, size, ACC_READ);
		v = piece_read(c, &p);
	} else {
		unsigned first = room_in_page(la);
		struct piece lo = piece_get(c, idx, seg, la, first, ACC_READ);
		struct piece hi = piece_get(c, idx, seg, (la + first) & mask, size - first, ACC_READ);
		v = piece_read(c, &lo);
		v |= piece_read(c, &hi) << (first * 8);
	}
	watch(c, la, size, ACC_READ);
	return v;
}

static void write_at(struct cpu *c, enum mmu_index idx, enum seg_reg seg, u64 la, unsigned size, u64 v, u64 mask)
{
	u8 *hit = tlb_hit(c, idx, la, size, ACC_WRITE);

	if (likely(hit)) {
		host_store(c, hit, size, v);
		return;
	}
	if (likely(tlb_in_page(la, size))) {
		struct piece p = piece_get(c, idx, seg, la, size, ACC_WRITE);
		piece_write_mmio(c, &p, v);
		piece_write_ram(c, &p, v);
	} else {
		unsigned first = room_in_page(la);
		struct piece lo = piece_get(c, idx, seg, la, first, ACC_WRITE);
		struct piece hi = piece_get(c, idx, seg, (la + first) & mask, size - first, ACC_WRITE);
		u64 v_hi = v >> (first * 8);
		piece_write_mmio(c, &lo, v);
		piece_write_mmio(c, &hi, v_hi);
		piece_write_ram(c, &lo, v);
		piece_write_ram(c, &hi, v_hi);
	}
	watch(c, la, size, ACC_WRITE);
}

u64 mem_read_slow(struct cpu *c, enum seg_reg seg, u64 la, unsigned size)
{
	return read_at(c, data_index(c, la, size), seg, la, size, la_mask(c, false));
}

void mem_write_slow(struct cpu *c, enum seg_reg seg, u64 la, unsigned size, u64 value)
{
	write_at(c, data_index(c, la, size), seg, la, size, value, la_mask(c, false));
}

u64 mem_read_system(struct cpu *c, u64 la, unsigned size)
{
	return read_at(c, mmu_index_system(c), SEG_DS, la & la_mask(c, true), size, la_mask(c, true));
}

void mem_write_system(struct cpu *c, u64 la, unsigned size, u64 value)
{
	write_at(c, mmu_index_system(c), SEG_DS, la & la_mask(c, true), size, value, la_mask(c, true));
}

u64 mem_read_as(struct cpu *c, enum mmu_index idx, enum seg_reg seg, u64 la, unsigned size)
{
	return read_at(c, idx == MMU_USER_ALIGN ? MMU_USER : idx, seg, la, size, la_mask(c, true));
}

void mem_write_as(struct cpu *c, enum mmu_index idx, enum seg_reg seg, u64 la, unsigned size, u64 value)
{
	write_at(c, idx == MMU_USER_ALIGN ? MMU_USER : idx, seg, la, size, value, la_mask(c, true));
}

/* --- Blocks -------------------------------------------------------------------------------------------- */

void mem_read_block(struct cpu *c, enum seg_reg seg, u64 la, void *to, unsigned size)
{
	enum mmu_index idx = c->mmu_index == MMU_USER_ALIGN ? MMU_USER : (enum mmu_index)c->mmu_index;
	u64 mask = la_mask(c, false);
	u8 *out = to;

	watch(c, la, size, ACC_READ);
	for (unsigned done = 0; done < size;) {
		u64 at = (la + done) & mask;
		unsigned n = MIN(size - done, room_in_page(at));
		struct piece p = piece_get(c, idx, seg, at, n, ACC_READ);

		if (!p.host) {
			p.size = n = MIN(n, 8u);
			u64 v = piece_read(c, &p);
			memcpy(out + done, &v, n);
		} else {
			memcpy(out + done, p.host, n);
		}
		done += n;
	}
}

static void block_write_mmio(struct cpu *c, struct piece p, const u8 *from)
{
	for (unsigned left = p.size; left;) {
		u64 v = 0;

		p.size = MIN(left, 8u);
		memcpy(&v, from, p.size);
		piece_write_mmio(c, &p, v);
		p.gpa += p.size;
		from += p.size;
		left -= p.size;
	}
}

void mem_write_block(struct cpu *c, enum seg_reg seg, u64 la, const void *from, unsigned size)
{
	enum mmu_index idx = c->mmu_index == MMU_USER_ALIGN ? MMU_USER : (enum mmu_index)c->mmu_index;
	u64 mask = la_mask(c, false);
	const u8 *in = from;

	/* All pages first, MMIO before RAM: see struct piece. Each pass asks the TLB again, which has the answer. */
	for (unsigned pass = 0; pass < 3; pass++) {
		for (unsigned done = 0; done < size;) {
			u64 at = (la + done) & mask;
			unsigned n = MIN(size - done, room_in_page(at));
			struct piece p = piece_get(c, idx, seg, at, n, ACC_WRITE);

			if (pass == 1 && !p.host) {
				block_write_mmio(c, p, in + done);
			} else if (pass == 2 && p.host) {
				memcpy(p.host, in + done, n);
				mem_stored(c, p.host);
			}
			done += n;
		}
	}
	watch(c, la, size, ACC_WRITE);
}

void mem_probe(struct cpu *c, enum seg_reg seg, u64 la, unsigned size, enum access acc)
{
	enum mmu_index idx = data_index(c, la, size);
	u64 mask = la_mask(c, false);

	for (unsigned done = 0; done < size;) {
		u64 at = (la + done) & mask;
		unsigned n = MIN(size - done, room_in_page(at));

		piece_get(c, idx, seg, at, n, acc);
		done += n;
	}
}

void *mem_host_slow(struct cpu *c, enum seg_reg seg, u64 la, unsigned size, enum access acc)
{
	/* Where every single element counts, the caller goes element by element. */
	if (c->mmu_index == MMU_USER_ALIGN && size > 8)
		return NULL;
	/* Behind the end of a flat segment: that comes before alignment, and only the caller knows the limit. */
	if (c->code_bits != 64 && la + size > BIT64(32))
		return NULL;
	enum mmu_index idx = data_index(c, la, size);
	if (!tlb_in_page(la, size) || (unlikely(c->watch_active) && debug_watched_page(c, la)))
		return NULL;
	struct piece p = piece_get(c, idx, seg, la, size, acc);
	if (p.host && acc == ACC_WRITE)
		mem_stored(c, p.host);
	return p.host;
}

/* --- Segmentation ------------------------------------------------------------------------------------------ */

static _Noreturn void segment_fault(struct cpu *c, enum seg_reg seg)
{
	raise_error(c, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
}

/* @size bytes at @off lie within the limit (SDM vol. 3A, 5.3). Expand-down: the limit is what is just outside. */
static bool within_limit(const struct segment *s, u32 off, unsigned size)
{
	u64 last = (u64)off + size - 1;

	if ((s->type & 0xc) == 4)
		return off > s->limit && last <= (s->db ? 0xffffffff : 0xffff);
	return last <= s->limit;
}

u64 seg_la_slow(struct cpu *c, enum seg_reg seg, u64 off, unsigned size, enum access acc)
{
	const struct segment *s = &c->seg[seg];

	if (cpu_protected(c)) {
		if (s->unusable || !s->present)
			segment_fault(c, seg);
		bool code = s->type & 8, rw = s->type & 2;
		if (acc == ACC_WRITE ? code || !rw : acc == ACC_READ && code && !rw)
			segment_fault(c, seg);
	}
	if (!within_limit(s, (u32)off, size))
		segment_fault(c, seg);
	return (u32)(s->base + off);
}
