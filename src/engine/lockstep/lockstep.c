#include "engine/lockstep/lockstep.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cpu/mmu.h"
#include "cpu/msr.h"
#include "cpu/sem.h"
#include "engine/jit/jit.h"
#include "engine/loop.h"
#include "engine/x86_ops.h"

#define SEEN_BITS 16
#define CHAIN_MAX 4
#define RARELY 64 /* blocks seen often are compared once in so many executions */

struct lockstep {
	struct undo undo; /* first: cpu->journal leads here */
	struct lockstep_state before, first;
	const struct jit_block *block;
	enum ending end;     /* of the first run */
	u64 undefined;       /* flags, as the interpreter goes */
	bool random;         /* the interpreter has executed RDRAND or RDSEED */
	bool equal;
	struct jit_link *link; /* by which the first run was left */
	struct report now, best; /* best: of those places where the interpreter might have stopped, the most alike */
	unsigned often;      /* 0: always */
	u32 *seen;           /* executions, by a hash of RIP */
	u64 compared, skipped;
};

/* What the VM's vCPUs share: that there is only one, or none. One is created at a time. */
struct lockstep_vm {
	const struct cpu *vcpu;
};

static struct lockstep *lockstep_of(const struct cpu *c)
{
	return (struct lockstep *)c->journal;
}

/* --- State ------------------------------------------------------------------------------------------------------ */

/* All but cpu->request, which belongs to other threads. */
static void cpu_copy(struct cpu *to, const struct cpu *from)
{
	size_t at = offsetof(struct cpu, request), behind = at + sizeof(from->request);

	memcpy(to, from, at);
	memcpy((u8 *)to + behind, (const u8 *)from + behind, sizeof(*from) - behind);
}

static void state_keep(struct lockstep_state *s, const struct cpu *c)
{
	cpu_copy(&s->cpu, c);
	memcpy(s->msr, c->msr, msr_count() * sizeof(*s->msr));
}

static void state_back(struct cpu *c, const struct lockstep_state *s)
{
	u64 last = c->exec_gen_last; /* never goes back: things are remembered by names given since */

	cpu_copy(c, &s->cpu);
	memcpy(c->msr, s->msr, msr_count() * sizeof(*s->msr));
	c->exec_gen[0] = ++last;
	c->exec_gen[1] = ++last;
	c->exec_gen_last = last;
}

/* --- The two runs ----------------------------------------------------------------------------------------------- */

static void run_jit(struct cpu *c)
{
	struct lockstep *l = lockstep_of(c);

	l->link = jit_block_run(jit_of(c), l->block);
}

static void note_insn(struct lockstep *l, const struct insn *i)
{
	const struct insn_row *r = &insn_rows[i->row];

	l->random |= r->sem == &sem_rdrand || r->sem == &sem_rdseed;
	/* What a row reads as well it may leave alone: a count of 0. */
	l->undefined &= ~(u64)r->flags_written | insn_flags_read(i);
	l->undefined |= r->flags_undefined;
}

/* Looks at the next instruction. False: nothing is known of what comes after it. */
static bool overwrites(const struct insn *i, u16 *live, u16 *dead)
{
	const struct insn_row *r = &insn_rows[i->row];

	if (r->class_ == CLASS_END)
		return false;
	*live |= insn_flags_read(i) & ~*dead;
	*dead |= (r->flags_written | r->flags_undefined) & ~*live & FL_ARITH;
	return true;
}

/* The code at @rip, without what a fetch does; NULL: who knows. */
static const u8 *code_at(const struct cpu *c, u64 rip)
{
	bool writable, user;
	u64 gpa;

	if (c->code_bits == 16 || (c->code_bits == 32 && c->seg[SEG_CS].base) ||
	    !mmu_translate((struct cpu *)c, rip, &gpa, &writable, &user))
		return NULL;
	const struct gpa_slot *s = gpa_find(c->map, gpa);
	return s ? s->hva + (gpa - s->gpa) : NULL;
}

/*
 * Arithmetic flags that the translator need not have at cpu->rip, where it has left a block before the end (code has
 * changed, somebody wants to look, a window misses): those that are overwritten before they are read, in the block that
 * it began with, as that was, or in one behind it.
 */
