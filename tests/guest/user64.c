#include "user64.h"

const u64 user_range[NR_RANGES] = {
	0x400000, 0x200000000000, 0x555555554000, 0x565555556000, 0x7eff00000000, 0x7ffff7a00000,
};

/* --- Address spaces ----------------------------------------------------------------------------------------------- */

#define TABLES 0x1e00000ull
#define TABLES_END 0x2000000ull
static u64 next_table = TABLES;

static u64 new_table(const void *from)
{
	u64 table = next_table;

	if (table == TABLES_END) {
		print("not ok - no memory for page tables\n");
		guest_exit(1);
	}
	next_table += 4096;
	if (from)
		memcpy((void *)table, from, 4096);
	else
		memset((void *)table, 0, 4096);
	return table;
}

u64 content(unsigned frame)
{
	return 0x0101010101010101 * frame;
}

void fill_frame(unsigned frame)
{
	for (unsigned k = 0; k < 512; k++)
		((volatile u64 *)FRAME(frame))[k] = content(frame);
}

bool user_pcids(u64 root)
{
	u32 id[4];

	cpuid(1, 0, id);
	if (!(id[2] >> 17 & 1)) {
		print("ok - PCIDs # SKIP not in CPUID\n");
		return false;
	}
	write_cr3(root);
	write_cr4(read_cr4() | CR4_PCIDE);
	return true;
}

volatile u64 *user_entry(u64 root, u64 la, int level)
{
	volatile u64 *table = (u64 *)(root & ~0xfffull);

	for (int l = 4;; l--) {
		volatile u64 *e = table + (la >> (3 + 9 * l) & 511);

		if (l == level)
			return e;
		/* Large pages of the identity map make room. */
		if (!(*e & PG_P) || (*e & PG_PS))
			*e = new_table(0) | RW;
		table = (u64 *)(*e & 0x000ffffffffff000);
	}
}

void user_map(u64 root, u64 la, u64 entry)
{
	*user_entry(root, la, 1) = entry;
	invlpg(la);
}

u64 user_space_new(void)
{
	u64 root = new_table(0), pdpt = new_table(boot_pdpt), pd = new_table(boot_pd);

	*(u64 *)root = pdpt | RW;
	*(u64 *)pdpt = pd | RW;
	for (unsigned r = 0; r < NR_RANGES; r++) {
		for (u64 at = 0; user_code + at < user_code_end; at += 4096)
			user_map(root, user_range[r] + at, ((u64)user_code + at) | PG_P | PG_U);
		for (unsigned n = 0; n < 2; n++)
			user_map(root, USER_STACK(r) + n * 4096, FRAME(2 * r + n) | RW);
	}
	return root;
}

/* --- Runs --------------------------------------------------------------------------------------------------------- */

#define MAX_CPUS 8
static struct tss64_short {
	u32 reserved0;
	u64 rsp[3], reserved1, ist[7], reserved2;
	u16 reserved3, iomap;
} __attribute__((packed)) cpu_tss[MAX_CPUS];
static u8 stacks[MAX_CPUS][2][4096] __attribute__((aligned(16)));
static struct user *running[MAX_CPUS];
static u64 kernel_rsp[MAX_CPUS];

asm(".text\n"
    "user_enter: pushq %rbx; pushq %rbp; pushq %r12; pushq %r13; pushq %r14; pushq %r15; movq %rsp, (%rsi)\n"
    "movq %rdi, %rsp; popq %r15; popq %r14; popq %r13; popq %r12; popq %r11; popq %r10; popq %r9; popq %r8\n"
    "popq %rdi; popq %rsi; popq %rbp; popq %rbx; popq %rdx; popq %rcx; popq %rax; addq $16, %rsp; iretq\n"
    "user_back: movq %rdi, %rsp; popq %r15; popq %r14; popq %r13; popq %r12; popq %rbp; popq %rbx; ret\n");
void user_enter(struct frame *f, u64 *rsp);
_Noreturn void user_back(u64 rsp);

