/*
 * The interpreter: runs decoded blocks. The whole ISA, every mode; the oracle for faster engines.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/debug.h"
#include "cpu/exception.h"
#include "cpu/mem.h"
#include "engine/guard.h"
#include "engine/interp/block.h"
#include "engine/x86_ops.h"

static int interp_hardware_setup(void)
{
	decode_init();
	return guard_install();
}

static int interp_vcpu_create(struct cpu *c)
{
	struct block_cache *bc = malloc(sizeof(*bc));

	if (!bc || block_cache_init(bc)) {
		free(bc);
		return -ENOMEM;
	}
	c->engine = bc;
	return 0;
}

static void interp_vcpu_free(struct cpu *c)
{
	if (!c->engine)
		return;
	block_cache_fini(c->engine);
	free(c->engine);
	c->engine = NULL;
}

static void interp_vcpu_load(struct cpu *c)
{
	guard_set_cpu(c);
}

static void interp_vcpu_put(struct cpu *c)
{
	guard_set_cpu(NULL);
}

/* Executes @n instructions of @b, or fewer when the block writes to itself. */
static inline void block_exec(struct cpu *c, const struct block *b, unsigned n)
{
	const struct insn *i = b->insns, *last = i + n - 1;
	bool ends = b->ends && n == b->nr;
	u64 rip = c->rip;

	c->code_page = (u64)b->code & PAGE_MASK;
	c->stat.blocks++;
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
	if (unlikely(c->code_bits != 64))
		c->rip = c->code_bits == 32 ? (u32)c->rip : (u16)c->rip;
}

/* True when the next instruction must not simply be run: see interp_attend(). */
static inline bool interp_attention(const struct cpu *c)
{
	return atomic_load_explicit(&c->request, memory_order_relaxed) | *c->immediate_exit | c->int_shadow | c->io.done |
	       c->irq_window | c->nmi_window | ((c->rflags & FL_TF) != 0) | c->debug_active;
}

static void interp_step(struct cpu *c)
{
	block_exec(c, block_get(c->engine, c), 1);
}

/* Deals with whatever interp_attention() saw. Returns true with *@reason set when the run ends. */
static bool interp_attend(struct cpu *c, enum exit_reason *reason)
{
	/* An instruction that waited for the outside is finished before anything else is looked at. */
	if (c->io.done) {
		c->io.next = 0;
		interp_step(c);
		cpu_io_retire(c);
		return false;
	}
	if (atomic_load_explicit(&c->request, memory_order_acquire) || *c->immediate_exit) {
		*reason = EXIT_KICK;
		return true;
	}
	if (c->nmi_window && !c->nmi_blocked && !c->int_shadow) {
		c->nmi_window = false;
		*reason = EXIT_NMI_WINDOW;
		return true;
	}
	if (c->irq_window && cpu_irq_allowed(c)) {
		c->irq_window = false;
		*reason = EXIT_IRQ_WINDOW;
		return true;
	}
	if (c->debug_active || (c->rflags & FL_TF))
		return debug_step(c, interp_step, reason);

	/* STI and MOV SS hold interrupts off until the next instruction has retired (SDM vol. 3A, 6.8.3). */
	if (c->int_shadow) {
		c->int_shadow = 0;
		interp_step(c);
		return false;
	}
	/* Only a window waits, and interrupts are off: nothing to do but run on. */
	const struct block *b = block_get(c->engine, c);
	block_exec(c, b, b->nr);
	return false;
}

static void interp_deliver(struct cpu *c, const struct event *e)
{
	c->insn = NULL;
	c->delivering = *e;
	event_deliver(c, &c->delivering);
	c->delivering.type = EV_NONE;
	c->stat.injections++;
	cpu_io_retire(c);
}

/* A fault was raised: by an instruction, or by the delivery of an event. True: the run ends with *@reason. */
static bool interp_fault(struct cpu *c, enum exit_reason *reason)
{
	struct event e;

	cpu_io_retire(c);
	c->smc = false;
	if (debug_intercept(c, &c->fault)) {
		*reason = EXIT_DEBUG;
		return true;
	}
	if (!event_merge(c, &c->fault, &e)) {
		c->delivering.type = EV_NONE;
		*reason = EXIT_TRIPLE_FAULT;
		return true;
	}
	interp_deliver(c, &e);
	return false;
}

/* Apart from interp_loop(), so that setjmp does not keep the hot loop's variables out of registers. */
static __attribute__((noinline)) enum exit_reason interp_blocks(struct cpu *c)
{
	enum exit_reason reason;

	for (;;) {
		if (unlikely(interp_attention(c))) {
			if (interp_attend(c, &reason))
				return reason;
			continue;
		}
		const struct block *b = block_get(c->engine, c);
		block_exec(c, b, b->nr);
	}
}

static enum exit_reason interp_loop(struct cpu *c, jmp_buf *unwind)
{
	enum exit_reason reason = EXIT_KICK;

	switch (_setjmp(*unwind)) {
	case UNWIND_EXIT:
		return c->exit.reason;
	case UNWIND_FAULT:
		if (interp_fault(c, &reason))
			return reason;
		break;
	default:
		/* An event whose delivery waited for the outside (a stack in MMIO space) starts again. */
		if (c->delivering.type) {
			struct event again = c->delivering;
			c->io.next = 0;
			interp_deliver(c, &again);
		} else if (c->inject.type) {
			struct event e = c->inject;
			c->inject.type = EV_NONE;
			interp_deliver(c, &e);
		}
		break;
	}
	return interp_blocks(c);
}

static enum exit_reason interp_run(struct cpu *c)
{
	jmp_buf unwind;

	c->unwind = &unwind;
	c->in_engine = true;
	enum exit_reason reason = interp_loop(c, &unwind);
	c->in_engine = false;
	c->unwind = NULL;
	c->insn = NULL;
	c->code_page = 0;
	c->exit.reason = (u8)reason;
	c->stat.exits[reason]++;
	return reason;
}

static void interp_tlb_flush_all(struct cpu *c)
{
	tlb_flush_all(c);
}

static void interp_inject(struct cpu *c, const struct event *e)
{
	c->inject = *e;
}

static void interp_enable_irq_window(struct cpu *c)
{
	c->irq_window = true;
}

static void interp_enable_nmi_window(struct cpu *c)
{
	c->nmi_window = true;
}

static void interp_kick(struct cpu *c, u32 req)
{
	atomic_fetch_or_explicit(&c->request, req, memory_order_release);
}

const struct x86_ops interp_x86_ops = {
	.name = "interp",
	.hardware_setup = interp_hardware_setup,
	.vcpu_create = interp_vcpu_create,
	.vcpu_free = interp_vcpu_free,
	.vcpu_load = interp_vcpu_load,
	.vcpu_put = interp_vcpu_put,
	.run = interp_run,
	.tlb_flush_all = interp_tlb_flush_all,
	.tlb_flush_gva = tlb_flush_page,
	.inject = interp_inject,
	.enable_irq_window = interp_enable_irq_window,
	.enable_nmi_window = interp_enable_nmi_window,
	.kick = interp_kick,
};
