/* The 8254 against its data sheet (231164), port 61h, and ticks of channel 0 with and without reinjection. */
#include "irqchip_fixture.h"

#define CONTROL 0x43
#define VECTOR 0x30

static int setup(void **state)
{
	struct fixture *f = fixture_new(false);

	*state = f;
	assert_int_equal(irqchip_create_pit(&f->chip, KVM_PIT_SPEAKER_DUMMY), 0);
	/* PIC: vectors 30h, only IR0 open. */
	port_write(f, 0x20, 0x11);
	port_write(f, 0x21, VECTOR);
	port_write(f, 0x21, 0x04);
	port_write(f, 0x21, 0x01);
	port_write(f, 0x21, 0xfe);
	return 0;
}

/* Moves the clock by @ticks input clocks, to just after the last one, without letting timers run. */
static void advance(struct fixture *f, u64 ticks)
{
	f->now += ticks * 1000000000 / I8254_HZ + 1;
}

static void load(struct fixture *f, unsigned n, unsigned mode, unsigned count)
{
	port_write(f, CONTROL, n << 6 | 0x30 | mode << 1);
	port_write(f, 0x40 + n, count);
	port_write(f, 0x40 + n, count >> 8);
}

static unsigned read_word(struct fixture *f, unsigned n)
{
	unsigned low = port_read(f, 0x40 + n);

	return low | port_read(f, 0x40 + n) << 8;
}

/* OUT of a channel, by a status read-back. */
static bool out(struct fixture *f, unsigned n)
{
	port_write(f, CONTROL, 0xe0 | 2 << n);
	return port_read(f, 0x40 + n) >> 7;
}

static void test_formats(void **state)
{
	struct fixture *f = *state;

	port_write(f, CONTROL, 0x50); /* channel 1, LSB only, mode 0 */
	port_write(f, 0x41, 0x80);
	assert_int_equal(f->chip.pit.state.channels[1].count, 0x80);
	assert_int_equal(port_read(f, 0x41), 0x80);
	port_write(f, CONTROL, 0x60); /* MSB only */
	port_write(f, 0x41, 0x12);
	assert_int_equal(f->chip.pit.state.channels[1].count, 0x1200);
	assert_int_equal(port_read(f, 0x41), 0x12);
	load(f, 1, 0, 0x3456);
	assert_int_equal(read_word(f, 1), 0x3456);
	load(f, 1, 0, 0);
	assert_int_equal(f->chip.pit.state.channels[1].count, 0x10000);
	assert_int_equal(port_read(f, CONTROL), 0);
}

static void test_latch(void **state)
{
	struct fixture *f = *state;

	load(f, 1, 2, 1000);
	advance(f, 100);
	port_write(f, CONTROL, 0x40);
	advance(f, 100);
	port_write(f, CONTROL, 0x40); /* ignored until the first is read */
	assert_int_equal(read_word(f, 1), 900);
	assert_int_equal(read_word(f, 1), 800);
	/* A status and a count latched in one command: status first. */
	port_write(f, CONTROL, 0xc0 | 2 << 1);
	advance(f, 50);
	assert_int_equal(port_read(f, 0x41), 0x80 | 0x30 | 2 << 1);
	assert_int_equal(read_word(f, 1), 800);
	assert_int_equal(read_word(f, 1), 750);
	/* The first latched status stays, too; a control word drops what is latched. */
	port_write(f, CONTROL, 0xe4);
	port_write(f, CONTROL, 0x74);
	port_write(f, CONTROL, 0xe4);
	assert_int_equal(port_read(f, 0x41) & 0x40, 0x40);
	load(f, 1, 2, 1000);
	port_write(f, CONTROL, 0xe4);
	port_write(f, CONTROL, 0x40);
	advance(f, 10);
	load(f, 1, 2, 500);
	assert_int_equal(read_word(f, 1), 500);
	port_write(f, 0x61, 1);
	load(f, 2, 0, 3);
	port_write(f, CONTROL, 0xe8);
	advance(f, 5);
	port_write(f, CONTROL, 0xe8);
	assert_int_equal(port_read(f, 0x42) & 0x80, 0); /* OUT as it was */
	/* Status only, of several channels. */
	port_write(f, CONTROL, 0xe0 | 0x0e);
	port_read(f, 0x40);
	assert_int_equal(port_read(f, 0x41) & 0x3f, 0x34);
	port_read(f, 0x42);
	/* A control word without a count: null count. */
	port_write(f, CONTROL, 0x74);
	port_write(f, CONTROL, 0xe4);
	assert_int_equal(port_read(f, 0x41), 0x80 | 0x40 | 0x34);
}

