/* Far JMP, CALL, RET, IRET (SDM vol. 2, their pages; vol. 3A, 5.8). */
#include "cpu/exception.h"
#include "cpu/insn.h"
#include "cpu/mem.h"
#include "cpu/seg.h"
#include "cpu/segment.h"

void branch_check(struct cpu *c, u64 rip)
{
	if (c->code_bits == 64 ? !la_canonical(c, rip) : rip > c->seg[SEG_CS].limit)
		raise_gp0(c);
}

static u64 cut(u64 v, unsigned size)
{
	return size == 8 ? v : size == 4 ? (u32)v : (u16)v;
}

/* --- Into a code segment -------------------------------------------------------------------------------------- */

static bool is_64bit_code(const struct cpu *c, u64 desc)
{
	return (c->efer & EFER_LMA) && desc_long(desc);
}

/* @rip fits the code segment @desc; #GP(0). */
static void target_check(struct cpu *c, u64 desc, u64 rip)
{
	if (is_64bit_code(c, desc) ? !la_canonical(c, rip) : rip > desc_limit(desc))
		raise_gp0(c);
}

/* Long mode has no code segments with both L and D (SDM vol. 3A, 5.2.1). */
static void long_check(struct cpu *c, u64 desc, u32 error)
{
	if (is_64bit_code(c, desc) && desc_db(desc))
		raise_error(c, VEC_GP, error);
}

/* Nothing can fail any more but the write of the accessed bit. */
static void load_cs(struct cpu *c, u16 selector, u64 desc, unsigned cpl, u64 rip)
{
	seg_mark_accessed(c, selector, &desc);
	seg_from_desc(&c->seg[SEG_CS], (u16)((selector & ~3u) | cpl), desc);
	c->rip = rip;
}

/* A code segment that JMP or CALL names itself: it stays at CPL. */
static void direct_check(struct cpu *c, u16 selector, u64 desc)
{
	u32 error = selector & ~3u;

	if (desc_conforming(desc) ? desc_dpl(desc) > c->cpl : desc_dpl(desc) != c->cpl || (selector & 3u) > c->cpl)
		raise_error(c, VEC_GP, error);
	long_check(c, desc, error);
	if (!desc_present(desc))
		raise_error(c, VEC_NP, error);
}

static void far_jmp_real(struct cpu *c, u16 selector, u64 rip)
{
	if (rip > c->seg[SEG_CS].limit)
		raise_gp0(c);
	seg_set_real(c, SEG_CS, selector);
	c->rip = rip;
	cpu_update_mode(c);
}

/* --- Call gates ------------------------------------------------------------------------------------------------- */

struct call_gate {
	u16 selector;
	unsigned size;   /* of what is pushed: 2, 4, 8 */
	unsigned params; /* elements to copy between stacks */
	u64 offset;
	u64 desc;        /* of the code segment */
};

/* The system descriptor @desc that JMP or CALL has named is a call gate: its target, checked as far as both agree. */
static struct call_gate call_gate_read(struct cpu *c, u16 selector, u64 desc, u64 high)
{
	bool lma = c->efer & EFER_LMA, wide = desc_type(desc) & SYS_WIDE;
	struct call_gate g = {.selector = (u16)(desc >> 16), .size = lma ? 8 : wide ? 4 : 2};

	if (!desc_present(desc))
		raise_error(c, VEC_NP, selector & ~3u);
	if (lma && (high >> 40 & 0x1f))
		raise_error(c, VEC_GP, selector & ~3u);
	g.offset = (desc & 0xffff) | (wide ? desc >> 32 & 0xffff0000 : 0) | (lma ? high << 32 : 0);
	g.params = lma ? 0 : desc >> 32 & 31;
	u32 error = g.selector & ~3u;
	if (selector_null(g.selector))
		raise_gp0(c);
	if (!desc_read(c, g.selector, &g.desc, NULL) || !desc_is_code(g.desc) || desc_dpl(g.desc) > c->cpl)
		raise_error(c, VEC_GP, error);
	if (lma && (!desc_long(g.desc) || desc_db(g.desc)))
		raise_error(c, VEC_GP, error);
	return g;
}

