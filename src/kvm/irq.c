/* The irqchip room's owner: the lock around it, its callbacks, and the ioctls on interrupt controllers. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/kvm.h"

/* --- Callbacks, called with [Q] held ------------------------------------------------------------------ */

static u64 host_now(void *owner)
{
	return timer_now();
}

static u64 host_guest_tsc(void *vcpu)
{
	return vcpu_tsc(vcpu);
}

static u64 host_tsc_to_ns(void *vcpu, u64 tsc)
{
	return vcpu_tsc_to_ns(vcpu, tsc);
}

static void host_kick(void *vcpu)
{
	vcpu_request(vcpu, VREQ_EVENT);
}

/*
 * The vCPU's own thread arms the timer when it enters the guest: it may as well be on its way to a HLT, and
 * sleeps to the deadline itself then.
 */
static void host_rearm_lapic(void *vcpu)
{
	struct vcpu *v = vcpu;

	atomic_store(&v->deadline, lapic_next_deadline(&v->lapic));
	if (v != vcpu_current())
		vcpu_request(v, VREQ_TIMER);
}

static void host_rearm(void *owner)
{
	struct vm *vm = owner;

	timer_arm(vm->timers, &vm->irqchip_timer, irqchip_next_deadline(&vm->irqchip));
}

static void host_nmi(void *vcpu)
{
	struct vcpu *v = vcpu;

	atomic_fetch_add(&v->nmi_queued, 1);
	vcpu_request(v, VREQ_EVENT);
}

/* There is no system management mode: an SMI is accepted and lost. */
static void host_smi(void *vcpu)
{
}

static void host_init(void *vcpu)
{
	struct vcpu *v = vcpu;

	atomic_store(&v->init_sipi, PENDING_INIT);
	vcpu_request(v, VREQ_EVENT);
}

static void host_sipi(void *vcpu, u8 vector)
{
	struct vcpu *v = vcpu;

	atomic_store(&v->sipi_vector, vector);
	atomic_fetch_or(&v->init_sipi, PENDING_SIPI);
	vcpu_request(v, VREQ_EVENT);
}

static void host_ack(void *owner, u32 gsi)
{
	irqfd_ack(owner, gsi);
}

static void host_ioapic_eoi(void *vcpu, u8 vector)
{
	struct vcpu *v = vcpu;

	v->eoi_vector = vector;
	vcpu_request(v, VREQ_IOAPIC_EOI);
}

static const struct irqchip_host irqchip_host = {
	.now = host_now,
	.guest_tsc = host_guest_tsc,
	.tsc_to_ns = host_tsc_to_ns,
	.kick = host_kick,
	.rearm_lapic = host_rearm_lapic,
	.rearm = host_rearm,
	.nmi = host_nmi,
	.smi = host_smi,
	.init = host_init,
	.sipi = host_sipi,
	.ack = host_ack,
	.ioapic_eoi = host_ioapic_eoi,
};

/* --- Time that comes from the timer thread -------------------------------------------------------------- */

void vcpu_lapic_expire(struct vcpu *v)
{
	pthread_mutex_lock(&v->vm->irq_lock);
	lapic_expire(&v->lapic, timer_now());
	pthread_mutex_unlock(&v->vm->irq_lock);
}

static void vcpu_timer_fn(struct timer *t)
{
	vcpu_lapic_expire(container_of(t, struct vcpu, timer));
}

static void irqchip_timer_fn(struct timer *t)
{
	struct vm *vm = container_of(t, struct vm, irqchip_timer);

	pthread_mutex_lock(&vm->irq_lock);
	irqchip_expire(&vm->irqchip, timer_now());
	timer_arm(vm->timers, t, irqchip_next_deadline(&vm->irqchip));
	pthread_mutex_unlock(&vm->irq_lock);
}

/* --- The chips as devices on the buses ------------------------------------------------------------------- */

struct chip_device {
	struct kvm_io_device dev;
	enum bus bus;
};

static int chip_read(struct vcpu *v, struct kvm_io_device *dev, u64 addr, unsigned len, void *val)
{
	struct vm *vm = v->vm;

	pthread_mutex_lock(&vm->irq_lock);
	bool taken = container_of(dev, struct chip_device, dev)->bus == BUS_PIO ?
		     irqchip_pio_read(&vm->irqchip, (u16)addr, val, len) :
		     irqchip_mmio_read(&vm->irqchip, addr, val, len);
	pthread_mutex_unlock(&vm->irq_lock);
	return taken ? 0 : -EOPNOTSUPP;
}

static int chip_write(struct vcpu *v, struct kvm_io_device *dev, u64 addr, unsigned len, const void *val)
{
	struct vm *vm = v->vm;

	pthread_mutex_lock(&vm->irq_lock);
	bool taken = container_of(dev, struct chip_device, dev)->bus == BUS_PIO ?
		     irqchip_pio_write(&vm->irqchip, (u16)addr, val, len) :
		     irqchip_mmio_write(&vm->irqchip, addr, val, len);
	pthread_mutex_unlock(&vm->irq_lock);
	return taken ? 0 : -EOPNOTSUPP;
}

static void chip_destroy(struct kvm_io_device *dev)
{
	free(container_of(dev, struct chip_device, dev));
}

static const struct kvm_io_device_ops chip_ops = {chip_read, chip_write, chip_destroy};