static void test_bcd(void **state)
{
	struct fixture *f = *state;

	port_write(f, CONTROL, 0x71); /* mode 0, BCD */
	port_write(f, 0x41, 0x34);
	port_write(f, 0x41, 0x12);
	advance(f, 35);
	assert_int_equal(read_word(f, 1), 0x1199);
	advance(f, 1200);
	assert_int_equal(read_word(f, 1), 0x9999); /* through zero */
	port_write(f, CONTROL, 0x75); /* mode 2 */
	port_write(f, 0x41, 0);
	port_write(f, 0x41, 0);
	assert_int_equal(f->chip.pit.state.channels[1].count, 10000);
	advance(f, 1);
	assert_int_equal(read_word(f, 1), 0x9999);
}

/* OUT and the count at given clocks after the start. */
static void test_modes(void **state)
{
	static const struct {
		unsigned mode, count, clocks, value;
		bool out;
	} steps[] = {
		{ 0, 100, 0, 100, false }, { 0, 100, 99, 1, false }, { 0, 100, 100, 0, true },
		{ 0, 100, 101, 0xffff, true },
		{ 2, 100, 0, 100, true }, { 2, 100, 98, 2, true }, { 2, 100, 99, 1, false }, { 2, 100, 100, 100, true },
		{ 2, 100, 250, 50, true }, { 6, 100, 99, 1, false },
		{ 3, 100, 0, 100, true }, { 3, 100, 49, 2, true }, { 3, 100, 50, 100, false }, { 3, 100, 99, 2, false },
		{ 3, 100, 100, 100, true }, { 3, 101, 50, 0, true }, { 3, 101, 51, 100, false },
		{ 7, 100, 50, 100, false },
		{ 4, 100, 0, 100, true }, { 4, 100, 99, 1, true }, { 4, 100, 100, 0, false },
		{ 4, 100, 101, 0xffff, true },
	};
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(steps); i++) {
		load(f, 1, steps[i].mode, steps[i].count);
		if (steps[i].clocks)
			advance(f, steps[i].clocks);
		assert_int_equal(out(f, 1), steps[i].out);
		if (i != 15) /* the end of an odd half period is between two readings */
			assert_int_equal(read_word(f, 1), steps[i].value);
	}
}

static void test_gate(void **state)
{
	struct fixture *f = *state;

	port_write(f, 0x61, 0);
	load(f, 2, 0, 1000); /* gate low: does not count */
	advance(f, 500);
	assert_int_equal(read_word(f, 2), 1000);
	port_write(f, 0x61, 1);
	advance(f, 300);
	assert_int_equal(read_word(f, 2), 700);
	port_write(f, 0x61, 0);
	advance(f, 5000);
	assert_int_equal(read_word(f, 2), 700);
	assert_false(out(f, 2));
	port_write(f, 0x61, 1); /* goes on */
	advance(f, 699);
	assert_false(out(f, 2));
	advance(f, 1);
	assert_true(out(f, 2));
	/* Mode 2: OUT is high while the gate is low, and a rising gate starts anew. */
	load(f, 2, 2, 1000);
	advance(f, 400);
	port_write(f, 0x61, 0);
	assert_true(out(f, 2));
	port_write(f, 0x61, 1);
	assert_int_equal(read_word(f, 2), 1000);
	/* Mode 1: waits for the gate, then OUT is low for the count; retriggerable. */
	load(f, 2, 1, 1000);
	advance(f, 2000);
	assert_int_equal(read_word(f, 2), 1000);
	assert_true(out(f, 2));
	port_write(f, 0x61, 0);
	port_write(f, 0x61, 1);
	assert_false(out(f, 2));
	advance(f, 900);
	port_write(f, 0x61, 0);
	port_write(f, 0x61, 1);
	advance(f, 900);
	assert_false(out(f, 2));
	advance(f, 100);
	assert_true(out(f, 2));
	/* Mode 5: a strobe of one clock after the trigger. */
	load(f, 2, 5, 1000);
	port_write(f, 0x61, 0);
	port_write(f, 0x61, 1);
	advance(f, 999);
	assert_true(out(f, 2));
	advance(f, 1);
	assert_false(out(f, 2));
	advance(f, 1);
	assert_true(out(f, 2));
}

