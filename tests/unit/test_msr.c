/* MSRs: lists and behaviour agree; what the guest may and may not write; the TSC and its adjustment. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cpu/cpuid.h"
#include "cpu/msr.h"

#define TSC_ADJUST 0x3b
#define SPEC_CTRL 0x48
#define PLATFORM_INFO 0xce
#define MTRRCAP 0xfe
#define ARCH_CAPABILITIES 0x10a
#define MISC_FEATURES_ENABLES 0x140
#define MCG_CAP 0x179
#define MISC_ENABLE 0x1a0
#define PAT 0x277
#define MTRR_DEF_TYPE 0x2ff
#define LSTAR 0xc0000082
#define KERNEL_GS_BASE 0xc0000102
#define TSC_AUX 0xc0000103
#define HWCR 0xc0010015

static struct cpu *cpu_with(unsigned (*edit)(struct cpuid_entry *, unsigned))
{
	struct cpuid_entry e[CPUID_MAX_ENTRIES];
	struct cpu *c = calloc(1, sizeof(*c));

	if (!c || cpu_init(c))
		return NULL;
	unsigned n = cpuid_supported(e, CPUID_MAX_ENTRIES);
	if (edit)
		n = edit(e, n);
	return cpuid_set(c, e, n) ? NULL : c;
}

static int setup(void **state)
{
	*state = cpu_with(NULL);
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	cpu_fini(*state);
	free(*state);
	return 0;
}

static u64 get(struct cpu *c, u32 index)
{
	u64 v = 0xdead;

	assert_int_equal(msr_read(c, index, &v, true), MSR_OK);
	return v;
}

static void expect_write(struct cpu *c, u32 index, u64 v, enum msr_result r)
{
	enum msr_result got = msr_write(c, index, v, false);

	if (got != r)
		fail_msg("WRMSR %x = %llx: result %d, expected %d", index, (unsigned long long)v, got, r);
}

/* What KVM_GET_MSR_INDEX_LIST names, a client may save and restore. */
static void test_list_agrees(void **state)
{
	u32 list[512];
	unsigned n = msr_list(list, 512, false);

	assert_in_range(n, 40, 512);
	assert_int_equal(msr_list(list, 3, false), n);
	n = msr_list(list, 512, false);
	for (unsigned i = 0; i < n; i++) {
		u64 v = 0;
		enum msr_result r = msr_read(*state, list[i], &v, true);
		if (r == MSR_OUTSIDE)
			continue;
		if (r != MSR_OK || msr_write(*state, list[i], v, true) != MSR_OK)
			fail_msg("MSR %x is listed but cannot be saved and restored", list[i]);
		assert_true(i == 0 || list[i] > list[i - 1]);
	}
}

static void test_feature_list_agrees(void **state)
{
	u32 list[32];
	unsigned n = msr_list(list, 32, true);
	bool arch_cap = false;

	assert_in_range(n, 2, 32);
	for (unsigned i = 0; i < n; i++) {
		u64 v;
		assert_int_equal(msr_feature(list[i], &v), MSR_OK);
		assert_int_equal(msr_write(*state, list[i], v, true), MSR_OK);
		assert_int_equal(get(*state, list[i]), v);
		arch_cap |= list[i] == ARCH_CAPABILITIES;
	}
	assert_true(arch_cap);
	u64 v;
	assert_int_equal(msr_feature(0x10, &v), MSR_UNKNOWN);
}

/* Every row answers at its first and last index, and what lies between rows does not exist. */
static void test_all_indices(void **state)
{
	struct cpu *c = *state;
	u64 v;
	static const u32 unknown[] = {0x2, 0x9, 0x150, 0x210, 0x251, 0x278, 0x4ff, 0x7ff, 0x900, 0x4b564e00, 0xc0000104,
				      0xc0010114, 0xffffffff};

	for (unsigned i = 0; i < ARRAY_SIZE(unknown); i++) {
		assert_int_equal(msr_read(c, unknown[i], &v, false), MSR_UNKNOWN);
		assert_int_equal(msr_read(c, unknown[i], &v, true), MSR_UNKNOWN);
		assert_int_equal(msr_write(c, unknown[i], 0, false), MSR_UNKNOWN);
	}
	static const u32 outside[] = {0x1b, 0x6e0, 0x800, 0x8ff, 0x11, 0x12,
				      0x4b564d00, 0x4b564d03, 0x4b564d05, 0x4b564dff};
	for (unsigned i = 0; i < ARRAY_SIZE(outside); i++) {
		assert_int_equal(msr_read(c, outside[i], &v, false), MSR_OUTSIDE);
		assert_int_equal(msr_write(c, outside[i], 0, true), MSR_OUTSIDE);
	}
}

