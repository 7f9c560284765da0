/*
 * Near calls and returns: to the place after the CALL, to any other, and to where that is other code by then. In
 * ring 0, ring 3 and 32-bit code, warm: what goes wrong once may be a return that a translator foresaw.
 */
#include "user64.h"

#define T 40 /* turns; the code has the number of those left in EDI */
#define CR4_PGE (1ul << 7)

static u64 root, other_root;

/* --- Where code runs ----------------------------------------------------------------------------------------------- */

/* Frames for 16 pages of stack; for a page that comes and goes; for code. */
#define STACK FREE_FRAME
#define STACK_SIZE 0x10000ul
#define HOLE (FREE_FRAME + 16)
#define CODE (FREE_FRAME + 18)
#define HOLE_AT USER_DATA(0, 30)
#define CODE_AT(r) USER_DATA(r, 24)

static const struct world {
	const char *name;
	unsigned range;
	bool kernel, is_32;
} worlds[] = {
	{"ring 0", 4, true, false}, {"32-bit code", 0, false, true}, {"ring 3, low", 0, false, false},
	{"ring 3, middle", 2, false, false}, {"ring 3, libraries", 4, false, false}, {"ring 3, stack", 5, false, false},
};
#define NR_WORLDS (sizeof(worlds) / sizeof(worlds[0]))
#define FOR_WORLDS(w) for (const struct world *w = worlds; w < worlds + NR_WORLDS; w++)

static u64 code_at(const struct world *w, const u8 *code)
{
	return w->kernel || w->is_32 ? (u64)code : USER_CODE_AT(w->range, code);
}

static u64 stack_top(const struct world *w)
{
	return (w->kernel || w->is_32 ? FRAME(STACK) : USER_DATA(w->range, 0)) + STACK_SIZE;
}

static void set(struct user *u, const struct world *w, u64 rip)
{
	user_set(u, rip, stack_top(w));
	u->f.rdx = 0;
	u->f.rdi = T;
	u->f.rbx = HOLE_AT;
	if (w->kernel)
		u->f.cs = 0x08, u->f.ss = 0x10;
	if (w->is_32)
		u->f.cs = 0x2b;
	now.what = w->name;
	now.code = rip;
}

/* Ends well with @sum in EDX. */
static void run(const struct world *w, u64 rip, u64 sum)
{
	struct user u;

	set(&u, w, rip);
	user_run(&u);
	same("vector", u.f.vector, 0x80);
	same("sum", u.f.rdx, sum);
	same("RSP", u.f.rsp, stack_top(w));
}

/* --- Calls and returns of all kinds -------------------------------------------------------------------------------- */