static void gate_present(struct cpu *c, const struct call_gate *g)
{
	if (!desc_present(g->desc))
		raise_error(c, VEC_NP, g->selector & ~3u);
}

static void push_return(struct cpu *c, struct stack *st, unsigned size, u64 next, u32 error)
{
	stack_store(c, st, size, c->seg[SEG_CS].selector, error);
	stack_store(c, st, size, next, error);
}

static void copy_params(struct cpu *c, struct stack *to, const struct call_gate *g)
{
	for (unsigned n = g->params; n--;) {
		struct stack from = stack_here(c);
		from.sp = (from.sp + n * g->size) & from.mask;
		stack_store(c, to, g->size, stack_load(c, &from, g->size), to->ss.selector & ~3u);
	}
}

/* CALL through a gate to an inner level: another stack, which remembers this one. */
static void call_inner(struct cpu *c, const struct call_gate *g, u64 next)
{
	unsigned cpl = desc_dpl(g->desc);
	bool lma = c->efer & EFER_LMA;
	struct stack st = lma ? stack_long(c, cpl, tss64_rsp(c, 4 + cpl * 8, 0)) : stack_of_tss(c, cpl, 0);
	u32 error = lma ? 0 : st.ss.selector & ~3u;

	stack_store(c, &st, g->size, c->seg[SEG_SS].selector, error);
	stack_store(c, &st, g->size, c->gpr[RSP], error);
	copy_params(c, &st, g);
	push_return(c, &st, g->size, next, error);
	target_check(c, g->desc, g->offset);
	if (!lma)
		stack_mark_accessed(c, &st);
	load_cs(c, g->selector, g->desc, cpl, g->offset);
	if (lma)
		seg_set_null(c, SEG_SS, (u16)cpl);
	else
		c->seg[SEG_SS] = st.ss;
	cpu_update_mode(c);
	stack_commit(c, &st);
}

static void call_gate_call(struct cpu *c, const struct call_gate *g, u64 next)
{
	gate_present(c, g);
	if (!desc_conforming(g->desc) && desc_dpl(g->desc) < c->cpl) {
		call_inner(c, g, next);
		return;
	}
	bool compat = (c->efer & EFER_LMA) && c->mode != MODE_64;
	struct stack st = compat ? stack_long(c, c->cpl, (u32)c->gpr[RSP]) : stack_here(c);
	push_return(c, &st, g->size, next, 0);
	target_check(c, g->desc, g->offset);
	load_cs(c, g->selector, g->desc, c->cpl, g->offset);
	cpu_update_mode(c);
	stack_commit(c, &st);
}

static void call_gate_jmp(struct cpu *c, const struct call_gate *g)
{
	if (!desc_conforming(g->desc) && desc_dpl(g->desc) != c->cpl)
		raise_error(c, VEC_GP, g->selector & ~3u);
	gate_present(c, g);
	target_check(c, g->desc, g->offset);
	load_cs(c, g->selector, g->desc, c->cpl, g->offset);
	cpu_update_mode(c);
}

/* --- JMP and CALL ------------------------------------------------------------------------------------------------ */

/* What the selector of a JMP or CALL stands for. */
static void target_read(struct cpu *c, u16 selector, u64 *desc, u64 *high)
{
	if (selector_null(selector))
		raise_gp0(c);
	if (!desc_read(c, selector, desc, high))
		raise_error(c, VEC_GP, selector & ~3u);
	if (desc_is_segment(*desc) ? !desc_is_code(*desc) : MAX((unsigned)c->cpl, selector & 3u) > desc_dpl(*desc))
		raise_error(c, VEC_GP, selector & ~3u);
}

