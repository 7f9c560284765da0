/* The copy engine: the arena of thunks, and the execution of an instruction through its thunk. */
#define _GNU_SOURCE
#include "engine/copy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/exception.h"
#include "cpu/fpu.h"
#include "cpu/fpu_check.h"
#include "cpu/mem.h"
#include "engine/thunk.h"

#define COPY_SLOTS 4096

/* All that a thunk is made from. Compared as bytes: no padding. */
struct copy_key {
	u16 row, imm;
	u8 reg, rm, vvvv, is_mem;
	u8 opsize, w, l, rex;
	u8 evex, rm_off, opcode, mem_size;
};

struct copy_slot {
	struct copy_key key;
	const struct thunk *thunk; /* NULL: empty */
};

/* --- Arena --------------------------------------------------------------------------------------------------- */

int copy_arena_init(struct copy_arena *a, size_t bytes)
{
	int fd, err = -ENOMEM;

	*a = (struct copy_arena){.size = ALIGN_UP(bytes, PAGE_SIZE)};
	a->slots = calloc(COPY_SLOTS, sizeof(*a->slots));
	if (!a->slots)
		return -ENOMEM;
	fd = memfd_create("anykvm-thunks", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)a->size))
		goto fail;
	a->rw = mmap(NULL, a->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	a->rx = mmap(NULL, a->size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (a->rw == MAP_FAILED || a->rx == MAP_FAILED)
		goto fail;
	close(fd);
	return 0;
fail:
	err = -errno;
	if (fd >= 0)
		close(fd);
	copy_arena_fini(a);
	return err;
}

void copy_arena_fini(struct copy_arena *a)
{
	if (a->rw && a->rw != MAP_FAILED)
		munmap(a->rw, a->size);
	if (a->rx && a->rx != MAP_FAILED)
		munmap(a->rx, a->size);
	free(a->slots);
	*a = (struct copy_arena){0};
}

void copy_arena_reset(struct copy_arena *a)
{
	a->used = 0;
	memset(a->slots, 0, COPY_SLOTS * sizeof(*a->slots));
}

static struct copy_key key_of(const struct insn *i)
{
	struct copy_key k = {.row = i->row, .reg = i->reg, .vvvv = i->vvvv, .is_mem = i->is_mem, .opsize = i->opsize,
			     .w = i->w, .l = i->l, .rex = i->rex & 8, .opcode = i->opcode};

	k.imm = (u16)((u8)i->imm | i->imm2 << 8);
	if (insn_rows[i->row].space == ENC_EVEX)
		k.evex = i->bytes[i->opcode_off - 1];
	if (i->is_mem) {
		k.mem_size = (u8)i->mem_size;
	} else {
		k.rm = i->rm;
		k.rm_off = i->rm_off;
	}
	return k;
}

static struct copy_slot *slot_of(struct copy_arena *a, const struct copy_key *k)
{
	u64 w[2];

	memcpy(w, k, sizeof(w));
	w[0] = (w[0] ^ w[1] * 0x9e3779b97f4a7c15ull) * 0xff51afd7ed558ccdull;
	return &a->slots[w[0] >> 52 & (COPY_SLOTS - 1)];
}

/* --- Faults that come before execution ----------------------------------------------------------------------- */

static inline bool gates_open(const struct cpu *c, const struct thunk *t)
{
	return !(((c->cr0 ^ CR0_PE) & t->cr0_bad) | (c->rflags & t->rflags_bad) | (~c->cr4 & t->cr4_need) |
		 (~c->xcr0 & t->xcr0_need));
}

/* #UD stands before #NM; for x87, EM is #NM as well (SDM vol. 3A, table 2-2). */
static _Noreturn void gate_fault(struct cpu *c, const struct thunk *t)
{
	u64 cr0 = c->cr0 ^ CR0_PE;

	if (!(t->what & THUNK_X87) && (cr0 & t->cr0_bad & (CR0_EM | CR0_PE)))
		raise_ud(c);
	if ((c->rflags & t->rflags_bad) | (~c->cr4 & t->cr4_need) | (~c->xcr0 & t->xcr0_need))
		raise_ud(c);
	raise_fault(c, VEC_NM);
}

/* --- Memory operands ----------------------------------------------------------------------------------------- */

/* A memory operand: where it is, and where the thunk finds it. */
struct operand_mem {
	u64 la;
	unsigned size;
	u64 selected; /* elements that are accessed, with THUNK_MASK */
	void *host;   /* NULL: through @bounce */
	u8 bounce[64] __attribute__((aligned(64)));
};

static void check_misaligned(struct cpu *c, const struct insn *i, const struct thunk *t, u64 la)
{
	if (t->misaligned == MISALIGNED_GP || (t->misaligned == MISALIGNED_MM && !(c->fpu.mxcsr & MXCSR_MM)))
		raise_misaligned(c, i, la);
}

static u64 operand_la(struct cpu *c, const struct insn *i, const struct thunk *t, unsigned size)
{
	u64 la = insn_la(c, i, size, t->access);

	if (unlikely(la & t->align))
		check_misaligned(c, i, t, la);
	return la;
}

/* Which elements of the memory operand the opmask asks for; several results may come of one element (broadcast). */
static u64 select_elements(const struct cpu *c, const struct insn *i, const struct thunk *t)
{
	u64 k = c->fpu.k[i->aaa], sel = 0;
	unsigned nr = i->mem_size / t->elem;

	if (t->nr_mask < 64)
		k &= BIT64(t->nr_mask) - 1;
	if (t->what & THUNK_COMPACT) {
		unsigned n = (unsigned)__builtin_popcountll(k);
		return n < 64 ? BIT64(n) - 1 : ~0ull;
	}
	for (unsigned n = 0; n < t->nr_mask; n += nr)
		sel |= k >> n;
	return nr < 64 ? sel & (BIT64(nr) - 1) : sel;
}

/* One pass over the runs of selected elements. The order of accesses is that of the addresses. */
enum run_op { RUN_PROBE, RUN_READ, RUN_WRITE };
static void for_selected(struct cpu *c, const struct insn *i, const struct thunk *t, struct operand_mem *m,
			 enum run_op op)
{
	u64 sel = m->selected;

	while (sel) {
		unsigned first = (unsigned)__builtin_ctzll(sel);
		u64 above = ~(sel >> first);
		unsigned n = above ? (unsigned)__builtin_ctzll(above) : 64;
		unsigned off = first * t->elem, len = n * t->elem;

		if (op == RUN_PROBE)
			mem_probe(c, i->seg, m->la + off, len, ACC_WRITE);
		else if (op == RUN_READ)
			mem_read_block(c, i->seg, m->la + off, m->bounce + off, len);
		else
			mem_write_block(c, i->seg, m->la + off, m->bounce + off, len);
		sel = first + n < 64 ? sel & ~0ull << (first + n) : 0;
	}
}

static void open_masked(struct cpu *c, const struct insn *i, const struct thunk *t, struct operand_mem *m)
{
	m->selected = select_elements(c, i, t);
	if (!m->selected) {
		m->la = 0;
		return;
	}
	unsigned first = (unsigned)__builtin_ctzll(m->selected) * t->elem;
	unsigned end = (64 - (unsigned)__builtin_clzll(m->selected)) * t->elem;

	m->la = seg_la(c, i->seg, insn_ea(c, i) + first, end - first, t->access) - first;
	if (unlikely(m->la & t->align))
		check_misaligned(c, i, t, m->la);
	u8 *p = mem_host(c, i->seg, m->la + first, end - first, t->access);
	if (p) {
		/* The host suppresses the faults of what is not selected, just as the guest expects it to. */
		m->host = p - first;
		return;
	}
	if (t->access == ACC_WRITE)
		for_selected(c, i, t, m, RUN_PROBE);
	else
		for_selected(c, i, t, m, RUN_READ);
}

/* Makes the operand ready, raising its faults. */
static void operand_open(struct cpu *c, const struct insn *i, const struct thunk *t, struct operand_mem *m)
{
	m->host = NULL;
	m->size = i->mem_size;
	if (t->what & THUNK_MASK) {
		memset(m->bounce, 0, sizeof(m->bounce));
		open_masked(c, i, t, m);
		return;
	}
	m->la = operand_la(c, i, t, m->size);
	/* The host would fault on what is misaligned and yet allowed to the guest. */
	if (!(m->la & t->align))
		m->host = mem_host(c, i->seg, m->la, m->size, t->access);
	if (m->host)
		return;
	if (t->access == ACC_WRITE)
		mem_probe(c, i->seg, m->la, m->size, ACC_WRITE);
	if (t->access == ACC_READ || t->reads)
		mem_read_block(c, i->seg, m->la, m->bounce, m->size);
}

static void operand_close(struct cpu *c, const struct insn *i, const struct thunk *t, struct operand_mem *m)
{
	if (m->host || t->access != ACC_WRITE)
		return;
	if (t->what & THUNK_MASK)
		for_selected(c, i, t, m, RUN_WRITE);
	else
		mem_write_block(c, i->seg, m->la, m->bounce, m->size);
}

/* --- Execution ----------------------------------------------------------------------------------------------- */

/* Last instruction, its operand and its opcode (SDM vol. 1, 8.1.8). Selectors are not kept, as on newer processors. */
static void x87_note(struct cpu *c, const struct insn *i, u64 fdp)
{
	fx_put16(c->fpu.x87, FX_FOP, (u16)((i->opcode & 7) << 8 | i->modrm));
	memcpy(c->fpu.x87 + FX_FIP, &c->rip, 8);
	if (i->is_mem)
		fdp = insn_ea(c, i);
	memcpy(c->fpu.x87 + FX_FDP, &fdp, 8);
}

/* Registers only, and nothing can happen but the result. */
static void copy_reg(struct cpu *c, const struct insn *i)
{
	const struct thunk *t = i->thunk;

	if (unlikely(!gates_open(c, t)))
		gate_fault(c, t);
	t->code(c, NULL, NULL);
	c->fpu.xinuse |= t->xinuse;
}

static __attribute__((noinline)) void copy_mem_slow(struct cpu *c, const struct insn *i)
{
	const struct thunk *t = i->thunk;
	struct operand_mem m;

	operand_open(c, i, t, &m);
	t->code(c, m.host ? m.host : m.bounce, NULL);
	operand_close(c, i, t, &m);
	c->fpu.xinuse |= t->xinuse;
}

/* The same with a memory operand. */
static void copy_mem(struct cpu *c, const struct insn *i)
{
	const struct thunk *t = i->thunk;

	if (unlikely(!gates_open(c, t)))
		gate_fault(c, t);
	u64 la = operand_la(c, i, t, i->mem_size);
	void *p = mem_host(c, i->seg, la, i->mem_size, t->access);
	if (unlikely(!p || (la & t->align))) {
		copy_mem_slow(c, i);
		return;
	}
	t->code(c, p, NULL);
	c->fpu.xinuse |= t->xinuse;
}

/* Runs the thunk on @mem and takes what it says in the frame. */
static void run_framed(struct cpu *c, const struct insn *i, const struct thunk *t, void *mem)
{
	struct thunk_frame f = {.flags = c->rflags & FL_ARITH};
	u64 fdp;

	if (t->what & THUNK_MMX)
		fpu_enter_mmx(&c->fpu);
	f.mxcsr = c->fpu.mxcsr;
	memcpy(&fdp, c->fpu.x87 + FX_FDP, 8); /* the host puts its own there, or nothing */
	/* An unmasked SIMD exception leaves from here: engine/guard.c. Nothing has been stored then. */
	t->code(c, mem, &f);
	if (t->what & THUNK_MXCSR)
		c->fpu.mxcsr = f.mxcsr_out;
	if (t->flags_written)
		c->rflags = (c->rflags & ~(u64)t->flags_written) | (f.flags_out & t->flags_written);
	if (t->what & THUNK_X87)
		x87_note(c, i, fdp);
	c->fpu.xinuse |= t->xinuse;
}

/* Everything else. */
static void copy_any(struct cpu *c, const struct insn *i)
{
	const struct thunk *t = i->thunk;
	struct operand_mem m;

	if (unlikely((t->what & THUNK_VL) && !cpu_has(c, ISA_AVX512VL)))
		raise_ud(c);
	if (unlikely(!gates_open(c, t)))
		gate_fault(c, t);
	/* With CR0.NE clear it would be FERR# and IRQ 13, which no system of this age uses: #MF always. */
	if ((t->what & THUNK_WAIT) && (fx_get16(c->fpu.x87, FX_FSW) & FSW_ES))
		raise_fault(c, VEC_MF);
	if (!i->is_mem) {
		run_framed(c, i, t, NULL);
		return;
	}
	operand_open(c, i, t, &m);
	run_framed(c, i, t, m.host ? m.host : m.bounce);
	operand_close(c, i, t, &m);
}

static void copy_undefined(struct cpu *c, const struct insn *i)
{
	raise_ud(c);
}

static sem_fn *runner_of(const struct insn *i, const struct thunk *t)
{
	if (t->what)
		return copy_any;
	return i->is_mem ? copy_mem : copy_reg;
}

bool copy_prepare(struct copy_arena *a, struct insn *i)
{
	struct copy_key k = key_of(i);
	struct copy_slot *s = slot_of(a, &k);

	if (!s->thunk || memcmp(&s->key, &k, sizeof(k))) {
		size_t head = ALIGN_UP(a->used, 64), code = head + sizeof(struct thunk);

		if (code + THUNK_MAX > a->size)
			return false;
		struct thunk *t = (struct thunk *)(a->rw + head);
		unsigned len = thunk_build(t, a->rw + code, i);

		if (!len) {
			i->fn = copy_undefined;
			return true;
		}
		t->code = (thunk_fn *)(a->rx + code);
		a->used = code + len;
		*s = (struct copy_slot){.key = k, .thunk = (const struct thunk *)(a->rx + head)};
	}
	i->thunk = (void *)s->thunk;
	i->fn = runner_of(i, s->thunk);
	return true;
}
