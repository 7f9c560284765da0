/* KVM_RUN: the exits of tiny real-mode guests, and how the client completes them. */
#include "abi.h"

#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

GUEST16(pio_out, "movb $0x41, %al; outb %al, $0xe9\n"
		 "movw $0x1234, %ax; movw $0x80, %dx; outw %ax, %dx\n"
		 "movl $0x89abcdef, %eax; movw $0xcf8, %dx; outl %eax, %dx; hlt");

static void test_pio_out(void **state)
{
	static const struct { u16 port; u8 size; u32 value; } want[] = {
		{0xe9, 1, 0x41}, {0x80, 2, 0x1234}, {0xcf8, 4, 0x89abcdef},
	};
	struct abi_vm *m = *state;

	ABI_LOAD(m, pio_out);
	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		assert_int_equal(abi_run_to_out(m, want[i].port), want[i].value);
		assert_int_equal(m->run->io.size, want[i].size);
		assert_int_equal(m->run->io.count, 1);
	}
	abi_run(m, KVM_EXIT_HLT);
}

GUEST16(pio_in, "xorl %eax, %eax; inb $0x60, %al; movb %al, %bl\n"
		"movl $-1, %eax; movw $0x64, %dx; inw %dx, %ax; movl %eax, %ecx\n"
		"inl %dx, %eax; hlt");

/* The data of a read is taken at the next KVM_RUN, and no sooner. */
static void test_pio_in(void **state)
{
	struct abi_vm *m = *state;

	ABI_LOAD(m, pio_in);
	static const u32 answer[] = {0x5a, 0xbeef, 0xfeedface};
	for (int i = 0; i < 3; i++) {
		abi_run(m, KVM_EXIT_IO);
		assert_int_equal(m->run->io.direction, KVM_EXIT_IO_IN);
		memset((u8 *)m->run + m->run->io.data_offset, 0xee, 8);
		memcpy((u8 *)m->run + m->run->io.data_offset, &answer[i], m->run->io.size);
	}
	abi_run(m, KVM_EXIT_HLT);
	struct kvm_regs r = abi_regs(m);
	assert_int_equal(r.rbx & 0xff, 0x5a);
	assert_int_equal(r.rcx, 0xffffbeef); /* a 16-bit read leaves the upper half */
	assert_int_equal(r.rax, 0xfeedface);
}

GUEST16(rep_outs, "movw $0x3000, %si; movw $5, %cx; movw $0x3f8, %dx; cld; rep outsb; hlt");
GUEST16(rep_ins, "movw $0x3000, %di; movw $4, %cx; movw $0x1f0, %dx; cld; rep insw; hlt");

static void test_string_io(void **state)
{
	struct abi_vm *m = *state;
	char text[8] = {0};
	size_t n = 0;

	ABI_LOAD(m, rep_outs);
	memcpy(m->mem + 0x3000, "hello", 5);
	while (n < 5) {
		abi_run(m, KVM_EXIT_IO);
		assert_int_equal(m->run->io.size, 1);
		assert_in_range(m->run->io.count, 1, 5 - n);
		memcpy(text + n, (u8 *)m->run + m->run->io.data_offset, m->run->io.count);
		n += m->run->io.count;
	}
	abi_run(m, KVM_EXIT_HLT);
	assert_string_equal(text, "hello");
	assert_int_equal(abi_regs(m).rsi, 0x3005);
	assert_int_equal(abi_regs(m).rcx & 0xffff, 0);

	ABI_LOAD(m, rep_ins);
	for (u16 next = 1; next <= 4;) {
		abi_run(m, KVM_EXIT_IO);
		assert_int_equal(m->run->io.direction, KVM_EXIT_IO_IN);
		for (u32 i = 0; i < m->run->io.count; i++, next++)
			memcpy((u8 *)m->run + m->run->io.data_offset + 2 * i, &(u16){(u16)(next * 0x101)}, 2);
	}
	abi_run(m, KVM_EXIT_HLT);
	static const u16 want[] = {0x101, 0x202, 0x303, 0x404};
	assert_memory_equal(m->mem + 0x3000, want, sizeof(want));
}

/* FS reaches beyond the memory slot. */
GUEST16(mmio, "movw $0xf000, %ax; movw %ax, %fs\n"
	      "movb $0x77, %fs:0x10; movl $0x11223344, %fs:0x20; movl %fs:0x30, %ebx; movb %fs:0x40, %cl; hlt");

