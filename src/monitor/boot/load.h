/* The loader's own parts and what they tell each other. Nobody outside boot/ includes this. */
#ifndef BOOT_LOAD_H
#define BOOT_LOAD_H

#include "monitor/boot/boot.h"

/* Guest-physical addresses of what is written beside the kernel, all below the EBDA. */
#define BOOT_GDT_ADDR 0x500
#define BOOT_START_INFO_ADDR 0x6000 /* PVH: hvm_start_info, module list, memory map */
#define BOOT_PARAMS_ADDR 0x7000     /* the "zero page" */
#define BOOT_STACK_TOP 0x9000
#define BOOT_PML4_ADDR 0x9000
#define BOOT_PDPT_ADDR 0xa000
#define BOOT_PD_ADDR 0xb000 /* four pages: the first 4 GiB */
#define BOOT_SETUP_DATA_ADDR 0x1f000
#define BOOT_CMDLINE_ADDR 0x20000
#define BOOT_CMDLINE_MAX 0x10000
#define BOOT_KERNEL_MIN 0x100000 /* images may not reach below */

/* Puts a message into @error and returns -1. */
int boot_fail(char error[BOOT_ERROR_MAX], const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A whole file in memory. */
struct file_image {
	u8 *data;
	size_t size;
};

/* Reads @path; @what ("kernel", "initrd") is for messages. Fails on empty files and on more than @max bytes. */
int file_read(const char *path, const char *what, u64 max, struct file_image *file, char error[BOOT_ERROR_MAX]);
void file_free(struct file_image *file);

/*
 * Unpacks one compressed stream of @in_len bytes, whose last four bytes say
 * (little endian) how much it unpacks to, as Linux's build appends it. @max
 * bounds that. On success @out holds the result; free it with file_free().
 */
int unpack(const u8 *in, size_t in_len, u64 max, struct file_image *out, const struct boot_config *config,
	   char error[BOOT_ERROR_MAX]);

/* What an ELF kernel says of itself. Addresses are physical ones. */
struct elf_image {
	bool is_64bit;
	u64 entry;
	u64 start, end; /* of all segments, zeroed tails included */
	bool has_pvh;
	u64 pvh_entry; /* XEN_ELFNOTE_PHYS32_ENTRY */
	bool is_linux; /* holds Linux's banner */
};

/* Checks @file (named @path in messages) as a loadable x86 ELF image. No guest memory is touched. */
int elf_parse(const struct file_image *file, const char *path, struct elf_image *elf, char error[BOOT_ERROR_MAX]);

/* Copies the segments to their physical addresses. @ram must have room up to elf->end. */
int elf_place(const struct file_image *file, const char *path, const struct guest_ram *ram,
	      char error[BOOT_ERROR_MAX]);
bool elf_is(const struct file_image *file);

struct setup_header;

bool bzimage_is(const struct file_image *file);
/* Checks the setup header, unpacks the payload into @payload (file_free() it) and copies the header to @hdr. */
int bzimage_unpack(const struct file_image *file, const struct boot_config *config, const struct guest_ram *ram,
		   struct setup_header *hdr, struct file_image *payload, char error[BOOT_ERROR_MAX]);

/* Fails unless @file is something Linux unpacks or mounts, complete as far as its format shows. */
int initrd_check(const struct file_image *file, const char *path, char error[BOOT_ERROR_MAX]);

/* Memory map for the guest, in both protocols' numbering: 1 is RAM, 2 is reserved. */
struct boot_map_entry {
	u64 addr, size;
	u32 type;
};
#define BOOT_MAP_RAM 1
#define BOOT_MAP_RESERVED 2
#define BOOT_MAP_MAX 8
unsigned boot_memory_map(const struct guest_ram *ram, struct boot_map_entry map[BOOT_MAP_MAX]);

/* Write what the protocol wants and set @entry's registers; @entry's other fields are filled in already. */
int linux_prepare(const struct guest_ram *ram, const struct setup_header *hdr, const struct elf_image *elf,
		  struct boot_entry *entry, char error[BOOT_ERROR_MAX]);
int pvh_prepare(const struct guest_ram *ram, const struct elf_image *elf, struct boot_entry *entry,
		char error[BOOT_ERROR_MAX]);

/* Flat 32-bit protected mode without paging, or 64-bit mode with the first 4 GiB mapped one to one. */
int regs_protected(const struct guest_ram *ram, struct boot_entry *entry);
int regs_long(const struct guest_ram *ram, struct boot_entry *entry);

#endif
