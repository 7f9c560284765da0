/* From fields to bytes (SDM vol. 2, chapter 2). */
#include <string.h>

#include "isa.h"

struct out {
	u8 *p;
	unsigned n;
};

static void put(struct out *o, u64 v, unsigned bytes)
{
	memcpy(o->p + o->n, &v, bytes);
	o->n += bytes;
}

static unsigned bit3(unsigned r)
{
	return r >> 3 & 1;
}

/* Extension bits of the r/m operand: X and B. */
static void rm_extension(const struct form *f, unsigned *x, unsigned *b)
{
	*x = *b = 0;
	if (!f->has_modrm || !f->mem) {
		*b = bit3(f->rm);
		*x = f->rm >> 4 & 1;
		return;
	}
	if (f->base < 16)
		*b = bit3(f->base);
	if (f->index != BASE_NONE)
		*x = bit3(f->index);
}

static void put_legacy(struct out *o, const struct form *f)
{
	static const u8 escape[] = {0, 0, 0x38, 0x3a};
	unsigned x, b;

	rm_extension(f, &x, &b);
	if (f->bits == 64) {
		u8 rex = f->w << 3 | (f->has_modrm ? bit3(f->reg) << 2 : 0) | (f->mem ? x << 1 : 0) | b;
		if (rex || f->rex_force)
			put(o, 0x40 | rex, 1);
	}
	if (f->row->map)
		put(o, 0x0f, 1);
	if (f->row->map > 1)
		put(o, escape[f->row->map], 1);
}

static const u8 vex_pp[] = {[PP_NP] = 0, [PP_66] = 1, [PP_F3] = 2, [PP_F2] = 3};

static void put_vex(struct out *o, const struct form *f)
{
	unsigned x, b, r = bit3(f->reg);
	u8 tail = (~f->vvvv & 15) << 3 | (f->l & 1) << 2 | vex_pp[f->pp];

	rm_extension(f, &x, &b);
	x = f->mem ? x : 0;
	if (f->vex2 && f->row->map == 1 && !x && !b && !f->w) {
		put(o, 0xc5, 1);
		put(o, (!r) << 7 | tail, 1);
		return;
	}
	put(o, 0xc4, 1);
	put(o, (!r) << 7 | (!x) << 6 | (!b) << 5 | f->row->map, 1);
	put(o, f->w << 7 | tail, 1);
}

static void put_evex(struct out *o, const struct form *f)
{
	unsigned x, b, v2 = f->vvvv >> 4 & 1;

	rm_extension(f, &x, &b);
	if (f->mem && f->vsib)
		v2 = f->index >> 4 & 1;
	put(o, 0x62, 1);
	put(o, (!bit3(f->reg)) << 7 | (!x) << 6 | (!b) << 5 | !(f->reg >> 4 & 1) << 4 | f->row->map, 1);
	put(o, f->w << 7 | (~f->vvvv & 15) << 3 | 4 | vex_pp[f->pp], 1);
	put(o, f->z << 7 | (f->b && !f->mem ? f->rc : f->l) << 5 | f->b << 4 | (!v2) << 3 | f->aaa, 1);
}

/* SDM vol. 2, table 2-1. */
static unsigned rm16(const struct form *f)
{
	if (f->index != BASE_NONE)
		return (f->base == RBP ? 2 : 0) | (f->index == RDI);
	return f->base == RSI ? 4 : f->base == RDI ? 5 : f->base == RBX ? 7 : 6;
}

static void put_mem(struct out *o, const struct form *f, unsigned *disp_at)
{
	unsigned reg = (f->reg & 7) << 3;
	unsigned mod = f->disp_bytes == 1 ? 1 : f->disp_bytes ? 2 : 0;

	if (f->addr16) {
		put(o, (f->base == BASE_NONE ? 0 : mod << 6) | reg | rm16(f), 1);
		if (f->base != BASE_NONE && f->disp_bytes == 1)
			put(o, (u64)(f->disp / (s64)f->disp8_scale), 1);
		else
			put(o, (u64)f->disp, f->base == BASE_NONE ? 2 : f->disp_bytes);
		return;
	}
	if (f->base == BASE_RIP) {
		put(o, reg | 5, 1);
		*disp_at = o->n;
		put(o, 0, 4);
		return;
	}
	bool sib = f->index != BASE_NONE || f->base == BASE_NONE || (f->base & 7) == 4;
	if (f->base == BASE_NONE)
		mod = 0;
	if (sib && f->base == BASE_NONE && f->index == BASE_NONE && f->bits != 64) {
		put(o, reg | 5, 1); /* the short form; in 64-bit code that is RIP-relative */
	} else if (sib) {
		unsigned index = f->index == BASE_NONE ? 4 : f->index & 7;
		put(o, mod << 6 | reg | 4, 1);
		put(o, f->scale << 6 | index << 3 | (f->base == BASE_NONE ? 5 : f->base & 7), 1);
	} else {
		put(o, mod << 6 | reg | (f->base & 7), 1);
	}
	*disp_at = o->n;
	if (f->base == BASE_NONE)
		put(o, (u64)f->disp, 4);
	else if (f->disp_bytes == 1)
		put(o, (u64)(f->disp / (s64)f->disp8_scale), 1);
	else
		put(o, (u64)f->disp, f->disp_bytes);
}

unsigned encode(const struct form *f, u64 rip, u8 to[32])
{
	struct out o = {to, 0};
	unsigned disp_at = 0;
	u8 opcode = f->row->opcode + f->opcode_add;

	for (unsigned n = 0; n < f->nr_prefixes; n++)
		put(&o, f->prefixes[n], 1);
	switch (f->row->space) {
	case ENC_LEGACY:
		put_legacy(&o, f);
		break;
	case ENC_VEX:
		put_vex(&o, f);
		break;
	default:
		put_evex(&o, f);
		break;
	}
	put(&o, f->has_modrm ? opcode : opcode | (f->rm & 7), 1);
	if (f->has_modrm && f->mem)
		put_mem(&o, f, &disp_at);
	else if (f->has_modrm)
		put(&o, 0xc0 | (f->reg & 7) << 3 | (f->rm & 7), 1);
	put(&o, f->imm[0], f->imm_bytes[0]);
	put(&o, f->imm[1], f->imm_bytes[1]);
	if (f->has_modrm && f->mem && f->base == BASE_RIP && !f->addr16) {
		u32 disp = (u32)((u64)f->disp - (rip + o.n));
		memcpy(to + disp_at, &disp, 4);
	}
	return o.n;
}
