/* The other get/set ioctls on a vCPU: events, MP state, LAPIC, debugging, TSC, machine check. */
#include <errno.h>
#include <setjmp.h>
#include <string.h>

#include "cpu/debug.h"
#include "cpu/mmu.h"
#include "kvm/kvm.h"
#include "kvm/sigmask.h"
#include "kvm/uaccess.h"

/* --- KVM_GET/SET_VCPU_EVENTS -------------------------------------------------------------------------------- */

static void exception_get(const struct vcpu *v, struct kvm_vcpu_events *e)
{
	const struct event *pending = &v->exception, *ev = pending->type != EV_NONE ? pending : &v->cpu.inject;

	if (ev->type != EV_EXCEPTION)
		return;
	e->exception.injected = ev != pending || !v->vm->exception_payload;
	e->exception.pending = ev == pending;
	e->exception.nr = ev->vector;
	e->exception.has_error_code = ev->has_error;
	e->exception.error_code = ev->error;
	e->exception_has_payload = ev->has_payload;
	e->exception_payload = ev->payload;
}

void events_get(struct vcpu *v, struct kvm_vcpu_events *e)
{
	const struct event *in = &v->cpu.inject;
	const u8 shadow = v->cpu.int_shadow;

	memset(e, 0, sizeof(*e));
	exception_get(v, e);
	e->interrupt.injected = in->type == EV_EXTINT || in->type == EV_SOFTINT || v->irq_queued;
	e->interrupt.nr = v->irq_queued ? v->irq_vector : in->vector;
	if (!e->interrupt.injected)
		e->interrupt.nr = 0;
	e->interrupt.soft = in->type == EV_SOFTINT;
	e->interrupt.shadow = (shadow & SHADOW_STI ? KVM_X86_SHADOW_INT_STI : 0) |
			      (shadow & SHADOW_MOV_SS ? KVM_X86_SHADOW_INT_MOV_SS : 0);
	e->nmi.injected = in->type == EV_NMI;
	e->nmi.pending = (u8)MIN(v->nmi_pending + atomic_load(&v->nmi_queued), 2);
	e->nmi.masked = v->cpu.nmi_blocked;
	e->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;
	if (v->vm->exception_payload)
		e->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	if (v->vm->triple_fault_event) {
		e->triple_fault.pending = (atomic_load(&v->requests) & VREQ_TRIPLE_FAULT) != 0;
		e->flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	}
}

/* What is to be reinjected: at most one of them, in KVM's order. */
static void injected_set(struct vcpu *v, const struct kvm_vcpu_events *e)
{
	struct event *in = &v->cpu.inject;
	struct event exception = {
		.type = EV_EXCEPTION, .vector = e->exception.nr, .has_error = e->exception.has_error_code,
		.error = e->exception.error_code, .has_payload = e->exception_has_payload,
		.payload = e->exception_payload,
	};

	in->type = EV_NONE;
	v->exception.type = EV_NONE;
	v->irq_queued = false;
	if (e->exception.pending)
		v->exception = exception;
	if (e->exception.injected)
		*in = exception;
	else if (e->nmi.injected)
		*in = (struct event){.type = EV_NMI, .vector = VEC_NMI};
	else if (e->interrupt.injected)
		*in = (struct event){.type = e->interrupt.soft ? EV_SOFTINT : EV_EXTINT, .vector = e->interrupt.nr,
				     .insn_len = e->interrupt.soft ? 2 : 0};
}

