/*
 * What comes before and after an instruction that the host executes: gates, alignment, operands that cross into a
 * page that is not there, masked accesses, gathers, #XM, #MF, widths of what is written. From the SDM.
 */
#include "vec_fixture.h"

static bool host_has(u64 components)
{
	return (xsave_supported() & components) == components;
}

/* --- Gates and alignment ------------------------------------------------------------------------------------- */

static void test_gates(void **state)
{
	static const struct {
		const char *hex;
		u64 cr0_set, cr0_clear, cr4_clear, xcr0_clear;
		int vector; /* -1: retires */
	} row[] = {
		{"0f58c1", 0, 0, 0, 0, -1}, /* ADDPS */
		{"0f58c1", CR0_EM, 0, 0, 0, VEC_UD},
		{"0f58c1", CR0_TS, 0, 0, 0, VEC_NM},
		{"0f58c1", CR0_TS, 0, CR4_OSFXSR, 0, VEC_UD},
		{"0f58c1", CR0_EM | CR0_TS, 0, 0, 0, VEC_UD},
		{"0f58c1", 0, 0, CR4_OSXSAVE, 0, -1},
		{"0ffec1", CR0_EM, 0, 0, 0, VEC_UD}, /* PADDD mm */
		{"0ffec1", CR0_TS, 0, 0, 0, VEC_NM},
		{"0ffec1", 0, 0, CR4_OSFXSR, 0, -1},
		{"d8c1", CR0_EM, 0, 0, 0, VEC_NM}, /* FADD */
		{"d8c1", CR0_TS, 0, 0, 0, VEC_NM},
		{"d8c1", 0, 0, CR4_OSFXSR, 0, -1},
		{"9b", CR0_TS, 0, 0, 0, VEC_NM}, /* FWAIT */
		{"9b", CR0_TS, CR0_MP, 0, 0, -1},
		{"9b", CR0_EM, 0, 0, 0, -1},
		{"0f77", CR0_EM, 0, 0, 0, VEC_UD}, /* EMMS */
		{"0fae10", CR0_TS, 0, 0, 0, VEC_NM}, /* LDMXCSR */
		{"0fae10", 0, 0, CR4_OSFXSR, 0, VEC_UD},
		{"0fae00", CR0_EM, 0, 0, 0, VEC_NM}, /* FXSAVE */
		{"0fae20", 0, 0, CR4_OSXSAVE, 0, VEC_UD}, /* XSAVE */
		{"0fae20", CR0_TS, 0, 0, 0, VEC_NM},
		{"c5f458c2", 0, 0, 0, 0, -1}, /* VADDPS ymm */
		{"c5f458c2", 0, 0, CR4_OSXSAVE, 0, VEC_UD},
		{"c5f458c2", 0, 0, 0, XF(AVX), VEC_UD},
		{"c5f458c2", CR0_TS, 0, 0, XF(AVX), VEC_UD},
		{"c5f458c2", CR0_TS, 0, 0, 0, VEC_NM},
		{"c5f458c2", CR0_EM, 0, CR4_OSFXSR, 0, -1},
		{"c5f877", 0, 0, 0, XF(AVX), VEC_UD}, /* VZEROUPPER */
		{"c4e270f2ca", CR0_TS | CR0_EM, 0, CR4_OSXSAVE, XF(AVX), -1}, /* ANDN */
		{"62f1744858c2", 0, 0, 0, 0, -1}, /* VADDPS zmm */
		{"62f1744858c2", 0, 0, 0, XF(OPMASK), VEC_UD},
		{"62f1744858c2", 0, 0, 0, XF(HI16_ZMM), VEC_UD},
		{"62f1744858c2", CR0_TS, 0, 0, 0, VEC_NM},
		{"c5ec41cb", 0, 0, 0, XF(OPMASK), VEC_UD}, /* KANDW */
		{"c5ec41cb", CR0_TS, 0, 0, 0, VEC_NM},
	};
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u64 cr0 = c->cr0, cr4 = c->cr4, xcr0 = c->xcr0;
	u32 mxcsr = MXCSR_RESET;

	c->gpr[RAX] = DATA;
	for (unsigned n = 0; n < ARRAY_SIZE(row); n++) {
		struct insn i;

		vec_put(f, DATA, &mxcsr, 4);
		vec_decode(f, row[n].hex, &i);
		if (!insn_gate_open(c, &insn_rows[i.row]))
			continue;
		c->cr0 = (cr0 | row[n].cr0_set) & ~row[n].cr0_clear;
		c->cr4 = cr4 & ~row[n].cr4_clear;
		c->xcr0 = xcr0 & ~row[n].xcr0_clear;
		int how = vec_exec(f, row[n].hex);
		int vector = how == UNWIND_FAULT ? c->fault.vector : how ? -2 : -1;
		if (vector != row[n].vector)
			fail_msg("row %u, %s: vector %d, not %d", n, row[n].hex, vector, row[n].vector);
	}
}

