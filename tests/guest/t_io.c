/*
 * Port and memory-mapped I/O: sizes, strings both ways with faults in the middle, the I/O permission bitmap,
 * read-modify-write, vectors, stacks and strings in MMIO space, accesses that are half RAM (SDM vol. 1, chapter 19).
 * Each access is made once.
 */
#include "guest.h"

#define MMIO MMIO_BASE

static u8 buffer[8192] __attribute__((aligned(4096)));

static u32 mmio_count(void)
{
	return inl(PORT_MMIO_COUNT);
}

static u64 mmio_get(unsigned offset)
{
	return *(volatile u64 *)(MMIO + offset);
}

static void mmio_put(unsigned offset, u64 v)
{
	*(volatile u64 *)(MMIO + offset) = v;
}

/* --- Ports ---------------------------------------------------------------------------------------------------- */

static void test_sizes(void)
{
	u64 v;

	asm volatile("movq $-1, %%rax; inb $0x30, %%al" : "=a"(v));
	check_eq(v, 0xffffffffffffff30, "IN AL");
	asm volatile("movq $-1, %%rax; inw $0x30, %%ax" : "=a"(v));
	check_eq(v, 0xffffffffffff3130, "IN AX");
	asm volatile("movq $-1, %%rax; inl $0x30, %%eax" : "=a"(v));
	check_eq(v, 0x33323130, "IN EAX clears the upper half");
	asm volatile("movq $-1, %%rax; inl %%dx, %%eax" : "=a"(v) : "d"(0x1234));
	check_eq(v, 0x37363534, "IN EAX, DX");
	asm volatile("movl $0x44332211, %%eax; outb %%al, %0; outw %%ax, %0; outl %%eax, %0" : : "i"(PORT_FIFO)
		     : "rax");
	check(inl(PORT_FIFO) == 0x11221111 && inb(PORT_FIFO) == 0x22 && inb(PORT_FIFO) == 0x33 &&
	      inb(PORT_FIFO) == 0x44, "OUT of 1, 2, 4 bytes");
	check_eq(inb(PORT_FIFO), 0xff, "... and no more");
}

static volatile u32 nr_faults;
static volatile u64 fault_rcx;

/* Maps the absent page, and lets the instruction go on. */
static void on_fault(struct frame *f)
{
	unsigned n = (unsigned)((read_cr2() - TEST_VA) >> 12);

	nr_faults++;
	fault_rcx = f->rcx;
	test_map(n, PHYS(n) | RW);
}

static bool pattern(u64 at, unsigned n, unsigned from)
{
	for (unsigned i = 0; i < n; i++)
		if (((volatile u8 *)at)[i] != (u8)((from + i) * 5 + ((from + i) >> 8)))
			return false;
	return true;
}

static void pattern_set(u64 at, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		((volatile u8 *)at)[i] = (u8)(i * 5 + (i >> 8));
}

