/*
 * The two 8259A interrupt controllers of a PC, cascaded at IR2 of the master,
 * with the ELCR of the chip sets. Locking: see irqchip.h.
 */
#ifndef IRQCHIP_I8259_H
#define IRQCHIP_I8259_H

#include <linux/kvm.h>

#include "base/types.h"

struct irqchip;

struct i8259 {
	struct irqchip *chip;
	struct kvm_pic_state pic[2]; /* master, slave */
	u32 line[16];  /* who drives the input: a bit per enum irq_source */
	bool output;   /* INT of the master */
};

void i8259_init(struct i8259 *s, struct irqchip *chip);
/* @irq 0 to 15. 1 delivered, 0 coalesced, -1 masked. */
int i8259_set_irq(struct i8259 *s, unsigned irq, unsigned source, bool level);
/* The two INTA cycles: returns the vector (that of a spurious IR7 when the request is gone). */
u8 i8259_ack(struct i8259 *s);
/* Ports 20h, 21h, a0h, a1h, 4d0h, 4d1h: true when taken. Only byte accesses do anything. */
bool i8259_pio_read(struct i8259 *s, u16 port, void *data, unsigned len);
bool i8259_pio_write(struct i8259 *s, u16 port, const void *data, unsigned len);
/* @n 0 master, 1 slave. */
void i8259_get_state(const struct i8259 *s, unsigned n, struct kvm_pic_state *state);
void i8259_set_state(struct i8259 *s, unsigned n, const struct kvm_pic_state *state);

#endif
