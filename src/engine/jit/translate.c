/*
 * One block: a run of guest instructions within a page, past conditional branches that are not taken, as host code.
 * A single pass emits bytes straight away; what is rarely executed (slow accesses, exits) follows the block.
 */
#include "engine/jit/tr.h"

#include <sys/mman.h>
#include <x86intrin.h>

#include "cpu/tlb.h"
#include "engine/jit/perf_map.h"
#include "engine/reencode.h"
#include "engine/thunk.h"

/* --- Instructions ------------------------------------------------------------------------------------------------ */

static void tr_helper(struct tr *t, unsigned n, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	struct jit_site *s = tr_new_site(t, i);

	/* Right behind the site: see struct jit_site. */
	if (!jit_data(t->j, sizeof(*i)) || !s) {
		t->full = true;
		return;
	}
	s->kept = true;
	s->insn[0] = *i;
	/* C functions see and change all of RFLAGS. */
	tr_flags_to_slot(t, r->class_ == CLASS_COPY ? tr_flags_needed(t, n) : FL_ARITH);
	emit_mov_imm(t->e, S1, (u64)s);
	if (block_ends_at(i))
		emit_jmp(t->e, t->j->stub_end_helper);
	else
		emit_call(t->e, t->j->stub_helper);
	t->s0 = 0;
	t->fpu_checked = 0;
	t->x87_noted = false;
	t->xinuse = 0;
}

/* Which of the instruction's register fields name general registers. */
struct gprs {
	bool reg, rm, vvvv, other;
};

static inline struct gprs gprs_of(const struct insn *i)
{
	u16 is = tr_facts[i->row].is;

	return (struct gprs){.reg = is & ROW_G, .rm = (is & ROW_RM) && !i->is_mem, .vvvv = is & ROW_B,
			     .other = is & ROW_OTHER};
}

/*
 * TZCNT and LZCNT, which an older processor takes for BSF and BSR. Who has BMI1 has LZCNT (which clang cannot ask
 * for).
 */
static bool host_has_newer(void)
{
	return __builtin_cpu_supports("bmi");
}

/* A row whose semantics are those of the host's instruction on general registers and memory. */
static bool can_copy(const struct tr *t, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	struct gprs g = gprs_of(i);
	bool fpu = tr_is_fpu(i);
	unsigned mem = (g.reg && jit_in_memory(i->reg)) + (g.rm && jit_in_memory(i->rm)) +
		       (g.vvvv && jit_in_memory(i->vvvv));
	bool high_reg = i->reg_off & 7, high_rm = i->rm_off & 7; /* AH to BH */
	bool no_rex = (!g.reg || high_reg || jit_host_of(i->reg) < H_R8) &&
		      (!g.rm || high_rm || jit_host_of(i->rm) < H_R8);

	if (r->class_ != CLASS_COPY || (g.other && !fpu) || (r->attr & A_CPL0))
		return false;
	if ((r->attr & A_OLDER) && !(insn_gate_open(t->j->cpu, r) && host_has_newer()))
		return false;
	/* Of those that 64-bit code lacks, reencode() knows these. */
	bool no_64 = !(r->modes & IN_64) && r->space == ENC_LEGACY;
	if (no_64 && r->sem != &sem_inc && r->sem != &sem_dec && i->opcode != 0x82)
		return false;
	if (fpu ? !tr_can_copy_fpu(t, i) : (r->attr & (A_SSE | A_AVX | A_AVX512 | A_MXCSR)) != 0)
		return false;
	if (r->sem == &sem_lea || r->sem == &sem_nop)
		return false;
	bool high = (g.reg && high_reg) || (g.rm && high_rm);
	if (high && (i->is_mem ? !tr_can_store_high(i) : !no_rex || no_64))
		return false;
	if (!tr_can_address(t, i))
		return false;
	if (i->is_mem && (!i->mem_size || i->mem_size > (fpu ? 64 : 8)))
		return false;
	/* Two scratch registers, one of which holds the address of a memory operand. */
	return mem <= (i->is_mem ? 1 : 2);
}

/* The guest's bytes mean the same to the host: no memory, and registers that are in the host's of the same number. */
static bool same_to_host(const struct tr *t, const struct insn *i, struct gprs g)
{
	const struct insn_row *r = &insn_rows[i->row];

	return !i->is_mem && (!g.reg || (i->reg_off & 7) || jit_at_home(i->reg)) &&
	       (!g.rm || (i->rm_off & 7) || jit_at_home(i->rm)) && (!g.vvvv || jit_at_home(i->vvvv)) &&
	       (t->word == 8 || (r->space == ENC_LEGACY && (r->modes & IN_64)));
}

