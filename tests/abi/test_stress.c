/* Everything at once, from many threads: what may be asked of a VM while its vCPUs run. */
#include "abi.h"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define VCPUS 3
#define ROUND_US 800000
#define SLOW_US 20000000 /* with sanitizers, on a busy machine */

struct vcpu_thread {
	struct stress *s;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	_Atomic u32 exits;
	_Atomic bool ended;
	long bad; /* an error that KVM_RUN must not give */
};

struct stress {
	struct abi_vm m;
	struct vcpu_thread vcpu[VCPUS];
	int irqfd;
	_Atomic bool stop;
};

static void on_signal(int sig)
{
	anykvm_signal();
}

static int group_setup(void **state)
{
	struct sigaction sa = {.sa_handler = on_signal};

	return sigaction(SIGUSR1, &sa, NULL);
}

static void *run_vcpu(void *arg)
{
	struct vcpu_thread *v = arg;

	while (!v->s->stop) {
		long r = ioc(v->fd, KVM_RUN, 0);

		if (r < 0 && r != -EINTR && r != -EAGAIN) {
			v->bad = r;
			break;
		}
		v->exits++;
	}
	v->ended = true;
	return NULL;
}

/* Ends @v's thread, wherever it is. */
static void join(struct vcpu_thread *v)
{
	for (int n = 0; n < 5000 && !v->ended; n++) {
		pthread_kill(v->thread, SIGUSR1);
		usleep(1000);
	}
	assert_true(v->ended);
	pthread_join(v->thread, NULL);
}

/* Its own page at ESI; ports, device memory, the LAPIC, memory that comes and goes, HLT. */
GUEST16(busy, "movl $0xfee000f0, %ebx; movl $0x1ff, (%ebx); sti\n"
	      "1: movl $50, %ecx; 2: lock incl (%esi); decl %ecx; jnz 2b\n"
	      "outb %al, $0x80; movl $0xf0000000, %ebx; movl %eax, (%ebx); movl $0x180000, %ebx; movl (%ebx), %eax\n"
	      "movl $0xfee00300, %ebx; movl $0x40030, (%ebx); rdtsc; testb $7, %al; jnz 1b; hlt; jmp 1b");
GUEST16(end_of_interrupt,
	"pushl %ebx; pushw %ax; movl $0xfee000b0, %ebx; movl $0, (%ebx); movb $0x20, %al; outb %al, $0x20\n"
	"popw %ax; popl %ebx; iretw");

/* The same in 64-bit mode, which the translator translates; and they write the code that all of them execute. */
#define GDT64 0x13000u
#define IDT64 0x14000u
#define PD_HIGH 0x15000u /* of the GiB where the LAPIC is */
#define PDPT64 0x11000u  /* abi_enter_64bit() has it there */
#define SHARED_CODE 0x20000u
#define HANDLER64 0x21000u
GUEST_CODE(64, busy64,
	   "movl $0xfee000f0, %ebx; movl $0x1ff, (%rbx); sti; movl $0x20000, %edi\n"
	   "1: movl $50, %ecx; 2: lock incl (%rsi); movl %ecx, 0x20001; call *%rdi; decl %ecx; jnz 2b\n"
	   "movb $0x90, 0x20005; call *%rdi; outb %al, $0x80; movl $0xf0000000, %ebx; movl %eax, (%rbx)\n"
	   "movl $0x180000, %ebx; movl (%rbx), %eax; movl $0xfee00300, %ebx; movl $0x40030, (%rbx)\n"
	   "movq %cr3, %rax; movq %rax, %cr3; rdtsc; testb $7, %al; jnz 1b; hlt; jmp 1b");
GUEST_CODE(64, shared_code, "movl $0, %eax; nop; nop; addl %eax, %edx; ret");
GUEST_CODE(64, end_of_interrupt64,
	   "pushq %rbx; pushq %rax; movl $0xfee000b0, %ebx; movl $0, (%rbx); movb $0x20, %al; outb %al, $0x20\n"
	   "popq %rax; popq %rbx; iretq");

