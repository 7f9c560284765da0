/*
 * Exceptions of 64-bit mode: vectors and error codes, precise state, faults on the way to a handler, double faults
 * (SDM vol. 3A, chapter 6).
 */
#include "guest.h"

#define NONCANONICAL "0x8000000000000000"
#define ABSENT 8 /* page of the test region that is not mapped */
#define ABSENT_VA (TEST_VA + ABSENT * 4096ull)

/* --- Plain causes ------------------------------------------------------------------------------------------- */

static void test_simple(void)
{
	EXPECT("xorl %%ecx, %%ecx; xorl %%edx, %%edx; divl %%ecx");
	expect(0, 0, "#DE: division by zero");
	EXPECT("movl $0x80000000, %%eax; cltd; movl $-1, %%ecx; idivl %%ecx");
	expect(0, 0, "#DE: quotient too large");
	EXPECT("movl $0x200, %%eax; movb $2, %%cl; divb %%cl");
	expect(0, 0, "#DE: quotient of 9 bits");
	EXPECT("int3");
	expect(3, 0, "#BP");
	EXPECT("int $4");
	expect(4, 0, "INT 4");
	EXPECT(".byte 0x0f, 0x0b");
	expect(6, 0, "#UD: UD2");
	EXPECT(".byte 0x06");
	expect(6, 0, "#UD: PUSH ES in 64-bit mode");
	EXPECT(".byte 0xd6");
	expect(6, 0, "#UD: SALC in 64-bit mode");
	EXPECT(".byte 0xea, 0, 0, 0, 0, 8, 0");
	expect(6, 0, "#UD: direct far jump in 64-bit mode");
	EXPECT(".byte 0xf0, 0x01, 0xc0");
	expect(6, 0, "#UD: LOCK with a register destination");
	EXPECT(".byte 0xf0, 0x90");
	expect(6, 0, "#UD: LOCK NOP");
	EXPECT(".byte 0x8e, 0xc8");
	expect(6, 0, "#UD: MOV to CS");
	EXPECT("xorl %%eax, %%eax; .byte 0x0f, 0x22, 0xc8");
	expect(6, 0, "#UD: MOV to CR1");
	EXPECT(".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90,0x90");
	check(!trap_last.taken, "an instruction of 15 bytes is executed");
	EXPECT(".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90");
	expect(13, 0, "#GP: an instruction of 16 bytes");
}

static void test_general_protection(void)
{
	EXPECT("movabsq $" NONCANONICAL ", %%rax; movb (%%rax), %%al");
	expect(13, 0, "#GP: non-canonical load");
	EXPECT("movabsq $" NONCANONICAL ", %%rax; jmp *%%rax");
	expect(13, 0, "#GP: jump to a non-canonical address");
	EXPECT("movabsq $" NONCANONICAL ", %%rbp; movb (%%rbp), %%al");
	expect(12, 0, "#SS: non-canonical address by RBP");
	EXPECT("movl $0x80000000, %%eax; movl $1, %%edx; movl $0xc0000080, %%ecx; wrmsr");
	expect(13, 0, "#GP: reserved bits of EFER");
	EXPECT("movl $0x40000fff, %%ecx; rdmsr");
	expect(13, 0, "#GP: MSR that does not exist");
	EXPECT("movq %%cr0, %%rax; andl $~1, %%eax; movq %%rax, %%cr0");
	expect(13, 0, "#GP: CR0.PE off with PG on");
	EXPECT("movq %%cr0, %%rax; orl $0x20000000, %%eax; andl $~0x40000000, %%eax; movq %%rax, %%cr0");
	expect(13, 0, "#GP: CR0.NW without CD");
	EXPECT("movq %%cr0, %%rax; btsq $32, %%rax; movq %%rax, %%cr0");
	expect(13, 0, "#GP: upper half of CR0");
	EXPECT("movq %%cr4, %%rax; andl $~0x20, %%eax; movq %%rax, %%cr4");
	expect(13, 0, "#GP: CR4.PAE off in long mode");
	EXPECT("movq %%cr4, %%rax; btsq $40, %%rax; movq %%rax, %%cr4");
	expect(13, 0, "#GP: reserved bits of CR4");
	EXPECT("movq %%cr0, %%rax; btrq $31, %%rax; movq %%rax, %%cr0");
	expect(13, 0, "#GP: CR0.PG off in 64-bit code");
	EXPECT("movl $16, %%eax; movq %%rax, %%cr8");
	expect(13, 0, "#GP: CR8 above 15");
	EXPECT("pushfq; orl $0x4000, (%%rsp); popfq; iretq");
	asm volatile("pushfq; andl $~0x4000, (%%rsp); popfq" : : : "memory", "cc");
	expect(13, 0, "#GP: IRETQ with NT set in long mode");
}

