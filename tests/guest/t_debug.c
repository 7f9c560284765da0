/* Single step, breakpoint instructions, debug registers (SDM vol. 3B, chapter 18). */
#include "guest.h"

#define DR6_BS (1u << 14)
#define DR6_BD (1u << 13)
#define DR6_FIXED 0xffff0ff0u
#define TF 0x100u
#define RF 0x10000u

#define MAX_TRAPS 64
static volatile struct { u64 rip, dr6, rflags, rcx; } traps[MAX_TRAPS];
static volatile unsigned nr_traps;

#define read_dr(n) ({ u64 _v; asm volatile("mov %%db" #n ", %0" : "=r"(_v)); _v; })
#define write_dr(n, v) asm volatile("mov %0, %%db" #n : : "r"((u64)(v)) : "memory")

static void on_db(struct frame *f)
{
	if (nr_traps < MAX_TRAPS) {
		traps[nr_traps].rip = f->rip;
		traps[nr_traps].dr6 = read_dr(6);
		traps[nr_traps].rflags = f->rflags;
		traps[nr_traps].rcx = f->rcx;
	}
	nr_traps++;
	write_dr(6, DR6_FIXED);
	/* A breakpoint is a fault: without RF it would come again. */
	if (read_dr(7) & 0xff)
		f->rflags |= RF;
}

static void start(void)
{
	nr_traps = 0;
	write_dr(6, DR6_FIXED);
}

/* --- Single step -------------------------------------------------------------------------------------------------- */

/* Runs the code with TF set from its first instruction on; the code begins behind label 1 and ends at label 9. */
#define STEP(insns, ...)                                                                                       \
	({                                                                                                     \
		u64 _base;                                                                                     \
		start();                                                                                       \
		asm volatile("leaq 1f(%%rip), %0; pushfq; orl $0x100, (%%rsp); popfq\n1: " insns               \
			     "\n9: pushfq; andl $~0x100, (%%rsp); popfq"                                       \
			     : "=&r"(_base) : __VA_ARGS__ : "rax", "rcx", "rdx", "rdi", "rsi", "r10", "memory", "cc"); \
		_base;                                                                                         \
	})

static volatile u64 buffer[64] __attribute__((aligned(64)));
static volatile u64 soft_count, soft_flags;

static void on_soft(struct frame *f)
{
	soft_count++;
	soft_flags = f->rflags;
}

static void test_step(void)
{
	u64 base = STEP("nop; nop; incl %%eax");

	/* Behind each of the three, and behind PUSHF, AND and the POPF that clears TF. */
	check(nr_traps >= 3 && traps[0].rip == base + 1 && traps[1].rip == base + 2 && traps[2].rip == base + 4,
	      "TF: a trap behind each instruction, none behind the POPF that set it");
	check_eq(traps[0].dr6, DR6_FIXED | DR6_BS, "... DR6.BS");
	check((traps[0].rflags & TF) && !(traps[0].rflags & RF), "... TF is in the frame, RF is not");
	check_eq(nr_traps, 3 + 3, "... and one behind the POPF that clears it");

	base = STEP("movl $3, %%ecx; leaq %1, %%rdi; xorl %%eax, %%eax; rep stosb", "m"(buffer));
	unsigned first = 0;
	while (first < nr_traps && traps[first].rcx != 2)
		first++;
	check(first + 2 < nr_traps && traps[first].rip == traps[first + 1].rip && traps[first + 1].rcx == 1 &&
	      traps[first + 2].rcx == 0 && traps[first + 2].rip == traps[first].rip + 2,
		      "TF: a trap behind each iteration of REP STOSB");

	soft_count = 0;
	trap_table[0x70] = on_soft;
	base = STEP("int $0x70; nop");
	check(soft_count == 1 && (soft_flags & TF) && traps[0].rip == base + 3,
	      "TF: INT n runs its handler untraced, the next trap is later");
	base = STEP("movl %%ss, %%eax; movl %%eax, %%ss; nop; nop");
	check(traps[0].rip == base + 2 && traps[1].rip == base + 5 && traps[2].rip == base + 6,
	      "TF: no trap behind MOV SS");
	base = STEP("jmp 2f; nop; 2: nop");
	check(traps[0].rip == base + 3, "TF: behind a jump RIP is its target");
	base = STEP("sti; cli; nop");
	check(traps[0].rip == base + 1 && traps[1].rip == base + 2, "TF: STI's shadow does not hold it off");
	base = STEP("cpuid; rdtsc");
	check(traps[0].rip == base + 2 && traps[1].rip == base + 4, "TF: behind CPUID and RDTSC");
	base = STEP("inb $0x80, %%al; outb %%al, $0x80; nop");
	check(traps[0].rip == base + 2 && traps[1].rip == base + 4, "TF: behind IN and OUT");

	/* A fault has no trap; its handler returns to the instruction, which then traps. */
	start();
	EXPECT("pushfq; orl $0x100, (%%rsp); popfq; ud2");
	asm volatile("pushfq; andl $~0x100, (%%rsp); popfq" : : : "memory", "cc");
	check_eq(trap_last.vector, 6, "TF: a faulting instruction does not trap");
	check(trap_last.rflags & TF, "... TF is in its frame");
}

