/*
 * The MC146818 clock with its CMOS RAM (Motorola data sheet; the PC's use of the RAM as Ralf Brown's list has it).
 *
 * The time shown is the host's UTC plus an offset that the guest's writes move. Interrupts cost nothing while their
 * enable bit is clear or their flag is still unread.
 */
#include <time.h>

#include "device/devices.h"

#define NS 1000000000ll

enum {
	SECONDS = 0, SECONDS_ALARM = 1, MINUTES = 2, MINUTES_ALARM = 3, HOURS = 4, HOURS_ALARM = 5,
	DAY_OF_WEEK = 6, DAY_OF_MONTH = 7, MONTH = 8, YEAR = 9,
	REG_A = 10, REG_B = 11, REG_C = 12, REG_D = 13,
	CENTURY = 0x32,
};

#define A_UIP 0x80u
#define A_RATE 0x0fu
#define B_SET 0x80u
#define B_BINARY 0x04u
#define B_24H 0x02u
/* Enables in register B, flags in register C: the same bits. */
#define PERIODIC 0x40u
#define ALARM 0x20u
#define UPDATE 0x10u
#define C_IRQF 0x80u

#define D_VALID 0x80u
#define HOUR_PM 0x80u
#define ALARM_ANY 0xc0u /* both top bits set: any value matches */

/* UIP rises 244 us before an update that takes 1984 us; the new second shows when it falls. */
#define UIP_NS ((244 + 1984) * 1000)

struct mc146818 {
	u8 index;
	u8 ram[128];
	s64 offset;        /* guest time minus host time, ns */
	s64 last_second;   /* guest time up to which UPDATE and ALARM are accounted for */
	s64 next_alarm;    /* guest second */
	u64 periodic_base; /* monotonic ns at which the divider was set */
	u64 periodic_last; /* periods since then that are accounted for */
};

static s64 guest_ns(struct device *d)
{
	const struct mc146818 *s = d->state;

	return (s64)d->board->ops->wall_ns(d->board) + s->offset;
}

static s64 guest_second(struct device *d)
{
	s64 ns = guest_ns(d);

	return ns < 0 ? 0 : ns / NS;
}

static u8 encode(const struct mc146818 *s, int v)
{
	return (u8)(s->ram[REG_B] & B_BINARY ? v : v / 10 * 16 + v % 10);
}

static int decode(const struct mc146818 *s, u8 v)
{
	return s->ram[REG_B] & B_BINARY ? v : (v >> 4) * 10 + (v & 15);
}

static u8 encode_hour(const struct mc146818 *s, int hour)
{
	if (s->ram[REG_B] & B_24H)
		return encode(s, hour);
	return (u8)(encode(s, (hour + 11) % 12 + 1) | (hour >= 12 ? HOUR_PM : 0));
}

static int decode_hour(const struct mc146818 *s, u8 v)
{
	if (s->ram[REG_B] & B_24H)
		return decode(s, v);
	return decode(s, v & 0x7f) % 12 + (v & HOUR_PM ? 12 : 0);
}

static bool is_time(unsigned reg)
{
	return reg == CENTURY || (reg <= YEAR && reg != SECONDS_ALARM && reg != MINUTES_ALARM && reg != HOURS_ALARM);
}

/* Shows the current time in the registers, unless the guest holds them still. */
static void load_time(struct device *d)
{
	struct mc146818 *s = d->state;
	time_t now = (time_t)guest_second(d);
	struct tm tm;

	if (s->ram[REG_B] & B_SET || !gmtime_r(&now, &tm))
		return;
	s->ram[SECONDS] = encode(s, tm.tm_sec);
	s->ram[MINUTES] = encode(s, tm.tm_min);
	s->ram[HOURS] = encode_hour(s, tm.tm_hour);
	s->ram[DAY_OF_WEEK] = encode(s, tm.tm_wday + 1);
	s->ram[DAY_OF_MONTH] = encode(s, tm.tm_mday);
	s->ram[MONTH] = encode(s, tm.tm_mon + 1);
	s->ram[YEAR] = encode(s, tm.tm_year % 100);
	s->ram[CENTURY] = encode(s, (tm.tm_year + 1900) / 100 % 100);
}

