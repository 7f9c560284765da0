/* What the client injects: interrupts and their window, NMIs, exceptions, debugging. No irqchip. */
#include "abi.h"

/* Handlers at fixed places: OUT of a number to port 0x20, then IRET. */
#define HANDLER(n) (0x4000 + (n) * 16)
static void handler(struct abi_vm *m, unsigned vector)
{
	/* push ax; mov al, n; out 0x20, al; pop ax; iret */
	u8 code[] = {0x50, 0xb0, (u8)vector, 0xe6, 0x20, 0x58, 0xcf};

	memcpy(m->mem + HANDLER(vector), code, sizeof(code));
	abi_vector(m, vector, HANDLER(vector));
}

GUEST16(loop_sti, "sti; 1: outb %al, $0x10; jmp 1b");
GUEST16(loop_cli, "cli; outb %al, $0x10; outb %al, $0x11; sti; outb %al, $0x12; outb %al, $0x13; 1: jmp 1b");

static void test_interrupt(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_interrupt irq = {.irq = 0x41};

	handler(m, 0x41);
	ABI_LOAD(m, loop_sti);
	abi_run_to_out(m, 0x10);
	abi_run_to_out(m, 0x10);
	assert_int_equal(m->run->if_flag, 1);
	irq.irq = 256;
	ioc_err(m->vcpu, KVM_INTERRUPT, &irq, EINVAL);
	irq.irq = 0x41;
	ioc_ok(m->vcpu, KVM_INTERRUPT, &irq);
	assert_int_equal(abi_run_to_out(m, 0x20), 0x41);
	assert_int_equal(m->run->if_flag, 0);
	abi_run_to_out(m, 0x10);
	assert_int_equal(m->run->if_flag, 1);
}

/* The window opens as soon as an interrupt could be taken: after the instruction that follows STI. */
static void test_window(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_interrupt irq = {.irq = 0x42};

	handler(m, 0x42);
	ABI_LOAD(m, loop_cli);
	abi_run_to_out(m, 0x10);
	m->run->request_interrupt_window = 1;
	abi_run_to_out(m, 0x11);
	assert_int_equal(m->run->ready_for_interrupt_injection, 0);
	/* STI holds interrupts off for one instruction: OUT to 0x12 comes first. */
	abi_run_to_out(m, 0x12);
	abi_run(m, KVM_EXIT_IRQ_WINDOW_OPEN);
	assert_int_equal(m->run->ready_for_interrupt_injection, 1);
	m->run->request_interrupt_window = 0;
	ioc_ok(m->vcpu, KVM_INTERRUPT, &irq);
	assert_int_equal(abi_run_to_out(m, 0x20), 0x42);
	abi_run_to_out(m, 0x13);
}

/* Queued while interrupts are off: delivered when the guest lets it in. */
static void test_interrupt_waits(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_interrupt irq = {.irq = 0x43};

	if (!abi_is_ours())
		skip(); /* the kernel's KVM leaves it to the client to ask first */
	handler(m, 0x43);
	ABI_LOAD(m, loop_cli);
	abi_run_to_out(m, 0x10);
	ioc_ok(m->vcpu, KVM_INTERRUPT, &irq);
	abi_run_to_out(m, 0x11);
	abi_run_to_out(m, 0x12);
	assert_int_equal(abi_run_to_out(m, 0x20), 0x43);
	abi_run_to_out(m, 0x13);
}

GUEST16(nmi_loop, "cli; 1: outb %al, $0x10; jmp 1b");

/* One is served, one waits, the third is lost (SDM vol. 3A, 6.7.1). */
static void test_nmi(void **state)
{
	struct abi_vm *m = *state;

	handler(m, 2);
	ABI_LOAD(m, nmi_loop);
	abi_run_to_out(m, 0x10);
	ioc_ok(m->vcpu, KVM_NMI, 0);
	assert_int_equal(abi_run_to_out(m, 0x20), 2);
	ioc_ok(m->vcpu, KVM_NMI, 0);
	ioc_ok(m->vcpu, KVM_NMI, 0);
	ioc_ok(m->vcpu, KVM_NMI, 0);
	assert_int_equal(abi_run_to_out(m, 0x20), 2); /* after the IRET */
	abi_run_to_out(m, 0x10);
	abi_run_to_out(m, 0x10);
	struct kvm_vcpu_events e;
	ioc_ok(m->vcpu, KVM_GET_VCPU_EVENTS, &e);
	assert_int_equal(e.nmi.pending | e.nmi.masked | e.nmi.injected, 0);
}

/* An exception that the client has the guest take, with its payload. */
GUEST16(plain_loop, "1: outb %al, $0x10; jmp 1b");

static void test_exception(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_vcpu_events e;

	handler(m, 6);
	ABI_LOAD(m, plain_loop);
	abi_run_to_out(m, 0x10);
	ioc_ok(m->vcpu, KVM_GET_VCPU_EVENTS, &e);
	e.exception.injected = 1;
	e.exception.nr = 6;
	ioc_ok(m->vcpu, KVM_SET_VCPU_EVENTS, &e);
	assert_int_equal(abi_run_to_out(m, 0x20), 6);
	abi_run_to_out(m, 0x10);
}

