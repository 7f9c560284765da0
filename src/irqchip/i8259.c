/*
 * Two 8259As (Intel 8259A data sheet, 231468). As in KVM, a request on an edge
 * input stays latched when the line falls before the acknowledge, so that a
 * pulse from a client is never lost; single mode and level mode (ICW1) are not
 * wired on a PC: the ELCR decides instead.
 */
#include <string.h>

#include "irqchip/irqchip.h"

#define CASCADE 2

/* Position of the highest set bit of @mask in the rotated priority order, 8 if none. */
static unsigned priority_of(const struct kvm_pic_state *p, u8 mask)
{
	unsigned n = 0;

	if (!mask)
		return 8;
	while (!(mask >> ((n + p->priority_add) & 7) & 1))
		n++;
	return n;
}

/* The input that would be acknowledged now, or -1. */
static int highest_request(const struct i8259 *s, unsigned n)
{
	const struct kvm_pic_state *p = &s->pic[n];
	unsigned request = priority_of(p, p->irr & ~p->imr);
	u8 in_service = p->isr;

	if (request == 8)
		return -1;
	if (p->special_mask)
		in_service &= ~p->imr;
	/* Special fully nested: further requests of a slave in service pass. */
	if (n == 0 && p->special_fully_nested_mode)
		in_service &= ~BIT(CASCADE);
	if (request >= priority_of(p, in_service))
		return -1;
	return (request + p->priority_add) & 7;
}

/* An input changes. 1 latched, 0 was latched already, -1 masked. */
static int drive(struct kvm_pic_state *p, unsigned irq, bool level)
{
	u8 bit = BIT(irq);
	bool latched = p->irr & bit, rising = level && !(p->last_irr & bit);
	int ret = 1;

	if (p->elcr & bit) {
		ret = level ? !latched : 1;
		p->irr = level ? p->irr | bit : p->irr & ~bit;
	} else if (rising) {
		ret = !latched;
		p->irr |= bit;
	}
	p->last_irr = level ? p->last_irr | bit : p->last_irr & ~bit;
	return p->imr & bit ? -1 : ret;
}

/* Recomputes the cascade and INT; tells the vCPUs that listen when INT rises. */
static void update(struct i8259 *s)
{
	struct irqchip *chip = s->chip;
	bool before = s->output;

	if (highest_request(s, 1) >= 0) {
		drive(&s->pic[0], CASCADE, true);
		drive(&s->pic[0], CASCADE, false);
	}
	s->output = highest_request(s, 0) >= 0;
	if (before || !s->output)
		return;
	for (u32 i = 0; i < chip->nr_lapic; i++)
		if (lapic_accepts_extint(chip->lapic[i]))
			chip->host->kick(chip->lapic[i]->vcpu);
}

/* @irq of controller @n is no longer in service. */
static void end_of_interrupt(struct i8259 *s, unsigned n, unsigned irq)
{
	s->pic[n].isr &= ~BIT(irq);
	irqchip_notify_ack(s->chip, n ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER, irq + 8 * n);
}

/* What one controller does in the INTA cycles for @irq. */
static void acknowledge(struct i8259 *s, unsigned n, unsigned irq)
{
	struct kvm_pic_state *p = &s->pic[n];

	p->isr |= BIT(irq);
	if (!(p->elcr & BIT(irq)))
		p->irr &= ~BIT(irq);
	if (!p->auto_eoi)
		return;
	if (p->rotate_on_auto_eoi)
		p->priority_add = (irq + 1) & 7;
	end_of_interrupt(s, n, irq);
}

u8 i8259_ack(struct i8259 *s)
{
	int irq = highest_request(s, 0), slave;
	u8 vector;

	if (irq < 0) {
		vector = s->pic[0].irq_base + 7;
	} else if (irq != CASCADE) {
		vector = s->pic[0].irq_base + irq;
		acknowledge(s, 0, irq);
	} else {
		acknowledge(s, 0, irq);
		slave = highest_request(s, 1);
		vector = s->pic[1].irq_base + (slave < 0 ? 7 : slave);
		if (slave >= 0)
			acknowledge(s, 1, slave);
	}
	update(s);
	return vector;
}

int i8259_set_irq(struct i8259 *s, unsigned irq, unsigned source, bool level)
{
	u32 *line = &s->line[irq & 15];
	int ret;

	*line = level ? *line | BIT(source & 31) : *line & ~BIT(source & 31);
	ret = drive(&s->pic[irq >> 3 & 1], irq & 7, *line);
	update(s);
	return ret;
}

/* ICW1: starts the initialisation sequence. Requests of level inputs are still there. */
static void write_icw1(struct i8259 *s, unsigned n, u8 value)
{
	struct kvm_pic_state *p = &s->pic[n];
	u8 ended = p->isr;

	p->init4 = value & 1;
	p->last_irr = 0;
	p->irr &= p->elcr;
	p->imr = 0;
	p->isr = 0;
	p->priority_add = 0;
	p->special_mask = 0;
	p->read_reg_select = 0;
	p->poll = 0;
	if (!p->init4) {
		p->special_fully_nested_mode = 0;
		p->auto_eoi = 0;
	}
	p->init_state = 1;
	for (unsigned irq = 0; irq < 8; irq++)
		if (ended & BIT(irq))
			end_of_interrupt(s, n, irq);
}

