/* CPUID: the offer is within what the host has or is emulated, the answers follow state, the gates follow the table. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <cpuid.h>

#include "cpu/cpuid.h"
#include "cpu/fpu.h"
#include "cpu/insn.h"

static struct cpuid_entry offer[CPUID_MAX_ENTRIES];
static unsigned nr_offer;

static int setup(void **state)
{
	struct cpu *c = calloc(1, sizeof(*c));

	nr_offer = cpuid_supported(offer, CPUID_MAX_ENTRIES);
	if (!c || cpu_init(c) || nr_offer > CPUID_MAX_ENTRIES || cpuid_set(c, offer, nr_offer))
		return -1;
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	cpu_fini(*state);
	free(*state);
	return 0;
}

static bool gate(const struct cpu *c, enum isa i)
{
	return c->isa[i / 64] >> (i % 64) & 1;
}

static struct cpuid_entry *in_offer(u32 function, u32 index)
{
	for (unsigned i = 0; i < nr_offer; i++)
		if (offer[i].function == function && offer[i].index == index)
			return &offer[i];
	fail_msg("leaf %x.%x is missing", function, index);
	return NULL;
}

static void test_counts(void **state)
{
	struct cpuid_entry few[3];

	memset(few, 0xff, sizeof(few));
	assert_int_equal(cpuid_supported(few, 2), nr_offer);
	assert_int_equal(few[1].function, 1);
	assert_int_equal(few[2].function, 0xffffffff);
	for (unsigned i = 0; i < nr_offer; i++)
		for (unsigned k = 0; k < i; k++)
			assert_false(offer[i].function == offer[k].function && offer[i].index == offer[k].index);
}

static void test_identity(void **state)
{
	u32 host[4], out[4];

	__cpuid(0, host[0], host[1], host[2], host[3]);
	cpuid_execute(*state, 0, 0, out);
	assert_memory_equal(out + 1, host + 1, 12);
	__cpuid(1, host[0], host[1], host[2], host[3]);
	cpuid_execute(*state, 1, 0, out);
	assert_int_equal(out[0], host[0]);
	assert_true(out[2] >> 31); /* a hypervisor is present */
	cpuid_execute(*state, 0x40000000, 0, out);
	assert_memory_equal(out + 1, "KVMKVMKVM\0\0\0", 12);
	assert_true(out[0] >= 0x40000001);
}

/* Instructions that only the silicon can run are not invented, and those that are withheld stay so. */
static void test_offer_is_honest(void **state)
{
	u32 a, b, c, d;
	struct cpuid_entry *l7 = in_offer(7, 0), *l1 = in_offer(1, 0), *e1 = in_offer(0x80000001, 0);

	__cpuid_count(7, 0, a, b, c, d);
	assert_int_equal(l7->ebx & 0xf0230128 & ~b, 0); /* AVX-512 parts, SHA, BMI, AVX2 */
	assert_int_equal(l7->ecx & 0x5f42 & ~c, 0);
	__cpuid(1, a, b, c, d);
	assert_int_equal(l1->ecx & 0x36d81203 & ~c, 0);
	assert_int_equal(l1->ecx & (BIT(5) | BIT(3) | BIT(15)), 0);	  /* VMX, MONITOR, PDCM */
	assert_int_equal(l7->ebx & (BIT(2) | BIT(4) | BIT(11) | BIT(14)), 0); /* SGX, HLE, RTM, MPX */
	assert_int_equal(l7->ecx & (BIT(5) | BIT(7) | BIT(29)), 0);	  /* WAITPKG, SHSTK, ENQCMD */
	assert_int_equal(l7->edx & (BIT(22) | BIT(23) | BIT(24) | BIT(25)), 0); /* AMX, AVX512-FP16 */
	assert_int_equal(e1->ecx & (BIT(2) | BIT(11) | BIT(16)), 0);	  /* SVM, XOP, FMA4 */
	assert_int_equal(e1->edx & (3u << 30), 0);			  /* 3DNow! */
}

