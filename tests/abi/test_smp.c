/* Several vCPUs: the start of the second one, MP states, parallel runs, ioctls on a vCPU that runs. */
#include "abi.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

struct smp {
	struct abi_vm m;
	int fd[2];
	struct kvm_run *run[2];
};

static int setup(void **state)
{
	static struct smp s;

	abi_create(&s.m, ABI_IRQCHIP);
	s.fd[0] = s.m.vcpu;
	s.run[0] = s.m.run;
	s.fd[1] = abi_add_vcpu(&s.m, 1, &s.run[1]);
	*state = &s;
	return 0;
}

static int teardown(void **state)
{
	struct smp *s = *state;

	munmap(s->run[1], s->m.run_size);
	kvm->close(s->fd[1]);
	abi_destroy(&s->m);
	return 0;
}

struct result {
	struct smp *s;
	long r[4];
	u32 reason[4];
};

/* The second vCPU: KVM_RUN until an exit that is not "try again". */
static void *run_second(void *arg)
{
	struct result *res = arg;

	for (int i = 0; i < 4; i++) {
		res->r[i] = ioc(res->s->fd[1], KVM_RUN, 0);
		res->reason[i] = res->s->run[1]->exit_reason;
		if (res->r[i] != -EAGAIN)
			break;
	}
	return NULL;
}

/* INIT and SIPI with vector 9 to all others (SDM vol. 3A, 9.4.4), as a kernel does. */
GUEST16(start_other, "movl $0xfee00000, %ebx; movl $0x1ff, 0xf0(%ebx); movl $0xc4500, 0x300(%ebx); outb %al, $0x10\n"
		     "movl $0xc4609, 0x300(%ebx); movl $0xc4609, 0x300(%ebx)\n"
		     "1: cmpl $0x5a5a, 0x3000; jne 1b; outb %al, $0x11");
GUEST16(other, "movl $0x5a5a, 0x3000; movw %cs, %ax; outw %ax, $0x60");

static void test_start(void **state)
{
	struct smp *s = *state;
	struct result res = {.s = s};
	struct kvm_mp_state mp;
	pthread_t t;

	ioc_ok(s->fd[1], KVM_GET_MP_STATE, &mp);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_UNINITIALIZED);
	ABI_LOAD(&s->m, start_other);
	abi_flat_ds(&s->m, s->fd[0]);
	memcpy(s->m.mem + 0x9000, other, (size_t)(other_end - other));
	pthread_create(&t, NULL, run_second, &res);
	abi_run_to_out(&s->m, 0x10);
	usleep(20000);
	abi_run_to_out(&s->m, 0x11);
	pthread_join(t, NULL);
	/* The INIT ends the first KVM_RUN with EAGAIN; then it waits for the SIPI and runs. */
	assert_int_equal(res.r[0], -EAGAIN);
	assert_int_equal(res.r[1], 0);
	assert_int_equal(res.reason[1], KVM_EXIT_IO);
	assert_int_equal(s->run[1]->io.port, 0x60);
	assert_int_equal(abi_io_value(s->run[1]), 0x900); /* CS of the SIPI's page */
	ioc_ok(s->fd[1], KVM_GET_MP_STATE, &mp);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_RUNNABLE);
}

static void on_signal(int sig)
{
	anykvm_signal();
}

/* One that waits for its INIT is let go by a signal. */
static void test_wait_interrupted(void **state)
{
	struct smp *s = *state;
	struct result res = {.s = s};
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, old;
	pthread_t t;

	sigaction(SIGUSR1, &sa, &old);
	pthread_create(&t, NULL, run_second, &res);
	usleep(20000);
	pthread_kill(t, SIGUSR1);
	pthread_join(t, NULL);
	sigaction(SIGUSR1, &old, NULL);
	assert_int_equal(res.r[0], -EINTR);
	assert_int_equal(res.reason[0], KVM_EXIT_INTR);
}

/* Both at once, each to its OUT. */
static void run_both(struct smp *s)
{
	struct result res = {.s = s};
	pthread_t t;

	pthread_create(&t, NULL, run_second, &res);
	abi_run_to_out(&s->m, 0x10);
	pthread_join(t, NULL);
	assert_int_equal(res.reason[0], KVM_EXIT_IO);
}

