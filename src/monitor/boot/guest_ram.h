/* Guest RAM as the monitor has it mapped, and the one way in which the loader writes to it. */
#ifndef BOOT_GUEST_RAM_H
#define BOOT_GUEST_RAM_H

#include "base/types.h"

/* One mapping: @size bytes at guest-physical @gpa, at @host here. Page aligned. */
struct guest_ram_range {
	u64 gpa;
	u64 size;
	u8 *host;
};

/* Ranges in ascending order that do not overlap. range[0] starts at 0; a second one holds what lies above 4 GiB. */
struct guest_ram {
	unsigned nr;
	struct guest_ram_range range[2];
};

/* The host address of [gpa, gpa + len), or NULL when that is not all within one range. */
void *guest_ram_ptr(const struct guest_ram *ram, u64 gpa, u64 len);

/* Copies @len bytes to guest-physical @gpa. False, with nothing written, when they do not fit. */
bool guest_ram_write(const struct guest_ram *ram, u64 gpa, const void *data, u64 len);

/* Bytes of RAM in all ranges. */
u64 guest_ram_size(const struct guest_ram *ram);

#endif
