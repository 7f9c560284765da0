/* What a guest that knows KVM may use: its MSRs, hypercalls, steal time, PV EOI (msr.rst, hypercalls.rst). */
#include <asm/kvm_para.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm_para.h>
#include <sched.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvm/kvm.h"

#define STEAL_INTERVAL_NS 200000u

/* --- MSRs ---------------------------------------------------------------------------------------------------- */

/* With KVM_CAP_ENFORCE_PV_FEATURE_CPUID a feature that CPUID does not show is not there. */
static bool offered(const struct vcpu *v, unsigned feature)
{
	return !v->pv_enforce || cpuid_has(&v->cpu, KVM_CPUID_FEATURES, 0, 0, feature);
}

/* The feature that @index belongs to, or -1 when there is no such register. */
static int msr_pv_feature(u32 index)
{
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_SYSTEM_TIME:
		return KVM_FEATURE_CLOCKSOURCE;
	case MSR_KVM_WALL_CLOCK_NEW:
	case MSR_KVM_SYSTEM_TIME_NEW:
		return KVM_FEATURE_CLOCKSOURCE2;
	case MSR_KVM_STEAL_TIME:
		return KVM_FEATURE_STEAL_TIME;
	case MSR_KVM_PV_EOI_EN:
		return KVM_FEATURE_PV_EOI;
	case MSR_KVM_POLL_CONTROL:
		return KVM_FEATURE_POLL_CONTROL;
	default:
		return -1;
	}
}

static void set_area(struct pv_area *a, u64 value, u64 mask)
{
	a->enabled = value & KVM_MSR_ENABLED;
	a->gpa = value & mask;
}

enum msr_result pv_wrmsr(struct vcpu *v, u32 index, u64 value, bool host)
{
	int feature = msr_pv_feature(index);

	if (feature < 0 || (!host && !offered(v, (unsigned)feature)))
		return MSR_UNKNOWN;
	switch (feature) {
	case KVM_FEATURE_CLOCKSOURCE:
	case KVM_FEATURE_CLOCKSOURCE2:
		if (index == MSR_KVM_WALL_CLOCK || index == MSR_KVM_WALL_CLOCK_NEW) {
			v->vm->wall_clock = value;
			if (!host)
				pv_wall_clock(v, value);
			return MSR_OK;
		}
		v->msr_system_time = value;
		set_area(&v->clock_area, value, ~1ull);
		vcpu_request(v, VREQ_CLOCK);
		return MSR_OK;
	case KVM_FEATURE_STEAL_TIME:
		if (value & KVM_STEAL_RESERVED_MASK)
			return MSR_INVALID;
		v->msr_steal_time = value;
		set_area(&v->steal_area, value, KVM_STEAL_VALID_BITS);
		v->steal_started = false;
		vcpu_request(v, VREQ_STEAL);
		return MSR_OK;
	case KVM_FEATURE_PV_EOI:
		if (value & 2)
			return MSR_INVALID;
		v->msr_pv_eoi = value;
		set_area(&v->eoi_area, value, ~1ull);
		return MSR_OK;
	default: /* the guest polls before it halts: nothing changes for us */
		if (value & ~1ull)
			return MSR_INVALID;
		v->msr_poll_control = value;
		return MSR_OK;
	}
}

enum msr_result pv_rdmsr(struct vcpu *v, u32 index, u64 *value, bool host)
{
	int feature = msr_pv_feature(index);

	if (feature < 0 || (!host && !offered(v, (unsigned)feature)))
		return MSR_UNKNOWN;
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		*value = v->vm->wall_clock;
		break;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		*value = v->msr_system_time;
		break;
	case MSR_KVM_STEAL_TIME:
		*value = v->msr_steal_time;
		break;
	case MSR_KVM_PV_EOI_EN:
		*value = v->msr_pv_eoi;
		break;
	default:
		*value = v->msr_poll_control;
		break;
	}
	return MSR_OK;
}

/* --- Steal time: for how long this thread was ready to run and did not ------------------------------------------ */

