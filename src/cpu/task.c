/* Hardware task switches (SDM vol. 3A, 7.2, 7.3). Legacy protected mode only. */
#include "cpu/debug.h"
#include "cpu/exception.h"
#include "cpu/mem.h"
#include "cpu/seg.h"
#include "cpu/segment.h"

/* Where things are in a TSS; registers and selectors follow one another in the order of their encoding. */
struct tss_layout {
	u8 word;      /* bytes of a register */
	u8 step;      /* distance of selectors */
	u8 nr_seg;    /* ES, CS, SS, DS and, in the 32-bit one, FS, GS */
	u8 ip, flags, gpr, seg, ldt;
	u8 cr3, trap; /* 0: none */
	u8 min_limit;
};
static const struct tss_layout tss16 = {2, 2, 4, 0x0e, 0x10, 0x12, 0x22, 0x2a, 0, 0, 0x2b};
static const struct tss_layout tss32 = {4, 4, 6, 0x20, 0x24, 0x28, 0x48, 0x60, 0x1c, 0x64, 0x67};

static const struct tss_layout *layout_of(unsigned type)
{
	return type & SYS_WIDE ? &tss32 : &tss16;
}

/* The new task's state, read from its TSS before anything changes. */
struct task {
	u64 ip, flags, cr3, gpr[8];
	u16 seg[6], ldt;
	bool trap;
};

static struct task task_read(struct cpu *c, const struct tss_layout *l, u64 base)
{
	struct task t = {
		.ip = mem_read_system(c, base + l->ip, l->word),
		.flags = mem_read_system(c, base + l->flags, l->word),
		.ldt = (u16)mem_read_system(c, base + l->ldt, 2),
	};

	for (unsigned n = 0; n < 8; n++)
		t.gpr[n] = mem_read_system(c, base + l->gpr + n * l->word, l->word);
	for (unsigned n = 0; n < l->nr_seg; n++)
		t.seg[n] = (u16)mem_read_system(c, base + l->seg + n * l->step, 2);
	if (l->cr3)
		t.cr3 = mem_read_system(c, base + l->cr3, 4);
	if (l->trap)
		t.trap = mem_read_system(c, base + l->trap, 2) & 1;
	return t;
}

/* Saves the old task. A fault half way does no harm: the switch is tried again, and all of it is saved again. */
static void task_save(struct cpu *c, u64 next, enum task_switch why)
{
	const struct segment *tr = &c->seg[SEG_TR];
	const struct tss_layout *l = layout_of(tr->type);
	u64 flags = why == TASK_IRET ? c->rflags & ~FL_NT :
		    why == TASK_GATE ? event_saved_flags(c, &c->delivering) : c->rflags;

	if (tr->unusable || tr->limit < l->min_limit)
		raise_error(c, VEC_TS, tr->selector & ~3u);
	for (unsigned n = l->nr_seg; n--;)
		mem_write_system(c, tr->base + l->seg + n * l->step, 2, c->seg[n].selector);
	for (unsigned n = 0; n < 8; n++)
		mem_write_system(c, tr->base + l->gpr + n * l->word, l->word, c->gpr[n]);
	mem_write_system(c, tr->base + l->flags, l->word, flags);
	mem_write_system(c, tr->base + l->ip, l->word, next);
}

/* --- Segments of the new task: faults are #TS, #NP, #SS in its context ------------------------------------- */

static void task_load_ldt(struct cpu *c, u16 selector, u32 ext)
{
	u64 desc;

	seg_set_null(c, SEG_LDTR, selector);
	if (selector_null(selector))
		return;
	if ((selector & 4) || !desc_read(c, selector, &desc, NULL) || desc_is_segment(desc) ||
	    desc_type(desc) != SYS_LDT || !desc_present(desc))
		raise_error(c, VEC_TS, (selector & ~3u) + ext);
	seg_from_desc(&c->seg[SEG_LDTR], selector, desc);
}

static void task_load_cs(struct cpu *c, u16 selector, u32 ext)
{
	u64 desc;
	unsigned rpl = selector & 3;
	u32 error = (selector & ~3u) + ext;

	if (!desc_read(c, selector, &desc, NULL) || !desc_is_code(desc) ||
	    (desc_conforming(desc) ? desc_dpl(desc) > rpl : desc_dpl(desc) != rpl))
		raise_error(c, VEC_TS, error);
	if (!desc_present(desc))
		raise_error(c, VEC_NP, error);
	seg_mark_accessed(c, selector, &desc);
	seg_from_desc(&c->seg[SEG_CS], selector, desc);
}

static void task_load_ss(struct cpu *c, u16 selector, unsigned cpl, u32 ext)
{
	u64 desc;
	u32 error = (selector & ~3u) + ext;

	if (!desc_read(c, selector, &desc, NULL) || !desc_writable(desc) || (selector & 3) != cpl ||
	    desc_dpl(desc) != cpl)
		raise_error(c, VEC_TS, error);
	if (!desc_present(desc))
		raise_error(c, VEC_SS, error);
	seg_mark_accessed(c, selector, &desc);
	seg_from_desc(&c->seg[SEG_SS], selector, desc);
}

