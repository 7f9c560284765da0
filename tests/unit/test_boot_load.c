/* The kernel loader on images of every kind: what it puts where, and how the vCPU starts. */
#include <asm/bootparam.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "boot_image.h"
#include "monitor/platform.h"

static struct guest_ram ram;
static struct boot_entry entry;
static char error[BOOT_ERROR_MAX];

static int make_ram(void **state)
{
	ram_create(&ram, 128);
	return 0;
}

static int drop_ram(void **state)
{
	ram_destroy(&ram);
	return 0;
}

/* Loads @image from a file, and frees it. */
static int load(struct bytes image, struct boot_config config)
{
	char path[64];
	int fd = image_file(image, path);

	free(image.data);
	config.kernel = path;
	if (!config.nr_cpus)
		config.nr_cpus = 1;
	error[0] = 0;
	int ret = boot_load(&config, &ram, &entry, error);

	close(fd);
	return ret;
}

static void assert_image_loaded(void)
{
	const u8 *at = guest_ram_ptr(&ram, IMAGE_PADDR, IMAGE_MEMSZ);

	/* But for the banner and the note. */
	for (size_t i = 0; i < 0x1000; i++)
		assert_int_equal(at[i], image_byte(i));
	for (size_t i = 0x1100; i < 0x2000; i++)
		assert_int_equal(at[i], image_byte(i));
	for (size_t i = 0x2100; i < IMAGE_FILESZ; i++)
		assert_int_equal(at[i], image_byte(i));
	for (size_t i = IMAGE_FILESZ; i < IMAGE_MEMSZ; i++)
		assert_int_equal(at[i], 0);
	assert_int_equal(entry.kernel_start, IMAGE_PADDR);
	assert_int_equal(entry.kernel_end, IMAGE_PADDR + IMAGE_MEMSZ);
}

static u64 read_u64(u64 gpa)
{
	const u64 *p = guest_ram_ptr(&ram, gpa, 8);

	assert_non_null(p);
	return *p;
}

/* The page tables that the vCPU starts with map the first 4 GiB one to one, writable. */
static void assert_identity_mapped(u64 cr3)
{
	for (u64 va = 0; va < 4ull << 30; va += 2 << 20) {
		u64 pml4e = read_u64(cr3), pdpte = read_u64((pml4e & PAGE_MASK) + (va >> 30) * 8);
		u64 pde = read_u64((pdpte & PAGE_MASK) + (va >> 21 & 511) * 8);

		assert_int_equal(pml4e & 3, 3);
		assert_int_equal(pdpte & 0x83, 3);
		assert_int_equal(pde, va | 0x83);
	}
}

static void linux64_entry(void **state)
{
	struct boot_config config = { .cmdline = "console=ttyS0 quiet" };

	assert_int_equal(load(image_elf((struct elf_spec){ .banner = true, .pvh = true }), config), 0);
	assert_image_loaded();
	assert_int_equal(entry.protocol, BOOT_LINUX64);
	assert_int_equal(entry.regs.rip, IMAGE_ENTRY);
	assert_int_equal(entry.regs.rflags, 2);
	assert_int_equal(entry.sregs.efer, 0x500);
	assert_int_equal(entry.sregs.cr0 & 0x80000001, 0x80000001);
	assert_int_equal(entry.sregs.cr4, 0x20);
	assert_true(entry.sregs.cs.l && !entry.sregs.cs.db);
	assert_int_equal(entry.sregs.cs.selector, 0x10);
	assert_int_equal(entry.sregs.ds.selector, 0x18);
	/* The hidden parts are those of the descriptors in the GDT. */
	assert_int_equal(read_u64(entry.sregs.gdt.base + 0x10), 0x00af9b000000ffffull);
	assert_int_equal(read_u64(entry.sregs.gdt.base + 0x18), 0x00cf93000000ffffull);
	assert_int_equal(entry.sregs.cs.type, 11);
	assert_int_equal(entry.sregs.tr.type, 11);
	assert_identity_mapped(entry.sregs.cr3);

	const struct boot_params *bp = guest_ram_ptr(&ram, entry.regs.rsi, sizeof(*bp));

	assert_non_null(bp);
	assert_int_equal(bp->sentinel, 0);
	assert_int_equal(bp->hdr.boot_flag, 0xaa55);
	assert_int_equal(bp->hdr.type_of_loader, 0xff);
	assert_int_equal(bp->acpi_rsdp_addr, entry.rsdp);
	assert_string_equal(guest_ram_ptr(&ram, bp->hdr.cmd_line_ptr, 32), "console=ttyS0 quiet");
	assert_int_equal(bp->hdr.ramdisk_size, 0);
}

