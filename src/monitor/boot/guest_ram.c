#include "monitor/boot/guest_ram.h"

#include <string.h>

void *guest_ram_ptr(const struct guest_ram *ram, u64 gpa, u64 len)
{
	for (unsigned i = 0; i < ram->nr; i++) {
		const struct guest_ram_range *r = &ram->range[i];

		if (gpa >= r->gpa && gpa - r->gpa <= r->size && len <= r->size - (gpa - r->gpa))
			return r->host + (gpa - r->gpa);
	}
	return NULL;
}

bool guest_ram_write(const struct guest_ram *ram, u64 gpa, const void *data, u64 len)
{
	void *to = guest_ram_ptr(ram, gpa, len);

	if (!to)
		return false;
	if (len)
		memcpy(to, data, len);
	return true;
}

u64 guest_ram_size(const struct guest_ram *ram)
{
	u64 sum = 0;

	for (unsigned i = 0; i < ram->nr; i++)
		sum += ram->range[i].size;
	return sum;
}