static void test_strings(void)
{
	u64 s = PAGE(1), d = PAGE(4) + 100, c = 9000;

	pattern_set(s, 9000);
	asm volatile("rep outsb" : "+S"(s), "+c"(c) : "d"(PORT_FIFO) : "memory");
	check(c == 0 && s == PAGE(1) + 9000, "REP OUTSB: 9000 bytes");
	c = 4500;
	asm volatile("rep insw" : "+D"(d), "+c"(c) : "d"(PORT_FIFO) : "memory");
	check(c == 0 && d == PAGE(4) + 100 + 9000 && pattern(PAGE(4) + 100, 9000, 0), "REP INSW takes them back");
	c = 100;
	s = PAGE(1) + 99 * 4;
	asm volatile("std; rep outsl; cld" : "+S"(s), "+c"(c) : "d"(PORT_FIFO) : "memory");
	d = PAGE(4) + 99 * 4;
	c = 100;
	asm volatile("std; rep insl; cld" : "+D"(d), "+c"(c) : "d"(PORT_FIFO) : "memory");
	check(pattern(PAGE(4), 400, 0) && d == PAGE(4) - 4 && s == PAGE(1) - 4, "REP OUTSD and INSD downwards");

	/* An absent page in the middle: nothing is lost, nothing comes twice. */
	trap_table[14] = on_fault;
	for (unsigned n = 0; n < 8192; n++)
		outb(PORT_FIFO, (u8)(n * 5 + (n >> 8)));
	test_map(9, 0);
	nr_faults = 0;
	d = PAGE(9) - 1000;
	c = 4096;
	asm volatile("rep insb" : "+D"(d), "+c"(c) : "d"(PORT_FIFO) : "memory");
	check(nr_faults == 1 && fault_rcx == 3096, "REP INSB faults at the page");
	check(pattern(PAGE(9) - 1000, 4096, 0), "... and loses nothing");
	test_map(9, 0);
	d = PAGE(9) - 1002;
	c = 1024;
	asm volatile("rep insl" : "+D"(d), "+c"(c) : "d"(PORT_FIFO) : "memory");
	check(nr_faults == 2 && fault_rcx == 1024 - 250, "REP INSD faults at the element over the edge");
	check(pattern(PAGE(9) - 1002, 4096, 4096), "... and loses nothing");
	check_eq(inb(PORT_FIFO), 0xff, "... the queue is empty then");
	pattern_set(PAGE(9) - 2, 6);
	test_map(9, 0);
	s = PAGE(9) - 2;
	asm volatile("outsl" : "+S"(s) : "d"(PORT_FIFO) : "memory");
	check(nr_faults == 3 && s == PAGE(9) + 2, "OUTSD over an absent page");
	check_eq(inl(PORT_FIFO), (u32)(0 | 5 << 8 | 10 << 16 | 15u << 24), "... puts its bytes once");
	check_eq(inb(PORT_FIFO), 0xff, "... only once");
	trap_table[14] = 0;
	test_map(9, PHYS(9) | PG_P | PG_U);
	outb(PORT_FIFO, 0x77);
	EXPECT("movl $0xe4, %%edx; insb", "D"(PAGE(9)));
	check(trap_last.vector == 14 && trap_last.error == 3, "INSB to a read-only page faults");
	check_eq(inb(PORT_FIFO), 0x77, "... before it takes the byte");
	test_map(9, PHYS(9) | RW);
}

/* --- The I/O permission bitmap ------------------------------------------------------------------------------------ */

static volatile u64 user_vector, user_error;
static u64 user_flags;
static volatile u32 user_port, user_size;

static void user_io(void)
{
	if (user_size == 1)
		EXPECT("movl %0, %%edx; inb %%dx, %%al", "b"(user_port));
	else if (user_size == 2)
		EXPECT("movl %0, %%edx; inw %%dx, %%ax", "b"(user_port));
	else
		EXPECT("movl %0, %%edx; inl %%dx, %%eax", "b"(user_port));
	user_vector = trap_last.vector, user_error = trap_last.error;
	asm volatile("int $0x80");
}

static void user_outs(void)
{
	EXPECT("movl $0x90, %%edx; outsb", "S"(0x100000000000ull));
	user_vector = trap_last.vector, user_error = trap_last.error;
	asm volatile("int $0x80");
}

static bool user_may(u32 port, u32 size)
{
	user_port = port, user_size = size;
	run_user(user_io);
	return user_vector != 13 || user_error != 0;
}

static void load_tss(u32 limit)
{
	gdt[10] = (gdt[10] & ~(0xffffull | 0xfull << 48 | 2ull << 40)) | (limit & 0xffff) | (u64)(limit >> 16) << 48;
	asm volatile("ltr %w0" : : "r"(0x50));
}

static void test_bitmap(void)
{
	check(!user_may(0x30, 1), "no bitmap: no port at level 3");
	for (unsigned n = 0; n < sizeof(tss.io); n++)
		tss.io[n] = 0xff;
	tss.iomap = (u16)((u64)tss.io - (u64)&tss);
	check(!user_may(0x30, 1), "bitmap: a bit that is set");
	tss.io[0x30 / 8] = 0xfe;
	check(user_may(0x30, 1) && !user_may(0x31, 1), "bitmap: one that is clear");
	check(!user_may(0x30, 2), "bitmap: a word needs both bits");
	tss.io[0x30 / 8] = 0x7c, tss.io[0x38 / 8] = 0xfc;
	check(user_may(0x30, 2) && !user_may(0x30, 4) && user_may(0x37, 1) && !user_may(0x36, 2), "bitmap: words");
	check(!user_may(0x36, 4) && user_may(0x37, 2) && !user_may(0x37, 4), "bitmap: over the byte's edge");
	tss.io[0xffff / 8] = 0x7f;
	check(user_may(0xffff, 1), "bitmap: the last port");
	load_tss((u32)((u64)&tss.io[0x38 / 8] - (u64)&tss) - 1);
	check(!user_may(0x37, 2) && !user_may(0x38, 1), "bitmap: beyond the TSS");
	load_tss((u32)((u64)&tss.io[0x38 / 8] - (u64)&tss));
	check(user_may(0x30, 2), "bitmap: within it again");
	load_tss(sizeof(tss) - 1);
	run_user(user_outs);
	check(user_vector == 13 && user_error == 0, "OUTS: permission comes before the operand");
	/* IOPL 3 needs no bitmap. */
	asm volatile("pushfq; popq %0; pushfq; orl $0x3000, (%%rsp); popfq" : "=r"(user_flags) : : "memory", "cc");
	check(user_may(0x1000, 4), "IOPL 3: all ports");
	asm volatile("pushfq; andl $~0x3000, (%%rsp); popfq" : : : "memory", "cc");
	tss.iomap = sizeof(tss);
}

