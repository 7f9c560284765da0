/* Every get/set pair of vCPU state: what is set is what is got, and what cannot be is refused. */
#include "abi.h"


/* Bytes that differ from each other and from zero. */
static void fill(void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((u8 *)p)[i] = (u8)(i * 7 + 3);
}

static void test_regs(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_regs set, got;

	fill(&set, sizeof(set));
	set.rflags = 0x246;
	ioc_ok(m->vcpu, KVM_SET_REGS, &set);
	ioc_ok(m->vcpu, KVM_GET_REGS, &got);
	assert_memory_equal(&set, &got, sizeof(set));
	set.rflags = 0; /* bit 1 is always set */
	ioc_ok(m->vcpu, KVM_SET_REGS, &set);
	assert_int_equal(abi_regs(m).rflags, 2);
}

/* SDM vol. 3A, table 10-1. */
static void test_reset_values(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_regs r = abi_regs(m);
	struct kvm_sregs s;
	struct kvm_fpu f;
	struct kvm_debugregs d;
	struct kvm_xcrs x;
	struct kvm_mp_state mp;

	ioc_ok(m->vcpu, KVM_GET_SREGS, &s);
	assert_int_equal(r.rip, 0xfff0);
	assert_int_equal(r.rflags, 2);
	assert_int_equal(s.cs.selector, 0xf000);
	assert_int_equal(s.cs.base, 0xffff0000);
	assert_int_equal(s.cs.limit, 0xffff);
	assert_int_equal(s.cr0, 0x60000010);
	assert_int_equal(s.cr4, 0);
	assert_int_equal(s.efer, 0);
	assert_int_equal(s.idt.limit, 0xffff);
	assert_int_equal(s.apic_base, 0xfee00900);
	ioc_ok(m->vcpu, KVM_GET_FPU, &f);
	assert_int_equal(f.fcw, 0x37f);
	assert_int_equal(f.mxcsr, 0x1f80);
	ioc_ok(m->vcpu, KVM_GET_DEBUGREGS, &d);
	assert_int_equal(d.dr6, 0xffff0ff0);
	assert_int_equal(d.dr7, 0x400);
	ioc_ok(m->vcpu, KVM_GET_XCRS, &x);
	assert_int_equal(x.nr_xcrs, 1);
	assert_int_equal(x.xcrs[0].value, 1);
	ioc_ok(m->vcpu, KVM_GET_MP_STATE, &mp);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_RUNNABLE);
}

static void long_mode(struct kvm_sregs *s)
{
	s->cr0 = 0x80050033;
	s->cr3 = 0x10000;
	s->cr4 = 0x620;
	s->efer = 0xd01;
	s->cs.l = 1;
	s->cs.db = 0;
}

static void test_sregs(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_sregs s, got;

	ioc_ok(m->vcpu, KVM_GET_SREGS, &s);
	long_mode(&s);
	s.fs.base = 0x123456789abc;
	s.fs.selector = 0x33;
	s.gdt.base = 0xffff800000001000;
	s.gdt.limit = 0x7f;
	s.idt.base = 0xffff800000002000;
	s.cr2 = 0xdeadbeef000;
	s.cr8 = 5;
	s.tr.type = 11;
	s.ldt.unusable = 1;
	ioc_ok(m->vcpu, KVM_SET_SREGS, &s);
	ioc_ok(m->vcpu, KVM_GET_SREGS, &got);
	assert_memory_equal(&s, &got, sizeof(s));
	s.interrupt_bitmap[1] = 1 << 5;
	ioc_ok(m->vcpu, KVM_SET_SREGS, &s);
	ioc_ok(m->vcpu, KVM_GET_SREGS, &got);
	assert_int_equal(got.interrupt_bitmap[1], 1 << 5);
	struct kvm_vcpu_events e;
	ioc_ok(m->vcpu, KVM_GET_VCPU_EVENTS, &e);
	assert_int_equal(e.interrupt.injected, 1);
	assert_int_equal(e.interrupt.nr, 69);
}

