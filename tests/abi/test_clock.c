/* Guest time: the TSC, kvmclock, and what else a guest that knows KVM uses: steal time, PV EOI, hypercalls. */
#include "abi.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

static long set_msr(struct abi_vm *m, u32 index, u64 value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} b = {.head.nmsrs = 1, .e = {.index = index, .data = value}};

	return ioc(m->vcpu, KVM_SET_MSRS, &b);
}

static u64 get_msr(struct abi_vm *m, int vcpu, u32 index)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} b = {.head.nmsrs = 1, .e.index = index};

	assert_int_equal(ioc_ok(vcpu, KVM_GET_MSRS, &b), 1);
	return b.e.data;
}

static u64 now_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (u64)ts.tv_sec * 1000000000u + (u64)ts.tv_nsec;
}

#define MSR_TSC 0x10
#define MSR_TSC_ADJUST 0x3b
#define MSR_STEAL_TIME 0x4b564d03
#define MSR_PV_EOI 0x4b564d04
#define MSR_POLL 0x4b564d05

/* The TSC of the guest runs at the rate that KVM_GET_TSC_KHZ states. */
static void test_tsc_rate(void **state)
{
	struct abi_vm *m = *state;
	u64 khz = (u64)ioc_ok(m->vcpu, KVM_GET_TSC_KHZ, 0);
	u64 t0 = get_msr(m, m->vcpu, MSR_TSC), n0 = now_ns(CLOCK_MONOTONIC_RAW);
	usleep(100000);
	u64 t1 = get_msr(m, m->vcpu, MSR_TSC), n1 = now_ns(CLOCK_MONOTONIC_RAW);
	u64 want = (n1 - n0) * khz / 1000000;
	assert_in_range(t1 - t0, want - want / 100, want + want / 100);
	/* A new VM's TSC begins at 0. */
	assert_in_range(t0, 0, khz * 5000);
}

static void test_tsc_scaled(void **state)
{
	struct abi_vm *m = *state;
	u64 khz = (u64)ioc_ok(m->vcpu, KVM_GET_TSC_KHZ, 0);

	ioc_ok(m->vcpu, KVM_SET_TSC_KHZ, khz * 2);
	u64 t0 = get_msr(m, m->vcpu, MSR_TSC), h0 = __rdtsc();
	usleep(20000);
	u64 t1 = get_msr(m, m->vcpu, MSR_TSC), h1 = __rdtsc();
	assert_in_range(t1 - t0, (h1 - h0) * 198 / 100, (h1 - h0) * 202 / 100);
}

/* All vCPUs have the same TSC, also when the client sets them one after the other. */
static void test_tsc_sync(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_run *run;
	u64 offset[2];
	int other = abi_add_vcpu(m, 1, &run);

	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 2; i++) {
			struct kvm_device_attr a = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET,
						    .addr = (u64)&offset[i]};
			ioc_ok(i ? other : m->vcpu, KVM_GET_DEVICE_ATTR, &a);
		}
		assert_int_equal(offset[0], offset[1]);
		/* Once to a value, once to 0, as at reset. */
		struct {
			struct kvm_msrs head;
			struct kvm_msr_entry e;
		} b = {.head.nmsrs = 1, .e = {.index = MSR_TSC, .data = round ? 0 : 1ull << 40}};
		ioc_ok(m->vcpu, KVM_SET_MSRS, &b);
		usleep(1000);
		ioc_ok(other, KVM_SET_MSRS, &b);
	}
	munmap(run, m->run_size);
	kvm->close(other);
}

/* WRMSR of the TSC by the guest shows in TSC_ADJUST, the client's setting does not. */
GUEST16(write_tsc, "movl $0x10, %ecx; xorl %eax, %eax; movl $0x100, %edx; wrmsr; outb %al, $0x10\n"
		   "movl $0x3b, %ecx; xorl %eax, %eax; xorl %edx, %edx; wrmsr; outb %al, $0x11");

