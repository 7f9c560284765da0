#include "monitor/accel_guest.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/timer.h"
#include "monitor/cpuid.h"
#include "monitor/platform.h"

/* Guest-physical, and linear since all is identity mapped. */
enum {
	PML4 = 0x1000,
	PDPT = 0x2000,
	PD_FIRST_GIB = 0x3000,
	PD_FOURTH_GIB = 0x4000, /* the local APIC's */
	GDT = 0x5000,
	IDT = 0x6000,
	STACK_TOP = 0x8000,
	CODE = 0x8000,
	RESULTS = 0xa000,
	LOOP_CELL = 0xb000,
};

#define LOOP_COUNT 2000000u
#define PIO_COUNT 64u
#define PIO_TEST_PORT 0x510
#define MMIO_TEST_ADDR 0x10000000u
#define MMIO_TEST_VALUE 0x600df00du
#define ABSENT_ADDR 0x80000000u /* in the third GiB, which nothing maps */
#define TIMER_VECTOR 0x40u
#define MSR_TEST_VALUE 0x123456789abcull

/* At RESULTS. */
struct accel_results {
	u64 stage;
	u64 sum;      /* LOOP_CELL after the loop */
	u64 cpuid_ebx; /* of leaf 0 */
	u64 efer;
	u64 gs_base;
	u64 exceptions; /* #UD taken */
	u64 fault_addr; /* CR2 of the page fault */
	u64 fault_code;
	u64 interrupts;
	u64 mmio;
};

#define STRING(x) #x
#define VALUE(x) STRING(x)

/*
 * The guest. R15 = RESULTS throughout; "stage" tells the host where it is. The loop is also called by the host, for
 * comparison: rdi = the cell, rcx = the count.
 */
__asm__(".pushsection .rodata\n"
	".global accel_guest_start, accel_guest_end, accel_guest_ud, accel_guest_pf, accel_guest_timer\n"
	".hidden accel_guest_start, accel_guest_end, accel_guest_ud, accel_guest_pf, accel_guest_timer\n"
	".macro stage n\n"
	"	movq $\\n, (%r15)\n"
	".endm\n"
	"accel_guest_start:\n"
	"	mov $0xa000, %r15d\n"
	"	stage 1\n"
	"	mov $" VALUE(PIO_TEST_PORT) ", %dx\n"
	"	out %eax, %dx\n" /* the clock starts */
	"	mov $0xb000, %edi\n"
	"	mov $" VALUE(2000000) ", %ecx\n"
	"1:	add %rcx, (%rdi)\n"
	"	dec %rcx\n"
	"	jnz 1b\n"
	"	out %eax, %dx\n" /* the clock stops */
	"	mov (%rdi), %rax\n"
	"	mov %rax, 8(%r15)\n"
	"	stage 2\n"
	"	xor %eax, %eax\n"
	"	cpuid\n"
	"	mov %rbx, 16(%r15)\n"
	"	stage 3\n"
	"	mov $0xc0000080, %ecx\n" /* EFER */
	"	rdmsr\n"
	"	mov %eax, 24(%r15)\n"
	"	mov $0xc0000102, %ecx\n" /* KERNEL_GS_BASE */
	"	mov $0x1234, %edx\n"
	"	mov $0x56789abc, %eax\n"
	"	wrmsr\n"
	"	xor %eax, %eax\n"
	"	xor %edx, %edx\n"
	"	rdmsr\n"
	"	mov %eax, 32(%r15)\n"
	"	mov %edx, 36(%r15)\n"
	"	stage 4\n"
	"	ud2\n"
	"	stage 5\n"
	"	mov $0x80000000, %esi\n"
	"	lea 2f(%rip), %r14\n" /* where the fault handler goes on */
	"	mov %eax, (%rsi)\n"
	"2:	stage 6\n"
	"	mov $0xfee00000, %esi\n"
	"	movl $0x1ff, 0xf0(%rsi)\n"   /* local APIC on */
	"	movl $0xb, 0x3e0(%rsi)\n"    /* timer: undivided */
	"	movl $0x40, 0x320(%rsi)\n"   /* one shot */
	"	movl $20000, 0x380(%rsi)\n"
	"3:	cli\n"
	"	cmpq $0, 64(%r15)\n"
	"	jne 4f\n"
	"	sti\n"
	"	hlt\n"
	"	jmp 3b\n"
	"4:	stage 7\n"
	"	mov $0x10000000, %esi\n"
	"	movl $0x600df00d, (%rsi)\n"
	"	mov (%rsi), %eax\n"
	"	mov %rax, 72(%r15)\n"
	"	stage 8\n"
	"	mov $" VALUE(PIO_TEST_PORT) ", %dx\n"
	"	mov $64, %ecx\n"
	"5:	out %eax, %dx\n"
	"	dec %ecx\n"
	"	jnz 5b\n"
	"	stage 9\n"
	"6:	out %eax, %dx\n"
	"	jmp 6b\n"
	"accel_guest_ud:\n"
	"	incq 40(%r15)\n"
	"	addq $2, (%rsp)\n" /* behind the ud2 */
	"	iretq\n"
	"accel_guest_pf:\n"
	"	mov %cr2, %rax\n"
	"	mov %rax, 48(%r15)\n"
	"	pop %rax\n"
	"	mov %rax, 56(%r15)\n"
	"	mov %r14, (%rsp)\n"
	"	iretq\n"
	"accel_guest_timer:\n"
	"	incq 64(%r15)\n"
	"	mov $0xfee00000, %eax\n"
	"	movl $0, 0xb0(%rax)\n" /* EOI */
	"	iretq\n"
	"accel_guest_end:\n"
	".purgem stage\n"
	".popsection\n");

