/* Random instructions of a row, from what the row says of itself. */
#include "cpu/cpuid.h"
#include "gen.h"

static struct shape shape_of(const struct insn_row *r)
{
	struct shape s = {0};

	for (unsigned n = 0; n < 4; n++) {
		const struct operand_info *o = &operand_info[r->operand[n]];
		switch (o->kind) {
		case OK_E: case OK_M: case OK_W: case OK_Q: case OK_KE: case OK_VM:
		case OK_R: case OK_U: case OK_N: case OK_KR:
		case OK_ST:
			s.rm_kind = o->kind;
			s.rm_size = o->size;
			break;
		case OK_G: case OK_S: case OK_C: case OK_D: case OK_V: case OK_P: case OK_KG:
			s.reg_kind = o->kind;
			s.reg_size = o->size;
			break;
		case OK_B: case OK_H: case OK_KB: s.vvvv_kind = o->kind; break;
		case OK_Z: s.z = true; break;
		case OK_O: s.moffs = true; /* fall through */
		case OK_I: case OK_J: case OK_A: case OK_L:
			if (s.nr_imm < 2) {
				s.imm_kind[s.nr_imm] = o->kind;
				s.imm_size[s.nr_imm++] = o->size;
			}
			break;
		case OK_X: s.si = true; break;
		case OK_Y: s.di = true; break;
		}
	}
	return s;
}

/* Bytes of a sized operand, by the rules of the SDM's abbreviations. */
static unsigned operand_bytes(unsigned size, const struct form *f, unsigned opsize)
{
	unsigned vl = 16u << f->l;

	switch (size) {
	case OS_V: return opsize;
	case OS_Z: return opsize == 2 ? 2 : 4;
	case OS_Y: return opsize == 8 ? 8 : 4;
	case OS_P: return 2 + opsize;
	case OS_A: return 2 * opsize;
	case OS_S: return f->bits == 64 ? 10 : 6;
	case OS_X: return vl;
	case OS_X1: case OS_X2: case OS_X4: case OS_X8: return vl;
	case OS_HX: return vl / 2;
	case OS_QX: return vl / 4;
	case OS_OX: return vl / 8;
	case OS_512: return 512;
	case OS_SB: return 1;
	case OS_NONE: case OS_VAR: return 0;
	default: return size;
	}
}

static unsigned effective_size(const struct form *f, bool p66)
{
	if (f->bits != 64)
		return p66 == (f->bits == 16) ? 4 : 2;
	if (f->w || (f->row->attr & A_F64))
		return 8;
	return p66 ? 2 : f->row->attr & A_D64 ? 8 : 4;
}

/* --- Prefixes and fields ------------------------------------------------------------------------------------------ */

static u8 pick_seg_override(unsigned bits)
{
	static const u8 all[] = {0x64, 0x65, 0x2e, 0x36, 0x3e, 0x26};

	/* FS and GS hold null selectors outside of 64-bit code: a fault each time. */
	if (bits == 64)
		return rng_chance(10) ? all[rng_below(6)] : rng_chance(12) ? all[rng_below(2)] : 0;
	return rng_chance(12) ? all[2 + rng_below(4)] : rng_chance(200) ? all[0] : 0;
}

static struct prefixes pick_prefixes(const struct insn_row *r, const struct shape *s, unsigned bits)
{
	struct prefixes p = {.p67 = rng_chance(bits == 64 ? 12 : bits == 16 ? 4 : 400), .seg = pick_seg_override(bits)};
	bool sized = s->rm_size >= OS_V || s->reg_size >= OS_V || s->z || s->si || s->di;

