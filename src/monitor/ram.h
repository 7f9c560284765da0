/* Guest RAM: anonymous memory that costs nothing until the guest touches it. */
#ifndef MONITOR_RAM_H
#define MONITOR_RAM_H

#include "monitor/boot/guest_ram.h"

/* Maps @size bytes (a multiple of the page size) around the PCI hole. Returns 0 or -errno. */
int ram_map(struct guest_ram *ram, u64 size);
void ram_unmap(struct guest_ram *ram);

#endif