/* --- Selectors ------------------------------------------------------------------------------------------------ */

static void test_selectors(void)
{
	gdt[12] = 0x00cf13000000ffff; /* 60 data, not present */
	gdt[13] = 0x00af1b000000ffff; /* 68 code64, not present */
	gdt[14] = 0x00ef9b000000ffff; /* 70 code with L and D */
	gdt[15] = 0x00af99000000ffff; /* 78 code64, execute only */
	EXPECT("movl $0x60, %%eax; movw %%ax, %%ds");
	expect(11, 0x60, "#NP: data segment not present");
	EXPECT("movl $0x60, %%eax; movw %%ax, %%ss");
	expect(12, 0x60, "#SS: stack segment not present");
	EXPECT("pushq $0x68; leaq 1f(%%rip), %%rax; pushq %%rax; lretq; 1:");
	expect(11, 0x68, "#NP: code segment of a far return");
	EXPECT("pushq $0x70; leaq 1f(%%rip), %%rax; pushq %%rax; lretq; 1:");
	expect(13, 0x70, "#GP: code segment with L and D");
	EXPECT("pushq $0; leaq 1f(%%rip), %%rax; pushq %%rax; lretq; 1:");
	expect(13, 0, "#GP: far return to a null selector");
	EXPECT("pushq $0x10; leaq 1f(%%rip), %%rax; pushq %%rax; lretq; 1:");
	expect(13, 0x10, "#GP: far return to a data segment");
	EXPECT("movl $0x78, %%eax; movw %%ax, %%es");
	expect(13, 0x78, "#GP: execute-only code in ES");
	EXPECT("movl $0x33, %%eax; movw %%ax, %%ss");
	expect(13, 0x30, "#GP: stack segment of another level");
	EXPECT("movl $0x08, %%eax; movw %%ax, %%ss");
	expect(13, 0x08, "#GP: code in SS");
	EXPECT("movl $3, %%eax; movw %%ax, %%ss");
	expect(13, 0, "#GP: null SS with RPL 3 at level 0");
	EXPECT("movl $0xfffc, %%eax; movw %%ax, %%fs");
	expect(13, 0xfffc, "#GP: selector into an LDT that is not there");
	EXPECT("movl $0x50, %%eax; ltr %%ax");
	expect(13, 0x50, "#GP: LTR of a busy TSS");
	EXPECT("movl $0x10, %%eax; lldt %%ax");
	expect(13, 0x10, "#GP: LLDT of a data segment");
	EXPECT("xorl %%eax, %%eax; ltr %%ax");
	expect(13, 0, "#GP: LTR of null");
}

/* --- Page faults ------------------------------------------------------------------------------------------------ */

static void test_page_faults(void)
{
	test_map(ABSENT, 0);
	EXPECT("movb (%0), %%al", "r"(ABSENT_VA + 5));
	expect(14, 0, "#PF: read, not present");
	check_eq(trap_last.cr2, ABSENT_VA + 5, "... CR2");
	EXPECT("incl -2(%0)", "r"(ABSENT_VA));
	expect(14, 2, "#PF: read-modify-write over the page's edge is a write");
	check_eq(trap_last.cr2, ABSENT_VA, "... CR2 is the first byte of the absent page");
	test_map(9, TEST_PHYS | PG_P | PG_U);
	EXPECT("movb %%al, (%0)", "r"(TEST_VA + 9 * 4096));
	expect(14, 3, "#PF: write to a read-only page");
	test_map(9, TEST_PHYS | PG_P | PG_NX);
	EXPECT("call *%0", "r"(TEST_VA + 9 * 4096));
	expect(14, 0x11, "#PF: fetch from a no-execute page");
	test_map(9, TEST_PHYS | PG_P | 1ull << 51);
	EXPECT("movb (%0), %%al", "r"(TEST_VA + 9 * 4096));
	expect(14, 9, "#PF: reserved bit");
	test_map(9, TEST_PHYS | PG_P | PG_W);
}