static void task_load_data(struct cpu *c, enum seg_reg seg, u16 selector, unsigned cpl, u32 ext)
{
	u64 desc;
	u32 error = (selector & ~3u) + ext;

	if (selector_null(selector))
		return;
	if (!desc_read(c, selector, &desc, NULL) || !desc_readable(desc) ||
	    (!(desc_is_code(desc) && desc_conforming(desc)) && MAX(cpl, selector & 3u) > desc_dpl(desc)))
		raise_error(c, VEC_TS, error);
	if (!desc_present(desc))
		raise_error(c, VEC_NP, error);
	seg_mark_accessed(c, selector, &desc);
	seg_from_desc(&c->seg[seg], selector, desc);
}

static void task_load_segments(struct cpu *c, const struct task *t, u32 ext)
{
	static const enum seg_reg data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	unsigned cpl = t->seg[SEG_CS] & 3;

	/* Whatever fault comes, it is taken at the new level and with the new selectors. */
	for (unsigned n = SEG_ES; n <= SEG_GS; n++)
		seg_set_null(c, n, t->seg[n]);
	c->seg[SEG_SS].dpl = (u8)cpl;
	cpu_update_mode(c);
	task_load_ldt(c, t->ldt, ext);
	if (c->rflags & FL_VM) {
		for (unsigned n = SEG_ES; n <= SEG_GS; n++)
			seg_set_real(c, n, t->seg[n]);
		cpu_update_mode(c);
		return;
	}
	task_load_cs(c, t->seg[SEG_CS], ext);
	cpu_update_mode(c);
	task_load_ss(c, t->seg[SEG_SS], cpl, ext);
	cpu_update_mode(c);
	for (unsigned n = 0; n < ARRAY_SIZE(data); n++)
		task_load_data(c, data[n], t->seg[data[n]], cpl, ext);
}

/* --- The switch ------------------------------------------------------------------------------------------------ */

/* Descriptor of the new task's TSS, of the kind that @why needs. */
static u64 task_desc(struct cpu *c, u16 selector, enum task_switch why, u32 ext)
{
	u64 desc;
	u32 error = (selector & ~3u) + ext;
	unsigned busy = why == TASK_IRET ? SYS_BUSY : 0;
	enum vector wrong = why == TASK_IRET ? VEC_TS : VEC_GP;

	if ((selector & 4) || !desc_read(c, selector, &desc, NULL) || desc_is_segment(desc) ||
	    (desc_type(desc) & ~SYS_WIDE) != (SYS_TSS16 | busy))
		raise_error(c, wrong, error);
	if (!desc_present(desc))
		raise_error(c, VEC_NP, error);
	if (desc_limit(desc) < layout_of(desc_type(desc))->min_limit)
		raise_error(c, VEC_TS, error);
	return desc;
}

static void task_load_registers(struct cpu *c, const struct task *t, const struct tss_layout *l)
{
	c->rip = t->ip;
	c->rflags = (l->word == 2 ? c->rflags & ~0xffffull & ~FL_VM : 0) | (t->flags & 0x3f7fd5) | FL_FIXED1;
	for (unsigned n = 0; n < 8; n++)
		c->gpr[n] = l->word == 2 ? (c->gpr[n] & 0xffff0000) | t->gpr[n] : t->gpr[n];
	/* Local breakpoints belong to the old task (SDM vol. 3B, 18.2.4). */
	if (c->dr7 & 0x55) {
		c->dr7 &= ~0x55ull;
		debug_update(c);
	}
}

static void task_load_cr3(struct cpu *c, u64 cr3, u32 ext)
{
	if ((c->cr4 & CR4_PAE) && !mmu_load_pdptes(c, cr3))
		raise_error(c, VEC_TS, (c->seg[SEG_TR].selector & ~3u) + ext);
	c->cr3 = cr3;
	tlb_flush_nonglobal(c);
}

static void push_error(struct cpu *c, unsigned size, u32 error)
{
	struct stack st = stack_here(c);

	stack_store(c, &st, size, error, 0);
	stack_commit(c, &st);
}

void task_switch(struct cpu *c, u16 selector, enum task_switch why, u64 next, bool has_error, u32 error)
{
	u32 ext = why == TASK_GATE && c->delivering.type != EV_SOFTINT && c->delivering.type != EV_SOFTEXC;
	u64 desc = task_desc(c, selector, why, ext);
	u16 old = c->seg[SEG_TR].selector;
	bool nested = why == TASK_CALL || why == TASK_GATE;
	u64 base = desc_base(desc);
	const struct tss_layout *l = layout_of(desc_type(desc));
	struct task t = task_read(c, l, base);

	task_save(c, next, why);
	if (nested)
		mem_write_system(c, base, 2, old);
	if (!nested)
		desc_set_type(c, old, c->seg[SEG_TR].type & ~SYS_BUSY);
	if (why != TASK_IRET)
		desc_set_type(c, selector, desc_type(desc) | SYS_BUSY);

	/* From here on it is the new task. */
	seg_from_desc(&c->seg[SEG_TR], selector, desc);
	c->seg[SEG_TR].type |= SYS_BUSY;
	c->cr0 |= CR0_TS;
	task_load_registers(c, &t, l);
	if (nested)
		c->rflags |= FL_NT;
	if (l->cr3 && (c->cr0 & CR0_PG))
		task_load_cr3(c, t.cr3, ext);
	task_load_segments(c, &t, ext);
	if (has_error)
		push_error(c, l->word, error);
	if (c->rip > c->seg[SEG_CS].limit)
		raise_error(c, VEC_GP, ext);
	if (t.trap)
		raise_db(c, DR6_BT);
}