#define CROSS(X, at) \
	X(cross_##at, 3 * T, "jmp 2f; .balign 4096; .skip 4096 - " #at "\n2: call 3f; add $1, %edx; jmp 88f\n3: add $2, %edx; ret")

/*
 * Each turn begins at the text, and ends at 88. R: the prefix of registers' names, W: a word's bytes, S: the suffix of
 * its size, ADR: takes the address of a label. INT 0x81 takes a page away that comes back by its #PF, INT 0x82 has the
 * function in rAX called from where it stands, UD2 is skipped, a single step adds 1.
 */
#define CASES(X, R, W, S, ADR) \
	X(plain, 3 * T, "call 2f; add $1, %edx; jmp 88f\n2: add $2, %edx; ret") \
	X(nested, 7 * T, "call 2f; add $1, %edx; jmp 88f\n2: call 3f; add $2, %edx; ret\n3: call 4f; " \
	  "add $4, %edx\n4: ret") \
	X(call_next, T, "call 2f\n2: pop %" R "ax; add $1, %edx") \
	X(next_returns, 3 * T, "call 2f; add $1, %edx; jmp 88f\n2: call 3f\n3: add $1, %edx; ret") \
	X(pop_jmp, 3 * T, "call 2f; add $1, %edx; jmp 88f\n2: add $2, %edx; pop %" R "ax; jmp *%" R "ax") \
	X(pop_push_ret, 3 * T, "call 2f; add $1, %edx; jmp 88f\n2: add $2, %edx; pop %" R "ax; push %" R "ax; ret") \
	X(skip, T, "call 2f\n3: add $64, %edx\n4: add $1, %edx; jmp 88f\n2: add" S " $4b - 3b, (%" R "sp); ret") \
	X(skip_once, 65 * T - 64, "call 2f\n3: add $64, %edx\n4: add $1, %edx; jmp 88f\n" \
	  "2: cmp $3, %edi; jne 5f; add" S " $4b - 3b, (%" R "sp)\n5: ret") \
	X(drop_frame, T, "call 2f; add $1, %edx; jmp 88f\n2: call 3f; add $64, %edx; " \
	  "ret\n3: lea " W "(%" R "sp), %" R "sp; ret") \
	X(drop_once, 65 * T - 64, "call 2f; add $1, %edx; jmp 88f\n2: call 3f; add $64, %edx; ret\n" \
	  "3: cmp $3, %edi; jne 4f; lea " W "(%" R "sp), %" R "sp\n4: ret") \
	X(unwind, T, "mov %" R "sp, %" R "bp; call 2f; add $1, %edx; jmp 88f\n2: call 3f; add $64, %edx; ret\n" \
	  "3: call 4f; add $64, %edx; ret\n4: lea -" W "(%" R "bp), %" R "sp; ret") \
	X(unwind_jmp, 3 * T, "mov %" R "sp, %" R "bp; call 2f\n5: add $1, %edx; cmp %" R "sp, %" R "bp; " \
	  "jne 88f; add $2, %edx; jmp 88f\n" \
	  "2: call 3f; add $64, %edx; ret\n3: mov %" R "bp, %" R "sp; " ADR("5b", "ax") "; jmp *%" R "ax") \
	X(push_ret, T, ADR("2f", "ax") "; push %" R "ax; ret; add $64, %edx\n2: add $1, %edx") \
	X(push_ret_ret, 7 * T, "call 2f; add $1, %edx; jmp 88f\n2: " ADR("3f", "ax") "; push %" R "ax; " \
	  "add $2, %edx; ret\n" \
	  "3: add $4, %edx; ret") \
	X(ret_imm, 8 * T, "push $3; push $4; call 2f; add $1, %edx; jmp 88f\n" \
	  "2: add " W "(%" R "sp), %edx; add 2*" W "(%" R "sp), %edx; ret $2*" W) \
	X(ret_imm_large, 3 * T, "sub $0x1230, %" R "sp; call 2f; add $1, %edx; jmp 88f\n2: add $2, %edx; " \
	  "ret $0x1230") \
	X(coroutine, 33 * T, "lea -0x400(%" R "sp), %" R "bp; " ADR("3f", "ax") "; mov %" R "ax, (%" R "bp)\n" \
	  "call 2f; add $1, %edx; call 2f; add $1, %edx; call 2f; add $1, %edx; jmp 88f\n" \
	  "2: xchg %" R "sp, %" R "bp; ret\n3: add $10, %edx; call 2b; jmp 3b") \
	X(recursion, 490 * T + T * (T + 1) / 2, "mov %edi, %ecx; add $490, %ecx; call 2f; jmp 88f\n" \
	  "2: dec %ecx; jz 3f; call 2b\n3: add $1, %edx; ret") \
	X(deep_recursion, 20 * (T - 2) + 2 * 5000, "mov $20, %ecx; mov $5000, %eax; cmp $3, %edi; " \
	  "cmove %eax, %ecx; cmp $7, %edi\n" \
	  "cmove %eax, %ecx; call 2f; jmp 88f\n2: dec %ecx; jz 3f; call 2b\n3: add $1, %edx; ret") \
	X(two_calls, 55 * T, "mov $10, %ecx; call 2f; add %eax, %edx; jmp 88f\n2: mov %ecx, %eax; " \
	  "cmp $2, %ecx; jb 3f\n" \
	  "push %" R "cx; dec %ecx; call 2b; pop %" R "cx; push %" R "ax; sub $2, %ecx; call 2b; " \
	  "pop %" R "cx; add %ecx, %eax\n3: ret") \
	X(by_register, 3 * T, ADR("2f", "ax") "; call *%" R "ax; add $1, %edx; jmp 88f\n2: add $2, %edx; ret") \
	X(by_memory, 3 * T, ADR("2f", "ax") "; push %" R "ax; call *(%" R "sp); add $1, %edx; pop %" R "ax; " \
	  "jmp 88f\n" \
	  "2: add $2, %edx; ret") \
	X(by_table, 30 * T, ADR("2f", "ax") "; push %" R "ax; " ADR("3f", "ax") "; push %" R "ax; xor %ecx, %ecx\n" \
	  "5: call *(%" R "sp,%" R "cx," W "); inc %ecx; cmp $2, %ecx; jb 5b; pop %" R "ax; pop %" R "ax; jmp 88f\n" \
	  "2: add $10, %edx; ret\n3: add $20, %edx; ret") \
	X(either, 5 * T / 2, ADR("2f", "ax") "; " ADR("3f", "cx") "; test $1, %edi; cmove %" R "cx, %" R "ax; " \
	  "call *%" R "ax\n" \
	  "add $1, %edx; jmp 88f\n2: add $1, %edx; ret\n3: add $2, %edx; ret") \
	X(data_behind, 6 * T, "call 2f; .byte 5; add $1, %edx; jmp 88f\n" \
	  "2: pop %" R "si; movzbl (%" R "si), %eax; add %eax, %edx; inc %" R "si; push %" R "si; ret") \
	X(twice, 2 * T, "mov $2, %ecx; call 2f; add $1, %edx; dec %ecx; jz 88f; ret\n2: push" S " (%" R "sp); ret") \
	X(flags_call, T, "imul $0x9d, %edi, %eax; and $0x8d5, %eax; or $2, %eax; push %" R "ax; popf; " \
	  "call 2f; add $1, %edx; jmp 88f\n" \
	  "2: pushf; pop %" R "cx; xor %ecx, %eax; and $0x8d5, %eax; add %eax, %edx; ret") \
	X(flags_ret, T, "imul $0x9d, %edi, %eax; and $0x8d5, %eax; or $2, %eax; call 2f; pushf; pop %" R "cx; " \
	  "xor %ecx, %eax\n" \
	  "and $0x8d5, %eax; add %eax, %edx; add $1, %edx; jmp 88f\n2: push %" R "ax; popf; ret") \
	X(flags_made, 2 * T, "mov %edi, %eax; call 2f; jc 3f; jo 3f; jz 3f; jns 88f\n3: inc %edx; jmp 88f\n" \
	  "2: test $1, %edi; jnz 4f; inc %edx; add $0x7fffffff, %eax; ret\n4: inc %edx; cmp %eax, %eax; ret") \
	X(step, 5 * T, "call 2f; pushf; and" S " $~0x100, (%" R "sp); popf; jmp 88f\n2: pushf; " \
	  "or" S " $0x100, (%" R "sp); popf; nop; ret") \
	X(interrupt_and_fault, 8 * T, "call 2f; add $1, %edx; jmp 88f\n2: int $0x81; add (%" R "bx), %edx; ret") \
	X(undefined, 3 * T, "call 2f; add $1, %edx; jmp 88f\n2: ud2; add $2, %edx; ret") \
	X(signal, 7 * T, ADR("3f", "ax") "; call 2f; add $1, %edx; jmp 88f\n2: int $0x82; add $2, %edx; " \
	  "ret\n3: add $4, %edx; ret") \
	CROSS(X, 0) CROSS(X, 1) CROSS(X, 2) CROSS(X, 4) CROSS(X, 5) CROSS(X, 6) \
	X(ret_ends_page, 3 * T, "call 2f; add $1, %edx; jmp 88f; .balign 4096; .skip 4092\n2: add $2, %edx; ret") \
	X(ret_begins_page, 3 * T, "call 2f; add $1, %edx; jmp 88f; .balign 4096; .skip 4093\n2: add $2, %edx; ret")

#define ADR64(label, reg) "lea " label "(%rip), %r" reg
#define ADR32(label, reg) "mov $" label ", %e" reg
#define CODE64(name, sum, text) USER_CODE(c_##name, "77: " text "\n88: dec %edi; jnz 77b" END);
#define CODE32(name, sum, text) USER_CODE(d_##name, ".code32; 77: " text "\n88: dec %edi; jnz 77b" END "\n.code64");
CASES(CODE64, "r", "8", "q", ADR64)
CASES(CODE32, "e", "4", "l", ADR32)

static const struct { const char *name; const u8 *code, *code_32; u32 sum; } cases[] = {
#define ROW(name, sum, text) {#name, c_##name, d_##name, sum},
	CASES(ROW, "", "", "", ADR64)
};

static void on_take_page(struct frame *f)
{
	user_map(root, HOLE_AT, 0);
}

static void on_page_fault(struct frame *f)
{
	if (read_cr2() != HOLE_AT)
		user_end(f);
	user_map(root, HOLE_AT, FRAME(HOLE) | RW);
}

static void on_signal(struct frame *f)
{
	if (f->cs == 0x2b)
		*(volatile u32 *)(f->rsp -= 4) = (u32)f->rip;
	else
		*(volatile u64 *)(f->rsp -= 8) = f->rip;
	f->rip = f->rax;
}

static void on_undefined(struct frame *f)
{
	f->rip += 2;
}

static void on_step(struct frame *f)
{
	f->rdx++;
}

static void test_cases(void)
{
	for (unsigned n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
		test_begin(cases[n].name);
		FOR_WORLDS(w)
			run(w, code_at(w, w->is_32 ? cases[n].code_32 : cases[n].code), cases[n].sum);
		test_end();
	}
}

/* --- Other code to return to --------------------------------------------------------------------------------------- */

#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_FMASK 0xc0000084

/* What SYSCALL leads to. */
extern u8 sys_calls[], sys_entry[], sys_cr3[], sys_leave[], sys_left[];
static u8 sys_stack[1024] __attribute__((used, aligned(16)));
static u64 sys_rsp __attribute__((used));
#define TO_STACK "movq %rsp, sys_rsp(%rip); leaq sys_stack+1024(%rip), %rsp\n"
asm(".text\n"
    "sys_calls: " TO_STACK "call 1f; movq sys_rsp(%rip), %rsp; sysretq\n1: call 2f\n2: ret\n"
    "sys_entry: movq %r8, (%r9); invlpg (%r10); sysretq\n"
    "sys_cr3: movq %r8, %cr3; sysretq\n"
    /* Never returns to sys_left. */
    "sys_leave: " TO_STACK "call 1f\nsys_left: ud2\n1: movq sys_rsp(%rip), %rsp; sysretq\n");

USER_CODE(with_syscall, "77: call 2f; add $1, %edx; dec %edi; jnz 77b" END "2: call 3f; add $2, %edx; ret\n3: syscall; ret");
/* Called at R12 by what is in CODE_AT(): how the page there becomes another. */
USER_CODE(by_syscall, "syscall; ret");
USER_CODE(by_entry, "movq %r8, (%r9); invlpg (%r10); ret");
USER_CODE(by_cr3, "movq %r8, %cr3; ret");
/* Each turn it does so, with R8 one of two values in turn. What is behind the call says which of the pages it is in. */
#define SWAP(name, call, more) \
	USER_CODE(name, "77: xorq %r14, %r8; " call "\nimull $0x11111111, %edi, %eax\n.globl " #name "_at\n" #name "_at: " \
		  "addl %eax, %edx; decl %edi; jnz 77b" END more "\n.globl " #name "_end\n" #name "_end:"); \
	extern const u8 name##_at[], name##_end[];
SWAP(swap_indirect, "call *%r12", "")
SWAP(swap_direct, "call 2f", "2: jmp *%r12")
SWAP(swap_memory, "pushq %r12; call *(%rsp)", "")

static const struct { const u8 *code, *at, *end; u64 rsp; } swaps[] = {
	{swap_indirect, swap_indirect_at, swap_indirect_end, 0},
	{swap_direct, swap_direct_at, swap_direct_end, 0},
	{swap_memory, swap_memory_at, swap_memory_end, 8 * T},
};
#define NR_SWAPS (sizeof(swaps) / sizeof(swaps[0]))

/* The two pages of code: at @at in its page. */
static void put_swap(unsigned n, u64 at)
{
	for (u32 k = 0; k < 2; k++) {
		u8 *p = (u8 *)FRAME(CODE + k) + at;
		u32 factor = k ? 1000 : 7;

		memset((void *)FRAME(CODE + k), 0xcc, 4096);
		memcpy(p, swaps[n].code, swaps[n].end - swaps[n].code);
		memcpy(p + (swaps[n].at - swaps[n].code) - 4, &factor, 4);
	}
}

/* The first turn changes to the second page, which is in place in the end too. */
static u32 swap_sum(void)
{
	u32 sum = 0;

	for (u32 n = T; n; n--)
		sum += n * (n % 2 ? 7 : 1000);
	return sum;
}

static void run_swap(const struct world *w, unsigned n, u64 at, const u8 *how, u64 value, u64 other)
{
	struct user u;

	set(&u, w, CODE_AT(w->range) + at);
	u.f.r12 = code_at(w, how);
	u.f.r8 = value;
	u.f.r14 = value ^ other;
	u.f.r9 = (u64)user_entry(root, CODE_AT(w->range), 1);
	u.f.r10 = CODE_AT(w->range);
	now.at = at;
	user_run(&u);
	same("vector", u.f.vector, 0x80);
	same("sum", u.f.rdx, swap_sum());
	same("RSP", u.f.rsp, stack_top(w) - swaps[n].rsp);
}

static const u64 swap_offsets[] = {0x100, 0x3c0};

static void test_entry(const char *name, u64 bits)
{
	test_begin(name);
	wrmsr(MSR_LSTAR, (u64)sys_entry);
	FOR_WORLDS(w)
		for (unsigned n = 0; n < 2 * NR_SWAPS && !w->is_32; n++) {
			u64 at = swap_offsets[n & 1];

			put_swap(n / 2, at);
			user_map(root, CODE_AT(w->range), FRAME(CODE) | bits);
			run_swap(w, n / 2, at, w->kernel ? by_entry : by_syscall, FRAME(CODE) | bits, FRAME(CODE + 1) | bits);
		}
	test_end();
}

static void test_cr3(const char *name, u64 one, u64 other)
{
	test_begin(name);
	wrmsr(MSR_LSTAR, (u64)sys_cr3);
	FOR_WORLDS(w)
		for (unsigned n = 0; n < NR_SWAPS && !w->is_32; n++) {
			put_swap(n, 0x100);
			write_cr3(root | one);
			user_map(root, CODE_AT(w->range), FRAME(CODE) | RW);
			user_map(other_root, CODE_AT(w->range), FRAME(CODE + 1) | RW);
			for (unsigned k = 0; k < 3; k++)
				run_swap(w, n, 0x100, w->kernel ? by_cr3 : by_syscall, root | one | KEEP * !!(one & 1),
					 other_root | other | KEEP * !!(one & 1));
		}
	test_end();
}

/* By the function that was called, into the code behind the call; R13: where, RBX is saved in R14. */
USER_CODE(changes, "77: call 2f\n.globl changes_at\nchanges_at: movl $0, %eax; addl %eax, %esi; decl %edi; jnz 77b" END
	  "2: movl %edi, 1(%r13); pushq %rbx; xorl %eax, %eax; cpuid; popq %rbx; ret\n.globl changes_end\nchanges_end:");
extern const u8 changes_at[], changes_end[];

static void test_changed_code(void)
{
	static const u64 offsets[] = {0x200, 4096 - 5, 4096 - 6, 4096 - 9, 4096 - 10};
	struct user u;

	test_begin("the function changes what is behind the call");
	FOR_WORLDS(w)
		for (unsigned n = 0; n < 10 && !w->is_32; n++) {
			u64 here = CODE_AT(w->range), alias = CODE_AT(1), at = offsets[n / 2];

			for (unsigned k = 0; k < 2; k++) {
				user_map(root, here + k * 4096, FRAME(CODE + k) | RW);
				user_map(root, alias + k * 4096, FRAME(CODE + k) | RW);
			}
			memcpy((u8 *)FRAME(CODE) + at, changes, changes_end - changes);
			set(&u, w, here + at);
			u.f.rsi = 0;
			u.f.r13 = (n & 1 ? alias : here) + at + (changes_at - changes);
			now.at = u.f.r13;
			user_run(&u);
			same("vector", u.f.vector, 0x80);
			same("sum", u.f.rsi, T * (T + 1) / 2);
		}
	test_end();
}

/* --- Returns that fault --------------------------------------------------------------------------------------------- */

/* The page with the call goes in the last turn, or may no longer be executed. */
static void test_page_gone(const char *name, u64 entry, u64 error)
{
	struct user u;

	test_begin(name);
	wrmsr(MSR_LSTAR, (u64)sys_entry);
	FOR_WORLDS(w) {
		u64 la = CODE_AT(w->range), at = 0x100;

		if (w->is_32)
			continue;
		for (unsigned turn = 0; turn < 3; turn++) {
			put_swap(0, at);
			user_map(root, la, FRAME(CODE) | RW);
			run_swap(w, 0, at, w->kernel ? by_entry : by_syscall, FRAME(CODE) | RW, FRAME(CODE + 1) | RW);
			set(&u, w, la + at);
			u.f.r12 = code_at(w, w->kernel ? by_entry : by_syscall);
			u.f.r8 = entry;
			u.f.r14 = 0;
			u.f.r9 = (u64)user_entry(root, la, 1);
			u.f.r10 = la;
			user_run(&u);
			same("vector", u.f.vector, 14);
			same("error code", u.f.error, error | (w->kernel ? 0 : 4));
			same("CR2", u.cr2, u.f.rip);
			same("RIP", u.f.rip, la + at + 6);
			same("RSP", u.f.rsp, stack_top(w));
		}
	}
	test_end();
}

/* T calls, and in the last of them the return address is the one in R8. */
USER_CODE(bad_return, "77: call 2f; decl %edi; jnz 77b" END "2: cmpl $1, %edi; jne 3f; movq %r8, (%rsp)\n"
	  ".globl bad_return_at\n3: bad_return_at: ret");
USER_CODE(bad_return_imm, "77: pushq $0; call 2f; decl %edi; jnz 77b" END "2: cmpl $1, %edi; jne 3f; movq %r8, (%rsp)\n"
	  ".globl bad_return_imm_at\n3: bad_return_imm_at: ret $8");
/* The same where the kernel has called and not returned. */
USER_CODE(bad_syscall, "movq %r8, (%rsp); syscall\n.globl bad_syscall_at\nbad_syscall_at: ret");
extern const u8 bad_return_at[], bad_return_imm_at[], bad_syscall_at[];

static void expect_gp(const struct user *u, u64 rip, u64 rsp)
{
	same("vector", u->f.vector, 13);
	same("error code", u->f.error, 0);
	same("RIP", u->f.rip, rip);
	same("RSP", u->f.rsp, rsp);
}

static void test_not_canonical(void)
{
	static const u64 bad[] = {0x800000000000, 0xffff7fffffffffff, 1ull << 63, 0x1000000000000, 0x7fffffffffffffff};
	struct user u;

	test_begin("return addresses that are not canonical");
	FOR_WORLDS(w)
		for (unsigned n = 0; n < 15 && !w->is_32; n++) {
			u64 to = now.at = bad[n / 3];
			set(&u, w, code_at(w, bad_return));
			u.f.r8 = to;
			user_run(&u);
			expect_gp(&u, code_at(w, bad_return_at), stack_top(w) - 8);
			set(&u, w, code_at(w, bad_return_imm));
			u.f.r8 = to;
			user_run(&u);
			expect_gp(&u, code_at(w, bad_return_imm_at), stack_top(w) - 16);
			same("turns left", u.f.rdi, 1);
		}
	test_end();
}

/* Upper bits that are any number a translator may give to address spaces and modes. */
static void test_other_space(void)
{
	struct user u;

	test_begin("the same address of another space, with bits that make it not canonical");
	wrmsr(MSR_LSTAR, (u64)sys_leave);
	for (const struct world *w = worlds + 2; w < worlds + 4; w++)
		for (u64 n = 1; n < 1500; n++) {
			u64 r8 = (u64)sys_left ^ n << 48;

			now.at = r8;
			set(&u, w, code_at(w, bad_syscall));
			u.f.rsp -= 8;
			u.f.r8 = r8;
			user_run(&u);
			expect_gp(&u, code_at(w, bad_syscall_at), stack_top(w) - 8);
		}
	test_end();
}

/* A call that is the last instruction below the hole: its function cannot return. */
static void test_last_call(void)
{
	static const u8 callee[] = {0xff, 0xcf, 0x74, 0x03, 0x58, 0xeb, 0x01, 0xc3}; /* dec edi; jz 1f; pop rax; jmp 2f; 1: ret */
	static const u8 again[] = {0xe9, 0xee, 0x0e, 0, 0}; /* 2: jmp to the call */
	static const u8 direct[] = {0xe8, 0, 0xf1, 0xff, 0xff}, indirect[] = {0x90, 0x90, 0x41, 0xff, 0xd4}; /* call r12 */
	u64 page = 0x7ffffffff000;
	u8 *p = (u8 *)FRAME(CODE);
	struct user u;

	test_begin("a call at the end of the lower half");
	user_map(root, page, FRAME(CODE) | RW);
	memset(p, 0xcc, 4096);
	memcpy(p + 0x100, callee, sizeof(callee));
	memcpy(p + 0x108, again, sizeof(again));
	for (unsigned n = 0; n < 12; n++) {
		const struct world *w = &worlds[n & 1 ? 0 : 5];

		if (n % 6 == 0)
			memcpy(p + 0xffb, n ? direct : indirect, 5);
		set(&u, w, page + 0xffb);
		u.f.r12 = page + 0x100;
		user_run(&u);
		expect_gp(&u, page + 0x107, stack_top(w) - 8);
		same("return address", *(u64 *)(FRAME(STACK) + STACK_SIZE - 8), 1ull << 47);
		same("turns left", u.f.rdi, 0);
	}
	test_end();
}

/* --- All of it ------------------------------------------------------------------------------------------------------ */

static void prepare(void)
{
	u32 id[4];

	root = user_begin();
	other_root = user_space_new();
	for (unsigned r = 0; r < NR_RANGES; r++)
		for (unsigned n = 0; n < STACK_SIZE / 4096; n++) {
			user_map(root, USER_DATA(r, n), FRAME(STACK + n) | RW);
			user_map(other_root, USER_DATA(r, n), FRAME(STACK + n) | RW);
		}
	*(u32 *)FRAME(HOLE) = 7;
	idt_set(0x81, trap_stubs + 16 * 0x81, 14, 3, 1);
	idt_set(0x82, trap_stubs + 16 * 0x82, 14, 3, 1);
	trap_table[1] = on_step;
	trap_table[6] = on_undefined;
	trap_table[14] = on_page_fault;
	trap_table[0x81] = on_take_page;
	trap_table[0x82] = on_signal;
	wrmsr(MSR_STAR, 0x08ull << 32 | 0x2bull << 48);
	wrmsr(MSR_FMASK, 0x700);
	/* 32-bit code has flat data segments. */
	asm volatile("movl %0, %%ds; movl %0, %%es" : : "r"(0x33));
	cpuid(1, 0, id);
	check(id[2] >> 17 & 1, "PCIDs");
	write_cr4(read_cr4() | CR4_PGE);
}

void guest_main(void)
{
	prepare();
	test_other_space();
	test_cases();
	test_begin("SYSCALL and SYSRET in between");
	wrmsr(MSR_LSTAR, (u64)sys_calls);
	for (const struct world *w = worlds + 2; w < worlds + NR_WORLDS; w++)
		run(w, code_at(w, with_syscall), 3 * T);
	test_end();
	test_entry("the page becomes another by INVLPG", RW);
	test_entry("a global page becomes another by INVLPG", RW | PG_G);
	test_cr3("the page becomes another by MOV CR3", 0, 0);
	write_cr4(read_cr4() | CR4_PCIDE);
	test_cr3("the page becomes another with the PCID", 1, 2);
	write_cr3(root);
	write_cr4(read_cr4() & ~CR4_PCIDE);
	test_changed_code();
	test_page_gone("the page is gone", 0, 0x10);
	test_page_gone("the page may not be executed", FRAME(CODE) | RW | PG_NX, 0x11);
	test_not_canonical();
	test_last_call();
}
