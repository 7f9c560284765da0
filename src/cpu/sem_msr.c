/* MSRs and what is near them: CPUID, time stamp, FS/GS base, fast system calls, XCR0, PKRU, random numbers. */
#include "cpu/cpuid.h"
#include "cpu/mmu.h"
#include "cpu/msr.h"
#include "cpu/sem_util.h"

static void done(struct cpu *c, const struct insn *i)
{
	c->rip = insn_next(c, i);
}

/* EDX:EAX = @v; both upper halves are cleared. */
static void set_edx_eax(struct cpu *c, u64 v)
{
	c->gpr[RAX] = (u32)v;
	c->gpr[RDX] = v >> 32;
}

static u64 edx_eax(const struct cpu *c)
{
	return (u64)(u32)c->gpr[RDX] << 32 | (u32)c->gpr[RAX];
}

static void cpuid(struct cpu *c, const struct insn *i)
{
	u32 out[4];

	if (cpuid_faulting(c))
		raise_gp0(c);
	cpuid_execute(c, c->gpr[RAX], c->gpr[RCX], out);
	c->gpr[RAX] = out[0];
	c->gpr[RBX] = out[1];
	c->gpr[RCX] = out[2];
	c->gpr[RDX] = out[3];
}

static void tsc_check(struct cpu *c)
{
	if ((c->cr4 & CR4_TSD) && c->cpl > 0)
		raise_gp0(c);
}

static void rdtsc(struct cpu *c, const struct insn *i)
{
	tsc_check(c);
	set_edx_eax(c, cpu_rdtsc(c));
}

static void rdtscp(struct cpu *c, const struct insn *i)
{
	tsc_check(c);
	set_edx_eax(c, cpu_rdtsc(c));
	c->gpr[RCX] = (u32)c->tsc_aux;
}

static void rdpid(struct cpu *c, const struct insn *i)
{
	c->gpr[i->rm & 15] = c->code_bits == 64 ? c->tsc_aux : (u32)c->tsc_aux;
}

/* There are no performance counters: every index is invalid. */
static void rdpmc(struct cpu *c, const struct insn *i)
{
	raise_gp0(c);
}

static void rdmsr(struct cpu *c, const struct insn *i)
{
	u32 index = c->gpr[RCX];
	u64 v = 0;

	switch (c->msr_exits ? MSR_OUTSIDE : msr_read(c, index, &v, false)) {
	case MSR_OK: break;
	case MSR_OUTSIDE: v = cpu_io(c, IO_RDMSR, index, 8, 0); break;
	default: raise_gp0(c);
	}
	set_edx_eax(c, v);
	done(c, i);
}

static void wrmsr(struct cpu *c, const struct insn *i)
{
	u32 index = c->gpr[RCX];
	u64 v = edx_eax(c);

	switch (c->msr_exits ? MSR_OUTSIDE : msr_write(c, index, v, false)) {
	case MSR_OK: break;
	case MSR_OUTSIDE: cpu_io(c, IO_WRMSR, index, 8, v); break;
	default: raise_gp0(c);
	}
	done(c, i);
}

SEM_ONE(cpuid, cpuid)
SEM_ONE(rdtsc, rdtsc)
SEM_ONE(rdtscp, rdtscp)
SEM_ONE(rdpid, rdpid)
SEM_ONE(rdpmc, rdpmc)
SEM_ONE(rdmsr, rdmsr)
SEM_ONE(wrmsr, wrmsr)

/* --- FS and GS base ------------------------------------------------------------------------------- */

static void swapgs(struct cpu *c, const struct insn *i)
{
	u64 gs = c->seg[SEG_GS].base;

	c->seg[SEG_GS].base = c->kernel_gs_base;
	c->kernel_gs_base = gs;
}

static ALWAYS_INLINE void read_base(struct cpu *c, const struct insn *i, enum seg_reg seg)
{
	if (!(c->cr4 & CR4_FSGSBASE))
		raise_ud(c);
	gpr_set(c, i->rm_off, i->opsize, c->seg[seg].base);
}

static ALWAYS_INLINE void write_base(struct cpu *c, const struct insn *i, enum seg_reg seg)
{
	u64 v = gpr_get(c, i->rm_off, i->opsize);

	if (!(c->cr4 & CR4_FSGSBASE))
		raise_ud(c);
	if (!la_canonical(c, v))
		raise_gp0(c);
	c->seg[seg].base = v;
}

static void rdfsbase(struct cpu *c, const struct insn *i)
{
	read_base(c, i, SEG_FS);
}

static void rdgsbase(struct cpu *c, const struct insn *i)
{
	read_base(c, i, SEG_GS);
}

static void wrfsbase(struct cpu *c, const struct insn *i)
{
	write_base(c, i, SEG_FS);
}

