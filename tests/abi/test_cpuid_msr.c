/* CPUID and MSRs at the ABI: lists, limits, agreement of the lists with what works, filters and exits to the client. */
#include "abi.h"


#define MAX_CPUID 256
struct cpuid_buffer {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 e[MAX_CPUID];
};
struct msr_buffer {
	struct kvm_msrs head;
	struct kvm_msr_entry e[256];
};
struct msr_names {
	struct kvm_msr_list head;
	u32 index[1024];
};

static void supported(struct abi_vm *m, struct cpuid_buffer *b)
{
	b->head.nent = MAX_CPUID;
	ioc_ok(m->sys, KVM_GET_SUPPORTED_CPUID, b);
}

static struct kvm_cpuid_entry2 *leaf(struct cpuid_buffer *b, u32 function)
{
	for (u32 i = 0; i < b->head.nent; i++)
		if (b->e[i].function == function)
			return &b->e[i];
	fail_msg("no CPUID leaf %x", function);
	return NULL;
}

static void test_supported(void **state)
{
	static struct cpuid_buffer b;
	struct abi_vm *m = *state;

	b.head.nent = 1;
	ioc_err(m->sys, KVM_GET_SUPPORTED_CPUID, &b, E2BIG);
	supported(m, &b);
	assert_in_range(b.head.nent, 5, MAX_CPUID - 1);
	b.head.nent--; /* one too few */
	ioc_err(m->sys, KVM_GET_SUPPORTED_CPUID, &b, E2BIG);
	supported(m, &b);
	assert_int_equal(leaf(&b, 1)->ecx >> 31, 1); /* runs under a hypervisor */
	assert_int_equal(leaf(&b, 0x40000000)->ebx, 0x4b4d564b); /* "KVMK" */
	assert_int_equal(leaf(&b, 0x40000001)->eax & 9, 9); /* kvmclock */
}

static void test_set_get(void **state)
{
	static struct cpuid_buffer b, got;
	struct abi_vm *m = *state;

	supported(m, &b);
	ioc_ok(m->vcpu, KVM_SET_CPUID2, &b);
	got.head.nent = 1;
	ioc_err(m->vcpu, KVM_GET_CPUID2, &got, E2BIG);
	got.head.nent = MAX_CPUID;
	ioc_ok(m->vcpu, KVM_GET_CPUID2, &got);
	assert_int_equal(got.head.nent, b.head.nent);
	assert_memory_equal(got.e, b.e, b.head.nent * sizeof(b.e[0]));
	b.head.nent = MAX_CPUID + 1;
	ioc_err(m->vcpu, KVM_SET_CPUID2, &b, E2BIG);
	supported(m, &b);
	leaf(&b, 0x80000008)->eax = 36 | 40 << 8; /* no such linear address width */
	ioc_err(m->vcpu, KVM_SET_CPUID2, &b, EINVAL);
}

GUEST16(halt, "1: outb %al, $0x10; jmp 1b");

/* After the first run the guest has seen it: only the same table is accepted. */
static void test_after_run(void **state)
{
	static struct cpuid_buffer b;
	struct abi_vm *m = *state;

	supported(m, &b);
	ioc_ok(m->vcpu, KVM_SET_CPUID2, &b);
	ABI_LOAD(m, halt);
	abi_run(m, KVM_EXIT_IO);
	ioc_ok(m->vcpu, KVM_SET_CPUID2, &b);
	leaf(&b, 1)->ecx ^= 1;
	ioc_err(m->vcpu, KVM_SET_CPUID2, &b, EINVAL);
}

/* What the client sets is what the guest reads. */
GUEST16(read_cpuid, "movl $0x40000055, %eax; xorl %ecx, %ecx; cpuid; hlt; hlt");

