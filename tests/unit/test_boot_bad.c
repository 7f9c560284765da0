/* The kernel loader on bad images: one line that says what is wrong, and nothing worse. */
#include <asm/bootparam.h>
#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "boot_image.h"

static struct guest_ram ram;
static struct boot_entry entry;
static char error[BOOT_ERROR_MAX];

static int make_ram(void **state)
{
	ram_create(&ram, 64);
	return 0;
}

static int drop_ram(void **state)
{
	ram_destroy(&ram);
	return 0;
}

static int load_path(const char *path)
{
	struct boot_config config = { .kernel = path, .nr_cpus = 1 };

	error[0] = 0;
	int ret = boot_load(&config, &ram, &entry, error);

	/* Every failure has its line, and a line is one line. */
	assert_true(ret == 0 || (ret == -1 && error[0]));
	assert_null(strchr(error, '\n'));
	return ret;
}

static int load(struct bytes image)
{
	char path[64];
	int fd = image_file(image, path), ret = load_path(path);

	close(fd);
	return ret;
}

static void assert_fails(struct bytes image, const char *with)
{
	assert_int_equal(load(image), -1);
	if (!strstr(error, with))
		fail_msg("'%s' does not say '%s'", error, with);
}

static struct bytes good_elf(void)
{
	return image_elf((struct elf_spec){ .banner = true, .pvh = true });
}

static struct bytes good_bzimage(enum packing packing)
{
	struct bytes elf = good_elf(), bz = image_bzimage(elf, packing);

	free(elf.data);
	return bz;
}

static void not_files(void **state)
{
	assert_int_equal(load_path("/nonexistent/kernel"), -1);
	assert_non_null(strstr(error, "'/nonexistent/kernel': No such file"));
	assert_int_equal(load_path("/"), -1);
	assert_non_null(strstr(error, "Is a directory"));
	assert_int_equal(load_path("/dev/zero"), -1);
	assert_int_equal(load_path("/dev/null"), -1);
	assert_int_equal(load_path(""), -1);
	assert_fails((struct bytes){ NULL, 0 }, "is empty");
}

/* Deterministic noise. */
static u32 noise(u32 *seed)
{
	return *seed = *seed * 1664525 + 1013904223;
}

static void random_bytes(void **state)
{
	u32 seed = 1;
	u8 data[5000];

	for (size_t len = 1; len <= sizeof(data); len = len * 3 / 2 + 1) {
		for (size_t i = 0; i < len; i++)
			data[i] = (u8)(noise(&seed) >> 24);
		assert_fails((struct bytes){ data, len }, "neither a bzImage nor an ELF file");
	}
}

static void truncated_elf(void **state)
{
	struct bytes b = good_elf();
	size_t full = b.len;

	for (size_t len = 1; len < full; len += len < 0x3100 ? 61 : 4001) {
		b.len = len;
		assert_int_equal(load(b), -1);
	}
	b.len = full - 1;
	assert_fails(b, "truncated");
	b.len = full;
	assert_int_equal(load(b), 0);
	free(b.data);
}

static void truncated_bzimage(void **state)
{
	for (enum packing packing = 0; packing < PACK_NR; packing++) {
		struct bytes b = good_bzimage(packing);
		size_t full = b.len;

		for (size_t len = 1; len + 16 < full; len += len < 0x400 ? 97 : 1501) {
			b.len = len;
			assert_int_equal(load(b), -1);
			assert_true(len < 0x240 || strstr(error, "truncated"));
		}
		free(b.data);
	}
}

/* Bytes changed at random: refused or loaded, but nothing outside guest RAM is touched (the sanitizers' build sees). */
static void corrupt(struct bytes b, u32 seed, size_t upto)
{
	u8 *copy = malloc(b.len);

	for (int round = 0; round < 150; round++) {
		memcpy(copy, b.data, b.len);
		for (u32 n = noise(&seed) >> 29; n != UINT32_MAX; n--)
			copy[(noise(&seed) >> 4) % MIN(upto, b.len)] = (u8)(noise(&seed) >> 24);
		load((struct bytes){ copy, b.len });
	}
	free(copy);
	free(b.data);
}

static void corrupt_headers(void **state)
{
	corrupt(good_elf(), 1, 200);
	corrupt(image_elf((struct elf_spec){ .is_32bit = true, .pvh = true }), 2, 150);
	corrupt(good_bzimage(PACK_LZ4), 3, 0x270);
}

static void corrupt_payloads(void **state)
{
	for (enum packing packing = 0; packing < PACK_NR; packing++)
		corrupt(good_bzimage(packing), packing, SIZE_MAX);
}

static struct setup_header *header(struct bytes b)
{
	return (struct setup_header *)(b.data + 0x1f1);
}

static void payload_that_grows(void **state)
{
	for (enum packing packing = 0; packing < PACK_NR; packing++) {
		struct bytes b = good_bzimage(packing);
		u8 *size = b.data + (header(b)->setup_sects + 1) * 512 + header(b)->payload_offset +
			   header(b)->payload_length - 4;

		/* Declares less than there is, more than there is, more than is allowed. */
		memcpy(size, &(u32){ 0x8000 }, 4);
		assert_fails(b, "cannot unpack");
		memcpy(size, &(u32){ 0x100000 }, 4);
		assert_fails(b, "cannot unpack");
		memcpy(size, &(u32){ 0xfffffff0 }, 4);
		assert_fails(b, "it unpacks to 4294967280 bytes");
		memcpy(size, &(u32){ 0 }, 4);
		assert_int_equal(load(b), -1);
		free(b.data);
	}
}

