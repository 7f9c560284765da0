/* Exceptions and their error codes in 64-bit mode, user mode, interrupt stack table. */
#include "guest.h"

static void test_ud(void)
{
	EXPECT("ud2");
	check_eq(trap_last.vector, 6, "ud2 raises #UD");
}

static void test_de(void)
{
	EXPECT("xorl %%ecx, %%ecx; movl $1, %%eax; cltd; idivl %%ecx");
	check_eq(trap_last.vector, 0, "division by zero raises #DE");
}

static void test_pf(void)
{
	boot_pdpt[2] = 0;
	write_cr3(read_cr3());
	EXPECT("movabsq 0x80001234, %%rax");
	check_eq(trap_last.vector, 14, "read of an unmapped page raises #PF");
	check_eq(trap_last.error, 0, "... error code: supervisor read, not present");
	check_eq(trap_last.cr2, 0x80001234, "... CR2");
	EXPECT("movabsq %%rax, 0x80001238");
	check_eq(trap_last.error, 2, "... error code of a write");
	EXPECT("movl $0x80001000, %%eax; jmp *%%rax");
	check_eq(trap_last.error, 0x10, "... error code of a fetch, NX on");
}

static void test_gp(void)
{
	EXPECT("movabsq $0x8000000000000000, %%rax; movq (%%rax), %%rax");
	check_eq(trap_last.vector, 13, "non-canonical read raises #GP");
	check_eq(trap_last.error, 0, "... error code");
	EXPECT("movl $0x1234, %%eax; movw %%ax, %%ds");
	check_eq(trap_last.vector, 13, "selector beyond the GDT raises #GP");
	check_eq(trap_last.error, 0x1234, "... error code names the selector");
}

static volatile u64 user_cs, user_vector;

static void user_fn(void)
{
	u64 cs;
	asm volatile("mov %%cs, %0" : "=r"(cs));
	user_cs = cs;
	asm volatile("int $0x80");
}

static void user_cli(void)
{
	EXPECT("cli");
	user_vector = trap_last.vector;
	asm volatile("int $0x80");
}

/* As functions that align their stack begin: pushes of memory and of registers side by side. */
static void test_pushes(void)
{
	u64 ret, between, r10, top;

	for (int n = 0; n < 2; n++) /* with the page in the TLB, too */
		asm volatile("movq %%rsp, %%r12; leaq -0x200(%%rsp), %%rsp; movq $0x1234567, (%%rsp)\n"
			     "movl $55, %%r11d; leaq 8(%%rsp), %%r10; movq %%r10, %3; andq $-16, %%rsp; "
			     "pushq -8(%%r10); pushq %%r11\n"
			     "pushq %%r10; pushq $77; popq %%rax; popq %2; popq %1; popq %0; movq %%r12, %%rsp"
			     : "=&r"(ret), "=&r"(between), "=&r"(r10), "=&r"(top)
			     : : "rax", "r10", "r11", "r12", "memory", "cc");
	check_eq(ret, 0x1234567, "PUSH from memory before PUSH of registers");
	check_eq(between, 55, "... the first of them");
	check_eq(r10, top, "... and the second");
}

void guest_main(void)
{
	test_pushes();
	test_ud();
	test_de();
	test_pf();
	test_gp();
	run_user(user_fn);
	check_eq(user_cs, 0x3b, "user mode runs with CPL 3");
	run_user(user_cli);
	check_eq(user_vector, 13, "CLI at CPL 3 raises #GP");
}