static void to_64bit(struct stress *s)
{
	u8 *mem = s->m.mem;
	u64 *gdt = (u64 *)(mem + GDT64), *idt = (u64 *)(mem + IDT64), *high = (u64 *)(mem + PD_HIGH);

	gdt[1] = 0x00af9b000000ffff;
	gdt[2] = 0x00cf93000000ffff;
	for (unsigned n = 0; n < 256; n++)
		idt[2 * n] = (HANDLER64 & 0xffff) | 8 << 16 | 0x8eull << 40 | (u64)(HANDLER64 >> 16) << 48;
	for (u64 n = 0; n < 512; n++)
		high[n] = (3ull << 30) | n << 21 | 0x87;
	memcpy(mem + ABI_CODE, busy64, (size_t)(busy64_end - busy64));
	memcpy(mem + SHARED_CODE, shared_code, (size_t)(shared_code_end - shared_code));
	memcpy(mem + HANDLER64, end_of_interrupt64, (size_t)(end_of_interrupt64_end - end_of_interrupt64));
	for (unsigned n = 0; n < VCPUS; n++) {
		int fd = s->vcpu[n].fd;
		struct kvm_sregs sregs;
		struct kvm_regs r;

		abi_enter_64bit(&s->m, fd, ABI_CODE);
		((u64 *)(mem + PDPT64))[3] = PD_HIGH | 7;
		ioc_ok(fd, KVM_GET_SREGS, &sregs);
		sregs.gdt = (struct kvm_dtable){.base = GDT64, .limit = 23};
		sregs.idt = (struct kvm_dtable){.base = IDT64, .limit = 0xfff};
		ioc_ok(fd, KVM_SET_SREGS, &sregs);
		ioc_ok(fd, KVM_GET_REGS, &r);
		r.rsi = 0x30000 + n * 0x1000;
		r.rsp = 0x31000 + n * 0x1000;
		ioc_ok(fd, KVM_SET_REGS, &r);
	}
}

