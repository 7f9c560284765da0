/*
 * Who may use x87, SSE and AVX when, their exceptions, FXSAVE and the XSAVE family (SDM vol. 1, chapter 13; vol. 3A,
 * 2.5 and chapter 13). The arithmetic itself is the differential test's matter.
 */
#include "guest.h"

#define CR0_MP 2ul
#define CR0_EM 4ul
#define CR0_TS 8ul
#define CR0_NE 32ul
#define CR4_OSFXSR (1ul << 9)
#define CR4_OSXMMEXCPT (1ul << 10)
#define CR4_OSXSAVE (1ul << 18)

static u8 area[4096] __attribute__((aligned(64))), area2[4096] __attribute__((aligned(64)));
static u64 supported; /* XCR0 */
static bool have_xsave, have_avx;
static u32 xsave_features;

static void change_cr0(unsigned long off, unsigned long on)
{
	write_cr0((read_cr0() & ~off) | on);
}

static void change_cr4(unsigned long off, unsigned long on)
{
	write_cr4((read_cr4() & ~off) | on);
}

static u32 *at32(u8 *a, unsigned offset)
{
	return (u32 *)(a + offset);
}

static u64 *at64(u8 *a, unsigned offset)
{
	return (u64 *)(a + offset);
}

/* --- CR0 and CR4 -------------------------------------------------------------------------------------------------- */

static void test_gates(void)
{
	change_cr0(CR0_EM | CR0_TS, CR0_MP | CR0_NE);
	change_cr4(0, CR4_OSFXSR | CR4_OSXMMEXCPT);
	EXPECT("fninit; fld1; fstp %%st(0); xorps %%xmm0, %%xmm0");
	expect_none("x87 and SSE with everything allowed");
	change_cr0(0, CR0_TS);
	EXPECT("fld1");
	expect(7, 0, "TS: x87 raises #NM");
	EXPECT("fwait");
	expect(7, 0, "TS and MP: FWAIT raises #NM");
	EXPECT("xorps %%xmm0, %%xmm0");
	expect(7, 0, "TS: SSE raises #NM");
	EXPECT("pxor %%mm0, %%mm0");
	expect(7, 0, "TS: MMX raises #NM");
	EXPECT("fxsave %0", "m"(area));
	expect(7, 0, "TS: FXSAVE raises #NM");
	EXPECT("sfence; prefetcht0 %0; movnti %%eax, %0", "m"(area));
	expect_none("TS: SFENCE, PREFETCH and MOVNTI use no vector registers");
	change_cr0(CR0_MP, 0);
	EXPECT("fwait");
	expect_none("TS without MP: FWAIT is free");
	asm volatile("clts");
	change_cr0(0, CR0_EM);
	EXPECT("fld1");
	expect(7, 0, "EM: x87 raises #NM");
	EXPECT("xorps %%xmm0, %%xmm0");
	expect(6, 0, "EM: SSE raises #UD");
	EXPECT("pxor %%mm0, %%mm0");
	expect(6, 0, "EM: MMX raises #UD");
	change_cr0(CR0_EM, CR0_MP);
	change_cr4(CR4_OSFXSR, 0);
	EXPECT("xorps %%xmm0, %%xmm0");
	expect(6, 0, "SSE without CR4.OSFXSR raises #UD");
	EXPECT("ldmxcsr %0", "m"(area));
	expect(6, 0, "LDMXCSR, too");
	change_cr4(0, CR4_OSFXSR);
}

/* --- Lazy switching: the handler of #NM clears TS, and the instruction runs again --------------------------------- */

#define ROUNDS 21
#define SET_TS "movq %%cr0, %%rax; orq $8, %%rax; movq %%rax, %%cr0\n"

static volatile u32 nm_count;

static void on_nm(struct frame *f)
{
	nm_count++;
	asm volatile("clts");
}

