/*
 * REP MOVS and REP STOS, upwards: the host's own, on host addresses, as many elements at a time as lie in one page on
 * both sides. The rest is C's: what is not in the TLB, elements across pages, the direction down.
 */
#include "engine/jit/tr.h"

static unsigned log2_of(unsigned size)
{
	return size == 8 ? 3 : size / 2;
}

/* @to, S0 or S1, = the elements from the address in @reg to the end of its page. */
static void emit_room(struct tr *t, const struct insn *i, unsigned to, unsigned reg)
{
	struct emit *e = t->e;

	emit_rr(e, 0, 0x8b, to, reg);
	emit_rr(e, 0, 0x81, 1, to); /* or to, -PAGE_SIZE */
	emit32(e, (u32)-PAGE_SIZE);
	emit_rr(e, 0, 0xf7, 3, to); /* neg to */
	if (i->opsize > 1) {
		emit_rr(e, 0, 0xc1, 5, to); /* shr to, shift */
		emit8(e, log2_of(i->opsize));
	}
}

/* j->string_n = the elements of the next piece, no more than RCX. */
static void emit_piece(struct tr *t, const struct insn *i, bool moves)
{
	struct emit *e = t->e;

	emit_room(t, i, S1, H_RDI);
	if (moves) {
		emit_room(t, i, S0, H_RSI);
		emit_rr(e, 0, 0x3b, S1, S0);
		emit_bytes(e, "\x45\x0f\x47\xfe", 4); /* cmova r15d, r14d */
	}
	if (i->opsize > 1) {
		emit_rr(e, 0, 0x85, S1, S1);
		tr_emit_c_path(t, i, CC_E);
	}
	emit_rr(e, 1, 0x3b, S1, H_RCX);
	emit_bytes(e, "\x4c\x0f\x47\xf9", 4); /* cmova r15, rcx */
	emit_store_abs(e, S1, &t->j->string_n);
}

/* j->string[n] = what to add to the host's address of what @reg points to, for the guest's. */
static void emit_side(struct tr *t, const struct insn *i, unsigned reg, enum access acc, unsigned n)
{
	struct emit *e = t->e;
	const struct tlb_view *view = &t->j->cpu->tlbs->view[jit_mmu_index(t->b)];

	emit_mov_rr(e, S0, reg);
	jit_emit_tlb_index(t->j, view->wide);
	emit_r_of8(e, 0x33, S0, S1, view->tag[acc]);
	emit_bytes(e, "\x49\x81\xfe", 3); /* cmp r14, PAGE_SIZE */
	emit32(e, PAGE_SIZE);
	tr_emit_c_path(t, i, CC_AE);
	emit_r_of8(e, 0x03, S0, S1, view->host);
	emit_mov_rr(e, S1, reg);
	emit_rr(e, 1, 0x2b, S1, S0);
	emit_store_abs(e, S1, &t->j->string[n]);
}

/* 32-bit code: offsets and the count are 32 bits wide. */
static void cut(struct tr *t)
{
	static const u8 reg[] = {H_RCX, H_RSI, H_RDI};

	for (unsigned n = 0; n < ARRAY_SIZE(reg) && t->word == 4; n++)
		emit_rr(t->e, 0, 0x8b, reg[n], reg[n]);
}

static void emit_rep(struct tr *t, const struct insn *i, bool moves)
{
	struct emit *e = t->e;
	struct jit *j = t->j;

	emit_load_abs(e, S1, &j->string_n);
	emit_rr(e, 1, 0x2b, H_RCX, S1);
	emit_store_abs(e, H_RCX, &j->string_n); /* what is left */
	emit_mov_rr(e, H_RCX, S1);
	if (moves)
		emit_ra(e, 1, 0x2b, H_RSI, &j->string[0]);
	emit_ra(e, 1, 0x2b, H_RDI, &j->string[1]);
	if (i->opsize == 2)
		emit8(e, 0x66);
	emit8(e, 0xf3);
	if (i->opsize == 8)
		emit8(e, 0x48);
	emit8(e, (moves ? 0xa4 : 0xaa) | (i->opsize > 1));
	if (moves)
		emit_ra(e, 1, 0x03, H_RSI, &j->string[0]);
	emit_ra(e, 1, 0x03, H_RDI, &j->string[1]);
	emit_load_abs(e, H_RCX, &j->string_n);
	cut(t);
}

/* A flat segment that may be read: see mode.c. */
static bool plain_source(const struct tr *t, const struct insn *i)
{
	return i->seg != SEG_FS && i->seg != SEG_GS && (t->word == 8 || i->seg != SEG_CS);
}

/*
 * The last instruction of its block. It may be left between pieces, with RIP still at it. Between elements only a
 * fault of the host's can stop it: see fault.c.
 */
static bool emit_string(struct tr *t, unsigned n, const struct insn *i)
{
	struct emit *e = t->e;
	bool moves = insn_rows[i->row].sem == &sem_movs;
	u8 *done[2];

	if (i->rep != 0xf3 || i->addrsize != t->word || (moves && !plain_source(t, i)))
		return false;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	cut(t);
	emit_rr(e, 1, 0x85, H_RCX, H_RCX);
	done[0] = emit_jcc(e, CC_E);
	emit8(e, 0xf6); /* test byte [RFLAGS + 1], DF */
	emit_modrm_abs(e, 0, (const u8 *)&t->j->cpu->rflags + 1);
	emit8(e, FL_DF >> 8);
	tr_emit_c_path(t, i, CC_NE);
	const u8 *again = e->p;
	emit_piece(t, i, moves);
	if (moves)
		emit_side(t, i, H_RSI, ACC_READ, 0);
	emit_side(t, i, H_RDI, ACC_WRITE, 1);
	emit_rep(t, i, moves);
	emit_rr(e, 1, 0x85, H_RCX, H_RCX);
	done[1] = emit_jcc(e, CC_E);
	u8 *leave = tr_emit_look(t);
	emit_patch(emit_jmp_later(e), again);
	emit_patch(leave, e->p);
	tr_emit_goto(t, t->place);
	emit_patch(done[0], e->p);
	emit_patch(done[1], e->p);
	tr_emit_goto(t, t->place + i->len);
	return true;
}

/* The bytes that emit_rep() makes, at @pc. */
static bool is_string(const u8 *pc, bool *moves)
{
	pc += *pc == 0x66;
	if (*pc++ != 0xf3)
		return false;
	pc += *pc == 0x48;
	*moves = (*pc & 0xfe) == 0xa4;
	return *moves || (*pc & 0xfe) == 0xaa;
}

void tr_string_fault(const struct jit *j, const u8 *pc)
{
	bool moves;

	if (!is_string(pc, &moves))
		return;
	j->cpu->gpr[RCX] += j->string_n;
	j->cpu->gpr[RDI] += j->string[1];
	if (moves)
		j->cpu->gpr[RSI] += j->string[0];
}

const struct tr_row tr_string_rows[] = {
	{&sem_movs, emit_string, true},
	{&sem_stos, emit_string, true},
	{NULL, NULL},
};
