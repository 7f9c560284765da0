#include "monitor/bus.h"

#include <errno.h>
#include <string.h>

int bus_add(struct bus *bus, struct device *d, unsigned region)
{
	const struct region *r = &d->regions[region];
	unsigned at = 0;

	if (!r->size || r->base + r->size - 1 < r->base || r->max > 8)
		return -EINVAL;
	if (bus->nr == BUS_MAX_RANGES)
		return -ENOSPC;
	while (at < bus->nr && bus->range[at].base < r->base)
		at++;
	if (at && bus->range[at - 1].base + bus->range[at - 1].size > r->base)
		return -EEXIST;
	if (at < bus->nr && r->base + r->size > bus->range[at].base)
		return -EEXIST;
	memmove(&bus->range[at + 1], &bus->range[at], (bus->nr - at) * sizeof(bus->range[0]));
	bus->range[at] = (struct bus_range){r->base, r->size, d, region};
	bus->nr++;
	return 0;
}

static const struct bus_range *find(const struct bus *bus, u64 addr)
{
	unsigned low = 0, high = bus->nr;

	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (addr < bus->range[mid].base)
			high = mid;
		else if (addr - bus->range[mid].base >= bus->range[mid].size)
			low = mid + 1;
		else
			return &bus->range[mid];
	}
	return NULL;
}

/* The longest naturally aligned piece of an access with @left bytes to go at @offset that the region takes. */
static unsigned piece_size(const struct region *r, u64 offset, size_t left)
{
	unsigned size = r->max;

	while (size > 1 && (size > left || offset % size))
		size /= 2;
	return size;
}

static void access_piece(const struct bus_range *range, u64 offset, void *data, unsigned size, bool write)
{
	const struct region *r = &range->device->regions[range->region];
	u64 value = 0;

	if (write && size >= r->min) {
		memcpy(&value, data, size);
		device_write(range->device, range->region, offset, size, value);
	} else if (!write) {
		unsigned wide = MAX(size, r->min);
		u64 aligned = offset & ~(u64)(wide - 1);

		value = device_read(range->device, range->region, aligned, wide) >> (8 * (offset - aligned));
		memcpy(data, &value, size);
	}
}

void bus_access(const struct bus *bus, u64 addr, void *data, size_t size, bool write)
{
	const struct bus_range *range;
	u8 *p = data;

	while (size && (range = find(bus, addr))) {
		u64 offset = addr - range->base;
		size_t left = MIN(size, range->size - offset);
		unsigned n = piece_size(&range->device->regions[range->region], offset, left);

		access_piece(range, offset, p, n, write);
		p += n;
		addr += n;
		size -= n;
	}
	if (!write)
		memset(p, 0xff, size);
}