static void expect_ud(struct cpu *c, const struct insn *i)
{
	assert_int_equal(CATCH(c, i->fn(c, i)), UNWIND_FAULT);
	assert_int_equal(c->fault.vector, VEC_UD);
}

/* VEX in real and virtual-8086 mode, and AVX-512 of 128 bits without VL. */
static void test_modes(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	struct insn i;

	vec_decode(f, "c5f458c2", &i);
	c->cr0 &= ~CR0_PE;
	expect_ud(c, &i);
	c->cr0 |= CR0_PE;
	c->rflags |= FL_VM;
	expect_ud(c, &i);
	c->rflags &= ~FL_VM;
	ASSERT_FINE(c, i.fn(c, &i));
	if (!host_has(XF_AVX512))
		return;
	vec_decode(f, "62f1740858c2", &i);
	ASSERT_FINE(c, i.fn(c, &i));
	c->isa[ISA_AVX512VL / 64] &= ~BIT64(ISA_AVX512VL % 64);
	expect_ud(c, &i);
	/* Scalars and 512 bits do without. */
	ASSERT_RETIRES(f, "62f1744858c2");
	ASSERT_RETIRES(f, "62f1760858c2");
}

static void test_alignment(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	c->gpr[RAX] = DATA + 8;
	ASSERT_RAISES(f, "0f2800", VEC_GP); /* MOVAPS */
	ASSERT_RAISES(f, "0f5800", VEC_GP); /* ADDPS */
	ASSERT_RAISES(f, "660ffe00", VEC_GP); /* PADDD */
	ASSERT_RAISES(f, "c5fc2800", VEC_GP); /* VMOVAPS ymm */
	ASSERT_RETIRES(f, "0f1000"); /* MOVUPS */
	ASSERT_RETIRES(f, "c5f05800"); /* VADDPS xmm */
	c->gpr[RAX] = DATA + 16;
	ASSERT_RETIRES(f, "0f2800");
	ASSERT_RAISES(f, "c5fc2800", VEC_GP);
	/* Alignment comes before the page. */
	c->gpr[RAX] = DATA + 2 * PAGE_SIZE + 1;
	ASSERT_RAISES(f, "0f2800", VEC_GP);
	if (!(mxcsr_mask() & MXCSR_MM))
		return;
	c->fpu.mxcsr |= MXCSR_MM;
	c->gpr[RAX] = DATA + 8;
	ASSERT_RETIRES(f, "0f5800");
	ASSERT_RETIRES(f, "660ffe00");
	ASSERT_RAISES(f, "0f2800", VEC_GP);
}

/* --- Memory operands ----------------------------------------------------------------------------------------- */

