#include "cpu/mmu.h"

#include <stdatomic.h>
#include <string.h>

#include "cpu/debug.h"
#include "cpu/exception.h"
#include "cpu/insn.h"
#include "cpu/mem.h"

/* Bits of a paging-structure entry (SDM vol. 3A, tables 4-5 to 4-20). */
#define PTE_P BIT64(0)
#define PTE_W BIT64(1)
#define PTE_U BIT64(2)
#define PTE_A BIT64(5)
#define PTE_D BIT64(6)
#define PTE_PS BIT64(7)
#define PTE_G BIT64(8)
#define PTE_NX BIT64(63)
#define PTE_ADDR 0x000ffffffffff000ull
#define PTE_PKEY(e) ((e) >> 59 & 15)

#define MAX_LEVELS 5

/* One entry that a walk went through. */
struct walk_step {
	const struct gpa_slot *slot; /* NULL: no memory there */
	void *host;
	u64 gpa, entry;
};

struct walk {
	struct walk_step step[MAX_LEVELS];
	unsigned n;
	unsigned entry_size; /* 4 or 8 bytes */
};

static u64 bits(unsigned high, unsigned low)
{
	return high < low ? 0 : (BIT64(high - low + 1) - 1) << low;
}

/* --- The walk ------------------------------------------------------------------------------------- */

static u64 entry_read(const struct cpu *c, struct walk *w, u64 gpa)
{
	struct walk_step *s = &w->step[w->n++];

	s->gpa = gpa;
	s->slot = gpa_find_near(c->map, w->n > 1 ? s[-1].slot : NULL, gpa);
	s->host = s->slot ? s->slot->hva + (gpa - s->slot->gpa) : NULL;
	if (!s->host)
		s->entry = ~0ull;
	else if (w->entry_size == 8)
		s->entry = __atomic_load_n((u64 *)s->host, __ATOMIC_RELAXED);
	else
		s->entry = __atomic_load_n((u32 *)s->host, __ATOMIC_RELAXED);
	return s->entry;
}

/* Reserved bits of an 8-byte entry at @level, which maps a page when @leaf. */
static u64 reserved64(const struct cpu *c, unsigned level, bool leaf)
{
	u64 r = bits(51, c->maxphyaddr);

	if (!(c->efer & EFER_NX))
		r |= PTE_NX;
	if (!(c->efer & EFER_LMA))
		r |= bits(62, 52);
	if (leaf && level == 2)
		r |= bits(20, 13);
	else if (leaf && level == 3)
		r |= bits(29, 13);
	else if (level >= 4 || (level == 3 && !cpu_has(c, ISA_PDPE1GB)))
		r |= PTE_PS;
	return r;
}

/* Reserved bits of a 4-byte PDE that maps 4 MiB: PSE-36 puts address bits 39:32 into 20:13 (SDM vol. 3A, table 4-4). */
static u64 reserved32(const struct cpu *c)
{
	unsigned width = MIN(c->maxphyaddr, 40u);
	return BIT64(21) | bits(20, width - 32 + 13);
}

static bool walk_is_leaf(const struct cpu *c, unsigned level, u64 entry, bool pae)
{
	if (level == 1)
		return true;
	if (!(entry & PTE_PS))
		return false;
	if (!pae)
		return c->cr4 & CR4_PSE;
	return level == 2 || (level == 3 && cpu_has(c, ISA_PDPE1GB));
}

static u64 leaf_address(u64 entry, unsigned page_bits, bool pae)
{
	if (!pae && page_bits == 22)
		return (entry & 0xffc00000) | (entry & 0x1fe000) << 19;
	return entry & PTE_ADDR & ~(BIT64(page_bits) - 1);
}

/* Where the walk starts. False: a PAE PDPTE that is not present. */
static bool walk_root(const struct cpu *c, u64 la, unsigned *level, u64 *table)
{
	if (c->efer & EFER_LMA) {
		*level = c->cr4 & CR4_LA57 ? 5 : 4;
		*table = c->cr3 & PTE_ADDR;
		return true;
	}
	*level = 2;
	if (!(c->cr4 & CR4_PAE)) {
		*table = c->cr3 & 0xfffff000;
		return true;
	}
	u64 pdpte = c->pdpte[la >> 30 & 3];
	*table = pdpte & PTE_ADDR;
	return pdpte & PTE_P;
}

