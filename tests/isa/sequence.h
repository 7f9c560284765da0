/* Random programs of 32- or 64-bit code within the code window, see test_sequence.c. */
#ifndef TESTS_ISA_SEQUENCE_H
#define TESTS_ISA_SEQUENCE_H

#include "isa.h"

#define PROGRAM_INSNS 800

struct placed {
	u16 at; /* offset in the code window */
	u8 len;
	u16 undefined; /* arithmetic flags whose values before it an instruction has left undefined */
	bool removed;
};

struct program {
	u8 code[CODE_SIZE], data[DATA_SIZE];
	unsigned bits; /* 32 or 64 */
	u64 base; /* added to the windows' addresses, but for displacements without a register */
	struct state in;
	struct placed insn[PROGRAM_INSNS];
	unsigned nr_insns;
};

void program_generate(struct program *p, unsigned bits);
/* Arithmetic flags that an instruction has left undefined when execution gets to @rip. */
u64 program_undefined_flags(const struct program *p, u64 rip);

#endif
