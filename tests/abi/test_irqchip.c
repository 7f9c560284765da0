/* The in-kernel interrupt controllers as the client sees them: creation, lines, routes, MSIs, timers, HLT. */
#include "abi.h"

#include <pthread.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static void test_create(void **state)
{
	struct abi_vm m;
	struct kvm_pit_config pit = {0};
	struct kvm_irq_level line = {.irq = 1, .level = 1};
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
	struct kvm_msi msi = {.address_lo = 0xfee00000};
	struct kvm_pit_state2 ps;

	abi_create_vm(&m, ABI_NO_IRQCHIP);
	ioc_err(m.vm, KVM_CREATE_PIT2, &pit, ENOENT);
	ioc_err(m.vm, KVM_IRQ_LINE, &line, ENXIO);
	ioc_err(m.vm, KVM_GET_IRQCHIP, &chip, ENXIO);
	ioc_err(m.vm, KVM_SET_IRQCHIP, &chip, ENXIO);
	ioc_err(m.vm, KVM_GET_PIT2, &ps, ENXIO);
	ioc_err(m.vm, KVM_SIGNAL_MSI, &msi, EINVAL);
	ioc_ok(m.vm, KVM_CREATE_IRQCHIP, 0);
	ioc_err(m.vm, KVM_CREATE_IRQCHIP, 0, EEXIST);
	struct kvm_enable_cap cap = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
	ioc_err(m.vm, KVM_ENABLE_CAP, &cap, EEXIST);
	pit.flags = 0x80;
	ioc_err(m.vm, KVM_CREATE_PIT2, &pit, EINVAL);
	pit.flags = KVM_PIT_SPEAKER_DUMMY;
	ioc_ok(m.vm, KVM_CREATE_PIT2, &pit);
	ioc_err(m.vm, KVM_CREATE_PIT2, &pit, EEXIST);
	chip.chip_id = 9;
	ioc_err(m.vm, KVM_GET_IRQCHIP, &chip, EINVAL);
	abi_destroy(&m);

	abi_create(&m, ABI_NO_IRQCHIP);
	ioc_err(m.vm, KVM_CREATE_IRQCHIP, 0, EINVAL); /* a vCPU has come first */
	abi_destroy(&m);

	abi_create_vm(&m, ABI_SPLIT_IRQCHIP);
	ioc_err(m.vm, KVM_CREATE_IRQCHIP, 0, EEXIST);
	ioc_err(m.vm, KVM_CREATE_PIT2, &pit, ENOENT);
	chip.chip_id = KVM_IRQCHIP_IOAPIC;
	ioc_err(m.vm, KVM_GET_IRQCHIP, &chip, ENXIO);
	abi_destroy(&m);
}

static void test_chip_state(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_irqchip set = {.chip_id = KVM_IRQCHIP_IOAPIC}, got = {.chip_id = KVM_IRQCHIP_IOAPIC};

	ioc_ok(m->vm, KVM_GET_IRQCHIP, &set);
	assert_int_equal(set.chip.ioapic.base_address, 0xfec00000);
	set.chip.ioapic.id = 3;
	set.chip.ioapic.redirtbl[5].bits = 0x0300000000010035;
	ioc_ok(m->vm, KVM_SET_IRQCHIP, &set);
	ioc_ok(m->vm, KVM_GET_IRQCHIP, &got);
	assert_memory_equal(&set.chip, &got.chip, sizeof(set.chip.ioapic));
	set.chip_id = got.chip_id = KVM_IRQCHIP_PIC_SLAVE;
	ioc_ok(m->vm, KVM_GET_IRQCHIP, &set);
	set.chip.pic.irq_base = 0x70;
	set.chip.pic.imr = 0x5a;
	ioc_ok(m->vm, KVM_SET_IRQCHIP, &set);
	ioc_ok(m->vm, KVM_GET_IRQCHIP, &got);
	assert_int_equal(got.chip.pic.irq_base, 0x70);
	assert_int_equal(got.chip.pic.imr, 0x5a);
}