static void test_guest_sees(void **state)
{
	static struct cpuid_buffer b;
	struct abi_vm m;

	abi_create(&m, ABI_NO_IRQCHIP);
	supported(&m, &b);
	b.e[b.head.nent++] = (struct kvm_cpuid_entry2){.function = 0x40000055, .eax = 1, .ebx = 2, .ecx = 3, .edx = 4};
	leaf(&b, 0x40000000)->eax = 0x40000055;
	ioc_ok(m.vcpu, KVM_SET_CPUID2, &b);
	ABI_LOAD(&m, read_cpuid);
	abi_run(&m, KVM_EXIT_HLT);
	struct kvm_regs r = abi_regs(&m);
	assert_int_equal(r.rax, 1);
	assert_int_equal(r.rbx, 2);
	assert_int_equal(r.rcx, 3);
	assert_int_equal(r.rdx, 4);
	abi_destroy(&m);
}

/*
 * The system attribute: state components that a guest can be given; CPUID's leaf 0xd names the same (SDM vol. 1,
 * 13.2).
 */
static void test_system_attr(void **state)
{
	static struct cpuid_buffer b;
	struct abi_vm *m = *state;
	u64 components = 0;
	struct kvm_device_attr a = {.addr = (u64)&components};

	ioc_ok(m->sys, KVM_HAS_DEVICE_ATTR, &a);
	ioc_ok(m->sys, KVM_GET_DEVICE_ATTR, &a);
	supported(m, &b);
	assert_int_equal(components & 0xffffffff, leaf(&b, 0xd)->eax);
	a.addr = (u64)BAD_POINTER;
	ioc_err(m->sys, KVM_GET_DEVICE_ATTR, &a, EFAULT);
	a.attr = 7;
	ioc_err(m->sys, KVM_HAS_DEVICE_ATTR, &a, ENXIO);
}

/* --- MSRs ------------------------------------------------------------------------------------------------- */

static void test_list(void **state)
{
	static struct msr_names l;
	struct abi_vm *m = *state;

	l.head.nmsrs = 0;
	ioc_err(m->sys, KVM_GET_MSR_INDEX_LIST, &l, E2BIG);
	assert_true(l.head.nmsrs > 10); /* says how much room it takes */
	ioc_ok(m->sys, KVM_GET_MSR_INDEX_LIST, &l);
	for (u32 i = 0; i < l.head.nmsrs; i++)
		for (u32 j = 0; j < i; j++)
			assert_int_not_equal(l.index[i], l.index[j]);
	l.head.nmsrs = 0;
	ioc_err(m->sys, KVM_GET_MSR_FEATURE_INDEX_LIST, &l, E2BIG);
	ioc_ok(m->sys, KVM_GET_MSR_FEATURE_INDEX_LIST, &l);
	struct msr_buffer b = {.head.nmsrs = 1};
	for (u32 i = 0; i < l.head.nmsrs; i++) {
		b.e[0].index = l.index[i];
		assert_int_equal(ioc_ok(m->sys, KVM_GET_MSRS, &b), 1);
	}
	b.e[0].index = 0x12345678;
	assert_int_equal(ioc_ok(m->sys, KVM_GET_MSRS, &b), 0);
}

/* Every MSR of the list can be read, and written back: QEMU relies on it at every reset. */
static void test_list_works(void **state)
{
	static struct cpuid_buffer c;
	static struct msr_names l;
	static struct msr_buffer b;
	struct abi_vm *m = *state;

	supported(m, &c);
	ioc_ok(m->vcpu, KVM_SET_CPUID2, &c);
	l.head.nmsrs = ARRAY_SIZE(l.index);
	ioc_ok(m->sys, KVM_GET_MSR_INDEX_LIST, &l);
	b.head.nmsrs = 1;
	for (u32 i = 0; i < l.head.nmsrs; i++) {
		b.e[0] = (struct kvm_msr_entry){.index = l.index[i]};
		if (ioc_ok(m->vcpu, KVM_GET_MSRS, &b) != 1)
			fail_msg("MSR %x cannot be read", l.index[i]);
		u64 v = b.e[0].data;
		if (ioc_ok(m->vcpu, KVM_SET_MSRS, &b) != 1)
			fail_msg("MSR %x cannot be written back (%llx)", l.index[i], (unsigned long long)v);
	}
	/* All of them at once. */
	b.head.nmsrs = MIN(l.head.nmsrs, 255);
	for (u32 i = 0; i < b.head.nmsrs; i++)
		b.e[i] = (struct kvm_msr_entry){.index = l.index[i]};
	assert_int_equal(ioc_ok(m->vcpu, KVM_GET_MSRS, &b), b.head.nmsrs);
	assert_int_equal(ioc_ok(m->vcpu, KVM_SET_MSRS, &b), b.head.nmsrs);
}

