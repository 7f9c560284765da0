/* What the parts of the program generator share: the program under construction, and what is placed into it. */
#ifndef TESTS_ISA_SEQUENCE_GEN_H
#define TESTS_ISA_SEQUENCE_GEN_H

#include "gen.h"
#include "sequence.h"

#define NR_BLOCKS 16 /* the last of them are functions */
#define NR_FIXUPS 128
#define BYTES(...) ((const u8[]){__VA_ARGS__}), sizeof((const u8[]){__VA_ARGS__})

struct fixup {
	u16 at; /* of a rel32 */
	u8 block;
	bool absolute; /* an address instead */
};

struct gen {
	struct program *p;
	unsigned at;
	u16 undefined;
	u16 carried;  /* undefined flags may be carried from block to block */
	bool rsp_good, in_function;
	bool vectors, x87; /* above all; x87: with MMX, and the C functions that look at it */
	unsigned block, nr_blocks, nr_main;
	u16 label[NR_BLOCKS];
	struct fixup fixup[NR_FIXUPS];
	unsigned nr_fixups;
	/* Bytes that the program may change, and the places of the addresses to change them by. */
	u16 imm[NR_FIXUPS], modrm[NR_FIXUPS], imm_use[NR_FIXUPS], modrm_use[NR_FIXUPS];
	unsigned nr_imm, nr_modrm, nr_imm_use, nr_modrm_use;
};

/* --- sequence_insn.c: instructions ---------------------------------------------------------------------------- */

bool is_full(const struct gen *g);
void place(struct gen *g, const u8 *bytes, unsigned len);
/* The same and 32 bits behind it; with a REX prefix first, which 32-bit code has not. */
void place32(struct gen *g, const u8 *bytes, unsigned len, u32 v);
void place_rex(struct gen *g, unsigned rex, const u8 *bytes, unsigned len);
/* A register that the program has. */
u8 pick_reg(const struct gen *g);
/* Sets all flags. */
void place_clean(struct gen *g);
void place_mov(struct gen *g, unsigned reg, u64 v);
/* @v, or the program's address of what it is the address of. */
u64 moved(const struct program *p, u64 v);
void need_stack(struct gen *g);
/* A branch to a block: @len bytes, then rel32. */
void place_branch(struct gen *g, const u8 *bytes, unsigned len, unsigned block);
void place_jcc(struct gen *g, unsigned block);
void place_stack(struct gen *g);
/* Any instruction, with what it needs. */
void place_random(struct gen *g);

/* --- sequence_window.c ---------------------------------------------------------------------------------------- */

/* Several accesses near each other: in one page, on two, on a border to pages that fault. */
void place_window(struct gen *g);

#endif