static void hostile_setup_headers(void **state)
{
	static const struct {
		u32 offset, length, syssize;
		const char *says;
	} cases[] = {
		{ 0xffffffff, 100, 16, "truncated" },
		{ 0x100, 0xffffffff, 16, "truncated" },
		{ 0xfffffff0, 0xfffffff0, 16, "truncated" },
		{ 0x100, 100, 0xffffffff, "truncated" },
		{ 0x100, 0, 16, "impossible payload size" },
		{ 0x100, 7, 16, "impossible payload size" },
		{ 0, 100, 16, "unknown format" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bytes b = good_bzimage(PACK_GZIP);

		header(b)->payload_offset = cases[i].offset;
		header(b)->payload_length = cases[i].length;
		header(b)->syssize = cases[i].syssize;
		assert_fails(b, cases[i].says);
		free(b.data);
	}

	struct bytes b = good_bzimage(PACK_GZIP);

	header(b)->pref_address = UINT64_MAX - 10;
	assert_fails(b, "impossible load address");
	header(b)->version = 0x0204;
	assert_fails(b, "boot protocol 2.04");
	free(b.data);
}

static void unsupported_packing(void **state)
{
	struct bytes b = good_bzimage(PACK_LZ4);
	u8 *payload = b.data + (header(b)->setup_sects + 1) * 512 + header(b)->payload_offset;

	memcpy(payload, "BZh9", 4);
	assert_fails(b, "packed with bzip2");
	memcpy(payload, "\x89LZO", 4);
	assert_fails(b, "packed with lzo");
	free(b.data);
}

static void hostile_elf(void **state)
{
	struct bytes b = good_elf();
	Elf64_Ehdr *e = (Elf64_Ehdr *)b.data;
	Elf64_Phdr *p = (Elf64_Phdr *)(b.data + sizeof(*e)), load_segment = p[0];

	e->e_phoff = UINT64_MAX - 8;
	assert_fails(b, "truncated");
	e->e_phoff = sizeof(*e);
	e->e_phnum = 0;
	assert_fails(b, "nothing to load");
	e->e_phnum = 0xffff;
	assert_fails(b, "");
	e->e_phnum = 2;
	e->e_machine = EM_AARCH64;
	assert_fails(b, "for x86");
	e->e_machine = EM_X86_64;

	p[0].p_offset = UINT64_MAX - 100;
	assert_fails(b, "truncated");
	p[0] = load_segment;
	p[0].p_filesz = UINT64_MAX;
	assert_fails(b, "truncated");
	p[0] = load_segment;
	p[0].p_memsz = p[0].p_filesz - 1;
	assert_fails(b, "impossible segment sizes");
	p[0].p_memsz = UINT64_MAX - p[0].p_paddr;
	assert_fails(b, "use -m");
	p[0] = load_segment;
	p[0].p_paddr = UINT64_MAX - 100;
	assert_fails(b, "impossible segment sizes");
	p[0].p_paddr = 0x7000;
	assert_fails(b, "below 1 MiB");
	p[0] = load_segment;

	u32 *note = (u32 *)(b.data + p[1].p_offset);

	note[0] = 0xfffffffc; /* the name's length: the note is ignored */
	assert_int_equal(load(b), 0);
	note[0] = 4;
	note[1] = 0xffffffff;
	assert_int_equal(load(b), 0);
	note[1] = 4;
	note[4] = 0x10; /* the PVH entry */
	assert_fails(b, "PVH entry point (0x10) outside");
	note[4] = IMAGE_PVH_ENTRY;
	p[1].p_filesz = 0;
	e->e_entry = 0xffffffff81000000;
	assert_fails(b, "entry point (0xffffffff81000000) outside");
	free(b.data);
}

static void too_little_memory(void **state)
{
	static const u64 sizes[] = { 2, 8, 16 }; /* MiB; the image starts at 16 */
	struct bytes elf = good_elf(), bz = good_bzimage(PACK_ZSTD);
	struct guest_ram saved = ram;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		ram_create(&ram, sizes[i]);
		assert_fails(elf, "needs 17 MiB, guest has ");
		assert_non_null(strstr(error, "use -m"));
		assert_fails(bz, "needs 20 MiB, guest has ");
		ram_destroy(&ram);
	}
	ram_create(&ram, 1);
	assert_fails(elf, "too little memory");
	ram_destroy(&ram);
	ram = saved;
	free(elf.data);
	free(bz.data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(not_files),
		cmocka_unit_test(random_bytes),
		cmocka_unit_test(truncated_elf),
		cmocka_unit_test(truncated_bzimage),
		cmocka_unit_test(corrupt_headers),
		cmocka_unit_test(corrupt_payloads),
		cmocka_unit_test(payload_that_grows),
		cmocka_unit_test(hostile_setup_headers),
		cmocka_unit_test(unsupported_packing),
		cmocka_unit_test(hostile_elf),
		cmocka_unit_test(too_little_memory),
	};

	return cmocka_run_group_tests(tests, make_ram, drop_ram);
}
