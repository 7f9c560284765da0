/* Branches, links, and the code behind a block. */
#include "engine/jit/tr.h"

static void emit_returned(struct tr *t, const struct insn *i);

static bool same_page(const struct tr *t, jit_place place)
{
	return ((place ^ (t->b->fixed ? t->b->rip : 0)) & PAGE_MASK) == 0;
}

void tr_emit_lookup(struct tr *t)
{
	jit_emit_jump(t->j, tr_is_user(t));
}

static struct jit_link *alloc_link(struct tr *t, bool keyed)
{
	struct jit_link *l = jit_data(t->j, sizeof(*l) + (keyed ? sizeof(*l->key) : 0));

	t->full |= !l;
	return l;
}

/* @l leads here as long as it has no target. */
static void init_link(struct tr *t, struct jit_link *l, u8 *jump, jit_place place)
{
	*l = (struct jit_link){.place = place, .jump = (u32)(jump - t->j->rw), .stub = (u16)(t->e->p - jump),
			       .from = low_ref(t->b)};
	emit_patch(jump, t->e->p);
}

struct jit_link *tr_new_link(struct tr *t, u8 *jump, jit_place place)
{
	struct jit_link *l = alloc_link(t, false);

	if (l)
		init_link(t, l, jump, place);
	return l;
}

/*
 * To @place: through a link that is patched when its target exists. With the flags @in_host they are saved on the way,
 * unless the target is a block that reads none.
 */
static void emit_link(struct tr *t, u8 *jump, jit_place place, bool in_host)
{
	struct jit_link *l = tr_new_link(t, jump, place);

	if (!l)
		return;
	l->back = place <= t->place;
	l->far = !same_page(t, place);
	l->in_host = in_host;
	emit_mov_imm(t->e, S1, (u64)l);
	emit_jmp(t->e, in_host ? t->j->stub_link_flags : t->j->stub_link);
}

/*
 * User code that leads to another page does so by a link as long as that is known to hold: for its page's address, in
 * this epoch. Where it does not hold, the table of targets tells the way; and so that links follow the program that
 * runs, but not each process that passes, one jump in some has its link set.
 * Flags are in their slot, and the return address of @call, which this may be the jump of, is in S1.
 */
static bool emit_keyed(struct tr *t, jit_place place, const struct insn *call)
{
	struct emit *e = t->e;
	s64 delta = (s64)(place & PAGE_MASK);

	if (t->b->fixed || delta != (s32)delta)
		return false;
	struct jit_link *l = alloc_link(t, true);
	if (!l)
		return true;
	if (!call)
		emit_load_abs(e, S1, &t->j->page_rip);
	emit_ra(e, 1, 0x33, S1, &t->j->epoch);    /* xor */
	emit_ra(e, 1, 0x3b, S1, &l->key->key);    /* cmp */
	u8 *none = emit_jcc(e, CC_NE);
	emit_bytes(e, "\x48\x81", 2); /* add qword [page_rip], delta */
	emit_modrm_abs(e, 0, &t->j->page_rip);
	emit32(e, (u64)delta);
	u8 *jump = call ? emit_call_later(e) : emit_jmp_later(e), *returned = e->p;
	if (call)
		emit_returned(t, call);
	init_link(t, l, jump, place);
	l->back = place <= t->place;
	l->keyed = true;
	*l->key = (struct jit_key){.of = call ? t->place + call->len : 0};
	emit_patch(none, e->p);
	emit_mov_imm(e, S1, (u64)l);
	if (!call) {
		emit_jmp(e, t->j->stub_keyed);
		return true;
	}
	emit_call(e, t->j->stub_keyed);
	emit_patch(emit_jmp_later(e), returned);
	return true;
}

void tr_emit_goto(struct tr *t, jit_place place)
{
	place = jit_cut(t->b, place);
	if (t->far || same_page(t, place)) {
		u8 *jump = emit_jmp_later(t->e);
		emit_link(t, jump, place, t->flags == IN_HOST);
		return;
	}
	tr_flags_to_slot(t, FL_ARITH);
	if (emit_keyed(t, place, NULL))
		return;
	tr_emit_rip(t, S0, place);
	tr_emit_lookup(t);
}

static jit_place branch_target(const struct tr *t, const struct insn *i)
{
	return jit_cut(t->b, t->place + i->len + i->imm);
}

void tr_jcc(struct tr *t, unsigned n, const struct insn *i)
{
	tr_flags_to_host(t, n, S0);
	struct exit_path *x = &t->exit[t->nr_exit++];
	bool turns = tr_turns(t, n); /* the branch that is not taken leaves */
	jit_place to = turns ? jit_cut(t->b, t->place + i->len) : branch_target(t, i);
	*x = (struct exit_path){emit_jcc(t->e, (i->opcode & 15) ^ turns), to, t->flags == IN_HOST};
}

void tr_emit_stack_miss(struct tr *t, const struct slow_path *s)
{
	const struct jit_site *site = s->site;

	emit_call(t->e, t->j->stub_stack[jit_mmu_index(t->b)][site->span ? site->span_acc : site->acc]);
	emit_patch(emit_jmp_later(t->e), s->again);
}

