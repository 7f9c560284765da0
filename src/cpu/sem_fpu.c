/* x87 control instructions, EMMS, MXCSR, VZEROUPPER and VZEROALL: control words and whole files of registers. */
#include <string.h>

#include "cpu/fpu.h"
#include "cpu/fpu_check.h"
#include "cpu/mem.h"
#include "cpu/sem.h"

static void fcw_set(struct fpu_state *f, u16 v)
{
	fpu_set_fcw(f, v);
	f->xinuse |= XF(X87);
}

static void exec_fnstcw(struct cpu *c, const struct insn *i)
{
	x87_check(c);
	mem_write(c, i->seg, insn_la(c, i, 2, ACC_WRITE), 2, fx_get16(c->fpu.x87, FX_FCW));
}

static void exec_fnstsw(struct cpu *c, const struct insn *i)
{
	u16 fsw = fx_get16(c->fpu.x87, FX_FSW);

	x87_check(c);
	if (i->is_mem)
		mem_write(c, i->seg, insn_la(c, i, 2, ACC_WRITE), 2, fsw);
	else
		gpr_set(c, RAX * 8, 2, fsw);
}

static void exec_fldcw(struct cpu *c, const struct insn *i)
{
	x87_check(c);
	x87_wait(c);
	fcw_set(&c->fpu, (u16)mem_read(c, i->seg, insn_la(c, i, 2, ACC_READ), 2));
}

static void exec_fninit(struct cpu *c, const struct insn *i)
{
	x87_check(c);
	fpu_fninit(&c->fpu);
	c->fpu.xinuse |= XF(X87);
}

static void exec_fnclex(struct cpu *c, const struct insn *i)
{
	x87_check(c);
	fx_put16(c->fpu.x87, FX_FSW, fx_get16(c->fpu.x87, FX_FSW) & 0x7f00);
}

