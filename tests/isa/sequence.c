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
#include "sequence.h"

#include "gen.h"

#define NR_BLOCKS 16 /* the last of them are functions */
#define NR_FIXUPS 128
#define FUEL (DATA_BASE + DATA_RW - 64)
#define BYTES(...) ((const u8[]){__VA_ARGS__}), sizeof((const u8[]){__VA_ARGS__})

struct fixup {
	u16 at; /* of a rel32 */
	u8 block;
	bool absolute; /* an address instead */
};

struct gen {
	struct program *p;
	unsigned at;
	u16 undefined;
	u16 carried;  /* undefined flags may be carried from block to block */
	bool rsp_good, in_function;
	bool vectors, x87; /* above all; x87: with MMX, and the C functions that look at it */
	unsigned block, nr_blocks, nr_main;
	u16 label[NR_BLOCKS];
	struct fixup fixup[NR_FIXUPS];
	unsigned nr_fixups;
	/* Bytes that the program may change, and the places of the addresses to change them by. */
	u16 imm[NR_FIXUPS], modrm[NR_FIXUPS], imm_use[NR_FIXUPS], modrm_use[NR_FIXUPS];
	unsigned nr_imm, nr_modrm, nr_imm_use, nr_modrm_use;
};

/* --- Placing -------------------------------------------------------------------------------------------------- */

static bool is_full(const struct gen *g)
{
	return g->at > CODE_SIZE - 512 || g->p->nr_insns > PROGRAM_INSNS - 40 || g->nr_fixups > NR_FIXUPS - 8;
}

static void place(struct gen *g, const u8 *bytes, unsigned len)
{
	struct program *p = g->p;
	struct insn i;

	p->insn[p->nr_insns++] = (struct placed){.at = (u16)g->at, .len = (u8)len, .undefined = g->undefined};
	memcpy(p->code + g->at, bytes, len);
	g->at += len;
	if (decode(&i, bytes, len, p->bits) != DECODE_OK)
		return;
	const struct insn_row *r = &insn_rows[i.row];
	g->undefined &= (u16)(~r->flags_written | r->flags_read);
	g->undefined |= r->flags_undefined & FL_ARITH;
}

/* A register that the program has. */
static u8 pick_reg(const struct gen *g)
{
	return (u8)rng_below(g->p->bits == 64 ? 16 : 8);
}

/* The same with a REX prefix first, which 32-bit code has not. */
static void place_rex(struct gen *g, unsigned rex, const u8 *bytes, unsigned len)
{
	u8 b[16] = {0x40 | (u8)rex};

	memcpy(b + 1, bytes, len);
	if (g->p->bits == 64)
		place(g, b, len + 1);
	else
		place(g, bytes, len);
}

static void place32(struct gen *g, const u8 *bytes, unsigned len, u32 v)
{
	u8 b[15];

	memcpy(b, bytes, len);
	memcpy(b + len, &v, 4);
	place(g, b, len + 4);
}

/* Sets all flags. */
static void place_clean(struct gen *g)
{
	static const u8 ops[] = {0xc0, 0xe8, 0xf8}; /* ADD, SUB, CMP */
	u8 reg = pick_reg(g), op = ops[rng_below(3)];

	if (reg == RSP)
		reg = RCX;
	place_rex(g, 8 | reg >> 3, BYTES(0x83, op | (reg & 7), (u8)rng()));
}

static void place_mov(struct gen *g, unsigned reg, u64 v)
{
	u8 b[9] = {0xb8 | (reg & 7)};
	bool wide = g->p->bits == 64 && v != (u32)v;

	memcpy(b + 1, &v, 8);
	place_rex(g, wide << 3 | reg >> 3, b, wide ? 9 : 5);
	if (reg == RSP)
		g->rsp_good = true;
}

static void need_stack(struct gen *g)
{
	if (!g->rsp_good || rng_chance(100))
		place_mov(g, RSP, DATA_BASE + 0x400 + rng_below(0x1000));
}

/* A branch to a block: @len bytes, then rel32. */
static void place_branch(struct gen *g, const u8 *bytes, unsigned len, unsigned block)
{
	g->fixup[g->nr_fixups++] = (struct fixup){(u16)(g->at + len), (u8)block};
	place32(g, bytes, len, 0);
}

static void place_jcc(struct gen *g, unsigned block)
{
	u8 cc = rng_below(16);

	place_branch(g, BYTES(0x0f, 0x80 | cc), block);
}

/* --- Instructions --------------------------------------------------------------------------------------------- */

