/* Making of thunks: RDI is the CPU, RSI the memory operand, R11 the frame; vector registers keep their numbers. */
#include "engine/thunk.h"

#include <string.h>

#include "cpu/fpu.h"
#include "cpu/mmu.h"
#include "engine/reencode.h"

#define OFF_GPR offsetof(struct cpu, gpr)
#define OFF_ZMM offsetof(struct cpu, fpu.zmm)
#define OFF_K offsetof(struct cpu, fpu.k)
#define OFF_X87 offsetof(struct cpu, fpu.x87)

/* Registers that the instruction reads or writes, as bit sets. What is written is loaded too: it may be merged into. */
struct uses {
	u32 v, v_out;
	u8 k, k_out, mm, mm_out;
	u16 g, g_out;
	u8 high_byte; /* offset in cpu->gpr of a source that is AH..BH, else NO_REG */
};

struct emit {
	u8 *p;
	const struct insn *i;
	const struct insn_row *r;
	struct uses u;
	u8 host_gpr[16];
};

/* --- What the operands use ----------------------------------------------------------------------------------- */

static void use_v(struct uses *u, unsigned n, bool out)
{
	u->v |= BIT(n & 31);
	if (out)
		u->v_out |= BIT(n & 31);
}

static void use_g(struct uses *u, unsigned n, bool out)
{
	u->g |= (u16)BIT(n & 15);
	if (out)
		u->g_out |= (u16)BIT(n & 15);
}

static void use_k(struct uses *u, unsigned n, bool out)
{
	u->k |= (u8)BIT(n & 7);
	if (out)
		u->k_out |= (u8)BIT(n & 7);
}

static void use_mm(struct uses *u, unsigned n, bool out)
{
	u->mm |= (u8)BIT(n & 7);
	if (out)
		u->mm_out |= (u8)BIT(n & 7);
}

static void use_operand(struct uses *u, const struct insn *i, unsigned kind, bool out)
{
	switch (kind) {
	case OK_V: use_v(u, i->reg, out); break;
	case OK_W: case OK_U:
		if (!i->is_mem)
			use_v(u, i->rm, out);
		break;
	case OK_H: use_v(u, i->vvvv, out); break;
	case OK_L: use_v(u, (i->imm >> 4) & 15, out); break;
	case OK_XMM0: use_v(u, 0, out); break;
	case OK_G: use_g(u, i->reg, out); break;
	case OK_E: case OK_R:
		if (i->is_mem)
			break;
		if (i->rm_off & 7)
			u->high_byte = i->rm_off;
		else
			use_g(u, i->rm, out);
		break;
	case OK_Z: use_g(u, i->rm, out); break;
	case OK_B: use_g(u, i->vvvv, out); break;
	case OK_P: use_mm(u, i->reg, out); break;
	case OK_Q: case OK_N:
		if (!i->is_mem)
			use_mm(u, i->rm, out);
		break;
	case OK_KG: use_k(u, i->reg, out); break;
	case OK_KE: case OK_KR:
		if (!i->is_mem)
			use_k(u, i->rm, out);
		break;
	case OK_KB: use_k(u, i->vvvv, out); break;
	default: break;
	}
}

/*
 * The first operand is the destination. Exceptions: a row that writes flags from vectors or masks (COMISD, PTEST,
 * KORTEST, PCMPISTRI) has only sources, its results are the flags and then what it implies: XMM0, or RCX with
 * A_GPR_IMPLICIT; MULX writes its second operand too.
 */
static void find_uses(struct uses *u, const struct insn *i, const struct insn_row *r)
{
	bool implicit = r->attr & A_GPR_IMPLICIT;
	bool tests = false, xmm0 = false;

	*u = (struct uses){.high_byte = NO_REG};
	for (unsigned n = 0; n < ARRAY_SIZE(r->operand); n++) {
		unsigned kind = operand_info[r->operand[n]].kind;
		bool gpr = kind == OK_E || kind == OK_G || kind == OK_R || kind == OK_B || kind == OK_Z;

		if (n == 0)
			tests = r->flags_written && !gpr;
		bool out = (n == 0 && !tests) || (n == 1 && implicit && !r->flags_written);

		if (kind == OK_XMM0) {
			xmm0 = true;
			out = tests;
		}
		use_operand(u, i, kind, out);
	}
	if (i->aaa)
		use_k(u, i->aaa, false);
	if (!implicit)
		return;
	use_g(u, RAX, false);
	use_g(u, RDX, false);
	use_g(u, RCX, tests && !xmm0);
}