static bool run_delay(u64 *ns)
{
	char text[96];
	int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	ssize_t n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return false;
	text[n] = '\0';
	char *second = strchr(text, ' ');
	if (!second)
		return false;
	*ns = strtoull(second, NULL, 10);
	return true;
}

void pv_steal_update(struct vcpu *v)
{
	struct kvm_steal_time st;
	u64 now = timer_now(), delay, gpa = v->steal_area.gpa;

	if (!v->steal_area.enabled || (v->steal_started && now - v->steal_checked < STEAL_INTERVAL_NS))
		return;
	v->steal_checked = now;
	if (!run_delay(&delay))
		return;
	/* Another thread may run the vCPU now: its delay counts from here. */
	bool same_thread = v->steal_started && v->steal_thread == gettid();
	u64 stolen = same_thread && delay > v->steal_base ? delay - v->steal_base : 0;
	v->steal_base = delay;
	v->steal_thread = gettid();
	if (v->steal_started && !stolen)
		return;
	v->steal_started = true;
	if (guest_read(v->cpu.map, gpa, &st, sizeof(st)))
		return;
	st.version = (st.version | 1) + (st.version & 1 ? 2 : 0);
	guest_write(v->cpu.map, gpa + offsetof(struct kvm_steal_time, version), &st.version, sizeof(st.version));
	st.steal += stolen;
	st.preempted = 0;
	guest_write(v->cpu.map, gpa, &st.steal, sizeof(st.steal));
	guest_write(v->cpu.map, gpa + offsetof(struct kvm_steal_time, preempted), &st.preempted, 1);
	st.version++;
	guest_write(v->cpu.map, gpa + offsetof(struct kvm_steal_time, version), &st.version, sizeof(st.version));
}

/* --- PV EOI: a bit in guest memory by which the guest ends an interrupt without an exit -------------------------- */

/*
 * The byte of the area, read or written in place: this is on the way of every interrupt, and only cheap is good
 * enough. Faults of the client's mapping end in the engine's guard. False: the area is not there.
 */
static bool eoi_byte(struct vcpu *v, u8 *byte, bool write)
{
	struct cpu *c = &v->cpu;
	u64 gpa = v->eoi_area.gpa;
	const struct gpa_slot *s = gpa_find(c->map, gpa);
	jmp_buf unwind;

	if (!s || (s->flags & GPA_READONLY))
		return false;
	volatile u8 *at = s->hva + (gpa - s->gpa);
	volatile bool ok = false;
	c->unwind = &unwind;
	c->in_engine = true;
	if (_setjmp(unwind) == 0) {
		if (write)
			*at = *byte;
		else
			*byte = *at;
		ok = true;
	}
	c->in_engine = false;
	c->unwind = NULL;
	if (write)
		gpa_mark_dirty(s, gpa);
	return ok;
}

void pv_eoi_offer(struct vcpu *v)
{
	u8 on = KVM_PV_EOI_ENABLED;

	if (!v->eoi_area.enabled || !lapic_in_kernel(v))
		return;
	pthread_mutex_lock(&v->vm->irq_lock);
	bool allowed = lapic_pv_eoi_allowed(&v->lapic);
	pthread_mutex_unlock(&v->vm->irq_lock);
	v->eoi_offered = allowed && eoi_byte(v, &on, true);
}

/* The offer holds for one run: what comes next may need the exit. */
void pv_eoi_collect(struct vcpu *v)
{
	u8 byte = KVM_PV_EOI_ENABLED, off = KVM_PV_EOI_DISABLED;

	v->eoi_offered = false;
	if (!eoi_byte(v, &byte, false))
		return;
	if (byte & KVM_PV_EOI_MASK) {
		eoi_byte(v, &off, true);
		return;
	}
	pthread_mutex_lock(&v->vm->irq_lock);
	lapic_eoi(&v->lapic);
	bool more = irqchip_has_interrupt(&v->vm->irqchip, &v->lapic);
	pthread_mutex_unlock(&v->vm->irq_lock);
	if (more)
		vcpu_request(v, VREQ_EVENT);
}

