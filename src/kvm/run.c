/*
 * KVM_RUN: vcpu_run -> vcpu_enter_guest -> inject_pending_event -> x86_ops->run -> vcpu_handle_exit.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kvm/kvm.h"
#include "kvm/sigmask.h"

/* --- Who runs, and how others reach it ------------------------------------------------------------------ */

static _Thread_local struct vcpu *volatile current_vcpu;

struct vcpu *vcpu_current(void)
{
	return current_vcpu;
}

/*
 * A vCPU sleeps on the first 32-bit word of its run page: request_interrupt_window, immediate_exit and two bytes of
 * padding. So a client that sets immediate_exit, in a signal handler or from another thread, before the sleep has
 * begun is not overlooked. The first byte of padding is struct cpu_poll's; the second is our own reason to wake up, or
 * not to go to sleep.
 */
_Static_assert(offsetof(struct kvm_run, immediate_exit) == 1 && offsetof(struct kvm_run, padding1) == 2, "one word");

static u32 *wake_word(struct vcpu *v)
{
	return (u32 *)v->run;
}

static u8 *awake(struct vcpu *v)
{
	return &v->run->padding1[1];
}
#define AWAKE_BITS (0xffu << 24) /* of the word */

void vcpu_wake(struct vcpu *v)
{
	if (!v->run)
		return; /* under construction */
	__atomic_store_n(awake(v), 1, __ATOMIC_SEQ_CST);
	if (atomic_load(&v->blocking)) {
		syscall(SYS_futex, wake_word(v), FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
		sigmask_wake(v);
	}
}

void vcpu_request(struct vcpu *v, u32 vreq)
{
	atomic_fetch_or(&v->requests, vreq);
	if (v == current_vcpu)
		return;
	v->vm->ops->kick(&v->cpu, REQ_KICK);
	vcpu_wake(v);
}

void vcpu_signal_current(void)
{
	struct vcpu *v = current_vcpu;

	if (!v)
		return;
	v->vm->ops->kick(&v->cpu, REQ_SIGNAL);
	__atomic_store_n(awake(v), 1, __ATOMIC_SEQ_CST);
}

/* --- Use of the memory map --------------------------------------------------------------------------------- */

static void notice(struct vcpu *v, u32 gen)
{
	struct vm *vm = v->vm;

	atomic_store(&v->seen_gen, gen);
	if (atomic_load(&vm->quiet_waiters)) {
		pthread_mutex_lock(&vm->quiet_lock);
		pthread_cond_broadcast(&vm->quiet);
		pthread_mutex_unlock(&vm->quiet_lock);
	}
}

/* From here to map_put() the map and its memory stay valid for this vCPU. */
static void map_get(struct vcpu *v)
{
	struct vm *vm = v->vm;
	u32 gen = atomic_load(&vm->map_gen);

	if (gen == atomic_load(&v->seen_gen))
		return;
	do {
		gen = atomic_load(&vm->map_gen);
		notice(v, gen);
	} while (atomic_load(&vm->map_gen) != gen);
	v->cpu.map = atomic_load(&vm->map);
	if (gen != v->flushed_gen) {
		v->flushed_gen = gen;
		vm->ops->tlb_flush_all(&v->cpu);
	}
}

static void map_put(struct vcpu *v)
{
	v->cpu.map = NULL;
	notice(v, 0);
}

/* A map that was published before this call is used by nobody who has not noticed the generation that starts here. */
void vm_quiesce(struct vm *vm)
{
	u32 gen = atomic_load(&vm->map_gen) + 1;
	u32 nr = atomic_load(&vm->nr_vcpus);

	if (gen == 0)
		gen = 1;
	atomic_fetch_add(&vm->quiet_waiters, 1);
	atomic_store(&vm->map_gen, gen);
	for (u32 i = 0; i < nr; i++) {
		u32 seen = atomic_load(&vm->vcpu[i]->seen_gen);

		if (seen != 0 && seen != gen) {
			vm->ops->kick(&vm->vcpu[i]->cpu, REQ_TLB_FLUSH);
			vm->stat.remote_tlb_flush++;
		}
	}
	vm->stat.remote_tlb_flush_requests++;
	vm_stats_publish(vm);
	pthread_mutex_lock(&vm->quiet_lock);
	for (u32 i = 0; i < nr; i++) {
		u32 seen;

		while ((seen = atomic_load(&vm->vcpu[i]->seen_gen)) != 0 && seen != gen)
			pthread_cond_wait(&vm->quiet, &vm->quiet_lock);
	}
	pthread_mutex_unlock(&vm->quiet_lock);
	atomic_fetch_sub(&vm->quiet_waiters, 1);
}

/* An instruction waits for the outside, or has its answers and is to be executed again. */
static bool in_instruction(const struct vcpu *v)
{
	return v->cpu.io.done || v->cpu.io.pending;
}

/* --- Events ----------------------------------------------------------------------------------------------------- */

/* INIT and SIPI (SDM vol. 3A, 9.4). INIT makes the bootstrap processor start anew, others wait for a SIPI. */
void vcpu_accept_events(struct vcpu *v)
{
	struct cpu *c = &v->cpu;
	u32 pending = atomic_load(&v->init_sipi);

	if (!pending || !lapic_in_kernel(v))
		return;
	if (pending & PENDING_INIT) {
		atomic_fetch_and(&v->init_sipi, ~PENDING_INIT);
		vcpu_reset(v, true);
		v->mp_state = v->id == v->vm->boot_cpu_id ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_INIT_RECEIVED;
	}
	if (atomic_load(&v->init_sipi) & PENDING_SIPI) {
		atomic_fetch_and(&v->init_sipi, ~PENDING_SIPI);
		if (v->mp_state == KVM_MP_STATE_INIT_RECEIVED) {
			u8 vector = atomic_load(&v->sipi_vector);

			c->seg[SEG_CS].selector = (u16)(vector << 8);
			c->seg[SEG_CS].base = (u64)vector << 12;
			c->rip = 0;
			cpu_update_mode(c);
			v->mp_state = KVM_MP_STATE_RUNNABLE;
		}
	}
}

/* NMIs that arrived join the pending ones: one more may wait while one is being served (SDM vol. 3A, 6.7.1). */
static void collect_nmis(struct vcpu *v)
{
	u32 n = atomic_exchange(&v->nmi_queued, 0);
	u32 limit = v->cpu.nmi_blocked || v->cpu.inject.type == EV_NMI ? 1 : 2;

	v->nmi_pending = MIN(v->nmi_pending + n, limit);
}

static bool has_interrupt(struct vcpu *v)
{
	if (!lapic_in_kernel(v))
		return v->irq_queued;
	if (v->extint_vector >= 0 && lapic_accepts_extint(&v->lapic))
		return true;
	return irqchip_has_interrupt(&v->vm->irqchip, &v->lapic);
}

static int take_interrupt(struct vcpu *v)
{
	int vector;

	if (!lapic_in_kernel(v)) {
		v->irq_queued = false;
		return v->irq_vector;
	}
	if (v->extint_vector >= 0 && lapic_accepts_extint(&v->lapic)) {
		vector = v->extint_vector;
		v->extint_vector = -1;
		return vector;
	}
	return irqchip_ack_interrupt(&v->vm->irqchip, &v->lapic);
}

static bool interrupt_pending(struct vcpu *v)
{
	if (!lapic_in_kernel(v))
		return has_interrupt(v);
	pthread_mutex_lock(&v->vm->irq_lock);
	bool r = has_interrupt(v);
	pthread_mutex_unlock(&v->vm->irq_lock);
	return r;
}

static void inject_interrupt(struct vcpu *v)
{
	int vector = -1;

	if (lapic_in_kernel(v))
		pthread_mutex_lock(&v->vm->irq_lock);
	if (has_interrupt(v))
		vector = take_interrupt(v);
	if (lapic_in_kernel(v))
		pthread_mutex_unlock(&v->vm->irq_lock);
	if (vector < 0)
		return;
	v->vm->ops->inject(&v->cpu, &(struct event){.type = EV_EXTINT, .vector = (u8)vector});
	v->stat.irq_injections++;
	pv_eoi_offer(v);
}

/*
 * Chooses what the guest gets next: an event whose injection was begun, an exception, an NMI, an interrupt
 * (SDM vol. 3A, table 6-2). What cannot be taken yet asks for its window.
 */
static void inject_pending_event(struct vcpu *v)
{
	struct cpu *c = &v->cpu;
	const struct x86_ops *ops = v->vm->ops;

	collect_nmis(v);
	if (c->inject.type != EV_NONE) {
		/* Begun earlier and not yet delivered. */
	} else if (v->exception.type != EV_NONE) {
		ops->inject(c, &v->exception);
		v->exception.type = EV_NONE;
	} else if (v->nmi_pending && !c->nmi_blocked && !c->int_shadow) {
		v->nmi_pending--;
		ops->inject(c, &(struct event){.type = EV_NMI, .vector = VEC_NMI});
		v->stat.nmi_injections++;
	} else if (cpu_irq_allowed(c)) {
		inject_interrupt(v);
	}
	if (v->nmi_pending)
		ops->enable_nmi_window(c);
	if (interrupt_pending(v))
		ops->enable_irq_window(c);
}

/* --- The client's view of interruptibility ------------------------------------------------------------------- */

static bool ready_for_interrupt(const struct vcpu *v)
{
	return cpu_irq_allowed(&v->cpu) && !in_instruction(v) && v->cpu.inject.type == EV_NONE && !v->irq_queued &&
	       v->extint_vector < 0 && v->exception.type == EV_NONE && v->mp_state == KVM_MP_STATE_RUNNABLE;
}

static bool client_wants_window(const struct vcpu *v)
{
	return v->run->request_interrupt_window && !pic_in_kernel(v->vm);
}

/* What the run page says at every exit, errors included. */
static void post_run_save(struct vcpu *v)
{
	struct kvm_run *run = v->run;

	run->if_flag = (v->cpu.rflags & FL_IF) != 0;
	run->cr8 = vcpu_get_cr8(v);
	run->apic_base = v->cpu.apic_base;
	run->ready_for_interrupt_injection = pic_in_kernel(v->vm) || ready_for_interrupt(v);
}

/* --- The loop ---------------------------------------------------------------------------------------------------- */

/* 1: go on; 0: exit to the client. */
static int handle_requests(struct vcpu *v, u32 req)
{
	if (req & VREQ_TRIPLE_FAULT) {
		v->run->exit_reason = KVM_EXIT_SHUTDOWN;
		atomic_fetch_or(&v->requests, req & ~VREQ_TRIPLE_FAULT);
		return 0;
	}
	if (req & VREQ_IOAPIC_EOI) {
		v->run->exit_reason = KVM_EXIT_IOAPIC_EOI;
		v->run->eoi.vector = v->eoi_vector;
		atomic_fetch_or(&v->requests, req & ~VREQ_IOAPIC_EOI);
		return 0;
	}
	if (v->clock_tsc_offset != v->cpu.tsc_offset || v->clock_tsc_ratio != v->cpu.tsc_ratio) {
		v->clock_tsc_offset = v->cpu.tsc_offset;
		v->clock_tsc_ratio = v->cpu.tsc_ratio;
		req |= VREQ_CLOCK;
		if (lapic_in_kernel(v)) {
			pthread_mutex_lock(&v->vm->irq_lock);
			lapic_tsc_changed(&v->lapic);
			pthread_mutex_unlock(&v->vm->irq_lock);
		}
	}
	if (req & VREQ_CLOCK)
		vcpu_clock_update(v);
	if (req & VREQ_STEAL)
		pv_steal_update(v);
	return 1;
}

static void arm_timer(struct vcpu *v, u64 deadline)
{
	if (deadline != v->armed) {
		v->armed = deadline;
		timer_arm(v->vm->timers, &v->timer, deadline);
	}
}

static enum exit_reason engine_run(struct vcpu *v)
{
	enum exit_reason reason = v->vm->ops->run(&v->cpu);

	v->stat.exits++;
	vcpu_stats_publish(v);
	return reason;
}

/* 1: go on, 0: exit to the client, < 0: -errno. */
static int vcpu_enter_guest(struct vcpu *v)
{
	struct cpu *c = &v->cpu;

	/* Cleared before requests are looked at: whoever sets one afterwards sets this again. */
	u32 flags = atomic_exchange(&c->request, 0);
	if (flags & REQ_SIGNAL) {
		if (!in_instruction(v))
			return -EINTR;
		cpu_request(c, REQ_SIGNAL);
	}
	c->msr_exits = atomic_load_explicit(&v->vm->msr_exits, memory_order_relaxed);
	map_get(v);
	u32 req = atomic_exchange(&v->requests, 0);
	int r = handle_requests(v, req);
	if (r <= 0)
		return r;
	if (in_instruction(v)) {
		/* Finished first; then back here. */
		if (req & VREQ_EVENT) {
			atomic_fetch_or(&v->requests, VREQ_EVENT);
			cpu_request(c, REQ_KICK);
		}
	} else {
		if (atomic_load(&v->init_sipi)) {
			vcpu_accept_events(v);
			if (v->mp_state != KVM_MP_STATE_RUNNABLE)
				return 1;
		}
		if (req & VREQ_EVENT) {
			v->stat.req_event++;
			inject_pending_event(v);
		}
	}
	if (client_wants_window(v)) {
		if (ready_for_interrupt(v)) {
			v->stat.request_irq_exits++;
			v->run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
			return 0;
		}
		v->vm->ops->enable_irq_window(c);
	}
	arm_timer(v, atomic_load(&v->deadline));
	enum exit_reason reason = engine_run(v);
	if (v->eoi_offered)
		pv_eoi_collect(v);
	return vcpu_handle_exit(v, reason);
}

/* True when a halted vCPU has a reason to go on, or one that waits for INIT or SIPI has got it. */
static bool has_work(struct vcpu *v)
{
	if (atomic_load(&v->init_sipi) && lapic_in_kernel(v))
		return true;
	if (v->mp_state == KVM_MP_STATE_RUNNABLE)
		return true;
	if (v->mp_state != KVM_MP_STATE_HALTED)
		return false;
	if (atomic_load(&v->unhalted) || atomic_load(&v->requests) & (VREQ_TRIPLE_FAULT | VREQ_IOAPIC_EOI))
		return true;
	if (v->exception.type != EV_NONE || v->cpu.inject.type != EV_NONE)
		return true;
	if ((v->nmi_pending || atomic_load(&v->nmi_queued)) && !v->cpu.nmi_blocked)
		return true;
	return cpu_irq_allowed(&v->cpu) && interrupt_pending(v);
}

/* Sleeps until something happens, the LAPIC's deadline included. -EINTR when a signal ended it, else 1. */
static int vcpu_sleep(struct vcpu *v)
{
	__atomic_store_n(awake(v), 0, __ATOMIC_SEQ_CST);
	u32 word = __atomic_load_n(wake_word(v), __ATOMIC_SEQ_CST);
	u64 deadline = atomic_load(&v->deadline);

	/* The word must be one that any wake-up changes. */
	if (word & AWAKE_BITS)
		return 1;
	if (cpu_immediate_exit(&v->cpu) || atomic_load(&v->cpu.request) & REQ_SIGNAL)
		return -EINTR;
	if (has_work(v))
		return 1;
	/* Without a timeout the kernel would restart the wait after a handler that was installed with SA_RESTART. */
	u64 until = deadline == IRQCHIP_NEVER ? INT64_MAX : deadline;
	if (deadline != IRQCHIP_NEVER)
		prctl(PR_SET_TIMERSLACK, 1UL);
	int r = sigmask_wait(v, wake_word(v), word, until);
	if (deadline != IRQCHIP_NEVER)
		prctl(PR_SET_TIMERSLACK, 0UL); /* back to the thread's default */
	if (r == -EINTR)
		return r;
	if (deadline != IRQCHIP_NEVER && timer_now() >= deadline)
		vcpu_lapic_expire(v);
	return 1;
}

/* HLT and the states before the first SIPI. 1: go on, < 0: -errno. */
static int vcpu_block(struct vcpu *v)
{
	u64 start = 0;
	int r = 1;

	arm_timer(v, IRQCHIP_NEVER);
	map_put(v);
	atomic_store(&v->blocking, true);
	while (r > 0 && !has_work(v)) {
		start = start ? start : timer_now();
		r = vcpu_sleep(v);
	}
	/* As KVM counts: what had not to wait is none, and a signal is no wakeup. */
	if (start && v->mp_state == KVM_MP_STATE_HALTED) {
		v->stat.halt_wait_ns += timer_now() - start;
		v->stat.halt_wakeup += r > 0;
	}
	atomic_store(&v->blocking, false);
	if (r < 0)
		return r;
	vcpu_accept_events(v);
	atomic_store(&v->unhalted, false);
	if (v->mp_state == KVM_MP_STATE_HALTED && !atomic_load(&v->init_sipi))
		v->mp_state = KVM_MP_STATE_RUNNABLE;
	atomic_fetch_or(&v->requests, VREQ_EVENT | (v->msr_steal_time ? VREQ_STEAL : 0));
	return 1;
}

static int vcpu_run(struct vcpu *v)
{
	v->run->exit_reason = KVM_EXIT_UNKNOWN;
	for (;;) {
		int r = v->mp_state == KVM_MP_STATE_RUNNABLE ? vcpu_enter_guest(v) : vcpu_block(v);

		if (r > 0 && !in_instruction(v) && (cpu_immediate_exit(&v->cpu) || sigmask_pending(v)))
			r = -EINTR;
		if (r == -EINTR) {
			v->stat.signal_exits++;
			v->run->exit_reason = KVM_EXIT_INTR;
		}
		if (r <= 0)
			return r;
	}
}

/* The first run of a processor that waits for INIT: EAGAIN tells the client that its state has changed. */
static int run_uninitialized(struct vcpu *v)
{
	if (cpu_immediate_exit(&v->cpu))
		return -EINTR;
	int r = vcpu_block(v);
	if (r == -EINTR) {
		v->run->exit_reason = KVM_EXIT_INTR;
		return r;
	}
	return r < 0 ? r : -EAGAIN;
}

static int sync_regs(struct vcpu *v)
{
	struct kvm_sync_regs *s = &v->run->s.regs;
	u64 dirty = v->run->kvm_dirty_regs;

	if (dirty & KVM_SYNC_X86_REGS) {
		struct kvm_regs regs = s->regs;
		regs_set(v, &regs);
	}
	if (dirty & KVM_SYNC_X86_SREGS) {
		struct kvm_sregs sregs = s->sregs;
		if (sregs_set(v, &sregs))
			return -EINVAL;
	}
	if (dirty & KVM_SYNC_X86_EVENTS) {
		struct kvm_vcpu_events events = s->events;
		if (events_set(v, &events))
			return -EINVAL;
	}
	v->run->kvm_dirty_regs = 0;
	return 0;
}

static void store_regs(struct vcpu *v)
{
	u64 valid = v->run->kvm_valid_regs;

	if (valid & KVM_SYNC_X86_REGS)
		regs_get(v, &v->run->s.regs.regs);
	if (valid & KVM_SYNC_X86_SREGS)
		sregs_get(v, &v->run->s.regs.sregs);
	if (valid & KVM_SYNC_X86_EVENTS)
		events_get(v, &v->run->s.regs.events);
}

static int run_prepared(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	bool exit_at_once = cpu_immediate_exit(&v->cpu);

	if (v->mp_state == KVM_MP_STATE_UNINITIALIZED)
		return run_uninitialized(v);
	if ((run->kvm_valid_regs | run->kvm_dirty_regs) & ~(u64)KVM_SYNC_X86_VALID_FIELDS)
		return -EINVAL;
	int r = run->kvm_dirty_regs ? sync_regs(v) : 0;
	if (r)
		return r;
	if (!lapic_in_kernel(v) && !vcpu_set_cr8(v, run->cr8))
		return -EINVAL;
	r = vcpu_complete(v);
	if (r < 0)
		return r;
	if (exit_at_once) {
		/* The instruction that the client has just answered is finished; it may ask for more. */
		if (!in_instruction(v))
			return -EINTR;
		run->exit_reason = KVM_EXIT_UNKNOWN;
		map_get(v);
		do {
			cpu_request(&v->cpu, REQ_KICK);
			r = vcpu_handle_exit(v, engine_run(v));
		} while (r > 0 && in_instruction(v));
		return r > 0 ? -EINTR : r;
	}
	return vcpu_run(v);
}

long vcpu_run_ioctl(struct vcpu *v)
{
	struct cpu *c = &v->cpu;

	v->ran = true;
	v->run->flags = 0;
	current_vcpu = v;
	v->vm->ops->vcpu_load(c); /* before the mask: what it lets through stays so afterwards */
	sigmask_activate(v);
	if (v->msr_steal_time)
		atomic_fetch_or(&v->requests, VREQ_STEAL);
	int r = run_prepared(v);
	v->vm->ops->vcpu_put(c);
	atomic_fetch_and(&c->request, ~REQ_SIGNAL);
	arm_timer(v, atomic_load(&v->deadline));
	map_put(v);
	sigmask_deactivate(v);
	current_vcpu = NULL;
	if (v->run->kvm_valid_regs)
		store_regs(v);
	post_run_save(v);
	vcpu_stats_publish(v);
	return r;
}