/* Each of the loops sets TS while registers are in use, and then does a step that shows in one of them. */
static void test_lazy(void)
{
	u64 v, w;
	u8 pi[10];

	trap_table[7] = on_nm;
	nm_count = 0;
	asm volatile("fninit; fldpi; fld1; movl %2, %%ecx\n"
		     "1: " SET_TS "fadd %%st(0), %%st; decl %%ecx; jnz 1b; fistpq %0; fstpt %1"
		     : "=m"(v), "=m"(pi) : "i"(ROUNDS) : "rax", "rcx", "cc", "memory");
	check(nm_count == ROUNDS && v == 1ull << ROUNDS, "TS: x87, again and again");
	check(*at64(pi, 0) == 0xc90fdaa22168c235 && *(u16 *)(pi + 8) == 0x4000, "... ST(1) is as it was");
	nm_count = 0;
	asm volatile("fninit; movq %2, %%mm3; pxor %%mm4, %%mm4; movl %3, %%ecx\n"
		     "1: " SET_TS "paddw %%mm3, %%mm4; decl %%ecx; jnz 1b; movq %%mm4, %0; movq %%mm3, %1; emms"
		     : "=r"(v), "=r"(w) : "r"(0x0001000200030004ull), "i"(ROUNDS) : "rax", "rcx", "cc");
	check(nm_count == ROUNDS && v == ROUNDS * 0x0001000200030004ull && w == 0x0001000200030004, "... MMX");
	nm_count = 0;
	asm volatile("movq %2, %%xmm3; movq %3, %%xmm9; movl %4, %%ecx\n"
		     "1: " SET_TS "paddq %%xmm3, %%xmm9; decl %%ecx; jnz 1b; movq %%xmm9, %0; movq %%xmm3, %1"
		     : "=r"(v), "=r"(w) : "r"(21ull), "r"(0x7777ull), "i"(ROUNDS) : "rax", "rcx", "cc");
	check(nm_count == ROUNDS && v == 0x7777 + 21 * ROUNDS && w == 21, "... SSE");
	/* An exit and C code come between. */
	nm_count = 0;
	asm volatile("movq %1, %%xmm3; movq %2, %%xmm9; movl %3, %%esi\n"
		     "1: " SET_TS "outb %%al, %4; xorl %%eax, %%eax; cpuid; inb %4, %%al\n"
		     "paddq %%xmm3, %%xmm9; decl %%esi; jnz 1b; movq %%xmm9, %0"
		     : "=r"(v) : "r"(21ull), "r"(0x8888ull), "i"(ROUNDS), "i"(PORT_FIFO)
		     : "rax", "rbx", "rcx", "rdx", "rsi", "cc");
	check(nm_count == ROUNDS && v == 0x8888 + 21 * ROUNDS, "... SSE, with an exit in between");
	nm_count = 0;
	asm volatile(SET_TS "fwait; fwait" : : : "rax", "cc");
	check_eq(nm_count, 1, "... FWAIT, once");
	trap_table[7] = 0;
}

/* The switch itself: each task has its registers in its area, but for the one whose are in the processor. */
static u8 tasks[2][512] __attribute__((aligned(64)));
static volatile unsigned owner, current;

static void on_nm_switch(struct frame *f)
{
	nm_count++;
	asm volatile("clts; fxsave64 %0" : "=m"(tasks[owner]));
	owner = current;
	asm volatile("fxrstor64 %0" : : "m"(tasks[owner]));
}

static void task_begin(unsigned n, u64 step)
{
	asm volatile("fninit; fld1; movq %1, %%xmm2; pxor %%xmm1, %%xmm1; fxsave64 %0" : "=m"(tasks[n]) : "r"(step));
}

/* A turn: XMM1 grows by XMM2, ST is doubled. */
static void turn(void)
{
	asm volatile("paddq %xmm2, %xmm1; fadd %st(0), %st");
}

static void user_turn(void)
{
	turn();
	asm volatile("int $0x80");
}

static bool task_is(unsigned n, u64 xmm1, u64 st)
{
	u64 v, w;

	current = n;
	change_cr0(0, CR0_TS);
	asm volatile("movq %%xmm1, %0; fistpq %1" : "=r"(v), "=m"(w));
	return v == xmm1 && w == st;
}

static void test_switching(void)
{
	task_begin(0, 3);
	task_begin(1, 5);
	owner = 1;
	nm_count = 0;
	trap_table[7] = on_nm_switch;
	for (unsigned n = 0; n < 2 * ROUNDS; n++) {
		current = n & 1;
		change_cr0(0, CR0_TS);
		if (n % 3)
			turn();
		else
			run_user(user_turn);
	}
	check_eq(nm_count, 2 * ROUNDS, "two tasks: #NM at each switch, from levels 0 and 3");
	check(task_is(0, 3 * ROUNDS, 1ull << ROUNDS) && task_is(1, 5 * ROUNDS, 1ull << ROUNDS),
	      "... and each has its registers");
	trap_table[7] = 0;
}