static void move_memory(struct abi_vm *m)
{
	/* 0xf0000 and up is nobody's: slot 0 ends below it. */
	assert_int_equal(abi_set_memory(m, 0, 0, 0, 0, m->mem), 0);
	assert_int_equal(abi_set_memory(m, 0, 0, 0, 0xf0000, m->mem), 0);
}

static void test_mmio(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_run *run = m->run;

	move_memory(m);
	ABI_LOAD(m, mmio);
	abi_run(m, KVM_EXIT_MMIO);
	assert_int_equal(run->mmio.phys_addr, 0xf0010);
	assert_int_equal(run->mmio.len, 1);
	assert_int_equal(run->mmio.is_write, 1);
	assert_int_equal(run->mmio.data[0], 0x77);
	abi_run(m, KVM_EXIT_MMIO);
	assert_int_equal(run->mmio.len, 4);
	assert_memory_equal(run->mmio.data, &(u32){0x11223344}, 4);
	abi_run(m, KVM_EXIT_MMIO);
	assert_int_equal(run->mmio.phys_addr, 0xf0030);
	assert_int_equal(run->mmio.is_write, 0);
	memcpy(run->mmio.data, &(u32){0xcafef00d}, 4);
	abi_run(m, KVM_EXIT_MMIO);
	assert_int_equal(run->mmio.len, 1);
	run->mmio.data[0] = 0x99;
	abi_run(m, KVM_EXIT_HLT);
	assert_int_equal(abi_regs(m).rbx, 0xcafef00d);
	assert_int_equal(abi_regs(m).rcx & 0xff, 0x99);
}

/* A read that lies half in memory, half outside, and one over a page: what the exits name adds up to the access. */
GUEST16(mmio_split, "movw $0xeff0, %ax; movw %ax, %fs; movl %fs:0xfe, %ebx\n"
		    "movw $0xf000, %ax; movw %ax, %fs; movl %fs:0xffe, %ecx; hlt");

static void test_mmio_split(void **state)
{
	struct abi_vm *m = *state;

	move_memory(m);
	ABI_LOAD(m, mmio_split);
	m->mem[0xefffe] = 0x11;
	m->mem[0xeffff] = 0x22;
	abi_run(m, KVM_EXIT_MMIO);
	assert_int_equal(m->run->mmio.phys_addr, 0xf0000);
	assert_int_equal(m->run->mmio.len, 2);
	memcpy(m->run->mmio.data, &(u16){0x4433}, 2);
	abi_run(m, KVM_EXIT_MMIO);
	assert_int_equal(m->run->mmio.phys_addr, 0xf0ffe);
	assert_int_equal(m->run->mmio.len, 2);
	memcpy(m->run->mmio.data, &(u16){0x6655}, 2);
	abi_run(m, KVM_EXIT_MMIO);
	assert_int_equal(m->run->mmio.phys_addr, 0xf1000);
	assert_int_equal(m->run->mmio.len, 2);
	memcpy(m->run->mmio.data, &(u16){0x8877}, 2);
	abi_run(m, KVM_EXIT_HLT);
	assert_int_equal(abi_regs(m).rbx, 0x44332211);
	assert_int_equal(abi_regs(m).rcx, 0x88776655);
}

/* An instruction that reads MMIO and writes MMIO: two exits, in order. */
GUEST16(mmio_rmw, "movw $0xf000, %ax; movw %ax, %fs; addl $5, %fs:0x8; hlt");

static void test_mmio_rmw(void **state)
{
	struct abi_vm *m = *state;
	u32 value = 37;

	move_memory(m);
	ABI_LOAD(m, mmio_rmw);
	abi_run(m, KVM_EXIT_MMIO);
	assert_int_equal(m->run->mmio.is_write, 0);
	memcpy(m->run->mmio.data, &value, 4);
	abi_run(m, KVM_EXIT_MMIO);
	assert_int_equal(m->run->mmio.is_write, 1);
	value = 42;
	assert_memory_equal(m->run->mmio.data, &value, 4);
	abi_run(m, KVM_EXIT_HLT);
}

GUEST16(hlt_twice, "hlt; incw %bx; hlt");

