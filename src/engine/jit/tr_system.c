/*
 * System instructions of 64-bit code that leave the rest of the block as it is: interrupt flag, RFLAGS on the stack,
 * time stamp, FS and GS base, control registers. What is not the usual case goes to C before anything has changed.
 */
#include "engine/jit/tr.h"

#include "cpu/mmu.h"

_Static_assert(sizeof(struct segment) == 24, "copied by three moves");

#define CR4_BYTE(bit) ((const u8 *)&t->j->cpu->cr4 + (bit) / 8)

/* --- Operations on memory of ours: op byte or dword [at], imm ----------------------------------------------------- */

static void emit_cmp_byte(struct emit *e, const volatile void *at, unsigned imm)
{
	emit8(e, 0x80);
	emit_modrm_abs(e, 7, at);
	emit8(e, imm);
}

static void emit_test_byte(struct emit *e, const volatile void *at, unsigned imm)
{
	emit8(e, 0xf6);
	emit_modrm_abs(e, 0, at);
	emit8(e, imm);
}

enum { OP_OR = 1, OP_AND = 4 };

static void emit_rflags(struct tr *t, unsigned op, u64 imm)
{
	emit8(t->e, 0x81);
	emit_modrm_abs(t->e, op, &t->j->cpu->rflags);
	emit32(t->e, imm);
}

/* --- Conditions ------------------------------------------------------------------------------------------------- */

static unsigned index_of(const struct tr *t)
{
	return jit_mmu_index(t->b);
}

static bool in_user(const struct tr *t)
{
	return index_of(t) == MMU_USER || index_of(t) == MMU_USER_ALIGN;
}

/* Privilege level 0, for the rest of the block; its mode only tells level 3 from the others. */
static void emit_cpl0(struct tr *t, const struct insn *i)
{
	if (t->cpl0)
		return;
	emit_cmp_byte(t->e, &t->j->cpu->cpl, 0);
	tr_emit_c_path(t, i, CC_NE);
	t->cpl0 = true;
}

/* Interrupts become possible: the run must end at once when the owner waits for that. */
static void emit_no_irq_window(struct tr *t, const struct insn *i)
{
	emit_cmp_byte(t->e, &t->j->cpu->irq_window, 0);
	tr_emit_c_path(t, i, CC_NE);
}

/* Some bit of @mask is set in the byte at @at. */
static void emit_need(struct tr *t, const struct insn *i, const void *at, unsigned mask)
{
	emit_test_byte(t->e, at, mask);
	tr_emit_c_path(t, i, CC_E);
}

/* --- Interrupt flag ----------------------------------------------------------------------------------------------- */

static bool emit_cli(struct tr *t, unsigned n, const struct insn *i)
{
	if (in_user(t))
		return false;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_cpl0(t, i);
	emit_rflags(t, OP_AND, ~FL_IF);
	return true;
}

/*
 * The shadow (SDM vol. 3A, 6.8.3) is that requests are noticed at the start of blocks: never between this one and
 * the next instruction, unless that is in another block.
 */
static bool emit_sti(struct tr *t, unsigned n, const struct insn *i)
{
	if (in_user(t) || n + 1 == t->nr)
		return false;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_cpl0(t, i);
	emit_no_irq_window(t, i);
	emit_rflags(t, OP_OR, FL_IF);
	return true;
}

/* --- RFLAGS ------------------------------------------------------------------------------------------------------ */

/* RFLAGS with the arithmetic flags of the slot into @to. RF is clear in generated code. */
static void emit_gather_flags(struct jit *j, unsigned to)
{
	struct emit *e = &j->e;
	const u8 *ah = (const u8 *)&j->flags + 1;

	emit8(e, 0x44); /* movzx to, byte [OF] */
	emit_bytes(e, "\x0f\xb6", 2);
	emit_modrm_abs(e, to, &j->flags);
	emit_bytes(e, "\x41\xc1", 2); /* shl to, 11 */
	emit8(e, 0xe0 | (to & 7));
	emit8(e, 11);
	emit8(e, 0x44); /* or to's low byte, [AH] */
	emit8(e, 0x0a);
	emit_modrm_abs(e, to, ah);
	emit_ra(e, 1, 0x0b, to, &j->cpu->rflags); /* whose arithmetic flags are clear in generated code */
}

