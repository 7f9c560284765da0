/* The stack: RSP changes after the access that may fault. */
#include "engine/jit/tr.h"

/* A word at host register @base + @disp. */
static struct slow_path *emit_stack_at(struct tr *t, const struct insn *i, unsigned base, s32 disp, enum access acc)
{
	s64 at = t->access[t->n][AT_STACK].off, lo = at;

	t->disp = 0;
	if (tr_access_checked(t, AT_STACK)) {
		tr_emit_window_use(t, AT_STACK);
		return NULL;
	}
	bool window = tr_window_begins(t, AT_STACK, &lo);
	emit_rm_disp(t->e, tr_w(t), 0x8d, S0, base, disp + (s32)(lo - at));
	return window ? tr_emit_window_check(t, i, AT_STACK, 0, SEG_SS, true) :
			tr_emit_tlb(t, i, SEG_SS, t->word, 0, acc, true);
}

/* Stack accesses. rSP changes after the access. */
struct slow_path *tr_emit_stack(struct tr *t, const struct insn *i, s32 disp, enum access acc)
{
	return emit_stack_at(t, i, H_GUEST_RSP, disp, acc);
}

void tr_emit_rsp_add(struct tr *t, s32 n)
{
	emit_rm_disp(t->e, tr_w(t), 0x8d, H_GUEST_RSP, H_GUEST_RSP, n);
}

/* One of several pushes or pops (but not of rSP) whose address, less @disp, is in S0. */
static void emit_push(struct tr *t, const struct insn *i, s32 disp)
{
	if (insn_rows[i->row].sem == &sem_push_i)
		emit_mov_imm(t->e, S1, i->imm);
	emit_rm_disp(t->e, tr_w(t), 0x89, insn_rows[i->row].sem == &sem_push_i ? S1 : tr_use_gpr(t, i->rm, S1), S0,
		     disp);
}

static void emit_pop(struct tr *t, const struct insn *i, s32 disp)
{
	unsigned to = jit_in_memory(i->rm) ? S1 : jit_host_of(i->rm);

	emit_rm_disp(t->e, tr_w(t), 0x8b, to, S0, disp);
	if (to == S1)
		emit_store_abs(t->e, S1, &t->j->cpu->gpr[i->rm]);
}

static void begin_stack(struct tr *t, unsigned n, const struct insn *i)
{
	tr_keep_s0(t);
	if (tr_check_needed(t, i, AT_STACK))
		tr_flags_to_slot(t, tr_flags_needed(t, n));
}

bool tr_push(struct tr *t, unsigned n, const struct insn *i)
{
	if (i->opsize != t->word || i->is_mem)
		return false;
	begin_stack(t, n, i);
	struct slow_path *s = tr_emit_stack(t, i, -t->word, ACC_WRITE);
	emit_push(t, i, t->disp);
	tr_emit_rsp_add(t, -t->word);
	tr_slow_done(t, s);
	return true;
}

bool tr_pop(struct tr *t, unsigned n, const struct insn *i)
{
	if (i->opsize != t->word || i->is_mem)
		return false;
	begin_stack(t, n, i);
	struct slow_path *s = tr_emit_stack(t, i, 0, ACC_READ);
	emit_pop(t, i, t->disp);
	if (i->rm != RSP)
		tr_emit_rsp_add(t, t->word);
	tr_slow_done(t, s);
	return true;
}

/* How many instructions from @n on push a register or constant (or pop a register) in the same window. */
static unsigned stack_run(const struct tr *t, unsigned n, bool push)
{
	unsigned m = 0;

	for (; n + m < t->nr; m++) {
		const struct insn *i = &t->insn[n + m];
		const struct sem *sem = insn_rows[i->row].sem;
		const struct tr_access *a = &t->access[n + m][AT_STACK];
		bool is = push ? sem == &sem_push_e || sem == &sem_push_i : sem == &sem_pop_r;

		if (!is || i->is_mem || !a->window || a->window != t->access[n][AT_STACK].window ||
		    (sem != &sem_push_i && i->rm == RSP))
			break;
	}
	return m;
}

/* Several pushes or pops under one check: RSP changes once. Returns how many instructions were done: 0, 2 or more. */
unsigned tr_stack_run(struct tr *t, unsigned n)
{
	const struct insn *first = &t->insn[n];
	bool push = insn_rows[first->row].sem != &sem_pop_r;
	unsigned m = stack_run(t, n, push);
	s64 lo;

	if (m < 2 || !(tr_access_checked(t, AT_STACK) || tr_window_begins(t, AT_STACK, &lo)))
		return 0;
	begin_stack(t, n, first);
	struct slow_path *s = tr_emit_stack(t, first, push ? -t->word : 0, push ? ACC_WRITE : ACC_READ);
	for (unsigned k = 0; k < m; k++) {
		s32 at = t->disp + (s32)(t->access[n + k][AT_STACK].off - t->access[n][AT_STACK].off);

		if (push)
			emit_push(t, first + k, at);
		else
			emit_pop(t, first + k, at);
	}
	tr_emit_rsp_add(t, (push ? -(s32)m : (s32)m) * t->word);
	tr_slow_done(t, s);
	return m;
}

bool tr_leave(struct tr *t, unsigned n, const struct insn *i)
{
	if (i->opsize != t->word)
		return false;
	begin_stack(t, n, i);
	struct slow_path *s = emit_stack_at(t, i, H_RBP, 0, ACC_READ);
	emit_rm_disp(t->e, tr_w(t), 0x8b, S1, S0, t->disp);
	emit_rm_disp(t->e, tr_w(t), 0x8d, H_GUEST_RSP, H_RBP, t->word);
	emit_rr(t->e, tr_w(t), 0x8b, H_RBP, S1);
	tr_slow_done(t, s);
	return true;
}