static u64 flags_dead(const struct lockstep *l, const struct cpu *c)
{
	const struct jit_block *b = l->block;
	u64 rip = l->before.cpu.rip;
	u16 live = 0, dead = 0;
	unsigned n = 0;

	while (n < b->nr && rip != c->rip)
		rip += b->insns[n++].len;
	if (n < b->nr) {
		for (; n < b->nr && overwrites(&b->insns[n], &live, &dead); n++)
			rip += b->insns[n].len;
		/* A block that began later and was linked to this one goes on behind it. */
		if (n < b->nr)
			return dead;
	} else if (l->link && !l->link->no_windows) {
		return 0;
	} else {
		rip = c->rip;
	}
	const u8 *p = code_at(c, rip), *end = p + PAGE_SIZE - ((u64)p & (PAGE_SIZE - 1));
	struct insn i;
	for (; p && p < end && n < 2 * JIT_INSNS_MAX; n++, p += i.len)
		if (decode(&i, p, (unsigned)MIN(end - p, 15l), c->code_bits) != DECODE_OK ||
		    !overwrites(&i, &live, &dead))
			break;
	return dead;
}

/* True: this is where the translator stopped, and all is equal. */
static bool is_there(struct lockstep *l, struct cpu *c)
{
	if (l->end != END_NORMAL || c->rip != l->first.cpu.rip)
		return false;
	lockstep_compare(&l->first, c, &l->undo, END_NORMAL, l->undefined | flags_dead(l, c), &l->now);
	if (l->now.differences && (!l->best.differences || l->now.differences <= l->best.differences))
		l->best = l->now;
	return !l->now.differences;
}

/* True: code has changed, the rest of the block is stale. */
static bool step(struct cpu *c, const struct insn *i, const u8 *code, bool ends)
{
	u64 rip = c->rip;

	c->code_page = (u64)code & PAGE_MASK;
	c->int_shadow = 0;
	c->insn = i;
	i->fn(c, i);
	if (!ends)
		c->rip = rip + i->len;
	c->rip = cpu_cut_rip(c, c->rip);
	bool stale = c->smc;
	c->smc = false;
	return stale;
}

/*
 * One instruction after the other, until all is as the translator left it. A branch back into the block may lead past
 * that RIP several times, and string instructions may pause (more often than those of the translator, when they write
 * to the page they are in), so what counts is the state.
 */
static void run_interp(struct cpu *c)
{
	struct lockstep *l = lockstep_of(c);
	unsigned left = CHAIN_MAX * JIT_INSNS_MAX + UNDO_PAGES_ENOUGH;

	l->undefined = 0;
	l->random = false;
	l->equal = is_there(l, c);
	while (!l->equal && left) {
		const struct block *b = block_get(c->engine, c);
		bool stale = false;

		for (unsigned n = 0; n < b->nr && !l->equal && !stale && left; n++, left--) {
			stale = step(c, &b->insns[n], b->code, b->ends && n + 1 == b->nr);
			note_insn(l, &b->insns[n]);
			l->equal = is_there(l, c);
		}
	}
}

/* With what leaves through cpu->unwind caught. */
static enum ending attempt(struct cpu *c, void (*run)(struct cpu *c))
{
	jmp_buf here, *volatile outer = c->unwind;
	volatile enum ending end = END_NORMAL;

	c->unwind = &here;
	switch (_setjmp(here)) {
	case UNWIND_FAULT: end = END_FAULT; break;
	case UNWIND_EXIT: end = END_EXIT; break;
	default: run(c); break;
	}
	c->unwind = outer;
	jit_x87_save(jit_of(c));
	c->code_page = 0;
	c->smc = false;
	return end;
}

static void report(const struct lockstep *l, const struct cpu *c, enum ending end)
{
	static const char *const name[] = {"its end", "a fault", "an exit"};
	const struct jit_block *b = l->block;
	char hex[JIT_INSNS_MAX * 15 * 2 + JIT_INSNS_MAX + 1];
	size_t len = 0;

	for (unsigned n = 0, at = 0; n < b->nr; at += b->insns[n].len, n++) {
		for (unsigned k = 0; k < b->insns[n].len; k++)
			len += (size_t)snprintf(hex + len, sizeof(hex) - len, "%02x", b->bytes[at + k]);
		len += (size_t)snprintf(hex + len, sizeof(hex) - len, "%s", n + 1 < b->nr ? " " : "");
	}
	log_error("lockstep: the engines differ after the block, or others linked to it, at %#llx, mode %d, CPL %d",
		  (unsigned long long)l->before.cpu.rip, l->before.cpu.mode, l->before.cpu.cpl);
	log_error("lockstep: code %s", hex);
	log_error("lockstep: jit came to %s at %#llx, interp to %s at %#llx", name[l->end],
		  (unsigned long long)l->first.cpu.rip, name[end], (unsigned long long)c->rip);
	for (const char *line = l->best.text, *next; *line; line = next) {
		next = strchr(line, '\n') + 1;
		log_error("lockstep: %.*s", (int)(next - line - 1), line);
	}
}