static void test_tsc_adjust(void **state)
{
	struct abi_vm *m = *state;
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e[3];
	} c = {.head.nent = 3, .e = {{.function = 0, .eax = 7}, {.function = 1, .edx = 0x20 | 1 << 9},
				     {.function = 7, .ebx = 2}}};

	ioc_ok(m->vcpu, KVM_SET_CPUID2, &c);
	set_msr(m, MSR_TSC, 1ull << 35);
	assert_int_equal(get_msr(m, m->vcpu, MSR_TSC_ADJUST), 0);
	ABI_LOAD(m, write_tsc);
	abi_run_to_out(m, 0x10);
	assert_true(get_msr(m, m->vcpu, MSR_TSC) >= 1ull << 40);
	assert_true(get_msr(m, m->vcpu, MSR_TSC_ADJUST) >= (1ull << 40) - (1ull << 36));
	abi_run_to_out(m, 0x11);
	assert_in_range(get_msr(m, m->vcpu, MSR_TSC), 1ull << 35, 1ull << 38);
}

/* --- kvmclock ------------------------------------------------------------------------------------------------ */

struct pvclock {
	u32 version, pad;
	u64 tsc, ns;
	u32 mul;
	s8 shift;
	u8 flags, pad2[2];
};

/* What a guest computes from the page when its TSC is @tsc (msr.rst). */
static u64 pvclock_ns(const struct pvclock *c, u64 tsc)
{
	u64 d = tsc - c->tsc;

	d = c->shift >= 0 ? d << c->shift : d >> -c->shift;
	return c->ns + (u64)((u128)d * c->mul >> 32);
}

GUEST16(enable_clock, "movl $0x4b564d01, %ecx; movl $0x3001, %eax; xorl %edx, %edx; wrmsr\n"
		      "1: rdtsc; outl %eax, $0x10; movl %edx, %eax; outl %eax, $0x10; jmp 1b");

static u64 guest_tsc(struct abi_vm *m)
{
	u64 low = abi_run_to_out(m, 0x10);

	return low | (u64)abi_run_to_out(m, 0x10) << 32;
}

static void test_kvmclock(void **state)
{
	struct abi_vm *m = *state;
	struct pvclock *c = (struct pvclock *)(m->mem + 0x3000);
	struct kvm_clock_data before, after;

	ioc_err(m->vcpu, KVM_KVMCLOCK_CTRL, 0, EINVAL); /* the guest does not use it yet */
	ABI_LOAD(m, enable_clock);
	guest_tsc(m);
	assert_int_equal(c->version & 1, 0);
	assert_int_not_equal(c->version, 0);
	assert_int_equal(c->flags & 1, 1); /* stable across vCPUs */
	for (int i = 0; i < 20; i++) {
		ioc_ok(m->vm, KVM_GET_CLOCK, &before);
		u64 guest = pvclock_ns(c, guest_tsc(m));
		ioc_ok(m->vm, KVM_GET_CLOCK, &after);
		assert_in_range(guest, before.clock - 100, after.clock + 100);
		usleep(1000);
	}
	/* The guest's clock keeps the host's time. */
	u64 h0 = now_ns(CLOCK_MONOTONIC_RAW), g0 = pvclock_ns(c, guest_tsc(m));
	usleep(200000);
	u64 g1 = pvclock_ns(c, guest_tsc(m)), h1 = now_ns(CLOCK_MONOTONIC_RAW);
	assert_in_range(g1 - g0, 200000000 - 100000, h1 - h0 + 100000);

	/* Told once that it was stopped. */
	ioc_ok(m->vcpu, KVM_KVMCLOCK_CTRL, 0);
	guest_tsc(m);
	assert_int_equal(c->flags & 2, 2);
}

static void test_set_clock(void **state)
{
	struct abi_vm *m = *state;
	struct pvclock *c = (struct pvclock *)(m->mem + 0x3000);
	struct kvm_clock_data d;

	assert_int_equal(ioc_ok(m->vm, KVM_CHECK_EXTENSION, KVM_CAP_ADJUST_CLOCK) & KVM_CLOCK_TSC_STABLE,
			 KVM_CLOCK_TSC_STABLE);
	ABI_LOAD(m, enable_clock);
	guest_tsc(m);
	d = (struct kvm_clock_data){.clock = 77000000000};
	ioc_ok(m->vm, KVM_SET_CLOCK, &d);
	assert_in_range(pvclock_ns(c, guest_tsc(m)) , 77000000000, 77500000000);
	ioc_ok(m->vm, KVM_GET_CLOCK, &d);
	assert_in_range(d.clock, 77000000000, 77500000000);
	assert_int_equal(d.flags & KVM_CLOCK_REALTIME, KVM_CLOCK_REALTIME);
	assert_in_range(d.realtime, now_ns(CLOCK_REALTIME) - 1000000000, now_ns(CLOCK_REALTIME));
	/* A clock that was read ten seconds ago has gone on since. */
	d = (struct kvm_clock_data){.clock = 1000000000, .flags = KVM_CLOCK_REALTIME,
				    .realtime = now_ns(CLOCK_REALTIME) - 10000000000};
	ioc_ok(m->vm, KVM_SET_CLOCK, &d);
	ioc_ok(m->vm, KVM_GET_CLOCK, &d);
	assert_in_range(d.clock, 11000000000, 11500000000);
	d.flags = 1u << 20;
	ioc_err(m->vm, KVM_SET_CLOCK, &d, EINVAL);
}

