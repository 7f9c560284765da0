/* I/O APIC (Intel 82093AA data sheet, 290566). Polarity is ignored: a line is asserted or it is not. */
#include <string.h>

#include "irqchip/irqchip.h"

/* Registers behind the window, 82093AA section 3.2. */
#define REG_ID 0x00
#define REG_VERSION 0x01
#define REG_ARB 0x02
#define REG_REDIR 0x10
#define VERSION (0x11 | (KVM_IOAPIC_NUM_PINS - 1) << 16)

/* Redirection entry, 82093AA section 3.2.4. */
#define RED_LOGICAL BIT64(11)
#define RED_STATUS BIT64(12)
#define RED_REMOTE_IRR BIT64(14)
#define RED_LEVEL BIT64(15)
#define RED_MASK BIT64(16)
#define RED_READ_ONLY (RED_STATUS | RED_REMOTE_IRR)
#define RED_WRITABLE (0xff0000000001ffffull & ~RED_READ_ONLY)

/*
 * A line that is still high after so many EOIs in a row is given a pause: the guest has no driver that
 * quiets it, or the client cannot lower it while the guest does nothing but take it. Figures of KVM.
 */
#define STORM_EOIS 10000
#define STORM_PAUSE_NS 10000000ull

void ioapic_init(struct ioapic *io, struct irqchip *chip)
{
	*io = (struct ioapic){ .chip = chip, .deadline = IRQCHIP_NEVER };
	io->state.base_address = IOAPIC_DEFAULT_BASE;
	for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		io->state.redirtbl[pin].bits = RED_MASK;
}

/* Sends the message of @pin, if it may. 1 delivered, 0 coalesced, -1 masked, waiting for an EOI, or nobody there. */
static int service(struct ioapic *io, unsigned pin)
{
	u64 e = io->state.redirtbl[pin].bits;
	struct apic_msg msg = {
		.vector = e & 0xff,
		.mode = e >> 8 & 7,
		.logical = e & RED_LOGICAL,
		.level = e & RED_LEVEL,
		.assert = true,
		.dest = e >> 56,
	};
	int ret;

	if (e & RED_MASK || (e & RED_LEVEL && e & RED_REMOTE_IRR))
		return -1;
	if (!(e & RED_LEVEL))
		io->irr_delivered |= BIT(pin);
	ret = irqchip_deliver(io->chip, NULL, &msg);
	if (e & RED_LEVEL && ret >= 0)
		io->state.redirtbl[pin].bits |= RED_REMOTE_IRR;
	return ret;
}

/* The level of @pin as its sources have it now. */
static int drive(struct ioapic *io, unsigned pin, bool level)
{
	bool was = io->state.irr & BIT(pin), edge = !(io->state.redirtbl[pin].bits & RED_LEVEL);

	if (!level) {
		io->state.irr &= ~BIT(pin);
		return 1;
	}
	if (edge && was)
		return 0;
	io->state.irr |= BIT(pin);
	io->irr_delivered &= ~BIT(pin);
	return service(io, pin);
}

int ioapic_set_irq(struct ioapic *io, unsigned pin, unsigned source, bool level)
{
	u32 *line;

	if (pin >= KVM_IOAPIC_NUM_PINS)
		return -1;
	line = &io->line[pin];
	*line = level ? *line | BIT(source & 31) : *line & ~BIT(source & 31);
	return drive(io, pin, *line);
}

static void set_deadline(struct ioapic *io, u64 deadline)
{
	if (io->deadline == deadline)
		return;
	io->deadline = deadline;
	io->chip->host->rearm(io->chip->owner);
}

/* After an EOI of a level-triggered pin: send again while the line is high. */
static void reevaluate(struct ioapic *io, unsigned pin)
{
	struct irqchip *chip = io->chip;

	if (!(io->state.irr & BIT(pin)) || io->state.redirtbl[pin].bits & RED_MASK) {
		io->eoi_count[pin] = 0;
		return;
	}
	if (++io->eoi_count[pin] < STORM_EOIS) {
		service(io, pin);
		return;
	}
	io->eoi_count[pin] = 0;
	io->delayed |= BIT(pin);
	if (io->deadline == IRQCHIP_NEVER)
		set_deadline(io, chip->host->now(chip->owner) + STORM_PAUSE_NS);
}

void ioapic_eoi(struct ioapic *io, u8 vector, bool level)
{
	for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++) {
		if ((u8)io->state.redirtbl[pin].bits != vector)
			continue;
		/* First, since the owner may lower the line in answer. */
		irqchip_notify_ack(io->chip, KVM_IRQCHIP_IOAPIC, pin);
		if (!level || !(io->state.redirtbl[pin].bits & RED_LEVEL))
			continue;
		io->state.redirtbl[pin].bits &= ~RED_REMOTE_IRR;
		reevaluate(io, pin);
	}
}

