/* Segments, gates, tasks: what changes CS, SS, LDTR, TR (SDM vol. 3A, chapters 3, 5, 6, 7). */
#ifndef CPU_SEG_H
#define CPU_SEG_H

#include "cpu/cpu.h"

/* MOV Sreg, POP Sreg, LDS...: all checks of the SDM's MOV page, in every mode. Not for CS. */
void seg_load(struct cpu *c, enum seg_reg seg, u16 selector);
void seg_load_ldt(struct cpu *c, u16 selector);
void seg_load_tr(struct cpu *c, u16 selector);

/* Far transfers; @size is the operand size in bytes, @next the return address. Set cpu->rip. */
void far_jmp(struct cpu *c, u16 selector, u64 offset, unsigned size);
void far_call(struct cpu *c, u16 selector, u64 offset, unsigned size, u64 next);
void far_ret(struct cpu *c, unsigned size, unsigned pop);
void far_iret(struct cpu *c, unsigned size);

/* SYSCALL, SYSRET, SYSENTER, SYSEXIT. @next is the return address. */
void fast_syscall(struct cpu *c, u64 next);
void fast_sysret(struct cpu *c, unsigned size);
void fast_sysenter(struct cpu *c, u64 next);
void fast_sysexit(struct cpu *c, unsigned size);
/* What SYSCALL (@cpl 0) and SYSRET (3) load; @l: for 64-bit code. */
void fast_syscall_segments(const struct cpu *c, unsigned cpl, bool l, struct segment *cs, struct segment *ss);

/* Near branch to @rip: canonical and CS limit checks, #GP(0). Does not set cpu->rip. */
void branch_check(struct cpu *c, u64 rip);

enum task_switch { TASK_JMP, TASK_CALL, TASK_IRET, TASK_GATE };
/*
 * Task switch (SDM vol. 3A, 7.3). @next is saved as the old task's EIP; an exception's error code is pushed on the
 * new stack.
 */
void task_switch(struct cpu *c, u16 selector, enum task_switch why, u64 next, bool has_error, u32 error);

/*
 * Reads the descriptor of @selector. False when it lies outside its table or the selector is null.
 * @high gets the upper 8 bytes of a 16-byte system descriptor when not NULL.
 */
bool desc_read(struct cpu *c, u16 selector, u64 *desc, u64 *high);
void seg_from_desc(struct segment *s, u16 selector, u64 desc);

/* For VERR, VERW, LAR, LSL: the descriptor if it is visible at CPL and RPL, else false. */
bool desc_visible(struct cpu *c, u16 selector, bool for_lsl, u64 *desc, u64 *high);

/*
 * Checked writes of control and debug registers: MOV CRn/DRn, and the KVM state ioctls' side. Raise #GP(0) on what
 * the SDM forbids.
 */
void cr0_write(struct cpu *c, u64 v);
void cr3_write(struct cpu *c, u64 v);
void cr4_write(struct cpu *c, u64 v);
u64 cr4_allowed(const struct cpu *c); /* bits that CPUID gives */
bool efer_write(struct cpu *c, u64 v); /* false: #GP */
bool xcr0_write(struct cpu *c, u64 v); /* false: #GP */
u64 dr_read(struct cpu *c, unsigned n);
void dr_write(struct cpu *c, unsigned n, u64 v);

#endif