/* A JMP or CALL to a TSS or a task gate. False: @desc is neither. */
static bool task_transfer(struct cpu *c, u16 selector, u64 desc, enum task_switch why, u64 next)
{
	if (c->efer & EFER_LMA)
		return false;
	switch (desc_type(desc)) {
	case SYS_TASK_GATE:
		if (!desc_present(desc))
			raise_error(c, VEC_NP, selector & ~3u);
		selector = (u16)(desc >> 16);
		break;
	case SYS_TSS16:
	case SYS_TSS32:
		break;
	default:
		return false;
	}
	task_switch(c, selector, why, next, false, 0);
	return true;
}

static bool is_call_gate(const struct cpu *c, u64 desc)
{
	return desc_type(desc) == SYS_CALL32 || (desc_type(desc) == SYS_CALL16 && !(c->efer & EFER_LMA));
}

void far_jmp(struct cpu *c, u16 selector, u64 offset, unsigned size)
{
	u64 desc, high;

	offset = cut(offset, size);
	if (!cpu_protected(c)) {
		far_jmp_real(c, selector, offset);
		return;
	}
	target_read(c, selector, &desc, &high);
	if (desc_is_segment(desc)) {
		direct_check(c, selector, desc);
		target_check(c, desc, offset);
		load_cs(c, selector, desc, c->cpl, offset);
		cpu_update_mode(c);
	} else if (is_call_gate(c, desc)) {
		struct call_gate g = call_gate_read(c, selector, desc, high);
		call_gate_jmp(c, &g);
	} else if (!task_transfer(c, selector, desc, TASK_JMP, c->rip + (c->insn ? c->insn->len : 0))) {
		raise_error(c, VEC_GP, selector & ~3u);
	}
}

void far_call(struct cpu *c, u16 selector, u64 offset, unsigned size, u64 next)
{
	u64 desc, high;
	struct stack st = stack_here(c);

	offset = cut(offset, size);
	if (!cpu_protected(c)) {
		push_return(c, &st, size, next, 0);
		far_jmp_real(c, selector, offset);
		stack_commit(c, &st);
		return;
	}
	target_read(c, selector, &desc, &high);
	if (desc_is_segment(desc)) {
		direct_check(c, selector, desc);
		push_return(c, &st, size, next, 0);
		target_check(c, desc, offset);
		load_cs(c, selector, desc, c->cpl, offset);
		cpu_update_mode(c);
		stack_commit(c, &st);
	} else if (is_call_gate(c, desc)) {
		struct call_gate g = call_gate_read(c, selector, desc, high);
		call_gate_call(c, &g, next);
	} else if (!task_transfer(c, selector, desc, TASK_CALL, next)) {
		raise_error(c, VEC_GP, selector & ~3u);
	}
}

/* --- RET and IRET ------------------------------------------------------------------------------------------------ */

/* The code segment to return to: RPL is the new level. */
static u64 return_code(struct cpu *c, u16 selector)
{
	u64 desc;
	unsigned rpl = selector & 3;
	u32 error = selector & ~3u;

	if (selector_null(selector))
		raise_gp0(c);
	if (!desc_read(c, selector, &desc, NULL) || !desc_is_code(desc) || rpl < c->cpl ||
	    (desc_conforming(desc) ? desc_dpl(desc) > rpl : desc_dpl(desc) != rpl))
		raise_error(c, VEC_GP, error);
	long_check(c, desc, error);
	if (!desc_present(desc))
		raise_error(c, VEC_NP, error);
	return desc;
}

/* The descriptor of the stack segment to return to, for level @cpl. 0: none, as 64-bit code above level 3 may have. */
static u64 return_ss(struct cpu *c, u16 selector, unsigned cpl, bool to64)
{
	u64 desc;
	u32 error = selector & ~3u;

	if (selector_null(selector)) {
		if (!to64 || cpl == 3 || (selector & 3) != cpl)
			raise_gp0(c);
		return 0;
	}
	if (!desc_read(c, selector, &desc, NULL) || (selector & 3) != cpl || !desc_writable(desc) ||
	    desc_dpl(desc) != cpl)
		raise_error(c, VEC_GP, error);
	if (!desc_present(desc))
		raise_error(c, VEC_SS, error);
	seg_mark_accessed(c, selector, &desc);
	return desc;
}

