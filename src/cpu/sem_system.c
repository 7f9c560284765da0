/* Control registers, descriptor tables, TLB, interrupts and halts: what the operating system uses. */
#include "cpu/mmu.h"
#include "cpu/sem_util.h"

static void done(struct cpu *c, const struct insn *i)
{
	c->rip = insn_next(c, i);
}

/* SGDT, SIDT, SLDT, STR, SMSW (SDM vol. 3A, 2.5, CR4.UMIP). */
static void umip_check(struct cpu *c)
{
	if ((c->cr4 & CR4_UMIP) && c->cpl > 0)
		raise_gp0(c);
}

/* --- Control and debug registers ------------------------------------------------------------------ */

static void mov_from_cr(struct cpu *c, const struct insn *i)
{
	u64 v = 0;

	switch (i->reg) {
	case 0: v = c->cr0; break;
	case 2: v = c->cr2; break;
	case 3: v = c->cr3; break;
	case 4: v = c->cr4; break;
	case 8: v = cpu_io(c, IO_CR8_READ, 0, 8, 0); break;
	}
	gpr_set(c, i->rm_off, i->opsize, v);
	done(c, i);
}

static void mov_to_cr(struct cpu *c, const struct insn *i)
{
	u64 v = gpr_get(c, i->rm_off, i->opsize);

	switch (i->reg) {
	case 0: cr0_write(c, v); break;
	case 2: c->cr2 = v; break;
	case 3: cr3_write(c, v); break;
	case 4: cr4_write(c, v); break;
	case 8:
		if (v > 15)
			raise_gp0(c);
		cpu_io(c, IO_CR8_WRITE, 0, 8, v);
		break;
	}
	done(c, i);
}

static void mov_from_dr(struct cpu *c, const struct insn *i)
{
	gpr_set(c, i->rm_off, i->opsize, dr_read(c, i->reg));
	done(c, i);
}

static void mov_to_dr(struct cpu *c, const struct insn *i)
{
	dr_write(c, i->reg, gpr_get(c, i->rm_off, i->opsize));
	done(c, i);
}

static void clts(struct cpu *c, const struct insn *i)
{
	c->cr0 &= ~CR0_TS;
	done(c, i);
}

/* LMSW can set PE but not clear it. */
static void lmsw(struct cpu *c, const struct insn *i)
{
	u64 v = e_get(c, i, 2, i->is_mem) & 15;

	cr0_write(c, (c->cr0 & ~14ull) | v);
	done(c, i);
}

static void smsw(struct cpu *c, const struct insn *i)
{
	umip_check(c);
	if (i->is_mem)
		e_set(c, i, 2, true, c->cr0);
	else
		gpr_set(c, i->rm_off, i->opsize, c->cr0);
}

SEM_ONE(mov_from_cr, mov_from_cr)
SEM_ONE(mov_to_cr, mov_to_cr)
SEM_ONE(mov_from_dr, mov_from_dr)
SEM_ONE(mov_to_dr, mov_to_dr)
SEM_ONE(clts, clts)
SEM_ONE(lmsw, lmsw)
SEM_ONE(smsw, smsw)

/* --- Descriptor tables ---------------------------------------------------------------------------- */

static void store_table(struct cpu *c, const struct insn *i, const struct dtable *t)
{
	unsigned wide = c->code_bits == 64 ? 8 : 4;

	umip_check(c);
	u64 la = insn_la(c, i, 2 + wide, ACC_WRITE);
	u8 image[10];
	memcpy(image, &t->limit, 2);
	memcpy(image + 2, &t->base, 8);
	mem_write_block(c, i->seg, la, image, 2 + wide);
}

/* With a 16-bit operand size the base has 24 bits (SDM vol. 2, LGDT). */
static void load_table(struct cpu *c, const struct insn *i, struct dtable *t)
{
	unsigned wide = c->code_bits == 64 ? 8 : 4;
	u8 image[10] = {0};
	u64 base;

	mem_read_block(c, i->seg, insn_la(c, i, 2 + wide, ACC_READ), image, 2 + wide);
	memcpy(&base, image + 2, 8);
	if (c->code_bits == 64 && !la_canonical(c, base))
		raise_gp0(c);
	if (c->code_bits != 64 && i->opsize == 2)
		base &= 0xffffff;
	memcpy(&t->limit, image, 2);
	t->base = base;
}

static void sgdt(struct cpu *c, const struct insn *i)
{
	store_table(c, i, &c->gdtr);
}

static void sidt(struct cpu *c, const struct insn *i)
{
	store_table(c, i, &c->idtr);
}

static void lgdt(struct cpu *c, const struct insn *i)
{
	load_table(c, i, &c->gdtr);
}

static void lidt(struct cpu *c, const struct insn *i)
{
	load_table(c, i, &c->idtr);
}