/* CPU n has its TSS in entry 0x60 + 16 n of the GDT. */
static unsigned this_cpu(void)
{
	u64 tr;

	asm volatile("str %0" : "=r"(tr));
	return ((u32)tr - 0x60) / 16;
}

void user_init(void)
{
	static volatile u32 cpus;
	u32 n = 1;

	asm volatile("lock xaddl %0, %1" : "+r"(n), "+m"(cpus) : : "memory", "cc");
	struct tss64_short *t = &cpu_tss[n];
	u64 base = (u64)t, limit = sizeof(*t) - 1;
	t->rsp[0] = (u64)stacks[n][1];
	t->ist[0] = (u64)stacks[n][1] + 4096;
	t->iomap = sizeof(*t);
	gdt[12 + 2 * n] = limit | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
	gdt[13 + 2 * n] = base >> 32;
	asm volatile("ltr %w0" : : "r"(0x60 + 16 * n));
	if (n)
		return;
	for (int v = 0; v < 256; v++)
		idt_set(v, trap_stubs + 16 * v, 14, v == 0x80 || v == 3 || v == 4 ? 3 : 0, 1);
	for (int v = 0; v < 32; v++)
		trap_table[v] = user_end;
	trap_table[0x80] = user_end;
}

u64 user_begin(void)
{
	user_init();
	u64 root = user_space_new();
	write_cr3(root);
	return root;
}

int user_vectors(void)
{
	u32 id[4];

	write_cr4(read_cr4() | 1 << 9 | 1 << 10);
	cpuid(1, 0, id);
	if (!(id[2] >> 26 & 1) || !(id[2] >> 28 & 1))
		return 0;
	write_cr4(read_cr4() | 1 << 18);
	cpuid(0xd, 0, id);
	u32 xcr0 = id[0] & 0xe7;
	asm volatile("xsetbv" : : "c"(0), "a"(xcr0), "d"(0));
	cpuid(7, 0, id);
	return !(id[1] >> 5 & 1) ? 0 : (xcr0 & 0xe0) == 0xe0 && (id[1] >> 30 & 1) ? 2 : 1;
}

void user_set(struct user *u, u64 rip, u64 rsp)
{
	u64 *reg = (u64 *)&u->f;

	for (unsigned n = 0; n < 15; n++)
		reg[n] = 0x0123456789abcdef * (2 * n + 1);
	u->f.rip = rip;
	u->f.rsp = rsp;
	u->f.cs = USER_CS;
	u->f.ss = USER_SS;
	u->f.rflags = 2;
}

void user_run(struct user *u)
{
	unsigned cpu = this_cpu();

	running[cpu] = u;
	user_enter(&u->f, &kernel_rsp[cpu]);
}

void user_end(struct frame *f)
{
	unsigned cpu = this_cpu();
	struct user *u = running[cpu];

	if (!u)
		unexpected(f->vector, f->error, f->rip);
	running[cpu] = 0;
	u->cr2 = read_cr2();
	u->f = *f;
	user_back(kernel_rsp[cpu]);
}

/* --- Loads and stores --------------------------------------------------------------------------------------------- */

/* R15 turns; the one with R15 = 3 at RDI, the others at RBX. RDX: the sum of what was read. */
USER_CODE(user_reader, "xorl %edx, %edx\n1: movq %rbx, %rsi; cmpl $3, %r15d; cmoveq %rdi, %rsi\n"
	  ".globl user_reader_at\nuser_reader_at: movq (%rsi), %rax; addq %rax, %rdx; subl $1, %r15d; jnz 1b" END);
USER_CODE(user_writer, "1: movq %rbx, %rsi; cmpl $3, %r15d; cmoveq %rdi, %rsi\n"
	  ".globl user_writer_at\nuser_writer_at: movq %rax, (%rsi); subl $1, %r15d; jnz 1b" END);
/* RDX: how often EAX was not R12D. */
USER_CODE(user_caller, "xorl %edx, %edx\n1: call *%rbx; cmpl %eax, %r12d; setne %al; movzbl %al, %eax\n"
	  "addq %rax, %rdx; subl $1, %r15d; jnz 1b" END);

