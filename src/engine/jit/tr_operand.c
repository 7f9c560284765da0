/* What most instructions need: flags where they should be, registers, addresses through the TLB. */
#include "engine/jit/tr.h"

#include "engine/thunk.h"

/* --- Flags ------------------------------------------------------------------------------------------------- */

void tr_emit_save_flags(struct tr *t)
{
	t->s0 = 0;
	jit_emit_save_flags(t->j);
}

void tr_emit_restore_flags(struct tr *t, unsigned scratch)
{
	struct emit *e = t->e;

	t->s0 = scratch == S0 ? 0 : t->s0;
	emit_mov_rr(e, scratch, H_RAX);
	emit_bytes(e, "\x0f\xb7", 2); /* movzx eax, word [flags] */
	emit_modrm_abs(e, H_RAX, &t->j->flags);
	emit_bytes(e, "\x04\x7f", 2); /* add al, 0x7f: overflows when OF was set */
	emit8(e, 0x9e);
	emit_mov_rr(e, H_RAX, scratch);
}

/* Before an instruction that reads flags, or that leaves some alone. */
void tr_flags_to_host(struct tr *t, unsigned n, unsigned scratch)
{
	const struct insn *i = &t->insn[n];

	if (t->flags == IN_SLOT && tr_flags_needed(t, n) &&
	    (tr_flags_written(i) || (insn_flags_read(i) & FL_ARITH))) {
		tr_emit_restore_flags(t, scratch);
		t->flags = IN_HOST;
	}
}

/* --- Registers ----------------------------------------------------------------------------------------------- */

/* The host register that holds guest register @g: its own, or @scratch, loaded. */
unsigned tr_use_gpr(struct tr *t, unsigned g, unsigned scratch)
{
	if (!jit_in_memory(g))
		return jit_host_of(g);
	t->s0 = scratch == S0 ? 0 : t->s0;
	emit_load_abs(t->e, scratch, &t->j->cpu->gpr[g]);
	return scratch;
}

/* --- Memory operands ------------------------------------------------------------------------------------------- */

void tr_emit_rip(struct tr *t, unsigned to, jit_place place)
{
	s64 rest = (s64)place;

	t->s0 = to == S0 ? 0 : t->s0;
	if (t->b->fixed) {
		emit_mov_imm(t->e, to, place);
		return;
	}
	emit_load_abs(t->e, to, &t->j->page_rip);
	while (rest) {
		s32 step = rest > INT32_MAX ? INT32_MAX : rest < INT32_MIN ? INT32_MIN : (s32)rest;
		emit_rm_disp(t->e, 1, 0x8d, to, to, step);
		rest -= step;
	}
}

/* @w: all of it, not only the lower half. */
static void emit_ea(struct tr *t, const struct insn *i, s64 more, unsigned to, unsigned w)
{
	struct emit *e = t->e;
	unsigned base = NO_REG, index = NO_REG;
	s32 disp = (s32)(i->disp + more);

	t->s0 = to == S0 ? 0 : t->s0;

	if (i->base == RIP_BASE) {
		tr_emit_rip(t, to, t->place + i->len + (u64)(i->disp + more));
		if (!w)
			emit_rr(e, 0, 0x8b, to, to);
		return;
	}
	if (i->base == NO_REG && i->index == NO_REG) {
		u64 ea = (u64)(i->disp + more);
		emit_mov_imm(e, to, w ? ea : (u32)ea);
		return;
	}
	if (i->base != NO_REG)
		base = tr_use_gpr(t, i->base, to);
	if (i->index != NO_REG)
		index = tr_use_gpr(t, i->index, S1);
	if (index == NO_REG && !disp) {
		if (!w || to != base)
			emit_rr(e, w, 0x8b, to, base);
	} else if (index == NO_REG) {
		emit_rm_disp(e, w, 0x8d, to, base, disp);
	} else if (base == NO_REG) {
		emit_r_index(e, w, 0x8d, to, index, i->scale, disp);
	} else {
		emit_lea_sib(e, w, to, base, index, i->scale, disp);
	}
}

void tr_emit_ea_plus(struct tr *t, const struct insn *i, s64 more, unsigned to)
{
	emit_ea(t, i, more, to, i->addrsize == 8);
}