static volatile u64 user_vector, user_error;

static void user_reads(void)
{
	EXPECT("movb (%0), %%al", "r"(TEST_VA + 9 * 4096));
	user_vector = trap_last.vector, user_error = trap_last.error;
	asm volatile("int $0x80");
}

static void user_writes_absent(void)
{
	EXPECT("movb %%al, (%0)", "r"(ABSENT_VA));
	user_vector = trap_last.vector, user_error = trap_last.error;
	asm volatile("int $0x80");
}

static void user_misaligned(void)
{
	EXPECT("pushfq; orl $0x40000, (%%rsp); popfq; movl 1(%0), %%eax", "r"(TEST_VA));
	user_vector = trap_last.vector, user_error = trap_last.error;
	EXPECT("movq 8(%0), %%rax", "r"(TEST_VA));
	user_error |= trap_last.taken ? 0x100 : 0;
	asm volatile("pushfq; andl $~0x40000, (%%rsp); popfq; int $0x80" : : : "cc");
}

static void test_user_faults(void)
{
	run_user(user_reads);
	check(user_vector == 14 && user_error == 5, "#PF: user read of a supervisor page");
	run_user(user_writes_absent);
	check(user_vector == 14 && user_error == 6, "#PF: user write, not present");
	run_user(user_misaligned);
	check_eq(user_vector, 0xffffffffffffffff, "no #AC without CR0.AM");
	write_cr0(read_cr0() | 1ull << 18);
	run_user(user_misaligned);
	check(user_vector == 17 && user_error == 0, "#AC: misaligned user read, error code 0, none for an aligned one");
	EXPECT("pushfq; orl $0x40000, (%%rsp); popfq; movl 1(%0), %%eax", "r"(TEST_VA));
	check(!trap_last.taken, "no #AC at level 0");
	asm volatile("pushfq; andl $~0x40000, (%%rsp); popfq" : : : "cc", "memory");
	write_cr0(read_cr0() & ~(1ull << 18));
}

/* --- What user mode must not do ----------------------------------------------------------------------------------- */

/* Each one with its vector; all fault at once. 16 bytes apart. */
asm(".text\n.balign 16\nprivileged:\n"
    ".macro priv insn:vararg\n .balign 16, 0x90\n \\insn\n .endm\n"
    "priv cli\npriv sti\npriv hlt\npriv clts\npriv wbinvd\npriv invd\n"
    "priv inb $0x80, %al\npriv outb %al, $0x80\npriv insb\npriv outsb\n"
    "priv lgdt idt_ptr\npriv lidt idt_ptr\npriv lldt %ax\npriv ltr %ax\npriv lmsw %ax\n"
    "priv movq %cr0, %rax\npriv movq %rax, %cr3\npriv movq %rax, %cr8\npriv movq %db7, %rax\npriv movq %rax, %db0\n"
    "priv rdmsr\npriv wrmsr\npriv invlpg (%rsp)\npriv swapgs\npriv sysretq\npriv xsetbv\n"
    ".balign 16\nprivileged_end:\n");
extern u8 privileged[], privileged_end[];
static u8 *volatile next_privileged;

static void user_privileged(void)
{
	EXPECT("movl $1, %%ecx; xorl %%eax, %%eax; xorl %%edx, %%edx; jmp *%0", "b"(next_privileged));
	user_vector = trap_last.vector, user_error = trap_last.error;
	asm volatile("int $0x80");
}

static void user_int81(void)
{
	EXPECT("int $0x81");
	user_vector = trap_last.vector, user_error = trap_last.error;
	asm volatile("int $0x80");
}

static void test_privileged(void)
{
	u32 id[4];
	bool all = true;

	cpuid(1, 0, id);
	write_cr4(read_cr4() | (id[2] >> 26 & 1) << 18);
	for (u8 *p = privileged; p < privileged_end; p += 16) {
		next_privileged = p;
		run_user(user_privileged);
		bool ok = user_vector == 13 && user_error == 0 && trap_last.rip == (u64)p;
		if (!ok) {
			print("# privileged instruction ");
			print_hex((u64)(p - privileged) / 16);
			print(" gave ");
			print_hex(user_vector);
			print("\n");
		}
		all &= ok;
	}
	check(all, "#GP(0): every privileged instruction at level 3");
	run_user(user_int81);
	check(user_vector == 13 && user_error == 0x81 * 8 + 2, "#GP: INT n through a gate of level 0");
}

