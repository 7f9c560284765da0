/* The state in which an instruction does something: registers, and what its operands find in memory. */
#include "cpu/cpuid.h"
#include "gen.h"

/* A linear address for an access of @size bytes. */
u64 pick_target(unsigned size)
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
u64 pick_offset(const struct test_case *t, unsigned size)
{
	u64 off = pick_target(size) - t->data_base;

	return t->bits == 16 ? (off & 0xffff) | (rng() & 0xffff0000) : off;
}

/* Somewhere in the middle, where several accesses to both sides find memory. */
u64 pick_safe(const struct test_case *t)
{
	return DATA_BASE + 0x400 + rng_below(0x1000) - t->data_base;
}

u64 stack_linear(const struct test_case *t)
{
	return t->bits == 16 ? DATA16_BASE + (u16)t->in.gpr[RSP] : t->in.gpr[RSP];
}

u64 code_target(const struct test_case *t)
{
	static const u16 at[][2] = {{0, 0x7f0}, {0x880, PAGE_SIZE - 0x20}, {PAGE_SIZE + 0x20, CODE_SIZE}};
	unsigned n = rng_below(3);

	/* Mostly an INT3, sometimes where there is no code; never into the instruction under test. */
	return (rng_chance(8) ? CODE16_BASE + rng_below(0x4000)
			      : CODE_BASE + at[n][0] + rng_below(at[n][1] - at[n][0])) -
	       t->code_base;
}

/* --- Registers --- */

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
		static const u64 mantissas[] = {1ull << 63,      0, 3ull << 62, ~0ull, 1, 0xa000000000000000,
						(1ull << 63) | 1};
		u64 r = rng();
		u64 mantissa = r & 1 ? mantissas[(r >> 8) % ARRAY_SIZE(mantissas)] : rng() | (r & 2 ? 1ull << 63 : 0);
		u16 exponent = r & 4 ? exponents[r >> 16 & 7] : r & 8 ? 0x3ff0 + (r >> 20 & 63) : r >> 20 & 0x7fff;
		exponent |= r >> 40 & 0x8000;
		memset(s->x87 + 32 + 16 * n, 0, 16);
		memcpy(s->x87 + 32 + 16 * n, &mantissa, 8);
		memcpy(s->x87 + 40 + 16 * n, &exponent, 2);
	}
}

void pick_state(struct test_case *t)
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

static u16 pick_selector(void)
{
	static const u16 selectors[] = {0,    1,    3,    SEL_DS, SEL_CS32, SEL_CS64, 0x28, 0x10,     0x1b,
					0x40, 0x53, 0x6b, 0x7b,   0x8b,     0xfff7,   0x2f, SEL_CS16, SEL_DS16};

	return selectors[rng_below(ARRAY_SIZE(selectors))];
}

/* From 16-bit code only into 16-bit code: a far call into 64-bit code with a 16-bit stack never ends on some hosts. */
u16 pick_code_selector(const struct test_case *t)
{
	u16 sel = rng_chance(6) ? pick_selector() : rng() & 1 ? SEL_CS64 : SEL_CS32;

	return t->bits == 16 && (sel == SEL_CS64 || sel == SEL_CS32) ? SEL_CS16 : sel;
}

static bool uses_selector(const struct insn_row *r, const struct shape *s)
{
	return s->reg_kind == OK_S || starts(r, "ver") || named(r, "lar") || named(r, "lsl") || named(r, "arpl");
}

/* Registers that the instruction uses without naming them. */
void pick_implicit(struct test_case *t, const struct shape *s, const struct prefixes *p)
{
	const struct insn_row *r = t->row;
	u64 *gpr = t->in.gpr;

	if (s->si || named(r, "xlat") || starts(r, "monitor"))
		gpr[RSI] = pick_offset(t, 8);
	if (s->di || starts(r, "maskmov") || starts(r, "vmaskmovdq"))
		gpr[RDI] = pick_offset(t, 16);
	/* Whether a fault comes before the registers turn into MMX ones is the processor's choice. */
	if (named(r, "maskmovq"))
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
void tame_indices(struct test_case *t, const struct form *f)
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
void fill_memory(struct test_case *t, const struct shape *s, u64 target, unsigned size, unsigned opsize)
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