static void test_hlt(void **state)
{
	struct abi_vm *m = *state;

	ABI_LOAD(m, hlt_twice);
	abi_run(m, KVM_EXIT_HLT);
	assert_int_equal(abi_regs(m).rip, ABI_CODE + 1);
	abi_run(m, KVM_EXIT_HLT);
	assert_int_equal(abi_regs(m).rbx, 1);
}

/* An IDT without room for anything: the first exception is a triple fault. */
GUEST16(triple, "lidtw %cs:(1f - triple + 0x1000); ud2; 1: .word 0; .long 0");

static void test_shutdown(void **state)
{
	struct abi_vm *m = *state;

	ABI_LOAD(m, triple);
	abi_run(m, KVM_EXIT_SHUTDOWN);
}

GUEST16(spin, "1: incl %ebx; jmp 1b");
GUEST16(in_spin, "inb $0x10, %al; movb %al, %bl; 1: jmp 1b");

/* Set before the call: what waits for the client's answer is finished, then -EINTR. */
static void test_immediate_exit(void **state)
{
	struct abi_vm *m = *state;

	ABI_LOAD(m, in_spin);
	m->run->immediate_exit = 1;
	ioc_err(m->vcpu, KVM_RUN, 0, EINTR);
	assert_int_equal(abi_regs(m).rip, ABI_CODE);
	m->run->immediate_exit = 0;
	abi_run(m, KVM_EXIT_IO);
	((u8 *)m->run)[m->run->io.data_offset] = 0xa5;
	m->run->immediate_exit = 1;
	ioc_err(m->vcpu, KVM_RUN, 0, EINTR);
	assert_int_equal(abi_regs(m).rip, ABI_CODE + 2);
	assert_int_equal(abi_regs(m).rax & 0xff, 0xa5);
}

static struct kvm_run *handler_run;
static volatile int handled;

static void on_signal(int sig)
{
	handled++;
	handler_run->immediate_exit = 1;
	anykvm_signal();
}

static void *send_later(void *thread)
{
	usleep(20000);
	pthread_kill(*(pthread_t *)thread, SIGUSR1);
	return NULL;
}

/* A signal ends a run that would never end. */
static void run_with_signal(struct abi_vm *m)
{
	struct sigaction sa = {.sa_handler = on_signal}, old;
	pthread_t self = pthread_self(), t;

	handler_run = m->run;
	handled = 0;
	m->run->immediate_exit = 0;
	sigaction(SIGUSR1, &sa, &old);
	pthread_create(&t, NULL, send_later, &self);
	ioc_err(m->vcpu, KVM_RUN, 0, EINTR);
	pthread_join(t, NULL);
	sigaction(SIGUSR1, &old, NULL);
	assert_int_equal(handled, 1);
	assert_int_equal(m->run->exit_reason, KVM_EXIT_INTR);
	m->run->immediate_exit = 0;
}

static void test_signal_running(void **state)
{
	struct abi_vm *m = *state;

	ABI_LOAD(m, spin);
	run_with_signal(m);
	assert_true(abi_regs(m).rbx > 1000);
	run_with_signal(m); /* and again: nothing is left over */
}

/* SIGUSR1 blocked in the thread and let through by the mask: -EINTR, the signal waits, its handler has not run. */
static void test_signal_mask(void **state)
{
	struct abi_vm *m = *state;
	struct {
		struct kvm_signal_mask head;
		u8 set[8];
	} __attribute__((packed)) mask = {.head.len = 8};
	pthread_t self = pthread_self(), t;
	sigset_t block, old, pending;

	ABI_LOAD(m, spin);
	mask.head.len = 4;
	ioc_err(m->vcpu, KVM_SET_SIGNAL_MASK, &mask, EINVAL);
	mask.head.len = 8;
	ioc_ok(m->vcpu, KVM_SET_SIGNAL_MASK, &mask);
	sigemptyset(&block);
	sigaddset(&block, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &block, &old);
	pthread_create(&t, NULL, send_later, &self);
	ioc_err(m->vcpu, KVM_RUN, 0, EINTR);
	pthread_join(t, NULL);
	assert_int_equal(m->run->exit_reason, KVM_EXIT_INTR);
	sigpending(&pending);
	assert_true(sigismember(&pending, SIGUSR1));
	sigwait(&block, &(int){0});
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	ioc_ok(m->vcpu, KVM_SET_SIGNAL_MASK, 0);
}

static void *exit_later(void *run)
{
	usleep(20000);
	((struct kvm_run *)run)->immediate_exit = 1;
	return NULL;
}

