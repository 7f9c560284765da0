/* FXSAVE, FXRSTOR and the XSAVE family (SDM vol. 1, 10.5, 13.5 to 13.12). No supervisor components: IA32_XSS is 0. */
#include <string.h>

#include "cpu/fpu.h"
#include "cpu/fpu_check.h"
#include "cpu/mem.h"
#include "cpu/mmu.h"
#include "cpu/sem.h"

#define SSE_OR_AVX (XF(SSE) | XF(AVX))

/* Without REX.W the pointers are 32 bits wide and selectors stand beside them; those are not kept and read as 0. */
static void narrow_pointers(u8 *legacy, const struct insn *i)
{
	if (i->rex & 8)
		return;
	memset(legacy + FX_FIP + 4, 0, 4);
	memset(legacy + FX_FDP + 4, 0, 4);
}

static void put_mxcsr(const struct fpu_state *f, u8 *legacy)
{
	const u32 mask = mxcsr_mask();

	memcpy(legacy + FX_MXCSR, &f->mxcsr, 4);
	memcpy(legacy + FX_MXCSR_MASK, &mask, 4);
}

/* The last byte first, as AMD's processors do. */
static void probe_area(struct cpu *c, const struct insn *i, u64 la, unsigned size)
{
	mem_probe(c, i->seg, la + size - 1, 1, ACC_WRITE);
	mem_probe(c, i->seg, la, size, ACC_WRITE);
}

static unsigned xmm_end(const struct cpu *c)
{
	return FX_XMM + (c->code_bits == 64 ? 256 : 128);
}

/* --- FXSAVE -------------------------------------------------------------------------------------------------- */

static u64 fx_la(struct cpu *c, const struct insn *i, enum access acc)
{
	x87_check(c);
	u64 la = insn_la(c, i, 512, acc);

	if (la & 15)
		raise_misaligned(c, i, la);
	return la;
}

static void exec_fxsave(struct cpu *c, const struct insn *i)
{
	u64 la = fx_la(c, i, ACC_WRITE);
	bool long_mode = c->code_bits == 64;
	u8 image[512] = {0};

	xcomp_save(&c->fpu, XC_X87, image, long_mode);
	xcomp_save(&c->fpu, XC_SSE, image, long_mode);
	narrow_pointers(image, i);
	put_mxcsr(&c->fpu, image);
	probe_area(c, i, la, 512);
	mem_write_block(c, i->seg, la, image, xmm_end(c));
}

static void exec_fxrstor(struct cpu *c, const struct insn *i)
{
	u64 la = fx_la(c, i, ACC_READ);
	bool long_mode = c->code_bits == 64;
	u8 image[512];
	u32 mxcsr;

	mem_read_block(c, i->seg, la, image, 512);
	memcpy(&mxcsr, image + FX_MXCSR, 4);
	if (mxcsr & ~mxcsr_mask())
		raise_gp0(c);
	narrow_pointers(image, i);
	xcomp_load(&c->fpu, XC_X87, image, long_mode);
	xcomp_load(&c->fpu, XC_SSE, image, long_mode);
	c->fpu.mxcsr = mxcsr;
}

/* --- XSAVE --------------------------------------------------------------------------------------------------- */

enum xsave_kind { XSAVE_PLAIN, XSAVE_OPT, XSAVE_COMPACTED };

static u64 requested(const struct cpu *c)
{
	return ((u64)(u32)c->gpr[RDX] << 32 | (u32)c->gpr[RAX]) & c->xcr0;
}

static u64 xsave_la(struct cpu *c, const struct insn *i, unsigned size, enum access acc)
{
	if (!(c->cr4 & CR4_OSXSAVE))
		raise_ud(c);
	if (c->cr0 & CR0_TS)
		raise_fault(c, VEC_NM);
	u64 la = insn_la(c, i, size, acc);

	if (la & 63)
		raise_misaligned(c, i, la);
	return la;
}

/* How many of the @size bytes of component @n the current mode reaches. */
static unsigned reach(const struct cpu *c, unsigned n, unsigned size)
{
	if (c->code_bits == 64)
		return size;
	return n == XC_HI16_ZMM ? 0 : n == XC_AVX || n == XC_ZMM_HI256 ? size / 2 : size;
}