static void test_faults(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u8 before[64], after[64];

	/* A store that begins in a good page and ends in none writes nothing, and names the first bad byte. */
	memset(before, 0x77, sizeof(before));
	vec_put(f, DATA + 2 * PAGE_SIZE - 8, before, 8);
	c->gpr[RAX] = DATA + 2 * PAGE_SIZE - 8;
	memset(c->fpu.zmm[1], 0x11, 64);
	ASSERT_RAISES(f, "0f1108", VEC_PF);
	assert_int_equal(c->fault.payload, DATA + 2 * PAGE_SIZE);
	assert_int_equal(c->fault.error, PF_W);
	vec_get(f, DATA + 2 * PAGE_SIZE - 8, after, 8);
	assert_memory_equal(before, after, 8);
	/* A load leaves its destination alone. */
	memset(c->fpu.zmm[0], 0x22, 64);
	memset(before, 0x22, 64);
	ASSERT_RAISES(f, "0f1000", VEC_PF);
	assert_int_equal(c->fault.error, 0);
	assert_memory_equal(c->fpu.zmm[0], before, 64);
	/* Read only. */
	c->gpr[RAX] = DATA_RO;
	ASSERT_RAISES(f, "0f1108", VEC_PF);
	assert_int_equal(c->fault.error, PF_W | PF_P);
	ASSERT_RETIRES(f, "0f1000");
	/* An x87 store that faults does not pop. */
	ASSERT_RETIRES(f, "d9e8");
	ASSERT_RAISES(f, "dd18", VEC_PF); /* FSTP m64 */
	assert_int_equal(c->fpu.x87[FX_FTW], 0x80);
	c->gpr[RAX] = DATA + 2 * PAGE_SIZE - 3;
	ASSERT_RAISES(f, "dd18", VEC_PF); /* half of it in a page that is not there */
	assert_int_equal(c->fault.error, PF_W);
	assert_int_equal(c->fpu.x87[FX_FTW], 0x80);
	/* Nor does MMX take the registers over. */
	ASSERT_RAISES(f, "0f7f00", VEC_PF); /* MOVQ [rax], mm0 */
	assert_int_equal(c->fpu.x87[FX_FTW], 0x80);
}

/* Elements that the mask leaves out neither fault nor change memory. */
static void test_masked(void **state)
{
	const u64 end = DATA + 2 * PAGE_SIZE;
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u8 got[64], want[64];

	if (!host_has(XF_AVX512))
		skip();
	for (unsigned n = 0; n < 64; n++)
		c->fpu.zmm[1][n] = (u8)(0x80 + n);
	memset(want, 0x33, 64);
	vec_put(f, end - 32, want, 32);
	c->gpr[RAX] = end - 32;
	/* VMOVDQU32 [rax]{k1}, zmm1: eight elements lie before the end of the page. */
	c->fpu.k[1] = 0xa5;
	ASSERT_RETIRES(f, "62f17e497f08");
	for (unsigned n = 0; n < 8; n++)
		if (0xa5 >> n & 1)
			memcpy(want + 4 * n, c->fpu.zmm[1] + 4 * n, 4);
	vec_get(f, end - 32, got, 32);
	assert_memory_equal(got, want, 32);
	/* One more that lies behind: nothing is written. */
	c->fpu.k[1] = 0x15a;
	ASSERT_RAISES(f, "62f17e497f08", VEC_PF);
	assert_int_equal(c->fault.payload, end);
	vec_get(f, end - 32, got, 32);
	assert_memory_equal(got, want, 32);
	/* Loads: merged and zeroed. */
	memset(c->fpu.zmm[0], 0x44, 64);
	c->fpu.k[1] = 0x81;
	ASSERT_RETIRES(f, "62f17e496f00");
	memset(got, 0x44, 64);
	memcpy(got, want, 4);
	memcpy(got + 28, want + 28, 4);
	assert_memory_equal(c->fpu.zmm[0], got, 64);
	ASSERT_RETIRES(f, "62f17ec96f00");
	memset(got + 4, 0, 24);
	memset(got + 32, 0, 32);
	assert_memory_equal(c->fpu.zmm[0], got, 64);
}

