/*
 * Page faults of user code: of every kind of access, where one of two pages or both are missing, read-only or the
 * supervisor's; nothing has changed, and the instruction goes on when the page is there. Addresses that are not
 * canonical, and those around the borders of large pieces of the address space.
 */
#include "user64.h"

#define TURNS 12
#define BAD_TURN 8 /* counted from 0 */
#define RF 0x10000u

enum kind { R, W, RMW };
enum { AVX = 1, AVX512 };

/*
 * What is executed at the address in RSI; code before it. The addresses come from a list at R14. Only registers that
 * have no use here change.
 */
#define OPS(X) \
	X(load_8, R, 1, 0, "", "movb (%rsi), %cl") \
	X(load_16, R, 2, 0, "", "movw (%rsi), %cx") \
	X(load_32, R, 4, 0, "", "movl (%rsi), %ecx") \
	X(load_64, R, 8, 0, "", "movq (%rsi), %rcx") \
	X(load_movsx, R, 4, 0, "", "movslq (%rsi), %rcx") \
	X(cmp, R, 8, 0, "", "cmpq %rax, (%rsi)") \
	X(alu_load, R, 4, 0, "", "addl (%rsi), %ecx") \
	X(disp32, R, 8, 0, "subq $0x12345, %rsi", "movq 0x12345(%rsi), %rcx") \
	X(indexed, R, 4, 0, "movq $-24, %rcx; leaq 48(%rsi), %rdx", "movl (%rdx,%rcx,2), %edi") \
	X(push_mem, R, 8, 0, "leaq -0x100(%rbp), %rsp", "pushq (%rsi)") \
	X(pop, R, 8, 0, "movq %rsi, %rsp", "popq %rcx") \
	X(lods, R, 8, 0, "", "lodsq") \
	X(movups_load, R, 16, 0, "", "movups (%rsi), %xmm1") \
	X(movsd_load, R, 8, 0, "", "movsd (%rsi), %xmm1") \
	X(fld, R, 10, 0, "fninit", "fldt (%rsi)") \
	X(ymm_load, R, 32, AVX, "", "vmovups (%rsi), %ymm1") \
	X(zmm_load, R, 64, AVX512, "", "vmovdqu64 (%rsi), %zmm1") \
	X(store_8, W, 1, 0, "", "movb %al, (%rsi)") \
	X(store_16, W, 2, 0, "", "movw %ax, (%rsi)") \
	X(store_32, W, 4, 0, "", "movl %eax, (%rsi)") \
	X(store_64, W, 8, 0, "", "movq %rax, (%rsi)") \
	X(store_imm, W, 8, 0, "", "movq $0x1234567, (%rsi)") \
	X(setcc, W, 1, 0, "cmpq %rax, %rax", "setz (%rsi)") \
	X(movnti, W, 8, 0, "", "movnti %rax, (%rsi)") \
	X(push, W, 8, 0, "leaq 8(%rsi), %rsp", "pushq %rax") \
	X(pop_mem, W, 8, 0, "leaq -0x100(%rbp), %rsp", "popq (%rsi)") \
	X(call, W, 8, 0, "leaq 8(%rsi), %rsp", "call 2f; 2:") \
	X(stos, W, 8, 0, "movq %rsi, %rdi", "stosq") \
	X(movups_store, W, 16, 0, "", "movups %xmm0, (%rsi)") \
	X(movlps_store, W, 8, 0, "", "movlps %xmm0, (%rsi)") \
	X(fstp, W, 8, 0, "fninit; fldpi", "fstpl (%rsi)") \
	X(ymm_store, W, 32, AVX, "vmovups (%rbp), %ymm1", "vmovups %ymm1, (%rsi)") \
	X(zmm_store, W, 64, AVX512, "vmovups (%rbp), %zmm1", "vmovdqu64 %zmm1, (%rsi)") \
	X(add, RMW, 4, 0, "", "addl %eax, (%rsi)") \
	X(inc, RMW, 8, 0, "", "incq (%rsi)") \
	X(not, RMW, 2, 0, "", "notw (%rsi)") \
	X(shl, RMW, 8, 0, "", "shlq $3, (%rsi)") \
	X(xchg, RMW, 8, 0, "movq %r8, %rdi", "xchgq %rdi, (%rsi)") \
	X(lock_add, RMW, 4, 0, "", "lock addl %eax, (%rsi)") \
	X(lock_xadd, RMW, 8, 0, "movq %r8, %rdi", "lock xaddq %rdi, (%rsi)") \
	X(lock_bts, RMW, 8, 0, "", "lock btsq $17, (%rsi)")

