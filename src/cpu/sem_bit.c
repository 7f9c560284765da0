/* BT, BTS, BTR, BTC, BSF, BSR, TZCNT, LZCNT. */
#include "cpu/sem_util.h"

enum bit_op { BIT_TEST, BIT_SET, BIT_RESET, BIT_COMPLEMENT };

static ALWAYS_INLINE u64 bit_apply(enum bit_op op, u64 v, u64 bit)
{
	switch (op) {
	case BIT_SET: return v | bit;
	case BIT_RESET: return v & ~bit;
	case BIT_COMPLEMENT: return v ^ bit;
	default: return v;
	}
}

/* CF is the bit as it was; ZF stays, and the others, which are undefined, stay too. */
static ALWAYS_INLINE void bit_flag(struct cpu *c, u64 was, u64 bit)
{
	c->rflags = (c->rflags & ~FL_CF) | ((was & bit) != 0);
}

/* Bit number from a register. In memory it counts from the operand's first bit to either side (SDM vol. 2, BT). */
static ALWAYS_INLINE void bit_eg(struct cpu *c, const struct insn *i, unsigned size, bool mem, bool lock,
				 enum bit_op op)
{
	u64 n = g_get(c, i, size), bit = 1ull << (n & (8 * size - 1)), was = 0;

	if (mem) {
		s64 number = size == 2 ? (s16)n : size == 4 ? (s32)n : (s64)n;
		u64 ea = insn_ea(c, i) + (u64)(number >> (size == 2 ? 4 : size == 4 ? 5 : 6)) * size;

		ea = i->addrsize == 8 ? ea : i->addrsize == 4 ? (u32)ea : (u16)ea;
		if (op == BIT_TEST)
			was = mem_read(c, i->seg, seg_la(c, i->seg, ea, size, ACC_READ), size);
		else
			MEM_UPDATE(c, i->seg, seg_la(c, i->seg, ea, size, ACC_WRITE), size, lock, d,
				   bit_apply(op, was = d, bit));
	} else {
		was = e_get(c, i, size, false);
		if (op != BIT_TEST)
			e_set(c, i, size, false, bit_apply(op, was, bit));
	}
	bit_flag(c, was, bit);
}

/* Bit number from an immediate, taken modulo the operand size. */
static ALWAYS_INLINE void bit_ei(struct cpu *c, const struct insn *i, unsigned size, bool mem, bool lock,
				 enum bit_op op)
{
	u64 bit = 1ull << (i->imm & (8 * size - 1)), was = 0;

	if (op == BIT_TEST)
		was = e_get(c, i, size, mem);
	else
		E_UPDATE(c, i, size, mem, lock, d, bit_apply(op, was = d, bit));
	bit_flag(c, was, bit);
}

SEM_WDQ(bt_eg, bit_eg, false, BIT_TEST)
SEM_WDQ(bt_ei, bit_ei, false, BIT_TEST)
SEM_WDQ_LOCK(bts_eg, bit_eg, BIT_SET)
SEM_WDQ_LOCK(bts_ei, bit_ei, BIT_SET)
SEM_WDQ_LOCK(btr_eg, bit_eg, BIT_RESET)
SEM_WDQ_LOCK(btr_ei, bit_ei, BIT_RESET)
SEM_WDQ_LOCK(btc_eg, bit_eg, BIT_COMPLEMENT)
SEM_WDQ_LOCK(btc_ei, bit_ei, BIT_COMPLEMENT)

/*
 * The host's own instruction on the whole destination register, so that a source of zero does to it what it does
 * on this processor, and flags the same.
 */
enum scan { SCAN_BSF, SCAN_BSR, SCAN_TZCNT, SCAN_LZCNT };

static ALWAYS_INLINE void scan_ge(struct cpu *c, const struct insn *i, unsigned size, bool mem, enum scan op)
{
	u64 s = e_get(c, i, size, mem), d = c->gpr[i->reg & 15];
	u32 ax;

#define SCAN_(insn, sfx, m)                                                                      \
	asm(insn " %" m "[s], %" m "[d]" SAVE_FLAGS_ASM : [d] "+r"(d), "=&a"(ax) : [s] "r"(s) : "cc")
#define SCAN_SIZE_(insn)                                   \
	do {                                               \
		if (size == 2)                             \
			SCAN_(insn, "w", "w");             \
		else if (size == 4)                        \
			SCAN_(insn, "l", "k");             \
		else                                       \
			SCAN_(insn, "q", "q");             \
	} while (0)
	switch (op) {
	case SCAN_BSF: SCAN_SIZE_("bsf"); break;
	case SCAN_BSR: SCAN_SIZE_("bsr"); break;
	case SCAN_TZCNT: SCAN_SIZE_("tzcnt"); break;
	case SCAN_LZCNT: SCAN_SIZE_("lzcnt"); break;
	}
#undef SCAN_
#undef SCAN_SIZE_
	c->gpr[i->reg & 15] = d;
	c->rflags = flags_merge(c->rflags, ax, FL_ARITH);
}

/* A processor without the newer instruction ignores the F3 and does the older one. */
static ALWAYS_INLINE void scan_newer(struct cpu *c, const struct insn *i, unsigned size, bool mem, enum scan op)
{
	unsigned isa = op == SCAN_TZCNT ? ISA_BMI1 : ISA_ABM;

	if (likely(c->isa[isa / 64] >> (isa % 64) & 1))
		scan_ge(c, i, size, mem, op);
	else
		scan_ge(c, i, size, mem, op == SCAN_TZCNT ? SCAN_BSF : SCAN_BSR);
}

SEM_WDQ(bsf, scan_ge, SCAN_BSF)
SEM_WDQ(bsr, scan_ge, SCAN_BSR)
SEM_WDQ(tzcnt, scan_newer, SCAN_TZCNT)
SEM_WDQ(lzcnt, scan_newer, SCAN_LZCNT)
