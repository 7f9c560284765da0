/* KVM_GET/SET_REGS, SREGS, SREGS2, FPU, XSAVE, XCRS, DEBUGREGS: the processor's registers in the ABI's structures. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/debug.h"
#include "cpu/fpu.h"
#include "cpu/mmu.h"
#include "cpu/seg.h"
#include "kvm/kvm.h"
#include "kvm/uaccess.h"

/* struct kvm_regs names the general registers in another order than the processor numbers them. */
void regs_get(const struct vcpu *v, struct kvm_regs *r)
{
	const u64 *g = v->cpu.gpr;

	*r = (struct kvm_regs){
		.rax = g[RAX], .rbx = g[RBX], .rcx = g[RCX], .rdx = g[RDX],
		.rsi = g[RSI], .rdi = g[RDI], .rsp = g[RSP], .rbp = g[RBP],
		.r8 = g[R8], .r9 = g[R9], .r10 = g[R10], .r11 = g[R11],
		.r12 = g[R12], .r13 = g[R13], .r14 = g[R14], .r15 = g[R15],
		.rip = v->cpu.rip, .rflags = v->cpu.rflags,
	};
}

/* An instruction that waits for the client is given up when the client moves RIP away from it. */
static void drop_instruction(struct vcpu *v)
{
	cpu_io_retire(&v->cpu);
	v->cpu.delivering.type = EV_NONE;
	v->wait = 0;
}

void regs_set(struct vcpu *v, const struct kvm_regs *r)
{
	struct cpu *c = &v->cpu;
	const u64 g[16] = {r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
			   r->r8, r->r9, r->r10, r->r11, r->r12, r->r13, r->r14, r->r15};

	if (r->rip != c->rip)
		drop_instruction(v);
	memcpy(c->gpr, g, sizeof(g));
	c->rip = r->rip;
	c->rflags = r->rflags | FL_FIXED1;
	v->exception.type = EV_NONE;
	cpu_update_mode(c);
}

/* --- Segments and control registers -------------------------------------------------------------------- */

static void segment_get(const struct segment *s, struct kvm_segment *k)
{
	*k = (struct kvm_segment){
		.base = s->base, .limit = s->limit, .selector = s->selector, .type = s->type, .present = s->present,
		.dpl = s->dpl, .db = s->db, .s = s->s, .l = s->l, .g = s->g, .avl = s->avl, .unusable = s->unusable,
	};
}

static void segment_set(struct segment *s, const struct kvm_segment *k)
{
	*s = (struct segment){
		.base = k->base, .limit = k->limit, .selector = k->selector, .type = k->type & 15,
		.present = k->present & 1, .dpl = k->dpl & 3, .db = k->db & 1, .s = k->s & 1, .l = k->l & 1,
		.g = k->g & 1, .avl = k->avl & 1, .unusable = k->unusable || !k->present,
	};
}

/* Where kvm_sregs keeps each segment register. */
#define SREGS_SEGMENTS(X)                                                               \
	X(cs, SEG_CS) X(ds, SEG_DS) X(es, SEG_ES) X(fs, SEG_FS) X(gs, SEG_GS) X(ss, SEG_SS) \
	X(tr, SEG_TR) X(ldt, SEG_LDTR)

/* The part that kvm_sregs and kvm_sregs2 share: all but their ends. */
static void sregs_get_common(struct vcpu *v, struct kvm_sregs *s)
{
	const struct cpu *c = &v->cpu;

	memset(s, 0, sizeof(*s));
#define X(field, seg_) segment_get(&c->seg[seg_], &s->field);
	SREGS_SEGMENTS(X)
#undef X
	s->gdt.base = c->gdtr.base;
	s->gdt.limit = c->gdtr.limit;
	s->idt.base = c->idtr.base;
	s->idt.limit = c->idtr.limit;
	s->cr0 = c->cr0;
	s->cr2 = c->cr2;
	s->cr3 = c->cr3;
	s->cr4 = c->cr4;
	s->cr8 = vcpu_get_cr8(v);
	s->efer = c->efer;
	s->apic_base = c->apic_base;
}

