/* FPU state in its formats: the KVM ABI's area, both formats of XSAVE, FXSAVE, x87 environments (SDM vol. 1). */
#include "vec_fixture.h"

#include <cpuid.h>

/* Instructions on [rbx], which leaves EDX:EAX to be the mask. */
#define FXSAVE "0fae03"
#define FXSAVE64 "480fae03"
#define FXRSTOR "0fae0b"
#define FXRSTOR64 "480fae0b"
#define XSAVE "480fae23"
#define XRSTOR "480fae2b"
#define XSAVEOPT "480fae33"
#define XSAVEC "480fc723"
#define FNSTENV "d933"
#define FNSTENV16 "66d933"
#define FLDENV "d923"
#define FNSAVE "dd33"
#define FRSTOR "dd23"

#define AREA_MAX 4096

static u64 get64(const u8 *p)
{
	u64 v;
	memcpy(&v, p, 8);
	return v;
}

static u32 get32(const u8 *p)
{
	u32 v;
	memcpy(&v, p, 4);
	return v;
}

static bool all_are(const u8 *p, unsigned n, u8 v)
{
	for (; n; n--)
		if (*p++ != v)
			return false;
	return true;
}

static void host_component(unsigned n, u32 *offset, u32 *size, bool *align)
{
	u32 c, d;

	__cpuid_count(13, n, *size, *offset, c, d);
	*align = c & 2;
}

/* A state in which every byte is its own. */
static void fill(struct fpu_state *f)
{
	fpu_reset(f);
	for (unsigned n = 0; n < sizeof(f->zmm); n++)
		((u8 *)f->zmm)[n] = (u8)(n * 7 + n / 256);
	for (unsigned n = 0; n < 8; n++)
		f->k[n] = 0x0101010101010101ull * (n + 0x30);
	for (unsigned n = 0; n < 8; n++)
		for (unsigned b = 0; b < 10; b++)
			f->x87[FX_ST + 16 * n + b] = (u8)(16 * n + b + 1);
	fx_put16(f->x87, FX_FCW, 0xf7f);
	fx_put16(f->x87, FX_FSW, 0x2821);
	f->x87[FX_FTW] = 0x3c;
	fx_put16(f->x87, FX_FOP, 0x5a5);
	memset(f->x87 + FX_FIP, 0x11, 8);
	memset(f->x87 + FX_FDP, 0x22, 8);
	f->mxcsr = 0x7fa1;
	f->xinuse = xsave_supported();
}

static void assert_same(const struct fpu_state *a, const struct fpu_state *b)
{
	assert_memory_equal(a->zmm, b->zmm, sizeof(a->zmm));
	assert_memory_equal(a->k, b->k, sizeof(a->k));
	assert_memory_equal(a->x87, b->x87, FX_MXCSR);
	assert_memory_equal(a->x87 + FX_ST, b->x87 + FX_ST, 128);
	assert_int_equal(a->mxcsr, b->mxcsr);
}

/* Registers that no supported component holds are zero. */
static void keep_supported(struct fpu_state *f)
{
	for (unsigned n = 0; n < 32; n++) {
		if (!(xsave_supported() & XF(AVX)))
			memset(f->zmm[n] + 16, 0, 48);
		if (!(xsave_supported() & XF_AVX512))
			memset(n < 16 ? f->zmm[n] + 32 : f->zmm[n], 0, n < 16 ? 32 : 64);
	}
	if (!(xsave_supported() & XF_AVX512))
		memset(f->k, 0, sizeof(f->k));
}

/* --- The KVM ABI's area -------------------------------------------------------------------------------------- */

