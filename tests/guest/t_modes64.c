/*
 * Transfers in long mode: compatibility mode, call gates of 16 bytes, far returns, IRETQ, SYSCALL and SYSRET, SWAPGS
 * and the FS/GS bases, null stack segments, LDT (SDM vol. 3A, chapters 5 and 6; vol. 2). Legacy modes: t_modes.c.
 */
#include "guest.h"

#define CODE64 0x08
#define DATA 0x10
#define CODE32 0x18
#define USER_CODE32 0x2b
#define USER_DATA 0x33
#define USER_CODE64 0x3b
#define GATE 0x60
#define FREE 0x70
#define STR2(x) #x
#define STR(x) STR2(x)

#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_FMASK 0xc0000084

/* --- Level 3 and back ------------------------------------------------------------------------------------------- */

static u8 user_stack[4096] __attribute__((aligned(16), used));
static volatile u64 saw[8] __attribute__((used));

/*
 * Starts code at @label with @cs and level 3. It ends by INT 0x80 or a fault, which goes back to level 0: the frame is
 * in trap_last.
 */
#define RUN(label, cs)                                                                                         \
	EXPECT("pushq $" STR(USER_DATA) "; pushq $user_stack + 4096; pushq $0x202; pushq $" STR(cs) "\n"       \
	       "pushq $" label "; iretq")

/* As in EXPECT, but from any level: to the code behind the statement, on its stack. */
static void on_end(struct frame *f)
{
	trap_last.taken = true;
	trap_last.vector = f->vector;
	trap_last.error = f->error;
	trap_last.rip = f->rip;
	*(struct frame *)&trap_last.frame = *f;
	f->rip = trap_resume;
	f->cs = CODE64;
	f->ss = 0;
	f->rsp = trap_stack[0];
	f->rflags = 2;
}

static void catch_all(bool on)
{
	for (int v = 0; v < 256; v++)
		trap_table[v] = on ? on_end : 0;
}

asm(".text\n"
    "user_int: movl %cs, %ecx; int $0x80\n"
    ".code32\n"
    "user_compat: movl $0x11112222, %eax; incl %eax; .byte 0x40; pushl %eax; popl %ebx; movl %esp, %esi; int $0x80\n"
    "user_wrap: movl $0xffffffff, %ebx; movb 0x9(%ebx), %al; int $0x80\n"
    "user_push32: movl $0x80000010, %esp; pushl $1; int $0x80\n"
    "user_loop32: movl $0x70, %eax; movl %eax, %gs; xorl %edx, %edx; movl $100, %ecx\n"
    "1: addl %gs:8(%edi,%ecx,4), %edx; pushl %edx; popl %eax; decl %ecx; jnz 1b; call 2f; int $0x80\n"
    "2: popl %esi; pushl %esi; movb %cl, %ah; ret\n"
    "user_to64: ljmp $" STR(USER_CODE64) ", $user_int\n"
    "user_syscall32: syscall; int $0x80\n"
    "user_callgate32: lcall $0x63, $0; int $0x80\n"
    ".code64\n"
    "user_gate: movq %rsp, %rbx; movabsq $0x6300000000, %rax; pushq %rax; lcall *(%rsp); movl $0x5151, %edi; "
    "int $0x80\n"
    "user_syscall: movq $-1, %rax; pushfq; orl $0x4d5, (%rsp); popfq; syscall\nuser_syscall_end: int $0x80\n"
    "user_swapgs: swapgs\n"
    "user_fs: movl $0x33, %eax; movl %eax, %fs; movq %fs:saw, %rbx; int $0x80\n"
    "user_bases: rdfsbase %rax; rdgsbase %rbx; movl $0x1234, %ecx; wrfsbase %rcx; rdfsbase %rcx; int $0x80\n"
    /* Of the call gate: SS:RSP, CS:RIP of the caller */
    "gate_target: movq %rsp, saw; movl %cs, %eax; movq %rax, saw+8; movl %ss, %eax; movq %rax, saw+16\n"
    "movq (%rsp), %rax; movq %rax, saw+24; movq 8(%rsp), %rax; movq %rax, saw+32\n"
    "movq 16(%rsp), %rax; movq %rax, saw+40; movq 24(%rsp), %rax; movq %rax, saw+48; lretq\n"
    "syscall_target: movq %rcx, saw; movq %r11, saw+8; pushfq_target: movq %rsp, saw+16; movl %cs, %eax; "
    "movq %rax, saw+24\n"
    "movl %ss, %eax; movq %rax, saw+32; movq %rsp, %rdx; leaq ring0_top(%rip), %rsp; pushfq; popq %rax; "
    "movq %rax, saw+40\n"
    "movq %rdx, %rsp; sysretq\n"
    "syscall_target32: movq %rcx, saw; leaq user_compat_end(%rip), %rcx; movl $2, %r11d; sysretl\n"
    ".code32\nuser_compat_end: movl %cs, %edx; int $0x80\n.code64\n"
    ".bss\n.skip 256\nring0_top:\n.text\n");
