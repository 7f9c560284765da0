/* Control transfers (all CLASS_END: they set RIP), INT n and kin. */
#include "cpu/cpuid.h"
#include "cpu/sem_util.h"

/* RIP = @target, cut to the operand size. Inline check: the target stays in its half of the address space. */
static ALWAYS_INLINE void branch_to(struct cpu *c, const struct insn *i, u64 target)
{
	if (likely(c->code_bits == 64)) {
		if (unlikely((target ^ c->rip) >> 47))
			branch_check(c, target);
	} else {
		target = i->opsize == 2 ? (u16)target : (u32)target;
		branch_check(c, target);
	}
	c->rip = target;
}

static ALWAYS_INLINE void branch_if(struct cpu *c, const struct insn *i, bool taken)
{
	if (taken)
		branch_to(c, i, c->rip + i->len + i->imm);
	else
		c->rip = insn_next(c, i);
}

#define JCC_FN(n, cc)                                              \
	static void jcc_##cc(struct cpu *c, const struct insn *i)     \
	{                                                          \
		branch_if(c, i, condition(c->rflags, n));          \
	}                                                          \
	SEM_ONE(j##cc, jcc_##cc)
FOR_CC(JCC_FN)

static ALWAYS_INLINE u64 count_of(const struct cpu *c, const struct insn *i)
{
	return i->addrsize == 8 ? c->gpr[RCX] : i->addrsize == 4 ? (u32)c->gpr[RCX] : (u16)c->gpr[RCX];
}

static void jrcxz(struct cpu *c, const struct insn *i)
{
	branch_if(c, i, count_of(c, i) == 0);
}

/* The count is written only when the branch has passed its checks. */
static ALWAYS_INLINE void loop_body(struct cpu *c, const struct insn *i, bool also)
{
	u64 n = count_of(c, i) - 1;
	bool more = (i->addrsize == 8 ? n : i->addrsize == 4 ? (u32)n : (u16)n) != 0;

	branch_if(c, i, more && also);
	gpr_set(c, RCX * 8, i->addrsize, n);
}

static void loop_(struct cpu *c, const struct insn *i)
{
	loop_body(c, i, true);
}

static void loope(struct cpu *c, const struct insn *i)
{
	loop_body(c, i, c->rflags & FL_ZF);
}

static void loopne(struct cpu *c, const struct insn *i)
{
	loop_body(c, i, !(c->rflags & FL_ZF));
}

static void jmp_j(struct cpu *c, const struct insn *i)
{
	branch_to(c, i, c->rip + i->len + i->imm);
}

/* The return address is pushed before RIP changes, and the target is checked before that. */
static ALWAYS_INLINE void call_to(struct cpu *c, const struct insn *i, unsigned size, u64 target)
{
	u64 from = c->rip, next = insn_next(c, i);

	if (likely(c->code_bits == 64)) {
		if (unlikely((target ^ from) >> 47))
			branch_check(c, target);
	} else {
		target = size == 2 ? (u16)target : (u32)target;
		branch_check(c, target);
	}
	stack_push(c, size, next);
	c->rip = target;
}

static ALWAYS_INLINE void call_j_body(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	call_to(c, i, size, c->rip + i->len + i->imm);
}

static ALWAYS_INLINE void call_e_body(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	call_to(c, i, size, e_get(c, i, size, mem));
}

static ALWAYS_INLINE void jmp_e_body(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	branch_to(c, i, e_get(c, i, size, mem));
}

static ALWAYS_INLINE void ret_body(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	u64 target = stack_peek(c, size, 0);

	branch_to(c, i, target);
	stack_set(c, c->gpr[RSP] + size + i->imm);
}

SEM_ONE(jrcxz, jrcxz)
SEM_ONE(loop, loop_)
SEM_ONE(loope, loope)
SEM_ONE(loopne, loopne)
SEM_ONE(jmp_j, jmp_j)
SEM_WDQ(jmp_e, jmp_e_body)
SEM_WDQ(call_j, call_j_body)
SEM_WDQ(call_e, call_e_body)
SEM_WDQ(ret, ret_body)

/* --- Far ------------------------------------------------------------------------------------------ */

static void jmp_far_a(struct cpu *c, const struct insn *i)
{
	far_jmp(c, i->imm2, i->imm, i->opsize);
}

static void call_far_a(struct cpu *c, const struct insn *i)
{
	far_call(c, i->imm2, i->imm, i->opsize, insn_next(c, i));
}

/* AMD's processors have no 64-bit offset in far pointers: REX.W makes no difference (APM vol. 3, CALL far, LFS). */
static unsigned far_size(const struct cpu *c, const struct insn *i)
{
	return i->opsize == 8 && cpuid_amd(c) ? 4 : i->opsize;
}

/* Offset, then selector, in memory. */
static u16 far_pointer(struct cpu *c, const struct insn *i, unsigned size, u64 *offset)
{
	u64 la = insn_la(c, i, size + 2, ACC_READ);

	*offset = mem_read_slow(c, i->seg, la, size);
	return mem_read_slow(c, i->seg, la + size, 2);
}

static void jmp_far_m(struct cpu *c, const struct insn *i)
{
	u64 offset;
	unsigned size = far_size(c, i);
	u16 selector = far_pointer(c, i, size, &offset);

	far_jmp(c, selector, offset, size);
}

static void call_far_m(struct cpu *c, const struct insn *i)
{
	u64 offset;
	u16 selector = far_pointer(c, i, far_size(c, i), &offset);

	far_call(c, selector, offset, i->opsize, insn_next(c, i)); /* what is pushed is as wide as REX.W says */
}

static void ret_far(struct cpu *c, const struct insn *i)
{
	far_ret(c, i->opsize, i->imm);
}

static void iret(struct cpu *c, const struct insn *i)
{
	far_iret(c, i->opsize);
}

SEM_ONE(jmp_far_a, jmp_far_a)
SEM_ONE(call_far_a, call_far_a)
SEM_ONE(jmp_far_m, jmp_far_m)
SEM_ONE(call_far_m, call_far_m)
SEM_ONE(ret_far, ret_far)
SEM_ONE(iret, iret)

/* LES, LDS, LSS, LFS, LGS */
static ALWAYS_INLINE void load_far(struct cpu *c, const struct insn *i, enum seg_reg seg)
{
	u64 offset;
	unsigned size = far_size(c, i);
	u16 selector = far_pointer(c, i, size, &offset);

	seg_load(c, seg, selector);
	gpr_set(c, i->reg_off, size, offset);
	c->rip = insn_next(c, i);
}

#define LOAD_FAR(name, seg)                                        \
	static void name(struct cpu *c, const struct insn *i)      \
	{                                                          \
		load_far(c, i, seg);                               \
	}                                                          \
	SEM_ONE(name, name)
LOAD_FAR(les, SEG_ES)
LOAD_FAR(lds, SEG_DS)
LOAD_FAR(lss, SEG_SS)
LOAD_FAR(lfs, SEG_FS)
LOAD_FAR(lgs, SEG_GS)

/* --- Software interrupts -------------------------------------------------------------------------- */

static _Noreturn void raise_soft(struct cpu *c, const struct insn *i, enum event_type type, unsigned vector)
{
	c->fault = (struct event){.type = type, .vector = vector, .insn_len = i->len};
	longjmp(*c->unwind, UNWIND_FAULT);
}

/* In virtual-8086 mode IOPL decides (SDM vol. 3B, 20.3.3); INT3 and INTO are not IOPL-sensitive. */
static void int_n(struct cpu *c, const struct insn *i)
{
	if (c->mode == MODE_VM86 && iopl(c) < 3)
		raise_gp0(c);
	raise_soft(c, i, EV_SOFTINT, (u8)i->imm);
}

static void int3(struct cpu *c, const struct insn *i)
{
	raise_soft(c, i, EV_SOFTEXC, VEC_BP);
}

static void into(struct cpu *c, const struct insn *i)
{
	if (c->rflags & FL_OF)
		raise_soft(c, i, EV_SOFTEXC, VEC_OF);
	c->rip = insn_next(c, i);
}

static void icebp(struct cpu *c, const struct insn *i)
{
	raise_soft(c, i, EV_ICEBP, VEC_DB);
}

static void bound(struct cpu *c, const struct insn *i)
{
	unsigned shift = 64 - 8 * i->opsize;
	u64 la = insn_la(c, i, 2 * i->opsize, ACC_READ);
	s64 n = (s64)(gpr_get(c, i->reg_off, 4) << shift);
	s64 lo = (s64)(mem_read_slow(c, i->seg, la, i->opsize) << shift);
	s64 hi = (s64)(mem_read_slow(c, i->seg, la + i->opsize, i->opsize) << shift);

	if (n < lo || n > hi)
		raise_fault(c, VEC_BR);
}

SEM_ONE(int_n, int_n)
SEM_ONE(int3, int3)
SEM_ONE(into, into)
SEM_ONE(icebp, icebp)
SEM_ONE(bound, bound)

static void ud(struct cpu *c, const struct insn *i)
{
	raise_ud(c);
}

SEM_ONE(ud, ud)