/* Straight to where it belongs, if that is one piece of the host's memory. */
static void write_legacy(struct cpu *c, const struct insn *i, u64 la, u64 save, bool mxcsr)
{
	u8 bounce[XSAVE_LEGACY], *host = mem_host(c, i->seg, la, XSAVE_LEGACY, ACC_WRITE);
	u8 *image = host ? host : bounce;

	if (save & XF(X87)) {
		xcomp_save(&c->fpu, XC_X87, image, true);
		narrow_pointers(image, i);
	}
	if (mxcsr)
		put_mxcsr(&c->fpu, image);
	if (save & XF(SSE))
		xcomp_save(&c->fpu, XC_SSE, image, c->code_bits == 64);
	if (host)
		return;
	if (save & XF(X87)) {
		mem_write_block(c, i->seg, la, image, FX_MXCSR);
		mem_write_block(c, i->seg, la + FX_ST, image + FX_ST, FX_XMM - FX_ST);
	}
	if (mxcsr)
		mem_write_block(c, i->seg, la + FX_MXCSR, image + FX_MXCSR, 8);
	if (save & XF(SSE))
		mem_write_block(c, i->seg, la + FX_XMM, image + FX_XMM, xmm_end(c) - FX_XMM);
}

static void write_extended(struct cpu *c, const struct insn *i, u64 la, unsigned n, unsigned size)
{
	u8 bounce[16 * 64], *host;
	unsigned len = reach(c, n, size);

	if (!len)
		return;
	host = mem_host(c, i->seg, la, len, ACC_WRITE);
	xcomp_save(&c->fpu, n, host ? host : bounce, c->code_bits == 64);
	if (!host)
		mem_write_block(c, i->seg, la, bounce, len);
}

static void xsave(struct cpu *c, const struct insn *i, enum xsave_kind kind)
{
	u64 rfbm = requested(c), xinuse = c->fpu.xinuse & rfbm, header[2] = {0}, save = rfbm;
	bool compacted = kind == XSAVE_COMPACTED, mxcsr = rfbm & SSE_OR_AVX;
	u64 xcomp = compacted ? rfbm | XCOMP_COMPACTED : 0;
	struct xpart part[NR_XC] = {{0}};
	unsigned size = xsave_parts(rfbm, xcomp, part);
	u64 la = xsave_la(c, i, size, ACC_WRITE);

	probe_area(c, i, la, size);
	if (compacted && (rfbm & XF(SSE)) && c->fpu.mxcsr != MXCSR_RESET)
		xinuse |= XF(SSE);
	if (kind != XSAVE_PLAIN)
		save = xinuse;
	if (compacted)
		mxcsr = save & XF(SSE);
	else
		header[0] = mem_read(c, i->seg, la + XSAVE_BV, 8) & ~rfbm;
	header[0] |= xinuse;
	header[1] = xcomp;
	write_legacy(c, i, la, save, mxcsr);
	mem_write(c, i->seg, la + XSAVE_BV, 8, header[0]);
	if (compacted)
		mem_write(c, i->seg, la + XSAVE_XCOMP_BV, 8, header[1]);
	for (unsigned n = XC_AVX; n < NR_XC; n++)
		if (save & BIT64(n))
			write_extended(c, i, la + part[n].offset, n, part[n].size);
}

static void exec_xsave(struct cpu *c, const struct insn *i)
{
	xsave(c, i, XSAVE_PLAIN);
}

static void exec_xsaveopt(struct cpu *c, const struct insn *i)
{
	xsave(c, i, XSAVE_OPT);
}

static void exec_xsavec(struct cpu *c, const struct insn *i)
{
	xsave(c, i, XSAVE_COMPACTED);
}

/* --- XRSTOR -------------------------------------------------------------------------------------------------- */