extern const u8 accel_guest_start[], accel_guest_end[], accel_guest_ud[], accel_guest_pf[], accel_guest_timer[];

/* The layout the machine code above has in numbers. */
_Static_assert(RESULTS == 0xa000 && LOOP_CELL == 0xb000 && LOOP_COUNT == 2000000 && PIO_COUNT == 64, "accel guest");
_Static_assert(offsetof(struct accel_results, mmio) == 72 && TIMER_VECTOR == 0x40, "accel guest");

/* Processor time of this thread, the guest's included: what others take of a busy machine does not count. */
static u64 thread_ns(void)
{
	return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

static u64 native_loop_ns(void)
{
	static volatile u64 cell;
	u64 count = LOOP_COUNT;
	volatile u64 *p = &cell;
	u64 start = thread_ns();

	__asm__ volatile("1: add %0, (%1)\n dec %0\n jnz 1b" : "+r"(count) : "r"(p) : "memory", "cc");
	return thread_ns() - start;
}

static void put64(u8 *memory, u32 at, u64 value)
{
	memcpy(memory + at, &value, sizeof(value));
}

static void put_gate(u8 *memory, unsigned vector, const u8 *handler)
{
	u64 target = CODE + (u64)(handler - accel_guest_start);

	/* SDM Vol. 3, 7.14.1: present 64-bit interrupt gate, selector 8. */
	put64(memory, IDT + vector * 16, (target & 0xffff) | 8 << 16 | 0x8eull << 40 | (target >> 16 & 0xffff) << 48);
}

static void build(u8 *memory)
{
	memcpy(memory + CODE, accel_guest_start, (size_t)(accel_guest_end - accel_guest_start));
	put64(memory, PML4, PDPT | 3);
	put64(memory, PDPT, PD_FIRST_GIB | 3);
	put64(memory, PDPT + 3 * 8, PD_FOURTH_GIB | 3);
	for (u32 i = 0; i < 512; i++) {
		put64(memory, PD_FIRST_GIB + i * 8, (u64)i << 21 | 0x83);
		put64(memory, PD_FOURTH_GIB + i * 8, (3ull << 30 | (u64)i << 21) | 0x83);
	}
	put64(memory, GDT + 8, 0x00af9b000000ffff);  /* 64-bit code */
	put64(memory, GDT + 16, 0x00cf93000000ffff); /* data */
	put_gate(memory, 6, accel_guest_ud);
	put_gate(memory, 14, accel_guest_pf);
	put_gate(memory, TIMER_VECTOR, accel_guest_timer);
}

static struct kvm_segment segment(u16 selector, u8 type, u8 l)
{
	return (struct kvm_segment){
		.limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .s = 1, .g = 1, .l = l, .db = !l,
	};
}

static long set_state(const struct kvm_if *kvm, int vcpu)
{
	struct kvm_regs regs = {.rip = CODE, .rsp = STACK_TOP, .rflags = 2};
	struct kvm_sregs s;
	long rc = kvm->ioctl(vcpu, KVM_GET_SREGS, &s);

	if (rc < 0)
		return rc;
	s.cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
	s.cr3 = PML4;
	s.cr4 = 0x20;  /* PAE */
	s.efer = 0x500; /* LME LMA */
	s.cs = segment(8, 11, 1);
	s.ds = s.es = s.fs = s.gs = s.ss = segment(16, 3, 0);
	s.gdt = (struct kvm_dtable){.base = GDT, .limit = 23};
	s.idt = (struct kvm_dtable){.base = IDT, .limit = 4095};
	rc = kvm->ioctl(vcpu, KVM_SET_SREGS, &s);
	return rc < 0 ? rc : kvm->ioctl(vcpu, KVM_SET_REGS, &regs);
}

static void useless(struct accel_check *check, const char *what, long rc)
{
	check->usable = false;
	snprintf(check->why, sizeof(check->why), "%s: %s", what, strerror((int)-rc));
}

/* The guest's VM up to its first instruction. Returns the vCPU, its run page in @run; or -1 with the reason told. */
static int create(const struct kvm_if *kvm, u8 *memory, struct kvm_run **run, u32 *vendor, struct accel_check *check)
{
	u64 identity_map = PLATFORM_IDENTITY_MAP_ADDR;
	struct kvm_userspace_memory_region region = {
		.memory_size = ACCEL_GUEST_MEMORY,
		.userspace_addr = (u64)(uintptr_t)memory,
	};
	long vm, vcpu, rc;
	int kvm_fd = kvm->open();

	if (kvm_fd < 0)
		return useless(check, "it cannot be opened", kvm_fd), -1;
	if (kvm->ioctl(kvm_fd, KVM_GET_API_VERSION, NULL) != KVM_API_VERSION)
		return useless(check, "its API version is unknown", -ENOTSUP), -1;
	vm = kvm->ioctl(kvm_fd, KVM_CREATE_VM, NULL);
	if (vm < 0)
		return useless(check, "it creates no virtual machine", vm), -1;
	if ((rc = kvm->ioctl((int)vm, KVM_SET_TSS_ADDR, (void *)(uintptr_t)PLATFORM_TSS_ADDR)) < 0 ||
	    (rc = kvm->ioctl((int)vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map)) < 0 ||
	    (rc = kvm->ioctl((int)vm, KVM_CREATE_IRQCHIP, NULL)) < 0)
		return useless(check, "it has no interrupt controllers", rc), -1;
	if ((rc = kvm->ioctl((int)vm, KVM_SET_USER_MEMORY_REGION, &region)) < 0)
		return useless(check, "it takes no memory", rc), -1;
	vcpu = kvm->ioctl((int)vm, KVM_CREATE_VCPU, NULL);
	if (vcpu < 0)
		return useless(check, "it creates no CPU", vcpu), -1;

	struct kvm_cpuid2 *cpuid = vcpu_cpuid_offered(kvm, kvm_fd);

	if (!cpuid)
		return useless(check, "it offers no CPUID", -errno), -1;
	for (u32 i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == 0)
			*vendor = cpuid->entries[i].ebx;
	rc = kvm->ioctl((int)vcpu, KVM_SET_CPUID2, cpuid);
	free(cpuid);
	if (rc < 0 || (rc = set_state(kvm, (int)vcpu)) < 0)
		return useless(check, "it takes no CPU state", rc), -1;

	long size = kvm->ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);

	*run = size >= (long)sizeof(**run) ? kvm->mmap((int)vcpu, (size_t)size) : NULL;
	if (!*run)
		return useless(check, "its run page cannot be mapped", -ENOMEM), -1;
	return (int)vcpu;
}

