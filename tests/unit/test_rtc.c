/* The MC146818: time in its two codes, setting it, and the three interrupts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "device_fixture.h"

enum { SEC = 0, SEC_ALARM = 1, MIN_REG = 2, MIN_ALARM = 3, HOUR = 4, HOUR_ALARM = 5, WDAY = 6, MDAY = 7, MON = 8,
       YEAR = 9, A = 10, B = 11, C = 12, D = 13, CENTURY = 0x32 };

#define GSI 8
#define MS 1000000ull
#define S 1000000000ull
/* Thursday, 29 February 2024, 23:59:58 UTC */
#define LEAP_DAY 1709251198ull

static int create(void **state)
{
	static const struct part part = {.ops = &mc146818_ops, .regions = {{REGION_PIO, 0x70, 2}}, .irq = GSI};

	device_create(&part, LEAP_DAY);
	return 0;
}

static int destroy(void **state)
{
	device_destroy();
	return 0;
}

static unsigned get(unsigned reg)
{
	outb(0, reg);
	return inb(1);
}

static void set(unsigned reg, unsigned value)
{
	outb(0, reg);
	outb(1, value);
}

static void assert_time(unsigned hour, unsigned min, unsigned sec)
{
	assert_int_equal(get(HOUR), hour);
	assert_int_equal(get(MIN_REG), min);
	assert_int_equal(get(SEC), sec);
}

static void test_bcd(void **state)
{
	assert_time(0x23, 0x59, 0x58);
	assert_int_equal(get(WDAY), 5);
	assert_int_equal(get(MDAY), 0x29);
	assert_int_equal(get(MON), 0x02);
	assert_int_equal(get(YEAR), 0x24);
	assert_int_equal(get(CENTURY), 0x20);
	pass_time(2 * S);
	assert_time(0, 0, 0);
	assert_int_equal(get(MDAY), 0x01);
	assert_int_equal(get(MON), 0x03);
}

static void test_binary_and_12_hours(void **state)
{
	set(B, 0x06);
	assert_time(23, 59, 58);
	set(B, 0x04);
	assert_int_equal(get(HOUR), 11 | 0x80);
	pass_time(2 * S);
	assert_int_equal(get(HOUR), 12); /* midnight */
	set(B, 0x00);
	assert_int_equal(get(HOUR), 0x12);
	pass_time(12 * 3600 * S);
	assert_int_equal(get(HOUR), 0x92); /* noon */
}

static void test_fixed_registers(void **state)
{
	assert_int_equal(get(A) & 0x7f, 0x26);
	assert_int_equal(get(B), 0x02);
	assert_int_equal(get(D), 0x80);
	set(D, 0);
	assert_int_equal(get(D), 0x80);
	outb(0, 0x80 | 0x40); /* the NMI bit is not part of the index */
	outb(1, 0x5a);
	assert_int_equal(get(0x40), 0x5a);
	assert_int_equal(get(B), 0x02);
}

static void test_memory_size(void **state)
{
	assert_int_equal(get(0x15) | get(0x16) << 8, 640);
	assert_int_equal(get(0x17) | get(0x18) << 8, 0xffff);
	assert_int_equal(get(0x34) | get(0x35) << 8, (0xc0000000 - 0x1000000) >> 16);
	assert_int_equal(get(0x5b) | get(0x5c) << 8 | get(0x5d) << 16, 0x40000000 >> 16);
}

static void test_set_time(void **state)
{
	set(B, 0x82); /* hold */
	set(YEAR, 0x99);
	set(CENTURY, 0x19);
	set(MON, 0x12);
	set(MDAY, 0x31);
	set(HOUR, 0x12);
	set(MIN_REG, 0x34);
	set(SEC, 0x56);
	pass_time(10 * S);
	assert_time(0x12, 0x34, 0x56); /* held */
	set(B, 0x02);
	pass_time(5 * S);
	assert_time(0x12, 0x35, 0x01);
	assert_int_equal(get(YEAR), 0x99);
	assert_int_equal(get(CENTURY), 0x19);
	assert_int_equal(get(WDAY), 6); /* a Friday */
}

static void test_set_nonsense(void **state)
{
	set(B, 0x82);
	for (unsigned reg = 0; reg < 10; reg++)
		set(reg, 0xff);
	set(CENTURY, 0xff);
	set(B, 0x02);
	for (unsigned i = 0; i < 10; i++)
		assert_in_range(get(SEC) >> 4, 0, 5);
	set(B, 0x72); /* alarms and all on it */
	pass_time(3 * S);
	assert_int_equal(get(C) & 0x10, 0x10);
}