enum kind { INTEGER, VECTOR, OTHER, IN_C, FPU_IN_C, NR_KIND };
enum { CODE32, CODE64, NR_MODE };
static u16 rows[NR_MODE][NR_KIND][4096];
static unsigned nr_rows[NR_MODE][NR_KIND];

static bool is_string(const struct insn_row *r)
{
	unsigned k = operand_info[r->operand[0]].kind, l = operand_info[r->operand[1]].kind;
	return k == OK_X || k == OK_Y || l == OK_X || l == OK_Y;
}

static bool usable(const struct insn_row *r)
{
	static const char *const not[] = {"popf/popfd/popfq", "wrfsbase", "wrgsbase", "insb", "insw/insd/insd", "outsb",
					  "outsw/outsd/outsd", "rdpmc", "sti", "cli"};

	if ((r->attr & (A_CPL0 | A_VSIB)) || row_excluded(r) ||
	    (r->class_ == CLASS_END && !is_string(r)) || nr_insn_rows > 4096)
		return false;
	for (unsigned n = 0; n < ARRAY_SIZE(not); n++)
		if (named(r, not[n]))
			return false;
	for (unsigned n = 0; n < 4; n++) {
		unsigned k = operand_info[r->operand[n]].kind;
		if (k == OK_S || k == OK_C || k == OK_D)
			return false;
	}
	return true;
}

static void sort_rows(void)
{
	for (unsigned n = 0; n < nr_insn_rows; n++) {
		const struct insn_row *r = &insn_rows[n];
		bool fpu = r->attr & (A_X87 | A_MMX | A_XSTATE | A_SSE | A_AVX);
		enum kind k = r->class_ != CLASS_COPY			 ? fpu ? FPU_IN_C : IN_C
			      : r->attr & (A_X87 | A_MMX)		 ? OTHER
			      : r->attr & (A_SSE | A_AVX | A_AVX512) ? VECTOR
									 : INTEGER;
		for (unsigned m = 0; m < NR_MODE; m++)
			if (usable(r) && row_in(r, m == CODE64 ? 64 : 32))
				rows[m][k][nr_rows[m][k]++] = (u16)n;
	}
}

static bool names_rsp(const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];

	for (unsigned n = 0; n < 4; n++) {
		unsigned k = operand_info[r->operand[n]].kind;
		bool rm = !i->is_mem && (k == OK_E || k == OK_R || k == OK_Z);
		if ((k == OK_G && i->reg == RSP) || (rm && i->rm == RSP) || (k == OK_B && i->vvvv == RSP))
			return true;
	}
	return starts(r, "push") || starts(r, "pop") || named(r, "enter") || named(r, "leave");
}

/* Whether it goes well as it stands, alone. */
static bool goes_well(const struct test_case *t)
{
	static struct outcome o;
	u8 *at = native_code() + (t->in.rip - CODE_BASE);

	memcpy(at, t->bytes, t->len);
	guest_run(t, ENGINE_INTERP, &o);
	memset(at, CODE_FILL, 15);
	return o.vector == NO_VECTOR;
}

static bool pick_insn(const struct gen *g, struct test_case *t)
{
	u64 k = rng_below(100);
	unsigned mode = g->p->bits == 64 ? CODE64 : CODE32;
	enum kind kind = k < (g->vectors ? 20 : 55) ? INTEGER : k < 80 ? VECTOR : k < 84 ? OTHER : k < 87 ? FPU_IN_C : IN_C;

	if (g->x87)
		kind = k < 20 ? INTEGER : k < 35 ? VECTOR : k < 80 ? OTHER : k < 94 ? FPU_IN_C : IN_C;

	for (unsigned tries = 0; tries < 40; tries++) {
		t->row = &insn_rows[rows[mode][kind][rng_below(nr_rows[mode][kind])]];
		generate_for(t, g->p->bits);
		t->decoded = decode(&t->insn, t->bytes, t->len, t->bits) == DECODE_OK;
		const struct insn *i = &t->insn;
		if (!t->decoded || !usable(&insn_rows[i->row]) || (i->len != t->len))
			continue;
		if (i->is_mem && i->seg >= SEG_FS && i->base >= 16)
			continue;
		if (names_rsp(i) && (g->in_function ? !rng_chance(20) : !rng_chance(4)))
			continue;
		/* Mostly the same few registers. */
		if (g->vectors && kind == VECTOR && (i->reg > 3 || i->vvvv > 7) && !rng_chance(10))
			continue;
		if (goes_well(t) || rng_chance(60))
			return true;
	}
	return false;
}

