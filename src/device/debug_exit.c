/* Ends the run with the byte written as the program's exit status: how a test guest tells its result. */
#include "device/devices.h"

static void debug_exit_write(struct device *d, unsigned region, u64 offset, unsigned size, u64 value)
{
	board_stop(d->board, STOP_EXIT, (u8)value);
}

const struct device_ops debug_exit_ops = {.name = "debug-exit", .write = debug_exit_write};