/* The slot's flags out of S1, whose low byte is cut to them. */
static void emit_scatter_flags(struct jit *j)
{
	struct emit *e = &j->e;

	emit_bytes(e, "\x41\x0f\xba\xe7\x0b", 5); /* bt r15d, 11 */
	emit_bytes(e, "\x0f\x92", 2);             /* setc [OF] */
	emit_modrm_abs(e, 0, &j->flags);
	emit_bytes(e, "\x41\x80\xe7", 3); /* and r15b, the others */
	emit8(e, FL_ARITH & 0xff);
	emit8(e, 0x44); /* mov [AH], r15b */
	emit8(e, 0x88);
	emit_modrm_abs(e, S1, (const u8 *)&j->flags + 1);
}

static bool emit_pushf(struct tr *t, unsigned n, const struct insn *i)
{
	if (i->opsize != 8)
		return false;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	struct slow_path *s = tr_emit_stack(t, i, -8, ACC_WRITE);
	emit_gather_flags(t->j, S1);
	emit_rm_disp(t->e, 1, 0x89, S1, S0, 0);
	tr_emit_rsp_add(t, -8);
	tr_slow_done(t, s);
	return true;
}

/* IF and the arithmetic flags may change here; the rest is C's. */
static bool emit_popf(struct tr *t, unsigned n, const struct insn *i)
{
	struct emit *e = t->e;

	if (i->opsize != 8 || in_user(t))
		return false;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_cpl0(t, i);
	emit_no_irq_window(t, i);
	struct slow_path *s = tr_emit_stack(t, i, 0, ACC_READ);
	emit_rm_disp(e, 1, 0x8b, S1, S0, 0);
	emit_mov_rr(e, S0, S1);
	emit_ra(e, 0, 0x33, S0, &t->j->cpu->rflags);
	emit_bytes(e, "\x41\xf7\xc6", 3); /* test r14d, those */
	emit32(e, FL_TF | FL_DF | FL_IOPL | FL_NT | FL_AC | FL_ID);
	tr_emit_c_path(t, i, CC_NE);
	emit_rr(e, 0, 0x8b, S0, S1);
	emit_bytes(e, "\x41\x81\xe6", 3); /* and r14d, IF */
	emit32(e, FL_IF);
	emit_rflags(t, OP_AND, ~FL_IF);
	emit_ra(e, 0, 0x09, S0, &t->j->cpu->rflags);
	emit_scatter_flags(t->j);
	tr_emit_rsp_add(t, 8);
	tr_slow_done(t, s);
	return true;
}

static bool emit_cld(struct tr *t, unsigned n, const struct insn *i)
{
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_rflags(t, OP_AND, ~FL_DF);
	return true;
}

static bool emit_std(struct tr *t, unsigned n, const struct insn *i)
{
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_rflags(t, OP_OR, FL_DF);
	return true;
}

/* --- AC: how supervisor code looks at user pages ----------------------------------------------------------------- */

static bool smap_index(const struct tr *t)
{
	return index_of(t) == MMU_KERNEL_SMAP || index_of(t) == MMU_KERNEL_NOWP_SMAP;
}

/* The rest of the guest's code is looked up under another MMU index. */
static void emit_mmu_index(struct tr *t, const struct insn *i, unsigned index)
{
	struct emit *e = t->e;
	struct cpu *c = t->j->cpu;

	emit8(e, 0xc6); /* mov byte [mmu_index], index */
	emit_modrm_abs(e, 0, &c->mmu_index);
	emit8(e, index);
	emit_bytes(e, "\x48\xc7", 2); /* mov qword [tlb], array */
	emit_modrm_abs(e, 0, &c->tlb);
	emit32(e, (u64)&c->tlbs->array[index]);
	emit_bytes(e, "\x66\x81", 2); /* xor word [epoch's], both */
	emit_modrm_abs(e, 6, (const u8 *)&t->j->epoch + JIT_EPOCH_SHIFT / 8);
	emit16(e, index ^ index_of(t));
	jit_emit_forget_calls(t->j);
	tr_emit_goto(t, t->place + i->len);
}

