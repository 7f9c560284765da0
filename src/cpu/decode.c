/* The decoder: one pass over the bytes of an instruction (SDM vol. 2, chapter 2). */
#include <string.h>

#include "base/bytes.h"
#include "cpu/decode_index.h"
#include "cpu/exception.h"

#define MAX_LEN 15u

/* --- Bytes ------------------------------------------------------------------------------------------ */

struct cursor {
	const u8 *p;
	unsigned pos;
	unsigned end;   /* bytes that may be looked at, at most MAX_LEN */
	unsigned bits;  /* of the code segment */
	unsigned space, map;
	u8 pp, rep, rex, modrm;
	u8 vex_b, vex_x, vex_r, vex_r2, vex_v2; /* 1: extends the register number */
	bool opsize66, addr67, lock, has_vex, has_modrm;
	u8 seg;         /* override, or NO_REG */
};

static inline bool lacks(const struct cursor *d, unsigned n)
{
	return d->pos + n > d->end;
}

static enum decode_status out_of_bytes(const struct cursor *d, unsigned n)
{
	return d->pos + n > MAX_LEN ? DECODE_TOO_LONG : DECODE_SHORT;
}

static inline u64 take(struct cursor *d, unsigned n)
{
	const u8 *p = d->p + d->pos;
	u64 v = 0;

	/* Sizes that the compiler knows: no call. */
	switch (n) {
	case 1: v = *p; break;
	case 2: memcpy(&v, p, 2); break;
	case 4: memcpy(&v, p, 4); break;
	case 8: memcpy(&v, p, 8); break;
	default: memcpy(&v, p, n); break;
	}
	d->pos += n;
	return v;
}

static inline s64 sign_extend(u64 v, unsigned bytes)
{
	unsigned shift = 64 - 8 * bytes;
	return (s64)(v << shift) >> shift;
}

const u8 decode_prefixes[256] = {
	[0x26] = LEGACY_PREFIX, [0x2e] = LEGACY_PREFIX, [0x36] = LEGACY_PREFIX, [0x3e] = LEGACY_PREFIX,
	[0x40 ... 0x4f] = REX_PREFIX, [0x64 ... 0x67] = LEGACY_PREFIX, [0xf0] = LEGACY_PREFIX,
	[0xf2 ... 0xf3] = LEGACY_PREFIX,
};

/* Legacy prefixes and REX. A REX that does not stand right before the opcode is ignored (SDM vol. 2, 2.2.1). */
static enum decode_status take_prefixes(struct cursor *d)
{
	for (;; d->pos++) {
		if (lacks(d, 1))
			return out_of_bytes(d, 1);
		u8 b = d->p[d->pos];
		u8 kind = decode_prefixes[b];

		if (kind == NO_PREFIX || (kind == REX_PREFIX && d->bits != 64))
			return DECODE_OK;
		if (kind == REX_PREFIX) {
			d->rex = b;
			continue;
		}
		switch (b) {
		case 0x66: d->opsize66 = true; break;
		case 0x67: d->addr67 = true; break;
		case 0xf0: d->lock = true; break;
		case 0xf2: case 0xf3: d->rep = b; break;
		case 0x26: case 0x2e: case 0x36: case 0x3e:
			if (d->bits != 64)
				d->seg = b >> 3 & 3;
			break;
		case 0x64: case 0x65: d->seg = SEG_FS + (b & 1); break;
		}
		d->rex = 0;
	}
}

/* C5, C4 and 62 are VEX and EVEX in 64-bit code, elsewhere when what would be LES, LDS or BOUND had a register form. */
static enum decode_status take_vex(struct cursor *d, struct insn *i)
{
	static const u8 pp_of[] = {PP_NP, PP_66, PP_F3, PP_F2};
	u8 lead = d->p[d->pos];
	unsigned n = lead == 0xc5 ? 2 : lead == 0xc4 ? 3 : 4;

	if (d->bits != 64) {
		if (lacks(d, 2))
			return out_of_bytes(d, 2);
		if (d->p[d->pos + 1] < 0xc0)
			return DECODE_OK;
	}
	if (lacks(d, n))
		return out_of_bytes(d, n);
	const u8 *b = d->p + d->pos + 1;
	u8 last = n == 2 ? b[0] : b[1]; /* W vvvv L pp */

