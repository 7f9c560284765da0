/*
 * System instructions as an engine may have them in several forms: RFLAGS on the stack, interrupt shadows to the byte,
 * SWAPGS and bases, control registers, bits by number, division (SDM vol. 2, their pages).
 */
#include "guest.h"

#define VECTOR 0x91
#define ARITH 0x8d5ull
#define IF (1ull << 9)

static volatile u64 irq_rip, irqs;

static void on_irq(struct frame *f)
{
	irqs++;
	irq_rip = f->rip;
	apic_write(APIC_EOI, 0);
}

/* --- RFLAGS ------------------------------------------------------------------------------------------------------- */

static volatile u64 db_rip;

static void on_db(struct frame *f)
{
	db_rip = f->rip;
	f->rflags &= ~0x100ull;
}

static u64 flags_through_stack(u64 v)
{
	asm volatile("pushq %0; popfq; pushfq; popq %0" : "+r"(v) : : "cc", "memory");
	return v;
}

static void test_flags(void)
{
	static const u64 other[] = {0, 1 << 10, 1 << 14, 1 << 18, 1 << 21, 3 << 12};
	u64 bad = 0, v, w;

	for (u64 n = 0; n < 64; n++) {
		u64 f = (n & 1) | (n & 2) << 1 | (n & 4) << 2 | (n & 8) << 3 | (n & 16) << 3 | (n & 32) << 6;
		bad += flags_through_stack(f) != (f | 2);
	}
	check_eq(bad, 0, "POPF, PUSHF: every combination of arithmetic flags");
	bad = 0;
	for (unsigned n = 0; n < 6; n++)
		bad += flags_through_stack(other[n] | ARITH) != (other[n] | ARITH | 2);
	flags_through_stack(2);
	check_eq(bad, 0, "... DF, NT, AC, ID, IOPL, and back");
	check_eq(flags_through_stack(~(0x300ull | 1 << 10 | 1 << 14 | 1 << 18)) & ~(1ull << 21), 0x38d7,
		 "... not RF, VM, VIF, VIP and reserved bits");
	flags_through_stack(2);
	asm volatile("xorl %%eax, %%eax; pushfq; popq %0; negl %%eax; subl $1, %%eax; pushfq; popq %1"
		     : "=&r"(v), "=&r"(w) : : "rax", "cc", "memory");
	check((v & ARITH) == 0x44 && (w & ARITH) == 0x95, "PUSHF: the flags of the instruction before");
	asm volatile("movq $0x7fffffff, %%rax; addl $1, %%eax; pushfw; popw %%ax; movzwl %%ax, %k0"
		     : "=r"(v) : : "rax", "cc", "memory");
	check_eq(v & 0xffff, 0x896, "PUSHFW");
	asm volatile("std; pushfq; cld; popq %0; pushfq; popq %1" : "=r"(v), "=r"(w) : : "cc", "memory");
	check((v >> 10 & 1) == 1 && (w >> 10 & 1) == 0, "STD, CLD");
	extern u8 after_tf[];
	trap_table[1] = on_db;
	db_rip = 0;
	asm volatile("pushq $0x102; popfq; nop; .globl after_tf\nafter_tf: nop; nop" : : : "cc", "memory");
	trap_table[1] = 0;
	check(db_rip == (u64)after_tf, "POPF of TF: #DB behind the next instruction");
}

static volatile u64 user_flags, user_vector, user_rip;

static void user_popf(void)
{
	u64 v = ARITH | IF | 0x3000;

	user_flags = flags_through_stack(v);
	EXPECT(".globl user_cli\nuser_cli: cli");
	user_vector = trap_last.vector;
	user_rip = trap_last.rip;
	asm volatile("int $0x80");
}

static void test_user_flags(void)
{
	extern u8 user_cli[];

	run_user(user_popf);
	check_eq(user_flags, ARITH | 2, "POPF at level 3 leaves IF and IOPL");
	check(user_vector == 13 && user_rip == (u64)user_cli, "CLI at level 3: #GP");
}

