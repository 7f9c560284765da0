/* Port 80h: firmware leaves its progress here, and everybody else writes to it to wait a microsecond. */
#include "device/devices.h"

static u64 post_read(struct device *d, unsigned region, u64 offset, unsigned size)
{
	return *(u8 *)d->state;
}

static void post_write(struct device *d, unsigned region, u64 offset, unsigned size, u64 value)
{
	*(u8 *)d->state = (u8)value;
}

const struct device_ops post_ops = {.name = "post", .state_size = 1, .read = post_read, .write = post_write};