GUEST16(wall, "movl $0x4b564d00, %ecx; movl $0x3000, %eax; xorl %edx, %edx; wrmsr; outb %al, $0x10");

static void test_wall_clock(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_clock_data d;
	u32 *w = (u32 *)(m->mem + 0x3000);

	ABI_LOAD(m, wall);
	abi_run_to_out(m, 0x10);
	ioc_ok(m->vm, KVM_GET_CLOCK, &d);
	assert_int_equal(w[0] & 1, 0);
	u64 boot = w[1] * 1000000000ull + w[2], want = now_ns(CLOCK_REALTIME) - d.clock;
	assert_in_range(boot, want - 50000000, want + 50000000);
}

/* --- Steal time, PV EOI, poll control, hypercalls --------------------------------------------------------------- */

GUEST16(idle_out, "1: outb %al, $0x10; jmp 1b");

static void *burn(void *stop)
{
	while (!*(_Atomic bool *)stop)
		;
	return NULL;
}

/* For how long this thread was ready to run and did not, as the kernel counts it. */
static u64 run_delay(void)
{
	unsigned long long on, delay = 0;
	FILE *f = fopen("/proc/thread-self/schedstat", "r");

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%llu %llu", &on, &delay), 2);
	fclose(f);
	return delay;
}

static void test_steal_time(void **state)
{
	struct abi_vm *m = *state;
	_Atomic bool stop = false;
	u64 *steal = (u64 *)(m->mem + 0x3000);
	cpu_set_t one, all;
	pthread_t t;

	assert_int_equal(set_msr(m, MSR_STEAL_TIME, 0x3003), 0); /* a reserved bit */
	assert_int_equal(set_msr(m, MSR_STEAL_TIME, 0x3001), 1);
	ABI_LOAD(m, idle_out);
	abi_run_to_out(m, 0x10);
	assert_int_equal(((u32 *)steal)[2] & 1, 0);
	u64 before = *steal, delay = run_delay();
	/* Two busy threads on one processor: each waits for the other. */
	sched_getaffinity(0, sizeof(all), &all);
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof(one), &one);
	pthread_create(&t, NULL, burn, (void *)&stop);
	for (u64 end = now_ns(CLOCK_MONOTONIC) + 10000000000; run_delay() < delay + 10000000;)
		assert_true(now_ns(CLOCK_MONOTONIC) < end);
	stop = true;
	pthread_join(t, NULL);
	delay = run_delay() - delay;
	abi_run_to_out(m, 0x10);
	sched_setaffinity(0, sizeof(all), &all);
	/* Up to what passed unseen before the first update. */
	assert_in_range(*steal - before, delay - 1000000, delay + 1000000000);
}

/*
 * An edge interrupt that is the only one: the bit in memory is set when the handler starts, and clearing it there is
 * the EOI: the next one arrives without a write to the EOI register.
 */
GUEST16(pv_eoi, "cli; movl $0xfee00000, %ebx; movl $0x1ff, 0xf0(%ebx); sti; outb %al, $0x10; 1: hlt; jmp 1b\n"
		".org pv_eoi + 0x100; movb 0x3000, %cl; btrw $0, 0x3000; movb %cl, %al; outb %al, $0x99; iret");

