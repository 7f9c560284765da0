/* The reset control register of PIIX and ICH (cf9h): a rising bit 2 resets; bit 1 chooses between soft and hard. */
#include "device/devices.h"

#define RESET_CPU 0x04u

static u64 reset_ctl_read(struct device *d, unsigned region, u64 offset, unsigned size)
{
	return *(u8 *)d->state;
}

static void reset_ctl_write(struct device *d, unsigned region, u64 offset, unsigned size, u64 value)
{
	u8 *control = d->state;

	if (~*control & value & RESET_CPU)
		board_stop(d->board, STOP_RESET, 0);
	*control = (u8)value;
}

const struct device_ops reset_ctl_ops = {
	.name = "reset-control",
	.state_size = 1,
	.read = reset_ctl_read,
	.write = reset_ctl_write,
};
