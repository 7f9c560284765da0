#include "engine/jit/tr.h"
#include "engine/thunk.h"

/*
 * A guest vector register is in the host's of the same number while the block needs it, and always in cpu->fpu too:
 * each result is stored at once, so that C functions and exits find it there, and a block only ever loads.
 */

/* EVEX or VEX moves between register @v and its place in cpu->fpu. */
static void emit_vec_move(struct tr *t, unsigned v, unsigned bytes, bool store)
{
	struct emit *e = t->e;
	const void *at = v >= FIRST_K ? (const void *)&t->j->cpu->fpu.k[v - FIRST_K] : t->j->cpu->fpu.zmm[v];

	if (v >= FIRST_K) {
		emit_bytes(e, "\xc4\xe1\xf8", 3); /* kmovq */
		emit8(e, store ? 0x91 : 0x90);
		emit_modrm_abs(e, v - FIRST_K, at);
		return;
	}
	if (bytes == 64 || v >= 16) {
		emit8(e, 0x62); /* vmovdqu64 */
		emit8(e, (v & 8 ? 0 : 0x80) | 0x60 | (v & 16 ? 0 : 0x10) | 1);
		emit8(e, 0xfe);
		emit8(e, 0x08 | (bytes == 64 ? 0x40 : bytes == 32 ? 0x20 : 0));
	} else if (bytes == 32) {
		emit8(e, 0xc5); /* vmovdqu */
		emit8(e, (v & 8 ? 0 : 0x80) | 0x7e);
	} else {
		if (v & 8)
			emit8(e, 0x44);
		emit8(e, 0x0f); /* movups: leaves the rest of the register alone */
		emit8(e, store ? 0x11 : 0x10);
		emit_modrm_abs(e, v, at);
		return;
	}
	emit8(e, store ? 0x7f : 0x6f);
	emit_modrm_abs(e, v, at);
}

void tr_vec_reload(struct tr *t, const u8 *vec)
{
	for (unsigned v = 0; v < NR_VEC; v++)
		if (vec[v])
			emit_vec_move(t, v, vec[v], false);
}

static void vec_need(struct tr *t, unsigned v, unsigned bytes)
{
	if (t->vec[v] >= bytes)
		return;
	emit_vec_move(t, v, bytes, false);
	t->vec[v] = (u8)bytes;
}

/* The vector registers that @i names, in the order of its operands. */
static unsigned vec_regs(const struct insn *i, u8 reg[VEC_REGS_MAX])
{
	const struct insn_row *r = &insn_rows[i->row];
	unsigned nr = 0;

	for (unsigned n = 0; n < ARRAY_SIZE(r->operand); n++)
		switch (operand_info[r->operand[n]].kind) {
		case OK_V: reg[nr++] = i->reg; break;
		case OK_W:
			if (!i->is_mem)
				reg[nr++] = i->rm;
			break;
		case OK_U: reg[nr++] = i->rm; break;
		case OK_H: reg[nr++] = i->vvvv; break;
		case OK_L: reg[nr++] = (u8)(i->imm >> 4 & 15); break;
		case OK_KG: reg[nr++] = FIRST_K + (i->reg & 7); break;
		case OK_KE: case OK_KR:
			if (!i->is_mem)
				reg[nr++] = FIRST_K + (i->rm & 7);
			break;
		case OK_KB: reg[nr++] = FIRST_K + (i->vvvv & 7); break;
		}
	if (i->aaa)
		reg[nr++] = FIRST_K + i->aaa;
	return nr;
}

bool tr_is_vector(const struct insn_row *r)
{
	return (r->attr & (A_SSE | A_AVX | A_AVX512)) && !(r->attr & (A_X87 | A_MMX | A_VSIB));
}