static bool emit_stac(struct tr *t, unsigned n, const struct insn *i)
{
	if (in_user(t))
		return false;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_cpl0(t, i);
	emit_rflags(t, OP_OR, FL_AC);
	if (smap_index(t))
		emit_mmu_index(t, i, index_of(t) - 1);
	return true;
}

static bool emit_clac(struct tr *t, unsigned n, const struct insn *i)
{
	if (in_user(t))
		return false;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_cpl0(t, i);
	if (smap_index(t)) /* AC is clear */
		return true;
	emit_need(t, i, CR4_BYTE(21), BIT(21 % 8));
	emit_rflags(t, OP_AND, ~FL_AC);
	emit_mmu_index(t, i, index_of(t) + 1u);
	return true;
}

/* --- Time -------------------------------------------------------------------------------------------------------- */

/* As cpu_rdtsc() has it. */
static bool emit_rdtsc(struct tr *t, unsigned n, const struct insn *i)
{
	struct emit *e = t->e;
	struct cpu *c = t->j->cpu;

	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_test_byte(e, &c->cr4, CR4_TSD);
	tr_emit_c_path(t, i, CC_NE);
	emit_bytes(e, "\x0f\x31", 2);         /* rdtsc */
	emit_bytes(e, "\x48\xc1\xe2\x20", 4); /* shl rdx, 32 */
	emit_rr(e, 1, 0x0b, H_RAX, H_RDX);
	emit_ra(e, 1, 0xf7, 4, &c->tsc_ratio);    /* mul */
	emit_bytes(e, "\x48\x0f\xac\xd0\x30", 5); /* shrd rax, rdx, 48 */
	emit_ra(e, 1, 0x03, H_RAX, &c->tsc_offset);
	emit_mov_rr(e, H_RDX, H_RAX);
	emit_bytes(e, "\x48\xc1\xea\x20", 4); /* shr rdx, 32 */
	emit_rr(e, 0, 0x8b, H_RAX, H_RAX);
	if (insn_rows[i->row].sem == &sem_rdtscp)
		emit_ra(e, 0, 0x8b, H_RCX, &c->tsc_aux);
	return true;
}

/* --- FS and GS base, selectors, control registers ---------------------------------------------------------------- */

/* The general register @g becomes the value at @at. */
static void emit_load_gpr(struct tr *t, unsigned g, unsigned w, const void *at)
{
	unsigned to = jit_in_memory(g) ? S0 : jit_host_of(g);

	emit_ra(t->e, w, 0x8b, to, at);
	if (to == S0)
		emit_store_abs(t->e, S0, &t->j->cpu->gpr[g]);
}

static bool emit_swapgs(struct tr *t, unsigned n, const struct insn *i)
{
	struct cpu *c = t->j->cpu;

	if (in_user(t))
		return false;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_cpl0(t, i);
	emit_load_abs(t->e, S0, &c->seg[SEG_GS].base);
	emit_load_abs(t->e, S1, &c->kernel_gs_base);
	emit_store_abs(t->e, S0, &c->kernel_gs_base);
	emit_store_abs(t->e, S1, &c->seg[SEG_GS].base);
	return true;
}

static bool read_base(struct tr *t, unsigned n, const struct insn *i, enum seg_reg seg)
{
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_need(t, i, CR4_BYTE(16), 1);
	emit_load_gpr(t, i->rm, i->opsize == 8, &t->j->cpu->seg[seg].base);
	return true;
}