void tr_emit_ea(struct tr *t, const struct insn *i, unsigned to)
{
	tr_emit_ea_plus(t, i, 0, to);
}

void tr_lea(struct tr *t, const struct insn *i)
{
	unsigned to = jit_in_memory(i->reg) ? S0 : jit_host_of(i->reg);
	/* A base is loaded into the destination, which may be the index too: S0 instead. */
	bool loads = (i->base < 16 && jit_in_memory(i->base)) || (i->index < 16 && jit_in_memory(i->index));
	unsigned w = i->addrsize == 8 && i->opsize == 8;

	tr_keep_s0(t);
	emit_ea(t, i, 0, loads ? S0 : to, w);
	if (to != S0 && loads)
		emit_mov_rr(t->e, to, S0);
	if (to == S0)
		emit_store_abs(t->e, S0, &t->j->cpu->gpr[i->reg]);
}

/* Bits of the linear address that must be clear. */
static u8 align_of(const struct insn *i)
{
	return i->thunk ? ((const struct thunk *)i->thunk)->align : 0;
}

bool tr_is_masked(const struct insn *i)
{
	const struct sem *sem = insn_rows[i->row].sem;

	return (i->thunk && ((const struct thunk *)i->thunk)->what & THUNK_MASK) || sem == &sem_vmaskmov_load ||
	       sem == &sem_vmaskmov_store;
}

struct jit_site *tr_new_site(struct tr *t, const struct insn *i)
{
	struct jit_site *s = jit_data(t->j, sizeof(*s));

	if (!s) {
		t->full = true;
		return NULL;
	}
	*s = (struct jit_site){.block = low_ref(t->b), .place = t->place, .align = align_of(i),
			       .masked = tr_is_masked(i), .fixed = t->b->fixed,
			       .is_32 = (t->b->mode & JIT_MODE_32) != 0};
	return s;
}

/* On condition @cc, C executes @i instead and the block is left. */
void tr_emit_c_path(struct tr *t, const struct insn *i, unsigned cc)
{
	t->c[t->nr_c++] = (struct c_path){.from = emit_jcc(t->e, cc), .site = tr_new_site(t, i)};
}

static void emit_test_align(struct emit *e, u8 align)
{
	emit_bytes(e, "\x41\xf6\xc6", 3); /* test r14b, align */
	emit8(e, align);
}

/*
 * From the linear address in S0 to the distance between it and the tag of its TLB entry: the offset in the page on a
 * hit, a page or more on a miss (tlb.h: tag_none()). A stack access looks where the last one was, not in the TLB, which
 * spares it the index and the wait for it.
 */
static void emit_distance(struct tr *t, struct slow_path *s, enum access acc, bool stack)
{
	const struct tlb *tlb = t->j->cpu->tlbs;
	const struct tlb_view *view = &tlb->view[jit_mmu_index(t->b)];

	if (stack) {
		emit_ra(t->e, 1, 0x33, S0, &tlb->stack[jit_mmu_index(t->b)].tag);
		s->again = t->e->p;
	} else {
		jit_emit_tlb_index(t->j, view->wide);
		emit_r_of8(t->e, 0x33, S0, S1, view->tag[acc]);
	}
}

/* From there to the host address in S0 (t->two: and S1). */
static void emit_host(struct tr *t, bool stack)
{
	const struct tlb *tlb = t->j->cpu->tlbs;
	unsigned op = t->two ? 0x8b : 0x03, to = t->two ? S1 : S0;

	if (stack)
		emit_ra(t->e, 1, op, to, &tlb->stack[jit_mmu_index(t->b)].host);
	else
		emit_r_of8(t->e, op, to, S1, tlb->view[jit_mmu_index(t->b)].host);
}

/* From the linear address in S0 to the host address in S0 (t->two: and S1); uses S1 and the flags. */
struct slow_path *tr_emit_tlb(struct tr *t, const struct insn *i, enum seg_reg seg, unsigned size, u8 align,
			      enum access acc, bool stack)
{
	struct emit *e = t->e;
	struct slow_path *s = &t->slow[t->nr_slow++];
	bool whole = align && size <= align + 1u; /* aligned, it does not cross pages */