/* What it comes before, and what uses no registers of this kind. */
static void test_ts(void)
{
	u16 cw;
	u32 mxcsr;

	test_map_init();
	test_map(8, 0);
	change_cr0(0, CR0_TS);
	EXPECT("movups %%xmm0, (%0)", "b"(PAGE(8)));
	expect(7, 0, "TS: #NM comes before #PF");
	EXPECT("fstpt (%0)", "b"(PAGE(8)));
	expect(7, 0, "... of x87 as well");
	EXPECT("fnstcw %0", "m"(cw));
	expect(7, 0, "TS: FNSTCW raises #NM");
	EXPECT("fnstsw %%ax");
	expect(7, 0, "... FNSTSW");
	EXPECT("fninit");
	expect(7, 0, "... FNINIT");
	EXPECT("emms");
	expect(7, 0, "... EMMS");
	EXPECT("stmxcsr %0", "m"(mxcsr));
	expect(7, 0, "... STMXCSR");
	EXPECT("movd %%xmm0, %%eax");
	expect(7, 0, "... MOVD");
	asm volatile("clts");
}

/* --- Exceptions --------------------------------------------------------------------------------------------------- */

static void test_exceptions(void)
{
	static const u16 cw_ze = 0x37b; /* all masked but division by zero */
	u16 sw;
	u32 mxcsr = 0x1f80 & ~0x200u, bad = 0x10000, now;

	EXPECT("fninit; fldcw %0; fldz; fld1; fdiv %%st(1), %%st; nop", "m"(cw_ze));
	expect_none("x87: a division by zero is not reported at once");
	EXPECT("fnop");
	expect(16, 0, "... #MF at the next x87 instruction");
	EXPECT("fwait");
	expect(16, 0, "... at FWAIT, still");
	asm volatile("fnstsw %0" : "=a"(sw));
	check_eq(sw & 0x80c4, 0x8084, "FNSTSW does not wait: ZE, ES and B are set");
	EXPECT("fnclex; fnop");
	expect_none("FNCLEX clears it");
	EXPECT("pxor %%mm0, %%mm0; fninit");
	expect_none("MMX without a pending exception");
	EXPECT("fninit; fldcw %0; fldz; fld1; fdiv %%st(1), %%st; movq %%mm0, %%mm1", "m"(cw_ze));
	expect(16, 0, "MMX with one pending raises #MF");
	EXPECT("fxsave %0", "m"(area));
	expect_none("FXSAVE does not wait");
	asm volatile("fninit");

	asm volatile("ldmxcsr %0" : : "m"(mxcsr));
	EXPECT("movl $1, %%eax; cvtsi2ss %%eax, %%xmm0; xorps %%xmm1, %%xmm1; divss %%xmm1, %%xmm0");
	expect(19, 0, "SSE: an unmasked division by zero raises #XM");
	asm volatile("stmxcsr %0" : "=m"(now));
	check_eq(now & 0x3f, 4, "... MXCSR.ZE is set");
	u64 v;
	asm volatile("movd %%xmm0, %k0" : "=r"(v));
	check_eq((u32)v, 0x3f800000, "... the destination is as it was");
	change_cr4(CR4_OSXMMEXCPT, 0);
	EXPECT("divss %%xmm1, %%xmm0");
	expect(6, 0, "... #UD without CR4.OSXMMEXCPT");
	change_cr4(0, CR4_OSXMMEXCPT);
	EXPECT("ldmxcsr %0", "m"(bad));
	expect(13, 0, "LDMXCSR of reserved bits raises #GP");
	EXPECT("movaps %0, %%xmm0", "m"(area[8]));
	expect(13, 0, "MOVAPS of a misaligned operand raises #GP");
	EXPECT("addps %0, %%xmm0", "m"(area[4]));
	expect(13, 0, "ADDPS of one, too");
	EXPECT("movups %0, %%xmm0", "m"(area[4]));
	expect_none("MOVUPS does not");
	mxcsr = 0x1f80;
	asm volatile("ldmxcsr %0" : : "m"(mxcsr));
}

