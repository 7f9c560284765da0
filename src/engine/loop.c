#include "engine/loop.h"

#include "cpu/debug.h"
#include "cpu/exception.h"
#include "engine/guard.h"

static void loop_step(struct cpu *c)
{
	loop_exec(c, block_get(c->engine, c), 1);
}

bool loop_attend(struct cpu *c, enum exit_reason *reason)
{
	/* An instruction that waited for the outside is finished before anything else is looked at. */
	if (c->io.done) {
		bool over = false;
		c->io.next = 0;
		if (c->debug_active || (c->rflags & FL_TF))
			over = debug_step(c, loop_step, reason);
		else
			loop_step(c);
		cpu_io_retire(c);
		return over;
	}
	if (atomic_load_explicit(&c->request, memory_order_acquire) || cpu_immediate_exit(c)) {
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
		return debug_step(c, loop_step, reason);

	/* STI and MOV SS hold interrupts off until the next instruction has retired (SDM vol. 3A, 6.8.3). */
	if (c->int_shadow) {
		c->int_shadow = 0;
		loop_step(c);
		return false;
	}
	return false;
}

static void loop_deliver(struct cpu *c, const struct event *e)
{
	c->insn = NULL;
	c->delivering = *e;
	event_deliver(c, &c->delivering);
	c->delivering.type = EV_NONE;
	c->stat.injections++;
	cpu_io_retire(c);
}

/* A fault was raised: by an instruction, or by the delivery of an event. True: the run ends with *@reason. */
static bool loop_fault(struct cpu *c, enum exit_reason *reason)
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
		cpu_update_mode(c); /* the last delivery may have got as far as a new SS */
		*reason = EXIT_TRIPLE_FAULT;
		return true;
	}
	/* A delivery may fault again, and without end where a task traps as it starts: requests are heeded between. */
	if (c->delivering.type && cpu_must_stop(c)) {
		event_apply_payload(c, &e);
		c->inject = e;
		c->delivering.type = EV_NONE;
		*reason = EXIT_KICK;
		return true;
	}
	loop_deliver(c, &e);
	return false;
}

/* Apart from the engine's hot loop, so that setjmp does not keep its variables out of registers. */
static enum exit_reason loop_guarded(struct cpu *c, jmp_buf *unwind, enum exit_reason (*blocks)(struct cpu *c))
{
	enum exit_reason reason = EXIT_KICK;

	switch (_setjmp(*unwind)) {
	case UNWIND_EXIT:
		return c->exit.reason;
	case UNWIND_FAULT:
		if (loop_fault(c, &reason))
			return reason;
		break;
	default:
		/* An event whose delivery waited for the outside (a stack in MMIO space) starts again. */
		if (c->delivering.type) {
			struct event again = c->delivering;
			c->io.next = 0;
			loop_deliver(c, &again);
		} else if (c->inject.type) {
			struct event e = c->inject;
			c->inject.type = EV_NONE;
			loop_deliver(c, &e);
		}
		break;
	}
	return blocks(c);
}

enum exit_reason loop_run(struct cpu *c, enum exit_reason (*blocks)(struct cpu *c))
{
	jmp_buf unwind;

	c->unwind = &unwind;
	c->in_engine = true;
	enum exit_reason reason = loop_guarded(c, &unwind, blocks);
	c->in_engine = false;
	c->unwind = NULL;
	c->insn = NULL;
	c->code_page = 0;
	c->exit.reason = (u8)reason;
	c->stat.exits[reason]++;
	return reason;
}

void loop_vcpu_load(struct cpu *c)
{
	guard_set_cpu(c);
}

void loop_vcpu_put(struct cpu *c)
{
	guard_set_cpu(NULL);
}

void loop_inject(struct cpu *c, const struct event *e)
{
	c->inject = *e;
}

void loop_enable_irq_window(struct cpu *c)
{
	c->irq_window = true;
}

void loop_enable_nmi_window(struct cpu *c)
{
	c->nmi_window = true;
}

void loop_kick(struct cpu *c, u32 req)
{
	cpu_request(c, req);
}
