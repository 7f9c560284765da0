/*
 * Random programs. Blocks of random instructions end in random transfers to each other; every jump back takes from the
 * fuel, a counter in memory, so that each program ends; functions stand behind the main part's INT3.
 *
 * Instructions come from generate(). The registers that a memory operand needs are set up by MOVs before it. What the
 * processor leaves undefined in the flags is tracked: before it could be read, or be carried into another block, an
 * instruction that sets all flags is put in.
 *
 * In 32-bit code all is the same but for REX, RIP-relative addresses and the number of registers: place_rex() and
 * place_address().
 */
#include "sequence_gen.h"

#define FUEL (DATA_BASE + DATA_RW - 64)

/* --- Code that writes code ------------------------------------------------------------------------------------ */

static void place_patchable(struct gen *g)
{
	u8 reg = pick_reg(g), b[5] = {0xb8 | (reg & 7)};
	unsigned second = g->at + g->p->bits / 32;
	u32 v = (u32)rng();

	if (g->nr_imm + g->nr_modrm == NR_FIXUPS || reg == RSP)
		return;
	if (rng() & 1) {
		g->imm[g->nr_imm++] = (u16)second;
		memcpy(b + 1, &v, 4);
		place_rex(g, reg >> 3, b, 5);
	} else {
		/* INC, DEC */
		g->modrm[g->nr_modrm++] = (u16)second;
		place_rex(g, 8 | reg >> 3, BYTES(0xff, (rng() & 1 ? 0xc0 : 0xc8) | (reg & 7)));
	}
}

static void place_patch(struct gen *g)
{
	u8 b[12] = {0xc7, 0x04, 0x25};
	u32 v = (u32)rng();

	if (g->nr_imm_use + g->nr_modrm_use == NR_FIXUPS)
		return;
	if (rng() & 1) {
		g->imm_use[g->nr_imm_use++] = (u16)(g->at + 3);
		memcpy(b + 7, &v, 4);
		place(g, b, 11);
	} else {
		g->modrm_use[g->nr_modrm_use++] = (u16)(g->at + 3);
		b[0] = 0xc6;
		b[7] = (u8)((rng() & 1 ? 0xc0 : 0xc8) | rng_below(8));
		place(g, b, 8);
	}
}

static void fix_patches(struct gen *g)
{
	for (unsigned n = 0; n < g->nr_imm_use; n++) {
		u32 at = CODE_ALIAS + (g->nr_imm ? g->imm[rng_below(g->nr_imm)] : 0);
		memcpy(g->p->code + g->imm_use[n], &at, 4);
	}
	for (unsigned n = 0; n < g->nr_modrm_use; n++) {
		u32 at = CODE_ALIAS + (g->nr_modrm ? g->modrm[rng_below(g->nr_modrm)] : 0);
		memcpy(g->p->code + g->modrm_use[n], &at, 4);
	}
}

/* --- Transfers ------------------------------------------------------------------------------------------------ */

/* To a block that stands before: with the flags used up, or kept in spite of the counting. */
static void place_back(struct gen *g, unsigned block)
{
	bool jump = rng_chance(4);

	if (rng() & 1) {
		place32(g, BYTES(0x83, 0x3c, 0x25), FUEL);
		g->p->code[g->at++] = 0;
		g->p->insn[g->p->nr_insns - 1].len++;
		place(g, BYTES(0x74, jump ? 12 : 13)); /* JE over the rest */
		place32(g, BYTES(0xff, 0x0c, 0x25), FUEL);
	} else {
		place32(g, BYTES(0x8b, 0x0c, 0x25), FUEL);
		place(g, BYTES(0xe3, jump ? 15 : 16)); /* JRCXZ over the rest */
		place(g, BYTES(0x8d, 0x49, 0xff));
		place32(g, BYTES(0x89, 0x0c, 0x25), FUEL);
	}
	if (jump)
		place_branch(g, BYTES(0xe9), block);
	else
		place_jcc(g, block);
}

/* LEA reg, [rip + block]; or MOV reg, block. */
static void place_address(struct gen *g, u8 reg, unsigned block)
{
	if (g->p->bits == 32) {
		g->fixup[g->nr_fixups++] = (struct fixup){(u16)(g->at + 1), (u8)block, .absolute = true};
		place32(g, BYTES(0xb8 | reg), 0);
		return;
	}
	place_branch(g, BYTES(0x48 | reg >> 3 << 2, 0x8d, 0x05 | (reg & 7) << 3), block);
}

static void place_indirect(struct gen *g, unsigned block, bool call)
{
	u8 reg = pick_reg(g), ext = call ? 2 : 4, store[7] = {0x89, 0x04 | (reg & 7) << 3, 0x25};
	u32 slot = DATA_BASE + (u32)rng_below(DATA_RW - 128);

	if (reg == RSP)
		store[1] = 0x04 | (reg = RBX) << 3;
	memcpy(store + 3, &slot, 4);
	place_address(g, reg, block);
	switch (rng_below(3)) {
	case 0:
		place_rex(g, reg >> 3, BYTES(0xff, 0xc0 | ext << 3 | (reg & 7)));
		break;
	case 1:
		place_rex(g, 8 | reg >> 3 << 2, store, 7);
		place32(g, BYTES(0xff, 0x04 | ext << 3, 0x25), slot);
		break;
	default:
		if (call) {
			place_rex(g, reg >> 3, BYTES(0xff, 0xd0 | (reg & 7)));
			break;
		}
		need_stack(g);
		place_rex(g, reg >> 3, BYTES(0x50 | (reg & 7)));
		place(g, BYTES(0xc3));
	}
}

