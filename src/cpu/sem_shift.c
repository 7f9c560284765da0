/* Shifts and rotates. The host's own instruction runs, also for what the SDM leaves undefined. */
#include "cpu/sem_util.h"

enum shift { SH_ROL, SH_ROR, SH_RCL, SH_RCR, SH_SHL, SH_SHR, SH_SAR };
enum count { COUNT_1, COUNT_CL, COUNT_IMM };

static ALWAYS_INLINE unsigned count_get(const struct cpu *c, const struct insn *i, unsigned size, enum count from)
{
	unsigned n = from == COUNT_1 ? 1 : from == COUNT_CL ? (u8)c->gpr[RCX] : (u8)i->imm;
	return n & (size == 8 ? 63 : 31);
}

/* @n is masked and not 0. */
static ALWAYS_INLINE u64 shift(enum shift op, unsigned size, u64 d, unsigned n, u64 flags, u64 *fl)
{
	u32 ax;

#define SHIFT_(insn, T)                                                                  \
	{                                                                                \
		T r_ = (T)d;                                                             \
		asm(LOAD_CF_ASM insn " %%cl, %[r]" SAVE_FLAGS_ASM                        \
		    : [r] "+r"(r_), "=&a"(ax)                                            \
		    : "c"(n), [fl] "r"((u32)flags)                                       \
		    : "cc");                                                             \
		d = r_;                                                                  \
	}
	switch (op) {
	case SH_ROL: BY_SIZE(size, SHIFT_, "rol"); break;
	case SH_ROR: BY_SIZE(size, SHIFT_, "ror"); break;
	case SH_RCL: BY_SIZE(size, SHIFT_, "rcl"); break;
	case SH_RCR: BY_SIZE(size, SHIFT_, "rcr"); break;
	case SH_SHL: BY_SIZE(size, SHIFT_, "shl"); break;
	case SH_SHR: BY_SIZE(size, SHIFT_, "shr"); break;
	case SH_SAR: BY_SIZE(size, SHIFT_, "sar"); break;
	}
#undef SHIFT_
	*fl = flags_merge(flags, ax, op < SH_SHL ? FL_CF | FL_OF : FL_ARITH);
	return d;
}

static ALWAYS_INLINE void shift_e(struct cpu *c, const struct insn *i, unsigned size, bool mem, enum shift op,
				  enum count from)
{
	unsigned n = count_get(c, i, size, from);
	u64 fl = c->rflags;

	/* Without a shift memory is still written and a 32-bit register still zero-extended. */
	E_UPDATE(c, i, size, mem, false, d, n ? shift(op, size, d, n, c->rflags, &fl) : d);
	c->rflags = fl;
}

#define SHIFT_FAMILY(name, op)                    \
	SEM_BWDQ(name##_1, shift_e, op, COUNT_1)  \
	SEM_BWDQ(name##_cl, shift_e, op, COUNT_CL) \
	SEM_BWDQ(name##_i, shift_e, op, COUNT_IMM)

SHIFT_FAMILY(rol, SH_ROL)
SHIFT_FAMILY(ror, SH_ROR)
SHIFT_FAMILY(rcl, SH_RCL)
SHIFT_FAMILY(rcr, SH_RCR)
SHIFT_FAMILY(shl, SH_SHL)
SHIFT_FAMILY(shr, SH_SHR)
SHIFT_FAMILY(sar, SH_SAR)

static ALWAYS_INLINE u64 shift2(bool right, unsigned size, u64 d, u64 s, unsigned n, u64 flags, u64 *fl)
{
	u32 ax;

#define SHIFT2_(insn, T)                                                                 \
	{                                                                                \
		T r_ = (T)d;                                                             \
		asm(LOAD_CF_ASM insn " %%cl, %[s], %[r]" SAVE_FLAGS_ASM                  \
		    : [r] "+r"(r_), "=&a"(ax)                                            \
		    : "c"(n), [s] "r"((T)s), [fl] "r"((u32)flags)                        \
		    : "cc");                                                             \
		d = r_;                                                                  \
	}
	switch (size) {
	case 2:
		if (right)
			SHIFT2_("shrdw", u16)
		else
			SHIFT2_("shldw", u16)
		break;
	case 4:
		if (right)
			SHIFT2_("shrdl", u32)
		else
			SHIFT2_("shldl", u32)
		break;
	default:
		if (right)
			SHIFT2_("shrdq", u64)
		else
			SHIFT2_("shldq", u64)
		break;
	}
#undef SHIFT2_
	*fl = flags_merge(flags, ax, FL_ARITH);
	return d;
}

static ALWAYS_INLINE void shift2_eg(struct cpu *c, const struct insn *i, unsigned size, bool mem, bool right,
				    enum count from)
{
	unsigned n = count_get(c, i, size, from);
	u64 s = g_get(c, i, size), fl = c->rflags;

	E_UPDATE(c, i, size, mem, false, d, n ? shift2(right, size, d, s, n, c->rflags, &fl) : d);
	c->rflags = fl;
}

SEM_WDQ(shld_i, shift2_eg, false, COUNT_IMM)
SEM_WDQ(shld_cl, shift2_eg, false, COUNT_CL)
SEM_WDQ(shrd_i, shift2_eg, true, COUNT_IMM)
SEM_WDQ(shrd_cl, shift2_eg, true, COUNT_CL)
