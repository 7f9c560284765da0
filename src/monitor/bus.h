/* Dispatches the guest's port and memory-mapped accesses to devices. One bus per address space. */
#ifndef MONITOR_BUS_H
#define MONITOR_BUS_H

#include "device/device.h"

#define BUS_MAX_RANGES 64

struct bus_range {
	u64 base, size;
	struct device *device;
	unsigned region; /* index among the device's regions */
};

/* Built before the vCPUs run, immutable afterwards: no lock. */
struct bus {
	unsigned nr;
	struct bus_range range[BUS_MAX_RANGES]; /* ascending, without overlap */
};

/* Adds one of @d's regions. Returns 0, -EEXIST when it overlaps another, -EINVAL, -ENOSPC. */
int bus_add(struct bus *bus, struct device *d, unsigned region);

/*
 * One access of @size bytes at @addr; reads fill @data, which is little-endian
 * as the guest sees it. An access belongs to the range it starts in; what
 * sticks out behind is looked up anew. It is cut into naturally aligned pieces
 * of at most the region's maximum. Narrower than the minimum, a read takes its
 * lanes of a wider one and a write is dropped. Unclaimed: all ones, ignored.
 */
void bus_access(const struct bus *bus, u64 addr, void *data, size_t size, bool write);

#endif
