/*
 * Memory of ring 3 programs in 64-bit mode as the client sees and changes it: dirty logs, slots, its own stores, mappings
 * that change under a slot, memory that is not there. Each with shared and with private mappings.
 */
#include "abi.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif

#define NR_PAGES 16
#define SIZE (NR_PAGES * PAGE_SIZE)
#define GPA 0x400000ull
#define USER 0x555555554000ull /* the slot's pages, for the program */
#define STACK_TOP 0x7ffff7a01000ull /* a page of the VM's first slot */
#define CODE_PAGE 15
#define CODE_AT (USER + CODE_PAGE * PAGE_SIZE)
#define CODE_GPA 0x60000u /* of code_elsewhere() */
#define CS_USER 0x1b
#define SS_USER 0x23
#define FL_IOPL3 0x3000u

static int mapping; /* MAP_SHARED or MAP_PRIVATE */

static u8 *map_pages(void *at)
{
	u8 *p = mmap(at, SIZE, PROT_READ | PROT_WRITE, mapping | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static u64 *table(struct abi_vm *m, u32 at)
{
	return (u64 *)(m->mem + at);
}

static void set_table(struct abi_vm *m, u32 pdpt, u64 la, u64 first, unsigned nr)
{
	table(m, 0x10000)[la >> 39 & 511] = pdpt | 7;
	table(m, pdpt)[la >> 30 & 511] = (pdpt + 0x1000) | 7;
	table(m, pdpt + 0x1000)[la >> 21 & 511] = (pdpt + 0x2000) | 7;
	for (unsigned n = 0; n < nr; n++)
		table(m, pdpt + 0x2000)[(la >> 12 & 511) + n] = (first + n * PAGE_SIZE) | 7;
}

/*
 * The VM's first memory is its first 2 MiB; @p becomes slot 1. The code is copied to its last page, and the vCPU goes
 * on there at level 3, with I/O allowed, R12 pointing to the slot.
 */
static void start(struct abi_vm *m, u8 *p, u32 flags, const u8 *code, const u8 *end)
{
	struct kvm_segment cs = {.limit = ~0u, .selector = CS_USER, .type = 11, .present = 1, .dpl = 3, .s = 1, .l = 1,
				 .g = 1};
	struct kvm_segment ds = {.limit = ~0u, .selector = SS_USER, .type = 3, .present = 1, .dpl = 3, .db = 1, .s = 1,
				 .g = 1};
	struct kvm_regs regs = {.rip = CODE_AT, .rsp = STACK_TOP, .rflags = 2 | FL_IOPL3, .r12 = USER};
	struct kvm_sregs s;

	memcpy(p + CODE_PAGE * PAGE_SIZE, code, (size_t)(end - code));
	assert_int_equal(abi_set_memory(m, 1, flags, GPA, SIZE, p), 0);
	abi_enter_64bit(m, m->vcpu, 0);
	set_table(m, 0x30000, USER, GPA, NR_PAGES);
	set_table(m, 0x40000, STACK_TOP - PAGE_SIZE, 0x50000, 1);
	ioc_ok(m->vcpu, KVM_GET_SREGS, &s);
	s.cs = cs;
	s.ds = s.es = s.ss = s.fs = s.gs = ds;
	s.cr0 |= 1 << 16; /* WP */
	ioc_ok(m->vcpu, KVM_SET_SREGS, &s);
	ioc_ok(m->vcpu, KVM_SET_REGS, &regs);
}
#define START(m, p, flags, name) start(m, p, flags, name, name##_end)

/* The code's page is one of the first slot: the other one may come and go. */
static void code_elsewhere(struct abi_vm *m, const u8 *code, const u8 *end)
{
	memcpy(m->mem + CODE_GPA, code, (size_t)(end - code));
	table(m, 0x32000)[(USER >> 12 & 511) + CODE_PAGE] = CODE_GPA | 7;
}

/* In each test: cmocka has signal handlers of its own around it, and the library's have to come after those. */
static struct abi_vm *set_up(void **state)
{
	abi_setup(state);
	return *state;
}

static void set_rbx(struct abi_vm *m, u64 v)
{
	struct kvm_regs regs = abi_regs(m);

	regs.rbx = v;
	ioc_ok(m->vcpu, KVM_SET_REGS, &regs);
}

/* --- Dirty logs ------------------------------------------------------------------------------------------------- */

/* Reads all pages, and writes to those in EBX, each in one of four ways, many times. */
GUEST_CODE(64, dirty, "1: movl $30, %ecx\n2: xorl %edx, %edx\n3: movl %edx, %eax; shlq $12, %rax; addq %r12, %rax\n"
		      "movl 0x20(%rax), %esi; btl %edx, %ebx; jnc 8f; testl $1, %edx; jnz 5f; testl $2, %edx; jnz 4f\n"
		      "movl %ecx, 0x10(%rax); jmp 8f\n4: lock incl 0x10(%rax); jmp 8f\n5: testl $2, %edx; jnz 6f\n"
		      "movq %rsp, %rdi; leaq 0x18(%rax), %rsp; pushq %rcx; movq %rdi, %rsp; jmp 8f\n"
		      "6: movups %xmm0, 0x10(%rax)\n8: incl %edx; cmpl $15, %edx; jb 3b; decl %ecx; jnz 2b\n"
		      "outl %eax, $0x10; jmp 1b");

static u64 get_log(struct abi_vm *m)
{
	u64 bits = 0;
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = &bits};

	ioc_ok(m->vm, KVM_GET_DIRTY_LOG, &log);
	return bits;
}

static void run_dirty(struct abi_vm *m, u64 pages)
{
	set_rbx(m, pages);
	abi_run(m, KVM_EXIT_IO);
}

static void use_sse(struct abi_vm *m)
{
	struct kvm_sregs s;

	ioc_ok(m->vcpu, KVM_GET_SREGS, &s);
	s.cr4 |= 1 << 9;
	ioc_ok(m->vcpu, KVM_SET_SREGS, &s);
}

static void test_dirty_log(void **state)
{
	static const u64 sets[] = {0x7fff, 0, 1, 1, 0x7fff, 0x4000, 0, 0x2aaa, 0x5555, 0x10, 0x20, 0x40, 0x80, 0x80, 0};
	struct abi_vm *m = set_up(state);
	u8 *p = map_pages(NULL);

	START(m, p, KVM_MEM_LOG_DIRTY_PAGES, dirty);
	use_sse(m);
	run_dirty(m, 0); /* the OUT is under way from here on */
	get_log(m);
	for (unsigned turn = 0; turn < 3; turn++)
		for (unsigned n = 0; n < ARRAY_SIZE(sets); n++) {
			run_dirty(m, sets[n]);
			u64 bits = get_log(m);
			if (bits != sets[n])
				fail_msg("turn %u: log %#llx after writes to %#llx", turn, bits, sets[n]);
			assert_int_equal(get_log(m), 0);
		}
	/* What several runs have written is there at once. */
	run_dirty(m, 1);
	run_dirty(m, 8);
	assert_int_equal(get_log(m), 9);
	/* Off and on while the program has all pages in use. */
	for (unsigned turn = 0; turn < 3; turn++) {
		assert_int_equal(abi_set_memory(m, 1, 0, GPA, SIZE, p), 0);
		run_dirty(m, 0x7fff);
		assert_int_equal(abi_set_memory(m, 1, KVM_MEM_LOG_DIRTY_PAGES, GPA, SIZE, p), 0);
		get_log(m);
		run_dirty(m, 0x1234);
		assert_int_equal(get_log(m), 0x1234);
	}
	munmap(p, SIZE);
	abi_teardown(state);
}

static void *run_thread(void *arg)
{
	struct abi_vm *m = arg;
	long r = ioc(m->vcpu, KVM_RUN, 0);

	return (void *)(r ? r : (long)m->run->exit_reason);
}

/* Counts in page 0, and in page 3 every 16th time, until the client says stop there. */
GUEST_CODE(64, counting, "1: incq (%r12); testl $15, (%r12); jnz 2f; incq 0x3000(%r12)\n2: cmpl $0, 0x3008(%r12); je 1b\n"
			 "outl %eax, $0x10; jmp 1b");

/* While the program runs: what is written after the log was taken is in the next one. */
static void test_log_while_running(void **state)
{
	struct abi_vm *m = set_up(state);
	u8 *p = map_pages(NULL);
	volatile u64 *count = (u64 *)p, *seldom = (u64 *)(p + 0x3000);
	pthread_t t;
	void *r;

	START(m, p, KVM_MEM_LOG_DIRTY_PAGES, counting);
	pthread_create(&t, NULL, run_thread, m);
	for (unsigned n = 0; n < 50; n++) {
		get_log(m);
		u64 from = *count, from_seldom = *seldom;
		for (unsigned wait = 0; *seldom - from_seldom < 2 || *count - from < 2; wait++) {
			assert_true(wait < 5000);
			usleep(1000);
		}
		u64 bits = get_log(m);
		if (bits != 9)
			fail_msg("round %u: log %#llx", n, bits);
	}
	((volatile u32 *)seldom)[2] = 1;
	pthread_join(t, &r);
	assert_int_equal((long)r, KVM_EXIT_IO);
	munmap(p, SIZE);
	abi_teardown(state);
}

/* --- Slots ------------------------------------------------------------------------------------------------------- */

/* Reads at RBX, many times, and tells the last value; and calls what is behind it. */
GUEST_CODE(64, reading, "1: movl $50, %ecx\n2: movl (%r12,%rbx), %eax; decl %ecx; jnz 2b; outl %eax, $0x10; jmp 1b");

static void test_slots(void **state)
{
	struct abi_vm *m = set_up(state);
	u8 *a = map_pages(NULL), *b = map_pages(NULL);

	START(m, a, 0, reading);
	code_elsewhere(m, reading, reading_end);
	set_rbx(m, 0x2000);
	for (u32 n = 1; n < 20; n++) {
		*(u32 *)(a + 0x2000) = n;
		*(u32 *)(b + 0x2000) = 1000 + n;
		assert_int_equal(abi_run_to_out(m, 0x10), n);
		assert_int_equal(abi_set_memory(m, 1, 0, GPA, 0, a), 0);
		if (n & 1) { /* nothing is there for a while */
			abi_run(m, KVM_EXIT_MMIO);
			assert_int_equal(m->run->mmio.phys_addr, GPA + 0x2000);
			assert_int_equal(m->run->mmio.is_write, 0);
			memset(m->run->mmio.data, 0, 8);
		}
		assert_int_equal(abi_set_memory(m, 1, 0, GPA, SIZE, b), 0);
		assert_int_equal(abi_run_to_out(m, 0x10), 1000 + n);
		/* The one moves away, the other comes in its place. */
		assert_int_equal(abi_set_memory(m, 1, 0, GPA + SIZE, SIZE, b), 0);
		assert_int_equal(abi_set_memory(m, 2, 0, GPA, SIZE, a), 0);
		assert_int_equal(abi_run_to_out(m, 0x10), n);
		assert_int_equal(abi_set_memory(m, 2, 0, GPA, 0, a), 0);
		assert_int_equal(abi_set_memory(m, 1, 0, GPA, SIZE, b), 0);
		assert_int_equal(abi_run_to_out(m, 0x10), 1000 + n);
		assert_int_equal(abi_set_memory(m, 1, 0, GPA, 0, b), 0);
		assert_int_equal(abi_set_memory(m, 1, 0, GPA, SIZE, a), 0);
	}
	munmap(a, SIZE);
	munmap(b, SIZE);
	abi_teardown(state);
}

GUEST_CODE(64, writing, "1: movl $20, %ecx\n2: movl (%r12,%rbx), %eax; movl %ecx, 4(%r12,%rbx); decl %ecx; jnz 2b\n"
			"outl %eax, $0x10; jmp 1b");

/* A slot that becomes read-only, and writable again. */
static void test_readonly(void **state)
{
	struct abi_vm *m = set_up(state);
	u8 *p = map_pages(NULL);

	START(m, p, 0, writing);
	set_rbx(m, 0x3000);
	for (u32 n = 1; n < 5; n++) {
		*(u32 *)(p + 0x3000) = n;
		*(u32 *)(p + 0x3004) = 0;
		assert_int_equal(abi_run_to_out(m, 0x10), n);
		assert_int_equal(*(u32 *)(p + 0x3004), 1);
		assert_int_equal(abi_set_memory(m, 1, 0, GPA, 0, p), 0);
		assert_int_equal(abi_set_memory(m, 1, KVM_MEM_READONLY, GPA, SIZE, p), 0);
		*(u32 *)(p + 0x3000) = n + 50;
		for (u32 k = 20; k; k--) {
			abi_run(m, KVM_EXIT_MMIO);
			assert_int_equal(m->run->mmio.is_write, 1);
			assert_int_equal(m->run->mmio.phys_addr, GPA + 0x3004);
			assert_int_equal(*(u32 *)m->run->mmio.data, k);
		}
		assert_int_equal(abi_run_to_out(m, 0x10), n + 50);
		assert_int_equal(*(u32 *)(p + 0x3004), 1);
		assert_int_equal(abi_set_memory(m, 1, 0, GPA, 0, p), 0);
		assert_int_equal(abi_set_memory(m, 1, 0, GPA, SIZE, p), 0);
	}
	munmap(p, SIZE);
	abi_teardown(state);
}

/* --- The client's stores ------------------------------------------------------------------------------------------ */

/* Loads, and what a function in the next page but three of the code says. */
GUEST_CODE(64, looking, "1: movl $50, %ecx\n2: movl 0x1000(%r12), %edx; leaq 0xc100(%r12), %rax; call *%rax; addl %edx, %eax\n"
			"decl %ecx; jnz 2b; call 3f; addl %edx, %eax; outl %eax, $0x10; jmp 1b\n3: addl $1, %eax; ret");

/* movl $v, %eax; ret */
static void put_function(u8 *at, u32 v)
{
	at[0] = 0xb8;
	memcpy(at + 1, &v, 4);
	at[5] = 0xc3;
}

static void test_client_stores(void **state)
{
	struct abi_vm *m = set_up(state);
	u8 *p = map_pages(NULL);
	u8 *immediate = p + CODE_PAGE * PAGE_SIZE + (looking_end - looking) - 2;
	struct kvm_sregs s;

	START(m, p, 0, looking);
	assert_int_equal(*immediate, 1);
	for (u32 n = 1; n < 40; n++) {
		*(u32 *)(p + 0x1000) = n;
		put_function(p + 0xc100, n * 1000);
		*immediate = (u8)n; /* of the page where the program goes on */
		ioc_ok(m->vcpu, KVM_GET_SREGS, &s);
		ioc_ok(m->vcpu, KVM_SET_SREGS, &s);
		assert_int_equal(abi_run_to_out(m, 0x10), n * 1000 + 3 * n);
	}
	/* Data alone needs no more than the store. */
	for (u32 n = 1; n < 40; n++) {
		*(u32 *)(p + 0x1000) = n;
		assert_int_equal(abi_run_to_out(m, 0x10), 39000 + 39 + 2 * n);
	}
	munmap(p, SIZE);
	abi_teardown(state);
}

/* Both store and look while the other does. */
GUEST_CODE(64, answering, "1: movl (%r12), %eax; cmpl %eax, 0x1000(%r12); je 1b; movl %eax, 0x1000(%r12); cmpl $2000, %eax; jb 1b\n"
			  "outl %eax, $0x10; jmp 1b");

static void test_while_running(void **state)
{
	struct abi_vm *m = set_up(state);
	u8 *p = map_pages(NULL);
	pthread_t t;
	void *r;

	START(m, p, 0, answering);
	pthread_create(&t, NULL, run_thread, m);
	for (u32 n = 1; n <= 2000; n++) {
		*(volatile u32 *)p = n;
		for (u64 spins = 0; *(volatile u32 *)(p + 0x1000) != n; spins++) {
			if (spins > 1000)
				usleep(10);
			assert_true(spins < 500000);
		}
	}
	pthread_join(t, &r);
	assert_int_equal((long)r, KVM_EXIT_IO);
	munmap(p, SIZE);
	abi_teardown(state);
}

/* Other memory at the slot's address in the client: the program has that. */
static void test_other_memory(void **state)
{
	struct abi_vm *m = set_up(state);
	u8 *p = map_pages(NULL);

	START(m, p, 0, reading);
	code_elsewhere(m, reading, reading_end);
	set_rbx(m, 0x5000);
	for (u32 n = 1; n < 20; n++) {
		*(u32 *)(p + 0x5000) = n;
		assert_int_equal(abi_run_to_out(m, 0x10), n);
		if (n & 1)
			map_pages(p);
		else
			assert_int_equal(madvise(p, SIZE, mapping == MAP_SHARED ? MADV_REMOVE : MADV_DONTNEED), 0);
		assert_int_equal(*(volatile u32 *)(p + 0x5000), 0);
		assert_int_equal(abi_run_to_out(m, 0x10), 0);
		*(u32 *)(p + 0x5000) = 100 + n;
		assert_int_equal(abi_run_to_out(m, 0x10), 100 + n);
	}
	munmap(p, SIZE);
	abi_teardown(state);
}

/* --- Memory that is not there -------------------------------------------------------------------------------------- */

/* Everything is done twice; between the two the page goes. R13 to R15 count. */
GUEST_CODE(64, vanishing, "xorl %r13d, %r13d; xorl %r14d, %r14d; movl $2, %ecx\n1: outl %eax, $0x10; incl %r13d\n"
			  "vanishing_at: addl %ecx, (%r12,%rbx); incl %r14d; movq -4(%r12,%rbx), %rdx; decl %ecx; jnz 1b\n"
			  "outl %eax, $0x11; jmp 1b\n");

static void expect_no_memory(struct abi_vm *m)
{
	for (int n = 0; n < 2; n++) {
		ioc_err(m->vcpu, KVM_RUN, 0, EFAULT);
		assert_int_equal(m->run->exit_reason, KVM_EXIT_MEMORY_FAULT);
		struct kvm_regs r = abi_regs(m);
		assert_memory_equal(m->mem + CODE_GPA + (r.rip - CODE_AT), "\x41\x01\x0c\x1c", 4); /* the ADD */
		assert_int_equal(r.rcx, 1);
		assert_int_equal(r.r13, 2);
		assert_int_equal(r.r14, 1);
		assert_int_equal(r.rsp, STACK_TOP);
	}
}

static void test_no_memory(void **state)
{
	static const int rights[] = {PROT_NONE, PROT_READ};
	struct abi_vm *m = set_up(state);
	u8 *p = map_pages(NULL);

	for (unsigned n = 0; n < ARRAY_SIZE(rights); n++) {
		memset(p, 0, SIZE);
		START(m, p, 0, vanishing);
		code_elsewhere(m, vanishing, vanishing_end);
		set_rbx(m, 0x6000);
		abi_run_to_out(m, 0x10);
		abi_run_to_out(m, 0x10);
		/* That page and those around it. */
		assert_int_equal(mprotect(p + 0x5000, 3 * PAGE_SIZE, rights[n]), 0);
		expect_no_memory(m);
		assert_int_equal(mprotect(p + 0x5000, 3 * PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
		abi_run_to_out(m, 0x11);
		assert_int_equal(*(u32 *)(p + 0x6000), 3);
		assert_int_equal(abi_regs(m).r14, 2);
		assert_int_equal(abi_set_memory(m, 1, 0, GPA, 0, p), 0);
	}
	munmap(p, SIZE);
	abi_teardown(state);
}

int main(void)
{
#define T(f) cmocka_unit_test(f)
	const struct CMUnitTest tests[] = {
		T(test_dirty_log), T(test_log_while_running), T(test_slots), T(test_readonly), T(test_client_stores),
		T(test_while_running), T(test_other_memory), T(test_no_memory),
	};
	int failed;

	alarm(60);
	mapping = MAP_SHARED;
	failed = cmocka_run_group_tests_name("user memory, shared", tests, NULL, NULL);
	mapping = MAP_PRIVATE;
	return failed + cmocka_run_group_tests_name("user memory, private", tests, NULL, NULL);
}
