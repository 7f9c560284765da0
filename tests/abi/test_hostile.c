/* What a guest or a client can do to make a run never end, or to take the process with it. */
#include "abi.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

/* KVM_RUN on a thread of its own, with every signal blocked or not. */
struct runner {
	struct abi_vm *m;
	bool blocked;
	long r;
	_Atomic bool ended;
};

static void *runner(void *arg)
{
	struct runner *run = arg;
	sigset_t all;

	sigfillset(&all);
	if (run->blocked)
		pthread_sigmask(SIG_SETMASK, &all, NULL);
	run->r = ioc(run->m->vcpu, KVM_RUN, 0);
	run->ended = true;
	return NULL;
}

static void on_signal(int sig)
{
	anykvm_signal();
}

/* --- A delivery that faults for ever ------------------------------------------------------------------------ */

#define GDT 0x2000u
#define IDT 0x3000u
#define TSS_START 0x4000u

static void put64(struct abi_vm *m, u32 at, u64 v)
{
	memcpy(m->mem + at, &v, 8);
}

static u64 available_tss(u32 base)
{
	return 0x67 | (u64)base << 16 | 0x89ull << 40;
}

/*
 * A task whose saved EAX and ECX are the two halves of its own descriptor: whenever it is left, the descriptor says
 * "available" again. Its T bit raises #DB as soon as it is entered.
 */
static void endless_task(struct abi_vm *m, u32 selector, u32 vector)
{
	u32 base = GDT + selector - 0x28;

	memset(m->mem + base, 0, 0x68);
	put64(m, GDT + selector, available_tss(base));
	memcpy(m->mem + base + 0x20, (u32[]){ABI_CODE, 2}, 8); /* EIP, EFLAGS */
	for (unsigned n = 0; n < 6; n++)
		memcpy(m->mem + base + 0x48 + n * 4, &(u32){n == 1 ? 8 : n == 2 ? 24 : 16}, 4);
	m->mem[base + 0x64] = 1;
	put64(m, IDT + vector * 8, (u64)selector << 16 | 0xe5ull << 40);
}

GUEST16(icebp, ".byte 0xf1; 1: jmp 1b");