/* Code for the second one, which may start at once. */
static void load_second(struct smp *s, const u8 *code, size_t size)
{
	struct kvm_mp_state mp = {KVM_MP_STATE_RUNNABLE};

	ioc_ok(s->fd[1], KVM_SET_MP_STATE, &mp);
	abi_load(&s->m, s->fd[1], code, size);
}

/* Both count in the same word with LOCK, for real at the same time: nothing is lost. */
GUEST16(count_locked, "movl $20000, %ecx; 1: lock incl 0x3000; decl %ecx; jnz 1b; outb %al, $0x10");

static void test_parallel(void **state)
{
	struct smp *s = *state;

	ABI_LOAD(&s->m, count_locked);
	load_second(s, count_locked, (size_t)(count_locked_end - count_locked));
	run_both(s);
	assert_int_equal(*(u32 *)(s->m.mem + 0x3000), 40000);
}

/* Word to and fro: each waits for the other's store. */
GUEST16(ping, "movw $1000, %cx; 1: movw %cx, 0x3000; 2: pause; cmpw %cx, 0x3010; jne 2b; loop 1b; outb %al, $0x10");
GUEST16(pong, "movw $1000, %cx; 1: pause; cmpw %cx, 0x3000; jne 1b; movw %cx, 0x3010; loop 1b; outb %al, $0x10");

static void test_ping_pong(void **state)
{
	struct smp *s = *state;
	struct kvm_regs r;

	load_second(s, pong, (size_t)(pong_end - pong));
	/* Its code goes elsewhere. */
	memcpy(s->m.mem + 0x5000, pong, (size_t)(pong_end - pong));
	ioc_ok(s->fd[1], KVM_GET_REGS, &r);
	r.rip = 0x5000;
	ioc_ok(s->fd[1], KVM_SET_REGS, &r);
	ABI_LOAD(&s->m, ping);
	run_both(s);
}

/* An ioctl on a vCPU that runs waits until the run has ended. */
GUEST16(spin_then_out, "movb $1, 0x3000; movl $3000000, %ecx; 1: decl %ecx; jnz 1b; movl $0x77, %ebx; outb %al, $0x10");

static void test_ioctl_waits(void **state)
{
	struct smp *s = *state;
	struct result res = {.s = s};
	struct kvm_regs r;
	pthread_t t;

	load_second(s, spin_then_out, (size_t)(spin_then_out_end - spin_then_out));
	volatile u8 *running = s->m.mem + 0x3000;
	*running = 0;
	pthread_create(&t, NULL, run_second, &res);
	for (unsigned ms = 0; ms < 5000 && !*running; ms++)
		usleep(1000);
	ioc_ok(s->fd[1], KVM_GET_REGS, &r);
	pthread_join(t, NULL);
	assert_int_equal(r.rbx, 0x77);
}

/* NMI from another thread reaches a running guest. */
GUEST16(spin, "1: jmp 1b");

static void *ipi_later(void *arg)
{
	struct smp *s = arg;
	struct kvm_msi nmi = {.address_lo = 0xfee00000, .data = 0x400};

	usleep(20000);
	ioc(s->m.vm, KVM_SIGNAL_MSI, &nmi);
	return NULL;
}

static void test_nmi_message(void **state)
{
	struct smp *s = *state;
	static const u8 out[] = {0xe6, 0x22}; /* outb %al, $0x22 */
	struct kvm_lapic_state lapic;
	pthread_t t;

	ABI_LOAD(&s->m, spin);
	ioc_ok(s->fd[0], KVM_GET_LAPIC, &lapic);
	*(u32 *)(lapic.regs + 0xf0) = 0x1ff;
	ioc_ok(s->fd[0], KVM_SET_LAPIC, &lapic);
	abi_vector(&s->m, 2, 0x4000);
	memcpy(s->m.mem + 0x4000, out, sizeof(out));
	pthread_create(&t, NULL, ipi_later, s);
	abi_run_to_out(&s->m, 0x22);
	pthread_join(t, NULL);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_start), T(test_wait_interrupted), T(test_parallel), T(test_ping_pong), T(test_ioctl_waits),
		T(test_nmi_message),
	};

	return cmocka_run_group_tests_name("smp", tests, NULL, NULL);
}
