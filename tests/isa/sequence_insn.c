/* Random programs: how instructions get into them, and which, see sequence.c. */
#include "sequence_gen.h"

/* --- Placing -------------------------------------------------------------------------------------------------- */

bool is_full(const struct gen *g)
{
	return g->at > CODE_SIZE - 512 || g->p->nr_insns > PROGRAM_INSNS - 40 || g->nr_fixups > NR_FIXUPS - 8;
}

void place(struct gen *g, const u8 *bytes, unsigned len)
{
	struct program *p = g->p;
	struct insn i;

	p->insn[p->nr_insns++] = (struct placed){.at = (u16)g->at, .len = (u8)len, .undefined = g->undefined};
	memcpy(p->code + g->at, bytes, len);
	g->at += len;
	if (decode(&i, bytes, len, p->bits) != DECODE_OK)
		return;
	const struct insn_row *r = &insn_rows[i.row];
	g->undefined &= (u16)(~r->flags_written | insn_flags_read(&i));
	g->undefined |= r->flags_undefined & FL_ARITH;
}

u8 pick_reg(const struct gen *g)
{
	return (u8)rng_below(g->p->bits == 64 ? 16 : 8);
}

void place_rex(struct gen *g, unsigned rex, const u8 *bytes, unsigned len)
{
	u8 b[16] = {0x40 | (u8)rex};

	memcpy(b + 1, bytes, len);
	if (g->p->bits == 64)
		place(g, b, len + 1);
	else
		place(g, bytes, len);
}

void place32(struct gen *g, const u8 *bytes, unsigned len, u32 v)
{
	u8 b[15];

	memcpy(b, bytes, len);
	memcpy(b + len, &v, 4);
	place(g, b, len + 4);
}

void place_clean(struct gen *g)
{
	static const u8 ops[] = {0xc0, 0xe8, 0xf8}; /* ADD, SUB, CMP */
	u8 reg = pick_reg(g), op = ops[rng_below(3)];

	if (reg == RSP)
		reg = RCX;
	place_rex(g, 8 | reg >> 3, BYTES(0x83, op | (reg & 7), (u8)rng()));
}

u64 moved(const struct program *p, u64 v)
{
	return v - DATA_WINDOW < WINDOW_SIZE ? v + p->base : v;
}

void place_mov(struct gen *g, unsigned reg, u64 v)
{
	v = moved(g->p, v);
	u8 b[9] = {0xb8 | (reg & 7)};
	bool wide = g->p->bits == 64 && v != (u32)v;

	memcpy(b + 1, &v, 8);
	place_rex(g, wide << 3 | reg >> 3, b, wide ? 9 : 5);
	if (reg == RSP)
		g->rsp_good = true;
}

void need_stack(struct gen *g)
{
	if (!g->rsp_good || rng_chance(100))
		place_mov(g, RSP, DATA_BASE + 0x400 + rng_below(0x1000));
}

void place_branch(struct gen *g, const u8 *bytes, unsigned len, unsigned block)
{
	g->fixup[g->nr_fixups++] = (struct fixup){(u16)(g->at + len), (u8)block};
	place32(g, bytes, len, 0);
}

void place_jcc(struct gen *g, unsigned block)
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
	u64 integer = g->vectors ? 20 : 55;
	enum kind kind = k < integer ? INTEGER : k < 80 ? VECTOR : k < 84 ? OTHER : k < 87 ? FPU_IN_C : IN_C;

	if (g->x87)
		kind = k < 20 ? INTEGER : k < 35 ? VECTOR : k < 80 ? OTHER : k < 94 ? FPU_IN_C : IN_C;
	if (!nr_rows[CODE64][INTEGER])
		sort_rows();
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

void place_random(struct gen *g)
{
	static struct test_case t;

	if (!pick_insn(g, &t)) {
		place_clean(g);
		return;
	}
	const struct insn *i = &t.insn;
	if (insn_flags_read(i) & g->undefined)
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

void place_stack(struct gen *g)
{
	u8 reg = pick_reg(g);
	u64 at;

	need_stack(g);
	switch (rng_below(8)) {
	case 6: /* PUSH [rSP + 8]; PUSH [rBP + 8] */
		place(g, BYTES(0xff, 0x74, 0x24, 8));
		break;
	case 7: /* between others, and often over two pages */
		at = rng_chance(3) ? PAGE_SIZE - 15 + rng_below(7) : 0x400 + rng_below(0x1000);
		place_mov(g, RBP, DATA_BASE + at);
		place_rex(g, reg >> 3, BYTES(0x50 | (reg & 7)));
		place(g, BYTES(0xff, 0x75, 8));
		place_rex(g, reg >> 3, BYTES(0x50 | (reg & 7)));
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
