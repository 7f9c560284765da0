/*
 * One block: a run of guest instructions within a page, past conditional branches that are not taken, as host code.
 * A single pass emits bytes straight away; what is rarely executed (slow accesses, exits) follows the block.
 */
#include "engine/jit/jit.h"

#include "cpu/mem.h"
#include "cpu/sem.h"
#include "engine/reencode.h"
#include "engine/thunk.h"

/* Where the guest's arithmetic flags are. */
enum flags_at { IN_SLOT, IN_HOST };

#define NR_VEC 32

/* A memory access whose fast path failed. */
struct slow_path {
	u8 *from;          /* rel32 of the jump here */
	const u8 *resume;  /* with the host address in S0 */
	const u8 *done;    /* after the instruction */
	u64 tag;           /* address of the tag that S0 was XORed with, less S1 */
	struct jit_site *site;
	bool reload_flags; /* the code at @done expects the flags in the host's register */
	u8 vec_before[NR_VEC], vec_after[NR_VEC]; /* tr.vec at @resume and at @done */
};

/* An instruction that is C's when it comes to that: vectors that may not run now (jit.vec_bad), branches that fault. */
struct c_path {
	u8 *from; /* rel32 of the jump here; flags are in their slot */
	struct jit_site *site;
};

/* A taken conditional branch. */
struct exit_path {
	u8 *from; /* rel32 of the jump here */
	u64 rip;
	bool in_host; /* the flags */
};

#define PATHS_MAX (JIT_INSNS_MAX * 2 + 4)

struct tr {
	struct jit *j;
	struct emit *e;
	struct jit_block *b;
	struct insn *insn;
	const u8 *page_end, *code;
	unsigned nr;
	u64 rip;             /* of the instruction under translation */
	enum flags_at flags;
	u16 live[JIT_INSNS_MAX]; /* arithmetic flags that someone reads after the instruction */
	struct slow_path slow[PATHS_MAX];
	struct exit_path exit[PATHS_MAX];
	struct c_path c[PATHS_MAX];
	unsigned nr_slow, nr_exit, nr_c;
	u8 vec[NR_VEC];      /* bytes of each vector register that the host's of the same number holds */
	u32 vec_checked;     /* VEC_* found to be right in this block */
	u64 xinuse;          /* components marked as used in this block */
	bool full;
};

/* --- Flags ------------------------------------------------------------------------------------------------- */

static u16 flags_written(const struct insn_row *r)
{
	return (r->flags_written | r->flags_undefined) & FL_ARITH;
}

/* LAHF and SETO: 1 ns, where PUSHF and POPF take 9. Through S0. */
static void emit_save_flags(struct tr *t)
{
	struct emit *e = t->e;

	emit_mov_rr(e, S0, H_RAX);
	emit8(e, 0x9f);
	emit_bytes(e, "\x0f\x90\xc0", 3); /* seto al */
	emit8(e, 0x66);
	emit_ra(e, 0, 0x89, H_RAX, &t->j->flags);
	emit_mov_rr(e, H_RAX, S0);
}

static void emit_restore_flags(struct tr *t, unsigned scratch)
{
	struct emit *e = t->e;

	emit_mov_rr(e, scratch, H_RAX);
	emit_bytes(e, "\x0f\xb7", 2); /* movzx eax, word [flags] */
	emit_modrm_abs(e, H_RAX, &t->j->flags);
	emit_bytes(e, "\x04\x7f", 2); /* add al, 0x7f: overflows when OF was set */
	emit8(e, 0x9e);
	emit_mov_rr(e, H_RAX, scratch);
}

/* What of the flags as they are before instruction @n someone may still read. */
static u16 flags_needed(const struct tr *t, unsigned n)
{
	const struct insn_row *r = &insn_rows[t->insn[n].row];
	return (t->live[n] & ~flags_written(r)) | (r->flags_read & FL_ARITH);
}

/* Before code that destroys the host's flags. */
static void flags_to_slot(struct tr *t, u16 needed)
{
	if (t->flags == IN_HOST && needed)
		emit_save_flags(t);
	t->flags = IN_SLOT;
}

/* Before an instruction that reads flags, or that leaves some alone. */
static void flags_to_host(struct tr *t, unsigned n, unsigned scratch)
{
	const struct insn_row *r = &insn_rows[t->insn[n].row];

	if (t->flags == IN_SLOT && flags_needed(t, n) && (flags_written(r) || (r->flags_read & FL_ARITH))) {
		emit_restore_flags(t, scratch);
		t->flags = IN_HOST;
	}
}

/* --- Registers ----------------------------------------------------------------------------------------------- */

static bool in_memory(unsigned g)
{
	return g >= R13;
}

static unsigned host_of(unsigned g)
{
	return g == RSP ? H_GUEST_RSP : g;
}

