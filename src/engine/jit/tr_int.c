/*
 * Instructions on general registers that are not simply the guest's own again: what may divide by zero, addresses that
 * depend on a bit number, operands that are implied.
 */
#include "engine/jit/tr.h"

/* --- DIV, IDIV ---------------------------------------------------------------------------------------------------- */

/* The divisor's register: S1 where it is in memory. */
static unsigned emit_divisor(struct tr *t, unsigned n, const struct insn *i, struct slow_path **s)
{
	*s = NULL;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	if (!i->is_mem)
		return tr_use_gpr(t, i->rm, S1);
	*s = tr_emit_operand(t, i);
	emit_rm_disp(t->e, i->opsize == 8, 0x8b, S1, S0, 0);
	return S1;
}

/* The quotient fits when the upper half of the dividend is less than the divisor, which is not 0 then. */
static bool emit_div(struct tr *t, unsigned n, const struct insn *i)
{
	unsigned w = i->opsize == 8;
	struct slow_path *s;

	if (i->opsize < 4)
		return false;
	unsigned h = emit_divisor(t, n, i, &s);
	emit_rr(t->e, w, 0x3b, H_RDX, h);
	tr_emit_c_path(t, i, CC_AE);
	emit_rr(t->e, w, 0xf7, 6, h);
	if (s)
		tr_slow_done(t, s);
	return true;
}

/* Done here is the usual case: a dividend that its lower half holds, by anything but 0 and -1. */
static bool emit_idiv(struct tr *t, unsigned n, const struct insn *i)
{
	struct emit *e = t->e;
	unsigned w = i->opsize == 8;
	struct slow_path *s;

	if (i->opsize < 4)
		return false;
	unsigned h = emit_divisor(t, n, i, &s);
	emit_rr(e, w, 0x8b, S0, H_RAX);
	emit_rr(e, w, 0xc1, 7, S0); /* sar */
	emit8(e, w ? 63 : 31);
	emit_rr(e, w, 0x3b, S0, H_RDX);
	tr_emit_c_path(t, i, CC_NE);
	emit_rm_disp(e, w, 0x8d, S0, h, 1);
	emit_rr(e, w, 0x83, 7, S0); /* cmp */
	emit8(e, 1);
	tr_emit_c_path(t, i, CC_BE);
	emit_rr(e, w, 0xf7, 7, h);
	if (s)
		tr_slow_done(t, s);
	return true;
}

/* --- Bits in memory, by number ----------------------------------------------------------------------------------- */

/* Offsets in FS and GS have limits in 32-bit code. */
static bool can_address(const struct tr *t, const struct insn *i)
{
	return i->is_mem && i->addrsize == t->word && (t->word == 8 || (i->seg != SEG_FS && i->seg != SEG_GS));
}

static void emit_segment_base(struct tr *t, const struct insn *i)
{
	if (i->seg == SEG_FS || i->seg == SEG_GS)
		emit_ra(t->e, 1, 0x03, S0, &t->j->cpu->seg[i->seg].base);
}

/* [S0]-sized op: the prefix, REX and opcode of one with @reg as its register and @base as its address or register. */
static void emit_bit_op(struct tr *t, const struct insn *i, unsigned reg, unsigned base, bool memory)
{
	struct emit *e = t->e;

	if (memory && i->lock)
		emit8(e, 0xf0);
	if (i->opsize == 2)
		emit8(e, 0x66);
	emit_rex(e, i->opsize == 8, reg, base);
	emit8(e, 0x0f);
	emit8(e, i->opcode);
	emit8(e, (memory ? 0 : 0xc0) | (reg & 7) << 3 | (base & 7));
}

/* The linear address of the operand that holds the bit (SDM vol. 2, BT) into S0. */
static void emit_bit_address(struct tr *t, const struct insn *i)
{
	struct emit *e = t->e;

	tr_emit_ea(t, i, S0);
	unsigned h = tr_use_gpr(t, i->reg, S1);
	if (i->opsize == 8) {
		emit_rr(e, 1, 0x8b, S1, h);
	} else if (i->opsize == 4) {
		emit_rr(e, 1, 0x63, S1, h); /* movsxd */
	} else {
		emit_rex(e, 1, S1, h); /* movsx */
		emit_bytes(e, "\x0f\xbf", 2);
		emit8(e, 0xc0 | (S1 & 7) << 3 | (h & 7));
	}
	emit_bytes(e, "\x49\xc1\xff\x03", 4); /* sar r15, 3 */
	emit_bytes(e, "\x49\x83\xe7", 3);     /* and r15, -size */
	emit8(e, (unsigned)-i->opsize & 0xff);
	emit_rr(e, tr_w(t), 0x03, S0, S1);
	emit_segment_base(t, i);
}

