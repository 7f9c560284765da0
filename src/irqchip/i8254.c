/*
 * Intel 8254 (data sheet 231164). Counters are computed from the time at which
 * they were started. As in KVM a new count is taken at once in every mode,
 * and each tick of channel 0 is a pulse on its line.
 */
#include <string.h>

#include "irqchip/irqchip.h"

/* Read/write formats of a counter (control word bits 5:4), and the state after the first byte of the last. */
enum rw { RW_LATCH, RW_LSB, RW_MSB, RW_WORD, RW_WORD_MSB };
/* kvm_pit_channel_state.mode before the first control word: the counter runs, OUT does not move. */
#define MODE_NONE 0xff

#define NS_PER_SEC 1000000000ull
/* No periodic interrupt comes more often, as in KVM. */
#define MIN_PERIOD_NS 200000u

static u64 now(const struct i8254 *s)
{
	return s->chip->host->now(s->chip->owner);
}

static bool is_periodic(unsigned mode)
{
	return mode == 2 || mode == 3;
}

/* Modes in which a rising GATE starts the count anew; 1 and 5 also wait for the first one. */
static bool is_triggered(unsigned mode)
{
	return mode == 1 || mode == 5;
}

/* Input clocks since counter @n was started. */
static u64 elapsed(const struct i8254 *s, unsigned n)
{
	u64 start = s->state.channels[n].count_load_time;
	u64 t = s->stopped & BIT(n) ? s->stop_time[n] : now(s);

	return t > start ? (u64)((u128)(t - start) * I8254_HZ / NS_PER_SEC) : 0;
}

static u16 to_bcd(u32 v)
{
	v %= 10000;
	return v / 1000 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10;
}

static u32 from_bcd(u32 v)
{
	return (v >> 12 & 15) * 1000 + (v >> 8 & 15) * 100 + (v >> 4 & 15) * 10 + (v & 15);
}

/* The counting element as a read shows it. */
static u16 current_count(const struct i8254 *s, unsigned n)
{
	const struct kvm_pit_channel_state *c = &s->state.channels[n];
	u64 d = elapsed(s, n);
	u32 modulus = c->bcd ? 10000 : 0x10000, value;

	switch (c->mode) {
	case 2:
		value = c->count - d % c->count;
		break;
	case 3: /* counts by two, from an even number */
		value = (c->count - d % c->count * 2 % c->count) & ~1u;
		break;
	default: /* goes on through zero */
		value = (c->count + modulus - d % modulus) % modulus;
	}
	return c->bcd ? to_bcd(value) : value;
}

/* The OUT pin. */
static bool output(const struct i8254 *s, unsigned n)
{
	const struct kvm_pit_channel_state *c = &s->state.channels[n];
	u64 d;

	/* Before the count is there, or the first trigger, OUT is as the control word left it. */
	if (s->null_count & BIT(n))
		return c->mode != 0;
	if (s->untriggered & BIT(n) || (is_periodic(c->mode) && !c->gate))
		return true;
	d = elapsed(s, n);
	switch (c->mode) {
	case MODE_NONE:
		return true;
	case 2:
		return d % c->count != c->count - 1;
	case 3:
		return d % c->count < (c->count + 1) / 2;
	case 4:
	case 5:
		return d != c->count;
	default:
		return d >= c->count;
	}
}

static void set_deadline(struct i8254 *s, u64 deadline)
{
	if (s->deadline == deadline)
		return;
	s->deadline = deadline;
	s->chip->host->rearm(s->chip->owner);
}

/* Interrupts of channel 0, which starts to count now. Its GATE is always high, so modes 1 and 5 never start. */
static void arm(struct i8254 *s)
{
	const struct kvm_pit_channel_state *c = &s->state.channels[0];
	u64 ns = (c->count * NS_PER_SEC + I8254_HZ - 1) / I8254_HZ;

	s->period = is_periodic(c->mode) ? MAX(ns, (u64)MIN_PERIOD_NS) : 0;
	s->pending = 0;
	s->acked = true;
	if (s->state.flags & KVM_PIT_FLAGS_HPET_LEGACY || is_triggered(c->mode) || c->mode == MODE_NONE)
		set_deadline(s, IRQCHIP_NEVER);
	else
		set_deadline(s, now(s) + (s->period ? s->period : ns));
}

/* The counter stands still until a count has been written. */
static void halt(struct i8254 *s, unsigned n)
{
	if (!(s->stopped & BIT(n)))
		s->stop_time[n] = now(s);
	s->stopped |= BIT(n);
	s->null_count |= BIT(n);
	s->untriggered &= ~BIT(n);
	if (n == 0)
		set_deadline(s, IRQCHIP_NEVER);
}