static void test_offer_emulates(void **state)
{
	assert_int_equal(~in_offer(1, 0)->ecx & (BIT(17) | BIT(21) | BIT(24)), 0); /* PCID, x2APIC, TSC deadline */
	assert_int_equal(~in_offer(7, 0)->ebx & (BIT(0) | BIT(1) | BIT(7) | BIT(10) | BIT(20)), 0);
	assert_int_equal(~in_offer(7, 0)->ecx & (BIT(2) | BIT(16)), 0); /* UMIP, LA57 */
	assert_int_equal(~in_offer(0x80000001, 0)->edx & (BIT(11) | BIT(20) | BIT(26) | BIT(27) | BIT(29)), 0);
	assert_int_equal(in_offer(0x40000001, 0)->eax, 0x0100b8eb);
}

/* Linux reads these to leave out page-table isolation, retpolines and return thunks. */
static void test_speculation_bits(void **state)
{
	if (cpuid_amd(*state)) {
		assert_int_equal(~in_offer(0x80000021, 0)->eax & (BIT(2) | BIT(6) | BIT(8) | BIT(29)), 0);
		assert_int_equal(~in_offer(0x80000008, 0)->ebx & (BIT(26) | BIT(29)), 0);
	} else {
		assert_int_equal(~in_offer(7, 0)->edx & (BIT(26) | BIT(29)), 0);
	}
}

static void test_dynamic_bits(void **state)
{
	struct cpu *c = *state;
	u32 out[4];

	c->cr4 = 0;
	cpuid_execute(c, 1, 0, out);
	assert_false(out[2] & BIT(27));
	c->cr4 = CR4_OSXSAVE | CR4_PKE;
	cpuid_execute(c, 1, 0, out);
	assert_true(out[2] & BIT(27));
	cpuid_execute(c, 7, 0, out);
	assert_true(out[2] & BIT(4));
	c->cr4 = 0;
	cpuid_execute(c, 7, 0, out);
	assert_false(out[2] & BIT(4));
	c->apic_base = 0xfee00800;
	cpuid_execute(c, 1, 0, out);
	assert_true(out[3] & BIT(9));
	c->apic_base = 0xfee00000;
	cpuid_execute(c, 1, 0, out);
	assert_false(out[3] & BIT(9));
}

/* SDM vol. 1, 13.2: EBX of 0xD.0 is for the features enabled in XCR0, ECX for all there are. */
static void test_xsave_sizes(void **state)
{
	struct cpu *c = *state;
	u32 out[4], host[4];

	c->xcr0 = 1;
	cpuid_execute(c, 0xd, 0, out);
	assert_int_equal(out[1], 576);
	u32 all = out[2];
	c->xcr0 = xsave_supported();
	cpuid_execute(c, 0xd, 0, out);
	assert_int_equal(out[1], all);
	assert_int_equal(out[0], (u32)xsave_supported());
	if (xsave_supported() & 4) {
		cpuid_execute(c, 0xd, 2, out);
		__cpuid_count(0xd, 2, host[0], host[1], host[2], host[3]);
		assert_memory_equal(out, host, 8);
		c->xcr0 = 7;
		cpuid_execute(c, 0xd, 0, out);
		assert_int_equal(out[1], host[0] + host[1]);
	}
	cpuid_execute(c, 0xd, 62, out);
	assert_int_equal(out[0] | out[1] | out[2] | out[3], 0);
}

static void set_vendor(struct cpuid_entry *e, const char *id)
{
	memcpy(&e->ebx, id, 4);
	memcpy(&e->edx, id + 4, 4);
	memcpy(&e->ecx, id + 8, 4);
}

static void test_out_of_range(void **state)
{
	struct cpuid_entry e[4] = {
		{.function = 0, .eax = 2},
		{.function = 1, .eax = 0x11},
		{.function = 2, .eax = 0x22, .edx = 0x33},
		{.function = 0x80000000, .eax = 0x80000000},
	};
	u32 out[4];

	set_vendor(&e[0], "GenuineIntel");
	assert_int_equal(cpuid_set(*state, e, 4), 0);
	assert_false(cpuid_amd(*state));
	cpuid_execute(*state, 7, 0, out);
	assert_int_equal(out[0], 0x22);
	assert_int_equal(out[3], 0x33);
	cpuid_execute(*state, 0x80000001, 0, out);
	assert_int_equal(out[0], 0x22);
	set_vendor(&e[0], "AuthenticAMD");
	assert_int_equal(cpuid_set(*state, e, 4), 0);
	assert_true(cpuid_amd(*state));
	cpuid_execute(*state, 7, 0, out);
	assert_int_equal(out[0] | out[1] | out[2] | out[3], 0);
}