/* False: the engines differ. */
static bool run_both(struct lockstep *l, struct cpu *c, enum ending *end)
{
	c->rflags &= ~FL_RF; /* as jit_block_run() has it */
	state_keep(&l->before, c);
	undo_begin(&l->undo, c);
	l->end = *end = attempt(c, run_jit);
	if (!undo_again(&l->undo, c)) {
		l->skipped++;
		return true;
	}
	state_keep(&l->first, c);
	state_back(c, &l->before);
	l->equal = false;
	l->best.differences = 0;
	l->best.len = 0;
	l->best.text[0] = 0;
	*end = attempt(c, run_interp);
	if (*end == l->end && *end != END_NORMAL) {
		lockstep_compare(&l->first, c, &l->undo, *end, l->undefined, &l->best);
		l->equal = !l->best.differences;
	}
	/* A string instruction, or a block, that was kicked out of in one run only. */
	if (!l->equal && (cpu_must_stop(c) || l->random)) {
		l->skipped++;
		return true;
	}
	l->compared++;
	return l->equal;
}

/* The guest's clock stands still meanwhile. */
static enum ending compare_block(struct lockstep *l, struct cpu *c)
{
	u64 ratio = c->tsc_ratio, offset = c->tsc_offset, frozen = cpu_rdtsc(c);
	enum ending end;

	c->tsc_ratio = 0;
	c->tsc_offset = frozen;
	bool same = run_both(l, c, &end);
	undo_end(&l->undo);
	c->tsc_ratio = ratio;
	c->tsc_offset = offset + (c->tsc_offset - frozen);
	if (same)
		return end;
	report(l, c, end);
	cpu_exit(c, EXIT_ENGINE_ERROR);
}

/* --- The run loop ----------------------------------------------------------------------------------------------- */

static unsigned clock_reads(const struct jit_block *b)
{
	unsigned nr = 0;

	for (unsigned n = 0; n < b->nr; n++) {
		const struct sem *s = insn_rows[b->insns[n].row].sem;
		nr += s == &sem_rdtsc || s == &sem_rdtscp;
	}
	return nr;
}

static bool to_be_compared(struct lockstep *l, const struct jit_block *b, u64 rip)
{
	/* A guest may expect its clock to move between two looks. */
	if (clock_reads(b) > 1) {
		l->skipped++;
		return false;
	}
	if (!l->often)
		return true;
	u32 n = l->seen[(rip ^ rip >> SEEN_BITS) & (BIT(SEEN_BITS) - 1)]++;
	return n < l->often || n % RARELY == 0;
}

/* Which blocks may lead to which: chains of up to CHAIN_MAX, no loops. */
static unsigned rank(const struct jit_block *b)
{
	u64 at = (u64)b->code;

	return (at ^ at >> 4 ^ at >> 7) % CHAIN_MAX;
}

static void link_to(struct lockstep *l, struct jit *j, struct jit_block *b)
{
	struct jit_link *k = l->link;

	if (k && jit_link_rip(j, k) == j->cpu->rip && !jit_link_from(k)->dead && !k->to &&
	    rank(jit_link_from(k)) < rank(b) && !clock_reads(b))
		jit_link_set(j, k, b);
	l->link = NULL;
}

static enum exit_reason lockstep_blocks(struct cpu *c)
{
	struct lockstep *l = lockstep_of(c);
	struct jit *j = jit_of(c);
	enum exit_reason reason;

