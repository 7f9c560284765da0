/*
 * Stacks of user code whose pages change between and under accesses: other pages, other rights, accessed and dirty
 * bits, address spaces, borders of pages, a copy on write (SDM vol. 3A, 4.7, 4.8 and 4.10.4.1).
 */
#include "user64.h"

static u64 root, root_b;

enum { ONE = FREE_FRAME, TWO, THREE, FOUR };
#define STACK(r) USER_DATA(r, 4) /* the page between two others that are mapped */
#define TOP 0x800
#define TURNS 40

/* Both as R15 turns. Pushes RBX and R15, reads and pops them: RAX is the sum. */
USER_CODE(pusher, "xorl %eax, %eax\n1: pushq %rbx; pushq %r15; addq 8(%rsp), %rax; movq (%rsp), %rcx; addq %rcx, %rax\n"
	  "addq $1, (%rsp); popq %rcx; popq %rdx; addq %rcx, %rax; decl %r15d; jnz 1b" END);
#define PUSHED(v) (TURNS * (v) + 2ull * (TURNS * (TURNS + 1) / 2) + TURNS)
/* Only reads, what RBX is afterwards. */
USER_CODE(popper, "xorl %eax, %eax\n1: popq %rbx; addq -8(%rsp), %rax; leaq -8(%rsp), %rsp; addq (%rsp), %rax\n"
	  "decl %r15d; jnz 1b" END);
/* Calls itself R15 levels deep, with a word for each: RAX is their sum. */
USER_CODE(deep, "xorl %eax, %eax; call 1f\nint $0x80\n1: pushq %r15; decl %r15d; jz 2f; call 1b\n2: popq %rcx; addq %rcx, %rax; ret");

static void map_stack(u64 in, unsigned r, u64 entry)
{
	user_map(in, STACK(r), entry);
}

static void run(struct user *u, unsigned r, const u8 *code, u64 rsp, u64 turns)
{
	now.at = rsp;
	user_set(u, USER_CODE_AT(r, code), rsp);
	u->f.rbx = 7;
	u->f.r15 = turns;
	user_run(u);
}

static void pushes(unsigned r, u64 rsp)
{
	struct user u;

	run(&u, r, pusher, rsp, TURNS);
	same("vector", u.f.vector, 0x80);
	same("sum of what was pushed", u.f.rax, PUSHED(7));
	same("RSP", u.f.rsp, rsp);
}

static void pops(unsigned r, u64 rsp, u64 v)
{
	struct user u;

	run(&u, r, popper, rsp, TURNS);
	same("vector", u.f.vector, 0x80);
	same("sum of what was popped", u.f.rax, 2 * TURNS * v);
	same("the last word", u.f.rbx, v);
	same("RSP", u.f.rsp, rsp);
}

static void faults(unsigned r, const u8 *code, u64 rsp, u64 error, u64 cr2)
{
	struct user u;

	run(&u, r, code, rsp, TURNS);
	same("vector", u.f.vector, 14);
	same("error code", u.f.error, error);
	same("CR2", u.cr2, cr2);
	same("RIP", u.f.rip, USER_CODE_AT(r, code) + 2);
	same("RSP", u.f.rsp, rsp);
}

static u64 ad(unsigned r)
{
	return *user_entry(root, STACK(r), 1) & (PG_A | PG_D);
}

#define EACH_RANGE(r) for (unsigned r = 0; r < NR_RANGES; r++)

static void test_invlpg(void)
{
	test_begin("stacks: another page, other rights, no page");
	EACH_RANGE(r)
		for (unsigned turn = 0; turn < 6; turn++) {
			u64 rsp = STACK(r) + TOP;
			unsigned frame = turn & 1 ? TWO : ONE, other = ONE + TWO - frame;
			volatile u64 *words = (u64 *)(FRAME(frame) + TOP);

			now.more = turn;
			fill_frame(ONE);
			fill_frame(TWO);
			map_stack(root, r, FRAME(frame) | RW);
			pops(r, rsp, content(frame));
			pushes(r, rsp);
			same("where it was pushed", words[-1], 7);
			same("the other page", ((u64 *)(FRAME(other) + TOP))[-1], content(other));
			pops(r, rsp, content(frame));
			map_stack(root, r, FRAME(frame) | PG_P | PG_U);
			pops(r, rsp, content(frame));
			faults(r, pusher, rsp, 7, rsp - 8);
			pops(r, rsp, content(frame));
			map_stack(root, r, FRAME(frame) | PG_P | PG_W);
			faults(r, popper, rsp, 5, rsp);
			faults(r, pusher, rsp, 7, rsp - 8);
			map_stack(root, r, 0);
			faults(r, popper, rsp, 4, rsp);
			faults(r, pusher, rsp, 6, rsp - 8);
		}
	test_end();
}

