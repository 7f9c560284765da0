/*
 * RSDP, XSDT, FADT, FACS, MADT and DSDT (ACPI 6.5, chapter 5), for the fixed
 * hardware that platform.h states. A kernel finds its CPUs, interrupt
 * controllers, timers, serial port and clock here, and how to power off and
 * reset. There is no HPET and no PCI host, hence no tables for them.
 */
#include "monitor/boot/acpi.h"

#include <stdio.h>
#include <string.h>

#include "device/devices.h"
#include "monitor/boot/aml.h"
#include "monitor/boot/load.h"
#include "monitor/platform.h"

#define PACKED __attribute__((packed))
#define XAPIC_ID_MAX 254 /* 255 is broadcast: higher ids need x2APIC structures */

struct rsdp {
	char signature[8];
	u8 checksum;
	char oem_id[6];
	u8 revision;
	u32 rsdt;
	u32 length;
	u64 xsdt;
	u8 ext_checksum;
	u8 reserved[3];
} PACKED;

struct sdt_header {
	char signature[4];
	u32 length;
	u8 revision;
	u8 checksum;
	char oem_id[6];
	char oem_table_id[8];
	u32 oem_revision;
	char creator_id[4];
	u32 creator_revision;
} PACKED;

struct gas { /* generic address structure */
	u8 space, bit_width, bit_offset, access_size;
	u64 address;
} PACKED;

enum { SPACE_IO = 1, ACCESS_BYTE = 1, ACCESS_WORD = 2, ACCESS_DWORD = 3 };

struct fadt {
	struct sdt_header head;
	u32 facs, dsdt;
	u8 reserved1, preferred_profile;
	u16 sci_irq;
	u32 smi_cmd;
	u8 acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	u32 pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_tmr, gpe0, gpe1;
	u8 pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_len, gpe1_len, gpe1_base, cst_cnt;
	u16 p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
	u8 duty_offset, duty_width, day_alarm, month_alarm, century;
	u16 iapc_boot_arch;
	u8 reserved2;
	u32 flags;
	struct gas reset_reg;
	u8 reset_value;
	u16 arm_boot_arch;
	u8 minor_revision;
	u64 x_facs, x_dsdt;
	struct gas x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr, x_gpe0, x_gpe1;
	struct gas sleep_control, sleep_status;
	u64 hypervisor_id;
} PACKED;

_Static_assert(sizeof(struct fadt) == 276, "the size of FADT revision 6");

enum {
	PROFILE_ENTERPRISE_SERVER = 4,

	BOOT_LEGACY_DEVICES = BIT(0), /* there is user-visible hardware on the ISA bus: the serial port */
	BOOT_8042 = BIT(1),
	BOOT_NO_VGA = BIT(2),

	FADT_WBINVD = BIT(0),
	FADT_PROC_C1 = BIT(2),
	FADT_NO_PWR_BUTTON = BIT(4),
	FADT_NO_SLP_BUTTON = BIT(5),
	FADT_NO_FIX_RTC = BIT(6),
	FADT_TMR_VAL_EXT = BIT(8), /* the PM timer has 32 bits */
	FADT_RESET_REG = BIT(10),
	FADT_HEADLESS = BIT(12),
};

struct facs {
	char signature[4];
	u32 length, hardware_signature, waking_vector, global_lock, flags;
	u64 x_waking_vector;
	u8 version, reserved[31];
} PACKED;

_Static_assert(sizeof(struct facs) == 64, "the size of the FACS");

struct madt {
	struct sdt_header head;
	u32 lapic_addr, flags;
} PACKED;

#define MADT_PCAT_COMPAT BIT(0) /* the 8259s are there too */

struct madt_lapic {
	u8 type, length, uid, apic_id;
	u32 flags;
} PACKED;

struct madt_ioapic {
	u8 type, length, id, reserved;
	u32 addr, gsi_base;
} PACKED;

struct madt_override {
	u8 type, length, bus, source;
	u32 gsi;
	u16 flags;
} PACKED;

struct madt_lapic_nmi {
	u8 type, length, uid;
	u16 flags;
	u8 lint;
} PACKED;