static bool write_base(struct tr *t, unsigned n, const struct insn *i, enum seg_reg seg)
{
	unsigned h;

	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_need(t, i, CR4_BYTE(16), 1);
	h = tr_use_gpr(t, i->rm, S0);
	emit_rr(t->e, i->opsize == 8, 0x8b, S0, h);
	if (i->opsize == 8)
		tr_emit_canonical(t, i);
	emit_store_abs(t->e, S0, &t->j->cpu->seg[seg].base);
	return true;
}

static bool emit_rdfsbase(struct tr *t, unsigned n, const struct insn *i)
{
	return read_base(t, n, i, SEG_FS);
}

static bool emit_rdgsbase(struct tr *t, unsigned n, const struct insn *i)
{
	return read_base(t, n, i, SEG_GS);
}

static bool emit_wrfsbase(struct tr *t, unsigned n, const struct insn *i)
{
	return write_base(t, n, i, SEG_FS);
}

static bool emit_wrgsbase(struct tr *t, unsigned n, const struct insn *i)
{
	return write_base(t, n, i, SEG_GS);
}

static bool emit_mov_from_seg(struct tr *t, unsigned n, const struct insn *i)
{
	struct emit *e = t->e;
	const u16 *selector;

	if ((i->reg & 7) > SEG_GS)
		return false;
	selector = &t->j->cpu->seg[i->reg & 7].selector;
	bool word = i->is_mem || i->opsize == 2, in_gpr = !i->is_mem && !jit_in_memory(i->rm);
	struct slow_path *s = NULL;
	if (i->is_mem) {
		if (tr_check_needed(t, i, AT_OPERAND))
			tr_flags_to_slot(t, tr_flags_needed(t, n));
		s = tr_emit_operand(t, i);
	}
	unsigned to = in_gpr && !word ? jit_host_of(i->rm) : S1;
	emit_rex(e, 0, to, 0); /* movzx to, word [selector] */
	emit_bytes(e, "\x0f\xb7", 2);
	emit_modrm_abs(e, to, selector);
	if (word)
		emit8(e, 0x66);
	if (i->is_mem)
		emit_rm_disp(e, 0, 0x89, S1, S0, 0);
	else if (!in_gpr)
		emit_ra(e, !word, 0x89, S1, &t->j->cpu->gpr[i->rm]);
	else if (word)
		emit_rr(e, 0, 0x8b, jit_host_of(i->rm), S1);
	tr_slow_done(t, s);
	return true;
}

/* NULL: not one that is a plain value. */
static const u64 *control_register(const struct tr *t, const struct insn *i)
{
	const struct cpu *c = t->j->cpu;

	switch (i->reg) {
	case 0: return &c->cr0;
	case 2: return &c->cr2;
	case 3: return &c->cr3;
	case 4: return &c->cr4;
	default: return NULL;
	}
}

static bool emit_mov_from_cr(struct tr *t, unsigned n, const struct insn *i)
{
	const u64 *cr = control_register(t, i);

	if (in_user(t) || !cr)
		return false;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_cpl0(t, i);
	emit_load_gpr(t, i->rm, 1, cr);
	return true;
}

/* --- SYSCALL, SYSRET --------------------------------------------------------------------------------------------- */

/* Both go to a stub with the site in S1, SYSCALL with the return address in S0. */
static bool emit_syscall(struct tr *t, unsigned n, const struct insn *i)
{
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_mov_imm(t->e, S1, (u64)tr_new_site(t, i));
	tr_emit_rip(t, S0, t->place + i->len);
	emit_jmp(t->e, t->j->stub_syscall);
	return true;
}

static bool emit_sysret(struct tr *t, unsigned n, const struct insn *i)
{
	if (in_user(t) || i->opsize != 8)
		return false;
	tr_flags_to_slot(t, tr_flags_needed(t, n));
	emit_mov_imm(t->e, S1, (u64)tr_new_site(t, i));
	emit_jmp(t->e, t->j->stub_sysret);
	return true;
}

