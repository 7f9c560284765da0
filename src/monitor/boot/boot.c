/* Loading a kernel from beginning to end: read, recognise, unpack, place, describe. */
#include "monitor/boot/boot.h"

#include <asm/bootparam.h>
#include <stdio.h>
#include <string.h>

#include "monitor/boot/acpi.h"
#include "monitor/boot/load.h"
#include "monitor/platform.h"

#define KERNEL_FILE_MAX (2ull << 30)
#define INITRD_ADDR_MAX_64 0x7fffffff /* for images without a setup header */
#define INITRD_ADDR_MAX_32 0x37ffffff
#define CMDLINE_MAX_DEFAULT 2047      /* COMMAND_LINE_SIZE - 1, for the same */

unsigned boot_memory_map(const struct guest_ram *ram, struct boot_map_entry map[BOOT_MAP_MAX])
{
	const struct guest_ram_range *low = &ram->range[0];
	unsigned n = 0;

	map[n++] = (struct boot_map_entry){ 0, PLATFORM_EBDA_BASE, BOOT_MAP_RAM };
	map[n++] = (struct boot_map_entry){ PLATFORM_EBDA_BASE, 0xa0000 - PLATFORM_EBDA_BASE, BOOT_MAP_RESERVED };
	map[n++] = (struct boot_map_entry){ PLATFORM_ACPI_BASE, PLATFORM_ACPI_SIZE, BOOT_MAP_RESERVED };
	map[n++] = (struct boot_map_entry){ BOOT_KERNEL_MIN, low->size - BOOT_KERNEL_MIN, BOOT_MAP_RAM };
	/* Keeps the KVM pages, the IOAPIC and the LAPIC out of what the guest may hand to devices. */
	map[n++] = (struct boot_map_entry){ PLATFORM_IDENTITY_MAP_ADDR, 4 * PAGE_SIZE, BOOT_MAP_RESERVED };
	for (unsigned i = 1; i < ram->nr; i++)
		map[n++] = (struct boot_map_entry){ ram->range[i].gpa, ram->range[i].size, BOOT_MAP_RAM };
	return n;
}

/* What a bzImage would have said in its header, for a bare ELF kernel. */
static struct setup_header default_header(const struct elf_image *elf)
{
	return (struct setup_header){
		.boot_flag = 0xaa55,
		.header = 0x53726448,
		.version = 0x020f,
		.loadflags = LOADED_HIGH,
		.initrd_addr_max = elf->is_64bit ? INITRD_ADDR_MAX_64 : INITRD_ADDR_MAX_32,
		.kernel_alignment = 0x200000,
		.xloadflags = elf->is_64bit ? XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G : 0,
		.cmdline_size = CMDLINE_MAX_DEFAULT,
		.pref_address = elf->start,
	};
}

static int choose_protocol(const struct boot_config *config, const struct elf_image *elf, struct boot_entry *entry,
			   char *error)
{
	enum boot_protocol linux_protocol = elf->is_64bit ? BOOT_LINUX64 : BOOT_LINUX32;

	entry->protocol = config->protocol;
	if (entry->protocol == BOOT_AUTO)
		entry->protocol = elf->has_pvh && !elf->is_linux ? BOOT_PVH : linux_protocol;
	if (entry->protocol == BOOT_PVH && !elf->has_pvh)
		return boot_fail(error, "kernel '%s' has no PVH entry", config->kernel);
	if (entry->protocol != BOOT_PVH && (entry->protocol != linux_protocol || !elf->entry))
		return boot_fail(error, "kernel '%s' has no %s-bit Linux entry", config->kernel,
				 entry->protocol == BOOT_LINUX64 ? "64" : "32");
	return 0;
}

static int place_cmdline(const struct boot_config *config, const struct guest_ram *ram, u32 max, char *error)
{
	const char *cmdline = config->cmdline ? config->cmdline : "";
	size_t len = strlen(cmdline);

	if (len > MIN(max, BOOT_CMDLINE_MAX - 1u))
		return boot_fail(error, "the kernel's command line has %zu characters, kernel '%s' takes %u", len,
				 config->kernel, MIN(max, BOOT_CMDLINE_MAX - 1u));
	if (!guest_ram_write(ram, BOOT_CMDLINE_ADDR, cmdline, len + 1))
		return boot_fail(error, "guest has too little memory: use -m");
	return 0;
}

/*
 * As high as the kernel can reach (@max is the last usable address) and clear
 * of the kernel; above 4 GiB when there is no room below and it can be there.
 */