bool ioapic_handles(const struct ioapic *io, u8 vector)
{
	for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		if ((u8)io->state.redirtbl[pin].bits == vector && !(io->state.redirtbl[pin].bits & RED_MASK))
			return true;
	return false;
}

void ioapic_expire(struct ioapic *io, u64 now)
{
	u32 pins = io->delayed;

	if (now < io->deadline)
		return;
	io->delayed = 0;
	set_deadline(io, IRQCHIP_NEVER);
	for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		if (pins & io->state.irr & BIT(pin))
			service(io, pin);
}

static u32 read_register(const struct ioapic *io)
{
	u32 reg = io->state.ioregsel, index = (reg - REG_REDIR) / 2;

	switch (reg) {
	case REG_ID:
	case REG_ARB:
		return (io->state.id & 0xf) << 24;
	case REG_VERSION:
		return VERSION;
	}
	if (reg < REG_REDIR || index >= KVM_IOAPIC_NUM_PINS)
		return ~0u;
	return io->state.redirtbl[index].bits >> (reg & 1 ? 32 : 0);
}

static void write_redirection(struct ioapic *io, unsigned pin, bool high, u32 value)
{
	__u64 *entry = &io->state.redirtbl[pin].bits;
	u64 before = *entry, after;

	after = high ? (u32)before | (u64)value << 32 : (before & ~0xffffffffull) | value;
	after = (after & RED_WRITABLE) | (before & RED_READ_ONLY);
	/* Software resets the remote IRR by making the pin edge-triggered for a moment. */
	if (!(after & RED_LEVEL))
		after &= ~RED_REMOTE_IRR;
	*entry = after;
	if (before & ~after & RED_MASK)
		irqchip_notify_unmask(io->chip, KVM_IRQCHIP_IOAPIC, pin);
	if (!(after & RED_LEVEL) || after & (RED_MASK | RED_REMOTE_IRR) || !(io->state.irr & BIT(pin)))
		return;
	/*
	 * A guest that quiets the device after the EOI, while the pin is masked, gives a resampling source no
	 * EOI to look again at: unmasking has to be one, or the interrupt would be sent once too often.
	 */
	irqchip_notify_ack(io->chip, KVM_IRQCHIP_IOAPIC, pin);
	if (io->state.irr & BIT(pin))
		service(io, pin);
}

static void write_register(struct ioapic *io, u32 value)
{
	u32 reg = io->state.ioregsel, index = (reg - REG_REDIR) / 2;

	if (reg == REG_ID)
		io->state.id = value >> 24 & 0xf;
	else if (reg >= REG_REDIR && index < KVM_IOAPIC_NUM_PINS)
		write_redirection(io, index, reg & 1, value);
}

bool ioapic_mmio_read(struct ioapic *io, u64 gpa, void *data, unsigned len)
{
	u64 offset = gpa - io->state.base_address, value = 0;

	if (offset >= IOAPIC_LENGTH)
		return false;
	if (offset == 0x00)
		value = io->state.ioregsel;
	else if (offset == 0x10)
		value = read_register(io);
	memcpy(data, &value, MIN(len, 8u));
	return true;
}

bool ioapic_mmio_write(struct ioapic *io, u64 gpa, const void *data, unsigned len)
{
	u64 offset = gpa - io->state.base_address;
	u32 value = 0;

	if (offset >= IOAPIC_LENGTH)
		return false;
	/* The size of the access is one of the processor's; of a quadword only the low half counts. */
	if (len != 1 && len != 2 && len != 4 && len != 8)
		return true;
	memcpy(&value, data, MIN(len, 4u));
	if (offset == 0x00)
		io->state.ioregsel = value & 0xff;
	else if (offset == 0x10)
		write_register(io, value);
	return true;
}

void ioapic_get_state(const struct ioapic *io, struct kvm_ioapic_state *state)
{
	*state = io->state;
	/* What has been sent is not to be sent again by the one who loads this. */
	state->irr &= ~io->irr_delivered;
}

void ioapic_set_state(struct ioapic *io, const struct kvm_ioapic_state *state)
{
	u32 irr = state->irr;

	io->state = *state;
	io->state.ioregsel &= 0xff;
	io->state.id &= 0xf;
	io->state.irr = 0;
	io->irr_delivered = 0;
	io->delayed = 0;
	set_deadline(io, IRQCHIP_NEVER);
	for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		if (irr & BIT(pin))
			drive(io, pin, true);
}