extern u8 gate_target[], syscall_target[], syscall_target32[], user_syscall_end[], user_int[], user_compat[];

/* A loop over memory with a base, as 32-bit programs have it; what 64-bit code left in R8 to R15 stays. */
static void test_compat_loop(void)
{
	static u32 table[128];
	u32 sum = 0;

	for (u32 n = 0; n < 128; n++)
		table[n] = n * 0x01010101 + 7;
	for (u32 n = 1; n <= 100; n++)
		sum += table[n + 2];
	gdt[0x70 / 8] = 0x00cff2000000ffff | ((u64)table & 0xffffff) << 16 | ((u64)table >> 24 & 0xff) << 56;
	asm volatile("movw %w0, %%es" : : "r"(USER_DATA));
	/* The loop's end leads to 1:, where the compiler's registers come back. */
	EXPECT("leaq 1f(%%rip), %%r11; movq %%r11, trap_resume; movq %%rsi, saw; movq %%rdi, saw+8; movq %%r8, saw+16\n"
	       "movq %%r13, saw+24; movq %%r15, saw+32\n"
	       "pushq $" STR(USER_DATA) "; pushq $user_stack + 4096; pushq $0x202; pushq $" STR(USER_CODE32) "\n"
	       "movabsq $0x123456789abcdef0, %%r8; movq %%r8, %%r15; movq %%r8, %%r13; xorl %%edi, %%edi\n"
	       "pushq $user_loop32; iretq\n"
	       "1: movq saw, %%rsi; movq saw+8, %%rdi; movq saw+16, %%r8; movq saw+24, %%r13; movq saw+32, %%r15");
	check_eq(trap_last.vector, 0x80, "compatibility mode: a loop");
	check_eq(trap_last.frame.rdx, sum, "... through GS with a base");
	check_eq(trap_last.frame.rax, (sum & 0xffff00ff), "... the stack and AH");
	check(trap_last.frame.r8 == 0x123456789abcdef0 && trap_last.frame.r13 == trap_last.frame.r8 &&
	      trap_last.frame.r15 == trap_last.frame.r8, "... R8 to R15 stay");
}

static void test_compat(void)
{
	RUN("user_int", USER_CODE64);
	check(trap_last.vector == 0x80 && trap_last.frame.cs == USER_CODE64 && trap_last.frame.ss == USER_DATA,
	      "IRETQ to 64-bit level 3");
	check_eq(trap_last.frame.rflags & 0x202, 0x202, "... with its flags");
	RUN("user_compat", USER_CODE32);
	check(trap_last.vector == 0x80 && trap_last.frame.cs == USER_CODE32, "IRETQ to compatibility mode");
	check_eq(trap_last.frame.rbx, 0x11112224, "... 40h is INC EAX there");
	check_eq(trap_last.frame.rsi, (u64)user_stack + 4096, "... the stack moves by 4");
	RUN("user_wrap", USER_CODE32);
	expect(13, 0, "compatibility mode: a null DS is checked");
	asm volatile("movw %w0, %%ds" : : "r"(USER_DATA));
	RUN("user_wrap", USER_CODE32);
	check_eq(trap_last.vector, 0x80, "compatibility mode: addresses wrap at 4 GiB");
	RUN("user_push32", USER_CODE32);
	check(trap_last.vector == 0x80 && trap_last.frame.rsp == 0x8000000c, "compatibility mode: 32-bit stack");
	test_compat_loop();
	asm volatile("movw %w0, %%ds; movw %w0, %%es; movw %w0, %%gs" : : "r"(0));
	RUN("user_to64", USER_CODE32);
	check(trap_last.vector == 0x80 && trap_last.frame.cs == USER_CODE64, "a far jump into 64-bit code");
}