int events_set(struct vcpu *v, const struct kvm_vcpu_events *events)
{
	const u32 known = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
			  KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_PAYLOAD |
			  KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	struct kvm_vcpu_events e = *events;

	if (e.flags & ~known)
		return -EINVAL;
	if (e.flags & KVM_VCPUEVENT_VALID_PAYLOAD) {
		if (!v->vm->exception_payload)
			return -EINVAL;
		if (e.exception.pending)
			e.exception.injected = 0;
		else
			e.exception_has_payload = 0;
	} else {
		e.exception.pending = 0;
		e.exception_has_payload = 0;
	}
	if ((e.exception.injected || e.exception.pending) && (e.exception.nr > 31 || e.exception.nr == VEC_NMI))
		return -EINVAL;
	/* There is no system management mode to be in. */
	if ((e.flags & KVM_VCPUEVENT_VALID_SMM) && (e.smi.smm || e.smi.pending))
		return -EINVAL;
	if ((e.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) && !v->vm->triple_fault_event)
		return -EINVAL;

	injected_set(v, &e);
	if (e.flags & KVM_VCPUEVENT_VALID_SHADOW)
		v->cpu.int_shadow = (e.interrupt.shadow & KVM_X86_SHADOW_INT_STI ? SHADOW_STI : 0) |
				    (e.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? SHADOW_MOV_SS : 0);
	v->cpu.nmi_blocked = e.nmi.masked;
	if (e.flags & KVM_VCPUEVENT_VALID_NMI_PENDING) {
		v->nmi_pending = 0;
		atomic_store(&v->nmi_queued, e.nmi.pending);
	}
	if (e.flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR)
		atomic_store(&v->sipi_vector, (u8)e.sipi_vector);
	if (e.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) {
		if (e.triple_fault.pending)
			atomic_fetch_or(&v->requests, VREQ_TRIPLE_FAULT);
		else
			atomic_fetch_and(&v->requests, ~VREQ_TRIPLE_FAULT);
	}
	return 0;
}

/* --- MP state, LAPIC, CR8 ------------------------------------------------------------------------------------- */

static void mp_state_get(struct vcpu *v, struct kvm_mp_state *s)
{
	vcpu_accept_events(v);
	if (v->mp_state == KVM_MP_STATE_HALTED && atomic_load(&v->unhalted))
		v->mp_state = KVM_MP_STATE_RUNNABLE;
	s->mp_state = v->mp_state;
}

static int mp_state_set(struct vcpu *v, const struct kvm_mp_state *s)
{
	switch (s->mp_state) {
	case KVM_MP_STATE_RUNNABLE:
		break;
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_HALTED:
	case KVM_MP_STATE_INIT_RECEIVED:
	case KVM_MP_STATE_SIPI_RECEIVED:
		if (!lapic_in_kernel(v))
			return -EINVAL;
		break;
	default:
		return -EINVAL;
	}
	if (s->mp_state == KVM_MP_STATE_SIPI_RECEIVED) {
		v->mp_state = KVM_MP_STATE_INIT_RECEIVED;
		atomic_fetch_or(&v->init_sipi, PENDING_SIPI);
	} else {
		v->mp_state = s->mp_state;
	}
	return 0;
}

static void lapic_get(struct vcpu *v, struct kvm_lapic_state *s)
{
	pthread_mutex_lock(&v->vm->irq_lock);
	lapic_get_state(&v->lapic, s);
	pthread_mutex_unlock(&v->vm->irq_lock);
}

static int lapic_set(struct vcpu *v, const struct kvm_lapic_state *s)
{
	pthread_mutex_lock(&v->vm->irq_lock);
	int r = lapic_set_state(&v->lapic, s);
	pthread_mutex_unlock(&v->vm->irq_lock);
	return r;
}

u64 vcpu_get_cr8(struct vcpu *v)
{
	if (!lapic_in_kernel(v))
		return v->cpu.cr8;
	pthread_mutex_lock(&v->vm->irq_lock);
	u64 cr8 = lapic_get_cr8(&v->lapic);
	pthread_mutex_unlock(&v->vm->irq_lock);
	return cr8;
}

bool vcpu_set_cr8(struct vcpu *v, u64 cr8)
{
	if (cr8 > 15)
		return false;
	v->cpu.cr8 = cr8;
	if (!lapic_in_kernel(v))
		return true;
	pthread_mutex_lock(&v->vm->irq_lock);
	lapic_set_cr8(&v->lapic, (u8)cr8);
	bool more = irqchip_has_interrupt(&v->vm->irqchip, &v->lapic);
	pthread_mutex_unlock(&v->vm->irq_lock);
	if (more)
		vcpu_request(v, VREQ_EVENT);
	return true;
}

/* KVM_INTERRUPT: an ExtINT from a PIC that is the client's. */
static int interrupt(struct vcpu *v, const struct kvm_interrupt *irq)
{
	if (irq->irq >= 256)
		return -EINVAL;
	if (!lapic_in_kernel(v)) {
		v->irq_queued = true;
		v->irq_vector = (u8)irq->irq;
		return 0;
	}
	if (pic_in_kernel(v->vm))
		return -ENXIO;
	if (v->extint_vector >= 0)
		return -EEXIST;
	v->extint_vector = (s32)irq->irq;
	return 0;
}