static void test_layout(void **state)
{
	u32 offset, size;
	unsigned our_offset, our_size;
	bool align;
	u64 supported = xsave_supported();

	assert_int_equal(supported & (XF(X87) | XF(SSE)), XF(X87) | XF(SSE));
	assert_int_equal(xsave_size(XF(X87) | XF(SSE), false), 576);
	assert_int_equal(xsave_size(0, true), 576);
	for (unsigned n = XC_AVX; n < NR_XC; n++) {
		if (!(supported & BIT64(n)))
			continue;
		host_component(n, &offset, &size, &align);
		xsave_component(n, &our_offset, &our_size);
		assert_int_equal(our_offset, offset);
		assert_int_equal(our_size, size);
		assert_int_equal(xsave_size(3 | BIT64(n), false), offset + size);
		assert_int_equal(xsave_size(3 | BIT64(n), true), 576 + size);
	}
	if (supported & XF_AVX512) {
		u64 set = XF(AVX) | XF(HI16_ZMM);
		host_component(XC_HI16_ZMM, &offset, &size, &align);
		struct xpart part[NR_XC] = {{0}};
		unsigned hi16 = align ? ALIGN_UP(576 + 256, 64) : 576 + 256;
		assert_int_equal(xsave_parts(XF(HI16_ZMM), set | XCOMP_COMPACTED, part), hi16 + size);
		assert_int_equal(part[XC_HI16_ZMM].offset, hi16);
		assert_int_equal(part[XC_HI16_ZMM].size, size);
		assert_int_equal(part[XC_AVX].size, 0);
		assert_int_equal(xsave_parts(XF(AVX), set | XCOMP_COMPACTED, part), 576 + 256);
		assert_int_equal(part[XC_AVX].offset, 576);
	}
}

static void test_area(void **state)
{
	struct fpu_state a, b;
	u8 area[AREA_MAX];
	unsigned offset, size;

	fill(&a);
	keep_supported(&a);
	fpu_to_xsave(&a, xsave_supported(), area, sizeof(area));
	assert_int_equal(get64(area + XSAVE_BV), xsave_supported());
	assert_int_equal(get64(area + XSAVE_XCOMP_BV), 0);
	assert_int_equal(get32(area + FX_MXCSR), 0x7fa1);
	assert_int_equal(get32(area + FX_MXCSR_MASK), mxcsr_mask());
	assert_int_equal(fx_get16(area, FX_FCW), 0xf7f);
	assert_memory_equal(area + FX_XMM + 3 * 16, a.zmm[3], 16);
	if (xsave_supported() & XF(AVX)) {
		xsave_component(XC_AVX, &offset, &size);
		assert_memory_equal(area + offset + 5 * 16, a.zmm[5] + 16, 16);
	}
	if (xsave_supported() & XF_AVX512) {
		xsave_component(XC_HI16_ZMM, &offset, &size);
		assert_memory_equal(area + offset + 64, a.zmm[17], 64);
		xsave_component(XC_ZMM_HI256, &offset, &size);
		assert_memory_equal(area + offset + 32, a.zmm[1] + 32, 32);
		xsave_component(XC_OPMASK, &offset, &size);
		assert_memory_equal(area + offset, a.k, 64);
	}
	fpu_reset(&b);
	assert_true(fpu_from_xsave(&b, xsave_supported(), area, sizeof(area)));
	assert_same(&a, &b);
	assert_int_equal(b.xinuse, xsave_supported());
}

/* A component that XSTATE_BV leaves out gets its initial value, whatever the area holds. */
static void test_area_init(void **state)
{
	struct fpu_state a, b;
	u8 area[AREA_MAX];
	const u64 bv = XF(SSE);

	fill(&a);
	fpu_to_xsave(&a, xsave_supported(), area, sizeof(area));
	memcpy(area + XSAVE_BV, &bv, 8);
	fill(&b);
	assert_true(fpu_from_xsave(&b, xsave_supported(), area, sizeof(area)));
	assert_memory_equal(b.zmm[7], a.zmm[7], 16);
	assert_true(all_are(b.zmm[7] + 16, 48, 0));
	if (xsave_supported() & XF_AVX512)
		assert_true(all_are(b.zmm[20], 64, 0));
	assert_int_equal(fx_get16(b.x87, FX_FCW), 0x37f);
	assert_int_equal(fx_get16(b.x87, FX_FSW), 0);
	assert_true(all_are(b.x87 + FX_ST, 128, 0));
	assert_int_equal(b.mxcsr, 0x7fa1);
	assert_int_equal(b.xinuse, XF(SSE));
	memset(area + XSAVE_BV, 0, 8);
	assert_true(fpu_from_xsave(&b, xsave_supported(), area, sizeof(area)));
	assert_int_equal(b.mxcsr, MXCSR_RESET);
}