/* @desc is what return_ss() has found. */
static void load_returned_ss(struct cpu *c, u16 selector, u64 desc)
{
	if (desc)
		seg_from_desc(&c->seg[SEG_SS], selector, desc);
	else
		seg_set_null(c, SEG_SS, selector);
}

/* RSP after a return to another stack: as wide as that one is. */
static void set_returned_rsp(struct cpu *c, u64 rsp, unsigned pop)
{
	c->gpr[RSP] = c->stack_bits == 16 ? (c->gpr[RSP] & ~0xffffull) | (u16)(rsp + pop) :
		      c->stack_bits == 32 ? (u32)(rsp + pop) : rsp + pop;
}

static void far_ret_real(struct cpu *c, unsigned size, unsigned pop)
{
	struct stack st = stack_here(c);
	u64 rip = stack_load(c, &st, size);
	u16 cs = (u16)stack_load(c, &st, size);

	far_jmp_real(c, cs, rip);
	st.sp = (st.sp + pop) & st.mask;
	stack_commit(c, &st);
}

void far_ret(struct cpu *c, unsigned size, unsigned pop)
{
	if (!cpu_protected(c)) {
		far_ret_real(c, size, pop);
		return;
	}
	struct stack st = stack_here(c);
	u64 rip = stack_load(c, &st, size);
	u16 cs = (u16)stack_load(c, &st, size);
	u64 desc = return_code(c, cs);
	unsigned cpl = cs & 3;

	st.sp = (st.sp + pop) & st.mask;
	if (cpl == c->cpl) {
		target_check(c, desc, rip);
		load_cs(c, cs, desc, cpl, rip);
		cpu_update_mode(c);
		stack_commit(c, &st);
		return;
	}
	u64 rsp = stack_load(c, &st, size);
	u16 ss = (u16)stack_load(c, &st, size);
	u64 ss_desc = return_ss(c, ss, cpl, is_64bit_code(c, desc));
	target_check(c, desc, rip);
	load_cs(c, cs, desc, cpl, rip);
	load_returned_ss(c, ss, ss_desc);
	cpu_update_mode(c);
	set_returned_rsp(c, rsp, pop);
	seg_hide_inner(c, cpl);
}

/* RFLAGS after IRET: what the frame may change at the level that executes it. */
static u64 iret_flags(const struct cpu *c, u64 popped, unsigned size)
{
	u64 mask = FL_ARITH | FL_TF | FL_DF | FL_NT;
	unsigned iopl = c->rflags >> 12 & 3;

	if (size > 2)
		mask |= FL_RF | FL_AC | FL_ID;
	if (c->cpl <= iopl)
		mask |= FL_IF;
	if (c->cpl == 0) {
		mask |= FL_IOPL;
		if (size > 2)
			mask |= FL_VIF | FL_VIP;
	}
	return (c->rflags & ~mask) | (popped & mask) | FL_FIXED1;
}

static void iret_real(struct cpu *c, unsigned size)
{
	struct stack st = stack_here(c);
	bool vm86 = c->mode == MODE_VM86;

	if (vm86 && (c->rflags & FL_IOPL) != FL_IOPL)
		raise_gp0(c);
	u64 rip = stack_load(c, &st, size);
	u16 cs = (u16)stack_load(c, &st, size);
	u64 popped = stack_load(c, &st, size);
	u64 mask = FL_ARITH | FL_TF | FL_IF | FL_DF | FL_NT;

	if (!vm86)
		mask |= FL_IOPL;
	if (size > 2)
		mask |= FL_RF | FL_AC | FL_ID;
	far_jmp_real(c, cs, rip);
	c->rflags = (c->rflags & ~mask) | (popped & mask) | FL_FIXED1;
	cpu_update_mode(c);
	stack_commit(c, &st);
}

