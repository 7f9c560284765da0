#include "cpu/exception.h"

#include "cpu/cpuid.h"
#include "cpu/debug.h"
#include "cpu/mem.h"
#include "cpu/seg.h"
#include "cpu/segment.h"

/* --- Raising ------------------------------------------------------------------------------------------ */

static _Noreturn void raise_event(struct cpu *c, struct event e)
{
	c->fault = e;
	/* Answers of the outside belong to an instruction that is over. */
	cpu_io_retire(c);
	longjmp(*c->unwind, UNWIND_FAULT); /* not _longjmp(), which ThreadSanitizer does not know */
}

_Noreturn void raise_fault(struct cpu *c, enum vector v)
{
	raise_event(c, (struct event){.type = EV_EXCEPTION, .vector = (u8)v});
}

_Noreturn void raise_error(struct cpu *c, enum vector v, u32 error)
{
	raise_event(c, (struct event){.type = EV_EXCEPTION, .vector = (u8)v, .has_error = true, .error = error});
}

_Noreturn void raise_page_fault(struct cpu *c, u64 la, u32 error)
{
	raise_event(c, (struct event){.type = EV_EXCEPTION, .vector = VEC_PF, .has_error = true, .error = error,
				      .has_payload = true, .payload = la});
}

_Noreturn void raise_db(struct cpu *c, u64 dr6)
{
	raise_event(c, (struct event){.type = EV_EXCEPTION, .vector = VEC_DB, .has_payload = true, .payload = dr6});
}

/* --- Double and triple faults (SDM vol. 3A, table 6-5) -------------------------------------------------- */

enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum fault_class class_of(const struct event *e)
{
	if (e->type != EV_EXCEPTION)
		return BENIGN;
	switch (e->vector) {
	case VEC_DE: case VEC_TS: case VEC_NP: case VEC_SS: case VEC_GP:
		return CONTRIBUTORY;
	case VEC_PF:
		return PAGE_FAULT;
	case VEC_DF:
		return DOUBLE_FAULT;
	default:
		return BENIGN;
	}
}

void event_apply_payload(struct cpu *c, const struct event *e)
{
	if (!e->has_payload)
		return;
	if (e->vector == VEC_PF)
		c->cr2 = e->payload;
	else if (e->vector == VEC_DB)
		c->dr6 = (c->dr6 & ~0xfull) | e->payload | DR6_FIXED;
}

bool event_merge(struct cpu *c, const struct event *fault, struct event *out)
{
	enum fault_class first = class_of(&c->delivering), second = class_of(fault);

	if (first == DOUBLE_FAULT && second >= CONTRIBUTORY)
		return false;
	if ((first == CONTRIBUTORY && second == CONTRIBUTORY) || (first == PAGE_FAULT && second >= CONTRIBUTORY)) {
		event_apply_payload(c, fault);
		*out = (struct event){.type = EV_EXCEPTION, .vector = VEC_DF, .has_error = true};
		return true;
	}
	*out = *fault;
	return true;
}

/* --- Delivery ------------------------------------------------------------------------------------------- */

static bool is_soft(const struct event *e)
{
	return e->type == EV_SOFTINT || e->type == EV_SOFTEXC;
}

/* The EXT bit of error codes of faults met on the way: not for INT n, INT3, INTO. */
static u32 ext_of(const struct event *e)
{
	return !is_soft(e);
}

static u64 return_rip(const struct cpu *c, const struct event *e)
{
	u64 rip = c->rip;

	if (is_soft(e) || e->type == EV_ICEBP)
		rip += e->insn_len;
	return cpu_cut_rip(c, rip);
}

/*
 * What is pushed or, by a task gate, saved in the old TSS: RF is set for faults, but not for instruction breakpoints
 * (SDM vol. 3B, 18.3.1.1).
 */
u64 event_saved_flags(const struct cpu *c, const struct event *e)
{
	bool trap = e->vector == VEC_BP || e->vector == VEC_OF || e->vector == VEC_DF || e->vector == VEC_MC;

	if (e->vector == VEC_DB)
		trap = !(e->payload & DR6_BD);
	return e->type == EV_EXCEPTION && !trap ? c->rflags | FL_RF : c->rflags;
}

static void enter_handler(struct cpu *c, u64 rip, bool interrupt_gate)
{
	c->rip = rip;
	c->rflags &= ~(FL_TF | FL_NT | FL_RF | FL_VM);
	if (interrupt_gate)
		c->rflags &= ~FL_IF;
}

