/*
 * Code that changes under an engine that has translated it, by the hand of the client or through memory slots; and
 * memory that goes away under running code. In 64-bit mode, on both engines.
 */
#include "abi.h"

#include <sys/mman.h>
#include <unistd.h>

#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif

#define CODE2 0x20000u /* another page */
#define GPA 0x400000ull

static const char *engine;

static int setup(void **state)
{
	if (abi_is_ours())
		assert_int_equal(anykvm_set_engine(engine), 0);
	return abi_setup(state);
}

/* movl $v, %eax; ret */
static void put_function(u8 *at, u32 v)
{
	at[0] = 0xb8;
	memcpy(at + 1, &v, 4);
	at[5] = 0xc3;
}

/* Many rounds in one run, so that blocks are linked, then one OUT. */
GUEST_CODE(64, same_page, "1: movl $100, %ecx\n2: call 3f; decl %ecx; jnz 2b; outl %eax, $0x10; jmp 1b\n"
			  "3: movl $1, %eax; ret");

/* Between two runs the client writes to the page where the guest goes on: the next instruction, and what is called. */
static void test_client_writes(void **state)
{
	struct abi_vm *m = *state;

	ABI_LOAD64(m, same_page);
	u8 *function = m->mem + ABI_CODE + (same_page_end - same_page) - 6;
	for (u32 n = 1; n < 50; n++) {
		put_function(function, n);
		assert_int_equal(abi_run_to_out(m, 0x10), n);
	}
	/* And code in any page, when it has the vCPU's system registers set, as debuggers and snapshots do. */
	u8 *call = m->mem + ABI_CODE + 5;
	assert_int_equal(*call, 0xe8);
	memcpy(call + 1, &(s32){CODE2 - (ABI_CODE + 10)}, 4);
	for (u32 n = 1; n < 50; n++) {
		struct kvm_sregs s;
		put_function(m->mem + CODE2, n);
		ioc_ok(m->vcpu, KVM_GET_SREGS, &s);
		ioc_ok(m->vcpu, KVM_SET_SREGS, &s);
		assert_int_equal(abi_run_to_out(m, 0x10), n);
	}
}

GUEST_CODE(64, other_page, "1: movl $100, %ecx\n2: movl $0x20000, %eax; call *%rax; decl %ecx; jnz 2b\n"
			   "outl %eax, $0x10; invlpg 0x20000; jmp 1b");

/* As code comes from a disk: read into memory by the client, and then mapped by the guest. */
static void test_client_loads(void **state)
{
	struct abi_vm *m = *state;

	ABI_LOAD64(m, other_page);
	for (u32 n = 1; n < 50; n++) {
		put_function(m->mem + CODE2, n);
		assert_int_equal(abi_run_to_out(m, 0x10), n);
	}
	/* The same bytes elsewhere in the page; what is called then is a RET. */
	for (u32 n = 0; n < 64; n++) {
		u32 at = n % 2 * (n / 2) * 8;

		memset(m->mem + CODE2, 0xc3, 4096);
		put_function(m->mem + CODE2 + at, 1);
		assert_int_equal(abi_run_to_out(m, 0x10), at ? CODE2 : 1);
	}
}

/* --- Memory slots --------------------------------------------------------------------------------------------- */

GUEST_CODE(64, in_slot, "1: movl $100, %ecx\n2: call *%rbx; decl %ecx; jnz 2b; outl %eax, $0x10; jmp 1b");

static u8 *page_with(u32 v)
{
	u8 *p = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	put_function(p, v);
	return p;
}

static void point_to(struct abi_vm *m, u64 at)
{
	struct kvm_regs regs = abi_regs(m);

	regs.rbx = at;
	ioc_ok(m->vcpu, KVM_SET_REGS, &regs);
}

