/* The controllers of a VM together: dispatch, message delivery, saved state. */
#include "irqchip/irqchip.h"

#include <errno.h>
#include <string.h>

int irqchip_init(struct irqchip *chip, const struct irqchip_host *host, void *owner, bool split, u32 split_pins)
{
	if (split_pins > ROUTING_MAX_GSI)
		return -EINVAL;
	*chip = (struct irqchip){
		.host = host,
		.owner = owner,
		.split = split,
		.split_pins = split ? split_pins : 0,
		.bus_cycle_ns = 1,
	};
	i8259_init(&chip->pic, chip);
	ioapic_init(&chip->ioapic, chip);
	return routing_set_default(chip);
}

void irqchip_fini(struct irqchip *chip)
{
	routing_free(chip->routing);
	chip->routing = NULL;
}

int irqchip_create_pit(struct irqchip *chip, u32 flags)
{
	if (chip->split)
		return -ENOENT;
	if (chip->has_pit)
		return -EEXIST;
	if (flags & ~(u32)KVM_PIT_SPEAKER_DUMMY)
		return -EINVAL;
	i8254_init(&chip->pit, chip, flags & KVM_PIT_SPEAKER_DUMMY);
	chip->has_pit = true;
	return 0;
}

static int set_route(struct irqchip *chip, const struct route *r, unsigned source, bool level)
{
	if (r->type == KVM_IRQ_ROUTING_MSI)
		return level ? irqchip_send_msi(chip, r->address, r->data) : -1;
	if (r->chip == KVM_IRQCHIP_IOAPIC)
		return ioapic_set_irq(&chip->ioapic, r->pin, source, level);
	return i8259_set_irq(&chip->pic, r->pin, source, level);
}

int irqchip_set_irq(struct irqchip *chip, unsigned source, u32 gsi, bool level)
{
	u32 nr;
	const struct route *r = routing_of(chip->routing, gsi, &nr);
	int sum = -1;

	for (u32 i = 0; i < nr; i++) {
		int ret = set_route(chip, &r[i], source, level);

		if (ret >= 0)
			sum = MAX(sum, 0) + ret;
	}
	return sum;
}

int irqchip_send_msi(struct irqchip *chip, u64 address, u32 data)
{
	struct apic_msg msg;

	if (!msi_decode(address, data, chip->x2apic_ids, &msg))
		return -EINVAL;
	return irqchip_deliver(chip, NULL, &msg);
}

/* Arbitration: the lower priority class wins, then the one that was chosen less often (SDM vol. 3A, 11.6.2.4). */
static bool arbitrates_before(const struct lapic *a, const struct lapic *b)
{
	u8 class_a = lapic_ppr(a) >> 4, class_b = lapic_ppr(b) >> 4;

	if (class_a != class_b)
		return class_a < class_b;
	return (s32)(a->arb - b->arb) < 0;
}

int irqchip_deliver(struct irqchip *chip, struct lapic *src, const struct apic_msg *original)
{
	struct apic_msg msg = *original;
	struct lapic *lowest = NULL;
	bool arbitrate;
	int sum = -1;

	/* Lowest priority among all is not defined with physical destinations; taken as a broadcast. */
	if (msg.mode == APIC_LOWEST && !msg.logical && msg.dest == 0xff)
		msg.mode = APIC_FIXED;
	arbitrate = msg.mode == APIC_LOWEST || (msg.redirect && msg.mode == APIC_FIXED);
	for (u32 i = 0; i < chip->nr_lapic; i++) {
		struct lapic *l = chip->lapic[i];
		int ret;

		if (!lapic_hw_enabled(l) || !lapic_match(l, src, &msg))
			continue;
		if (arbitrate) {
			if (lapic_sw_enabled(l) && (!lowest || arbitrates_before(l, lowest)))
				lowest = l;
			continue;
		}
		ret = lapic_accept(l, &msg);
		if (ret >= 0)
			sum = MAX(sum, 0) + ret;
	}
	if (!lowest)
		return sum;
	lowest->arb++;
	return lapic_accept(lowest, &msg);
}