static void deliver_real(struct cpu *c, const struct event *e)
{
	u32 at = e->vector * 4u;

	if (at + 3 > c->idtr.limit)
		raise_error(c, VEC_GP, e->vector * 8u + 2 + ext_of(e));
	u32 entry = (u32)mem_read_system(c, c->idtr.base + at, 4);
	struct stack st = stack_here(c);
	stack_store(c, &st, 2, event_saved_flags(c, e) & ~FL_RF, 0);
	stack_store(c, &st, 2, c->seg[SEG_CS].selector, 0);
	stack_store(c, &st, 2, return_rip(c, e), 0);
	stack_commit(c, &st);
	seg_set_real(c, SEG_CS, (u16)(entry >> 16));
	c->rip = entry & 0xffff;
	c->rflags &= ~(FL_IF | FL_TF | FL_AC | FL_RF);
	cpu_update_mode(c);
}

/* An IDT entry of protected or long mode, its type checked to be a gate. */
struct gate {
	u16 selector;
	u8 type, ist;
	bool wide;  /* the frame's elements are 4 bytes (8 in long mode), else 2 */
	u64 offset;
};
#define GATE_TASK 5
#define GATE_INT16 6
#define GATE_TRAP16 7
#define GATE_INT32 14
#define GATE_TRAP32 15

static struct gate gate_read(struct cpu *c, const struct event *e, bool lma)
{
	u32 size = lma ? 16 : 8, at = e->vector * size, error = e->vector * 8u + 2;

	if (at + size - 1 > c->idtr.limit)
		raise_error(c, VEC_GP, error + ext_of(e));
	u64 low = mem_read_system(c, c->idtr.base + at, 8);
	struct gate g = {.selector = (u16)(low >> 16), .type = low >> 40 & 0x1f};

	bool known = g.type == GATE_INT32 || g.type == GATE_TRAP32;
	if (!lma)
		known = known || g.type == GATE_INT16 || g.type == GATE_TRAP16 || g.type == GATE_TASK;
	if (!known)
		raise_error(c, VEC_GP, error + ext_of(e));
	if (is_soft(e) && (low >> 45 & 3) < c->cpl)
		raise_error(c, VEC_GP, error);
	if (!(low >> 47 & 1))
		raise_error(c, VEC_NP, error + ext_of(e));
	g.wide = g.type & 8;
	g.offset = (low & 0xffff) | (g.wide ? low >> 32 & 0xffff0000 : 0);
	if (lma) {
		g.ist = low >> 32 & 7;
		g.offset |= mem_read_system(c, c->idtr.base + at + 8, 8) << 32;
	}
	return g;
}

/* The handler's code segment, checked. *@cpl is where it runs. */
static u64 handler_code(struct cpu *c, const struct gate *g, u32 ext, bool lma, unsigned *cpl)
{
	u64 desc;
	u32 error = (g->selector & ~3u) + ext;

	if (!(g->selector & ~3))
		raise_error(c, VEC_GP, ext);
	if (!desc_read(c, g->selector, &desc, NULL) || !desc_is_code(desc) || desc_dpl(desc) > c->cpl)
		raise_error(c, VEC_GP, error);
	if (lma && (!desc_long(desc) || desc_db(desc)))
		raise_error(c, VEC_GP, error);
	if (!desc_present(desc))
		raise_error(c, VEC_NP, error);
	*cpl = desc_conforming(desc) ? c->cpl : desc_dpl(desc);
	/* Out of virtual-8086 mode it goes only to level 0. */
	if (c->mode == MODE_VM86 && *cpl != 0)
		raise_error(c, VEC_GP, error);
	return desc;
}