/* --- Emission ------------------------------------------------------------------------------------------------ */

static void bytes(struct emit *e, const char *b, unsigned n)
{
	memcpy(e->p, b, n);
	e->p += n;
}
#define CODE(e, literal) bytes(e, literal, sizeof(literal) - 1)

static void byte(struct emit *e, unsigned b)
{
	*e->p++ = (u8)b;
}

/* ModRM for [rdi + disp32]. */
static void rdi_disp(struct emit *e, unsigned reg, size_t disp)
{
	u32 d = (u32)disp;

	byte(e, 0x80 | (reg & 7) << 3 | RDI);
	bytes(e, (const char *)&d, 4);
}

enum { LOAD, STORE };

static void move_xmm(struct emit *e, unsigned n, int dir) /* MOVUPS */
{
	if (n & 8)
		byte(e, 0x44);
	byte(e, 0x0f);
	byte(e, 0x10 + dir);
	rdi_disp(e, n, OFF_ZMM + 64 * n);
}

static void move_ymm(struct emit *e, unsigned n, int dir) /* VEX.256.F3.0F VMOVDQU */
{
	byte(e, 0xc4);
	byte(e, (n & 8 ? 0 : 0x80) | 0x61);
	byte(e, 0x7e);
	byte(e, dir == LOAD ? 0x6f : 0x7f);
	rdi_disp(e, n, OFF_ZMM + 64 * n);
}

static void move_zmm(struct emit *e, unsigned n, int dir) /* EVEX.512.F3.0F.W1 VMOVDQU64 */
{
	byte(e, 0x62);
	byte(e, (n & 8 ? 0 : 0x80) | (n & 16 ? 0 : 0x10) | 0x61);
	byte(e, 0xfe);
	byte(e, 0x48);
	byte(e, dir == LOAD ? 0x6f : 0x7f);
	rdi_disp(e, n, OFF_ZMM + 64 * n);
}

static void move_k(struct emit *e, unsigned n, int dir) /* KMOVQ */
{
	CODE(e, "\xc4\xe1\xf8");
	byte(e, 0x90 + dir);
	rdi_disp(e, n, OFF_K + 8 * n);
}

static void move_mm(struct emit *e, unsigned n, int dir) /* MOVQ */
{
	byte(e, 0x0f);
	byte(e, dir == LOAD ? 0x6f : 0x7f);
	rdi_disp(e, n, OFF_X87 + FX_ST + 16 * n);
	if (dir == LOAD)
		return;
	/* An MMX write sets sign and exponent to ones (SDM vol. 1, 9.2.2): mov word [..+8], 0xffff */
	CODE(e, "\x66\xc7");
	rdi_disp(e, 0, OFF_X87 + FX_ST + 16 * n + 8);
	CODE(e, "\xff\xff");
}

static void move_gpr(struct emit *e, unsigned guest, unsigned host, int dir)
{
	byte(e, 0x48 | (host & 8 ? 4 : 0));
	byte(e, dir == LOAD ? 0x8b : 0x89);
	rdi_disp(e, host, OFF_GPR + 8 * guest);
}

/*
 * Sources need only the length of the instruction; EVEX ones are loaded whole, since L'L may be a rounding mode.
 * Legacy SSE writes the low 16 bytes, everything else clears up to the top of the host's widest register.
 */
static void move_vector(struct emit *e, unsigned n, int dir)
{
	bool avx512 = xsave_supported() & XF(ZMM_HI256);

	if (e->r->space == ENC_LEGACY || (dir == LOAD && e->r->space == ENC_VEX && !e->i->l))
		move_xmm(e, n, dir);
	else if (e->r->space == ENC_EVEX || (dir == STORE && avx512))
		move_zmm(e, n, dir);
	else
		move_ymm(e, n, dir);
}

/* Guest registers that must be where they are, RAX, RCX and RDX, are; others take R8 to R10. False: too many. */
static bool map_gprs(struct emit *e)
{
	unsigned next = R8;

	for (unsigned g = 0; g < 16; g++) {
		if (!(e->u.g & BIT(g)))
			continue;
		e->host_gpr[g] = (u8)(g <= RDX ? g : next++);
	}
	return next <= R11 && (e->u.high_byte == NO_REG || next <= R10);
}