/* --- Debugging ---------------------------------------------------------------------------------------------------- */

static int guest_debug_set(struct vcpu *v, const struct kvm_guest_debug *d)
{
	struct cpu *c = &v->cpu;
	u32 control = d->control & KVM_GUESTDBG_ENABLE ? d->control : 0;

	if (d->control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP)) {
		if (v->exception.type != EV_NONE)
			return -EBUSY;
		v->exception = (struct event){
			.type = EV_EXCEPTION, .vector = d->control & KVM_GUESTDBG_INJECT_DB ? VEC_DB : VEC_BP,
		};
	}
	c->guest_debug = (control & KVM_GUESTDBG_SINGLESTEP ? GUEST_DEBUG_STEP : 0) |
			 (control & KVM_GUESTDBG_USE_SW_BP ? GUEST_DEBUG_SW_BP : 0) |
			 (control & KVM_GUESTDBG_USE_HW_BP ? GUEST_DEBUG_HW_BP : 0);
	/* A debugger has written its breakpoints into guest memory by now. */
	v->vm->ops->tlb_flush_all(c);
	for (int n = 0; n < 4; n++)
		c->guest_dr[n] = control & KVM_GUESTDBG_USE_HW_BP ? d->arch.debugreg[n] : 0;
	c->guest_dr7 = control & KVM_GUESTDBG_USE_HW_BP ? d->arch.debugreg[7] : 0;
	debug_update(c);
	return 0;
}

/* The walk reads guest memory, which may fault: under the engine's guard, as in a run. */
static int translate(struct vcpu *v, struct kvm_translation *t)
{
	struct cpu *c = &v->cpu;
	volatile bool mapped = false;
	bool writable = false, user = false;
	u64 gpa = 0;
	jmp_buf unwind;

	pthread_mutex_lock(&v->vm->slots_lock);
	c->map = atomic_load(&v->vm->map);
	v->vm->ops->vcpu_load(c);
	c->unwind = &unwind;
	c->in_engine = true;
	if (_setjmp(unwind) == 0)
		mapped = mmu_translate(c, t->linear_address, &gpa, &writable, &user);
	c->in_engine = false;
	c->unwind = NULL;
	v->vm->ops->vcpu_put(c);
	c->map = NULL;
	pthread_mutex_unlock(&v->vm->slots_lock);
	t->physical_address = mapped ? gpa : ~0ull;
	t->valid = mapped;
	t->writeable = 1; /* KVM says so of every page */
	t->usermode = 0;
	return 0;
}

/* --- Machine check ----------------------------------------------------------------------------------------------- */

#define MSR_MCG_CAP 0x179
#define MCE_MAX_BANKS 32
#define MCG_CTL_P BIT64(8)
#define MCG_SER_P BIT64(24)
#define MCE_SUPPORTED (MCG_CTL_P | MCG_SER_P)

static int mce_setup(struct vcpu *v, u64 cap)
{
	u32 banks = cap & 0xff;

	if (!banks || banks > MCE_MAX_BANKS || cap & ~(MCE_SUPPORTED | 0xff | 0xff0000))
		return -EINVAL;
	return msr_write(&v->cpu, MSR_MCG_CAP, cap, true) == MSR_OK ? 0 : -EINVAL;
}

/* --- Attributes -------------------------------------------------------------------------------------------------- */

static int tsc_attr(struct vcpu *v, unsigned cmd, unsigned long arg)
{
	struct kvm_device_attr a;

	if (uaccess_read(&a, (void *)arg, sizeof(a)))
		return -EFAULT;
	if (a.group != KVM_VCPU_TSC_CTRL || a.attr != KVM_VCPU_TSC_OFFSET)
		return -ENXIO;
	if (cmd == KVM_HAS_DEVICE_ATTR)
		return 0;
	if (cmd == KVM_GET_DEVICE_ATTR)
		return uaccess_write((void *)a.addr, &v->cpu.tsc_offset, sizeof(u64));
	u64 offset;
	if (uaccess_read(&offset, (void *)a.addr, sizeof(offset)))
		return -EFAULT;
	v->cpu.tsc_offset = offset;
	pthread_mutex_lock(&v->vm->clock_lock);
	v->vm->tsc_offset = offset;
	pthread_mutex_unlock(&v->vm->clock_lock);
	return 0;
}