static void test_area_bad(void **state)
{
	struct fpu_state f, before;
	u8 good[AREA_MAX], bad[AREA_MAX];

	fill(&f);
	before = f;
	fpu_to_xsave(&f, xsave_supported(), good, sizeof(good));
#define BAD(at, value)                                                                   \
	do {                                                                             \
		memcpy(bad, good, sizeof(bad));                                          \
		bad[at] = (value);                                                       \
		assert_false(fpu_from_xsave(&f, xsave_supported(), bad, sizeof(bad)));   \
		assert_memory_equal(&f, &before, sizeof(f));                             \
	} while (0)
	BAD(XSAVE_BV, 0x0b);         /* component 3 */
	BAD(XSAVE_BV + 7, 0x40);
	BAD(XSAVE_XCOMP_BV, 1);
	BAD(XSAVE_XCOMP_BV + 7, 0x80);
	BAD(XSAVE_XCOMP_BV + 8, 1);
	BAD(XSAVE_EXTENDED - 1, 1);
	BAD(FX_MXCSR + 3, 1);
#undef BAD
	assert_false(fpu_from_xsave(&f, XF(X87) | XF(SSE), good, sizeof(good)) && (xsave_supported() & XF(AVX)));
	if (xsave_supported() & XF(AVX))
		assert_false(fpu_from_xsave(&f, xsave_supported(), good, 600));
}

/* --- XSAVE and XRSTOR, standard format ----------------------------------------------------------------------- */

static void set_mask(struct fixture *f, u64 mask)
{
	f->cpu.gpr[RAX] = (u32)mask;
	f->cpu.gpr[RDX] = mask >> 32;
}

static void area_fill(struct fixture *f, u64 la, u8 v)
{
	u8 area[AREA_MAX];

	memset(area, v, sizeof(area));
	vec_put(f, la, area, sizeof(area));
}

static void test_xsave(void **state)
{
	struct fixture *f = *state;
	struct fpu_state *s = &f->cpu.fpu;
	u8 area[AREA_MAX];
	unsigned offset, size;

	if (!(xsave_supported() & XF(AVX)))
		skip();
	fill(s);
	s->xinuse = XF(X87) | XF(SSE);
	f->cpu.gpr[RBX] = DATA + PAGE_SIZE - 640; /* over the page */
	area_fill(f, f->cpu.gpr[RBX], 0xaa);
	const u64 old_bv = XF(AVX) | XF(X87) | BIT64(8);
	vec_put(f, f->cpu.gpr[RBX] + XSAVE_BV, &old_bv, 8);
	set_mask(f, ~0ull);
	xsave_component(XC_AVX, &offset, &size);

	/* XSAVEOPT leaves out what is in its initial state, XSAVE does not. */
	ASSERT_RETIRES(f, XSAVEOPT);
	vec_get(f, f->cpu.gpr[RBX], area, sizeof(area));
	assert_int_equal(get64(area + XSAVE_BV), XF(X87) | XF(SSE) | BIT64(8));
	assert_true(all_are(area + XSAVE_XCOMP_BV, 56, 0xaa));
	assert_true(all_are(area + offset, size, 0xaa));
	ASSERT_RETIRES(f, XSAVE);
	vec_get(f, f->cpu.gpr[RBX], area, sizeof(area));
	assert_int_equal(get64(area + XSAVE_BV), XF(X87) | XF(SSE) | BIT64(8));
	assert_memory_equal(area + FX_XMM, s->zmm[0], 16);
	assert_memory_equal(area + FX_XMM + 240, s->zmm[15], 16);
	assert_memory_equal(area + offset, s->zmm[0] + 16, 16);
	assert_true(all_are(area + 416, 96, 0xaa));
	assert_int_equal(get32(area + FX_MXCSR), 0x7fa1);
	assert_int_equal(get64(area + FX_FIP), 0x1111111111111111);

	/* Only what the mask names; MXCSR goes with AVX too. */
	area_fill(f, f->cpu.gpr[RBX], 0x55);
	set_mask(f, XF(AVX));
	s->xinuse |= XF(AVX);
	ASSERT_RETIRES(f, XSAVE);
	vec_get(f, f->cpu.gpr[RBX], area, sizeof(area));
	assert_true(all_are(area, FX_MXCSR, 0x55));
	assert_true(all_are(area + FX_ST, 480, 0x55));
	assert_int_equal(get32(area + FX_MXCSR), 0x7fa1);
	assert_int_equal(get64(area + XSAVE_BV), 0x5555555555555555 | XF(AVX));
	assert_memory_equal(area + offset + 240, s->zmm[15] + 16, 16);
}

