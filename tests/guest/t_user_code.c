/*
 * User code that changes while it is in use: by itself, by other user code, by another mapping, by the kernel, by its
 * page tables; pages that are code and data at once. Kernel code: t_smc.c.
 */
#include "user64.h"

#define TURNS 60
#define FUNCTION 0xc300000000b8 /* movl $0, %eax; ret */

/*
 * Each turn writes R15D into the MOV of the function at RBX, in its own way, and calls it by R12, which is the same or
 * another address of it. RDI points to a copy, R9 gets the sum. By another address serialization is needed.
 */
#define WRITERS(X) \
	X(mov, "movl %r15d, 1(%rbx)") \
	X(byte, "movb %r15b, 1(%rbx)") \
	X(both_words, "movw %r15w, 1(%rbx); movw $0, 3(%rbx)") \
	X(xchg, "movl %r15d, %eax; xchgl %eax, 1(%rbx)") \
	X(lock_add, "movl 1(%rbx), %eax; movl %r15d, %ecx; subl %eax, %ecx; lock addl %ecx, 1(%rbx)") \
	X(rmw, "movl %r15d, %eax; xorl 1(%rbx), %eax; xorl %eax, 1(%rbx)") \
	X(whole, "movq %r15, %rax; shlq $8, %rax; orq %r8, %rax; movq %rax, (%rbx)") \
	X(push, "movq %r15, %rax; shlq $8, %rax; orq %r8, %rax; movq %rsp, %rcx; leaq 8(%rbx), %rsp; pushq %rax\n" \
	  "movq %rcx, %rsp") \
	X(pop, "movq %r15, %rax; shlq $8, %rax; orq %r8, %rax; pushq %rax; popq (%rbx)") \
	X(movups, "movl %r15d, 1(%rdi); movups (%rdi), %xmm0; movups %xmm0, (%rbx)") \
	X(movs, "movl %r15d, 1(%rdi); movq %rdi, %rsi; movq %rbx, %rdi; movl $6, %ecx; rep movsb; leaq -6(%rsi), %rdi") \
	X(stos, "movq %rdi, %rsi; leaq 1(%rbx), %rdi; movl %r15d, %eax; stosl; movq %rsi, %rdi") \
	X(x87, "movq %r15, -8(%rsp); fildl -8(%rsp); fistpl 1(%rbx)")