/* From the root to the page. Returns 0, or PF_P and PF_RSVD of the fault with MMU_FAULT. */
static u32 walk_tables(const struct cpu *c, u64 la, struct walk *w, struct translation *t)
{
	bool pae = c->cr4 & CR4_PAE;
	unsigned index_bits = pae ? 9 : 10, level;
	u64 table, rights = PTE_W | PTE_U, nx = 0;

	w->n = 0;
	w->entry_size = pae ? 8 : 4;
	if (!walk_root(c, la, &level, &table))
		return MMU_FAULT;
	for (;; level--) {
		unsigned shift = PAGE_SHIFT + (level - 1) * index_bits;
		u64 e = entry_read(c, w, table + (la >> shift & (BIT64(index_bits) - 1)) * w->entry_size);

		if (!(e & PTE_P))
			return MMU_FAULT;
		bool leaf = walk_is_leaf(c, level, e, pae);
		u64 reserved = pae ? reserved64(c, level, leaf) : leaf && level == 2 ? reserved32(c) : 0;
		if (e & reserved)
			return MMU_FAULT | PF_P | PF_RSVD;
		rights &= e;
		if (pae)
			nx |= e & PTE_NX;
		if (leaf) {
			u64 offset = la & (BIT64(shift) - 1);
			*t = (struct translation){
				.gpa = leaf_address(e, shift, pae) | offset, .page_bits = (u8)shift,
				.writable = rights & PTE_W, .user = rights & PTE_U, .nx = nx != 0,
				.global = (e & PTE_G) && (c->cr4 & CR4_PGE), .dirty = e & PTE_D,
				.pkey = c->efer & EFER_LMA ? PTE_PKEY(e) : 0,
			};
			return 0;
		}
		table = e & PTE_ADDR;
	}
}

/* --- Rights (SDM vol. 3A, 4.6) ----------------------------------------------------------------------- */

static bool idx_user(enum mmu_index idx)
{
	return idx == MMU_USER || idx == MMU_USER_ALIGN;
}

static bool idx_smap(enum mmu_index idx)
{
	return idx == MMU_KERNEL_SMAP || idx == MMU_KERNEL_NOWP_SMAP;
}

/* Writes heed the W bits. */
static bool idx_wp(enum mmu_index idx)
{
	return idx != MMU_KERNEL_NOWP && idx != MMU_KERNEL_NOWP_SMAP;
}

static bool pkey_denies(const struct cpu *c, const struct translation *t, enum access acc, enum mmu_index idx)
{
	if (!(c->cr4 & CR4_PKE) || !(c->efer & EFER_LMA) || !t->user || acc == ACC_EXEC)
		return false;
	u32 key = c->fpu.pkru >> (t->pkey * 2);
	return (key & 1) || (acc == ACC_WRITE && (key & 2) && idx_wp(idx));
}

static bool allowed(const struct cpu *c, const struct translation *t, enum access acc, enum mmu_index idx)
{
	bool user = idx_user(idx);

	if (user && !t->user)
		return false;
	if (acc == ACC_EXEC)
		return !t->nx && (user || !t->user || !(c->cr4 & CR4_SMEP));
	if (t->user && idx_smap(idx))
		return false;
	if (acc == ACC_WRITE && !t->writable && idx_wp(idx))
		return false;
	return !pkey_denies(c, t, acc, idx);
}

/* The bits of the error code that come from the access itself (SDM vol. 3A, 4.7). */
static u32 access_error(const struct cpu *c, enum access acc, enum mmu_index idx)
{
	bool fetch_bit = (c->cr4 & CR4_SMEP) || ((c->cr4 & CR4_PAE) && (c->efer & EFER_NX));

	return (acc == ACC_WRITE ? PF_W : 0) | (idx_user(idx) ? PF_U : 0) | (acc == ACC_EXEC && fetch_bit ? PF_I : 0);
}

/* Sets A in every entry of the walk and, for a write, D in the last. False: an entry has changed meanwhile. */
static bool walk_set_ad(struct cpu *c, struct walk *w, bool write)
{
	for (unsigned n = 0; n < w->n; n++) {
		struct walk_step *s = &w->step[n];
		u64 old = s->entry, new = old | PTE_A | (write && n == w->n - 1 ? PTE_D : 0);

		if (new == old || !s->slot || (s->slot->flags & GPA_READONLY))
			continue;
		if (unlikely(gpa_has_code(s->slot, s->gpa)) && c->code_write)
			c->code_write(c, s->slot, s->gpa, s->host, w->entry_size);
		if (c->journal)
			c->journal->page(c, s->host);
		if (w->entry_size == 8) {
			if (!__atomic_compare_exchange_n((u64 *)s->host, &old, new, false, __ATOMIC_SEQ_CST,
							 __ATOMIC_RELAXED))
				return false;
		} else {
			u32 old32 = (u32)old;
			if (!__atomic_compare_exchange_n((u32 *)s->host, &old32, (u32)new, false, __ATOMIC_SEQ_CST,
							 __ATOMIC_RELAXED))
				return false;
		}
		gpa_mark_dirty(s->slot, s->gpa);
		mem_stored(c, s->host);
	}
	return true;
}

