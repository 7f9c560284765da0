/*
 * What guest instructions and exits cost, on struct kvm_if: small 64-bit
 * guests, each a loop that ends with a write to END_PORT.
 *
 * usage: exits [SCALE]; loop counts are multiplied by SCALE (1).
 * Prints "name value unit" lines. ANYKVM_TEST_KVM=sys takes the real /dev/kvm.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "anykvm.h"
#include "monitor/kvm_if_sys.h"

#define RAM_SIZE (16u << 20)
#define CODE 0x100000
#define DATA 0x200000
#define STACK 0x80000
#define PML4 0x1000
#define END_PORT 0x10

/* RCX holds the count. */
#define GUEST(name, code)                                                                  \
	__asm__(".pushsection .rodata\n" #name ":\n" code "\nout %al, $0x10\n2: jmp 2b\n"  \
		#name "_end:\n.popsection\n");                                             \
	extern const char name[], name##_end[]

GUEST(alu, "1: add %rcx, %rax\nxor %rax, %rdx\nlea (%rdx,%rax), %rbx\nrol $3, %rbx\nsub %rbx, %rsi\nimul %rbx, %rdx\n"
	   "dec %rcx\njnz 1b");
GUEST(mem, "1: mov (%rdi), %rax\nadd %rcx, 8(%rdi)\nmov %rax, 64(%rdi)\npush %rax\nmovzbl 3(%rdi), %ebx\npop %rdx\n"
	   "dec %rcx\njnz 1b");
GUEST(call, "1: call 3f\ntest %eax, %eax\ndec %rcx\njnz 1b\njmp 4f\n3: push %rbx\nmov %ecx, %eax\npop %rbx\nret\n4:");
GUEST(sse, "1: movups (%rdi), %xmm0\npaddd %xmm1, %xmm0\npxor %xmm0, %xmm2\nmulps %xmm3, %xmm4\n"
	   "movups %xmm0, 16(%rdi)\n"
	   "dec %rcx\njnz 1b");
GUEST(copy, "mov %rcx, %rbx\n1: mov $0x200000, %esi\nmov $0x400000, %edi\nmov $0x10000, %ecx\nrep movsb\ndec %rbx\n"
	    "jnz 1b");
GUEST(pio_out, "1: out %al, $0x80\ndec %rcx\njnz 1b");
GUEST(mmio_out, "mov $0xd0000000, %edi\n1: mov %eax, (%rdi)\ndec %rcx\njnz 1b");
GUEST(pio_in, "1: in $0x21, %al\ndec %rcx\njnz 1b");
GUEST(mmio_in, "mov $0xfee00080, %edi\n1: mov (%rdi), %eax\ndec %rcx\njnz 1b");
GUEST(cpuid_in, "mov %rcx, %rsi\n1: xor %eax, %eax\ncpuid\ndec %rsi\njnz 1b");

static const struct kvm_if *kvm;
static int vcpu;
static struct kvm_run *run;
static unsigned char *ram;

static long must(long r, const char *what)
{
	if (r < 0) {
		fprintf(stderr, "exits: %s: %s\n", what, strerror((int)-r));
		exit(1);
	}
	return r;
}

static void create(void)
{
	int dev = (int)must(kvm->open(), "open"), vm = (int)must(kvm->ioctl(dev, KVM_CREATE_VM, NULL), "KVM_CREATE_VM");
	struct kvm_userspace_memory_region region = { .memory_size = RAM_SIZE };
	long run_size = must(kvm->ioctl(dev, KVM_GET_VCPU_MMAP_SIZE, NULL), "KVM_GET_VCPU_MMAP_SIZE");
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 256 * sizeof(cpuid->entries[0]));

	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	region.userspace_addr = (uintptr_t)ram;
	must(kvm->ioctl(vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000), "KVM_SET_TSS_ADDR");
	must(kvm->ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
	must(kvm->ioctl(vm, KVM_CREATE_IRQCHIP, NULL), "KVM_CREATE_IRQCHIP");
	vcpu = (int)must(kvm->ioctl(vm, KVM_CREATE_VCPU, NULL), "KVM_CREATE_VCPU");
	cpuid->nent = 256;
	must(kvm->ioctl(dev, KVM_GET_SUPPORTED_CPUID, cpuid), "KVM_GET_SUPPORTED_CPUID");
	must(kvm->ioctl(vcpu, KVM_SET_CPUID2, cpuid), "KVM_SET_CPUID2");
	free(cpuid);
	run = kvm->mmap(vcpu, (size_t)run_size);
	must(run ? 0 : -errno, "mmap");
}

/* 64-bit mode at privilege level 0; the first 4 GiB mapped one to one by 2 MiB pages. */
static void set_long_mode(void)
{
	uint64_t *table = (uint64_t *)(ram + PML4);
	struct kvm_sregs s;
	struct kvm_segment code = { .limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
	struct kvm_segment data = { .limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };

	table[0] = (PML4 + 0x1000) | 3;
	for (uint64_t gb = 0; gb < 4; gb++)
		table[512 + gb] = (PML4 + 0x2000 + gb * 0x1000) | 3;
	for (uint64_t i = 0; i < 4 * 512; i++)
		table[1024 + i] = i << 21 | 0x83;
	must(kvm->ioctl(vcpu, KVM_GET_SREGS, &s), "KVM_GET_SREGS");
	s.cr0 = 0x80000031;
	s.cr3 = PML4;
	s.cr4 = 0x620; /* PAE, OSFXSR, OSXMMEXCPT */
	s.efer = 0x500;
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	must(kvm->ioctl(vcpu, KVM_SET_SREGS, &s), "KVM_SET_SREGS");
}

/* Runs @code with @count in RCX to its end; returns the seconds it took. */
static double measure(const char *code, const char *end, uint64_t count)
{
	struct kvm_regs regs = { .rip = CODE, .rflags = 2, .rcx = count, .rdi = DATA, .rsp = STACK };
	struct timespec a, b;

	memcpy(ram + CODE, code, (size_t)(end - code));
	must(kvm->ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (;;) {
		must(kvm->ioctl(vcpu, KVM_RUN, NULL), "KVM_RUN");
		if (run->exit_reason == KVM_EXIT_MMIO)
			continue;
		if (run->exit_reason != KVM_EXIT_IO) {
			fprintf(stderr, "exits: unexpected exit %u\n", run->exit_reason);
			exit(1);
		}
		if (run->io.port == END_PORT)
			break;
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	return (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
}

static const struct bench {
	const char *name, *code, *end;
	unsigned count;
	double per_round; /* instructions, exits or bytes */
	const char *unit; /* "MIPS", "ns" or "MB/s" */
} benches[] = {
	{ "alu_loop", alu, alu_end, 1000000, 8, "MIPS" },
	{ "memory_loop", mem, mem_end, 1000000, 8, "MIPS" },
	{ "call_loop", call, call_end, 1000000, 8, "MIPS" },
	{ "sse_loop", sse, sse_end, 500000, 7, "MIPS" },
	{ "rep_movsb", copy, copy_end, 500, 0x10000, "MB/s" },
	{ "pio_to_client", pio_out, pio_out_end, 200000, 1, "ns" },
	{ "mmio_to_client", mmio_out, mmio_out_end, 200000, 1, "ns" },
	{ "pio_inside", pio_in, pio_in_end, 500000, 1, "ns" },
	{ "mmio_inside", mmio_in, mmio_in_end, 500000, 1, "ns" },
	{ "cpuid_inside", cpuid_in, cpuid_in_end, 500000, 1, "ns" },
};

int main(int argc, char **argv)
{
	const char *which = getenv("ANYKVM_TEST_KVM");
	double scale = argc > 1 ? strtod(argv[1], NULL) : 1;

	if (!(scale > 0 && scale <= 1000)) {
		fprintf(stderr, "usage: exits [SCALE]\n");
		return 2;
	}
	kvm = which && !strcmp(which, "sys") ? &sys_kvm_if : &anykvm_kvm_if;
	create();
	set_long_mode();
	for (size_t i = 0; i < sizeof(benches) / sizeof(benches[0]); i++) {
		const struct bench *b = &benches[i];
		uint64_t count = (uint64_t)(b->count * scale) + 1;

		measure(b->code, b->end, count / 10 + 1); /* warm */
		double seconds = measure(b->code, b->end, count), rounds = (double)count * b->per_round;

		printf("%s %.1f %s\n", b->name, *b->unit == 'M' ? rounds / seconds / 1e6 : seconds * 1e9 / rounds,
		       b->unit);
	}
	return 0;
}