/* The host register that holds guest register @g: its own, or @scratch, loaded. */
static unsigned use_gpr(struct tr *t, unsigned g, unsigned scratch)
{
	if (!in_memory(g))
		return host_of(g);
	emit_load_abs(t->e, scratch, &t->j->cpu->gpr[g]);
	return scratch;
}

/* --- Memory operands ------------------------------------------------------------------------------------------- */

/* The effective address into @to; uses S1. Leaves flags alone. */
static void emit_ea(struct tr *t, const struct insn *i, unsigned to)
{
	struct emit *e = t->e;
	unsigned w = i->addrsize == 8, base = NO_REG, index = NO_REG;
	s32 disp = (s32)i->disp;

	if (i->base == RIP_BASE || (i->base == NO_REG && i->index == NO_REG)) {
		u64 ea = (i->base == RIP_BASE ? t->rip + i->len : 0) + (u64)i->disp;
		emit_mov_imm(e, to, w ? ea : (u32)ea);
		return;
	}
	if (i->base != NO_REG)
		base = use_gpr(t, i->base, to);
	if (i->index != NO_REG)
		index = use_gpr(t, i->index, S1);
	if (index == NO_REG)
		emit_rm_disp(e, w, 0x8d, to, base, disp);
	else if (base == NO_REG)
		emit_lea_index(e, w, to, index, i->scale, disp);
	else
		emit_lea_sib(e, w, to, base, index, i->scale, disp);
}

static struct jit_site *new_site(struct tr *t, const struct insn *i)
{
	struct jit_site *s = jit_data(t->j, sizeof(*s));

	if (!s) {
		t->full = true;
		return NULL;
	}
	*s = (struct jit_site){.insn = i, .block = t->b, .rip = t->rip};
	return s;
}

/* On condition @cc, C executes @i instead and the block is left. */
static void emit_c_path(struct tr *t, const struct insn *i, unsigned cc)
{
	t->c[t->nr_c++] = (struct c_path){emit_jcc(t->e, cc), new_site(t, i)};
}

/*
 * From the linear address in S0 to the host address in S0; uses S1 and the flags. The distance between the address and
 * the tag of its TLB entry is the offset in the page on a hit, and a page or more on a miss (mmu.c: tag_none()).
 */
static struct slow_path *emit_tlb(struct tr *t, const struct insn *i, enum seg_reg seg, unsigned size, enum access acc)
{
	struct emit *e = t->e;
	struct tlb_entry *array = t->j->cpu->tlbs->e[t->b->mmu_index];
	u64 tag = acc == ACC_WRITE ? (u64)&array->tag_w : (u64)&array->tag_r;
	struct slow_path *s = &t->slow[t->nr_slow++];

	emit_mov_rr(e, S1, S0);
	emit_bytes(e, "\x49\xc1\xef\x07", 4); /* shr r15, 7 */
	emit_bytes(e, "\x41\x81\xe7", 3);     /* and r15d, (TLB_SIZE - 1) * 32 */
	emit32(e, (TLB_SIZE - 1) * sizeof(struct tlb_entry));
	emit_rm_disp(e, 1, 0x33, S0, S1, (s32)tag);
	emit_bytes(e, "\x49\x81\xfe", 3);     /* cmp r14, PAGE_SIZE - size */
	emit32(e, PAGE_SIZE - size);
	*s = (struct slow_path){.from = emit_jcc(e, CC_A), .tag = tag, .site = new_site(t, i)};
	memcpy(s->vec_before, t->vec, sizeof(t->vec));
	if (s->site) {
		s->site->size = (u8)size;
		s->site->seg = (u8)seg;
		s->site->acc = (u8)acc;
	}
	emit_rm_disp(e, 1, 0x03, S0, S1, (s32)(u64)&array->host);
	s->resume = e->p;
	return s;
}

/* Host address of the memory operand of @i into S0. */
static struct slow_path *emit_operand(struct tr *t, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	struct emit *e = t->e;

	emit_ea(t, i, S0);
	if (i->seg == SEG_FS || i->seg == SEG_GS)
		emit_ra(e, 1, 0x03, S0, &t->j->cpu->seg[i->seg].base);
	return emit_tlb(t, i, i->seg, i->mem_size, r->attr & (A_WRITE | A_RMW) ? ACC_WRITE : ACC_READ);
}

static void slow_done(struct tr *t, struct slow_path *s)
{
	s->done = t->e->p;
	s->reload_flags = t->flags == IN_HOST;
	memcpy(s->vec_after, t->vec, sizeof(t->vec));
}

/* --- Vector registers ---------------------------------------------------------------------------------------------- */

/*
 * A guest vector register is in the host's of the same number while the block needs it, and always in cpu->fpu too:
 * each result is stored at once, so that C functions and exits find it there, and a block only ever loads.
 */

