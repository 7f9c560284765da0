/* The 16550A, by its data sheet and by what drivers probe. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "device_fixture.h"

enum { RBR = 0, THR = 0, IER = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };

#define GSI 4
#define OPEN 0x0b /* MCR: DTR RTS OUT2 */

static int create(void **state)
{
	static const struct part part = {
		.ops = &uart16550_ops, .regions = {{REGION_PIO, 0x3f8, 8}}, .irq = GSI, .console = true};

	device_create(&part, 0);
	return 0;
}

static int destroy(void **state)
{
	device_destroy();
	return 0;
}

/* The keys wait for the device; returns how many it took at once. */
static size_t type(const char *keys)
{
	test_board.keys = keys;
	device_input(&test_device);
	return (size_t)(test_board.keys - keys);
}

static void test_reset_state(void **state)
{
	assert_int_equal(inb(IER), 0);
	assert_int_equal(inb(IIR), 0x01);
	assert_int_equal(inb(LCR), 0);
	assert_int_equal(inb(MCR), 0);
	assert_int_equal(inb(LSR), 0x60);
	assert_int_equal(inb(MSR), 0xb0);
	assert_false(test_board.irq[GSI]);
}

static void test_output(void **state)
{
	for (const char *p = "hello\r\n"; *p; p++) {
		assert_int_equal(inb(LSR) & 0x20, 0x20);
		outb(THR, (unsigned)*p);
	}
	assert_int_equal(test_board.nr_output, 7);
	assert_memory_equal(test_board.output, "hello\r\n", 7);
}

static void test_divisor_latch(void **state)
{
	outb(IER, 0x05);
	outb(LCR, 0x83);
	outb(0, 0x34);
	outb(1, 0x12);
	assert_int_equal(inb(0), 0x34);
	assert_int_equal(inb(1), 0x12);
	outb(LCR, 0x03);
	assert_int_equal(inb(IER), 0x05);
	assert_int_equal(test_board.nr_output, 0);
}

static void test_scratch_and_width(void **state)
{
	outb(SCR, 0xa5);
	assert_int_equal(inb(SCR), 0xa5);
	outb(IER, 0xff);
	assert_int_equal(inb(IER), 0x0f);
	outb(MCR, 0xff);
	assert_int_equal(inb(MCR), 0x1f);
}

static void test_thre_interrupt(void **state)
{
	outb(MCR, OPEN);
	outb(IER, 0x02); /* enabling it while empty raises it */
	assert_true(test_board.irq[GSI]);
	assert_int_equal(inb(IIR), 0x02);
	assert_int_equal(inb(IIR), 0x01); /* reading tells it */
	assert_false(test_board.irq[GSI]);
	outb(THR, 'x');
	assert_true(test_board.irq[GSI]);
	outb(IER, 0);
	assert_false(test_board.irq[GSI]);
	outb(IER, 0x02); /* and once more */
	assert_int_equal(inb(IIR), 0x02);
}

static void test_out2_gates_the_line(void **state)
{
	outb(IER, 0x02);
	assert_false(test_board.irq[GSI]);
	outb(MCR, 0x08);
	assert_true(test_board.irq[GSI]);
	outb(MCR, 0x18); /* loopback holds OUT2 inactive outside */
	assert_false(test_board.irq[GSI]);
}

static void test_input_without_fifo(void **state)
{
	outb(MCR, OPEN);
	outb(IER, 0x01);
	assert_int_equal(type("ab"), 1);
	assert_true(test_board.irq[GSI]);
	assert_int_equal(inb(LSR) & 1, 1);
	assert_int_equal(inb(IIR), 0x04);
	assert_int_equal(inb(RBR), 'a');
	assert_true(test_board.irq[GSI]); /* the next one came at once */
	assert_int_equal(inb(RBR), 'b');
	assert_false(test_board.irq[GSI]);
	assert_int_equal(inb(LSR) & 1, 0);
	assert_int_equal(type("c"), 1);
}