/* Neighbours in cpu->msr[] do not share a place. */
static void test_places_are_apart(void **state)
{
	struct cpu *c = *state;

	for (u32 i = 0; i < 8; i++)
		assert_int_equal(msr_write(c, 0x268 + i, 0x0101010101010101 * (5 + i % 2), true), MSR_OK);
	for (u32 i = 0; i < 16; i++)
		assert_int_equal(msr_write(c, 0x200 + i, i % 2 ? 0x800 : 0x1000u * i, true), MSR_OK);
	assert_int_equal(msr_write(c, 0x250, 0x0101010101010101, true), MSR_OK);
	for (u32 i = 0; i < 8; i++)
		assert_int_equal(get(c, 0x268 + i), 0x0101010101010101 * (5 + i % 2));
	for (u32 i = 0; i < 16; i++)
		assert_int_equal(get(c, 0x200 + i), i % 2 ? 0x800 : 0x1000 * i);
	assert_int_equal(get(c, 0x250), 0x0101010101010101);
	assert_int_equal(get(c, MISC_ENABLE) & 0x1800, 0x1800);
}

static void test_reset_values(void **state)
{
	struct cpu *c = *state;

	assert_int_equal(get(c, PAT), 0x0007040600070406);
	assert_int_equal(get(c, MTRRCAP), 0x508);
	assert_int_equal(get(c, MTRR_DEF_TYPE), 0);
	assert_int_equal(msr_write(c, PAT, 0, false), MSR_OK);
	assert_int_equal(msr_write(c, 0x250, 0x0606060606060606, false), MSR_OK);
	msr_reset(c, true); /* INIT keeps them */
	assert_int_equal(get(c, PAT), 0);
	assert_int_equal(get(c, 0x250), 0x0606060606060606);
	msr_reset(c, false);
	assert_int_equal(get(c, PAT), 0x0007040600070406);
	assert_int_equal(get(c, 0x250), 0);
}

static void test_memory_types(void **state)
{
	struct cpu *c = *state;

	expect_write(c, PAT, 0x0006060606060606, MSR_OK);
	expect_write(c, PAT, 0x0000000000000002, MSR_INVALID);
	expect_write(c, PAT, 0x0300000000000000, MSR_INVALID);
	expect_write(c, PAT, 0x0800000000000000, MSR_INVALID);
	expect_write(c, MTRR_DEF_TYPE, 0xc06, MSR_OK);
	expect_write(c, MTRR_DEF_TYPE, 0xc07, MSR_INVALID); /* UC- is PAT's alone */
	expect_write(c, MTRR_DEF_TYPE, 0x1006, MSR_INVALID);
	expect_write(c, 0x258, 0x0000000000000300, MSR_INVALID);
	expect_write(c, 0x200, 0x80000006, MSR_OK);
	expect_write(c, 0x200, 0x80000106, MSR_INVALID);
	expect_write(c, 0x201, BIT64(c->maxphyaddr) - 0x80000000 + 0x800, MSR_OK);
	expect_write(c, 0x201, BIT64(c->maxphyaddr) | 0x800, MSR_INVALID);
	expect_write(c, MTRRCAP, 0x508, MSR_INVALID);
}

static void test_canonical(void **state)
{
	struct cpu *c = *state;

	c->maxlinear = 48;
	expect_write(c, LSTAR, 0xffff800000000000, MSR_OK);
	assert_true(c->lstar == 0xffff800000000000);
	expect_write(c, LSTAR, 0x0000800000000000, MSR_INVALID);
	expect_write(c, KERNEL_GS_BASE, 0xff00000000000000, MSR_INVALID);
	c->maxlinear = 57;
	expect_write(c, KERNEL_GS_BASE, 0xff00000000000000, MSR_OK);
	expect_write(c, KERNEL_GS_BASE, 0x0100000000000000, MSR_INVALID);
}

static unsigned no_features(struct cpuid_entry *e, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (e[i].function == 7 || e[i].function == 0x80000001 || e[i].function == 0x80000008)
			e[i].ebx = e[i].ecx = e[i].edx = 0;
	return n;
}

/* CPUID hides a register from the guest, not from the client. */
static void test_gated(void **state)
{
	static const u32 gated[] = {TSC_ADJUST, TSC_AUX, SPEC_CTRL, ARCH_CAPABILITIES};
	struct cpu *c = cpu_with(no_features);
	u64 v;

	assert_non_null(c);
	for (unsigned i = 0; i < ARRAY_SIZE(gated); i++) {
		assert_int_equal(msr_read(c, gated[i], &v, false), MSR_UNKNOWN);
		assert_int_equal(msr_write(c, gated[i], 0, false), MSR_UNKNOWN);
		assert_int_equal(msr_read(c, gated[i], &v, true), MSR_OK);
		assert_int_equal(msr_write(c, gated[i], 0, true), MSR_OK);
	}
	cpu_fini(c);
	free(c);
	expect_write(*state, TSC_AUX, 7, MSR_OK);
	expect_write(*state, TSC_AUX, 1ull << 32, MSR_INVALID);
}