/* A count has been written whole. */
static void load_count(struct i8254 *s, unsigned n, u32 value)
{
	struct kvm_pit_channel_state *c = &s->state.channels[n];

	c->count = c->bcd ? from_bcd(value) : value;
	if (!c->count)
		c->count = c->bcd ? 10000 : 0x10000;
	c->count_load_time = now(s);
	s->stop_time[n] = c->count_load_time;
	s->null_count &= ~BIT(n);
	s->untriggered &= ~BIT(n);
	s->stopped &= ~BIT(n);
	if (is_triggered(c->mode)) {
		s->untriggered |= BIT(n);
		s->stopped |= BIT(n);
	} else if (!c->gate) {
		s->stopped |= BIT(n);
	}
	if (n == 0)
		arm(s);
}

static void set_gate(struct i8254 *s, unsigned n, bool gate)
{
	struct kvm_pit_channel_state *c = &s->state.channels[n];
	bool rising = gate && !c->gate, falling = !gate && c->gate;
	u64 t = now(s);

	c->gate = gate;
	if (s->null_count & BIT(n))
		return;
	if (is_triggered(c->mode)) {
		if (!rising)
			return;
		c->count_load_time = t;
		s->untriggered &= ~BIT(n);
		s->stopped &= ~BIT(n);
	} else if (falling) {
		s->stop_time[n] = t;
		s->stopped |= BIT(n);
	} else if (rising) {
		/* Modes 2 and 3 start anew, 0 and 4 go on. */
		if (is_periodic(c->mode))
			c->count_load_time = t;
		else
			c->count_load_time += t - s->stop_time[n];
		s->stopped &= ~BIT(n);
	}
}

static void latch_count(struct i8254 *s, unsigned n)
{
	struct kvm_pit_channel_state *c = &s->state.channels[n];

	if (c->count_latched)
		return;
	c->latched_count = current_count(s, n);
	c->count_latched = c->rw_mode;
}

static void latch_status(struct i8254 *s, unsigned n)
{
	struct kvm_pit_channel_state *c = &s->state.channels[n];

	if (c->status_latched)
		return;
	c->status = output(s, n) << 7 | (s->null_count >> n & 1) << 6 | (c->rw_mode & 3) << 4 | (c->mode & 7) << 1 |
		c->bcd;
	c->status_latched = 1;
}

static void write_control(struct i8254 *s, u8 value)
{
	unsigned n = value >> 6, rw = value >> 4 & 3, mode = value >> 1 & 7;
	struct kvm_pit_channel_state *c;

	if (n == 3) { /* read-back: COUNT# and STATUS# are active low */
		for (n = 0; n < 3; n++) {
			if (!(value & 2 << n))
				continue;
			if (!(value & 0x20))
				latch_count(s, n);
			if (!(value & 0x10))
				latch_status(s, n);
		}
		return;
	}
	if (rw == RW_LATCH) {
		latch_count(s, n);
		return;
	}
	c = &s->state.channels[n];
	c->rw_mode = c->read_state = c->write_state = rw;
	c->mode = mode > 5 ? mode - 4 : mode;
	c->bcd = value & 1;
	c->count_latched = c->status_latched = 0;
	halt(s, n);
}

static void write_counter(struct i8254 *s, unsigned n, u8 value)
{
	struct kvm_pit_channel_state *c = &s->state.channels[n];

	switch (c->write_state) {
	case RW_LSB:
		load_count(s, n, value);
		break;
	case RW_MSB:
		load_count(s, n, value << 8);
		break;
	case RW_WORD:
		c->write_latch = value;
		c->write_state = RW_WORD_MSB;
		if (c->mode == 0) /* the first of two bytes disables counting */
			halt(s, n);
		break;
	case RW_WORD_MSB:
		c->write_state = RW_WORD;
		load_count(s, n, c->write_latch | value << 8);
		break;
	}
}

static u8 read_counter(struct i8254 *s, unsigned n)
{
	struct kvm_pit_channel_state *c = &s->state.channels[n];
	u16 count;
	bool high;

	if (c->status_latched) {
		c->status_latched = 0;
		return c->status;
	}
	if (c->count_latched) {
		count = c->latched_count;
		high = c->count_latched == RW_MSB;
		c->count_latched = c->count_latched == RW_WORD ? RW_MSB : 0;
	} else {
		count = current_count(s, n);
		high = c->read_state == RW_MSB || c->read_state == RW_WORD_MSB;
		if (c->read_state == RW_WORD)
			c->read_state = RW_WORD_MSB;
		else if (c->read_state == RW_WORD_MSB)
			c->read_state = RW_WORD;
	}
	return high ? count >> 8 : count;
}

/* Port 61h as the chip sets have it: timer 2 gate, speaker data, refresh toggle (bit 4), OUT of timer 2 (bit 5). */
static u8 read_speaker(struct i8254 *s)
{
	bool data = s->state.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	u8 refresh = now(s) >> 14 & 1; /* about the 15 us of a DRAM refresh */

	return output(s, 2) << 5 | refresh << 4 | data << 1 | s->state.channels[2].gate;
}