/* EVEX or VEX moves between register @v and its place in cpu->fpu. */
static void emit_vec_move(struct tr *t, unsigned v, unsigned bytes, bool store)
{
	struct emit *e = t->e;
	const void *at = t->j->cpu->fpu.zmm[v];

	if (bytes == 64 || v >= 16) {
		emit8(e, 0x62); /* vmovdqu64 */
		emit8(e, (v & 8 ? 0 : 0x80) | 0x60 | (v & 16 ? 0 : 0x10) | 1);
		emit8(e, 0xfe);
		emit8(e, 0x08 | (bytes == 64 ? 0x40 : bytes == 32 ? 0x20 : 0));
	} else if (bytes == 32) {
		emit8(e, 0xc5); /* vmovdqu */
		emit8(e, (v & 8 ? 0 : 0x80) | 0x7e);
	} else {
		if (v & 8)
			emit8(e, 0x44);
		emit8(e, 0x0f); /* movups: leaves the rest of the register alone */
		emit8(e, store ? 0x11 : 0x10);
		emit_modrm_abs(e, v, at);
		return;
	}
	emit8(e, store ? 0x7f : 0x6f);
	emit_modrm_abs(e, v, at);
}

static void vec_reload(struct tr *t, const u8 *vec)
{
	for (unsigned v = 0; v < NR_VEC; v++)
		if (vec[v])
			emit_vec_move(t, v, vec[v], false);
}

static void vec_need(struct tr *t, unsigned v, unsigned bytes)
{
	if (t->vec[v] >= bytes)
		return;
	emit_vec_move(t, v, bytes, false);
	t->vec[v] = (u8)bytes;
}

/* The vector registers that @i names, in the order of its operands. */
static unsigned vec_regs(const struct insn *i, u8 reg[4])
{
	const struct insn_row *r = &insn_rows[i->row];
	unsigned nr = 0;

	for (unsigned n = 0; n < ARRAY_SIZE(r->operand); n++)
		switch (operand_info[r->operand[n]].kind) {
		case OK_V: reg[nr++] = i->reg; break;
		case OK_W:
			if (!i->is_mem)
				reg[nr++] = i->rm;
			break;
		case OK_U: reg[nr++] = i->rm; break;
		case OK_H: reg[nr++] = i->vvvv; break;
		case OK_L: reg[nr++] = (u8)(i->imm >> 4 & 15); break;
		}
	return nr;
}

static bool is_vector(const struct insn_row *r)
{
	return (r->attr & (A_SSE | A_AVX | A_AVX512)) && !(r->attr & (A_X87 | A_MMX | A_VSIB));
}

/* What the C path has to look at stays there: masks, and thunks that are not plain. */
static bool can_copy_vector(const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	const struct thunk *k = i->thunk;

	u8 reg[4];

	/* None named, some meant: VZEROUPPER. */
	if (!k || i->aaa || (k->what & ~(THUNK_MXCSR | THUNK_FLAGS)) || !vec_regs(i, reg))
		return false;
	for (unsigned n = 0; n < ARRAY_SIZE(r->operand); n++)
		switch (operand_info[r->operand[n]].kind) {
		case OK_NONE: case OK_I: case OK_V: case OK_W: case OK_U: case OK_H: case OK_L: case OK_M:
		case OK_G: case OK_E: case OK_R: break;
		default: return false;
		}
	return true;
}

/* Before the instruction; flags are in their slot. */
static void emit_vec_guard(struct tr *t, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	const struct thunk *k = i->thunk;
	u32 need = (r->attr & A_SSE ? VEC_SSE : 0) | (r->attr & A_AVX ? VEC_AVX : 0) | (r->attr & A_AVX512 ? VEC_AVX512 : 0) |
		   (k->what & THUNK_MXCSR ? VEC_FP : 0);

	if (need & ~t->vec_checked) {
		emit8(t->e, 0xf6); /* test byte [vec_bad], need */
		emit_modrm_abs(t->e, 0, &t->j->vec_bad);
		emit8(t->e, need);
		emit_c_path(t, i, CC_NE);
		t->vec_checked |= need;
	}
	if (k->xinuse & ~t->xinuse) {
		emit8(t->e, 0x81); /* or dword [xinuse], components */
		emit_modrm_abs(t->e, 1, &t->j->cpu->fpu.xinuse);
		emit32(t->e, k->xinuse);
		t->xinuse |= k->xinuse;
	}
}

static bool vec_guard_needed(const struct tr *t, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	const struct thunk *k = i->thunk;
	u32 need = (r->attr & A_SSE ? VEC_SSE : 0) | (r->attr & A_AVX ? VEC_AVX : 0) | (r->attr & A_AVX512 ? VEC_AVX512 : 0) |
		   (k->what & THUNK_MXCSR ? VEC_FP : 0);

	return (need & ~t->vec_checked) || (k->xinuse & ~t->xinuse);
}