/* What the C path has to look at stays there: masked memory, and thunks that are not plain. */
bool tr_can_copy_vector(const struct tr *t, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	const struct thunk *k = i->thunk;
	unsigned plain = THUNK_MXCSR | THUNK_FLAGS | (cpu_has(t->j->cpu, ISA_AVX512VL) ? THUNK_VL : 0);
	u8 reg[VEC_REGS_MAX];

	/* None named, some meant: VZEROUPPER. */
	if (!k || (i->aaa && i->is_mem) || (k->what & ~plain) || !vec_regs(i, reg))
		return false;
	/* Opmasks are moved as 64 bits. */
	for (unsigned n = vec_regs(i, reg); n-- > 0;)
		if (reg[n] >= FIRST_K && !cpu_has(t->j->cpu, ISA_AVX512BW))
			return false;
	for (unsigned n = 0; n < ARRAY_SIZE(r->operand); n++)
		switch (operand_info[r->operand[n]].kind) {
		case OK_NONE: case OK_I: case OK_V: case OK_W: case OK_U: case OK_H: case OK_L: case OK_M:
		case OK_KG: case OK_KE: case OK_KR: case OK_KB: case OK_G: case OK_E: case OK_R: break;
		default: return false;
		}
	return true;
}

/* Before the instruction; flags are in their slot. */
void tr_emit_vec_guard(struct tr *t, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	const struct thunk *k = i->thunk;
	u32 need = (r->attr & A_SSE ? VEC_SSE : 0) | (r->attr & A_AVX ? VEC_AVX : 0) | (r->attr & A_AVX512 ? VEC_AVX512 : 0) |
		   (k->what & THUNK_MXCSR ? VEC_FP : 0);

	if (need & ~t->vec_checked) {
		emit8(t->e, 0xf6); /* test byte [vec_bad], need */
		emit_modrm_abs(t->e, 0, &t->j->vec_bad);
		emit8(t->e, need);
		tr_emit_c_path(t, i, CC_NE);
		t->vec_checked |= need;
	}
	if (k->xinuse & ~t->xinuse) {
		emit8(t->e, 0x81); /* or dword [xinuse], components */
		emit_modrm_abs(t->e, 1, &t->j->cpu->fpu.xinuse);
		emit32(t->e, k->xinuse);
		t->xinuse |= k->xinuse;
	}
}

bool tr_vec_guard_needed(const struct tr *t, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	const struct thunk *k = i->thunk;
	u32 need = (r->attr & A_SSE ? VEC_SSE : 0) | (r->attr & A_AVX ? VEC_AVX : 0) | (r->attr & A_AVX512 ? VEC_AVX512 : 0) |
		   (k->what & THUNK_MXCSR ? VEC_FP : 0);

	return (need & ~t->vec_checked) || (k->xinuse & ~t->xinuse);
}

/* How much of a register the instruction may look at. */
static unsigned vec_width(const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];

	/* With embedded rounding L'L is no length: all of it. */
	return r->space == ENC_LEGACY ? 16 : r->space == ENC_EVEX && i->b && !i->is_mem ? 64 : 16u << i->l;
}

void tr_vec_load_operands(struct tr *t, const struct insn *i)
{
	u8 reg[VEC_REGS_MAX];
	unsigned nr = vec_regs(i, reg), width = vec_width(i);

	for (unsigned n = 0; n < nr; n++)
		vec_need(t, reg[n], reg[n] >= FIRST_K ? 8 : width);
}

/* The destination, the first operand, goes to cpu->fpu: VEX and EVEX clear what lies above the vector length. */
void tr_vec_store_result(struct tr *t, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	unsigned kind = operand_info[r->operand[0]].kind, v;

	if (r->flags_written & FL_ARITH)
		return; /* a comparison: both operands are sources */
	if (kind == OK_V)
		v = i->reg;
	else if ((kind == OK_W && !i->is_mem) || kind == OK_U)
		v = i->rm;
	else if (kind == OK_H)
		v = i->vvvv;
	else if (kind == OK_KG)
		v = FIRST_K + (i->reg & 7);
	else if (kind == OK_KE && !i->is_mem)
		v = FIRST_K + (i->rm & 7);
	else
		return;
	if (v >= FIRST_K) {
		emit_vec_move(t, v, 8, true);
		t->vec[v] = 8;
		return;
	}
	if (r->space == ENC_LEGACY) {
		emit_vec_move(t, v, 16, true);
		return;
	}
	emit_vec_move(t, v, t->j->vec_max, true);
	t->vec[v] = t->j->vec_max;
}
