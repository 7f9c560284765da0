#include "monitor/ram.h"

#include <errno.h>
#include <sys/mman.h>

#include "monitor/platform.h"

#define HUGE_PAGE (2ull << 20)

/* Maps one range so that guest and host huge pages fall together. */
static int map_range(struct guest_ram *ram, u64 gpa, u64 size)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	u8 *area = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);

	if (area == MAP_FAILED)
		return -errno;

	u8 *host = (u8 *)ALIGN_UP((uintptr_t)area, HUGE_PAGE);

	if (host > area)
		munmap(area, (size_t)(host - area));
	munmap(host + size, (size_t)(area + HUGE_PAGE - host));
	madvise(host, size, MADV_HUGEPAGE); /* a wish */
	madvise(host, size, MADV_DONTDUMP);
	ram->range[ram->nr++] = (struct guest_ram_range){.gpa = gpa, .size = size, .host = host};
	return 0;
}

int ram_map(struct guest_ram *ram, u64 size)
{
	u64 low = MIN(size, PLATFORM_RAM_LOW_MAX);

	*ram = (struct guest_ram){0};
	int rc = map_range(ram, 0, low);

	if (rc == 0 && size > low)
		rc = map_range(ram, PLATFORM_RAM_HIGH_BASE, size - low);
	if (rc < 0)
		ram_unmap(ram);
	return rc;
}

void ram_unmap(struct guest_ram *ram)
{
	while (ram->nr) {
		struct guest_ram_range *r = &ram->range[--ram->nr];

		munmap(r->host, r->size);
	}
}