void tr_emit_slow_call(struct tr *t, const struct slow_path *s)
{
	emit_call(t->e, t->j->stub_slow);
	emit32(t->e, (u64)s->site);
	emit_patch(emit_jmp_later(t->e), s->resume);
}

void tr_emit_late_paths(struct tr *t)
{
	struct emit *e = t->e;

	for (unsigned n = 0; n < t->nr_slow && !t->full; n++) {
		struct slow_path *s = &t->slow[n];

		if (s->window) {
			tr_emit_window_miss(t, s);
			continue;
		}
		emit_patch(s->from, e->p);
		if (s->again)
			tr_emit_stack_miss(t, s);
		tr_emit_slow_call(t, s);
		if (s->reload_flags)
			tr_emit_restore_flags(t, S0);
		emit_patch(emit_jmp_later(e), s->done);
	}
	for (unsigned n = 0; n < t->nr_c && !t->full; n++) {
		emit_patch(t->c[n].from, e->p);
		emit_mov_imm(e, S1, (u64)t->c[n].site);
		if (t->c[n].retry) {
			emit_call(e, t->j->stub_fpu_ready);
			emit_patch(emit_jmp_later(e), t->c[n].retry);
		} else {
			emit_jmp(e, t->j->stub_end_helper);
		}
	}
	for (unsigned n = 0; n < t->nr_exit && !t->full; n++) {
		struct exit_path *x = &t->exit[n];

		if (t->far || same_page(t, x->place)) {
			emit_link(t, x->from, x->place, x->in_host);
			continue;
		}
		emit_patch(x->from, e->p);
		t->flags = x->in_host ? IN_HOST : IN_SLOT;
		tr_emit_goto(t, x->place);
	}
}

/* --- Calls and returns ------------------------------------------------------------------------------------------- */

/*
 * A call of the guest's is one of the host's too, below jit->c_stack, so that the host foresees where the guest returns
 * to. What it leaves there is where generated code goes on, and above that the guest's return address: a way to go on
 * there that holds in the present epoch. So whatever changes jit->epoch forgets all calls, and so does a return to
 * another address, which finds its way as a jump does.
 */
static void emit_push_return(struct tr *t, const struct insn *i)
{
	struct slow_path *s = tr_emit_stack(t, i, -t->word, ACC_WRITE);

	tr_emit_rip(t, S1, jit_cut(t->b, t->place + i->len));
	emit_rm_disp(t->e, tr_w(t), 0x89, S1, S0, t->disp);
	tr_emit_rsp_add(t, -t->word);
	tr_slow_done(t, s);
}

/* The guest's return address in S1 onto our stack. Returns the rel32 of a jump taken where there are too many. */
static u8 *emit_keep_return(struct tr *t)
{
	struct emit *e = t->e;

	emit_ra(e, 1, 0x3b, H_RSP, &t->j->c_limit);
	u8 *deep = emit_jcc(e, CC_B);
	emit_bytes(e, "\x41\x57", 2); /* push r15 */
	return deep;
}

/* All calls are forgotten, and on behind the jump. */
static void emit_deep(struct tr *t, u8 *deep)
{
	emit_patch(deep, t->e->p);
	jit_emit_forget_calls(t->j);
	emit_patch(emit_jmp_later(t->e), deep + 4);
}

/* Where the host's call returns to: jit->page_rip is of the page returned to, which may be the next one. */
static void emit_returned(struct tr *t, const struct insn *i)
{
	jit_place place = t->place + i->len;

	emit_rm_disp(t->e, 1, 0x8d, H_RSP, H_RSP, 8);
	if (same_page(t, place) || t->b->fixed) {
		tr_emit_goto(t, place);
		return;
	}
	tr_emit_rip(t, S0, place - PAGE_SIZE);
	tr_emit_lookup(t);
}

/* To the RIP in S0. */
static void emit_call_lookup(struct tr *t, const struct insn *i)
{
	u8 *miss = jit_emit_call(t->j, tr_is_user(t));
	u8 *returned = t->e->p;

	emit_returned(t, i);
	emit_patch(miss, t->e->p);
	emit_call(t->e, t->j->stub_miss[tr_is_user(t)]);
	emit_patch(emit_jmp_later(t->e), returned);
}

static void emit_call_place(struct tr *t, const struct insn *i, jit_place place)
{
	emit_push_return(t, i);
	u8 *deep = emit_keep_return(t);
	if (t->far || same_page(t, place)) {
		u8 *call = emit_call_later(t->e);
		emit_returned(t, i);
		emit_link(t, call, place, false);
	} else if (!emit_keyed(t, place, i)) {
		tr_emit_rip(t, S0, place);
		emit_call_lookup(t, i);
	}
	emit_deep(t, deep);
}

static void emit_call_target(struct tr *t, const struct insn *i)
{
	emit_store_abs(t->e, S0, &t->j->target);
	emit_push_return(t, i);
	u8 *deep = emit_keep_return(t);
	emit_load_abs(t->e, S0, &t->j->target);
	emit_call_lookup(t, i);
	emit_deep(t, deep);
}

