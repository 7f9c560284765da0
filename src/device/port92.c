/* PS/2 system control port A (92h): bit 0 resets the machine, bit 1 is the A20 gate, which KVM keeps open. */
#include "device/devices.h"

#define FAST_RESET 0x01u
#define A20_OPEN 0x02u

static u64 port92_read(struct device *d, unsigned region, u64 offset, unsigned size)
{
	return *(u8 *)d->state | A20_OPEN;
}

static void port92_write(struct device *d, unsigned region, u64 offset, unsigned size, u64 value)
{
	u8 *port = d->state;

	if (~*port & value & FAST_RESET)
		board_stop(d->board, STOP_RESET, 0);
	*port = (u8)value;
}

const struct device_ops port92_ops = {.name = "port92", .state_size = 1, .read = port92_read, .write = port92_write};