/* --- INT3, ICEBP -------------------------------------------------------------------------------------------------- */

static void test_breakpoint_instructions(void)
{
	u64 at;

	EXPECT("int3");
	check(trap_last.vector == 3 && *(u8 *)(trap_last.rip - 1) == 0xcc, "INT3 is a trap");
	EXPECT(".byte 0xcd, 3");
	check(trap_last.vector == 3 && *(u8 *)(trap_last.rip - 2) == 0xcd, "INT 3 of two bytes is one, too");
	start();
	asm volatile("leaq 1f(%%rip), %0; .byte 0xf1; 1:" : "=r"(at) : : "memory");
	check(nr_traps == 1 && traps[0].rip == at, "ICEBP is a trap to vector 1");
	check_eq(traps[0].dr6, DR6_FIXED, "... that leaves DR6 as it was");
}

/* --- Breakpoints -------------------------------------------------------------------------------------------------- */

#define EXEC 0u
#define WRITE 1u
#define RDWR 3u
#define LEN(n) ((n) == 8 ? 2u : (n) - 1u)
#define DR7(n, rw, len) (2u << (n) * 2 | ((rw) | LEN(len) << 2) << (16 + (n) * 4))

static void test_exec(void)
{
	u64 at, ecx;

	start();
	asm volatile("leaq 1f(%%rip), %0; movq %0, %%db1; movq %2, %%rax; movq %%rax, %%db7; xorl %%ecx, %%ecx\n"
		     "incl %%ecx; 1: incl %%ecx; incl %%ecx; xorl %%eax, %%eax; movq %%rax, %%db7"
		     : "=&r"(at), "=&c"(ecx) : "i"(DR7(1, EXEC, 1)) : "rax", "memory", "cc");
	check(nr_traps == 1 && traps[0].rip == at && traps[0].rcx == 1 && ecx == 3,
	      "an instruction breakpoint is a fault before it");
	check_eq(traps[0].dr6, DR6_FIXED | 2, "... DR6.B1");
	check_eq(traps[0].rflags & RF, 0, "... without RF in its frame");
	/* RF from IRET covers one instruction, on a loop the next round traps again. */
	start();
	asm volatile("leaq 1f(%%rip), %%rdx; movq %%rdx, %%db0; movq %0, %%rax; movq %%rax, %%db7; movl $3, %%ecx\n"
		     "1: decl %%ecx; jnz 1b; xorl %%eax, %%eax; movq %%rax, %%db7"
		     : : "i"(DR7(0, EXEC, 1)) : "rax", "rcx", "rdx", "memory", "cc");
	check_eq(nr_traps, 3, "RF holds for one instruction: a loop breaks each time");
}

/* --- RF behind faults --------------------------------------------------------------------------------------------- */

#define TURNS 20
static u64 frames_rf, nr_frames;

/* A fault has RF in its frame: IRET loads it. */
static void on_ud(struct frame *f)
{
	frames_rf += !(f->rflags & RF);
	f->rip += 2;
}