/* How many went well, up to the first that did not. */
static void test_partial(void **state)
{
	struct abi_vm *m = *state;
	struct msr_buffer b = {.head.nmsrs = 3, .e = {{.index = 0xc0000081, .data = 5}, {.index = 0x12345678},
						      {.index = 0xc0000084, .data = 7}}};

	assert_int_equal(ioc_ok(m->vcpu, KVM_SET_MSRS, &b), 1);
	b.e[0].data = b.e[2].data = 0;
	assert_int_equal(ioc_ok(m->vcpu, KVM_GET_MSRS, &b), 1);
	assert_int_equal(b.e[0].data, 5);
	b.head.nmsrs = 256;
	ioc_err(m->vcpu, KVM_GET_MSRS, &b, E2BIG);
	b.head.nmsrs = 0;
	assert_int_equal(ioc_ok(m->vcpu, KVM_GET_MSRS, &b), 0);
}

static u64 get_msr(struct abi_vm *m, u32 index)
{
	struct msr_buffer b = {.head.nmsrs = 1, .e[0].index = index};

	assert_int_equal(ioc_ok(m->vcpu, KVM_GET_MSRS, &b), 1);
	return b.e[0].data;
}

static long set_msr(struct abi_vm *m, u32 index, u64 value)
{
	struct msr_buffer b = {.head.nmsrs = 1, .e[0] = {.index = index, .data = value}};

	return ioc(m->vcpu, KVM_SET_MSRS, &b);
}

/* IA32_APIC_BASE is the same through MSRs, SREGS and the run page (SDM vol. 3A, 11.4.4). */
static void test_apic_base(void **state)
{
	static struct cpuid_buffer c;
	struct abi_vm *m = *state;
	struct kvm_sregs s;

	supported(m, &c);
	ioc_ok(m->vcpu, KVM_SET_CPUID2, &c);
	assert_int_equal(get_msr(m, 0x1b), 0xfee00900);
	assert_int_equal(set_msr(m, 0x1b, 0xfee00d00), 1); /* x2APIC */
	ioc_ok(m->vcpu, KVM_GET_SREGS, &s);
	assert_int_equal(s.apic_base, 0xfee00d00);
	assert_int_equal(get_msr(m, 0x802), 0);  /* x2APIC id */
	assert_int_equal(get_msr(m, 0x80d), 1);  /* LDR */
	assert_int_equal(set_msr(m, 0x1b, 0xfee00500), 0); /* x2APIC without enable */
	assert_int_equal(set_msr(m, 0x1b, 1ull << 60 | 0xfee00900), 0);
	assert_int_equal(get_msr(m, 0x1b), 0xfee00d00);
}

/* --- To the client ----------------------------------------------------------------------------------------- */

GUEST16(rdmsr_out, "movl $0x12345, %ecx; rdmsr; outl %eax, $0x10; movl $0x55, %eax; movl $0x66, %edx; wrmsr; "
		   "outb %al, $0x11");

static void test_unknown_to_client(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR, .args = {1u << 20}};

	ioc_err(m->vm, KVM_ENABLE_CAP, &cap, EINVAL);
	cap.args[0] = KVM_MSR_EXIT_REASON_UNKNOWN;
	ioc_ok(m->vm, KVM_ENABLE_CAP, &cap);
	ABI_LOAD(m, rdmsr_out);
	abi_run(m, KVM_EXIT_X86_RDMSR);
	assert_int_equal(m->run->msr.index, 0x12345);
	assert_int_equal(m->run->msr.reason, KVM_MSR_EXIT_REASON_UNKNOWN);
	m->run->msr.data = 0x1122334455667788;
	m->run->msr.error = 0;
	assert_int_equal(abi_run_to_out(m, 0x10), 0x55667788);
	assert_int_equal(abi_regs(m).rdx, 0x11223344);
	abi_run(m, KVM_EXIT_X86_WRMSR);
	assert_int_equal(m->run->msr.data, 0x6600000055);
	m->run->msr.error = 1;
	/* #GP, and the IVT is empty memory: 0000:0000, where zeros are ADD [BX+SI], AL. */
	m->mem[0] = 0xf4;
	m->run->request_interrupt_window = 0;
	*(u32 *)(m->mem + 13 * 4) = 0x00003000;
	static const u8 out[] = {0xe6, 0x77}; /* outb %al, $0x77 */
	memcpy(m->mem + 0x3000, out, sizeof(out));
	abi_run_to_out(m, 0x77);
}

