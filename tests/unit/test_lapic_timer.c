/* The APIC timer against the SDM, vol. 3A, 11.5.4: one-shot, periodic, TSC deadline, saved and loaded. */
#include "irqchip_fixture.h"

#define ONE_SHOT 0u
#define PERIODIC BIT(17)
#define TSC_DEADLINE BIT(18)
#define DIVIDE_BY_1 0xbu
#define MS 1000000ull

static struct lapic *cpu1(struct fixture *f)
{
	return &f->cpu[1].l;
}

/* Starts the timer of CPU 1 with vector 40h. */
static struct fixture *start(void **state, u32 mode, u32 divide, u32 count)
{
	struct fixture *f = *state;

	apic_write(f, 1, LAPIC_LVT_TIMER, mode | 0x40);
	apic_write(f, 1, LAPIC_TIMER_DIV, divide);
	apic_write(f, 1, LAPIC_TIMER_INIT, count);
	return f;
}

/* Moves the clock and lets the timer run. True when its interrupt came. */
static bool run_until(struct fixture *f, u64 t)
{
	int vector;

	f->now = t;
	lapic_expire(cpu1(f), t);
	vector = take(f, 1);
	lapic_eoi(cpu1(f));
	return vector == 0x40;
}

static void test_divide(void **state)
{
	static const u32 divisor[] = { [0] = 2, [1] = 4, [2] = 8, [3] = 16, [8] = 32, [9] = 64, [10] = 128, [11] = 1 };
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(divisor); i++) {
		if (!divisor[i])
			continue;
		start(state, ONE_SHOT, i, 1000000);
		assert_int_equal(lapic_next_deadline(cpu1(f)), f->now + 1000000 * divisor[i]);
	}
	/* The bus clock can be slower: here 25 MHz. */
	f->chip.bus_cycle_ns = 40;
	start(state, ONE_SHOT, DIVIDE_BY_1, 1000);
	assert_int_equal(lapic_next_deadline(cpu1(f)), f->now + 40000);
	assert_int_equal(apic_read(f, 1, LAPIC_TIMER_COUNT), 1000);
	/* The largest of everything does not overflow. */
	f->chip.bus_cycle_ns = ~0u;
	start(state, PERIODIC, 10, ~0u);
	assert_true(lapic_next_deadline(cpu1(f)) > f->now);
	assert_true(lapic_next_deadline(cpu1(f)) != IRQCHIP_NEVER);
}

static void test_one_shot(void **state)
{
	struct fixture *f = start(state, ONE_SHOT, DIVIDE_BY_1, 5 * MS);
	u64 t = f->now;

	assert_true(f->cpu[1].rearms > 0);
	assert_int_equal(apic_read(f, 1, LAPIC_TIMER_COUNT), 5 * MS);
	f->now = t + 2 * MS;
	assert_int_equal(apic_read(f, 1, LAPIC_TIMER_COUNT), 3 * MS);
	assert_false(run_until(f, t + 5 * MS - 1));
	assert_true(run_until(f, t + 5 * MS));
	assert_int_equal(apic_read(f, 1, LAPIC_TIMER_COUNT), 0);
	assert_int_equal(apic_read(f, 1, LAPIC_TIMER_INIT), 5 * MS);
	assert_true(lapic_next_deadline(cpu1(f)) == IRQCHIP_NEVER);
	assert_false(run_until(f, t + 50 * MS));
	/* Writing the count restarts it, 0 stops it. */
	apic_write(f, 1, LAPIC_TIMER_INIT, MS);
	assert_int_equal(lapic_next_deadline(cpu1(f)), f->now + MS);
	apic_write(f, 1, LAPIC_TIMER_INIT, 0);
	assert_true(lapic_next_deadline(cpu1(f)) == IRQCHIP_NEVER);
}

static void test_masked(void **state)
{
	struct fixture *f = start(state, LAPIC_LVT_MASKED | PERIODIC, DIVIDE_BY_1, MS);
	u64 t = f->now;

	assert_false(run_until(f, t + MS)); /* counts, but says nothing */
	assert_int_equal(lapic_next_deadline(cpu1(f)), t + 2 * MS);
	apic_write(f, 1, LAPIC_LVT_TIMER, PERIODIC | 0x40);
	assert_true(run_until(f, t + 2 * MS));
}

