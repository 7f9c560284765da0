/* MUL, IMUL, DIV, IDIV, sign extension of the accumulator, and decimal adjustment. */
#include "cpu/sem_util.h"

/* rDX:rAX (AX for bytes) = rAX * r/m. */
static ALWAYS_INLINE void mul_e(struct cpu *c, const struct insn *i, unsigned size, bool mem, bool is_signed)
{
	u64 s = e_get(c, i, size, mem), lo, hi = 0;
	u32 ax;

#define MUL_(insn, T)                                                                                    \
	{                                                                                                \
		T l_, h_ = 0;                                                                            \
		u64 a_ = c->gpr[RAX];                                                                    \
		asm(insn " %[s]\n\tmovq %%rax, %[w]" SAVE_FLAGS_ASM                                       \
		    : [w] "=&r"(lo), "+a"(a_), "+d"(h_)                                                  \
		    : [s] "r"((T)s)                                                                      \
		    : "cc");                                                                             \
		l_ = (T)lo;                                                                              \
		ax = a_;                                                                                 \
		hi = sizeof(T) == 1 ? (u8)(lo >> 8) : h_;                                                \
		lo = l_;                                                                                 \
	}
	if (is_signed)
		BY_SIZE(size, MUL_, "imul");
	else
		BY_SIZE(size, MUL_, "mul");
#undef MUL_
	if (size == 1) {
		gpr_set(c, 0, 2, lo | hi << 8);
	} else {
		gpr_set(c, RAX * 8, size, lo);
		gpr_set(c, RDX * 8, size, hi);
	}
	c->rflags = flags_merge(c->rflags, ax, FL_ARITH);
}

SEM_BWDQ(mul, mul_e, false)
SEM_BWDQ(imul_e, mul_e, true)

static ALWAYS_INLINE u64 imul2(unsigned size, u64 d, u64 s, u64 flags, u64 *fl)
{
	u32 ax;

#define IMUL_(insn, T)                                                                                   \
	{                                                                                                \
		T r_ = (T)d;                                                                             \
		asm(insn " %[s], %[r]" SAVE_FLAGS_ASM : [r] "+r"(r_), "=&a"(ax) : [s] "r"((T)s) : "cc"); \
		d = r_;                                                                                  \
	}
	switch (size) {
	case 2: IMUL_("imulw", u16); break;
	case 4: IMUL_("imull", u32); break;
	default: IMUL_("imulq", u64); break;
	}
#undef IMUL_
	*fl = flags_merge(flags, ax, FL_ARITH);
	return d;
}

static ALWAYS_INLINE void imul_ge(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	u64 s = e_get(c, i, size, mem);

	g_set(c, i, size, imul2(size, g_get(c, i, size), s, c->rflags, &c->rflags));
}

static ALWAYS_INLINE void imul_gei(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	u64 s = e_get(c, i, size, mem);

	g_set(c, i, size, imul2(size, s, i->imm, c->rflags, &c->rflags));
}

SEM_WDQ(imul_ge, imul_ge)
SEM_WDQ(imul_gei, imul_gei)

/* Quotient and remainder go to rAX and rDX, AL and AH for bytes. */
static ALWAYS_INLINE void div_set(struct cpu *c, unsigned size, u64 q, u64 r)
{
	if (size == 1) {
		gpr_set(c, 0, 2, (q & 0xff) | (r & 0xff) << 8);
	} else {
		gpr_set(c, RAX * 8, size, q);
		gpr_set(c, RDX * 8, size, r);
	}
}

static ALWAYS_INLINE u128 dividend(const struct cpu *c, unsigned size)
{
	if (size == 1)
		return gpr_get(c, 0, 2);
	return (u128)gpr_get(c, RDX * 8, size) << 8 * size | gpr_get(c, RAX * 8, size);
}

/* #DE comes from a check, never from the host's divider. */
static ALWAYS_INLINE void div_e(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	u64 s = e_get(c, i, size, mem);
	u128 n = dividend(c, size);

	if ((u64)(n >> 8 * size) >= s)
		raise_fault(c, VEC_DE);
	if (size < 8) {
		div_set(c, size, (u64)n / s, (u64)n % s);
	} else {
		u64 q, r;
		asm("divq %[s]" : "=a"(q), "=d"(r) : "a"((u64)n), "d"((u64)(n >> 64)), [s] "r"(s) : "cc");
		div_set(c, size, q, r);
	}
}

