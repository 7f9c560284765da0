/* Descriptors and stacks: what seg.c, far.c, task.c and exception.c share (SDM vol. 3A, 3.4.5 and 5.8.5). */
#ifndef CPU_SEGMENT_H
#define CPU_SEGMENT_H

#include "cpu/cpu.h"
#include "cpu/mmu.h"

/* Types of system descriptors. Bit 3 makes the 16-bit ones 32-bit (64-bit in long mode). */
enum sys_type { SYS_TSS16 = 1, SYS_LDT = 2, SYS_TSS16_BUSY = 3, SYS_CALL16 = 4, SYS_TASK_GATE = 5, SYS_TSS32 = 9,
		SYS_TSS32_BUSY = 11, SYS_CALL32 = 12 };
#define SYS_BUSY 2
#define SYS_WIDE 8

static inline unsigned desc_type(u64 d) { return d >> 40 & 15; }
static inline bool desc_is_segment(u64 d) { return d >> 44 & 1; } /* code or data, not system */
static inline unsigned desc_dpl(u64 d) { return d >> 45 & 3; }
static inline bool desc_present(u64 d) { return d >> 47 & 1; }
static inline bool desc_long(u64 d) { return d >> 53 & 1; }
static inline bool desc_db(u64 d) { return d >> 54 & 1; }
static inline u32 desc_base(u64 d) { return (u32)((d >> 16 & 0xffffff) | (d >> 32 & 0xff000000)); }

static inline u32 desc_limit(u64 d)
{
	u32 limit = (u32)((d & 0xffff) | (d >> 32 & 0xf0000));
	return d >> 55 & 1 ? limit << 12 | 0xfff : limit;
}

static inline bool desc_is_code(u64 d) { return desc_is_segment(d) && (desc_type(d) & 8); }
static inline bool desc_conforming(u64 d) { return (desc_type(d) & 0xc) == 0xc; } /* of a code segment */
static inline bool desc_readable(u64 d) { return desc_is_segment(d) && (!(desc_type(d) & 8) || (desc_type(d) & 2)); }
static inline bool desc_writable(u64 d) { return desc_is_segment(d) && !(desc_type(d) & 8) && (desc_type(d) & 2); }

static inline bool selector_null(u16 selector) { return !(selector & ~3); }

/* Sets the accessed bit of a code or data descriptor, in memory and in *@desc. */
void seg_mark_accessed(struct cpu *c, u16 selector, u64 *desc);
/* Writes back the type of a system descriptor: TSS busy or available. */
void desc_set_type(struct cpu *c, u16 selector, unsigned type);
/* Makes @seg unusable; for SS, the RPL of @selector is the new CPL. */
void seg_set_null(struct cpu *c, enum seg_reg seg, u16 selector);
/* As real mode or, when RFLAGS.VM is set, virtual-8086 mode loads it. */
void seg_set_real(struct cpu *c, enum seg_reg seg, u16 selector);
/* After a change to an outer level: data segments that it may not see become null. */
void seg_hide_inner(struct cpu *c, unsigned cpl);

/*
 * A stack that a transfer is about to use: memory is accessed at once, registers change with stack_commit().
 */
struct stack {
	struct segment ss; /* its limits; unused when flat */
	bool flat;         /* 64-bit: no base, no limit, canonical */
	u64 desc;          /* of ss, when it comes from a TSS */
	u64 rsp, sp;       /* the whole register as it was, and the working pointer within mask */
	u64 mask;
	enum mmu_index idx;
};

struct stack stack_here(const struct cpu *c);
struct stack stack_of_segment(const struct cpu *c, unsigned cpl, const struct segment *ss, u64 rsp);
struct stack stack_long(const struct cpu *c, unsigned cpl, u64 rsp);
/* SSn:ESPn for level @cpl from a 16- or 32-bit TSS; faults are #TS and #SS with @ext. */
struct stack stack_of_tss(struct cpu *c, unsigned cpl, u32 ext);
/* The stack pointer at @offset of a 64-bit TSS; outside of it: #TS with @ext. */
u64 tss64_rsp(struct cpu *c, unsigned offset, u32 ext);

/* Pushes @size bytes; beyond the limit or not canonical: #SS(@error). */
void stack_store(struct cpu *c, struct stack *st, unsigned size, u64 value, u32 error);
/* Pops @size bytes; #SS(0). */
u64 stack_load(struct cpu *c, struct stack *st, unsigned size);
/* The new SS is in use: sets its accessed bit. */
void stack_mark_accessed(struct cpu *c, struct stack *st);
/* rSP as far as the stack is wide. */
void stack_commit(struct cpu *c, const struct stack *st);

#endif