/* How much of a register the instruction may look at. */
static unsigned vec_width(const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];

	/* With embedded rounding L'L is no length: all of it. */
	return r->space == ENC_LEGACY ? 16 : r->space == ENC_EVEX && i->b && !i->is_mem ? 64 : 16u << i->l;
}

static void vec_load_operands(struct tr *t, const struct insn *i)
{
	u8 reg[4];
	unsigned nr = vec_regs(i, reg), width = vec_width(i);

	for (unsigned n = 0; n < nr; n++)
		vec_need(t, reg[n], width);
}

/* The destination, the first operand, goes to cpu->fpu: VEX and EVEX clear what lies above the vector length. */
static void vec_store_result(struct tr *t, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	unsigned kind = operand_info[r->operand[0]].kind, v;

	if (kind == OK_V)
		v = i->reg;
	else if ((kind == OK_W && !i->is_mem) || kind == OK_U)
		v = i->rm;
	else if (kind == OK_H)
		v = i->vvvv;
	else
		return;
	if (r->space == ENC_LEGACY) {
		emit_vec_move(t, v, 16, true);
		return;
	}
	emit_vec_move(t, v, t->j->vec_max, true);
	t->vec[v] = t->j->vec_max;
}

/* --- Exits ------------------------------------------------------------------------------------------------------- */

static bool same_page(const struct tr *t, u64 rip)
{
	return ((rip ^ t->b->rip) & PAGE_MASK) == 0;
}

/*
 * To @rip in the same page: through a link that is patched when its target exists. With the flags @in_host they are
 * saved on the way, unless the target is a block that reads none.
 */
static void emit_link(struct tr *t, u8 *jump, u64 rip, bool in_host)
{
	struct jit_link *l = jit_data(t->j, sizeof(*l));

	if (!l) {
		t->full = true;
		return;
	}
	*l = (struct jit_link){.rip = rip, .jump = jump, .stub = t->e->p, .from = t->b, .rx = (u64)t->e->rx};
	emit_patch(jump, t->e->p);
	if (in_host) {
		emit_save_flags(t);
		l->saved = emit_jmp_later(t->e);
	}
	emit_mov_imm(t->e, S1, (u64)l);
	emit_jmp(t->e, t->j->stub_link);
}

static void emit_goto(struct tr *t, u64 rip)
{
	if (same_page(t, rip)) {
		u8 *jump = emit_jmp_later(t->e);
		emit_link(t, jump, rip, false);
		return;
	}
	emit_mov_imm(t->e, S0, rip);
	emit_jmp(t->e, t->j->stub_indirect);
}

static bool is_jcc(const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];

	return r->class_ == CLASS_END && r->flags_read && operand_info[r->operand[0]].kind == OK_J && r->name[0] == 'j' &&
	       i->opsize == 8 && !block_faults_at(i);
}

static void tr_jcc(struct tr *t, unsigned n, const struct insn *i)
{
	flags_to_host(t, n, S0);
	struct exit_path *x = &t->exit[t->nr_exit++];
	*x = (struct exit_path){emit_jcc(t->e, i->opcode & 15), t->rip + i->len + i->imm, t->flags == IN_HOST};
}

static void emit_late_paths(struct tr *t)
{
	struct emit *e = t->e;

	for (unsigned n = 0; n < t->nr_slow && !t->full; n++) {
		struct slow_path *s = &t->slow[n];

		emit_patch(s->from, e->p);
		emit_rm_disp(e, 1, 0x33, S0, S1, (s32)s->tag); /* the linear address again: the XOR undone */
		emit_mov_imm(e, S1, (u64)s->site);
		emit_call(e, t->j->stub_slow);
		emit_rr(e, 1, 0x85, S0, S0);
		u8 *done = emit_jcc(e, CC_E);
		vec_reload(t, s->vec_before);
		emit_patch(emit_jmp_later(e), s->resume);
		emit_patch(done, e->p);
		vec_reload(t, s->vec_after);
		if (s->reload_flags)
			emit_restore_flags(t, S0);
		emit_patch(emit_jmp_later(e), s->done);
	}
	for (unsigned n = 0; n < t->nr_c && !t->full; n++) {
		emit_patch(t->c[n].from, e->p);
		emit_mov_imm(e, S1, (u64)t->c[n].site);
		emit_jmp(e, t->j->stub_end_helper);
	}
	for (unsigned n = 0; n < t->nr_exit && !t->full; n++) {
		struct exit_path *x = &t->exit[n];

		if (same_page(t, x->rip)) {
			emit_link(t, x->from, x->rip, x->in_host);
			continue;
		}
		emit_patch(x->from, e->p);
		if (x->in_host)
			emit_save_flags(t);
		emit_goto(t, x->rip);
	}
}