static void test_pit_state(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_pit_config pit = {0};
	struct kvm_pit_state2 set, got;
	struct kvm_reinject_control r = {.pit_reinject = 1};

	ioc_err(m->vm, KVM_REINJECT_CONTROL, &r, ENXIO);
	ioc_ok(m->vm, KVM_CREATE_PIT2, &pit);
	ioc_ok(m->vm, KVM_GET_PIT2, &set);
	set.channels[2].count = 0x1234;
	set.channels[2].mode = 3;
	ioc_ok(m->vm, KVM_SET_PIT2, &set);
	ioc_ok(m->vm, KVM_GET_PIT2, &got);
	assert_int_equal(got.channels[2].count, 0x1234);
	assert_int_equal(got.channels[2].mode, 3);
	struct kvm_pit_state old;
	ioc_ok(m->vm, KVM_GET_PIT, &old);
	assert_int_equal(old.channels[2].count, 0x1234);
	ioc_ok(m->vm, KVM_REINJECT_CONTROL, &r);
}

/* --- Interrupts that arrive -------------------------------------------------------------------------------- */

/*
 * The LAPIC on, its page reached by EBX; vector 0x50's handler says so and writes EOI. The guest halts in between.
 */
GUEST16(apic, "cli; movl $0xfee00000, %ebx; movl $0x1ff, 0xf0(%ebx); sti; outb %al, $0x10; 1: hlt; jmp 1b\n"
	      ".org apic + 0x100; movb $0x50, %al; outb %al, $0x99; movl $0, 0xb0(%ebx); iret");

static void load_apic(struct abi_vm *m)
{
	ABI_LOAD(m, apic);
	abi_flat_ds(m, m->vcpu);
	abi_vector(m, 0x50, ABI_CODE + 0x100);
	abi_run_to_out(m, 0x10);
}

static void set_redirection(struct abi_vm *m, unsigned pin, u64 entry)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};

	ioc_ok(m->vm, KVM_GET_IRQCHIP, &chip);
	chip.chip.ioapic.redirtbl[pin].bits = entry;
	ioc_ok(m->vm, KVM_SET_IRQCHIP, &chip);
}

static int line(struct abi_vm *m, u32 gsi, u32 level)
{
	struct kvm_irq_level l = {.irq = gsi, .level = level};

	ioc_ok(m->vm, KVM_IRQ_LINE_STATUS, &l);
	return l.status;
}

static void test_edge(void **state)
{
	struct abi_vm *m = *state;

	load_apic(m);
	set_redirection(m, 20, 0x50); /* fixed, physical, edge, to id 0 */
	assert_true(line(m, 20, 1) > 0);
	assert_int_equal(line(m, 20, 1), 0); /* no new edge, and not taken yet: coalesced */
	line(m, 20, 0);
	assert_int_equal(abi_run_to_out(m, 0x99), 0x50);
	assert_true(line(m, 20, 1) > 0);
	line(m, 20, 0);
	assert_int_equal(abi_run_to_out(m, 0x99), 0x50);
	set_redirection(m, 20, 0x10050); /* masked */
	assert_true(line(m, 20, 1) <= 0);
	line(m, 20, 0);
	line(m, 4000, 1); /* nobody's */
}

/* A level line that stays high interrupts again after each EOI. */
static void test_level(void **state)
{
	struct abi_vm *m = *state;

	load_apic(m);
	set_redirection(m, 21, 0x8050);
	line(m, 21, 1);
	for (int i = 0; i < 3; i++)
		assert_int_equal(abi_run_to_out(m, 0x99), 0x50);
	line(m, 21, 0);
	struct kvm_irq_level other = {.irq = 21};
	ioc_ok(m->vm, KVM_IRQ_LINE, &other);
	/* The EOI of the last one finds it low: the guest stays in HLT, until another interrupt. */
	set_redirection(m, 20, 0x50);
	line(m, 20, 1);
	assert_int_equal(abi_run_to_out(m, 0x99), 0x50);
}

static void test_msi(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x50};

	load_apic(m);
	assert_true(ioc_ok(m->vm, KVM_SIGNAL_MSI, &msi) > 0);
	assert_int_equal(abi_run_to_out(m, 0x99), 0x50);
	msi.address_lo = 0xfee05000; /* id 5 is nobody */
	assert_true(ioc(m->vm, KVM_SIGNAL_MSI, &msi) <= 0);
	msi.flags = 2;
	ioc_err(m->vm, KVM_SIGNAL_MSI, &msi, EINVAL);
}

