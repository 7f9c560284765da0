/* PUSH, POP and kin: general and segment registers, flags, PUSHA, POPA, ENTER, LEAVE. */
#include "cpu/sem_util.h"

static ALWAYS_INLINE void push_e_body(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	stack_push(c, size, e_get(c, i, size, mem));
}

static ALWAYS_INLINE void push_i_body(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	stack_push(c, size, i->imm);
}

/* The popped value is there before rSP moves, so POP rSP ends with it. */
static ALWAYS_INLINE void pop_r_body(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	u64 v = stack_peek(c, size, 0);

	stack_set(c, c->gpr[RSP] + size);
	gpr_set(c, i->rm_off, size, v);
}

/* An address with rSP as its base uses rSP after the pop (SDM vol. 2, POP). */
static void pop_m(struct cpu *c, const struct insn *i)
{
	u64 v = stack_peek(c, i->opsize, 0), ea = insn_ea(c, i);

	if (i->base == RSP) {
		ea += i->opsize;
		ea = i->addrsize == 8 ? ea : i->addrsize == 4 ? (u32)ea : (u16)ea;
	}
	mem_write_slow(c, i->seg, seg_la(c, i->seg, ea, i->opsize, ACC_WRITE), i->opsize, v);
	stack_set(c, c->gpr[RSP] + i->opsize);
}

SEM_WDQ(push_e, push_e_body)
SEM_WDQ(push_i, push_i_body)
SEM_WDQ(pop_r, pop_r_body)
SEM_ONE(pop_m, pop_m)

/* --- Segment registers ---------------------------------------------------------------------------- */

static ALWAYS_INLINE void push_seg(struct cpu *c, const struct insn *i, enum seg_reg seg)
{
	stack_push(c, i->opsize, c->seg[seg].selector);
}

static ALWAYS_INLINE void pop_seg(struct cpu *c, const struct insn *i, enum seg_reg seg)
{
	/* Only the selector is read. rSP moves when the load has succeeded, by the old stack's width. */
	u64 sp = c->gpr[RSP] + i->opsize, mask = stack_mask(c);

	seg_load(c, seg, stack_peek(c, 2, 0));
	c->gpr[RSP] = mask == 0xffff ? (c->gpr[RSP] & ~mask) | (sp & mask) : sp & mask;
	if (seg == SEG_SS)
		c->int_shadow = SHADOW_MOV_SS;
	c->rip = insn_next(c, i);
}

#define SEG_STACK(name, seg)                                                                          \
	static void push_##name(struct cpu *c, const struct insn *i) { push_seg(c, i, seg); }         \
	static void pop_##name(struct cpu *c, const struct insn *i) { pop_seg(c, i, seg); }           \
	SEM_ONE(push_##name, push_##name)                                                             \
	SEM_ONE(pop_##name, pop_##name)
SEG_STACK(es, SEG_ES)
SEG_STACK(ss, SEG_SS)
SEG_STACK(ds, SEG_DS)
SEG_STACK(fs, SEG_FS)
SEG_STACK(gs, SEG_GS)

static void push_cs(struct cpu *c, const struct insn *i)
{
	push_seg(c, i, SEG_CS);
}

SEM_ONE(push_cs, push_cs)

/* --- Flags ---------------------------------------------------------------------------------------- */

static void pushf(struct cpu *c, const struct insn *i)
{
	if (c->mode == MODE_VM86 && iopl(c) < 3)
		raise_gp0(c);
	stack_push(c, i->opsize, c->rflags & ~(FL_VM | FL_RF));
}

/* Which bits change: SDM vol. 2, table "Effect of POPF/POPFD on the EFLAGS Register". RF is cleared. */
static void popf(struct cpu *c, const struct insn *i)
{
	u64 mask = FL_ARITH | FL_TF | FL_DF | FL_NT | FL_AC | FL_ID;

	if (c->mode == MODE_VM86 && iopl(c) < 3)
		raise_gp0(c);
	if (c->cpl <= iopl(c))
		mask |= FL_IF;
	if (c->cpl == 0)
		mask |= FL_IOPL;
	if (i->opsize == 2)
		mask &= 0xffff;
	u64 v = stack_peek(c, i->opsize, 0), was = c->rflags;

	stack_set(c, c->gpr[RSP] + i->opsize);
	c->rflags = (was & ~(mask | FL_RF)) | (v & mask) | FL_FIXED1;
	if ((was ^ c->rflags) & FL_AC)
		cpu_update_mode(c);
	c->rip = insn_next(c, i);
}

SEM_ONE(pushf, pushf)
SEM_ONE(popf, popf)

/* --- PUSHA, POPA, ENTER, LEAVE -------------------------------------------------------------------- */

static void pusha(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;

	/* Every store is checked before the first is made. */
	for (unsigned n = 1; n <= 8; n++) {
		u64 sp = (c->gpr[RSP] - n * size) & stack_mask(c);
		mem_probe(c, SEG_SS, seg_la(c, SEG_SS, sp, size, ACC_WRITE), size, ACC_WRITE);
	}
	for (unsigned n = 0; n < 8; n++) {
		u64 sp = (c->gpr[RSP] - (n + 1) * size) & stack_mask(c);
		mem_write_slow(c, SEG_SS, seg_la(c, SEG_SS, sp, size, ACC_WRITE), size, c->gpr[n]);
	}
	stack_set(c, c->gpr[RSP] - 8 * size);
}

static void popa(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	u64 v[8];

	for (unsigned n = 0; n < 8; n++)
		v[7 - n] = stack_peek(c, size, n * size);
	for (unsigned n = 0; n < 8; n++)
		if (n != RSP)
			gpr_set(c, n * 8, size, v[n]);
	stack_set(c, c->gpr[RSP] + 8 * size);
}

/* SDM vol. 2, ENTER. The frame is written through a moving stack pointer that reaches RSP only at the end. */
static void enter(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize, level = i->imm2 & 31;
	u64 mask = stack_mask(c), sp = c->gpr[RSP] - size, bp = c->gpr[RBP], frame;

	mem_write_slow(c, SEG_SS, seg_la(c, SEG_SS, sp & mask, size, ACC_WRITE), size, bp);
	frame = sp;
	for (unsigned n = 1; n < level; n++) {
		bp -= size;
		u64 v = mem_read_slow(c, SEG_SS, seg_la(c, SEG_SS, bp & mask, size, ACC_READ), size);
		sp -= size;
		mem_write_slow(c, SEG_SS, seg_la(c, SEG_SS, sp & mask, size, ACC_WRITE), size, v);
	}
	if (level) {
		sp -= size;
		mem_write_slow(c, SEG_SS, seg_la(c, SEG_SS, sp & mask, size, ACC_WRITE), size, frame);
	}
	sp -= (u16)i->imm;
	/* A stack that cannot be written at its new top faults here. */
	mem_probe(c, SEG_SS, seg_la(c, SEG_SS, sp & mask, size, ACC_WRITE), size, ACC_WRITE);
	gpr_set(c, RBP * 8, size, frame);
	stack_set(c, sp);
}

static ALWAYS_INLINE void leave_body(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	u64 sp = c->gpr[RBP] & stack_mask(c);
	u64 v = mem_read(c, SEG_SS, seg_la(c, SEG_SS, sp, size, ACC_READ), size);

	stack_set(c, sp + size);
	gpr_set(c, RBP * 8, size, v);
}

SEM_ONE(pusha, pusha)
SEM_ONE(popa, popa)
SEM_ONE(enter, enter)
SEM_WDQ(leave, leave_body)
