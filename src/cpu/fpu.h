/* FPU and vector state: conversion between struct fpu_state and the formats of FXSAVE, XSAVE and the KVM ABI. */
#ifndef CPU_FPU_H
#define CPU_FPU_H

#include "cpu/cpu.h"

void fpu_reset(struct fpu_state *f); /* FNINIT values, MXCSR 0x1f80, all else zero */

/* XSAVE standard format, @size bytes (at least 576), all components of @xcr0. Reading validates MXCSR and XSTATE_BV: false when bad. */
void fpu_to_xsave(const struct fpu_state *f, u64 xcr0, u8 *area, unsigned size);
bool fpu_from_xsave(struct fpu_state *f, u64 xcr0, const u8 *area, unsigned size);

/* Components that host and engines support (XCR0 bits), and the size of the standard-format area for a set of them. */
u64 xsave_supported(void);
unsigned xsave_size(u64 xcr0, bool compacted);
/* Offset and size of component @n in the standard format, as CPUID 0xD says. */
void xsave_component(unsigned n, unsigned *offset, unsigned *size);

#endif