void sregs_get(struct vcpu *v, struct kvm_sregs *s)
{
	int vector = -1;

	sregs_get_common(v, s);
	if (v->cpu.inject.type == EV_EXTINT)
		vector = v->cpu.inject.vector;
	else if (v->irq_queued)
		vector = v->irq_vector;
	if (vector >= 0)
		s->interrupt_bitmap[vector / 64] |= BIT64(vector % 64);
}

/* What no processor can be in (SDM vol. 3A, 2.2.1 and 2.5). */
static bool sregs_valid(const struct vcpu *v, const struct kvm_sregs *s)
{
	if ((s->efer & EFER_LME) && (s->cr0 & CR0_PG)) {
		if (!(s->cr4 & CR4_PAE) || !(s->efer & EFER_LMA) || s->cr3 >> v->cpu.maxphyaddr)
			return false;
	} else if ((s->efer & EFER_LMA) || s->cs.l) {
		return false;
	}
	if (s->cr4 & ~cr4_allowed(&v->cpu))
		return false;
	/* Reserved bits of CR0's lower half are ignored, as by MOV. */
	return !(s->cr0 >> 32) && (!(s->cr0 & CR0_NW) || (s->cr0 & CR0_CD)) &&
		(!(s->cr0 & CR0_PG) || (s->cr0 & CR0_PE));
}

/* PAE paging keeps the four top entries in registers (SDM vol. 3A, 4.4.1). */
static bool pae_paging(const struct cpu *c)
{
	return (c->cr0 & CR0_PG) && (c->cr4 & CR4_PAE) && !(c->efer & EFER_LMA);
}

static void load_pdptes(struct vcpu *v)
{
	pthread_mutex_lock(&v->vm->slots_lock);
	if (guest_read(atomic_load(&v->vm->map), v->cpu.cr3 & 0xffffffe0, v->cpu.pdpte, sizeof(v->cpu.pdpte)))
		memset(v->cpu.pdpte, 0, sizeof(v->cpu.pdpte));
	pthread_mutex_unlock(&v->vm->slots_lock);
}

static int sregs_set_common(struct vcpu *v, const struct kvm_sregs *s)
{
	struct cpu *c = &v->cpu;

	if (!sregs_valid(v, s) || vcpu_wrmsr(v, 0x1b, s->apic_base, true) != MSR_OK)
		return -EINVAL;
#define X(field, seg_) segment_set(&c->seg[seg_], &s->field);
	SREGS_SEGMENTS(X)
#undef X
	c->gdtr = (struct dtable){s->gdt.base, s->gdt.limit};
	c->idtr = (struct dtable){s->idt.base, s->idt.limit};
	c->cr0 = s->cr0 | CR0_ET;
	c->cr2 = s->cr2;
	c->cr3 = s->cr3;
	c->cr4 = s->cr4;
	c->efer = s->efer;
	vcpu_set_cr8(v, s->cr8);
	cpu_update_mode(c);
	v->vm->ops->tlb_flush_all(c);
	/* Clients that know no MP states start the bootstrap processor by putting it at the reset vector. */
	if (v->id == v->vm->boot_cpu_id && c->rip == 0xfff0 && s->cs.selector == 0xf000 && s->cs.base == 0xffff0000 &&
	    !(s->cr0 & CR0_PE))
		v->mp_state = KVM_MP_STATE_RUNNABLE;
	return 0;
}

int sregs_set(struct vcpu *v, const struct kvm_sregs *s)
{
	int r = sregs_set_common(v, s);

	if (r)
		return r;
	if (pae_paging(&v->cpu))
		load_pdptes(v);
	for (int n = 0; n < 4; n++) {
		if (!s->interrupt_bitmap[n])
			continue;
		v->cpu.inject = (struct event){.type = EV_EXTINT,
					       .vector = (u8)(n * 64 + __builtin_ctzll(s->interrupt_bitmap[n]))};
		break;
	}
	return 0;
}