#define CODE(name, text) \
	USER_CODE(w_##name, "xorl %r9d, %r9d\n1: " text "\ncall *%r12; addq %rax, %r9; decl %r15d; jnz 1b" END); \
	USER_CODE(s_##name, "xorl %r9d, %r9d\n1: " text "\nmovq %rbx, %r13; xorl %eax, %eax; cpuid; movq %r13, %rbx\n" \
		  "call *%r12; addq %rax, %r9; decl %r15d; jnz 1b" END);
WRITERS(CODE)
static const struct writer { const char *name; const u8 *direct, *serialized; } writers[] = {
#define ROW(name, text) {#name, w_##name, s_##name},
	WRITERS(ROW)
};
#define NR_WRITERS (sizeof(writers) / sizeof(writers[0]))
#define WRITER_SIZE 160 /* more than any of them has */

static u64 root;

/* Two pages of code and data in each range, at the same time elsewhere. */
#define PAGE_A FRAME(FREE_FRAME + 2)
#define PAGE_B FRAME(FREE_FRAME)
#define HERE(r) USER_DATA(r, 8)
#define ALIAS(r) USER_DATA(NR_RANGES - 1 - (r), 12)

static void map_pages(unsigned r)
{
	for (unsigned n = 0; n < 2; n++) {
		user_map(root, HERE(r) + n * 4096, (n ? PAGE_B : PAGE_A) | RW);
		user_map(root, ALIAS(r) + n * 4096, (n ? PAGE_B : PAGE_A) | RW | PG_NX);
	}
	memset((void *)PAGE_A, 0xcc, 4096);
	memset((void *)PAGE_B, 0xcc, 4096);
}

static u8 *byte_at(unsigned offset)
{
	return (u8 *)((offset < 4096 ? PAGE_A : PAGE_B - 4096) + offset);
}

static void put_function(unsigned offset, u32 v)
{
	const u64 bytes = FUNCTION | (u64)v << 8;

	for (unsigned n = 0; n < 6; n++)
		*(volatile u8 *)byte_at(offset + n) = ((u8 *)&bytes)[n];
}

static void run_writer(u64 rip, u64 write_at, u64 call_at, unsigned r)
{
	struct user u;

	now.code = rip;
	now.at = write_at;
	user_set(&u, rip, USER_STACK(r) + 0x1800);
	u.f.rbx = write_at;
	u.f.r12 = call_at;
	u.f.r8 = FUNCTION;
	u.f.rdi = USER_STACK(r) + 0x400;
	*(u64 *)(FRAME(2 * r) + 0x400) = FUNCTION;
	*(u64 *)(FRAME(2 * r) + 0x408) = 0xcccccccccccccccc;
	u.f.r15 = TURNS;
	asm volatile("fninit");
	user_run(&u);
	same("vector", u.f.vector, 0x80);
	same("sum of what the function said", u.f.r9, TURNS * (TURNS + 1) / 2);
}

static void test_writer(const struct writer *w)
{
	static const unsigned offsets[] = {0x100, 0x1fff - 0x100, 4096 - 3, 4096 - 1, 4096 - 5};

	test_begin(w->name);
	for (unsigned r = 0; r < NR_RANGES; r++)
		for (unsigned n = 0; n < 5; n++) {
			unsigned at = offsets[n];

			map_pages(r);
			now.more = at;
			for (unsigned c = 2; c < NR_RANGES; c += 3) {
				now.what = "by the same address";
				put_function(at, 0);
				run_writer(USER_CODE_AT(c, w->direct), HERE(r) + at, HERE(r) + at, r);
				now.what = "by another address";
				put_function(at, 0);
				run_writer(USER_CODE_AT(c, w->serialized), ALIAS(r) + at, HERE(r) + at, r);
			}
			/* The writer stands in the page that it changes. */
			now.what = "in the same page";
			memcpy(byte_at(0x700), w->direct, WRITER_SIZE);
			put_function(at, 0);
			run_writer(HERE(r) + 0x700, HERE(r) + at, HERE(r) + at, r);
			now.what = "in the same page, by another address";
			memcpy(byte_at(0x700), w->serialized, WRITER_SIZE);
			put_function(at, 0);
			run_writer(HERE(r) + 0x700, ALIAS(r) + at, HERE(r) + at, r);
		}
	test_end();
}

/* --- Data beside code ------------------------------------------------------------------------------------------------ */

/* RBX is the page's beginning: counters, and a stack, in the page of the code itself. */
USER_CODE(beside, "movq %rsp, %r14; leaq 0xf00(%rbx), %rsp; xorl %edx, %edx\n"
	  "1: incq 0x200(%rbx); lock addq %r15, 0x208(%rbx); pushq %r15; popq %rax; addq %rax, %rdx; call 2f; movq 0x200(%rbx), %rcx\n"
	  "movq %rcx, 0xff8(%rbx); addq 0xffc(%rbx), %rcx; decl %r15d; jnz 1b; movq %r14, %rsp; int $0x80\n2: addq (%rsp), %r8; ret" END);

static void test_beside(void)
{
	struct user u;

	test_begin("data and stack beside the code");
	for (unsigned r = 0; r < NR_RANGES; r++) {
		map_pages(r);
		memcpy(byte_at(0x700), beside, WRITER_SIZE);
		for (unsigned turn = 0; turn < 2; turn++) {
			now.at = HERE(r);
			*(volatile u64 *)byte_at(0x200) = *(volatile u64 *)byte_at(0x208) = 0;
			user_set(&u, HERE(r) + 0x700, USER_STACK(r) + 0x1800);
			u.f.rbx = HERE(r);
			u.f.r15 = 500;
			user_run(&u);
			same("vector", u.f.vector, 0x80);
			same("a count", *(volatile u64 *)byte_at(0x200), 500);
			same("a sum", *(volatile u64 *)byte_at(0x208), 500 * 501 / 2);
			same("a sum by way of the stack", u.f.rdx, 500 * 501 / 2);
			same("the page's end", *(volatile u64 *)byte_at(0xff8), 500);
		}
	}
	test_end();
}

/* The immediate of the next instruction, and of one that is behind: EAX counts in the code itself. */
USER_CODE(itself, "xorl %edx, %edx\n1: movl %r15d, 2f+1(%rip)\n2: movl $0x55555555, %eax; addq %rax, %rdx\n"
	  "movl $0x55555555, 2b+1(%rip); lock addl $2, 3f+2(%rip)\n3: addl $0, %ecx; decl %r15d; jnz 1b" END);

static void test_itself(void)
{
	struct user u;

	test_begin("the next instruction");
	for (unsigned r = 0; r < NR_RANGES; r++)
		for (unsigned at = 0x200; at < 4096; at += 4096 - 0x200 - 0x12) {
			map_pages(r);
			for (unsigned n = 0; n < WRITER_SIZE; n++)
				*byte_at(at + n) = itself[n];
			now.at = HERE(r) + at;
			user_set(&u, now.at, USER_STACK(r) + 0x1800);
			u.f.rcx = 0;
			u.f.r15 = TURNS;
			user_run(&u);
			same("vector", u.f.vector, 0x80);
			same("sum of what it loaded", u.f.rdx, TURNS * (TURNS + 1) / 2);
			same("sum of what it added", u.f.rcx, TURNS * (TURNS + 1));
		}
	test_end();
}

/* --- The kernel's doing ------------------------------------------------------------------------------------------------ */

static void test_kernel(void)
{
	test_begin("the kernel writes code, maps other code, takes rights away");
	for (unsigned r = 0; r < NR_RANGES; r++)
		for (unsigned c = 2; c < NR_RANGES; c += 3) {
			now.at = HERE(r);
			now.code = USER_CODE_AT(c, user_code);
			map_pages(r);
			for (u32 n = 1; n < 20; n++) {
				unsigned at = n % 3 ? 0x40 : 4096 - 4;

				now.more = n;
				put_function(at, n);
				user_calls(c, HERE(r) + at, n);
				*(volatile u32 *)(ALIAS(r) + 0x41) = n + 100;
				put_function(4096 - 4, n + 200);
				*(volatile u8 *)byte_at(0x40) = 0xb8;
				*(volatile u8 *)byte_at(0x45) = 0xc3;
				user_calls(c, HERE(r) + 0x40, n + 100);
				user_calls(c, HERE(r) + 4096 - 4, n + 200);
			}
			/* Other frames. */
			for (u32 n = 0; n < 6; n++) {
				now.more = 0x100 + n;
				put_function(0x40, 7);
				put_function(4096 + 0x40, 8);
				user_map(root, HERE(r), (n & 1 ? PAGE_B : PAGE_A) | RW);
				user_calls(c, HERE(r) + 0x40, n & 1 ? 8 : 7);
			}
			user_map(root, HERE(r), PAGE_A | RW | PG_NX);
			user_calls_faults(c, HERE(r) + 0x40, 0x15);
			user_map(root, HERE(r), PAGE_A | PG_P | PG_U);
			user_calls(c, HERE(r) + 0x40, 7);
			user_write_faults(c, HERE(r) + 0x41, HERE(r) + 4096, 7);
			user_calls(c, HERE(r) + 0x40, 7);
			user_map(root, HERE(r), PAGE_A | PG_P | PG_W);
			user_calls_faults(c, HERE(r) + 0x40, 0x15);
			user_map(root, HERE(r), 0);
			user_calls_faults(c, HERE(r) + 0x40, 0x14);
			/* The second half of an instruction is another one. */
			map_pages(r);
			put_function(4096 - 4, 0x01020304);
			user_calls(c, HERE(r) + 4096 - 4, 0x01020304);
			memcpy((void *)FRAME(FREE_FRAME + 4), (void *)PAGE_B, 4096);
			*(volatile u8 *)FRAME(FREE_FRAME + 4) = 0x77;
			user_map(root, HERE(r) + 4096, FRAME(FREE_FRAME + 4) | RW);
			user_calls(c, HERE(r) + 4096 - 4, 0x77020304);
		}
	test_end();
}

void guest_main(void)
{
	root = user_begin();
	user_vectors();
	for (unsigned n = 0; n < NR_WRITERS; n++)
		test_writer(&writers[n]);
	test_beside();
	test_itself();
	test_kernel();
}