/* --- Instructions ------------------------------------------------------------------------------------------------ */

static void tr_helper(struct tr *t, unsigned n, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	struct jit_site *s = new_site(t, i);

	/* C functions see and change all of RFLAGS. */
	flags_to_slot(t, r->class_ == CLASS_COPY ? flags_needed(t, n) : FL_ARITH);
	emit_mov_imm(t->e, S1, (u64)s);
	if (block_ends_at(i))
		emit_jmp(t->e, t->j->stub_end_helper);
	else
		emit_call(t->e, t->j->stub_helper);
	memset(t->vec, 0, sizeof(t->vec));
	t->vec_checked = 0;
}

/* Which of the instruction's register fields name general registers. */
struct gprs {
	bool reg, rm, vvvv, other;
};

static struct gprs gprs_of(const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	struct gprs g = {0};

	for (unsigned n = 0; n < ARRAY_SIZE(r->operand); n++)
		switch (operand_info[r->operand[n]].kind) {
		case OK_NONE: case OK_I: break;
		case OK_FIXED: break;
		case OK_G: g.reg = true; break;
		case OK_E: case OK_R: g.rm |= !i->is_mem; break;
		case OK_Z: g.rm = true; break;
		case OK_M: break;
		case OK_B: g.vvvv = true; break;
		default: g.other = true; break;
		}
	return g;
}

/* A row whose semantics are those of the host's instruction on general registers and memory. */
static bool can_copy(const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	struct gprs g = gprs_of(i);
	bool vector = is_vector(r);
	unsigned mem = (g.reg && in_memory(i->reg)) + (g.rm && in_memory(i->rm)) + (g.vvvv && in_memory(i->vvvv));
	bool plain = !(g.reg && (in_memory(i->reg) || i->reg == RSP)) && !(g.rm && (in_memory(i->rm) || i->rm == RSP));

	if (r->class_ != CLASS_COPY || (g.other && !vector) || (r->attr & (A_X87 | A_MMX | A_OLDER | A_CPL0 | A_PROT)))
		return false;
	if (vector ? !can_copy_vector(i) : (r->attr & (A_SSE | A_AVX | A_AVX512 | A_MXCSR)) != 0)
		return false;
	if (r->sem == &sem_lea || r->sem == &sem_nop)
		return false;
	bool high_byte = (g.reg && (i->reg_off & 7)) || (g.rm && (i->rm_off & 7));
	if (high_byte && (i->is_mem || !plain))
		return false;
	if (i->is_mem && (!i->mem_size || i->mem_size > (vector ? 64 : 8)))
		return false;
	/* Two scratch registers, one of which holds the address of a memory operand. */
	return mem <= (i->is_mem ? 1 : 2);
}

static bool tr_copy(struct tr *t, unsigned n, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	struct gprs g = gprs_of(i);
	struct reencode to = REENCODE_SAME(i);
	struct slow_path *s = NULL;
	unsigned scratch = i->is_mem ? S1 : S0;
	u8 code[REENCODE_MAX];
	unsigned len;

	bool vector = is_vector(r);
	if (i->is_mem || (vector && vec_guard_needed(t, i)))
		flags_to_slot(t, flags_needed(t, n));
	if (vector)
		emit_vec_guard(t, i);
	if (i->is_mem)
		s = emit_operand(t, i);
	if (i->is_mem && vector && ((const struct thunk *)i->thunk)->align) {
		emit_bytes(t->e, "\x41\xf6\xc6", 3); /* test r14b, align */
		emit8(t->e, ((const struct thunk *)i->thunk)->align);
		emit_c_path(t, i, CC_NE);
	}
	if (vector)
		vec_load_operands(t, i);
	flags_to_host(t, n, S1);
	to.base = S0;
	struct { bool is; u8 g; u8 *to; } field[] = {{g.reg, i->reg, &to.reg}, {g.rm, i->rm, &to.rm}, {g.vvvv, i->vvvv, &to.vvvv}};
	u8 back_g[3], back_h[3];
	unsigned back = 0;
	for (unsigned k = 0; k < ARRAY_SIZE(field); k++) {
		if (!field[k].is)
			continue;
		if (!in_memory(field[k].g)) {
			*field[k].to = (u8)host_of(field[k].g);
			continue;
		}
		/* One register in two fields is one scratch register. */
		unsigned have = 0;
		while (have < back && back_g[have] != field[k].g)
			have++;
		if (have == back) {
			back_g[back] = field[k].g;
			back_h[back++] = (u8)use_gpr(t, field[k].g, scratch);
			scratch = S1;
		}
		*field[k].to = back_h[have];
	}
	if (!i->is_mem && !memcmp(&to, &(struct reencode){.reg = i->reg, .rm = i->rm, .vvvv = i->vvvv, .base = S0}, sizeof(to))) {
		emit_bytes(t->e, i->bytes, i->len);
	} else {
		len = reencode(code, i, &to);
		if (!len)
			return false;
		emit_bytes(t->e, code, len);
	}
	if (vector)
		vec_store_result(t, i);
	for (unsigned k = 0; k < back; k++)
		emit_store_abs(t->e, back_h[k], &t->j->cpu->gpr[back_g[k]]);
	if (flags_written(r))
		t->flags = IN_HOST;
	if (s)
		slow_done(t, s);
	return true;
}