static void test_speaker_port(void **state)
{
	struct fixture *f = *state;
	u8 before, value = 0;

	port_write(f, 0x61, 0xff);
	assert_int_equal(port_read(f, 0x61) & 0x03, 0x03);
	port_write(f, 0x61, 0x02);
	assert_int_equal(port_read(f, 0x61) & 0x03, 0x02);
	before = port_read(f, 0x61) & 0x10;
	f->now += 1 << 14;
	assert_int_not_equal(port_read(f, 0x61) & 0x10, before);
	port_write(f, 0x61, 0x01);
	load(f, 2, 0, 1193);
	assert_int_equal(port_read(f, 0x61) & 0x20, 0);
	advance(f, 1193);
	assert_int_equal(port_read(f, 0x61) & 0x20, 0x20);
	assert_false(irqchip_pio_read(&f->chip, 0x62, &value, 1));
	assert_false(irqchip_pio_read(&f->chip, 0x44, &value, 1));
	assert_false(irqchip_pio_read(&f->chip, 0x42, &(u32){ 0 }, 4));
}

static void test_without_speaker(void **state)
{
	struct fixture *f = fixture_new(false);
	u8 value = 0;

	assert_false(irqchip_pio_read(&f->chip, 0x40, &value, 1));
	assert_int_equal(irqchip_create_pit(&f->chip, 2), -22);
	assert_int_equal(irqchip_create_pit(&f->chip, 0), 0);
	assert_int_equal(irqchip_create_pit(&f->chip, 0), -17);
	assert_false(irqchip_pio_read(&f->chip, 0x61, &value, 1));
	assert_true(irqchip_pio_read(&f->chip, 0x40, &value, 1));
	assert_true(irqchip_next_deadline(&f->chip) == IRQCHIP_NEVER); /* silent until it is programmed */
	fixture_teardown((void **)&f);
}

static void end(struct fixture *f)
{
	port_write(f, 0x20, 0x20);
}

static void test_one_shot(void **state)
{
	struct fixture *f = *state;
	u64 deadline;

	load(f, 0, 0, 11932);
	deadline = irqchip_next_deadline(&f->chip);
	assert_in_range(deadline - f->now, 10000150, 10000155);
	irqchip_expire(&f->chip, deadline - 1);
	assert_int_equal(take(f, 0), -1);
	irqchip_expire(&f->chip, deadline);
	assert_int_equal(take(f, 0), VECTOR);
	assert_true(irqchip_next_deadline(&f->chip) == IRQCHIP_NEVER);
	end(f);
	assert_int_equal(take(f, 0), -1);
	/* A control word stops a count under way; modes 1 and 5 wait for a gate that channel 0 has not. */
	load(f, 0, 0, 11932);
	port_write(f, CONTROL, 0x30);
	assert_true(irqchip_next_deadline(&f->chip) == IRQCHIP_NEVER);
	load(f, 0, 1, 11932);
	assert_true(irqchip_next_deadline(&f->chip) == IRQCHIP_NEVER);
	load(f, 0, 4, 11932);
	assert_int_equal(irqchip_next_deadline(&f->chip), deadline);
}

static void test_periodic_keeps_pace(void **state)
{
	struct fixture *f = *state;
	u64 first, period;

	load(f, 0, 2, 11932);
	first = irqchip_next_deadline(&f->chip);
	period = first - f->now;
	irqchip_expire(&f->chip, first + period / 2); /* late: the next is not */
	assert_int_equal(irqchip_next_deadline(&f->chip), first + period);
	assert_int_equal(take(f, 0), VECTOR);
	end(f);
	/* No more often than every 200 us. */
	load(f, 0, 2, 2);
	assert_int_equal(irqchip_next_deadline(&f->chip), f->now + 200000);
}

static void test_reinject(void **state)
{
	struct fixture *f = *state;
	u64 start, period;
	unsigned n = 0;

	load(f, 0, 2, 11932);
	start = irqchip_next_deadline(&f->chip);
	period = start - f->now;
	/* 1000 periods in which nobody looked: one call, and every tick comes, each after the EOI of the last. */
	irqchip_expire(&f->chip, start + 999 * period);
	assert_int_equal(irqchip_next_deadline(&f->chip), start + 1000 * period);
	while (n < 2000 && take(f, 0) == VECTOR) {
		end(f);
		n++;
	}
	assert_int_equal(n, 1000);
	/* Without: what was missed is lost. */
	i8254_set_reinject(&f->chip.pit, false);
	irqchip_expire(&f->chip, start + 1999 * period);
	for (n = 0; n < 10 && take(f, 0) == VECTOR; n++)
		end(f);
	assert_int_equal(n, 1);
	/* The number of ticks that wait has a bound, and the time between them none. */
	i8254_set_reinject(&f->chip.pit, true);
	irqchip_expire(&f->chip, 1ull << 62);
	irqchip_expire(&f->chip, 1ull << 63);
	assert_int_equal(f->chip.pit.pending, ~0u);
	assert_true(irqchip_next_deadline(&f->chip) > 1ull << 63);
}

