/*
 * The lockstep engine: guests run as ever, and a difference between its two engines is found and told. A real one is at
 * hand: code that changes by a way that the translator is not told of, as the interpreter compares each time.
 */
#include "abi.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define GPA 0x400000ull

static int setup(void **state)
{
	assert_int_equal(anykvm_set_engine("lockstep"), 0);
	return abi_setup(state);
}

/* What is written to standard error from errors_begin() on, in @text. */
static int errors_fd, saved_stderr;

static void errors_begin(void)
{
	errors_fd = memfd_create("errors", 0);
	saved_stderr = dup(2);
	assert_true(errors_fd >= 0 && saved_stderr >= 0 && dup2(errors_fd, 2) == 2);
}

static void errors_end(char *text, size_t size)
{
	dup2(saved_stderr, 2);
	close(saved_stderr);
	ssize_t n = pread(errors_fd, text, size - 1, 0);
	text[n > 0 ? n : 0] = 0;
	close(errors_fd);
}

/* The immediate of MOV EAX at GPA, changed through the page behind it; then stores and stack, many rounds. */
GUEST_CODE(64, patching, "xorl %edx, %edx; movl $0x400000, %ebx\n1: call *%rbx; incl %edx; movl %edx, 0x401001\n"
			 "pushq %rax; pushq %rdx; popq %rcx; popq %rcx; lock addl %eax, 0x19000; imul $7, %rdx, %rsi\n"
			 "cmpl $1000, %edx; jne 1b\n3: outl %eax, $0x10");

static u8 *page_of(int fd)
{
	assert_int_equal(ftruncate(fd, PAGE_SIZE), 0);
	u8 *p = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	memcpy(p, "\xb8\x00\x00\x00\x00\xc3", 6); /* mov eax, 0; ret */
	return p;
}

/* One mapping in two slots: the translator knows what it writes. */
static void test_equal(void **state)
{
	struct abi_vm *m = *state;
	int fd = memfd_create("page", 0);
	u8 *p = page_of(fd);

	ABI_LOAD64(m, patching);
	assert_int_equal(abi_set_memory(m, 1, 0, GPA, PAGE_SIZE, p), 0);
	assert_int_equal(abi_set_memory(m, 2, 0, GPA + PAGE_SIZE, PAGE_SIZE, p), 0);
	assert_int_equal(abi_run_to_out(m, 0x10), 999);
	assert_int_equal(*(u32 *)(m->mem + 0x19000), 999 * 1000 / 2);
	munmap(p, PAGE_SIZE);
	close(fd);
}

/* Two mappings of the same file: it cannot know, and runs the old code once more. */
static void test_difference(void **state)
{
	struct abi_vm *m = *state;
	int fd = memfd_create("page", 0);
	u8 *p = page_of(fd), *q = page_of(fd);
	char text[4096];

	ABI_LOAD64(m, patching);
	assert_int_equal(abi_set_memory(m, 1, 0, GPA, PAGE_SIZE, p), 0);
	assert_int_equal(abi_set_memory(m, 2, 0, GPA + PAGE_SIZE, PAGE_SIZE, q), 0);
	errors_begin();
	long r = ioc(m->vcpu, KVM_RUN, 0);
	errors_end(text, sizeof(text));
	assert_int_equal(r, 0);
	assert_int_equal(m->run->exit_reason, KVM_EXIT_INTERNAL_ERROR);
	assert_non_null(strstr(text, "0x400000"));
	assert_non_null(strstr(text, "b800000000 c3"));
	assert_non_null(strstr(text, "rax            jit 0, interp 0x1\n"));
	/* Nothing else: the rest of the state is the same. */
	char *rax = strstr(text, "rax  ");
	assert_null(strchr(strchr(rax, '\n') + 1, '\n'));
	munmap(p, PAGE_SIZE);
	munmap(q, PAGE_SIZE);
	close(fd);
}

static void test_one_vcpu(void **state)
{
	struct abi_vm *m = *state;
	char text[4096];

	errors_begin();
	long r = ioc(m->vm, KVM_CREATE_VCPU, 1);
	errors_end(text, sizeof(text));
	assert_int_equal(r, -EINVAL);
	assert_non_null(strstr(text, "one vCPU only"));
}

/* One whose creation failed is none. */
static void test_another_try(void **state)
{
	struct rlimit old, none = {.rlim_cur = 0};
	struct kvm_run *run;
	struct abi_vm m;

	abi_create_vm(&m, ABI_NO_IRQCHIP);
	getrlimit(RLIMIT_NOFILE, &old);
	none.rlim_max = old.rlim_max;
	setrlimit(RLIMIT_NOFILE, &none);
	long r = ioc(m.vm, KVM_CREATE_VCPU, 0);
	setrlimit(RLIMIT_NOFILE, &old);
	assert_int_equal(r, -EMFILE);
	m.vcpu = abi_add_vcpu(&m, 0, &run);
	assert_true(m.vcpu >= 0);
	munmap(run, m.run_size);
	abi_destroy(&m);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, abi_teardown)
	const struct CMUnitTest tests[] = {TEST(test_equal), TEST(test_difference), TEST(test_one_vcpu),
					   TEST(test_another_try)};

	alarm(60);
	if (!abi_is_ours()) {
		print_message("ok 1 # SKIP not on the kernel's KVM\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