/* kvm_sregs2 is kvm_sregs with flags and the PDPTEs in place of the interrupt bitmap. */
_Static_assert(offsetof(struct kvm_sregs2, flags) == offsetof(struct kvm_sregs, interrupt_bitmap), "common part");

static void sregs2_get(struct vcpu *v, struct kvm_sregs2 *s2)
{
	struct kvm_sregs s;

	sregs_get_common(v, &s);
	memset(s2, 0, sizeof(*s2));
	memcpy(s2, &s, offsetof(struct kvm_sregs, interrupt_bitmap));
	if (pae_paging(&v->cpu)) {
		s2->flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
		memcpy(s2->pdptrs, v->cpu.pdpte, sizeof(s2->pdptrs));
	}
}

static int sregs2_set(struct vcpu *v, const struct kvm_sregs2 *s2)
{
	bool given = s2->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;
	struct kvm_sregs s = {0};

	if (s2->flags & ~(u64)KVM_SREGS2_FLAGS_PDPTRS_VALID)
		return -EINVAL;
	if (given && (!(s2->cr0 & CR0_PG) || !(s2->cr4 & CR4_PAE) || (s2->efer & EFER_LMA)))
		return -EINVAL;
	memcpy(&s, s2, offsetof(struct kvm_sregs, interrupt_bitmap));
	int r = sregs_set_common(v, &s);
	if (r)
		return r;
	if (given)
		memcpy(v->cpu.pdpte, s2->pdptrs, sizeof(s2->pdptrs));
	else if (pae_paging(&v->cpu))
		load_pdptes(v);
	return 0;
}

/* --- Floating point and vectors -------------------------------------------------------------------------- */

static void fpu_get(const struct vcpu *v, struct kvm_fpu *k)
{
	const struct fpu_state *f = &v->cpu.fpu;

	memset(k, 0, sizeof(*k));
	memcpy(k->fpr, f->x87 + FX_ST, sizeof(k->fpr));
	k->fcw = fx_get16(f->x87, FX_FCW);
	k->fsw = fx_get16(f->x87, FX_FSW);
	k->ftwx = f->x87[FX_FTW];
	k->last_opcode = fx_get16(f->x87, FX_FOP);
	memcpy(&k->last_ip, f->x87 + FX_FIP, 8);
	memcpy(&k->last_dp, f->x87 + FX_FDP, 8);
	for (int n = 0; n < 16; n++)
		memcpy(k->xmm[n], f->zmm[n], 16);
	k->mxcsr = f->mxcsr;
}

static void fpu_set(struct vcpu *v, const struct kvm_fpu *k)
{
	struct fpu_state *f = &v->cpu.fpu;

	memcpy(f->x87 + FX_ST, k->fpr, sizeof(k->fpr));
	fx_put16(f->x87, FX_FSW, k->fsw);
	f->x87[FX_FTW] = k->ftwx;
	fx_put16(f->x87, FX_FOP, k->last_opcode);
	memcpy(f->x87 + FX_FIP, &k->last_ip, 8);
	memcpy(f->x87 + FX_FDP, &k->last_dp, 8);
	fpu_set_fcw(f, k->fcw);
	for (int n = 0; n < 16; n++)
		memcpy(f->zmm[n], k->xmm[n], 16);
	f->mxcsr = k->mxcsr & mxcsr_mask();
	f->xinuse |= XF(X87) | XF(SSE);
}

static int xsave_get(const struct vcpu *v, unsigned long arg, size_t size)
{
	u8 *area = calloc(1, size);

	if (!area)
		return -ENOMEM;
	fpu_to_xsave(&v->cpu.fpu, xsave_supported(), area, (unsigned)size);
	int r = uaccess_write((void *)arg, area, size);
	free(area);
	return r;
}

static int xsave_set(struct vcpu *v, unsigned long arg, size_t size)
{
	u8 *area = malloc(size);

	if (!area)
		return -ENOMEM;
	int r = uaccess_read(area, (void *)arg, size);
	if (r == 0 && !fpu_from_xsave(&v->cpu.fpu, xsave_supported(), area, (unsigned)size))
		r = -EINVAL;
	tlb_flush_pkru(&v->cpu);
	free(area);
	return r;
}

