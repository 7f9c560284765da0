/* Arguments that point nowhere, numbers that nobody knows: an error each time, and the VM is as good as before. */
#include "abi.h"

#include <sys/mman.h>

GUEST16(halt, "hlt");

/* Every ioctl that takes a pointer. */
static const struct { const char *name; unsigned long req; } sys_list[] = {
#define R(x) {#x, x}
	R(KVM_GET_SUPPORTED_CPUID), R(KVM_GET_MSR_INDEX_LIST), R(KVM_GET_MSR_FEATURE_INDEX_LIST), R(KVM_GET_MSRS),
	R(KVM_X86_GET_MCE_CAP_SUPPORTED),
}, vm_list[] = {
	R(KVM_ENABLE_CAP), R(KVM_SET_USER_MEMORY_REGION), R(KVM_SET_IDENTITY_MAP_ADDR), R(KVM_CREATE_PIT2),
	R(KVM_SET_GSI_ROUTING), R(KVM_IRQ_LINE), R(KVM_IRQ_LINE_STATUS), R(KVM_SIGNAL_MSI), R(KVM_IRQFD),
	R(KVM_IOEVENTFD), R(KVM_REGISTER_COALESCED_MMIO), R(KVM_UNREGISTER_COALESCED_MMIO), R(KVM_GET_CLOCK),
	R(KVM_SET_CLOCK), R(KVM_GET_IRQCHIP), R(KVM_SET_IRQCHIP), R(KVM_GET_PIT2), R(KVM_SET_PIT2),
	R(KVM_X86_SET_MSR_FILTER), R(KVM_GET_DIRTY_LOG), R(KVM_CLEAR_DIRTY_LOG), R(KVM_REINJECT_CONTROL),
}, vcpu_list[] = {
	R(KVM_GET_REGS), R(KVM_SET_REGS), R(KVM_GET_SREGS), R(KVM_SET_SREGS), R(KVM_GET_SREGS2), R(KVM_SET_SREGS2),
	R(KVM_SET_CPUID), R(KVM_SET_CPUID2), R(KVM_GET_CPUID2), R(KVM_GET_MSRS), R(KVM_SET_MSRS), R(KVM_GET_FPU),
	R(KVM_SET_FPU), R(KVM_GET_LAPIC), R(KVM_SET_LAPIC), R(KVM_GET_MP_STATE), R(KVM_SET_MP_STATE),
	R(KVM_GET_VCPU_EVENTS), R(KVM_SET_VCPU_EVENTS), R(KVM_GET_XSAVE), R(KVM_SET_XSAVE), R(KVM_GET_XSAVE2),
	R(KVM_GET_XCRS), R(KVM_SET_XCRS), R(KVM_GET_DEBUGREGS), R(KVM_SET_DEBUGREGS), R(KVM_X86_SETUP_MCE),
	R(KVM_SET_VAPIC_ADDR), R(KVM_TPR_ACCESS_REPORTING), R(KVM_SET_GUEST_DEBUG), R(KVM_TRANSLATE), R(KVM_ENABLE_CAP),
	R(KVM_HAS_DEVICE_ATTR), R(KVM_GET_DEVICE_ATTR), R(KVM_SET_DEVICE_ATTR), R(KVM_SET_SIGNAL_MASK),
};

static void all_fault(int fd, const void *list, size_t n)
{
	const struct { const char *name; unsigned long req; } *l = list;
	/* The last bytes before an unmapped page: no argument fits there. */
	u8 *edge = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	munmap(edge + PAGE_SIZE, PAGE_SIZE);
	void *bad[] = {BAD_POINTER, (void *)~0xfffull, edge + PAGE_SIZE - 1};
	for (size_t i = 0; i < n; i++)
		for (size_t b = 0; b < ARRAY_SIZE(bad); b++) {
			long r = kvm->ioctl(fd, l[i].req, bad[b]);
			if (r != -EFAULT)
				fail_msg("%s with pointer %zu: %ld", l[i].name, b, r);
		}
	munmap(edge, PAGE_SIZE);
}

static void test_pointers(void **state)
{
	struct abi_vm m;
	struct kvm_pit_config pit = {0};

	abi_create(&m, ABI_IRQCHIP);
	ioc_ok(m.vm, KVM_CREATE_PIT2, &pit);
	all_fault(m.sys, sys_list, ARRAY_SIZE(sys_list));
	all_fault(m.vm, vm_list, ARRAY_SIZE(vm_list));
	all_fault(m.vcpu, vcpu_list, ARRAY_SIZE(vcpu_list));
	ABI_LOAD(&m, halt);
	abi_destroy(&m);
}

