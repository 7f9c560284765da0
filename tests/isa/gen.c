/*
 * Random instructions of a row, from what the row says of itself, with a state in which they do something: memory
 * operands lie in the window, counts are small, branches go where an INT3 waits.
 */
#include <string.h>

#include "cpu/cpuid.h"
#include "isa.h"

static bool named(const struct insn_row *r, const char *name)
{
	return !strcmp(r->name, name);
}

static bool starts(const struct insn_row *r, const char *prefix)
{
	return !strncmp(r->name, prefix, strlen(prefix));
}

/* Outside of 64-bit code VEX.W chooses nothing here, but AMD's processors do not take 1. */
static bool w_matters(const struct insn_row *r)
{
	return starts(r, "vpextr") || starts(r, "vpinsr");
}

const char *row_excluded(const struct insn_row *r)
{
	static const struct {
		const char *name, *why;
	} excluded[] = {
		{"cpuid", "its result is the machine's own"},
		{"rdtsc", "its result is the machine's own"},
		{"rdtscp", "its result is the machine's own"},
		{"rdrand", "its result is random"},
		{"rdseed", "its result is random"},
		{"rdpid", "its result is the machine's own"},
		{"rdpru", "its result is the machine's own"},
		{"syscall", "it would call the host's kernel"},
		{"sysenter", "it would call the host's kernel"},
		{"vmcall", "it would call the host's hypervisor"},
		{"vmmcall", "it would call the host's hypervisor"},
		{"sgdt", "the host's kernel emulates it"},
		{"sidt", "the host's kernel emulates it"},
		{"sldt", "the host's kernel emulates it"},
		{"str", "the host's kernel emulates it"},
		{"smsw", "the host's kernel emulates it"},
		{"int1", "a virtual host reports it before it has retired"},
	};

	for (unsigned n = 0; n < ARRAY_SIZE(excluded); n++)
		if (named(r, excluded[n].name))
			return excluded[n].why;
	if (w_matters(r) && r->w == W_1 && r->modes == IN_16_32 && cpuid_host_amd())
		return "#UD on AMD's processors";
	if (named(r, "nop") && r->map == 1 && r->opcode == 0x0d && cpuid_host_amd())
		return "#UD on AMD's processors";
	return NULL;
}

/* --- What the operands ask for ---------------------------------------------------------------------------------- */

struct shape {
	u8 reg_kind, rm_kind, vvvv_kind; /* enum operand_kind, OK_NONE */
	u16 rm_size, reg_size;
	bool z, moffs, si, di;
	u8 nr_imm;
	u8 imm_kind[2];
	u16 imm_size[2];
};

static struct shape shape_of(const struct insn_row *r)
{
	struct shape s = {0};

