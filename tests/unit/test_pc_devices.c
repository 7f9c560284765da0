/* The PC's small devices: keyboard controller, ACPI fixed hardware, and the ports that end the run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "device_fixture.h"

#define S 1000000000ull

static int destroy(void **state)
{
	device_destroy();
	return 0;
}

/* Keyboard controller */

enum { DATA, COMMAND };

static int create_i8042(void **state)
{
	static const struct part part = {
		.ops = &i8042_ops, .regions = {{REGION_PIO, 0x60, 1}, {REGION_PIO, 0x64, 1}}, .irq = 1};

	device_create(&part, 0);
	return 0;
}

static void command(unsigned value)
{
	device_write(&test_device, COMMAND, 0, 1, value);
}

static void data(unsigned value)
{
	device_write(&test_device, DATA, 0, 1, value);
}

/* The answer that is there at once, with its status bits; or -1. */
static int answer(unsigned *status)
{
	*status = in(COMMAND, 0, 1);
	return *status & 1 ? (int)in(DATA, 0, 1) : -1;
}

static void test_i8042_self_tests(void **state)
{
	unsigned status;

	command(0xaa);
	assert_int_equal(answer(&status), 0x55);
	command(0xab);
	assert_int_equal(answer(&status), 0x00);
	assert_int_equal(answer(&status), -1);
	assert_int_equal(status & 0x04, 0x04);
}

static void test_i8042_control_byte(void **state)
{
	unsigned status;

	command(0x60);
	assert_int_equal(in(COMMAND, 0, 1) & 0x08, 0x08);
	data(0x75);
	assert_int_equal(in(COMMAND, 0, 1) & 0x08, 0);
	command(0x20);
	assert_int_equal(answer(&status), 0x75);
	command(0xae); /* enables the keyboard */
	command(0x20);
	assert_int_equal(answer(&status), 0x65);
	command(0x65); /* RAM */
	data(0x12);
	command(0x25);
	assert_int_equal(answer(&status), 0x12);
}

static void test_i8042_nobody_answers(void **state)
{
	unsigned status;

	data(0xf2); /* identify, to the keyboard */
	assert_true(test_board.irq[1]);
	assert_int_equal(answer(&status), 0xfe);
	assert_int_equal(status & 0x40, 0x40);
	assert_false(test_board.irq[1]);
	command(0xd4); /* to the mouse */
	data(0xf2);
	assert_false(test_board.irq[1]);
	assert_int_equal(answer(&status), 0xfe);
	assert_int_equal(status & 0x60, 0x60);
	command(0xd3); /* the loop test must not find an auxiliary port */
	data(0x5a);
	assert_int_equal(answer(&status), 0x5a);
	assert_int_equal(status & 0x20, 0);
	command(0xa9);
	assert_int_not_equal(answer(&status), 0x00);
}

static void test_i8042_reset(void **state)
{
	command(0xff); /* pulses nothing */
	assert_int_equal(test_board.why, STOP_NONE);
	command(0xfe);
	assert_int_equal(test_board.why, STOP_RESET);
}

static void test_i8042_output_port(void **state)
{
	unsigned status;

	command(0xd1);
	data(0x01); /* A20 stays open, no reset */
	command(0xd0);
	assert_int_equal(answer(&status), 0x03);
	assert_int_equal(test_board.why, STOP_NONE);
	command(0xd1);
	data(0x02);
	assert_int_equal(test_board.why, STOP_RESET);
}

/* ACPI fixed hardware */

enum { EVENT, CONTROL, TIMER };

static int create_pm(void **state)
{
	static const struct part part = {
		.ops = &acpi_pm_ops,
		.regions = {{REGION_PIO, 0x600, 4, 1, 2}, {REGION_PIO, 0x604, 2, 1, 2}, {REGION_PIO, 0x608, 4, 4, 4}},
		.irq = 9,
	};

	device_create(&part, 0);
	return 0;
}

static void test_pm_timer(void **state)
{
	assert_int_equal(in(TIMER, 0, 4), 0);
	pass_time(10 * S);
	assert_int_equal(in(TIMER, 0, 4), 35795450);
	pass_time(1200 * S); /* once around */
	assert_int_equal(in(TIMER, 0, 4), (u32)(1210ull * 3579545));
}

