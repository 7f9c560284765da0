/*
 * What semantic functions are made of: operand access, read-modify-write, exact flags from the host's own
 * instruction, and the macros that turn one body into the specialised functions of a struct sem.
 */
#ifndef CPU_SEM_UTIL_H
#define CPU_SEM_UTIL_H

#include "cpu/exception.h"
#include "cpu/insn.h"
#include "cpu/mem.h"
#include "cpu/sem.h"
#include "cpu/seg.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

/*
 * A body is `static ALWAYS_INLINE void body(struct cpu *c, const struct insn *i, unsigned size, bool mem, ...)`,
 * with constants for everything after @i. SEM_BVQ(name, body, ...) makes functions for every size and form of the
 * r/m operand and gathers them in sem_name; SEM_WDQ leaves out the byte size, and SEM_B has only it.
 */
#define SEM_FN_(fn, body, size, mem, ...)                                      \
	static void fn(struct cpu *c, const struct insn *i)                    \
	{                                                                      \
		body(c, i, size, mem, ##__VA_ARGS__);                          \
	}
#define SEM_PAIR_(name, body, size, ...)                                       \
	SEM_FN_(name##_m##size, body, size, true, ##__VA_ARGS__)               \
	SEM_FN_(name##_r##size, body, size, false, ##__VA_ARGS__)
#define SEM_WDQ_FNS_(name, body, ...)                                          \
	SEM_PAIR_(name, body, 2, ##__VA_ARGS__)                                \
	SEM_PAIR_(name, body, 4, ##__VA_ARGS__)                                \
	SEM_PAIR_(name, body, 8, ##__VA_ARGS__)
#define SEM_WDQ_INIT_(name) {name##_m2, name##_r2}, {name##_m4, name##_r4}, {name##_m8, name##_r8}

#define SEM_WDQ(name, body, ...)                                               \
	SEM_WDQ_FNS_(name, body, ##__VA_ARGS__)                                \
	const struct sem sem_##name = {.fn = {{NULL, NULL}, SEM_WDQ_INIT_(name)}};
#define SEM_BWDQ(name, body, ...)                                              \
	SEM_PAIR_(name, body, 1, ##__VA_ARGS__)                                \
	SEM_WDQ_FNS_(name, body, ##__VA_ARGS__)                                \
	const struct sem sem_##name = {.fn = {{name##_m1, name##_r1}, SEM_WDQ_INIT_(name)}};

/* For bodies with one more constant after @mem, whether LOCK is there. */
#define SEM_BWDQ_LOCK(name, body, ...)                                         \
	SEM_PAIR_(name, body, 1, false, ##__VA_ARGS__)                         \
	SEM_WDQ_FNS_(name, body, false, ##__VA_ARGS__)                         \
	SEM_FN_(name##_l1, body, 1, true, true, ##__VA_ARGS__)                 \
	SEM_FN_(name##_l2, body, 2, true, true, ##__VA_ARGS__)                 \
	SEM_FN_(name##_l4, body, 4, true, true, ##__VA_ARGS__)                 \
	SEM_FN_(name##_l8, body, 8, true, true, ##__VA_ARGS__)                 \
	const struct sem sem_##name = {                                        \
		.fn = {{name##_m1, name##_r1}, SEM_WDQ_INIT_(name)},           \
		.lock = {name##_l1, name##_l2, name##_l4, name##_l8}};
#define SEM_WDQ_LOCK(name, body, ...)                                          \
	SEM_WDQ_FNS_(name, body, false, ##__VA_ARGS__)                         \
	SEM_FN_(name##_l2, body, 2, true, true, ##__VA_ARGS__)                 \
	SEM_FN_(name##_l4, body, 4, true, true, ##__VA_ARGS__)                 \
	SEM_FN_(name##_l8, body, 8, true, true, ##__VA_ARGS__)                 \
	const struct sem sem_##name = {                                        \
		.fn = {{NULL, NULL}, SEM_WDQ_INIT_(name)},                     \
		.lock = {NULL, name##_l2, name##_l4, name##_l8}};
/* One function for every size and form. */
#define SEM_ONE(name, f) const struct sem sem_##name = SEM1(f);

/* --- Operands ------------------------------------------------------------------------------------- */

static ALWAYS_INLINE u64 host_load(const void *p, unsigned size)
{
	u64 v = 0;
	memcpy(&v, p, size);
	return v;
}

static ALWAYS_INLINE void host_store(void *p, unsigned size, u64 v)
{
	memcpy(p, &v, size);
}

/* The r/m operand. */
static ALWAYS_INLINE u64 e_get(struct cpu *c, const struct insn *i, unsigned size, bool mem)
{
	if (mem)
		return mem_read(c, i->seg, insn_la(c, i, size, ACC_READ), size);
	return gpr_get(c, i->rm_off, size);
}

static ALWAYS_INLINE void e_set(struct cpu *c, const struct insn *i, unsigned size, bool mem, u64 v)
{
	if (mem)
		mem_write(c, i->seg, insn_la(c, i, size, ACC_WRITE), size, v);
	else
		gpr_set(c, i->rm_off, size, v);
}

static ALWAYS_INLINE u64 g_get(const struct cpu *c, const struct insn *i, unsigned size)
{
	return gpr_get(c, i->reg_off, size);
}

static ALWAYS_INLINE void g_set(struct cpu *c, const struct insn *i, unsigned size, u64 v)
{
	gpr_set(c, i->reg_off, size, v);
}

/* --- Read-modify-write of memory ------------------------------------------------------------------ */

/*
 * The way of operands that cross a page or are MMIO: rmw_begin() reads, with every check of the write done, and
 * rmw_end() writes. A LOCKed operand in RAM is held under one process-wide lock in between: nothing may leave by
 * longjmp there.
 */
struct rmw {
	enum seg_reg seg;
	u64 la;
	unsigned size, first; /* bytes in the first page */
	u8 *part[2];          /* host addresses when the lock is held, else NULL */
};

u64 rmw_begin(struct cpu *c, struct rmw *m, enum seg_reg seg, u64 la, unsigned size, bool lock);
void rmw_end(struct cpu *c, struct rmw *m, u64 value);

/* *@p = @next if it is *@old, else *@old = *@p; atomically. */
static ALWAYS_INLINE bool host_cmpxchg(void *p, unsigned size, u64 *old, u64 next)
{
#define CMPXCHG_(T)                                                                                              \
	({                                                                                                       \
		T expected_ = (T)*old;                                                                           \
		bool done_ = __atomic_compare_exchange_n((T *)p, &expected_, (T)next, false, __ATOMIC_SEQ_CST,   \
							 __ATOMIC_SEQ_CST);                                      \
		*old = expected_;                                                                                \
		done_;                                                                                           \
	})
	switch (size) {
	case 1: return CMPXCHG_(u8);
	case 2: return CMPXCHG_(u16);
	case 4: return CMPXCHG_(u32);
	default: return CMPXCHG_(u64);
	}
#undef CMPXCHG_
}

/*
 * Replaces memory at @la_ by @next, an expression in which @old is the present value. @next is evaluated again when
 * a locked exchange has to be retried, so it must depend on nothing that it sets.
 */
#define MEM_UPDATE(c, seg_, la_, size, lock, old, next)                                    \
	do {                                                                               \
		u64 at_ = (la_);                                                           \
		void *p_ = mem_host(c, seg_, at_, size, ACC_WRITE);                        \
		if (likely(p_)) {                                                          \
			u64 old = host_load(p_, size);                                     \
			if (lock) {                                                        \
				while (!host_cmpxchg(p_, size, &old, next))                \
					;                                                  \
			} else {                                                           \
				host_store(p_, size, next);                                \
			}                                                                  \
		} else {                                                                   \
			struct rmw m_;                                                     \
			u64 old = rmw_begin(c, &m_, seg_, at_, size, lock);                \
			rmw_end(c, &m_, next);                                             \
		}                                                                          \
	} while (0)

/* The same for the r/m operand. */
#define E_UPDATE(c, i, size, mem, lock, old, next)                                         \
	do {                                                                               \
		if (mem) {                                                                 \
			MEM_UPDATE(c, i->seg, insn_la(c, i, size, ACC_WRITE), size, lock, old, next); \
		} else {                                                                   \
			u64 old = gpr_get(c, i->rm_off, size);                             \
			gpr_set(c, i->rm_off, size, next);                                 \
		}                                                                          \
	} while (0)

/* --- Flags ---------------------------------------------------------------------------------------- */

/* Ends an asm whose flags are wanted: SF, ZF, AF, PF, CF to AH, OF to AL. */
#define SAVE_FLAGS_ASM "\n\tlahf\n\tseto %%al"
/* Loads CF from bit 0 of operand [fl]. */
#define LOAD_CF_ASM "btl $0, %k[fl]\n\t"

/* @flags with those of @mask taken from the AX that SAVE_FLAGS_ASM left. */
static ALWAYS_INLINE u64 flags_merge(u64 flags, u32 ax, u64 mask)
{
	return (flags & ~mask) | ((((ax >> 8) & 0xff) | (ax & 1) << 11) & mask);
}

/* Runs `insn`<suffix> for the size; REG is the u8 to u64 that the asm names. */
#define BY_SIZE(size, ASM, insn)                                               \
	do {                                                                   \
		switch (size) {                                                \
		case 1: ASM(insn "b", u8); break;                              \
		case 2: ASM(insn "w", u16); break;                             \
		case 4: ASM(insn "l", u32); break;                             \
		default: ASM(insn "q", u64); break;                            \
		}                                                              \
	} while (0)

enum alu { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP, ALU_TEST, ALU_INC, ALU_DEC, ALU_NEG };

/* @op on @d and @s as the host does it. *@fl becomes @flags as the instruction leaves them. */
static ALWAYS_INLINE u64 alu(enum alu op, unsigned size, u64 d, u64 s, u64 flags, u64 *fl)
{
	u64 mask = FL_ARITH;
	u32 ax;

#define TWO_(insn, T)                                                                                            \
	{                                                                                                        \
		T r_ = (T)d;                                                                                     \
		asm(insn " %[s], %[r]" SAVE_FLAGS_ASM : [r] "+r"(r_), "=&a"(ax) : [s] "r"((T)s) : "cc");         \
		d = r_;                                                                                          \
	}
#define TWO_CF_(insn, T)                                                                                         \
	{                                                                                                        \
		T r_ = (T)d;                                                                                     \
		asm(LOAD_CF_ASM insn " %[s], %[r]" SAVE_FLAGS_ASM                                                \
		    : [r] "+r"(r_), "=&a"(ax)                                                                    \
		    : [s] "r"((T)s), [fl] "r"((u32)flags)                                                        \
		    : "cc");                                                                                     \
		d = r_;                                                                                          \
	}
#define ONE_(insn, T)                                                                                            \
	{                                                                                                        \
		T r_ = (T)d;                                                                                     \
		asm(insn " %[r]" SAVE_FLAGS_ASM : [r] "+r"(r_), "=&a"(ax) : : "cc");                             \
		d = r_;                                                                                          \
	}
	switch (op) {
	case ALU_ADD: BY_SIZE(size, TWO_, "add"); break;
	case ALU_OR: BY_SIZE(size, TWO_, "or"); break;
	case ALU_ADC: BY_SIZE(size, TWO_CF_, "adc"); break;
	case ALU_SBB: BY_SIZE(size, TWO_CF_, "sbb"); break;
	case ALU_AND: BY_SIZE(size, TWO_, "and"); break;
	case ALU_SUB: BY_SIZE(size, TWO_, "sub"); break;
	case ALU_XOR: BY_SIZE(size, TWO_, "xor"); break;
	case ALU_CMP: BY_SIZE(size, TWO_, "cmp"); break;
	case ALU_TEST: BY_SIZE(size, TWO_, "test"); break;
	case ALU_INC: BY_SIZE(size, ONE_, "inc"); mask &= ~FL_CF; break;
	case ALU_DEC: BY_SIZE(size, ONE_, "dec"); mask &= ~FL_CF; break;
	case ALU_NEG: BY_SIZE(size, ONE_, "neg"); break;
	}
#undef TWO_
#undef TWO_CF_
#undef ONE_
	*fl = flags_merge(flags, ax, mask);
	return d;
}

/* Condition @cc (low four opcode bits of Jcc) of @f (SDM vol. 1, appendix B). */
static ALWAYS_INLINE bool condition(u64 f, unsigned cc)
{
	bool lt = !(f & FL_SF) != !(f & FL_OF), t;

	switch (cc >> 1) {
	case 0: t = f & FL_OF; break;
	case 1: t = f & FL_CF; break;
	case 2: t = f & FL_ZF; break;
	case 3: t = f & (FL_CF | FL_ZF); break;
	case 4: t = f & FL_SF; break;
	case 5: t = f & FL_PF; break;
	case 6: t = lt; break;
	default: t = lt || (f & FL_ZF); break;
	}
	return t != (cc & 1);
}

/* FOR_CC(X) is X(0, o) to X(f, nle). */
#define FOR_CC(X)                                                                                    \
	X(0, o) X(1, no) X(2, b) X(3, nb) X(4, z) X(5, nz) X(6, be) X(7, nbe) X(8, s) X(9, ns) X(10, p) X(11, np) \
	X(12, l) X(13, nl) X(14, le) X(15, nle)

/* --- Privilege ------------------------------------------------------------------------------------ */

static inline unsigned iopl(const struct cpu *c)
{
	return (c->rflags & FL_IOPL) >> 12;
}

#endif