static void test_sregs_invalid(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_sregs s, before, got;
	struct kvm_sregs bad[11];
	size_t n = 0;

	ioc_ok(m->vcpu, KVM_GET_SREGS, &before);
	s = before;
	long_mode(&s);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		bad[i] = s;
	bad[n++].cr4 &= ~0x20ull;         /* long mode without PAE */
	bad[n++].efer &= ~0x400ull;       /* LME and PG without LMA */
	bad[n++].cr0 &= ~0x80000000ull;   /* LMA without PG */
	bad[n++].cr0 |= 1ull << 32;
	bad[n++].cr0 |= 1u << 29;         /* NW without CD */
	bad[n++].cr0 &= ~1ull;            /* PG without PE */
	bad[n++].cr4 |= 1ull << 40;
	bad[n++].cr4 |= 1ull << 31;
	bad[n++].cr3 |= 1ull << 62;
	bad[n++].apic_base |= 1ull << 60;
	bad[n].efer = 0;                  /* 64-bit code segment outside of long mode */
	bad[n++].cr0 = 0x33;
	for (size_t i = 0; i < n; i++) {
		long r = ioc(m->vcpu, KVM_SET_SREGS, &bad[i]);
		if (r != -EINVAL)
			fail_msg("state %zu: %ld", i, r);
	}
	ioc_ok(m->vcpu, KVM_GET_SREGS, &got);
	assert_memory_equal(&before, &got, sizeof(got));
}

static void test_sregs2(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_sregs2 s, got;

	ioc_ok(m->vcpu, KVM_GET_SREGS2, &s);
	s.flags = 2;
	ioc_err(m->vcpu, KVM_SET_SREGS2, &s, EINVAL);
	s.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID; /* without PAE paging */
	ioc_err(m->vcpu, KVM_SET_SREGS2, &s, EINVAL);
	s.cr0 = 0x80000011;
	s.cr4 = 0x20;
	s.cr3 = 0x10020;
	s.pdptrs[1] = 0x20001;
	ioc_ok(m->vcpu, KVM_SET_SREGS2, &s);
	ioc_ok(m->vcpu, KVM_GET_SREGS2, &got);
	assert_memory_equal(&s, &got, sizeof(s));
	/* Without the flag they are loaded from memory. */
	*(u64 *)(m->mem + 0x10020 + 16) = 0x30001;
	s.flags = 0;
	ioc_ok(m->vcpu, KVM_SET_SREGS2, &s);
	ioc_ok(m->vcpu, KVM_GET_SREGS2, &got);
	assert_int_equal(got.flags, KVM_SREGS2_FLAGS_PDPTRS_VALID);
	assert_int_equal(got.pdptrs[2], 0x30001);
	assert_int_equal(got.pdptrs[1], 0);
}

static void test_fpu(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_fpu set = {0}, got;

	fill(set.fpr, sizeof(set.fpr));
	for (int i = 0; i < 8; i++)
		memset(&set.fpr[i][10], 0, 6); /* 80 bits each */
	fill(set.xmm, sizeof(set.xmm));
	set.fcw = 0x27f;
	set.fsw = 0x3800;
	set.ftwx = 0x81;
	set.last_opcode = 0x123;
	set.last_ip = 0x1122334455;
	set.last_dp = 0x5544332211;
	set.mxcsr = 0x1fa0;
	ioc_ok(m->vcpu, KVM_SET_FPU, &set);
	ioc_ok(m->vcpu, KVM_GET_FPU, &got);
	assert_memory_equal(&set, &got, sizeof(set));
	/* The same registers in the other format (SDM vol. 1, 13.4.1). */
	struct kvm_xsave x;
	ioc_ok(m->vcpu, KVM_GET_XSAVE, &x);
	const u8 *a = (const u8 *)x.region;
	assert_memory_equal(a, &set.fcw, 2);
	assert_memory_equal(a + 24, &set.mxcsr, 4);
	assert_memory_equal(a + 160, set.xmm, sizeof(set.xmm));
	assert_int_equal(a[512] & 3, 3);
}

