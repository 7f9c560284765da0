/* The guest's R9 to R11 are in memory: what need not go through a scratch register. */
#include "engine/jit/tr.h"

static bool is_mov(const struct insn *i)
{
	const struct sem *sem = insn_rows[i->row].sem;

	return sem == &sem_mov_eg || sem == &sem_mov_ge || sem == &sem_mov_ei;
}

/* Register @to = @from, one of which is in memory. A 4-byte write clears the upper half. */
static void emit_mov(struct tr *t, unsigned w, unsigned to, unsigned from)
{
	unsigned h = jit_in_memory(to) ? S0 : jit_host_of(to);

	if (jit_in_memory(from))
		emit_ra(t->e, w, 0x8b, h, &t->j->cpu->gpr[from]);
	else if (w)
		h = jit_host_of(from);
	else
		emit_rr(t->e, 0, 0x8b, h, jit_host_of(from));
	if (jit_in_memory(to))
		emit_store_abs(t->e, h, &t->j->cpu->gpr[to]);
	t->s0 = h == S0 ? 0 : t->s0;
}

bool tr_emit_spilled_mov(struct tr *t, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	bool imm = r->sem == &sem_mov_ei, store = r->sem == &sem_mov_eg;

	if (!is_mov(i) || i->is_mem || i->opsize < 4 || !(jit_in_memory(i->rm) || (!imm && jit_in_memory(i->reg))))
		return false;
	if (imm) {
		emit_mov_imm(t->e, S0, i->opsize == 8 ? i->imm : (u32)i->imm);
		emit_store_abs(t->e, S0, &t->j->cpu->gpr[i->rm]);
		t->s0 = 0;
	} else {
		emit_mov(t, i->opsize == 8, store ? i->rm : i->reg, store ? i->reg : i->rm);
	}
	return true;
}

/*
 * The r/m operand may be where the register is in memory: but in 4 bytes that are written, after which 4 more are to be
 * cleared; with XCHG, which would lock the bus; with the same register twice; and with a bit number that memory would
 * be addressed by.
 */
bool tr_spilled_rm(const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	const struct sem *s = r->sem;
	bool reads = s == &sem_cmp_eg || s == &sem_cmp_ei || s == &sem_test_eg || s == &sem_test_ei;
	u16 is = tr_facts[i->row].is;

	if (!(is & ROW_PLAIN_E) || i->is_mem || !jit_in_memory(i->rm) || ((is & ROW_G) && i->reg == i->rm))
		return false;
	return operand_info[r->operand[0]].kind != OK_E || i->opsize != 4 || reads;
}
