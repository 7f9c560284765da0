/* FPU and vector state: reset, the x87 and MMX views of the stack, the XSAVE formats (SDM vol. 1, chapter 13). */
#include "cpu/fpu.h"

#include <cpuid.h>
#include <pthread.h>
#include <string.h>

/* --- x87 and MMX --------------------------------------------------------------------------------------------- */

void fpu_set_fsw(struct fpu_state *f, u16 fsw)
{
	unsigned turn = FSW_TOP(fsw) - FSW_TOP(fx_get16(f->x87, FX_FSW));
	u8 st[8][16];

	fx_put16(f->x87, FX_FSW, fsw);
	if (!(turn & 7))
		return;
	for (unsigned n = 0; n < 8; n++)
		memcpy(st[(n - turn) & 7], f->x87 + FX_ST + 16 * n, 16);
	memcpy(f->x87 + FX_ST, st, sizeof(st));
}

void fpu_set_fcw(struct fpu_state *f, u16 fcw)
{
	u16 fsw = fx_get16(f->x87, FX_FSW) & (u16)~(FSW_ES | FSW_B);

	fcw = (fcw & 0x1f3f) | 0x40;
	fx_put16(f->x87, FX_FCW, fcw);
	fx_put16(f->x87, FX_FSW, fsw & ~fcw & FSW_EXCEPTIONS ? fsw | FSW_ES | FSW_B : fsw);
}

void fpu_fninit(struct fpu_state *f)
{
	fpu_set_fsw(f, 0);
	memset(f->x87, 0, FX_MXCSR);
	fx_put16(f->x87, FX_FCW, 0x37f);
}

void fpu_reset(struct fpu_state *f)
{
	const u32 mxcsr = MXCSR_RESET, mask = mxcsr_mask();

	memset(f, 0, sizeof(*f));
	fpu_fninit(f);
	/* FXRSTOR of the image, which the copy engine does, must find values here that it accepts. */
	memcpy(f->x87 + FX_MXCSR, &mxcsr, 4);
	memcpy(f->x87 + FX_MXCSR_MASK, &mask, 4);
	f->mxcsr = MXCSR_RESET;
}

void fpu_enter_mmx(struct fpu_state *f)
{
	fpu_set_fsw(f, fx_get16(f->x87, FX_FSW) & ~0x3800);
	f->x87[FX_FTW] = 0xff;
}

/* --- Components ---------------------------------------------------------------------------------------------- */

struct xlayout {
	u64 supported;
	u32 mxcsr_mask;
	struct {
		u32 offset, size;
		bool align; /* to 64 bytes in the compacted format */
	} c[NR_XC];
};

static struct xlayout xlayout;

static u32 host_mxcsr_mask(void)
{
	u8 image[512] __attribute__((aligned(16))) = {0};
	u32 mask;

	__asm__ volatile("fxsave %0" : "=m"(image));
	memcpy(&mask, image + FX_MXCSR_MASK, 4);
	return mask ? mask : 0xffbf;
}

static bool host_xcr0(u64 *xcr0)
{
	u32 a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return false;
	__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	*xcr0 = (u64)d << 32 | a;
	return true;
}

/* Opmasks are moved whole, and every length is used: AVX-512 needs BW, DQ and VL to be run here. */
static bool host_avx512_usable(void)
{
	const u32 need = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
	u32 a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & need) == need;
}

/*
 * Offsets are the host's, so that they are what KVM would show on it. A component that the host's XSAVE lacks has no
 * offset and is not supported: PKRU on a host without protection keys, although the MMU could do without.
 */
