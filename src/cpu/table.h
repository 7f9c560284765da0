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
 * Files with many rows of one shape define shorter macros in terms of ROW and undefine them at their end.
 */
#define OPS(...) {ROW_OPS_(__VA_ARGS__, none, none, none, none)}
#define ROW_OPS_(a, b, c, d, ...) OP_##a, OP_##b, OP_##c, OP_##d
#define FLAGS(r, w, u) (r), (w), (u)

#endif
