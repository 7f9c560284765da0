#include "monitor/ram.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host/huge_file.h"
#include "monitor/platform.h"

/* Maps one range so that guest and host huge pages fall together: of @file at @offset, or without a file. */
static int map_range(struct guest_ram *ram, u64 gpa, u64 size, int file, u64 offset)
{
	u8 *area = mmap(NULL, size + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (area == MAP_FAILED)
		return -errno;

	u8 *host = (u8 *)ALIGN_UP((uintptr_t)area, HUGE_PAGE);
	int flags = MAP_SHARED | MAP_FIXED | MAP_NORESERVE | (file < 0 ? MAP_ANONYMOUS : 0);

	if (mmap(host, size, PROT_READ | PROT_WRITE, flags, file, (off_t)offset) == MAP_FAILED) {
		int error = errno;

		munmap(area, size + HUGE_PAGE);
		return -error;
	}
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
	int file = huge_file_open(size);

	*ram = (struct guest_ram){0};
	int rc = map_range(ram, 0, low, file, 0);

	if (rc == 0 && size > low)
		rc = map_range(ram, PLATFORM_RAM_HIGH_BASE, size - low, file, low);
	if (file >= 0)
		close(file);
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