static void test_accessed_dirty(void)
{
	test_begin("stacks: accessed and dirty bits");
	fill_frame(THREE);
	EACH_RANGE(r)
		for (unsigned turn = 0; turn < 3; turn++) {
			u64 rsp = STACK(r) + TOP;

			now.more = turn;
			fill_frame(THREE);
			map_stack(root, r, FRAME(THREE) | RW);
			pops(r, rsp, content(THREE));
			same("A and D after pops", ad(r), PG_A);
			pushes(r, rsp);
			same("A and D after pushes", ad(r), PG_A | PG_D);
			*user_entry(root, STACK(r), 1) &= ~PG_D;
			invlpg(STACK(r));
			pops(r, rsp, content(THREE));
			same("D cleared, pops", ad(r), PG_A);
			pushes(r, rsp);
			same("D cleared, pushes", ad(r), PG_A | PG_D);
			*user_entry(root, STACK(r), 1) &= ~(PG_A | PG_D);
			invlpg(STACK(r));
			pushes(r, rsp);
			same("both cleared, pushes", ad(r), PG_A | PG_D);
		}
	test_end();
}

static void test_spaces(void)
{
	test_begin("stacks: two address spaces");
	fill_frame(ONE);
	fill_frame(TWO);
	EACH_RANGE(r) {
		user_map(root_b, STACK(r), FRAME(TWO) | RW);
		map_stack(root, r, FRAME(ONE) | RW);
		for (unsigned turn = 0; turn < 6; turn++) {
			now.more = turn;
			for (unsigned b = 0; b < 2; b++) {
				write_cr3(b ? root_b : root);
				pops(r, STACK(r) + TOP, content(b ? TWO : ONE));
				pushes(r, STACK(r) + TOP - 0x40);
			}
			same("A's page", ((u64 *)(FRAME(ONE) + TOP))[0], content(ONE));
			same("B's page", ((u64 *)(FRAME(TWO) + TOP))[0], content(TWO));
		}
		write_cr3(root);
	}
	test_end();
}

/* Over borders of pages that are not neighbours in memory; some words lie in two pages. */
static void test_borders(void)
{
	static const unsigned frames[] = {FOUR, ONE, THREE, TWO};
	struct user u;

	test_begin("stacks: borders of pages");
	EACH_RANGE(r) {
		for (unsigned n = 0; n < 4; n++)
			user_map(root, STACK(r) + n * 4096ull, FRAME(frames[n]) | RW);
		for (unsigned off = 0; off < 64; off++) {
			u64 rsp = STACK(r) + 0x3000 - 32 + off;

			now.more = off;
			pushes(r, rsp);
			run(&u, r, deep, rsp, 600);
			same("vector", u.f.vector, 0x80);
			same("sum of all levels", u.f.rax, 600 * 601 / 2);
			same("RSP", u.f.rsp, rsp);
		}
		/* As deep as it goes. */
		map_stack(root, r, 0);
		run(&u, r, deep, STACK(r) + 0x3000, 2000);
		same("vector", u.f.vector, 14);
		same("CR2", u.cr2, STACK(r) + 0xff8);
		map_stack(root, r, FRAME(FOUR) | RW);
	}
	test_end();
}

/*
 * #PF of a push gives the stack another page, as fork() does. Nobody says INVLPG: the fault has done so, also for reads
 * that come first: then the handler goes on in another place, which pops.
 */