static void test_masked_elsewhere(void **state)
{
	const u64 end = DATA + 2 * PAGE_SIZE;
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u8 got[64], want[64];

	if (!host_has(XF_AVX512))
		skip();
	/* No element at all: any address will do. */
	c->gpr[RAX] = 0x666000;
	c->fpu.k[1] = 0;
	ASSERT_RETIRES(f, "62f17ec96f00");
	ASSERT_RETIRES(f, "62f17e497f08");
	/* Broadcast of one element that is wanted or not. */
	c->gpr[RAX] = end;
	ASSERT_RETIRES(f, "62f17559fe00");
	c->fpu.k[1] = 0x8000;
	ASSERT_RAISES(f, "62f17559fe00", VEC_PF);
	/* Both pages, with gaps: over the border by element. */
	for (unsigned n = 0; n < 64; n++)
		c->fpu.zmm[1][n] = (u8)n;
	memset(want, 0x99, 64);
	c->gpr[RAX] = DATA + PAGE_SIZE - 30;
	vec_put(f, c->gpr[RAX], want, 64);
	c->fpu.k[1] = 0x0ff0c7a1;
	ASSERT_RETIRES(f, "62f1ff497f08"); /* VMOVDQU16 */
	for (unsigned n = 0; n < 32; n++)
		if (c->fpu.k[1] >> n & 1)
			memcpy(want + 2 * n, c->fpu.zmm[1] + 2 * n, 2);
	vec_get(f, c->gpr[RAX], got, 64);
	assert_memory_equal(got, want, 64);
	/* VPCOMPRESSD and VPEXPANDD use as much memory as the mask has bits. */
	c->gpr[RAX] = end - 12;
	c->fpu.k[2] = 0x8110;
	ASSERT_RETIRES(f, "62f27d4a8b08");
	vec_get(f, end - 12, got, 12);
	memcpy(want, c->fpu.zmm[1] + 16, 4);
	memcpy(want + 4, c->fpu.zmm[1] + 32, 4);
	memcpy(want + 8, c->fpu.zmm[1] + 60, 4);
	assert_memory_equal(got, want, 12);
	ASSERT_RETIRES(f, "62f27dca8900");
	assert_memory_equal(c->fpu.zmm[0] + 32, want + 4, 4);
	c->fpu.k[2] = 0x8111;
	ASSERT_RAISES(f, "62f27d4a8b08", VEC_PF);
	ASSERT_RAISES(f, "62f27d4a8900", VEC_PF);
}

/* A gather that faults has done the elements before and marked them so. */
static void test_gather(void **state)
{
	const u32 index[8] = {0, 0x1000, 0x10000, 4, 0x1ffc, 0, 0x2000, 0};
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	const u32 *got = (u32 *)c->fpu.zmm[0], *mask = (u32 *)c->fpu.zmm[1];

	for (u32 n = 0; n < 8; n++) {
		u32 v = 0xa0000000 + index[n];
		if (index[n] < 0x2000)
			vec_put(f, DATA + index[n], &v, 4);
	}
	memcpy(c->fpu.zmm[4], index, 32);
	memset(c->fpu.zmm[0], 0x55, 64);
	memset(c->fpu.zmm[1], 0xff, 32);
	memset(c->fpu.zmm[1] + 8, 0, 4); /* element 2 is not wanted */
	c->gpr[RAX] = DATA;
	ASSERT_RAISES(f, "c4e275900420", VEC_PF); /* VPGATHERDD ymm0, [rax+ymm4], ymm1 */
	assert_int_equal(c->fault.payload, DATA + 0x2000);
	for (u32 n = 0; n < 6; n++) {
		assert_int_equal(got[n], n == 2 ? 0x55555555 : 0xa0000000 + index[n]);
		assert_int_equal(mask[n], 0);
	}
	assert_int_equal(got[6], 0x55555555);
	assert_int_equal(mask[6], 0xffffffff);
	map_page(f, PAGING_4, DATA + 2 * PAGE_SIZE, 0x500000, 12, P_W | P_U, P_W);
	put(f, 0x500000, 4, 0x12345678);
	ASSERT_RETIRES(f, "c4e275900420");
	assert_int_equal(got[6], 0x12345678);
	assert_int_equal(got[7], 0xa0000000);
	for (u32 n = 0; n < 8; n++)
		assert_int_equal(mask[n], 0);
	for (u32 n = 8; n < 16; n++)
		assert_int_equal(got[n], 0);
}