static void test_xrstor(void **state)
{
	struct fixture *f = *state;
	struct fpu_state *s = &f->cpu.fpu, saved;
	const u64 none = 0;

	fill(s);
	keep_supported(s);
	saved = *s;
	f->cpu.gpr[RBX] = DATA + PAGE_SIZE - 640;
	area_fill(f, f->cpu.gpr[RBX], 0);
	set_mask(f, ~0ull);
	ASSERT_RETIRES(f, XSAVE);
	fpu_reset(s);
	ASSERT_RETIRES(f, XRSTOR);
	assert_same(s, &saved);
	/* The mask alone. */
	fpu_reset(s);
	set_mask(f, XF(X87));
	ASSERT_RETIRES(f, XRSTOR);
	assert_memory_equal(s->x87 + FX_ST, saved.x87 + FX_ST, 128);
	assert_int_equal(s->mxcsr, MXCSR_RESET);
	assert_true(all_are(s->zmm[0], 64, 0));
	/* XSTATE_BV clear: initial values, but MXCSR is loaded. */
	vec_put(f, f->cpu.gpr[RBX] + XSAVE_BV, &none, 8);
	fill(s);
	s->mxcsr = 0x1f81;
	set_mask(f, ~0ull);
	ASSERT_RETIRES(f, XRSTOR);
	assert_true(all_are(s->zmm[0], 16, 0));
	assert_int_equal(fx_get16(s->x87, FX_FCW), 0x37f);
	assert_int_equal(s->mxcsr, 0x7fa1);
	assert_int_equal(s->xinuse, 0);
}

static void test_xrstor_bad(void **state)
{
	static const struct {
		unsigned at;
		u8 value;
	} bad[] = {
		{XSAVE_BV, 0x08},           /* not in XCR0 */
		{XSAVE_BV + 7, 0x80},
		{XSAVE_XCOMP_BV, 0x01},     /* set without bit 63 */
		{XSAVE_XCOMP_BV + 8, 0x01}, /* reserved */
		{FX_MXCSR + 3, 0x80},
	};
	struct fixture *f = *state;
	struct fpu_state *s = &f->cpu.fpu, before;

	for (unsigned n = 0; n < ARRAY_SIZE(bad); n++) {
		fill(s);
		f->cpu.gpr[RBX] = DATA;
		area_fill(f, DATA, 0);
		set_mask(f, ~0ull);
		ASSERT_RETIRES(f, XSAVE);
		vec_put(f, DATA + bad[n].at, &bad[n].value, 1);
		fpu_reset(s);
		before = *s;
		ASSERT_RAISES(f, XRSTOR, VEC_GP);
		assert_memory_equal(s, &before, sizeof(before));
	}
	f->cpu.gpr[RBX] = DATA + 32;
	ASSERT_RAISES(f, XRSTOR, VEC_GP);
	ASSERT_RAISES(f, XSAVE, VEC_GP);
	/* An area that ends in no page: nothing is loaded, nothing is stored. */
	area_fill(f, DATA + PAGE_SIZE, 0);
	f->cpu.gpr[RBX] = DATA + 2 * PAGE_SIZE - 64;
	ASSERT_RAISES(f, XSAVE, VEC_PF);
	u8 tail[64];
	vec_get(f, f->cpu.gpr[RBX], tail, sizeof(tail));
	assert_true(all_are(tail, sizeof(tail), 0));
	before = *s;
	ASSERT_RAISES(f, XRSTOR, VEC_PF);
	assert_memory_equal(s, &before, sizeof(before));
}

