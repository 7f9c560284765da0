/* Descriptors: what they are, how long their objects live, who may use them. */
#include "abi.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

GUEST16(halt, "hlt");
GUEST16(out, "xorl %eax, %eax; outb %al, $0x80");

static void test_open(void **state)
{
	int fd = kvm->open();

	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(ioc_ok(fd, KVM_GET_API_VERSION, 0), 12);
	ioc_err(fd, KVM_GET_API_VERSION, 1, EINVAL);
	assert_true(ioc_ok(fd, KVM_GET_VCPU_MMAP_SIZE, 0) >= 3 * PAGE_SIZE);
	ioc_err(fd, KVM_CREATE_VM, 99, EINVAL);
	int vm = (int)ioc_ok(fd, KVM_CREATE_VM, 0);
	assert_int_equal(fcntl(vm, F_GETFD), FD_CLOEXEC);
	int vcpu = (int)ioc_ok(vm, KVM_CREATE_VCPU, 0);
	assert_int_equal(fcntl(vcpu, F_GETFD), FD_CLOEXEC);
	assert_int_equal(kvm->close(vcpu), 0);
	assert_int_equal(kvm->close(vm), 0);
	assert_int_equal(kvm->close(fd), 0);
	assert_int_equal(kvm->close(fd), -EBADF);
}

/* Each kind of descriptor refuses what is another's, with KVM's own error. */
static void test_unknown(void **state)
{
	struct abi_vm m;

	abi_create(&m, ABI_NO_IRQCHIP);
	ioc_err(m.sys, KVM_RUN, 0, EINVAL);
	ioc_err(m.sys, _IO(KVMIO, 0xff), 0, EINVAL);
	ioc_err(m.vm, KVM_RUN, 0, ENOTTY);
	ioc_err(m.vm, KVM_GET_API_VERSION, 0, ENOTTY);
	ioc_err(m.vm, _IO(KVMIO, 0xff), 0, ENOTTY);
	ioc_err(m.vcpu, KVM_CREATE_VCPU, 1, ENOTTY);
	ioc_err(m.vcpu, _IO(KVMIO, 0xff), 0, ENOTTY);
	ioc_err(m.vcpu, KVM_RUN, 1, EINVAL);
	abi_destroy(&m);
}

static void test_not_ours(void **state)
{
	int fd = open("/dev/null", O_RDWR);

	ioc_err(fd, KVM_GET_API_VERSION, 0, ENOTTY);
	if (abi_is_ours()) {
		assert_false(anykvm_owns(fd));
		errno = 0;
		assert_null(anykvm_mmap(fd, PAGE_SIZE));
		assert_int_equal(errno, ENODEV);
	}
	close(fd);
	ioc_err(fd, KVM_GET_API_VERSION, 0, EBADF);
	ioc_err(-1, KVM_GET_API_VERSION, 0, EBADF);
	assert_int_equal(kvm->close(-1), -EBADF);
}

/* The VM lives as long as a vCPU's descriptor does; a duplicate counts as much as the first. */
static void test_lifetime(void **state)
{
	struct abi_vm m;

	abi_create(&m, ABI_NO_IRQCHIP);
	ABI_LOAD(&m, halt);
	assert_int_equal(kvm->close(m.vm), 0);
	int other = fcntl(m.vcpu, F_DUPFD_CLOEXEC, 0);
	assert_true(other >= 0);
	assert_int_equal(kvm->close(m.vcpu), 0);
	m.vcpu = other;
	abi_run(&m, KVM_EXIT_HLT);
	/* Mapped once more through the duplicate: the same page. */
	struct kvm_run *again = kvm->mmap(other, m.run_size);
	assert_non_null(again);
	again->immediate_exit = 1;
	assert_int_equal(m.run->immediate_exit, 1);
	munmap(again, m.run_size);
	munmap(m.run, m.run_size);
	assert_int_equal(kvm->close(other), 0);
	ioc_err(other, KVM_RUN, 0, EBADF);
	assert_int_equal(kvm->close(m.sys), 0);
	munmap(m.mem, ABI_MEM_SIZE);
}

/*
 * What is left behind by plain close(2) is found at the next close, and memory is given back: many rounds do not pile
 * up.
 */
static void test_many(void **state)
{
	int sys = kvm->open();

	for (int i = 0; i < 50; i++) {
		int vm = (int)ioc_ok(sys, KVM_CREATE_VM, 0), vcpu = (int)ioc_ok(vm, KVM_CREATE_VCPU, 0);

		if (i % 2) {
			close(vcpu);
			close(vm);
		} else {
			kvm->close(vm);
			kvm->close(vcpu);
		}
	}
	kvm->close(sys);
	if (abi_is_ours()) {
		/* Each VM has a thread for its timers: all of them are gone. */
		int threads = 0;
		char line[128];
		FILE *f = fopen("/proc/self/status", "r");
		while (fgets(line, sizeof(line), f))
			sscanf(line, "Threads: %d", &threads);
		fclose(f);
		assert_int_equal(threads, 1);
	}
}