#define CODE(name, kind, size, needs, before, insn) \
	extern const u8 f_##name##_at[]; \
	USER_CODE(f_##name, "1: movq (%r14), %rsi; addq $8, %r14; " before "\n.globl f_" #name "_at\nf_" #name "_at: " insn \
		  "\ndecl %r15d; jnz 1b" END);
OPS(CODE)
static const struct op { const char *name; const u8 *code, *at; enum kind kind; unsigned size; int needs; } ops[] = {
#define ROW(name, kind, size, needs, before, insn) {#name, f_##name, f_##name##_at, kind, size, needs},
	OPS(ROW)
};
#define NR_OPS (sizeof(ops) / sizeof(ops[0]))

static u64 root;
static int vectors;

/* --- Two pages ------------------------------------------------------------------------------------------------------ */

/* Pages 0 and 1 of the data are the subject; page 3 is always there. */
#define FRAME_A FRAME(44)
#define FRAME_B FRAME(41)
#define FRAME_GOOD FRAME(46)
#define SLOT 0x400 /* in the good page: used again and again; and 0x200 behind it: used in the last turn only */
#define FILL 0x5a

enum state { OK, READ_ONLY, ABSENT, SUPERVISOR };
static const u64 bits_of[] = {RW, PG_P | PG_U, 0, PG_P | PG_W};

static void map_page(unsigned r, unsigned page, u64 bits)
{
	u64 frame = page ? FRAME_B : FRAME_A;

	user_map(root, USER_DATA(r, page), bits ? frame | bits : 0);
}

static u64 error_of(enum state s, enum kind kind)
{
	if (s == OK || (s == READ_ONLY && kind == R))
		return ~0ull;
	return IN_USER | (s != ABSENT) | (kind != R ? 2 : 0);
}

/* The bytes at an offset in the two pages, and 16 on both sides of them, are those at @want. */
static void check_bytes(const char *what, unsigned offset, unsigned size, const u8 *want)
{
	unsigned from = offset - 16, n = size + 32, first = from + n <= 4096 ? n : 4096 - from;

	same_bytes(what, (u8 *)FRAME_A + from, want, first);
	same_bytes(what, (u8 *)FRAME_B, want + first, n - first);
}

static struct {
	unsigned r, faults, offset, size;
	struct frame f[2];
	u64 cr2[2];
} seen;

static u8 untouched[128];

/* The page comes, and the instruction again. */
static void on_fault(struct frame *f)
{
	u64 cr2 = read_cr2();

	if (seen.faults == 2 || cr2 - USER_DATA(seen.r, 0) >= 0x2000)
		user_end(f);
	seen.f[seen.faults] = *f;
	seen.cr2[seen.faults++] = cr2;
	check_bytes("memory at the fault", seen.offset, seen.size, untouched);
	map_page(seen.r, cr2 >= USER_DATA(seen.r, 1), RW);
}

static void run_op(struct user *u, const struct op *op, unsigned code, unsigned r, u64 bad, unsigned turns)
{
	u64 *list = (u64 *)(FRAME(2 * r) + 0x100), good = USER_DATA(r, 3) + SLOT;

	for (unsigned n = 0; n < TURNS; n++)
		list[n] = n == BAD_TURN ? bad : n == TURNS - 1 ? good + 0x200 : good;
	memset((void *)(FRAME_GOOD + SLOT - 64), FILL, 0x300);
	user_set(u, USER_CODE_AT(code, op->code), USER_STACK(r) + 0x1800);
	u->f.r14 = USER_STACK(r) + 0x100;
	u->f.rbp = USER_STACK(r) + 0x1400;
	u->f.r15 = turns;
	asm volatile("fninit; movq %0, %%xmm0; movlhps %%xmm0, %%xmm0" : : "r"(0x1020304050607080ull));
	user_run(u);
}

static void same_registers(const struct frame *got, const struct frame *want, unsigned but)
{
	static const char *const names[15] = {
		"R15", "R14", "R13", "R12", "R11", "R10", "R9", "R8", "RDI", "RSI", "RBP", "RBX", "RDX", "RCX", "RAX",
	};

	for (unsigned n = 0; n < 15; n++)
		if (!(but >> n & 1))
			same(names[n], ((u64 *)got)[n], ((u64 *)want)[n]);
}

/*
 * @before: after the turns before the one that faults; @fault_free: after all of them.
 */