static void test_xsave(void **state)
{
	struct abi_vm *m = *state;
	long size = ioc_ok(m->vm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);

	assert_true(size >= 4096);
	u8 *set = calloc(1, (size_t)size), *got = calloc(1, (size_t)size);
	ioc_ok(m->vcpu, KVM_GET_XSAVE2, set);
	fill(set + 160, 256);
	set[512] |= 2;
	ioc_ok(m->vcpu, KVM_SET_XSAVE, set);
	ioc_ok(m->vcpu, KVM_GET_XSAVE2, got);
	assert_memory_equal(set + 160, got + 160, 256);
	set[512 + 7] = 0x40; /* a component that there is not */
	ioc_err(m->vcpu, KVM_SET_XSAVE, set, EINVAL);
	set[512 + 7] = 0;
	memset(set + 24, 0xff, 4); /* MXCSR */
	ioc_err(m->vcpu, KVM_SET_XSAVE, set, EINVAL);
	free(set);
	free(got);
}

static void test_xcrs(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_xcrs x = {.nr_xcrs = 1, .xcrs[0].value = 3}, got;

	ioc_ok(m->vcpu, KVM_SET_XCRS, &x);
	ioc_ok(m->vcpu, KVM_GET_XCRS, &got);
	assert_int_equal(got.xcrs[0].value, 3);
	x.xcrs[0].value = 2; /* x87 is always there */
	ioc_err(m->vcpu, KVM_SET_XCRS, &x, EINVAL);
	x.xcrs[0].value = 1ull << 62;
	ioc_err(m->vcpu, KVM_SET_XCRS, &x, EINVAL);
	x = (struct kvm_xcrs){.nr_xcrs = 17};
	ioc_err(m->vcpu, KVM_SET_XCRS, &x, EINVAL);
	x = (struct kvm_xcrs){.flags = 1};
	ioc_err(m->vcpu, KVM_SET_XCRS, &x, EINVAL);
}

static void test_debugregs(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_debugregs d = {.db = {1, 2, 3, 4}, .dr6 = 0xffff4ff0, .dr7 = 0x455}, got;

	ioc_ok(m->vcpu, KVM_SET_DEBUGREGS, &d);
	ioc_ok(m->vcpu, KVM_GET_DEBUGREGS, &got);
	assert_memory_equal(d.db, got.db, sizeof(d.db));
	assert_int_equal(got.dr6, 0xffff4ff0);
	assert_int_equal(got.dr7, 0x455);
	d.dr7 = 1ull << 32;
	ioc_err(m->vcpu, KVM_SET_DEBUGREGS, &d, EINVAL);
	d.dr7 = 0;
	d.dr6 = 1ull << 33;
	ioc_err(m->vcpu, KVM_SET_DEBUGREGS, &d, EINVAL);
	d.dr6 = 0;
	d.flags = 1;
	ioc_err(m->vcpu, KVM_SET_DEBUGREGS, &d, EINVAL);
}