static void linux32_entry(void **state)
{
	struct bytes elf = image_elf((struct elf_spec){ .is_32bit = true, .banner = true });

	assert_int_equal(load(elf, (struct boot_config){ 0 }), 0);
	assert_image_loaded();
	assert_int_equal(entry.protocol, BOOT_LINUX32);
	assert_int_equal(entry.regs.rip, IMAGE_ENTRY);
	assert_int_equal(entry.sregs.efer, 0);
	assert_int_equal(entry.sregs.cr0 & 0x80000001, 1);
	assert_true(entry.sregs.cs.db && !entry.sregs.cs.l);
	assert_int_equal(entry.sregs.cs.limit, 0xffffffff);
	assert_int_equal(entry.regs.rbx | entry.regs.rdi | entry.regs.rbp, 0);
	assert_non_null(guest_ram_ptr(&ram, entry.regs.rsi, sizeof(struct boot_params)));
}

static void pvh_entry(void **state)
{
	struct boot_config config = { .cmdline = "x=1" };

	assert_int_equal(load(image_elf((struct elf_spec){ .pvh = true }), config), 0);
	assert_image_loaded();
	assert_int_equal(entry.protocol, BOOT_PVH);
	assert_int_equal(entry.regs.rip, IMAGE_PVH_ENTRY);
	assert_int_equal(entry.sregs.cr0 & 0x80000001, 1);
	assert_int_equal(entry.sregs.tr.limit, 0x67);

	const u32 *info = guest_ram_ptr(&ram, entry.regs.rbx, 56);

	assert_int_equal(info[0], 0x336ec578);
	assert_int_equal(info[1], 1);
	assert_int_equal(info[3], 0); /* no modules */
	assert_string_equal(guest_ram_ptr(&ram, read_u64(entry.regs.rbx + 24), 4), "x=1");
	assert_int_equal(read_u64(entry.regs.rbx + 32), entry.rsdp);
	u64 map = read_u64(entry.regs.rbx + 40);

	assert_int_equal(read_u64(map), 0);
	assert_int_equal(read_u64(map + 16) & 0xffffffff, 1);
	assert_true(info[12] >= 4);
}

static void protocol_by_request(void **state)
{
	struct boot_config pvh = { .protocol = BOOT_PVH }, wrong = { .protocol = BOOT_LINUX32 };

	assert_int_equal(load(image_elf((struct elf_spec){ .banner = true, .pvh = true }), pvh), 0);
	assert_int_equal(entry.protocol, BOOT_PVH);
	assert_int_equal(load(image_elf((struct elf_spec){ .banner = true }), pvh), -1);
	assert_non_null(strstr(error, "no PVH entry"));
	assert_int_equal(load(image_elf((struct elf_spec){ .banner = true }), wrong), -1);
	assert_non_null(strstr(error, "no 32-bit Linux entry"));
}

/* RAM up to the end, the hole below 1 MiB and the tables reserved, in ascending order without overlap. */
static void memory_map(void **state)
{
	struct guest_ram small = ram;

	ram_create(&ram, 4096);
	assert_int_equal(load(image_elf((struct elf_spec){ .banner = true }), (struct boot_config){ 0 }), 0);
	const struct boot_params *bp = guest_ram_ptr(&ram, entry.regs.rsi, sizeof(*bp));
	u64 end = 0, usable = 0;

	for (int i = 0; i < bp->e820_entries; i++) {
		const struct boot_e820_entry *e = &bp->e820_table[i];

		assert_true(e->addr >= end);
		end = e->addr + e->size;
		if (e->type == 1) {
			usable += e->size;
			assert_non_null(guest_ram_ptr(&ram, e->addr, e->size));
		}
		assert_false(e->type == 1 && e->addr <= entry.rsdp && entry.rsdp < end);
	}
	assert_int_equal(end, PLATFORM_RAM_HIGH_BASE + (1ull << 30));
	assert_int_equal(usable, (4096ull << 20) - (0x100000 - PLATFORM_EBDA_BASE));
	ram_destroy(&ram);
	ram = small;
}

