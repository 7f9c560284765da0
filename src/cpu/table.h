/* Declares every semantic function family that the tables name: SEM(name) gives `extern const struct sem sem_name`. */
#ifndef CPU_TABLE_H
#define CPU_TABLE_H

#include "cpu/insn.h"

/*
 * One row:
 * ROW(name, space, map, pp, opcode, opcodes, modrm, w, l, modes, OPS(...), FLAGS(read, written, undefined),
 *     attr, isa, class, sem)
 * name      as Zydis and the SDM spell it, lower case
 * space     LEGACY, VEX, EVEX
 * map       0 one byte, 1 0F, 2 0F38, 3 0F3A (EVEX also 5, 6)
 * pp        NP, 66, F3, F2, ANY
 * opcodes   consecutive opcodes that the row covers (8 with a Z operand, 16 for Jcc), else 1
 * modrm     MODRM_* combination
 * sem       &sem_xxx, or NULL for COPY rows that run through the engine's thunk
 * OPS and FLAGS are parenthesised lists, so that they pass through such macros as one argument; no operands: OPS(none).
 * Files with many rows of one shape define shorter macros in terms of ROW and undefine them at their end.
 */
#define OPS(...) (__VA_ARGS__)
#define FLAGS(r, w, u) (r, w, u)

/* How many there are. */
enum {
	NR_ROW = 0
#define ROW(...) +1
#include "cpu/table_all.def"
#undef ROW
};

#endif