/* --- Faults on the way to a handler ------------------------------------------------------------------------------- */

static void gate_absent(int vector)
{
	idt_set(vector, trap_stubs + 16 * vector, 14, 0, 0);
	idt[vector].low &= ~(1ull << 47);
}

static void gate_restore(int vector)
{
	idt_set(vector, trap_stubs + 16 * vector, 14, 0, 0);
}

static void test_gates(void)
{
	idt_set(8, trap_stubs + 16 * 8, 14, 0, 1);

	gate_absent(0x82);
	EXPECT("int $0x82");
	expect(11, 0x82 * 8 + 2, "INT through an absent gate: #NP with IDT, without EXT");
	gate_absent(6);
	EXPECT("ud2");
	expect(11, 6 * 8 + 2 + 1, "#UD through an absent gate: #NP with IDT and EXT");
	gate_restore(6);
	idt_set(6, trap_stubs + 16 * 6, 5, 0, 0);
	EXPECT("ud2");
	expect(13, 6 * 8 + 2 + 1, "#UD through a gate of a wrong type: #GP with IDT and EXT");
	gate_restore(6);
	EXPECT("ud2");
	expect(6, 0, "... and right again");

	gate_absent(13);
	EXPECT("movabsq $" NONCANONICAL ", %%rax; movb (%%rax), %%al");
	expect(8, 0, "#GP, then #NP: #DF");
	gate_restore(13);
	gate_absent(0);
	EXPECT("xorl %%ecx, %%ecx; divl %%ecx");
	expect(8, 0, "#DE, then #NP: #DF");
	gate_restore(0);
	gate_absent(14);
	EXPECT("movb (%0), %%al", "r"(ABSENT_VA));
	expect(8, 0, "#PF, then #NP: #DF");
	check_eq(trap_last.cr2, ABSENT_VA, "... CR2 is that of the page fault");
	gate_restore(14);

	tss.ist[1] = ABSENT_VA + 2048;
	idt_set(13, trap_stubs + 16 * 13, 14, 0, 2);
	EXPECT("movabsq $" NONCANONICAL ", %%rax; movb (%%rax), %%al");
	expect(14, 2, "#GP, then #PF on its stack: #PF");
	check_eq(trap_last.cr2, ABSENT_VA + 2048 - 8, "... CR2 on that stack");
	gate_restore(13);
	idt_set(14, trap_stubs + 16 * 14, 14, 0, 2);
	EXPECT("movb (%0), %%al", "r"(ABSENT_VA + 3));
	expect(8, 0, "#PF, then #PF on its stack: #DF");
	check_eq(trap_last.cr2, ABSENT_VA + 2048 - 8, "... CR2 is that of the second");
	gate_restore(14);
	tss.ist[1] = 1ull << 63;
	idt_set(6, trap_stubs + 16 * 6, 14, 0, 2);
	EXPECT("ud2");
	expect(12, 1, "#UD on a non-canonical stack: #SS with EXT");
	gate_restore(6);
	EXPECT("movq %0, %%rsp; pushq %%rax", "r"(ABSENT_VA + 4096));
	expect(8, 0, "PUSH to an absent stack page: #PF, #PF, #DF on its own stack");
	check_eq(trap_last.frame.rsp, ABSENT_VA + 4096, "... RSP is unchanged");
}

static void test_short_tss(void)
{
	u64 saved = gdt[10];

	gdt[10] = (saved & ~0xffffull & ~(0xfull << 48) & ~(2ull << 40)) | 0x2b;
	asm volatile("ltr %w0" : : "r"(0x50));
	idt_set(0x81, trap_stubs + 16 * 0x81, 14, 0, 2);
	EXPECT("int $0x81");
	expect(10, 0x50, "INT, stack beyond the TSS: #TS names the TSS");
	idt_set(6, trap_stubs + 16 * 6, 14, 0, 2);
	EXPECT("ud2");
	expect(10, 0x51, "#UD, stack beyond the TSS: #TS with EXT");
	gate_restore(6);
	gate_restore(0x81);
	gdt[10] = saved & ~(2ull << 40);
	asm volatile("ltr %w0" : : "r"(0x50));
}

