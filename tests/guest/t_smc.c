/*
 * Self-modifying code: seen at once by the processor that writes it (SDM vol. 3A, 9.1.3), whatever writes it and by
 * whatever linear address. Legacy rule of this ISA: a store to the same linear address needs no more than the next
 * branch; by another linear address it needs a serializing instruction.
 */
#include "guest.h"


static u32 call_code(u64 at)
{
	u32 v;
	asm volatile("call *%1" : "=a"(v) : "r"(at) : "rcx", "rdx", "rsi", "rdi", "memory", "cc");
	return v;
}

static void serialize(void)
{
	u32 id[4];
	cpuid(0, 0, id);
}

/* movl $v, %eax; ret */
static void emit_mov(u64 at, u32 v)
{
	volatile u8 *p = (u8 *)at;

	p[0] = 0xb8;
	for (int n = 0; n < 4; n++)
		p[1 + n] = (u8)(v >> n * 8);
	p[5] = 0xc3;
}

/* --- The code changes itself -------------------------------------------------------------------------------------- */

/* The immediate of an instruction further on in the same straight line, and one that is already behind. */
asm(".text\n.balign 64\n"
    "self_next: movl $0x22222222, self_next_target+1(%rip)\nself_next_target: movl $0x11111111, %eax\n"
    "movl $0x11111111, self_next_target+1(%rip); ret\n"
    /* INC EAX becomes DEC EAX, two instructions ahead; modrm c0 and c8 */
    "self_op: xorl %eax, %eax; movb $0xc8, self_op_target+1(%rip); nop; addl $10, %eax\n"
    "self_op_target: incl %eax; movb $0xc0, self_op_target+1(%rip); ret\n"
    /* A loop that patches its own body in each round: EAX = 0 + 1 + ... + 9 */
    "self_loop: xorl %eax, %eax; xorl %ecx, %ecx; 1: movl %ecx, 2f+1(%rip)\n2: movl $0x55555555, %edx; "
    "addl %edx, %eax\n"
    "incl %ecx; cmpl $10, %ecx; jb 1b; ret\n"
    /* REP MOVSB and STOSB over what follows */
    "self_movs: leaq self_new(%rip), %rsi; leaq self_movs_target(%rip), %rdi; movl $5, %ecx; rep movsb\n"
    "self_movs_target: movl $0x11111111, %eax; ret\n"
    "self_new: movl $0x33333333, %eax\n"
    "self_stos: leaq self_stos_target(%rip), %rdi; movb $0x90, %al; movl $5, %ecx; rep stosb; movl $7, %eax\n"
    "self_stos_target: movl $0x11111111, %eax; ret\n"
    "self_lock: lock addl $4, self_lock_target+1(%rip)\nself_lock_target: movl $0x11111111, %eax; ret\n"
    "self_xchg: movl $0x44444444, %ecx; xchgl %ecx, self_xchg_target+1(%rip)\n"
    "self_xchg_target: movl $0x11111111, %eax; ret\n"
    "self_xmm: movups self_xmm_data(%rip), %xmm0; movups %xmm0, self_xmm_target(%rip)\n"
    "self_xmm_target: movl $0x11111111, %eax; ret; .fill 10, 1, 0x90\n"
    "self_xmm_data: movl $0x66666666, %eax; ret; .fill 10, 1, 0x90\n"
    /* A push whose stack is the code, and a call */
    "self_push: movq %rsp, %rdx; leaq self_push_target+8(%rip), %rsp; movabsq $0x9090909088888888, %rcx\n"
    "shlq $8, %rcx; movb $0xb8, %cl; pushq %rcx\nself_push_target: movl $0x11111111, %eax; nop; nop; nop; "
    "movq %rdx, %rsp; ret\n"
    /* The last byte of the instruction that writes it: it is written too late for itself. */
    "self_itself: movl $1, %eax; movb $0x90, self_itself_end(%rip)\nself_itself_end: ret; movl $2, %eax; ret\n"
    "self_cond: movb $0xeb, 1f(%rip); xorl %eax, %eax; incl %eax\n1: jz 2f; movl $5, %eax; movb $0x74, 1b(%rip); ret\n"
    "2: movl $6, %eax; movb $0x74, 1b(%rip); ret\n");
extern u8 self_next[], self_op[], self_loop[], self_movs[], self_stos[], self_lock[], self_xchg[], self_xmm[],
	self_push[],
	self_itself[], self_cond[];

