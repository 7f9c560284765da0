/* Raising and delivering exceptions and interrupts (SDM vol. 3A, chapter 6). */
#ifndef CPU_EXCEPTION_H
#define CPU_EXCEPTION_H

#include "cpu/cpu.h"

/* Each abandons the instruction under execution through cpu->unwind, with cpu->fault filled. */
_Noreturn void raise_fault(struct cpu *c, enum vector v);                 /* without error code */
_Noreturn void raise_error(struct cpu *c, enum vector v, u32 error);      /* with error code */
_Noreturn void raise_page_fault(struct cpu *c, u64 la, u32 error);        /* sets the CR2 payload */
_Noreturn void raise_db(struct cpu *c, u64 dr6);                          /* #DB with DR6 bits as payload */
static inline _Noreturn void raise_ud(struct cpu *c) { raise_fault(c, VEC_UD); }
static inline _Noreturn void raise_gp0(struct cpu *c) { raise_error(c, VEC_GP, 0); }

/*
 * Delivers @e: through the IVT, a 16/32-bit or a 64-bit IDT; stack switches, IST, task gates.
 * cpu->rip is what is pushed (for EV_SOFT* plus insn_len). Sets CR2/DR6 from the payload.
 * May itself fault: leaves through cpu->unwind with cpu->fault set and cpu->delivering still naming @e.
 */
void event_deliver(struct cpu *c, const struct event *e);

/* Sets CR2 or DR6 from the payload of @e; once more is once. */
void event_apply_payload(struct cpu *c, const struct event *e);

/* RFLAGS as the handler of @e finds them in its frame or in the old task's TSS. */
u64 event_saved_flags(const struct cpu *c, const struct event *e);

/*
 * What becomes of a fault: alone it is itself; raised while cpu->delivering is an exception it may turn into
 * #DF, or end in shutdown (SDM vol. 3A, table 6-5). Returns false for a triple fault.
 * On true *@out is the event to deliver next.
 */
bool event_merge(struct cpu *c, const struct event *fault, struct event *out);

#endif