static void enter_endless(struct abi_vm *m)
{
	struct kvm_sregs s;

	ABI_LOAD(m, icebp);
	memset(m->mem + GDT, 0, 0x3000);
	put64(m, GDT + 8, 0x00cf9b000000ffff);
	put64(m, GDT + 16, 0x00cf93000000ffff);
	put64(m, GDT + 24, 0x000093100000ffff); /* a stack of 64 KiB that wraps: #GP pushes an error code each time */
	endless_task(m, 0x100, 1);
	endless_task(m, 0x300, 13);
	ioc_ok(m->vcpu, KVM_GET_SREGS, &s);
	s.cr0 |= 1;
	s.gdt = (struct kvm_dtable){.base = GDT, .limit = 0x7ff};
	s.idt = (struct kvm_dtable){.base = IDT, .limit = 0x7ff};
	s.tr = (struct kvm_segment){.base = TSS_START, .limit = 0x67, .type = 11, .present = 1, .selector = 0x500};
	s.cs = (struct kvm_segment){.limit = ~0u, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1};
	s.ds = s.es = s.ss = s.fs = s.gs =
		(struct kvm_segment){.limit = ~0u, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
	ioc_ok(m->vcpu, KVM_SET_SREGS, &s);
}

static void test_endless_delivery(void **state)
{
	struct abi_vm vm, *m = &vm;
	struct runner run = {.m = m};
	struct sigaction sa = {.sa_handler = on_signal}, old;
	pthread_t t;

	if (!abi_is_ours())
		skip(); /* KVM does not heed the T bit */
	abi_create(m, ABI_IRQCHIP);
	enter_endless(m);
	sigaction(SIGUSR1, &sa, &old);
	for (int n = 0; n < 2; n++) {
		run.ended = false;
		pthread_create(&t, NULL, runner, &run);
		usleep(30000);
		assert_false(run.ended);
		pthread_kill(t, SIGUSR1);
		pthread_join(t, NULL);
		assert_int_equal(run.r, -EINTR);
	}
	sigaction(SIGUSR1, &old, NULL);
	abi_destroy(m);
}

/* --- Faults of the guest on a thread that blocks all signals ----------------------------------------------------- */

GUEST16(divide, "movl %cr4, %eax; orl $0x600, %eax; movl %eax, %cr4\n" /* OSFXSR, OSXMMEXCPT */
		"movl $0, 0x600; ldmxcsr 0x600; xorps %xmm0, %xmm0; movl $0x3f800000, 0x604; movss 0x604, %xmm1\n"
		"divss %xmm0, %xmm1; outb %al, $0x11");

static void test_simd_exception_blocked(void **state)
{
	struct abi_vm vm, *m = &vm;
	struct runner run = {.m = m, .blocked = true};
	static const u8 out[] = {0xe6, 0x22}; /* outb %al, $0x22 */
	pthread_t t;

	/* Here, not in a fixture: the test framework takes signals of faults at the start of each. */
	abi_create(m, ABI_IRQCHIP);
	ABI_LOAD(m, divide);
	abi_vector(m, 19, 0x4000);
	memcpy(m->mem + 0x4000, out, sizeof(out));
	pthread_create(&t, NULL, runner, &run);
	pthread_join(t, NULL);
	assert_int_equal(run.r, 0);
	assert_int_equal(m->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(m->run->io.port, 0x22);
	abi_destroy(m);
}

GUEST16(touch, "movb $1, 0x7000; outb %al, $0x11");

static void memory_gone(struct abi_vm *m, bool blocked)
{
	struct runner run = {.m = m, .blocked = blocked};
	pthread_t t;

	ABI_LOAD(m, touch);
	assert_int_equal(mprotect(m->mem + 0x7000, PAGE_SIZE, PROT_NONE), 0);
	pthread_create(&t, NULL, runner, &run);
	pthread_join(t, NULL);
	assert_int_equal(mprotect(m->mem + 0x7000, PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(run.r, -EFAULT);
}

static void test_memory_gone_blocked(void **state)
{
	struct abi_vm m;

	abi_create(&m, ABI_IRQCHIP);
	memory_gone(&m, true);
	abi_destroy(&m);
}

/* The same by the mask of KVM_SET_SIGNAL_MASK. */
static void test_memory_gone_masked(void **state)
{
	struct abi_vm vm, *m = &vm;
	struct { struct kvm_signal_mask head; u8 set[8]; } mask = {.head.len = 8};

	abi_create(m, ABI_IRQCHIP);
	memset(mask.set, 0xff, sizeof(mask.set));
	ioc_ok(m->vcpu, KVM_SET_SIGNAL_MASK, &mask);
	memory_gone(m, false);
	ioc_ok(m->vcpu, KVM_SET_SIGNAL_MASK, 0);
	abi_destroy(m);
}

/* --- A full eventfd whose descriptor blocks ---------------------------------------------------------------------- */

GUEST16(notify, "outb %al, $0x40; outb %al, $0x41");

static void test_full_eventfd(void **state)
{
	struct abi_vm vm, *m = &vm;
	struct runner run = {.m = m};
	int fd = eventfd(0, EFD_CLOEXEC);
	struct kvm_ioeventfd e = {.addr = 0x40, .len = 1, .fd = fd, .flags = KVM_IOEVENTFD_FLAG_PIO};
	u64 full = ~0ull - 1;
	pthread_t t;

	abi_create(m, ABI_IRQCHIP);
	assert_int_equal(write(fd, &full, sizeof(full)), sizeof(full));
	ioc_ok(m->vm, KVM_IOEVENTFD, &e);
	ABI_LOAD(m, notify);
	pthread_create(&t, NULL, runner, &run);
	for (int n = 0; n < 500 && !run.ended; n++)
		usleep(10000);
	bool ended = run.ended;
	if (!ended)
		assert_int_equal(read(fd, &full, sizeof(full)), sizeof(full)); /* lets it go on */
	pthread_join(t, NULL);
	assert_true(ended);
	assert_int_equal(m->run->io.port, 0x41);
	close(fd);
	abi_destroy(m);
}

/* --- A VM without memory ----------------------------------------------------------------------------------------- */

static void run_without_memory(void)
{
	int sys = kvm->open(), vm = (int)ioc_ok(sys, KVM_CREATE_VM, 0), vcpu = (int)ioc_ok(vm, KVM_CREATE_VCPU, 0);
	size_t size = (size_t)ioc_ok(sys, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct kvm_run *run = kvm->mmap(vcpu, size);

	assert_non_null(run);
	ioc_ok(vcpu, KVM_RUN, 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_INTERNAL_ERROR);
	munmap(run, size);
	assert_int_equal(kvm->close(vcpu), 0);
	assert_int_equal(kvm->close(vm), 0);
	assert_int_equal(kvm->close(sys), 0);
}

static void test_no_memory(void **state)
{
	static const char *const engines[] = {"interp", "jit"};

	if (!abi_is_ours())
		run_without_memory();
	for (unsigned n = 0; abi_is_ours() && n < ARRAY_SIZE(engines); n++) {
		assert_int_equal(anykvm_set_engine(engines[n]), 0);
		run_without_memory();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_endless_delivery),
		cmocka_unit_test(test_simd_exception_blocked),
		cmocka_unit_test(test_memory_gone_blocked),
		cmocka_unit_test(test_memory_gone_masked),
		cmocka_unit_test(test_full_eventfd),
		cmocka_unit_test(test_no_memory),
	};

	alarm(60); /* a run that does not come back fails the test */
	return cmocka_run_group_tests_name("hostile", tests, NULL, NULL);
}