/* S1 = the operand at S0. */
static void emit_bit_load(struct tr *t, const struct insn *i)
{
	if (i->opsize == 2) {
		emit_bytes(t->e, "\x45\x0f\xb7\x3e", 4); /* movzx r15d, word [r14] */
		return;
	}
	emit_rm_disp(t->e, i->opsize == 8, 0x8b, S1, S0, 0);
}

static bool emit_bit(struct tr *t, unsigned n, const struct insn *i)
{
	struct emit *e = t->e;
	bool test = insn_rows[i->row].sem == &sem_bt_eg;
	bool in_place = i->lock || (!test && jit_in_memory(i->reg)); /* by a bit number in S1, cut to the operand */

	if (!can_address(t, i))
		return false;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_bit_address(t, i);
	struct slow_path *s = tr_emit_tlb(t, i, i->seg, i->opsize, 0, test ? ACC_READ : ACC_WRITE, false);
	if (in_place) {
		emit_rr(e, 0, 0x8b, S1, tr_use_gpr(t, i->reg, S1));
		emit_bytes(e, "\x41\x83\xe7", 3); /* and r15d, bits - 1 */
		emit8(e, 8u * i->opsize - 1);
		if (tr_flags_needed(t, n)) {
			emit_store_abs(e, S1, &t->j->target);
			tr_flags_to_host(t, n, S1);
			emit_load_abs(e, S1, &t->j->target);
		}
		emit_bit_op(t, i, S1, S0, true);
	} else if (test) {
		emit_bit_load(t, i);
		tr_flags_to_host(t, n, S0);
		emit_bit_op(t, i, tr_use_gpr(t, i->reg, S0), S1, false);
	} else {
		tr_flags_to_host(t, n, S1);
		emit_bit_load(t, i);
		emit_bit_op(t, i, jit_host_of(i->reg), S1, false);
		if (i->opsize == 2)
			emit8(e, 0x66);
		emit_rm_disp(e, i->opsize == 8, 0x89, S1, S0, 0);
	}
	t->flags = IN_HOST;
	tr_slow_done(t, s);
	return true;
}

/* --- CMPXCHG8B, CMPXCHG16B --------------------------------------------------------------------------------------- */

static bool emit_cmpxchg_pair(struct tr *t, unsigned n, const struct insn *i)
{
	struct emit *e = t->e;
	bool wide = insn_rows[i->row].sem == &sem_cmpxchg16b;

	if (!can_address(t, i))
		return false;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	tr_emit_ea(t, i, S0);
	emit_segment_base(t, i);
	if (wide) {
		emit_bytes(e, "\x41\xf6\xc6\x0f", 4); /* test r14b, 15 */
		tr_emit_c_path(t, i, CC_NE);
	}
	struct slow_path *s = tr_emit_tlb(t, i, i->seg, wide ? 16 : 8, 0, ACC_WRITE, false);
	tr_flags_to_host(t, n, S1);
	if (i->lock)
		emit8(e, 0xf0);
	emit8(e, wide ? 0x49 : 0x41);
	emit_bytes(e, "\x0f\xc7\x0e", 3); /* [r14] */
	t->flags = IN_HOST;
	tr_slow_done(t, s);
	return true;
}

/* --- MFENCE, PAUSE ----------------------------------------------------------------------------------------------- */

static bool emit_fence(struct tr *t, unsigned n, const struct insn *i)
{
	emit_bytes(t->e, "\x0f\xae\xf0", 3);
	return true;
}

const struct tr_row tr_int_rows[] = {
	{&sem_div, emit_div, true},
	{&sem_idiv, emit_idiv, true},
	{&sem_bt_eg, emit_bit, true},
	{&sem_bts_eg, emit_bit, true},
	{&sem_btr_eg, emit_bit, true},
	{&sem_btc_eg, emit_bit, true},
	{&sem_cmpxchg8b, emit_cmpxchg_pair, true},
	{&sem_cmpxchg16b, emit_cmpxchg_pair, true},
	{&sem_fence, emit_fence, true},
	{NULL, NULL},
};
