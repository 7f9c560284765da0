/* Re-emission of decoded instructions (SDM vol. 2, chapter 2). */
#include "engine/reencode.h"

#include <pthread.h>
#include <string.h>

#include "base/bytes.h"
#include "cpu/table.h"

/*
 * Where W is the size of a general register, only 64-bit code heeds it: so it follows from the operand, not from the
 * guest's bit.
 */
enum { W_CLEAR, W_SET, W_COPY, W_OPSIZE };

/* How the row's operands shape the encoding. */
struct shape {
	bool ok;
	bool modrm;
	bool z;        /* a register in the opcode */
	bool is4;      /* a register in the immediate */
	bool sized;    /* the operand size is 2, 4, 8 by prefixes */
	bool byte_reg, byte_rm;
	u8 w;          /* VEX.W, EVEX.W: W_COPY or what follows from a general register */
};

static struct shape shape_of(const struct insn_row *r)
{
	struct shape s = {.ok = !(r->attr & (A_VSIB | A_REP | A_REPZ)), .modrm = r->modrm & MODRM_ANY,
			  .w = r->attr & A_GPR_IMPLICIT ? W_OPSIZE : W_COPY};

	for (unsigned n = 0; n < ARRAY_SIZE(r->operand); n++) {
		const struct operand_info *o = &operand_info[r->operand[n]];

		switch (o->kind) {
		case OK_J: case OK_A: case OK_O: case OK_X: case OK_Y: case OK_S: case OK_C: case OK_D: case OK_VM:
			s.ok = false;
			break;
		case OK_L:
			s.is4 = true;
			break;
		case OK_Z:
			s.z = true;
			s.byte_rm = o->size == 1;
			break;
		case OK_G:
			s.byte_reg = o->size == 1;
			break;
		case OK_E: case OK_R:
			s.byte_rm = o->size == 1;
			break;
		default:
			break;
		}
		s.sized |= o->size == OS_V || o->size == OS_Z;
		if (o->size == OS_Y)
			s.w = W_OPSIZE;
		else if (o->kind == OK_E || o->kind == OK_G || o->kind == OK_R)
			s.w = o->size == 8 ? W_SET : W_CLEAR;
	}
	return s;
}

static struct shape shapes[NR_ROW];

static void make_shapes(void)
{
	for (unsigned n = 0; n < NR_ROW; n++)
		shapes[n] = shape_of(&insn_rows[n]);
}

static inline u8 *put(u8 *p, unsigned b)
{
	*p = (u8)b;
	return p + 1;
}

/*
 * ModRM and what belongs to it: [base] needs a SIB byte for RSP and R12, a displacement for RBP and R13. EVEX scales
 * those of 8 bits.
 */
static u8 *put_modrm(u8 *p, const struct insn *i, const struct reencode *to)
{
	unsigned reg = (to->reg & 7) << 3;

	if (to->at) {
		p = put(put(p, reg | RSP), 0x25);
		memcpy(p, &to->at, 4);
		return p + 4;
	}
	if (!i->is_mem)
		return put(p, 0xc0 | reg | (to->rm & 7));
	bool none = !to->disp && (to->base & 7) != RBP;
	bool small = !to->disp || (to->disp == (s8)to->disp && insn_rows[i->row].space != ENC_EVEX);
	bool sib = to->index || (to->base & 7) == RSP;
	p = put(p, (none ? 0 : small ? 0x40 : 0x80) | reg | (sib ? RSP : to->base & 7));
	if (sib)
		p = put(p, (to->index ? to->index & 7 : RSP) << 3 | (to->base & 7));
	if (none)
		return p;
	memcpy(p, &to->disp, 4); /* little endian: the first byte is the 8 bits */
	return p + (small ? 1 : 4);
}