	if (r->space != ENC_LEGACY) {
		if (rng_chance(200)) { /* these make it #UD */
			p.p66 = rng() & 1;
			p.lock = !p.p66;
		}
		return p;
	}
	switch (r->pp) {
	case PP_66: p.p66 = true; break;
	case PP_F3: case PP_F2:
		p.rep = r->pp == PP_F3 ? 0xf3 : 0xf2;
		p.p66 = sized && rng_chance(4);
		break;
	case PP_ANY:
		/* How much MOVSXD with a 16-bit register reads depends on the processor. */
		p.p66 = !(r->attr & A_F64) && !named(r, "movsxd") && rng_chance(sized || r->attr & A_D64 ? 3 : 20);
		if (r->attr & (A_REP | A_REPZ))
			p.rep = rng_chance(3) ? 0 : r->attr & A_REPZ && (rng() & 1) ? 0xf2 : 0xf3;
		else if (rng_chance(100) && r->class_ != CLASS_END && !named(r, "xchg")) /* PAUSE; odd LOOPs */
			p.rep = rng() & 1 ? 0xf2 : 0xf3;
		break;
	}
	p.lock = r->attr & A_LOCK ? rng_chance(3) : rng_chance(300);
	if (s->reg_kind == OK_C || starts(r, "ver")) /* LOCK MOV CR0 is CR8 to AMD's processors, LOCK VERW is VERW */
		p.lock = false;
	return p;
}

static void add_prefix(struct form *f, u8 byte)
{
	if (byte)
		f->prefixes[f->nr_prefixes++] = byte;
}

static void place_prefixes(struct form *f, const struct prefixes *p)
{
	add_prefix(f, p->p66 ? 0x66 : 0);
	add_prefix(f, p->p67 ? 0x67 : 0);
	add_prefix(f, p->seg);
	add_prefix(f, p->lock ? 0xf0 : 0);
	add_prefix(f, p->rep);
	for (unsigned n = f->nr_prefixes; n > 1; n--) { /* any order will do */
		unsigned k = rng_below(n);
		u8 t = f->prefixes[n - 1];
		f->prefixes[n - 1] = f->prefixes[k];
		f->prefixes[k] = t;
	}
}

static u8 pick_reg(unsigned kind, const struct form *f)
{
	switch (kind) {
	case OK_V: case OK_W: case OK_U: case OK_H:
		return rng_below(f->bits != 64 ? 8 : f->row->space == ENC_EVEX ? 32 : 16);
	case OK_P: case OK_Q: case OK_N: case OK_KG: case OK_KE: case OK_KR: case OK_KB: case OK_ST:
		return rng_below(8);
	case OK_S:
		return rng_below(6);
	case OK_NONE:
		return 0;
	default:
		return rng_below(f->bits != 64 ? 8 : 16);
	}
}

static void pick_fields(struct form *f, const struct shape *s)
{
	const struct insn_row *r = f->row;
	static const u8 lengths[] = {[L_128] = 0, [L_256] = 1, [L_512] = 2};
	bool w_free = r->w == W_ANY;

	if (r->space == ENC_LEGACY)
		f->w = f->bits == 64 && (r->w == W_1 || (w_free && rng_chance(3)));
	else
		f->w = r->w == W_1 || (w_free && (rng() & 1) && !(f->bits != 64 && w_matters(r)));
	if (r->l == L_ANY)
		f->l = rng_below(r->space == ENC_EVEX ? 3 : 2);
	else if (r->l == L_IG)
		f->l = rng_below(r->space == ENC_EVEX ? 3 : 2);
	else
		f->l = lengths[r->l];
	f->opcode_add = r->opcodes > 1 && !s->z ? rng_below(r->opcodes) : 0;
	f->rex_force = f->bits == 64 && r->space == ENC_LEGACY && rng_chance(4);
	f->vex2 = rng() & 1;
	f->has_modrm = r->modrm & MODRM_ANY;
	f->reg = pick_reg(s->reg_kind, f);
	f->rm = f->has_modrm || s->z ? pick_reg(s->z ? OK_Z : s->rm_kind, f) : 0;
	f->vvvv = pick_reg(s->vvvv_kind, f);
	if (!s->vvvv_kind && r->space != ENC_LEGACY && rng_chance(100))
		f->vvvv = rng_below(16); /* must not be */
	if (r->modrm & MODRM_EXT(0))
		f->reg = (r->modrm >> 4 & 7) | (f->bits == 64 && r->space == ENC_LEGACY && rng_chance(8) ? 8 : 0);
	if (r->modrm & MODRM_RM(0))
		f->rm = r->modrm >> 8 & 7;
	if (r->space == ENC_EVEX) {
		f->aaa = r->attr & A_MASK && !rng_chance(3) ? rng_below(8) : rng_chance(100) ? rng_below(8) : 0;
		if ((r->attr & A_VSIB) && !rng_chance(50))
			f->aaa |= 1;
		f->z = f->aaa && rng_chance(3);
		f->rc = rng_below(4);
	}
}

