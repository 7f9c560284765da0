/* ACPI tables: found by signature, whole by checksum, and saying what the platform has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "boot_image.h"
#include "monitor/boot/acpi.h"
#include "monitor/boot/aml.h"
#include "monitor/platform.h"

static struct guest_ram ram;
static char error[BOOT_ERROR_MAX];

static int make_ram(void **state)
{
	ram_create(&ram, 16);
	return 0;
}

static int drop_ram(void **state)
{
	ram_destroy(&ram);
	return 0;
}

static u64 field(const u8 *at, unsigned size)
{
	u64 v = 0;

	memcpy(&v, at, size);
	return v;
}

static u8 sum(const u8 *p, size_t len)
{
	u8 s = 0;

	while (len--)
		s += *p++;
	return s;
}

/* The table at @gpa after the checks that every reader makes. */
static const u8 *table_at(u64 gpa, const char *signature)
{
	const u8 *t = guest_ram_ptr(&ram, gpa, 36);

	assert_true(gpa >= PLATFORM_ACPI_BASE);
	assert_memory_equal(t, signature, 4);
	u64 len = field(t + 4, 4);

	assert_true(len >= 36 && gpa + len <= PLATFORM_ACPI_BASE + PLATFORM_ACPI_SIZE);
	assert_int_equal(sum(t, len), 0);
	return t;
}

/* Builds the tables for @nr_cpus and walks from the root to the one with @signature. */
static const u8 *build_and_find(unsigned nr_cpus, const char *signature)
{
	u64 rsdp_addr = 0;

	assert_int_equal(acpi_build(&ram, &(struct acpi_config){ .nr_cpus = nr_cpus }, &rsdp_addr, error), 0);
	const u8 *rsdp = guest_ram_ptr(&ram, rsdp_addr, 36);

	assert_int_equal(rsdp_addr % 16, 0);
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(sum(rsdp, 36), 0);
	const u8 *xsdt = table_at(field(rsdp + 24, 8), "XSDT");

	for (size_t i = 36; i < field(xsdt + 4, 4); i += 8) {
		u64 gpa = field(xsdt + i, 8);

		if (!memcmp(guest_ram_ptr(&ram, gpa, 4), signature, 4))
			return table_at(gpa, signature);
	}
	fail_msg("no table %s", signature);
	return NULL;
}

static void fadt(void **state)
{
	const u8 *t = build_and_find(1, "FACP");
	u64 flags = field(t + 112, 4);

	assert_int_equal(field(t + 46, 2), PLATFORM_SCI_IRQ);
	assert_int_equal(field(t + 48, 4), 0); /* no SMI command port */
	assert_int_equal(field(t + 56, 4), PLATFORM_PM1A_EVT_PORT);
	assert_int_equal(field(t + 64, 4), PLATFORM_PM1A_CNT_PORT);
	assert_int_equal(field(t + 76, 4), PLATFORM_PM_TMR_PORT);
	assert_int_equal(t[88], 4);
	assert_int_equal(t[89], 2);
	assert_int_equal(t[91], 4);
	assert_int_equal(flags & BIT(20), 0);         /* not hardware-reduced */
	assert_int_equal(flags & BIT(10), BIT(10));   /* reset register */
	assert_int_equal(field(t + 116, 4), 0x01000801); /* in I/O space, 8 bits, byte access */
	assert_int_equal(field(t + 120, 8), PLATFORM_RESET_PORT);
	assert_int_equal(t[128], PLATFORM_RESET_VALUE);
	assert_int_equal(t[108], PLATFORM_RTC_CENTURY);

	const u8 *facs = guest_ram_ptr(&ram, field(t + 36, 4), 64);

	assert_memory_equal(facs, "FACS", 4);
	assert_int_equal(field(facs + 4, 4), 64);
	assert_int_equal(field(t + 36, 4) % 64, 0);
	table_at(field(t + 140, 8), "DSDT");
	assert_int_equal(field(t + 40, 4), field(t + 140, 8));
}

/* Counts the MADT's entries of @type; the last one's bytes are in @entry. */
static unsigned madt_entries(const u8 *t, u8 type, u8 entry[64])
{
	unsigned n = 0;
	size_t len = field(t + 4, 4), i = 44;

	while (i < len) {
		assert_true(t[i + 1] >= 2 && i + t[i + 1] <= len);
		if (t[i] == type) {
			memcpy(entry, t + i, t[i + 1]);
			n++;
		}
		i += t[i + 1];
	}
	return n;
}