	for (unsigned n = 0; n < 4; n++) {
		const struct operand_info *o = &operand_info[r->operand[n]];
		switch (o->kind) {
		case OK_E: case OK_M: case OK_W: case OK_Q: case OK_KE: case OK_VM: case OK_R: case OK_U: case OK_N: case OK_KR:
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
	case OS_X: case OS_BCST: return vl;
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

struct prefixes {
	bool p66, p67, lock;
	u8 rep, seg;
};

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
		else if (rng_chance(100) && r->class_ != CLASS_END && !named(r, "xchg")) /* PAUSE; branches on a count in odd ways */
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

/* --- Memory operands ------------------------------------------------------------------------------------------------- */

/* A linear address for an access of @size bytes. */
static u64 pick_target(unsigned size)
{
	unsigned room = size < DATA_RW ? DATA_RW - size : 1;
	u64 r = rng() % 100;

	if (!size)
		size = 8;
	if (r < 60)
		return DATA_BASE + rng_below(room) / 64 * 64;
	if (r < 86)
		return DATA_BASE + rng_below(room);
	if (r < 92)
		return DATA_BASE + PAGE_SIZE - 1 - rng_below(size); /* across two pages */
	if (r < 95)
		return DATA_BASE + DATA_RW - rng_below(2 * size); /* to read-only memory */
	if (r < 97)
		return DATA_BASE + DATA_SIZE - rng_below(2 * size); /* to the guard area */
	return DATA_BASE + (s64)rng_below(2 * size) - (s64)size;
}

/* The same as an offset in the data segment; 16-bit code leaves garbage above it. */
static u64 pick_offset(const struct test_case *t, unsigned size)
{
	u64 off = pick_target(size) - t->data_base;

	return t->bits == 16 ? (off & 0xffff) | (rng() & 0xffff0000) : off;
}

/* Somewhere in the middle, where several accesses to both sides find memory. */
static u64 pick_safe(const struct test_case *t)
{
	return DATA_BASE + 0x400 + rng_below(0x1000) - t->data_base;
}

static u64 stack_linear(const struct test_case *t)
{
	return t->bits == 16 ? DATA16_BASE + (u16)t->in.gpr[RSP] : t->in.gpr[RSP];
}

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

/* Several accesses to the stack: which one faults first, and what is done by then, is the processor's choice. */
static bool stack_order(const struct insn_row *r)
{
	return named(r, "ret") || starts(r, "iret") || named(r, "call") || starts(r, "pusha") || starts(r, "popa") ||
	       (starts(r, "pop") && operand_info[r->operand[0]].kind != OK_E && operand_info[r->operand[0]].kind != OK_Z &&
		!starts(r, "popf"));
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
		if (f->bits == 64 && !p->p67 && f->base != f->index && rng_chance(60))
			ea = (ea & ~63ull) ^ 0x0080000000000000; /* not canonical, but aligned: one reason to fault is enough */
		solve_address(t, f, ea);
	}
	if (p->p67 && f->base < 16 && f->base != RSP) /* what lies above 32 bits is not part of the address */
		t->in.gpr[f->base] ^= rng() << 32;
}

/* --- State -------------------------------------------------------------------------------------------------------------- */

static void pick_x87(struct state *s)
{
	u16 fcw = 0x037f, fsw = rng() & 0x7f00 & ~0x0040;

	if (!rng_chance(3))
		fcw = (fcw & ~0x0f00) | (rng() & 0x0f00);
	if (rng_chance(4))
		fcw = (fcw & ~0x3f) | (rng() & 0x3f);
	if (rng_chance(4))
		fsw |= rng() & 0x7f;
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080; /* ES and B: an exception is pending */
	memset(s->x87, 0, 32);
	memcpy(s->x87, &fcw, 2);
	memcpy(s->x87 + 2, &fsw, 2);
	s->x87[4] = rng_chance(2) ? 0xff : rng();
	for (unsigned n = 0; n < 8; n++) {
		static const u16 exponents[] = {0, 0x7fff, 0x3fff, 1, 0x7ffe, 0x4003, 0x403e, 0x3fbf};
		static const u64 mantissas[] = {1ull << 63, 0, 3ull << 62, ~0ull, 1, 0xa000000000000000, (1ull << 63) | 1};
		u64 r = rng();
		u64 mantissa = r & 1 ? mantissas[(r >> 8) % ARRAY_SIZE(mantissas)] : rng() | (r & 2 ? 1ull << 63 : 0);
		u16 exponent = r & 4 ? exponents[r >> 16 & 7] : r & 8 ? 0x3ff0 + (r >> 20 & 63) : r >> 20 & 0x7fff;
		exponent |= r >> 40 & 0x8000;
		memset(s->x87 + 32 + 16 * n, 0, 16);
		memcpy(s->x87 + 32 + 16 * n, &mantissa, 8);
		memcpy(s->x87 + 40 + 16 * n, &exponent, 2);
	}
}

static void pick_state(struct test_case *t)
{
	struct state *s = &t->in;
	u64 r = rng();

	s->cs = t->bits == 64 ? SEL_CS64 : t->bits == 32 ? SEL_CS32 : SEL_CS16;
	s->ds = s->es = s->ss = t->bits == 16 ? SEL_DS16 : SEL_DS;
	s->fs = s->gs = 0;
	s->fs_base = rng_below(0x10000000);
	s->gs_base = rng_below(0x10000000);
	s->rflags = FL_FIXED1 | FL_IF | (r & (FL_ARITH | (rng_chance(3) ? FL_DF : 0)));
	for (unsigned n = 0; n < 16; n++)
		s->gpr[n] = t->bits == 64 ? rng_value() : (u32)rng_value();
	s->gpr[RSP] = pick_safe(t) & ~15ull;
	if (rng_chance(20))
		s->gpr[RSP] = pick_offset(t, 8);
	for (unsigned n = 0; n < 32; n++)
		rng_numbers(s->zmm[n], 64);
	for (unsigned n = 0; n < 8; n++)
		s->k[n] = rng() & 1 ? rng() : rng_value();
	s->mxcsr = 0x1f80 | (rng_chance(2) ? 0 : rng() & 0xe07f);
	if (rng_chance(5))
		s->mxcsr = rng() & 0xffff;
	pick_x87(s);
}

static u64 code_target(const struct test_case *t)
{
	static const u16 at[][2] = {{0, 0x7f0}, {0x880, PAGE_SIZE - 0x20}, {PAGE_SIZE + 0x20, CODE_SIZE}};
	unsigned n = rng_below(3);

	/* Mostly an INT3, sometimes where there is no code; never into the instruction under test. */
	return (rng_chance(8) ? CODE16_BASE + rng_below(0x4000) : CODE_BASE + at[n][0] + rng_below(at[n][1] - at[n][0])) -
	       t->code_base;
}

static u16 pick_selector(void)
{
	static const u16 selectors[] = {0, 1, 3, SEL_DS, SEL_CS32, SEL_CS64, 0x28, 0x10, 0x1b, 0x40, 0x53, 0x6b, 0x7b, 0x8b, 0xfff7, 0x2f, SEL_CS16, SEL_DS16};

	return selectors[rng_below(ARRAY_SIZE(selectors))];
}

/* From 16-bit code only into 16-bit code: a far call into 64-bit code with a 16-bit stack never ends on some hosts. */
static u16 pick_code_selector(const struct test_case *t)
{
	u16 sel = rng_chance(6) ? pick_selector() : rng() & 1 ? SEL_CS64 : SEL_CS32;

	return t->bits == 16 && (sel == SEL_CS64 || sel == SEL_CS32) ? SEL_CS16 : sel;
}

static bool uses_selector(const struct insn_row *r, const struct shape *s)
{
	return s->reg_kind == OK_S || starts(r, "ver") || named(r, "lar") || named(r, "lsl") || named(r, "arpl");
}

/* Registers that the instruction uses without naming them. */
static void pick_implicit(struct test_case *t, const struct shape *s, const struct prefixes *p)
{
	const struct insn_row *r = t->row;
	u64 *gpr = t->in.gpr;

	if (s->si || named(r, "xlat") || starts(r, "monitor"))
		gpr[RSI] = pick_offset(t, 8);
	if (s->di || starts(r, "maskmov") || starts(r, "vmaskmovdq"))
		gpr[RDI] = pick_offset(t, 16);
	if (named(r, "maskmovq")) /* whether a fault comes before the registers turn into MMX ones is the processor's choice */
		gpr[RDI] = pick_safe(t);
	if (p->rep && (r->attr & (A_REP | A_REPZ)))
		gpr[RCX] = rng_chance(3) ? rng_below(300) : rng_below(20);
	if (p->p67 && p->rep)
		gpr[RCX] |= rng() << 32;
	if (starts(r, "xsave") || starts(r, "xrstor"))
		gpr[RAX] = rng_chance(4) ? rng() : native_xcr0() & rng();
	if (named(r, "xlat"))
		gpr[RBX] = pick_offset(t, 256);
	if (named(r, "leave") || named(r, "enter"))
		gpr[RBP] = pick_safe(t);
	if (named(r, "clzero"))
		gpr[RAX] = pick_offset(t, 64);
	if (s->si && s->di && rng_chance(3)) {
		gpr[RSI] = pick_safe(t);
		gpr[RDI] = gpr[RSI] + rng_below(64) - 32;
	} else if (s->si && s->di) { /* which one faults first is the processor's choice */
		u64 *safe = rng() & 1 ? &gpr[RSI] : &gpr[RDI];
		*safe = pick_safe(t);
	}
	if (uses_selector(r, s)) {
		u16 sel = pick_selector();
		for (unsigned n = 0; n < 16; n++)
			if (n != RSP)
				gpr[n] = (gpr[n] & ~0xffffull) | sel;
	}
}

/* Bit strings and vectors of indices reach only as far as the window. */
static void tame_indices(struct test_case *t, const struct form *f)
{
	const struct insn_row *r = t->row;

	if (f->mem && f->vsib) {
		const char *p = strstr(r->name, "gather");
		bool q = p ? p[6] == 'q' : (p = strstr(r->name, "scatter")) && p[7] == 'q';
		for (unsigned n = 0; n < 64; n += q ? 8 : 4) {
			s64 v = (s64)rng_below(160) - 32;
			memcpy(t->in.zmm[f->index] + n, &v, q ? 8 : 4);
		}
	}
	if (f->mem && (named(r, "bt") || named(r, "bts") || named(r, "btr") || named(r, "btc")) && f->has_modrm &&
	    !(r->modrm & MODRM_EXT(0)) && f->reg != f->base && f->reg != f->index)
		t->in.gpr[f->reg] = (u64)((s64)rng_below(8192) - 4096) ^ (rng_chance(4) ? 0xabcd000000000000 : 0);
}

/* A far pointer, or what a far return or IRET finds on the stack: parts of @size bytes. */
static void poke_far(const struct test_case *t, u64 target, unsigned size, bool pointer, bool iret)
{
	/* AMD's processors know no 64-bit offset in a far pointer in memory. */
	if (pointer && size == 8 && cpuid_host_amd())
		size = 4;
	u16 cs = pick_code_selector(t);
	u64 part[5] = {code_target(t) + t->code_base - (cs == SEL_CS16 ? CODE16_BASE : 0), cs,
		       (rng() & (FL_ARITH | FL_DF | FL_NT | FL_AC | FL_ID)) | FL_IF, pick_safe(t),
		       rng_chance(6) ? pick_selector() : t->in.ss};

	poke(target, &part[0], size);
	poke(target + size, &part[1], pointer ? 2 : size);
	for (unsigned n = 2; iret && n < 5; n++)
		poke(target + n * size, &part[n], size);
}

/* An area that FXRSTOR or XRSTOR mostly accepts; what is loaded is whatever lies there. */
static void poke_state_area(struct test_case *t, u64 target)
{
	u32 mxcsr = rng() & 0xffff;
	u64 header[8] = {rng() & native_xcr0()};

	if (!rng_chance(8))
		poke(target + 24, &mxcsr, 4);
	if (rng_chance(8))
		header[rng_below(8)] = rng() & rng();
	if (starts(t->row, "xrstor"))
		poke(target + 512, header, sizeof(header));
}

/* What lies under the memory operand, or on the stack. */
static void fill_memory(struct test_case *t, const struct shape *s, u64 target, unsigned size, unsigned opsize)
{
	const struct insn_row *r = t->row;
	u8 buf[256];
	u64 v = rng_value();

	rng_numbers(buf, sizeof(buf));
	if (rng_chance(2))
		poke(target - 64, buf, sizeof(buf));
	if (starts(r, "push")) /* whether the upper part of a selector's place is written depends on the processor */
		poke(stack_linear(t) - 8, &(u64){0}, 8);
	if (s->rm_size == OS_P && (named(r, "jmp") || named(r, "call"))) {
		poke_far(t, target, opsize, true, false);
	} else if (s->rm_size == OS_P) {
		u16 sel = pick_selector();
		poke(target + (cpuid_host_amd() ? MIN(opsize, 4u) : opsize), &sel, 2);
	} else if (starts(r, "iret") || (named(r, "ret") && r->opcode >= 0xca)) {
		poke_far(t, target, opsize, false, starts(r, "iret"));
	} else if (r->class_ == CLASS_END && (named(r, "jmp") || named(r, "call") || named(r, "ret"))) {
		v = code_target(t);
		poke(target, &v, 8);
	} else if (uses_selector(r, s)) {
		u16 sel = pick_selector();
		poke(target, &sel, 2);
	} else if (named(r, "ldmxcsr") || named(r, "vldmxcsr")) {
		v = rng() & (rng_chance(4) ? ~0u : 0xffff);
		poke(target, &v, 4);
	} else if (starts(r, "xrstor") || starts(r, "fxrstor")) {
		poke_state_area(t, target);
	} else if (size == 10) {
		poke(target, t->in.x87 + 32 + 16 * rng_below(8), 10);
	} else if (named(r, "bound")) {
		s32 bounds[2] = {(s32)rng_value() & 0xff, (s32)rng_value()};
		poke(target, bounds, 8);
	} else if (rng() & 1) {
		poke(target, &v, 8);
	}
}

static void pick_immediates(struct test_case *t, struct form *f, const struct shape *s, const struct prefixes *p, unsigned opsize)
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

static unsigned pick_mode(const struct insn_row *r)
{
	unsigned n = rng_below(8);

	if (r->modes == IN_64 || (r->space == ENC_LEGACY && r->w == W_1))
		return 64;
	if (n < 5 && r->modes & IN_64)
		return 64;
	/* KMOVD with VEX.W moves 64 bits on AMD's processors, and above ESP there is garbage in 16-bit code. */
	if (named(r, "kmovd"))
		return 32;
	return n & 1 && native_has_16bit() ? 16 : 32;
}

void generate(struct test_case *t)
{
	const struct insn_row *r = t->row;
	struct shape s = shape_of(r);
	struct form f = {.row = r, .base = BASE_NONE, .index = BASE_NONE};
	u8 bytes[32];

	t->bits = pick_mode(r);
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

	bool may_mem = s.rm_kind == OK_E || s.rm_kind == OK_M || s.rm_kind == OK_W || s.rm_kind == OK_Q || s.rm_kind == OK_KE ||
		       s.rm_kind == OK_VM || (r->modrm & 7) == MODRM_MEM || s.rm_kind == OK_NONE;
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
