#include "kvm/iobus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/kvm.h"

int iobus_register(struct vm *vm, enum bus bus, u64 addr, u64 len, struct kvm_io_device *dev)
{
	struct iobus *b = &vm->bus[bus];
	u32 i;

	if (b->nr >= IOBUS_MAX_DEVS)
		return -ENOSPC;
	struct io_range *r = realloc(b->range, (b->nr + 1) * sizeof(*r));
	if (!r)
		return -ENOMEM;
	b->range = r;
	for (i = b->nr; i > 0 && r[i - 1].addr > addr; i--)
		r[i] = r[i - 1];
	r[i] = (struct io_range){addr, len, dev};
	b->nr++;
	return 0;
}

void iobus_unregister(struct vm *vm, enum bus bus, struct kvm_io_device *dev)
{
	struct iobus *b = &vm->bus[bus];
	u32 kept = 0;

	for (u32 i = 0; i < b->nr; i++)
		if (b->range[i].dev != dev)
			b->range[kept++] = b->range[i];
	b->nr = kept;
	dev->ops->destructor(dev);
}

void iobus_free(struct vm *vm)
{
	for (enum bus bus = 0; bus < NR_BUS; bus++) {
		while (vm->bus[bus].nr)
			iobus_unregister(vm, bus, vm->bus[bus].range[0].dev);
		free(vm->bus[bus].range);
		vm->bus[bus].range = NULL;
	}
}

/* True when @r covers the access. */
static bool covers(const struct io_range *r, u64 addr, unsigned len)
{
	u64 at = addr - r->addr;

	return r->len ? addr >= r->addr && at < r->len && len <= r->len - at : at == 0;
}

/*
 * Ranges are few (some tens) and may nest, so a plain scan of those that start at or below @addr does; the usual
 * case, a port without a device, is over after a few compares.
 */
static int iobus_access(struct vcpu *v, enum bus bus, u64 addr, unsigned len, void *val, bool write)
{
	struct iobus *b = &v->vm->bus[bus];
	int r = -EOPNOTSUPP;

	pthread_rwlock_rdlock(&v->vm->bus_lock);
	for (u32 i = 0; i < b->nr && b->range[i].addr <= addr && r; i++) {
		struct kvm_io_device *dev = b->range[i].dev;

		if (!covers(&b->range[i], addr, len))
			continue;
		if (write)
			r = dev->ops->write ? dev->ops->write(v, dev, addr, len, val) : -EOPNOTSUPP;
		else
			r = dev->ops->read ? dev->ops->read(v, dev, addr, len, val) : -EOPNOTSUPP;
	}
	pthread_rwlock_unlock(&v->vm->bus_lock);
	return r;
}

int iobus_read(struct vcpu *v, enum bus bus, u64 addr, unsigned len, void *val)
{
	return iobus_access(v, bus, addr, len, val, false);
}

int iobus_write(struct vcpu *v, enum bus bus, u64 addr, unsigned len, const void *val)
{
	return iobus_access(v, bus, addr, len, (void *)val, true);
}