/* In a forked child the parent's VMs answer -EIO, and VMs of its own work. */
static int child(struct abi_vm *m)
{
	struct abi_vm own;

	if (ioc(m->vm, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP) != -EIO || ioc(m->vcpu, KVM_RUN, 0) != -EIO)
		return 1;
	abi_create(&own, ABI_NO_IRQCHIP);
	ABI_LOAD(&own, halt);
	if (ioc(own.vcpu, KVM_RUN, 0) != 0 || own.run->exit_reason != KVM_EXIT_HLT)
		return 2;
	abi_destroy(&own);
	return kvm->close(m->vcpu) == 0 ? 0 : 3;
}

/* Where no descriptor is to be had: EMFILE, and all as it was. */
static long without_descriptors(int fd, unsigned long request)
{
	struct rlimit old, none;

	getrlimit(RLIMIT_NOFILE, &old);
	none = old;
	none.rlim_cur = 0;
	setrlimit(RLIMIT_NOFILE, &none);
	long r = ioc(fd, request, 0);
	setrlimit(RLIMIT_NOFILE, &old);
	return r;
}

static void test_descriptor_limit(void **state)
{
	struct abi_vm m;

	abi_create_vm(&m, ABI_IRQCHIP);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(without_descriptors(m.sys, KVM_CREATE_VM), -EMFILE);
		assert_int_equal(without_descriptors(m.vm, KVM_CREATE_VCPU), -EMFILE);
		assert_int_equal(without_descriptors(m.vm, KVM_GET_STATS_FD), -EMFILE);
	}
	m.vcpu = abi_add_vcpu(&m, 0, &m.run);
	assert_int_equal(without_descriptors(m.vcpu, KVM_GET_STATS_FD), -EMFILE);
	ABI_LOAD(&m, out);
	assert_int_equal(abi_run_to_out(&m, 0x80), 0);
	abi_destroy(&m);
}

static void test_fork(void **state)
{
	struct abi_vm m;
	int status;

	abi_create(&m, ABI_NO_IRQCHIP);
	ABI_LOAD(&m, halt);
	pid_t pid = fork();
	if (pid == 0)
		_exit(child(&m));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	abi_run(&m, KVM_EXIT_HLT);
	abi_destroy(&m);
}

static void test_vcpus(void **state)
{
	struct abi_vm m;
	struct kvm_run *run;

	abi_create(&m, ABI_NO_IRQCHIP);
	long max = ioc_ok(m.sys, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPU_ID);
	assert_true(max >= ioc_ok(m.sys, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS));
	ioc_err(m.vm, KVM_CREATE_VCPU, 0, EEXIST);
	ioc_err(m.vm, KVM_CREATE_VCPU, max, EINVAL);
	ioc_err(m.vm, KVM_CREATE_VCPU, -1ul, EINVAL);
	int fd = abi_add_vcpu(&m, (u32)max - 1, &run);
	/* The number stays taken when the descriptor is closed. */
	munmap(run, m.run_size);
	kvm->close(fd);
	ioc_err(m.vm, KVM_CREATE_VCPU, max - 1, EEXIST);
	ioc_err(m.vm, KVM_SET_BOOT_CPU_ID, 0, EBUSY);
	abi_destroy(&m);
}

/* The coalesced ring in page 2 is the VM's: every vCPU's mapping shows the same. */
static void test_shared_ring(void **state)
{
	struct abi_vm m;
	struct kvm_run *run;

	abi_create(&m, ABI_NO_IRQCHIP);
	int fd = abi_add_vcpu(&m, 1, &run);
	((u32 *)m.run)[2 * 1024 + 1] = 0xfeed;
	assert_int_equal(((u32 *)run)[2 * 1024 + 1], 0xfeed);
	run->immediate_exit = 1;
	assert_int_equal(m.run->immediate_exit, 0);
	((u32 *)m.run)[2 * 1024 + 1] = 0;
	munmap(run, m.run_size);
	kvm->close(fd);
	abi_destroy(&m);
}

/* The object behind a descriptor stays while a call on it is under way. */
static void *run_it(void *arg)
{
	struct abi_vm *m = arg;

	return (void *)ioc(m->vcpu, KVM_RUN, 0);
}

GUEST16(wait_here, "1: jmp 1b");

static void test_close_while_running(void **state)
{
	struct abi_vm m;
	pthread_t t;
	void *r;

	if (!abi_is_ours())
		skip();
	abi_create(&m, ABI_NO_IRQCHIP);
	ABI_LOAD(&m, wait_here);
	pthread_create(&t, NULL, run_it, &m);
	usleep(20000);
	kvm->close(m.vcpu);
	kvm->close(m.vm);
	kvm->close(m.sys);
	m.run->immediate_exit = 1;
	pthread_join(t, &r);
	assert_int_equal((long)r, -EINTR);
	munmap(m.run, m.run_size);
	munmap(m.mem, ABI_MEM_SIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open), cmocka_unit_test(test_unknown), cmocka_unit_test(test_not_ours),
		cmocka_unit_test(test_lifetime), cmocka_unit_test(test_many), cmocka_unit_test(test_fork),
		cmocka_unit_test(test_vcpus), cmocka_unit_test(test_shared_ring),
		cmocka_unit_test(test_close_while_running), cmocka_unit_test(test_descriptor_limit),
	};

	return cmocka_run_group_tests_name("files", tests, NULL, NULL);
}
