/* The fixture of cpu_fixture.h in 64-bit mode, with all that vector code needs; instructions one by one, as bytes. */
#ifndef TESTS_UNIT_VEC_FIXTURE_H
#define TESTS_UNIT_VEC_FIXTURE_H

#include "cpu_fixture.h"

#include "cpu/fpu.h"
#include "cpu/insn.h"
#include "engine/copy.h"

/* Two pages follow each other at DATA, apart in memory; around them nothing is mapped. A read-only page elsewhere. */
#define DATA 0x40000000ull
#define DATA_GPA 0x200000ull
#define DATA2_GPA 0x300000ull
#define DATA_RO 0x40010000ull
#define DATA_RO_GPA 0x400000ull

int vec_setup(void **state);
int vec_teardown(void **state);
extern struct copy_arena vec_arena;

/* The instruction with the hexadecimal bytes @hex, decoded for the current mode and bound as an engine does. */
void vec_decode(struct fixture *f, const char *hex, struct insn *i);
/* Executes it: 0 when it retired, else UNWIND_* with cpu->fault. RIP stays. */
int vec_exec(struct fixture *f, const char *hex);

/* Guest memory by linear address, within DATA's two pages or DATA_RO's one. */
void vec_put(struct fixture *f, u64 la, const void *from, unsigned size);
void vec_get(struct fixture *f, u64 la, void *to, unsigned size);

#define ASSERT_RETIRES(f, hex) assert_int_equal(vec_exec(f, hex), 0)
#define ASSERT_RAISES(f, hex, vec)                                   \
	do {                                                         \
		assert_int_equal(vec_exec(f, hex), UNWIND_FAULT);    \
		assert_int_equal((f)->cpu.fault.vector, (vec));      \
	} while (0)

#endif