/* --- Exceptions of the operation itself ---------------------------------------------------------------------- */

#define IE 1u
#define DE 2u
#define ZE 4u
#define OE 8u
#define UE 16u
#define PE 32u

static void put_floats(struct fixture *f, unsigned reg, float a, float b)
{
	const float v[4] = {a, b, 1, 1};

	memcpy(f->cpu.fpu.zmm[reg], v, 16);
}

static void test_xm(void **state)
{
	static const struct {
		const char *hex; /* on xmm0, xmm1 */
		float a0, a1, b0, b1;
		u32 unmasked, flags;
	} row[] = {
		{"0f5ec1", 1, 1, 0, 1, ZE, ZE},                /* DIVPS */
		{"0f5ec1", 1, 1, 0, 3, ZE, ZE},                /* 1/3 is inexact: not seen, ZE is found before */
		{"0f58c1", 1, 0, 0x1p-30f, 0, PE, PE},         /* ADDPS */
		{"0f59c1", 0x1p100f, 1, 0x1p100f, 1, OE, OE},  /* MULPS: exact but for the exponent */
		{"0f59c1", 0x1p-100f, 1, 0x1p-40f, 1, UE, UE}, /* an exact denormal */
		{"0f59c1", 0x1p-20f, 1, 0x1p-140f, 1, UE | DE, DE},
		{"0f51c1", 0, 0, -1, 1, IE, IE},               /* SQRTPS */
	};
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;

	for (unsigned n = 0; n < ARRAY_SIZE(row); n++) {
		u8 before[64];

		put_floats(f, 0, row[n].a0, row[n].a1);
		put_floats(f, 1, row[n].b0, row[n].b1);
		memcpy(before, c->fpu.zmm[0], 64);
		c->fpu.mxcsr = MXCSR_MASKS & ~(row[n].unmasked << 7);
		ASSERT_RAISES(f, row[n].hex, VEC_XM);
		assert_int_equal(c->fpu.mxcsr & MXCSR_FLAGS, row[n].flags);
		assert_int_equal(c->fpu.mxcsr & MXCSR_MASKS, MXCSR_MASKS & ~(row[n].unmasked << 7));
		assert_memory_equal(c->fpu.zmm[0], before, 64);
		c->cr4 &= ~CR4_OSXMMEXCPT;
		ASSERT_RAISES(f, row[n].hex, VEC_UD);
		c->cr4 |= CR4_OSXMMEXCPT;
		/* Masked, it retires; and this process still has its own MXCSR. */
		c->fpu.mxcsr = MXCSR_MASKS;
		ASSERT_RETIRES(f, row[n].hex);
		assert_int_equal(__builtin_ia32_stmxcsr() & MXCSR_MASKS, MXCSR_MASKS);
	}
}

/* An unmasked exception of a conversion to memory leaves memory as it was. */
static void test_xm_store(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	struct insn i;
	u64 got, want = 0x6666666666666666;

	vec_decode(f, "c4e3791d0800", &i); /* VCVTPS2PH [rax], xmm1, 0 */
	if (!insn_gate_open(c, &insn_rows[i.row]))
		skip();
	put_floats(f, 1, 1e30f, 1);
	c->fpu.mxcsr = MXCSR_MASKS & ~(OE << 7);
	for (u64 la = DATA + 8; la < DATA + 2 * PAGE_SIZE; la += PAGE_SIZE - 12) {
		vec_put(f, la, &want, 8);
		c->gpr[RAX] = la;
		ASSERT_RAISES(f, "c4e3791d0800", VEC_XM);
		vec_get(f, la, &got, 8);
		assert_int_equal(got, want);
	}
}

