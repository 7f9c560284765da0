/* What the parts of the generator share: the shape of a row's operands, prefixes, and places in the window. */
#ifndef TESTS_ISA_GEN_H
#define TESTS_ISA_GEN_H

#include <string.h>

#include "isa.h"

static inline bool named(const struct insn_row *r, const char *name)
{
	return !strcmp(r->name, name);
}

static inline bool starts(const struct insn_row *r, const char *prefix)
{
	return !strncmp(r->name, prefix, strlen(prefix));
}

/* What the operands ask for. */
struct shape {
	u8 reg_kind, rm_kind, vvvv_kind; /* enum operand_kind, OK_NONE */
	u16 rm_size, reg_size;
	bool z, moffs, si, di;
	u8 nr_imm;
	u8 imm_kind[2];
	u16 imm_size[2];
};

struct prefixes {
	bool p66, p67, lock;
	u8 rep, seg;
};

/* --- gen_rows.c: where processors may differ ------------------------------------------------------------ */

/* Outside of 64-bit code VEX.W chooses nothing here, but AMD's processors do not take 1. */
bool w_matters(const struct insn_row *r);
/* Several accesses to the stack: which one faults first, and what is done by then, is the processor's choice. */
bool stack_order(const struct insn_row *r);

/* --- gen_state.c ------------------------------------------------------------------------------------------ */

/* A linear address for an access of @size bytes; as an offset in the data segment; and one far from any edge. */
u64 pick_target(unsigned size);
u64 pick_offset(const struct test_case *t, unsigned size);
u64 pick_safe(const struct test_case *t);
u64 stack_linear(const struct test_case *t);
/* Where a branch may go, as an offset in the code segment, and with what selector. */
u64 code_target(const struct test_case *t);
u16 pick_code_selector(const struct test_case *t);

void pick_state(struct test_case *t);
/* Registers that the instruction uses without naming them. */
void pick_implicit(struct test_case *t, const struct shape *s, const struct prefixes *p);
/* Bit strings and vectors of indices reach only as far as the window. */
void tame_indices(struct test_case *t, const struct form *f);
/* What lies under the memory operand, or on the stack. */
void fill_memory(struct test_case *t, const struct shape *s, u64 target, unsigned size, unsigned opsize);

#endif
