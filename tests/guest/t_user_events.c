/*
 * What comes in between while user code works on its memory: single steps, breakpoints on data and code, alignment
 * checks, system calls that change the memory, interrupts.
 */
#include "user64.h"

#define TF 0x100u
#define IF 0x200u
#define RF 0x10000u
#define AC 0x40000u
#define CR0_AM (1ul << 18)
#define TURNS 30

static u64 root;

#define SUBJECT FRAME(FREE_FRAME) /* the page at USER_DATA(r, 0) */
#define OTHER FRAME(FREE_FRAME + 1)

static void map_subject(unsigned r)
{
	user_map(root, USER_DATA(r, 0), SUBJECT | RW);
	user_map(root, USER_DATA(r, 1), OTHER | RW);
}

#define read_dr(n) ({ u64 _v; asm volatile("mov %%db" #n ", %0" : "=r"(_v)); _v; })
#define write_dr(n, v) asm volatile("mov %0, %%db" #n : : "r"((u64)(v)) : "memory")

static struct { unsigned traps, wrong_rip; u64 dr6; const u64 *rips; unsigned nr_rips; } debug;

/* The traps come at addresses in turn. */
static void on_debug(struct frame *f)
{
	u64 dr6 = read_dr(6);

	if (f->rip != debug.rips[debug.traps++ % debug.nr_rips])
		debug.wrong_rip++;
	debug.dr6 |= dr6 & 0xe00f;
	write_dr(6, 0xffff0ff0);
	if (dr6 & 15)
		f->rflags |= RF;
	if (debug.traps > 100000)
		user_end(f);
}

static void expect_debug(const u64 *rips, unsigned nr)
{
	debug.traps = debug.wrong_rip = 0;
	debug.dr6 = 0;
	debug.rips = rips;
	debug.nr_rips = nr;
	write_dr(6, 0xffff0ff0);
}

static void start_loop(struct user *u, unsigned c, unsigned r, const u8 *code, u64 at)
{
	now.code = USER_CODE_AT(c, code);
	now.at = at;
	user_set(u, now.code, USER_STACK(r) + 0x1800);
	u->f.rbx = at;
	u->f.r15 = TURNS;
}

/* --- Single steps ------------------------------------------------------------------------------------------------ */

USER_CODE(stepped, "1: movq (%rbx), %rax\n.globl stepped_1, stepped_2, stepped_3, stepped_4, stepped_5\n"
	  "stepped_1: addq %r15, 8(%rbx)\nstepped_2: pushq 8(%rbx)\nstepped_3: popq %rdx\n"
	  "stepped_4: decl %r15d\nstepped_5: jnz 1b" END);
extern const u8 stepped_1[], stepped_2[], stepped_3[], stepped_4[], stepped_5[];

static void test_step(void)
{
	struct user u;

	test_begin("single steps");
	for (unsigned r = 0; r < NR_RANGES; r++)
		for (unsigned c = 2; c < NR_RANGES; c += 3) {
			const u64 rips[] = {
				USER_CODE_AT(c, stepped_1), USER_CODE_AT(c, stepped_2), USER_CODE_AT(c, stepped_3),
				USER_CODE_AT(c, stepped_4), USER_CODE_AT(c, stepped_5), USER_CODE_AT(c, stepped),
			};

			map_subject(r);
			for (unsigned turn = 0; turn < 3; turn++) {
				now.more = turn;
				*(volatile u64 *)SUBJECT = 5;
				((volatile u64 *)SUBJECT)[1] = 0;
				start_loop(&u, c, r, stepped, USER_DATA(r, 0));
				u.f.rflags |= turn == 1 ? TF : 0;
				expect_debug(rips, 6);
				user_run(&u);
				same("vector", u.f.vector, 0x80);
				same("traps", debug.traps, turn == 1 ? 6 * TURNS : 0);
				/* The last one's is behind the loop. */
				same("traps elsewhere", debug.wrong_rip, turn == 1);
				same("DR6", debug.dr6, turn == 1 ? 0x4000 : 0);
				same("RAX", u.f.rax, 5);
				same("RDX", u.f.rdx, TURNS * (TURNS + 1) / 2);
			}
		}
	test_end();
}

/* --- Breakpoints ------------------------------------------------------------------------------------------------- */

USER_CODE(watched, "1: movl %eax, (%rbx)\n.globl watched_1, watched_2, watched_3\n"
	  "watched_1: movl (%rbx), %ecx\nwatched_2: movq %rax, 4(%rbx); movq -8(%rbx), %rdx; addl $1, -4(%rbx)\n"
	  "watched_3: decl %r15d; jnz 1b" END);
extern const u8 watched_1[], watched_2[], watched_3[];