static void test_routing(void **state)
{
	struct abi_vm *m = *state;
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e[3];
	} r = {.head.nr = 1};

	r.e[0] = (struct kvm_irq_routing_entry){.gsi = 30, .type = KVM_IRQ_ROUTING_MSI};
	r.e[0].u.msi.address_lo = 0xfee00000;
	r.e[0].u.msi.data = 0x50;
	ioc_ok(m->vm, KVM_SET_GSI_ROUTING, &r);
	load_apic(m);
	assert_true(line(m, 30, 1) > 0);
	assert_int_equal(abi_run_to_out(m, 0x99), 0x50);
	set_redirection(m, 20, 0x50);
	assert_true(line(m, 20, 1) < 0); /* the table has no other routes */

	r.e[0].type = 77;
	ioc_err(m->vm, KVM_SET_GSI_ROUTING, &r, EINVAL);
	r.e[0] = (struct kvm_irq_routing_entry){.gsi = 5000, .type = KVM_IRQ_ROUTING_MSI};
	ioc_err(m->vm, KVM_SET_GSI_ROUTING, &r, EINVAL);
	r.e[0] = (struct kvm_irq_routing_entry){.gsi = 3, .type = KVM_IRQ_ROUTING_IRQCHIP,
						.u.irqchip = {KVM_IRQCHIP_IOAPIC, 24}};
	ioc_err(m->vm, KVM_SET_GSI_ROUTING, &r, EINVAL);
	r.head.flags = 1;
	ioc_err(m->vm, KVM_SET_GSI_ROUTING, &r, EINVAL);
	r.head = (struct kvm_irq_routing){.nr = 5000};
	ioc_err(m->vm, KVM_SET_GSI_ROUTING, &r, EINVAL);
	r.head.nr = 0;
	ioc_ok(m->vm, KVM_SET_GSI_ROUTING, &r);
}

/* --- HLT and timers ------------------------------------------------------------------------------------------- */

static u64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000 + (u64)ts.tv_nsec / 1000000;
}

static u64 cpu_ms(void)
{
	struct rusage r;

	getrusage(RUSAGE_SELF, &r);
	return (u64)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1000 +
		(u64)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1000;
}

static void *raise_later(void *arg)
{
	struct abi_vm *m = arg;
	struct kvm_irq_level l = {.irq = 20, .level = 1};

	usleep(100000);
	ioc(m->vm, KVM_IRQ_LINE, &l);
	return NULL;
}

/* A halted guest costs nothing and wakes up at once. */
static void test_halt(void **state)
{
	struct abi_vm *m = *state;
	pthread_t t;

	load_apic(m);
	set_redirection(m, 20, 0x50);
	u64 start = now_ms(), cpu = cpu_ms();
	pthread_create(&t, NULL, raise_later, m);
	assert_int_equal(abi_run_to_out(m, 0x99), 0x50);
	assert_in_range(now_ms() - start, 99, 400);
	assert_in_range(cpu_ms() - cpu, 0, 30);
	pthread_join(t, NULL);
}

/* LAPIC timer: divide by 1, periodic, 20 ms at KVM's 1 GHz bus clock. */
GUEST16(timer, "cli; movl $0xfee00000, %ebx; movl $0x1ff, 0xf0(%ebx); movl $0xb, 0x3e0(%ebx); "
	       "movl $0x20050, 0x320(%ebx)\n"
	       "movl $20000000, 0x380(%ebx); sti; 1: hlt; jmp 1b\n"
	       ".org timer + 0x100; outb %al, $0x99; movl $0, 0xb0(%ebx); iret");

static void load_timer(struct abi_vm *m, const u8 *code, size_t size)
{
	abi_load(m, m->vcpu, code, size);
	abi_flat_ds(m, m->vcpu);
	abi_vector(m, 0x50, ABI_CODE + 0x100);
}