struct user user_last;

static void run_at(unsigned r, const u8 *code, u64 most, u64 one, u64 rax)
{
	user_set(&user_last, USER_CODE_AT(r, code), USER_STACK(r) + 0x1800);
	user_last.f.rbx = most;
	user_last.f.rdi = one;
	user_last.f.rax = rax;
	user_last.f.r15 = USER_TURNS;
	user_run(&user_last);
}

bool user_reads(unsigned r, u64 la, u64 v)
{
	run_at(r, user_reader, la, la, 0);
	return same("vector", user_last.f.vector, 0x80) && same("sum of loads", user_last.f.rdx, v * USER_TURNS);
}

bool user_writes(unsigned r, u64 la, u64 v)
{
	run_at(r, user_writer, la, la, v);
	return same("vector", user_last.f.vector, 0x80) && same("turns left", user_last.f.r15, 0);
}

static bool faulted(u64 rip, u64 la, u64 error)
{
	return same("vector", user_last.f.vector, 14) & same("error code", user_last.f.error, error) &
	       same("CR2", user_last.cr2, la) & same("RIP", user_last.f.rip, rip) &
	       same("turns left", user_last.f.r15, 3) & same("RSI", user_last.f.rsi, la);
}

bool user_read_faults(unsigned r, u64 la, u64 good, u64 error)
{
	run_at(r, user_reader, good, la, 0);
	return faulted(USER_CODE_AT(r, user_reader_at), la, error);
}

bool user_write_faults(unsigned r, u64 la, u64 good, u64 error)
{
	run_at(r, user_writer, good, la, *(volatile u64 *)good);
	return faulted(USER_CODE_AT(r, user_writer_at), la, error);
}

static void run_caller(unsigned r, u64 la, u32 v)
{
	user_set(&user_last, USER_CODE_AT(r, user_caller), USER_STACK(r) + 0x1800);
	user_last.f.rbx = la;
	user_last.f.r12 = v;
	user_last.f.r15 = USER_TURNS;
	user_run(&user_last);
}

bool user_calls(unsigned r, u64 la, u32 v)
{
	run_caller(r, la, v);
	return same("vector", user_last.f.vector, 0x80) && same("calls of other code", user_last.f.rdx, 0);
}

bool user_calls_faults(unsigned r, u64 la, u64 error)
{
	run_caller(r, la, 0);
	return same("vector", user_last.f.vector, 14) & same("error code", user_last.f.error, error) &
	       same("CR2", user_last.cr2, la) & same("RIP", user_last.f.rip, la) &
	       same("RSP", user_last.f.rsp, USER_STACK(r) + 0x17f8);
}

/* --- Reports ------------------------------------------------------------------------------------------------------ */

struct now now;
#define MAX_TOLD 6

void test_begin(const char *name)
{
	now = (struct now){.test = name};
}

static void print_field(const char *name, u64 v)
{
	print(name);
	print_hex(v);
}

bool same(const char *what, u64 got, u64 want)
{
	if (got == want)
		return true;
	if (now.failures++ >= MAX_TOLD)
		return false;
	print("not ok - ");
	print(now.test);
	print(": ");
	print(now.what ? now.what : "");
	print_field(" code ", now.code);
	print_field(" at ", now.at);
	print_field(" case ", now.more);
	print("\n# ");
	print(what);
	print_field(": got ", got);
	print_field(", want ", want);
	print("\n");
	return false;
}

bool same_bytes(const char *what, const u8 *got, const u8 *want, unsigned n)
{
	bool equal;
	u64 left = n;

	/* As it says: an empty comparison leaves ZF alone. */
	asm volatile("cmpl %k3, %k3; repe cmpsb" : "=@cce"(equal), "+S"(got), "+D"(want), "+c"(left) : : "memory");
	return equal || same(what, got[-1], want[-1]);
}

void test_end(void)
{
	if (!now.failures) {
		check(true, now.test);
		return;
	}
	print("# differences in this test: ");
	print_hex(now.failures);
	print("\n");
}
