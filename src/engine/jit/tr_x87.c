/* What compilers emit of x87, MMX and vectors that no thunk runs, on the host's own registers: see fpu.c. */
#include "cpu/fpu.h"
#include "engine/jit/tr.h"
#include "engine/reencode.h"

/* As copy.c notes it (SDM vol. 1, 8.1.8). Leaves flags alone. */
void tr_emit_x87_note(struct tr *t, const struct insn *i)
{
	struct emit *e = t->e;

	if (i->is_mem) {
		tr_emit_ea(t, i, S0);
		emit_store_abs(e, S0, t->j->cpu->fpu.x87 + FX_FDP);
	}
	if (!t->x87_noted) {
		tr_emit_rip(t, S0, t->place & PAGE_MASK);
		emit_store_abs(e, S0, &t->j->x87_page);
		t->x87_noted = !i->is_mem; /* of an access C may have taken care */
	}
	emit8(e, 0xc7); /* mov dword [x87_last], .. */
	emit_modrm_abs(e, 0, &t->j->x87_last);
	emit32(e, X87_LAST(t->place & (PAGE_SIZE - 1), (i->opcode & 7) << 8 | i->modrm));
}

/* What is about to be loaded from [r14] must mask all exceptions and have no reserved bit, or it is C's. */
static void emit_masked(struct tr *t, const struct insn *i, bool mxcsr)
{
	struct emit *e = t->e;

	if (mxcsr) {
		emit_bytes(e, "\x41\xf7\x06", 3); /* test dword [r14], reserved */
		emit32(e, ~mxcsr_mask());
		tr_emit_c_path(t, i, CC_NE);
		emit_rm_disp(e, 0, 0x8b, S1, S0, 0);
	} else {
		emit_bytes(e, "\x45\x0f\xb7\x3e", 4); /* movzx r15d, word [r14] */
	}
	emit_bytes(e, "\x41\xf7\xd7\x41\xf7\xc7", 6); /* not r15d; test r15d, masks */
	emit32(e, mxcsr ? MXCSR_MASKS : FSW_EXCEPTIONS);
	tr_emit_c_path(t, i, CC_NE);
}

/* An instruction on [r14]. */
static bool emit_on_memory(struct tr *t, unsigned n, const struct insn *i, const char *code, unsigned len)
{
	const struct sem *sem = insn_rows[i->row].sem;

	tr_flags_to_slot(t, tr_flags_needed(t, n));
	tr_emit_fpu_guard(t, i);
	struct slow_path *s = tr_emit_operand(t, i);
	if (sem == &sem_fldcw || sem == &sem_ldmxcsr)
		emit_masked(t, i, sem == &sem_ldmxcsr);
	emit_bytes(t->e, code, len);
	tr_slow_done(t, s);
	return true;
}

static bool emit_on_none(struct tr *t, unsigned n, const struct insn *i, const char *code, unsigned len)
{
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	tr_emit_fpu_guard(t, i);
	emit_bytes(t->e, code, len);
	return true;
}

static bool emit_fnstcw(struct tr *t, unsigned n, const struct insn *i)
{
	return emit_on_memory(t, n, i, "\x41\xd9\x3e", 3);
}

static bool emit_fldcw(struct tr *t, unsigned n, const struct insn *i)
{
	return emit_on_memory(t, n, i, "\x41\xd9\x2e", 3);
}

static bool emit_fnstsw(struct tr *t, unsigned n, const struct insn *i)
{
	return i->is_mem ? emit_on_memory(t, n, i, "\x41\xdd\x3e", 3) : emit_on_none(t, n, i, "\xdf\xe0", 2);
}

static bool emit_fnclex(struct tr *t, unsigned n, const struct insn *i)
{
	return emit_on_none(t, n, i, "\xdb\xe2", 2);
}

/* The guard has seen that nothing is pending. */
static bool emit_fwait(struct tr *t, unsigned n, const struct insn *i)
{
	return emit_on_none(t, n, i, "", 0);
}

static bool emit_emms(struct tr *t, unsigned n, const struct insn *i)
{
	return emit_on_none(t, n, i, "\x0f\x77", 2);
}

static bool emit_stmxcsr(struct tr *t, unsigned n, const struct insn *i)
{
	return emit_on_memory(t, n, i, "\x41\x0f\xae\x1e", 4);
}

static bool emit_ldmxcsr(struct tr *t, unsigned n, const struct insn *i)
{
	return emit_on_memory(t, n, i, "\x41\x0f\xae\x16", 4);
}

/* VMASKMOV and VPMASKMOV: as the guest has them. What is not selected is in the same page, so it cannot fault. */
static bool emit_vmaskmov(struct tr *t, unsigned n, const struct insn *i)
{
	struct reencode to = REENCODE_SAME(i);
	u8 code[REENCODE_MAX];

	to.base = S0;
	return emit_on_memory(t, n, i, (const char *)code, reencode(code, i, &to));
}

/* In 32-bit code it leaves half of the registers alone. */
static bool emit_vzeroupper(struct tr *t, unsigned n, const struct insn *i)
{
	const u64 upper = XF(AVX) | XF(ZMM_HI256);

	if (t->word != 8)
		return false;
	emit_on_none(t, n, i, "\xc5\xf8\x77", 3);
	emit8(t->e, 0x81); /* and dword [xinuse], ~upper */
	emit_modrm_abs(t->e, 4, &t->j->cpu->fpu.xinuse);
	emit32(t->e, ~upper);
	t->xinuse &= ~upper;
	return true;
}

const struct tr_row tr_x87_rows[] = {
	{&sem_fnstcw, emit_fnstcw, true},
	{&sem_fldcw, emit_fldcw, true},
	{&sem_fnstsw, emit_fnstsw, true},
	{&sem_fnclex, emit_fnclex, true},
	{&sem_fwait, emit_fwait, true},
	{&sem_emms, emit_emms, true},
	{&sem_stmxcsr, emit_stmxcsr, true},
	{&sem_ldmxcsr, emit_ldmxcsr, true},
	{&sem_vzeroupper, emit_vzeroupper, true},
	{&sem_vmaskmov_load, emit_vmaskmov, true},
	{&sem_vmaskmov_store, emit_vmaskmov, true},
	{NULL, NULL},
};