/* Deleted, replaced, changed while it is away, moved. */
static void test_slots(void **state)
{
	struct abi_vm *m = *state;
	u8 *a = page_with(1), *b = page_with(2);

	ABI_LOAD64(m, in_slot);
	point_to(m, GPA);
	for (u32 n = 0; n < 10; n++) {
		assert_int_equal(abi_set_memory(m, 1, 0, GPA, PAGE_SIZE, a), 0);
		assert_int_equal(abi_run_to_out(m, 0x10), 1 + 2 * n);
		assert_int_equal(abi_set_memory(m, 1, 0, GPA, 0, a), 0);
		put_function(a, 1 + 2 * (n + 1));
		assert_int_equal(abi_set_memory(m, 1, 0, GPA, PAGE_SIZE, b), 0);
		assert_int_equal(abi_run_to_out(m, 0x10), 2);
		assert_int_equal(abi_set_memory(m, 1, 0, GPA, 0, b), 0);
	}
	assert_int_equal(abi_set_memory(m, 1, 0, GPA, PAGE_SIZE, a), 0);
	assert_int_equal(abi_set_memory(m, 2, 0, GPA + PAGE_SIZE, PAGE_SIZE, b), 0);
	assert_int_equal(abi_run_to_out(m, 0x10), 21);
	assert_int_equal(abi_set_memory(m, 1, 0, GPA + 4 * PAGE_SIZE, PAGE_SIZE, a), 0);
	assert_int_equal(abi_set_memory(m, 2, 0, GPA, PAGE_SIZE, b), 0);
	assert_int_equal(abi_run_to_out(m, 0x10), 2);
	point_to(m, GPA + 4 * PAGE_SIZE);
	assert_int_equal(abi_run_to_out(m, 0x10), 21);
	munmap(a, PAGE_SIZE);
	munmap(b, PAGE_SIZE);
}

/* The code at GPA, written through a second slot that shows the same memory. */
GUEST_CODE(64, through_alias, "xorl %edx, %edx; movl $0x400000, %ebx\n1: movl %edx, 0x401001; call *%rbx\n"
			      "cmpl %edx, %eax; jne 3f; incl %edx; cmpl $1000, %edx; jne 1b\n3: outl %eax, $0x10");

static void test_aliased_slots(void **state)
{
	struct abi_vm *m = *state;
	u8 *p = page_with(7);

	ABI_LOAD64(m, through_alias);
	assert_int_equal(abi_set_memory(m, 1, 0, GPA, PAGE_SIZE, p), 0);
	assert_int_equal(abi_set_memory(m, 2, 0, GPA + PAGE_SIZE, PAGE_SIZE, p), 0);
	assert_int_equal(abi_run_to_out(m, 0x10), 999);
	munmap(p, PAGE_SIZE);
}

/* --- Memory that is not there --------------------------------------------------------------------------------- */

/* What the guest does to the page at GPA it does once while it is there; then its memory goes away. */
static u8 *lose_page(struct abi_vm *m)
{
	u8 *p = page_with(0);

	assert_int_equal(abi_set_memory(m, 1, 0, GPA, PAGE_SIZE, p), 0);
	abi_run_to_out(m, 0x10);
	abi_run_to_out(m, 0x10);
	assert_int_equal(mprotect(p, PAGE_SIZE, PROT_NONE), 0);
	return p;
}

/* Each access comes twice, once before the mapping is gone: so it is translated, and its page in the TLB. */
GUEST_CODE(64, vanishing,
	   "movl $2, %ecx; movl $0x400000, %ebx; movl $0x1111, %r12d; movl $0x2222, %r13d; movl $0x3333, %r15d\n"
	   "1: outl %eax, $0x10; incl %r12d; addl $2, %r13d; subl $1, %r15d; addl %ecx, 0x10(%rbx,%rcx,4)\n"
	   "incl %r12d; leal 0x100(%rbx), %esp; pushq %r13; popq %r14; addl $2, %r13d; decl %ecx; jnz 1b\n"
	   "outl %eax, $0x11");