static void test_periodic(void **state)
{
	struct fixture *f = start(state, PERIODIC, DIVIDE_BY_1, 3 * MS);
	u64 t = f->now;

	assert_true(run_until(f, t + 3 * MS));
	assert_true(run_until(f, t + 6 * MS + 12345)); /* lateness does not add up */
	assert_int_equal(lapic_next_deadline(cpu1(f)), t + 9 * MS);
	assert_int_equal(apic_read(f, 1, LAPIC_TIMER_COUNT), 3 * MS - 12345);
	/* Ten years later: one interrupt, at once, and still in step. */
	t += 315360000ull * 1000 * MS;
	assert_true(run_until(f, t + MS));
	assert_true(lapic_next_deadline(cpu1(f)) > f->now);
	assert_true(lapic_next_deadline(cpu1(f)) <= f->now + 3 * MS);
	assert_false(run_until(f, f->now));
	/* Read before the owner noticed the end of a period: it has begun anew. */
	f->now = lapic_next_deadline(cpu1(f)) + 5;
	assert_int_equal(apic_read(f, 1, LAPIC_TIMER_COUNT), 3 * MS - 5);
}

static void test_periodic_floor(void **state)
{
	struct fixture *f = start(state, PERIODIC, DIVIDE_BY_1, 1);
	u64 t = f->now;

	assert_int_equal(lapic_next_deadline(cpu1(f)), t + 200000);
	assert_int_equal(apic_read(f, 1, LAPIC_TIMER_COUNT), 1); /* never above the initial count */
	assert_true(run_until(f, t + 200000));
	assert_int_equal(lapic_next_deadline(cpu1(f)), t + 400000);
	start(state, ONE_SHOT, DIVIDE_BY_1, 1);
	assert_int_equal(lapic_next_deadline(cpu1(f)), f->now + 1);
}

static void test_divide_while_running(void **state)
{
	struct fixture *f = start(state, ONE_SHOT, DIVIDE_BY_1, 4 * MS);

	f->now += MS;
	apic_write(f, 1, LAPIC_TIMER_DIV, 0); /* by 2: the 3 million that are left take 6 ms */
	assert_int_equal(apic_read(f, 1, LAPIC_TIMER_COUNT), 3 * MS);
	assert_int_equal(lapic_next_deadline(cpu1(f)), f->now + 6 * MS);
}

static void test_mode_change(void **state)
{
	struct fixture *f = start(state, ONE_SHOT, DIVIDE_BY_1, 4 * MS);
	u64 t = f->now;

	apic_write(f, 1, LAPIC_LVT_TIMER, PERIODIC | 0x40); /* goes on */
	assert_int_equal(lapic_next_deadline(cpu1(f)), t + 4 * MS);
	assert_true(run_until(f, t + 4 * MS));
	assert_int_equal(lapic_next_deadline(cpu1(f)), t + 8 * MS);
	apic_write(f, 1, LAPIC_LVT_TIMER, TSC_DEADLINE | 0x40); /* disarms */
	assert_true(lapic_next_deadline(cpu1(f)) == IRQCHIP_NEVER);
	assert_int_equal(apic_read(f, 1, LAPIC_TIMER_INIT), 0);
	apic_write(f, 1, LAPIC_TIMER_INIT, 1000); /* ignored in this mode */
	assert_int_equal(apic_read(f, 1, LAPIC_TIMER_INIT), 0);
	assert_int_equal(apic_read(f, 1, LAPIC_TIMER_COUNT), 0);
	lapic_set_tsc_deadline(cpu1(f), ~0ull >> 2);
	assert_true(lapic_get_tsc_deadline(cpu1(f)) == ~0ull >> 2);
	apic_write(f, 1, LAPIC_LVT_TIMER, ONE_SHOT | 0x40);
	assert_true(lapic_next_deadline(cpu1(f)) == IRQCHIP_NEVER);
	assert_true(lapic_get_tsc_deadline(cpu1(f)) == 0);
	lapic_set_tsc_deadline(cpu1(f), 1); /* ignored outside of it */
	assert_int_equal(take(f, 1), -1);
	/* The reserved mode never fires, be it entered before or while the timer runs. */
	apic_write(f, 1, LAPIC_LVT_TIMER, PERIODIC | TSC_DEADLINE | 0x40);
	apic_write(f, 1, LAPIC_TIMER_INIT, 1000);
	assert_true(lapic_next_deadline(cpu1(f)) == IRQCHIP_NEVER);
	start(state, ONE_SHOT, DIVIDE_BY_1, 1000);
	apic_write(f, 1, LAPIC_LVT_TIMER, PERIODIC | TSC_DEADLINE | 0x40);
	assert_true(lapic_next_deadline(cpu1(f)) == IRQCHIP_NEVER);
}