/* From level 0 into virtual-8086 mode: the frame holds all segments. */
static void iret_to_vm86(struct cpu *c, struct stack *st, u64 rip, u16 cs, u64 flags)
{
	static const enum seg_reg order[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	u16 selector[4];
	u64 rsp = stack_load(c, st, 4);
	u16 ss = (u16)stack_load(c, st, 4);

	for (unsigned n = 0; n < 4; n++)
		selector[n] = (u16)stack_load(c, st, 4);
	if ((u32)rip > 0xffff)
		raise_gp0(c);
	u64 mask = FL_ARITH | FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT | FL_RF | FL_VM | FL_AC | FL_VIF | FL_VIP | FL_ID;
	c->rflags = (c->rflags & ~mask) | (flags & mask) | FL_FIXED1;
	seg_set_real(c, SEG_CS, cs);
	seg_set_real(c, SEG_SS, ss);
	for (unsigned n = 0; n < 4; n++)
		seg_set_real(c, order[n], selector[n]);
	c->rip = rip;
	cpu_update_mode(c);
	c->gpr[RSP] = (u32)rsp;
}

static void iret_task(struct cpu *c)
{
	if (c->efer & EFER_LMA)
		raise_gp0(c);
	u16 link = (u16)mem_read_system(c, c->seg[SEG_TR].base, 2);
	task_switch(c, link, TASK_IRET, c->rip + (c->insn ? c->insn->len : 0), false, 0);
}

/* The part of the frame that is always there: RIP, CS, RFLAGS. */
static void iret_frame(struct cpu *c, struct stack *st, unsigned size, u64 frame[3])
{
	const u8 *hit = size == 8 && st->flat ? tlb_hit(c, st->idx, st->sp, 24, ACC_READ) : NULL;

	if (likely(hit)) {
		memcpy(frame, hit, 24);
		st->sp += 24;
		return;
	}
	for (unsigned n = 0; n < 3; n++)
		frame[n] = stack_load(c, st, size);
}

static void iret_protected(struct cpu *c, unsigned size)
{
	struct stack st = stack_here(c);
	u64 frame[3];

	iret_frame(c, &st, size, frame);
	u64 rip = frame[0], flags = frame[2];
	u16 cs = (u16)frame[1];

	if (size == 4 && (flags & FL_VM) && c->cpl == 0 && !(c->efer & EFER_LMA)) {
		iret_to_vm86(c, &st, rip, cs, flags);
		return;
	}
	u64 desc = return_code(c, cs);
	unsigned cpl = cs & 3;
	bool outer = cpl != c->cpl;

	/* 64-bit code always finds SS:RSP in the frame. */
	if (!outer && c->mode != MODE_64) {
		target_check(c, desc, rip);
		load_cs(c, cs, desc, cpl, rip);
		c->rflags = iret_flags(c, flags, size);
		cpu_update_mode(c);
		stack_commit(c, &st);
		return;
	}
	u64 rsp = stack_load(c, &st, size);
	u16 ss = (u16)stack_load(c, &st, size);
	u64 ss_desc = return_ss(c, ss, cpl, is_64bit_code(c, desc));
	target_check(c, desc, rip);
	load_cs(c, cs, desc, cpl, rip);
	c->rflags = iret_flags(c, flags, size);
	load_returned_ss(c, ss, ss_desc);
	cpu_update_mode(c);
	set_returned_rsp(c, rsp, 0);
	if (outer)
		seg_hide_inner(c, cpl);
}

void far_iret(struct cpu *c, unsigned size)
{
	if (!cpu_protected(c))
		iret_real(c, size);
	else if (c->rflags & FL_NT)
		iret_task(c);
	else
		iret_protected(c, size);
	/* SDM vol. 3A, 6.7.1 */
	c->nmi_blocked = false;
}
