/* What FPU and vector instructions ask before they execute, for those with semantics in C (SDM vol. 2, 2.4, 2.8). */
#ifndef CPU_FPU_CHECK_H
#define CPU_FPU_CHECK_H

#include "cpu/exception.h"
#include "cpu/fpu.h"
#include "cpu/insn.h"

static inline void x87_check(struct cpu *c)
{
	if (unlikely(c->cr0 & (CR0_EM | CR0_TS)))
		raise_fault(c, VEC_NM);
}

/* A waiting x87 instruction, or an MMX one: an unmasked exception is pending. */
static inline void x87_wait(struct cpu *c)
{
	if (unlikely(fx_get16(c->fpu.x87, FX_FSW) & FSW_ES))
		raise_fault(c, VEC_MF);
}

static inline void mmx_check(struct cpu *c)
{
	if (unlikely(c->cr0 & CR0_EM))
		raise_ud(c);
	if (unlikely(c->cr0 & CR0_TS))
		raise_fault(c, VEC_NM);
	x87_wait(c);
}

static inline void sse_check(struct cpu *c)
{
	if (unlikely((c->cr0 & CR0_EM) || !(c->cr4 & CR4_OSFXSR)))
		raise_ud(c);
	if (unlikely(c->cr0 & CR0_TS))
		raise_fault(c, VEC_NM);
}

/* VEX and EVEX, for the components @need of XCR0. Real mode has been looked at before (insn_check). */
static inline void avx_check(struct cpu *c, u64 need)
{
	if (unlikely(!(c->cr4 & CR4_OSXSAVE) || (~c->xcr0 & need)))
		raise_ud(c);
	if (unlikely(c->cr0 & CR0_TS))
		raise_fault(c, VEC_NM);
}

/* A memory operand not aligned as it must be: #GP(0), after #SS(0) for a stack address that is not canonical. */
static inline _Noreturn void raise_misaligned(struct cpu *c, const struct insn *i, u64 la)
{
	unsigned shift = 64 - c->maxlinear;

	if (i->seg == SEG_SS && c->code_bits == 64 && (u64)((s64)(la << shift) >> shift) != la)
		raise_error(c, VEC_SS, 0);
	raise_gp0(c);
}

/* By the row's attributes. */
static inline void vector_check(struct cpu *c, const struct insn *i)
{
	u32 attr = insn_rows[i->row].attr;

	if (attr & A_AVX512)
		avx_check(c, XF(SSE) | XF(AVX) | XF_AVX512);
	else if (attr & A_AVX)
		avx_check(c, XF(SSE) | XF(AVX));
	else
		sse_check(c);
}

#endif
