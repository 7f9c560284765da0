/* Bytes of 64-bit host code. */
#ifndef ENGINE_JIT_EMIT_H
#define ENGINE_JIT_EMIT_H

#include <string.h>

#include "base/bytes.h"

/* Host registers by number, as in the encoding. */
enum { H_RAX, H_RCX, H_RDX, H_RBX, H_RSP, H_RBP, H_RSI, H_RDI, H_R8, H_R9, H_R10, H_R11, H_R12, H_R13, H_R14, H_R15 };

/* Condition codes of Jcc. */
enum { CC_O, CC_NO, CC_B, CC_AE, CC_E, CC_NE, CC_BE, CC_A, CC_S, CC_NS, CC_P, CC_NP, CC_L, CC_GE, CC_LE, CC_G };

struct emit {
	u8 *p;   /* next byte, in the writable mapping */
	s64 rx;  /* what to add for its address in the executable one */
};

static inline u64 emit_here(const struct emit *e)
{
	return (u64)e->p + (u64)e->rx;
}

static inline void emit8(struct emit *e, unsigned b)
{
	*e->p++ = (u8)b;
}

static inline void emit16(struct emit *e, unsigned v)
{
	u16 x = (u16)v;
	memcpy(e->p, &x, 2);
	e->p += 2;
}

static inline void emit32(struct emit *e, u64 v)
{
	u32 x = (u32)v;
	memcpy(e->p, &x, 4);
	e->p += 4;
}

static inline void emit64(struct emit *e, u64 v)
{
	memcpy(e->p, &v, 8);
	e->p += 8;
}

static inline void emit_bytes(struct emit *e, const void *from, unsigned n)
{
	memcpy(e->p, from, n);
	e->p += n;
}

/* No more than an instruction. */
static inline void emit_short(struct emit *e, const u8 *from, unsigned n)
{
	copy_short(e->p, from, n);
	e->p += n;
}

/* REX for a register in ModRM.reg and one in ModRM.rm (or base); nothing when it would be empty. */
static inline void emit_rex(struct emit *e, unsigned w, unsigned reg, unsigned rm)
{
	unsigned rex = w << 3 | reg >> 3 << 2 | rm >> 3;
	if (rex)
		emit8(e, 0x40 | rex);
}

/* op reg, rm (both registers); @w: 64 bits. */
static inline void emit_rr(struct emit *e, unsigned w, unsigned op, unsigned reg, unsigned rm)
{
	emit_rex(e, w, reg, rm);
	emit8(e, op);
	emit8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static inline void emit_mov_rr(struct emit *e, unsigned to, unsigned from)
{
	emit_rr(e, 1, 0x8b, to, from);
}

/* ModRM and SIB of [abs32]. */
static inline void emit_modrm_abs(struct emit *e, unsigned reg, const volatile void *at)
{
	emit8(e, 0x04 | (reg & 7) << 3);
	emit8(e, 0x25);
	emit32(e, (u64)at);
}

/* op reg, [abs32] */
static inline void emit_ra(struct emit *e, unsigned w, unsigned op, unsigned reg, const volatile void *at)
{
	emit_rex(e, w, reg, 0);
	emit8(e, op);
	emit_modrm_abs(e, reg, at);
}

static inline void emit_load_abs(struct emit *e, unsigned reg, const volatile void *at)
{
	emit_ra(e, 1, 0x8b, reg, at);
}

static inline void emit_store_abs(struct emit *e, unsigned reg, const volatile void *at)
{
	emit_ra(e, 1, 0x89, reg, at);
}

/* op reg, [base + disp32] */
static inline void emit_rm_disp(struct emit *e, unsigned w, unsigned op, unsigned reg, unsigned base, s32 disp)
{
	emit_rex(e, w, reg, base);
	emit8(e, op);
	if (disp == 0 && (base & 7) != H_RBP) {
		emit8(e, (reg & 7) << 3 | (base & 7));
		if ((base & 7) == H_RSP)
			emit8(e, 0x24);
		return;
	}
	bool small = disp == (s8)disp;
	emit8(e, (small ? 0x40 : 0x80) | (reg & 7) << 3 | (base & 7));
	if ((base & 7) == H_RSP)
		emit8(e, 0x24);
	if (small)
		emit8(e, (u8)disp);
	else
		emit32(e, (u32)disp);
}

/* lea reg, [base + index << scale + disp]; @w 0 cuts to 32 bits. Without a displacement it takes a cycle less. */
static inline void emit_lea_sib(struct emit *e, unsigned w, unsigned reg, unsigned base, unsigned index, unsigned scale,
				s32 disp)
{
	emit8(e, 0x40 | w << 3 | reg >> 3 << 2 | index >> 3 << 1 | base >> 3);
	emit8(e, 0x8d);
	unsigned bytes = disp == 0 && (base & 7) != H_RBP ? 0 : disp == (s8)disp ? 1 : 4;
	emit8(e, (bytes == 0 ? 0x04 : bytes == 1 ? 0x44 : 0x84) | (reg & 7) << 3);
	emit8(e, scale << 6 | (index & 7) << 3 | (base & 7));
	if (bytes == 1)
		emit8(e, (u8)disp);
	else if (bytes)
		emit32(e, (u32)disp);
}

/* lea reg, [index << scale + disp32] */
static inline void emit_lea_index(struct emit *e, unsigned w, unsigned reg, unsigned index, unsigned scale, s32 disp)
{
	emit8(e, 0x40 | w << 3 | reg >> 3 << 2 | index >> 3 << 1);
	emit8(e, 0x8d);
	emit8(e, 0x04 | (reg & 7) << 3);
	emit8(e, scale << 6 | (index & 7) << 3 | 5);
	emit32(e, (u32)disp);
}

/* Shortest move of a constant that touches no flag. */
static inline void emit_mov_imm(struct emit *e, unsigned reg, u64 v)
{
	if (v == (u32)v) {
		emit_rex(e, 0, 0, reg);
		emit8(e, 0xb8 | (reg & 7));
		emit32(e, v);
	} else if (v == (u64)(s64)(s32)v) {
		emit_rex(e, 1, 0, reg);
		emit8(e, 0xc7);
		emit8(e, 0xc0 | (reg & 7));
		emit32(e, v);
	} else {
		emit_rex(e, 1, 0, reg);
		emit8(e, 0xb8 | (reg & 7));
		emit64(e, v);
	}
}

/* Jumps: to a known address in the executable mapping, or with a rel32 to be filled by emit_patch(). */
static inline void emit_rel32(struct emit *e, u64 target)
{
	emit32(e, target - (emit_here(e) + 4));
}

static inline void emit_jmp(struct emit *e, u64 target)
{
	emit8(e, 0xe9);
	emit_rel32(e, target);
}

static inline void emit_call(struct emit *e, u64 target)
{
	emit8(e, 0xe8);
	emit_rel32(e, target);
}

/* Returns where the rel32 is. */
static inline u8 *emit_jcc(struct emit *e, unsigned cc)
{
	emit8(e, 0x0f);
	emit8(e, 0x80 | cc);
	emit32(e, 0);
	return e->p - 4;
}

static inline u8 *emit_jmp_later(struct emit *e)
{
	emit8(e, 0xe9);
	emit32(e, 0);
	return e->p - 4;
}

/*
 * Makes the rel32 at @at lead to @target, an address in the writable mapping (both mappings have the same distances).
 */
static inline void emit_patch(u8 *at, const u8 *target)
{
	s32 rel = (s32)(target - (at + 4));
	memcpy(at, &rel, 4);
}

#endif