/* --- MMIO --------------------------------------------------------------------------------------------------------- */

static void test_mmio(void)
{
	u64 v;

	mmio_count();
	mmio_put(0, 0x8877665544332211);
	check_eq(mmio_count(), 1, "MMIO: a quadword is written in one access");
	check_eq(mmio_get(0), 0x8877665544332211, "... and read");
	check_eq(mmio_count(), 1, "... in one");
	check_eq(*(volatile u8 *)(MMIO + 1), 0x22, "MMIO: byte");
	check_eq(*(volatile u16 *)(MMIO + 1), 0x3322, "MMIO: misaligned word");
	check_eq(*(volatile u32 *)(MMIO + 3), 0x77665544, "MMIO: misaligned doubleword");
	*(volatile u8 *)(MMIO + 7) = 0x99;
	*(volatile u16 *)(MMIO + 8) = 0xbbaa;
	check_eq(*(volatile u64 *)(MMIO + 2), 0xbbaa997766554433, "MMIO: misaligned quadword");
	mmio_count();
	asm volatile("movsbq 7(%1), %0" : "=r"(v) : "r"(MMIO));
	check_eq(v, 0xffffffffffffff99, "MMIO: MOVSX");

	mmio_put(16, 100);
	mmio_count();
	asm volatile("addl $5, 16(%0)" : : "r"(MMIO) : "memory", "cc");
	check(mmio_count() == 2 && mmio_get(16) == 105, "MMIO: ADD reads once and writes once");
	mmio_count();
	asm volatile("lock addl $5, 16(%0)" : : "r"(MMIO) : "memory", "cc");
	check(mmio_count() == 2 && mmio_get(16) == 110, "MMIO: LOCK ADD, too");
	v = 7;
	asm volatile("xchgq %0, 16(%1)" : "+r"(v) : "r"(MMIO) : "memory");
	check(v == 110 && mmio_get(16) == 7, "MMIO: XCHG");
	v = 3;
	asm volatile("lock xaddq %0, 16(%1)" : "+r"(v) : "r"(MMIO) : "memory", "cc");
	check(v == 7 && mmio_get(16) == 10, "MMIO: XADD");
	v = 10;
	asm volatile("lock cmpxchgq %2, 16(%1)" : "+a"(v) : "r"(MMIO), "r"(0x1234ull) : "memory", "cc");
	check(v == 10 && mmio_get(16) == 0x1234, "MMIO: CMPXCHG that matches");
	asm volatile("lock cmpxchgq %2, 16(%1)" : "+a"(v) : "r"(MMIO), "r"(0x9999ull) : "memory", "cc");
	check(v == 0x1234 && mmio_get(16) == 0x1234, "MMIO: CMPXCHG that does not");
	asm volatile("lock btsl $0, 16(%0); setc %%al; incb 17(%0)" : : "r"(MMIO) : "rax", "memory", "cc");
	check_eq(mmio_get(16), 0x1335, "MMIO: BTS, INC");

	/* A register that counts its reads: none is repeated. */
	u8 first = *(volatile u8 *)(MMIO + MMIO_COUNTER);
	asm volatile("cmpb $0, (%0); testb $1, (%0); movzbl (%0), %%eax; pushq %%rax; popq %%rax"
		     : : "r"(MMIO + MMIO_COUNTER) : "rax", "memory", "cc");
	check_eq(*(volatile u8 *)(MMIO + MMIO_COUNTER), (u8)(first + 4), "MMIO: each read happens once");
	asm volatile("movb (%1), %%al; addb (%1), %%al" : "=&a"(v) : "r"(MMIO + MMIO_COUNTER) : "cc");
	check_eq((u8)v, (u8)(first + 5 + first + 6), "... in order");
}