#define INDEXED CPUID_SIGNIFICANT_INDEX
static void test_topology_tail(void **state)
{
	struct cpuid_entry e[3] = {
		{.function = 0, .eax = 0xb},
		{.function = 0xb, .index = 0, .flags = INDEXED, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 5},
		{.function = 0xb, .index = 1, .flags = INDEXED, .eax = 4, .ebx = 8, .ecx = 0x201, .edx = 5},
	};
	u32 out[4];

	assert_int_equal(cpuid_set(*state, e, 3), 0);
	cpuid_execute(*state, 0xb, 1, out);
	assert_int_equal(out[0], 4);
	cpuid_execute(*state, 0xb, 7, out);
	assert_int_equal(out[0] | out[1], 0);
	assert_int_equal(out[2], 7);
	assert_int_equal(out[3], 5);
}

static void test_gates(void **state)
{
	struct cpu *c = *state;

	assert_true(gate(c, ISA_BASE));
	assert_true(gate(c, ISA_SSE2));
	assert_int_equal(gate(c, ISA_AVX), in_offer(1, 0)->ecx >> 28 & 1);
	assert_int_equal(gate(c, ISA_AVX512F), in_offer(7, 0)->ebx >> 16 & 1);
	in_offer(1, 0)->ecx &= ~BIT(23); /* POPCNT */
	in_offer(7, 0)->ecx |= BIT(5);
	assert_int_equal(cpuid_set(c, offer, nr_offer), 0);
	assert_false(gate(c, ISA_POPCNT));
	assert_true(gate(c, ISA_SSE42));

	/* Asked for, but the host has it not or the offer withholds it. */
	u32 a, b, ecx, d;
	__cpuid_count(7, 0, a, b, ecx, d);
	in_offer(7, 0)->ebx |= BIT(29);
	assert_int_equal(cpuid_set(c, offer, nr_offer), 0);
	assert_int_equal(gate(c, ISA_SHA), b >> 29 & 1);

	/* Nothing said: everything on offer; one leaf: only that. */
	assert_int_equal(cpuid_set(c, NULL, 0), 0);
	assert_true(gate(c, ISA_POPCNT) && gate(c, ISA_LM));
	struct cpuid_entry one = {.function = 1, .edx = BIT(0)};
	assert_int_equal(cpuid_set(c, &one, 1), 0);
	assert_true(gate(c, ISA_BASE) && gate(c, ISA_FPU));
	assert_false(gate(c, ISA_SSE) || gate(c, ISA_LM));
	assert_int_equal(c->maxphyaddr, 36);
}

static void test_maxphyaddr(void **state)
{
	struct cpu *c = *state;

	assert_int_equal(c->maxphyaddr, in_offer(0x80000008, 0)->eax & 0xff);
	in_offer(0x80000008, 0)->eax = 0x3027;
	assert_int_equal(cpuid_set(c, offer, nr_offer), 0);
	assert_int_equal(c->maxphyaddr, 39);
	in_offer(0x80000008, 0)->eax = 0x30ff;
	assert_int_equal(cpuid_set(c, offer, nr_offer), 0);
	assert_int_equal(c->maxphyaddr, 52);
}

static void test_too_many(void **state)
{
	struct cpu *c = *state;
	static struct cpuid_entry many[CPUID_MAX_ENTRIES + 1];
	u32 n = c->nr_cpuid;

	assert_int_equal(cpuid_set(c, many, CPUID_MAX_ENTRIES + 1), -EINVAL);
	assert_int_equal(c->nr_cpuid, n);
	assert_int_equal(cpuid_set(c, many, CPUID_MAX_ENTRIES), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_counts), T(test_identity), T(test_offer_is_honest), T(test_offer_emulates),
		T(test_speculation_bits),
		T(test_dynamic_bits), T(test_xsave_sizes), T(test_out_of_range), T(test_topology_tail), T(test_gates),
		T(test_maxphyaddr), T(test_too_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