static bool tr_copy(struct tr *t, unsigned n, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];
	struct gprs g = gprs_of(i);
	struct reencode to = REENCODE_SAME(i);
	struct slow_path *s = NULL;
	unsigned scratch = i->is_mem ? S1 : S0;
	bool same = same_to_host(t, i, g);
	bool fpu = tr_is_fpu(i);

	tr_keep_s0(t);
	bool high = i->is_mem && g.reg && (i->reg_off & 7);
	if (high || (i->is_mem && tr_check_needed(t, i, AT_OPERAND)) || (fpu && tr_fpu_guard_needed(t, i)))
		tr_flags_to_slot(t, tr_flags_needed(t, n));
	if (fpu)
		tr_emit_fpu_guard(t, i);
	if (i->is_mem) {
		/* An addition less to wait for, where nobody needs S1. */
		bool flags = tr_flags_needed(t, n) && (tr_flags_written(i) || (insn_flags_read(i) & FL_ARITH));
		t->two = !flags && !high && !(r->attr & A_X87) && !(g.reg && jit_in_memory(i->reg)) &&
			 !(g.vvvv && jit_in_memory(i->vvvv));
		s = tr_emit_operand_disp(t, i);
		to.disp = t->disp;
		to.index = t->two ? S1 : 0;
		t->two = false;
	}
	tr_flags_to_host(t, n, S1);
	to.base = S0;
	/* AH to BH: the same in the host's, but not beside S0. */
	if (high)
		to.reg = (u8)tr_emit_high_byte(t, i);
	u16 is = tr_facts[i->row].is;
	u8 changes = tr_facts[i->row].changes;
	struct { bool is; u8 g; u8 *to; bool changes; } field[] = {
		{g.reg && !(i->reg_off & 7), i->reg, &to.reg, changes & CHANGES_REG},
		{g.rm && !(i->rm_off & 7), i->rm, &to.rm, changes & CHANGES_RM},
		{g.vvvv, i->vvvv, &to.vvvv, changes & CHANGES_VVVV}};
	bool loads = (is & ROW_LOADS) && i->is_mem && i->opsize >= 4; /* its register, whatever that was before */
	if (tr_spilled_rm(i)) {
		to.at = (u32)(u64)&t->j->cpu->gpr[i->rm];
		to.rm = 0;
		field[1].is = false;
	}
	u8 back_g[3], back_h[3], back_to = 0;
	unsigned back = 0;
	for (unsigned k = 0; k < ARRAY_SIZE(field) && !same; k++) {
		if (!field[k].is)
			continue;
		if (!jit_in_memory(field[k].g)) {
			*field[k].to = (u8)jit_host_of(field[k].g);
			continue;
		}
		/* One register in two fields is one scratch register. */
		unsigned have = 0;
		while (have < back && back_g[have] != field[k].g)
			have++;
		if (have == back) {
			back_g[back] = field[k].g;
			back_h[back++] = (u8)(loads ? scratch : tr_use_gpr(t, field[k].g, scratch));
			scratch = S1;
		}
		*field[k].to = back_h[have];
		back_to |= field[k].changes ? BIT(have) : 0;
	}
	if (same) {
		emit_short(t->e, i->bytes, i->len);
	} else {
		unsigned len = reencode(t->e->p, i, &to);
		if (!len) {
			t->s0 = 0;
			return false;
		}
		t->e->p += len;
	}
	if (r->attr & A_X87)
		tr_emit_x87_note(t, i);
	for (unsigned k = 0; k < back; k++)
		if (back_to & BIT(k))
			emit_store_abs(t->e, back_h[k], &t->j->cpu->gpr[back_g[k]]);
	if (tr_flags_written(i))
		t->flags = IN_HOST;
	if (s)
		tr_slow_done(t, s);
	return true;
}