/* Code that is translated. */
GUEST_CODE(64, count, "1: incq %rbx; jmp 1b");
GUEST_CODE(64, count_out, "1: movl $100000, %ecx; 2: incq %rbx; decl %ecx; jnz 2b; outb %al, $0x10; jmp 1b");

static bool padding_done;

/* Another thread sets immediate_exit, without a signal: noticed by us, though the kernel's KVM looks only at entry. */
static void test_immediate_exit_polled(void **state)
{
	struct abi_vm *m = *state;
	pthread_t t;

	if (!abi_is_ours())
		skip();
	ABI_LOAD(m, spin);
	pthread_create(&t, NULL, exit_later, m->run);
	ioc_err(m->vcpu, KVM_RUN, 0, EINTR);
	pthread_join(t, NULL);

	m->run->immediate_exit = 0;
	ABI_LOAD64(m, count);
	pthread_create(&t, NULL, exit_later, m->run);
	ioc_err(m->vcpu, KVM_RUN, 0, EINTR);
	pthread_join(t, NULL);
	assert_true(abi_regs(m).rbx > 1000);
}

static void *write_padding(void *run)
{
	volatile u8 *padding = ((struct kvm_run *)run)->padding1;

	for (u8 n = 1; !__atomic_load_n(&padding_done, __ATOMIC_SEQ_CST); n++)
		for (unsigned k = 0; k < sizeof(((struct kvm_run *)run)->padding1); k++)
			padding[k] = n;
	return NULL;
}

/* Whatever a client writes to the padding of its run page, the guest goes on. */
static void test_padding(void **state)
{
	struct abi_vm *m = *state;
	pthread_t t;

	ABI_LOAD64(m, count_out);
	memset(m->run->padding1, 0xff, sizeof(m->run->padding1));
	abi_run_to_out(m, 0x10);
	padding_done = false;
	pthread_create(&t, NULL, write_padding, m->run);
	abi_run_to_out(m, 0x10);
	__atomic_store_n(&padding_done, true, __ATOMIC_SEQ_CST);
	pthread_join(t, NULL);
	assert_int_equal(abi_regs(m).rbx, 200000);
}

/* The outputs of the run page, errors included. */
GUEST16(sti_out, "sti; nop; outb %al, $0x10; cli; outb %al, $0x10; hlt");

static void test_run_page(void **state)
{
	struct abi_vm *m = *state;

	ABI_LOAD(m, sti_out);
	abi_run_to_out(m, 0x10);
	assert_int_equal(m->run->if_flag, 1);
	assert_int_equal(m->run->apic_base & 0xfffff000, 0xfee00000);
	abi_run_to_out(m, 0x10);
	assert_int_equal(m->run->if_flag, 0);
	assert_int_equal(m->run->ready_for_interrupt_injection, 0);
	m->run->if_flag = 1;
	m->run->immediate_exit = 1;
	ioc_err(m->vcpu, KVM_RUN, 0, EINTR);
	assert_int_equal(m->run->if_flag, 0);
}

static void test_sync_regs(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_sync_regs *s = &m->run->s.regs;

	ABI_LOAD(m, hlt_twice);
	m->run->kvm_valid_regs = ~0ull;
	ioc_err(m->vcpu, KVM_RUN, 0, EINVAL);
	m->run->kvm_valid_regs = KVM_SYNC_X86_VALID_FIELDS;
	abi_run(m, KVM_EXIT_HLT);
	assert_int_equal(s->regs.rip, ABI_CODE + 1);
	assert_int_equal(s->sregs.cs.base, 0);
	s->regs.rbx = 0x41;
	m->run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
	abi_run(m, KVM_EXIT_HLT);
	assert_int_equal(s->regs.rbx, 0x42);
	assert_int_equal(m->run->kvm_dirty_regs, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, abi_setup, abi_teardown)
	const struct CMUnitTest tests[] = {
		T(test_pio_out), T(test_pio_in), T(test_string_io), T(test_mmio), T(test_mmio_split), T(test_mmio_rmw),
		T(test_hlt), T(test_shutdown), T(test_immediate_exit), T(test_signal_running), T(test_signal_mask),
		T(test_immediate_exit_polled), T(test_padding), T(test_run_page), T(test_sync_regs),
	};

	return cmocka_run_group_tests_name("run", tests, NULL, NULL);
}
