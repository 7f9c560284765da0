/*
 * FPU and vector registers between struct cpu and the host's registers.
 *
 * Generated code uses the host's registers of the same number and name as the guest's; jit->vec_bad says which groups
 * of them are away, that is in cpu->fpu, and a block looks before its first instruction that names one of a group.
 * C code clobbers vectors, so these are brought away before every call from generated code. No C code here uses x87:
 * it stays in the host's registers until somebody looks at cpu->fpu.x87, or the run ends.
 */
#include <string.h>
#include <ucontext.h>
#include <xmmintrin.h>

#include "cpu/fpu.h"
#include "engine/jit/jit.h"

/* --- Vectors: stubs ---------------------------------------------------------------------------------------------- */

/* A move of @size bytes between register @v and its place in cpu->fpu. */
static void emit_vec_move(struct jit *j, unsigned v, unsigned size, bool store)
{
	struct emit *e = &j->e;

	if (size == 64) {
		emit8(e, 0x62); /* vmovdqu64 */
		emit8(e, (v & 8 ? 0 : 0x80) | 0x60 | (v & 16 ? 0 : 0x10) | 1);
		emit8(e, 0xfe);
		emit8(e, 0x48);
		emit8(e, store ? 0x7f : 0x6f);
	} else if (j->vec_max > 16) {
		emit8(e, 0xc5); /* vmovdqu */
		emit8(e, (v & 8 ? 0 : 0x80) | (size == 32 ? 0x7e : 0x7a));
		emit8(e, store ? 0x7f : 0x6f);
	} else {
		if (v & 8)
			emit8(e, 0x44);
		emit8(e, 0x0f); /* movups */
		emit8(e, store ? 0x11 : 0x10);
	}
	emit_modrm_abs(e, v, j->cpu->fpu.zmm[v]);
}

static void emit_group_move(struct jit *j, u32 group, unsigned size, bool store)
{
	unsigned first = group == VEC_AWAY_LOW ? 0 : 16;

	for (unsigned v = first; v < first + 16; v++)
		emit_vec_move(j, v, size, store);
	for (unsigned k = 0; k < 8 && group == VEC_AWAY_HIGH; k++) {
		emit_bytes(&j->e, "\xc4\xe1\xf8", 3); /* kmovq */
		emit8(&j->e, store ? 0x91 : 0x90);
		emit_modrm_abs(&j->e, k, &j->cpu->fpu.k[k]);
	}
}

static u8 *emit_skip_if(struct jit *j, u32 *word, u32 group)
{
	emit8(&j->e, 0xf6); /* test byte [word], group */
	emit_modrm_abs(&j->e, 0, word);
	emit8(&j->e, group);
	return emit_jcc(&j->e, CC_NE);
}

static void emit_mark(struct jit *j, unsigned op, u32 groups)
{
	emit8(&j->e, 0x80);
	emit_modrm_abs(&j->e, op, &j->vec_bad);
	emit8(&j->e, groups);
}

/* Both touch no general register. */
static void make_vec_save(struct jit *j)
{
	j->stub_vec_save = emit_here(&j->e);
	for (u32 group = VEC_AWAY_LOW; group <= VEC_AWAY_HIGH; group <<= 1) {
		if (group == VEC_AWAY_HIGH && j->vec_max < 64)
			break;
		u8 *skip = emit_skip_if(j, &j->vec_bad, group);
		emit_group_move(j, group, j->vec_max, true);
		emit_patch(skip, j->e.p);
	}
	emit_mark(j, 1, VEC_AWAY_LOW | VEC_AWAY_HIGH);
	if (j->vec_max > 16)
		emit_bytes(&j->e, "\xc5\xf8\x77", 3); /* vzeroupper: C code's SSE is faster then, on some processors */
	emit8(&j->e, 0xc3);
}

/*
 * As long as the guest has not used the upper parts of registers 0 to 15 (or executes VZEROUPPER) the host must know
 * that they are 0: else each of the guest's SSE instructions waits for what its destination was before, to keep them.
 */
static void emit_low_load(struct jit *j)
{
	struct emit *e = &j->e;

	emit8(e, 0xf6); /* test byte [xinuse], upper parts */
	emit_modrm_abs(e, 0, &j->cpu->fpu.xinuse);
	emit8(e, XF(AVX) | XF(ZMM_HI256));
	u8 *wide = emit_jcc(e, CC_NE);
	emit_bytes(e, "\xc5\xf8\x77", 3); /* vzeroupper */
	emit_group_move(j, VEC_AWAY_LOW, 16, false);
	u8 *done = emit_jmp_later(e);
	emit_patch(wide, e->p);
	emit_group_move(j, VEC_AWAY_LOW, j->vec_max, false);
	emit_patch(done, e->p);
}

static void make_vec_load(struct jit *j)
{
	j->stub_vec_load = emit_here(&j->e);
	for (u32 group = VEC_AWAY_LOW; group <= VEC_AWAY_HIGH; group <<= 1) {
		if (group == VEC_AWAY_HIGH && j->vec_max < 64)
			break;
		u8 *skip = emit_skip_if(j, &j->vec_was, group);
		if (group == VEC_AWAY_LOW && j->vec_max > 16)
			emit_low_load(j);
		else
			emit_group_move(j, group, j->vec_max, false);
		emit_mark(j, 4, ~group & 0xff);
		emit_patch(skip, j->e.p);
	}
	emit8(&j->e, 0xc3);
}

void jit_make_fpu_stubs(struct jit *j)
{
	make_vec_save(j);
	make_vec_load(j);
}