/* SDM vol. 3B, 18.17.3. */
static void test_tsc(void **state)
{
	struct cpu *c = *state;
	u64 v;

	expect_write(c, TSC_ADJUST, 0, MSR_OK);
	u64 before = c->tsc_offset;
	expect_write(c, TSC_ADJUST, 1ull << 40, MSR_OK);
	assert_true(c->tsc_offset - before == 1ull << 40);
	expect_write(c, 0x10, 1ull << 50, MSR_OK);
	assert_int_equal(msr_read(c, 0x10, &v, false), MSR_OK);
	assert_true(v >= 1ull << 50 && v < (1ull << 50) + 10000000000ull);
	assert_true(get(c, TSC_ADJUST) == (1ull << 40) + c->tsc_offset - before - (1ull << 40));
	/* The client's writes do not couple the two. */
	u64 adjust = get(c, TSC_ADJUST);
	assert_int_equal(msr_write(c, 0x10, 0, true), MSR_OK);
	assert_true(get(c, TSC_ADJUST) == adjust);
	before = c->tsc_offset;
	assert_int_equal(msr_write(c, TSC_ADJUST, 5, true), MSR_OK);
	assert_true(c->tsc_offset == before);
}

static void test_machine_check(void **state)
{
	struct cpu *c = *state;
	u64 v;

	assert_int_equal(msr_write(c, MCG_CAP, 10, true), MSR_OK);
	expect_write(c, MCG_CAP, 10, MSR_INVALID);
	assert_int_equal(msr_read(c, 0x400 + 4 * 9 + 3, &v, false), MSR_OK);
	assert_int_equal(msr_read(c, 0x400 + 4 * 10, &v, false), MSR_UNKNOWN);
	expect_write(c, 0x400, 0, MSR_OK);
	expect_write(c, 0x400, ~0ull, MSR_OK);
	expect_write(c, 0x400, 0xff, MSR_INVALID);
	expect_write(c, 0x401, 0, MSR_OK);
	expect_write(c, 0x401, 1, MSR_INVALID);
	assert_int_equal(msr_read(c, 0x17b, &v, false), MSR_UNKNOWN); /* no MCG_CTL_P */
	assert_int_equal(msr_write(c, MCG_CAP, 10 | BIT(8), true), MSR_OK);
	expect_write(c, 0x17b, ~0ull, MSR_OK);
	expect_write(c, 0x17b, 1, MSR_INVALID);
	assert_int_equal(msr_read(c, 0x280, &v, false), MSR_UNKNOWN);
	assert_int_equal(msr_write(c, MCG_CAP, 10 | BIT(10), true), MSR_OK);
	expect_write(c, 0x280, 0x40000001, MSR_OK);
}

static void test_hwcr(void **state)
{
	struct cpu *c = *state;

	expect_write(c, HWCR, BIT(18) | BIT(3) | BIT(6) | BIT(8), MSR_OK);
	assert_int_equal(get(c, HWCR), BIT(18));
	expect_write(c, 0x401, 0x8000000000000000, MSR_OK); /* McStatusWrEn */
	expect_write(c, HWCR, BIT(0), MSR_INVALID);
	assert_int_equal(get(c, HWCR), BIT(18));
}

static void test_cpuid_faulting(void **state)
{
	struct cpu *c = *state;

	c->cpl = 3;
	assert_false(cpuid_faulting(c));
	expect_write(c, MISC_FEATURES_ENABLES, 1, MSR_OK);
	assert_true(cpuid_faulting(c));
	c->cpl = 0;
	assert_false(cpuid_faulting(c));
	expect_write(c, MISC_FEATURES_ENABLES, 2, MSR_INVALID);
	expect_write(c, MISC_FEATURES_ENABLES, 0, MSR_OK);
	assert_int_equal(msr_write(c, PLATFORM_INFO, 0, true), MSR_OK);
	expect_write(c, MISC_FEATURES_ENABLES, 1, MSR_INVALID);
	expect_write(c, PLATFORM_INFO, BIT64(31), MSR_INVALID);
}

static void test_efer_of_the_client(void **state)
{
	struct cpu *c = *state;

	assert_int_equal(msr_write(c, 0xc0000080, EFER_SCE | EFER_NX | EFER_LME | EFER_LMA, true), MSR_OK);
	assert_int_equal(get(c, 0xc0000080), EFER_SCE | EFER_NX | EFER_LME); /* LMA follows paging */
	assert_int_equal(msr_write(c, 0xc0000080, BIT64(1), true), MSR_INVALID);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_list_agrees), T(test_feature_list_agrees), T(test_all_indices), T(test_places_are_apart),
		T(test_reset_values), T(test_memory_types), T(test_canonical), T(test_gated), T(test_tsc),
		T(test_machine_check), T(test_hwcr), T(test_cpuid_faulting), T(test_efer_of_the_client),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