/* Arrays whose count is a lie. */
static void test_counts(void **state)
{
	struct abi_vm m;
	u32 *page = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	munmap((u8 *)page + PAGE_SIZE, PAGE_SIZE);
	u32 *end = page + 1024 - 2; /* room for a header alone */
	abi_create(&m, ABI_IRQCHIP);
	end[0] = 1, end[1] = 0;
	ioc_err(m.vcpu, KVM_SET_CPUID2, end, EFAULT);
	ioc_err(m.vcpu, KVM_GET_MSRS, end, EFAULT);
	ioc_err(m.vcpu, KVM_SET_MSRS, end, EFAULT);
	ioc_err(m.vm, KVM_SET_GSI_ROUTING, end, EFAULT);
	end[0] = 0xffffffff;
	ioc_err(m.vcpu, KVM_SET_CPUID2, end, E2BIG);
	ioc_err(m.vcpu, KVM_SET_CPUID, end, E2BIG);
	ioc_err(m.vcpu, KVM_GET_MSRS, end, E2BIG);
	ioc_err(m.vm, KVM_SET_GSI_ROUTING, end, EINVAL);
	end[0] = 200;
	ioc_err(m.sys, KVM_GET_SUPPORTED_CPUID, end, EFAULT);
	abi_destroy(&m);
	munmap(page, PAGE_SIZE);
}

/* Capabilities: what is not known is 0, and cannot be enabled. */
static void test_caps(void **state)
{
	struct abi_vm m;

	abi_create(&m, ABI_NO_IRQCHIP);
	for (u64 c = 300; c < 400; c++) {
		assert_int_equal(ioc_ok(m.sys, KVM_CHECK_EXTENSION, c), 0);
		struct kvm_enable_cap cap = {.cap = (u32)c};
		ioc_err(m.vm, KVM_ENABLE_CAP, &cap, EINVAL);
		ioc_err(m.vcpu, KVM_ENABLE_CAP, &cap, EINVAL);
	}
	assert_int_equal(ioc_ok(m.sys, KVM_CHECK_EXTENSION, -1ul), 0);
	struct kvm_enable_cap cap = {.cap = KVM_CAP_EXCEPTION_PAYLOAD, .flags = 1};
	ioc_err(m.vm, KVM_ENABLE_CAP, &cap, EINVAL);
	/* Those without which some client refuses to start. */
	static const u32 needed[] = {
		KVM_CAP_COALESCED_MMIO, KVM_CAP_SET_TSS_ADDR, KVM_CAP_PIT2, KVM_CAP_USER_MEMORY, KVM_CAP_IRQ_ROUTING,
		KVM_CAP_IRQCHIP, KVM_CAP_HLT, KVM_CAP_IRQ_INJECT_STATUS, KVM_CAP_EXT_CPUID,
		KVM_CAP_DESTROY_MEMORY_REGION_WORKS, KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, KVM_CAP_MP_STATE,
		KVM_CAP_IOEVENTFD, KVM_CAP_IRQFD, KVM_CAP_PIT_STATE2, KVM_CAP_ADJUST_CLOCK, KVM_CAP_DEBUGREGS,
		KVM_CAP_VCPU_EVENTS, KVM_CAP_XCRS, KVM_CAP_XSAVE, KVM_CAP_GET_TSC_KHZ, KVM_CAP_IMMEDIATE_EXIT,
		KVM_CAP_SET_IDENTITY_MAP_ADDR, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_TSC_DEADLINE_TIMER, KVM_CAP_USER_NMI,
		KVM_CAP_SYNC_MMU,
	};
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
		if (ioc_ok(m.vm, KVM_CHECK_EXTENSION, needed[i]) <= 0)
			fail_msg("capability %u", needed[i]);
	assert_int_equal(ioc_ok(m.sys, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT), 1);
	assert_int_equal(ioc_ok(m.sys, KVM_CHECK_EXTENSION, KVM_CAP_MSI_DEVID), 0);
	abi_destroy(&m);
}

/* Random ioctl numbers with a page of random bytes: any answer but a crash. */
static void test_random(void **state)
{
	struct abi_vm m;
	u64 seed = 88172645463325252ull;
	u8 *page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (!abi_is_ours())
		skip();
	abi_create(&m, ABI_IRQCHIP);
	ABI_LOAD(&m, halt);
	for (int i = 0; i < 20000; i++) {
		seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
		for (unsigned n = 0; n < 64; n++)
			((u64 *)page)[n] = seed >> (n % 64) & (n & 1 ? 0xff : ~0ull);
		unsigned nr = seed >> 20 & 0xff, dir = seed >> 30 & 3, size = seed >> 40 & 0x1ff;
		int fd = (int[]){m.sys, m.vm, m.vcpu}[seed % 3];
		unsigned long req = i % 2 ? vcpu_list[seed % ARRAY_SIZE(vcpu_list)].req : _IOC(dir, KVMIO, nr, size);
		/*
		 * Neither new descriptors without end nor a run that may not return, nor a slot over memory that is
		 * not ours.
		 */
		if (nr == 1 || nr == 0x41 || nr == 0x80 || nr == 0x46 || nr == 0x49)
			continue;
		kvm->ioctl(i % 2 ? m.vcpu : fd, req, page);
	}
	abi_destroy(&m);
	munmap(page, PAGE_SIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pointers), cmocka_unit_test(test_counts), cmocka_unit_test(test_caps),
		cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests_name("bad", tests, NULL, NULL);
}