/* --- Compacted format ---------------------------------------------------------------------------------------- */

static void test_compacted(void **state)
{
	struct fixture *f = *state;
	struct fpu_state *s = &f->cpu.fpu, saved;
	const u64 set = XF(X87) | XF(SSE) | XF(AVX) | XF(OPMASK) | XF(HI16_ZMM);
	u8 area[AREA_MAX];
	struct xpart part[NR_XC] = {{0}};
	xsave_parts(set, set | XCOMP_COMPACTED, part);
	unsigned hi16 = part[XC_HI16_ZMM].offset;

	if (!cpu_has(&f->cpu, ISA_XSAVEC) || (xsave_supported() & set) != set)
		skip();
	fill(s);
	s->xinuse = XF(X87) | XF(AVX) | XF(HI16_ZMM);
	saved = *s;
	f->cpu.gpr[RBX] = DATA;
	area_fill(f, DATA, 0xcc);
	set_mask(f, set);
	ASSERT_RETIRES(f, XSAVEC);
	vec_get(f, DATA, area, sizeof(area));
	/* SSE counts as in use: MXCSR is not at its initial value. */
	assert_int_equal(get64(area + XSAVE_BV), XF(X87) | XF(SSE) | XF(AVX) | XF(HI16_ZMM));
	assert_int_equal(get64(area + XSAVE_XCOMP_BV), set | XCOMP_COMPACTED);
	assert_memory_equal(area + 576 + 16, s->zmm[1] + 16, 16);
	assert_true(all_are(area + 576 + 256, hi16 - 576 - 256, 0xcc)); /* opmasks: initial, not written */
	assert_memory_equal(area + hi16, s->zmm[16], 64);

	/* Back, after the bytes that XSAVEC does not write have been cleared. */
	static const u8 zero[48];
	vec_put(f, DATA + XSAVE_XCOMP_BV + 8, zero, 48);
	fpu_reset(s);
	memset(s->k, 0xff, sizeof(s->k));
	ASSERT_RETIRES(f, XRSTOR);
	assert_memory_equal(s->zmm[31], saved.zmm[31], 64);
	assert_memory_equal(s->zmm[15], saved.zmm[15], 32);
	assert_true(all_are((u8 *)s->k, 64, 0));
	assert_int_equal(s->mxcsr, saved.mxcsr);

	/* Without SSE in XSTATE_BV, MXCSR is initial. */
	const u64 bv = XF(X87);
	vec_put(f, DATA + XSAVE_BV, &bv, 8);
	ASSERT_RETIRES(f, XRSTOR);
	assert_int_equal(s->mxcsr, MXCSR_RESET);
	assert_true(all_are(s->zmm[1], 32, 0));

	/* XSTATE_BV beyond XCOMP_BV, and XCOMP_BV beyond XCR0. */
	const u64 more = XF(ZMM_HI256), beyond = set | XCOMP_COMPACTED | BIT64(3);
	vec_put(f, DATA + XSAVE_BV, &more, 8);
	ASSERT_RAISES(f, XRSTOR, VEC_GP);
	vec_put(f, DATA + XSAVE_BV, &bv, 8);
	vec_put(f, DATA + XSAVE_XCOMP_BV, &beyond, 8);
	ASSERT_RAISES(f, XRSTOR, VEC_GP);
}

/* --- FXSAVE -------------------------------------------------------------------------------------------------- */

