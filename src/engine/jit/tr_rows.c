/* What the translator asks of a row for each instruction, digested once from the row's operands. */
#include <pthread.h>

#include "cpu/table.h"
#include "engine/jit/tr.h"

struct tr_facts tr_facts[NR_ROW];

static u16 operand_fact(unsigned kind)
{
	switch (kind) {
	case OK_NONE: case OK_I: case OK_FIXED: case OK_M: return 0;
	case OK_G: return ROW_G;
	case OK_E: case OK_R: case OK_Z: return ROW_RM;
	case OK_B: return ROW_B;
	case OK_O: return ROW_OTHER | ROW_MOFFS;
	default: return ROW_OTHER;
	}
}

/* The general registers that a CLASS_COPY row changes; what it reads is among them where that is simpler. */
static u8 changes_of(const struct insn_row *r)
{
	bool all = r->attr & A_GPR_IMPLICIT || r->sem == &sem_xchg || r->sem == &sem_xadd;
	u8 what = r->attr & A_GPR_IMPLICIT ? CHANGES_LOW : 0;

	if (r->sem == &sem_cmp_eg || r->sem == &sem_cmp_ge || r->sem == &sem_cmp_ei || r->sem == &sem_test_eg ||
	    r->sem == &sem_test_ei)
		return 0;
	for (unsigned n = 0; n < (all ? ARRAY_SIZE(r->operand) : 1); n++)
		switch (operand_info[r->operand[n]].kind) {
		case OK_G: what |= CHANGES_REG; break;
		case OK_E: case OK_R: case OK_Z: what |= CHANGES_RM; break;
		case OK_B: what |= CHANGES_VVVV; break;
		case OK_FIXED: what |= CHANGES_RAX; break;
		case OK_X: case OK_Y: case OK_A: what |= CHANGES_ALL; break;
		default: break;
		}
	return what;
}

static bool is_jcc(const struct insn_row *r)
{
	return r->class_ == CLASS_END && r->flags_read && operand_info[r->operand[0]].kind == OK_J && r->name[0] == 'j';
}

static bool is_load(const struct insn_row *r)
{
	const struct sem *s = r->sem;

	return s == &sem_mov_ge || s == &sem_movzx_b || s == &sem_movzx_w || s == &sem_movsx_b || s == &sem_movsx_w ||
	       s == &sem_movsxd;
}

static bool is_plain_e(const struct insn_row *r)
{
	const struct sem *s = r->sem;
	bool e = false;

	for (unsigned n = 0; n < ARRAY_SIZE(r->operand); n++)
		e |= operand_info[r->operand[n]].kind == OK_E;
	return e && r->space == ENC_LEGACY && !(r->attr & (A_SSE | A_AVX | A_AVX512 | A_MMX | A_X87)) &&
	       s != &sem_xchg && s != &sem_bt_eg && s != &sem_bts_eg && s != &sem_btr_eg && s != &sem_btc_eg;
}

static void make(void)
{
	for (unsigned n = 0; n < NR_ROW; n++) {
		const struct insn_row *r = &insn_rows[n];
		struct tr_facts *f = &tr_facts[n];

		for (unsigned k = 0; k < ARRAY_SIZE(r->operand); k++)
			f->is |= operand_fact(operand_info[r->operand[k]].kind);
		f->is |= (r->attr & (A_SSE | A_AVX | A_AVX512 | A_X87 | A_MMX)) && !(r->attr & A_VSIB) ? ROW_FPU : 0;
		f->is |= is_load(r) ? ROW_LOADS : 0;
		f->is |= (is_jcc(r) ? ROW_JCC : 0) | (is_plain_e(r) ? ROW_PLAIN_E : 0);
		f->changes = changes_of(r);
		f->flags_written = (r->flags_written | r->flags_undefined) & FL_ARITH;
		f->other = tr_find_other(r);
	}
}

void tr_make_facts(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, make);
}
