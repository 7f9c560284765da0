#include "cpu/seg.h"

#include "cpu/exception.h"
#include "cpu/mem.h"
#include "cpu/segment.h"

/* --- Descriptors ------------------------------------------------------------------------------------------ */

/* Linear address of @size bytes at @selector's place in its table. False when outside. */
static bool desc_address(const struct cpu *c, u16 selector, unsigned size, u64 *la)
{
	bool local = selector & 4;
	const struct segment *ldt = &c->seg[SEG_LDTR];
	u32 at = selector & ~7u;

	if (selector_null(selector) || (local && (ldt->unusable || !ldt->present)))
		return false;
	if (at + size - 1 > (local ? ldt->limit : c->gdtr.limit))
		return false;
	*la = (local ? ldt->base : c->gdtr.base) + at;
	return true;
}

bool desc_read(struct cpu *c, u16 selector, u64 *desc, u64 *high)
{
	u64 la;

	if (!desc_address(c, selector, 8, &la))
		return false;
	*desc = mem_read_system(c, la, 8);
	if (!high)
		return true;
	*high = 0;
	if (desc_is_segment(*desc) || !(c->efer & EFER_LMA))
		return true;
	if (!desc_address(c, selector, 16, &la))
		return false;
	*high = mem_read_system(c, la + 8, 8);
	return true;
}

void seg_from_desc(struct segment *s, u16 selector, u64 desc)
{
	*s = (struct segment){
		.base = desc_base(desc), .limit = desc_limit(desc), .selector = selector, .type = (u8)desc_type(desc),
		.present = desc_present(desc), .dpl = (u8)desc_dpl(desc), .db = desc_db(desc),
		.s = desc_is_segment(desc),
		.l = desc_long(desc), .g = desc >> 55 & 1, .avl = desc >> 52 & 1,
	};
}

void desc_set_type(struct cpu *c, u16 selector, unsigned type)
{
	u64 la;

	if (!desc_address(c, selector, 8, &la))
		return;
	u64 byte = mem_read_system(c, la + 5, 1);
	mem_write_system(c, la + 5, 1, (byte & 0xf0) | type);
}

void seg_mark_accessed(struct cpu *c, u16 selector, u64 *desc)
{
	if (*desc & BIT64(40))
		return;
	*desc |= BIT64(40);
	desc_set_type(c, selector, desc_type(*desc));
}

bool desc_visible(struct cpu *c, u16 selector, bool for_lsl, u64 *desc, u64 *high)
{
	/* System types that LAR and LSL know, in legacy and in long mode (SDM vol. 2, LAR, table 3-52). */
	static const u16 lar_types = 1 << SYS_TSS16 | 1 << SYS_LDT | 1 << SYS_TSS16_BUSY | 1 << SYS_CALL16 |
				     1 << SYS_TASK_GATE | 1 << SYS_TSS32 | 1 << SYS_TSS32_BUSY | 1 << SYS_CALL32;
	static const u16 gates = 1 << SYS_CALL16 | 1 << SYS_TASK_GATE | 1 << SYS_CALL32;
	static const u16 legacy_only = 1 << SYS_TSS16 | 1 << SYS_TSS16_BUSY | 1 << SYS_CALL16 | 1 << SYS_TASK_GATE;
	u64 unused;

	if (!desc_read(c, selector, desc, high ? high : &unused))
		return false;
	if (desc_is_segment(*desc)) {
		if (desc_is_code(*desc) && desc_conforming(*desc))
			return true;
	} else {
		unsigned types = lar_types & (for_lsl ? ~gates : ~0) & (c->efer & EFER_LMA ? ~legacy_only : ~0);
		if (!(types >> desc_type(*desc) & 1))
			return false;
	}
	return MAX((unsigned)c->cpl, selector & 3u) <= desc_dpl(*desc);
}

/* --- Segment registers ----------------------------------------------------------------------------------- */

void seg_set_null(struct cpu *c, enum seg_reg seg, u16 selector)
{
	c->seg[seg] = (struct segment){.selector = selector, .unusable = 1, .dpl = seg == SEG_SS ? selector & 3 : 0};
}