static void test_fxsave(void **state)
{
	struct fixture *f = *state;
	struct fpu_state *s = &f->cpu.fpu, saved;
	u8 image[512];

	fill(s);
	saved = *s;
	f->cpu.gpr[RBX] = DATA + PAGE_SIZE - 256;
	area_fill(f, f->cpu.gpr[RBX], 0xaa);
	ASSERT_RETIRES(f, FXSAVE64);
	vec_get(f, f->cpu.gpr[RBX], image, sizeof(image));
	assert_int_equal(get64(image + FX_FDP), 0x2222222222222222);
	assert_memory_equal(image + FX_XMM + 240, s->zmm[15], 16);
	assert_true(all_are(image + 464, 48, 0xaa)); /* the software's */
	ASSERT_RETIRES(f, FXSAVE);
	vec_get(f, f->cpu.gpr[RBX], image, sizeof(image));
	assert_int_equal(get64(image + FX_FDP), 0x22222222);
	fpu_reset(s);
	memset(s->zmm[2] + 16, 0x99, 48);
	ASSERT_RETIRES(f, FXRSTOR64);
	assert_memory_equal(s->zmm[2], saved.zmm[2], 16);
	assert_true(all_are(s->zmm[2] + 16, 48, 0x99));
	assert_memory_equal(s->x87 + FX_ST, saved.x87 + FX_ST, 128);
	assert_int_equal(s->mxcsr, saved.mxcsr);
	/* Reserved bits of MXCSR; alignment. */
	image[FX_MXCSR + 3] = 1;
	vec_put(f, f->cpu.gpr[RBX], image, sizeof(image));
	ASSERT_RAISES(f, FXRSTOR, VEC_GP);
	f->cpu.gpr[RBX] += 8;
	ASSERT_RAISES(f, FXRSTOR, VEC_GP);
	ASSERT_RAISES(f, FXSAVE, VEC_GP);
}

/* 32-bit code neither saves nor loads registers 8 and up. */
static void test_legacy_mode(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	u8 image[512];

	c->seg[SEG_CS].l = 0;
	c->seg[SEG_CS].db = 1;
	for (unsigned n = 0; n < SEG_LDTR; n++) {
		c->seg[n].base = 0;
		c->seg[n].limit = 0xffffffff;
	}
	cpu_update_mode(c);
	fill(&c->fpu);
	c->gpr[RBX] = DATA;
	area_fill(f, DATA, 0xaa);
	ASSERT_RETIRES(f, FXSAVE);
	vec_get(f, DATA, image, sizeof(image));
	assert_memory_equal(image + FX_XMM + 7 * 16, c->fpu.zmm[7], 16);
	assert_true(all_are(image + FX_XMM + 8 * 16, 128, 0xaa));
	u8 eight = c->fpu.zmm[8][0];
	ASSERT_RETIRES(f, FXRSTOR);
	assert_int_equal(c->fpu.zmm[8][0], eight);
	if (!(xsave_supported() & XF(AVX)))
		return;
	memset(c->fpu.zmm[9], 0x77, 64);
	ASSERT_RETIRES(f, "c5fc77"); /* VZEROALL */
	assert_true(all_are(c->fpu.zmm[7], 64, 0));
	assert_true(all_are(c->fpu.zmm[9], 64, 0x77));
}

/* --- x87 environment ----------------------------------------------------------------------------------------- */