static void test_mmio_vectors(void)
{
	u32 id[4];

	write_cr4(read_cr4() | 1 << 9);
	pattern_set((u64)buffer, 512);
	asm volatile("movups (%0), %%xmm0; movups %%xmm0, 0x101(%1); pxor %%xmm0, %%xmm0; movups 0x101(%1), %%xmm0; "
		     "movups %%xmm0, 1024(%0)"
		     : : "r"(buffer), "r"(MMIO) : "memory");
	check(pattern((u64)buffer + 1024, 16, 0), "MMIO: 16 bytes, misaligned");
	asm volatile("movdqa 0x100(%1), %%xmm1; paddb 0x110(%1), %%xmm1; movntdq %%xmm1, 0x120(%1); "
		     "movq %%xmm1, 0x130(%1)" : : "r"(buffer), "r"(MMIO) : "memory");
	check_eq(mmio_get(0x120), mmio_get(0x130), "MMIO: SSE operands");
	cpuid(1, 0, id);
	if (!(id[2] >> 28 & 1) || !(id[2] >> 26 & 1)) {
		print("ok - MMIO: AVX # SKIP not in CPUID\n");
		return;
	}
	write_cr4(read_cr4() | 1 << 18);
	cpuid(13, 0, id);
	u32 all = id[0] & 0xe7;
	asm volatile("xsetbv" : : "c"(0), "a"(all), "d"(0));
	asm volatile("vmovups (%0), %%ymm0; vmovups %%ymm0, 0x203(%1); vpxor %%ymm0, %%ymm0, %%ymm0; "
		     "vmovups 0x203(%1), %%ymm0; vmovups %%ymm0, 1100(%0)"
		     : : "r"(buffer), "r"(MMIO) : "memory");
	check(pattern((u64)buffer + 1100, 32, 0), "MMIO: 32 bytes");
	if ((all & 0xe0) == 0xe0) {
		/* vmovups (%rdi), %zmm0; vmovups %zmm0, (%rsi); vmovups (%rsi), %zmm1; vmovups %zmm1, (%rdx) */
		asm volatile(".byte 0x62, 0xf1, 0x7c, 0x48, 0x10, 0x07, 0x62, 0xf1, 0x7c, 0x48, 0x11, 0x06\n"
			     ".byte 0x62, 0xf1, 0x7c, 0x48, 0x10, 0x0e, 0x62, 0xf1, 0x7c, 0x48, 0x11, 0x0a"
			     : : "D"(buffer), "S"(MMIO + 0x305), "d"(buffer + 1200) : "memory");
		check(pattern((u64)buffer + 1200, 64, 0), "MMIO: 64 bytes");
	}
}

static void test_mmio_strings(void)
{
	u64 s = (u64)buffer, d = MMIO + 0x400, c = 200;

	pattern_set((u64)buffer, 512);
	asm volatile("rep movsb" : "+S"(s), "+D"(d), "+c"(c) : : "memory");
	check(c == 0 && d == MMIO + 0x400 + 200 && s == (u64)buffer + 200, "MMIO: REP MOVSB to it");
	s = MMIO + 0x400, d = MMIO + 0x600, c = 25;
	mmio_count();
	asm volatile("rep movsq" : "+S"(s), "+D"(d), "+c"(c) : : "memory");
	check_eq(mmio_count(), 50, "MMIO: REP MOVSQ from it to it: two accesses each");
	s = MMIO + 0x600, d = (u64)buffer + 2000, c = 50;
	asm volatile("rep movsl" : "+S"(s), "+D"(d), "+c"(c) : : "memory");
	check(pattern((u64)buffer + 2000, 200, 0), "MMIO: ... and back to RAM");
	d = MMIO + 0x700, c = 16;
	asm volatile("rep stosw" : "+D"(d), "+c"(c) : "a"(0x4242) : "memory");
	check(mmio_get(0x700) == 0x4242424242424242 && mmio_get(0x718) == 0x4242424242424242, "MMIO: REP STOSW");
	s = MMIO + 0x600, d = (u64)buffer, c = 300;
	asm volatile("repe cmpsb" : "+S"(s), "+D"(d), "+c"(c) : : "memory", "cc");
	check(c == 99 && s == MMIO + 0x600 + 201, "MMIO: REPE CMPSB");
	*(volatile u8 *)(MMIO + 0x720) = 9;
	d = MMIO + 0x700, c = 100;
	asm volatile("repne scasb" : "+D"(d), "+c"(c) : "a"(9) : "memory", "cc");
	check(d == MMIO + 0x721 && c == 100 - 33, "MMIO: REPNE SCASB");
	for (unsigned n = 0; n < 300; n++)
		outb(PORT_FIFO, (u8)(n * 5 + (n >> 8)));
	d = MMIO + 0x800, c = 300;
	asm volatile("rep insb" : "+D"(d), "+c"(c) : "d"(PORT_FIFO) : "memory");
	s = MMIO + 0x800, c = 150;
	asm volatile("rep outsw" : "+S"(s), "+c"(c) : "d"(PORT_FIFO) : "memory");
	d = (u64)buffer, c = 300;
	memset(buffer, 0, 512);
	asm volatile("rep insb" : "+D"(d), "+c"(c) : "d"(PORT_FIFO) : "memory");
	check(pattern((u64)buffer, 300, 0) && inb(PORT_FIFO) == 0xff, "MMIO: REP INS and OUTS between ports and it");
}

