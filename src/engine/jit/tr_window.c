/*
 * Accesses that one check of the TLB serves.
 *
 * Before a block is emitted its addresses are followed: each general register is some unknown value plus a constant,
 * and MOV, LEA, ADD of a constant, PUSH and so on change no more than the constant. Accesses whose addresses differ by
 * constants are a window, if they may well lie in one page. The first of them to be emitted checks for all that are
 * left, with write access if one of them writes (an entry's write tag implies that it may be read: mmu.c), and leaves
 * the host's address in a slot. The others need neither a check nor the flags.
 *
 * The check must not do anything that the processor would not have done when one of the accesses never comes to pass.
 * So on a miss only the first one's page is filled, for its own kind of access. Where that is not enough the block is
 * left for a variant without windows, which begins at that instruction; the check then leads there directly.
 *
 * Nothing may change a translation between the check and the last access. Slow paths of other accesses may fill the
 * TLB, which changes none; all but plain instructions end the windows.
 */
#include "engine/jit/tr.h"

#define SPAN_MAX 1024 /* of a window: the longer, the more often it crosses a page */

/* Values that nobody knows, by number. */
enum { NO_ROOT, ROOT_RIP, ROOT_ABS, FIRST_ROOT };

struct value {
	u64 root;
	s64 off;
};

/* The roots of base and index, the scale and the segment of an address, as one number. */
#define WINDOW_OF(base, index, scale, seg) ((base) | (index) << 16 | (u64)(scale) << 32 | (u64)(seg) << 40)

struct open_window {
	u64 of;
	s64 lo, hi;
	struct tr_access *last;
};

struct follow {
	struct value gpr[16];
	u16 nr_roots;
	s64 rip; /* of the next instruction, from the block's start */
	unsigned first, nr; /* windows; before @first they are closed */
	struct open_window window[WINDOWS_MAX];
};

/* --- Following the registers ------------------------------------------------------------------------------------- */

static void forget(struct follow *f, unsigned g)
{
	f->gpr[g] = (struct value){.root = f->nr_roots++};
}

static void forget_all(struct follow *f)
{
	for (unsigned g = 0; g < 16; g++)
		forget(f, g);
}

static struct value plus(struct value v, s64 n)
{
	v.off = (s64)((u64)v.off + (u64)n);
	return v;
}

static void forget_written(struct follow *f, const struct insn *i)
{
	u8 what = tr_facts[i->row].changes;

	if (what & CHANGES_REG)
		forget(f, i->reg_off >> 3);
	if ((what & CHANGES_RM) && !i->is_mem)
		forget(f, i->rm_off >> 3);
	if (what & CHANGES_VVVV)
		forget(f, i->vvvv & 15);
	if (what & CHANGES_RAX)
		forget(f, RAX);
	if (what & CHANGES_LOW)
		for (unsigned g = RAX; g <= RBX; g++)
			forget(f, g);
	if (what & CHANGES_ALL)
		forget_all(f);
}

static void follow_copy(struct follow *f, const struct insn *i, unsigned word)
{
	const struct insn_row *r = &insn_rows[i->row];
	const struct sem *sem = r->sem;
	bool fixed = operand_info[r->operand[0]].kind == OK_FIXED;
	unsigned rm = fixed ? RAX : i->rm;

	if (i->opsize != word || (i->is_mem && sem != &sem_lea))
		forget_written(f, i);
	else if (sem == &sem_lea && i->addrsize == word && i->base == RIP_BASE)
		f->gpr[i->reg] = (struct value){ROOT_RIP, f->rip + i->disp};
	else if (sem == &sem_lea && i->addrsize == word && i->base != NO_REG && i->index == NO_REG)
		f->gpr[i->reg] = plus(f->gpr[i->base], i->disp);
	else if (sem == &sem_mov_ge && !fixed)
		f->gpr[i->reg] = f->gpr[i->rm];
	else if (sem == &sem_mov_eg && !fixed)
		f->gpr[i->rm] = f->gpr[i->reg];
	else if (sem == &sem_add_ei)
		f->gpr[rm] = plus(f->gpr[rm], (s64)i->imm);
	else if (sem == &sem_sub_ei)
		f->gpr[rm] = plus(f->gpr[rm], -(s64)i->imm);
	else if (sem == &sem_inc || sem == &sem_dec)
		f->gpr[rm] = plus(f->gpr[rm], sem == &sem_inc ? 1 : -1);
	else
		forget_written(f, i);
}

/* --- Windows ----------------------------------------------------------------------------------------------------- */