static u8 short_idt[10];

static void test_idt_limit(void)
{
	*(volatile u16 *)short_idt = 32 * 16 - 1;
	*(volatile u64 *)(short_idt + 2) = (u64)idt;
	asm volatile("lidt %0" : : "m"(short_idt));
	EXPECT("int $0x40");
	expect(13, 0x40 * 8 + 2, "INT beyond the IDT: #GP with IDT");
	asm volatile("lidt idt_ptr");
}

/* --- Precise state ------------------------------------------------------------------------------------------------ */

/* Memory operands by RDI, which points 3 bytes before an absent page. Each must leave everything as it was. */
asm(".text\n.balign 16\nprecise:\n"
    ".macro prec insn:vararg\n .balign 16, 0x90\n \\insn\n .endm\n"
    "prec movq (%rdi), %rax\nprec movq %rax, (%rdi)\nprec addq %rbx, (%rdi)\nprec adcl (%rdi), %ecx\n"
    "prec sbbl $5, (%rdi)\n"
    "prec xchgq %rdx, (%rdi)\nprec cmpxchgq %rcx, (%rdi)\nprec lock cmpxchgl %ecx, (%rdi)\n"
    "prec lock xaddl %ecx, (%rdi)\n"
    "prec cmpxchg8b (%rdi)\nprec btsl $3, (%rdi)\nprec incl (%rdi)\nprec shll %cl, (%rdi)\n"
    "prec shldl $3, %eax, (%rdi)\n"
    "prec notl (%rdi)\nprec mulq (%rdi)\nprec imull $3, (%rdi), %edx\nprec idivl (%rdi)\nprec popq (%rdi)\n"
    "prec pushq (%rdi)\n"
    "prec call *(%rdi)\nprec jmp *(%rdi)\nprec movsq\nprec stosl\nprec lodsl (%rsi)\nprec scasl\nprec cmpsl\n"
    "prec movzwl 2(%rdi), %eax\nprec bsrl (%rdi), %eax\nprec sete 3(%rdi)\nprec cmovel (%rdi), %eax\n"
    "prec fldl (%rdi)\nprec movups (%rdi), %xmm0\n"
    "prec ljmp *(%rdi)\nprec lcall *(%rdi)\nprec lgdt (%rdi)\nprec sgdt (%rdi)\nprec movw 2(%rdi), %ds\n"
    "prec lssl (%rdi), %eax\n"
    ".balign 16\nprecise_end:\n"
    /* precise_run(RDI: the code, RSI: the address): all registers known; never returns by itself */
    "precise_run:\n"
    "leaq 1f(%rip), %r11; movq %r11, trap_resume(%rip); movq %rsp, precise_rsp(%rip)\n"
    "movq %rdi, %r10; movq %rsi, %rdi; movabsq $0x1111111111111111, %rax\n"
    "leaq (%rax,%rax), %rcx; leaq (%rcx,%rax), %rdx; leaq (%rdx,%rax), %rbx; leaq (%rbx,%rax), %rbp\n"
    "leaq (%rbp,%rax), %r8; leaq (%r8,%rax), %r9; movq %rdi, %rsi; movq %rbp, %r15; movq %r9, %r14; movq %r8, %r13\n"
    "movq %rcx, %r12; pushq $0xed7; popfq; jmp *%r10\n"
    "1: movq precise_rsp(%rip), %rsp; pushq $2; popfq; ret\n"
    ".bss\n.balign 8\nprecise_rsp: .skip 8\n.text\n");
extern u8 precise[], precise_end[];

static bool precise_state(const struct frame *f, u64 address)
{
	const u64 one = 0x1111111111111111;

	return f->rax == one && f->rcx == 2 * one && f->rdx == 3 * one && f->rbx == 4 * one && f->rbp == 5 * one &&
	       f->rsi == address && f->rdi == address && f->r8 == 6 * one && f->r9 == 7 * one && f->r12 == 2 * one &&
	       f->r13 == 6 * one && f->r14 == 7 * one && f->r15 == 5 * one;
}