/* --- Call gates --------------------------------------------------------------------------------------------------- */

static void gate(u16 selector, u64 offset, u8 access)
{
	gdt[GATE / 8] = (offset & 0xffff) | (u64)selector << 16 | (u64)access << 40 | (offset >> 16 & 0xffff) << 48;
	gdt[GATE / 8 + 1] = offset >> 32;
}

static void test_gates(void)
{
	gate(CODE64, (u64)gate_target, 0xec);
	RUN("user_gate", USER_CODE64);
	check_eq(trap_last.vector, 0x80, "call gate from 64-bit level 3, and RET");
	check(saw[0] == tss.rsp[0] - 32 && saw[1] == CODE64 && saw[2] == 0,
	      "... RSP0 of the TSS, CS of the gate, SS null");
	check(saw[4] == USER_CODE64 && saw[6] == USER_DATA && saw[5] == (u64)user_stack + 4096 - 8,
	      "... the caller's CS, SS, RSP");
	check(trap_last.frame.rdi == 0x5151 && trap_last.frame.rsp == saw[5], "... and back there");
	RUN("user_callgate32", USER_CODE32);
	check(trap_last.vector == 0x80 && trap_last.frame.cs == USER_CODE32 && saw[4] == USER_CODE32,
	      "call gate from compatibility mode");
	gate(CODE64, (u64)gate_target, 0x8c);
	RUN("user_gate", USER_CODE64);
	expect(13, GATE, "a gate of level 0 raises #GP at level 3");
	gate(CODE64, (u64)gate_target, 0x6c);
	RUN("user_gate", USER_CODE64);
	expect(11, GATE, "a gate that is not present raises #NP");
	gate(CODE32, (u64)gate_target, 0xec);
	RUN("user_gate", USER_CODE64);
	expect(13, CODE32, "a gate to 32-bit code raises #GP");
	gate(CODE64, 1ull << 63, 0xec);
	RUN("user_gate", USER_CODE64);
	expect(13, 0, "a gate to a non-canonical address raises #GP(0)");
	gate(CODE64, (u64)gate_target, 0xec);
	gdt[GATE / 8 + 1] |= 1ull << 40;
	RUN("user_gate", USER_CODE64);
	expect(13, GATE, "a type in the gate's upper half raises #GP");
	gate(CODE64, (u64)gate_target, 0xe4);
	RUN("user_gate", USER_CODE64);
	expect(13, GATE, "there are no 16-bit gates in long mode");
}

/* --- Fast system calls -------------------------------------------------------------------------------------------- */

