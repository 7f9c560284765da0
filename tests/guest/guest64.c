#include "guest.h"

trap_fn *trap_table[256];
volatile struct trap_record trap_last;
volatile u64 trap_resume, trap_stack[2];
struct tss64 tss;
extern volatile u32 cpus_started;

static u8 ist_stack[8192] __attribute__((aligned(16)));
static u8 ring0_stack[8192] __attribute__((aligned(16)));
static u8 user_stack[8192] __attribute__((aligned(16)));

void trap_handler(struct frame *f);
void trap_handler(struct frame *f)
{
	if (trap_table[f->vector]) {
		trap_table[f->vector](f);
		return;
	}
	if (trap_resume) {
		trap_last.taken = true;
		trap_last.vector = f->vector;
		trap_last.error = f->error;
		trap_last.cr2 = read_cr2();
		trap_last.rip = f->rip;
		trap_last.rflags = f->rflags;
		*(struct frame *)&trap_last.frame = *f;
		f->rip = trap_resume;
		trap_resume = 0;
		return;
	}
	unexpected(f->vector, f->error, f->rip);
}

void idt_set(int vector, void *handler, int type, int dpl, int ist)
{
	u64 h = (u64)handler;

	idt[vector].low = (h & 0xffff) | 0x08ull << 16 | (u64)ist << 32 | (u64)(0x80 | dpl << 5 | type) << 40 |
			  (h >> 16 & 0xffff) << 48;
	idt[vector].high = h >> 32;
}

void guest_init(void)
{
	for (int v = 0; v < 256; v++)
		idt_set(v, trap_stubs + 16 * v, 14, v == 0x80 || v == 3 || v == 4 ? 3 : 0, 0);
	tss.rsp[0] = (u64)(ring0_stack + sizeof(ring0_stack));
	tss.ist[0] = (u64)(ist_stack + sizeof(ist_stack));
	tss.iomap = sizeof(tss);
	u64 base = (u64)&tss, limit = sizeof(tss) - 1;
	gdt[10] = (limit & 0xffff) | (base & 0xffffff) << 16 | 0x89ull << 40 | (limit >> 16 & 15) << 48 |
		  (base >> 24 & 0xff) << 56;
	gdt[11] = base >> 32;
	asm volatile("ltr %w0" : : "r"(0x50));
}

/* The kernel's context while user code runs. */
static u64 user_return[8] __attribute__((used));

static void user_done(struct frame *f)
{
	/* Straight back to run_user(), on its own stack. */
	asm volatile("movq user_return+0(%%rip), %%rbx; movq user_return+8(%%rip), %%rbp; "
		     "movq user_return+16(%%rip), %%r12\n"
		     "movq user_return+24(%%rip), %%r13; movq user_return+32(%%rip), %%r14; "
		     "movq user_return+40(%%rip), %%r15\n"
		     "movq user_return+48(%%rip), %%rsp; jmp *user_return+56(%%rip)" : : : "memory");
	__builtin_unreachable();
}

void run_user(void (*fn)(void))
{
	trap_table[0x80] = user_done;
	asm volatile("movq %%rbx, user_return+0(%%rip); movq %%rbp, user_return+8(%%rip); "
		     "movq %%r12, user_return+16(%%rip)\n"
		     "movq %%r13, user_return+24(%%rip); movq %%r14, user_return+32(%%rip); "
		     "movq %%r15, user_return+40(%%rip)\n"
		     "movq %%rsp, user_return+48(%%rip); leaq 1f(%%rip), %%rax; movq %%rax, user_return+56(%%rip)\n"
		     "pushq $0x33; pushq %1; pushfq; pushq $0x3b; pushq %0; iretq\n"
		     "1:"
		     : : "r"(fn), "r"(user_stack + sizeof(user_stack) - 8)
		     : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
}

u64 test_pt[512] __attribute__((aligned(4096)));

void test_map(unsigned n, u64 pte)
{
	*(volatile u64 *)&test_pt[n] = pte;
	invlpg(TEST_VA + n * 4096ull);
}

void test_map_init(void)
{
	for (unsigned n = 0; n < 512; n++)
		test_pt[n] = (TEST_PHYS + n * 4096ull) | PG_P | PG_W | PG_U;
	boot_pd[512] = (u64)test_pt | PG_P | PG_W | PG_U;
	write_cr3(read_cr3());
}

void apic_enable(void)
{
	apic_write(0xf0, 0x1ff);
}

void start_aps(int n)
{
	apic_write(APIC_ICR, 0xc4500); /* INIT to all but self */
	for (u64 end = rdtsc() + 1000000; rdtsc() < end;)
		pause();
	apic_write(APIC_ICR, 0xc4608); /* SIPI, vector 8: 0x8000 */
	while (cpus_started < (u32)n + 1)
		pause();
}