	*s = (struct slow_path){.site = tr_new_site(t, i)};
	t->s0 = 0;
	emit_distance(t, s, acc, stack);
	if (whole) {
		emit_bytes(e, "\x49\xf7\xc6", 3); /* test r14, -PAGE_SIZE | align */
		emit32(e, (u32)-PAGE_SIZE | align);
	} else {
		emit_bytes(e, "\x49\x81\xfe", 3); /* cmp r14, PAGE_SIZE - size */
		emit32(e, PAGE_SIZE - size);
	}
	s->from = emit_jcc(e, whole ? CC_NE : CC_A);
	if (align && !whole) {
		emit_test_align(e, align);
		s->misaligned = emit_jcc(e, CC_NE);
	}
	if (s->site) {
		s->site->size = (u8)size;
		s->site->seg = (u8)seg;
		s->site->acc = (u8)acc;
	}
	emit_host(t, stack);
	s->resume = e->p;
	return s;
}

bool tr_can_address(const struct tr *t, const struct insn *i)
{
	return !i->is_mem || (i->addrsize != 2 && (t->word == 8 || i->seg != SEG_CS));
}

/* 32-bit code: C raises what an access to FS or GS at offset S0 and beyond the limit raises (SDM vol. 3A, 5.3). */
static void emit_limit(struct tr *t, const struct insn *i)
{
	emit_rm_disp(t->e, 1, 0x8d, S1, S0, i->mem_size - 1);
	emit_ra(t->e, 1, 0x3b, S1, &t->j->seg_end[i->seg - SEG_FS]);
	tr_emit_c_path(t, i, CC_AE);
}

/* C raises what a misaligned address asks for. Flags are in their slot. */
static void emit_align(struct tr *t, const struct insn *i, u8 align)
{
	emit_rm_disp(t->e, 1, 0x8d, S0, S0, t->disp);
	t->s0 = 0;
	t->disp = 0;
	emit_test_align(t->e, align);
	tr_emit_c_path(t, i, CC_NE);
}

/* Host address, less t->disp, of the memory operand of @i into S0. */
struct slow_path *tr_emit_operand_disp(struct tr *t, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	struct emit *e = t->e;
	bool known = i == &t->insn[t->n], stack = i->base == RSP && i->index == NO_REG && i->seg == SEG_SS;
	s64 lo = t->access[t->n][AT_OPERAND].off;
	u8 align = align_of(i);

	t->disp = 0;
	if (known && tr_access_checked(t, AT_OPERAND)) {
		t->two = false;
		tr_emit_window_use(t, AT_OPERAND);
		if (align & ~tr_window_align(t))
			emit_align(t, i, align);
		return NULL;
	}
	bool window = known && tr_window_begins(t, AT_OPERAND, &lo);
	tr_emit_ea_plus(t, i, lo - t->access[t->n][AT_OPERAND].off, S0);
	if (i->seg == SEG_FS || i->seg == SEG_GS) {
		if (t->word == 4)
			emit_limit(t, i);
		emit_ra(e, tr_w(t), 0x03, S0, &t->j->cpu->seg[i->seg].base);
	}
	if (window) {
		t->two = false;
		struct slow_path *s = tr_emit_window_check(t, i, AT_OPERAND, align, i->seg, stack);
		if (align & ~tr_window_align(t))
			emit_align(t, i, align);
		return s;
	}
	return tr_emit_tlb(t, i, i->seg, i->mem_size, align, r->attr & (A_WRITE | A_RMW) ? ACC_WRITE : ACC_READ, stack);
}

/* Host address of the memory operand of @i into S0. */
struct slow_path *tr_emit_operand(struct tr *t, const struct insn *i)
{
	struct slow_path *s = tr_emit_operand_disp(t, i);

	if (t->disp)
		emit_rm_disp(t->e, 1, 0x8d, S0, S0, t->disp);
	t->s0 = 0;
	return s;
}

bool tr_check_needed(const struct tr *t, const struct insn *i, enum access_at at)
{
	return i != &t->insn[t->n] || !tr_access_checked(t, at) ||
	       (at == AT_OPERAND && align_of(i) & ~tr_window_align(t));
}

void tr_slow_done(struct tr *t, struct slow_path *s)
{
	if (!s)
		return;
	s->done = t->e->p;
	s->reload_flags = t->flags == IN_HOST;
}