void jit_emit_vec_save(struct jit *j)
{
	struct emit *e = &j->e;

	emit_ra(e, 0, 0x8b, H_RAX, &j->vec_bad);
	emit_ra(e, 0, 0x89, H_RAX, &j->vec_was);
	emit_bytes(e, "\xf7\xd0\xa8", 3); /* not eax; test al, groups */
	emit8(e, VEC_AWAY_LOW | VEC_AWAY_HIGH);
	u8 *skip = emit_jcc(e, CC_E);
	emit_call(e, j->stub_vec_save);
	emit_patch(skip, e->p);
}

void jit_emit_vec_load(struct jit *j)
{
	struct emit *e = &j->e;

	emit8(e, 0x8a); /* mov al, [vec_was] */
	emit_modrm_abs(e, H_RAX, &j->vec_was);
	emit_bytes(e, "\xf6\xd0\xa8", 3); /* not al; test al, groups */
	emit8(e, VEC_AWAY_LOW | VEC_AWAY_HIGH);
	u8 *skip = emit_jcc(e, CC_E);
	emit_call(e, j->stub_vec_load);
	emit_patch(skip, e->p);
}

/* --- x87 --------------------------------------------------------------------------------------------------------- */

bool jit_uses_x87(const struct insn *i)
{
	return insn_rows[i->row].attr & (A_X87 | A_MMX | A_XSTATE);
}

bool jit_x87_plain(const struct jit *j)
{
	const u8 *x87 = j->cpu->fpu.x87;

	return !(j->vec_bad & VEC_AWAY_X87) ||
	       ((fx_get16(x87, FX_FCW) & FSW_EXCEPTIONS) == FSW_EXCEPTIONS && !(fx_get16(x87, FX_FSW) & FSW_ES));
}

/*
 * Opcode and pointers of the last instruction: what the host says is about its own. @old: the image before; FDP has
 * been kept up to date in it.
 */
static void x87_pointers(const struct jit *j, u8 *x87, const u8 old[FX_MXCSR])
{
	u64 fip = j->x87_page + (j->x87_last & (PAGE_SIZE - 1));

	memcpy(x87 + FX_FOP, old + FX_FOP, FX_MXCSR - FX_FOP);
	if (!j->x87_last)
		return;
	fx_put16(x87, FX_FOP, j->x87_last >> 12 & 0x7ff);
	memcpy(x87 + FX_FIP, &fip, 8);
}

void jit_x87_save_slow(struct jit *j)
{
	u8 *x87 = j->cpu->fpu.x87, old[FX_MXCSR];

	memcpy(old, x87, sizeof(old));

	__asm__ volatile("fxsave64 (%0)\n\t"
			 "fnclex\n\t"
			 "emms\n\t"
			 "fldcw %1"
			 : : "r"(x87), "m"(j->host_fcw) : "memory");
	x87_pointers(j, x87, old);
	j->vec_bad |= VEC_AWAY_X87;
}

void jit_x87_load(struct jit *j)
{
	u32 mxcsr = _mm_getcsr();

	__asm__ volatile("fnstcw %0\n\t"
			 "fxrstor64 (%1)"
			 : "=m"(j->host_fcw) : "r"(j->cpu->fpu.x87)
			 : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
			   "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
	_mm_setcsr(mxcsr);
	j->x87_last = 0;
	j->vec_bad &= ~VEC_AWAY_X87;
}

/* --- Called from generated code: a block's guard has failed ------------------------------------------------------ */

u64 jit_fpu_ready(struct jit *j, const struct jit_site *site)
{
	if (j->vec_bad & site->need & ~(u32)VEC_AWAY)
		return 0;
	if (j->vec_bad & site->need & VEC_AWAY_X87)
		jit_x87_load(j);
	/* The stub loads these, and again those that it has saved. */
	j->vec_was &= ~(u32)site->need;
	return 1;
}

/* --- Signals ----------------------------------------------------------------------------------------------------- */

/* Linux's frame: an FXSAVE image and, with this word in its reserved part, the rest of an XSAVE area. */
#define FRAME_MAGIC_AT 464
#define FRAME_MAGIC 0x46505853u

static void component_from(struct fpu_state *f, const u8 *frame, enum xcomp n)
{
	u64 bv, xinuse = f->xinuse;
	unsigned offset, size;
	u32 magic;

	if (!(xsave_supported() & BIT64(n)))
		return;
	memcpy(&magic, frame + FRAME_MAGIC_AT, 4);
	memcpy(&bv, frame + XSAVE_BV, 8);
	xsave_component(n, &offset, &size);
	if (n <= XC_SSE)
		xcomp_load(f, n, frame, true);
	else if (magic == FRAME_MAGIC && (bv & BIT64(n)))
		xcomp_load(f, n, frame + offset, true);
	else
		xcomp_reset(f, n, true);
	f->xinuse = xinuse;
}

void jit_fpu_from_signal(struct jit *j, const void *fpregs)
{
	struct fpu_state *f = &j->cpu->fpu;

	if (!fpregs)
		return;
	if (!(j->vec_bad & VEC_AWAY_LOW)) {
		component_from(f, fpregs, XC_SSE);
		component_from(f, fpregs, XC_AVX);
		component_from(f, fpregs, XC_ZMM_HI256);
	}
	if (!(j->vec_bad & VEC_AWAY_HIGH)) {
		component_from(f, fpregs, XC_OPMASK);
		component_from(f, fpregs, XC_HI16_ZMM);
	}
	if (!(j->vec_bad & VEC_AWAY_X87)) {
		u8 old[FX_MXCSR];
		memcpy(old, f->x87, sizeof(old));
		component_from(f, fpregs, XC_X87);
		x87_pointers(j, f->x87, old);
	}
	j->vec_bad |= VEC_AWAY;
}