static void create(struct stress *s)
{
	struct kvm_mp_state mp = {KVM_MP_STATE_RUNNABLE};
	struct kvm_pit_config pit = {0};

	memset(s, 0, sizeof(*s));
	abi_create_vm(&s->m, ABI_IRQCHIP);
	ioc_ok(s->m.vm, KVM_CREATE_PIT2, &pit);
	for (unsigned n = 0; n < 256; n++)
		abi_vector(&s->m, n, 0x4000);
	memcpy(s->m.mem + 0x4000, end_of_interrupt, (size_t)(end_of_interrupt_end - end_of_interrupt));
	for (unsigned n = 0; n < VCPUS; n++) {
		struct vcpu_thread *v = &s->vcpu[n];
		struct kvm_regs r;

		v->s = s;
		v->fd = abi_add_vcpu(&s->m, n, &v->run);
		abi_load(&s->m, v->fd, busy, (size_t)(busy_end - busy));
		abi_flat_ds(&s->m, v->fd);
		ioc_ok(v->fd, KVM_GET_REGS, &r);
		r.rsi = 0x10000 + n * 0x1000;
		r.rsp = 0x9000 + n * 0x1000;
		ioc_ok(v->fd, KVM_SET_REGS, &r);
		ioc_ok(v->fd, KVM_SET_MP_STATE, &mp);
	}
	s->irqfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

static void destroy(struct stress *s)
{
	for (unsigned n = 0; n < VCPUS; n++) {
		munmap(s->vcpu[n].run, s->m.run_size);
		assert_int_equal(kvm->close(s->vcpu[n].fd), 0);
	}
	abi_destroy(&s->m);
	close(s->irqfd);
}

/* --- What goes on beside the vCPUs --------------------------------------------------------------------------- */

static void *change_slots(void *arg)
{
	struct stress *s = arg;
	u64 log[ABI_MEM_SIZE / PAGE_SIZE / 64];
	struct kvm_dirty_log d = {.slot = 0, .dirty_bitmap = log};

	for (u32 n = 0; !s->stop; n++) {
		u32 flags = n & 1 ? KVM_MEM_LOG_DIRTY_PAGES : 0;

		abi_set_memory(&s->m, 1 + n % 3, flags, 0x400000 + (n % 5) * 0x10000, n % 4 ? 0x10000 : 0,
			       s->m.mem + 0x100000);
		abi_set_memory(&s->m, 0, n & 2 ? KVM_MEM_LOG_DIRTY_PAGES : 0, 0, ABI_MEM_SIZE, s->m.mem);
		ioc(s->m.vm, KVM_GET_DIRTY_LOG, &d);
		usleep(200);
	}
	return NULL;
}

static void *storm(void *arg)
{
	struct stress *s = arg;
	struct kvm_irqfd f = {.fd = (u32)s->irqfd, .gsi = 5};

	for (u32 n = 0; !s->stop; n++) {
		struct kvm_irq_level level = {.irq = n % 16, .level = n >> 4 & 1};
		struct kvm_msi msi = {.address_lo = 0xfee00000 | (n % VCPUS) << 12,
				      .data = n % 64 ? 0x40 + n % 64 : 0x400};

		ioc(s->m.vm, KVM_IRQ_LINE, &level);
		ioc(s->m.vm, KVM_SIGNAL_MSI, &msi);
		if (write(s->irqfd, &(u64){1}, 8) != 8)
			break;
		if (n % 64 == 0) {
			f.flags = n & 64 ? KVM_IRQFD_FLAG_DEASSIGN : 0;
			ioc(s->m.vm, KVM_IRQFD, &f);
		}
		if (n % 16 == 0)
			usleep(100);
	}
	return NULL;
}

/* VM-wide settings, and vCPU state: those wait for the run, which a signal ends. */
static void *look_and_set(void *arg)
{
	struct stress *s = arg;
	struct kvm_clock_data clock;
	struct kvm_irqchip chip;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	struct { struct kvm_irq_routing head; struct kvm_irq_routing_entry e[1];
	} routes = {
		.head.nr = 1,
		.e = {{.gsi = 5, .type = KVM_IRQ_ROUTING_MSI, .u.msi = {.address_lo = 0xfee00000, .data = 0x55}}},
	};
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR};
	struct kvm_coalesced_mmio_zone zone = {.addr = 0x80, .size = 1, .pio = 1};

	for (u32 n = 0; !s->stop; n++) {
		struct vcpu_thread *v = &s->vcpu[n % VCPUS];

		ioc(s->m.vm, KVM_GET_CLOCK, &clock);
		clock.flags = 0;
		ioc(s->m.vm, KVM_SET_CLOCK, &clock);
		chip.chip_id = n % 3;
		if (ioc(s->m.vm, KVM_GET_IRQCHIP, &chip) == 0)
			ioc(s->m.vm, KVM_SET_IRQCHIP, &chip);
		ioc(s->m.vm, KVM_SET_GSI_ROUTING, &routes);
		cap.args[0] = n & 3;
		ioc(s->m.vm, KVM_ENABLE_CAP, &cap);
		ioc(s->m.vm, n & 1 ? KVM_REGISTER_COALESCED_MMIO : KVM_UNREGISTER_COALESCED_MMIO, &zone);
		pthread_kill(v->thread, SIGUSR1);
		if (ioc(v->fd, KVM_GET_LAPIC, &lapic) == 0)
			ioc(v->fd, KVM_SET_LAPIC, &lapic);
		pthread_kill(v->thread, SIGUSR1);
		if (ioc(v->fd, KVM_GET_VCPU_EVENTS, &events) == 0)
			ioc(v->fd, KVM_SET_VCPU_EVENTS, &events);
		ioc(v->fd, KVM_NMI, 0);
		usleep(300);
	}
	return NULL;
}

static u32 rounds(const struct stress *s, unsigned vcpu)
{
	return *(volatile u32 *)(s->m.mem + 0x30000 + vcpu * 0x1000);
}

static bool all_went_around(const struct stress *s)
{
	for (unsigned n = 0; n < VCPUS; n++)
		if (rounds(s, n) <= 50)
			return false;
	return true;
}