	d->pos += n;
	if (d->rex || d->opsize66 || d->rep || d->lock)
		return DECODE_INVALID;
	d->has_vex = true;
	d->space = n == 4 ? ENC_EVEX : ENC_VEX;
	d->pp = pp_of[last & 3];
	d->vex_r = !(b[0] & 0x80);
	d->map = 1;
	if (n > 2) {
		d->vex_x = !(b[0] & 0x40);
		d->vex_b = !(b[0] & 0x20);
		d->map = b[0] & (n == 4 ? 0x07 : 0x1f);
		i->w = last >> 7;
	}
	i->vvvv = ~last >> 3 & 15;
	i->l = last >> 2 & 1;
	if (n == 4) {
		if ((b[0] & 0x08) || !(b[1] & 0x04))
			return DECODE_INVALID;
		d->vex_r2 = !(b[0] & 0x10);
		d->vex_v2 = !(b[2] & 0x08);
		i->z = b[2] >> 7;
		i->l = b[2] >> 5 & 3;
		i->b = b[2] >> 4 & 1;
		i->aaa = b[2] & 7;
	}
	if (d->bits != 64) {
		d->vex_r = d->vex_x = d->vex_b = d->vex_r2 = 0;
		/* As Intel's processors have it; AMD's ignore the bit. */
		if (d->vex_v2)
			return DECODE_INVALID;
	}
	return d->map < NR_MAP ? DECODE_OK : DECODE_INVALID;
}

/* Everything up to and including the opcode byte. */
static enum decode_status take_opcode(struct cursor *d, struct insn *i)
{
	enum decode_status s = take_prefixes(d);

	if (s != DECODE_OK)
		return s;
	i->opsize66 = d->opsize66;
	i->lock = d->lock;
	i->rep = d->rep;
	i->rex = d->rex;
	if (d->bits == 64)
		i->addrsize = d->addr67 ? 4 : 8;
	else
		i->addrsize = (d->bits == 16) != d->addr67 ? 2 : 4;
	u8 b = d->p[d->pos];
	if (b == 0xc4 || b == 0xc5 || b == 0x62) {
		s = take_vex(d, i);
		if (s != DECODE_OK)
			return s;
	}
	if (!d->has_vex) {
		d->pp = d->rep == 0xf3 ? PP_F3 : d->rep ? PP_F2 : d->opsize66 ? PP_66 : PP_NP;
		d->vex_r = d->rex >> 2 & 1;
		d->vex_x = d->rex >> 1 & 1;
		d->vex_b = d->rex & 1;
		i->w = d->rex >> 3 & 1;
		if (b == 0x0f) {
			d->pos++;
			d->map = 1;
			if (lacks(d, 1))
				return out_of_bytes(d, 1);
			b = d->p[d->pos];
			if (b == 0x38 || b == 0x3a) {
				d->pos++;
				d->map = b == 0x38 ? 2 : 3;
			}
		}
	}
	if (lacks(d, 1))
		return out_of_bytes(d, 1);
	i->opcode_off = d->pos;
	i->opcode = d->p[d->pos++];
	return DECODE_OK;
}

/* --- Operands ----------------------------------------------------------------------------------------- */

/* Bytes of an operand size; 0 where it is not one of the instruction's to say. */
static unsigned size_bytes(unsigned size, const struct cursor *d, const struct insn *i, unsigned eff)
{
	switch (size) {
	case OS_V: return eff;
	case OS_Z: return MIN(eff, 4u);
	case OS_Y: return eff == 8 ? 8 : 4;
	case OS_P: return 2 + eff;
	case OS_A: return 2 * eff;
	case OS_S: return d->bits == 64 ? 10 : 6;
	case OS_X: case OS_X1: case OS_X2: case OS_X4: case OS_X8: return 16u << i->l;
	case OS_HX: return 8u << i->l;
	case OS_QX: return 4u << i->l;
	case OS_OX: return 2u << i->l;
	case OS_512: return 512;
	case OS_SB: return 1;
	case OS_VAR: return 0;
	default: return size;
	}
}

/* What one step of an EVEX disp8 stands for (SDM vol. 2, 2.7.5): the memory operand, but for compress and expand. */
static unsigned disp8_scale(const struct insn *i, unsigned size)
{
	if (size >= OS_X1 && size <= OS_X8)
		return 1u << (size - OS_X1);
	return i->mem_size ? i->mem_size : 1;
}

