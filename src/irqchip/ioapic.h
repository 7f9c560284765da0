/*
 * I/O APIC with 24 pins (Intel 82093AA data sheet). Locking: see irqchip.h.
 */
#ifndef IRQCHIP_IOAPIC_H
#define IRQCHIP_IOAPIC_H

#include <linux/kvm.h>

#include "base/types.h"

struct irqchip;

#define IOAPIC_DEFAULT_BASE 0xfec00000ull
#define IOAPIC_LENGTH 0x100

struct ioapic {
	struct irqchip *chip;
	struct kvm_ioapic_state state; /* base, ioregsel, id, irr (level of each pin, once seen), redirection table */
	u32 irr_delivered;  /* edges in irr that have been sent */
	u32 line[KVM_IOAPIC_NUM_PINS]; /* who drives the pin: a bit per enum irq_source */
	u32 eoi_count[KVM_IOAPIC_NUM_PINS]; /* EOIs in a row that found the line still high */
	/* pins whose next delivery waits for @deadline: a line stuck high must not starve the guest */
	u32 delayed;
	u64 deadline;
};

void ioapic_init(struct ioapic *io, struct irqchip *chip);
/* 1 delivered, 0 coalesced, -1 masked or lost. */
int ioapic_set_irq(struct ioapic *io, unsigned pin, unsigned source, bool level);
/* A LAPIC ended @vector; @level: it was level-triggered, and the LAPIC does not suppress the broadcast. */
void ioapic_eoi(struct ioapic *io, u8 vector, bool level);
/* True when some pin sends @vector. */
bool ioapic_handles(const struct ioapic *io, u8 vector);
void ioapic_expire(struct ioapic *io, u64 now);
bool ioapic_mmio_read(struct ioapic *io, u64 gpa, void *data, unsigned len);
bool ioapic_mmio_write(struct ioapic *io, u64 gpa, const void *data, unsigned len);
void ioapic_get_state(const struct ioapic *io, struct kvm_ioapic_state *state);
void ioapic_set_state(struct ioapic *io, const struct kvm_ioapic_state *state);

#endif