static void tr_lea(struct tr *t, const struct insn *i)
{
	unsigned to = in_memory(i->reg) ? S0 : host_of(i->reg);

	/* The base may be loaded into the destination only when the index is another register. */
	emit_ea(t, i, S0);
	if (i->opsize == 4)
		emit_rr(t->e, 0, 0x8b, to, S0);
	else if (to != S0)
		emit_mov_rr(t->e, to, S0);
	if (to == S0)
		emit_store_abs(t->e, S0, &t->j->cpu->gpr[i->reg]);
}

/* Stack accesses. rSP changes after the access. */
static struct slow_path *emit_stack(struct tr *t, const struct insn *i, s32 disp, enum access acc)
{
	emit_rm_disp(t->e, 1, 0x8d, S0, H_GUEST_RSP, disp);
	return emit_tlb(t, i, SEG_SS, 8, acc);
}

static void emit_rsp_add(struct tr *t, s32 n)
{
	emit_rm_disp(t->e, 1, 0x8d, H_GUEST_RSP, H_GUEST_RSP, n);
}

static bool tr_push(struct tr *t, unsigned n, const struct insn *i)
{
	if (i->opsize != 8 || i->is_mem)
		return false;
	flags_to_slot(t, flags_needed(t, n));
	struct slow_path *s = emit_stack(t, i, -8, ACC_WRITE);
	if (insn_rows[i->row].sem == &sem_push_i) {
		emit_mov_imm(t->e, S1, i->imm);
		emit_rm_disp(t->e, 1, 0x89, S1, S0, 0);
	} else {
		emit_rm_disp(t->e, 1, 0x89, use_gpr(t, i->rm, S1), S0, 0);
	}
	emit_rsp_add(t, -8);
	slow_done(t, s);
	return true;
}

static bool tr_pop(struct tr *t, unsigned n, const struct insn *i)
{
	if (i->opsize != 8 || i->is_mem || i->rm == RSP)
		return false;
	flags_to_slot(t, flags_needed(t, n));
	struct slow_path *s = emit_stack(t, i, 0, ACC_READ);
	unsigned to = in_memory(i->rm) ? S1 : host_of(i->rm);
	emit_rm_disp(t->e, 1, 0x8b, to, S0, 0);
	if (to == S1)
		emit_store_abs(t->e, S1, &t->j->cpu->gpr[i->rm]);
	emit_rsp_add(t, 8);
	slow_done(t, s);
	return true;
}

/* How many instructions from @n on are plain pushes (or pops) of 8 bytes, which one TLB check can serve. */
static unsigned stack_run(const struct tr *t, unsigned n, bool push)
{
	unsigned m = 0;

	for (; n + m < t->nr && m < 16; m++) {
		const struct insn *i = &t->insn[n + m];
		const struct sem *sem = insn_rows[i->row].sem;
		bool is = push ? sem == &sem_push_e || sem == &sem_push_i : sem == &sem_pop_r;

		if (!is || i->opsize != 8 || i->is_mem || (sem != &sem_push_i && i->rm == RSP))
			break;
	}
	return m;
}

/*
 * Several pushes or pops under one check. Where it fails for good, the first is executed in C and the block is left
 * behind it. Returns how many instructions were done.
 */
static unsigned tr_stack_run(struct tr *t, unsigned n)
{
	const struct insn *first = &t->insn[n];
	bool push = insn_rows[first->row].sem != &sem_pop_r;
	unsigned m = stack_run(t, n, push);
	struct emit *e = t->e;

	if (m < 2)
		return 0;
	flags_to_slot(t, flags_needed(t, n));
	emit_rm_disp(e, 1, 0x8d, S0, H_GUEST_RSP, push ? -(s32)(8 * m) : 0);
	struct slow_path *s = emit_tlb(t, first, SEG_SS, 8 * m, push ? ACC_WRITE : ACC_READ);
	if (s->site)
		s->site->run = true;
	for (unsigned k = 0; k < m; k++) {
		const struct insn *i = &t->insn[n + k];
		s32 at = (s32)(8 * (push ? m - 1 - k : k));

		if (!push) {
			unsigned to = in_memory(i->rm) ? S1 : host_of(i->rm);
			emit_rm_disp(e, 1, 0x8b, to, S0, at);
			if (to == S1)
				emit_store_abs(e, S1, &t->j->cpu->gpr[i->rm]);
		} else if (insn_rows[i->row].sem == &sem_push_i) {
			emit_mov_imm(e, S1, i->imm);
			emit_rm_disp(e, 1, 0x89, S1, S0, at);
		} else {
			emit_rm_disp(e, 1, 0x89, use_gpr(t, i->rm, S1), S0, at);
		}
	}
	emit_rsp_add(t, push ? -(s32)(8 * m) : (s32)(8 * m));
	slow_done(t, s);
	return m;
}