static void test_mmio_stack(void)
{
	u64 v, w;

	asm volatile("movq %%rsp, %%rbx; movq %2, %%rsp; pushq $0x1234; pushfq; popq %%rcx; call 1f; jmp 2f\n"
		     "1: movq (%%rsp), %1; ret\n2: popq %0; enter $16, $0; leave; movq %%rbx, %%rsp"
		     : "=&r"(v), "=&r"(w) : "r"(MMIO + 0xc00) : "rbx", "rcx", "memory", "cc");
	check_eq(v, 0x1234, "MMIO: PUSH, CALL, RET, POP, ENTER, LEAVE on a stack there");
	check_eq(mmio_get(0xc00 - 16), w, "... the return address was in it");
	tss.ist[1] = MMIO + 0xe00;
	idt_set(6, trap_stubs + 16 * 6, 14, 0, 2);
	EXPECT("ud2");
	idt_set(6, trap_stubs + 16 * 6, 14, 0, 0);
	check_eq(trap_last.vector, 6, "MMIO: an exception whose handler's stack is there");
	mmio_put(0xe10, 0x5678);
	asm volatile("pushq 0xe10(%1); popq 0xe20(%1); movq 0xe20(%1), %0" : "=r"(v) : "r"(MMIO) : "memory");
	check_eq(v, 0x5678, "MMIO: PUSH and POP of operands there");
}

static void test_mixed(void)
{
	u64 edge = PAGE(11);

	test_map(10, PHYS(10) | RW);
	test_map(11, MMIO | RW);
	mmio_put(0, 0x1111111111111111);
	mmio_count();
	*(volatile u64 *)(edge - 3) = 0x8877665544332211;
	check_eq(mmio_count(), 1, "a quadword over RAM and MMIO: one access");
	check(*(volatile u32 *)(edge - 4) >> 8 == 0x332211 && mmio_get(0) == 0x1111118877665544,
	      "... each has its part");
	check_eq(*(volatile u64 *)(edge - 3), 0x8877665544332211, "... and reads back");
	asm volatile("lock addq $1, (%0)" : : "r"(edge - 3) : "memory", "cc");
	check_eq(*(volatile u64 *)(edge - 3), 0x8877665544332212, "... LOCK ADD on it");
	test_map(12, 0);
	test_map(11, PHYS(10) | RW);
	test_map(10, MMIO | RW);
	*(volatile u64 *)(edge - 3) = 0x0123456789abcdef;
	check_eq(*(volatile u64 *)(edge - 3), 0x0123456789abcdef, "MMIO first, then RAM");
	test_map(11, 0);
	mmio_count();
	EXPECT("movq %%rax, (%0)", "b"(edge - 3));
	check(trap_last.vector == 14 && trap_last.cr2 == edge && mmio_count() == 0,
	      "MMIO and an absent page: a fault, no access");
	test_map(10, MMIO | PG_P | PG_U);
	EXPECT("movb %%al, (%0)", "b"(PAGE(10)));
	check(trap_last.vector == 14 && trap_last.error == 3 && mmio_count() == 0,
	      "a read-only page of MMIO: a fault, no access");
	EXPECT("lock cmpxchgb %%cl, (%0)", "b"(PAGE(10)));
	check(trap_last.vector == 14 && trap_last.error == 3 && mmio_count() == 0, "... CMPXCHG neither");
}

void guest_main(void)
{
	test_map_init();
	test_sizes();
	test_strings();
	test_bitmap();
	test_mmio();
	test_mmio_vectors();
	test_mmio_strings();
	test_mmio_stack();
	test_mixed();
}