static void test_tsc_deadline(void **state)
{
	struct fixture *f = start(state, TSC_DEADLINE, DIVIDE_BY_1, 0);
	u64 t = f->now, tsc = fixture_tsc(&f->cpu[1]);

	lapic_set_tsc_deadline(cpu1(f), tsc + 3 * MS + 1);
	assert_int_equal(lapic_next_deadline(cpu1(f)), t + MS + 1); /* rounded up */
	assert_int_equal(lapic_get_tsc_deadline(cpu1(f)), tsc + 3 * MS + 1);
	assert_false(run_until(f, t + MS));
	assert_true(run_until(f, t + MS + 1));
	assert_int_equal(lapic_get_tsc_deadline(cpu1(f)), 0); /* reads 0 once it has fired */
	assert_true(lapic_next_deadline(cpu1(f)) == IRQCHIP_NEVER);
	/* In the past: at once, without the owner's timer. */
	lapic_set_tsc_deadline(cpu1(f), 1);
	assert_int_equal(take(f, 1), 0x40);
	lapic_eoi(cpu1(f));
	assert_true(lapic_next_deadline(cpu1(f)) == IRQCHIP_NEVER);
	/* 0 disarms. */
	lapic_set_tsc_deadline(cpu1(f), tsc + 100 * MS);
	lapic_set_tsc_deadline(cpu1(f), 0);
	assert_true(lapic_next_deadline(cpu1(f)) == IRQCHIP_NEVER);
	/* The furthest is not "never". */
	lapic_set_tsc_deadline(cpu1(f), ~0ull);
	assert_true(lapic_next_deadline(cpu1(f)) != IRQCHIP_NEVER);
	assert_false(run_until(f, f->now + 1000000 * MS));
}

static void test_tsc_changes(void **state)
{
	struct fixture *f = start(state, TSC_DEADLINE, DIVIDE_BY_1, 0);
	u64 tsc = fixture_tsc(&f->cpu[1]);

	lapic_set_tsc_deadline(cpu1(f), tsc + 30 * MS);
	f->tsc_offset += 15 * MS;
	lapic_tsc_changed(cpu1(f));
	assert_int_equal(lapic_next_deadline(cpu1(f)), f->now + 5 * MS);
	f->tsc_offset += 15 * MS;
	lapic_tsc_changed(cpu1(f));
	assert_int_equal(take(f, 1), 0x40);
}

static void test_state(void **state)
{
	struct fixture *f = start(state, ONE_SHOT, DIVIDE_BY_1, 4 * MS), *g = fixture_new(false);
	struct kvm_lapic_state s;

	f->now += MS;
	lapic_get_state(cpu1(f), &s);
	assert_int_equal(lapic_set_state(cpu1(g), &s), 0);
	assert_int_equal(lapic_next_deadline(cpu1(g)), g->now + 3 * MS); /* what was left */
	assert_int_equal(apic_read(g, 1, LAPIC_TIMER_COUNT), 3 * MS);
	assert_true(run_until(f, f->now + 3 * MS));
	lapic_get_state(cpu1(f), &s);
	assert_int_equal(lapic_set_state(cpu1(g), &s), 0);
	assert_true(lapic_next_deadline(cpu1(g)) == IRQCHIP_NEVER); /* has fired before */
	start(state, PERIODIC, DIVIDE_BY_1, 4 * MS);
	f->now += 3 * MS;
	lapic_get_state(cpu1(f), &s);
	assert_int_equal(lapic_set_state(cpu1(g), &s), 0);
	assert_int_equal(lapic_next_deadline(cpu1(g)), g->now + MS);
	assert_true(run_until(g, g->now + MS));
	assert_int_equal(lapic_next_deadline(cpu1(g)), g->now + 4 * MS);
	/* A count beyond the initial one is cut to it. */
	memset(s.regs + LAPIC_TIMER_COUNT, 0xff, 4);
	assert_int_equal(lapic_set_state(cpu1(g), &s), 0);
	assert_int_equal(lapic_next_deadline(cpu1(g)), g->now + 4 * MS);
	fixture_teardown((void **)&g);
}

static void test_disable_stops(void **state)
{
	struct fixture *f = start(state, PERIODIC, DIVIDE_BY_1, 4 * MS);

	assert_true(lapic_set_base(cpu1(f), LAPIC_DEFAULT_BASE, 0, false));
	assert_true(lapic_next_deadline(cpu1(f)) == IRQCHIP_NEVER);
	lapic_set_tsc_deadline(cpu1(f), 1);
	assert_int_equal(lapic_get_tsc_deadline(cpu1(f)), 0);
	assert_int_equal(lapic_pending_vector(cpu1(f)), -1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_divide), TEST(test_one_shot), TEST(test_masked), TEST(test_periodic),
		TEST(test_periodic_floor), TEST(test_divide_while_running), TEST(test_mode_change),
		TEST(test_tsc_deadline), TEST(test_tsc_changes), TEST(test_state), TEST(test_disable_stops),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