/* What is known at translation need not be tried. */
static bool one_page(const struct tr *t, u64 of, s64 lo, s64 hi)
{
	u32 roots = (u32)of;
	u64 at = roots == ROOT_RIP ? (u64)t->code : 0;

	return (roots != ROOT_RIP && roots != ROOT_ABS) || ((at + (u64)lo) ^ (at + (u64)hi - 1)) < PAGE_SIZE;
}

/* Notes access @a in the window @of its kind. */
static void note(struct tr *t, struct follow *f, struct tr_access *a, u64 of, s64 off, unsigned size)
{
	unsigned n;

	if (off != (s32)off)
		return;
	a->off = off;
	a->size = (u16)size;
	for (n = f->nr; n-- > f->first;) {
		struct open_window *o = &f->window[n];

		if (o->of != of)
			continue;
		s64 lo = MIN(o->lo, off), hi = MAX(o->hi, off + size);
		if (hi - lo > SPAN_MAX || !one_page(t, of, lo, hi))
			continue;
		o->lo = lo;
		o->hi = hi;
		a->window = (u8)(n + 1);
		o->last->next = a;
		o->last = a;
		return;
	}
	if (f->nr == WINDOWS_MAX)
		return;
	f->window[f->nr++] = (struct open_window){of, off, off + size, a};
	a->window = (u8)f->nr;
	t->window[a->window].slot = 0;
}

static void note_operand(struct tr *t, struct follow *f, unsigned n)
{
	const struct insn *i = &t->insn[n];
	struct tr_access *a = &t->access[n][AT_OPERAND];
	unsigned seg = i->seg == SEG_FS || i->seg == SEG_GS ? i->seg : SEG_DS;
	struct value v = {.root = ROOT_ABS, .off = i->disp};
	u64 index = NO_ROOT;

	if (!i->is_mem || !i->mem_size || i->mem_size > 64 || i->addrsize != t->word ||
	    (seg != SEG_DS && t->word == 4) ||
	    (insn_rows[i->row].attr & A_VSIB) || tr_is_masked(i))
		return;
	if (i->base == RIP_BASE) {
		v = plus((struct value){ROOT_RIP, v.off}, f->rip);
	} else if (i->base != NO_REG) {
		v = plus(f->gpr[i->base], v.off);
	}
	if (i->index != NO_REG) {
		index = f->gpr[i->index].root;
		v = plus(v, (s64)((u64)f->gpr[i->index].off << i->scale));
	}
	a->acc = insn_rows[i->row].attr & (A_WRITE | A_RMW) ? ACC_WRITE : ACC_READ;
	note(t, f, a, WINDOW_OF(v.root, index, index ? i->scale : 0, seg), v.off, i->mem_size);
}

static void note_stack(struct tr *t, struct follow *f, unsigned n, unsigned g, s64 disp, enum access acc)
{
	struct tr_access *a = &t->access[n][AT_STACK];

	a->acc = (u8)acc;
	note(t, f, a, WINDOW_OF(f->gpr[g].root, NO_ROOT, 0, SEG_DS), plus(f->gpr[g], disp).off, t->word);
}

/* PUSH, POP, LEAVE as tr_stack.c emits them, and near branches. False: something else. */
static bool follow_stack(struct tr *t, struct follow *f, unsigned n)
{
	const struct insn *i = &t->insn[n];
	const struct sem *sem = insn_rows[i->row].sem;
	s32 w = t->word;

	if (i->opsize != w)
		return false;
	if (sem == &sem_push_e || sem == &sem_push_i || sem == &sem_call_j || sem == &sem_call_e) {
		if (sem == &sem_push_e || sem == &sem_call_e)
			note_operand(t, f, n);
		note_stack(t, f, n, RSP, -w, ACC_WRITE);
		f->gpr[RSP] = plus(f->gpr[RSP], -w);
	} else if (sem == &sem_pop_r && i->rm != RSP) {
		note_stack(t, f, n, RSP, 0, ACC_READ);
		f->gpr[RSP] = plus(f->gpr[RSP], w);
		forget(f, i->rm);
	} else if (sem == &sem_leave) {
		note_stack(t, f, n, RBP, 0, ACC_READ);
		f->gpr[RSP] = plus(f->gpr[RBP], w);
		forget(f, RBP);
	} else if (sem == &sem_ret) {
		note_stack(t, f, n, RSP, 0, ACC_READ);
	} else if (sem == &sem_jmp_e) {
		note_operand(t, f, n);
	} else {
		return false;
	}
	return true;
}

