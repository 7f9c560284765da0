/*
 * The interrupt controllers of one VM: the LAPICs of its vCPUs, an IOAPIC, the
 * two 8259s, the 8254 and the table that routes GSIs to them.
 *
 * State machines without threads. The owner holds ONE lock around every call
 * below and in the other headers of this room (functions that only look
 * included); the callbacks of struct irqchip_host are called with it held, from
 * the thread that made the call. The only functions that a callback may call
 * back are irqchip_set_irq(), from ack(), and the lapic_get_*() readers.
 *
 * Times are nanoseconds on the clock of host->now(), which never goes back.
 * A deadline of IRQCHIP_NEVER means that no timer runs.
 */
#ifndef IRQCHIP_IRQCHIP_H
#define IRQCHIP_IRQCHIP_H

#include <linux/kvm.h>

#include "base/types.h"
#include "irqchip/i8254.h"
#include "irqchip/i8259.h"
#include "irqchip/ioapic.h"
#include "irqchip/lapic.h"
#include "irqchip/routing.h"

#define IRQCHIP_NEVER (~0ull)
#define IRQCHIP_MAX_LAPICS 1024

/* Who drives a line: a pin is high while any source holds it high. A number below 32. */
enum irq_source { IRQ_SOURCE_USERSPACE, IRQ_SOURCE_RESAMPLE, IRQ_SOURCE_PIT, IRQ_SOURCE_OTHER, NR_IRQ_SOURCE };

/*
 * What the irqchip asks of its owner. @owner is irqchip.owner, @vcpu is lapic.vcpu.
 * Every member must be set. None may block on a vCPU that is running.
 */
struct irqchip_host {
	/* The clock, in ns. */
	u64 (*now)(void *owner);
	/* The vCPU's time stamp counter, now. */
	u64 (*guest_tsc)(void *vcpu);
	/* When the vCPU's TSC reaches @tsc, in ns of now(), rounded up; a TSC in the past gives any time <= now. */
	u64 (*tsc_to_ns)(void *vcpu, u64 tsc);
	/*
	 * Something that the vCPU could take became pending: it must call irqchip_has_interrupt() before its next
	 * entry to the guest, and be woken from HLT if that is true. May be called by the vCPU's own thread.
	 */
	void (*kick)(void *vcpu);
	/* lapic_next_deadline() changed. */
	void (*rearm_lapic)(void *vcpu);
	/* irqchip_next_deadline() changed. */
	void (*rearm)(void *owner);
	/* Messages that end at the processor, not at its LAPIC (SDM vol. 3A, 11.5.1). Each also has to wake it. */
	void (*nmi)(void *vcpu);
	void (*smi)(void *vcpu);
	/* INIT: forget an unserved SIPI, then reset with lapic_reset(init) when the vCPU takes it. */
	void (*init)(void *vcpu);
	void (*sipi)(void *vcpu, u8 vector);
	/* The guest ended an interrupt that came through @gsi (resampling irqfds). May call irqchip_set_irq(). */
	void (*ack)(void *owner, u32 gsi);
	/* Split irqchip: the guest ended a level-triggered vector of a reserved GSI (KVM_EXIT_IOAPIC_EOI). */
	void (*ioapic_eoi)(void *vcpu, u8 vector);
};

struct irqchip {
	const struct irqchip_host *host;
	void *owner;

	bool split;         /* KVM_CAP_SPLIT_IRQCHIP: no pic, ioapic, pit */
	u32 split_pins;     /* GSIs below are IOAPIC pins of the client */
	bool x2apic_ids;    /* KVM_X2APIC_API_USE_32BIT_IDS */
	bool no_broadcast_quirk;   /* KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK */
	bool no_lint0_quirk;       /* KVM_X86_QUIRK_LINT0_REENABLED disabled */
	bool no_mmio_hole_quirk;   /* KVM_X86_QUIRK_LAPIC_MMIO_HOLE disabled */
	/* period of the LAPIC timer's clock (KVM_CAP_X86_APIC_BUS_CYCLES_NS); set before any LAPIC */
	u32 bus_cycle_ns;