static void test_mf(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u16 fcw = 0x37b, own; /* ZM clear */
	u64 fip;

	c->gpr[RAX] = DATA;
	vec_put(f, DATA, &fcw, 2);
	ASSERT_RETIRES(f, "d928"); /* FLDCW */
	ASSERT_RETIRES(f, "d9e8"); /* FLD1 */
	ASSERT_RETIRES(f, "d9ee"); /* FLDZ */
	c->rip = 0x1234;
	ASSERT_RETIRES(f, "d8f9"); /* FDIVR st0, st1: 1/0 */
	assert_int_equal(fx_get16(c->fpu.x87, FX_FSW), 0x3000 | FSW_ES | FSW_B | ZE);
	c->rip = 0x2000;
	/* What waits raises it, memory operands come later; what does not wait goes on. */
	c->gpr[RAX] = 0x666000;
	ASSERT_RAISES(f, "9b", VEC_MF);
	ASSERT_RAISES(f, "d900", VEC_MF); /* FLD m32 */
	ASSERT_RAISES(f, "0ffec1", VEC_MF); /* PADDD mm */
	ASSERT_RAISES(f, "0f77", VEC_MF);
	ASSERT_RETIRES(f, "0f58c1"); /* ADDPS */
	ASSERT_RETIRES(f, "dfe0"); /* FNSTSW AX */
	assert_int_equal(c->gpr[RAX] & 0xffff, 0x3000 | FSW_ES | FSW_B | ZE);
	memcpy(&fip, c->fpu.x87 + FX_FIP, 8);
	assert_int_equal(fip, 0x1234);
	assert_int_equal(fx_get16(c->fpu.x87, FX_FOP), 0x0f9);
	ASSERT_RETIRES(f, "dbe2"); /* FNCLEX */
	ASSERT_RETIRES(f, "9b");
	ASSERT_RETIRES(f, "d8c1");
	/* This process's own x87 is as before. */
	__asm__ volatile("fnstcw %0" : "=m"(own));
	assert_int_equal(own, 0x37f);
	volatile long double three = 3;
	assert_true(three + 0.5L == 3.5L);
}

/* --- x87, MMX, widths ---------------------------------------------------------------------------------------- */

static void test_x87(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	double d = 2.5;
	s32 i32 = -7;
	long double t = 0;

	c->gpr[RAX] = DATA + PAGE_SIZE - 4;
	vec_put(f, c->gpr[RAX], &d, 8);
	ASSERT_RETIRES(f, "dd00"); /* FLD m64 over the page */
	vec_put(f, DATA, &i32, 4);
	c->gpr[RAX] = DATA;
	ASSERT_RETIRES(f, "da08"); /* FIMUL m32 */
	ASSERT_RETIRES(f, "d9c0"); /* FLD st0 */
	ASSERT_RETIRES(f, "dec1"); /* FADDP */
	c->gpr[RAX] = DATA + PAGE_SIZE - 3;
	ASSERT_RETIRES(f, "db38"); /* FSTP m80 over the page */
	vec_get(f, c->gpr[RAX], &t, 10);
	assert_true(t == -35.0L);
	assert_int_equal(FSW_TOP(fx_get16(c->fpu.x87, FX_FSW)), 0);
	assert_int_equal(c->fpu.x87[FX_FTW], 0);
	/* FCOMI writes flags, FCMOV reads them. */
	ASSERT_RETIRES(f, "d9e8");
	ASSERT_RETIRES(f, "d9ee");
	c->rflags |= FL_ARITH;
	ASSERT_RETIRES(f, "dbf1"); /* 0 < 1 */
	assert_int_equal(c->rflags & (FL_CF | FL_ZF | FL_PF), FL_CF);
	ASSERT_RETIRES(f, "dac1"); /* FCMOVB st0, st1 */
	ASSERT_RETIRES(f, "dbf1");
	assert_int_equal(c->rflags & (FL_CF | FL_ZF | FL_PF), FL_ZF);
}