static void test_pm_timer_overflow(void **state)
{
	device_write(&test_device, EVENT, 2, 2, 0x0001);
	pass_time(599 * S);
	assert_false(test_board.irq[9]);
	pass_time(2 * S); /* the top bit changes after 599.9 s */
	assert_true(test_board.irq[9]);
	assert_int_equal(in(EVENT, 0, 2) & 1, 1);
	device_write(&test_device, EVENT, 0, 2, 0x0001);
	assert_false(test_board.irq[9]);
	assert_int_equal(in(EVENT, 0, 2) & 1, 0);
	pass_time(600 * S);
	assert_true(test_board.irq[9]);
}

static void test_pm_bytes(void **state)
{
	device_write(&test_device, EVENT, 2, 2, 0x0521);
	device_write(&test_device, EVENT, 3, 1, 0x01);
	assert_int_equal(in(EVENT, 2, 2) & 0xffff, 0x0121);
	assert_int_equal(in(EVENT, 3, 1) & 0xff, 0x01);
	device_write(&test_device, EVENT, 2, 2, 0xffff);
	assert_int_equal(in(EVENT, 2, 2) & 0xffff, 0x0721); /* the bits that exist */
	assert_int_equal(in(CONTROL, 0, 2) & 0xffff, 0x0001); /* ACPI mode */
}

static void test_pm_soft_off(void **state)
{
	device_write(&test_device, CONTROL, 0, 2, 5 << 10); /* the type alone is nothing */
	device_write(&test_device, CONTROL, 0, 2, 3 << 10 | 1 << 13);
	assert_int_equal(test_board.why, STOP_NONE);
	device_write(&test_device, CONTROL, 0, 2, 5 << 10 | 1 << 13);
	assert_int_equal(test_board.why, STOP_POWEROFF);
}

/* Ports */

static void create_port(const struct device_ops *ops)
{
	const struct part part = {.ops = ops, .regions = {{REGION_PIO, 0, 1}}};

	device_create(&part, 0);
}

static void test_ports_that_reset(void **state)
{
	create_port(&reset_ctl_ops);
	outb(0, 0x02);
	assert_int_equal(test_board.why, STOP_NONE);
	outb(0, 0x06);
	assert_int_equal(test_board.why, STOP_RESET);
	device_destroy();

	create_port(&port92_ops);
	assert_int_equal(inb(0), 0x02);
	outb(0, 0x02);
	assert_int_equal(test_board.why, STOP_NONE);
	outb(0, 0x03);
	assert_int_equal(test_board.why, STOP_RESET);
}

static void test_debug_ports(void **state)
{
	create_port(&debug_exit_ops);
	assert_int_equal(inb(0), 0xff);
	outb(0, 0x12a);
	assert_int_equal(test_board.why, STOP_EXIT);
	assert_int_equal(test_board.status, 0x2a);
	device_destroy();

	create_port(&debugcon_ops);
	assert_int_equal(inb(0), 0xe9);
	outb(0, '!');
	assert_int_equal(test_board.nr_output, 1);
	assert_int_equal(test_board.output[0], '!');
	device_destroy();

	create_port(&post_ops);
	outb(0, 0x55);
	assert_int_equal(inb(0), 0x55);
}

int main(void)
{
#define T(f, create) cmocka_unit_test_setup_teardown(f, create, destroy)
	const struct CMUnitTest tests[] = {
		T(test_i8042_self_tests, create_i8042),
		T(test_i8042_control_byte, create_i8042),
		T(test_i8042_nobody_answers, create_i8042),
		T(test_i8042_reset, create_i8042),
		T(test_i8042_output_port, create_i8042),
		T(test_pm_timer, create_pm),
		T(test_pm_timer_overflow, create_pm),
		T(test_pm_bytes, create_pm),
		T(test_pm_soft_off, create_pm),
		T(test_ports_that_reset, NULL),
		T(test_debug_ports, NULL),
	};

	return cmocka_run_group_tests_name("pc devices", tests, NULL, NULL);
}