static void rng_seed(void **state)
{
	u8 first[32];

	for (int round = 0; round < 2; round++) {
		assert_int_equal(load(image_elf((struct elf_spec){ .banner = true }), (struct boot_config){ 0 }), 0);
		const struct boot_params *bp = guest_ram_ptr(&ram, entry.regs.rsi, sizeof(*bp));
		const struct setup_data *data = guest_ram_ptr(&ram, bp->hdr.setup_data, sizeof(*data) + 32);

		assert_non_null(data);
		assert_int_equal(data->next, 0);
		assert_int_equal(data->type, 9);
		assert_int_equal(data->len, 32);
		if (round)
			assert_memory_not_equal(first, data->data, 32);
		memcpy(first, data->data, 32);
	}
}

struct seen {
	int calls;
	unsigned last;
};

static void see(void *opaque, const char *what, unsigned percent)
{
	struct seen *seen = opaque;

	assert_true(percent >= seen->last && percent <= 100);
	seen->calls++;
	seen->last = percent;
}

static void bzimage_of_every_packing(void **state)
{
	for (enum packing packing = 0; packing < PACK_NR; packing++) {
		struct bytes elf = image_elf((struct elf_spec){ .banner = true, .pvh = true });
		struct seen seen = { 0 };
		struct boot_config config = { .progress = see, .opaque = &seen };

		memset(guest_ram_ptr(&ram, IMAGE_PADDR, IMAGE_MEMSZ), 0, IMAGE_MEMSZ);
		assert_int_equal(load(image_bzimage(elf, packing), config), 0);
		assert_image_loaded();
		assert_int_equal(entry.protocol, BOOT_LINUX64);
		assert_int_equal(entry.regs.rip, IMAGE_ENTRY);
		assert_true(seen.calls > 0);
		assert_int_equal(seen.last, 100);
		/* The zero page has the image's own header. */
		const struct boot_params *bp = guest_ram_ptr(&ram, entry.regs.rsi, sizeof(*bp));

		assert_int_equal(bp->hdr.version, 0x020f);
		assert_int_equal(bp->hdr.init_size, 0x400000);
		free(elf.data);
	}
}

static void command_line_length(void **state)
{
	char line[2049];
	struct boot_config config = { .cmdline = line };

	memset(line, 'a', sizeof(line));
	line[2047] = 0;
	assert_int_equal(load(image_elf((struct elf_spec){ .banner = true }), config), 0);
	line[2047] = 'a';
	line[2048] = 0;
	assert_int_equal(load(image_elf((struct elf_spec){ .banner = true }), config), -1);
	assert_non_null(strstr(error, "2048 characters"));
}

static void apic_base_survives(void **state)
{
	struct kvm_sregs sregs = { .apic_base = 0xfee00900, .cr3 = 1 };

	assert_int_equal(load(image_elf((struct elf_spec){ .banner = true }), (struct boot_config){ 0 }), 0);
	boot_entry_sregs(&entry, &sregs);
	assert_int_equal(sregs.apic_base, 0xfee00900);
	assert_int_equal(sregs.cr3, entry.sregs.cr3);
	assert_int_equal(sregs.efer, 0x500);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(linux64_entry, make_ram, drop_ram),
		cmocka_unit_test_setup_teardown(linux32_entry, make_ram, drop_ram),
		cmocka_unit_test_setup_teardown(pvh_entry, make_ram, drop_ram),
		cmocka_unit_test_setup_teardown(protocol_by_request, make_ram, drop_ram),
		cmocka_unit_test_setup_teardown(memory_map, make_ram, drop_ram),
		cmocka_unit_test_setup_teardown(rng_seed, make_ram, drop_ram),
		cmocka_unit_test_setup_teardown(bzimage_of_every_packing, make_ram, drop_ram),
		cmocka_unit_test_setup_teardown(command_line_length, make_ram, drop_ram),
		cmocka_unit_test_setup_teardown(apic_base_survives, make_ram, drop_ram),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