static void test_states(const struct op *op, unsigned code, unsigned r, unsigned offset, enum state a, enum state b,
			const struct user *before, const struct user *fault_free)
{
	u64 la = USER_DATA(r, 0) + offset, rip = USER_CODE_AT(code, op->at);
	u64 error_a = offset < 4096 ? error_of(a, op->kind) : ~0ull;
	u64 error_b = offset + op->size > 4096 ? error_of(b, op->kind) : ~0ull;
	unsigned wanted = (error_a != ~0ull) + (error_b != ~0ull);
	struct user u;

	now.at = la;
	now.more = a << 4 | b;
	memset((void *)(FRAME_A + 4096 - 160), FILL, 160);
	memset((void *)FRAME_B, FILL, 160);
	map_page(r, 0, bits_of[a]);
	map_page(r, 1, bits_of[b]);
	seen.r = r;
	seen.offset = offset;
	seen.size = op->size;
	seen.faults = 0;
	run_op(&u, op, code, r, la, TURNS);
	same("vector", u.f.vector, 0x80);
	same("number of page faults", seen.faults, wanted);
	for (unsigned n = 0; n < wanted && n < seen.faults; n++) {
		const struct frame *f = &seen.f[n];
		bool in_a = seen.cr2[n] < USER_DATA(r, 1);

		same("CR2", seen.cr2[n], in_a ? la : offset < 4096 ? USER_DATA(r, 1) : la);
		same("error code", f->error, in_a ? error_a : error_b);
		same("RIP", f->rip, rip);
		same("turns left", f->r15, TURNS - BAD_TURN);
		same("CS", f->cs, USER_CS);
		/* RSI, RDI and RDX may be made from the address; R14 and R15 count. */
		same_registers(f, &before->f, 1 << 0 | 1 << 1 | 1 << 8 | 1 << 9 | 1 << 12);
		same("R14", f->r14, USER_STACK(r) + 0x100 + 8 * (BAD_TURN + 1));
		if (op->code == f_push || op->code == f_call)
			same("RSP", f->rsp, la + 8);
		else if (op->code == f_pop)
			same("RSP", f->rsp, la);
	}
	same_registers(&u.f, &fault_free->f, 0);
	same("RSP at the end", u.f.rsp, fault_free->f.rsp);
	same("RFLAGS at the end", u.f.rflags & ~RF, fault_free->f.rflags);
	check_bytes("memory at the end", offset, op->size, (u8 *)FRAME_GOOD + SLOT + 0x200 - 16);
}

static void test_op(const struct op *op)
{
	static const enum state states[][2] = {
		{OK, OK}, {ABSENT, OK}, {OK, ABSENT}, {READ_ONLY, OK}, {OK, READ_ONLY}, {SUPERVISOR, OK},
		{OK, SUPERVISOR}, {ABSENT, ABSENT},
	};
	unsigned size = op->size;
	/* In the first page, across the border, in the second. */
	const unsigned offsets[] = {4096 - size, 4096 - (size + 1) / 2, 4097 - size, 4095, 4096};
	struct user before, fault_free;

	test_begin(op->name);
	for (unsigned r = 0; r < NR_RANGES; r++) {
		unsigned code = (r + (unsigned)(op - ops)) & 1 ? 2 : 5;

		user_map(root, USER_DATA(r, 3), FRAME_GOOD | RW);
		now.code = USER_CODE_AT(code, op->code);
		run_op(&before, op, code, r, 0, BAD_TURN);
		run_op(&fault_free, op, code, r, USER_DATA(r, 3) + SLOT, TURNS);
		if (!same("vector, without faults", fault_free.f.vector, 0x80))
			continue;
		for (unsigned n = 0; n < (size == 1 ? 2 : 5); n++)
			for (unsigned s = 0; s < 8; s++)
				test_states(op, code, r, size == 1 ? 4095 + n : offsets[n], states[s][0], states[s][1],
					    &before, &fault_free);
	}
	test_end();
}

static void test_ops(void)
{
	memset(untouched, FILL, sizeof(untouched));
	trap_table[14] = on_fault;
	for (unsigned n = 0; n < NR_OPS; n++)
		if (ops[n].needs <= vectors)
			test_op(&ops[n]);
	trap_table[14] = user_end;
}

/* --- String instructions that stop in the middle ------------------------------------------------------------------ */

USER_CODE(string_copy, "rep movsb" END);
USER_CODE(string_fill, "rep stosq" END);