static void on_soft_or_irq(struct frame *f)
{
	nr_frames++;
	frames_rf += f->rflags & RF;
	if (f->vector == 0x61)
		apic_write(APIC_EOI, 0);
}

static void test_rf(void)
{
	u64 at;

	trap_table[6] = on_ud;
	trap_table[0x60] = trap_table[0x61] = on_soft_or_irq;
	apic_enable();
	for (unsigned n = 0; n < TURNS; n++)
		asm volatile("ud2; nop; int $0x60; ud2; jmp 1f; 1: int $0x60" : : : "memory", "cc");
	check(nr_frames == 2 * TURNS && !frames_rf, "the instruction behind a fault's IRET clears RF");
	nr_frames = frames_rf = 0;
	for (unsigned n = 0; n < TURNS; n++) {
		apic_write(APIC_ICR, ICR_SELF | 0x61);
		asm volatile("ud2; nop; sti; nop; nop; cli" : : : "memory", "cc");
	}
	check(nr_frames == TURNS && !frames_rf, "... so an interrupt's frame is without it");
	start();
	asm volatile("leaq 1f(%%rip), %0; movq %0, %%db0; movq %1, %%rax; ud2; nop; movq %%rax, %%db7; 1: xorl %%eax, %%eax\n"
		     "movq %%rax, %%db7" : "=&r"(at) : "i"(DR7(0, EXEC, 1)) : "rax", "memory", "cc");
	check(nr_traps == 1 && traps[0].rip == at, "... and a breakpoint behind MOV DR7 breaks");
	trap_table[6] = 0;
}

/* --- Data breakpoints --------------------------------------------------------------------------------------------- */

static void watch(u64 address, u32 rw, u32 len)
{
	start();
	write_dr(3, address);
	write_dr(7, DR7(3, rw, len));
}

#define TOUCH(insns, ...)                                                                                      \
	({                                                                                                     \
		u64 _after;                                                                                    \
		asm volatile(insns "; 1: leaq 1b(%%rip), %0" : "=r"(_after) : __VA_ARGS__                             \
			     : "rax", "rcx", "rdi", "rsi", "memory", "cc"); \
		_after;                                                                                        \
	})

static void test_data(void)
{
	u64 b = (u64)buffer, at;
	bool ok = true;

	watch(b + 8, WRITE, 4);
	at = TOUCH("movl $1, 8(%1)", "r"(b));
	check(nr_traps == 1 && traps[0].rip == at, "a write watchpoint is a trap behind the write");
	check_eq(traps[0].dr6, DR6_FIXED | 8, "... DR6.B3");
	start();
	TOUCH("movl 8(%1), %%eax", "r"(b));
	check_eq(nr_traps, 0, "... a read does not trap");
	TOUCH("movb $1, 11(%1)", "r"(b));
	check_eq(nr_traps, 1, "... its last byte does");
	TOUCH("movb $1, 12(%1); movb $1, 7(%1)", "r"(b));
	check_eq(nr_traps, 1, "... its neighbours do not");
	TOUCH("movq $1, 4(%1)", "r"(b));
	check_eq(nr_traps, 2, "... a wider write that covers it does");
	TOUCH("pushq %1; popq (%1); lock incl 8(%1); xchgl %%eax, 8(%1); btsl $0, 8(%1)", "r"(b));
	check_eq(nr_traps, 5, "... LOCK INC, XCHG and BTS do");

	watch(b + 16, RDWR, 8);
	at = TOUCH("movb 23(%1), %%al", "r"(b));
	check(nr_traps == 1 && traps[0].rip == at, "a read/write watchpoint sees reads");
	TOUCH("movb $1, 16(%1)", "r"(b));
	check_eq(nr_traps, 2, "... and writes");
	TOUCH("movq %1, %%rdi; movl $64, %%ecx; movb $0, %%al; rep stosb", "r"(b));
	check(nr_traps >= 3, "... and REP STOSB");
	for (unsigned n = 2; n < nr_traps && n < MAX_TRAPS; n++)
		ok &= traps[n].rcx <= 64 - 17 && (traps[n].dr6 & 8);
	check(ok, "... at an iteration boundary behind the access");
	for (u32 len = 1; len <= 8; len *= 2) {
		watch(b + 32, WRITE, len);
		for (unsigned n = 0; n < 16; n++)
			TOUCH("movb $1, (%1)", "r"(b + 24 + n));
		ok &= nr_traps == len;
	}
	check(ok, "lengths 1, 2, 4 and 8");
	watch(b + 3, WRITE, 4);
	TOUCH("movb $1, (%1)", "r"(b));
	check_eq(nr_traps, 1, "the low bits of the address do not count");

	watch(b + 8, WRITE, 4);
	at = TOUCH("movl %%ss, %%eax; movl %%eax, %%ss; movl $1, 8(%1); nop", "r"(b));
	check(nr_traps == 1 && traps[0].rip == at - 1, "a watchpoint behind MOV SS's successor");
	*(volatile u32 *)(b + 40) = 0x10;
	watch(b + 40, RDWR, 4);
	at = TOUCH("movw 40(%1), %%ss; nop; nop", "r"(b));
	check(nr_traps == 1 && traps[0].rip == at - 1, "one that MOV SS itself hits waits for the next instruction");

	watch(b + 8, WRITE, 4);
	write_dr(0, b + 8);
	write_dr(7, DR7(3, WRITE, 4) | DR7(0, RDWR, 1));
	start();
	TOUCH("movl $1, 8(%1)", "r"(b));
	check(nr_traps == 1 && traps[0].dr6 == (DR6_FIXED | 9), "two breakpoints at once: one trap, both bits");
	write_dr(7, 0);
}