/* --- Shadows ----------------------------------------------------------------------------------------------------- */

static void skip_ud2(struct frame *f)
{
	f->rip += 2;
}

/* With an interrupt pending and IF clear: where @insns is interrupted, from @label. */
#define SHADOW(insns, at, name)                                                                                \
	do {                                                                                                   \
		extern u8 at[];                                                                                \
		irqs = irq_rip = 0;                                                                            \
		apic_write(APIC_ICR, ICR_SELF | VECTOR);                                                       \
		asm volatile(insns : : : "rax", "rcx", "rdx", "cc", "memory");                                 \
		check(irqs == 1 && irq_rip == (u64)at, name);                                                  \
	} while (0)

static void test_shadow(void)
{
	trap_table[6] = skip_ud2;
	SHADOW("sti; nop\n.globl s1\ns1: nop; nop; cli", s1, "STI, NOP: the interrupt comes behind the NOP");
	SHADOW("sti; hlt\n.globl s2\ns2: nop; cli", s2, "STI, HLT: the interrupt ends the HLT");
	SHADOW("sti; cli; nop; nop; sti; incq %%rax\n.globl s3\ns3: nop; cli", s3, "STI, CLI: nothing comes between");
	SHADOW("sti; sti\n.globl s4\ns4: nop; nop; cli", s4, "STI, STI: the second has no shadow");
	SHADOW("pushq $0x202; popfq\n.globl s5\ns5: nop; nop; cli", s5, "POPF: no shadow");
	SHADOW("jmp 1f; .balign 4096; .skip 4095; 1: sti; nop\n.globl s6\ns6: nop; cli", s6,
	       "STI at the end of a page");
	SHADOW("sti; jmp 1f; nop\n.globl s7\n1: s7: nop; nop; cli", s7, "STI, JMP: at its target");
	SHADOW("sti; ud2\n.globl s8\ns8: nop; nop; cli", s8, "STI, a fault: at the return from its handler");
	trap_table[6] = 0;
	irqs = 0;
	apic_write(APIC_ICR, ICR_SELF | VECTOR);
	asm volatile("nop; nop; nop");
	check_eq(irqs, 0, "CLI holds interrupts off");
	asm volatile("sti; nop; cli");
	check_eq(irqs, 1, "... until STI");
}

/* --- Bases, control registers, time ------------------------------------------------------------------------------- */

static void test_bases(void)
{
	u64 v, w, flags;
	u32 id[4];

	wrmsr(MSR_GS_BASE, 0x1234567000);
	wrmsr(MSR_KERNEL_GS_BASE, 0xffff800012345678);
	asm volatile("cmpl %%eax, %%eax; stc; swapgs; pushfq; popq %0" : "=r"(flags) : : "cc", "memory");
	check(rdmsr(MSR_GS_BASE) == 0xffff800012345678 && rdmsr(MSR_KERNEL_GS_BASE) == 0x1234567000, "SWAPGS");
	check_eq(flags & ARITH, 0x45, "... leaves the flags");
	cpuid(7, 0, id);
	EXPECT("rdfsbase %%rax");
	check_eq(trap_last.vector, 6, "RDFSBASE without CR4.FSGSBASE: #UD");
	if (!(id[1] & 1))
		return;
	write_cr4(read_cr4() | 1 << 16);
	wrmsr(MSR_FS_BASE, 0xffff8000aabbccdd);
	asm volatile("rdgsbase %%r14; movq %%r14, %0; orq $-1, %%rcx; rdfsbase %%ecx; movq %%rcx, %1"
		     : "=m"(v), "=m"(w) : : "r14", "rcx", "cc");
	check(v == 0xffff800012345678 && w == 0xaabbccdd, "RDGSBASE, RDFSBASE of 32 bits");
	asm volatile("movabsq $0xffff900000000001, %%r15; wrgsbase %%r15; wrfsbase %%r15d" : : : "r15");
	check(rdmsr(MSR_GS_BASE) == 0xffff900000000001 && rdmsr(MSR_FS_BASE) == 1, "WRGSBASE, WRFSBASE of 32 bits");
	EXPECT("movabsq $0x8000000000000000, %%rax; wrgsbase %%rax");
	check(trap_last.vector == 13 && rdmsr(MSR_GS_BASE) == 0xffff900000000001, "WRGSBASE, not canonical: #GP");
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_GS_BASE, 0);
}