static enum decode_status take_disp(struct cursor *d, struct insn *i, unsigned n, unsigned scale)
{
	if (!n)
		return DECODE_OK;
	if (lacks(d, n))
		return out_of_bytes(d, n);
	i->disp_off = d->pos;
	i->disp = sign_extend(take(d, n), n);
	if (n == 1)
		i->disp *= scale;
	return DECODE_OK;
}

/* SDM vol. 2, table 2-1. */
static enum decode_status take_mem16(struct cursor *d, struct insn *i, unsigned scale)
{
	static const u8 base[] = {RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX};
	static const u8 index[] = {RSI, RDI, RSI, RDI, NO_REG, NO_REG, NO_REG, NO_REG};
	unsigned mod = d->modrm >> 6, rm = d->modrm & 7;

	i->base = base[rm];
	i->index = index[rm];
	if (mod == 0 && rm == 6) {
		i->base = NO_REG;
		mod = 2;
	}
	i->seg = i->base == RBP ? SEG_SS : SEG_DS;
	return take_disp(d, i, mod, scale);
}

/* SDM vol. 2, tables 2-2 and 2-3. */
static enum decode_status take_mem32(struct cursor *d, struct insn *i, unsigned scale, bool vsib)
{
	unsigned mod = d->modrm >> 6, rm = d->modrm & 7;
	unsigned disp = mod == 1 ? 1 : mod == 2 ? 4 : 0;

	i->base = rm | d->vex_b << 3;
	if (rm == 4) {
		if (lacks(d, 1))
			return out_of_bytes(d, 1);
		u8 sib = take(d, 1);

		i->scale = sib >> 6;
		i->index = (sib >> 3 & 7) | d->vex_x << 3;
		if (vsib)
			i->index |= d->vex_v2 << 4;
		else if (i->index == RSP)
			i->index = NO_REG;
		i->base = (sib & 7) | d->vex_b << 3;
		if ((sib & 7) == 5 && mod == 0) {
			i->base = NO_REG;
			disp = 4;
		}
	} else if (vsib) {
		return DECODE_INVALID;
	} else if (rm == 5 && mod == 0) {
		i->base = d->bits == 64 ? RIP_BASE : NO_REG;
		disp = 4;
	}
	i->seg = i->base == RSP || i->base == RBP ? SEG_SS : SEG_DS;
	return take_disp(d, i, disp, scale);
}

static enum decode_status take_mem(struct cursor *d, struct insn *i, const struct layout *y, unsigned eff)
{
	enum decode_status s;
	unsigned scale = 1;

	i->is_mem = 1;
	i->mem_size = d->space == ENC_EVEX && i->b ? (i->w ? 8 : 4) : size_bytes(y->mem_size, d, i, eff);
	if (d->space == ENC_EVEX)
		scale = disp8_scale(i, y->mem_size);
	if (i->addrsize != 2)
		s = take_mem32(d, i, scale, y->vsib);
	else if (!y->vsib)
		s = take_mem16(d, i, scale);
	else
		return DECODE_INVALID;
	if (d->seg != NO_REG)
		i->seg = d->seg;
	return s;
}

static inline u8 gpr_offset(unsigned n, bool byte, bool rex)
{
	return byte && !rex && n - 4 < 4 ? (n - 4) * 8 + 1 : (n & 15) * 8;
}

static enum decode_status take_imm(struct cursor *d, struct insn *i, const struct layout *y, unsigned eff)
{
	unsigned n, n2 = y->imm2_size;

	switch (y->imm_kind) {
	case OK_A:
		n = eff == 8 ? 4 : eff;
		n2 = 2;
		break;
	case OK_O:
		n = i->addrsize;
		i->is_mem = 1;
		i->mem_size = size_bytes(y->mem_size, d, i, eff);
		i->seg = d->seg != NO_REG ? d->seg : SEG_DS;
		break;
	default:
		n = size_bytes(y->imm_size, d, i, eff);
	}
	if (lacks(d, n + n2))
		return out_of_bytes(d, n + n2);
	i->imm_off = d->pos;
	u64 v = take(d, n);
	if (y->imm_kind == OK_O)
		i->disp = v;
	else if (decode_imm_signed(y))
		i->imm = sign_extend(v, n);
	else
		i->imm = y->is4 && d->bits != 64 ? v & 0x7f : v; /* registers 8 and up do not exist */
	if (n2)
		i->imm2 = take(d, n2);
	return DECODE_OK;
}

