#include "engine/interp/block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/exception.h"
#include "cpu/mem.h"
#include "cpu/mmu.h"

#define BLOCK_POOL_SIZE (16u << 20)
#define COPY_ARENA_SIZE (4u << 20)

int block_cache_init(struct block_cache *bc)
{
	memset(bc, 0, sizeof(*bc));
	bc->table = calloc(1u << BLOCK_TABLE_BITS, sizeof(*bc->table));
	bc->pool = mmap(NULL, BLOCK_POOL_SIZE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (bc->pool == MAP_FAILED)
		bc->pool = NULL;
	int r = bc->table && bc->pool ? copy_arena_init(&bc->copy, COPY_ARENA_SIZE) : -ENOMEM;
	if (r)
		block_cache_fini(bc);
	return r;
}

void block_cache_fini(struct block_cache *bc)
{
	copy_arena_fini(&bc->copy);
	free(bc->table);
	if (bc->pool)
		munmap(bc->pool, BLOCK_POOL_SIZE);
	bc->table = NULL;
	bc->pool = NULL;
}

void block_cache_flush(struct block_cache *bc)
{
	memset(bc->table, 0, sizeof(*bc->table) << BLOCK_TABLE_BITS);
	bc->pool_used = 0;
	copy_arena_reset(&bc->copy);
	bc->flushes++;
}

static sem_fn *insn_sem(const struct insn *i)
{
	const struct sem *s = insn_rows[i->row].sem;
	unsigned log2 = (unsigned)__builtin_ctz(i->opsize ? i->opsize : 1) & 3;

	return i->lock ? s->lock[log2] : s->fn[log2][!i->is_mem];
}

static void exec_ud(struct cpu *c, const struct insn *i)
{
	raise_ud(c);
}

static void exec_gp(struct cpu *c, const struct insn *i)
{
	raise_gp0(c);
}

static bool faults(struct insn *i, sem_fn *fn)
{
	i->fn = fn;
	i->faults = true;
	i->len = MAX(i->len, 1);
	return true;
}

/* A row with conditions on mode or privilege that only the moment of execution can tell. */
static void exec_checked(struct cpu *c, const struct insn *i)
{
	insn_check(c, &insn_rows[i->row]);
	insn_sem(i)(c, i);
}

/* Chooses the function that executes @i, where that is not the decoder's choice. False: the copy arena is full. */
static bool insn_bind(struct copy_arena *copy, struct cpu *c, struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];

	if (!insn_gate_open(c, r))
		return faults(i, exec_ud);
	if (!r->sem)
		return copy_prepare(copy, i);
	if (r->attr & (A_CPL0 | A_PROT))
		i->fn = exec_checked;
	return true;
}

bool block_bind(struct copy_arena *copy, struct cpu *c, struct insn *i, enum decode_status st)
{
	switch (st) {
	case DECODE_OK:
		return insn_bind(copy, c, i);
	case DECODE_TOO_LONG:
		return faults(i, exec_gp);
	default:
		return faults(i, exec_ud);
	}
}

const u8 *block_code_at(struct cpu *c, u64 la)
{
	u64 gpa;

	if (likely(tlb_has(c->tlb, la, ACC_EXEC)))
		return tlb_host(c->tlb, la);
	const u8 *p = mmu_code(c, la, &gpa);
	if (!p) {
		/* Instructions in MMIO space: KVM cannot fetch them either. */
		c->exit.gpa = gpa;
		c->exit.insn_len = 0;
		cpu_exit(c, EXIT_EMULATION);
	}
	return p;
}

/* The instruction at @la begins at @p, @avail bytes before the end of its page, and goes on in the next one. */
static const struct block *block_crossing(struct block_cache *bc, struct cpu *c, u64 la, const u8 *p, unsigned avail)
{
	struct block *b = &bc->crossing;
	struct insn *i = &bc->crossing_insn;
	u8 bytes[15];
	u64 next = la + avail;

	if (c->code_bits != 64)
		next = (u32)next;
	memcpy(bytes, p, avail);
	memcpy(bytes + avail, block_code_at(c, next), sizeof(bytes) - avail);
	enum decode_status st = decode(i, bytes, sizeof(bytes), c->code_bits);
	if (!block_bind(&bc->copy, c, i, st)) {
		block_cache_flush(bc);
		block_bind(&bc->copy, c, i, st);
	}
	*b = (struct block){.code = p, .insns = i, .len = i->len, .nr = 1, .code_bits = c->code_bits,
			    .ends = block_ends_at(i)};
	return b;
}

/* Decodes the block at @p into @b. False: pool or arena is full. NULL insns: its first instruction crosses the page. */
static bool block_build(struct block_cache *bc, struct cpu *c, struct block *b, const u8 *p)
{
	unsigned room = PAGE_SIZE - (unsigned)((u64)p & (PAGE_SIZE - 1)), len = 0;
	struct insn *insns = (struct insn *)(bc->pool + bc->pool_used);
	u8 bytes[BLOCK_INSNS_MAX * 15];

	/* From a copy: another vCPU may be writing there, and what is compared later must be what was decoded. */
	room = MIN(room, (unsigned)sizeof(bytes));
	memcpy(bytes, p, room);
	if (bc->pool_used + BLOCK_INSNS_MAX * (sizeof(struct insn) + 15) + 64 > BLOCK_POOL_SIZE)
		return false;
	*b = (struct block){.code_bits = c->code_bits};
	while (b->nr < BLOCK_INSNS_MAX && !b->ends && len < room) {
		struct insn *i = &insns[b->nr];
		unsigned avail = MIN(room - len, 15u);
		enum decode_status st = decode(i, bytes + len, avail, c->code_bits);
		if (st == DECODE_SHORT)
			break;
		if (!block_bind(&bc->copy, c, i, st)) {
			b->code = NULL;
			return false;
		}
		len += i->len;
		b->nr++;
		b->ends = block_ends_at(i);
	}
	if (!b->nr)
		return true;
	b->code = p;
	b->insns = insns;
	b->len = (u16)len;
	memcpy(insns + b->nr, bytes, len);
	bc->pool_used = ALIGN_UP(bc->pool_used + b->nr * sizeof(struct insn) + len, 16);
	return true;
}

static const struct block *block_limited(struct block_cache *bc, struct cpu *c, const struct block *b)
{
	const struct insn *first = b->insns;
	bool ends = block_ends_at(first);

	if (c->rip > c->seg[SEG_CS].limit || first->len - 1u > c->seg[SEG_CS].limit - (u32)c->rip)
		raise_gp0(c);
	bc->crossing_insn = *first;
	bc->crossing = (struct block){.code = b->code, .insns = &bc->crossing_insn, .len = first->len, .nr = 1,
				      .code_bits = b->code_bits, .ends = ends};
	return &bc->crossing;
}

const struct block *block_get_slow(struct block_cache *bc, struct cpu *c, u64 la)
{
	const u8 *p = block_code_at(c, la);
	struct block *b = block_slot(bc, p);

	if (b->code != p || b->code_bits != c->code_bits || !block_same_bytes(p, block_bytes(b), b->len)) {
		if (!block_build(bc, c, b, p)) {
			block_cache_flush(bc);
			block_build(bc, c, b, p);
		}
		if (!b->code)
			return block_crossing(bc, c, la, p, PAGE_SIZE - (unsigned)((u64)p & (PAGE_SIZE - 1)));
	}
	return block_in_limit(c, b) ? b : block_limited(bc, c, b);
}