/* Next second at which the alarm matches, after guest second @from; it does within a day or never. */
static s64 find_alarm(const struct mc146818 *s, s64 from)
{
	const u8 *ram = s->ram;
	bool any_hour = ram[HOURS_ALARM] >= ALARM_ANY;
	bool any_min = ram[MINUTES_ALARM] >= ALARM_ANY;
	bool any_sec = ram[SECONDS_ALARM] >= ALARM_ANY;
	int hour = decode_hour(s, ram[HOURS_ALARM]);
	int min = decode(s, ram[MINUTES_ALARM]);
	int sec = decode(s, ram[SECONDS_ALARM]);
	s64 t = from + 1;

	while (t <= from + 86400) {
		int of_day = (int)(t % 86400);

		if (!any_hour && of_day / 3600 != hour)
			t += 3600 - of_day % 3600;
		else if (!any_min && of_day / 60 % 60 != min)
			t += 60 - of_day % 60;
		else if (!any_sec && of_day % 60 != sec)
			t++;
		else
			return t;
	}
	return INT64_MAX;
}

/* Starts counting seconds and alarms anew from the time shown. */
static void restart_seconds(struct device *d)
{
	struct mc146818 *s = d->state;

	s->last_second = guest_second(d);
	s->next_alarm = find_alarm(s, s->last_second);
}

/* Makes the time in the registers the time shown from now on. */
static void store_time(struct device *d)
{
	struct mc146818 *s = d->state;
	struct tm tm = {
		.tm_sec = decode(s, s->ram[SECONDS]),
		.tm_min = decode(s, s->ram[MINUTES]),
		.tm_hour = decode_hour(s, s->ram[HOURS]),
		.tm_mday = decode(s, s->ram[DAY_OF_MONTH]),
		.tm_mon = decode(s, s->ram[MONTH]) - 1,
		.tm_year = decode(s, s->ram[CENTURY]) * 100 + decode(s, s->ram[YEAR]) - 1900,
	};

	/* A century that the host's 64-bit nanoseconds cannot hold is no time anybody meant. */
	if (tm.tm_year < 70 || tm.tm_year > 300)
		tm.tm_year = 70 + (tm.tm_year % 100 + 100) % 100;
	s->offset = (s64)timegm(&tm) * NS - (s64)d->board->ops->wall_ns(d->board);
	restart_seconds(d);
}

/* Periods of the square wave in @ns; its rate is 32768 Hz >> (rate - 1), and rates 1 and 2 stand for 8 and 9. */
static unsigned period_shift(const struct mc146818 *s)
{
	unsigned rate = s->ram[REG_A] & A_RATE;

	return rate <= 2 ? rate + 6 : rate - 1;
}

static bool periodic_runs(const struct mc146818 *s)
{
	return (s->ram[REG_A] & A_RATE) && (s->ram[REG_A] & 0x70) <= 0x20;
}

static u64 periods_in(const struct mc146818 *s, u64 ns)
{
	return (u64)(((u128)ns << (15 - period_shift(s))) / NS);
}

/* Brings the flags up to date. */
static void update(struct device *d, u64 now)
{
	struct mc146818 *s = d->state;

	if (periodic_runs(s)) {
		u64 periods = periods_in(s, now - s->periodic_base);

		if (periods > s->periodic_last)
			s->ram[REG_C] |= PERIODIC;
		s->periodic_last = periods;
	}
	if (s->ram[REG_B] & B_SET)
		return;

	s64 second = guest_second(d);

	if (second < s->last_second)
		restart_seconds(d); /* the host's clock was set back */
	if (second > s->last_second)
		s->ram[REG_C] |= UPDATE;
	s->last_second = second;
	if (second >= s->next_alarm) {
		s->ram[REG_C] |= ALARM;
		s->next_alarm = find_alarm(s, second);
	}
}

static void update_irq(struct device *d)
{
	struct mc146818 *s = d->state;
	bool level = s->ram[REG_C] & s->ram[REG_B] & (PERIODIC | ALARM | UPDATE);

	s->ram[REG_C] = (u8)((s->ram[REG_C] & ~C_IRQF) | (level ? C_IRQF : 0));
	device_set_irq(d, level);
}

/* Monotonic time at which guest second @second begins. */
static u64 when(struct device *d, u64 now, s64 second)
{
	if (second > INT64_MAX / NS)
		return DEVICE_NO_DEADLINE;
	s64 wait = second * NS - guest_ns(d);

	return now + (wait > 0 ? (u64)wait : 0);
}

static u64 mc146818_tick(struct device *d, u64 now)
{
	struct mc146818 *s = d->state;
	u64 deadline = DEVICE_NO_DEADLINE;

	update(d, now);
	update_irq(d);

	unsigned wanted = s->ram[REG_B] & ~s->ram[REG_C];

	if ((wanted & PERIODIC) && periodic_runs(s))
		/* Rounded up: at the deadline the period is over. */
		deadline = s->periodic_base +
			   (u64)((((u128)(s->periodic_last + 1) * NS) >> (15 - period_shift(s))) + 1);
	if (s->ram[REG_B] & B_SET)
		return deadline;
	if (wanted & UPDATE)
		deadline = MIN(deadline, when(d, now, s->last_second + 1));
	if (wanted & ALARM)
		deadline = MIN(deadline, when(d, now, s->next_alarm));
	return deadline;
}