/* --- Hypercalls -------------------------------------------------------------------------------------------------- */

static s64 hc_send_ipi(struct vcpu *v, u64 low, u64 high, u64 min, u64 icr)
{
	struct irqchip *chip = &v->vm->irqchip;
	struct apic_msg msg = {
		.vector = (u8)icr,
		.mode = icr >> 8 & 7,
		.assert = icr >> 14 & 1,
		.level = icr >> 15 & 1,
	};
	unsigned per_word = v->cpu.mode == MODE_64 ? 64 : 32;
	s64 count = 0;

	/* No destination mode, no shorthand, no destination in the ICR itself. */
	if (!lapic_in_kernel(v) || icr & (BIT64(11) | 3ull << 18))
		return -KVM_EINVAL;
	pthread_mutex_lock(&v->vm->irq_lock);
	for (unsigned n = 0; n < 2 * per_word; n++) {
		u64 word = n < per_word ? low : high;
		struct lapic *l;

		if (!(word >> (n % per_word) & 1))
			continue;
		l = irqchip_find_lapic(chip, (u32)(min + n));
		if (l && lapic_accept(l, &msg) > 0)
			count++;
	}
	pthread_mutex_unlock(&v->vm->irq_lock);
	return count;
}

static struct vcpu *vcpu_by_apic_id(struct vm *vm, u64 id)
{
	pthread_mutex_lock(&vm->irq_lock);
	struct lapic *l = irqchip_find_lapic(&vm->irqchip, (u32)id);
	pthread_mutex_unlock(&vm->irq_lock);
	return l ? l->vcpu : NULL;
}

/* A vCPU that halted, waiting for a lock, may go on. */
static s64 hc_kick_cpu(struct vcpu *v, u64 apic_id)
{
	struct vcpu *target = lapic_in_kernel(v) ? vcpu_by_apic_id(v->vm, apic_id) : NULL;

	if (target) {
		atomic_store(&target->unhalted, true);
		vcpu_request(target, VREQ_EVENT);
	}
	sched_yield();
	return 0;
}

static s64 hc_clock_pairing(struct vcpu *v, u64 gpa, u64 type)
{
	struct kvm_clock_pairing p = {0};
	u64 ns;

	if (type != KVM_CLOCK_PAIRING_WALLCLOCK)
		return -KVM_EOPNOTSUPP;
	u64 tsc;
	vcpu_clock_pairing(v, &ns, &tsc);
	p.tsc = tsc;
	p.sec = (s64)(ns / 1000000000u);
	p.nsec = (s64)(ns % 1000000000u);
	return guest_write(v->cpu.map, gpa, &p, sizeof(p)) ? -KVM_EFAULT : 0;
}

u64 pv_hypercall(struct vcpu *v)
{
	const struct cpu *c = &v->cpu;
	u64 mask = c->mode == MODE_64 ? ~0ull : 0xffffffffull;
	u64 a0 = c->gpr[RBX] & mask, a1 = c->gpr[RCX] & mask, a2 = c->gpr[RDX] & mask, a3 = c->gpr[RSI] & mask;
	s64 r = -KVM_ENOSYS;

	if (c->cpl != 0)
		return (u64)-KVM_EPERM & mask;
	switch (c->gpr[RAX] & mask) {
	case KVM_HC_VAPIC_POLL_IRQ:
		r = 0;
		break;
	case KVM_HC_KICK_CPU:
		if (offered(v, KVM_FEATURE_PV_UNHALT))
			r = hc_kick_cpu(v, a1);
		break;
	case KVM_HC_CLOCK_PAIRING:
		r = hc_clock_pairing(v, a0, a1);
		break;
	case KVM_HC_SEND_IPI:
		if (offered(v, KVM_FEATURE_PV_SEND_IPI))
			r = hc_send_ipi(v, a0, a1, a2, a3);
		break;
	case KVM_HC_SCHED_YIELD:
		if (offered(v, KVM_FEATURE_PV_SCHED_YIELD)) {
			sched_yield();
			r = 0;
		}
		break;
	}
	return (u64)r & mask;
}
