/* Initial RAM disks: what is accepted, what is refused, and where they go. */
#include <asm/bootparam.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <zlib.h>
#include <zstd.h>

#include "boot_image.h"
#include "monitor/boot/load.h"
#include "monitor/platform.h"

static char error[BOOT_ERROR_MAX];

/* One member of a cpio archive. */
static size_t cpio_member(u8 *out, const char *name, const char *body)
{
	size_t name_len = strlen(name) + 1, len = strlen(body);
	const unsigned fields[13] = { 1, 0x81a4, 0, 0, 1, 0, (unsigned)len, 0, 0, 0, 0, (unsigned)name_len, 0 };
	size_t n = (size_t)sprintf((char *)out, "070701");

	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		n += (size_t)sprintf((char *)out + n, "%08X", fields[i]);

	memcpy(out + n, name, name_len);
	n = ALIGN_UP(n + name_len, 4);
	memcpy(out + n, body, len);
	return ALIGN_UP(n + len, 4);
}

static size_t cpio_archive(u8 *out)
{
	size_t n = cpio_member(out, "init", "#!/bin/sh\necho hello, this is a body of some length\n");

	n += cpio_member(out + n, "etc/hostname", "guest");
	return n + cpio_member(out + n, "TRAILER!!!", "");
}

static int check(const u8 *data, size_t len)
{
	u8 *copy = malloc(len); /* of exactly this size, so that a sanitizer sees reads beyond it */

	memcpy(copy, data, len);
	error[0] = 0;
	int ret = initrd_check(&(struct file_image){ copy, len }, "x", error);

	free(copy);
	assert_true(ret == 0 || (ret == -1 && error[0]));
	return ret;
}

static void whole_archives(void **state)
{
	u8 cpio[2048] = { 0 }, both[8192] = { 0 };
	size_t n = cpio_archive(cpio);

	assert_int_equal(check(cpio, n), 0);
	/* Padding at the end, a second archive after padding. */
	memcpy(both, cpio, n);
	assert_int_equal(check(both, ALIGN_UP(n, 512)), 0);
	memcpy(both + 1024, cpio, n);
	assert_int_equal(check(both, 1024 + n), 0);
	both[1020] = 1;
	assert_int_equal(check(both, 1024 + n), -1);
	assert_non_null(strstr(error, "damaged at byte 1020"));
}

static size_t gzip(const u8 *in, size_t len, u8 *out, size_t max)
{
	z_stream z = { .next_in = (Bytef *)in, .avail_in = (uInt)len, .next_out = out, .avail_out = (uInt)max };

	deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
	deflate(&z, Z_FINISH);
	deflateEnd(&z);
	return z.total_out;
}

static void packed_archives(void **state)
{
	u8 cpio[2048] = { 0 }, packed[4096];
	size_t n = cpio_archive(cpio), len = gzip(cpio, n, packed, sizeof(packed));

	assert_int_equal(check(packed, len), 0);
	for (size_t cut = 2; cut < len; cut++)
		assert_int_equal(check(packed, cut), -1);
	packed[len / 2] ^= 0x55;
	assert_int_equal(check(packed, len), -1);

	len = ZSTD_compress(packed, sizeof(packed), cpio, n, 3);
	assert_int_equal(check(packed, len), 0);
	for (size_t cut = 4; cut < len; cut++)
		assert_int_equal(check(packed, cut), -1);
	/* Early microcode's way: an archive as it is, then a packed one. */
	memmove(packed + n, packed, len);
	memcpy(packed, cpio, n);
	assert_int_equal(check(packed, n + len), 0);
	assert_int_equal(check(packed, n + len - 1), -1);
}

static void bad_archives(void **state)
{
	u8 cpio[2048] = { 0 }, junk[4096];
	size_t n = cpio_archive(cpio);

	for (size_t cut = 6; cut + 14 < n; cut++) {
		assert_int_equal(check(cpio, cut), -1);
		assert_non_null(strstr(error, "truncated"));
	}
	memcpy(cpio + 54, "ffffffff", 8);
	assert_int_equal(check(cpio, n), -1);
	memcpy(cpio + 54, "zzzzzzzz", 8);
	assert_int_equal(check(cpio, n), -1);
	assert_non_null(strstr(error, "damaged at byte 0"));
	for (size_t i = 0; i < sizeof(junk); i++)
		junk[i] = (u8)(i * i + 3 * i + 200);
	assert_int_equal(check(junk, sizeof(junk)), -1);
	assert_non_null(strstr(error, "neither a cpio archive"));
}

static struct boot_entry entry;

static int load_with_initrd(struct guest_ram *ram, struct bytes kernel, const u8 *data, size_t len)
{
	char kernel_path[64], initrd_path[64];
	int kernel_fd = image_file(kernel, kernel_path);
	int initrd_fd = image_file((struct bytes){ (u8 *)data, len }, initrd_path);
	struct boot_config config = { .kernel = kernel_path, .initrd = initrd_path, .nr_cpus = 1 };
	int ret = boot_load(&config, ram, &entry, error);

	free(kernel.data);
	close(kernel_fd);
	close(initrd_fd);
	return ret;
}