static bool tr_leave(struct tr *t, unsigned n, const struct insn *i)
{
	if (i->opsize != 8)
		return false;
	flags_to_slot(t, flags_needed(t, n));
	emit_mov_rr(t->e, S0, H_RBP);
	struct slow_path *s = emit_tlb(t, i, SEG_SS, 8, ACC_READ);
	emit_rm_disp(t->e, 1, 0x8d, H_GUEST_RSP, H_RBP, 8);
	emit_rm_disp(t->e, 1, 0x8b, H_RBP, S0, 0);
	slow_done(t, s);
	return true;
}

static void emit_push_return(struct tr *t, const struct insn *i)
{
	struct slow_path *s = emit_stack(t, i, -8, ACC_WRITE);

	emit_mov_imm(t->e, S1, t->rip + i->len);
	emit_rm_disp(t->e, 1, 0x89, S1, S0, 0);
	emit_rsp_add(t, -8);
	slow_done(t, s);
}

/*
 * A branch to S0, which must be canonical: to one that is not the branch itself faults, before it has done anything.
 * With 57 bits C takes what 48 do not hold.
 */
static void emit_canonical(struct tr *t, const struct insn *i)
{
	emit_mov_rr(t->e, S1, S0);
	emit_bytes(t->e, "\x49\xc1\xe7\x10", 4); /* shl r15, 16 */
	emit_bytes(t->e, "\x49\xc1\xff\x10", 4); /* sar r15, 16 */
	emit_rr(t->e, 1, 0x3b, S1, S0);
	emit_c_path(t, i, CC_NE);
}

static bool near_target_plain(const struct tr *t, const struct insn *i)
{
	return ((t->rip + i->len + i->imm) ^ t->rip) >> 47 == 0;
}

/* The target of an indirect branch into S0. */
static void emit_target(struct tr *t, const struct insn *i)
{
	if (i->is_mem) {
		struct slow_path *s = emit_operand(t, i);
		emit_rm_disp(t->e, 1, 0x8b, S0, S0, 0);
		slow_done(t, s);
	} else {
		unsigned h = use_gpr(t, i->rm, S0);
		if (h != S0)
			emit_mov_rr(t->e, S0, h);
	}
	emit_canonical(t, i);
}

/* Near branches that always go. */
static bool tr_branch(struct tr *t, const struct insn *i)
{
	const struct sem *sem = insn_rows[i->row].sem;
	struct emit *e = t->e;

	if (i->opsize != 8 || ((sem == &sem_jmp_j || sem == &sem_call_j) && !near_target_plain(t, i)))
		return false;
	flags_to_slot(t, FL_ARITH);
	if (sem == &sem_jmp_j) {
		emit_goto(t, t->rip + i->len + i->imm);
	} else if (sem == &sem_call_j) {
		emit_push_return(t, i);
		emit_goto(t, t->rip + i->len + i->imm);
	} else if (sem == &sem_ret) {
		struct slow_path *s = emit_stack(t, i, 0, ACC_READ);
		emit_rm_disp(e, 1, 0x8b, S0, S0, 0);
		emit_canonical(t, i);
		emit_rsp_add(t, 8 + (s32)(i->opcode == 0xc2 ? i->imm & 0xffff : 0));
		emit_jmp(e, t->j->stub_indirect);
		slow_done(t, s);
	} else if (sem == &sem_jmp_e) {
		emit_target(t, i);
		emit_jmp(e, t->j->stub_indirect);
	} else if (sem == &sem_call_e) {
		emit_target(t, i);
		emit_store_abs(e, S0, &t->j->target);
		emit_push_return(t, i);
		emit_load_abs(e, S0, &t->j->target);
		emit_jmp(e, t->j->stub_indirect);
	} else {
		return false;
	}
	return true;
}