void irqchip_notify_ack(struct irqchip *chip, u32 irqchip, u32 pin)
{
	int gsi = routing_find_gsi(chip->routing, irqchip, pin);

	if (gsi < 0)
		return;
	if (gsi == 0 && chip->has_pit)
		i8254_ack(&chip->pit);
	chip->host->ack(chip->owner, gsi);
}

void irqchip_notify_unmask(struct irqchip *chip, u32 irqchip, u32 pin)
{
	if (chip->has_pit && routing_find_gsi(chip->routing, irqchip, pin) == 0)
		i8254_drop_pending(&chip->pit);
}

struct lapic *irqchip_find_lapic(const struct irqchip *chip, u32 id)
{
	for (u32 i = 0; i < chip->nr_lapic; i++)
		if (chip->lapic[i]->id == id)
			return chip->lapic[i];
	return NULL;
}

static bool has_extint(const struct irqchip *chip, const struct lapic *l)
{
	return !chip->split && chip->pic.output && lapic_accepts_extint(l);
}

bool irqchip_has_interrupt(struct irqchip *chip, struct lapic *l)
{
	return has_extint(chip, l) || lapic_pending_vector(l) >= 0;
}

int irqchip_ack_interrupt(struct irqchip *chip, struct lapic *l)
{
	return has_extint(chip, l) ? i8259_ack(&chip->pic) : lapic_ack(l);
}

bool irqchip_pio_read(struct irqchip *chip, u16 port, void *data, unsigned len)
{
	if (chip->split)
		return false;
	return i8259_pio_read(&chip->pic, port, data, len) ||
	       (chip->has_pit && i8254_pio_read(&chip->pit, port, data, len));
}

bool irqchip_pio_write(struct irqchip *chip, u16 port, const void *data, unsigned len)
{
	if (chip->split)
		return false;
	return i8259_pio_write(&chip->pic, port, data, len) ||
	       (chip->has_pit && i8254_pio_write(&chip->pit, port, data, len));
}

bool irqchip_mmio_read(struct irqchip *chip, u64 gpa, void *data, unsigned len)
{
	return !chip->split && ioapic_mmio_read(&chip->ioapic, gpa, data, len);
}

bool irqchip_mmio_write(struct irqchip *chip, u64 gpa, const void *data, unsigned len)
{
	return !chip->split && ioapic_mmio_write(&chip->ioapic, gpa, data, len);
}

u64 irqchip_next_deadline(const struct irqchip *chip)
{
	u64 pit = chip->has_pit ? chip->pit.deadline : IRQCHIP_NEVER;

	return MIN(pit, chip->ioapic.deadline);
}

void irqchip_expire(struct irqchip *chip, u64 now)
{
	if (chip->has_pit)
		i8254_expire(&chip->pit, now);
	ioapic_expire(&chip->ioapic, now);
}

int irqchip_get_state(struct irqchip *chip, struct kvm_irqchip *state)
{
	if (chip->split || state->chip_id >= KVM_NR_IRQCHIPS)
		return -EINVAL;
	memset(&state->chip, 0, sizeof(state->chip));
	if (state->chip_id == KVM_IRQCHIP_IOAPIC)
		ioapic_get_state(&chip->ioapic, &state->chip.ioapic);
	else
		i8259_get_state(&chip->pic, state->chip_id == KVM_IRQCHIP_PIC_SLAVE, &state->chip.pic);
	return 0;
}

int irqchip_set_state(struct irqchip *chip, const struct kvm_irqchip *state)
{
	if (chip->split || state->chip_id >= KVM_NR_IRQCHIPS)
		return -EINVAL;
	if (state->chip_id == KVM_IRQCHIP_IOAPIC)
		ioapic_set_state(&chip->ioapic, &state->chip.ioapic);
	else
		i8259_set_state(&chip->pic, state->chip_id == KVM_IRQCHIP_PIC_SLAVE, &state->chip.pic);
	return 0;
}