static void all_at_once(bool in_64bit)
{
	static void *(*const others[])(void *) = {change_slots, storm, look_and_set};
	pthread_t t[ARRAY_SIZE(others)];
	struct stress s;

	create(&s);
	if (in_64bit)
		to_64bit(&s);
	for (unsigned n = 0; n < VCPUS; n++)
		pthread_create(&s.vcpu[n].thread, NULL, run_vcpu, &s.vcpu[n]);
	for (unsigned n = 0; n < ARRAY_SIZE(others); n++)
		pthread_create(&t[n], NULL, others[n], &s);
	/* Waits inside an ioctl end with a signal now and then. */
	for (unsigned n = 0; n < ROUND_US / 1000 || (in_64bit && n < SLOW_US / 1000 && !all_went_around(&s)); n++) {
		usleep(1000);
		pthread_kill(s.vcpu[n % VCPUS].thread, SIGUSR1);
	}
	s.stop = true;
	for (unsigned n = 0; n < VCPUS; n++)
		join(&s.vcpu[n]);
	for (unsigned n = 0; n < ARRAY_SIZE(others); n++)
		pthread_join(t[n], NULL);
	for (unsigned n = 0; n < VCPUS; n++) {
		assert_int_equal(s.vcpu[n].bad, 0);
		assert_true(s.vcpu[n].exits > 0);
		/* Nobody got lost: each has gone around, and has not ended in a shutdown. */
		if (in_64bit) {
			assert_int_not_equal(s.vcpu[n].run->exit_reason, KVM_EXIT_SHUTDOWN);
			assert_true(rounds(&s, n) > 50);
		}
	}
	destroy(&s);
}

static void test_all_at_once(void **state)
{
	all_at_once(false);
}

/* On both engines. */
static void test_all_at_once_64bit(void **state)
{
	all_at_once(true);
	if (!abi_is_ours())
		return;
	assert_int_equal(anykvm_set_engine("jit"), 0);
	all_at_once(true);
}

/* --- Closing ------------------------------------------------------------------------------------------------------ */

/* All descriptors are closed while the vCPUs run: they run on, and take the VM with them when they end. */
static void test_close_while_running(void **state)
{
	int unused = dup(0);

	close(unused);
	for (int round = 0; round < 10; round++) {
		struct stress s;

		create(&s);
		for (unsigned n = 0; n < VCPUS; n++)
			pthread_create(&s.vcpu[n].thread, NULL, run_vcpu, &s.vcpu[n]);
		usleep((useconds_t)round * 300);
		s.stop = true;
		for (unsigned n = 0; n < VCPUS; n++) {
			int fd = s.vcpu[(n + (unsigned)round) % VCPUS].fd;
			assert_int_equal(kvm->close(fd), 0);
		}
		assert_int_equal(kvm->close(s.m.vm), 0);
		assert_int_equal(kvm->close(s.m.sys), 0);
		for (unsigned n = 0; n < VCPUS; n++) {
			join(&s.vcpu[n]);
			munmap(s.vcpu[n].run, s.m.run_size);
		}
		munmap(s.m.mem, ABI_MEM_SIZE);
		close(s.irqfd);
	}
	/* Nothing stays open. */
	assert_int_equal(dup(0), unused);
	close(unused);
}

static void *create_and_close(void *arg)
{
	_Atomic int *failures = arg;

	for (int round = 0; round < 12; round++) {
		int sys = kvm->open(), vm = sys < 0 ? -1 : (int)ioc(sys, KVM_CREATE_VM, 0);
		int vcpu = vm < 0 ? -1 : (int)ioc(vm, KVM_CREATE_VCPU, 0), again = vcpu < 0 ? -1 : dup(vcpu);
		struct kvm_regs r;

		if (again < 0 || kvm->close(vcpu) || kvm->close(vm) || kvm->close(sys) ||
		    ioc(again, KVM_GET_REGS, &r) || kvm->close(again))
			++*failures;
	}
	return NULL;
}

static void test_create_and_close(void **state)
{
	_Atomic int failures = 0;
	pthread_t t[4];

	for (unsigned n = 0; n < ARRAY_SIZE(t); n++)
		pthread_create(&t[n], NULL, create_and_close, &failures);
	for (unsigned n = 0; n < ARRAY_SIZE(t); n++)
		pthread_join(t[n], NULL);
	assert_int_equal(failures, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_at_once),
		cmocka_unit_test(test_close_while_running),
		cmocka_unit_test(test_create_and_close),
		cmocka_unit_test(test_all_at_once_64bit),
	};

	alarm(100); /* a call that does not come back fails the test */
	return cmocka_run_group_tests_name("stress", tests, group_setup, NULL);
}
