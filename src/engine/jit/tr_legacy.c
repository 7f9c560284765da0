/* Forms of addresses and registers that 32-bit code is full of, and 64-bit code knows but hardly uses. */
#include "engine/jit/tr.h"

bool tr_moffs(struct tr *t, unsigned n, const struct insn *i)
{
	bool byte = !(i->opcode & 1), store = i->opcode & 2;

	if (!tr_can_address(t, i))
		return false;
	tr_keep_s0(t);
	if (tr_check_needed(t, i, AT_OPERAND))
		tr_flags_to_slot(t, tr_flags_needed(t, n));
	struct slow_path *s = tr_emit_operand_disp(t, i);
	if (i->opsize == 2)
		emit8(t->e, 0x66);
	emit_rm_disp(t->e, i->opsize == 8, (store ? 0x88 : 0x8a) | !byte, H_RAX, S0, t->disp);
	tr_slow_done(t, s);
	return true;
}

/* The value waits in memory while the place for it is looked up, if that has to be. */
bool tr_push_mem(struct tr *t, unsigned n, const struct insn *i)
{
	if (i->opsize != t->word || !tr_can_address(t, i))
		return false;
	bool check = tr_check_needed(t, i, AT_STACK);
	tr_keep_s0(t);
	if (check || tr_check_needed(t, i, AT_OPERAND))
		tr_flags_to_slot(t, tr_flags_needed(t, n));
	struct slow_path *from = tr_emit_operand_disp(t, i);
	emit_rm_disp(t->e, tr_w(t), 0x8b, S1, S0, t->disp);
	check = tr_check_needed(t, i, AT_STACK); /* the operand's may have been one for both */
	if (check)
		emit_store_abs(t->e, S1, &t->j->target);
	struct slow_path *to = tr_emit_stack(t, i, -t->word, ACC_WRITE);
	if (check)
		emit_load_abs(t->e, S1, &t->j->target);
	emit_rm_disp(t->e, tr_w(t), 0x89, S1, S0, t->disp);
	/* Later accesses rely on a check that C, executing all of this for the operand's sake, would have passed by. */
	if (from && from->site && to && to->window)
		from->site->leave = true;
	tr_emit_rsp_add(t, -t->word);
	tr_slow_done(t, from);
	tr_slow_done(t, to);
	/* Behind C, which did all of it for the operand's sake, S0 has no address of the stack's window. */
	if (from)
		t->s0 = 0;
	return true;
}

/*
 * No instruction with R14 in it can name AH, CH, DH or BH. Where memory is the destination and flags are not needed for
 * the result, a copy of the byte does: MOV, TEST and all of the arithmetic but ADC and SBB.
 */
bool tr_can_store_high(const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	bool known = (i->opcode < 0x40 && (i->opcode & 7) == 0) || i->opcode == 0x84 || i->opcode == 0x88;

	return r->space == ENC_LEGACY && r->map == 0 && known && !r->flags_read;
}

unsigned tr_emit_high_byte(struct tr *t, const struct insn *i)
{
	emit_rr(t->e, 0, 0x8b, S1, i->reg & 3);
	emit_bytes(t->e, "\x41\xc1\xef\x08", 4); /* shr r15d, 8 */
	return S1;
}
