/*
 * The buses on which devices live that are handled without a trip to the client
 * (after KVM's kvm_io_bus): port I/O and memory-mapped I/O.
 */
#ifndef KVM_IOBUS_H
#define KVM_IOBUS_H

#include "base/types.h"

struct vcpu;
struct vm;
struct kvm_io_device;

enum bus { BUS_PIO, BUS_MMIO, NR_BUS };

struct kvm_io_device_ops {
	/* 0 when the access is taken, -EOPNOTSUPP when it is not this device's. Called with [B] held for reading. */
	int (*read)(struct vcpu *v, struct kvm_io_device *dev, u64 addr, unsigned len, void *val);
	int (*write)(struct vcpu *v, struct kvm_io_device *dev, u64 addr, unsigned len, const void *val);
	void (*destructor)(struct kvm_io_device *dev);
};

struct kvm_io_device {
	const struct kvm_io_device_ops *ops;
};

struct io_range {
	u64 addr, len; /* len 0: any access that starts at addr */
	struct kvm_io_device *dev;
};

#define IOBUS_MAX_DEVS 1000 /* NR_IOBUS_DEVS */
struct iobus {
	u32 nr;
	struct io_range *range; /* sorted by addr */
};

/* 0, -ENOSPC, -ENOMEM. [B] for writing. Ranges may overlap: the access goes to the first that takes it. */
int iobus_register(struct vm *vm, enum bus bus, u64 addr, u64 len, struct kvm_io_device *dev);
/* Removes every range of @dev and destroys it. [B] for writing. */
void iobus_unregister(struct vm *vm, enum bus bus, struct kvm_io_device *dev);
/* Destroys all devices. */
void iobus_free(struct vm *vm);

/* 0, or -EOPNOTSUPP when nobody takes it. */
int iobus_read(struct vcpu *v, enum bus bus, u64 addr, unsigned len, void *val);
int iobus_write(struct vcpu *v, enum bus bus, u64 addr, unsigned len, const void *val);

#endif