/* CS, SS and all that depends on them; then on to S0. Through S1. */
static void emit_level(struct jit *j, const struct jit_level *l)
{
	struct emit *e = &j->e;
	struct cpu *c = j->cpu;

	for (unsigned n = 0; n < sizeof(struct segment); n += 8) {
		emit_load_abs(e, S1, (const u8 *)&l->cs + n);
		emit_store_abs(e, S1, (const u8 *)&c->seg[SEG_CS] + n);
		emit_load_abs(e, S1, (const u8 *)&l->ss + n);
		emit_store_abs(e, S1, (const u8 *)&c->seg[SEG_SS] + n);
	}
	emit_load_abs(e, S1, &l->tlb);
	emit_store_abs(e, S1, &c->tlb);
	emit_load_abs(e, S1, &l->epoch);
	emit_store_abs(e, S1, &j->epoch);
	jit_emit_forget_calls(j);
	emit_ra(e, 0, 0x8b, S1, &l->mmu_index);
	emit8(e, 0x44); /* mov [mmu_index], r15b */
	emit8(e, 0x88);
	emit_modrm_abs(e, S1, &c->mmu_index);
	emit8(e, 0xc6); /* mov byte [cpl], level */
	emit_modrm_abs(e, 0, &c->cpl);
	emit8(e, l == &j->level[0] ? 0 : 3);
	emit_jmp(e, j->stub_jump[l != &j->level[0]]);
}

/* Where nothing has changed yet. */
static void emit_level_in_c(struct jit *j, u8 *const *from, unsigned nr)
{
	for (unsigned n = 0; n < nr; n++)
		emit_patch(from[n], j->e.p);
	emit_load_abs(&j->e, S1, &j->target);
	emit_jmp(&j->e, j->stub_end_helper);
}

/* RFLAGS and the slot out of S1. */
static void emit_new_rflags(struct jit *j)
{
	struct emit *e = &j->e;

	emit_store_abs(e, S1, &j->cpu->rflags);
	emit_scatter_flags(j);
	emit8(e, 0x81); /* and dword [rflags], not those */
	emit_modrm_abs(e, OP_AND, &j->cpu->rflags);
	emit32(e, ~FL_ARITH);
	emit8(e, 0x81);
	emit_modrm_abs(e, OP_OR, &j->cpu->rflags);
	emit32(e, FL_FIXED1);
}

static void make_syscall(struct jit *j)
{
	struct emit *e = &j->e;
	struct cpu *c = j->cpu;
	u8 *c_path[2];

	j->stub_syscall = emit_here(e);
	emit_store_abs(e, S1, &j->target);
	emit_cmp_byte(e, &j->level_ok, 0);
	c_path[0] = emit_jcc(e, CC_E);
	emit_load_abs(e, S1, &c->fmask);
	emit_bytes(e, "\x49\xf7\xd7", 3); /* not r15 */
	emit_ra(e, 1, 0x23, S1, &c->rflags);
	emit_bytes(e, "\x41\xf7\xc7", 3); /* test r15d, AC */
	emit32(e, FL_AC);
	c_path[1] = emit_jcc(e, CC_NE);

	emit_mov_rr(e, H_RCX, S0);
	emit_gather_flags(j, S1);
	emit_store_abs(e, S1, &c->gpr[R11]);
	emit_load_abs(e, S0, &c->fmask);
	emit_bytes(e, "\x49\xf7\xd6", 3); /* not r14 */
	emit_rr(e, 1, 0x23, S1, S0);
	emit_new_rflags(j);
	emit_load_abs(e, S0, &c->lstar);
	emit_level(j, &j->level[0]);
	emit_level_in_c(j, c_path, ARRAY_SIZE(c_path));
}

/* The flags that SYSRET takes from R11: all but RF, VM and reserved ones (SDM vol. 2, SYSRET). */
#define SYSRET_FLAGS 0x3c7fd7u