static void emit_entry(struct emit *e, const struct thunk *t)
{
	if (t->what & (THUNK_MXCSR | THUNK_FLAGS | THUNK_X87))
		CODE(e, "\x49\x89\xd3"); /* mov r11, rdx */
	if (t->what & (THUNK_MXCSR | THUNK_X87))
		CODE(e, "\x41\x0f\xae\x5b\x18"); /* stmxcsr [r11+24] */
	if (t->what & THUNK_X87) {
		CODE(e, "\x41\xd9\x7b\x1c"); /* fnstcw [r11+28] */
		CODE(e, "\x48\x0f\xae"); /* fxrstor64 */
		rdi_disp(e, 1, OFF_X87);
	}
	for (unsigned n = 0; n < 32; n++)
		if (e->u.v & BIT(n))
			move_vector(e, n, LOAD);
	for (unsigned n = 0; n < 8; n++) {
		if (e->u.k & BIT(n))
			move_k(e, n, LOAD);
		if (e->u.mm & BIT(n))
			move_mm(e, n, LOAD);
	}
	for (unsigned n = 0; n < 16; n++)
		if (e->u.g & BIT(n))
			move_gpr(e, n, e->host_gpr[n], LOAD);
	if (e->u.high_byte != NO_REG) {
		CODE(e, "\x44\x0f\xb6"); /* movzx r10d, byte [rdi+..] */
		rdi_disp(e, R10, OFF_GPR + e->u.high_byte);
	}
	if (t->what & THUNK_MXCSR)
		CODE(e, "\x41\x0f\xae\x13"); /* ldmxcsr [r11] */
	if (e->r->flags_read)
		CODE(e, "\x41\xff\x73\x08\x9d"); /* push [r11+8]; popfq */
}

static void emit_exit(struct emit *e, const struct thunk *t)
{
	if (e->r->flags_written)
		CODE(e, "\x9c\x41\x8f\x43\x10"); /* pushfq; pop [r11+16] */
	if (t->what & THUNK_MXCSR)
		CODE(e, "\x41\x0f\xae\x5b\x04"); /* stmxcsr [r11+4] */
	for (unsigned n = 0; n < 32; n++)
		if (e->u.v_out & BIT(n))
			move_vector(e, n, STORE);
	for (unsigned n = 0; n < 8; n++) {
		if (e->u.k_out & BIT(n))
			move_k(e, n, STORE);
		if (e->u.mm_out & BIT(n))
			move_mm(e, n, STORE);
	}
	for (unsigned n = 0; n < 16; n++)
		if (e->u.g_out & BIT(n))
			move_gpr(e, n, e->host_gpr[n], STORE);
	if (t->what & THUNK_X87) {
		/*
		 * FXSAVE does not wait, so it is safe with an exception pending. The host gets back its control
		 * word, an empty stack and no flags (FNINIT would do that too, but is slow).
		 */
		CODE(e, "\x48\x0f\xae"); /* fxsave64 */
		rdi_disp(e, 0, OFF_X87);
		CODE(e, "\x80"); /* cmp byte [rdi+..], 0: the flags of FSW */
		rdi_disp(e, 7, OFF_X87 + FX_FSW);
		CODE(e, "\x00\x74\x02\xdb\xe2"); /* je over; fnclex */
		CODE(e, "\x0f\x77\x41\xd9\x6b\x1c"); /* emms; fldcw [r11+28] */
	}
	if (t->what & (THUNK_MXCSR | THUNK_X87))
		CODE(e, "\x41\x0f\xae\x53\x18"); /* ldmxcsr [r11+24] */
	if (e->u.mm)
		CODE(e, "\x0f\x77"); /* emms */
	if (e->r->space != ENC_LEGACY && e->u.v)
		CODE(e, "\xc5\xf8\x77"); /* vzeroupper */
	byte(e, 0xc3);
}

static bool emit_insn(struct emit *e)
{
	const struct insn *i = e->i;
	struct reencode to = REENCODE_SAME(i);
	unsigned n;

	to.base = RSI;
	for (n = 0; n < ARRAY_SIZE(e->r->operand); n++) {
		switch (operand_info[e->r->operand[n]].kind) {
		case OK_G: to.reg = e->host_gpr[i->reg & 15]; break;
		case OK_B: to.vvvv = e->host_gpr[i->vvvv & 15]; break;
		case OK_E: case OK_R: case OK_Z:
			if (!i->is_mem)
				to.rm = e->u.high_byte != NO_REG ? R10 : e->host_gpr[i->rm & 15];
			break;
		default: break;
		}
	}
	n = reencode(e->p, i, &to);
	e->p += n;
	return n != 0;
}

/* --- The head ------------------------------------------------------------------------------------------------ */

