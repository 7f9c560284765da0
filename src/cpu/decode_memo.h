/*
 * A decoder of 64-bit code for who decodes much: most instructions differ from one that was decoded before in
 * displacement and immediate alone. Not to be shared among threads.
 */
#ifndef CPU_DECODE_MEMO_H
#define CPU_DECODE_MEMO_H

#include <stddef.h>

#include "cpu/insn.h"

#define DECODE_MEMO_BITS 11
#define DECODE_FIXED_SIZE offsetof(struct insn, bytes)

/* What instructions that begin with certain bytes have in common: in a cache line. */
struct decode_memo_entry {
	u64 head; /* those bytes; 0: none */
	u8 disp_shift, imm_shift; /* 64 less their bits; absent: 63, and the value is none of: */
	bool disp, imm, imm_signed;
	u8 insn[DECODE_FIXED_SIZE];
} __attribute__((aligned(64)));
_Static_assert(sizeof(struct decode_memo_entry) == 64, "one line");

struct decode_memo {
	struct decode_memo_entry entry[1u << DECODE_MEMO_BITS];
};

/* As decode() with 64 code bits. @m is all zero at first. */
enum decode_status decode_memo(struct decode_memo *m, struct insn *i, const u8 *p, unsigned avail);

#endif