struct madt_x2apic {
	u8 type, length;
	u16 reserved;
	u32 apic_id, flags, uid;
} PACKED;

struct madt_x2apic_nmi {
	u8 type, length;
	u16 flags;
	u32 uid;
	u8 lint, reserved[3];
} PACKED;

enum { MADT_LAPIC = 0, MADT_IOAPIC = 1, MADT_OVERRIDE = 2, MADT_LAPIC_NMI = 4, MADT_X2APIC = 9, MADT_X2APIC_NMI = 10 };
enum { LAPIC_ENABLED = 1, INTI_CONFORMS = 0, INTI_HIGH_LEVEL = 0xd, ALL_CPUS_8 = 0xff };

/* The tables' memory, being filled. Once something did not fit, nothing more is written. */
struct writer {
	u8 *base; /* host address of PLATFORM_ACPI_BASE */
	size_t used;
	bool overflow;
};

static u8 checksum(const void *data, size_t len)
{
	const u8 *p = data;
	u8 sum = 0;

	while (len--)
		sum += *p++;
	return (u8)-sum;
}

static struct sdt_header sdt_header(const char signature[4], u8 revision)
{
	struct sdt_header h = { .revision = revision, .oem_revision = 1, .creator_revision = 1 };

	memcpy(h.signature, signature, 4);
	memcpy(h.oem_id, "ANYKVM", 6);
	memcpy(h.oem_table_id, "ANYKVM  ", 8);
	memcpy(h.creator_id, "AKVM", 4);
	return h;
}

/* The next table is appended to what this returns (not only AML: any bytes), on a 64-byte boundary. */
static struct aml table_begin(struct writer *w)
{
	w->used = MIN(ALIGN_UP(w->used, 64), (size_t)PLATFORM_ACPI_SIZE);
	return (struct aml){ .buf = w->base + w->used, .max = PLATFORM_ACPI_SIZE - w->used };
}

/* Ends a table as it is and returns its guest-physical address. */
static u64 table_end(struct writer *w, const struct aml *a)
{
	u64 at = PLATFORM_ACPI_BASE + w->used;

	w->used += a->len;
	w->overflow |= a->overflow;
	return at;
}

/* The same for a table that starts with a struct sdt_header: sets its length and checksum. */
static u64 sdt_end(struct writer *w, struct aml *a)
{
	struct sdt_header *h = (struct sdt_header *)a->buf;

	if (!a->overflow) {
		h->length = (u32)a->len;
		h->checksum = checksum(a->buf, a->len);
	}
	return table_end(w, a);
}

/* Processors are Device()s: the old Processor() form ends at 255. */
static void dsdt_cpus(struct aml *a, unsigned nr_cpus)
{
	for (unsigned i = 0; i < nr_cpus; i++) {
		char name[8];

		snprintf(name, sizeof(name), "C%03X", i & 0xfff);
		size_t device = aml_device(a, name);

		aml_name(a, "_HID");
		aml_string(a, "ACPI0007");
		aml_name(a, "_UID");
		aml_integer(a, i);
		aml_end(a, device);
	}
}

static void dsdt_isa_device(struct aml *a, const char name[4], const char hid[7], u16 port, u8 nr_ports, u8 irq)
{
	size_t device = aml_device(a, name);

	aml_name(a, "_HID");
	aml_eisa_id(a, hid);
	aml_name(a, "_UID");
	aml_integer(a, 1);
	aml_name(a, "_CRS");
	size_t crs = aml_resources(a);

	aml_io_ports(a, port, nr_ports);
	aml_irq(a, irq);
	aml_resources_end(a, crs);
	aml_end(a, device);
}

