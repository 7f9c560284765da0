/*
 * Emits a decoded instruction once more, for 64-bit host code, with other registers: what lets the host execute the
 * guest's own instruction while the guest's general registers live elsewhere.
 */
#ifndef ENGINE_REENCODE_H
#define ENGINE_REENCODE_H

#include "cpu/insn.h"

/*
 * Host register numbers in place of the guest's. For vector, mask, MMX and x87 operands give the instruction's own
 * (REENCODE_SAME). @base is the host register that holds the address of the memory operand, less @disp, and less @index
 * unless that is 0.
 */
struct reencode {
	u8 reg;  /* ModRM.reg operand */
	u8 rm;   /* ModRM.rm register operand, or the register in the opcode */
	u8 vvvv;
	u8 base, index;
	s32 disp;
	u32 at;  /* not 0: the address of what takes the place of the register rm, which is 0 */
};
#define REENCODE_SAME(i) {.reg = (i)->reg, .rm = (i)->rm, .vvvv = (i)->vvvv}

#define REENCODE_MAX 20

/*
 * Writes the instruction to @out (REENCODE_MAX bytes) and returns its length, or 0 for what has no such form: branches,
 * far pointers, moffs, implicit string operands and vector indices.
 * Byte registers are the low ones (SPL to DIL, not AH to BH, for 4 to 7). LOCK is kept, REP is not.
 */
unsigned reencode(u8 *out, const struct insn *i, const struct reencode *to);

#endif
