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

/* The other way: where to write what is executed at @here. */
static inline u8 *emit_place(const struct emit *e, u64 here)
{
	return (u8 *)(here - (u64)e->rx);
}

/* Bytes at @p: what comes behind them. Whole instructions are put together so, e->p changes once for each. */
static inline u8 *put8(u8 *p, unsigned b)
{
	*p = (u8)b;
	return p + 1;
}

static inline u8 *put32(u8 *p, u64 v)
{
	u32 x = (u32)v;
	memcpy(p, &x, 4);
	return p + 4;
}

/* REX for a register in ModRM.reg and one in ModRM.rm (or base); nothing when it would be empty. */
static inline u8 *put_rex(u8 *p, unsigned w, unsigned reg, unsigned rm)
{
	unsigned rex = w << 3 | reg >> 3 << 2 | rm >> 3;

	*p = (u8)(0x40 | rex);
	return p + (rex != 0);
}

/* ModRM and SIB of [abs32]. */
static inline u8 *put_modrm_abs(u8 *p, unsigned reg, const volatile void *at)
{
	return put32(put8(put8(p, 0x04 | (reg & 7) << 3), 0x25), (u64)at);
}

static inline void emit8(struct emit *e, unsigned b)
{
	e->p = put8(e->p, b);
}

static inline void emit16(struct emit *e, unsigned v)
{
	u16 x = (u16)v;
	memcpy(e->p, &x, 2);
	e->p += 2;
}

static inline void emit32(struct emit *e, u64 v)
{
	e->p = put32(e->p, v);
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

static inline void emit_rex(struct emit *e, unsigned w, unsigned reg, unsigned rm)
{
	e->p = put_rex(e->p, w, reg, rm);
}

/* op reg, rm (both registers); @w: 64 bits. */
static inline void emit_rr(struct emit *e, unsigned w, unsigned op, unsigned reg, unsigned rm)
{
	e->p = put8(put8(put_rex(e->p, w, reg, rm), op), 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static inline void emit_mov_rr(struct emit *e, unsigned to, unsigned from)
{
	emit_rr(e, 1, 0x8b, to, from);
}

static inline void emit_modrm_abs(struct emit *e, unsigned reg, const volatile void *at)
{
	e->p = put_modrm_abs(e->p, reg, at);
}

/* op reg, [abs32] */
static inline void emit_ra(struct emit *e, unsigned w, unsigned op, unsigned reg, const volatile void *at)
{
	e->p = put_modrm_abs(put8(put_rex(e->p, w, reg, 0), op), reg, at);
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
	bool none = disp == 0 && (base & 7) != H_RBP, small = disp == (s8)disp;
	u8 *p = put8(put_rex(e->p, w, reg, base), op);

	p = put8(p, (none ? 0 : small ? 0x40 : 0x80) | (reg & 7) << 3 | (base & 7));
	if ((base & 7) == H_RSP)
		p = put8(p, 0x24);
	put32(p, (u32)disp);
	e->p = p + (none ? 0 : small ? 1 : 4);
}

/* lea reg, [base + index << scale + disp]; @w 0 cuts to 32 bits. Without a displacement it takes a cycle less. */
static inline void emit_lea_sib(struct emit *e, unsigned w, unsigned reg, unsigned base, unsigned index, unsigned scale,
				s32 disp)
{
	unsigned bytes = disp == 0 && (base & 7) != H_RBP ? 0 : disp == (s8)disp ? 1 : 4;
	u8 *p = put8(e->p, 0x40 | w << 3 | reg >> 3 << 2 | index >> 3 << 1 | base >> 3);

	p = put8(put8(p, 0x8d), (bytes == 0 ? 0x04 : bytes == 1 ? 0x44 : 0x84) | (reg & 7) << 3);
	p = put8(p, scale << 6 | (index & 7) << 3 | (base & 7));
	put32(p, (u32)disp);
	e->p = p + bytes;
}

/* op reg, [index << scale + disp32] */
static inline void emit_r_index(struct emit *e, unsigned w, unsigned op, unsigned reg, unsigned index, unsigned scale,
				s32 disp)
{
	u8 *p = put8(e->p, 0x40 | w << 3 | reg >> 3 << 2 | index >> 3 << 1);

	p = put8(put8(p, op), 0x04 | (reg & 7) << 3);
	e->p = put32(put8(p, scale << 6 | (index & 7) << 3 | 5), (u32)disp);
}

/* op reg, array[index], of 8 bytes each */
static inline void emit_r_of8(struct emit *e, unsigned op, unsigned reg, unsigned index, const u64 *array)
{
	emit_r_index(e, 1, op, reg, index, 3, (s32)(u64)array);
}

/* Shortest move of a constant that touches no flag. */
static inline void emit_mov_imm(struct emit *e, unsigned reg, u64 v)
{
	if (v == (u32)v) {
		e->p = put32(put8(put_rex(e->p, 0, 0, reg), 0xb8 | (reg & 7)), v);
	} else if (v == (u64)(s64)(s32)v) {
		e->p = put32(put8(put8(put_rex(e->p, 1, 0, reg), 0xc7), 0xc0 | (reg & 7)), v);
	} else {
		e->p = put8(put_rex(e->p, 1, 0, reg), 0xb8 | (reg & 7));
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
	e->p = put32(put8(put8(e->p, 0x0f), 0x80 | cc), 0);
	return e->p - 4;
}

static inline u8 *emit_jmp_later(struct emit *e)
{
	e->p = put32(put8(e->p, 0xe9), 0);
	return e->p - 4;
}

static inline u8 *emit_call_later(struct emit *e)
{
	e->p = put32(put8(e->p, 0xe8), 0);
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