/* Runs to the end of the guest. False, with the reason told, when it does not get there. */
static bool run_guest(const struct kvm_if *kvm, int vcpu, struct kvm_run *run, const u8 *memory,
		      struct accel_check *check)
{
	u64 loop_start = 0, pio_start = 0;
	u64 mmio = 0;

	for (;;) {
		long rc = kvm->ioctl(vcpu, KVM_RUN, NULL);
		enum accel_stage stage = accel_guest_stage(memory);

		if (rc == -EINTR || rc == -EAGAIN)
			continue;
		if (rc < 0) {
			useless(check, "its CPU does not run", rc);
			return false;
		}
		if (run->exit_reason == KVM_EXIT_IO && run->io.port == PIO_TEST_PORT) {
			u64 now = thread_ns();

			if (stage == ACCEL_DONE) {
				check->exit_ns = (now - pio_start) / PIO_COUNT;
				return true;
			}
			if (stage == ACCEL_LOOP && !loop_start)
				loop_start = now;
			else if (stage == ACCEL_LOOP)
				check->guest_ns = now - loop_start;
			else if (!pio_start)
				pio_start = now;
		} else if (run->exit_reason == KVM_EXIT_MMIO && run->mmio.phys_addr == MMIO_TEST_ADDR) {
			if (run->mmio.is_write)
				memcpy(&mmio, run->mmio.data, sizeof(mmio));
			else
				memcpy(run->mmio.data, &mmio, sizeof(mmio));
		} else {
			check->usable = false;
			snprintf(check->why, sizeof(check->why), "a test guest failed at %s (exit reason %u)",
				 accel_guest_doing(memory), run->exit_reason);
			return false;
		}
	}
}