	for (l->link = NULL;;) {
		jit_x87_save(j);
		cpu_looks(c);
		hub_written(j);
		hub_read(j);
		if (unlikely(loop_attention(c))) {
			l->link = NULL;
			if (loop_attend(c, &reason))
				return reason;
			continue;
		}
		struct jit_block *b = jit_block_at(j, &l->link);
		if (!b) {
			l->link = NULL;
			const struct block *i = block_get(&j->bc, c);
			loop_exec(c, i, i->nr);
			c->code_page = 0;
			l->skipped++;
			continue;
		}
		link_to(l, j, b);
		if (!to_be_compared(l, b, c->rip)) {
			l->link = jit_block_run(j, b);
			continue;
		}
		l->block = b;
		enum ending end = compare_block(l, c);
		if (end != END_NORMAL)
			longjmp(*c->unwind, (int)end);
	}
}

static enum exit_reason lockstep_run(struct cpu *c)
{
	return jit_run_blocks(c, lockstep_blocks);
}

/* --- The table -------------------------------------------------------------------------------------------------- */

static int lockstep_hardware_setup(void)
{
	return jit_x86_ops.hardware_setup();
}

static int lockstep_vm_init(void **engine_vm)
{
	*engine_vm = calloc(1, sizeof(struct lockstep_vm));
	return *engine_vm ? 0 : -ENOMEM;
}

static void lockstep_vm_destroy(void *engine_vm)
{
	free(engine_vm);
}

static void lockstep_free(struct lockstep *l)
{
	undo_fini(&l->undo);
	free(l->before.msr);
	free(l->first.msr);
	free(l->seen);
	free(l);
}

static int lockstep_init(struct lockstep *l, struct cpu *c)
{
	const char *often = getenv("ANYKVM_LOCKSTEP");

	l->often = often ? (unsigned)strtoul(often, NULL, 0) : 0;
	l->seen = calloc(1u << SEEN_BITS, sizeof(*l->seen));
	l->before.msr = calloc(msr_count(), sizeof(u64));
	l->first.msr = calloc(msr_count(), sizeof(u64));
	if (!l->seen || !l->before.msr || !l->first.msr)
		return -ENOMEM;
	return undo_init(&l->undo, c);
}

static int lockstep_vcpu_create(struct cpu *c)
{
	struct lockstep_vm *vm = c->engine_vm;

	if (vm && vm->vcpu) {
		log_error("the lockstep engine runs one vCPU only: others write to memory between the two runs");
		return -EINVAL;
	}
	struct lockstep *l = aligned_alloc(64, ALIGN_UP(sizeof(*l), 64));
	if (!l)
		return -ENOMEM;
	memset(l, 0, sizeof(*l));
	c->engine_vm = NULL; /* the translator's, which nobody shares */
	int r = jit_x86_ops.vcpu_create(c);
	if (!r) {
		r = lockstep_init(l, c);
		if (r)
			jit_x86_ops.vcpu_free(c);
	}
	c->engine_vm = vm;
	if (r) {
		c->journal = NULL;
		lockstep_free(l);
		return r;
	}
	jit_of(c)->alone = true;
	if (vm)
		vm->vcpu = c;
	return 0;
}

static void lockstep_vcpu_free(struct cpu *c)
{
	struct lockstep_vm *vm = c->engine_vm;
	struct lockstep *l = lockstep_of(c);

	if (!c->engine)
		return;
	if (vm)
		vm->vcpu = NULL;
	if (l->compared)
		log_info("lockstep: %llu blocks compared, %llu not", (unsigned long long)l->compared,
			 (unsigned long long)l->skipped);
	c->journal = NULL;
	jit_x86_ops.vcpu_free(c);
	lockstep_free(l);
}

static void lockstep_vcpu_load(struct cpu *c)
{
	jit_x86_ops.vcpu_load(c);
}

static void lockstep_tlb_flush_all(struct cpu *c)
{
	jit_x86_ops.tlb_flush_all(c);
}

const struct x86_ops lockstep_x86_ops = {
	.name = "lockstep",
	.hardware_setup = lockstep_hardware_setup,
	.vm_init = lockstep_vm_init,
	.vm_destroy = lockstep_vm_destroy,
	.vcpu_create = lockstep_vcpu_create,
	.vcpu_free = lockstep_vcpu_free,
	.vcpu_load = lockstep_vcpu_load,
	.run = lockstep_run,
	.tlb_flush_all = lockstep_tlb_flush_all,
	LOOP_OPS,
};