static void test_self(void)
{
	bool ok = true;

	for (unsigned n = 0; n < 50; n++)
		ok &= call_code((u64)self_next) == 0x22222222;
	check(ok, "the next instruction's immediate");
	for (unsigned n = 0; n < 50; n++)
		ok &= call_code((u64)self_op) == 9;
	check(ok, "an opcode two instructions ahead");
	check_eq(call_code((u64)self_loop), 45, "a loop that patches its body");
	check_eq(call_code((u64)self_movs), 0x33333333, "REP MOVSB over the next instruction");
	check_eq(call_code((u64)self_stos), 7, "REP STOSB over the next but one");
	for (u32 n = 1; n < 20; n++)
		ok &= call_code((u64)self_lock) == 0x11111111 + 4 * n;
	check(ok, "LOCK ADD to the next instruction");
	check_eq(call_code((u64)self_xchg), 0x44444444, "XCHG with it");
	write_cr4(read_cr4() | 1 << 9);
	check_eq(call_code((u64)self_xmm), 0x66666666, "a 16-byte store over it");
	check_eq(call_code((u64)self_push), 0x88888888, "PUSH over it");
	check_eq(call_code((u64)self_itself), 2, "the byte right behind the store");
	for (unsigned n = 0; n < 10; n++)
		ok &= call_code((u64)self_cond) == 6;
	check(ok, "a conditional jump that becomes an unconditional one");
}

/* --- Code in pages ------------------------------------------------------------------------------------------------ */

static void test_pages(void)
{
	bool ok = true;

	/* Two linear pages, one frame. */
	test_map(1, PHYS(1) | RW);
	test_map(2, PHYS(1) | RW);
	for (u32 n = 0; n < 100; n++) {
		emit_mov(PAGE(2) + 64, n);
		serialize();
		ok &= call_code(PAGE(1) + 64) == n;
	}
	check(ok, "written by another linear address");
	for (u32 n = 0; n < 100; n++) {
		emit_mov(PHYS(1) + 64, n);
		serialize();
		ok &= call_code(PAGE(1) + 64) == n && call_code(PAGE(2) + 64) == n;
	}
	check(ok, "written by the identity map, run at two addresses");

	/* An instruction over two pages, whose frames are apart: each half changes. */
	test_map(3, PHYS(9) | RW);
	test_map(4, PHYS(8) | RW);
	for (u32 n = 0; n < 100; n++) {
		emit_mov(PAGE(4) - 3, n * 0x01010101);
		ok &= call_code(PAGE(4) - 3) == n * 0x01010101;
		*(volatile u8 *)(PAGE(4) - 2) = 0xab;
		ok &= call_code(PAGE(4) - 3) == ((n * 0x01010101 & ~0xffu) | 0xab);
		*(volatile u8 *)(PAGE(4) + 1) = 0xcd;
		ok &= call_code(PAGE(4) - 3) == ((n * 0x01010101 & 0x00ffff00) | 0xcd0000ab);
	}
	check(ok, "an instruction over two pages");
	/* ... and then the second page is another one. */
	emit_mov(PAGE(4) - 3, 0x01010101);
	call_code(PAGE(4) - 3);
	memcpy((void *)PHYS(10), (void *)PHYS(8), 4096);
	*(volatile u8 *)(PHYS(10) + 1) = 0x77;
	test_map(4, PHYS(10) | RW);
	check_eq(call_code(PAGE(4) - 3), 0x77010101, "... whose second page is remapped");
	test_map(4, 0);
	EXPECT("call *%0", "b"(PAGE(4) - 3));
	check(trap_last.vector == 14 && trap_last.error == 0x10 && trap_last.cr2 == PAGE(4) &&
	      trap_last.rip == PAGE(4) - 3,
	      "... or absent: #PF of a fetch there, RIP at the instruction");
	test_map(4, PHYS(8) | RW | PG_NX);
	EXPECT("call *%0", "b"(PAGE(4) - 3));
	check(trap_last.vector == 14 && trap_last.error == 0x11 && trap_last.cr2 == PAGE(4), "... or not executable");
	/* A block that runs on into a page that is absent: what is before is executed. */
	test_map(4, 0);
	for (int n = 0; n < 8; n++)
		*(volatile u16 *)(PAGE(4) - 16 + 2 * n) = 0xc3ff; /* incl %ebx */
	EXPECT("xorl %%ebx, %%ebx; call *%0", "r"(PAGE(4) - 16), "b"(0));
	check(trap_last.vector == 14 && trap_last.rip == PAGE(4) && trap_last.frame.rbx == 8,
	      "code that runs into an absent page");

	/* The same linear address, other frames. */
	for (u32 n = 0; n < 100; n++) {
		u32 frame = 16 + n % 3;
		emit_mov(PHYS(frame) + 8, n);
		test_map(5, PHYS(frame) | RW);
		ok &= call_code(PAGE(5) + 8) == n;
	}
	check(ok, "one address, changing frames");

	/* A page that is data and code in turn: every offset once. */
	test_map(6, PHYS(6) | RW);
	for (u32 n = 0; n < 4000; n += 7) {
		emit_mov(PAGE(6) + n, n);
		ok &= call_code(PAGE(6) + n) == n;
	}
	check(ok, "code written all over a page");
	/* Much code, run once, overwritten by a bulk copy. */
	for (u32 n = 0; n < 500; n++)
		emit_mov(PAGE(32) + n * 64, n);
	for (u32 n = 0; n < 500; n++)
		emit_mov(PAGE(64) + n * 64, n + 1000);
	for (u32 n = 0; n < 500; n++)
		ok &= call_code(PAGE(32) + n * 64) == n;
	memcpy((void *)PAGE(32), (void *)PAGE(64), 500 * 64);
	for (u32 n = 0; n < 500; n++)
		ok &= call_code(PAGE(32) + n * 64) == n + 1000;
	check(ok, "500 routines replaced by REP MOVSB");
}