static u64 put_dsdt(struct writer *w, const struct acpi_config *config)
{
	struct aml a = table_begin(w);
	const struct sdt_header h = sdt_header("DSDT", 2); /* 2: integers have 64 bits */

	aml_bytes(&a, &h, sizeof(h));
	aml_name(&a, "_S5_");
	size_t s5 = aml_package(&a, 4);

	aml_integer(&a, ACPI_PM_SLP_TYP_S5);
	aml_integer(&a, 0); /* SLP_TYPb: no PM1b block */
	aml_integer(&a, 0);
	aml_integer(&a, 0);
	aml_end(&a, s5);

	size_t sb = aml_scope(&a, "\\_SB_");

	dsdt_cpus(&a, config->nr_cpus);
	dsdt_isa_device(&a, "COM1", "PNP0501", PLATFORM_COM1_PORT, 8, PLATFORM_COM1_IRQ);
	dsdt_isa_device(&a, "RTC_", "PNP0B00", PLATFORM_RTC_PORT, 2, PLATFORM_RTC_IRQ);
	aml_end(&a, sb);
	return sdt_end(w, &a);
}

static u64 put_facs(struct writer *w)
{
	const struct facs facs = { .signature = { 'F', 'A', 'C', 'S' }, .length = sizeof(facs), .version = 2 };
	struct aml a = table_begin(w);

	aml_bytes(&a, &facs, sizeof(facs));
	return table_end(w, &a);
}

static struct gas io_gas(u16 port, u8 len, u8 access)
{
	return (struct gas){ SPACE_IO, (u8)(len * 8), 0, access, port };
}

static u64 put_fadt(struct writer *w, u64 facs, u64 dsdt)
{
	struct fadt f = {
		.head = sdt_header("FACP", 6),
		.facs = (u32)facs,
		.dsdt = (u32)dsdt,
		.x_dsdt = dsdt, /* x_facs stays zero: only one of the two may be set */
		.minor_revision = 5,
		.preferred_profile = PROFILE_ENTERPRISE_SERVER,
		.sci_irq = PLATFORM_SCI_IRQ,
		/* smi_cmd is zero: always in ACPI mode */
		.pm1a_evt = PLATFORM_PM1A_EVT_PORT,
		.pm1_evt_len = PLATFORM_PM1A_EVT_LEN,
		.x_pm1a_evt = io_gas(PLATFORM_PM1A_EVT_PORT, PLATFORM_PM1A_EVT_LEN, ACCESS_WORD),
		.pm1a_cnt = PLATFORM_PM1A_CNT_PORT,
		.pm1_cnt_len = PLATFORM_PM1A_CNT_LEN,
		.x_pm1a_cnt = io_gas(PLATFORM_PM1A_CNT_PORT, PLATFORM_PM1A_CNT_LEN, ACCESS_WORD),
		.pm_tmr = PLATFORM_PM_TMR_PORT,
		.pm_tmr_len = PLATFORM_PM_TMR_LEN,
		.x_pm_tmr = io_gas(PLATFORM_PM_TMR_PORT, PLATFORM_PM_TMR_LEN, ACCESS_DWORD),
		.p_lvl2_lat = 0xffff, /* no C2, no C3 */
		.p_lvl3_lat = 0xffff,
		.century = PLATFORM_RTC_CENTURY,
		.iapc_boot_arch = BOOT_LEGACY_DEVICES | BOOT_NO_VGA | (PLATFORM_HAS_KEYBOARD ? BOOT_8042 : 0),
		.flags = FADT_WBINVD | FADT_PROC_C1 | FADT_NO_PWR_BUTTON | FADT_NO_SLP_BUTTON | FADT_NO_FIX_RTC |
			 FADT_RESET_REG | FADT_HEADLESS | FADT_TMR_VAL_EXT,
		.reset_reg = io_gas(PLATFORM_RESET_PORT, 1, ACCESS_BYTE),
		.reset_value = PLATFORM_RESET_VALUE,
	};

	struct aml a = table_begin(w);

	memcpy(&f.hypervisor_id, "anykvm\0\0", 8);
	aml_bytes(&a, &f, sizeof(f));
	return sdt_end(w, &a);
}