static void test_events(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_vcpu_events e, got;

	ioc_ok(m->vcpu, KVM_GET_VCPU_EVENTS, &e);
	assert_int_equal(e.exception.injected | e.interrupt.injected | e.nmi.injected | e.nmi.pending | e.nmi.masked,
			 0);
	e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
	e.nmi.pending = 1;
	e.nmi.masked = 1;
	e.interrupt.shadow = KVM_X86_SHADOW_INT_MOV_SS;
	e.exception.injected = 1;
	e.exception.nr = 13;
	e.exception.has_error_code = 1;
	e.exception.error_code = 0x1234;
	ioc_ok(m->vcpu, KVM_SET_VCPU_EVENTS, &e);
	ioc_ok(m->vcpu, KVM_GET_VCPU_EVENTS, &got);
	assert_int_equal(got.nmi.pending, 1);
	assert_int_equal(got.nmi.masked, 1);
	assert_int_equal(got.interrupt.shadow, KVM_X86_SHADOW_INT_MOV_SS);
	assert_int_equal(got.exception.injected, 1);
	assert_int_equal(got.exception.nr, 13);
	assert_int_equal(got.exception.error_code, 0x1234);

	e.exception.nr = 32;
	ioc_err(m->vcpu, KVM_SET_VCPU_EVENTS, &e, EINVAL);
	e.exception.nr = 2;
	ioc_err(m->vcpu, KVM_SET_VCPU_EVENTS, &e, EINVAL);
	e.exception.nr = 13;
	e.flags = 1u << 30;
	ioc_err(m->vcpu, KVM_SET_VCPU_EVENTS, &e, EINVAL);
	e.flags = KVM_VCPUEVENT_VALID_PAYLOAD;
	ioc_err(m->vcpu, KVM_SET_VCPU_EVENTS, &e, EINVAL);
	struct kvm_enable_cap cap = {.cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = {1}};
	ioc_ok(m->vm, KVM_ENABLE_CAP, &cap);
	e.exception.pending = 1;
	e.exception.nr = 14;
	e.exception_has_payload = 1;
	e.exception_payload = 0xabc;
	ioc_ok(m->vcpu, KVM_SET_VCPU_EVENTS, &e);
	ioc_ok(m->vcpu, KVM_GET_VCPU_EVENTS, &got);
	assert_int_equal(got.exception.pending, 1);
	assert_int_equal(got.exception.injected, 0);
	assert_int_equal(got.exception_payload, 0xabc);
}

static void test_mp_state(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_mp_state mp, got;

	for (u32 s = KVM_MP_STATE_RUNNABLE; s <= KVM_MP_STATE_HALTED; s++) {
		mp.mp_state = s;
		ioc_ok(m->vcpu, KVM_SET_MP_STATE, &mp);
		ioc_ok(m->vcpu, KVM_GET_MP_STATE, &got);
		assert_int_equal(got.mp_state, s);
	}
	mp.mp_state = 77;
	ioc_err(m->vcpu, KVM_SET_MP_STATE, &mp, EINVAL);
}

/* Without an irqchip of KVM's there is only one state. */
static void test_no_irqchip(void **state)
{
	struct abi_vm m;
	struct kvm_mp_state mp = {KVM_MP_STATE_HALTED};
	struct kvm_lapic_state lapic;
	struct kvm_vapic_addr vapic = {0};

	abi_create(&m, ABI_NO_IRQCHIP);
	ioc_err(m.vcpu, KVM_SET_MP_STATE, &mp, EINVAL);
	ioc_err(m.vcpu, KVM_GET_LAPIC, &lapic, EINVAL);
	ioc_err(m.vcpu, KVM_SET_LAPIC, &lapic, EINVAL);
	ioc_err(m.vcpu, KVM_SET_VAPIC_ADDR, &vapic, EINVAL);
	abi_destroy(&m);
}

static void test_lapic(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_lapic_state set, got;

	ioc_ok(m->vcpu, KVM_GET_LAPIC, &set);
	*(u32 *)(set.regs + 0xf0) = 0x1ff;  /* SVR: on */
	*(u32 *)(set.regs + 0x80) = 0x30;   /* TPR */
	*(u32 *)(set.regs + 0x350) = 0x700; /* LINT0: ExtINT */
	*(u32 *)(set.regs + 0x210) = 1u << 4; /* IRR: vector 36 */
	ioc_ok(m->vcpu, KVM_SET_LAPIC, &set);
	ioc_ok(m->vcpu, KVM_GET_LAPIC, &got);
	assert_int_equal(*(u32 *)(got.regs + 0xf0), 0x1ff);
	assert_int_equal(*(u32 *)(got.regs + 0x80), 0x30);
	assert_int_equal(*(u32 *)(got.regs + 0x350), 0x700);
	assert_int_equal(*(u32 *)(got.regs + 0x210), 1u << 4);
	struct kvm_sregs s;
	ioc_ok(m->vcpu, KVM_GET_SREGS, &s);
	assert_int_equal(s.cr8, 3);
}