/* --- Memory operands --- */

/* Sets register @n so that base + index * scale + disp is @ea. */
static void solve_address(struct test_case *t, struct form *f, u64 ea)
{
	u64 *gpr = t->in.gpr;
	u64 rest = ea - (u64)f->disp;

	if (f->index != BASE_NONE && !f->vsib) {
		if (f->base == f->index) {
			/* One register twice: what does not divide goes into the displacement. */
			u64 times = 1 + (1u << f->scale);
			u64 v = ea / times;
			gpr[f->base] = v;
			f->disp_bytes = 4;
			f->disp = (s64)(ea - v * times);
			return;
		}
		if (f->base >= 16)
			gpr[f->index] = rng_below(0x1000);
		rest -= gpr[f->index] << f->scale;
	}
	if (f->base < 16)
		gpr[f->base] = rest;
	else
		f->disp = (s64)(s32)(ea - (f->index != BASE_NONE && !f->vsib ? gpr[f->index] << f->scale : 0));
}

static void pick_disp(struct form *f)
{
	u64 r = rng();

	f->disp_bytes = r % 3 == 0 ? 0 : r % 3 == 1 ? 1 : 4;
	if (!f->disp_bytes && (f->base & 7) == 5)
		f->disp_bytes = 1;
	if (f->disp_bytes == 1)
		f->disp = (s8)(r >> 8) * (s64)f->disp8_scale;
	else if (f->disp_bytes == 4)
		f->disp = r & 0x100 ? (s16)(r >> 32) : (s32)(r >> 32);
}

/* In flat 32-bit code these reach nothing that is mapped. */
static void pick_address16(struct test_case *t, struct form *f, u64 ea)
{
	static const u8 bases[] = {RBX, RBX, RBP, RBP, RSI, RDI, BASE_NONE, RBX, RBP};
	static const u8 indices[] = {RSI, RDI, RSI, RDI, BASE_NONE, BASE_NONE, BASE_NONE, BASE_NONE, BASE_NONE};
	unsigned kind = rng_below(9);

	f->addr16 = true;
	f->base = bases[kind];
	f->index = indices[kind];
	if (f->base == BASE_NONE) {
		f->disp = (s16)ea;
		return;
	}
	f->disp_bytes = rng_below(3);
	if (!f->disp_bytes && f->base == RBP && f->index == BASE_NONE)
		f->disp_bytes = 1;
	f->disp = f->disp_bytes == 1 ? (s8)rng() * (s64)f->disp8_scale : f->disp_bytes ? (s16)rng() : 0;
	u64 rest = ea - (u64)f->disp - (f->index != BASE_NONE ? t->in.gpr[f->index] : 0);
	t->in.gpr[f->base] = (rest & 0xffff) | (rng() & 0xffff0000);
}