/* The registers that the instruction needs. */
static void place_setup(struct gen *g, const struct test_case *t)
{
	const struct insn *i = &t->insn;
	const struct insn_row *r = &insn_rows[i->row];
	const u64 *v = t->in.gpr;

	if (rng_chance(50))
		return;
	if (is_string(r)) {
		place_mov(g, RSI, v[RSI]);
		place_mov(g, RDI, v[RDI]);
		place_mov(g, RCX, v[RCX]);
	}
	if (named(r, "div") || named(r, "idiv"))
		place_mov(g, RDX, rng_below(4));
	if (named(r, "xlat") || named(r, "leave") || named(r, "clzero")) {
		place_mov(g, RBX, v[RBX]);
		place_mov(g, RBP, v[RBP]);
		place_mov(g, RAX, v[RAX]);
	}
	if (starts(r, "maskmov") || starts(r, "vmaskmovdq"))
		place_mov(g, RDI, v[RDI]);
	if (starts(r, "xsave") || starts(r, "xrstor"))
		place_mov(g, RAX, v[RAX]);
	if (starts(r, "push") || starts(r, "pop") || named(r, "enter"))
		need_stack(g);
	if (!i->is_mem)
		return;
	if (i->index != NO_REG && i->index < 16)
		place_mov(g, i->index, v[i->index]);
	u64 base = i->base < 16 ? v[i->base] : 0;
	if (i->seg == SEG_FS)
		base += t->in.fs_base - g->p->in.fs_base;
	if (i->seg == SEG_GS)
		base += t->in.gs_base - g->p->in.gs_base;
	if (i->base < 16 && i->base != i->index)
		place_mov(g, i->base, base);
}

static void place_random(struct gen *g)
{
	static struct test_case t;

	if (!pick_insn(g, &t)) {
		place_clean(g);
		return;
	}
	const struct insn *i = &t.insn;
	if (insn_rows[i->row].flags_read & g->undefined)
		place_clean(g);
	place_setup(g, &t);
	if (i->base == RIP_BASE) {
		u32 disp = (u32)(i->disp + (s64)t.in.rip - (s64)(CODE_BASE + g->at));
		memcpy(t.bytes + i->disp_off, &disp, 4);
	}
	place(g, t.bytes, t.len);
	if (names_rsp(i))
		g->rsp_good = false;
}

static void place_stack(struct gen *g)
{
	u8 reg = pick_reg(g);

	need_stack(g);
	switch (rng_below(8)) {
	case 6: /* PUSH [rSP + 8]; PUSH [rBP + 8] */
		place(g, BYTES(0xff, 0x74, 0x24, 8));
		break;
	case 7:
		place_mov(g, RBP, DATA_BASE + 0x400 + rng_below(0x1000));
		place_rex(g, reg >> 3, BYTES(0x50 | (reg & 7)));
		place(g, BYTES(0xff, 0x75, 8));
		break;
	case 0:
		place32(g, BYTES(0x68), (u32)rng_value());
		break;
	case 1:
		if (g->undefined)
			place_clean(g);
		place(g, BYTES(0x9c));
		break;
	case 2:
		place32(g, BYTES(0x68), (u32)(rng() & (FL_ARITH | FL_DF | (rng_chance(20) ? FL_AC | FL_ID : 0))));
		place(g, BYTES(0x9d));
		g->undefined = 0;
		break;
	case 3:
		place_rex(g, reg >> 3, BYTES(0x58 | (reg & 7)));
		g->rsp_good = reg != RSP;
		break;
	default:
		place_rex(g, reg >> 3, BYTES(0x50 | (reg & 7)));
		break;
	}
}

/* --- Accesses over one base ------------------------------------------------------------------------------------ */

struct base {
	u8 reg, index; /* no index: RSP, as in the encoding */
	u8 scale;
	bool wide;     /* displacements of 32 bits */
};

static u8 other_reg(const struct base *b)
{
	u8 reg = (u8)rng_below(16);

	return reg == RSP || ((reg == b->reg || reg == b->index) && !rng_chance(20)) ? RSI + (b->reg == RSI) : reg;
}