static void write_register(struct device *d, unsigned reg, u8 value)
{
	struct mc146818 *s = d->state;
	u8 old = s->ram[reg];

	if (is_time(reg)) {
		load_time(d);
		s->ram[reg] = value;
		if (!(s->ram[REG_B] & B_SET))
			store_time(d);
		return;
	}
	switch (reg) {
	case SECONDS_ALARM:
	case MINUTES_ALARM:
	case HOURS_ALARM:
		s->ram[reg] = value;
		s->next_alarm = find_alarm(s, s->last_second);
		break;
	case REG_A:
		s->ram[REG_A] = value & (u8)~A_UIP;
		if ((old ^ value) & 0x7f) {
			s->periodic_base = d->board->ops->monotonic_ns(d->board);
			s->periodic_last = 0;
		}
		break;
	case REG_B:
		load_time(d); /* the time to hold, or to recode */
		s->ram[REG_B] = value & B_SET ? value & (u8)~UPDATE : value;
		if ((old & B_SET) && !(value & B_SET))
			store_time(d);
		s->next_alarm = find_alarm(s, s->last_second);
		break;
	case REG_C:
	case REG_D: break; /* read-only */
	default: s->ram[reg] = value;
	}
}

static u8 read_register(struct device *d, unsigned reg)
{
	struct mc146818 *s = d->state;
	u8 value;

	if (is_time(reg))
		load_time(d);
	switch (reg) {
	case REG_A: {
		s64 ns = guest_ns(d);
		bool uip = !(s->ram[REG_B] & B_SET) && ns > 0 && ns % NS >= NS - UIP_NS;

		return (u8)(s->ram[REG_A] | (uip ? A_UIP : 0));
	}
	case REG_C:
		update(d, d->board->ops->monotonic_ns(d->board));
		update_irq(d);
		value = s->ram[REG_C];
		s->ram[REG_C] = 0;
		return value;
	default: return s->ram[reg];
	}
}

static u64 mc146818_read(struct device *d, unsigned region, u64 offset, unsigned size)
{
	const struct mc146818 *s = d->state;

	return offset == 0 ? s->index : read_register(d, s->index);
}

static void mc146818_write(struct device *d, unsigned region, u64 offset, unsigned size, u64 value)
{
	struct mc146818 *s = d->state;

	if (offset == 0)
		s->index = value & 0x7f; /* bit 7 masks NMI, of which there is none */
	else
		write_register(d, s->index, (u8)value);
}

/* Memory sizes where BIOSes leave them, each capped at what its field holds. */
static void store_memory_size(struct mc146818 *s, u64 low, u64 high)
{
	const struct { u8 reg, bytes; u64 value, max; } field[] = {
		{0x15, 2, 640, 640},                                              /* base memory, KiB */
		{0x17, 2, low > 1 << 20 ? (low - (1 << 20)) >> 10 : 0, 0xffff},   /* above 1 MiB, KiB */
		{0x30, 2, low > 1 << 20 ? (low - (1 << 20)) >> 10 : 0, 0xffff},   /* the same once more */
		{0x34, 2, low > 16 << 20 ? (low - (16 << 20)) >> 16 : 0, 0xffff}, /* above 16 MiB, 64 KiB */
		{0x5b, 3, high >> 16, 0xffffff},                                  /* above 4 GiB, 64 KiB */
	};

	for (size_t i = 0; i < ARRAY_SIZE(field); i++) {
		u64 v = MIN(field[i].value, field[i].max);

		for (unsigned b = 0; b < field[i].bytes; b++)
			s->ram[field[i].reg + b] = (u8)(v >> (8 * b));
	}
}

static void mc146818_reset(struct device *d)
{
	struct mc146818 *s = d->state;

	*s = (struct mc146818){.ram = {[REG_A] = 0x26, [REG_B] = B_24H, [REG_D] = D_VALID}};
	store_memory_size(s, d->board->ram_low, d->board->ram_high);
	s->periodic_base = d->board->ops->monotonic_ns(d->board);
	restart_seconds(d);
	update_irq(d);
}

const struct device_ops mc146818_ops = {
	.name = "mc146818",
	.state_size = sizeof(struct mc146818),
	.reset = mc146818_reset,
	.read = mc146818_read,
	.write = mc146818_write,
	.tick = mc146818_tick,
};