static void store_selector(struct cpu *c, const struct insn *i, u16 selector)
{
	umip_check(c);
	if (i->is_mem)
		e_set(c, i, 2, true, selector);
	else
		gpr_set(c, i->rm_off, i->opsize, selector);
}

static void sldt(struct cpu *c, const struct insn *i)
{
	store_selector(c, i, c->seg[SEG_LDTR].selector);
}

static void str(struct cpu *c, const struct insn *i)
{
	store_selector(c, i, c->seg[SEG_TR].selector);
}

static void lldt(struct cpu *c, const struct insn *i)
{
	seg_load_ldt(c, e_get(c, i, 2, i->is_mem));
	done(c, i);
}

static void ltr(struct cpu *c, const struct insn *i)
{
	seg_load_tr(c, e_get(c, i, 2, i->is_mem));
	done(c, i);
}

SEM_ONE(sgdt, sgdt)
SEM_ONE(sidt, sidt)
SEM_ONE(lgdt, lgdt)
SEM_ONE(lidt, lidt)
SEM_ONE(sldt, sldt)
SEM_ONE(str, str)
SEM_ONE(lldt, lldt)
SEM_ONE(ltr, ltr)

/* --- Segment registers and selectors -------------------------------------------------------------- */

static void mov_to_seg(struct cpu *c, const struct insn *i)
{
	seg_load(c, i->reg & 7, e_get(c, i, 2, i->is_mem));
	if ((i->reg & 7) == SEG_SS)
		c->int_shadow = SHADOW_MOV_SS;
	done(c, i);
}

static void mov_from_seg(struct cpu *c, const struct insn *i)
{
	u16 selector = c->seg[i->reg & 7].selector;

	if (i->is_mem)
		e_set(c, i, 2, true, selector);
	else
		gpr_set(c, i->rm_off, i->opsize, selector);
}

SEM_ONE(mov_to_seg, mov_to_seg)
SEM_ONE(mov_from_seg, mov_from_seg)

static void set_zf(struct cpu *c, bool z)
{
	c->rflags = z ? c->rflags | FL_ZF : c->rflags & ~FL_ZF;
}

#define DESC_TYPE(d) ((unsigned)((d) >> 40) & 15)
#define DESC_S(d) ((d) >> 44 & 1)

/* Code that is readable, or data. */
static void verr(struct cpu *c, const struct insn *i)
{
	u64 d = 0;
	bool ok = desc_visible(c, e_get(c, i, 2, i->is_mem), false, &d, NULL);
	unsigned type = DESC_TYPE(d);

	set_zf(c, ok && DESC_S(d) && (!(type & 8) || (type & 2)));
}

/* Data that is writable. */
static void verw(struct cpu *c, const struct insn *i)
{
	u64 d = 0;
	bool ok = desc_visible(c, e_get(c, i, 2, i->is_mem), false, &d, NULL);
	unsigned type = DESC_TYPE(d);

	set_zf(c, ok && DESC_S(d) && !(type & 8) && (type & 2));
}

static void lar(struct cpu *c, const struct insn *i)
{
	u64 d = 0;
	bool ok = desc_visible(c, e_get(c, i, 2, i->is_mem), false, &d, NULL);

	if (ok)
		g_set(c, i, i->opsize, d >> 32 & 0x00ffff00);
	set_zf(c, ok);
}

static void lsl(struct cpu *c, const struct insn *i)
{
	u64 d = 0;
	bool ok = desc_visible(c, e_get(c, i, 2, i->is_mem), true, &d, NULL);

	if (ok) {
		struct segment s;
		seg_from_desc(&s, 0, d);
		g_set(c, i, i->opsize, s.limit);
	}
	set_zf(c, ok);
}

static void arpl(struct cpu *c, const struct insn *i)
{
	unsigned rpl = gpr_get(c, i->reg_off, 2) & 3;
	u64 d = e_get(c, i, 2, i->is_mem);
	bool raised = (d & 3) < rpl;

	if (raised)
		e_set(c, i, 2, i->is_mem, (d & ~3ull) | rpl);
	set_zf(c, raised);
}

SEM_ONE(verr, verr)
SEM_ONE(verw, verw)
SEM_ONE(lar, lar)
SEM_ONE(lsl, lsl)
SEM_ONE(arpl, arpl)

/* --- TLB and caches ------------------------------------------------------------------------------- */

/* No segment checks: the operand is an address, not accessed. */
static u64 address_operand(const struct cpu *c, const struct insn *i)
{
	u64 base = c->code_bits != 64 || i->seg >= SEG_FS ? c->seg[i->seg].base : 0;
	u64 la = base + insn_ea(c, i);

	return c->code_bits == 64 ? la : (u32)la;
}

static void invlpg(struct cpu *c, const struct insn *i)
{
	u64 la = address_operand(c, i);

	if (la_canonical(c, la))
		tlb_flush_page(c, la);
	done(c, i);
}

