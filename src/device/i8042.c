/*
 * The 8042 keyboard controller (IBM AT technical reference) with nothing plugged in. Enough for a guest to test it,
 * find that no keyboard and no mouse answer, and to reset the machine; every command answers at once, so that no
 * driver waits for a timeout.
 */
#include "device/devices.h"

enum { DATA_REGION, COMMAND_REGION };

#define STATUS_OBF 0x01u     /* output buffer full */
#define STATUS_SYS 0x04u     /* self test passed */
#define STATUS_CMD 0x08u     /* the last write was a command */
#define STATUS_NOLOCK 0x10u  /* keyboard not locked */
#define STATUS_AUX 0x20u     /* the byte is the auxiliary device's */
#define STATUS_TIMEOUT 0x40u /* no device answered */

#define CTR_KBD_INT 0x01u
#define CTR_AUX_INT 0x02u
#define CTR_SYS 0x04u
#define CTR_KBD_DISABLE 0x10u
#define CTR_AUX_DISABLE 0x20u
#define CTR_TRANSLATE 0x40u

#define OUTPUT_RESET 0x01u /* active low */
#define OUTPUT_A20 0x02u

#define RESEND 0xfe /* what the controller says for a device that is not there */

struct i8042 {
	u8 status, ctr, output_port, data;
	u8 command;  /* waits for its parameter, 0 none */
	u8 ram[32];  /* [0] is unused: the control byte is ctr */
};

/* The auxiliary port has no interrupt of its own here: what answers for it is polled by every driver that asks. */
static void update_irq(struct device *d)
{
	const struct i8042 *s = d->state;

	device_set_irq(d, (s->status & (STATUS_OBF | STATUS_AUX)) == STATUS_OBF && (s->ctr & CTR_KBD_INT));
}

static void answer(struct i8042 *s, u8 data, unsigned status)
{
	s->data = data;
	s->status = (u8)((s->status & ~(STATUS_AUX | STATUS_TIMEOUT)) | STATUS_OBF | status);
}

static void write_output_port(struct device *d, u8 value)
{
	struct i8042 *s = d->state;

	s->output_port = value | OUTPUT_A20; /* KVM has no A20 gate to close */
	if (!(value & OUTPUT_RESET))
		board_stop(d->board, STOP_RESET, 0);
}

static void write_command(struct device *d, u8 command)
{
	struct i8042 *s = d->state;

	s->command = 0;
	s->status |= STATUS_CMD;
	switch (command) {
	case 0x20: answer(s, s->ctr, 0); break;
	case 0x21 ... 0x3f: answer(s, s->ram[command & 31], 0); break;
	case 0xa7: s->ctr |= CTR_AUX_DISABLE; break;
	case 0xa8: s->ctr &= (u8)~CTR_AUX_DISABLE; break;
	case 0xa9: answer(s, 0x02, 0); break; /* auxiliary interface test: clock line stuck, there is no port */
	case 0xaa:
		s->status |= STATUS_SYS;
		answer(s, 0x55, 0); /* self test passed */
		break;
	case 0xab: answer(s, 0x00, 0); break; /* keyboard interface test passed */
	case 0xad: s->ctr |= CTR_KBD_DISABLE; break;
	case 0xae: s->ctr &= (u8)~CTR_KBD_DISABLE; break;
	case 0xc0: answer(s, 0x80, 0); break; /* input port: keyboard not locked */
	case 0xd0: answer(s, s->output_port, 0); break;
	case 0x60 ... 0x7f:
	case 0xd1 ... 0xd4: s->command = command; break; /* a parameter follows */
	case 0xf0 ... 0xff:
		/* Pulses the output port's low bits that are clear in the command. */
		if (!(command & OUTPUT_RESET))
			board_stop(d->board, STOP_RESET, 0);
		break;
	}
}

static void write_data(struct device *d, u8 value)
{
	struct i8042 *s = d->state;
	u8 command = s->command;

	s->command = 0;
	s->status &= (u8)~STATUS_CMD;
	switch (command) {
	case 0x60: s->ctr = value; break;
	case 0x61 ... 0x7f: s->ram[command & 31] = value; break;
	case 0xd1: write_output_port(d, value); break;
	case 0xd2:
	case 0xd3: answer(s, value, 0); break; /* echo; 0xd3 without the auxiliary mark: there is no such port */
	case 0xd4: answer(s, RESEND, STATUS_AUX | STATUS_TIMEOUT); break;
	default: answer(s, RESEND, STATUS_TIMEOUT); /* a byte for the keyboard */
	}
}

static void i8042_write(struct device *d, unsigned region, u64 offset, unsigned size, u64 value)
{
	if (region == COMMAND_REGION)
		write_command(d, (u8)value);
	else
		write_data(d, (u8)value);
	update_irq(d);
}

static u64 i8042_read(struct device *d, unsigned region, u64 offset, unsigned size)
{
	struct i8042 *s = d->state;

	if (region == COMMAND_REGION)
		return s->status;
	s->status &= (u8)~(STATUS_OBF | STATUS_AUX | STATUS_TIMEOUT);
	update_irq(d);
	return s->data;
}

static void i8042_reset(struct device *d)
{
	*(struct i8042 *)d->state = (struct i8042){
		.status = STATUS_SYS | STATUS_NOLOCK,
		.ctr = CTR_KBD_INT | CTR_SYS | CTR_AUX_DISABLE | CTR_TRANSLATE,
		.output_port = OUTPUT_RESET | OUTPUT_A20,
	};
	update_irq(d);
}

const struct device_ops i8042_ops = {
	.name = "i8042",
	.state_size = sizeof(struct i8042),
	.reset = i8042_reset,
	.read = i8042_read,
	.write = i8042_write,
};
