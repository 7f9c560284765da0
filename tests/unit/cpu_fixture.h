/* A processor over a piece of memory, page tables and descriptors built by hand, and faults as values. */
#ifndef TESTS_UNIT_CPU_FIXTURE_H
#define TESTS_UNIT_CPU_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/cpu.h"
#include "cpu/exception.h"
#include "cpu/mem.h"
#include "cpu/mmu.h"
#include "cpu/seg.h"

#define RAM_SIZE (16u << 20)
/* A page of memory high up, for large pages and PSE-36. */
#define HIGH_GPA 0x240000000ull
#define ROM_GPA 0x20000000ull /* read-only slot of one page */

struct fixture {
	struct cpu cpu;
	u8 *ram, *high, *rom;
	struct gpa_map *map;
	_Atomic u64 dirty[RAM_SIZE / PAGE_SIZE / 64];
	u64 next_table; /* where map_page() takes its next table from */
	unsigned table_entry_bytes;
};

int fixture_setup(void **state);
int fixture_teardown(void **state);

/* What CATCH() leaves behind after a fault is not read again, and what is read again it does not change. */
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wclobbered"
#endif

/* Runs @code with faults caught: 0 when it came to its end, else UNWIND_*. */
#define CATCH(c, code)                                  \
	({                                              \
		jmp_buf unwind_;                        \
		(c)->unwind = &unwind_;                 \
		int how_ = _setjmp(unwind_);            \
		if (!how_) {                            \
			code;                           \
		}                                       \
		(c)->unwind = NULL;                     \
		how_;                                   \
	})

#define ASSERT_FINE(c, code) assert_int_equal(CATCH(c, code), 0)
#define ASSERT_FAULT(c, vec, err, code)                                      \
	do {                                                                 \
		assert_int_equal(CATCH(c, code), UNWIND_FAULT);              \
		assert_int_equal((c)->fault.vector, (vec));                  \
		assert_int_equal((c)->fault.error, (err));                   \
	} while (0)

/* Guest physical memory of the fixture. */
void put(struct fixture *f, u64 gpa, unsigned size, u64 v);
u64 get(struct fixture *f, u64 gpa, unsigned size);

enum paging { PAGING_32, PAGING_PAE, PAGING_4, PAGING_5 };
/* Turns @paging on with empty tables, by setting the registers directly. */
void paging_on(struct fixture *f, enum paging paging);
/*
 * Maps the page of 1 << @page_bits bytes at @la to @gpa; @upper and @leaf are flags of the entries besides P. Returns
 * the leaf's address.
 */
u64 map_page(struct fixture *f, enum paging paging, u64 la, u64 gpa, unsigned page_bits, u64 upper, u64 leaf);

#define P_W BIT64(1)
#define P_U BIT64(2)
#define P_A BIT64(5)
#define P_D BIT64(6)
#define P_PS BIT64(7)
#define P_G BIT64(8)
#define P_NX BIT64(63)

/* Sets CPL by the hidden part of SS, as no instruction could, and derives the rest. */
void set_cpl(struct cpu *c, unsigned cpl);

/*
 * A code or data descriptor; @attr are bits 8 to 23 of its upper half as in the SDM's figure: type, S, DPL, P, AVL,
 * L, D/B, G.
 */
u64 make_desc(u32 base, u32 limit, u32 attr);
#define D_CODE 0x1a      /* S, code, readable */
#define D_DATA 0x12      /* S, data, writable */
#define D_ACCESSED 1
#define D_CONFORMING 4
#define D_DPL(n) ((n) << 5)
#define D_P 0x80
#define D_L 0x2000
#define D_DB 0x4000
#define D_G 0x8000

#endif