/* Returns how many instructions were translated. */
static unsigned tr_insn(struct tr *t, unsigned n)
{
	const struct insn *i = &t->insn[n];
	const struct insn_row *r = &insn_rows[i->row];
	bool done, push = r->sem == &sem_push_e || r->sem == &sem_push_i;
	unsigned run;

	t->n = n;
	t->s0_before = t->s0;
	t->s0 = 0;
	if (i->faults) {
		done = false;
	} else if (tr_is_jcc(i)) {
		done = tr_near_target_plain(t, i);
		tr_keep_s0(t);
		if (done)
			tr_jcc(t, n, i);
	} else if (r->class_ == CLASS_END) {
		done = tr_branch(t, i) || tr_other(t, n, i);
	} else if ((push || r->sem == &sem_pop_r) && (run = tr_stack_run(t, n))) {
		return run;
	} else if (push) {
		done = i->is_mem ? tr_push_mem(t, n, i) : tr_push(t, n, i);
	} else if (r->sem == &sem_pop_r) {
		done = tr_pop(t, n, i);
	} else if (r->sem == &sem_leave) {
		done = tr_leave(t, n, i);
	} else if (r->sem == &sem_nop && i->fn == sem_nop.fn[0][0]) {
		done = true; /* not one that is checked first */
	} else if (r->sem == &sem_lea && i->opsize >= 4 && i->addrsize >= 4) {
		tr_lea(t, i);
		done = true;
	} else if (tr_is_moffs(i)) {
		done = tr_moffs(t, n, i);
	} else {
		done = (can_copy(t, i) && (tr_spilled_mov(t, i) || tr_copy(t, n, i))) || tr_other(t, n, i);
	}
	if (!done)
		tr_helper(t, n, i);
	return 1;
}

/* --- Blocks ------------------------------------------------------------------------------------------------------ */

/* For who looks at each block. */
static bool keep_insns(struct tr *t)
{
	struct insn *insns = jit_data(t->j, t->nr * sizeof(*insns));

	if (insns)
		memcpy(insns, t->insn, t->nr * sizeof(*insns));
	t->b->insns = insns;
	return insns;
}

/*
 * Decodes up to the end of the block, from a copy: another vCPU may be writing there, and what is compared with memory
 * later must be what was decoded. False: full.
 */
static bool tr_decode(struct tr *t, const u8 *p)
{
	u8 bytes[JIT_INSNS_MAX * 15];
	unsigned room = (unsigned)MIN(t->page_end - p, (s64)sizeof(bytes)), len = 0, have = 0;
	bool ends = false, loop = false;

	while (t->nr < JIT_INSNS_MAX && !ends && len < room) {
		struct insn *i = &t->j->insns[t->nr];
		for (; have < room && have < len + 15; have += 64)
			memcpy(bytes + have, p + have, MIN(64u, room - have));
		enum decode_status st = t->word == 8 ? decode_memo(&t->j->decoded, i, bytes + len, room - len) :
						       decode(i, bytes + len, room - len, 32);
		if (st == DECODE_SHORT && !len) {
			room = have = tr_cross_fetch(t, bytes, room);
			st = decode(i, bytes, room, t->word * 8);
			if (st != DECODE_OK)
				break;
		}
		if (st == DECODE_SHORT)
			break;
		if (!block_bind(&t->j->copy, t->j->cpu, i, st))
			return false;
		len += i->len;
		t->nr++;
		loop = tr_is_jcc(i) && !t->cross && tr_is_loop(t, len);
		ends = loop || t->cross || (block_ends_at(i) && !tr_is_jcc(i) && !tr_goes_on(t, i));
	}
	t->b->len = t->cross ? t->cross : (u16)len;
	t->b->nr = (u8)t->nr;
	t->b->bytes = jit_data(t->j, len);
	if (!t->b->bytes)
		return false;
	memcpy(t->b->bytes, bytes, len);
	if (t->j->alone && !keep_insns(t))
		return false;
	if (loop)
		tr_unroll(t);
	return true;
}

static void tr_liveness(struct tr *t)
{
	u16 live = FL_ARITH;

	for (unsigned n = t->nr; n-- > 0;) {
		const struct insn *i = &t->insn[n];
		const struct insn_row *r = &insn_rows[i->row];

		t->live[n] = live;
		if ((r->class_ == CLASS_COPY && i->fn && !block_ends_at(i)) ||
		    (t->word == 8 && tr_is_other(i) && !i->faults))
			live = (u16)((live & ~tr_flags_written(i)) | (insn_flags_read(i) & FL_ARITH));
		else if (r->sem != &sem_push_e && r->sem != &sem_push_i && r->sem != &sem_pop_r && r->sem != &sem_leave)
			live = FL_ARITH;
	}
	t->b->flags_live = live;
}

u8 *tr_emit_look(struct tr *t)
{
	struct emit *e = t->e;
	const struct cpu_poll *poll = t->j->cpu->poll;

	if ((u64)poll <= INT32_MAX) {
		emit_bytes(e, "\x66\x83", 2); /* cmp word [poll], 0 */
		emit_modrm_abs(e, 7, poll);
		emit8(e, 0);
	} else {
		emit_mov_imm(e, S0, (u64)poll);
		emit_bytes(e, "\x66\x41\x83\x3e\x00", 5); /* cmp word [r14], 0 */
	}
	return emit_jcc(e, CC_NE);
}