/* MMX sees the registers by their numbers, whatever TOP is. */
static void test_mmx(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u64 mantissa;

	ASSERT_RETIRES(f, "d9e8"); /* FLD1: R7 */
	ASSERT_RETIRES(f, "d9ee"); /* FLDZ: R6 */
	ASSERT_RETIRES(f, "0f6fcf"); /* MOVQ mm1, mm7 */
	assert_int_equal(c->fpu.x87[FX_FTW], 0xff);
	assert_int_equal(FSW_TOP(fx_get16(c->fpu.x87, FX_FSW)), 0);
	memcpy(&mantissa, c->fpu.x87 + FX_ST + 16, 8);
	assert_int_equal(mantissa, 1ull << 63);
	assert_int_equal(fx_get16(c->fpu.x87, FX_ST + 16 + 8), 0xffff);
	ASSERT_RETIRES(f, "0f77");
	assert_int_equal(c->fpu.x87[FX_FTW], 0);
	/* MASKMOVQ: bytes where the mask says so. */
	c->gpr[RDI] = DATA + PAGE_SIZE - 3;
	const u64 data = 0x8877665544332211, mask = 0x80007f8000ff0080, was = 0;
	u64 got;
	memcpy(c->fpu.x87 + FX_ST, &data, 8);
	memcpy(c->fpu.x87 + FX_ST + 16, &mask, 8);
	vec_put(f, c->gpr[RDI], &was, 8);
	ASSERT_RETIRES(f, "0ff7c1");
	vec_get(f, c->gpr[RDI], &got, 8);
	assert_int_equal(got, 0x8800005500330011);
}

static void test_widths(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	const u8 *z = c->fpu.zmm[0];

	memset(c->fpu.zmm, 0xee, sizeof(c->fpu.zmm));
	c->fpu.xinuse = 0;
	ASSERT_RETIRES(f, "0f57c0"); /* XORPS xmm0, xmm0: the low 128 bits */
	assert_true(z[0] == 0 && z[15] == 0 && z[16] == 0xee && z[63] == 0xee);
	assert_int_equal(c->fpu.xinuse, XF(SSE));
	ASSERT_RETIRES(f, "c5f457c0"); /* VXORPS ymm0, ymm1, ymm0: 256 bits, and zero above */
	assert_true(z[0] == 0xee && z[15] == 0xee && z[16] == 0 && z[31] == 0 && z[32] == 0 && z[63] == 0);
	assert_int_equal(c->fpu.xinuse, XF(SSE) | XF(AVX));
	memset(c->fpu.zmm[0], 0xdd, 64);
	ASSERT_RETIRES(f, "c5f057c0"); /* VXORPS xmm0, xmm1, xmm0 */
	assert_true(z[0] == 0x33 && z[15] == 0x33 && z[16] == 0 && z[63] == 0);
	if (!host_has(XF_AVX512))
		return;
	ASSERT_RETIRES(f, "62a1fd486fc1"); /* VMOVDQA64 zmm16, zmm17 */
	assert_int_equal(c->fpu.xinuse, XF(SSE) | XF(AVX) | XF(HI16_ZMM));
	ASSERT_RETIRES(f, "c5f892c9"); /* KMOVW k1, ecx */
	assert_int_equal(c->fpu.xinuse, XF(SSE) | XF(AVX) | XF(HI16_ZMM) | XF(OPMASK));
	ASSERT_RETIRES(f, "62f1fd486fc1"); /* VMOVDQA64 zmm0, zmm1 */
	assert_int_equal(c->fpu.xinuse, XF(SSE) | XF(AVX) | XF_AVX512);
	ASSERT_RETIRES(f, "c5f877"); /* VZEROUPPER */
	assert_int_equal(c->fpu.xinuse, XF(SSE) | XF(HI16_ZMM) | XF(OPMASK));
	assert_true(z[15] == 0xee && z[16] == 0 && z[63] == 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, vec_setup, vec_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_gates), TEST(test_modes), TEST(test_alignment), TEST(test_faults), TEST(test_masked),
		TEST(test_masked_elsewhere), TEST(test_gather), TEST(test_xm), TEST(test_xm_store), TEST(test_mf),
		TEST(test_x87), TEST(test_mmx), TEST(test_widths),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