static u8 *put_legacy(u8 *p, const struct insn *i, const struct insn_row *r, const struct shape *s,
		      const struct reencode *to)
{
	unsigned rm = i->is_mem ? to->base : to->rm;
	unsigned rex = (i->rex & 8) | (s->modrm && (to->reg & 8) ? 4 : 0) | (i->is_mem && (to->index & 8) ? 2 : 0) |
		       (rm & 8 ? 1 : 0);

	if (i->lock)
		p = put(p, 0xf0);
	if (r->pp == PP_66 || (s->sized && i->opsize == 2))
		p = put(p, 0x66);
	if (r->pp == PP_F3 || r->pp == PP_F2)
		p = put(p, r->pp == PP_F3 ? 0xf3 : 0xf2);
	if ((s->byte_reg && to->reg >= 4) || (s->byte_rm && !i->is_mem && to->rm >= 4))
		rex |= 0x40;
	if (rex)
		p = put(p, 0x40 | rex);
	if (r->map)
		p = put(p, 0x0f);
	if (r->map > 1)
		p = put(p, r->map == 2 ? 0x38 : 0x3a);
	/* Two that 64-bit code lacks: the short INC and DEC are REX prefixes there, and 82 is 80. */
	if (!r->map && (i->opcode & 0xf0) == 0x40)
		return put(put(p, 0xff), 0xc0 | (i->opcode & 8) | (to->rm & 7));
	if (!r->map && i->opcode == 0x82)
		return put(p, 0x80);
	return put(p, s->z ? (i->opcode & 0xf8) | (to->rm & 7) : i->opcode);
}

static unsigned vex_pp(const struct insn_row *r)
{
	return r->pp == PP_66 ? 1 : r->pp == PP_F3 ? 2 : r->pp == PP_F2 ? 3 : 0;
}

static unsigned vex_w(const struct insn *i, const struct shape *s)
{
	return s->w == W_COPY ? i->w : s->w == W_OPSIZE ? i->opsize == 8 : s->w;
}

/* The three-byte form always: it says everything. */
static u8 *put_vex(u8 *p, const struct insn *i, const struct insn_row *r, const struct shape *s,
		   const struct reencode *to)
{
	unsigned rm = i->is_mem ? to->base : to->rm;

	p = put(p, 0xc4);
	bool x = i->is_mem && (to->index & 8);
	p = put(p, (to->reg & 8 ? 0 : 0x80) | (x ? 0 : 0x40) | (rm & 8 ? 0 : 0x20) | r->map);
	p = put(p, vex_w(i, s) << 7 | (~to->vvvv & 15) << 3 | (i->l & 1) << 2 | vex_pp(r));
	return put(p, i->opcode);
}

static u8 *put_evex(u8 *p, const struct insn *i, const struct insn_row *r, const struct shape *s,
		    const struct reencode *to)
{
	unsigned rm = i->is_mem ? to->base : to->rm;
	unsigned x = i->is_mem ? to->index & 8 : rm & 16;
	unsigned last = i->bytes[i->opcode_off - 1]; /* z L'L b V' aaa: L'L may be a rounding mode */

	p = put(p, 0x62);
	p = put(p, (to->reg & 8 ? 0 : 0x80) | (x ? 0 : 0x40) | (rm & 8 ? 0 : 0x20) | (to->reg & 16 ? 0 : 0x10) |
			   r->map);
	p = put(p, vex_w(i, s) << 7 | (~to->vvvv & 15) << 3 | 4 | vex_pp(r));
	p = put(p, (last & 0xf7) | (to->vvvv & 16 ? 0 : 8));
	return put(p, i->opcode);
}

unsigned reencode(u8 *out, const struct insn *i, const struct reencode *to)
{
	const struct insn_row *r = &insn_rows[i->row];
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	u8 *p = out;

	pthread_once(&once, make_shapes);
	const struct shape s = shapes[i->row];

	if (!s.ok)
		return 0;
	switch (r->space) {
	case ENC_VEX: p = put_vex(p, i, r, &s, to); break;
	case ENC_EVEX: p = put_evex(p, i, r, &s, to); break;
	default: p = put_legacy(p, i, r, &s, to); break;
	}
	if (s.modrm)
		p = put_modrm(p, i, to);
	if (i->imm_off) {
		copy_short(p, i->bytes + i->imm_off, (size_t)(i->len - i->imm_off));
		p += i->len - i->imm_off;
		if (s.is4)
			p[-1] = (u8)i->imm; /* without the bit that only 64-bit code heeds */
	}
	return (unsigned)(p - out);
}