static void test_update_in_progress(void **state)
{
	assert_int_equal(get(A) & 0x80, 0);
	pass_time(998 * MS);
	assert_int_equal(get(A) & 0x80, 0x80);
	assert_int_equal(get(SEC), 0x58);
	pass_time(2 * MS);
	assert_int_equal(get(A) & 0x80, 0);
	assert_int_equal(get(SEC), 0x59);
}

static void test_update_interrupt(void **state)
{
	set(B, 0x12);
	pass_time(999 * MS);
	assert_false(test_board.irq[GSI]);
	pass_time(1 * MS);
	assert_true(test_board.irq[GSI]);
	assert_int_equal(test_board.deadline, DEVICE_NO_DEADLINE); /* nothing more to tell until it is read */
	assert_int_equal(get(C) & 0x90, 0x90);
	assert_false(test_board.irq[GSI]);
	assert_int_equal(get(C), 0);
	pass_time(10 * S);
	assert_int_equal(get(C) & 0x90, 0x90);
	assert_int_equal(test_board.nr_edges, 2);
}

static void test_periodic_interrupt(void **state)
{
	unsigned count = 0;

	set(A, 0x26); /* 1024 Hz */
	set(B, 0x42);
	for (unsigned ms = 0; ms < 1000; ms++) {
		pass_time(MS / 2);
		if (test_board.irq[GSI])
			count++, get(C);
		pass_time(MS / 2);
		if (test_board.irq[GSI])
			count++, get(C);
	}
	assert_in_range(count, 1023, 1024);
	set(A, 0x20); /* off */
	get(C);
	pass_time(S);
	assert_false(test_board.irq[GSI]);
	assert_int_equal(test_board.deadline, DEVICE_NO_DEADLINE);
}

static void test_flags_without_enables(void **state)
{
	get(C);
	pass_time(2 * S);
	assert_int_equal(get(C), 0x70); /* all three (the alarm is at midnight), and no request */
	assert_int_equal(test_board.nr_edges, 0);
	assert_int_equal(test_board.deadline, DEVICE_NO_DEADLINE); /* and no work */
}

static void test_alarm(void **state)
{
	set(HOUR_ALARM, 0x00);
	set(MIN_ALARM, 0x00);
	set(SEC_ALARM, 0x03);
	set(B, 0x22);
	pass_time(4900 * MS);
	assert_false(test_board.irq[GSI]);
	pass_time(100 * MS);
	assert_true(test_board.irq[GSI]);
	assert_int_equal(get(C) & 0xa0, 0xa0);
	pass_time(86399 * S);
	assert_false(test_board.irq[GSI]);
	pass_time(1 * S);
	assert_true(test_board.irq[GSI]);
}

static void test_alarm_any(void **state)
{
	set(HOUR_ALARM, 0xff);
	set(MIN_ALARM, 0xc0);
	set(SEC_ALARM, 0x30);
	set(B, 0x22);
	pass_time(32 * S);
	assert_true(test_board.irq[GSI]);
	get(C);
	pass_time(59 * S);
	assert_false(test_board.irq[GSI]);
	pass_time(1 * S);
	assert_true(test_board.irq[GSI]);
}

static void test_alarm_never(void **state)
{
	set(HOUR_ALARM, 0x25);
	set(MIN_ALARM, 0x00);
	set(SEC_ALARM, 0x00);
	set(B, 0x22);
	assert_int_equal(test_board.deadline, DEVICE_NO_DEADLINE);
}

static void test_host_clock_steps(void **state)
{
	set(SEC_ALARM, 0x30);
	set(MIN_ALARM, 0xff);
	set(HOUR_ALARM, 0xff);
	set(B, 0x32);
	test_board.wall -= 3600 * S; /* back */
	pass_time(60 * S);
	assert_int_equal(get(C) & 0xb0, 0xb0);
	test_board.wall += 7200 * S; /* ahead */
	pass_time(60 * S);
	assert_int_equal(get(C) & 0xb0, 0xb0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, create, destroy)
	const struct CMUnitTest tests[] = {
		T(test_bcd),
		T(test_binary_and_12_hours),
		T(test_fixed_registers),
		T(test_memory_size),
		T(test_set_time),
		T(test_set_nonsense),
		T(test_update_in_progress),
		T(test_update_interrupt),
		T(test_periodic_interrupt),
		T(test_flags_without_enables),
		T(test_alarm),
		T(test_alarm_any),
		T(test_alarm_never),
		T(test_host_clock_steps),
	};

	return cmocka_run_group_tests_name("mc146818", tests, NULL, NULL);
}
