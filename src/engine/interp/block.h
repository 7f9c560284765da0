/*
 * Decoded blocks: straight-line runs of instructions within one page, kept per vCPU.
 *
 * A block is found by the host address of its code and the code size, and compared with the bytes in
 * memory each time it is entered. So whoever writes guest memory - this vCPU, another, a device, the client
 * through its own mapping - needs to tell nobody. What a block does to itself while it runs is caught by
 * cpu->code_page (cpu/mem.h).
 */
#ifndef ENGINE_INTERP_BLOCK_H
#define ENGINE_INTERP_BLOCK_H

#include <string.h>

#include "cpu/insn.h"
#include "cpu/mem.h"
#include "engine/copy.h"

#define BLOCK_INSNS_MAX 32
#define BLOCK_TABLE_BITS 15

struct block {
	const u8 *code;     /* host address of the first byte; NULL: empty */
	struct insn *insns; /* followed by the bytes they were decoded from */
	u16 len;            /* bytes of code */
	u8 nr;              /* instructions, at least 1 */
	u8 code_bits;
	bool ends;          /* the last one is CLASS_END: it sets RIP itself */
};

struct block_cache {
	struct block *table; /* direct-mapped */
	u8 *pool;            /* insns and bytes; reset as a whole when full */
	size_t pool_used;
	struct copy_arena copy;
	struct block crossing; /* the instruction that crosses a page, decoded anew each time */
	struct insn crossing_insn;
	u64 flushes;
};

/* 0 or -errno, with nothing to free; block_cache_fini() may be called all the same, and on one that is all zero. */
int block_cache_init(struct block_cache *bc);
void block_cache_fini(struct block_cache *bc);
void block_cache_flush(struct block_cache *bc);

/*
 * Chooses what executes @i, decoded with @st: its semantics, a thunk in @copy, or what raises the fault. False: @copy
 * is full.
 */
bool block_bind(struct copy_arena *copy, struct cpu *c, struct insn *i, enum decode_status st);
/* Nothing of the block comes after @i. */
static inline bool block_ends_at(const struct insn *i)
{
	return i->faults || insn_rows[i->row].class_ == CLASS_END;
}

/* Host address of the code at @la. May raise #PF, #GP; leaves with EXIT_EMULATION where there is no memory. */
const u8 *block_code_at(struct cpu *c, u64 la);

/* The slow half of block_get(): TLB miss, new or changed code, code at the end of a page or of CS. */
const struct block *block_get_slow(struct block_cache *bc, struct cpu *c, u64 la);

static inline const u8 *block_bytes(const struct block *b)
{
	return (const u8 *)(b->insns + b->nr);
}

static inline struct block *block_slot(const struct block_cache *bc, const u8 *code)
{
	u64 key = (u64)code ^ (u64)code >> BLOCK_TABLE_BITS;
	return &bc->table[key & ((1u << BLOCK_TABLE_BITS) - 1)];
}

/* memcmp() for short runs: loads that may overlap instead of a call. */
static inline bool block_same_bytes(const u8 *a, const u8 *b, unsigned n)
{
	u64 x, y, diff = 0;

	if (likely(n >= 8)) {
		for (unsigned at = 0; at < n - 8; at += 8) {
			memcpy(&x, a + at, 8);
			memcpy(&y, b + at, 8);
			diff |= x ^ y;
		}
		memcpy(&x, a + n - 8, 8);
		memcpy(&y, b + n - 8, 8);
		return !(diff | (x ^ y));
	}
	if (n >= 4) {
		u32 p, q, r, s;
		memcpy(&p, a, 4);
		memcpy(&q, b, 4);
		memcpy(&r, a + n - 4, 4);
		memcpy(&s, b + n - 4, 4);
		return !((p ^ q) | (r ^ s));
	}
	return a[0] == b[0] && a[n / 2] == b[n / 2] && a[n - 1] == b[n - 1];
}

/* In legacy modes the whole instruction must lie within CS.limit (SDM vol. 3A, 5.3). */
static inline bool block_in_limit(const struct cpu *c, const struct block *b)
{
	u32 limit = c->seg[SEG_CS].limit;

	return c->code_bits == 64 || (c->rip <= limit && b->len - 1u <= limit - (u32)c->rip);
}

/* The block at the vCPU's RIP. May raise #PF, #GP; leaves with EXIT_EMULATION where there is no memory. */
static inline const struct block *block_get(struct block_cache *bc, struct cpu *c)
{
	u64 la = c->code_bits == 64 ? c->rip : (u32)(c->rip + c->seg[SEG_CS].base);

	if (likely(tlb_has(c->tlb, la, ACC_EXEC))) {
		const u8 *p = tlb_host(c->tlb, la);
		const struct block *b = block_slot(bc, p);

		if (likely(b->code == p && b->code_bits == c->code_bits &&
			   block_same_bytes(p, block_bytes(b), b->len) &&
			   block_in_limit(c, b)))
			return b;
	}
	return block_get_slow(bc, c, la);
}

#endif
