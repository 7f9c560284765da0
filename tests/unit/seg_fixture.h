/* Descriptor tables, a TSS and stacks for tests of segments, transfers and exceptions. */
#ifndef TESTS_UNIT_SEG_FIXTURE_H
#define TESTS_UNIT_SEG_FIXTURE_H

#include "cpu_fixture.h"

#define GDT 0x1000u
#define IDT 0x2000u
#define TSS 0x3000u
#define TSS2 0x3200u
#define LDT 0x3400u
#define STACK0 0x8000u /* of level 0, by the TSS */
#define STACK3 0x9000u /* of the running code */
#define IST1 0xa000u

enum selector {
	S_CODE0 = 0x08, S_DATA0 = 0x10, S_CODE3 = 0x18, S_DATA3 = 0x20, S_CODE64 = 0x28, S_CODE64_3 = 0x30,
	S_CONF0 = 0x38, S_DATA_NP = 0x40, S_CODE_NP = 0x48, S_RODATA3 = 0x50, S_XONLY3 = 0x58, S_CODE16 = 0x60,
	S_DATA16 = 0x68, S_LDT = 0x70, S_TSS = 0x80, S_GATE = 0x90, S_TASK_GATE = 0xa0, S_TSS2 = 0xa8, S_CODE_LD = 0xb8,
	S_DATA_SMALL = 0xc0 /* limit 0xfff */, S_DATA_DOWN = 0xc8 /* expand-down, limit 0x8fff */, S_CODE_SMALL = 0xd0,
	S_OUTSIDE = 0xd8,
};

/* Fills the tables; no paging in protected mode, identity-mapped 2 MiB in long mode. Then at level @cpl on STACK3. */
void enter_protected(struct fixture *f, unsigned cpl);
void enter_long(struct fixture *f, unsigned cpl);
/* To 16-bit code and stack, or to compatibility mode's 32-bit ones: whatever @cs and @ss name. */
void use_segments(struct fixture *f, u16 cs, u16 ss);
void enter_vm86(struct fixture *f);

void set_desc(struct fixture *f, u16 selector, u64 desc);
/* A gate of @type at IDT entry @vector (8 bytes, or 16 in long mode). */
void set_idt(struct fixture *f, unsigned vector, u16 selector, u64 offset, unsigned type, unsigned dpl, unsigned ist);
/* The gate's 8 bytes as they stand in the GDT too. */
u64 make_gate(u16 selector, u32 offset, unsigned type, unsigned dpl, unsigned low);
#define G_CALL16 4
#define G_TASK 5
#define G_INT16 6
#define G_TRAP16 7
#define G_CALL32 12
#define G_INT32 14
#define G_TRAP32 15

/* Element @n of @size bytes from the top of the stack. */
u64 frame(struct fixture *f, unsigned size, unsigned n);

#endif