/* Returns how many instructions were translated. */
static unsigned tr_insn(struct tr *t, unsigned n)
{
	const struct insn *i = &t->insn[n];
	const struct insn_row *r = &insn_rows[i->row];
	unsigned run;
	bool done;

	if (block_faults_at(i)) {
		done = false;
	} else if (is_jcc(i)) {
		done = near_target_plain(t, i);
		if (done)
			tr_jcc(t, n, i);
	} else if (r->class_ == CLASS_END) {
		done = tr_branch(t, i);
	} else if ((run = tr_stack_run(t, n))) {
		return run;
	} else if (r->sem == &sem_push_e || r->sem == &sem_push_i) {
		done = tr_push(t, n, i);
	} else if (r->sem == &sem_pop_r) {
		done = tr_pop(t, n, i);
	} else if (r->sem == &sem_leave) {
		done = tr_leave(t, n, i);
	} else if (r->sem == &sem_nop && i->fn == sem_nop.fn[0][0]) {
		done = true; /* not one that is checked first */
	} else if (r->sem == &sem_lea && i->opsize >= 4) {
		tr_lea(t, i);
		done = true;
	} else {
		done = can_copy(i) && tr_copy(t, n, i);
	}
	if (!done)
		tr_helper(t, n, i);
	return 1;
}

/* --- Blocks --------------------------------------------------------------------------------------------------------- */

/* Decodes up to the end of the block. False: full. */
static bool tr_decode(struct tr *t, const u8 *p)
{
	bool ends = false;
	unsigned len = 0;

	while (t->nr < JIT_INSNS_MAX && !ends && p + len < t->page_end) {
		struct insn *i = jit_data(t->j, sizeof(*i));
		if (!i)
			return false;
		if (!t->insn)
			t->insn = i;
		enum decode_status st = decode(i, p + len, (unsigned)MIN((s64)15, t->page_end - (p + len)), 64);
		if (st == DECODE_SHORT)
			break;
		if (!block_bind(&t->j->copy, t->j->cpu, i, st))
			return false;
		len += i->len;
		t->nr++;
		ends = block_ends_at(i) && !is_jcc(i);
	}
	t->b->len = (u16)len;
	t->b->nr = (u8)t->nr;
	return true;
}

static void tr_liveness(struct tr *t)
{
	u16 live = FL_ARITH;

	for (unsigned n = t->nr; n-- > 0;) {
		const struct insn *i = &t->insn[n];
		const struct insn_row *r = &insn_rows[i->row];

		t->live[n] = live;
		if (r->class_ == CLASS_COPY && i->fn && !block_ends_at(i))
			live = (u16)((live & ~flags_written(r)) | (r->flags_read & FL_ARITH));
		else if (r->sem != &sem_push_e && r->sem != &sem_push_i && r->sem != &sem_pop_r && r->sem != &sem_leave)
			live = FL_ARITH;
	}
	t->b->flags_live = live;
}

/* Leaves when somebody wants the vCPU to look. */
static void emit_poll(struct tr *t)
{
	struct emit *e = t->e;

	emit8(e, 0x83); /* cmp dword [request], 0 */
	emit_modrm_abs(e, 7, &t->j->cpu->request);
	emit8(e, 0);
	u8 *request = emit_jcc(e, CC_E);
	u8 *leave = e->p;
	emit_mov_imm(e, S0, t->b->rip);
	emit_store_abs(e, S0, &t->j->cpu->rip);
	emit_jmp(e, t->j->stub_exit);
	emit_patch(request, e->p);
	emit_mov_imm(e, S0, (u64)t->j->cpu->immediate_exit);
	emit_bytes(e, "\x41\x80\x3e\x00", 4); /* cmp byte [r14], 0 */
	emit_patch(emit_jcc(e, CC_NE), leave);
}

struct jit_block *jit_translate(struct jit *j, const u8 *p)
{
	struct tr t = {.j = j, .e = &j->e, .code = p, .page_end = (const u8 *)(((u64)p & PAGE_MASK) + PAGE_SIZE), .rip = j->cpu->rip};

	if (j->e.p + (64u << 10) > j->rw + JIT_CODE_SIZE)
		return NULL;
	struct jit_block *b = t.b = jit_data(j, sizeof(*b));
	if (!b)
		return NULL;
	*b = (struct jit_block){.code = p, .rip = j->cpu->rip, .mmu_index = j->cpu->mmu_index, .entry = emit_here(&j->e)};
	if (!tr_decode(&t, p))
		return NULL;
	if (!t.nr)
		return b;
	b->bytes = jit_data(j, b->len);
	if (!b->bytes)
		return NULL;
	memcpy(b->bytes, p, b->len);
	tr_liveness(&t);
	emit_poll(&t);
	for (unsigned n = 0; n < t.nr && !t.full;) {
		for (unsigned done = tr_insn(&t, n); done; done--)
			t.rip += t.insn[n++].len;
	}
	const struct insn *last = &t.insn[t.nr - 1];
	if (!t.full && (!block_ends_at(last) || is_jcc(last))) {
		flags_to_slot(&t, FL_ARITH);
		emit_goto(&t, t.rip);
	}
	emit_late_paths(&t);
	j->stat.blocks++;
	return t.full ? NULL : b;
}
