/* Kernel images made for the loader's tests, and guest RAM to load them into. */
#ifndef TESTS_UNIT_BOOT_IMAGE_H
#define TESTS_UNIT_BOOT_IMAGE_H

#include "monitor/boot/boot.h"

/* Where the image's one segment goes, how much of it is in the file and in memory, and its entry. */
#define IMAGE_PADDR 0x1000000u
#define IMAGE_FILESZ 0x30000u
#define IMAGE_MEMSZ 0x90000u
#define IMAGE_ENTRY (IMAGE_PADDR + 0x40)
#define IMAGE_PVH_ENTRY (IMAGE_PADDR + 0x80)

struct bytes {
	u8 *data;
	size_t len;
};

struct elf_spec {
	bool is_32bit;
	bool banner; /* Linux's */
	bool pvh;    /* has the PVH entry note */
};

/* An ELF kernel; its segment holds image_byte(i) at offset i, but for the banner at 0x1000. free() the data. */
struct bytes image_elf(struct elf_spec spec);
u8 image_byte(size_t i);

enum packing { PACK_GZIP, PACK_XZ, PACK_LZMA, PACK_ZSTD, PACK_LZ4, PACK_NR };

/* A bzImage of protocol 2.15 with @payload packed so. */
struct bytes image_bzimage(struct bytes payload, enum packing packing);

/* Copies @b into a file without a name and writes its path. Close the descriptor that is returned. */
int image_file(struct bytes b, char path[64]);

/* RAM of @mib MiB, split at 3 GiB as the machine does. */
void ram_create(struct guest_ram *ram, u64 mib);
void ram_destroy(struct guest_ram *ram);

#endif