static void write_ocw2(struct i8259 *s, unsigned n, u8 value)
{
	struct kvm_pic_state *p = &s->pic[n];
	unsigned command = value >> 5, irq = value & 7;
	/* R, SL, EOI: bits of the command. */
	bool rotate = command & 4, specific = command & 2, eoi = command & 1;

	if (!specific && !eoi) {
		p->rotate_on_auto_eoi = rotate;
		return;
	}
	if (command == 2) /* no operation */
		return;
	if (!specific) {
		unsigned prio = priority_of(p, p->isr);

		if (prio == 8)
			return;
		irq = (prio + p->priority_add) & 7;
	}
	if (rotate)
		p->priority_add = (irq + 1) & 7;
	if (eoi)
		end_of_interrupt(s, n, irq);
}

static void write_ocw3(struct kvm_pic_state *p, u8 value)
{
	if (value & 0x04)
		p->poll = 1;
	if (value & 0x02)
		p->read_reg_select = value & 1;
	if (value & 0x40)
		p->special_mask = value >> 5 & 1;
}

/* ICW2 to ICW4, or OCW1. */
static void write_data(struct i8259 *s, unsigned n, u8 value)
{
	struct kvm_pic_state *p = &s->pic[n];
	u8 unmasked;

	switch (p->init_state) {
	case 1:
		p->irq_base = value & 0xf8;
		p->init_state = 2;
		return;
	case 2:
		p->init_state = p->init4 ? 3 : 0;
		return;
	case 3:
		p->special_fully_nested_mode = value >> 4 & 1;
		p->auto_eoi = value >> 1 & 1;
		p->init_state = 0;
		return;
	}
	unmasked = p->imr & ~value;
	p->imr = value;
	for (unsigned irq = 0; irq < 8; irq++)
		if (unmasked & BIT(irq))
			irqchip_notify_unmask(s->chip, n ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER, irq + 8 * n);
}

/* The read after a poll command is an acknowledge that returns the input instead of a vector. */
static u8 read_poll(struct i8259 *s, unsigned n)
{
	int irq = highest_request(s, n);

	s->pic[n].poll = 0;
	if (irq < 0)
		return 0;
	acknowledge(s, n, irq);
	update(s);
	return 0x80 | irq;
}

/* Controller of a command or data port, or -1. */
static int controller_of(u16 port, unsigned len)
{
	switch (port & ~1u) {
	case 0x20:
	case 0xa0:
		return (port & 1) + len > 2 ? -1 : port >> 7 & 1;
	default:
		return -1;
	}
}

static bool is_elcr(u16 port, unsigned len)
{
	return (port & ~1u) == 0x4d0 && (port & 1) + len <= 2;
}

bool i8259_pio_read(struct i8259 *s, u16 port, void *data, unsigned len)
{
	int n = controller_of(port, len);
	u8 value = 0;

	if (n < 0 && !is_elcr(port, len))
		return false;
	memset(data, 0, len);
	if (len != 1)
		return true;
	if (n < 0)
		value = s->pic[port & 1].elcr;
	else if (s->pic[n].poll)
		value = read_poll(s, n);
	else if (port & 1)
		value = s->pic[n].imr;
	else
		value = s->pic[n].read_reg_select ? s->pic[n].isr : s->pic[n].irr;
	memcpy(data, &value, 1);
	return true;
}

bool i8259_pio_write(struct i8259 *s, u16 port, const void *data, unsigned len)
{
	int n = controller_of(port, len);
	u8 value;

	if (n < 0 && !is_elcr(port, len))
		return false;
	if (len != 1)
		return true;
	memcpy(&value, data, 1);
	if (n < 0)
		s->pic[port & 1].elcr = value & s->pic[port & 1].elcr_mask;
	else if (port & 1)
		write_data(s, n, value);
	else if (value & 0x10)
		write_icw1(s, n, value);
	else if (value & 0x08)
		write_ocw3(&s->pic[n], value);
	else
		write_ocw2(s, n, value);
	update(s);
	return true;
}

void i8259_init(struct i8259 *s, struct irqchip *chip)
{
	*s = (struct i8259){ .chip = chip };
	/* Timer, keyboard, cascade, RTC and FPU error are always edges. */
	s->pic[0].elcr_mask = 0xf8;
	s->pic[1].elcr_mask = 0xde;
}

void i8259_get_state(const struct i8259 *s, unsigned n, struct kvm_pic_state *state)
{
	*state = s->pic[n & 1];
}

void i8259_set_state(struct i8259 *s, unsigned n, const struct kvm_pic_state *state)
{
	s->pic[n & 1] = *state;
	update(s);
}
