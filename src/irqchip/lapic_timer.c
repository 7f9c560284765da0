/* The APIC timer (SDM vol. 3A, 11.5.4). */
#include "irqchip/lapic_priv.h"

/* No periodic interrupt comes more often, as in KVM: a guest must not keep the host busy with its timer. */
#define MIN_PERIOD_NS 200000u
/* Far enough to be never, near enough that adding to now() cannot overflow. */
#define MAX_PERIOD_NS BIT64(62)

u32 lapic_timer_mode_mask(const struct lapic *l)
{
	return l->has_tsc_deadline ? 3u << 17 : 1u << 17;
}

static enum timer_mode mode_of(const struct lapic *l, u32 lvt)
{
	return (lvt & lapic_timer_mode_mask(l)) >> 17;
}

static enum timer_mode timer_mode(const struct lapic *l)
{
	return mode_of(l, reg_get(l, LAPIC_LVT_TIMER));
}

static u64 now(const struct lapic *l)
{
	return l->chip->host->now(l->chip->owner);
}

/* Nanoseconds of one count. Divide configuration: bits 3, 1, 0; 111 divides by 1 (SDM vol. 3A, figure 11-10). */
static u64 count_ns(const struct lapic *l)
{
	u32 div = reg_get(l, LAPIC_TIMER_DIV), shift = ((div & 3) | (div >> 1 & 4)) + 1;

	return (u64)MAX(l->chip->bus_cycle_ns, 1u) << (shift & 7);
}

static u64 counts_to_ns(const struct lapic *l, u32 count)
{
	u128 ns = (u128)count * count_ns(l);

	return ns < MAX_PERIOD_NS ? (u64)ns : MAX_PERIOD_NS;
}

/* Interval of the interrupts of a periodic timer. */
static u64 interval(const struct lapic *l)
{
	return MAX(l->period, (u64)MIN_PERIOD_NS);
}

static void set_deadline(struct lapic *l, u64 deadline)
{
	if (l->deadline == deadline)
		return;
	l->deadline = deadline;
	l->chip->host->rearm_lapic(l->vcpu);
}

void lapic_timer_stop(struct lapic *l)
{
	l->period = 0;
	l->tsc_deadline = 0;
	set_deadline(l, IRQCHIP_NEVER);
}

/* Starts to count down from @count. */
static void start(struct lapic *l, u32 count)
{
	u64 t = now(l);

	l->period = counts_to_ns(l, reg_get(l, LAPIC_TIMER_INIT));
	if (!l->period || timer_mode(l) == TIMER_RESERVED) {
		set_deadline(l, IRQCHIP_NEVER);
		return;
	}
	if (timer_mode(l) == TIMER_PERIODIC && count == reg_get(l, LAPIC_TIMER_INIT))
		set_deadline(l, t + interval(l));
	else
		set_deadline(l, t + MIN(counts_to_ns(l, count), l->period));
}

u32 lapic_timer_count(const struct lapic *l)
{
	u64 t, left, count;

	if (l->deadline == IRQCHIP_NEVER || timer_mode(l) == TIMER_TSC_DEADLINE)
		return 0;
	t = now(l);
	if (t < l->deadline)
		left = l->deadline - t;
	else if (timer_mode(l) == TIMER_PERIODIC)
		left = interval(l) - (t - l->deadline) % interval(l);
	else
		return 0;
	count = left / count_ns(l);
	return MIN(count, (u64)reg_get(l, LAPIC_TIMER_INIT));
}

void lapic_timer_write_init(struct lapic *l, u32 value)
{
	if (timer_mode(l) == TIMER_TSC_DEADLINE)
		return;
	reg_set(l, LAPIC_TIMER_INIT, value);
	start(l, value);
}

void lapic_timer_write_div(struct lapic *l, u32 value)
{
	u32 count = lapic_timer_count(l);

	value &= 0xb;
	if (reg_get(l, LAPIC_TIMER_DIV) == value)
		return;
	reg_set(l, LAPIC_TIMER_DIV, value);
	if (l->deadline != IRQCHIP_NEVER && timer_mode(l) != TIMER_TSC_DEADLINE)
		start(l, count);
}

void lapic_timer_write_lvt(struct lapic *l, u32 value)
{
	enum timer_mode was = timer_mode(l), is = mode_of(l, value);

	reg_set(l, LAPIC_LVT_TIMER, value);
	/* To and from TSC-deadline mode disarms the timer (SDM vol. 3A, 11.5.4.1); the reserved mode is none at all. */
	if (is != TIMER_RESERVED && (was == TIMER_TSC_DEADLINE) == (is == TIMER_TSC_DEADLINE))
		return;
	reg_set(l, LAPIC_TIMER_INIT, 0);
	lapic_timer_stop(l);
}

u64 lapic_get_tsc_deadline(const struct lapic *l)
{
	return lapic_hw_enabled(l) && timer_mode(l) == TIMER_TSC_DEADLINE ? l->tsc_deadline : 0;
}

void lapic_tsc_changed(struct lapic *l)
{
	u64 t = now(l);

	if (timer_mode(l) != TIMER_TSC_DEADLINE)
		return;
	if (!l->tsc_deadline) {
		set_deadline(l, IRQCHIP_NEVER);
		return;
	}
	if (l->chip->host->guest_tsc(l->vcpu) >= l->tsc_deadline)
		l->deadline = t;
	else
		set_deadline(l, MIN(l->chip->host->tsc_to_ns(l->vcpu, l->tsc_deadline), t + MAX_PERIOD_NS));
	lapic_expire(l, t);
}

void lapic_set_tsc_deadline(struct lapic *l, u64 tsc)
{
	if (!lapic_hw_enabled(l) || timer_mode(l) != TIMER_TSC_DEADLINE)
		return;
	l->tsc_deadline = tsc;
	lapic_tsc_changed(l);
}

u64 lapic_next_deadline(const struct lapic *l)
{
	return l->deadline;
}

void lapic_expire(struct lapic *l, u64 t)
{
	u64 late;

	if (t < l->deadline)
		return;
	late = t - l->deadline;
	switch (timer_mode(l)) {
	case TIMER_PERIODIC:
		/* Periods that were missed are one interrupt: the IRR holds no more. */
		set_deadline(l, l->deadline + (late / interval(l) + 1) * interval(l));
		break;
	case TIMER_TSC_DEADLINE:
		l->tsc_deadline = 0;
		/* fall through */
	default:
		set_deadline(l, IRQCHIP_NEVER);
	}
	lapic_local(l, LAPIC_LVT_TIMER);
}

void lapic_timer_restore(struct lapic *l, u32 count)
{
	if (timer_mode(l) == TIMER_TSC_DEADLINE) {
		l->period = 0;
		lapic_tsc_changed(l);
		return;
	}
	l->tsc_deadline = 0;
	/* A periodic timer always counts; a one-shot at zero has fired. */
	if (!count && timer_mode(l) == TIMER_PERIODIC)
		count = reg_get(l, LAPIC_TIMER_INIT);
	if (count)
		start(l, count);
	else
		set_deadline(l, IRQCHIP_NEVER);
}