/* --- FXSAVE ------------------------------------------------------------------------------------------------------- */

static void test_fxsave(void)
{
	static const u64 a = 0x1111222233334444, b = 0x5555666677778888;
	u64 v, w;

	memset(area, 0xee, 512);
	asm volatile("fninit; fld1; fldpi; movq %0, %%xmm5; movq %1, %%xmm15; fxsave64 area(%%rip)" : : "r"(a), "r"(b)
		     : "memory");
	check(*(u16 *)area == 0x37f && (*(u16 *)(area + 2) & 0x3800) == 0x3000 && area[4] == 0xc0,
	      "FXSAVE: FCW, FSW, abridged FTW");
	check(*at64(area, 160 + 5 * 16) == a && *at64(area, 160 + 15 * 16) == b && *at32(area, 24) == 0x1f80,
	      "FXSAVE: XMM, MXCSR");
	check(*at64(area, 32) == 0xc90fdaa22168c235 && *(u16 *)(area + 40) == 0x4000, "FXSAVE: ST0 is pi");
	check_eq(*at64(area, 464), 0xeeeeeeeeeeeeeeee, "FXSAVE leaves the software's bytes alone");
	asm volatile("fninit; pxor %%xmm5, %%xmm5; pxor %%xmm15, %%xmm15; fxrstor64 area(%%rip); movq %%xmm5, %0; "
		     "movq %%xmm15, %1"
		     : "=r"(v), "=r"(w) : : "memory");
	check(v == a && w == b, "FXRSTOR");
	EXPECT("fxsave %0", "m"(area[8]));
	expect(13, 0, "FXSAVE: misaligned");
	*at32(area, 24) = 0x80000000;
	EXPECT("fxrstor %0", "m"(area));
	expect(13, 0, "FXRSTOR: reserved bits of MXCSR");
}

/* --- XCR0 --------------------------------------------------------------------------------------------------------- */

#define XSETBV(v)                                                                                              \
	EXPECT("xorl %%ecx, %%ecx; movl %0, %%eax; movl %1, %%edx; xsetbv",                                   \
	       "b"((u32)(v)), "S"((u32)((u64)(v) >> 32)))

static void test_xcr0(void)
{
	u32 id[4];

	change_cr4(CR4_OSXSAVE, 0);
	cpuid(1, 0, id);
	check_eq(id[2] >> 27 & 1, 0, "CPUID.OSXSAVE mirrors CR4: clear");
	EXPECT("xorl %%ecx, %%ecx; xgetbv");
	expect(6, 0, "XGETBV without CR4.OSXSAVE raises #UD");
	EXPECT("movl $3, %%eax; xorl %%edx, %%edx; xsave %0", "m"(area));
	expect(6, 0, "XSAVE, too");
	EXPECT("vxorps %%ymm0, %%ymm0, %%ymm0");
	expect(6, 0, "AVX, too");
	change_cr4(0, CR4_OSXSAVE);
	cpuid(1, 0, id);
	check_eq(id[2] >> 27 & 1, 1, "CPUID.OSXSAVE mirrors CR4: set");
	XSETBV(2);
	expect(13, 0, "XSETBV: XCR0.x87 must be one");
	XSETBV(1ull << 63 | 3);
	expect(13, 0, "XSETBV: unsupported bits raise #GP");
	XSETBV(3);
	expect_none("XSETBV: x87 and SSE");
	cpuid(13, 0, id);
	check_eq(id[1], 576, "CPUID.D.0: EBX is the size for XCR0");
	u32 all = id[2];
	EXPECT("movl $1, %%ecx; movl $3, %%eax; xorl %%edx, %%edx; xsetbv");
	expect(13, 0, "XSETBV: XCR1 does not exist");
	if (!have_avx)
		return;
	XSETBV(5);
	expect(13, 0, "XSETBV: AVX without SSE raises #GP");
	EXPECT("vxorps %%ymm0, %%ymm0, %%ymm0");
	expect(6, 0, "AVX without XCR0.AVX raises #UD");
	EXPECT("vxorps %%xmm0, %%xmm0, %%xmm0");
	expect(6, 0, "... 128 bits as well");
	EXPECT("xorps %%xmm0, %%xmm0");
	expect_none("... SSE does not");
	XSETBV(7);
	EXPECT("vxorps %%ymm0, %%ymm0, %%ymm0");
	expect_none("AVX with XCR0.AVX");
	cpuid(13, 0, id);
	check_eq(id[1], 832, "CPUID.D.0: ... with AVX");
	change_cr0(0, CR0_TS);
	EXPECT("vxorps %%ymm0, %%ymm0, %%ymm0");
	expect(7, 0, "TS: AVX raises #NM");
	EXPECT("movl $7, %%eax; xorl %%edx, %%edx; xsave %0", "m"(area));
	expect(7, 0, "TS: XSAVE raises #NM");
	asm volatile("clts");
	if ((supported & 0xe0) == 0xe0) {
		XSETBV(0x27);
		expect(13, 0, "XSETBV: the three AVX-512 states go together");
		EXPECT(".byte 0x62, 0xf1, 0x7c, 0x48, 0x57, 0xc0"); /* vxorps %zmm0, %zmm0, %zmm0 */
		expect(6, 0, "AVX-512 without its XCR0 bits raises #UD");
		XSETBV(0xe7);
		EXPECT(".byte 0x62, 0xf1, 0x7c, 0x48, 0x57, 0xc0");
		expect_none("... and not with them");
	}
	XSETBV(supported);
	cpuid(13, 0, id);
	check_eq(id[1], all, "CPUID.D.0: ECX is the size for everything");
}