static void run_watched(unsigned c, unsigned r, u64 at, u64 dr0, u64 dr7, const u64 *rips, unsigned nr, unsigned traps)
{
	struct user u;

	write_dr(0, dr0);
	write_dr(7, dr7);
	start_loop(&u, c, r, watched, at);
	expect_debug(rips, nr);
	user_run(&u);
	write_dr(7, 0x400);
	now.more = dr7;
	same("vector", u.f.vector, 0x80);
	same("traps", debug.traps, traps);
	same("traps elsewhere", debug.wrong_rip, 0);
	same("DR6", debug.dr6, traps ? 1 : 0);
	same("turns left", u.f.r15, 0);
	same("RCX", u.f.rcx, (u32)u.f.rax);
}

static void test_breakpoints(void)
{
	enum { EXEC = 1, WRITE_4 = 1 | 0xd << 16, RDWR_4 = 1 | 0xf << 16, WRITE_8 = 1 | 0x9 << 16, RDWR_1 = 1 | 0x3 << 16 };

	test_begin("breakpoints");
	for (unsigned r = 0; r < NR_RANGES; r++)
		for (unsigned c = 2; c < NR_RANGES; c += 3) {
			u64 first = USER_CODE_AT(c, watched), one = USER_CODE_AT(c, watched_1),
			    two = USER_CODE_AT(c, watched_2), three = USER_CODE_AT(c, watched_3);
			u64 at = USER_DATA(r, 0) + 0x400, border = USER_DATA(r, 1);
			const u64 both[] = {one, two};

			map_subject(r);
			run_watched(c, r, at, 0, 0x400, &one, 1, 0);
			run_watched(c, r, at, at, 0x400 | WRITE_4, &one, 1, TURNS);
			run_watched(c, r, at, at, 0x400, &one, 1, 0);
			run_watched(c, r, at, at, 0x400 | RDWR_4, both, 2, 2 * TURNS);
			run_watched(c, r, at, at - 4, 0x400 | 1 | 0xd << 16, &three, 1, TURNS);
			run_watched(c, r, at, at + 3, 0x400 | RDWR_1, both, 2, 2 * TURNS);
			run_watched(c, r, at, at + 12, 0x400 | RDWR_4, &one, 1, 0);
			run_watched(c, r, at, at - 16, 0x400 | WRITE_8, &one, 1, 0);
			run_watched(c, r, at, at + 0x200, 0x400 | RDWR_4, &one, 1, 0);
			run_watched(c, r, at, first, 0x400 | EXEC, &first, 1, TURNS);
			run_watched(c, r, at, two, 0x400 | EXEC, &two, 1, TURNS);
			/* Across a border, watched on one side. */
			run_watched(c, r, border - 2, border, 0x400 | 1 | 5 << 16, &one, 1, TURNS);
			run_watched(c, r, border - 2, border, 0x400 | 1 | 7 << 16, both, 2, 2 * TURNS);
			run_watched(c, r, at, at, 0x400, &one, 1, 0);
		}
	test_end();
}

/* --- Alignment checks -------------------------------------------------------------------------------------------- */

#define ALIGNED(X) \
	X(load_16, 2, "movw (%rsi), %ax") X(load_32, 4, "movl (%rsi), %eax") X(load_64, 8, "movq (%rsi), %rax") \
	X(store_16, 2, "movw %ax, (%rsi)") X(store_32, 4, "movl %eax, (%rsi)") X(store_64, 8, "movq %rax, (%rsi)") \
	X(store_imm, 4, "movl $5, (%rsi)") X(alu, 4, "addl (%rsi), %ecx") X(rmw, 8, "addq %rax, (%rsi)") \
	X(locked, 4, "lock incl (%rsi)") X(xchg, 8, "xchgq %rax, (%rsi)") X(double, 8, "movsd (%rsi), %xmm0") \
	X(x87, 8, "fldl (%rsi); fstp %st(0)") X(push, 8, "pushq (%rsi); popq %rax") X(lods, 4, "lodsl") X(stos, 8, "stosq")