/*
 * Leaves when somebody wants the vCPU to look. Links that lead forward skip it: whatever runs for long goes back, or
 * through the jump cache, now and then.
 */
static void emit_poll(struct tr *t)
{
	t->poll = tr_emit_look(t);
	t->b->poll = (u8)(emit_here(t->e) - t->b->entry);
}

static void emit_poll_exit(struct tr *t)
{
	emit_patch(t->poll, t->e->p);
	emit_mov_imm(t->e, S1, (u64)t->b);
	emit_jmp(t->e, t->j->stub_poll[t->b->fixed]);
}

/* Page faults one by one cost more than many a block: memory up to @at, if it comes near what was asked for, and on. */
static void touch(u8 **touched, u8 *at, const u8 *end)
{
	if (likely(at + JIT_TOUCH / 2 < *touched || *touched == end))
		return;
	size_t size = (size_t)MIN(end - *touched, (s64)JIT_TOUCH);
#ifdef MADV_POPULATE_WRITE
	madvise(*touched, size, MADV_POPULATE_WRITE); /* where it fails they are touched one by one */
#endif
	*touched += size;
}

static struct jit_block *translate(struct jit *j, const u8 *p)
{
	u8 *data = j->data_p;
	struct tr t;

	memset(&t, 0, offsetof(struct tr, live));
	t.j = j;
	t.e = &j->e;
	t.code = p;
	t.insn = j->insns;
	t.page_end = (const u8 *)(((u64)p & PAGE_MASK) + PAGE_SIZE);
	t.word = j->mode & JIT_MODE_32 ? 4 : 8;
	if (j->e.p + JIT_BLOCK_MAX > j->rw + j->code_size || jit_marks_full(j))
		return NULL;
	touch(&j->code_touched, j->e.p, j->rw + j->code_size);
	touch(&j->data_touched, j->data_p, j->data + j->data_size);
	struct jit_block *b = t.b = jit_data(j, sizeof(*b));
	if (!b)
		return NULL;
	*b = (struct jit_block){.code = p, .rip = j->cpu->rip, .mode = j->mode, .entry = emit_here(&j->e)};
	b->fixed = jit_fixed(b->mode, b->rip);
	t.far = jit_mmu_index(b) != MMU_USER && jit_mmu_index(b) != MMU_USER_ALIGN &&
		tlb_code_is_global(j->cpu, b->rip);
	jit_place start = t.place = b->fixed ? b->rip : b->rip & ~PAGE_MASK;
	if (!tr_decode(&t, p))
		return NULL;
	if (!t.nr) {
		j->data_p = data; /* @b too is looked at only at once */
		return b;
	}
	memset(t.access, 0, t.nr * sizeof(t.access[0]));
	b->older = j->newest;
	b->turns = (u8)(t.nr / b->nr);
	b->offset = jit_data(j, t.nr * sizeof(*b->offset));
	if (!b->offset)
		return NULL;
	tr_liveness(&t);
	if (!(b->mode & JIT_MODE_NO_WINDOWS))
		tr_find_windows(&t);
	emit_poll(&t);
	if (t.cross)
		tr_cross_check(&t, t.insn);
	for (unsigned n = 0; n < t.nr && !t.full;) {
		b->offset[n] = (u16)(emit_here(&j->e) - b->entry);
		for (unsigned done = tr_insn(&t, n); done; done--) {
			t.place = tr_turns(&t, n) ? start : t.place + t.insn[n].len;
			n++;
			if (done > 1) /* under one check: they count as the first of them */
				b->offset[n] = (u16)(emit_here(&j->e) - b->entry);
		}
	}
	const struct insn *last = &t.insn[t.nr - 1];
	if (!t.full && (!block_ends_at(last) || tr_is_jcc(last) || tr_goes_on(&t, last)))
		tr_emit_goto(&t, t.place);
	emit_poll_exit(&t);
	tr_emit_late_paths(&t);
	if (t.full)
		return NULL;
	j->newest = b;
	return b;
}

struct jit_block *jit_translate(struct jit *j, const u8 *p)
{
	u64 start = __rdtsc();
	struct jit_block *b = translate(j, p);

	if (b && b->nr) {
		j->stat.blocks++;
		j->stat.insns += b->nr;
		perf_map_block((const void *)b->entry, emit_here(&j->e) - b->entry, j->cpu->rip, j->cpu->cpl == 3);
	}
	j->stat.code_bytes = (u64)(j->e.p - j->rw);
	j->stat.ticks += __rdtsc() - start;
	return b;
}