static void xlayout_init(void)
{
	u64 xcr0;
	u32 a, b, c, d;

	xlayout.supported = XF(X87) | XF(SSE);
	xlayout.mxcsr_mask = host_mxcsr_mask();
	if (!host_xcr0(&xcr0))
		return;
	if (!host_avx512_usable())
		xcr0 &= ~XF_AVX512;
	if (__get_cpuid_count(13, 0, &a, &b, &c, &d))
		xcr0 &= (u64)d << 32 | a;
	for (unsigned n = XC_AVX; n < NR_XC; n++) {
		if (!((XF(AVX) | XF_AVX512 | XF(PKRU)) & xcr0 & BIT64(n)) || !__get_cpuid_count(13, n, &a, &b, &c, &d))
			continue;
		xlayout.c[n].offset = b;
		xlayout.c[n].size = a;
		xlayout.c[n].align = c & 2;
		xlayout.supported |= BIT64(n);
	}
}

static const struct xlayout *xlayout_get(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, xlayout_init);
	return &xlayout;
}

u32 mxcsr_mask(void)
{
	return xlayout_get()->mxcsr_mask;
}

u64 xsave_supported(void)
{
	return xlayout_get()->supported;
}

void xsave_component(unsigned n, unsigned *offset, unsigned *size)
{
	const struct xlayout *x = xlayout_get();

	*offset = n == XC_SSE ? FX_XMM : n < NR_XC ? x->c[n].offset : 0;
	*size = n == XC_SSE ? 256 : n == XC_X87 ? FX_XMM : n < NR_XC ? x->c[n].size : 0;
}

unsigned xsave_parts(u64 set, u64 xcomp, struct xpart part[NR_XC])
{
	const struct xlayout *x = xlayout_get();
	unsigned at = XSAVE_EXTENDED, end = XSAVE_EXTENDED;
	bool compacted = xcomp & XCOMP_COMPACTED;

	for (u64 left = (compacted ? xcomp : set) & x->supported & ~(XF(X87) | XF(SSE)); left; left &= left - 1) {
		unsigned n = (unsigned)__builtin_ctzll(left);
		unsigned offset = !compacted ? x->c[n].offset : x->c[n].align ? ALIGN_UP(at, 64) : at;
		at = offset + x->c[n].size;
		if (!(set & BIT64(n)))
			continue;
		part[n] = (struct xpart){offset, x->c[n].size};
		end = MAX(end, at);
	}
	return end;
}

unsigned xsave_size(u64 xcr0, bool compacted)
{
	struct xpart part[NR_XC];

	return xsave_parts(xcr0, compacted ? xcr0 | XCOMP_COMPACTED : 0, part);
}

void xcomp_save(const struct fpu_state *f, enum xcomp n, u8 *to, bool long_mode)
{
	unsigned regs = long_mode ? 16 : 8;

	switch (n) {
	case XC_X87:
		memcpy(to, f->x87, FX_MXCSR);
		memcpy(to + FX_ST, f->x87 + FX_ST, 128);
		break;
	case XC_SSE:
		for (unsigned r = 0; r < regs; r++)
			memcpy(to + FX_XMM + 16 * r, f->zmm[r], 16);
		break;
	case XC_AVX:
		for (unsigned r = 0; r < regs; r++)
			memcpy(to + 16 * r, f->zmm[r] + 16, 16);
		break;
	case XC_OPMASK:
		memcpy(to, f->k, sizeof(f->k));
		break;
	case XC_ZMM_HI256:
		for (unsigned r = 0; r < regs; r++)
			memcpy(to + 32 * r, f->zmm[r] + 32, 32);
		break;
	case XC_HI16_ZMM:
		if (long_mode)
			memcpy(to, f->zmm[16], 16 * 64);
		break;
	case XC_PKRU:
		memset(to, 0, 8);
		memcpy(to, &f->pkru, 4);
		break;
	default:
		break;
	}
}

