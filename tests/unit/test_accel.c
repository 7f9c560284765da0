/* The self-test's guest, run on this project's own KVM: right in all it checks, and stopped where KVM fails it. */
#include <errno.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "anykvm.h"
#include "monitor/accel_guest.h"

static u8 *memory;

static int create(void **state)
{
	memory = mmap(NULL, ACCEL_GUEST_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return memory == MAP_FAILED ? -1 : 0;
}

static int destroy(void **state)
{
	return munmap(memory, ACCEL_GUEST_MEMORY);
}

static void test_guest_completes(void **state)
{
	struct accel_check check = {.usable = false};

	accel_guest_run(&anykvm_kvm_if, memory, &check);
	assert_int_equal(accel_guest_stage(memory), ACCEL_DONE);
	assert_true(check.guest_ns > 0);
	assert_true(check.native_ns > 0);
	/* An emulation may be told by its speed, not by a wrong answer. */
	if (!check.usable && !strstr(check.why, "too slow"))
		fail_msg("%s", check.why);
}

/* KVMs that go wrong in one way each. */

static unsigned long refused;

static long refuse_ioctl(int fd, unsigned long request, void *arg)
{
	return request == refused ? -EPERM : anykvm_kvm_if.ioctl(fd, request, arg);
}

static void test_refusals(void **state)
{
	static const unsigned long request[] = {
		KVM_CREATE_VM, KVM_CREATE_IRQCHIP, KVM_SET_USER_MEMORY_REGION, KVM_CREATE_VCPU,
		KVM_GET_SUPPORTED_CPUID, KVM_SET_CPUID2, KVM_SET_SREGS, KVM_GET_VCPU_MMAP_SIZE, KVM_RUN,
	};
	struct kvm_if broken = anykvm_kvm_if;

	broken.ioctl = refuse_ioctl;
	for (size_t i = 0; i < ARRAY_SIZE(request); i++) {
		struct accel_check check = {.usable = true};

		memset(memory, 0, ACCEL_GUEST_MEMORY);
		refused = request[i];
		accel_guest_run(&broken, memory, &check);
		assert_false(check.usable);
		assert_true(check.why[0]);
		assert_int_equal(accel_guest_stage(memory), ACCEL_SETUP);
	}
}

/* Guest state that a wrong KVM would leave: each is noticed. */
static long forget_cpuid(int fd, unsigned long request, void *arg)
{
	return request == KVM_SET_CPUID2 ? 0 : anykvm_kvm_if.ioctl(fd, request, arg);
}

static void test_wrong_cpuid(void **state)
{
	struct kvm_if broken = anykvm_kvm_if;
	struct accel_check check = {.usable = true};

	broken.ioctl = forget_cpuid;
	accel_guest_run(&broken, memory, &check);
	assert_false(check.usable);
	assert_string_equal(check.why, "a test guest got CPUID wrong");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_guest_completes, create, destroy),
		cmocka_unit_test_setup_teardown(test_refusals, create, destroy),
		cmocka_unit_test_setup_teardown(test_wrong_cpuid, create, destroy),
	};

	return cmocka_run_group_tests_name("accel", tests, NULL, NULL);
}
