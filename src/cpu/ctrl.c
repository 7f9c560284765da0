/* Control and debug registers, EFER, XCR0: what may be written, and what a write entails (SDM vol. 3A, 2.5, 2.6). */
#include "cpu/cpuid.h"
#include "cpu/debug.h"
#include "cpu/exception.h"
#include "cpu/insn.h"
#include "cpu/mmu.h"
#include "cpu/seg.h"
#include "cpu/segment.h"

#define CR0_DEFINED (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)

/* PAE paging outside long mode keeps its four top entries in registers. */
static bool uses_pdptes(u64 cr0, u64 cr4, u64 efer)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LME);
}

void cr0_write(struct cpu *c, u64 v)
{
	u64 changed = (v ^ c->cr0) & CR0_DEFINED;
	bool paging_on = v & changed & CR0_PG, paging_off = changed & CR0_PG && !paging_on;

	if (v >> 32 || ((v & CR0_PG) && !(v & CR0_PE)) || ((v & CR0_NW) && !(v & CR0_CD)))
		raise_gp0(c);
	if (paging_on && (c->efer & EFER_LME)) {
		/* Long mode is entered from PAE paging, 32-bit code and with a 32-bit TSS. */
		const struct segment *tr = &c->seg[SEG_TR];
		if (!(c->cr4 & CR4_PAE) || c->seg[SEG_CS].l || (!tr->unusable && !(tr->type & SYS_WIDE)))
			raise_gp0(c);
	}
	if (paging_off && ((c->cr4 & CR4_PCIDE) || c->mode == MODE_64))
		raise_gp0(c);
	if ((changed & (CR0_PG | CR0_CD | CR0_NW)) && uses_pdptes(v, c->cr4, c->efer) && !mmu_load_pdptes(c, c->cr3))
		raise_gp0(c);
	c->cr0 = (v & CR0_DEFINED) | CR0_ET;
	if (paging_on && (c->efer & EFER_LME))
		c->efer |= EFER_LMA;
	if (paging_off)
		c->efer &= ~EFER_LMA;
	/* WP and the rest have TLB arrays of their own (enum mmu_index). */
	if (changed & CR0_PG)
		tlb_flush_all(c);
	cpu_update_mode(c);
}

void cr3_write(struct cpu *c, u64 v)
{
	bool keep = (c->cr4 & CR4_PCIDE) && (v & BIT64(63));

	if (c->cr4 & CR4_PCIDE)
		v &= ~BIT64(63);
	if (c->efer & EFER_LMA) {
		if (v >> c->maxphyaddr)
			raise_gp0(c);
	} else {
		v = (u32)v;
		if (uses_pdptes(c->cr0, c->cr4, c->efer) && !mmu_load_pdptes(c, v))
			raise_gp0(c);
	}
	tlb_switch(c, v, keep);
	c->cr3 = v;
}

/* The bits of CR4 that CPUID grants. VME and PVI are not on offer. */
u64 cr4_allowed(const struct cpu *c)
{
	static const struct { u64 bits; u8 isa; } row[] = {
		{CR4_TSD, ISA_TSC}, {CR4_DE, ISA_DE}, {CR4_PSE, ISA_PSE}, {CR4_PAE, ISA_PAE}, {CR4_MCE, ISA_MCE},
		{CR4_PGE, ISA_PGE}, {CR4_PCE, ISA_BASE}, {CR4_OSFXSR, ISA_FXSR}, {CR4_OSXMMEXCPT, ISA_SSE},
		{CR4_UMIP, ISA_UMIP}, {CR4_LA57, ISA_LA57}, {CR4_FSGSBASE, ISA_FSGSBASE}, {CR4_PCIDE, ISA_PCID},
		{CR4_OSXSAVE, ISA_XSAVE}, {CR4_SMEP, ISA_SMEP}, {CR4_SMAP, ISA_SMAP}, {CR4_PKE, ISA_PKU},
	};
	u64 allowed = 0;

	for (unsigned n = 0; n < ARRAY_SIZE(row); n++)
		if (cpu_has(c, row[n].isa))
			allowed |= row[n].bits;
	return allowed;
}

/* Changes that make TLB entries wrong. SMAP has an MMU index of its own. */
#define CR4_FLUSH (CR4_PSE | CR4_PAE | CR4_PGE | CR4_LA57 | CR4_SMEP | CR4_PKE)
#define CR4_PDPTE (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP)