static void test_strings(void)
{
	struct user u;

	test_begin("REP MOVSB and STOSQ that run into an absent page");
	for (unsigned r = 0; r < NR_RANGES; r++) {
		u64 good = USER_DATA(r, 3), edge = USER_DATA(r, 1);

		now.at = edge;
		map_page(r, 0, RW);
		map_page(r, 1, 0);
		for (unsigned n = 0; n < 4096; n++)
			*(u8 *)(FRAME_GOOD + n) = (u8)(n * 7);
		memset((void *)FRAME_A, 0, 4096);
		for (unsigned from = 0; from < 2; from++) {
			user_set(&u, USER_CODE_AT(5 - r, string_copy), USER_STACK(r) + 0x1800);
			u.f.rsi = from ? edge - 300 : good;
			u.f.rdi = from ? good + 0x800 : edge - 300;
			u.f.rcx = 1000;
			user_run(&u);
			same("vector", u.f.vector, 14);
			same("error code", u.f.error, from ? 4 : 6);
			same("CR2", u.cr2, edge);
			same("RCX", u.f.rcx, 700);
			same("RSI", u.f.rsi, from ? edge : good + 300);
			same("RDI", u.f.rdi, from ? good + 0x800 + 300 : edge);
			same("RIP", u.f.rip, USER_CODE_AT(5 - r, string_copy));
		}
		same_bytes("what was copied", (u8 *)FRAME_A + 4096 - 300, (u8 *)FRAME_GOOD, 300);
		same_bytes("what was copied back", (u8 *)FRAME_GOOD + 0x800, (u8 *)FRAME_GOOD, 300);
		user_set(&u, USER_CODE_AT(r, string_fill), USER_STACK(r) + 0x1800);
		u.f.rdi = edge - 804;
		u.f.rcx = 200;
		user_run(&u);
		same("STOSQ: vector", u.f.vector, 14);
		same("STOSQ: CR2", u.cr2, edge);
		same("STOSQ: RCX", u.f.rcx, 100);
		same("STOSQ: RDI", u.f.rdi, edge - 4);
	}
	test_end();
}

/* --- Addresses ------------------------------------------------------------------------------------------------------ */

/* R15 turns, the third last of them at RDI: as the stack or as data. */
USER_CODE(stack_reader, "1: movq %rbx, %rsp; cmpl $3, %r15d; cmoveq %rdi, %rsp\n"
	  ".globl stack_reader_at\nstack_reader_at: movq (%rsp), %rax; subl $1, %r15d; jnz 1b" END);
USER_CODE(frame_writer, "1: movq %rbx, %rbp; cmpl $3, %r15d; cmoveq %rdi, %rbp\n"
	  ".globl frame_writer_at\nframe_writer_at: movq %rax, (%rbp); subl $1, %r15d; jnz 1b" END);
USER_CODE(popper, "1: movq %rbx, %rsp; cmpl $3, %r15d; cmoveq %rdi, %rsp\n"
	  ".globl popper_at\npopper_at: popq %rax; subl $1, %r15d; jnz 1b" END);
USER_CODE(pusher, "1: leaq 8(%rbx), %rsp; leaq 8(%rdi), %rax; cmpl $3, %r15d; cmoveq %rax, %rsp\n"
	  ".globl pusher_at\npusher_at: pushq %rax; subl $1, %r15d; jnz 1b" END);
USER_CODE(xmm_reader, "1: movq %rbx, %rsi; cmpl $3, %r15d; cmoveq %rdi, %rsi\n"
	  ".globl xmm_reader_at\nxmm_reader_at: movups (%rsi), %xmm0; subl $1, %r15d; jnz 1b" END);
USER_CODE(adder, "1: movq %rbx, %rsi; cmpl $3, %r15d; cmoveq %rdi, %rsi\n"
	  ".globl adder_at\nadder_at: lock addl %eax, (%rsi); subl $1, %r15d; jnz 1b" END);
extern const u8 stack_reader_at[], frame_writer_at[], popper_at[], pusher_at[], xmm_reader_at[], adder_at[];

USER_CODE(data_reader, "1: movq %rbx, %rsi; cmpl $3, %r15d; cmoveq %rdi, %rsi\n"
	  ".globl data_reader_at\ndata_reader_at: movq (%rsi), %rax; subl $1, %r15d; jnz 1b" END);
USER_CODE(data_writer, "1: movq %rbx, %rsi; cmpl $3, %r15d; cmoveq %rdi, %rsi\n"
	  ".globl data_writer_at\ndata_writer_at: movq %rax, (%rsi); subl $1, %r15d; jnz 1b" END);