/* Functions call those behind them, so that each program ends. */
static void place_call(struct gen *g)
{
	unsigned first = g->in_function ? g->block + 1 : g->nr_main;
	unsigned fn = first + (unsigned)rng_below(g->nr_blocks - first);

	need_stack(g);
	if (rng() & 1)
		place_branch(g, BYTES(0xe8), fn);
	else
		place_indirect(g, fn, true);
}

/* How a block of the main part ends: sometimes by running on into the next one. */
static void place_end(struct gen *g)
{
	unsigned on = g->block + 1 + (unsigned)rng_below(g->nr_main - g->block);

	switch (rng_below(9)) {
	case 0: case 1:
		place_jcc(g, on);
		break;
	case 2:
		place_branch(g, BYTES(0xe9), on);
		break;
	case 3:
		place_indirect(g, on, false);
		break;
	case 4: case 5:
		place_back(g, (unsigned)rng_below(g->block + 1));
		break;
	case 6: case 7:
		if (g->nr_blocks > g->nr_main + 1)
			place_call(g);
		break;
	}
}

/* Now and then to the caller's caller. */
static void place_return(struct gen *g)
{
	u8 word = (u8)(g->p->bits / 8);

	if (rng_chance(8))
		place_rex(g, 8, BYTES(0x8d, 0x64, 0x24, word)); /* LEA rSP, [rSP + word] */
	place(g, BYTES(0xc3));
}

static void place_nested_call(struct gen *g)
{
	place_call(g);
	g->undefined |= g->carried;
}

static bool may_call(const struct gen *g)
{
	return g->in_function && g->rsp_good && g->block + 1 < g->nr_blocks && !(g->undefined & ~g->carried);
}

static void place_block(struct gen *g)
{
	unsigned nr = 1 + (unsigned)rng_below(rng_chance(4) ? 30 : 10);

	g->label[g->block] = (u16)g->at;
	g->undefined = g->carried;
	while (nr-- && !is_full(g)) {
		u64 r = rng_below(100);
		if (r < 6 && !g->in_function)
			place_stack(g);
		else if (r < 6 && may_call(g))
			place_nested_call(g);
		else if (r < 9)
			place_patchable(g);
		else if (r < 10)
			place_patch(g);
		else if (r < 20)
			place_window(g);
		else if (r < 23 && g->block + 1 < g->nr_main && !(g->undefined & ~g->carried))
			place_jcc(g, g->block + 1 + (unsigned)rng_below(g->nr_main - g->block - 1));
		else
			place_random(g);
	}
	if (g->undefined & ~g->carried)
		place_clean(g);
}

/* --- Programs ------------------------------------------------------------------------------------------------- */

static void pick_start(struct gen *g)
{
	struct program *p = g->p;
	static struct test_case t;
	u32 fuel = 1 + (u32)rng_below(30);

	t = (struct test_case){.bits = p->bits};
	pick_state(&t);
	p->in = t.in;
	p->in.rip = p->base + CODE_BASE + g->at;
	p->in.gpr[RSP] = DATA_BASE + 0x400 + rng_below(0x1000);
	for (unsigned n = 0; n < 16; n++)
		p->in.gpr[n] = moved(p, p->in.gpr[n]);
	p->in.rflags &= ~FL_DF;
	p->in.mxcsr = rng_chance(10) ? t.in.mxcsr : 0x1f80 | (rng() & 0xe03f);
	p->in.x87[0] |= 0x3f;
	p->in.x87[2] &= 0x40;
	p->in.x87[3] &= 0x7f; /* FSW.B is FSW.ES */
	memset(native_data() + (FUEL - DATA_BASE), 0, 64);
	memcpy(native_data() + (FUEL - DATA_BASE), &fuel, 4);
}

void program_generate(struct program *p, unsigned bits)
{
	static const u64 high[] = HIGH_BASES;
	struct gen g = {.p = p, .rsp_good = true};

	data_restore();
	p->nr_insns = 0;
	p->bits = bits;
	p->base = bits == 64 && rng_chance(2) ? high[rng_below(ARRAY_SIZE(high))] : 0;
	memset(p->code, CODE_FILL, CODE_SIZE);
	memset(native_code(), CODE_FILL, CODE_SIZE);
	g.at = (unsigned)rng_below(PAGE_SIZE - 256);
	g.carried = rng() & 1 ? FL_AF : 0;
	g.vectors = rng_chance(3);
	g.x87 = rng_chance(3);
	g.nr_main = 1 + (unsigned)rng_below(10);
	g.nr_blocks = g.nr_main + 1 + (unsigned)rng_below(4);
	pick_start(&g);
	for (; g.block < g.nr_main; g.block++) {
		place_block(&g);
		place_end(&g);
	}
	/* The end of the main part, which is a block too. */
	g.label[g.block] = (u16)g.at;
	g.undefined = g.carried;
	place(&g, BYTES(0xcc));
	g.in_function = true;
	for (g.block++; g.block < g.nr_blocks; g.block++) {
		g.rsp_good = true;
		place_block(&g);
		place_return(&g);
	}
	for (unsigned n = 0; n < g.nr_fixups; n++) {
		const struct fixup *x = &g.fixup[n];
		u32 to = g.label[x->block], v = x->absolute ? CODE_BASE + to : to - (x->at + 4u);
		memcpy(p->code + x->at, &v, 4);
	}
	fix_patches(&g);
	memcpy(p->data, native_data(), DATA_SIZE);
}

u64 program_undefined_flags(const struct program *p, u64 rip)
{
	u64 at = rip - p->base - CODE_BASE;

	for (unsigned n = 0; n < p->nr_insns; n++) {
		const struct placed *i = &p->insn[n];
		if (i->at == at || (i->at + 1u == at && p->code[i->at] == 0xcc))
			return i->undefined;
	}
	return FL_ARITH;
}