static int place_initrd(const struct guest_ram *ram, u64 max, bool above_4g, const struct file_image *initrd,
			struct boot_entry *entry, char *error)
{
	u64 end = ALIGN_DOWN(MIN(max + 1, ram->range[0].size), PAGE_SIZE);
	u64 size = ALIGN_UP(initrd->size, PAGE_SIZE), start;

	if (end >= entry->kernel_end && end - entry->kernel_end >= size)
		start = end - size;
	else if (above_4g && ram->nr > 1 && ram->range[1].size >= size)
		start = ram->range[1].gpa + ram->range[1].size - size;
	else
		return boot_fail(error, "kernel and initrd need %llu MiB, guest has %llu: use -m",
				 (unsigned long long)((entry->kernel_end + size + 0xfffff) >> 20),
				 (unsigned long long)(guest_ram_size(ram) >> 20));
	if (!guest_ram_write(ram, start, initrd->data, initrd->size))
		return boot_fail(error, "guest has too little memory: use -m");
	entry->initrd_start = start;
	entry->initrd_size = initrd->size;
	return 0;
}

static int load_initrd(const struct boot_config *config, const struct guest_ram *ram, const struct setup_header *hdr,
		       struct boot_entry *entry, char *error)
{
	bool above_4g = entry->protocol == BOOT_LINUX64 && (hdr->xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G);
	u64 max = entry->protocol == BOOT_PVH ? UINT32_MAX : hdr->initrd_addr_max;
	struct file_image initrd;
	int ret = file_read(config->initrd, "initrd", guest_ram_size(ram), &initrd, error);

	if (ret)
		return ret;
	if (entry->protocol != BOOT_PVH) /* to others it is a module of any kind */
		ret = initrd_check(&initrd, config->initrd, error);
	if (!ret)
		ret = place_initrd(ram, max, above_4g, &initrd, entry, error);
	file_free(&initrd);
	return ret;
}

/* The way that is common to all images once they are an ELF file in memory. */
static int load_elf(const struct boot_config *config, const struct guest_ram *ram, const struct file_image *file,
		    const struct setup_header *bz_hdr, struct boot_entry *entry, char *error)
{
	struct elf_image elf;
	struct setup_header hdr;

	if (elf_parse(file, config->kernel, &elf, error) || choose_protocol(config, &elf, entry, error))
		return -1;
	if (!guest_ram_ptr(ram, elf.start, elf.end - elf.start))
		return boot_fail(error, "kernel '%s' needs %llu MiB, guest has %llu: use -m", config->kernel,
				 (unsigned long long)((elf.end >> 20) + !!(elf.end & 0xfffff)),
				 (unsigned long long)(guest_ram_size(ram) >> 20));
	hdr = bz_hdr ? *bz_hdr : default_header(&elf);
	entry->kernel_start = elf.start;
	entry->kernel_end = elf.end;
	if (elf_place(file, config->kernel, ram, error) ||
	    place_cmdline(config, ram, entry->protocol == BOOT_PVH ? BOOT_CMDLINE_MAX : hdr.cmdline_size, error) ||
	    (config->initrd && load_initrd(config, ram, &hdr, entry, error)) ||
	    acpi_build(ram, &(struct acpi_config){ .nr_cpus = config->nr_cpus }, &entry->rsdp, error))
		return -1;
	return entry->protocol == BOOT_PVH ? pvh_prepare(ram, &elf, entry, error)
					   : linux_prepare(ram, &hdr, &elf, entry, error);
}

int boot_load(const struct boot_config *config, const struct guest_ram *ram, struct boot_entry *entry,
	      char error[BOOT_ERROR_MAX])
{
	struct file_image file, payload = { 0 };
	struct setup_header hdr;
	int ret;

	*entry = (struct boot_entry){ 0 };
	if (ram->nr == 0 || ram->range[0].gpa != 0 || ram->range[0].size <= BOOT_KERNEL_MIN)
		return boot_fail(error, "guest has too little memory: use -m");
	if (file_read(config->kernel, "kernel", KERNEL_FILE_MAX, &file, error))
		return -1;
	if (elf_is(&file)) {
		ret = load_elf(config, ram, &file, NULL, entry, error);
	} else if (bzimage_is(&file)) {
		ret = bzimage_unpack(&file, config, ram, &hdr, &payload, error);
		file_free(&file); /* before the payload doubles the memory in use */
		if (!ret)
			ret = load_elf(config, ram, &payload, &hdr, entry, error);
	} else {
		ret = boot_fail(error, "kernel '%s' is neither a bzImage nor an ELF file", config->kernel);
	}
	file_free(&payload);
	file_free(&file);
	return ret;
}