void cr4_write(struct cpu *c, u64 v)
{
	u64 changed = v ^ c->cr4;
	bool lma = c->efer & EFER_LMA;

	if (v & ~c->cr4 & ~cr4_allowed(c))
		raise_gp0(c);
	if (lma && (!(v & CR4_PAE) || (changed & CR4_LA57)))
		raise_gp0(c);
	if ((v & changed & CR4_PCIDE) && (!lma || (c->cr3 & 0xfff)))
		raise_gp0(c);
	if ((changed & CR4_PDPTE) && uses_pdptes(c->cr0, v, c->efer) && !mmu_load_pdptes(c, c->cr3))
		raise_gp0(c);
	c->cr4 = v;
	if ((changed & CR4_FLUSH) || (changed & ~v & CR4_PCIDE))
		tlb_flush_all(c);
	cpu_update_mode(c);
}

bool efer_write(struct cpu *c, u64 v)
{
	u64 allowed = EFER_LMA;

	if (cpu_has(c, ISA_SYSCALL))
		allowed |= EFER_SCE;
	if (cpu_has(c, ISA_LM))
		allowed |= EFER_LME;
	if (cpu_has(c, ISA_NX))
		allowed |= EFER_NX;
	if (cpu_has(c, ISA_FFXSR))
		allowed |= EFER_FFXSR;
	if (cpu_has(c, ISA_AUTOIBRS))
		allowed |= EFER_AUTOIBRS;
	if (v & ~allowed)
		return false;
	v = (v & ~EFER_LMA) | (c->efer & EFER_LMA);
	u64 changed = v ^ c->efer;
	if ((changed & EFER_LME) && (c->cr0 & CR0_PG))
		return false;
	c->efer = v;
	if (changed & EFER_NX)
		tlb_flush_all(c);
	return true;
}

#define XCR0_X87 BIT64(0)
#define XCR0_SSE BIT64(1)
#define XCR0_AVX BIT64(2)
#define XCR0_MPX (3ull << 3)
#define XCR0_AVX512 (7ull << 5)

/* A set of components is there as a whole or not at all. */
static bool all_or_none(u64 v, u64 set)
{
	return !(v & set) || (v & set) == set;
}

bool xcr0_write(struct cpu *c, u64 v)
{
	const struct cpuid_entry *e = cpuid_find(c, 0xd, 0);
	u64 supported = e ? e->eax | (u64)e->edx << 32 : XCR0_X87 | XCR0_SSE;

	/* SDM vol. 1, 13.3 */
	if ((v & ~supported) || !(v & XCR0_X87) || ((v & XCR0_AVX) && !(v & XCR0_SSE)) || !all_or_none(v, XCR0_MPX) ||
	    !all_or_none(v, XCR0_AVX512) || ((v & XCR0_AVX512) && !(v & XCR0_AVX)))
		return false;
	c->xcr0 = v;
	return true;
}

/* --- Debug registers (SDM vol. 3B, 18.2) ------------------------------------------------------------------ */

#define DR6_WRITABLE 0xe00full
#define DR7_RESERVED 0xd800ull

/* DR4 and DR5 are other names of DR6 and DR7, unless CR4.DE forbids them. DR7.GD traps every access. */
static unsigned dr_number(struct cpu *c, unsigned n)
{
	if (n == 4 || n == 5) {
		if (c->cr4 & CR4_DE)
			raise_ud(c);
		n += 2;
	}
	if (c->dr7 & DR7_GD)
		raise_db(c, DR6_BD);
	return n;
}

u64 dr_read(struct cpu *c, unsigned n)
{
	n = dr_number(c, n);
	return n == 6 ? c->dr6 : n == 7 ? c->dr7 : c->dr[n & 3];
}

void dr_write(struct cpu *c, unsigned n, u64 v)
{
	n = dr_number(c, n);
	if (n >= 6 && v >> 32)
		raise_gp0(c);
	if (n == 6) {
		c->dr6 = (v & DR6_WRITABLE) | DR6_FIXED;
		return;
	}
	if (n == 7)
		c->dr7 = (v & ~DR7_RESERVED) | DR7_FIXED;
	else
		c->dr[n & 3] = v;
	debug_update(c);
}