GUEST16(efer, "movl $0xc0000080, %ecx; rdmsr; outl %eax, $0x10; movl $0x174, %ecx; movl $9, %eax; xorl %edx, %edx; "
	      "wrmsr\n"
	      "rdmsr; outl %eax, $0x10");

static void test_filter(void **state)
{
	struct abi_vm *m = *state;
	u64 none = 0;
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR, .args = {KVM_MSR_EXIT_REASON_FILTER}};
	struct kvm_msr_filter f = {
		.ranges[0] = {.flags = KVM_MSR_FILTER_READ, .base = 0xc0000080, .nmsrs = 1, .bitmap = (u8 *)&none},
		.ranges[1] = {.flags = KVM_MSR_FILTER_WRITE, .base = 0x170, .nmsrs = 16, .bitmap = (u8 *)&none},
	};
	struct kvm_msr_filter bad = {.flags = 2};

	ioc_err(m->vm, KVM_X86_SET_MSR_FILTER, &bad, EINVAL);
	bad = (struct kvm_msr_filter){.flags = KVM_MSR_FILTER_DEFAULT_DENY};
	ioc_err(m->vm, KVM_X86_SET_MSR_FILTER, &bad, EINVAL);
	bad = f;
	bad.ranges[0].flags = 0;
	ioc_err(m->vm, KVM_X86_SET_MSR_FILTER, &bad, EINVAL);
	bad = f;
	bad.ranges[0].nmsrs = 1 << 20;
	ioc_err(m->vm, KVM_X86_SET_MSR_FILTER, &bad, EINVAL);
	bad = f;
	bad.ranges[1].bitmap = BAD_POINTER;
	ioc_err(m->vm, KVM_X86_SET_MSR_FILTER, &bad, EFAULT);

	ioc_ok(m->vm, KVM_ENABLE_CAP, &cap);
	ioc_ok(m->vm, KVM_X86_SET_MSR_FILTER, &f);
	ABI_LOAD(m, efer);
	abi_run(m, KVM_EXIT_X86_RDMSR);
	assert_int_equal(m->run->msr.reason, KVM_MSR_EXIT_REASON_FILTER);
	m->run->msr.data = 0x77;
	assert_int_equal(abi_run_to_out(m, 0x10), 0x77);
	abi_run(m, KVM_EXIT_X86_WRMSR);
	assert_int_equal(m->run->msr.index, 0x174);
	assert_int_equal(m->run->msr.data, 9);
	/* The client took it; the register itself, which may be read, has not changed. */
	assert_int_equal(abi_run_to_out(m, 0x10), 0);
	/* Without the filter nothing comes out. */
	f = (struct kvm_msr_filter){0};
	ioc_ok(m->vm, KVM_X86_SET_MSR_FILTER, &f);
	ABI_LOAD(m, efer);
	assert_int_equal(abi_run_to_out(m, 0x10), 0);
	assert_int_equal(abi_run_to_out(m, 0x10), 9);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, abi_setup_irqchip, abi_teardown)
	const struct CMUnitTest tests[] = {
		T(test_supported), T(test_set_get), T(test_after_run), cmocka_unit_test(test_guest_sees), T(test_list),
		T(test_list_works), T(test_partial), T(test_system_attr), T(test_apic_base), T(test_unknown_to_client),
		T(test_filter),
	};

	return cmocka_run_group_tests_name("cpuid_msr", tests, NULL, NULL);
}