extern const u8 data_reader_at[], data_writer_at[];

static const struct form { const char *name; const u8 *code, *at; bool stack, write; } forms[] = {
	{"MOV from (RSI)", data_reader, data_reader_at, false, false},
	{"MOV to (RSI)", data_writer, data_writer_at, false, true},
	{"MOV from (RSP)", stack_reader, stack_reader_at, true, false},
	{"MOV to (RBP)", frame_writer, frame_writer_at, true, true},
	{"POP", popper, popper_at, true, false},
	{"PUSH", pusher, pusher_at, true, true},
	{"MOVUPS from (RSI)", xmm_reader, xmm_reader_at, false, false},
	{"LOCK ADD to (RSI)", adder, adder_at, false, true},
};
#define NR_FORMS (sizeof(forms) / sizeof(forms[0]))

static void try_address(const struct form *f, unsigned code, u64 good, u64 la, u64 vector, u64 error)
{
	struct user u;

	now.what = f->name;
	now.code = USER_CODE_AT(code, f->code);
	now.at = la;
	user_set(&u, now.code, 0);
	u.f.rbx = good;
	u.f.rdi = la;
	u.f.rbp = good;
	u.f.r15 = TURNS;
	user_run(&u);
	same("vector", u.f.vector, vector);
	same("turns left", u.f.r15, vector == 0x80 ? 0 : 3);
	if (vector == 0x80)
		return;
	same("RIP", u.f.rip, USER_CODE_AT(code, f->at));
	same("error code", u.f.error, error);
	if (vector == 14)
		same("CR2", u.cr2, la);
}

static void test_wild(void)
{
	test_begin("addresses that are not canonical, or not the program's");
	for (unsigned r = 0; r < NR_RANGES; r++)
		for (unsigned n = 0; n < NR_FORMS; n++) {
			const struct form *f = &forms[n];
			u64 good = USER_DATA(r, 3) + 0x408;
			unsigned code = (r + n) & 1 ? 2 : 5;

			user_map(root, good & ~0xfffull, FRAME_GOOD | RW);
			for (int bit = 47; bit < 64; bit++)
				try_address(f, code, good, good ^ 1ull << bit, f->stack ? 12 : 13, 0);
			u64 high = good | 0xffff800000000000;
			try_address(f, code, good, high, 14, 4 | f->write << 1);
			user_map(root, high & ~0xfffull, FRAME_GOOD | PG_P | PG_W);
			try_address(f, code, good, high, 14, 5 | f->write << 1);
			user_map(root, high & ~0xfffull, FRAME_GOOD | RW);
			try_address(f, code, good, high, 0x80, 0);
			user_map(root, high & ~0xfffull, 0);
		}
	test_end();
}

/* Pages on both sides of a border. */
static void test_borders(void)
{
	static const u64 borders[] = {
		0x010000000000, 0x550000000000, 0x560000000000, 0x570000000000, 0x7e0000000000, 0x7f0000000000,
	};

	test_begin("around borders of 1 TiB");
	for (unsigned n = 0; n < sizeof(borders) / sizeof(borders[0]); n++)
		for (unsigned code = 2; code < NR_RANGES; code += 3) {
			u64 x = borders[n], *below = (u64 *)FRAME_A, *above = (u64 *)FRAME_B;

			now.what = "both pages";
			now.at = x;
			now.code = USER_CODE_AT(code, user_code);
			user_map(root, x - 4096, FRAME_A | RW);
			user_map(root, x, FRAME_B | RW);
			below[511] = 0x1111111122222222;
			above[0] = 0x3333333344444444;
			user_reads(code, x - 8, 0x1111111122222222);
			user_reads(code, x, 0x3333333344444444);
			user_reads(code, x - 4, 0x4444444411111111);
			user_writes(code, x - 2, 0x5555666677778888);
			same("below", below[511], 0x8888111122222222);
			same("above", above[0], 0x3333555566667777);
			below[511] = above[0] = 0;
			for (unsigned f = 0; f < NR_FORMS; f++) {
				try_address(&forms[f], code, x - 8, x, 0x80, 0);
				try_address(&forms[f], code, x + 0x10, x - 8, 0x80, 0);
				try_address(&forms[f], code, x + 0x10, x - 4, 0x80, 0);
			}
			now.what = "one page";
			user_map(root, x, 0);
			user_read_faults(code, x, x - 8, 4);
			user_write_faults(code, x + 8, x - 16, 6);
			user_map(root, x, FRAME_B | RW);
			user_map(root, x - 4096, 0);
			user_read_faults(code, x - 8, x, 4);
			user_write_faults(code, x - 4, x, 6);
		}
	/* The end of user addresses. */
	u64 x = 0x800000000000;
	user_map(root, x - 4096, FRAME_A | RW);
	for (unsigned f = 0; f < NR_FORMS; f++) {
		u64 vector = forms[f].stack ? 12 : 13;

		try_address(&forms[f], 2, x - 0x100, x - 16, 0x80, 0);
		try_address(&forms[f], 5, x - 0x100, x - 3, vector, 0);
		try_address(&forms[f], 5, x - 0x100, x, vector, 0);
		try_address(&forms[f], 2, x - 0x100, x + 0x100, vector, 0);
	}
	test_end();
}