static u64 copy_at, go_on;
static void copy_on_write(struct frame *f)
{
	if ((read_cr2() & ~0xfffull) != copy_at || f->error != 7) {
		user_end(f);
		return;
	}
	memcpy((void *)FRAME(TWO), (void *)FRAME(ONE), 4096);
	((volatile u64 *)(FRAME(TWO) + TOP))[0] = 0x55;
	*user_entry(root, copy_at, 1) = FRAME(TWO) | RW;
	if (go_on)
		f->rip = go_on;
}

static void test_copy(void)
{
	test_begin("stacks: a copy on write");
	trap_table[14] = copy_on_write;
	EACH_RANGE(r)
		for (unsigned turn = 0; turn < 6; turn++) {
			u64 rsp = STACK(r) + TOP;

			now.more = turn;
			fill_frame(ONE);
			copy_at = STACK(r);
			map_stack(root, r, FRAME(ONE) | PG_P | PG_U);
			pops(r, rsp, content(ONE));
			pushes(r, rsp);
			same("the original", ((u64 *)(FRAME(ONE) + TOP))[-1], content(ONE));
			same("the copy", ((u64 *)(FRAME(TWO) + TOP))[-1], 7);
			pops(r, rsp - 8, 7);
			pops(r, rsp, 0x55);

			struct user u;
			map_stack(root, r, FRAME(ONE) | PG_P | PG_U);
			go_on = USER_CODE_AT(r, popper);
			pops(r, rsp, content(ONE));
			run(&u, r, pusher, rsp, TURNS);
			same("sum of what was popped from the copy", u.f.rax, 2 * TURNS * 0x55);
			go_on = 0;
		}
	trap_table[14] = 0;
	test_end();
}

/* A non-canonical stack is #SS, also where one was in use a moment ago. */
static void test_canonical(void)
{
	static const u64 places[] = {0x800000000000, 0x4000000000000000, 0x8000000000000000, 0xffff7ffffffff000};
	struct user u;

	test_begin("stacks: non-canonical addresses");
	EACH_RANGE(r)
		for (unsigned n = 0; n < sizeof(places) / sizeof(places[0]); n++) {
			now.more = n;
			pushes(r, STACK(r) + TOP);
			run(&u, r, pusher, places[n] + TOP, TURNS);
			same("vector", u.f.vector, 12);
			same("error code", u.f.error, 0);
			same("RSP", u.f.rsp, places[n] + TOP);
			run(&u, r, pusher, places[n] ^ (STACK(r) + TOP), TURNS);
			same("vector", u.f.vector, 12);
		}
	test_end();
}

/* Pushes a function that loads R15, over and over, and jumps there: no other stack access comes between. */
USER_CODE(pushes_code, "leaq 2f(%rip), %r12; movabsq $0xe4ff4100000000b9, %r8; xorl %eax, %eax\n"
	  "1: movq %r15, %rdx; shlq $8, %rdx; orq %r8, %rdx; leaq 8(%rbx), %rsp; pushq %rdx; jmp *%rbx\n"
	  "2: addq %rcx, %rax; decl %r15d; jnz 1b" END);

static void test_code(void)
{
	struct user u;

	test_begin("stacks: code on a stack");
	EACH_RANGE(r)
		for (unsigned turn = 0; turn < 3; turn++) {
			map_stack(root, r, FRAME(THREE) | RW);
			now.more = turn;
			pushes(r, STACK(r) + 0x400);
			user_set(&u, USER_CODE_AT(r, pushes_code), STACK(r) + TOP);
			u.f.rbx = STACK(r) + TOP + 0x100 * turn;
			u.f.r15 = TURNS;
			user_run(&u);
			same("vector", u.f.vector, 0x80);
			same("sum", u.f.rax, TURNS * (TURNS + 1) / 2);
		}
	test_end();
}

void guest_main(void)
{
	root = user_begin();
	root_b = user_space_new();
	for (unsigned r = 0; r < NR_RANGES; r++) {
		user_map(root, STACK(r) - 4096, FRAME(FOUR) | RW);
		user_map(root, STACK(r) + 4096, FRAME(FOUR) | RW);
	}
	test_invlpg();
	test_accessed_dirty();
	test_spaces();
	test_borders();
	test_copy();
	test_canonical();
	test_code();
}