#define CODE(name, size, insn) \
	extern const u8 a_##name##_at[]; \
	USER_CODE(a_##name, "1: movq %rbx, %rsi; cmpl $3, %r15d; cmoveq %r14, %rsi; movq %rsi, %rdi\n" \
		  ".globl a_" #name "_at\na_" #name "_at: " insn "\ndecl %r15d; jnz 1b" END);
ALIGNED(CODE)
static const struct aligned { const char *name; const u8 *code, *at; unsigned size; } aligned[] = {
#define ROW(name, size, insn) {#name, a_##name, a_##name##_at, size},
	ALIGNED(ROW)
};

static void run_aligned(const struct aligned *a, unsigned c, unsigned r, u64 good, u64 at, u64 rflags, bool faults)
{
	struct user u;

	start_loop(&u, c, r, a->code, at);
	now.more = rflags;
	u.f.rbx = good;
	u.f.r14 = at;
	u.f.rflags |= rflags;
	asm volatile("fninit");
	user_run(&u);
	same("vector", u.f.vector, faults ? 17 : 0x80);
	same("turns left", u.f.r15, faults ? 3 : 0);
	if (faults) {
		same("error code", u.f.error, 0);
		same("RIP", u.f.rip, USER_CODE_AT(c, a->at));
	}
}

static void test_alignment(void)
{
	test_begin("alignment checks");
	for (unsigned r = 0; r < NR_RANGES; r++)
		for (unsigned n = 0; n < sizeof(aligned) / sizeof(aligned[0]); n++) {
			const struct aligned *a = &aligned[n];
			u64 page = USER_DATA(r, 0), border = USER_DATA(r, 1);
			unsigned c = (n + r) & 1 ? 2 : 5;

			map_subject(r);
			memset((void *)SUBJECT, 0, 4096);
			memset((void *)OTHER, 0, 64);
			now.what = a->name;
			write_cr0(read_cr0() & ~CR0_AM);
			run_aligned(a, c, r, page, page + 0x101, AC, false);
			write_cr0(read_cr0() | CR0_AM);
			run_aligned(a, c, r, page, page + 0x101, 0, false);
			run_aligned(a, c, r, page, page + 0x101, AC, true);
			run_aligned(a, c, r, page, page + 0x100 + a->size, AC, false);
			run_aligned(a, c, r, page, page + 0x100 + a->size / 2, AC, true);
			run_aligned(a, c, r, border, border - 1, AC, true);
			run_aligned(a, c, r, border, border - 1, 0, false);
			run_aligned(a, c, r, border, border - a->size, AC, false);
			write_cr0(read_cr0() & ~CR0_AM);
		}
	test_end();
}

/* --- System calls ------------------------------------------------------------------------------------------------- */

static u64 call_rsp __attribute__((used));
static u8 call_stack[4096] __attribute__((aligned(16), used));
static unsigned calls;
static u64 call_la;
void on_syscall(void);

/* Each maps the other frame at the subject's address. */
void on_syscall(void)
{
	user_map(root, call_la, (calls++ & 1 ? SUBJECT : OTHER) | RW);
}

asm(".text\nsyscall_entry: movq %rsp, call_rsp; leaq call_stack+4096(%rip), %rsp\n"
    "pushq %rax; pushq %rcx; pushq %rdx; pushq %rsi; pushq %rdi; pushq %r8; pushq %r9; pushq %r10; pushq %r11; pushq %r11\n"
    "call on_syscall\npopq %r11; popq %r11; popq %r10; popq %r9; popq %r8; popq %rdi; popq %rsi; popq %rdx; popq %rcx; "
    "popq %rax\nmovq call_rsp, %rsp; sysretq\n");
extern const u8 syscall_entry[];

USER_CODE(caller, "xorl %edx, %edx\n1: movq (%rbx), %rax; addq %rax, %rdx; incq 8(%rbx); syscall\n"
	  ".globl caller_back\ncaller_back: cmpq %rcx, %rdi; jne 2f; addq (%rbx), %rdx; incq 16(%rbx)\n"
	  "decl %r15d; jnz 1b\n2:" END);
extern const u8 caller_back[];

static void test_syscalls(void)
{
	struct user u, before;

	test_begin("system calls that change mappings");
	wrmsr(0xc0000081, 0x2bull << 48 | 8ull << 32);
	wrmsr(0xc0000082, (u64)syscall_entry);
	wrmsr(0xc0000084, 0x47700);
	for (unsigned r = 0; r < NR_RANGES; r++)
		for (unsigned c = 2; c < NR_RANGES; c += 3) {
			volatile u64 *one = (u64 *)SUBJECT, *two = (u64 *)OTHER;

			map_subject(r);
			one[0] = 1, two[0] = 1000000;
			one[1] = one[2] = two[1] = two[2] = 0;
			calls = 0;
			call_la = USER_DATA(r, 0);
			start_loop(&u, c, r, caller, call_la);
			u.f.rdi = USER_CODE_AT(c, caller_back);
			before = u;
			user_run(&u);
			same("vector", u.f.vector, 0x80);
			same("turns left", u.f.r15, 0);
			same("calls", calls, TURNS);
			same("what was read", u.f.rdx, TURNS * 1000001ull);
			same("one page, before calls", one[1], TURNS / 2);
			same("... behind calls", one[2], TURNS / 2);
			same("the other, before calls", two[1], TURNS / 2);
			same("... behind calls", two[2], TURNS / 2);
			same("R11", u.f.r11, u.f.r11 & 0x8d7);
			for (unsigned n = 1; n < 12; n++)
				if (n != 4)
					same("a register", ((u64 *)&u.f)[n], ((u64 *)&before.f)[n]);
			same("RSP", u.f.rsp, before.f.rsp);
		}
	test_end();
}

/* --- Interrupts --------------------------------------------------------------------------------------------------- */

static volatile unsigned interrupts, bad_frames;
static struct user expected; /* registers that the program does not change */

static void on_interrupt(struct frame *f)
{
	interrupts++;
	for (unsigned n = 1; n < 12; n++)
		bad_frames += ((u64 *)f)[n] != ((u64 *)&expected.f)[n];
	bad_frames += f->cs != USER_CS || f->ss != USER_SS || f->rip - expected.f.rip > 0x80 ||
		      expected.f.rsp - f->rsp > 16;
	apic_write(APIC_EOI, 0);
}

USER_CODE(interrupted, "1: movq (%rbx), %rax; addq %r8, %rax; movq %rax, (%rbx); pushq %rax; cmpq (%rsp), %rax; jne 2f\n"
	  "popq %rcx; movups (%rsi), %xmm0; paddq %xmm0, %xmm1; movups %xmm1, 16(%rsi); call 3f; decl %r15d; jnz 1b\n"
	  "2: int $0x80\n3: lock xaddq %rcx, 8(%rbx); ret" END);
/* An IPI to itself in each turn: RDI is the local APIC's page. */
USER_CODE(interrupting, "1: movl $0x40050, 0x300(%rdi); movq (%rbx), %rax; addq %r8, %rax; movq %rax, (%rbx); pushq %rax\n"
	  "popq %rcx; lock xaddq %rcx, 8(%rbx); decl %r15d; jnz 1b" END);

static void run_interrupted(unsigned c, unsigned r, const u8 *code, unsigned turns)
{
	struct user u;
	volatile u64 *v = (u64 *)SUBJECT;
	u64 total = 0;

	start_loop(&u, c, r, code, USER_DATA(r, 0));
	v[0] = v[1] = 0;
	v[0x100 / 8] = 1, v[0x108 / 8] = 2;
	u.f.rsi = USER_DATA(r, 0) + 0x100;
	u.f.rdi = USER_DATA(r, 5);
	u.f.r15 = turns;
	u.f.rflags |= IF;
	expected = u;
	asm volatile("pxor %xmm1, %xmm1");
	user_run(&u);
	for (u64 n = 1; n <= turns; n++)
		total += n * u.f.r8;
	same("vector", u.f.vector, 0x80);
	same("turns left", u.f.r15, 0);
	same("RAX", u.f.rax, u.f.r8 * turns);
	same("a sum", v[0], u.f.r8 * turns);
	same("a sum of sums", v[1], total);
	if (code == interrupted) {
		same("a vector", v[0x110 / 8], turns);
		same("... its upper half", v[0x118 / 8], 2 * turns);
	}
	for (unsigned n = 1; n < 12; n++)
		same("a register", ((u64 *)&u.f)[n], ((u64 *)&expected.f)[n]);
	same("frames of interrupts", bad_frames, 0);
	bad_frames = 0;
}

static void test_interrupts(void)
{
	test_begin("interrupts");
	trap_table[0x50] = trap_table[0x51] = on_interrupt;
	apic_enable();
	for (unsigned r = 0; r < NR_RANGES; r++)
		for (unsigned c = 2; c < NR_RANGES; c += 3) {
			map_subject(r);
			user_map(root, USER_DATA(r, 5), APIC_BASE | RW);
			now.what = "from itself";
			interrupts = 0;
			run_interrupted(c, r, interrupting, 100);
			same("interrupts", interrupts, 100);
			now.what = "from the timer";
			interrupts = 0;
			apic_write(0x3e0, 0xb);
			apic_write(0x320, 0x20051);
			apic_write(0x380, 50000);
			for (u64 end = rdtsc() + 4000000000; interrupts < 5 && rdtsc() < end;)
				run_interrupted(c, r, interrupted, 2000);
			apic_write(0x320, 0x10051);
			same("whether the timer came", interrupts >= 5, true);
			/* One may be on its way. */
			asm volatile("sti; nop; cli");
			bad_frames = 0;
		}
	test_end();
}

void guest_main(void)
{
	root = user_begin();
	user_vectors();
	trap_table[1] = on_debug;
	test_step();
	test_breakpoints();
	trap_table[1] = user_end;
	test_alignment();
	test_syscalls();
	test_interrupts();
}
