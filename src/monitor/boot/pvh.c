/* Xen's x86/HVM direct boot ABI (docs/misc/pvh.pandoc of Xen): hvm_start_info and the 32-bit entry. */
#include <string.h>

#include "monitor/boot/load.h"

#define START_INFO_MAGIC 0x336ec578
#define START_INFO_VERSION 1

struct start_info {
	u32 magic, version, flags, nr_modules;
	u64 modlist, cmdline, rsdp, memmap;
	u32 memmap_entries, reserved;
};

struct modlist_entry {
	u64 addr, size, cmdline, reserved;
};

struct memmap_entry {
	u64 addr, size;
	u32 type, reserved;
};

int pvh_prepare(const struct guest_ram *ram, const struct elf_image *elf, struct boot_entry *entry,
		char error[BOOT_ERROR_MAX])
{
	struct {
		struct start_info info;
		struct modlist_entry module;
		struct memmap_entry map[BOOT_MAP_MAX];
	} page = { 0 };
	struct boot_map_entry map[BOOT_MAP_MAX];
	unsigned n = boot_memory_map(ram, map);

	for (unsigned i = 0; i < n; i++)
		page.map[i] = (struct memmap_entry){ map[i].addr, map[i].size, map[i].type, 0 };
	page.module = (struct modlist_entry){ .addr = entry->initrd_start, .size = entry->initrd_size };
	page.info = (struct start_info){
		.magic = START_INFO_MAGIC,
		.version = START_INFO_VERSION,
		.nr_modules = entry->initrd_size ? 1 : 0,
		.modlist = BOOT_START_INFO_ADDR + offsetof(__typeof__(page), module),
		.cmdline = BOOT_CMDLINE_ADDR,
		.rsdp = entry->rsdp,
		.memmap = BOOT_START_INFO_ADDR + offsetof(__typeof__(page), map),
		.memmap_entries = n,
	};
	entry->regs = (struct kvm_regs){ .rip = elf->pvh_entry, .rbx = BOOT_START_INFO_ADDR };
	if (!guest_ram_write(ram, BOOT_START_INFO_ADDR, &page, sizeof(page)) || regs_protected(ram, entry))
		return boot_fail(error, "guest has too little memory: use -m");
	return 0;
}