void seg_set_real(struct cpu *c, enum seg_reg seg, u16 selector)
{
	struct segment *s = &c->seg[seg];

	/* Real mode leaves limit and attributes as they are, which "unreal" mode lives on. */
	if ((c->rflags & FL_VM) && (c->cr0 & CR0_PE))
		*s = (struct segment){.limit = 0xffff, .type = 3, .present = 1, .dpl = 3, .s = 1};
	else if (s->unusable)
		*s = (struct segment){.limit = 0xffff, .type = 3, .present = 1, .s = 1};
	s->selector = selector;
	s->base = (u64)selector << 4;
}

void seg_hide_inner(struct cpu *c, unsigned cpl)
{
	static const enum seg_reg data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

	for (unsigned n = 0; n < ARRAY_SIZE(data); n++) {
		const struct segment *s = &c->seg[data[n]];
		bool conforming = (s->type & 0xc) == 0xc;
		if (!s->unusable && !conforming && s->dpl < cpl)
			seg_set_null(c, data[n], 0);
	}
}

static void load_ss(struct cpu *c, u16 selector)
{
	u64 desc;
	u32 error = selector & ~3u;

	if (selector_null(selector)) {
		if (c->mode != MODE_64 || c->cpl == 3 || (selector & 3) != c->cpl)
			raise_gp0(c);
		seg_set_null(c, SEG_SS, selector);
		cpu_update_mode(c);
		return;
	}
	if (!desc_read(c, selector, &desc, NULL) || (selector & 3) != c->cpl || !desc_writable(desc) ||
	    desc_dpl(desc) != c->cpl)
		raise_error(c, VEC_GP, error);
	if (!desc_present(desc))
		raise_error(c, VEC_SS, error);
	seg_mark_accessed(c, selector, &desc);
	seg_from_desc(&c->seg[SEG_SS], selector, desc);
	cpu_update_mode(c);
}

static void load_data(struct cpu *c, enum seg_reg seg, u16 selector)
{
	u64 desc;
	u32 error = selector & ~3u;

	if (selector_null(selector)) {
		seg_set_null(c, seg, selector);
		return;
	}
	if (!desc_read(c, selector, &desc, NULL) || !desc_readable(desc))
		raise_error(c, VEC_GP, error);
	bool conforming = desc_is_code(desc) && desc_conforming(desc);
	if (!conforming && MAX((unsigned)c->cpl, selector & 3u) > desc_dpl(desc))
		raise_error(c, VEC_GP, error);
	if (!desc_present(desc))
		raise_error(c, VEC_NP, error);
	seg_mark_accessed(c, selector, &desc);
	seg_from_desc(&c->seg[seg], selector, desc);
}

void seg_load(struct cpu *c, enum seg_reg seg, u16 selector)
{
	if (!cpu_protected(c))
		seg_set_real(c, seg, selector);
	else if (seg == SEG_SS)
		load_ss(c, selector);
	else
		load_data(c, seg, selector);
}

/* A present system descriptor of one of @types (a bit each) from the GDT, and its base; else #GP or #NP. */
static u64 system_desc(struct cpu *c, u16 selector, unsigned types, u64 *base)
{
	u64 desc, high;
	u32 error = selector & ~3u;

	if ((selector & 4) || !desc_read(c, selector, &desc, &high) || desc_is_segment(desc) ||
	    !(types >> desc_type(desc) & 1))
		raise_error(c, VEC_GP, error);
	/* The type field of the upper half must be zero (SDM vol. 3A, 3.5.2). */
	if (high >> 40 & 0x1f)
		raise_error(c, VEC_GP, error);
	if (!desc_present(desc))
		raise_error(c, VEC_NP, error);
	*base = desc_base(desc) | high << 32;
	if (!la_canonical(c, *base))
		raise_error(c, VEC_GP, error);
	return desc;
}

void seg_load_ldt(struct cpu *c, u16 selector)
{
	u64 base;

	if (selector_null(selector)) {
		seg_set_null(c, SEG_LDTR, selector);
		return;
	}
	u64 desc = system_desc(c, selector, 1 << SYS_LDT, &base);
	seg_from_desc(&c->seg[SEG_LDTR], selector, desc);
	c->seg[SEG_LDTR].base = base;
}

void seg_load_tr(struct cpu *c, u16 selector)
{
	u64 base;

	if (selector_null(selector))
		raise_gp0(c);
	u64 desc = system_desc(c, selector, 1 << SYS_TSS32 | (c->efer & EFER_LMA ? 0 : 1 << SYS_TSS16), &base);
	desc_set_type(c, selector, desc_type(desc) | SYS_BUSY);
	seg_from_desc(&c->seg[SEG_TR], selector, desc);
	c->seg[SEG_TR].type |= SYS_BUSY;
	c->seg[SEG_TR].base = base;
}