static void exec_fwait(struct cpu *c, const struct insn *i)
{
	if ((c->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		raise_fault(c, VEC_NM);
	x87_wait(c);
}

/* --- Environment (SDM vol. 1, 8.1.10) ------------------------------------------------------------------------ */

/* The two-bit tag of physical register @n: valid, zero, special, empty. */
static unsigned full_tag(const struct fpu_state *f, unsigned n)
{
	unsigned top = FSW_TOP(fx_get16(f->x87, FX_FSW));
	const u8 *st = f->x87 + FX_ST + 16 * ((n - top) & 7);
	u64 mantissa;
	u16 exponent = fx_get16(st, 8) & 0x7fff;

	if (!(f->x87[FX_FTW] & BIT(n)))
		return 3;
	memcpy(&mantissa, st, 8);
	if (!exponent && !mantissa)
		return 1;
	return exponent == 0 || exponent == 0x7fff || !(mantissa >> 63) ? 2 : 0;
}

static u16 full_tags(const struct fpu_state *f)
{
	unsigned tags = 0;

	for (unsigned n = 0; n < 8; n++)
		tags |= full_tag(f, n) << (2 * n);
	return (u16)tags;
}

static u8 abridged_tags(u16 tags)
{
	unsigned ftw = 0;

	for (unsigned n = 0; n < 8; n++)
		if ((tags >> (2 * n) & 3) != 3)
			ftw |= BIT(n);
	return (u8)ftw;
}

/* The seven words of an environment before they are cut to 16 or 32 bits; real mode keeps linear addresses. */
static void env_words(struct cpu *c, u32 w[7])
{
	const struct fpu_state *f = &c->fpu;
	u32 fop = fx_get16(f->x87, FX_FOP) & 0x7ff, fip, fdp;

	memcpy(&fip, f->x87 + FX_FIP, 4);
	memcpy(&fdp, f->x87 + FX_FDP, 4);
	w[0] = 0xffff0000 | fx_get16(f->x87, FX_FCW);
	w[1] = 0xffff0000 | fx_get16(f->x87, FX_FSW);
	w[2] = 0xffff0000 | full_tags(f);
	w[3] = fip;
	w[4] = fop << 16;
	w[5] = fdp;
	w[6] = 0xffff0000;
	if (cpu_protected(c))
		return;
	fip += (u32)c->seg[SEG_CS].base;
	fdp += (u32)c->seg[SEG_DS].base;
	w[3] = 0xffff0000 | (fip & 0xffff);
	w[4] = (fip >> 16) << 12 | fop;
	w[5] = 0xffff0000 | (fdp & 0xffff);
	w[6] = (fdp >> 16) << 12;
}

static unsigned env_size(const struct insn *i)
{
	return i->opsize == 2 ? 14 : 28;
}

static void env_store(struct cpu *c, const struct insn *i, u8 *to)
{
	u32 w[7];

	env_words(c, w);
	if (i->opsize == 2) {
		if (cpu_protected(c))
			w[4] = 0;
		for (unsigned n = 0; n < 7; n++)
			fx_put16(to, 2 * n, (u16)w[n]);
	} else {
		memcpy(to, w, 28);
	}
}

static void env_load(struct cpu *c, const struct insn *i, const u8 *from)
{
	struct fpu_state *f = &c->fpu;
	unsigned step = i->opsize == 2 ? 2 : 4;
	u64 fip = 0, fdp = 0;
	u16 fop = 0;

	memcpy(&fip, from + 3 * step, step);
	memcpy(&fdp, from + 5 * step, step);
	if (!cpu_protected(c)) {
		u32 w4 = 0, w6 = 0;
		memcpy(&w4, from + 4 * step, step);
		memcpy(&w6, from + 6 * step, step);
		fip = (u32)((fip & 0xffff) + (w4 >> 12 << 16) - (u32)c->seg[SEG_CS].base);
		fdp = (u32)((fdp & 0xffff) + (w6 >> 12 << 16) - (u32)c->seg[SEG_DS].base);
		fop = w4 & 0x7ff;
	} else if (step == 4) {
		fop = fx_get16(from, 18) & 0x7ff;
	}
	fpu_set_fsw(f, fx_get16(from, step));
	f->x87[FX_FTW] = abridged_tags(fx_get16(from, 2 * step));
	fx_put16(f->x87, FX_FOP, fop);
	memcpy(f->x87 + FX_FIP, &fip, 8);
	memcpy(f->x87 + FX_FDP, &fdp, 8);
	fcw_set(f, fx_get16(from, 0));
}

/* FSTENV leaves all exceptions masked, and so none pending. */
static void exec_fnstenv(struct cpu *c, const struct insn *i)
{
	u8 env[28];

	x87_check(c);
	env_store(c, i, env);
	mem_write_block(c, i->seg, insn_la(c, i, env_size(i), ACC_WRITE), env, env_size(i));
	fcw_set(&c->fpu, fx_get16(c->fpu.x87, FX_FCW) | 0x3f);
}

static void exec_fldenv(struct cpu *c, const struct insn *i)
{
	u8 env[28];

	x87_check(c);
	x87_wait(c);
	mem_read_block(c, i->seg, insn_la(c, i, env_size(i), ACC_READ), env, env_size(i));
	env_load(c, i, env);
}

static void exec_fnsave(struct cpu *c, const struct insn *i)
{
	u8 image[28 + 80];
	unsigned env = env_size(i);

	x87_check(c);
	env_store(c, i, image);
	for (unsigned n = 0; n < 8; n++)
		memcpy(image + env + 10 * n, c->fpu.x87 + FX_ST + 16 * n, 10);
	mem_write_block(c, i->seg, insn_la(c, i, env + 80, ACC_WRITE), image, env + 80);
	fpu_fninit(&c->fpu);
}

static void exec_frstor(struct cpu *c, const struct insn *i)
{
	u8 image[28 + 80];
	unsigned env = env_size(i);

	x87_check(c);
	x87_wait(c);
	mem_read_block(c, i->seg, insn_la(c, i, env + 80, ACC_READ), image, env + 80);
	env_load(c, i, image);
	for (unsigned n = 0; n < 8; n++)
		memcpy(c->fpu.x87 + FX_ST + 16 * n, image + env + 10 * n, 10);
}

/* --- MMX, MXCSR, upper halves -------------------------------------------------------------------------------- */

static void exec_emms(struct cpu *c, const struct insn *i)
{
	mmx_check(c);
	fpu_enter_mmx(&c->fpu);
	c->fpu.x87[FX_FTW] = 0;
}

static void exec_ldmxcsr(struct cpu *c, const struct insn *i)
{
	vector_check(c, i);
	u32 v = (u32)mem_read(c, i->seg, insn_la(c, i, 4, ACC_READ), 4);

	if (v & ~mxcsr_mask())
		raise_gp0(c);
	c->fpu.mxcsr = v;
}

static void exec_stmxcsr(struct cpu *c, const struct insn *i)
{
	vector_check(c, i);
	mem_write(c, i->seg, insn_la(c, i, 4, ACC_WRITE), 4, c->fpu.mxcsr);
}

/* Registers 8 and up are out of reach of other modes. */
static void zero_registers(struct cpu *c, unsigned from, u64 components)
{
	unsigned n = c->code_bits == 64 ? 16 : 8;

	for (unsigned r = 0; r < n; r++)
		memset(c->fpu.zmm[r] + from, 0, 64 - from);
	if (n == 16)
		c->fpu.xinuse &= ~components;
}

static void exec_vzeroupper(struct cpu *c, const struct insn *i)
{
	vector_check(c, i);
	zero_registers(c, 16, XF(AVX) | XF(ZMM_HI256));
}

static void exec_vzeroall(struct cpu *c, const struct insn *i)
{
	vector_check(c, i);
	zero_registers(c, 0, XF(SSE) | XF(AVX) | XF(ZMM_HI256));
}

const struct sem sem_fnstcw = SEM1(exec_fnstcw);
const struct sem sem_fnstsw = SEM1(exec_fnstsw);
const struct sem sem_fldcw = SEM1(exec_fldcw);
const struct sem sem_fninit = SEM1(exec_fninit);
const struct sem sem_fnclex = SEM1(exec_fnclex);
const struct sem sem_fwait = SEM1(exec_fwait);
const struct sem sem_fnstenv = SEM1(exec_fnstenv);
const struct sem sem_fldenv = SEM1(exec_fldenv);
const struct sem sem_fnsave = SEM1(exec_fnsave);
const struct sem sem_frstor = SEM1(exec_frstor);
const struct sem sem_emms = SEM1(exec_emms);
const struct sem sem_ldmxcsr = SEM1(exec_ldmxcsr);
const struct sem sem_stmxcsr = SEM1(exec_stmxcsr);
const struct sem sem_vzeroupper = SEM1(exec_vzeroupper);
const struct sem sem_vzeroall = SEM1(exec_vzeroall);