static void emit_ret(struct tr *t, const struct insn *i)
{
	struct emit *e = t->e;
	struct slow_path *s = tr_emit_stack(t, i, 0, ACC_READ);
	s32 size = t->word + (s32)(i->opcode == 0xc2 ? i->imm & 0xffff : 0);

	emit_rm_disp(e, tr_w(t), 0x8b, S0, S0, t->disp);
	emit_rm_disp(e, 1, 0x3b, S0, H_RSP, 8);
	u8 *other = emit_jcc(e, CC_NE);
	if (tr_is_user(t)) {
		emit_bytes(e, "\x49\x81\xe6", 3); /* and r14, PAGE_MASK */
		emit32(e, PAGE_MASK);
		emit_store_abs(e, S0, &t->j->page_rip);
	}
	tr_emit_rsp_add(t, size);
	emit8(e, 0xc3);
	emit_patch(other, e->p);
	tr_emit_canonical(t, i);
	tr_emit_rsp_add(t, size);
	jit_emit_forget_calls(t->j);
	tr_emit_lookup(t);
	tr_slow_done(t, s);
}

/* --- Other near branches ----------------------------------------------------------------------------------------- */

/*
 * A branch to S0, which must be canonical: to one that is not the branch itself faults, before it has done anything.
 * With 57 bits C takes what 48 do not hold, and the upper half where nobody but a kernel has code. In 32-bit code every
 * target is within the limit.
 */
void tr_emit_canonical(struct tr *t, const struct insn *i)
{
	if (t->word == 4)
		return;
	if (tr_is_user(t)) {
		emit_ra(t->e, 1, 0x3b, S0, &t->j->user_end);
		tr_emit_c_path(t, i, CC_AE);
		return;
	}
	emit_mov_rr(t->e, S1, S0);
	emit_bytes(t->e, "\x49\xc1\xe7\x10", 4); /* shl r15, 16 */
	emit_bytes(t->e, "\x49\xc1\xff\x10", 4); /* sar r15, 16 */
	emit_rr(t->e, 1, 0x3b, S1, S0);
	tr_emit_c_path(t, i, CC_NE);
}

static bool is_plain(const struct tr *t, jit_place place)
{
	return t->word == 4 || !t->b->fixed || (place ^ t->place) >> 47 == 0;
}

bool tr_near_target_plain(const struct tr *t, const struct insn *i)
{
	return is_plain(t, t->place + i->len + i->imm);
}

/* The target of an indirect branch into S0. */
static void emit_target(struct tr *t, const struct insn *i)
{
	if (i->is_mem) {
		struct slow_path *s = tr_emit_operand(t, i);
		emit_rm_disp(t->e, tr_w(t), 0x8b, S0, S0, 0);
		tr_slow_done(t, s);
	} else {
		unsigned h = tr_use_gpr(t, i->rm, S0);
		if (h != S0)
			emit_rr(t->e, tr_w(t), 0x8b, S0, h);
	}
	tr_emit_canonical(t, i);
}

/* LOOP and JRCXZ, whose count is as wide as addresses are. Flags are in their slot. */
static void emit_counted(struct tr *t, const struct insn *i, bool loop)
{
	unsigned w = i->addrsize == 8;

	if (loop)
		emit_rm_disp(t->e, w, 0x8d, H_RCX, H_RCX, -1);
	emit_rr(t->e, w, 0x85, H_RCX, H_RCX);
	t->exit[t->nr_exit++] = (struct exit_path){emit_jcc(t->e, loop ? CC_NE : CC_E), branch_target(t, i), false};
	tr_emit_goto(t, t->place + i->len);
}

/* Near branches but Jcc. */
bool tr_branch(struct tr *t, const struct insn *i)
{
	const struct sem *sem = insn_rows[i->row].sem;
	bool counted = sem == &sem_loop || sem == &sem_jrcxz, call = sem == &sem_call_j || sem == &sem_call_e;

	if (i->opsize != t->word || !tr_can_address(t, i) || (counted && i->addrsize == 2) ||
	    ((sem == &sem_jmp_j || sem == &sem_call_j || counted) && !tr_near_target_plain(t, i)) ||
	    (call && !is_plain(t, t->place + i->len)))
		return false;
	if (sem == &sem_jmp_j) {
		tr_emit_goto(t, branch_target(t, i));
		return true;
	}
	if (sem == &sem_call_j || sem == &sem_ret)
		tr_keep_s0(t);
	tr_flags_to_slot(t, FL_ARITH);
	if (counted) {
		emit_counted(t, i, sem == &sem_loop);
		return true;
	}
	if (sem == &sem_call_j) {
		emit_call_place(t, i, branch_target(t, i));
	} else if (sem == &sem_ret) {
		emit_ret(t, i);
	} else if (sem == &sem_jmp_e) {
		emit_target(t, i);
		tr_emit_lookup(t);
	} else if (sem == &sem_call_e) {
		emit_target(t, i);
		emit_call_target(t, i);
	} else {
		return false;
	}
	return true;
}
