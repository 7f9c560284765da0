/*
 * What every engine's run has in common: delivery of events, faults, and the instructions that must be run one by one
 * (debugging, interrupt shadows, instructions that waited for the outside), which the interpreter executes.
 * An engine's own state (cpu->engine) begins with a struct block_cache.
 */
#ifndef ENGINE_LOOP_H
#define ENGINE_LOOP_H

#include "cpu/cpu.h"
#include "engine/interp/block.h"

/* True when the next instruction must not simply be run: see loop_attend(). */
static inline bool loop_attention(const struct cpu *c)
{
	return cpu_must_stop(c) | c->int_shadow | c->io.done |
	       (c->irq_window && cpu_irq_allowed(c)) | (c->nmi_window && !c->nmi_blocked) | ((c->rflags & FL_TF) != 0) |
	       c->debug_active;
}

/* Deals with whatever loop_attention() saw, by at least one step. Returns true with *@reason set when the run ends. */
bool loop_attend(struct cpu *c, enum exit_reason *reason);

/*
 * Executes @n instructions of @b, or fewer when the block writes to itself. RF holds for the first of them: it is clear
 * behind it, but for what IRET or a task switch loads (SDM vol. 3B, 18.3.1.1).
 */
static inline void loop_exec(struct cpu *c, const struct block *b, unsigned n)
{
	const struct insn *i = b->insns, *last = i + n - 1;
	bool ends = b->ends && n == b->nr;
	u64 rip = c->rip;

	c->rflags &= ~FL_RF;
	c->code_page = (u64)b->code & PAGE_MASK;
	c->stat.insns += n;
	for (; i != last; i++) {
		c->insn = i;
		i->fn(c, i);
		rip += i->len;
		c->rip = rip;
		if (unlikely(c->smc)) {
			c->smc = false;
			c->stat.insns -= (u64)(last - i);
			goto out;
		}
	}
	c->insn = i;
	i->fn(c, i);
	if (!ends)
		c->rip = rip + i->len;
	c->smc = false;
out:
	c->rip = cpu_cut_rip(c, c->rip);
}

/*
 * One run: delivers cpu->inject, then calls @blocks, which executes guest code until an exit and returns its reason.
 * Faults and exits that leave by cpu->unwind come back here; after a fault's delivery @blocks is called again.
 */
enum exit_reason loop_run(struct cpu *c, enum exit_reason (*blocks)(struct cpu *c));

/* Members of struct x86_ops. */
void loop_vcpu_load(struct cpu *c); /* an engine's own calls it */
void loop_vcpu_put(struct cpu *c);
void loop_inject(struct cpu *c, const struct event *e);
void loop_enable_irq_window(struct cpu *c);
void loop_enable_nmi_window(struct cpu *c);
void loop_kick(struct cpu *c, u32 req);

/* Those that are alike in every engine. */
#define LOOP_OPS                                                                                                       \
	.vcpu_put = loop_vcpu_put, .inject = loop_inject, .enable_irq_window = loop_enable_irq_window,                 \
	.enable_nmi_window = loop_enable_nmi_window, .kick = loop_kick

#endif
