/*
 * The decoder's index over the instruction table: by encoding space, map and opcode the rows that come into question.
 *
 * Every constraint of a row that is a choice among few (prefix, W, vector length, ModRM form, mode) is one bit of a
 * mask, so that a row fits when the instruction's bits are all among the row's and the constrained ModRM bits agree.
 */
#ifndef CPU_DECODE_INDEX_H
#define CPU_DECODE_INDEX_H

#include "cpu/insn.h"

#define NR_MAP 7
#define NR_SPACE 3

enum {
	FIT_PP = 0,    /* 4 bits: NP 66 F3 F2 */
	FIT_W = 4,     /* 2 bits */
	FIT_L = 6,     /* 4 bits */
	FIT_FORM = 10, /* 2 bits: memory, register */
	FIT_MODE = 12, /* 2 bits: 16/32, 64 */
};

/* A row under one opcode. */
struct candidate {
	u16 row, fit;
	u8 modrm_mask, modrm_value;
	bool er; /* with EVEX.b in the register form L'L is no length */
};

struct cell {
	u16 first;
	u8 nr;
	bool modrm;
};

/* What the bytes of a row's instructions hold, digested from its operands. */
struct layout {
	u16 op0_size;     /* decides opsize */
	u16 mem_size;     /* enum operand_size of the r/m operand */
	u8 imm_kind;      /* OK_I, OK_J, OK_A, OK_O, OK_NONE */
	u16 imm_size;
	u8 imm2_size;     /* ENTER, EXTRQ, INSERTQ */
	bool is4;         /* the immediate names a vector register */
	u8 reg_kind, rm_kind, vvvv_kind;
	bool byte_reg, byte_rm;
	bool z;           /* low opcode bits are a register */
	bool always_reg;  /* mod is ignored: MOV CRn, MOV DRn */
	bool vsib;
	bool to_seg;      /* loads a segment register, which cannot be CS */
};

/* Built by decode_init(), read-only afterwards. */
extern struct cell decode_cells[NR_SPACE * NR_MAP * 256];
extern struct candidate decode_candidates[];
extern struct layout decode_layouts[]; /* by row */

enum { NO_PREFIX, LEGACY_PREFIX, REX_PREFIX };
extern const u8 decode_prefixes[256]; /* in 64-bit code: in others there is no REX */

/*
 * What a byte says of how 64-bit code goes on: where an instruction begins or behind prefixes, and behind 0F. Without
 * the longer forms, whose opcodes are elsewhere: VEX, EVEX, 0F 38, 0F 3A.
 */
enum { HEAD_PREFIX = 1, HEAD_ESCAPE = 2, HEAD_MODRM = 4, HEAD_LONGER = 8 };
extern u8 decode_heads[2][256];

/* The immediate is extended by its sign. */
static inline bool decode_imm_signed(const struct layout *y)
{
	return y->imm_kind == OK_J || (y->imm_kind == OK_I && y->imm_size >= OS_V);
}

static inline struct cell *cell_of(unsigned space, unsigned map, unsigned opcode)
{
	return &decode_cells[(space * NR_MAP + map) * 256 + opcode];
}

#endif
