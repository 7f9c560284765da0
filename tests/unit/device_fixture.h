/* A board for one device: clocks that stand still, interrupt lines and console output to look at. */
#ifndef TESTS_UNIT_DEVICE_FIXTURE_H
#define TESTS_UNIT_DEVICE_FIXTURE_H

#include "device/devices.h"

struct test_board {
	struct board board; /* first */
	u64 now, wall;      /* ns */
	bool irq[32];       /* by GSI */
	unsigned nr_edges;  /* rises of any line */
	char output[256];
	size_t nr_output;
	const char *keys; /* not yet taken */
	u64 deadline;
	enum stop_reason why;
	int status;
};

extern struct test_board test_board;
extern struct device test_device;

/* Makes the device @part describes on a fresh board, clocks at @wall_s seconds. For cmocka's setup. */
void device_create(const struct part *part, u64 wall_s);
void device_destroy(void);

/* Lets @ns pass on both clocks and, as the machine does, the device's deadlines with them. */
void pass_time(u64 ns);

/* Accesses as the bus makes them. */
static inline unsigned in(unsigned region, u64 offset, unsigned size)
{
	return (unsigned)device_read(&test_device, region, offset, size);
}

static inline unsigned inb(u64 offset)
{
	return in(0, offset, 1) & 0xff;
}

static inline void outb(u64 offset, unsigned value)
{
	device_write(&test_device, 0, offset, 1, value);
}

#endif
