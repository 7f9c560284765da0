/* Linux's bzImage: the setup header and the packed kernel behind it (Documentation/arch/x86/boot.rst). */
#include <asm/bootparam.h>
#include <string.h>

#include "monitor/boot/load.h"

#define HDR_OFFSET 0x1f1
#define HDR_MAGIC_OFFSET 0x202
#define HDR_MAGIC 0x53726448 /* "HdrS" */
#define SECTOR 512u

/* Protocol versions from which on a field can be trusted. */
#define PROTOCOL_PAYLOAD 0x0208
#define PROTOCOL_INIT_SIZE 0x020a

bool bzimage_is(const struct file_image *file)
{
	u32 magic;

	if (file->size < HDR_MAGIC_OFFSET + sizeof(magic) || file->data[0x1fe] != 0x55 || file->data[0x1ff] != 0xaa)
		return false;
	memcpy(&magic, file->data + HDR_MAGIC_OFFSET, sizeof(magic));
	return magic == HDR_MAGIC;
}

/* The header's length is told by the jump over it at 0x200; fields behind it read as zero. */
static bool read_setup_header(const struct file_image *file, struct setup_header *hdr)
{
	size_t end = HDR_MAGIC_OFFSET + file->data[0x201];
	size_t len = MIN(end > HDR_OFFSET ? end - HDR_OFFSET : 0, sizeof(*hdr));

	if (HDR_OFFSET + len > file->size)
		return false;
	memset(hdr, 0, sizeof(*hdr));
	memcpy(hdr, file->data + HDR_OFFSET, len);
	return true;
}

int bzimage_unpack(const struct file_image *file, const struct boot_config *config, const struct guest_ram *ram,
		   struct setup_header *hdr, struct file_image *payload, char error[BOOT_ERROR_MAX])
{
	if (!read_setup_header(file, hdr))
		return boot_fail(error, "kernel '%s' is truncated within its setup header", config->kernel);
	if (hdr->version < PROTOCOL_PAYLOAD)
		return boot_fail(error,
				 "kernel '%s' has boot protocol %u.%02u; 2.08 (Linux 2.6.26) is the oldest supported",
				 config->kernel, hdr->version >> 8, hdr->version & 0xff);

	u64 setup = ((hdr->setup_sects ? hdr->setup_sects : 4u) + 1) * SECTOR;
	u64 image_end = setup + (u64)hdr->syssize * 16;
	u64 start = setup + hdr->payload_offset, end = start + hdr->payload_length;

	/* Version 6.10 and later round syssize up, so the last paragraph may be missing. */
	if (MAX(image_end, end) > file->size + 15)
		return boot_fail(error, "kernel '%s' is truncated: it says it has %llu bytes, the file has %zu",
				 config->kernel, (unsigned long long)MAX(image_end, end), file->size);
	if (hdr->payload_length < 8 || end > file->size)
		return boot_fail(error, "kernel '%s' is damaged: impossible payload size", config->kernel);

	u64 room = guest_ram_size(ram), need = hdr->pref_address + hdr->init_size;

	if (hdr->version >= PROTOCOL_INIT_SIZE) {
		if (need < hdr->pref_address)
			return boot_fail(error, "kernel '%s' is damaged: impossible load address", config->kernel);
		if (!guest_ram_ptr(ram, hdr->pref_address, hdr->init_size))
			return boot_fail(error, "kernel '%s' needs %llu MiB, guest has %llu: use -m", config->kernel,
					 (unsigned long long)((need + 0xfffff) >> 20),
					 (unsigned long long)(room >> 20));
		room = hdr->init_size; /* made to hold the unpacked image, see the kernel's boot/header.S */
	}
	return unpack(file->data + start, hdr->payload_length, room, payload, config, error);
}
