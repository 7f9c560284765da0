/* Linux's boot protocol: the zero page and the registers (Documentation/arch/x86/{boot,zero-page}.rst). */
#include <asm/bootparam.h>
#include <string.h>
#include <sys/random.h>

#include "monitor/boot/load.h"

#define LOADER_UNDEFINED 0xff
#define RNG_SEED_SIZE 32

#ifndef SETUP_RNG_SEED
#define SETUP_RNG_SEED 9 /* Linux 6.0 */
#endif

_Static_assert(sizeof(struct boot_params) == PAGE_SIZE, "the zero page is a page");

/* A seed for the guest's random numbers, so that it need not gather them while it boots. Old kernels skip the type. */
static bool write_rng_seed(const struct guest_ram *ram)
{
	const struct setup_data head = { .type = SETUP_RNG_SEED, .len = RNG_SEED_SIZE };
	u8 seed[RNG_SEED_SIZE];

	return getrandom(seed, sizeof(seed), 0) == sizeof(seed) &&
	       guest_ram_write(ram, BOOT_SETUP_DATA_ADDR, &head, sizeof(head)) &&
	       guest_ram_write(ram, BOOT_SETUP_DATA_ADDR + sizeof(head), seed, sizeof(seed));
}

int linux_prepare(const struct guest_ram *ram, const struct setup_header *hdr, const struct elf_image *elf,
		  struct boot_entry *entry, char error[BOOT_ERROR_MAX])
{
	struct boot_params *bp = guest_ram_ptr(ram, BOOT_PARAMS_ADDR, sizeof(*bp));
	struct boot_map_entry map[BOOT_MAP_MAX];

	if (!bp)
		return boot_fail(error, "guest has no memory at 0x%x: use -m", BOOT_PARAMS_ADDR);
	memset(bp, 0, sizeof(*bp));
	bp->hdr = *hdr;
	bp->hdr.type_of_loader = LOADER_UNDEFINED;
	bp->hdr.cmd_line_ptr = BOOT_CMDLINE_ADDR;
	bp->hdr.ramdisk_image = (u32)entry->initrd_start;
	bp->hdr.ramdisk_size = (u32)entry->initrd_size;
	bp->ext_ramdisk_image = entry->initrd_start >> 32;
	bp->ext_ramdisk_size = entry->initrd_size >> 32;
	bp->acpi_rsdp_addr = entry->rsdp;
	if (write_rng_seed(ram))
		bp->hdr.setup_data = BOOT_SETUP_DATA_ADDR;
	bp->e820_entries = (u8)boot_memory_map(ram, map);
	for (unsigned i = 0; i < bp->e820_entries; i++)
		bp->e820_table[i] = (struct boot_e820_entry){ map[i].addr, map[i].size, map[i].type };

	entry->regs = (struct kvm_regs){ .rip = elf->entry, .rsi = BOOT_PARAMS_ADDR };
	if (entry->protocol == BOOT_LINUX64 ? regs_long(ram, entry) : regs_protected(ram, entry))
		return boot_fail(error, "guest has too little memory: use -m");
	return 0;
}
