/*
 * FPU and vector instructions: they name the host's registers of the same number, where fpu.c brings the guest's. Once
 * per block and group of registers, a guard looks whether they are there and may be used.
 */
#include "cpu/fpu.h"
#include "engine/jit/tr.h"
#include "engine/thunk.h"

static u32 group_of(unsigned v)
{
	return v < 16 ? VEC_AWAY_LOW : VEC_AWAY_HIGH;
}

/* The groups of vector registers that @i names. */
static u32 vec_groups(const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	u32 groups = i->aaa ? VEC_AWAY_HIGH : 0;

	for (unsigned n = 0; n < ARRAY_SIZE(r->operand); n++)
		switch (operand_info[r->operand[n]].kind) {
		case OK_V: groups |= group_of(i->reg); break;
		case OK_W: groups |= i->is_mem ? 0 : group_of(i->rm); break;
		case OK_U: groups |= group_of(i->rm); break;
		case OK_H: groups |= group_of(i->vvvv); break;
		case OK_L: case OK_XMM0: groups |= VEC_AWAY_LOW; break;
		case OK_KG: case OK_KE: case OK_KR: case OK_KB: groups |= VEC_AWAY_HIGH; break;
		}
	return groups;
}

/* VEC_* that must be clear for @i to run. */
static u32 fpu_need(const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];

	return (r->attr & A_SSE ? VEC_SSE : 0) | (r->attr & A_AVX ? VEC_AVX : 0) |
	       (r->attr & A_AVX512 ? VEC_AVX512 : 0) |
	       (r->attr & A_MXCSR || r->sem == &sem_ldmxcsr || r->sem == &sem_stmxcsr ? VEC_FP : 0) |
	       (r->sem == &sem_vzeroupper ? VEC_AWAY_LOW : 0) |
	       (r->attr & (A_X87 | A_MMX) ? VEC_X87 | VEC_AWAY_X87 : 0) | vec_groups(i);
}

/* What the C path has to look at stays there: compressed memory, and thunks that ask for more than a guard does. */
bool tr_can_copy_fpu(const struct tr *t, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	const struct thunk *k = i->thunk;
	unsigned no = (i->is_mem ? THUNK_COMPACT : 0) | (cpu_has(t->j->cpu, ISA_AVX512VL) ? 0 : THUNK_VL);

	if (!k || (k->what & no))
		return false;
	for (unsigned n = 0; n < ARRAY_SIZE(r->operand); n++)
		switch (operand_info[r->operand[n]].kind) {
		case OK_NONE: case OK_I: case OK_V: case OK_W: case OK_U: case OK_H: case OK_L: case OK_M: case OK_XMM0:
		case OK_KG: case OK_KE: case OK_KR: case OK_KB: case OK_G: case OK_E: case OK_R:
		case OK_ST: case OK_ST0: case OK_P: case OK_Q: case OK_N: break;
		default: return false;
		}
	return true;
}

/* The components in use from then on, but those that are marked already. */
static u64 in_use_after(const struct tr *t, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	const struct thunk *k = i->thunk;
	u64 use = r->attr & (A_X87 | A_MMX) ? XF(X87) : 0;

	if (k)
		use = k->xinuse;
	else if (r->sem == &sem_vmaskmov_load)
		use = XF(SSE) | (i->l ? XF(AVX) : 0);
	return use & ~t->xinuse;
}

bool tr_fpu_guard_needed(const struct tr *t, const struct insn *i)
{
	return (fpu_need(i) & ~t->fpu_checked) || in_use_after(t, i);
}

/* One look serves those that move and those that compute. */
static u32 computes_ahead(const struct tr *t)
{
	for (unsigned n = t->n; n < t->nr; n++)
		if (insn_rows[t->insn[n].row].attr & A_MXCSR)
			return VEC_FP;
	return 0;
}

void tr_emit_fpu_guard(struct tr *t, const struct insn *i)
{
	u32 need = fpu_need(i) & ~t->fpu_checked;
	if (need & (VEC_SSE | VEC_AVX | VEC_AVX512))
		need |= computes_ahead(t) & ~t->fpu_checked;
	u64 use = in_use_after(t, i);

	if (need) {
		const u8 *retry = t->e->p;
		emit8(t->e, 0xf6); /* test byte [vec_bad], need */
		emit_modrm_abs(t->e, 0, &t->j->vec_bad);
		emit8(t->e, need);
		tr_emit_c_path(t, i, CC_NE);
		t->c[t->nr_c - 1].retry = retry;
		if (t->c[t->nr_c - 1].site)
			t->c[t->nr_c - 1].site->need = (u8)need;
		t->fpu_checked |= need;
	}
	if (use) {
		/* One component is mostly set already, and a store would be what a short loop waits for. */
		bool one = !(use & (use - 1));
		u8 *set = NULL;
		if (one) {
			emit8(t->e, 0xf6); /* test byte [xinuse], component */
			emit_modrm_abs(t->e, 0, &t->j->cpu->fpu.xinuse);
			emit8(t->e, (u8)use);
			set = emit_jcc(t->e, CC_NE);
		}
		emit8(t->e, 0x81); /* or dword [xinuse], components */
		emit_modrm_abs(t->e, 1, &t->j->cpu->fpu.xinuse);
		emit32(t->e, use);
		if (one)
			emit_patch(set, t->e->p);
		t->xinuse |= use;
	}
}
