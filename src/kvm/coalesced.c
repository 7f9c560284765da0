/*
 * Coalesced I/O (api.rst, KVM_(UN)REGISTER_COALESCED_MMIO): writes to the zones the client names are put into a
 * ring, one per VM, that the client empties at its next exit. One slot stays free; a full ring means a normal exit.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/kvm.h"

struct coalesced_zone {
	struct kvm_io_device dev;
	struct vm *vm;
	struct kvm_coalesced_mmio_zone zone;
	struct coalesced_zone *next; /* [B] */
};

static int coalesced_write(struct vcpu *v, struct kvm_io_device *dev, u64 addr, unsigned len, const void *val)
{
	struct coalesced_zone *z = container_of(dev, struct coalesced_zone, dev);
	struct vm *vm = z->vm;
	int r = -EOPNOTSUPP;

	if (len > 8)
		return -EOPNOTSUPP;
	pthread_mutex_lock(&vm->ring_lock);
	struct kvm_coalesced_mmio_ring *ring = vm->ring;
	/* first and last are the client's to write: never trusted beyond the ring. */
	u32 first = ring ? __atomic_load_n(&ring->first, __ATOMIC_ACQUIRE) : 0;
	u32 last = ring ? __atomic_load_n(&ring->last, __ATOMIC_RELAXED) : 0;
	if (ring && last < KVM_COALESCED_MMIO_MAX && (last + 1) % KVM_COALESCED_MMIO_MAX != first) {
		struct kvm_coalesced_mmio *m = &ring->coalesced_mmio[last];

		m->phys_addr = addr;
		m->len = len;
		memcpy(m->data, val, len);
		m->pio = z->zone.pio;
		__atomic_store_n(&ring->last, (last + 1) % KVM_COALESCED_MMIO_MAX, __ATOMIC_RELEASE);
		r = 0;
	}
	pthread_mutex_unlock(&vm->ring_lock);
	return r;
}

static void coalesced_destroy(struct kvm_io_device *dev)
{
	struct coalesced_zone *z = container_of(dev, struct coalesced_zone, dev), **p = &z->vm->zones;

	while (*p != z)
		p = &(*p)->next;
	*p = z->next;
	free(z);
}

static const struct kvm_io_device_ops coalesced_ops = {.write = coalesced_write, .destructor = coalesced_destroy};

int vm_register_coalesced(struct vm *vm, const struct kvm_coalesced_mmio_zone *zone)
{
	if (zone->pio != 0 && zone->pio != 1)
		return -EINVAL;
	struct coalesced_zone *z = calloc(1, sizeof(*z));
	if (!z)
		return -ENOMEM;
	*z = (struct coalesced_zone){.dev.ops = &coalesced_ops, .vm = vm, .zone = *zone};
	pthread_rwlock_wrlock(&vm->bus_lock);
	int r = iobus_register(vm, zone->pio ? BUS_PIO : BUS_MMIO, zone->addr, zone->size, &z->dev);
	if (r == 0) {
		z->next = vm->zones;
		vm->zones = z;
	} else {
		free(z);
	}
	pthread_rwlock_unlock(&vm->bus_lock);
	return r;
}

/* Every zone that holds the whole given range goes; none is no error. */
int vm_unregister_coalesced(struct vm *vm, const struct kvm_coalesced_mmio_zone *zone)
{
	if (zone->pio != 0 && zone->pio != 1)
		return -EINVAL;
	pthread_rwlock_wrlock(&vm->bus_lock);
	for (struct coalesced_zone *z = vm->zones, *next; z; z = next) {
		next = z->next;
		if (z->zone.pio == zone->pio && z->zone.addr <= zone->addr &&
		    zone->addr + zone->size <= z->zone.addr + z->zone.size && zone->addr + zone->size >= zone->addr)
			iobus_unregister(vm, zone->pio ? BUS_PIO : BUS_MMIO, &z->dev);
	}
	pthread_rwlock_unlock(&vm->bus_lock);
	return 0;
}