/* SDM vol. 2, INVPCID. Of another PCID than the present one all is dropped, even if one page was asked for. */
static void invpcid(struct cpu *c, const struct insn *i)
{
	u64 type = g_get(c, i, c->code_bits == 64 ? 8 : 4), d[2];

	mem_read_block(c, i->seg, insn_la(c, i, 16, ACC_READ), d, 16);
	if (type > 3 || d[0] >> 12)
		raise_gp0(c);
	if (type < 2 && d[0] && !(c->cr4 & CR4_PCIDE))
		raise_gp0(c);
	if (type == 0 && !la_canonical(c, d[1]))
		raise_gp0(c);
	switch (type) {
	case 0:
		if (tlb_pcid(c) == d[0])
			tlb_flush_page(c, d[1]);
		else
			tlb_flush_pcid(c, (unsigned)d[0]);
		break;
	case 1: tlb_flush_pcid(c, (unsigned)d[0]); break;
	case 2: tlb_flush_all(c); break;
	default: tlb_flush_nonglobal(c); break;
	}
	done(c, i);
}

/* CLFLUSH, CLFLUSHOPT, CLWB: a byte is read, as far as faults go. The host's caches are coherent. */
static void clflush(struct cpu *c, const struct insn *i)
{
	mem_probe(c, i->seg, insn_la(c, i, 1, ACC_READ), 1, ACC_READ);
}

/* A line of zeros at rAX (AMD APM vol. 3, CLZERO). */
static void clzero(struct cpu *c, const struct insn *i)
{
	static const u8 zeros[64];
	u64 ea = i->addrsize == 8 ? c->gpr[RAX] : i->addrsize == 4 ? (u32)c->gpr[RAX] : (u16)c->gpr[RAX];

	mem_write_block(c, i->seg, seg_la(c, i->seg, ea, 1, ACC_WRITE) & ~63ull, zeros, 64);
}

static void fence(struct cpu *c, const struct insn *i)
{
	atomic_thread_fence(memory_order_seq_cst);
}

SEM_ONE(invlpg, invlpg)
SEM_ONE(invpcid, invpcid)
SEM_ONE(clflush, clflush)
SEM_ONE(clzero, clzero)
SEM_ONE(fence, fence)

/* --- Interrupts and halts ------------------------------------------------------------------------- */

/* Without virtual-interrupt extensions IOPL decides (SDM vol. 2, CLI, STI). */
static void if_check(struct cpu *c)
{
	if (c->mode != MODE_REAL && c->cpl > iopl(c))
		raise_gp0(c);
}

static void cli(struct cpu *c, const struct insn *i)
{
	if_check(c);
	c->rflags &= ~FL_IF;
}

static void sti(struct cpu *c, const struct insn *i)
{
	if_check(c);
	if (!(c->rflags & FL_IF))
		c->int_shadow = SHADOW_STI;
	c->rflags |= FL_IF;
	done(c, i);
}

static void hlt(struct cpu *c, const struct insn *i)
{
	done(c, i);
	cpu_exit(c, EXIT_HLT);
}

/* A guest that spins is let go now and then: with more vCPUs than host CPUs, whom it waits for may need this one. */
#define PAUSES_BEFORE_EXIT 128

static void pause_(struct cpu *c, const struct insn *i)
{
	__builtin_ia32_pause();
	done(c, i);
	if (++c->pauses % PAUSES_BEFORE_EXIT == 0)
		cpu_exit(c, EXIT_PAUSE);
}

/* Reads a byte, as far as faults go; nothing is armed, so MWAIT returns at once, as it may. */
static void monitor(struct cpu *c, const struct insn *i)
{
	u64 ea = i->addrsize == 8 ? c->gpr[RAX] : i->addrsize == 4 ? (u32)c->gpr[RAX] : (u16)c->gpr[RAX];

	if (c->cpl > 0)
		raise_ud(c);
	if ((u32)c->gpr[RCX])
		raise_gp0(c);
	mem_probe(c, i->seg, seg_la(c, i->seg, ea, 1, ACC_READ), 1, ACC_READ);
}

static void mwait(struct cpu *c, const struct insn *i)
{
	if (c->cpl > 0)
		raise_ud(c);
	if ((u32)c->gpr[RCX] & ~1u)
		raise_gp0(c);
	done(c, i);
	cpu_exit(c, EXIT_PAUSE);
}

/* The owner reads the arguments from the registers; its answer is RAX. */
static void hypercall(struct cpu *c, const struct insn *i)
{
	u64 v = cpu_io(c, IO_HYPERCALL, c->gpr[RAX], 8, 0);

	gpr_set(c, RAX * 8, c->code_bits == 64 ? 8 : 4, v);
	done(c, i);
}

SEM_ONE(cli, cli)
SEM_ONE(sti, sti)
SEM_ONE(hlt, hlt)
SEM_ONE(pause, pause_)
SEM_ONE(monitor, monitor)
SEM_ONE(mwait, mwait)
SEM_ONE(hypercall, hypercall)
