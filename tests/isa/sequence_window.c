/* Random programs: accesses over one base, for which a translator may share its checks. See sequence.c. */
#include "sequence_gen.h"

struct base {
	u8 reg, index; /* no index: RSP, as in the encoding */
	u8 scale;
	bool wide;     /* displacements of 32 bits */
};

static u8 other_reg(const struct gen *g, const struct base *b)
{
	u8 reg = pick_reg(g);

	return reg == RSP || ((reg == b->reg || reg == b->index) && !rng_chance(20)) ? RSI + (b->reg == RSI) : reg;
}

/* An instruction with @len bytes of @op behind @prefix, if that is not 0, and REX. */
static void place_access(struct gen *g, const struct base *b, u8 prefix, const u8 *op, unsigned len, u8 reg)
{
	bool sib = b->index != RSP || (b->reg & 7) == RSP;
	u8 code[15];
	unsigned n = 0;

	if (prefix)
		code[n++] = prefix;
	if (g->p->bits == 64)
		code[n++] = (u8)(0x40 | (rng() & 1) << 3 | reg >> 3 << 2 | b->index >> 3 << 1 | b->reg >> 3);
	memcpy(code + n, op, len);
	n += len;
	code[n++] = (u8)((b->wide ? 0x80 : 0x40) | (reg & 7) << 3 | (sib ? RSP : b->reg & 7));
	if (sib)
		code[n++] = (u8)(b->scale << 6 | (b->index & 7) << 3 | (b->reg & 7));
	if (b->wide) {
		place32(g, code, n, (u32)rng_below(0x600) - 0x300);
		return;
	}
	code[n++] = (u8)(rng() & (rng_chance(3) ? 0xff : 0x38));
	place(g, code, n);
}

static void place_one_access(struct gen *g, const struct base *b)
{
	static const struct { u8 prefix, len, op[2]; } ops[] = {
		{0, 1, {0x8b}}, {0, 1, {0x89}}, {0, 1, {0x8b}}, {0, 1, {0x89}}, {0, 1, {0x03}}, {0, 1, {0x01}},
		{0, 1, {0x3b}},
		{0, 1, {0x13}}, {0, 1, {0x11}}, {0, 1, {0x8a}}, {0, 1, {0x88}}, {0, 2, {0x0f, 0xb6}}, {0, 1, {0x87}},
		{0x66, 1, {0x89}}, {0xf0, 2, {0x0f, 0xc1}}, {0, 2, {0x0f, 0x44}}, {0, 1, {0x85}}, {0, 2, {0x0f, 0x10}},
		{0, 2, {0x0f, 0x11}}, {0x66, 2, {0x0f, 0x6f}}, {0x66, 2, {0x0f, 0xd4}}, {0, 2, {0x0f, 0x28}},
		{0xf3, 2, {0x0f, 0x6f}}, {0, 1, {0xff}}, {0, 1, {0xd1}}, {0, 1, {0x63}},
	};
	unsigned n = (unsigned)rng_below(ARRAY_SIZE(ops));
	u8 reg = other_reg(g, b);

	if (g->undefined && rng_chance(2))
		place_clean(g);
	if (ops[n].op[0] == 0x13 || ops[n].op[0] == 0x11 || ops[n].op[1] == 0x44) {
		if (g->undefined)
			place_clean(g);
	} else if (ops[n].op[0] == 0xff) {
		reg = (u8)(rng() & 1);
	} else if (ops[n].op[0] == 0xd1) {
		reg = 4 | (u8)(rng() & 1);
	}
	place_access(g, b, ops[n].prefix, ops[n].op, ops[n].len, reg);
}

/* Changes the base by what the translator may know, or not; or copies it. */
static void place_base_change(struct gen *g, struct base *b)
{
	u8 w = 8 | b->reg >> 3, rm = b->reg & 7, n = (u8)rng(), to = other_reg(g, b);

	switch (rng_below(7)) {
	case 0:
		place_rex(g, w, BYTES(0x83, 0xc0 | rm, n));
		break;
	case 1:
		place_rex(g, w, BYTES(0x83, 0xe8 | rm, n));
		break;
	case 2:
		place_rex(g, w, BYTES(0xff, (rng() & 1 ? 0xc0 : 0xc8) | rm));
		break;
	case 3:
		place_rex(g, w, BYTES(0x83, 0xe0 | rm, 0xf8));
		break;
	case 4:
		if ((b->reg & 7) != RSP)
			place_rex(g, w | b->reg >> 3 << 2, BYTES(0x8d, 0x40 | rm << 3 | rm, n));
		break;
	case 5:
		place_rex(g, w | to >> 3 << 2, BYTES(0x8b, 0xc0 | (to & 7) << 3 | rm));
		b->reg = to;
		break;
	default:
		place_rex(g, w | to >> 3 << 2, BYTES(0x63, 0xc0 | (to & 7) << 3 | rm)); /* MOVSXD; ARPL */
		break;
	}
}

void place_window(struct gen *g)
{
	static const u32 border[] = {DATA_BASE, DATA_BASE + PAGE_SIZE, DATA_BASE + DATA_RW, DATA_BASE + DATA_SIZE};
	u32 at = rng_chance(3) ? border[rng_below(4)] - 0x50 + (u32)rng_below(0xa0)
			       : DATA_BASE + (u32)rng_below(DATA_SIZE);
	struct base b = {.reg = pick_reg(g), .index = RSP, .wide = rng_chance(4)};
	unsigned nr = 2 + (unsigned)rng_below(8);
	bool aligned = rng_chance(2);

	if (b.reg == RSP && g->in_function)
		b.reg = g->p->bits == 64 ? R13 : RBP;
	if (rng_chance(3)) {
		u8 last = g->p->bits == 64 ? R15 : RDI;
		u32 n = (u32)rng_below(64);

		b.index = (u8)((b.reg + 1 + rng_below(last)) % (last + 1));
		if (b.index == RSP)
			b.index = b.reg == last ? RAX : last;
		b.scale = (u8)rng_below(4);
		place_mov(g, b.index, n);
		at -= n << b.scale;
	}
	place_mov(g, b.reg, aligned ? at & ~15u : at);
	if (b.reg == RSP)
		g->rsp_good = false;
	for (; nr && !is_full(g); nr--) {
		u64 r = rng_below(12);

		if (r == 0)
			place_base_change(g, &b);
		else if (r == 1 && g->block + 1 < g->nr_main && !(g->undefined & ~g->carried))
			place_jcc(g, g->block + 1 + (unsigned)rng_below(g->nr_main - g->block - 1));
		else if (r == 2 && !g->in_function)
			place_stack(g);
		else
			place_one_access(g, &b);
	}
}
