/*
 * REP MOVS and REP STOS, upwards and within a page: the host's own, on host addresses. The rest is C's, which is asked
 * before anything has changed.
 */
#include "engine/jit/tr.h"

static unsigned log2_of(unsigned size)
{
	return size == 8 ? 3 : size / 2;
}

/* Register @reg, an address of the guest, becomes the host's; j->string[n] takes what to add to have it back. */
static void emit_side(struct tr *t, const struct insn *i, unsigned reg, enum access acc, unsigned n)
{
	struct emit *e = t->e;
	struct tlb_entry *array = t->j->cpu->tlbs->e[jit_mmu_index(t->b)];
	unsigned shift = log2_of(i->opsize);

	emit_mov_rr(e, S0, reg);
	emit_bytes(e, "\x41\x81\xe6", 3); /* and r14d, PAGE_SIZE - 1 */
	emit32(e, PAGE_SIZE - 1);
	emit_mov_rr(e, S1, H_RCX);
	emit_bytes(e, "\x41\xc1\xe7", 3); /* shl r15d, shift: the count is at most PAGE_SIZE */
	emit8(e, shift);
	emit_rr(e, 0, 0x03, S0, S1);
	emit_bytes(e, "\x41\x81\xfe", 3); /* cmp r14d, PAGE_SIZE */
	emit32(e, PAGE_SIZE);
	tr_emit_c_path(t, i, CC_A);

	emit_mov_rr(e, S1, reg);
	emit_bytes(e, "\x49\xc1\xef\x07", 4); /* shr r15, 7 */
	emit_bytes(e, "\x41\x81\xe7", 3);     /* and r15d, (TLB_SIZE - 1) * 32 */
	emit32(e, (TLB_SIZE - 1) * sizeof(struct tlb_entry));
	emit_mov_rr(e, S0, reg);
	emit_rm_disp(e, 1, 0x33, S0, S1, (s32)(acc == ACC_WRITE ? (u64)&array->tag_w : (u64)&array->tag_r));
	emit_bytes(e, "\x49\x81\xfe", 3); /* cmp r14, PAGE_SIZE */
	emit32(e, PAGE_SIZE);
	tr_emit_c_path(t, i, CC_AE);
	emit_rm_disp(e, 1, 0x03, S0, S1, (s32)(u64)&array->host);
	emit_mov_rr(e, S1, reg);
	emit_rr(e, 1, 0x2b, S1, S0);
	emit_store_abs(e, S1, &t->j->string[n]);
}

/* The last instruction of its block. Between elements only a fault of the host's can stop it: see fault.c. */
static bool emit_string(struct tr *t, unsigned n, const struct insn *i)
{
	struct emit *e = t->e;
	struct jit *j = t->j;
	bool moves = insn_rows[i->row].sem == &sem_movs;

	if (i->rep != 0xf3 || i->addrsize != 8 || (moves && (i->seg == SEG_FS || i->seg == SEG_GS)))
		return false;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_rr(e, 1, 0x85, H_RCX, H_RCX);
	u8 *none = emit_jcc(e, CC_E);
	emit_bytes(e, "\x48\x81\xf9", 3); /* cmp rcx, PAGE_SIZE */
	emit32(e, PAGE_SIZE);
	tr_emit_c_path(t, i, CC_A);
	emit8(e, 0xf6); /* test byte [RFLAGS + 1], DF */
	emit_modrm_abs(e, 0, (const u8 *)&j->cpu->rflags + 1);
	emit8(e, FL_DF >> 8);
	tr_emit_c_path(t, i, CC_NE);
	if (moves)
		emit_side(t, i, H_RSI, ACC_READ, 0);
	emit_side(t, i, H_RDI, ACC_WRITE, 1);
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
	emit_patch(none, e->p);
	tr_emit_goto(t, t->place + i->len);
	return true;
}

/* The bytes that emit_string() makes, at @pc. */
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
	j->cpu->gpr[RDI] += j->string[1];
	if (moves)
		j->cpu->gpr[RSI] += j->string[0];
}

const struct tr_row tr_string_rows[] = {
	{&sem_movs, emit_string},
	{&sem_stos, emit_string},
	{NULL, NULL},
};