static void make_sysret(struct jit *j)
{
	struct emit *e = &j->e;
	struct cpu *c = j->cpu;
	u8 *c_path[5];

	j->stub_sysret = emit_here(e);
	emit_store_abs(e, S1, &j->target);
	emit_cmp_byte(e, &j->level_ok, 0);
	c_path[0] = emit_jcc(e, CC_E);
	emit_cmp_byte(e, &c->cpl, 0);
	c_path[1] = emit_jcc(e, CC_NE);
	emit_cmp_byte(e, &c->irq_window, 0);
	c_path[2] = emit_jcc(e, CC_NE);
	emit8(e, 0xf7); /* test dword [R11], those */
	emit_modrm_abs(e, 0, &c->gpr[R11]);
	emit32(e, FL_AC | FL_TF);
	c_path[3] = emit_jcc(e, CC_NE);
	emit_mov_rr(e, S0, H_RCX);
	emit_bytes(e, "\x49\xc1\xe6\x10", 4); /* shl r14, 16 */
	emit_bytes(e, "\x49\xc1\xfe\x10", 4); /* sar r14, 16 */
	emit_rr(e, 1, 0x3b, S0, H_RCX);
	c_path[4] = emit_jcc(e, CC_NE);

	emit_ra(e, 0, 0x8b, S1, &c->gpr[R11]);
	emit_bytes(e, "\x41\x81\xe7", 3); /* and r15d, SYSRET_FLAGS */
	emit32(e, SYSRET_FLAGS);
	emit_new_rflags(j);
	emit_level(j, &j->level[1]);
	emit_level_in_c(j, c_path, ARRAY_SIZE(c_path));
}

void jit_make_system_stubs(struct jit *j)
{
	make_syscall(j);
	make_sysret(j);
}

/* --- All of them ------------------------------------------------------------------------------------------------- */

static const struct tr_row system_rows[] = {
	{&sem_cli, emit_cli},
	{&sem_sti, emit_sti},
	{&sem_pushf, emit_pushf},
	{&sem_popf, emit_popf},
	{&sem_cld, emit_cld, true},
	{&sem_std, emit_std, true},
	{&sem_stac, emit_stac},
	{&sem_clac, emit_clac},
	{&sem_rdtsc, emit_rdtsc, true},
	{&sem_rdtscp, emit_rdtsc, true},
	{&sem_swapgs, emit_swapgs},
	{&sem_rdfsbase, emit_rdfsbase},
	{&sem_rdgsbase, emit_rdgsbase},
	{&sem_wrfsbase, emit_wrfsbase},
	{&sem_wrgsbase, emit_wrgsbase},
	{&sem_mov_from_cr, emit_mov_from_cr},
	{&sem_mov_from_seg, emit_mov_from_seg, true},
	{&sem_syscall, emit_syscall},
	{&sem_sysret, emit_sysret},
	{NULL, NULL},
};

static const struct tr_row *find(const struct tr_row *r, const struct sem *sem)
{
	while (r->sem && r->sem != sem)
		r++;
	return r->sem ? r : NULL;
}

const struct tr_row *tr_find_other(const struct insn_row *r)
{
	const struct tr_row *o = find(tr_x87_rows, r->sem);

	if (!o)
		o = find(system_rows, r->sem);
	if (!o)
		o = find(tr_int_rows, r->sem);
	return o ? o : find(tr_string_rows, r->sem);
}

bool tr_other(struct tr *t, unsigned n, const struct insn *i)
{
	const struct tr_facts *f = &tr_facts[i->row];

	return f->other && (t->word == 8 || f->other->in_32) && tr_can_address(t, i) && f->other->emit(t, n, i);
}

bool tr_is_other(const struct insn *i)
{
	return tr_facts[i->row].other != NULL;
}

bool tr_goes_on(const struct tr *t, const struct insn *i)
{
	const struct sem *sem = insn_rows[i->row].sem;

	if (i->faults || in_user(t) || t->word != 8)
		return false;
	return sem == &sem_sti || (sem == &sem_popf && i->opsize == 8) || (sem == &sem_stac && !smap_index(t)) ||
	       (sem == &sem_clac && smap_index(t)) || (sem == &sem_mov_from_cr && control_register(t, i));
}