static void madt(void **state)
{
	const u8 *t = build_and_find(3, "APIC");
	u8 e[64];

	assert_int_equal(field(t + 36, 4), PLATFORM_LAPIC_BASE);
	assert_int_equal(field(t + 40, 4), 1);
	assert_int_equal(madt_entries(t, 0, e), 3);
	assert_int_equal(e[3], 2);
	assert_int_equal(field(e + 4, 4), 1);
	assert_int_equal(madt_entries(t, 1, e), 1);
	assert_int_equal(field(e + 4, 4), PLATFORM_IOAPIC_BASE);
	assert_int_equal(madt_entries(t, 2, e), 2);
	assert_int_equal(e[3], PLATFORM_SCI_IRQ);
	assert_int_equal(field(e + 8, 2), 0xd); /* active high, level */
	assert_int_equal(madt_entries(t, 4, e), 1);
	assert_int_equal(e[5], 1); /* NMI on LINT1 */
	assert_int_equal(madt_entries(t, 9, e), 0);
}

static void madt_of_many_cpus(void **state)
{
	const u8 *t = build_and_find(300, "APIC");
	u8 e[64];

	assert_int_equal(madt_entries(t, 0, e), 255);
	assert_int_equal(e[3], 254);
	assert_int_equal(madt_entries(t, 9, e), 45);
	assert_int_equal(field(e + 4, 4), 299);
	assert_int_equal(field(e + 12, 4), 299);
	assert_int_equal(madt_entries(t, 10, e), 1);
}

static size_t count(const u8 *t, const char *what, size_t n)
{
	size_t found = 0, len = field(t + 4, 4);

	for (size_t i = 36; i + n <= len; i++)
		found += !memcmp(t + i, what, n);
	return found;
}

static void dsdt(void **state)
{
	const u8 *f = build_and_find(40, "FACP"), *t = table_at(field(f + 40, 4), "DSDT");

	assert_int_equal(count(t, "ACPI0007", 9), 40);
	assert_int_equal(count(t, "C027", 4), 1);
	assert_int_equal(count(t, "_S5_", 4), 1);
	assert_int_equal(count(t, "\x41\xd0\x05\x01", 4), 1); /* PNP0501 */
	assert_int_equal(count(t, "\x41\xd0\x0b\x00", 4), 1); /* PNP0B00 */
	assert_int_equal(count(t, "\x47\x01\xf8\x03\xf8\x03\x01\x08", 8), 1);
	assert_int_equal(count(t, "\x22\x10\x00", 3), 1); /* IRQ 4 */
}

static void too_many_cpus(void **state)
{
	u64 rsdp;

	assert_int_equal(acpi_build(&ram, &(struct acpi_config){ .nr_cpus = 100000 }, &rsdp, error), -1);
	assert_non_null(strstr(error, "100000 CPUs"));
}

static void aml_encoding(void **state)
{
	u8 buf[256];
	struct aml a = { .buf = buf, .max = sizeof(buf) };

	aml_integer(&a, 0);
	aml_integer(&a, 1);
	aml_integer(&a, 2);
	aml_integer(&a, 0x1234);
	aml_integer(&a, 0x12345678);
	aml_integer(&a, 0x123456789aull);
	assert_int_equal(a.len, 1 + 1 + 2 + 3 + 5 + 9);
	assert_memory_equal(buf, "\x00\x01\x0a\x02\x0b\x34\x12\x0c\x78\x56\x34\x12\x0e\x9a", 14);

	/* A package's length counts from its own first byte. */
	a.len = 0;
	size_t block = aml_package(&a, 1);

	for (int i = 0; i < 20; i++)
		aml_integer(&a, 0x1234);
	aml_end(&a, block);
	assert_int_equal(a.len, 1 + 3 + 1 + 60);
	assert_int_equal(buf[1], 0x80 | (64 & 15));
	assert_int_equal(buf[2], 64 >> 4);
	assert_int_equal(buf[3], 0);

	/* Beyond the end: nothing is written, and it is known. */
	a = (struct aml){ .buf = buf, .max = 4 };
	memset(buf, 0xee, sizeof(buf));
	aml_string(&a, "longer than four");
	block = aml_device(&a, "DEV0");
	aml_end(&a, block);
	assert_true(a.overflow);
	for (size_t i = 4; i < sizeof(buf); i++)
		assert_int_equal(buf[i], 0xee);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fadt), cmocka_unit_test(madt),		 cmocka_unit_test(madt_of_many_cpus),
		cmocka_unit_test(dsdt), cmocka_unit_test(too_many_cpus), cmocka_unit_test(aml_encoding),
	};

	return cmocka_run_group_tests(tests, make_ram, drop_ram);
}
