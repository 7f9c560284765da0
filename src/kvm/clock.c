/*
 * Time: the host's TSC rate, the guest's TSC (offset and scale), kvmclock.
 *
 * kvmclock runs on the host's TSC from a base that the whole VM shares, so that every vCPU reads the same time at
 * the same moment (PVCLOCK_TSC_STABLE_BIT); the page of each vCPU states that base on the vCPU's own TSC.
 */
#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <x86intrin.h>

#include "kvm/kvm.h"

#define NSEC_PER_SEC 1000000000ull
#define TSC_RATIO_ONE BIT64(48)
#define TSC_TOLERANCE_PPM 250 /* KVM's tsc_tolerance_ppm: closer rates are not worth a scale */
#define CALIBRATE_NS 4000000u

/* struct pvclock_vcpu_time_info and pvclock_wall_clock of the guest ABI (Documentation/virt/kvm/x86/msr.rst). */
struct pvclock_time {
	u32 version, pad0;
	u64 tsc_timestamp, system_time;
	u32 tsc_to_system_mul;
	s8 tsc_shift;
	u8 flags;
	u8 pad[2];
};
#define PVCLOCK_TSC_STABLE_BIT BIT(0)
#define PVCLOCK_GUEST_STOPPED BIT(1)

struct pvclock_wall {
	u32 version, sec, nsec;
};

/* --- The host's TSC --------------------------------------------------------------------------------------- */

struct clock_sample {
	u64 tsc, ns;
};

/* The two clocks at one moment: the closest of several tries. */
static struct clock_sample clock_sample(clockid_t id)
{
	struct clock_sample s = {0};
	u64 best = ~0ull;

	for (int i = 0; i < 8; i++) {
		u64 before = __rdtsc(), ns = clock_ns(id), after = __rdtsc();

		if (after - before < best) {
			best = after - before;
			s = (struct clock_sample){before + (after - before) / 2, ns};
		}
	}
	return s;
}

static struct clock_sample first_sample;
static u32 tsc_khz_measured;

/* kHz as the hypervisor below us (if any) or the processor itself state it, or 0. */
static u32 stated_tsc_khz(void)
{
	u32 a, b, c, d;

	__cpuid(0x40000000, a, b, c, d);
	if (a >= 0x40000010 && a < 0x40010000) {
		__cpuid(0x40000010, a, b, c, d);
		return a;
	}
	if (__get_cpuid(0x15, &a, &b, &c, &d) && a && b && c)
		return (u32)((u64)c * b / a / 1000);
	return 0;
}

static void take_first_sample(void)
{
	first_sample = clock_sample(CLOCK_MONOTONIC_RAW);
}

static void measure(void)
{
	struct clock_sample s;

	do
		s = clock_sample(CLOCK_MONOTONIC_RAW);
	while (s.ns - first_sample.ns < CALIBRATE_NS);
	u64 khz = (u64)((u128)(s.tsc - first_sample.tsc) * 1000000u / (s.ns - first_sample.ns));
	u64 stated = stated_tsc_khz();
	/* What is stated is exact, if it is true. */
	if (stated && stated > khz - khz / 2000 && stated < khz + khz / 2000)
		khz = stated;
	tsc_khz_measured = (u32)khz;
}

void host_tsc_start(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, take_first_sample);
}

u32 host_tsc_khz(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	host_tsc_start();
	pthread_once(&once, measure);
	return tsc_khz_measured;
}

/* ns = ((ticks << shift) * mul) >> 32, with a negative shift to the right (msr.rst, tsc_to_system_mul). */
static void clock_scale(u32 khz, u32 *mul, s8 *shift)
{
	u64 hz = (u64)khz * 1000;
	s8 s = 0;

	while (hz >> -s > 2 * NSEC_PER_SEC)
		s--;
	if (s == 0)
		while (hz << s <= NSEC_PER_SEC)
			s++;
	*mul = (u32)(s <= 0 ? ((u128)NSEC_PER_SEC << (32 - s)) / hz : ((u128)NSEC_PER_SEC << 32) / (hz << s));
	*shift = s;
}