static void pick_addressing(struct test_case *t, struct form *f, const struct prefixes *p, u64 target)
{
	unsigned regs = f->bits == 64 ? 16 : 8;
	u64 ea = target, kind = rng() % 10;

	if (f->bits == 64 && (p->seg == 0x64 || p->seg == 0x65))
		ea -= p->seg == 0x64 ? t->in.fs_base : t->in.gs_base;
	ea -= t->data_base;
	f->index = BASE_NONE;
	if (f->bits != 64 && p->p67 == (f->bits == 32)) {
		pick_address16(t, f, ea);
		return;
	}
	if (kind == 0 && !f->vsib) {
		f->base = f->bits == 64 && (rng() & 1) ? BASE_RIP : BASE_NONE;
	} else {
		f->base = rng_below(regs);
		if (f->base == RSP && stack_order(f->row)) /* RSP is for the stack */
			f->base = RBX;
		if (f->vsib || kind < 6) {
			f->scale = rng_below(4);
			f->index = f->vsib ? pick_reg(OK_V, f) : rng_below(regs);
			if (f->index == RSP && !f->vsib)
				f->index = BASE_NONE; /* that number says there is none */
			if (kind == 1)
				f->base = BASE_NONE;
		}
	}
	if (f->base == BASE_RIP)
		f->disp = (s64)ea;
	else if (f->base == BASE_NONE)
		solve_address(t, f, ea);
	else {
		pick_disp(f);
		/* Not canonical, but aligned: one reason to fault is enough. */
		if (f->bits == 64 && !p->p67 && f->base != f->index && rng_chance(60))
			ea = (ea & ~63ull) ^ 0x0080000000000000;
		solve_address(t, f, ea);
	}
	if (p->p67 && f->base < 16 && f->base != RSP) /* what lies above 32 bits is not part of the address */
		t->in.gpr[f->base] ^= rng() << 32;
}

/* --- Immediates and branches --- */

static void pick_immediates(struct test_case *t, struct form *f, const struct shape *s, const struct prefixes *p,
			    unsigned opsize)
{
	for (unsigned n = 0; n < s->nr_imm; n++) {
		unsigned size = operand_bytes(s->imm_size[n], f, opsize);
		u64 v = rng_chance(4) ? rng() : rng_value();

		switch (s->imm_kind[n]) {
		case OK_O:
			size = f->bits == 64 ? (p->p67 ? 4 : 8) : p->p67 == (f->bits == 16) ? 4 : 2;
			v = pick_target(8) - t->data_base;
			if (f->bits == 64 && (p->seg == 0x64 || p->seg == 0x65))
				v -= p->seg == 0x64 ? t->in.fs_base : t->in.gs_base;
			break;
		case OK_A:
			f->imm_bytes[0] = opsize == 2 ? 2 : 4;
			f->imm[0] = code_target(t);
			f->imm_bytes[1] = 2;
			f->imm[1] = rng_chance(8) ? rng() & 0xffff : pick_code_selector(t);
			return;
		case OK_L:
			size = 1;
			break;
		}
		if (named(t->row, "enter"))
			v = n ? rng() & 0x47 : rng() & 0x1ff;
		if (named(t->row, "ret"))
			v &= 0xff;
		if (named(t->row, "int") && (u8)v == 0x80)
			v = 3;
		f->imm[n] = v;
		f->imm_bytes[n] = size;
	}
}

/* The relative branch's displacement needs the length, which does not depend on it. */
static void aim_branch(struct test_case *t, struct form *f, const struct shape *s, unsigned len)
{
	for (unsigned n = 0; n < s->nr_imm; n++) {
		if (s->imm_kind[n] != OK_J)
			continue;
		u64 next = t->in.rip + len, to;
		do {
			to = f->imm_bytes[n] == 1 ? next + (u64)(s64)(s8)rng() : code_target(t);
			f->imm[n] = to - next;
		} while (to + 1 > t->in.rip && to < next); /* not into the middle of itself */
	}
}

static void indirect_branch(struct test_case *t, const struct form *f)
{
	if (t->row->class_ != CLASS_END || !(named(t->row, "jmp") || named(t->row, "call")))
		return;
	if (f->has_modrm && !f->mem && f->rm != RSP)
		t->in.gpr[f->rm] = rng_chance(30) ? 1ull << 60 : code_target(t);
}

bool row_in(const struct insn_row *r, unsigned bits)
{
	return bits == 64 ? r->modes & IN_64 : (r->modes & IN_16_32) && !(r->space == ENC_LEGACY && r->w == W_1);
}

