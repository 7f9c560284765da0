/* FPU and vector state: conversion between struct fpu_state and the formats of FXSAVE, XSAVE and the KVM ABI. */
#ifndef CPU_FPU_H
#define CPU_FPU_H

#include "cpu/cpu.h"

/* State components (SDM vol. 1, 13.1): bits of XCR0, XSTATE_BV and fpu_state.xinuse, sub-leaves of CPUID 0xD. */
enum xcomp {
	XC_X87 = 0, XC_SSE = 1, XC_AVX = 2, XC_OPMASK = 5, XC_ZMM_HI256 = 6, XC_HI16_ZMM = 7, XC_PKRU = 9, NR_XC = 10
};
#define XF(n) BIT64(XC_##n)
#define XF_AVX512 (XF(OPMASK) | XF(ZMM_HI256) | XF(HI16_ZMM))

#define MXCSR_RESET 0x1f80u
#define MXCSR_MM BIT(17)      /* AMD: memory operands need not be aligned */
#define MXCSR_MASKS 0x1f80u   /* the six exception masks, 7 above their flags */
#define MXCSR_FLAGS 0x3fu

/* Offsets in an FXSAVE image and an XSAVE area (SDM vol. 1, 10.5.1 and 13.4). */
#define FX_FCW 0
#define FX_FSW 2
#define FX_FTW 4  /* abridged: a bit per physical register, 1 when not empty */
#define FX_FOP 6
#define FX_FIP 8
#define FX_FDP 16
#define FX_MXCSR 24
#define FX_MXCSR_MASK 28
#define FX_ST 32  /* 16 bytes each, ST(0) first */
#define FX_XMM 160
#define XSAVE_LEGACY 512
#define XSAVE_BV 512
#define XSAVE_XCOMP_BV 520
#define XSAVE_EXTENDED 576
#define XCOMP_COMPACTED BIT64(63)

/* x87 status word. */
#define FSW_EXCEPTIONS 0x3f
#define FSW_ES 0x80
#define FSW_B 0x8000
#define FSW_TOP(fsw) ((fsw) >> 11 & 7)

static inline u16 fx_get16(const u8 *image, unsigned off)
{
	u16 v;
	__builtin_memcpy(&v, image + off, 2);
	return v;
}

static inline void fx_put16(u8 *image, unsigned off, u16 v)
{
	__builtin_memcpy(image + off, &v, 2);
}

/* The bits of MXCSR that exist, as the host's FXSAVE reports them. */
u32 mxcsr_mask(void);

void fpu_reset(struct fpu_state *f); /* FNINIT values, MXCSR 0x1f80, all else zero */

/* FNINIT: what the registers hold stays, tagged empty. */
void fpu_fninit(struct fpu_state *f);

/*
 * Sets FCW, in which bit 6 is always set and 7 and 13 to 15 never. FSW.ES and B follow from the exception flags and
 * the masks, so this comes after a change of FSW too.
 */
void fpu_set_fcw(struct fpu_state *f, u16 fcw);

/* Sets FSW. The registers stay where they are, so that the image, which has them in stack order, turns with TOP. */
void fpu_set_fsw(struct fpu_state *f, u16 fsw);

/* What every MMX instruction does before it executes: TOP becomes 0 and all registers valid (SDM vol. 1, 9.5.1). */
void fpu_enter_mmx(struct fpu_state *f);

/*
 * XSAVE standard format, @size bytes (at least 576), all components of @xcr0. Reading validates the header and MXCSR:
 * false, and nothing changed, when bad.
 */
void fpu_to_xsave(const struct fpu_state *f, u64 xcr0, u8 *area, unsigned size);
bool fpu_from_xsave(struct fpu_state *f, u64 xcr0, const u8 *area, unsigned size);

/*
 * One component, in its own layout (x87 and SSE: at their places of the 512-byte legacy area, MXCSR apart).
 * Outside of 64-bit mode (@long_mode false) registers 8 and up are neither saved nor changed (SDM vol. 1, 13.5).
 */
void xcomp_save(const struct fpu_state *f, enum xcomp n, u8 *to, bool long_mode);
void xcomp_load(struct fpu_state *f, enum xcomp n, const u8 *from, bool long_mode);
void xcomp_reset(struct fpu_state *f, enum xcomp n, bool long_mode);

/* Components that host and engines support (XCR0 bits), and the size of the standard-format area for a set of them. */
u64 xsave_supported(void);
unsigned xsave_size(u64 xcr0, bool compacted);
/* Offset and size of component @n in the standard format, as CPUID 0xD says. */
void xsave_component(unsigned n, unsigned *offset, unsigned *size);
/*
 * Where the components @set, 2 and up, are in an area of which XCOMP_BV is @xcomp; other rows of @part are left alone.
 * Returns the size of the area as far as they reach.
 */
struct xpart {
	unsigned offset, size;
};
unsigned xsave_parts(u64 set, u64 xcomp, struct xpart part[NR_XC]);

#endif