static void test_tsc(void **state)
{
	struct abi_vm *m = *state;
	long khz = ioc_ok(m->vcpu, KVM_GET_TSC_KHZ, 0);
	u64 offset = 0x1234567, got = 0;
	struct kvm_device_attr a = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (u64)&offset};

	assert_true(khz > 100000);
	assert_int_equal(khz, ioc_ok(m->vm, KVM_GET_TSC_KHZ, 0));
	ioc_ok(m->vcpu, KVM_SET_TSC_KHZ, khz / 2);
	assert_int_equal(ioc_ok(m->vcpu, KVM_GET_TSC_KHZ, 0), khz / 2);
	ioc_err(m->vm, KVM_SET_TSC_KHZ, khz, EINVAL); /* after vCPUs have been made */
	ioc_ok(m->vcpu, KVM_HAS_DEVICE_ATTR, &a);
	ioc_ok(m->vcpu, KVM_SET_DEVICE_ATTR, &a);
	a.addr = (u64)&got;
	ioc_ok(m->vcpu, KVM_GET_DEVICE_ATTR, &a);
	assert_int_equal(got, offset);
	a.attr = 9;
	ioc_err(m->vcpu, KVM_HAS_DEVICE_ATTR, &a, ENXIO);
	a.group = 9;
	ioc_err(m->vcpu, KVM_GET_DEVICE_ATTR, &a, ENXIO);
}

static void test_mce(void **state)
{
	struct abi_vm *m = *state;
	u64 cap, supported;

	assert_true(ioc_ok(m->sys, KVM_CHECK_EXTENSION, KVM_CAP_MCE) > 0);
	ioc_ok(m->sys, KVM_X86_GET_MCE_CAP_SUPPORTED, &supported);
	cap = 10;
	ioc_ok(m->vcpu, KVM_X86_SETUP_MCE, &cap);
	cap = 0;
	ioc_err(m->vcpu, KVM_X86_SETUP_MCE, &cap, EINVAL);
	cap = 33;
	ioc_err(m->vcpu, KVM_X86_SETUP_MCE, &cap, EINVAL);
	cap = 10 | 1ull << 60;
	ioc_err(m->vcpu, KVM_X86_SETUP_MCE, &cap, EINVAL);
}

/* Linear address 0x5000 to 0x9000, by 32-bit page tables. */
static void test_translate(void **state)
{
	struct abi_vm *m = *state;
	struct kvm_sregs s;
	struct kvm_translation t = {.linear_address = 0x5123};

	ioc_ok(m->vcpu, KVM_TRANSLATE, &t);
	assert_int_equal(t.valid, 1);
	assert_int_equal(t.physical_address, 0x5123); /* no paging */
	*(u32 *)(m->mem + 0x10000) = 0x11003;
	*(u32 *)(m->mem + 0x11000 + 5 * 4) = 0x9003;
	ioc_ok(m->vcpu, KVM_GET_SREGS, &s);
	s.cr3 = 0x10000;
	s.cr0 = 0x80000011;
	ioc_ok(m->vcpu, KVM_SET_SREGS, &s);
	ioc_ok(m->vcpu, KVM_TRANSLATE, &t);
	assert_int_equal(t.valid, 1);
	assert_int_equal(t.physical_address, 0x9123);
	t.linear_address = 0x6000;
	ioc_ok(m->vcpu, KVM_TRANSLATE, &t);
	assert_int_equal(t.valid, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, abi_setup_irqchip, abi_teardown)
	const struct CMUnitTest tests[] = {
		T(test_regs), T(test_reset_values), T(test_sregs), T(test_sregs_invalid), T(test_sregs2), T(test_fpu),
		T(test_xsave), T(test_xcrs), T(test_debugregs), T(test_events), T(test_mp_state), T(test_lapic),
		T(test_tsc), T(test_mce), T(test_translate), cmocka_unit_test(test_no_irqchip),
	};

	return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