static void test_pv_eoi(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x50};

	assert_int_equal(set_msr(m, MSR_PV_EOI, 0x3001), 1);
	ABI_LOAD(m, pv_eoi);
	abi_flat_ds(m, m->vcpu);
	abi_vector(m, 0x50, ABI_CODE + 0x100);
	abi_run_to_out(m, 0x10);
	for (int i = 0; i < 5; i++) {
		assert_true(ioc_ok(m->vm, KVM_SIGNAL_MSI, &msi) > 0);
		assert_int_equal(abi_run_to_out(m, 0x99) & 1, 1);
		struct kvm_lapic_state l;
		ioc_ok(m->vcpu, KVM_GET_LAPIC, &l);
		assert_int_equal(*(u32 *)(l.regs + 0x120) & 1u << 16, 0); /* ISR: vector 0x50 is no more in service */
	}
}

static void test_poll_control(void **state)
{
	struct abi_vm *m = *state;

	assert_int_equal(get_msr(m, m->vcpu, MSR_POLL), 1);
	assert_int_equal(set_msr(m, MSR_POLL, 0), 1);
	assert_int_equal(set_msr(m, MSR_POLL, 2), 0);
	assert_int_equal(get_msr(m, m->vcpu, MSR_POLL), 0);
}

/* 9: KVM_HC_CLOCK_PAIRING into 0x3000; 99: there is none. Both opcodes do. */
GUEST16(hypercalls, "movl $9, %eax; movl $0x3000, %ebx; xorl %ecx, %ecx; vmcall; outl %eax, $0x10\n"
		    "movl $99, %eax; vmmcall; outl %eax, $0x10\n"
		    "movl $10, %eax; movl $1, %ebx; xorl %ecx, %ecx; xorl %edx, %edx; movl $0x50, %esi; vmcall; "
		    "outl %eax, $0x10");

static void test_hypercalls(void **state)
{
	struct abi_vm *m = *state;
	u64 *p = (u64 *)(m->mem + 0x3000);
	struct kvm_lapic_state l;

	ABI_LOAD(m, hypercalls);
	ioc_ok(m->vcpu, KVM_GET_LAPIC, &l);
	*(u32 *)(l.regs + 0xf0) = 0x1ff;
	ioc_ok(m->vcpu, KVM_SET_LAPIC, &l);
	assert_int_equal(abi_run_to_out(m, 0x10), 0);
	assert_in_range(p[0] * 1000000000 + p[1], now_ns(CLOCK_REALTIME) - 1000000000, now_ns(CLOCK_REALTIME));
	assert_in_range(p[2], 1, get_msr(m, m->vcpu, MSR_TSC));
	assert_int_equal((s32)abi_run_to_out(m, 0x10), -1000); /* -KVM_ENOSYS */
	/* An IPI to APIC id 0: one was reached, and it waits in the IRR. */
	assert_int_equal(abi_run_to_out(m, 0x10), 1);
	ioc_ok(m->vcpu, KVM_GET_LAPIC, &l);
	assert_int_equal(*(u32 *)(l.regs + 0x220) & 1u << 16, 1u << 16);
}

/* With KVM_CAP_ENFORCE_PV_FEATURE_CPUID what CPUID does not show is not there. */
static void test_enforce(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_enable_cap cap = {.cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = {1}};
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e[2];
	} c = {.head.nent = 2, .e = {{.function = 1, .edx = 0x20 | 1 << 9},
				     {.function = 0x40000000, .eax = 0x40000001}}};

	ioc_ok(m->vcpu, KVM_SET_CPUID2, &c);
	ioc_ok(m->vcpu, KVM_ENABLE_CAP, &cap);
	static const u8 out[] = {0xe6, 0x44};
	abi_vector(m, 13, 0x4000);
	memcpy(m->mem + 0x4000, out, sizeof(out));
	ABI_LOAD(m, wall);
	abi_run_to_out(m, 0x44); /* #GP */
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, abi_setup_irqchip, abi_teardown)
	const struct CMUnitTest tests[] = {
		T(test_tsc_rate), T(test_tsc_scaled), T(test_tsc_sync), T(test_tsc_adjust), T(test_kvmclock),
		T(test_set_clock), T(test_wall_clock), T(test_steal_time), T(test_pv_eoi), T(test_poll_control),
		T(test_hypercalls), T(test_enforce),
	};

	return cmocka_run_group_tests_name("clock", tests, NULL, NULL);
}