/* --- Calls at the end of a page --------------------------------------------------------------------------------- */

static volatile bool edge_ok;

/* A call that begins @before bytes before the end of a page comes back to the next one, whose frame is elsewhere. */
static void edge(unsigned before)
{
	u64 at = PAGE(21) - before, to = PAGE(21) + 0x800;
	u32 rel = (u32)(to - (at + 5));

	for (u32 n = 0; n < 30; n++) {
		emit_mov(to, n);
		*(volatile u8 *)at = 0xe8;
		for (int k = 0; k < 4; k++)
			*(volatile u8 *)(at + 1 + k) = (u8)(rel >> k * 8);
		for (int k = 0; k < 4; k++)
			*(volatile u8 *)(at + 5 + k) = (u8)(0xc301c083 >> k * 8); /* addl $1, %eax; ret */
		edge_ok &= call_code(at) == n + 1 && call_code(at) == n + 1;
	}
}

static void edges(void)
{
	for (unsigned before = 1; before < 8; before++)
		edge(before);
}

static void edges_user(void)
{
	edges();
	asm volatile("int $0x80");
}

static void test_edges(void)
{
	test_map(20, PHYS(22) | RW);
	test_map(21, PHYS(20) | RW);
	edge_ok = true;
	edges();
	check(edge_ok, "calls at the end of a page");
	run_user(edges_user);
	check(edge_ok, "... and in user code");
}

/* --- The same bytes in other modes -------------------------------------------------------------------------------- */

/* Calls 32-bit code, which ends by a far jump through compat_back. */
asm(".text\n"
    "run_compat: movl $0x10, %eax; movl %eax, %ds; movq %rsp, %r8; subq $8, %rsp; movl %edi, (%rsp); "
    "movl $0x18, 4(%rsp)\n"
    "leaq 1f(%rip), %rax; movl %eax, compat_back; ljmp *(%rsp)\n1: movq %r8, %rsp; ret\n"
    ".data\ncompat_back: .long 0\n.word 8\n.text\n");

static u32 run_compat(u64 at)
{
	u32 v;
	asm volatile("call run_compat" : "=b"(v), "+D"(at) : : "rax", "rcx", "rdx", "r8", "memory", "cc");
	return v;
}

static void test_modes(void)
{
	extern u8 compat_back[];
	volatile u8 *p = (u8 *)PHYS(40);
	u64 rbx;

	/* XOR EAX, EAX; XOR EBX, EBX; three of 40h: INC EAX or REX; ADD EBX, EAX */
	static const u8 common[] = {0x31, 0xc0, 0x31, 0xdb, 0x40, 0x40, 0x40, 0x01, 0xc3};
	memcpy((void *)p, common, sizeof(common));
	p[9] = 0xc3;
	asm volatile("call *%1" : "=b"(rbx) : "r"((u64)p) : "rax", "memory", "cc");
	check_eq((u32)rbx, 0, "the bytes as 64-bit code: 40h is a prefix");
	p[9] = 0xff, p[10] = 0x2d;
	*(volatile u32 *)(p + 11) = (u32)(u64)compat_back;
	check_eq(run_compat((u64)p), 3, "... as 32-bit code: INC EAX");
	p[9] = 0xc3;
	asm volatile("call *%1" : "=b"(rbx) : "r"((u64)p) : "rax", "memory", "cc");
	check_eq((u32)rbx, 0, "... and as 64-bit code again");
}

void guest_main(void)
{
	test_map_init();
	test_self();
	test_pages();
	test_edges();
	test_modes();
}