static volatile u64 tsc_vector;

static void user_rdtsc(void)
{
	EXPECT("rdtsc");
	tsc_vector = trap_last.vector;
	asm volatile("int $0x80");
}

static void test_registers(void)
{
	u64 a, b, c, high;

	asm volatile("movq $0x12345678, %%rax; movq %%rax, %%cr2; movq %%cr2, %%r13; movq %%r13, %0; "
		     "movq %%cr2, %%rsi; "
		     "movq %%rsi, %1" : "=m"(a), "=m"(b) : : "rax", "r13", "rsi");
	check(a == 0x12345678 && b == a, "MOV from CR2");
	a = rdtsc();
	asm volatile("movq $-1, %%rax; movq $-1, %%rdx; rdtsc; movq %%rax, %0; shrq $32, %%rax; shrq $32, %%rdx; "
		     "orq %%rdx, %%rax; movq %%rax, %1" : "=m"(b), "=m"(high) : : "rax", "rdx", "cc");
	c = rdtsc();
	check_eq(high, 0, "RDTSC clears the upper halves");
	check(a < c && c - a < 1ull << 32 && (u32)b - (u32)a <= (u32)c - (u32)a, "... and grows");
	write_cr4(read_cr4() | 4);
	EXPECT("rdtsc");
	check(!trap_last.taken, "CR4.TSD: RDTSC at level 0");
	run_user(user_rdtsc);
	check_eq(tsc_vector, 13, "... and not at level 3");
	write_cr4(read_cr4() & ~4ul);
}

/* --- Bits, division, CMPXCHG16B ---------------------------------------------------------------------------------- */

static void test_bits(void)
{
	static volatile u64 m[8];
	u8 c1, c2, c3, c4;

	for (unsigned n = 0; n < 8; n++)
		m[n] = 0;
	m[3] = 1ull << 63;
	asm volatile("btq %4, %8; setc %0; btsl %5, %8; setc %1; lock btsq %6, %8; setc %2; btcw %7, %8; setc %3"
		     : "=&q"(c1), "=&q"(c2), "=&q"(c3), "=&q"(c4)
		     : "r"(-1ll), "r"(-65), "r"(64ll + 5), "r"((short)-128), "m"(m[4]) : "cc", "memory");
	check(c1 == 1 && !c2 && !c3 && !c4, "BT, BTS, BTC: the bit as it was");
	check(m[2] == (1ull << 63 | 1) && m[5] == 1 << 5 && m[3] == 1ull << 63 && !m[4],
	      "... to either side of the operand");
	asm volatile("cmpl %%eax, %%eax; btrq %2, %3; setz %0; lock btrq %4, %3; setz %1"
		     : "=&q"(c1), "=&q"(c2) : "r"(-1ll), "m"(m[4]), "r"(69ll) : "cc", "memory");
	check(c1 == 1 && c2 == 1 && !m[3] && !m[5], "BTR leaves ZF");
	asm volatile("movq $69, %%r15; btsq %%r15, %1; btq %%r15, %1; setc %0; movq $70, %%r14; lock btcq %%r14, %1"
		     : "=&q"(c1) : "m"(m[4]) : "r14", "r15", "cc", "memory");
	check(c1 == 1 && m[5] == 3 << 5, "a bit number in R14, R15");
	EXPECT("btq %0, (%1)", "r"(-8ll), "r"(TEST_VA + 9 * 4096));
	check(trap_last.vector == 14 && trap_last.cr2 == TEST_VA + 9 * 4096 - 8, "BT faults where the bit is");
}