static unsigned pick_mode(const struct insn_row *r)
{
	unsigned n = rng_below(8);

	if (!row_in(r, 32) || (n < 5 && row_in(r, 64)))
		return 64;
	/* KMOVD with VEX.W moves 64 bits on AMD's processors, and above ESP there is garbage in 16-bit code. */
	if (named(r, "kmovd"))
		return 32;
	return n & 1 && native_has_16bit() ? 16 : 32;
}

void generate(struct test_case *t)
{
	generate_for(t, pick_mode(t->row));
}

void generate_for(struct test_case *t, unsigned bits)
{
	const struct insn_row *r = t->row;
	struct shape s = shape_of(r);
	struct form f = {.row = r, .base = BASE_NONE, .index = BASE_NONE};
	u8 bytes[32];

	t->bits = bits;
	t->code_base = t->bits == 16 ? CODE16_BASE : 0;
	t->data_base = t->bits == 16 ? DATA16_BASE : 0;
	f.bits = t->bits;
	t->in.rip = CODE_BASE - t->code_base + (rng_chance(40) ? PAGE_SIZE - rng_below(16) : 0x800 + rng_below(64));
	pick_state(t);
	struct prefixes p = pick_prefixes(r, &s, t->bits);
	if (t->bits == 16 && (r->attr & A_VSIB))
		p.p67 = true; /* there is no 16-bit form */
	place_prefixes(&f, &p);
	f.pp = r->pp == PP_ANY ? PP_NP : r->pp;
	pick_fields(&f, &s);

	bool may_mem = s.rm_kind == OK_E || s.rm_kind == OK_M || s.rm_kind == OK_W || s.rm_kind == OK_Q ||
		       s.rm_kind == OK_KE || s.rm_kind == OK_VM || (r->modrm & 7) == MODRM_MEM || s.rm_kind == OK_NONE;
	unsigned form = r->modrm & 7;
	f.vsib = s.rm_kind == OK_VM || (r->attr & A_VSIB);
	f.mem = f.has_modrm && form != MODRM_REG && may_mem && (form == MODRM_MEM || f.vsib || (rng() & 1));
	if (s.reg_kind == OK_C || s.reg_kind == OK_D)
		f.mem = false;
	if (r->space == ENC_EVEX) {
		u32 allowed = f.mem ? A_BCST : A_ER;
		f.b = r->attr & allowed ? rng() & 1 : f.mem && rng_chance(100);
	}
	pick_implicit(t, &s, &p);
	unsigned opsize = effective_size(&f, p.p66);
	unsigned size = f.b && f.mem ? (f.w ? 8 : 4) : operand_bytes(s.rm_size, &f, opsize);
	f.disp8_scale = 1;
	if (r->space == ENC_EVEX && size)
		f.disp8_scale = s.rm_size >= OS_X1 && s.rm_size <= OS_X8 && !f.b ? 1u << (s.rm_size - OS_X1) : size;
	u64 target = pick_target(size);
	if (size == 0 && (starts(r, "xsave") || starts(r, "xrstor")) && !rng_chance(8))
		target = DATA_BASE + rng_below((DATA_RW - 2560) / 64) * 64;
	if (r->isa == ISA_SHA && cpuid_host_amd())
		target &= ~15ull; /* AMD's processors do not insist on it */
	if (f.mem) {
		tame_indices(t, &f);
		pick_addressing(t, &f, &p, target);
	}
	if (stack_order(r))
		t->in.gpr[RSP] = pick_safe(t);
	fill_memory(t, &s, f.mem ? target : stack_linear(t), size, opsize);
	indirect_branch(t, &f);
	pick_immediates(t, &f, &s, &p, opsize);
	unsigned len = encode(&f, t->in.rip, bytes);
	aim_branch(t, &f, &s, len);
	len = encode(&f, t->in.rip, bytes);
	t->len = MIN(len, 15u);
	memcpy(t->bytes, bytes, t->len);
}