	struct lapic *lapic[IRQCHIP_MAX_LAPICS]; /* the owner's; in order of lapic_init() */
	u32 nr_lapic;
	struct i8259 pic;
	struct ioapic ioapic;
	struct i8254 pit;
	bool has_pit;
	struct routing *routing; /* never NULL */
};

/*
 * Makes @chip with KVM's default routing, or, with @split, with LAPICs alone and @split_pins GSIs of the client's
 * IOAPICs. 0, -EINVAL (split_pins over KVM_MAX_IRQ_ROUTES), -ENOMEM.
 */
int irqchip_init(struct irqchip *chip, const struct irqchip_host *host, void *owner, bool split, u32 split_pins);
void irqchip_fini(struct irqchip *chip);

/* KVM_CREATE_PIT2: @flags is kvm_pit_config.flags. 0, -EEXIST, -EINVAL, -ENOENT (split). */
int irqchip_create_pit(struct irqchip *chip, u32 flags);

/*
 * Sets the level that @source (enum irq_source) drives into @gsi. As KVM_IRQ_LINE_STATUS: > 0 delivered, 0 coalesced
 * with one that the guest has not taken yet, < 0 masked, unrouted or lost. MSI routes fire at @level 1.
 */
int irqchip_set_irq(struct irqchip *chip, unsigned source, u32 gsi, bool level);

/* KVM_SIGNAL_MSI: > 0 delivered, 0 blocked or coalesced, < 0: -EINVAL (reserved address bits) or nobody there (-1). */
int irqchip_send_msi(struct irqchip *chip, u64 address, u32 data);

/* Sends @msg to whom it names; @src is the sending LAPIC, NULL for an IOAPIC or a device. Results as set_irq. */
int irqchip_deliver(struct irqchip *chip, struct lapic *src, const struct apic_msg *msg);

/* Tells owner and PIT that the guest ended an interrupt of @pin of @irqchip (KVM_IRQCHIP_*; PIC pins 0 to 15). */
void irqchip_notify_ack(struct irqchip *chip, u32 irqchip, u32 pin);

/* A pin of @irqchip became unmasked. */
void irqchip_notify_unmask(struct irqchip *chip, u32 irqchip, u32 pin);

/* LAPIC whose x2APIC id is @id, or NULL. */
struct lapic *irqchip_find_lapic(const struct irqchip *chip, u32 id);

/* True when vCPU @l has an interrupt to take (ExtINT from the PIC first, then its LAPIC), if RFLAGS.IF lets it. */
bool irqchip_has_interrupt(struct irqchip *chip, struct lapic *l);

/* Acknowledges it: the vector, or -1 when there is none. */
int irqchip_ack_interrupt(struct irqchip *chip, struct lapic *l);

/*
 * Ports and memory of PIC, ELCR, PIT, speaker and IOAPIC. True when the access was taken. @len is 1 to 8 bytes; odd
 * sizes are treated as KVM does (ignored, zeros read). LAPIC pages are lapic_mmio_*.
 */
bool irqchip_pio_read(struct irqchip *chip, u16 port, void *data, unsigned len);
bool irqchip_pio_write(struct irqchip *chip, u16 port, const void *data, unsigned len);
bool irqchip_mmio_read(struct irqchip *chip, u64 gpa, void *data, unsigned len);
bool irqchip_mmio_write(struct irqchip *chip, u64 gpa, const void *data, unsigned len);

/* The next time at which irqchip_expire() has something to do (PIT; not the LAPICs), or IRQCHIP_NEVER. */
u64 irqchip_next_deadline(const struct irqchip *chip);
void irqchip_expire(struct irqchip *chip, u64 now);

/* KVM_GET_IRQCHIP, KVM_SET_IRQCHIP of @state->chip_id. 0 or -EINVAL. Any state is accepted and is safe. */
int irqchip_get_state(struct irqchip *chip, struct kvm_irqchip *state);
int irqchip_set_state(struct irqchip *chip, const struct kvm_irqchip *state);

#endif