/* The header's conditions (SDM vol. 1, 13.8); @only_compacted: XRSTORS. */
static void check_header(struct cpu *c, const u64 header[8], bool only_compacted)
{
	u64 bv = header[0], xcomp = header[1], reserved = 0;

	for (unsigned n = xcomp & XCOMP_COMPACTED ? 2 : 1; n < (xcomp & XCOMP_COMPACTED ? 8 : 3); n++)
		reserved |= header[n];
	if (reserved)
		raise_gp0(c);
	if (xcomp & XCOMP_COMPACTED) {
		if (!cpu_has(c, ISA_XSAVEC) || (xcomp & ~XCOMP_COMPACTED & ~c->xcr0) || (bv & ~xcomp))
			raise_gp0(c);
	} else if (only_compacted || (bv & ~c->xcr0)) {
		raise_gp0(c);
	}
}

/* MXCSR belongs to SSE in the compacted format; in the standard one it is loaded whatever XSTATE_BV says. */
static u32 mxcsr_to_load(struct cpu *c, const u8 *legacy, u64 rfbm, u64 bv, bool compacted)
{
	u32 mxcsr;

	memcpy(&mxcsr, legacy + FX_MXCSR, 4);
	if (!(rfbm & (compacted ? XF(SSE) : SSE_OR_AVX)))
		return c->fpu.mxcsr;
	if (compacted && !(bv & XF(SSE)))
		return MXCSR_RESET;
	if (mxcsr & ~mxcsr_mask())
		raise_gp0(c);
	return mxcsr;
}

/* What is to be read: where it is, if that is one piece of the host's memory; else a copy in @bounce. */
static const u8 *open_part(struct cpu *c, const struct insn *i, u64 la, unsigned size, u8 *bounce)
{
	const u8 *host = mem_host(c, i->seg, la, size, ACC_READ);

	if (!host)
		mem_read_block(c, i->seg, la, bounce, size);
	return host ? host : bounce;
}

/*
 * Other processors may write to the area meanwhile: what is checked is read once. Nothing changes before all of it is
 * readable.
 */
static void xrstor(struct cpu *c, const struct insn *i, bool only_compacted)
{
	bool long_mode = c->code_bits == 64;
	u64 rfbm = requested(c), la = xsave_la(c, i, XSAVE_EXTENDED, ACC_READ), header[8];
	u8 bounce[NR_XC][16 * 64];
	struct xpart at[NR_XC] = {{0}};
	const u8 *part[NR_XC] = {NULL}, *legacy = open_part(c, i, la, XSAVE_EXTENDED, bounce[0]);

	memcpy(header, legacy + XSAVE_BV, sizeof(header));
	check_header(c, header, only_compacted);
	u64 bv = header[0], xcomp = header[1], load = rfbm & bv;
	xsave_la(c, i, xsave_parts(load, xcomp, at), ACC_READ);
	u32 mxcsr = mxcsr_to_load(c, legacy, rfbm, bv, xcomp & XCOMP_COMPACTED);
	for (unsigned n = XC_AVX; n < NR_XC; n++) {
		unsigned len = reach(c, n, at[n].size);
		if (len)
			part[n] = open_part(c, i, la + at[n].offset, len, bounce[n]);
	}
	part[XC_X87] = part[XC_SSE] = legacy;

	u32 pkru = c->fpu.pkru;
	c->fpu.mxcsr = mxcsr;
	for (unsigned n = 0; n < NR_XC; n++)
		if ((load & BIT64(n)) && part[n])
			xcomp_load(&c->fpu, n, part[n], long_mode);
		else if (rfbm & ~bv & BIT64(n))
			xcomp_reset(&c->fpu, n, long_mode);
	if (load & XF(X87))
		narrow_pointers(c->fpu.x87, i);
	if (pkru != c->fpu.pkru)
		tlb_flush_all(c);
}

static void exec_xrstor(struct cpu *c, const struct insn *i)
{
	xrstor(c, i, false);
}

static void exec_xrstors(struct cpu *c, const struct insn *i)
{
	xrstor(c, i, true);
}

const struct sem sem_fxsave = SEM1(exec_fxsave);
const struct sem sem_fxrstor = SEM1(exec_fxrstor);
const struct sem sem_xsave = SEM1(exec_xsave);
const struct sem sem_xsaveopt = SEM1(exec_xsaveopt);
const struct sem sem_xsavec = SEM1(exec_xsavec);
const struct sem sem_xrstor = SEM1(exec_xrstor);
const struct sem sem_xrstors = SEM1(exec_xrstors);