/* --- XSAVE and its kin -------------------------------------------------------------------------------------------- */

#define XOP(op, a, mask) asm volatile(op " %0" : "+m"(a) : "a"((u32)(mask)), "d"(0) : "memory")

static u64 xinuse(void)
{
	u32 a, d;
	asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(1));
	return (u64)d << 32 | a;
}

static void set_ymm(u64 low, u64 high)
{
	asm volatile("vmovq %0, %%xmm6; vmovq %1, %%xmm7; vinsertf128 $1, %%xmm7, %%ymm6, %%ymm6; "
		     "vxorps %%xmm7, %%xmm7, %%xmm7"
		     : : "r"(low), "r"(high));
}

static void get_ymm(u64 *low, u64 *high)
{
	asm volatile("vmovq %%xmm6, %0; vextractf128 $1, %%ymm6, %%xmm7; vmovq %%xmm7, %1; "
		     "vxorps %%xmm7, %%xmm7, %%xmm7"
		     : "=r"(*low), "=r"(*high));
}

static void test_lazy_avx(void)
{
	u64 low, high;

	trap_table[7] = on_nm;
	nm_count = 0;
	set_ymm(0x1234, 0x5678);
	asm volatile("vmovaps %%ymm6, %%ymm11; vxorps %%ymm12, %%ymm12, %%ymm12; movl %0, %%ecx\n"
		     "1: " SET_TS "vxorps %%ymm11, %%ymm12, %%ymm12; decl %%ecx; jnz 1b; vmovaps %%ymm12, %%ymm6"
		     : : "i"(ROUNDS) : "rax", "rcx", "cc");
	get_ymm(&low, &high);
	check(nm_count == ROUNDS && low == 0x1234 && high == 0x5678, "TS: AVX, again and again");
	/* Upper halves that no instruction names stay. */
	nm_count = 0;
	asm volatile("movl %0, %%ecx\n1: " SET_TS "paddd %%xmm6, %%xmm6; decl %%ecx; jnz 1b"
		     : : "i"(ROUNDS) : "rax", "rcx", "cc");
	get_ymm(&low, &high);
	check(nm_count == ROUNDS && low == (u32)(0x1234u << ROUNDS) && high == 0x5678, "... SSE below them");
	if ((supported & 0xe0) == 0xe0) {
		nm_count = 0;
		asm volatile("vpxorq %%zmm17, %%zmm17, %%zmm17; vpbroadcastq %2, %%zmm18; movl %3, %%ecx\n"
			     "1: " SET_TS "vpaddq %%zmm18, %%zmm17, %%zmm17; decl %%ecx; jnz 1b\n"
			     "vextracti64x4 $1, %%zmm17, %%ymm7; vextracti128 $1, %%ymm7, %%xmm7\n"
			     "vpextrq $1, %%xmm7, %0; vmovq %%xmm18, %1; vxorps %%ymm7, %%ymm7, %%ymm7\n"
			     "vpxorq %%zmm17, %%zmm17, %%zmm17; vpxorq %%zmm18, %%zmm18, %%zmm18"
			     : "=r"(high), "=r"(low) : "r"(0x12345ull), "i"(ROUNDS) : "rax", "rcx", "cc");
		check(nm_count == ROUNDS && high == 0x12345 * ROUNDS && low == 0x12345, "... AVX-512");
	}
	trap_table[7] = 0;
}

