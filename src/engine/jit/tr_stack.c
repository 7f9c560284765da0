/* The stack: RSP changes after the access that may fault. */
#include "engine/jit/tr.h"

/* Stack accesses. rSP changes after the access. */
struct slow_path *tr_emit_stack(struct tr *t, const struct insn *i, s32 disp, enum access acc)
{
	emit_rm_disp(t->e, tr_w(t), 0x8d, S0, H_GUEST_RSP, disp);
	return tr_emit_tlb(t, i, SEG_SS, t->word, acc);
}

void tr_emit_rsp_add(struct tr *t, s32 n)
{
	emit_rm_disp(t->e, tr_w(t), 0x8d, H_GUEST_RSP, H_GUEST_RSP, n);
}

bool tr_push(struct tr *t, unsigned n, const struct insn *i)
{
	if (i->opsize != t->word || i->is_mem)
		return false;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	struct slow_path *s = tr_emit_stack(t, i, -t->word, ACC_WRITE);
	if (insn_rows[i->row].sem == &sem_push_i) {
		emit_mov_imm(t->e, S1, i->imm);
		emit_rm_disp(t->e, tr_w(t), 0x89, S1, S0, 0);
	} else {
		emit_rm_disp(t->e, tr_w(t), 0x89, tr_use_gpr(t, i->rm, S1), S0, 0);
	}
	tr_emit_rsp_add(t, -t->word);
	tr_slow_done(t, s);
	return true;
}

bool tr_pop(struct tr *t, unsigned n, const struct insn *i)
{
	if (i->opsize != t->word || i->is_mem)
		return false;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	struct slow_path *s = tr_emit_stack(t, i, 0, ACC_READ);
	unsigned to = tr_in_memory(i->rm) ? S1 : tr_host_of(i->rm);
	emit_rm_disp(t->e, tr_w(t), 0x8b, to, S0, 0);
	if (to == S1)
		emit_store_abs(t->e, S1, &t->j->cpu->gpr[i->rm]);
	if (i->rm != RSP)
		tr_emit_rsp_add(t, t->word);
	tr_slow_done(t, s);
	return true;
}

/* How many instructions from @n on are plain pushes (or pops) of a word, which one TLB check can serve. */
static unsigned stack_run(const struct tr *t, unsigned n, bool push)
{
	unsigned m = 0;

	for (; n + m < t->nr && m < 16; m++) {
		const struct insn *i = &t->insn[n + m];
		const struct sem *sem = insn_rows[i->row].sem;
		bool is = push ? sem == &sem_push_e || sem == &sem_push_i : sem == &sem_pop_r;

		if (!is || i->opsize != t->word || i->is_mem || (sem != &sem_push_i && i->rm == RSP))
			break;
	}
	return m;
}

/*
 * Several pushes or pops under one check. Where it fails for good, the first is executed in C and the block is left
 * behind it. Returns how many instructions were done.
 */
unsigned tr_stack_run(struct tr *t, unsigned n)
{
	const struct insn *first = &t->insn[n];
	bool push = insn_rows[first->row].sem != &sem_pop_r;
	unsigned m = stack_run(t, n, push), w = tr_w(t);
	s32 size = (s32)m * t->word;
	struct emit *e = t->e;

	if (m < 2)
		return 0;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_rm_disp(e, w, 0x8d, S0, H_GUEST_RSP, push ? -size : 0);
	struct slow_path *s = tr_emit_tlb(t, first, SEG_SS, (unsigned)size, push ? ACC_WRITE : ACC_READ);
	if (s->site)
		s->site->run = true;
	for (unsigned k = 0; k < m; k++) {
		const struct insn *i = &t->insn[n + k];
		s32 at = (s32)(push ? m - 1 - k : k) * t->word;

		if (!push) {
			unsigned to = tr_in_memory(i->rm) ? S1 : tr_host_of(i->rm);
			emit_rm_disp(e, w, 0x8b, to, S0, at);
			if (to == S1)
				emit_store_abs(e, S1, &t->j->cpu->gpr[i->rm]);
		} else if (insn_rows[i->row].sem == &sem_push_i) {
			emit_mov_imm(e, S1, i->imm);
			emit_rm_disp(e, w, 0x89, S1, S0, at);
		} else {
			emit_rm_disp(e, w, 0x89, tr_use_gpr(t, i->rm, S1), S0, at);
		}
	}
	tr_emit_rsp_add(t, push ? -size : size);
	tr_slow_done(t, s);
	return m;
}

bool tr_leave(struct tr *t, unsigned n, const struct insn *i)
{
	if (i->opsize != t->word)
		return false;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_rr(t->e, tr_w(t), 0x8b, S0, H_RBP);
	struct slow_path *s = tr_emit_tlb(t, i, SEG_SS, t->word, ACC_READ);
	emit_rm_disp(t->e, tr_w(t), 0x8d, H_GUEST_RSP, H_RBP, t->word);
	emit_rm_disp(t->e, tr_w(t), 0x8b, H_RBP, S0, 0);
	tr_slow_done(t, s);
	return true;
}