static u64 ticks_to_ns(u64 ticks, u32 khz)
{
	return (u64)((u128)ticks * 1000000u / khz);
}

static u64 clock_at(const struct vm *vm, u64 host_tsc)
{
	return vm->clock_ns + ticks_to_ns(host_tsc - vm->clock_tsc, host_tsc_khz());
}

/* --- The guest's TSC ---------------------------------------------------------------------------------------- */

static u64 scaled(const struct vcpu *v, u64 host_tsc)
{
	return v->cpu.tsc_ratio == TSC_RATIO_ONE ? host_tsc : (u64)((u128)host_tsc * v->cpu.tsc_ratio >> 48);
}

u64 vcpu_tsc(struct vcpu *v)
{
	return cpu_rdtsc(&v->cpu);
}

u64 vcpu_tsc_to_ns(struct vcpu *v, u64 tsc)
{
	u64 now = timer_now(), at = vcpu_tsc(v);

	if (tsc <= at)
		return now;
	u128 ns = ((u128)(tsc - at) * 1000000u + v->tsc_khz - 1) / v->tsc_khz;
	return ns < (u128)(INT64_MAX - now) ? now + (u64)ns : INT64_MAX;
}

int vcpu_set_tsc_khz(struct vcpu *v, u32 khz)
{
	u32 host = host_tsc_khz(), tolerance = (u32)((u64)host * TSC_TOLERANCE_PPM / 1000000u);

	if (khz == 0)
		khz = host;
	v->tsc_khz = khz;
	v->cpu.tsc_ratio = khz >= host - tolerance && khz <= host + tolerance ? TSC_RATIO_ONE :
			   (u64)(((u128)khz << 48) / host);
	return 0;
}

/*
 * The client sets a TSC: at creation, at reset, after migration, vCPU after vCPU. A value that lies within a second
 * of what the last one set would have become by now is meant to be the same TSC (as KVM's kvm_synchronize_tsc).
 */
static void synchronize_tsc(struct vcpu *v, u64 value, bool by_client)
{
	struct vm *vm = v->vm;
	u64 now = __rdtsc(), hz = (u64)v->tsc_khz * 1000;

	pthread_mutex_lock(&vm->clock_lock);
	u64 expected = vm->tsc_written_value + scaled(v, now - vm->tsc_written_at);
	bool near = vm->tsc_user_set && value < expected + hz && value + hz > expected;
	bool same = vm->tsc_started && (value == 0 || near);
	if (by_client)
		vm->tsc_user_set = true;
	if (!same) {
		vm->tsc_offset = value - scaled(v, now);
		vm->tsc_started = true;
	}
	vm->tsc_written_value = value;
	vm->tsc_written_at = now;
	v->cpu.tsc_offset = vm->tsc_offset;
	pthread_mutex_unlock(&vm->clock_lock);
}

void vcpu_write_tsc(struct vcpu *v, u64 value)
{
	synchronize_tsc(v, value, true);
}

void vcpu_clock_init(struct vcpu *v)
{
	vcpu_set_tsc_khz(v, v->vm->tsc_khz);
	synchronize_tsc(v, 0, false);
}

/* --- kvmclock ---------------------------------------------------------------------------------------------------- */

void vm_clock_init(struct vm *vm)
{
	vm->clock_tsc = __rdtsc();
	vm->clock_ns = 0;
	vm->tsc_khz = host_tsc_khz();
}

u64 vm_clock_ns(struct vm *vm)
{
	pthread_mutex_lock(&vm->clock_lock);
	u64 ns = clock_at(vm, __rdtsc());
	pthread_mutex_unlock(&vm->clock_lock);
	return ns;
}