/* Many accesses over one base: the base and what it reaches are in different pieces. */
USER_CODE(one_base, "xorl %edx, %edx\n1: addq (%rbx), %rdx; addq -0x1000(%rbx), %rdx; addq 0x1000(%rbx), %rdx\n"
	  "addq -0x40000000(%rbx), %rdx; movq %r8, 8(%rbx); movq %r8, 0x40000008(%rbx); addq 0x40000000(%rbx), %rdx\n"
	  "addq (%rbx,%r9), %rdx; addq 0x10(%rbx,%r10,8), %rdx; decl %r15d; jnz 1b" END);
/* 32-bit addresses, in whatever is above them in the register. */
USER_CODE(short_addresses, "1: addl (%ebx), %edx; movl %edx, 8(%ebx); addl 4(%ebx,%r9d), %edx; decl %r15d; jnz 1b" END);

static void test_bases(void)
{
	struct user u;

	test_begin("accesses over one base, far apart");
	for (unsigned r = 0; r < NR_RANGES; r++) {
		/* Where the border is between base and displacement. */
		u64 x = (user_range[r] & ~0xffffffffffull) + (r ? 0 : 0x10000000000), base = x + 0x20000000;
		u64 far = 0x200000001000 - base, *v = (u64 *)FRAME(60);

		for (unsigned n = 0; n < 7; n++)
			*(u64 *)FRAME(60 + n) = 1ull << 8 * n;
		user_map(root, base, FRAME(60) | RW);
		user_map(root, base - 0x1000, FRAME(61) | RW);
		user_map(root, base + 0x1000, FRAME(62) | RW);
		user_map(root, base - 0x40000000, FRAME(63) | RW);
		user_map(root, base + 0x40000000, FRAME(64) | RW);
		user_map(root, base + far, FRAME(65) | RW);
		user_map(root, 0x400000 + 0x50000, FRAME(66) | RW);
		for (unsigned code = 2; code < NR_RANGES; code += 3) {
			now.at = base;
			now.code = USER_CODE_AT(code, one_base);
			v[1] = 0;
			user_set(&u, now.code, USER_STACK(r) + 0x1800);
			u.f.rbx = base;
			u.f.r9 = far;
			u.f.r10 = (0x450000 - 0x10 - base) >> 3 | 7ull << 61;
			u.f.r15 = TURNS;
			user_run(&u);
			same("vector", u.f.vector, 0x80);
			same("sum", u.f.rdx, 0x01010101010101 * TURNS);
			same("stored", v[1], u.f.r8);
			same("stored afar", *(u64 *)(FRAME(64) + 8), u.f.r8);
		}
		now.at = 0x450000;
		now.what = "32-bit addresses";
		now.code = USER_CODE_AT(5 - r, short_addresses);
		*(u64 *)FRAME(66) = 3;
		user_set(&u, now.code, USER_STACK(r) + 0x1800);
		u.f.rbx = (base & ~0xffffffffull) | 0x450000;
		u.f.r9 = 0x7fff00000004;
		u.f.rdx = 0;
		u.f.r15 = 1;
		user_run(&u);
		same("vector", u.f.vector, 0x80);
		same("sum", u.f.rdx, 6);
		same("stored", *(u32 *)(FRAME(66) + 8), 3);
		*(u64 *)FRAME(66) = 1ull << 48;
		now.what = 0;
	}
	test_end();
}

void guest_main(void)
{
	root = user_begin();
	vectors = user_vectors();
	test_ops();
	test_strings();
	test_wild();
	test_borders();
	test_bases();
}
