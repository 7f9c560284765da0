/* GSI routing tables and MSI messages. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "irqchip/irqchip.h"

/* Translates one entry of the ABI. False when it is malformed. */
static bool parse_entry(const struct irqchip *chip, const struct kvm_irq_routing_entry *e, struct route *r)
{
	*r = (struct route){ .gsi = e->gsi, .type = e->type };
	if (e->gsi >= ROUTING_MAX_GSI)
		return false;
	switch (e->type) {
	case KVM_IRQ_ROUTING_IRQCHIP:
		if (e->flags || chip->split)
			return false;
		r->chip = e->u.irqchip.irqchip;
		r->pin = e->u.irqchip.pin;
		if (r->chip == KVM_IRQCHIP_IOAPIC)
			return r->pin < KVM_IOAPIC_NUM_PINS;
		if (r->chip > KVM_IRQCHIP_PIC_SLAVE || r->pin >= 8)
			return false;
		r->pin += r->chip == KVM_IRQCHIP_PIC_SLAVE ? 8 : 0;
		return true;
	case KVM_IRQ_ROUTING_MSI:
		if (e->flags & ~(u32)KVM_MSI_VALID_DEVID)
			return false;
		r->address = (u64)e->u.msi.address_hi << 32 | e->u.msi.address_lo;
		r->data = e->u.msi.data;
		return msi_decode(r->address, r->data, chip->x2apic_ids, &(struct apic_msg){ 0 });
	default:
		return false;
	}
}

/* A GSI may go to several chips, once to each; an MSI is alone. */
static bool conflicts(const struct route *a, const struct route *b)
{
	return a->gsi == b->gsi && (a->type != KVM_IRQ_ROUTING_IRQCHIP || b->type != KVM_IRQ_ROUTING_IRQCHIP ||
				    a->chip == b->chip);
}

static int compare(const void *pa, const void *pb)
{
	const struct route *a = pa, *b = pb;

	if (a->gsi != b->gsi)
		return a->gsi < b->gsi ? -1 : 1;
	return a->chip < b->chip ? -1 : a->chip > b->chip;
}

/* Sorts the routes and fills the two indices. False on a conflict. */
static bool build_index(struct routing *r)
{
	u32 gsi = 0;

	qsort(r->route, r->nr, sizeof(r->route[0]), compare);
	memset(r->gsi_of, 0xff, sizeof(r->gsi_of));
	for (u32 i = 0; i < r->nr; i++) {
		const struct route *e = &r->route[i];

		if (i && conflicts(e, e - 1))
			return false;
		while (gsi <= e->gsi)
			r->start[gsi++] = i;
		if (e->type == KVM_IRQ_ROUTING_IRQCHIP)
			r->gsi_of[e->chip][e->pin] = e->gsi;
	}
	while (gsi <= ROUTING_MAX_GSI)
		r->start[gsi++] = r->nr;
	return true;
}

int routing_set(struct irqchip *chip, const struct kvm_irq_routing_entry *entries, u32 nr)
{
	struct routing *r;

	if (nr > ROUTING_MAX_GSI)
		return -EINVAL;
	r = malloc(sizeof(*r) + nr * sizeof(r->route[0]));
	if (!r)
		return -ENOMEM;
	r->nr = nr;
	for (u32 i = 0; i < nr; i++)
		if (!parse_entry(chip, &entries[i], &r->route[i]))
			goto invalid;
	if (!build_index(r))
		goto invalid;
	routing_free(chip->routing);
	chip->routing = r;
	return 0;
invalid:
	routing_free(r);
	return -EINVAL;
}

int routing_set_default(struct irqchip *chip)
{
	struct kvm_irq_routing_entry e[KVM_IOAPIC_NUM_PINS + 16] = { 0 };
	u32 nr = 0;

	if (chip->split)
		return routing_set(chip, e, 0);
	for (u32 gsi = 0; gsi < KVM_IOAPIC_NUM_PINS; gsi++) {
		e[nr].gsi = gsi;
		e[nr].type = KVM_IRQ_ROUTING_IRQCHIP;
		e[nr].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		e[nr++].u.irqchip.pin = gsi;
		if (gsi >= 16)
			continue;
		e[nr].gsi = gsi;
		e[nr].type = KVM_IRQ_ROUTING_IRQCHIP;
		e[nr].u.irqchip.irqchip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
		e[nr++].u.irqchip.pin = gsi & 7;
	}
	return routing_set(chip, e, nr);
}

void routing_free(struct routing *r)
{
	free(r);
}

const struct route *routing_of(const struct routing *r, u32 gsi, u32 *nr)
{
	*nr = gsi < ROUTING_MAX_GSI ? r->start[gsi + 1] - r->start[gsi] : 0;
	return *nr ? &r->route[r->start[gsi]] : NULL;
}

int routing_find_gsi(const struct routing *r, u32 irqchip, u32 pin)
{
	return irqchip < KVM_NR_IRQCHIPS && pin < KVM_IOAPIC_NUM_PINS ? r->gsi_of[irqchip][pin] : -1;
}

/* SDM vol. 3A, 11.11.1 and 11.11.2; the upper address half is KVM's (api.rst, KVM_X2APIC_API_USE_32BIT_IDS). */
bool msi_decode(u64 address, u32 data, bool ids32, struct apic_msg *msg)
{
	*msg = (struct apic_msg){
		.vector = data & 0xff,
		.mode = data >> 8 & 7,
		.level = data >> 15 & 1,
		.assert = true,
		.logical = address >> 2 & 1,
		.redirect = address >> 3 & 1,
		.dest = address >> 12 & 0xff,
	};
	if (!ids32)
		return true;
	msg->dest |= address >> 32 & 0xffffff00u;
	return !(address >> 32 & 0xff);
}