static int signal_mask(struct vcpu *v, unsigned long arg)
{
	struct kvm_signal_mask head;
	sigset_t set;

	if (!arg)
		return sigmask_set(v, NULL);
	if (uaccess_read(&head, (void *)arg, sizeof(head)))
		return -EFAULT;
	if (head.len != 8) /* the kernel's sigset_t */
		return -EINVAL;
	sigemptyset(&set);
	if (uaccess_read(&set, (u8 *)arg + sizeof(head), 8))
		return -EFAULT;
	return sigmask_set(v, &set);
}

#define IN(var) (uaccess_read(&(var), (void *)arg, sizeof(var)))
#define OUT(var) (uaccess_write((void *)arg, &(var), sizeof(var)))

static long ioctl_interrupts(struct vcpu *v, unsigned cmd, unsigned long arg)
{
	union {
		struct kvm_vcpu_events events;
		struct kvm_mp_state mp;
		struct kvm_lapic_state lapic;
		struct kvm_interrupt irq;
		struct kvm_tpr_access_ctl tpr;
		struct kvm_vapic_addr vapic;
	} u;

	switch (cmd) {
	case KVM_GET_VCPU_EVENTS:
		events_get(v, &u.events);
		return OUT(u.events);
	case KVM_SET_VCPU_EVENTS:
		return IN(u.events) ? -EFAULT : events_set(v, &u.events);
	case KVM_GET_MP_STATE:
		mp_state_get(v, &u.mp);
		return OUT(u.mp);
	case KVM_SET_MP_STATE:
		return IN(u.mp) ? -EFAULT : mp_state_set(v, &u.mp);
	case KVM_GET_LAPIC:
		if (!lapic_in_kernel(v))
			return -EINVAL;
		lapic_get(v, &u.lapic);
		return OUT(u.lapic);
	case KVM_SET_LAPIC:
		if (!lapic_in_kernel(v))
			return -EINVAL;
		return IN(u.lapic) ? -EFAULT : lapic_set(v, &u.lapic);
	case KVM_INTERRUPT:
		return IN(u.irq) ? -EFAULT : interrupt(v, &u.irq);
	case KVM_NMI:
		atomic_fetch_add(&v->nmi_queued, 1);
		return 0;
	case KVM_TPR_ACCESS_REPORTING: /* TPR accesses cost nothing extra here: nothing to report or to patch */
		if (IN(u.tpr))
			return -EFAULT;
		return u.tpr.flags ? -EINVAL : OUT(u.tpr);
	case KVM_SET_VAPIC_ADDR:
		if (!lapic_in_kernel(v))
			return -EINVAL;
		return IN(u.vapic) ? -EFAULT : 0;
	default:
		return -ENOTTY;
	}
}

long vcpu_ioctl_state(struct vcpu *v, unsigned cmd, unsigned long arg)
{
	union {
		struct kvm_guest_debug debug;
		struct kvm_translation t;
		u64 mcg_cap;
	} u;
	long r = ioctl_interrupts(v, cmd, arg);

	if (r != -ENOTTY)
		return r;
	switch (cmd) {
	case KVM_SET_GUEST_DEBUG:
		return IN(u.debug) ? -EFAULT : guest_debug_set(v, &u.debug);
	case KVM_TRANSLATE:
		if (IN(u.t))
			return -EFAULT;
		r = translate(v, &u.t);
		return r ? r : OUT(u.t);
	case KVM_X86_SETUP_MCE:
		return IN(u.mcg_cap) ? -EFAULT : mce_setup(v, u.mcg_cap);
	case KVM_SET_TSC_KHZ:
		return vcpu_set_tsc_khz(v, (u32)arg);
	case KVM_GET_TSC_KHZ:
		return v->tsc_khz;
	case KVM_KVMCLOCK_CTRL:
		if (!v->clock_area.enabled)
			return -EINVAL;
		v->clock_stopped = true;
		atomic_fetch_or(&v->requests, VREQ_CLOCK);
		return 0;
	case KVM_SET_SIGNAL_MASK:
		return signal_mask(v, arg);
	case KVM_HAS_DEVICE_ATTR:
	case KVM_GET_DEVICE_ATTR:
	case KVM_SET_DEVICE_ATTR:
		return tsc_attr(v, cmd, arg);
	default:
		return -ENOTTY;
	}
}