/* Ticks that nobody could take while the pin was masked are dropped when it opens: else the guest gets a storm. */
static void test_unmask_drops_ticks(void **state)
{
	struct fixture *f = *state;
	u64 start;
	u32 select = 0x10, low = 0x51;

	port_write(f, 0x21, 0xff);
	apic_write(f, 0, LAPIC_LVT_LINT0, LAPIC_LVT_MASKED);
	load(f, 0, 2, 11932);
	start = irqchip_next_deadline(&f->chip);
	irqchip_expire(&f->chip, start + 1000000000);
	assert_in_range(f->chip.pit.pending, 99, 101);
	irqchip_mmio_write(&f->chip, IOAPIC_DEFAULT_BASE, &select, 4);
	irqchip_mmio_write(&f->chip, IOAPIC_DEFAULT_BASE + 0x10, &low, 4);
	assert_int_equal(f->chip.pit.pending, 0);
	irqchip_expire(&f->chip, irqchip_next_deadline(&f->chip));
	assert_int_equal(take(f, 0), 0x51);
	apic_write(f, 0, LAPIC_EOI, 0);
	assert_int_equal(take(f, 0), -1);
}

static void test_nmi_watchdog(void **state)
{
	struct fixture *f = *state;

	apic_write(f, 1, LAPIC_LVT_LINT0, APIC_NMI << 8);
	apic_write(f, 2, LAPIC_LVT_LINT0, LAPIC_LVT_MASKED | APIC_NMI << 8);
	load(f, 0, 2, 11932);
	irqchip_expire(&f->chip, irqchip_next_deadline(&f->chip));
	assert_int_equal(f->cpu[1].nmis, 1);
	assert_int_equal(f->cpu[2].nmis, 0);
}

static void test_state(void **state)
{
	struct fixture *f = *state, *g = fixture_new(false);
	struct kvm_pit_state2 s, again;

	assert_int_equal(irqchip_create_pit(&g->chip, 0), 0);
	g->now = f->now;
	port_write(f, 0x61, 3);
	load(f, 0, 2, 11932);
	load(f, 1, 3, 18);
	load(f, 2, 0, 5000);
	i8254_get_state(&f->chip.pit, &s);
	assert_int_equal(s.flags, KVM_PIT_FLAGS_SPEAKER_DATA_ON);
	assert_int_equal(s.channels[0].count, 11932);
	assert_int_equal(s.channels[2].gate, 1);
	i8254_set_state(&g->chip.pit, &s);
	i8254_get_state(&g->chip.pit, &again);
	assert_memory_equal(&s, &again, sizeof(s));
	assert_int_equal(irqchip_next_deadline(&g->chip), irqchip_next_deadline(&f->chip));
	f->now = g->now += 1000000;
	assert_int_equal(read_word(g, 2), read_word(f, 2));
	/* The HPET has taken over: no ticks. */
	s.flags |= KVM_PIT_FLAGS_HPET_LEGACY;
	i8254_set_state(&g->chip.pit, &s);
	assert_true(irqchip_next_deadline(&g->chip) == IRQCHIP_NEVER);
	/* A start in the future: not counted yet. */
	s.channels[1].mode = 0;
	s.channels[1].count_load_time = g->now + 5000000;
	i8254_set_state(&g->chip.pit, &s);
	assert_int_equal(read_word(g, 1), s.channels[1].count);
	/* Nonsense is made safe. */
	memset(&s, 0xff, sizeof(s));
	i8254_set_state(&g->chip.pit, &s);
	for (unsigned n = 0; n < 3; n++) {
		read_word(g, n);
		out(g, n);
	}
	memset(&s, 0, sizeof(s));
	for (unsigned mode = 0; mode < 256; mode++) {
		s.channels[0].mode = s.channels[1].mode = s.channels[2].mode = mode;
		i8254_set_state(&g->chip.pit, &s);
		assert_int_equal(g->chip.pit.state.channels[1].count, 0x10000);
		read_word(g, 1);
		out(g, 1);
	}
	fixture_teardown((void **)&g);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_formats), TEST(test_latch), TEST(test_bcd), TEST(test_modes), TEST(test_gate),
		TEST(test_speaker_port), TEST(test_without_speaker), TEST(test_one_shot),
		TEST(test_periodic_keeps_pace), TEST(test_reinject), TEST(test_unmask_drops_ticks),
		TEST(test_nmi_watchdog), TEST(test_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
