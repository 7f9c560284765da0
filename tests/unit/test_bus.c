/* The bus: who gets which piece of an access. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "device_fixture.h"
#include "monitor/bus.h"

/* A device that writes down what it is asked: "r<region>+<offset>.<size> ", writes with "=<value>". */
static char seen[512];

static u64 note_read(struct device *d, unsigned region, u64 offset, unsigned size)
{
	size_t n = strlen(seen);

	snprintf(seen + n, sizeof(seen) - n, "r%u+%llx.%u ", region, (unsigned long long)offset, size);
	return 0x8877665544332211 >> (8 * offset % 64);
}

static void note_write(struct device *d, unsigned region, u64 offset, unsigned size, u64 value)
{
	size_t n = strlen(seen);

	snprintf(seen + n, sizeof(seen) - n, "w%u+%llx.%u=%llx ", region, (unsigned long long)offset, size,
		 (unsigned long long)value);
}

static const struct device_ops note_ops = {.name = "note", .read = note_read, .write = note_write};
static struct bus bus;

static int create(void **state)
{
	/* Bytes at 0x10..0x13, words at 0x14..0x17, double words only at 0x18..0x1f, anything at 0x100..0x10f. */
	static const struct part part = {
		.ops = &note_ops,
		.regions = {{REGION_PIO, 0x10, 4, 1, 1}, {REGION_PIO, 0x14, 4, 1, 2}, {REGION_PIO, 0x18, 8, 4, 4},
			    {REGION_PIO, 0x100, 16, 1, 8}},
	};

	device_create(&part, 0);
	bus = (struct bus){0};
	seen[0] = 0;
	/* Not in ascending order. */
	for (unsigned r = 4; r-- > 0;)
		assert_int_equal(bus_add(&bus, &test_device, r), 0);
	return 0;
}

static int destroy(void **state)
{
	device_destroy();
	return 0;
}

static u64 bus_in(u64 addr, unsigned size)
{
	u64 value = 0;

	bus_access(&bus, addr, &value, size, false);
	return value;
}

static void bus_out(u64 addr, unsigned size, u64 value)
{
	bus_access(&bus, addr, &value, size, true);
}

static void test_straight(void **state)
{
	assert_int_equal(bus_in(0x11, 1), 0x22);
	bus_out(0x16, 2, 0xabcd);
	assert_int_equal(bus_in(0x108, 8), 0x8877665544332211);
	assert_string_equal(seen, "r0+1.1 w1+2.2=abcd r3+8.8 ");
}

static void test_split(void **state)
{
	assert_int_equal(bus_in(0x10, 4), 0x44332211);
	bus_out(0x12, 2, 0xbbaa);
	assert_string_equal(seen, "r0+0.1 r0+1.1 r0+2.1 r0+3.1 w0+2.1=aa w0+3.1=bb ");
}

static void test_unaligned(void **state)
{
	bus_out(0x15, 2, 0xbbaa);
	bus_out(0x101, 4, 0x44332211);
	assert_string_equal(seen, "w1+1.1=aa w1+2.1=bb w3+1.1=11 w3+2.2=3322 w3+4.1=44 ");
}

static void test_across_regions(void **state)
{
	bus_out(0x12, 4, 0x44332211);
	assert_string_equal(seen, "w0+2.1=11 w0+3.1=22 w1+0.2=4433 ");
}

static void test_narrow(void **state)
{
	assert_int_equal(bus_in(0x1a, 1), 0x33); /* a lane of a wider read */
	assert_int_equal(bus_in(0x1e, 2), 0x8877);
	bus_out(0x18, 2, 0xffff); /* dropped */
	assert_string_equal(seen, "r2+0.4 r2+4.4 ");
}

static void test_unclaimed(void **state)
{
	assert_int_equal(bus_in(0x20, 4), 0xffffffff);
	assert_int_equal(bus_in(0xf, 1), 0xff);
	bus_out(0x20, 4, 0);
	/* Starts outside, reaches inside: not the device's. */
	assert_int_equal(bus_in(0xe, 4), 0xffffffff);
	bus_out(0xe, 4, 0x01020304);
	assert_string_equal(seen, "");
	/* Starts inside, sticks out. */
	assert_int_equal(bus_in(0x10e, 4), 0xffff8877);
}

static void test_end_of_address_space(void **state)
{
	assert_int_equal(bus_in(UINT64_MAX, 4), 0xffffffff);
	assert_int_equal(bus_in(UINT64_MAX - 3, 8), UINT64_MAX);
}

static void test_overlap(void **state)
{
	static const struct part other = {.ops = &note_ops, .regions = {{REGION_PIO, 0x13, 1}, {REGION_PIO, 0x20, 1}}};
	struct device d;

	assert_int_equal(device_init(&d, &other, &test_board.board, 1), 0);
	assert_int_equal(bus_add(&bus, &d, 0), -EEXIST);
	assert_int_equal(bus_add(&bus, &d, 1), 0);
	assert_int_equal(bus_add(&bus, &d, 1), -EEXIST);
	d.regions[1].base = 0xf;
	d.regions[1].size = 2;
	assert_int_equal(bus_add(&bus, &d, 1), -EEXIST);
	d.regions[1].size = 0;
	assert_int_equal(bus_add(&bus, &d, 1), -EINVAL);
	device_fini(&d);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, create, destroy)
	const struct CMUnitTest tests[] = {
		T(test_straight),
		T(test_split),
		T(test_unaligned),
		T(test_across_regions),
		T(test_narrow),
		T(test_unclaimed),
		T(test_end_of_address_space),
		T(test_overlap),
	};

	return cmocka_run_group_tests_name("bus", tests, NULL, NULL);
}