/* --- Rules that hold for registers and EVEX fields ------------------------------------------------------- */

static bool reg_exists(const struct cursor *d, const struct insn *i, const struct layout *y)
{
	switch (y->reg_kind) {
	case OK_S: return (d->modrm >> 3 & 7) < 6 && !(y->to_seg && (d->modrm >> 3 & 7) == SEG_CS);
	case OK_C: return i->reg == 8 || (i->reg < 5 && i->reg != 1);
	case OK_D: return i->reg < 8;
	case OK_KG: return i->reg < 8;
	case OK_G: return i->reg < 16;
	default: return true;
	}
}

/* vvvv must be all ones where the instruction has no use for it (SDM vol. 2, 2.3.5.6 and 2.7.11). */
static bool vvvv_allowed(const struct cursor *d, const struct insn *i, const struct layout *y)
{
	if (y->vvvv_kind == OK_NONE)
		return i->vvvv == 0 && (!d->vex_v2 || y->vsib);
	if (y->vvvv_kind != OK_H)
		return !d->vex_v2 && (y->vvvv_kind == OK_B || d->bits != 64 || i->vvvv < 8);
	return true;
}

/* A gather's destination, index and mask registers are different ones (SDM vol. 2, VGATHERDPS). */
static bool vsib_allowed(const struct insn *i, const struct insn_row *r, const struct layout *y)
{
	if (operand_info[r->operand[0]].kind == OK_VM)
		return true;
	return i->reg != i->index && (y->vvvv_kind == OK_NONE || (i->reg != i->vvvv && i->vvvv != i->index));
}

static bool evex_allowed(const struct insn *i, const struct insn_row *r, const struct layout *y)
{
	bool to_mem = i->is_mem && (r->operand[0] != OP_none) && operand_info[r->operand[0]].kind == y->rm_kind;

	if (i->b && !(r->attr & (i->is_mem ? A_BCST : A_ER)))
		return false;
	if (i->aaa && !(r->attr & A_MASK))
		return false;
	if (i->z && (!i->aaa || to_mem || y->vsib || y->reg_kind == OK_KG))
		return false;
	return !y->vsib || i->aaa;
}

/* --- One instruction --------------------------------------------------------------------------------------- */

static const struct candidate *find_row(const struct cursor *d, const struct insn *i, const struct cell *cell)
{
	bool reg = d->modrm >= 0xc0;
	u8 bits = d->has_modrm ? d->modrm : (i->opcode & 7) | d->vex_b << 3;
	unsigned rest = 1u << (FIT_PP + d->pp) | 1u << (FIT_W + i->w) | 1u << (FIT_FORM + reg) |
			1u << (FIT_MODE + (d->bits == 64));
	unsigned fit = rest | 1u << (FIT_L + i->l);
	unsigned fit_er = i->b && reg ? rest | 1u << (FIT_L + 2) : fit;

	for (unsigned n = 0; n < cell->nr; n++) {
		const struct candidate *k = &decode_candidates[cell->first + n];

		if (!((k->er ? fit_er : fit) & ~k->fit) && (bits & k->modrm_mask) == k->modrm_value)
			return k;
	}
	return NULL;
}

/* The effective operand size: 2, 4 or 8 (SDM vol. 1, 3.6). */
static unsigned operand_size(const struct cursor *d, const struct insn *i, const struct insn_row *r)
{
	if (d->bits == 64) {
		if (i->w || (r->attr & A_F64))
			return 8;
		return d->opsize66 ? 2 : r->attr & A_D64 ? 8 : 4;
	}
	return (d->bits == 16) != d->opsize66 ? 2 : 4;
}

static enum decode_status take_operands(struct cursor *d, struct insn *i, const struct insn_row *r)
{
	const struct layout *y = &decode_layouts[i->row];
	unsigned eff = operand_size(d, i, r);
	unsigned size = size_bytes(y->op0_size, d, i, eff);
	enum decode_status s;

