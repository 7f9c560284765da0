/* Memory slots and dirty logs. */
#include "abi.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

static void *pages(size_t n)
{
	void *p = mmap(NULL, n * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

#define GPA 0x400000ull

static void test_rules(void **state)
{
	struct abi_vm *m = *state;
	u8 *p = pages(16);
	long slots = ioc_ok(m->vm, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS);

	/* Alignment, wrap-around, numbers, flags. */
	assert_int_equal(abi_set_memory(m, 1, 0, GPA + 1, PAGE_SIZE, p), -EINVAL);
	assert_int_equal(abi_set_memory(m, 1, 0, GPA, PAGE_SIZE + 1, p), -EINVAL);
	assert_int_equal(abi_set_memory(m, 1, 0, GPA, PAGE_SIZE, p + 1), -EINVAL);
	assert_int_equal(abi_set_memory(m, 1, 0, ~0xfffull, 2 * PAGE_SIZE, p), -EINVAL);
	assert_int_equal(abi_set_memory(m, 1, 0, GPA, PAGE_SIZE, (void *)(1ull << 63)), -EINVAL);
	assert_int_equal(abi_set_memory(m, (u32)slots, 0, GPA, PAGE_SIZE, p), -EINVAL);
	assert_int_equal(abi_set_memory(m, 1 << 16, 0, GPA, PAGE_SIZE, p), -EINVAL);
	assert_int_equal(abi_set_memory(m, 1, 1u << 30, GPA, PAGE_SIZE, p), -EINVAL);
	assert_int_equal(abi_set_memory(m, (u32)slots - 1, 0, GPA, PAGE_SIZE, p), 0);
	assert_int_equal(abi_set_memory(m, (u32)slots - 1, 0, 0, 0, NULL), 0);
	/* Deleting what is not there. */
	assert_int_equal(abi_set_memory(m, 1, 0, GPA, 0, p), -EINVAL);

	assert_int_equal(abi_set_memory(m, 1, 0, GPA, 4 * PAGE_SIZE, p), 0);
	/* The same again, overlap, resize, another hva, READONLY. */
	assert_int_equal(abi_set_memory(m, 1, 0, GPA, 4 * PAGE_SIZE, p), 0);
	assert_int_equal(abi_set_memory(m, 2, 0, GPA + 3 * PAGE_SIZE, PAGE_SIZE, p), -EEXIST);
	assert_int_equal(abi_set_memory(m, 2, 0, GPA - PAGE_SIZE, 16 * PAGE_SIZE, p), -EEXIST);
	assert_int_equal(abi_set_memory(m, 1, 0, GPA, 5 * PAGE_SIZE, p), -EINVAL);
	assert_int_equal(abi_set_memory(m, 1, 0, GPA, 4 * PAGE_SIZE, p + PAGE_SIZE), -EINVAL);
	assert_int_equal(abi_set_memory(m, 1, KVM_MEM_READONLY, GPA, 4 * PAGE_SIZE, p), -EINVAL);
	/* Neighbours touch, they do not overlap; two slots may show the same memory. */
	assert_int_equal(abi_set_memory(m, 2, 0, GPA + 4 * PAGE_SIZE, PAGE_SIZE, p), 0);
	assert_int_equal(abi_set_memory(m, 3, 0, GPA - PAGE_SIZE, PAGE_SIZE, p), 0);
	/* Move, and move onto another. */
	assert_int_equal(abi_set_memory(m, 2, 0, GPA + 8 * PAGE_SIZE, PAGE_SIZE, p), 0);
	assert_int_equal(abi_set_memory(m, 2, 0, GPA, PAGE_SIZE, p), -EEXIST);
	/* A slot may move over itself. */
	assert_int_equal(abi_set_memory(m, 1, 0, GPA + PAGE_SIZE, 4 * PAGE_SIZE, p), 0);
	/* Flags may change. */
	assert_int_equal(abi_set_memory(m, 1, KVM_MEM_LOG_DIRTY_PAGES, GPA + PAGE_SIZE, 4 * PAGE_SIZE, p), 0);
	assert_int_equal(abi_set_memory(m, 1, 0, GPA + PAGE_SIZE, 4 * PAGE_SIZE, p), 0);
	munmap(p, 16 * PAGE_SIZE);
}

static void test_region2(void **state)
{
	struct abi_vm *m = *state;
	struct { /* kvm_userspace_memory_region2 of Linux 6.8 and up */
		u32 slot, flags;
		u64 gpa, size, hva, memfd_offset;
		u32 memfd, pad1;
		u64 pad2[14];
	} r = {.slot = 1, .gpa = GPA, .size = PAGE_SIZE, .hva = (u64)pages(1)};
	const unsigned long req = _IOW(KVMIO, 0x49, r);

	if (!ioc_ok(m->vm, KVM_CHECK_EXTENSION, 231))
		skip();
	ioc_ok(m->vm, req, &r);
	r.slot = 2;
	ioc_err(m->vm, req, &r, EEXIST);
	r.gpa += PAGE_SIZE;
	r.flags = 4; /* KVM_MEM_GUEST_MEMFD of no descriptor */
	assert_true(ioc(m->vm, req, &r) < 0);
}

/* FS = 0x8000 stands for 0x80000. */
GUEST16(touch, "movw $0x8000, %ax; movw %ax, %fs\n"
	       "1: incl %fs:0; movl %fs:0, %eax; outl %eax, $0x10; jmp 1b");

/* Deleted memory is MMIO at once, added memory is memory at once, and moved memory is where it was moved to. */
static void test_change_between_runs(void **state)
{
	struct abi_vm *m = *state;
	u8 *p = pages(1);

	assert_int_equal(abi_set_memory(m, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(abi_set_memory(m, 0, 0, 0, 0x10000, m->mem), 0);
	assert_int_equal(abi_set_memory(m, 1, 0, 0x80000, PAGE_SIZE, p), 0);
	ABI_LOAD(m, touch);
	assert_int_equal(abi_run_to_out(m, 0x10), 1);
	assert_int_equal(abi_run_to_out(m, 0x10), 2);
	assert_int_equal(*(u32 *)p, 2);
	/* The client's own write is seen. */
	*(u32 *)p = 40;
	assert_int_equal(abi_run_to_out(m, 0x10), 41);
	assert_int_equal(abi_set_memory(m, 1, 0, 0x80000, 0, p), 0);
	abi_run(m, KVM_EXIT_MMIO);
	assert_int_equal(m->run->mmio.phys_addr, 0x80000);
	/* Added while the access is under way: as QEMU does for shadowed ROM. What was asked is answered. */
	assert_int_equal(abi_set_memory(m, 1, 0, 0x80000, PAGE_SIZE, p), 0);
	memset(m->run->mmio.data, 0, 8);
	assert_true(abi_run_to_out(m, 0x10) >= 1);
	munmap(p, PAGE_SIZE);
}

GUEST16(read_rom, "movw $0x8000, %ax; movw %ax, %fs; movl %fs:4, %ebx; movl $7, %fs:8; movl %fs:8, %ecx; hlt");

static void test_readonly(void **state)
{
	struct abi_vm *m = *state;
	u8 *p = pages(1);

	assert_int_equal(abi_set_memory(m, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(abi_set_memory(m, 0, 0, 0, 0x10000, m->mem), 0);
	assert_int_equal(abi_set_memory(m, 1, KVM_MEM_READONLY, 0x80000, PAGE_SIZE, p), 0);
	*(u32 *)(p + 4) = 0x600df00d;
	ABI_LOAD(m, read_rom);
	abi_run(m, KVM_EXIT_MMIO);
	assert_int_equal(m->run->mmio.is_write, 1);
	assert_int_equal(m->run->mmio.phys_addr, 0x80008);
	assert_int_equal(m->run->mmio.data[0], 7);
	abi_run(m, KVM_EXIT_HLT);
	assert_int_equal(abi_regs(m).rbx, 0x600df00d);
	assert_int_equal(abi_regs(m).rcx, 0);
	munmap(p, PAGE_SIZE);
}

/* --- While a vCPU runs ---------------------------------------------------------------------------------- */

static void *run_thread(void *arg)
{
	struct abi_vm *m = arg;
	long r;

	while ((r = ioc(m->vcpu, KVM_RUN, 0)) == 0 && m->run->exit_reason == KVM_EXIT_MMIO)
		;
	return (void *)r;
}

GUEST16(touch_forever, "movw $0x8000, %ax; movw %ax, %fs; 1: incl %fs:0; jmp 1b");

/* A slot comes and goes under a vCPU that writes to it: when the ioctl has returned, the old memory is not touched. */
static void test_change_while_running(void **state)
{
	struct abi_vm *m = *state;
	u8 *p = pages(1);
	pthread_t t;
	void *r;

	if (!abi_is_ours())
		skip(); /* ends by immediate_exit alone */
	assert_int_equal(abi_set_memory(m, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(abi_set_memory(m, 0, 0, 0, 0x10000, m->mem), 0);
	assert_int_equal(abi_set_memory(m, 1, 0, 0x80000, PAGE_SIZE, p), 0);
	ABI_LOAD(m, touch_forever);
	pthread_create(&t, NULL, run_thread, m);
	for (int i = 0; i < 200; i++) {
		assert_int_equal(abi_set_memory(m, 1, 0, 0x80000, 0, p), 0);
		mprotect(p, PAGE_SIZE, PROT_READ);
		u32 before = *(volatile u32 *)p;
		usleep(50);
		assert_int_equal(*(volatile u32 *)p, before);
		mprotect(p, PAGE_SIZE, PROT_READ | PROT_WRITE);
		assert_int_equal(abi_set_memory(m, 1, 0, 0x80000, PAGE_SIZE, p), 0);
	}
	m->run->immediate_exit = 1;
	pthread_join(t, &r);
	assert_int_equal((long)r, -EINTR);
	munmap(p, PAGE_SIZE);
}

/* The client takes the memory behind a slot away: -EFAULT from KVM_RUN, and it works again when it is back. */
static void test_fault(void **state)
{
	struct abi_vm vm, *m = &vm; /* created here: cmocka catches SIGSEGV from the beginning of each test on */
	u8 *p = pages(1);

	abi_create(m, ABI_NO_IRQCHIP);
	assert_int_equal(abi_set_memory(m, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(abi_set_memory(m, 0, 0, 0, 0x10000, m->mem), 0);
	assert_int_equal(abi_set_memory(m, 1, 0, 0x80000, PAGE_SIZE, p), 0);
	ABI_LOAD(m, touch);
	assert_int_equal(abi_run_to_out(m, 0x10), 1);
	mprotect(p, PAGE_SIZE, PROT_NONE);
	ioc_err(m->vcpu, KVM_RUN, 0, EFAULT);
	ioc_err(m->vcpu, KVM_RUN, 0, EFAULT);
	mprotect(p, PAGE_SIZE, PROT_READ | PROT_WRITE);
	assert_int_equal(abi_run_to_out(m, 0x10), 2);
	munmap(p, PAGE_SIZE);
	ioc_err(m->vcpu, KVM_RUN, 0, EFAULT);
	abi_destroy(m);
}

/* --- Dirty logs --------------------------------------------------------------------------------------------- */

/* Writes to the first page and to page BX of 0x80000. */
GUEST16(dirty, "movw $0x8000, %ax; movw %ax, %fs; 1: movl $1, %fs:0; shll $12, %ebx; movb $1, %fs:(%ebx); "
	       "outb %al, $0x10; jmp 1b");

static void run_dirty(struct abi_vm *m, u64 page)
{
	struct kvm_regs regs = abi_regs(m);

	regs.rbx = page;
	ioc_ok(m->vcpu, KVM_SET_REGS, &regs);
	abi_run(m, KVM_EXIT_IO);
}

static u64 get_log(struct abi_vm *m)
{
	u64 bits = 0;
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = &bits};

	ioc_ok(m->vm, KVM_GET_DIRTY_LOG, &log);
	return bits;
}

static void start_dirty(struct abi_vm *m, u8 *p)
{
	assert_int_equal(abi_set_memory(m, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(abi_set_memory(m, 0, 0, 0, 0x10000, m->mem), 0);
	assert_int_equal(abi_set_memory(m, 1, KVM_MEM_LOG_DIRTY_PAGES, 0x80000, 8 * PAGE_SIZE, p), 0);
	ABI_LOAD(m, dirty);
	run_dirty(m, 0); /* the OUT is under way from here on */
	get_log(m);
}

static void test_dirty_log(void **state)
{
	struct abi_vm *m = *state;
	u8 *p = pages(8);
	u64 bits;
	struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = &bits};

	start_dirty(m, p);
	ioc_err(m->vm, KVM_GET_DIRTY_LOG, &log, ENOENT);
	log.slot = 7;
	ioc_err(m->vm, KVM_GET_DIRTY_LOG, &log, ENOENT);
	log.slot = 1 << 20;
	ioc_err(m->vm, KVM_GET_DIRTY_LOG, &log, EINVAL);
	log = (struct kvm_dirty_log){.slot = 1, .dirty_bitmap = BAD_POINTER};
	ioc_err(m->vm, KVM_GET_DIRTY_LOG, &log, EFAULT);

	run_dirty(m, 3);
	assert_int_equal(get_log(m), 1 << 0 | 1 << 3);
	assert_int_equal(get_log(m), 0);
	/* Pages that were logged once are logged again. */
	run_dirty(m, 3);
	run_dirty(m, 7);
	assert_int_equal(get_log(m), 1 << 0 | 1 << 3 | 1 << 7);
	/* A read marks nothing; ending the log ends it. */
	assert_int_equal(abi_set_memory(m, 1, 0, 0x80000, 8 * PAGE_SIZE, p), 0);
	log = (struct kvm_dirty_log){.slot = 1, .dirty_bitmap = &bits};
	ioc_err(m->vm, KVM_GET_DIRTY_LOG, &log, ENOENT);
	munmap(p, 8 * PAGE_SIZE);
}

static void test_manual_clear(void **state)
{
	struct abi_vm *m = *state;
	u8 *p = pages(8);
	struct kvm_enable_cap cap = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = {KVM_DIRTY_LOG_INITIALLY_SET}};
	u64 bits = 1 << 3;
	struct kvm_clear_dirty_log clear = {.slot = 1, .num_pages = 8, .dirty_bitmap = &bits};

	ioc_err(m->vm, KVM_ENABLE_CAP, &cap, EINVAL);
	cap.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
	ioc_ok(m->vm, KVM_ENABLE_CAP, &cap);
	start_dirty(m, p);
	run_dirty(m, 3);
	assert_int_equal(get_log(m), 1 << 0 | 1 << 3);
	assert_int_equal(get_log(m), 1 << 0 | 1 << 3);
	clear.first_page = 1;
	ioc_err(m->vm, KVM_CLEAR_DIRTY_LOG, &clear, EINVAL);
	clear.first_page = 64;
	ioc_err(m->vm, KVM_CLEAR_DIRTY_LOG, &clear, EINVAL);
	clear.first_page = 0;
	clear.num_pages = 7; /* neither 64 pages nor up to the end */
	ioc_err(m->vm, KVM_CLEAR_DIRTY_LOG, &clear, EINVAL);
	clear.num_pages = 9;
	ioc_err(m->vm, KVM_CLEAR_DIRTY_LOG, &clear, EINVAL);
	clear.num_pages = 8;
	ioc_ok(m->vm, KVM_CLEAR_DIRTY_LOG, &clear);
	assert_int_equal(get_log(m), 1 << 0);
	run_dirty(m, 3);
	assert_int_equal(get_log(m), 1 << 0 | 1 << 3);
	/* All set at first. */
	cap.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
	ioc_ok(m->vm, KVM_ENABLE_CAP, &cap);
	assert_int_equal(abi_set_memory(m, 1, 0, 0x80000, 8 * PAGE_SIZE, p), 0);
	assert_int_equal(abi_set_memory(m, 1, KVM_MEM_LOG_DIRTY_PAGES, 0x80000, 8 * PAGE_SIZE, p), 0);
	assert_int_equal(get_log(m), 0xff);
	munmap(p, 8 * PAGE_SIZE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, abi_setup, abi_teardown)
	const struct CMUnitTest tests[] = {
		T(test_rules), T(test_region2), T(test_change_between_runs), T(test_readonly),
		T(test_change_while_running), cmocka_unit_test(test_fault), T(test_dirty_log), T(test_manual_clear),
	};

	return cmocka_run_group_tests_name("memslot", tests, NULL, NULL);
}