static void test_environment(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	struct fpu_state *s = &c->fpu;
	u8 env[28];
	u64 zero = 0;

	fpu_reset(s);
	c->gpr[RBX] = DATA + PAGE_SIZE - 8;
	vec_put(f, DATA, &zero, 8);
	c->rip = 0x11223344;
	ASSERT_RETIRES(f, "d9e8"); /* FLD1: R7 valid */
	ASSERT_RETIRES(f, "d9ee"); /* FLDZ: R6 zero */
	ASSERT_RETIRES(f, "d9ee");
	ASSERT_RETIRES(f, "d9ee");
	ASSERT_RETIRES(f, "d8f1"); /* FDIV 0/0: R4 is a NaN, special; R5 zero */
	ASSERT_RETIRES(f, FNSTENV);
	vec_get(f, c->gpr[RBX], env, sizeof(env));
	assert_int_equal(get32(env), 0xffff037f);
	assert_int_equal(get32(env + 4), 0xffff2001); /* TOP 4, IE */
	assert_int_equal(get32(env + 8), 0xffff16ff); /* R7 00, R6 01, R5 01, R4 10, empty 11 */
	assert_int_equal(get32(env + 12), 0x11223344);
	assert_int_equal(get32(env + 16) >> 16, 0x0f1);
	ASSERT_RETIRES(f, FNSTENV16);
	vec_get(f, c->gpr[RBX], env, sizeof(env));
	assert_int_equal(fx_get16(env, 2), 0x2001);
	assert_int_equal(fx_get16(env, 4), 0x16ff);
	assert_int_equal(fx_get16(env, 6), 0x3344);

	/* It masks everything afterwards, so that nothing is pending. */
	fpu_set_fcw(s, 0x340);
	assert_true(fx_get16(s->x87, FX_FSW) & FSW_ES);
	ASSERT_RETIRES(f, FNSTENV);
	vec_get(f, c->gpr[RBX], env, sizeof(env));
	assert_int_equal(get32(env), 0xffff0340);
	assert_int_equal(get32(env + 4), 0xffff0000 | 0x2001 | FSW_ES | FSW_B);
	assert_int_equal(fx_get16(s->x87, FX_FCW), 0x37f);
	assert_int_equal(fx_get16(s->x87, FX_FSW), 0x2001);

	/* FLDENV brings words and tags back, and the registers stay at their numbers: R7 is one. */
	ASSERT_RETIRES(f, "dbe3"); /* FNINIT */
	assert_int_equal(s->x87[FX_FTW], 0);
	ASSERT_RETIRES(f, FLDENV);
	assert_int_equal(s->x87[FX_FTW], 0xf0);
	assert_int_equal(get64(s->x87 + FX_ST + 3 * 16), 1ull << 63);
	assert_int_equal(fx_get16(s->x87, FX_FSW), 0x2001 | FSW_ES | FSW_B);
	ASSERT_RAISES(f, "9b", VEC_MF);
}

static void test_fnsave(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = &f->cpu;
	struct fpu_state *s = &c->fpu, saved;
	u8 image[108];

	fill(s);
	saved = *s;
	c->gpr[RBX] = DATA + PAGE_SIZE - 50;
	ASSERT_RETIRES(f, FNSAVE);
	vec_get(f, c->gpr[RBX], image, sizeof(image));
	for (unsigned n = 0; n < 8; n++)
		assert_memory_equal(image + 28 + 10 * n, saved.x87 + FX_ST + 16 * n, 10);
	assert_int_equal(fx_get16(s->x87, FX_FCW), 0x37f);
	assert_int_equal(s->x87[FX_FTW], 0);
	ASSERT_RETIRES(f, FRSTOR);
	assert_memory_equal(s->x87 + FX_ST, saved.x87 + FX_ST, 128);
	assert_int_equal(fx_get16(s->x87, FX_FSW), fx_get16(saved.x87, FX_FSW));
	assert_int_equal(s->x87[FX_FTW], saved.x87[FX_FTW]);
	/* Real mode keeps linear addresses. */
	fill(s);
	c->mode = MODE_REAL;
	c->seg[SEG_CS].base = 0x10000;
	c->seg[SEG_DS].base = 0x20000;
	memset(s->x87 + FX_FIP, 0, 16);
	fx_put16(s->x87, FX_FIP, 0x1234);
	fx_put16(s->x87, FX_FDP, 0x5678);
	ASSERT_RETIRES(f, FNSTENV);
	vec_get(f, c->gpr[RBX], image, 28);
	assert_int_equal(get32(image + 12), 0xffff1234);
	assert_int_equal(get32(image + 16), 1 << 12 | 0x5a5);
	assert_int_equal(get32(image + 20), 0xffff5678);
	assert_int_equal(get32(image + 24), 2 << 12);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, vec_setup, vec_teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout), cmocka_unit_test(test_area), cmocka_unit_test(test_area_init),
		cmocka_unit_test(test_area_bad), TEST(test_xsave), TEST(test_xrstor), TEST(test_xrstor_bad),
		TEST(test_compacted), TEST(test_fxsave), TEST(test_legacy_mode), TEST(test_environment),
		TEST(test_fnsave),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