static void test_xsave(void)
{
	u64 low, high;

	memset(area, 0, sizeof(area));
	asm volatile("fninit; fld1");
	set_ymm(0x1234, 0x5678);
	XOP("xsave64", area, 7);
	check_eq(*at64(area, 512) & 7, 7, "XSAVE: XSTATE_BV of what is in use");
	check(*at64(area, 160 + 6 * 16) == 0x1234 && *at64(area, 576 + 6 * 16) == 0x5678, "XSAVE: YMM in two halves");
	set_ymm(1, 2);
	XOP("xrstor64", area, 4);
	get_ymm(&low, &high);
	check(low == 1 && high == 0x5678, "XRSTOR of AVX alone: the upper half");
	XOP("xrstor64", area, 2);
	get_ymm(&low, &high);
	check(low == 0x1234 && high == 0x5678, "XRSTOR of SSE alone: the lower half");
	*at64(area, 512) = 3;
	XOP("xrstor64", area, 7);
	get_ymm(&low, &high);
	check(low == 0x1234 && high == 0, "XRSTOR of a component that XSTATE_BV lacks: its initial state");
	memset(area2, 0xcc, sizeof(area2));
	memset(area2 + 512, 0, 64);
	XOP("xsave64", area2, 2);
	check(*at64(area2, 512) == 2 && *at64(area2, 576) == 0xcccccccccccccccc && *(u16 *)area2 == 0xcccc,
	      "XSAVE of SSE alone writes nothing else");
	EXPECT("movl $7, %%eax; xorl %%edx, %%edx; xsave %0", "m"(area[32]));
	expect(13, 0, "XSAVE: misaligned by 32");
	*at64(area, 512) = 1ull << 62;
	EXPECT("movl $7, %%eax; xorl %%edx, %%edx; xrstor %0", "m"(area));
	expect(13, 0, "XRSTOR: XSTATE_BV with unsupported bits");
	*at64(area, 512) = 7;
	*at64(area, 528) = 1;
	EXPECT("movl $7, %%eax; xorl %%edx, %%edx; xrstor %0", "m"(area));
	expect(13, 0, "XRSTOR: reserved bytes of the header");
	*at64(area, 528) = 0;
	*at64(area, 520) = 1;
	EXPECT("movl $7, %%eax; xorl %%edx, %%edx; xrstor %0", "m"(area));
	expect(13, 0, "XRSTOR: XCOMP_BV without its bit 63");
	*at64(area, 520) = 0;
	*at32(area, 24) = 0x10000;
	EXPECT("movl $7, %%eax; xorl %%edx, %%edx; xrstor %0", "m"(area));
	expect(13, 0, "XRSTOR: reserved bits of MXCSR");
	*at32(area, 24) = 0x1f80;
}

static void user_xsaves(void)
{
	EXPECT("movl $7, %%eax; xorl %%edx, %%edx; xsaves area(%%rip)");
	asm volatile("int $0x80");
}

