/*
 * The kernel loader on arbitrary files. The first byte says what the rest is:
 * an initrd, a kernel, or a list of changes (offset and new byte, four bytes
 * each) to an image that is good.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../unit/boot_image.c"
#include "input.h"
#include "monitor/boot/load.h"

#define RAM_SIZE (32u << 20)

/* ELF of either width, and a bzImage of every packing. */
#define NR_BASES (2 + PACK_NR)

static struct bytes good_image(unsigned n)
{
	static struct bytes bases[NR_BASES];

	if (!bases[n].data) {
		struct bytes elf = image_elf((struct elf_spec){ .is_32bit = n == 1, .banner = true, .pvh = true });

		bases[n] = n < 2 ? elf : image_bzimage(elf, (enum packing)(n - 2));
		if (n >= 2)
			free(elf.data);
	}
	return bases[n];
}

static struct bytes changed_image(const u8 *data, size_t size)
{
	struct bytes good = good_image(data[0] % NR_BASES), b = { malloc(good.len), good.len };

	memcpy(b.data, good.data, b.len);
	for (size_t i = 1; i + 4 <= size; i += 4) {
		size_t at = data[i] | data[i + 1] << 8 | (data[i + 2] & 3) << 16;

		b.data[at % b.len] = data[i + 3];
	}
	return b;
}

static void load(struct bytes kernel, enum boot_protocol protocol)
{
	struct guest_ram ram = { .nr = 1, .range[0] = { .size = RAM_SIZE } };
	char error[BOOT_ERROR_MAX] = "", path[64];
	struct boot_config config = { .kernel = path, .nr_cpus = 2, .protocol = protocol };
	struct boot_entry entry;

	ram.range[0].host = guarded(RAM_SIZE, PROT_READ | PROT_WRITE);

	int fd = image_file(kernel, path);
	int ret = boot_load(&config, &ram, &entry, error);

	if (ret == 0)
		require(entry.kernel_end <= RAM_SIZE && entry.protocol != BOOT_AUTO);
	else
		require(error[0] && !strchr(error, '\n'));
	close(fd);
	guarded_free(ram.range[0].host, RAM_SIZE);
}

static void check_initrd(const u8 *data, size_t size)
{
	struct file_image file = { malloc(size), size };
	char error[BOOT_ERROR_MAX] = "";

	memcpy(file.data, data, size);
	require(!initrd_check(&file, "x", error) || error[0]);
	free(file.data);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	if (size < 2)
		return 0;
	enum boot_protocol protocol = (data[0] >> 2) & 3;

	switch (data[0] & 3) {
	case 0:
		check_initrd(data + 1, size - 1);
		break;
	case 1:
		load((struct bytes){ (u8 *)data + 1, size - 1 }, protocol);
		break;
	default: {
		struct bytes b = changed_image(data + 1, size - 1);

		load(b, protocol);
		free(b.data);
	}
	}
	return 0;
}