static void deliver_protected(struct cpu *c, const struct event *e)
{
	u32 ext = ext_of(e);
	struct gate g = gate_read(c, e, false);

	if (g.type == GATE_TASK) {
		task_switch(c, g.selector, TASK_GATE, return_rip(c, e), e->has_error, e->error);
		return;
	}
	unsigned cpl, size = g.wide ? 4 : 2;
	u64 desc = handler_code(c, &g, ext, false, &cpl);
	bool inner = cpl < c->cpl, vm86 = c->mode == MODE_VM86;
	struct stack st = inner ? stack_of_tss(c, cpl, ext) : stack_here(c);
	u32 error = inner ? (st.ss.selector & ~3u) + ext : ext;

	if (vm86) {
		static const enum seg_reg order[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};
		for (unsigned n = 0; n < 4; n++)
			stack_store(c, &st, size, c->seg[order[n]].selector, error);
	}
	if (inner) {
		stack_store(c, &st, size, c->seg[SEG_SS].selector, error);
		stack_store(c, &st, size, c->gpr[RSP], error);
	}
	stack_store(c, &st, size, event_saved_flags(c, e), error);
	stack_store(c, &st, size, c->seg[SEG_CS].selector, error);
	stack_store(c, &st, size, return_rip(c, e), error);
	if (e->has_error)
		stack_store(c, &st, size, e->error, error);
	if (g.offset > desc_limit(desc))
		raise_error(c, VEC_GP, ext);
	seg_mark_accessed(c, g.selector, &desc);
	if (inner) {
		stack_mark_accessed(c, &st);
		c->seg[SEG_SS] = st.ss;
	}
	if (vm86)
		for (unsigned n = SEG_ES; n <= SEG_GS; n++)
			if (n != SEG_CS && n != SEG_SS)
				seg_set_null(c, n, 0);
	seg_from_desc(&c->seg[SEG_CS], (u16)((g.selector & ~3u) | cpl), desc);
	enter_handler(c, g.offset, !(g.type & 1));
	cpu_update_mode(c);
	stack_commit(c, &st);
}

/* SDM vol. 3A, 6.14.2: the frame is aligned to 16 bytes, and always holds SS:RSP. Returns the new RSP. */
static u64 push_long(struct cpu *c, const struct event *e, unsigned cpl, u64 rsp, u32 ext)
{
	const u64 frame[] = {
		e->error, return_rip(c, e), c->seg[SEG_CS].selector, event_saved_flags(c, e), c->gpr[RSP],
		c->seg[SEG_SS].selector,
	};
	unsigned first = !e->has_error, size = (unsigned)sizeof(frame) - first * 8;

	rsp &= ~15ull;
	u8 *hit = tlb_hit(c, mmu_index_at(c, cpl), rsp - size, size, ACC_WRITE);
	if (likely(hit)) {
		memcpy(hit, frame + first, size);
		mem_stored(c, hit);
		return rsp - size;
	}
	struct stack st = stack_long(c, cpl, rsp);
	for (unsigned n = ARRAY_SIZE(frame); n-- > first;)
		stack_store(c, &st, 8, frame[n], ext);
	return st.sp;
}

static void deliver_long(struct cpu *c, const struct event *e)
{
	u32 ext = ext_of(e);
	struct gate g = gate_read(c, e, true);
	unsigned cpl;
	u64 desc = handler_code(c, &g, ext, true, &cpl), rsp = c->gpr[RSP];
	bool inner = cpl < c->cpl;

	if (g.ist || inner)
		rsp = tss64_rsp(c, g.ist ? 0x24 + (g.ist - 1u) * 8 : 4 + cpl * 8, ext);
	rsp = push_long(c, e, cpl, rsp, ext);
	if (!la_canonical(c, g.offset))
		raise_error(c, VEC_GP, ext);
	seg_mark_accessed(c, g.selector, &desc);
	if (inner)
		seg_set_null(c, SEG_SS, (u16)cpl);
	seg_from_desc(&c->seg[SEG_CS], (u16)((g.selector & ~3u) | cpl), desc);
	enter_handler(c, g.offset, !(g.type & 1));
	cpu_update_mode(c);
	c->gpr[RSP] = rsp;
}

void event_deliver(struct cpu *c, const struct event *e)
{
	c->delivering = *e;
	event_apply_payload(c, e);
	if (c->mode == MODE_REAL)
		deliver_real(c, &c->delivering);
	else if (c->efer & EFER_LMA)
		deliver_long(c, &c->delivering);
	else
		deliver_protected(c, &c->delivering);
	if (c->delivering.vector == VEC_DB && c->delivering.type == EV_EXCEPTION && (c->dr7 & DR7_GD)) {
		c->dr7 &= ~DR7_GD;
		debug_update(c);
	}
	if (c->delivering.type == EV_NMI)
		c->nmi_blocked = true;
	c->int_shadow = 0;
	c->delivering.type = EV_NONE;
	cpu_io_retire(c);
}