static void test_compacted(void)
{
	u64 low, high;

	if (xsave_features & 2) { /* XSAVEC */
		memset(area, 0, sizeof(area));
		set_ymm(0xaaaa, 0xbbbb);
		XOP("xsavec64", area, 6);
		check_eq(*at64(area, 520), 1ull << 63 | 6, "XSAVEC: XCOMP_BV");
		check_eq(*at64(area, 576 + 6 * 16), 0xbbbb, "XSAVEC: AVX is the first behind the header");
		set_ymm(0, 0);
		XOP("xrstor64", area, 6);
		get_ymm(&low, &high);
		check(low == 0xaaaa && high == 0xbbbb, "XRSTOR of the compacted form");
		*at64(area, 512) = 1ull << 5 | 2;
		EXPECT("movl $7, %%eax; xorl %%edx, %%edx; xrstor %0", "m"(area));
		expect(13, 0, "XRSTOR: XSTATE_BV beyond XCOMP_BV");
	}
	if (xsave_features & 4) { /* XGETBV with ECX 1 */
		asm volatile("vzeroall");
		memset(area, 0, sizeof(area));
		XOP("xrstor64", area, 4);
		check_eq(xinuse() & 4, 0, "XINUSE: AVX is initial after XRSTOR");
		set_ymm(1, 1);
		check_eq(xinuse() & 6, 6, "XINUSE: ... and in use");
		memset(area + 512, 0, 64);
		XOP("xrstor64", area, 4);
		*at64(area, 576) = 0x1717171717171717;
		XOP("xsavec64", area, 4);
		check(*at64(area, 512) == 0 && *at64(area, 576) == 0x1717171717171717,
		      "XSAVEC does not write what is initial");
	}
	if (xsave_features & 1) { /* XSAVEOPT */
		memset(area, 0, sizeof(area));
		set_ymm(3, 4);
		XOP("xsaveopt64", area, 7);
		check(*at64(area, 160 + 6 * 16) == 3 && *at64(area, 576 + 6 * 16) == 4,
		      "XSAVEOPT saves what was never saved there");
		set_ymm(5, 6);
		XOP("xsaveopt64", area, 7);
		check(*at64(area, 160 + 6 * 16) == 5 && *at64(area, 576 + 6 * 16) == 6,
		      "XSAVEOPT saves what has changed");
	}
	if (xsave_features & 8) { /* XSAVES */
		memset(area, 0, sizeof(area));
		wrmsr(0xda0, 0);
		set_ymm(7, 8);
		XOP("xsaves64", area, 7);
		check_eq(*at64(area, 520), 1ull << 63 | 7, "XSAVES: XCOMP_BV");
		set_ymm(0, 0);
		XOP("xrstors64", area, 7);
		get_ymm(&low, &high);
		check(low == 7 && high == 8, "XRSTORS");
		run_user(user_xsaves);
		expect(13, 0, "XSAVES at level 3 raises #GP");
		*at64(area, 520) = 0;
		EXPECT("movl $7, %%eax; xorl %%edx, %%edx; xrstors %0", "m"(area));
		expect(13, 0, "XRSTORS: the standard form raises #GP");
		EXPECT("movl $0xda0, %%ecx; movl $1, %%eax; xorl %%edx, %%edx; wrmsr");
		expect(13, 0, "IA32_XSS: user components raise #GP");
	}
}

/* Faults in the middle of an area over two pages. */
static void test_xsave_faults(void)
{
	u64 edge = TEST_VA + 8 * 4096;
	u8 *a = (u8 *)(edge - 128);

	test_map_init();
	test_map(8, 0);
	set_ymm(9, 10);
	EXPECT("movl $7, %%eax; xorl %%edx, %%edx; xsave (%0)", "b"(a));
	expect(14, 2, "XSAVE over an absent page");
	check_eq(trap_last.cr2 & ~4095ull, edge, "... CR2 is in it");
	EXPECT("movl $7, %%eax; xorl %%edx, %%edx; xrstor (%0)", "b"(a));
	expect(14, 0, "XRSTOR over an absent page");
	u64 low, high;
	get_ymm(&low, &high);
	check(low == 9 && high == 10, "... leaves the registers");
	EXPECT("vmovups %%ymm6, (%0)", "b"(edge - 16));
	check(trap_last.vector == 14 && trap_last.error == 2 && trap_last.cr2 == edge,
	      "a YMM store over an absent page");
}

void guest_main(void)
{
	u32 id[4];

	cpuid(1, 0, id);
	have_xsave = id[2] >> 26 & 1;
	have_avx = id[2] >> 28 & 1;
	test_gates();
	test_lazy();
	test_switching();
	test_ts();
	test_exceptions();
	test_fxsave();
	if (!have_xsave) {
		print("ok - XSAVE # SKIP not in CPUID\n");
		return;
	}
	cpuid(13, 0, id);
	supported = (u64)id[3] << 32 | id[0];
	cpuid(13, 1, id);
	xsave_features = id[0];
	test_xcr0();
	if (!have_avx) {
		print("ok - AVX # SKIP not in CPUID\n");
		return;
	}
	test_lazy_avx();
	test_xsave();
	test_compacted();
	test_xsave_faults();
}