/* An instruction with @len bytes of @op behind the REX prefix (which stands behind @prefix, if that is not 0). */
static void place_access(struct gen *g, const struct base *b, u8 prefix, const u8 *op, unsigned len, u8 reg)
{
	bool sib = b->index != RSP || (b->reg & 7) == RSP;
	u8 code[15];
	unsigned n = 0;

	if (prefix)
		code[n++] = prefix;
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
		{0, 1, {0x8b}}, {0, 1, {0x89}}, {0, 1, {0x8b}}, {0, 1, {0x89}}, {0, 1, {0x03}}, {0, 1, {0x01}}, {0, 1, {0x3b}},
		{0, 1, {0x13}}, {0, 1, {0x11}}, {0, 1, {0x8a}}, {0, 1, {0x88}}, {0, 2, {0x0f, 0xb6}}, {0, 1, {0x87}},
		{0x66, 1, {0x89}}, {0xf0, 2, {0x0f, 0xc1}}, {0, 2, {0x0f, 0x44}}, {0, 1, {0x85}}, {0, 2, {0x0f, 0x10}},
		{0, 2, {0x0f, 0x11}}, {0x66, 2, {0x0f, 0x6f}}, {0x66, 2, {0x0f, 0xd4}}, {0, 2, {0x0f, 0x28}},
		{0xf3, 2, {0x0f, 0x6f}}, {0, 1, {0xff}}, {0, 1, {0xd1}}, {0, 1, {0x63}},
	};
	unsigned n = (unsigned)rng_below(ARRAY_SIZE(ops));
	u8 reg = other_reg(b);

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
	u8 w = 0x48 | b->reg >> 3, rm = b->reg & 7, n = (u8)rng(), to = other_reg(b);

	switch (rng_below(7)) {
	case 0:
		place(g, BYTES(w, 0x83, 0xc0 | rm, n));
		break;
	case 1:
		place(g, BYTES(w, 0x83, 0xe8 | rm, n));
		break;
	case 2:
		place(g, BYTES(w, 0xff, (rng() & 1 ? 0xc0 : 0xc8) | rm));
		break;
	case 3:
		place(g, BYTES(w, 0x83, 0xe0 | rm, 0xf8));
		break;
	case 4:
		if ((b->reg & 7) != RSP)
			place(g, BYTES(w | b->reg >> 3 << 2, 0x8d, 0x40 | rm << 3 | rm, n));
		break;
	case 5:
		place(g, BYTES(w | to >> 3 << 2, 0x8b, 0xc0 | (to & 7) << 3 | rm));
		b->reg = to;
		break;
	default:
		place(g, BYTES(w | to >> 3 << 2, 0x63, 0xc0 | (to & 7) << 3 | rm));
		break;
	}
}

/* Several accesses near each other: in one page, on two, on a border to pages that fault. */
static void place_window(struct gen *g)
{
	static const u32 border[] = {DATA_BASE, DATA_BASE + PAGE_SIZE, DATA_BASE + DATA_RW, DATA_BASE + DATA_SIZE};
	u32 at = rng_chance(3) ? border[rng_below(4)] - 0x50 + (u32)rng_below(0xa0) : DATA_BASE + (u32)rng_below(DATA_SIZE);
	struct base b = {.reg = (u8)rng_below(16), .index = RSP, .wide = rng_chance(4)};
	unsigned nr = 2 + (unsigned)rng_below(8);
	bool aligned = rng_chance(2);

	if (b.reg == RSP && g->in_function)
		b.reg = R13;
	if (rng_chance(3)) {
		u32 n = (u32)rng_below(64);

		b.index = (u8)((b.reg + 1 + rng_below(15)) % 16);
		if (b.index == RSP)
			b.index = b.reg == R15 ? RAX : R15;
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

static void place_call(struct gen *g)
{
	unsigned fn = g->nr_main + (unsigned)rng_below(g->nr_blocks - g->nr_main);

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

static void place_block(struct gen *g)
{
	unsigned nr = 1 + (unsigned)rng_below(rng_chance(4) ? 30 : 10);

	g->label[g->block] = (u16)g->at;
	g->undefined = g->carried;
	while (nr-- && !is_full(g)) {
		u64 r = rng_below(100);
		if (r < 6 && !g->in_function)
			place_stack(g);
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
	p->in.rip = CODE_BASE + g->at;
	p->in.gpr[RSP] = DATA_BASE + 0x400 + rng_below(0x1000);
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
	struct gen g = {.p = p, .rsp_good = true};

	if (!nr_rows[CODE64][INTEGER])
		sort_rows();
	data_restore();
	p->nr_insns = 0;
	p->bits = bits;
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
		place(&g, BYTES(0xc3));
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
	u64 at = rip - CODE_BASE;

	for (unsigned n = 0; n < p->nr_insns; n++) {
		const struct placed *i = &p->insn[n];
		if (i->at == at || (i->at + 1u == at && p->code[i->at] == 0xcc))
			return i->undefined;
	}
	return FL_ARITH;
}
