/* SYSCALL, SYSRET, SYSENTER, SYSEXIT: flat segments out of MSRs, no descriptor is read (SDM vol. 2, their pages). */
#include "cpu/cpuid.h"
#include "cpu/exception.h"
#include "cpu/mem.h"
#include "cpu/seg.h"

/* A flat segment at level @dpl, as these instructions load it. */
static struct segment flat(u16 selector, u8 type, unsigned dpl, bool l)
{
	return (struct segment){.limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .dpl = (u8)dpl,
				.db = !l, .s = 1, .l = l, .g = 1};
}

static struct segment flat_cs(u16 selector, unsigned cpl, bool l)
{
	return flat((u16)((selector & ~3) | cpl), 0xb, cpl, l);
}

static struct segment flat_ss(u16 selector, unsigned cpl)
{
	return flat((u16)((selector & ~3) | cpl), 3, cpl, false);
}

static void load_flat(struct cpu *c, u16 cs, u16 ss, unsigned cpl, bool l)
{
	c->seg[SEG_CS] = flat_cs(cs, cpl, l);
	c->seg[SEG_SS] = flat_ss(ss, cpl);
	cpu_update_mode(c);
}

void fast_syscall_segments(const struct cpu *c, unsigned cpl, bool l, struct segment *cs, struct segment *ss)
{
	u16 base = (u16)(c->star >> (cpl ? 48 : 32));

	*cs = flat_cs((u16)(base + (cpl && l ? 16 : 0)), cpl, l);
	*ss = flat_ss((u16)(base + 8), cpl);
}

void fast_syscall(struct cpu *c, u64 next)
{
	bool lma = c->efer & EFER_LMA;

	/* Outside 64-bit code only AMD's processors know it. */
	if (!(c->efer & EFER_SCE) || (c->mode != MODE_64 && (!cpu_protected(c) || !cpuid_amd(c))))
		raise_ud(c);
	c->gpr[RCX] = next;
	if (lma) {
		c->gpr[R11] = c->rflags & ~FL_RF;
		c->rip = c->mode == MODE_64 ? c->lstar : c->cstar;
		c->rflags = (c->rflags & ~c->fmask & ~FL_RF) | FL_FIXED1;
	} else {
		c->rip = (u32)c->star;
		c->rflags &= ~(FL_IF | FL_VM | FL_RF);
	}
	fast_syscall_segments(c, 0, lma, &c->seg[SEG_CS], &c->seg[SEG_SS]);
	cpu_update_mode(c);
}

void fast_sysret(struct cpu *c, unsigned size)
{
	bool wide = size == 8;

	if (!(c->efer & EFER_SCE) || (c->mode != MODE_64 && (!cpu_protected(c) || !cpuid_amd(c))))
		raise_ud(c);
	if (c->cpl || (wide && !la_canonical(c, c->gpr[RCX])))
		raise_gp0(c);
	if (c->efer & EFER_LMA) {
		/* RF and VM stay clear, reserved bits too; bit 1 is one. */
		c->rflags = (c->gpr[R11] & 0x3c7fd7) | FL_FIXED1;
	} else {
		c->rflags |= FL_IF;
	}
	c->rip = wide ? c->gpr[RCX] : (u32)c->gpr[RCX];
	fast_syscall_segments(c, 3, wide, &c->seg[SEG_CS], &c->seg[SEG_SS]);
	cpu_update_mode(c);
}

void fast_sysenter(struct cpu *c, u64 next)
{
	bool lma = c->efer & EFER_LMA;
	u16 cs = (u16)c->sysenter_cs & 0xfffc;

	/* AMD's processors do not know it in long mode. */
	if (lma && cpuid_amd(c))
		raise_ud(c);
	if (c->mode == MODE_REAL || !cs)
		raise_gp0(c);
	c->rflags &= ~(FL_VM | FL_IF | FL_RF);
	c->gpr[RSP] = lma ? c->sysenter_esp : (u32)c->sysenter_esp;
	c->rip = lma ? c->sysenter_eip : (u32)c->sysenter_eip;
	load_flat(c, cs, (u16)(cs + 8), 0, lma);
}

void fast_sysexit(struct cpu *c, unsigned size)
{
	u16 cs = (u16)c->sysenter_cs & 0xfffc;
	bool wide = size == 8;

	if (!cpu_protected(c) || c->cpl || !cs)
		raise_gp0(c);
	if ((c->efer & EFER_LMA) && cpuid_amd(c))
		raise_ud(c);
	if (wide && (!la_canonical(c, c->gpr[RCX]) || !la_canonical(c, c->gpr[RDX])))
		raise_gp0(c);
	c->gpr[RSP] = wide ? c->gpr[RCX] : (u32)c->gpr[RCX];
	c->rip = wide ? c->gpr[RDX] : (u32)c->gpr[RDX];
	load_flat(c, (u16)(cs + (wide ? 32 : 16)), (u16)(cs + (wide ? 40 : 24)), 3, wide);
}
