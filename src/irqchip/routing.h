/*
 * GSI routing (KVM api.rst, KVM_SET_GSI_ROUTING) and the messages of MSIs
 * (SDM vol. 3A, 11.11). Locking: see irqchip.h.
 */
#ifndef IRQCHIP_ROUTING_H
#define IRQCHIP_ROUTING_H

#include <linux/kvm.h>

#include "base/types.h"

struct irqchip;
struct apic_msg;

#define ROUTING_MAX_GSI 4096 /* KVM_MAX_IRQ_ROUTES: GSIs, and entries of a table */

/* Where a GSI goes. A GSI has one MSI, or up to one pin of each chip. */
struct route {
	u32 gsi;
	u32 type;  /* KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI */
	u32 chip;  /* KVM_IRQCHIP_* */
	u32 pin;   /* of the IOAPIC; 0 to 15 of the two PICs */
	u64 address; /* MSI */
	u32 data;
};

struct routing {
	u32 nr;
	u16 start[ROUTING_MAX_GSI + 1]; /* routes of GSI g: route[start[g]] up to route[start[g + 1]] */
	s16 gsi_of[KVM_NR_IRQCHIPS][KVM_IOAPIC_NUM_PINS]; /* by KVM_IRQCHIP_* and pin (PICs: 0 to 15); -1 for none */
	struct route route[];           /* by gsi */
};

/*
 * Replaces the table. 0, or -EINVAL (gsi, pin or chip out of range, flags, unknown type, a GSI twice on one chip or
 * together with an MSI, a pin with a split irqchip, too many entries), -ENOMEM; on errors the old table stays.
 */
int routing_set(struct irqchip *chip, const struct kvm_irq_routing_entry *entries, u32 nr);
/* KVM's table after KVM_CREATE_IRQCHIP: GSI n at IOAPIC pin n, 0 to 15 at the PICs too. Empty for a split irqchip. */
int routing_set_default(struct irqchip *chip);
void routing_free(struct routing *r);

/* The routes of @gsi, *@nr of them. */
const struct route *routing_of(const struct routing *r, u32 gsi, u32 *nr);
/* GSI that ends at @pin of @irqchip, or -1. */
int routing_find_gsi(const struct routing *r, u32 irqchip, u32 pin);

/*
 * What an MSI means. With @ids32 bits 63:40 of the address are bits 31:8 of the destination; false when bits 39:32,
 * which must be 0 then, are not.
 */
bool msi_decode(u64 address, u32 data, bool ids32, struct apic_msg *msg);

#endif