/* How often a walk starts again because others change the tables under it, before it lets the run loop look around. */
#define WALK_RETRIES 100

u32 mmu_walk(struct cpu *c, u64 la, enum access acc, enum mmu_index idx, bool set_ad, struct translation *t)
{
	struct walk w;

	if (!(c->cr0 & CR0_PG)) {
		/* Neither WP nor SMAP nor SMEP has a say: the page is always the accessor's own. */
		*t = (struct translation){.gpa = la, .page_bits = PAGE_SHIFT, .writable = true, .user = idx_user(idx),
					  .dirty = true};
		return 0;
	}
	for (unsigned retry = 0; retry < WALK_RETRIES; retry++) {
		u32 error = walk_tables(c, la, &w, t);

		if (error)
			return error | access_error(c, acc, idx);
		if (!allowed(c, t, acc, idx))
			return MMU_FAULT | PF_P | access_error(c, acc, idx) | (pkey_denies(c, t, acc, idx) ? PF_PK : 0);
		if (!set_ad || walk_set_ad(c, &w, acc == ACC_WRITE))
			return 0;
	}
	cpu_exit(c, EXIT_KICK);
}

bool mmu_translate(struct cpu *c, u64 la, u64 *gpa, bool *writable, bool *user)
{
	struct translation t;
	struct walk w;

	if (!(c->cr0 & CR0_PG)) {
		*gpa = la;
		*writable = *user = true;
		return true;
	}
	if (!la_canonical(c, la) || walk_tables(c, la, &w, &t))
		return false;
	*gpa = t.gpa;
	*writable = t.writable;
	*user = t.user;
	return true;
}

bool mmu_load_pdptes(struct cpu *c, u64 cr3)
{
	/* SDM vol. 3A, table 4-8 */
	u64 reserved = bits(2, 1) | bits(8, 5) | bits(63, c->maxphyaddr), pdpte[4];
	struct walk w = {.entry_size = 8};

	for (unsigned n = 0; n < 4; n++) {
		pdpte[n] = entry_read(c, &w, (cr3 & 0xffffffe0) + n * 8);
		if ((pdpte[n] & PTE_P) && (pdpte[n] & reserved))
			return false;
	}
	memcpy(c->pdpte, pdpte, sizeof(pdpte));
	return true;
}

/* --- Filling the TLB ---------------------------------------------------------------------------------- */

void *mmu_fill(struct cpu *c, enum seg_reg seg, u64 la, unsigned size, enum access acc, enum mmu_index idx, u64 *gpa)
{
	struct translation t;

	if (idx == MMU_USER_ALIGN)
		idx = MMU_USER;
	if (tlb_recall(c, idx, la, acc))
		return tlb_host(&c->tlbs->array[idx], la);
	c->stat.tlb_misses++;
	if (!la_canonical(c, la))
		raise_error(c, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
	u32 error = mmu_walk(c, la, acc, idx, true, &t);
	if (error) {
		tlb_flush_fault(c, la);
		raise_page_fault(c, la, error & ~MMU_FAULT);
	}
	*gpa = t.gpa;
	const struct gpa_slot *slot = gpa_find(c->map, t.gpa);
	if (!slot || (acc == ACC_WRITE && (slot->flags & GPA_READONLY)))
		return NULL;
	u8 *host = slot->hva + (t.gpa - slot->gpa);
	if (acc == ACC_WRITE) {
		gpa_mark_dirty(slot, t.gpa);
		if (unlikely(gpa_has_code(slot, t.gpa)) && c->code_write)
			c->code_write(c, slot, t.gpa, host, size);
		if (c->journal)
			c->journal->page(c, host);
	}
	struct tlb_page page = {
		.la = la & PAGE_MASK, .host = (u64)host & PAGE_MASK, .page_bits = t.page_bits, .global = t.global,
		.read = allowed(c, &t, ACC_READ, idx), .write = acc == ACC_WRITE && !gpa_has_code(slot, t.gpa),
		.exec = allowed(c, &t, ACC_EXEC, idx),
	};
	if (page.exec && gpa_has_code(slot, t.gpa) && c->code_fill)
		c->code_fill(c, host);
	if (unlikely(c->watch_active) && debug_watched_page(c, la))
		page.read = page.write = false;
	tlb_enter(c, idx, &page);
	return host;
}

const u8 *mmu_code(struct cpu *c, u64 la, u64 *gpa)
{
	enum mmu_index idx = c->mmu_index == MMU_USER_ALIGN ? MMU_USER : (enum mmu_index)c->mmu_index;
	const struct tlb_array *a = &c->tlbs->array[idx];

	if (likely(tlb_has(a, la, ACC_EXEC)))
		return tlb_host(a, la);
	return mmu_fill(c, SEG_CS, la, 1, ACC_EXEC, idx, gpa);
}