static u64 xinuse_of(const struct uses *u, const struct insn *i, const struct insn_row *r)
{
	u64 x = u->k_out ? XF(OPMASK) : 0;

	if (r->attr & (A_X87 | A_MMX))
		x |= XF(X87);
	if (u->v_out >> 16)
		x |= XF(HI16_ZMM);
	if (!(u->v_out & 0xffff))
		return x;
	x |= XF(SSE);
	if (r->space != ENC_LEGACY && r->l != L_IG && i->l)
		x |= i->l == 2 ? XF(AVX) | XF(ZMM_HI256) : XF(AVX);
	return x;
}

/* What must hold for the instruction not to raise #UD or #NM (SDM vol. 2, 2.4 and 2.8). */
static void head_gates(struct thunk *t, const struct insn *i, const struct insn_row *r)
{
	if (r->space != ENC_LEGACY) {
		t->cr0_bad = CR0_PE;
		t->rflags_bad = FL_VM;
	}
	if (r->attr & (A_AVX | A_AVX512)) {
		t->cr0_bad |= CR0_TS;
		t->cr4_need |= CR4_OSXSAVE;
		t->xcr0_need |= XF(SSE) | XF(AVX);
	}
	if (r->attr & A_AVX512)
		t->xcr0_need |= XF_AVX512;
	if (r->attr & A_SSE)
		t->cr4_need |= CR4_OSFXSR;
	if (r->attr & (A_SSE | A_MMX | A_X87))
		t->cr0_bad |= CR0_EM | CR0_TS;
	if (r->space == ENC_EVEX && r->l != L_IG && i->l < 2)
		t->what |= THUNK_VL;
}

/* Bytes of an unbroadcast operand of code @size. */
static unsigned full_size(unsigned size, const struct insn *i)
{
	switch (size) {
	case OS_HX: return 8u << i->l;
	case OS_QX: return 4u << i->l;
	case OS_OX: return 2u << i->l;
	default: return 16u << i->l;
	}
}

static void head_memory(struct thunk *t, const struct insn *i, const struct insn_row *r)
{
	const struct operand_info *o = NULL;

	for (unsigned n = 0; n < ARRAY_SIZE(r->operand) && !o; n++) {
		unsigned kind = operand_info[r->operand[n]].kind;

		if (kind == OK_E || kind == OK_M || kind == OK_W || kind == OK_Q || kind == OK_KE)
			o = &operand_info[r->operand[n]];
	}
	t->access = r->attr & (A_WRITE | A_RMW) ? ACC_WRITE : ACC_READ;
	/* A masked store leaves bytes alone, and so does an x87 store that ends in an unmasked exception. */
	t->reads = (r->attr & (A_RMW | A_X87)) || i->aaa;
	if (r->attr & (A_ALIGN | A_MM))
		t->align = (u8)(i->mem_size - 1);
	t->misaligned = !(r->attr & A_MM) ? MISALIGNED_GP : r->attr & A_ALIGN ? MISALIGNED_MM : MISALIGNED_FINE;
	if (!o || !i->aaa || (r->attr & A_NF))
		return;
	t->what |= THUNK_MASK;
	t->elem = r->attr & A_E8 ? 1 : r->attr & A_E16 ? 2 : i->w ? 8 : 4;
	if (o->size >= OS_X1 && o->size <= OS_X8) {
		t->what |= THUNK_COMPACT;
		t->elem = (u8)(1u << (o->size - OS_X1));
	}
	t->nr_mask = r->l == L_IG ? 1 : (u8)(full_size(o->size, i) / t->elem);
}

unsigned thunk_build(struct thunk *t, u8 *out, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	struct emit e = {.p = out, .i = i, .r = r};

	find_uses(&e.u, i, r);
	*t = (struct thunk){.flags_written = (r->flags_written | r->flags_undefined) & FL_ARITH,
			    .xinuse = xinuse_of(&e.u, i, r)};
	if (r->attr & A_MXCSR)
		t->what |= THUNK_MXCSR;
	if (r->flags_read || r->flags_written)
		t->what |= THUNK_FLAGS;
	if (r->attr & A_MMX)
		t->what |= THUNK_MMX | THUNK_WAIT;
	if (r->attr & A_X87)
		t->what |= THUNK_X87 | (r->attr & A_NOWAIT ? 0 : THUNK_WAIT);
	head_gates(t, i, r);
	if (i->is_mem)
		head_memory(t, i, r);
	if (!map_gprs(&e))
		return 0;
	emit_entry(&e, t);
	if (!emit_insn(&e))
		return 0;
	emit_exit(&e, t);
	return (unsigned)(e.p - out);
}
