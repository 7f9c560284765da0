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

#include "cpu/insn.h"
#include "engine/copy.h"

#define BLOCK_INSNS_MAX 32

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

int block_cache_init(struct block_cache *bc);
void block_cache_fini(struct block_cache *bc);
void block_cache_flush(struct block_cache *bc);

/* The block at the vCPU's RIP. May raise #PF, #GP; leaves with EXIT_EMULATION where there is no memory. */
const struct block *block_get(struct block_cache *bc, struct cpu *c);

static inline const u8 *block_bytes(const struct block *b)
{
	return (const u8 *)(b->insns + b->nr);
}

#endif