static void test_syscall(void)
{
	u32 id[4];

	wrmsr(MSR_STAR, (u64)(USER_CODE32 & ~3) << 48 | (u64)CODE64 << 32);
	wrmsr(MSR_LSTAR, (u64)syscall_target);
	wrmsr(MSR_FMASK, 0x601);
	RUN("user_syscall", USER_CODE64);
	check_eq(trap_last.vector, 0x80, "SYSCALL and SYSRET");
	check_eq(saw[0], (u64)user_syscall_end, "... RCX is the next RIP");
	check(saw[3] == CODE64 && saw[4] == DATA, "... CS and SS from STAR");
	check_eq(saw[2], (u64)user_stack + 4096, "... RSP is the caller's");
	check((saw[1] & 0x6d5) == 0x6d5 && (saw[5] & 0x6d5) == 0x0d4, "... R11 has RFLAGS, FMASK clears");
	check(trap_last.frame.cs == USER_CODE64 && trap_last.frame.ss == USER_DATA &&
	      (trap_last.frame.rflags & 0x6d5) == 0x6d5,
	      "SYSRET: CS, SS from STAR, RFLAGS from R11");
	wrmsr(MSR_LSTAR, (u64)syscall_target32);
	RUN("user_syscall", USER_CODE64);
	check(trap_last.vector == 0x80 && trap_last.frame.cs == USER_CODE32 && trap_last.frame.rdx == USER_CODE32,
	      "SYSRET to compatibility mode");
	EXPECT("movl $0xc0000082, %%ecx; xorl %%eax, %%eax; movl $0x80000000, %%edx; wrmsr");
	expect(13, 0, "LSTAR must be canonical");
	EXPECT("movabsq $0x800000000000, %%rcx; movl $2, %%r11d; sysretq");
	expect(13, 0, "SYSRETQ to a non-canonical address raises #GP");
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~1ull);
	RUN("user_syscall", USER_CODE64);
	expect(6, 0, "SYSCALL without EFER.SCE raises #UD");
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);

	/* Vendors differ: Intel's have SYSENTER in long mode, AMD's SYSCALL in compatibility mode. */
	cpuid(0, 0, id);
	if (id[1] == 0x756e6547) {
		RUN("user_syscall32", USER_CODE32);
		expect(6, 0, "SYSCALL in compatibility mode raises #UD (Intel)");
	} else {
		wrmsr(0xc0000083, (u64)syscall_target32);
		RUN("user_syscall32", USER_CODE32);
		check_eq(trap_last.vector, 0x80, "SYSCALL in compatibility mode goes to CSTAR (AMD)");
		EXPECT("sysenter");
		expect(6, 0, "SYSENTER in long mode raises #UD (AMD)");
	}
}

/* --- Bases -------------------------------------------------------------------------------------------------------- */

static void test_bases(void)
{
	u64 a, b;
	u32 id[4];

	wrmsr(MSR_GS_BASE, 0x1111);
	wrmsr(MSR_KERNEL_GS_BASE, 0x2222);
	asm volatile("swapgs");
	check(rdmsr(MSR_GS_BASE) == 0x2222 && rdmsr(MSR_KERNEL_GS_BASE) == 0x1111, "SWAPGS");
	RUN("user_swapgs", USER_CODE64);
	expect(13, 0, "SWAPGS at level 3 raises #GP");
	saw[0] = 0xfeed;
	wrmsr(MSR_GS_BASE, (u64)saw);
	asm volatile("movq %%gs:0, %0" : "=r"(a));
	check_eq(a, 0xfeed, "GS adds its base");
	wrmsr(MSR_FS_BASE, (u64)saw - 0x7000);
	asm volatile("movq %%fs:0x7000, %0" : "=r"(a));
	check_eq(a, 0xfeed, "FS, too");
	asm volatile("movq %%ds:saw, %0; movq %%ss:saw, %1" : "=r"(a), "=r"(b));
	check(a == 0xfeed && b == 0xfeed, "DS, ES, SS have none in 64-bit code");
	RUN("user_fs", USER_CODE64);
	check(trap_last.vector == 0x80 && trap_last.frame.rbx == 0xfeed,
	      "a selector in FS loads the descriptor's base");
	EXPECT("movl $0xc0000100, %%ecx; xorl %%eax, %%eax; movl $0x00800000, %%edx; wrmsr");
	expect(13, 0, "FS_BASE must be canonical");
	cpuid(7, 0, id);
	if (id[1] & 1) {
		EXPECT("rdfsbase %%rax");
		expect(6, 0, "RDFSBASE without CR4.FSGSBASE raises #UD");
		write_cr4(read_cr4() | 1 << 16);
		wrmsr(MSR_FS_BASE, 0x77777777777);
		RUN("user_bases", USER_CODE64);
		check(trap_last.vector == 0x80 && trap_last.frame.rax == 0x77777777777 && trap_last.frame.rcx == 0x1234,
		      "RDFSBASE, WRFSBASE at level 3");
		EXPECT("movabsq $0x800000000000, %%rax; wrgsbase %%rax");
		expect(13, 0, "WRGSBASE must be canonical");
	}
}

