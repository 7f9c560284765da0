#include "seg_fixture.h"

#define SYS_LDT 0x82u
#define SYS_TSS 0x89u
#define SYS_TSS_BUSY 0x8bu

void set_desc(struct fixture *f, u16 selector, u64 desc)
{
	put(f, GDT + (selector & ~7u), 8, desc);
}

u64 make_gate(u16 selector, u32 offset, unsigned type, unsigned dpl, unsigned low)
{
	return (offset & 0xffff) | (u64)selector << 16 | (u64)low << 32 | (u64)(0x80 | dpl << 5 | type) << 40 |
	       (u64)(offset & 0xffff0000) << 32;
}

void set_idt(struct fixture *f, unsigned vector, u16 selector, u64 offset, unsigned type, unsigned dpl, unsigned ist)
{
	bool lma = f->cpu.efer & EFER_LMA;

	put(f, IDT + vector * (lma ? 16 : 8), 8, make_gate(selector, (u32)offset, type, dpl, ist));
	if (lma)
		put(f, IDT + vector * 16 + 8, 8, offset >> 32);
}

static void fill_gdt(struct fixture *f)
{
	static const struct { u16 selector; u32 base, limit, attr; } row[] = {
		{S_CODE0, 0, 0xfffff, D_CODE | D_P | D_DB | D_G},
		{S_DATA0, 0, 0xfffff, D_DATA | D_P | D_DB | D_G},
		{S_CODE3, 0, 0xfffff, D_CODE | D_P | D_DB | D_G | D_DPL(3)},
		{S_DATA3, 0, 0xfffff, D_DATA | D_P | D_DB | D_G | D_DPL(3)},
		{S_CODE64, 0, 0xfffff, D_CODE | D_P | D_L | D_G},
		{S_CODE64_3, 0, 0xfffff, D_CODE | D_P | D_L | D_G | D_DPL(3)},
		{S_CONF0, 0, 0xfffff, D_CODE | D_CONFORMING | D_P | D_DB | D_G},
		{S_DATA_NP, 0, 0xfffff, D_DATA | D_DB | D_G},
		{S_CODE_NP, 0, 0xfffff, D_CODE | D_DB | D_G},
		{S_RODATA3, 0, 0xfffff, 0x10 | D_P | D_DB | D_G | D_DPL(3)},
		{S_XONLY3, 0, 0xfffff, 0x18 | D_P | D_DB | D_G | D_DPL(3)},
		{S_CODE16, 0, 0xffff, D_CODE | D_P},
		{S_DATA16, 0, 0xffff, D_DATA | D_P},
		{S_LDT, LDT, 0x17, SYS_LDT},
		{S_TSS, TSS, 0x67, SYS_TSS_BUSY},
		{S_TSS2, TSS2, 0x67, SYS_TSS},
		{S_CODE_LD, 0, 0xfffff, D_CODE | D_P | D_L | D_DB | D_G},
		{S_DATA_SMALL, 0x10000, 0xfff, D_DATA | D_P | D_DB},
		{S_DATA_DOWN, 0, 0x8fff, D_DATA | 4 | D_P},
		{S_CODE_SMALL, 0, 0xfff, D_CODE | D_P | D_DB},
	};

	for (unsigned n = 0; n < ARRAY_SIZE(row); n++)
		set_desc(f, row[n].selector, make_desc(row[n].base, row[n].limit, row[n].attr));
	put(f, LDT + 8, 8, make_desc(0x20000, 0xffff, D_DATA | D_P | D_DB));
}

static void load(struct cpu *c, enum seg_reg seg, u16 selector, struct fixture *f)
{
	seg_from_desc(&c->seg[seg], selector, get(f, GDT + (selector & ~7u), 8));
}

void use_segments(struct fixture *f, u16 cs, u16 ss)
{
	load(&f->cpu, SEG_CS, cs, f);
	load(&f->cpu, SEG_SS, ss, f);
	cpu_update_mode(&f->cpu);
}

static void fill(struct fixture *f)
{
	struct cpu *c = &f->cpu;

	fill_gdt(f);
	c->gdtr = (struct dtable){GDT, S_OUTSIDE - 1};
	c->idtr = (struct dtable){IDT, 0xfff};
	load(c, SEG_LDTR, S_LDT, f);
	load(c, SEG_TR, S_TSS, f);
	c->rip = 0x5000;
	c->gpr[RSP] = STACK3;
	c->rflags = FL_FIXED1 | FL_IF;
}

void enter_protected(struct fixture *f, unsigned cpl)
{
	struct cpu *c = &f->cpu;

	fill(f);
	c->cr0 |= CR0_PE;
	put(f, TSS + 4, 4, STACK0);
	put(f, TSS + 8, 4, S_DATA0);
	for (unsigned n = SEG_ES; n <= SEG_GS; n++)
		load(c, n, n == SEG_CS ? (cpl ? S_CODE3 | 3 : S_CODE0) : cpl ? S_DATA3 | 3 : S_DATA0, f);
	cpu_update_mode(c);
}

void enter_long(struct fixture *f, unsigned cpl)
{
	struct cpu *c = &f->cpu;

	paging_on(f, PAGING_4);
	for (unsigned n = 0; n < 2; n++)
		map_page(f, PAGING_4, n << 21, n << 21, 21, P_W | P_U, P_W | P_U);
	fill(f);
	c->efer |= EFER_SCE;
	put(f, TSS + 4, 8, STACK0);
	put(f, TSS + 0x24, 8, IST1);
	for (unsigned n = SEG_ES; n <= SEG_GS; n++)
		load(c, n, n == SEG_CS ? (cpl ? S_CODE64_3 | 3 : S_CODE64) : cpl ? S_DATA3 | 3 : S_DATA0, f);
	cpu_update_mode(c);
}

void enter_vm86(struct fixture *f)
{
	struct cpu *c = &f->cpu;

	enter_protected(f, 0);
	c->rflags |= FL_VM;
	for (unsigned n = SEG_ES; n <= SEG_GS; n++) {
		u16 selector = (u16)(0x100 + n * 0x10);
		c->seg[n] = (struct segment){.base = (u64)selector << 4, .limit = 0xffff, .selector = selector,
					     .type = 3,
					     .present = 1, .dpl = 3, .s = 1};
	}
	c->gpr[RSP] = 0x4000;
	cpu_update_mode(c);
}

u64 frame(struct fixture *f, unsigned size, unsigned n)
{
	const struct cpu *c = &f->cpu;
	u64 sp = c->gpr[RSP] & (c->stack_bits == 16 ? 0xffff : ~0ull);
	u64 base = c->mode == MODE_64 ? 0 : c->seg[SEG_SS].base;

	return get(f, base + sp + n * size, size);
}