static size_t xsave2_size(void)
{
	return MAX(sizeof(struct kvm_xsave), (size_t)xsave_size(xsave_supported(), false));
}

static void xcrs_get(const struct vcpu *v, struct kvm_xcrs *x)
{
	memset(x, 0, sizeof(*x));
	x->nr_xcrs = 1;
	x->xcrs[0].value = v->cpu.xcr0;
}

static int xcrs_set(struct vcpu *v, const struct kvm_xcrs *x)
{
	if (x->nr_xcrs > KVM_MAX_XCRS || x->flags)
		return -EINVAL;
	for (u32 n = 0; n < x->nr_xcrs; n++)
		if (x->xcrs[n].xcr == 0)
			return xcr0_write(&v->cpu, x->xcrs[n].value) ? 0 : -EINVAL;
	return 0;
}

static void debugregs_get(const struct vcpu *v, struct kvm_debugregs *d)
{
	memset(d, 0, sizeof(*d));
	memcpy(d->db, v->cpu.dr, sizeof(d->db));
	d->dr6 = v->cpu.dr6;
	d->dr7 = v->cpu.dr7;
}

static int debugregs_set(struct vcpu *v, const struct kvm_debugregs *d)
{
	if (d->flags || d->dr6 >> 32 || d->dr7 >> 32)
		return -EINVAL;
	memcpy(v->cpu.dr, d->db, sizeof(d->db));
	v->cpu.dr6 = (d->dr6 & ~(u64)BIT(12)) | DR6_FIXED;
	v->cpu.dr7 = (d->dr7 & 0xffff2bff) | DR7_FIXED;
	debug_update(&v->cpu);
	return 0;
}

/* A structure in from the client, a call; a call, a structure out. */
#define GET(type, get)                                                              \
	({                                                                          \
		struct type s_;                                                     \
		get(v, &s_);                                                        \
		uaccess_write((void *)arg, &s_, sizeof(s_));                        \
	})
#define SET(type, set)                                                              \
	({                                                                          \
		struct type s_;                                                     \
		uaccess_read(&s_, (void *)arg, sizeof(s_)) ? -EFAULT : set(v, &s_); \
	})

static int regs_set_ok(struct vcpu *v, const struct kvm_regs *r)
{
	regs_set(v, r);
	return 0;
}

static int fpu_set_ok(struct vcpu *v, const struct kvm_fpu *f)
{
	fpu_set(v, f);
	return 0;
}

long vcpu_ioctl_regs(struct vcpu *v, unsigned cmd, unsigned long arg)
{
	switch (cmd) {
	case KVM_GET_REGS:
		return GET(kvm_regs, regs_get);
	case KVM_SET_REGS:
		return SET(kvm_regs, regs_set_ok);
	case KVM_GET_SREGS:
		return GET(kvm_sregs, sregs_get);
	case KVM_SET_SREGS:
		return SET(kvm_sregs, sregs_set);
	case KVM_GET_SREGS2:
		return GET(kvm_sregs2, sregs2_get);
	case KVM_SET_SREGS2:
		return SET(kvm_sregs2, sregs2_set);
	case KVM_GET_FPU:
		return GET(kvm_fpu, fpu_get);
	case KVM_SET_FPU:
		return SET(kvm_fpu, fpu_set_ok);
	case KVM_GET_XSAVE:
		return xsave_get(v, arg, sizeof(struct kvm_xsave));
	case KVM_GET_XSAVE2:
		return xsave_get(v, arg, xsave2_size());
	case KVM_SET_XSAVE:
		return xsave_set(v, arg, xsave2_size());
	case KVM_GET_XCRS:
		return GET(kvm_xcrs, xcrs_get);
	case KVM_SET_XCRS:
		return SET(kvm_xcrs, xcrs_set);
	case KVM_GET_DEBUGREGS:
		return GET(kvm_debugregs, debugregs_get);
	case KVM_SET_DEBUGREGS:
		return SET(kvm_debugregs, debugregs_set);
	default:
		return -ENOTTY;
	}
}
