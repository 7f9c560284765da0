#include "device_fixture.h"

struct test_board test_board;
struct device test_device;

static void set_irq(struct board *b, unsigned gsi, unsigned source, bool level)
{
	if (level && !test_board.irq[gsi])
		test_board.nr_edges++;
	test_board.irq[gsi] = level;
}

static void console_write(struct board *b, const u8 *data, size_t n)
{
	for (size_t i = 0; i < n && test_board.nr_output < sizeof(test_board.output) - 1; i++)
		test_board.output[test_board.nr_output++] = (char)data[i];
}

static size_t console_read(struct board *b, u8 *data, size_t n)
{
	size_t i = 0;

	while (i < n && test_board.keys && *test_board.keys)
		data[i++] = (u8)*test_board.keys++;
	return i;
}

static u64 monotonic_ns(struct board *b)
{
	return test_board.now;
}

static u64 wall_ns(struct board *b)
{
	return test_board.wall;
}

static void set_deadline(struct board *b, struct device *d, u64 deadline_ns)
{
	test_board.deadline = deadline_ns;
}

static void stop(struct board *b, enum stop_reason why, int status)
{
	test_board.why = why;
	test_board.status = status;
}

void device_create(const struct part *part, u64 wall_s)
{
	static const struct board_ops ops = {
		.set_irq = set_irq,
		.console_write = console_write,
		.console_read = console_read,
		.monotonic_ns = monotonic_ns,
		.wall_ns = wall_ns,
		.set_deadline = set_deadline,
		.stop = stop,
	};

	test_board = (struct test_board){
		.board = {.ops = &ops, .ram_low = 0xc0000000, .ram_high = 0x40000000},
		.now = 1000000000000,
		.wall = wall_s * 1000000000,
		.deadline = DEVICE_NO_DEADLINE,
	};
	device_init(&test_device, part, &test_board.board, 0);
}

void device_destroy(void)
{
	device_fini(&test_device);
}

void pass_time(u64 ns)
{
	u64 end = test_board.now + ns;

	while (test_board.deadline <= end) {
		u64 step = test_board.deadline > test_board.now ? test_board.deadline - test_board.now : 0;

		test_board.now += step;
		test_board.wall += step;
		test_board.deadline = DEVICE_NO_DEADLINE; /* fired; the device asks anew */
		device_tick(&test_device);
	}
	test_board.wall += end - test_board.now;
	test_board.now = end;
}