static void test_input_waits_for_rts(void **state)
{
	assert_int_equal(type("early"), 0);
	outb(FCR, 0x07); /* what would have lost it */
	outb(MCR, OPEN);
	for (const char *p = "early"; *p; p++)
		assert_int_equal(inb(RBR), *p);
	outb(MCR, 0x09); /* RTS off */
	assert_int_equal(type("x"), 0);
}

static void test_fifo_and_trigger(void **state)
{
	outb(FCR, 0x81); /* on, trigger at 8 */
	outb(MCR, OPEN);
	outb(IER, 0x01);
	assert_int_equal(inb(IIR), 0xc1);
	assert_int_equal(type("0123456"), 7);
	assert_int_equal(inb(IIR), 0xcc); /* below the trigger: the timeout tells */
	assert_int_equal(type("7"), 1);
	assert_int_equal(inb(IIR), 0xc4);
	assert_int_equal(type("89abcdefXYZ"), 8); /* 16 in all */
	for (const char *p = "0123456789abcdefXYZ"; *p; p++)
		assert_int_equal(inb(RBR), *p);
	assert_int_equal(inb(IIR), 0xc1);
	assert_false(test_board.irq[GSI]);
}

static void test_fifo_cleared(void **state)
{
	outb(FCR, 0x01);
	outb(MCR, OPEN);
	type("lost");
	outb(FCR, 0x03);
	assert_int_equal(inb(LSR) & 1, 0);
	type("lost");
	outb(FCR, 0x00); /* turning them off empties them too */
	assert_int_equal(inb(LSR) & 1, 0);
	assert_int_equal(inb(IIR) & 0xc0, 0);
}

static void test_loopback(void **state)
{
	outb(MCR, 0x1a); /* what Linux' autoconfig writes, and what it wants to see */
	assert_int_equal(inb(MSR) & 0xf0, 0x90);
	outb(MCR, 0x15);
	assert_int_equal(inb(MSR) & 0xf0, 0x60);
	outb(THR, 'L');
	assert_int_equal(test_board.nr_output, 0);
	assert_int_equal(inb(RBR), 'L');
	outb(THR, '1');
	outb(THR, '2'); /* no FIFO: the second overruns */
	assert_int_equal(inb(LSR) & 0x02, 0x02);
	assert_int_equal(inb(LSR) & 0x02, 0);
	assert_int_equal(inb(RBR), '1');
	assert_int_equal(type("x"), 0);
}

static void test_modem_status_interrupt(void **state)
{
	outb(MCR, OPEN);
	outb(IER, 0x08);
	assert_false(test_board.irq[GSI]);
	outb(MCR, 0x1f);
	outb(MCR, OPEN); /* ring indicator went away in between */
	assert_int_equal(inb(IIR), 0x00);
	assert_true(test_board.irq[GSI]);
	assert_int_equal(inb(MSR) & 0x04, 0x04);
	assert_false(test_board.irq[GSI]);
	assert_int_equal(inb(MSR) & 0x0f, 0);
}

static void test_priorities(void **state)
{
	outb(MCR, 0x10);
	outb(THR, '1');
	outb(THR, '2'); /* overrun */
	outb(IER, 0x0f);
	outb(MCR, OPEN); /* and a modem change */
	assert_int_equal(inb(IIR), 0x06);
	inb(LSR);
	assert_int_equal(inb(IIR), 0x04);
	inb(RBR);
	assert_int_equal(inb(IIR), 0x02);
	assert_int_equal(inb(IIR), 0x00);
	inb(MSR);
	assert_int_equal(inb(IIR), 0x01);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, create, destroy)
	const struct CMUnitTest tests[] = {
		T(test_reset_state),
		T(test_output),
		T(test_divisor_latch),
		T(test_scratch_and_width),
		T(test_thre_interrupt),
		T(test_out2_gates_the_line),
		T(test_input_without_fifo),
		T(test_input_waits_for_rts),
		T(test_fifo_and_trigger),
		T(test_fifo_cleared),
		T(test_loopback),
		T(test_modem_status_interrupt),
		T(test_priorities),
	};

	return cmocka_run_group_tests_name("uart16550", tests, NULL, NULL);
}