static int add_device(struct vm *vm, enum bus bus, u64 addr, u64 len)
{
	struct chip_device *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->dev.ops = &chip_ops;
	d->bus = bus;
	pthread_rwlock_wrlock(&vm->bus_lock);
	int r = iobus_register(vm, bus, addr, len, &d->dev);
	pthread_rwlock_unlock(&vm->bus_lock);
	if (r)
		free(d);
	return r;
}

/* --- ioctls ------------------------------------------------------------------------------------------------ */

/* [L]. KVM refuses both kinds of irqchip when there is one, or when a vCPU exists already. */
static int irqchip_create(struct vm *vm, bool split, u32 pins)
{
	pthread_mutex_lock(&vm->irq_lock);
	int r = irqchip_init(&vm->irqchip, &irqchip_host, vm, split, pins);
	pthread_mutex_unlock(&vm->irq_lock);
	if (r == 0) {
		vm->irqchip_timer.fn = irqchip_timer_fn;
		atomic_store(&vm->irqchip_mode, split ? IRQCHIP_SPLIT : IRQCHIP_KERNEL);
	}
	return r;
}

int vm_create_irqchip(struct vm *vm)
{
	static const struct {
		enum bus bus;
		u64 addr, len;
	} chips[] = {
		{BUS_PIO, 0x20, 2}, {BUS_PIO, 0xa0, 2}, {BUS_PIO, 0x4d0, 2}, /* PICs, ELCR */
		{BUS_MMIO, IOAPIC_DEFAULT_BASE, IOAPIC_LENGTH},
	};

	if (atomic_load(&vm->irqchip_mode) != IRQCHIP_NONE)
		return -EEXIST;
	if (atomic_load(&vm->nr_vcpus))
		return -EINVAL;
	int r = irqchip_create(vm, false, 0);
	for (unsigned i = 0; r == 0 && i < ARRAY_SIZE(chips); i++)
		r = add_device(vm, chips[i].bus, chips[i].addr, chips[i].len);
	return r;
}

int vm_create_split_irqchip(struct vm *vm, u64 pins)
{
	if (pins > KVM_IOAPIC_NUM_PINS && pins > ROUTING_MAX_GSI)
		return -EINVAL;
	if (atomic_load(&vm->irqchip_mode) != IRQCHIP_NONE)
		return -EEXIST;
	if (atomic_load(&vm->nr_vcpus))
		return -EEXIST;
	return irqchip_create(vm, true, (u32)pins);
}

int vm_create_pit(struct vm *vm, u32 flags)
{
	if (!pic_in_kernel(vm))
		return -ENOENT;
	pthread_mutex_lock(&vm->irq_lock);
	int r = irqchip_create_pit(&vm->irqchip, flags);
	pthread_mutex_unlock(&vm->irq_lock);
	if (r == 0)
		r = add_device(vm, BUS_PIO, 0x40, 4);
	if (r == 0 && (flags & KVM_PIT_SPEAKER_DUMMY))
		r = add_device(vm, BUS_PIO, 0x61, 1);
	return r;
}

int vm_irq_line(struct vm *vm, u32 gsi, u32 level, u32 *status)
{
	if (atomic_load(&vm->irqchip_mode) == IRQCHIP_NONE)
		return -ENXIO;
	pthread_mutex_lock(&vm->irq_lock);
	int r = irqchip_set_irq(&vm->irqchip, IRQ_SOURCE_USERSPACE, gsi, level);
	pthread_mutex_unlock(&vm->irq_lock);
	if (status)
		*status = (u32)r;
	return 0;
}

int vm_set_routing(struct vm *vm, const struct kvm_irq_routing_entry *e, u32 nr)
{
	if (atomic_load(&vm->irqchip_mode) == IRQCHIP_NONE)
		return -EINVAL;
	pthread_mutex_lock(&vm->irq_lock);
	int r = routing_set(&vm->irqchip, e, nr);
	pthread_mutex_unlock(&vm->irq_lock);
	return r;
}

int vm_signal_msi(struct vm *vm, const struct kvm_msi *msi)
{
	/* No device ids on x86 (KVM_CAP_MSI_DEVID is 0). */
	if (atomic_load(&vm->irqchip_mode) == IRQCHIP_NONE || msi->flags)
		return -EINVAL;
	pthread_mutex_lock(&vm->irq_lock);
	int r = irqchip_send_msi(&vm->irqchip, (u64)msi->address_hi << 32 | msi->address_lo, msi->data);
	pthread_mutex_unlock(&vm->irq_lock);
	return r;
}

int vcpu_lapic_create(struct vcpu *v)
{
	v->timer.fn = vcpu_timer_fn;
	atomic_store(&v->deadline, IRQCHIP_NEVER);
	v->armed = IRQCHIP_NEVER;
	if (!lapic_in_kernel(v)) {
		v->cpu.apic_base = LAPIC_DEFAULT_BASE | LAPIC_BASE_ENABLE |
				   (v->id == v->vm->boot_cpu_id ? LAPIC_BASE_BSP : 0);
		return 0;
	}
	pthread_mutex_lock(&v->vm->irq_lock);
	int r = lapic_init(&v->lapic, &v->vm->irqchip, v, v->id, v->id == v->vm->boot_cpu_id);
	v->cpu.apic_base = v->lapic.base_msr;
	pthread_mutex_unlock(&v->vm->irq_lock);
	return r;
}

/* The timer thread is gone by now. */
void vm_free_irqchip(struct vm *vm)
{
	if (atomic_load(&vm->irqchip_mode) != IRQCHIP_NONE)
		irqchip_fini(&vm->irqchip);
}