static void write_speaker(struct i8254 *s, u8 value)
{
	if (value & 2)
		s->state.flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	else
		s->state.flags &= ~KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	set_gate(s, 2, value & 1);
}

static bool is_ours(const struct i8254 *s, u16 port, unsigned len)
{
	return (port >= 0x40 && port + len <= 0x44) || (s->speaker && port == 0x61 && len <= 4);
}

bool i8254_pio_read(struct i8254 *s, u16 port, void *data, unsigned len)
{
	u8 value = 0;

	if (!is_ours(s, port, len))
		return false;
	if (port == 0x61)
		value = read_speaker(s);
	else if (port < 0x43)
		value = read_counter(s, port - 0x40);
	memset(data, 0, len);
	memcpy(data, &value, 1);
	return true;
}

bool i8254_pio_write(struct i8254 *s, u16 port, const void *data, unsigned len)
{
	u8 value;

	if (!is_ours(s, port, len))
		return false;
	memcpy(&value, data, 1);
	if (port == 0x61)
		write_speaker(s, value);
	else if (port == 0x43)
		write_control(s, value);
	else
		write_counter(s, port - 0x40, value);
	return true;
}

/* A pulse on GSI 0, and, where LINT0 is an NMI, on that: the old way of an NMI watchdog. */
static void pulse(struct i8254 *s)
{
	struct irqchip *chip = s->chip;

	irqchip_set_irq(chip, IRQ_SOURCE_PIT, 0, true);
	irqchip_set_irq(chip, IRQ_SOURCE_PIT, 0, false);
	for (u32 i = 0; i < chip->nr_lapic; i++)
		if ((chip->lapic[i]->reg[LAPIC_LVT_LINT0 / 4] >> 8 & 7) == APIC_NMI)
			lapic_local(chip->lapic[i], LAPIC_LVT_LINT0);
}

/* Sends the next of the ticks that wait, when the guest is through with the last. */
static void inject(struct i8254 *s)
{
	if (!s->pending || !s->acked)
		return;
	s->acked = false;
	pulse(s);
}

void i8254_expire(struct i8254 *s, u64 t)
{
	u64 ticks = 1;

	if (t < s->deadline)
		return;
	if (s->period) {
		ticks = (t - s->deadline) / s->period + 1;
		set_deadline(s, s->deadline + ticks * s->period);
	} else {
		set_deadline(s, IRQCHIP_NEVER);
	}
	if (!s->reinject) {
		pulse(s);
		return;
	}
	s->pending += MIN(ticks, (u64)(~0u - s->pending));
	inject(s);
}

void i8254_ack(struct i8254 *s)
{
	if (!s->reinject || s->acked)
		return;
	s->acked = true;
	if (s->pending)
		s->pending--;
	inject(s);
}

void i8254_drop_pending(struct i8254 *s)
{
	s->pending = 0;
	s->acked = true;
}

void i8254_set_reinject(struct i8254 *s, bool reinject)
{
	s->reinject = reinject;
	i8254_drop_pending(s);
}

void i8254_init(struct i8254 *s, struct irqchip *chip, bool speaker)
{
	*s = (struct i8254){ .chip = chip, .speaker = speaker, .reinject = true, .deadline = IRQCHIP_NEVER };
	for (unsigned n = 0; n < 3; n++) {
		s->state.channels[n].mode = MODE_NONE;
		s->state.channels[n].gate = n != 2;
		load_count(s, n, 0);
	}
}

void i8254_get_state(const struct i8254 *s, struct kvm_pit_state2 *state)
{
	*state = s->state;
	memset(state->reserved, 0, sizeof(state->reserved));
}

void i8254_set_state(struct i8254 *s, const struct kvm_pit_state2 *state)
{
	u64 t = now(s);

	s->state = *state;
	s->null_count = s->untriggered = s->stopped = 0;
	for (unsigned n = 0; n < 3; n++) {
		struct kvm_pit_channel_state *c = &s->state.channels[n];

		c->bcd = !!c->bcd;
		c->gate = n == 2 ? !!c->gate : 1;
		c->mode = c->mode > 7 ? MODE_NONE : c->mode > 5 ? c->mode - 4 : c->mode;
		if (!c->count || c->count > (c->bcd ? 10000 : 0x10000))
			c->count = c->bcd ? 10000 : 0x10000;
		s->stop_time[n] = t;
		if (!c->gate && !is_triggered(c->mode))
			s->stopped |= BIT(n);
	}
	/* Channel 0 starts anew, as on KVM. */
	s->state.channels[0].count_load_time = t;
	arm(s);
}