/* First of what the guest got wrong, or NULL. */
static const char *wrong(const struct accel_results *r, u32 vendor)
{
	if (r->sum != (u64)LOOP_COUNT * (LOOP_COUNT + 1) / 2)
		return "arithmetic in memory";
	if (r->cpuid_ebx != vendor)
		return "CPUID";
	if ((r->efer & 0x500) != 0x500 || r->gs_base != MSR_TEST_VALUE)
		return "MSRs";
	if (r->exceptions != 1)
		return "exceptions";
	if (r->fault_addr != ABSENT_ADDR || r->fault_code != 2)
		return "page faults";
	if (r->interrupts != 1)
		return "timer interrupts";
	return r->mmio == MMIO_TEST_VALUE ? NULL : "memory-mapped devices";
}

/* A guest loop on hardware runs at the processor's speed; an emulation is told by an order of magnitude. */
static bool too_slow(const struct accel_check *check)
{
	return check->guest_ns > 8 * check->native_ns + 10000000;
}

void accel_guest_run(const struct kvm_if *kvm, u8 *memory, struct accel_check *check)
{
	const struct accel_results *results = (const struct accel_results *)(memory + RESULTS);
	struct kvm_run *run = NULL;
	u32 vendor = 0;

	check->native_ns = native_loop_ns();
	build(memory);
	int vcpu = create(kvm, memory, &run, &vendor, check);
	if (vcpu < 0 || !run_guest(kvm, vcpu, run, memory, check))
		return;

	const char *what = wrong(results, vendor);

	check->usable = !what && !too_slow(check);
	if (what)
		snprintf(check->why, sizeof(check->why), "a test guest got %s wrong", what);
	else
		snprintf(check->why, sizeof(check->why),
			 "%s: a test loop takes %.1f ms, natively %.1f ms; an exit %.1f us",
			 check->usable ? "a test guest ran well" : "it is too slow", (double)check->guest_ns / 1e6,
			 (double)check->native_ns / 1e6, (double)check->exit_ns / 1e3);
}

enum accel_stage accel_guest_stage(const u8 *memory)
{
	const struct accel_results *results = (const struct accel_results *)(memory + RESULTS);
	u64 stage = __atomic_load_n(&results->stage, __ATOMIC_RELAXED);

	return stage <= ACCEL_DONE ? (enum accel_stage)stage : ACCEL_SETUP;
}

const char *accel_guest_doing(const u8 *memory)
{
	static const char *const name[] = {
		[ACCEL_SETUP] = "its set-up",
		[ACCEL_LOOP] = "a counted loop in 64-bit mode",
		[ACCEL_CPUID] = "CPUID",
		[ACCEL_MSR] = "reading and writing MSRs",
		[ACCEL_EXCEPTION] = "an exception",
		[ACCEL_PAGE_FAULT] = "a page fault",
		[ACCEL_INTERRUPT] = "a timer interrupt",
		[ACCEL_MMIO] = "memory-mapped access",
		[ACCEL_PIO] = "port access",
		[ACCEL_DONE] = "its end",
	};

	return name[accel_guest_stage(memory)];
}