void xcomp_load(struct fpu_state *f, enum xcomp n, const u8 *from, bool long_mode)
{
	unsigned regs = long_mode ? 16 : 8;

	switch (n) {
	case XC_X87:
		memcpy(f->x87, from, FX_MXCSR);
		f->x87[FX_FTW + 1] = 0;
		for (unsigned r = 0; r < 8; r++)
			memcpy(f->x87 + FX_ST + 16 * r, from + FX_ST + 16 * r, 10);
		fpu_set_fcw(f, fx_get16(f->x87, FX_FCW));
		break;
	case XC_SSE:
		for (unsigned r = 0; r < regs; r++)
			memcpy(f->zmm[r], from + FX_XMM + 16 * r, 16);
		break;
	case XC_AVX:
		for (unsigned r = 0; r < regs; r++)
			memcpy(f->zmm[r] + 16, from + 16 * r, 16);
		break;
	case XC_OPMASK:
		memcpy(f->k, from, sizeof(f->k));
		break;
	case XC_ZMM_HI256:
		for (unsigned r = 0; r < regs; r++)
			memcpy(f->zmm[r] + 32, from + 32 * r, 32);
		break;
	case XC_HI16_ZMM:
		if (long_mode)
			memcpy(f->zmm[16], from, 16 * 64);
		break;
	case XC_PKRU:
		memcpy(&f->pkru, from, 4);
		break;
	default:
		return;
	}
	f->xinuse |= BIT64(n);
}

void xcomp_reset(struct fpu_state *f, enum xcomp n, bool long_mode)
{
	static const u8 zero[16 * 64];
	u64 xinuse = f->xinuse;

	if (n == XC_X87) {
		memset(f->x87 + FX_ST, 0, 128);
		fpu_fninit(f);
	} else {
		/* SSE's registers begin at FX_XMM of what is read; @zero is long enough for that. */
		xcomp_load(f, n, zero, long_mode);
	}
	f->xinuse = long_mode || n == XC_X87 || n == XC_OPMASK || n == XC_PKRU ? xinuse & ~BIT64(n) : xinuse;
}

/* --- The KVM ABI's area: standard format, everything in it --------------------------------------------------- */

void fpu_to_xsave(const struct fpu_state *f, u64 xcr0, u8 *area, unsigned size)
{
	const u32 mask = mxcsr_mask();
	u64 bv = 0;

	memset(area, 0, size);
	xcr0 &= xsave_supported();
	for (unsigned n = 0; n < NR_XC; n++) {
		unsigned off, len;

		xsave_component(n, &off, &len);
		if (!(xcr0 & BIT64(n)) || off + len > size)
			continue;
		xcomp_save(f, n, n <= XC_SSE ? area : area + off, true);
		bv |= BIT64(n) & f->xinuse;
	}
	memcpy(area + FX_MXCSR, &f->mxcsr, 4);
	memcpy(area + FX_MXCSR_MASK, &mask, 4);
	memcpy(area + XSAVE_BV, &bv, 8);
}

bool fpu_from_xsave(struct fpu_state *f, u64 xcr0, const u8 *area, unsigned size)
{
	static const u8 zero[56];
	u64 bv;
	u32 mxcsr;

	memcpy(&bv, area + XSAVE_BV, 8);
	memcpy(&mxcsr, area + FX_MXCSR, 4);
	xcr0 &= xsave_supported();
	if ((bv & ~xcr0) || memcmp(area + XSAVE_XCOMP_BV, zero, sizeof(zero)))
		return false;
	if ((bv & (XF(SSE) | XF(AVX))) && (mxcsr & ~mxcsr_mask()))
		return false;
	for (unsigned n = 0; n < NR_XC; n++) {
		unsigned off, len;

		xsave_component(n, &off, &len);
		if ((bv & BIT64(n)) && off + len > size)
			return false;
	}
	for (unsigned n = 0; n < NR_XC; n++) {
		unsigned off, len;

		xsave_component(n, &off, &len);
		if (bv & BIT64(n))
			xcomp_load(f, n, n <= XC_SSE ? area : area + off, true);
		else if (xsave_supported() & BIT64(n))
			xcomp_reset(f, n, true);
	}
	f->mxcsr = bv & (XF(SSE) | XF(AVX)) ? mxcsr : MXCSR_RESET;
	return true;
}
