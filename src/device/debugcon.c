/* The debug console of Bochs and QEMU (e9h): bytes written go to the console, and it reads as its own port number. */
#include "device/devices.h"

static u64 debugcon_read(struct device *d, unsigned region, u64 offset, unsigned size)
{
	return 0xe9;
}

static void debugcon_write(struct device *d, unsigned region, u64 offset, unsigned size, u64 value)
{
	u8 byte = (u8)value;

	d->board->ops->console_write(d->board, &byte, 1);
}

const struct device_ops debugcon_ops = {.name = "debugcon", .read = debugcon_read, .write = debugcon_write};