	i->opsize = y->op0_size >= OS_P || (size & (size - 1)) || size - 1 > 7 ? eff : size;
	if (d->has_modrm) {
		i->reg = (d->modrm >> 3 & 7) | d->vex_r << 3 | d->vex_r2 << 4;
		i->rm = (d->modrm & 7) | d->vex_b << 3;
		if (d->modrm < 0xc0 && !y->always_reg) {
			s = take_mem(d, i, y, eff);
			if (s != DECODE_OK)
				return s;
		} else if (d->space == ENC_EVEX && (y->rm_kind == OK_W || y->rm_kind == OK_U)) {
			i->rm |= d->vex_x << 4;
		}
		if (!reg_exists(d, i, y))
			return DECODE_INVALID;
		i->reg_off = gpr_offset(i->reg, y->byte_reg, d->rex);
		i->rm_off = gpr_offset(i->rm, y->byte_rm, d->rex);
	} else if (y->z) {
		i->rm = (i->opcode & 7) | d->vex_b << 3;
		i->rm_off = gpr_offset(i->rm, y->byte_rm, d->rex);
	}
	if (y->imm_kind == OK_NONE)
		return DECODE_OK;
	return take_imm(d, i, y, eff);
}

/* The semantic function; false when LOCK or the operand form leaves none (SDM vol. 2, LOCK). */
static bool pick_function(struct insn *i, const struct insn_row *r)
{
	unsigned n = i->opsize == 8 ? 3 : i->opsize >> 1;

	if (i->lock && (!(r->attr & A_LOCK) || !i->is_mem))
		return false;
	if (!r->sem)
		return !i->lock;
	i->fn = i->lock ? r->sem->lock[n] : r->sem->fn[n][!i->is_mem];
	return i->fn != NULL;
}

static enum decode_status decode_cursor(struct cursor *d, struct insn *i)
{
	enum decode_status s = take_opcode(d, i);

	if (s != DECODE_OK)
		return s;
	const struct cell *cell = cell_of(d->space, d->map, i->opcode);

	if (!cell->nr)
		return DECODE_INVALID;
	if (cell->modrm) {
		if (lacks(d, 1))
			return out_of_bytes(d, 1);
		d->has_modrm = true;
		i->modrm = d->modrm = take(d, 1);
	}
	const struct candidate *k = find_row(d, i, cell);
	if (!k)
		return DECODE_INVALID;
	const struct insn_row *r = &insn_rows[k->row];

	i->row = k->row;
	if (k->er && i->b && d->modrm >= 0xc0)
		i->l = 2;
	s = take_operands(d, i, r);
	if (s != DECODE_OK)
		return s;
	if (d->has_vex) {
		const struct layout *y = &decode_layouts[k->row];

		if (!vvvv_allowed(d, i, y))
			return DECODE_INVALID;
		i->vvvv = d->bits == 64 ? i->vvvv | d->vex_v2 << 4 : i->vvvv & 7;
		if (y->vsib && !vsib_allowed(i, r, y))
			return DECODE_INVALID;
		if (d->space == ENC_EVEX && !evex_allowed(i, r, y))
			return DECODE_INVALID;
	}
	return pick_function(i, r) ? DECODE_OK : DECODE_INVALID;
}

enum decode_status decode(struct insn *i, const u8 *p, unsigned avail, unsigned code_bits)
{
	struct cursor d = {.p = p, .end = MIN(avail, MAX_LEN), .bits = code_bits, .seg = NO_REG};

	memset(i, 0, sizeof(*i));
	i->base = i->index = NO_REG;
	i->seg = SEG_DS;
	enum decode_status s = decode_cursor(&d, i);

	if (!i->is_mem && d.seg != NO_REG)
		i->seg = d.seg; /* string instructions */
	i->len = d.pos;
	copy_short(i->bytes, p, d.pos);
	return s;
}

void insn_check(struct cpu *c, const struct insn_row *r)
{
	if (!insn_gate_open(c, r) && !(r->attr & A_OLDER))
		raise_ud(c);
	/* VEX and EVEX are not recognised outside of protected mode (SDM vol. 2, 2.3.5.1). */
	if (((r->attr & A_PROT) || r->space != ENC_LEGACY) && !cpu_protected(c))
		raise_ud(c);
	if ((r->attr & A_CPL0) && c->cpl != 0)
		raise_gp0(c);
}