/* --- Null SS, far returns, LDT ------------------------------------------------------------------------------------ */

static void test_null_ss(void)
{
	u64 ss, rsp, now;
	static u64 ldt[2];

	asm volatile("xorl %%eax, %%eax; movl %%eax, %%ss; pushq $5; popq %0; movl %%ss, %%eax; movq %%rax, %1; "
		     "movl $0x10, %%eax; movl %%eax, %%ss"
		     : "=&r"(now), "=&r"(ss) : : "rax", "memory");
	check(now == 5 && ss == 0, "a null SS works at level 0");
	asm volatile("movq %%rsp, %0; movq %0, %1; subq $64, %1; pushq $0; pushq %1; pushfq; pushq $8; "
		     "leaq 1f(%%rip), %%rax\n"
		     "pushq %%rax; iretq; 1: subq %%rsp, %1; movq %0, %%rsp; movl %%ss, %k0; movl $0x10, %%eax; "
		     "movl %%eax, %%ss"
		     : "=&r"(ss), "=&r"(rsp) : : "rax", "memory", "cc");
	check((u32)ss == 0 && rsp == 0, "IRETQ to the same level takes SS:RSP from the frame");
	EXPECT("pushq $0x33; pushq $0x7000; pushfq; pushq $8; pushq $0x8000; iretq");
	expect(13, 0x30, "IRETQ: SS of another level raises #GP");
	EXPECT("pushq $0; pushq $0x7000; pushfq; pushq $0x3b; pushq $0x8000; iretq");
	expect(13, 0, "IRETQ to level 3 with a null SS raises #GP(0)");
	EXPECT("pushq $0x10; pushq $0x7000; pushfq; pushq $8; movabsq $0x800000000000, %%rax; pushq %%rax; iretq");
	expect(13, 0, "IRETQ to a non-canonical address raises #GP(0)");

	gdt[FREE / 8] = 15ull | ((u64)ldt & 0xffffff) << 16 | 0x82ull << 40;
	gdt[FREE / 8 + 1] = 0;
	ldt[1] = 0x00af9b000000ffff;
	asm volatile("lldt %w0" : : "r"(FREE));
	asm volatile("pushq $0xc; leaq 1f(%%rip), %%rax; pushq %%rax; lretq; 1: movl %%cs, %k0; pushq $8; "
		     "leaq 2f(%%rip), %%rax; pushq %%rax; lretq; 2:"
		     : "=&r"(now) : : "rax", "memory", "cc");
	check_eq((u32)now, 0xc, "code of the LDT");
	gdt[FREE / 8 + 1] = 0x00800000;
	EXPECT("lldt %w0", "b"(FREE));
	expect(13, FREE, "LLDT of a non-canonical base raises #GP");
	asm volatile("lldt %w0" : : "r"(0));
}

static volatile u64 frame_at, frame_rsp;

static void on_frame(struct frame *f)
{
	frame_at = (u64)&f->rip;
	frame_rsp = f->rsp;
}

static void test_alignment(void)
{
	bool ok = true;

	trap_table[0x81] = on_frame;
	for (u64 n = 0; n < 16; n++) {
		u64 rsp;
		asm volatile("movq %%rsp, %%rbx; subq %1, %%rsp; movq %%rsp, %0; int $0x81; movq %%rbx, %%rsp"
			     : "=&r"(rsp) : "r"(n) : "rbx", "memory");
		ok &= frame_rsp == rsp && ((frame_at + 40) & 15) == 0 && frame_at + 40 <= rsp &&
			frame_at + 40 > rsp - 16;
	}
	check(ok, "a frame without a change of stacks is aligned to 16 bytes, too");
}

void guest_main(void)
{
	catch_all(true);
	test_compat();
	test_gates();
	test_syscall();
	test_bases();
	catch_all(false);
	trap_table[0x81] = on_frame;
	test_null_ss();
	test_alignment();
}
