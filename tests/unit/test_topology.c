/* CPUID of a virtual CPU: who it is and how many there are, in both vendors' ways. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/types.h"
#include "monitor/cpuid.h"

static struct kvm_cpuid2 *offer(bool amd)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + CPUID_MAX_ENTRIES * sizeof(c->entries[0]));
	const struct kvm_cpuid_entry2 entries[] = {
		{.function = 0, .eax = 0x1f, .ebx = amd ? 0x68747541 : 0x756e6547,
		 .ecx = amd ? 0x444d4163 : 0x6c65746e},
		{.function = 1, .ebx = 0xff100800, .ecx = 0x00200000},
		{.function = 4, .index = 0, .flags = 1, .eax = amd ? 0 : 0xfc004121},
		{.function = 4, .index = 3, .flags = 1, .eax = amd ? 0 : 0xfc1fc163},
		{.function = 0xb, .index = 0, .flags = 1, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 0x77},
		{.function = 0xb, .index = 1, .flags = 1, .eax = 7, .ebx = 128, .ecx = 0x201, .edx = 0x77},
		{.function = 0x40000000, .eax = 0x40000001},
		{.function = 0x80000001, .ecx = 0x00400000},
		{.function = 0x80000008, .ecx = amd ? 0x7007 : 0},
		{.function = 0x8000001d, .index = 3, .flags = 1, .eax = amd ? 0x1c163 : 0},
		{.function = 0x8000001e, .eax = 0x55, .ebx = 0x1ff, .ecx = 0x7},
	};

	c->nent = ARRAY_SIZE(entries);
	memcpy(c->entries, entries, sizeof(entries));
	return c;
}

static struct kvm_cpuid_entry2 leaf(const struct kvm_cpuid2 *c, u32 function, u32 index)
{
	for (u32 i = 0; i < c->nent; i++)
		if (c->entries[i].function == function && c->entries[i].index == index)
			return c->entries[i];
	fail_msg("leaf %x.%u is not there", function, index);
	return (struct kvm_cpuid_entry2){0};
}

static void test_extended(void **state)
{
	struct kvm_cpuid2 *c = offer(false);

	vcpu_cpuid_set_topology(c, 2, 3, true);
	for (u32 function = 0xb; function <= 0x1f; function += 0x14) {
		assert_int_equal(leaf(c, function, 0).eax, 0);
		assert_int_equal(leaf(c, function, 0).ebx, 1);
		assert_int_equal(leaf(c, function, 0).ecx, 0x100);
		assert_int_equal(leaf(c, function, 1).eax, 2); /* three need two bits */
		assert_int_equal(leaf(c, function, 1).ebx, 3);
		assert_int_equal(leaf(c, function, 1).ecx, 0x201);
		assert_int_equal(leaf(c, function, 2).ecx, 2);
		for (u32 i = 0; i < 3; i++)
			assert_int_equal(leaf(c, function, i).edx, 2);
	}
	assert_int_equal(leaf(c, 0x40000000, 0).eax, 0x40000001);
	free(c);
}

static void test_leaf_1(void **state)
{
	struct kvm_cpuid2 *c = offer(false);

	vcpu_cpuid_set_topology(c, 5, 8, true);
	assert_int_equal(leaf(c, 1, 0).ebx, 0x05080800);
	assert_int_equal(leaf(c, 1, 0).edx & BIT(28), BIT(28));
	assert_int_equal(leaf(c, 1, 0).ecx, 0x81200000);
	vcpu_cpuid_set_topology(c, 0, 1, false);
	assert_int_equal(leaf(c, 1, 0).ebx, 0x00010800);
	assert_int_equal(leaf(c, 1, 0).edx & BIT(28), 0);
	assert_int_equal(leaf(c, 1, 0).ecx, 0x80200000);
	free(c);
}

static void test_intel_caches(void **state)
{
	struct kvm_cpuid2 *c = offer(false);

	vcpu_cpuid_set_topology(c, 0, 3, true);
	assert_int_equal(leaf(c, 4, 0).eax, 0x0c000121); /* L1: nobody else; four core ids */
	assert_int_equal(leaf(c, 4, 3).eax, 0x0c00c163); /* L3: four ids */
	assert_int_equal(leaf(c, 0x80000001, 0).ecx, 0x00400000);
	assert_int_equal(leaf(c, 0x80000008, 0).ecx, 0); /* reserved */
	free(c);
}

static void test_amd(void **state)
{
	struct kvm_cpuid2 *c = offer(true);

	vcpu_cpuid_set_topology(c, 1, 2, true);
	assert_int_equal(leaf(c, 0x80000001, 0).ecx, 0x00400002);
	assert_int_equal(leaf(c, 0x80000008, 0).ecx, 0x1001);
	assert_int_equal(leaf(c, 0x8000001d, 3).eax, 0x4163);
	assert_int_equal(leaf(c, 0x8000001e, 0).eax, 1);
	assert_int_equal(leaf(c, 0x8000001e, 0).ebx, 1);
	assert_int_equal(leaf(c, 0x8000001e, 0).ecx, 0);
	assert_int_equal(leaf(c, 4, 3).eax, 0);
	free(c);
}

static void test_full_table(void **state)
{
	struct kvm_cpuid2 *c = offer(false);

	c->nent = CPUID_MAX_ENTRIES;
	for (u32 i = 11; i < c->nent; i++)
		c->entries[i].function = 0x80000100 + i;
	vcpu_cpuid_set_topology(c, 0, 2, true);
	assert_in_range(c->nent, 0, CPUID_MAX_ENTRIES);
	free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_extended), cmocka_unit_test(test_leaf_1), cmocka_unit_test(test_intel_caches),
		cmocka_unit_test(test_amd),	 cmocka_unit_test(test_full_table),
	};

	return cmocka_run_group_tests_name("topology", tests, NULL, NULL);
}