static void test_precise(void)
{
	volatile u64 *edge = (u64 *)(ABSENT_VA - 8);
	bool all = true;
	u64 rsp = 0;

	idt_set(14, trap_stubs + 16 * 14, 14, 0, 1);
	idt_set(12, trap_stubs + 16 * 12, 14, 0, 1);
	write_cr4(read_cr4() | 1 << 9); /* OSFXSR */
	*edge = 0x1234567890abcdef;
	for (u8 *p = precise; p < precise_end; p += 16) {
		trap_last.taken = false;
		asm volatile("pushq %%rbp; pushq %%rbx; movq %0, %%rdi; movq %1, %%rsi; call precise_run; popq %%rbx; "
			     "popq %%rbp"
			     : : "r"(p), "r"(ABSENT_VA - 3)
			     : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
				     "memory", "cc");
		const struct frame *f = (const struct frame *)&trap_last.frame;
		if (!rsp)
			rsp = f->rsp;
		bool ok = trap_last.taken && trap_last.vector == 14 && f->rip == (u64)p &&
			  precise_state(f, ABSENT_VA - 3) && f->rsp == rsp && f->rflags == (0xed7 | 1 << 16) &&
				  *edge == 0x1234567890abcdef;
		if (!ok) {
			print("# instruction ");
			print_hex((u64)(p - precise) / 16);
			print(" vector ");
			print_hex(trap_last.vector);
			print(" rip off ");
			print_hex(f->rip - (u64)p);
			print(" flags ");
			print_hex(f->rflags);
			print("\n");
		}
		all &= ok;
	}
	check(all, "a page fault leaves all registers, flags and memory as they were, RF set in the frame");
	gate_restore(12);
	gate_restore(14);
}

/* --- A push that faults between others ---------------------------------------------------------------------------- */

/*
 * RDX is the stack. The second of three pushes faults: by the operand at RDI, or at RSP + 68, or by its place on the
 * stack. Returns RSP.
 */
asm(".text\n"
    "push_by_rdi: movq %rsp, %rbx; movq %rdx, %rsp; pushq %r8\n"
    "push_by_rdi_at: pushq (%rdi); pushq %r9; movq %rsp, %rax; movq %rbx, %rsp; ret\n"
    "push_by_rsp: movq %rsp, %rbx; movq %rdx, %rsp; pushq %r8\n"
    "push_by_rsp_at: pushq 68(%rsp); pushq %r9; movq %rsp, %rax; movq %rbx, %rsp; ret\n");
extern u8 push_by_rdi[], push_by_rdi_at[], push_by_rsp[], push_by_rsp_at[];

#define PUSHED 0x0123456789abcdefull
#define UNTOUCHED 0xeeeeeeeeeeeeeeeeull

static volatile u64 push_count, push_rip, push_rsp, push_cr2, push_error, push_below;

/* The same memory by the identity map. */
static volatile u64 *phys_of(u64 la)
{
	return (u64 *)(la - TEST_VA + TEST_PHYS);
}

static void push_fault(struct frame *f)
{
	push_count++;
	push_rip = f->rip, push_rsp = f->rsp, push_cr2 = read_cr2(), push_error = f->error;
	push_below = *phys_of(f->rsp - 8);
	test_map(ABSENT, PHYS(ABSENT) | RW);
}

static void test_push(u8 *code, u8 *at, u64 top, u64 operand, u64 cr2, u64 error, const char *name)
{
	bool fault = true, done = true;

	*phys_of(operand) = PUSHED;
	/* Absent, there, and absent again to code that has met the page. */
	for (unsigned round = 0; round < 3; round++) {
		u64 rsp;

		for (unsigned n = 1; n <= 3; n++)
			*phys_of(top - 8 * n) = UNTOUCHED;
		test_map(ABSENT, round == 1 ? PHYS(ABSENT) | RW : 0);
		push_count = 0;
		asm volatile("movq %2, %%r8; movq %3, %%r9; call *%1"
			     : "=a"(rsp) : "r"(code), "i"(0x8888), "i"(0x9999), "d"(top), "D"(operand)
			     : "rbx", "r8", "r9", "memory", "cc");
		if (round != 1)
			fault &= push_count == 1 && push_rip == (u64)at && push_rsp == top - 8 && push_cr2 == cr2 &&
				 push_error == error && push_below == UNTOUCHED;
		else
			fault &= push_count == 0;
		done &= rsp == top - 24 && *phys_of(top - 8) == 0x8888 && *phys_of(top - 16) == PUSHED &&
			*phys_of(top - 24) == 0x9999;
	}
	check(fault, name);
	check(done, "... and the stack when it goes on");
}