/* A division that faults changes nothing. */
#define DIVISION(a, d, s, insn, name)                                                                          \
	do {                                                                                                   \
		extern u8 insn##_##a[];                                                                        \
		EXPECT("movq $" #a ", %%rax; movq $" #d ", %%rdx; movq %0, %%rcx\n"                             \
		       ".globl " #insn "_" #a "\n" #insn "_" #a ": " #insn " %%" s, "r"(divisor));                \
		check(trap_last.vector == 0 && trap_last.rip == (u64)insn##_##a &&                             \
		      trap_last.frame.rax == (u64)(a) && trap_last.frame.rdx == (u64)(d), name);               \
	} while (0)

static void test_division(void)
{
	volatile u64 divisor = 0;
	u64 q, r;

	DIVISION(5, 0, "ecx", divl, "DIVL by 0");
	DIVISION(6, 0, "rcx", divq, "DIVQ by 0");
	DIVISION(7, 0, "ecx", idivl, "IDIVL by 0");
	DIVISION(8, 0, "rcx", idivq, "IDIVQ by 0");
	divisor = 16;
	DIVISION(9, 16, "ecx", divl, "DIVL: the quotient does not fit");
	DIVISION(10, 17, "rcx", divq, "DIVQ: likewise");
	DIVISION(11, 8, "ecx", idivl, "IDIVL: likewise");
	divisor = ~0ull;
	DIVISION(0x80000000, 0xffffffff, "ecx", idivl, "IDIVL of the least number by -1");
	asm volatile("divq %2" : "=a"(q), "=d"(r) : "r"(16ull), "a"(0x25ull), "d"(15ull) : "cc");
	check(q == 0xf000000000000002 && r == 5, "DIVQ of 128 bits");
	asm volatile("idivq %2" : "=a"(q), "=d"(r) : "r"(-16ll), "a"(0x25ull), "d"(3ull) : "cc");
	check(q == 0xcffffffffffffffe && r == 5, "IDIVQ of 128 bits");
	asm volatile("cqto; idivq %2" : "=a"(q), "=&d"(r) : "m"(divisor), "a"(-7ll) : "cc");
	check(q == 7 && r == 0, "IDIVQ by -1");
	asm volatile("movq $3, %%r14; cltd; idivl %%r14d" : "=a"(q), "=&d"(r) : "a"(-7) : "r14", "cc");
	check(q == 0xfffffffe && r == 0xffffffff, "IDIVL by R14D");
}

static void test_compare_exchange(void)
{
	static volatile u64 m[4] __attribute__((aligned(16)));
	u64 a = 1, d = 2;
	u8 z1, z2;

	m[0] = 1, m[1] = 2;
	asm volatile("lock cmpxchg16b %4; setz %0; cmpxchg16b %4; setz %1"
		     : "=&q"(z1), "=&q"(z2), "+a"(a), "+d"(d) : "m"(m[0]), "b"(3ll), "c"(4ll) : "cc", "memory");
	check(z1 == 1 && z2 == 0 && m[0] == 3 && m[1] == 4 && a == 3 && d == 4, "CMPXCHG16B");
	EXPECT("cmpxchg16b (%0)", "r"(TEST_VA + 9 * 4096 + 8));
	check(trap_last.vector == 13 && trap_last.error == 0,
	      "CMPXCHG16B misaligned: #GP, also where nothing is mapped");
	EXPECT("cmpxchg16b (%0)", "r"(TEST_VA + 9 * 4096));
	check(trap_last.vector == 14 && trap_last.error == 2, "CMPXCHG16B is a write");
}

void guest_main(void)
{
	apic_enable();
	trap_table[VECTOR] = on_irq;
	test_map_init();
	test_map(8, 0);
	test_map(9, 0);
	test_flags();
	test_user_flags();
	test_shadow();
	test_bases();
	test_registers();
	test_bits();
	test_division();
	test_compare_exchange();
}