static void wrgsbase(struct cpu *c, const struct insn *i)
{
	write_base(c, i, SEG_GS);
}

SEM_ONE(swapgs, swapgs)
SEM_ONE(rdfsbase, rdfsbase)
SEM_ONE(rdgsbase, rdgsbase)
SEM_ONE(wrfsbase, wrfsbase)
SEM_ONE(wrgsbase, wrgsbase)

/* --- Fast system calls ---------------------------------------------------------------------------- */

static void syscall_(struct cpu *c, const struct insn *i)
{
	fast_syscall(c, insn_next(c, i));
}

static void sysret(struct cpu *c, const struct insn *i)
{
	fast_sysret(c, i->opsize);
}

static void sysenter(struct cpu *c, const struct insn *i)
{
	fast_sysenter(c, insn_next(c, i));
}

static void sysexit(struct cpu *c, const struct insn *i)
{
	fast_sysexit(c, i->opsize);
}

SEM_ONE(syscall, syscall_)
SEM_ONE(sysret, sysret)
SEM_ONE(sysenter, sysenter)
SEM_ONE(sysexit, sysexit)

/* --- AC, XCR0, PKRU ------------------------------------------------------------------------------- */

static ALWAYS_INLINE void set_ac(struct cpu *c, const struct insn *i, u64 ac)
{
	if (c->cpl > 0)
		raise_ud(c);
	c->rflags = (c->rflags & ~FL_AC) | ac;
	cpu_update_mode(c);
	done(c, i);
}

static void stac(struct cpu *c, const struct insn *i)
{
	set_ac(c, i, FL_AC);
}

static void clac(struct cpu *c, const struct insn *i)
{
	set_ac(c, i, 0);
}

static void xgetbv(struct cpu *c, const struct insn *i)
{
	u32 index = c->gpr[RCX];

	if (!(c->cr4 & CR4_OSXSAVE))
		raise_ud(c);
	if (index == 1 && (c->isa[ISA_XGETBV1 / 64] >> (ISA_XGETBV1 % 64) & 1))
		set_edx_eax(c, c->fpu.xinuse & c->xcr0);
	else if (index == 0)
		set_edx_eax(c, c->xcr0);
	else
		raise_gp0(c);
}

static void xsetbv(struct cpu *c, const struct insn *i)
{
	if (!(c->cr4 & CR4_OSXSAVE))
		raise_ud(c);
	if (c->cpl > 0 || (u32)c->gpr[RCX] || !xcr0_write(c, edx_eax(c)))
		raise_gp0(c);
	done(c, i);
}

static void rdpkru(struct cpu *c, const struct insn *i)
{
	if (!(c->cr4 & CR4_PKE))
		raise_ud(c);
	if ((u32)c->gpr[RCX])
		raise_gp0(c);
	set_edx_eax(c, c->fpu.pkru);
}

static void wrpkru(struct cpu *c, const struct insn *i)
{
	if (!(c->cr4 & CR4_PKE))
		raise_ud(c);
	if ((u32)c->gpr[RCX] || (u32)c->gpr[RDX])
		raise_gp0(c);
	c->fpu.pkru = c->gpr[RAX];
	tlb_flush_pkru(c);
	done(c, i);
}

SEM_ONE(stac, stac)
SEM_ONE(clac, clac)
SEM_ONE(xgetbv, xgetbv)
SEM_ONE(xsetbv, xsetbv)
SEM_ONE(rdpkru, rdpkru)
SEM_ONE(wrpkru, wrpkru)

/* --- RDRAND, RDSEED: the host's, tried often enough that a failure says something ----------------- */

#define HOST_RANDOM(insn)                                                                  \
	static bool host_##insn(u64 *v)                                                    \
	{                                                                                  \
		bool ok = false;                                                           \
                                                                                           \
		for (unsigned n = 0; n < 32 && !ok; n++)                                   \
			asm volatile(#insn " %0\n\tsetc %1" : "=r"(*v), "=q"(ok) : : "cc"); \
		return ok;                                                                 \
	}
HOST_RANDOM(rdrand)
HOST_RANDOM(rdseed)

static void set_random(struct cpu *c, const struct insn *i, bool ok, u64 v)
{
	gpr_set(c, i->rm_off, i->opsize, ok ? v : 0);
	c->rflags = (c->rflags & ~FL_ARITH) | (ok ? FL_CF : 0);
}

static void rdrand(struct cpu *c, const struct insn *i)
{
	u64 v = 0;
	bool ok = host_rdrand(&v);

	set_random(c, i, ok, v);
}

static void rdseed(struct cpu *c, const struct insn *i)
{
	u64 v = 0;
	bool ok = host_rdseed(&v);

	set_random(c, i, ok, v);
}

SEM_ONE(rdrand, rdrand)
SEM_ONE(rdseed, rdseed)
