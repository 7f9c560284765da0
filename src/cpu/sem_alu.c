/* Binary and unary arithmetic and logic: ADD to CMP, TEST, INC, DEC, NEG, NOT, XADD, CMPXCHG. */
#include "cpu/sem_util.h"

/* op r/m, reg */
static ALWAYS_INLINE void alu_eg(struct cpu *c, const struct insn *i, unsigned size, bool mem, bool lock, enum alu op)
{
	u64 s = g_get(c, i, size), fl;

	E_UPDATE(c, i, size, mem, lock, d, alu(op, size, d, s, c->rflags, &fl));
	c->rflags = fl;
}

/* op reg, r/m */
static ALWAYS_INLINE void alu_ge(struct cpu *c, const struct insn *i, unsigned size, bool mem, enum alu op)
{
	u64 s = e_get(c, i, size, mem), fl;

	g_set(c, i, size, alu(op, size, g_get(c, i, size), s, c->rflags, &fl));
	c->rflags = fl;
}

/* op r/m, imm */
static ALWAYS_INLINE void alu_ei(struct cpu *c, const struct insn *i, unsigned size, bool mem, bool lock, enum alu op)
{
	u64 fl;

	E_UPDATE(c, i, size, mem, lock, d, alu(op, size, d, i->imm, c->rflags, &fl));
	c->rflags = fl;
}

#define ALU_FAMILY(name, op)              \
	SEM_BWDQ_LOCK(name##_eg, alu_eg, op) \
	SEM_BWDQ(name##_ge, alu_ge, op)      \
	SEM_BWDQ_LOCK(name##_ei, alu_ei, op)

ALU_FAMILY(add, ALU_ADD)
ALU_FAMILY(or, ALU_OR)
ALU_FAMILY(adc, ALU_ADC)
ALU_FAMILY(sbb, ALU_SBB)
ALU_FAMILY(and, ALU_AND)
ALU_FAMILY(sub, ALU_SUB)
ALU_FAMILY(xor, ALU_XOR)

/* CMP and TEST only read. */
static ALWAYS_INLINE void cmp_eg(struct cpu *c, const struct insn *i, unsigned size, bool mem, enum alu op)
{
	alu(op, size, e_get(c, i, size, mem), g_get(c, i, size), c->rflags, &c->rflags);
}

static ALWAYS_INLINE void cmp_ge(struct cpu *c, const struct insn *i, unsigned size, bool mem, enum alu op)
{
	alu(op, size, g_get(c, i, size), e_get(c, i, size, mem), c->rflags, &c->rflags);
}

static ALWAYS_INLINE void cmp_ei(struct cpu *c, const struct insn *i, unsigned size, bool mem, enum alu op)
{
	alu(op, size, e_get(c, i, size, mem), i->imm, c->rflags, &c->rflags);
}

SEM_BWDQ(cmp_eg, cmp_eg, ALU_CMP)
SEM_BWDQ(cmp_ge, cmp_ge, ALU_CMP)
SEM_BWDQ(cmp_ei, cmp_ei, ALU_CMP)
SEM_BWDQ(test_eg, cmp_eg, ALU_TEST)
SEM_BWDQ(test_ei, cmp_ei, ALU_TEST)

static ALWAYS_INLINE void alu_e(struct cpu *c, const struct insn *i, unsigned size, bool mem, bool lock, enum alu op)
{
	u64 fl;

	E_UPDATE(c, i, size, mem, lock, d, alu(op, size, d, 0, c->rflags, &fl));
	c->rflags = fl;
}

SEM_BWDQ_LOCK(inc, alu_e, ALU_INC)
SEM_BWDQ_LOCK(dec, alu_e, ALU_DEC)
SEM_BWDQ_LOCK(neg, alu_e, ALU_NEG)

static ALWAYS_INLINE void not_e(struct cpu *c, const struct insn *i, unsigned size, bool mem, bool lock)
{
	E_UPDATE(c, i, size, mem, lock, d, ~d);
}

SEM_BWDQ_LOCK(not, not_e)

static ALWAYS_INLINE void xadd_eg(struct cpu *c, const struct insn *i, unsigned size, bool mem, bool lock)
{
	u64 s = g_get(c, i, size), was = 0, fl;

	if (mem) {
		E_UPDATE(c, i, size, mem, lock, d, alu(ALU_ADD, size, was = d, s, c->rflags, &fl));
		g_set(c, i, size, was);
	} else {
		/* Both may be one register: the sum is written last. */
		was = e_get(c, i, size, false);
		u64 sum = alu(ALU_ADD, size, was, s, c->rflags, &fl);
		g_set(c, i, size, was);
		e_set(c, i, size, false, sum);
	}
	c->rflags = fl;
}

SEM_BWDQ_LOCK(xadd, xadd_eg)

/* A memory destination is written in either case (SDM vol. 2, CMPXCHG), with its old value on a mismatch. */
static ALWAYS_INLINE void cmpxchg_eg(struct cpu *c, const struct insn *i, unsigned size, bool mem, bool lock)
{
	u64 acc = gpr_get(c, 0, size), s = g_get(c, i, size), was = 0, fl;

	if (mem)
		E_UPDATE(c, i, size, mem, lock, d, (was = d) == acc ? s : d);
	else
		was = e_get(c, i, size, false);
	alu(ALU_CMP, size, acc, was, c->rflags, &fl);
	if (was != acc)
		gpr_set(c, 0, size, was);
	else if (!mem)
		e_set(c, i, size, false, s);
	c->rflags = fl;
}

SEM_BWDQ_LOCK(cmpxchg, cmpxchg_eg)
