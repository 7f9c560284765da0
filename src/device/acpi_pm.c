/*
 * ACPI fixed hardware (ACPI 6.5, 4.8.3): the PM1a event and control blocks and the PM timer. Always in ACPI mode.
 * Writing SLP_EN with the soft-off type powers the machine off.
 */
#include "device/devices.h"

enum { EVENT_REGION, CONTROL_REGION, TIMER_REGION };

#define PM_TMR_HZ 3579545u
#define NS 1000000000u

#define PM1_TMR 0x0001u    /* status: the timer's top bit changed; enable: tell by SCI */
#define PM1_GBL 0x0020u
#define PM1_PWRBTN 0x0100u
#define PM1_SLPBTN 0x0200u
#define PM1_RTC 0x0400u
#define PM1_WAKE 0x8000u
#define PM1_ENABLES (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC)
#define PM1_STATUSES (PM1_ENABLES | PM1_WAKE)

#define CNT_SCI_EN 0x0001u
#define CNT_BM_RLD 0x0002u
#define CNT_SLP_TYP 0x1c00u
#define CNT_SLP_TYP_SHIFT 10
#define CNT_SLP_EN 0x2000u

struct acpi_pm {
	u16 status, enable, control;
	u64 epoch;    /* monotonic ns at which the timer was 0 */
	u64 half_turns; /* changes of the timer's top bit that are accounted for */
};

static u64 timer_ticks(const struct acpi_pm *s, u64 now)
{
	return (u64)((u128)(now - s->epoch) * PM_TMR_HZ / NS);
}

static void update_irq(struct device *d)
{
	const struct acpi_pm *s = d->state;

	device_set_irq(d, s->status & s->enable & PM1_ENABLES);
}

static void update_timer(struct acpi_pm *s, u64 now)
{
	u64 half_turns = timer_ticks(s, now) >> 31;

	if (half_turns != s->half_turns)
		s->status |= PM1_TMR;
	s->half_turns = half_turns;
}

static u64 acpi_pm_tick(struct device *d, u64 now)
{
	struct acpi_pm *s = d->state;

	update_timer(s, now);
	update_irq(d);
	if (!(s->enable & ~s->status & PM1_TMR))
		return DEVICE_NO_DEADLINE;
	/* Rounded up: at the deadline the bit has changed. */
	return s->epoch + (u64)(((u128)(s->half_turns + 1) << 31) * NS / PM_TMR_HZ) + 1;
}

static u64 acpi_pm_read(struct device *d, unsigned region, u64 offset, unsigned size)
{
	struct acpi_pm *s = d->state;
	u64 now = d->board->ops->monotonic_ns(d->board);

	switch (region) {
	case EVENT_REGION:
		update_timer(s, now);
		return ((u32)s->enable << 16 | s->status) >> (8 * offset);
	case CONTROL_REGION: return (u64)(s->control | CNT_SCI_EN) >> (8 * offset);
	default: return (u32)timer_ticks(s, now);
	}
}

static void write_control(struct device *d, u16 value)
{
	struct acpi_pm *s = d->state;

	s->control = value & (CNT_BM_RLD | CNT_SLP_TYP);
	if ((value & CNT_SLP_EN) && (value & CNT_SLP_TYP) >> CNT_SLP_TYP_SHIFT == ACPI_PM_SLP_TYP_S5)
		board_stop(d->board, STOP_POWEROFF, 0);
}

static void acpi_pm_write(struct device *d, unsigned region, u64 offset, unsigned size, u64 value)
{
	struct acpi_pm *s = d->state;
	unsigned shift = 8 * (unsigned)(offset & 1);
	unsigned mask = size == 1 ? 0xffu << shift : 0xffffu;
	unsigned bits = (unsigned)(value << shift) & mask;

	if (region == CONTROL_REGION)
		write_control(d, (u16)((s->control & ~mask) | bits));
	else if (region == EVENT_REGION && offset < 2)
		s->status &= (u16)~(bits & PM1_STATUSES); /* writing one clears */
	else if (region == EVENT_REGION)
		s->enable = (u16)(((s->enable & ~mask) | bits) & PM1_ENABLES);
	update_irq(d);
}

static void acpi_pm_reset(struct device *d)
{
	*(struct acpi_pm *)d->state = (struct acpi_pm){.epoch = d->board->ops->monotonic_ns(d->board)};
	update_irq(d);
}

const struct device_ops acpi_pm_ops = {
	.name = "acpi-pm",
	.state_size = sizeof(struct acpi_pm),
	.reset = acpi_pm_reset,
	.read = acpi_pm_read,
	.write = acpi_pm_write,
	.tick = acpi_pm_tick,
};