static void test_triple_fault_event(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_TRIPLE_FAULT_EVENT, .args = {1}};
	struct kvm_vcpu_events e;

	ABI_LOAD(m, plain_loop);
	abi_run_to_out(m, 0x10);
	ioc_ok(m->vcpu, KVM_GET_VCPU_EVENTS, &e);
	e.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	e.triple_fault.pending = 1;
	ioc_err(m->vcpu, KVM_SET_VCPU_EVENTS, &e, EINVAL);
	ioc_ok(m->vm, KVM_ENABLE_CAP, &cap);
	ioc_ok(m->vcpu, KVM_SET_VCPU_EVENTS, &e);
	e.triple_fault.pending = 0;
	ioc_ok(m->vcpu, KVM_GET_VCPU_EVENTS, &e);
	assert_int_equal(e.triple_fault.pending, 1);
	abi_run(m, KVM_EXIT_SHUTDOWN);
}

/* --- Guest debugging --------------------------------------------------------------------------------------- */

GUEST16(steps, "nop; incw %bx; movw $5, %cx; 1: loop 1b; outb %al, $0x10; hlt");

static void test_single_step(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_guest_debug d = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP};
	static const u16 rip[] = {1, 2, 5, 5, 5};

	ABI_LOAD(m, steps);
	ioc_ok(m->vcpu, KVM_SET_GUEST_DEBUG, &d);
	for (size_t i = 0; i < ARRAY_SIZE(rip); i++) {
		abi_run(m, KVM_EXIT_DEBUG);
		assert_int_equal(m->run->debug.arch.exception, 1);
		assert_int_equal(m->run->debug.arch.pc, ABI_CODE + rip[i]);
		assert_int_equal(m->run->debug.arch.dr6 & 0x4000, 0x4000); /* BS */
		assert_int_equal(abi_regs(m).rip, ABI_CODE + rip[i]);
		assert_int_equal(abi_regs(m).rflags & 0x100, 0); /* the guest's own TF stays clear */
	}
	d.control = 0;
	ioc_ok(m->vcpu, KVM_SET_GUEST_DEBUG, &d);
	abi_run_to_out(m, 0x10);
}

static void test_breakpoints(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_guest_debug d = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP};

	d.arch.debugreg[0] = ABI_CODE + 2;
	d.arch.debugreg[7] = 0x402; /* DR0, instruction */
	ABI_LOAD(m, steps);
	ioc_ok(m->vcpu, KVM_SET_GUEST_DEBUG, &d);
	abi_run(m, KVM_EXIT_DEBUG);
	assert_int_equal(m->run->debug.arch.pc, ABI_CODE + 2);
	assert_int_equal(m->run->debug.arch.dr6 & 15, 1);
	assert_int_equal(abi_regs(m).rbx, 1);
	d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
	ABI_LOAD(m, steps);
	m->mem[ABI_CODE + 1] = 0xcc;
	ioc_ok(m->vcpu, KVM_SET_GUEST_DEBUG, &d);
	abi_run(m, KVM_EXIT_DEBUG);
	assert_int_equal(m->run->debug.arch.exception, 3);
	assert_int_equal(m->run->debug.arch.pc, ABI_CODE + 1);
}

static void test_inject_db(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_guest_debug d = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_BP};

	handler(m, 3);
	ABI_LOAD(m, plain_loop);
	abi_run_to_out(m, 0x10);
	ioc_ok(m->vcpu, KVM_SET_GUEST_DEBUG, &d);
	ioc_err(m->vcpu, KVM_SET_GUEST_DEBUG, &d, EBUSY);
	assert_int_equal(abi_run_to_out(m, 0x20), 3);
}

/* --- CR8 without an irqchip ------------------------------------------------------------------------------------ */

/* Into 64-bit code at once: the state that a boot loader would make. */
GUEST_CODE(64, cr8_code, "mov $9, %eax; mov %rax, %cr8; mov $3, %eax; mov %rax, %cr8; mov %cr8, %rbx; hlt");

static void test_set_tpr(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_sregs s;
	struct kvm_regs r = {.rip = ABI_CODE, .rflags = 2, .rsp = 0x8000};

	*(u64 *)(m->mem + 0x10000) = 0x11007;
	*(u64 *)(m->mem + 0x11000) = 0x12007;
	*(u64 *)(m->mem + 0x12000) = 0x00087; /* 2 MiB, to itself */
	memcpy(m->mem + ABI_CODE, cr8_code, (size_t)(cr8_code_end - cr8_code));
	ioc_ok(m->vcpu, KVM_GET_SREGS, &s);
	s.cr0 = 0x80050033;
	s.cr3 = 0x10000;
	s.cr4 = 0x20;
	s.efer = 0x500;
	s.cs = (struct kvm_segment){.selector = 8, .limit = 0xffffffff, .type = 11, .present = 1, .s = 1, .l = 1,
				    .g = 1};
	s.ss = (struct kvm_segment){.selector = 16, .limit = 0xffffffff, .type = 3, .present = 1, .s = 1, .db = 1,
				    .g = 1};
	ioc_ok(m->vcpu, KVM_SET_SREGS, &s);
	ioc_ok(m->vcpu, KVM_SET_REGS, &r);
	/* Raising it concerns nobody; lowering it may let an interrupt in that the client holds. */
	abi_run(m, KVM_EXIT_SET_TPR);
	assert_int_equal(m->run->cr8, 3);
	m->run->cr8 = 4; /* an input too */
	abi_run(m, KVM_EXIT_HLT);
	assert_int_equal(abi_regs(m).rbx, 4);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, abi_setup, abi_teardown)
	const struct CMUnitTest tests[] = {
		T(test_interrupt), T(test_window), T(test_interrupt_waits), T(test_nmi), T(test_exception),
		T(test_triple_fault_event), T(test_single_step), T(test_breakpoints), T(test_inject_db),
		T(test_set_tpr),
	};

	return cmocka_run_group_tests_name("inject", tests, NULL, NULL);
}