void tr_find_windows(struct tr *t)
{
	struct follow f;

	/* Not all of it: the windows are many, and seldom used. */
	f.nr_roots = FIRST_ROOT;
	f.rip = 0;
	f.first = f.nr = 0;
	forget_all(&f);
	for (unsigned n = 0; n < t->nr; n++) {
		const struct insn *i = &t->insn[n];
		const struct insn_row *r = &insn_rows[i->row];

		f.rip = (n && tr_turns(t, n - 1) ? 0 : f.rip) + i->len;
		if (i->faults)
			return;
		if (tr_is_jcc(i) || (r->sem == &sem_nop && r->class_ == CLASS_COPY) || follow_stack(t, &f, n))
			continue;
		if (r->class_ == CLASS_COPY || r->sem == &sem_div || r->sem == &sem_idiv ||
		    r->sem == &sem_mov_from_seg) {
			note_operand(t, &f, n);
			follow_copy(&f, i, t->word);
		} else {
			forget_all(&f);
			f.first = f.nr;
		}
	}
}

/* --- Emission ---------------------------------------------------------------------------------------------------- */

/* Whether @at of instruction @n begins a window of several; and its bounds. */
static unsigned window_rest(const struct tr *t, enum access_at at, s64 *lo, s64 *hi, enum access *acc)
{
	const struct tr_access *a = &t->access[t->n][at];
	unsigned nr = 0;

	*lo = a->off;
	*hi = a->off + a->size;
	*acc = a->acc;
	for (const struct tr_access *b = a->window ? a : NULL; b; b = b->next) {
		*lo = MIN(*lo, b->off);
		*hi = MAX(*hi, b->off + b->size);
		*acc = b->acc == ACC_WRITE ? ACC_WRITE : *acc;
		nr++;
	}
	return nr;
}

bool tr_window_begins(const struct tr *t, enum access_at at, s64 *lo)
{
	enum access acc;
	s64 hi;

	/* Requests must not be noticed behind STI: the block is not left there. */
	if (t->n && insn_rows[t->insn[t->n - 1].row].sem == &sem_sti)
		return false;
	if (t->nr_slots == JIT_WINDOWS || window_rest(t, at, lo, &hi, &acc) < 2)
		return false;
	s64 disp = t->insn[t->n].disp + *lo - t->access[t->n][at].off;
	return at != AT_OPERAND || disp == (s32)disp;
}

struct slow_path *tr_emit_window_check(struct tr *t, const struct insn *i, enum access_at at, u8 align,
				       enum seg_reg seg, bool stack)
{
	const struct tr_access *a = &t->access[t->n][at];
	enum access acc;
	s64 lo, hi;

	window_rest(t, at, &lo, &hi, &acc);
	align = (a->off - lo) & align ? 0 : align;
	struct slow_path *s = tr_emit_tlb(t, i, seg, (unsigned)(hi - lo), align, acc, stack);
	s->window = true;
	if (s->site) {
		s->site->size = (u8)a->size;
		s->site->acc = a->acc;
		s->site->first = (u16)(a->off - lo);
		s->site->span = (u16)(hi - lo);
		s->site->span_acc = (u8)acc;
	}
	t->window[a->window].lo = lo;
	t->window[a->window].slot = (u8)++t->nr_slots;
	t->window[a->window].align = align;
	emit_store_abs(t->e, S0, &t->j->window[t->nr_slots - 1]);
	t->s0 = a->window;
	t->disp = (s32)(a->off - lo);
	return s;
}

u8 tr_window_align(const struct tr *t)
{
	const struct tr_access *a = &t->access[t->n][AT_OPERAND];
	const struct tr_window *w = &t->window[a->window];

	return (a->off - w->lo) & w->align ? 0 : w->align;
}

void tr_emit_window_use(struct tr *t, enum access_at at)
{
	const struct tr_access *a = &t->access[t->n][at];
	const struct tr_window *w = &t->window[a->window];

	if (t->s0 != a->window)
		emit_load_abs(t->e, S0, &t->j->window[w->slot - 1]);
	t->s0 = a->window;
	t->disp = (s32)(a->off - w->lo);
	if (t->flags == IN_HOST)
		t->b->host_flags |= BIT64(t->n);
}

void tr_emit_window_miss(struct tr *t, struct slow_path *s)
{
	struct emit *e = t->e;
	u8 *jump = s->from;

	if (t->full)
		return;
	if (s->misaligned)
		emit_patch(s->misaligned, e->p);
	if (s->again) {
		emit_patch(jump, e->p);
		tr_emit_stack_miss(t, s);
		jump = emit_jmp_later(e);
	}
	struct jit_link *l = tr_new_link(t, jump, s->site->place);
	if (!l)
		return;
	l->no_windows = true;
	tr_emit_slow_call(t, s);
	emit_mov_imm(e, S1, (u64)l);
	emit_jmp(e, t->j->stub_link);
}