static void test_timer_halted(void **state)
{
	struct abi_vm *m = *state;

	load_timer(m, timer, (size_t)(timer_end - timer));
	u64 start = now_ms(), cpu = cpu_ms();
	for (int i = 0; i < 10; i++)
		abi_run_to_out(m, 0x99);
	assert_in_range(now_ms() - start, 199, 400);
	assert_in_range(cpu_ms() - cpu, 0, 50);
}

/* The same while the guest is busy: the timer interrupts the running vCPU. */
GUEST16(busy, "cli; movl $0xfee00000, %ebx; movl $0x1ff, 0xf0(%ebx); movl $0xb, 0x3e0(%ebx); "
	      "movl $0x20050, 0x320(%ebx)\n"
	      "movl $20000000, 0x380(%ebx); sti; 1: incl %ecx; jmp 1b\n"
	      ".org busy + 0x100; outb %al, $0x99; movl $0, 0xb0(%ebx); iret");

static void test_timer_running(void **state)
{
	struct abi_vm *m = *state;

	load_timer(m, busy, (size_t)(busy_end - busy));
	u64 start = now_ms();
	for (int i = 0; i < 10; i++)
		abi_run_to_out(m, 0x99);
	assert_in_range(now_ms() - start, 199, 400);
}

/* Channel 0 of the PIT, 100 Hz, through IOAPIC pin 2, as KVM routes GSI 0. */
GUEST16(pit_code, "cli; movl $0xfee00000, %ebx; movl $0x1ff, 0xf0(%ebx)\n"
		  "movb $0x34, %al; outb %al, $0x43; movb $0x9c, %al; outb %al, $0x40; movb $0x2e, %al; "
		  "outb %al, $0x40\n"
		  "sti; 1: hlt; jmp 1b\n"
		  ".org pit_code + 0x100; outb %al, $0x99; movl $0, 0xb0(%ebx); iret");

static void test_pit(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_pit_config pit = {0};

	ioc_ok(m->vm, KVM_CREATE_PIT2, &pit);
	for (unsigned pin = 0; pin < 3; pin += 2)
		set_redirection(m, pin, 0x50);
	load_timer(m, pit_code, (size_t)(pit_code_end - pit_code));
	u64 start = now_ms();
	for (int i = 0; i < 20; i++)
		abi_run_to_out(m, 0x99);
	assert_in_range(now_ms() - start, 180, 400);
}

/* The client's PIC with KVM's LAPIC: KVM_INTERRUPT is an ExtINT. */
GUEST16(extint, "movl $0xfee00000, %ebx; movl $0x1ff, 0xf0(%ebx); movl $0x700, 0x350(%ebx); sti; 1: outb %al, $0x10; "
		"jmp 1b\n"
		".org extint + 0x100; outb %al, $0x99; iret");

static void test_split(void **state)
{
	struct abi_vm m;
	struct kvm_interrupt irq = {.irq = 0x50};

	abi_create(&m, ABI_SPLIT_IRQCHIP);
	ABI_LOAD(&m, extint);
	abi_flat_ds(&m, m.vcpu);
	abi_vector(&m, 0x50, ABI_CODE + 0x100);
	abi_run_to_out(&m, 0x10);
	ioc_ok(m.vcpu, KVM_INTERRUPT, &irq);
	ioc_err(m.vcpu, KVM_INTERRUPT, &irq, EEXIST);
	abi_run_to_out(&m, 0x99);
	abi_run_to_out(&m, 0x10);
	ioc_ok(m.vcpu, KVM_INTERRUPT, &irq);
	abi_destroy(&m);
}

static void test_interrupt_refused(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_interrupt irq = {.irq = 0x50};

	ioc_err(m->vcpu, KVM_INTERRUPT, &irq, ENXIO);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, abi_setup_irqchip, abi_teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_create), T(test_chip_state), T(test_pit_state), T(test_edge), T(test_level),
		T(test_msi), T(test_routing), T(test_halt), T(test_timer_halted), T(test_timer_running), T(test_pit),
		cmocka_unit_test(test_split), T(test_interrupt_refused),
	};

	return cmocka_run_group_tests_name("irqchip", tests, NULL, NULL);
}