/* Placed on a page, as high as it may be, whole, and told to the kernel. */
static void placement(void **state)
{
	static const struct {
		u64 mib, end;
	} cases[] = { { 64, 64ull << 20 }, { 1024, 1024ull << 20 }, { 4096, 0x80000000 } };
	u8 cpio[2048] = { 0 };
	size_t n = cpio_archive(cpio);

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct guest_ram ram;

		ram_create(&ram, cases[i].mib);
		assert_int_equal(load_with_initrd(&ram, image_elf((struct elf_spec){ .banner = true }), cpio, n), 0);
		assert_int_equal(entry.initrd_start, cases[i].end - ALIGN_UP(n, PAGE_SIZE));
		assert_int_equal(entry.initrd_size, n);
		assert_memory_equal(guest_ram_ptr(&ram, entry.initrd_start, n), cpio, n);
		const struct boot_params *bp = guest_ram_ptr(&ram, entry.regs.rsi, sizeof(*bp));

		assert_int_equal(bp->hdr.ramdisk_image, entry.initrd_start);
		assert_int_equal(bp->hdr.ramdisk_size, n);
		assert_int_equal(bp->ext_ramdisk_image | bp->ext_ramdisk_size, 0);
		ram_destroy(&ram);
	}
}

/* An initrd that does not fit below 2 GiB goes above 4 GiB when the kernel can reach that. */
static void placement_above_4g(void **state)
{
	struct bytes elf = image_elf((struct elf_spec){ .banner = true }), bz = image_bzimage(elf, PACK_LZ4);
	struct setup_header *h = (struct setup_header *)(bz.data + 0x1f1);
	u8 cpio[2048] = { 0 };
	size_t n = cpio_archive(cpio);
	struct guest_ram ram;

	free(elf.data);
	ram_create(&ram, 4096);
	h->initrd_addr_max = IMAGE_PADDR + IMAGE_MEMSZ;
	h->xloadflags = XLF_KERNEL_64;
	struct bytes copy = { malloc(bz.len), bz.len };

	memcpy(copy.data, bz.data, bz.len);
	assert_int_equal(load_with_initrd(&ram, copy, cpio, n), -1);
	assert_non_null(strstr(error, "use -m"));
	h->xloadflags |= XLF_CAN_BE_LOADED_ABOVE_4G;
	assert_int_equal(load_with_initrd(&ram, bz, cpio, n), 0);
	assert_int_equal(entry.initrd_start, PLATFORM_RAM_HIGH_BASE + (1ull << 30) - ALIGN_UP(n, PAGE_SIZE));
	const struct boot_params *bp = guest_ram_ptr(&ram, entry.regs.rsi, sizeof(*bp));

	assert_int_equal(bp->ext_ramdisk_image, 1);
	assert_int_equal(bp->hdr.ramdisk_image, (u32)entry.initrd_start);
	ram_destroy(&ram);
}

static void pvh_module(void **state)
{
	const u8 anything[] = "not an archive at all";
	struct guest_ram ram;

	ram_create(&ram, 64);
	struct bytes elf = image_elf((struct elf_spec){ .pvh = true });

	assert_int_equal(load_with_initrd(&ram, elf, anything, sizeof(anything)), 0);
	const u64 *info = guest_ram_ptr(&ram, entry.regs.rbx, 56);

	assert_int_equal(info[1] >> 32, 1); /* nr_modules */
	const u64 *module = guest_ram_ptr(&ram, info[2], 32);

	assert_int_equal(module[0], entry.initrd_start);
	assert_int_equal(module[1], sizeof(anything));
	ram_destroy(&ram);
}

static void no_room(void **state)
{
	size_t len = 50 << 20;
	u8 *big = calloc(1, len);
	struct guest_ram ram;

	memcpy(big + len - 512, "x", 1);
	cpio_member(big, "TRAILER!!!", "");
	big[len - 512] = 0;
	ram_create(&ram, 64);
	assert_int_equal(load_with_initrd(&ram, image_elf((struct elf_spec){ .banner = true }), big, len), -1);
	assert_non_null(strstr(error, "kernel and initrd need 67 MiB, guest has 64: use -m"));
	ram_destroy(&ram);
	free(big);
}

static void bad_files(void **state)
{
	struct guest_ram ram;
	struct bytes elf = image_elf((struct elf_spec){ .banner = true });
	char path[64];
	int fd = image_file(elf, path);
	struct boot_config config = { .kernel = path, .nr_cpus = 1 };
	static const struct {
		const char *path, *says;
	} cases[] = {
		{ "/nonexistent", "cannot open initrd '/nonexistent'" },
		{ "/dev/null", "initrd '/dev/null' is neither a file nor a pipe" },
		{ "/", "cannot read initrd '/'" },
	};

	ram_create(&ram, 64);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		config.initrd = cases[i].path;
		assert_int_equal(boot_load(&config, &ram, &entry, error), -1);
		assert_non_null(strstr(error, cases[i].says));
	}
	ram_destroy(&ram);
	close(fd);
	free(elf.data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole_archives),     cmocka_unit_test(packed_archives),
		cmocka_unit_test(bad_archives),       cmocka_unit_test(placement),
		cmocka_unit_test(placement_above_4g), cmocka_unit_test(pvh_module),
		cmocka_unit_test(no_room),            cmocka_unit_test(bad_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