static void test_mapping_gone(void **state)
{
	/* cmocka has signal handlers of its own around each test: the library's come after those. */
	setup(state);
	struct abi_vm *m = *state;
	struct kvm_regs r;

	ABI_LOAD64(m, vanishing);
	u8 *p = lose_page(m);
	for (int n = 0; n < 2; n++) {
		ioc_err(m->vcpu, KVM_RUN, 0, EFAULT);
		assert_int_equal(m->run->exit_reason, KVM_EXIT_MEMORY_FAULT);
		r = abi_regs(m);
		assert_memory_equal(m->mem + r.rip, "\x01\x4c\x8b\x10", 4); /* the ADD to memory */
		assert_int_equal(r.rcx, 1);
		assert_int_equal(r.r12, 0x1111 + 3);
		assert_int_equal(r.r13, 0x2222 + 6);
		assert_int_equal(r.r14, 0x2222 + 2);
		assert_int_equal(r.r15, 0x3333 - 2);
		assert_int_equal(r.rsp, GPA + 0x100);
	}
	/* It comes back, and the guest goes on as if nothing had been. */
	assert_int_equal(mprotect(p, PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
	abi_run_to_out(m, 0x11);
	r = abi_regs(m);
	assert_int_equal(r.r12, 0x1111 + 4);
	assert_int_equal(r.r14, 0x2222 + 6);
	assert_int_equal(*(u32 *)(p + 0x14), 1);
	assert_int_equal(*(u32 *)(p + 0x18), 2);
	munmap(p, PAGE_SIZE);
	abi_teardown(state);
}

/* A copy, out of two pages, and a fill, whose registers are the guest's wherever it stops. */
GUEST_CODE(64, vanishing_rep,
	   "movl $2, %ebx\n"
	   "1: outl %eax, $0x10; movl $0x400fe0, %esi; movl $0x400800, %edi; movl $16, %ecx; rep movsl\n"
	   "movl $0x400100, %edi; movl $8, %ecx; rep stosq; decl %ebx; jnz 1b\n"
	   "outl %eax, $0x11");

static void test_mapping_gone_rep(void **state)
{
	setup(state);
	struct abi_vm *m = *state;
	struct kvm_regs r;

	ABI_LOAD64(m, vanishing_rep);
	u8 *next = page_with(2);
	assert_int_equal(abi_set_memory(m, 2, 0, GPA + PAGE_SIZE, PAGE_SIZE, next), 0);
	u8 *p = lose_page(m);
	ioc_err(m->vcpu, KVM_RUN, 0, EFAULT);
	assert_int_equal(m->run->exit_reason, KVM_EXIT_MEMORY_FAULT);
	r = abi_regs(m);
	assert_int_equal(r.rsi, 0x400fe0);
	assert_int_equal(r.rdi, 0x400800);
	assert_int_equal(r.rcx, 16);
	assert_int_equal(mprotect(p, PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
	memset(p + 0x100, 1, PAGE_SIZE - 0x100);
	abi_run_to_out(m, 0x11);
	assert_memory_equal(p + 0x800, p + 0xfe0, 32);
	assert_memory_equal(p + 0x820, next, 32);
	assert_memory_equal(p + 0x100, "\0\0\0\0\0\0\0", 8);
	assert_int_equal(p[0x140], 1);
	munmap(p, PAGE_SIZE);
	munmap(next, PAGE_SIZE);
	abi_teardown(state);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, abi_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_client_writes), TEST(test_client_loads),
		TEST(test_slots), TEST(test_aliased_slots), cmocka_unit_test(test_mapping_gone),
		cmocka_unit_test(test_mapping_gone_rep),
	};
	int failed;

	alarm(60);
	engine = "interp";
	failed = cmocka_run_group_tests_name("code, interp", tests, NULL, NULL);
	engine = "jit";
	return failed + (abi_is_ours() ? cmocka_run_group_tests_name("code, jit", tests, NULL, NULL) : 0);
}