static void madt_cpus(struct aml *a, unsigned nr_cpus)
{
	for (unsigned i = 0; i < nr_cpus; i++) {
		const struct madt_lapic lapic = { MADT_LAPIC, sizeof(lapic), (u8)i, (u8)i, LAPIC_ENABLED };
		const struct madt_x2apic x2apic = { MADT_X2APIC, sizeof(x2apic), 0, i, LAPIC_ENABLED, i };

		if (i <= XAPIC_ID_MAX)
			aml_bytes(a, &lapic, sizeof(lapic));
		else
			aml_bytes(a, &x2apic, sizeof(x2apic));
	}
}

static u64 put_madt(struct writer *w, const struct acpi_config *config)
{
	struct aml a = table_begin(w);
	const struct madt madt = { sdt_header("APIC", 5), PLATFORM_LAPIC_BASE, MADT_PCAT_COMPAT };
	const struct madt_ioapic ioapic = {
		MADT_IOAPIC, sizeof(ioapic), PLATFORM_IOAPIC_ID, 0, PLATFORM_IOAPIC_BASE, 0,
	};
	/* The PIT is not wired to pin 0, and the SCI is a level interrupt unlike the ISA ones. */
	const struct madt_override pit = { MADT_OVERRIDE, sizeof(pit), 0, 0, PLATFORM_PIT_GSI, INTI_CONFORMS };
	const struct madt_override sci = {
		MADT_OVERRIDE, sizeof(sci), 0, PLATFORM_SCI_IRQ, PLATFORM_SCI_IRQ, INTI_HIGH_LEVEL,
	};
	const struct madt_lapic_nmi nmi = { MADT_LAPIC_NMI, sizeof(nmi), ALL_CPUS_8, INTI_CONFORMS, 1 };
	const struct madt_x2apic_nmi nmi_x2 = { MADT_X2APIC_NMI, sizeof(nmi_x2), INTI_CONFORMS, UINT32_MAX, 1, { 0 } };

	aml_bytes(&a, &madt, sizeof(madt));
	madt_cpus(&a, config->nr_cpus);
	aml_bytes(&a, &ioapic, sizeof(ioapic));
	aml_bytes(&a, &pit, sizeof(pit));
	aml_bytes(&a, &sci, sizeof(sci));
	aml_bytes(&a, &nmi, sizeof(nmi));
	if (config->nr_cpus > XAPIC_ID_MAX + 1)
		aml_bytes(&a, &nmi_x2, sizeof(nmi_x2));
	return sdt_end(w, &a);
}

static u64 put_xsdt(struct writer *w, u64 fadt, u64 madt)
{
	const struct sdt_header head = sdt_header("XSDT", 1);
	const u64 tables[] = { fadt, madt };
	struct aml a = table_begin(w);

	aml_bytes(&a, &head, sizeof(head));
	aml_bytes(&a, tables, sizeof(tables));
	return sdt_end(w, &a);
}

static void put_rsdp(const struct writer *w, u64 xsdt)
{
	struct rsdp r = { .revision = 2, .length = sizeof(r), .xsdt = xsdt };

	memcpy(r.signature, "RSD PTR ", 8);
	memcpy(r.oem_id, "ANYKVM", 6);
	r.checksum = checksum(&r, offsetof(struct rsdp, length)); /* the part that ACPI 1.0 knew */
	r.ext_checksum = checksum(&r, sizeof(r));
	memcpy(w->base, &r, sizeof(r));
}

int acpi_build(const struct guest_ram *ram, const struct acpi_config *config, u64 *rsdp, char error[BOOT_ERROR_MAX])
{
	struct writer w = {
		.base = guest_ram_ptr(ram, PLATFORM_ACPI_BASE, PLATFORM_ACPI_SIZE),
		.used = sizeof(struct rsdp),
	};

	if (!w.base)
		return boot_fail(error, "guest has too little memory: use -m");
	u64 dsdt = put_dsdt(&w, config);
	u64 facs = put_facs(&w);
	u64 fadt = put_fadt(&w, facs, dsdt);
	u64 madt = put_madt(&w, config);

	put_rsdp(&w, put_xsdt(&w, fadt, madt));
	if (w.overflow)
		return boot_fail(error, "no room for the ACPI tables of %u CPUs", config->nr_cpus);
	*rsdp = PLATFORM_ACPI_BASE;
	return 0;
}