/* By magnitudes; the remainder has the sign of the dividend. */
static ALWAYS_INLINE void idiv_e(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	unsigned shift = 128 - 16 * size, half = 64 - 8 * size;
	s64 s = (s64)(e_get(c, i, size, mem) << half) >> half;
	__int128 n = (__int128)(dividend(c, size) << shift) >> shift;
	u64 sm = s < 0 ? -(u64)s : (u64)s, q, r;
	u128 nm = n < 0 ? -(u128)n : (u128)n;
	bool negative = (n < 0) != (s < 0);
	u64 limit = 1ull << (8 * size - 1);

	if ((u64)(nm >> 64) >= sm)
		raise_fault(c, VEC_DE);
	asm("divq %[s]" : "=a"(q), "=d"(r) : "a"((u64)nm), "d"((u64)(nm >> 64)), [s] "r"(sm) : "cc");
	if (q > (negative ? limit : limit - 1))
		raise_fault(c, VEC_DE);
	div_set(c, size, negative ? -q : q, n < 0 ? -r : r);
}

SEM_BWDQ(div, div_e)
SEM_BWDQ(idiv, idiv_e)

/* CBW, CWDE, CDQE */
static ALWAYS_INLINE void cbw_body(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	u64 a = c->gpr[RAX];

	gpr_set(c, 0, size, size == 2 ? (u64)(s8)a : size == 4 ? (u64)(s16)a : (u64)(s32)a);
}

/* CWD, CDQ, CQO */
static ALWAYS_INLINE void cwd_body(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	gpr_set(c, RDX * 8, size, c->gpr[RAX] >> (8 * size - 1) & 1 ? ~0ull : 0);
}

SEM_WDQ(cbw, cbw_body)
SEM_WDQ(cwd, cwd_body)

/* --- Decimal adjustment (SDM vol. 2, DAA to AAD): not in 64-bit code, so the host cannot do it ---- */

static void set_szp(struct cpu *c, u8 v, u64 others)
{
	u64 ignored, fl;

	alu(ALU_TEST, 1, v, v, 0, &fl);
	ignored = FL_SF | FL_ZF | FL_PF;
	c->rflags = (c->rflags & ~FL_ARITH) | (fl & ignored) | others;
}

static void decimal_adjust(struct cpu *c, bool subtract)
{
	u8 al = c->gpr[RAX], was = al;
	bool cf = c->rflags & FL_CF;
	u64 fl = 0;

	if ((al & 15) > 9 || (c->rflags & FL_AF)) {
		if (cf || (subtract ? al < 6 : al > 0xf9))
			fl |= FL_CF;
		al += subtract ? -6 : 6;
		fl |= FL_AF;
	}
	if (was > 0x99 || cf) {
		al += subtract ? -0x60 : 0x60;
		fl |= FL_CF;
	} else if (!subtract) {
		fl &= ~FL_CF;
	}
	gpr_set(c, 0, 1, al);
	set_szp(c, al, fl);
}

static void daa(struct cpu *c, const struct insn *i)
{
	decimal_adjust(c, false);
}

static void das(struct cpu *c, const struct insn *i)
{
	decimal_adjust(c, true);
}

static void ascii_adjust(struct cpu *c, unsigned ax)
{
	u16 v = c->gpr[RAX];
	bool adjust = (v & 15) > 9 || (c->rflags & FL_AF);

	if (adjust)
		v += ax;
	v &= 0xff0f;
	gpr_set(c, 0, 2, v);
	set_szp(c, v, adjust ? FL_AF | FL_CF : 0);
}

static void aaa(struct cpu *c, const struct insn *i)
{
	ascii_adjust(c, 0x106);
}

static void aas(struct cpu *c, const struct insn *i)
{
	ascii_adjust(c, -0x106u);
}

static void aam(struct cpu *c, const struct insn *i)
{
	u8 al = c->gpr[RAX], by = i->imm;

	if (!by)
		raise_fault(c, VEC_DE);
	gpr_set(c, 0, 2, al % by | al / by << 8);
	set_szp(c, al % by, 0);
}

static void aad(struct cpu *c, const struct insn *i)
{
	u8 v = (u8)c->gpr[RAX] + (u8)(c->gpr[RAX] >> 8) * (u8)i->imm;

	gpr_set(c, 0, 2, v);
	set_szp(c, v, 0);
}

SEM_ONE(daa, daa)
SEM_ONE(das, das)
SEM_ONE(aaa, aaa)
SEM_ONE(aas, aas)
SEM_ONE(aam, aam)
SEM_ONE(aad, aad)