/* --- Stacks ------------------------------------------------------------------------------------------------ */

struct stack stack_of_segment(const struct cpu *c, unsigned cpl, const struct segment *ss, u64 rsp)
{
	u64 mask = ss->db ? 0xffffffff : 0xffff;

	return (struct stack){.ss = *ss, .rsp = rsp, .sp = rsp & mask, .mask = mask, .idx = mmu_index_at(c, cpl)};
}

struct stack stack_long(const struct cpu *c, unsigned cpl, u64 rsp)
{
	return (struct stack){.flat = true, .rsp = rsp, .sp = rsp, .mask = ~0ull, .idx = mmu_index_at(c, cpl)};
}

struct stack stack_here(const struct cpu *c)
{
	if (c->mode == MODE_64)
		return stack_long(c, c->cpl, c->gpr[RSP]);
	return stack_of_segment(c, c->cpl, &c->seg[SEG_SS], c->gpr[RSP]);
}

struct stack stack_of_tss(struct cpu *c, unsigned cpl, u32 ext)
{
	const struct segment *tr = &c->seg[SEG_TR];
	bool wide = tr->type & SYS_WIDE;
	u32 at = wide ? 4 + cpl * 8 : 2 + cpl * 4;
	struct segment ss;
	u64 desc;

	if (tr->unusable || at + (wide ? 8 : 4) - 1 > tr->limit)
		raise_error(c, VEC_TS, (tr->selector & ~3u) + ext);
	u64 esp = mem_read_system(c, tr->base + at, wide ? 4 : 2);
	u16 selector = (u16)mem_read_system(c, tr->base + at + (wide ? 4 : 2), 2);
	u32 error = (selector & ~3u) + ext;

	if (!desc_read(c, selector, &desc, NULL) || (selector & 3) != cpl || desc_dpl(desc) != cpl ||
	    !desc_writable(desc))
		raise_error(c, VEC_TS, error);
	if (!desc_present(desc))
		raise_error(c, VEC_SS, error);
	seg_from_desc(&ss, selector, desc);
	struct stack st = stack_of_segment(c, cpl, &ss, esp);
	st.desc = desc;
	return st;
}

u64 tss64_rsp(struct cpu *c, unsigned offset, u32 ext)
{
	const struct segment *tr = &c->seg[SEG_TR];

	if (tr->unusable || offset + 7 > tr->limit)
		raise_error(c, VEC_TS, (tr->selector & ~3u) + ext);
	return mem_read_system(c, tr->base + offset, 8);
}

/* Linear address of @size bytes at @sp of the stack; #SS(@error) where it does not go. */
static u64 stack_la(struct cpu *c, const struct stack *st, u64 sp, unsigned size, u32 error)
{
	if (st->flat) {
		if (!la_canonical(c, sp) || !la_canonical(c, sp + size - 1))
			raise_error(c, VEC_SS, error);
		return sp;
	}
	u64 last = sp + size - 1;
	const struct segment *ss = &st->ss;
	bool fits = (ss->type & 0xc) == 4 ? sp > ss->limit && last <= st->mask : last <= ss->limit;
	if (!fits || ss->unusable)
		raise_error(c, VEC_SS, error);
	return (u32)(ss->base + sp);
}

void stack_store(struct cpu *c, struct stack *st, unsigned size, u64 value, u32 error)
{
	u64 sp = (st->sp - size) & st->mask;

	mem_write_as(c, st->idx, SEG_SS, stack_la(c, st, sp, size, error), size, value);
	st->sp = sp;
}

u64 stack_load(struct cpu *c, struct stack *st, unsigned size)
{
	u64 value = mem_read_as(c, st->idx, SEG_SS, stack_la(c, st, st->sp, size, 0), size);

	st->sp = (st->sp + size) & st->mask;
	return value;
}

void stack_mark_accessed(struct cpu *c, struct stack *st)
{
	seg_mark_accessed(c, st->ss.selector, &st->desc);
	st->ss.type = (u8)desc_type(st->desc);
}

void stack_commit(struct cpu *c, const struct stack *st)
{
	c->gpr[RSP] = st->mask == 0xffff ? (st->rsp & ~0xffffull) | st->sp : st->sp;
}