static void test_registers(void)
{
	u64 v;

	write_dr(7, 0);
	check_eq(read_dr(7), 0x400, "DR7: bit 10 is one");
	write_dr(7, 0xd000);
	check_eq(read_dr(7) & 0xd000, 0, "DR7: bits 12, 14, 15 are zero");
	write_dr(7, 0);
	write_dr(6, 0);
	check_eq(read_dr(6) & 0xfffe0ff0, 0xfffe0ff0, "DR6: its fixed ones");
	write_dr(6, ~0u);
	check_eq(read_dr(6) & 0x1000, 0, "DR6: its fixed zero");
	EXPECT("btsq $32, %0; movq %0, %%db7", "b"(0ull));
	check_eq(trap_last.vector, 13, "DR7: upper half raises #GP");
	EXPECT("btsq $32, %0; movq %0, %%db6", "b"(0ull));
	check_eq(trap_last.vector, 13, "DR6: upper half raises #GP");
	write_dr(2, 0x123456789abcdef0);
	check_eq(read_dr(2), 0x123456789abcdef0, "DR2: 64 bits");
	asm volatile("movq %%db4, %0" : "=r"(v));
	check_eq(v, read_dr(6), "DR4 is DR6 with CR4.DE clear");
	write_cr4(read_cr4() | 8);
	EXPECT("movq %%db4, %%rax");
	check_eq(trap_last.vector, 6, "DR4 raises #UD with CR4.DE set");

	/* I/O breakpoints */
	start();
	write_dr(0, 0x80);
	write_dr(7, 0x20002);
	v = TOUCH("inb $0x80, %%al", "i"(0));
	check(nr_traps == 1 && traps[0].rip == v, "DE: an I/O breakpoint is a trap behind IN");
	TOUCH("outb %%al, $0x81", "i"(0));
	check_eq(nr_traps, 1, "DE: ... not for another port");
	write_dr(7, 0);
	write_cr4(read_cr4() & ~8ul);

	trap_table[1] = 0;
	write_dr(6, DR6_FIXED);
	write_dr(7, 1 << 13);
	EXPECT("movq %%db0, %%rax");
	v = read_dr(7);
	check(trap_last.vector == 1 && *(u8 *)trap_last.rip == 0x0f,
	      "DR7.GD: an access to a debug register is a fault");
	check_eq(read_dr(6), DR6_FIXED | DR6_BD, "... DR6.BD");
	check_eq(v & 1 << 13, 0, "... GD is clear in the handler");
	trap_table[1] = on_db;
}

void guest_main(void)
{
	trap_table[1] = on_db;
	test_step();
	test_breakpoint_instructions();
	test_exec();
	test_rf();
	test_data();
	test_registers();
}