static void test_pushes(void)
{
	const u64 edge = ABSENT_VA + 4096;

	test_map(ABSENT + 1, PHYS(ABSENT + 1) | RW);
	idt_set(14, trap_stubs + 16 * 14, 14, 0, 1);
	trap_table[14] = push_fault;
	test_push(push_by_rdi, push_by_rdi_at, PAGE(3) + 0x800, ABSENT_VA - 4, ABSENT_VA, 0,
		  "PUSH of an operand over the edge, between others: state at the fault");
	test_push(push_by_rsp, push_by_rsp_at, ABSENT_VA - 64, ABSENT_VA - 4, ABSENT_VA, 0,
		  "PUSH of one on the stack itself");
	test_push(push_by_rdi, push_by_rdi_at, edge + 12, PAGE(3), edge - 4, 2,
		  "PUSH to a place over the edge");
	trap_table[14] = 0;
	gate_restore(14);
	test_map(ABSENT, 0);
}

/* --- Repeated strings --------------------------------------------------------------------------------------------- */

static volatile u64 rep_rcx, rep_rsi, rep_rdi, rep_count;

static void rep_fault(struct frame *f)
{
	rep_rcx = f->rcx, rep_rsi = f->rsi, rep_rdi = f->rdi;
	rep_count++;
	test_map(ABSENT, (TEST_PHYS + ABSENT * 4096ull) | PG_P | PG_W);
}

static void test_rep(void)
{
	u64 from = TEST_VA + 0x2000, to = ABSENT_VA - 100, n = 300, c = n;
	bool same = true;

	for (unsigned i = 0; i < 300; i++)
		((volatile u8 *)from)[i] = (u8)(i * 7);
	trap_table[14] = rep_fault;
	u64 s = from, d = to;
	asm volatile("rep movsb" : "+S"(s), "+D"(d), "+c"(c) : : "memory");
	check(rep_count == 1 && rep_rcx == n - 100 && rep_rsi == from + 100 && rep_rdi == ABSENT_VA,
	      "REP MOVSB that faults: RCX, RSI, RDI say what is left");
	check(c == 0 && s == from + n && d == to + n, "... and goes on after the fault");
	for (unsigned i = 0; i < 300; i++)
		same &= ((volatile u8 *)to)[i] == (u8)(i * 7);
	check(same, "... and has copied everything");

	test_map(ABSENT, 0);
	rep_count = 0;
	c = 10;
	d = ABSENT_VA - 20;
	asm volatile("rep stosq" : "+D"(d), "+c"(c) : "a"(0x0102030405060708ull) : "memory");
	check(rep_count == 1 && rep_rcx == 8 && rep_rdi == ABSENT_VA - 4,
	      "REP STOSQ faults at the element over the edge");
	test_map(ABSENT, 0);
	rep_count = 0;
	c = 400;
	d = ABSENT_VA + 99;
	asm volatile("std; rep stosb; cld" : "+D"(d), "+c"(c) : "a"(5) : "memory");
	check(rep_count == 1 && rep_rcx == 400 && rep_rdi == ABSENT_VA + 99,
	      "REP STOSB downwards faults at its first element");
	check(d == ABSENT_VA + 99 - 400 && *(volatile u8 *)(d + 1) == 5, "... and ends below");
	trap_table[14] = 0;
	test_map(ABSENT, 0);
	c = 0;
	EXPECT("xorl %%ecx, %%ecx; rep lodsb (%%rsi), %%al", "S"(ABSENT_VA));
	check(!trap_last.taken, "a count of 0 touches nothing");
}

void guest_main(void)
{
	test_map_init();
	test_simple();
	test_general_protection();
	test_selectors();
	test_page_faults();
	test_user_faults();
	test_privileged();
	test_gates();
	test_short_tss();
	test_idt_limit();
	test_precise();
	test_pushes();
	test_rep();
}