void vm_get_clock(struct vm *vm, struct kvm_clock_data *d)
{
	struct clock_sample s = clock_sample(CLOCK_REALTIME);

	memset(d, 0, sizeof(*d));
	pthread_mutex_lock(&vm->clock_lock);
	d->clock = clock_at(vm, s.tsc);
	pthread_mutex_unlock(&vm->clock_lock);
	d->flags = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
	d->realtime = s.ns;
	d->host_tsc = s.tsc;
}

int vm_set_clock(struct vm *vm, const struct kvm_clock_data *d)
{
	if (d->flags & ~(u32)(KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC))
		return -EINVAL;
	struct clock_sample s = clock_sample(CLOCK_REALTIME);
	u64 ns = d->clock;
	/* The guest's time went on since the moment that the client names. */
	if ((d->flags & KVM_CLOCK_REALTIME) && s.ns > d->realtime)
		ns += s.ns - d->realtime;
	pthread_mutex_lock(&vm->clock_lock);
	vm->clock_tsc = s.tsc;
	vm->clock_ns = ns;
	pthread_mutex_unlock(&vm->clock_lock);
	u32 nr = atomic_load(&vm->nr_vcpus);
	for (u32 i = 0; i < nr; i++)
		vcpu_request(vm->vcpu[i], VREQ_CLOCK);
	return 0;
}

void vcpu_clock_update(struct vcpu *v)
{
	struct vm *vm = v->vm;
	struct pvclock_time t = {.flags = PVCLOCK_TSC_STABLE_BIT};

	if (!v->clock_area.enabled)
		return;
	clock_scale(v->tsc_khz, &t.tsc_to_system_mul, &t.tsc_shift);
	pthread_mutex_lock(&vm->clock_lock);
	t.tsc_timestamp = scaled(v, vm->clock_tsc) + v->cpu.tsc_offset;
	t.system_time = vm->clock_ns;
	pthread_mutex_unlock(&vm->clock_lock);
	if (v->clock_stopped)
		t.flags |= PVCLOCK_GUEST_STOPPED;
	v->clock_stopped = false;
	/* An odd version says that the rest is not to be used. Writes follow each other, and x86 keeps their order. */
	v->pv_version += 2;
	t.version = v->pv_version - 1;
	guest_write(v->cpu.map, v->clock_area.gpa, &t.version, sizeof(t.version));
	guest_write(v->cpu.map, v->clock_area.gpa + 8, (u8 *)&t + 8, sizeof(t) - 8);
	t.version = v->pv_version;
	guest_write(v->cpu.map, v->clock_area.gpa, &t.version, sizeof(t.version));
}

/* MSR_KVM_WALL_CLOCK: the real time at which kvmclock was 0, written once into the area at @gpa. */
void pv_wall_clock(struct vcpu *v, u64 gpa)
{
	struct pvclock_wall w;
	struct clock_sample s = clock_sample(CLOCK_REALTIME);

	if (!gpa || guest_read(v->cpu.map, gpa, &w.version, sizeof(w.version)))
		return;
	pthread_mutex_lock(&v->vm->clock_lock);
	u64 wall = s.ns - clock_at(v->vm, s.tsc);
	pthread_mutex_unlock(&v->vm->clock_lock);
	w.version = (w.version | 1) + (w.version & 1 ? 2 : 0);
	guest_write(v->cpu.map, gpa, &w.version, sizeof(w.version));
	w.sec = (u32)(wall / NSEC_PER_SEC);
	w.nsec = (u32)(wall % NSEC_PER_SEC);
	guest_write(v->cpu.map, gpa + 4, &w.sec, 8);
	w.version++;
	guest_write(v->cpu.map, gpa, &w.version, sizeof(w.version));
}

/* Real time and the guest's TSC at one moment (KVM_HC_CLOCK_PAIRING). */
void vcpu_clock_pairing(struct vcpu *v, u64 *realtime_ns, u64 *tsc)
{
	struct clock_sample s = clock_sample(CLOCK_REALTIME);

	*realtime_ns = s.ns;
	*tsc = scaled(v, s.tsc) + v->cpu.tsc_offset;
}
