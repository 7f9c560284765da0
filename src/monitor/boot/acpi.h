/* The ACPI tables that tell the guest what the machine has. */
#ifndef BOOT_ACPI_H
#define BOOT_ACPI_H

#include "monitor/boot/boot.h"

struct acpi_config {
	unsigned nr_cpus; /* APIC ids 0 .. nr_cpus - 1 */
};

/* Writes all tables at PLATFORM_ACPI_BASE; @rsdp gets the root pointer's gpa. Returns 0, or -1 and a line in @error. */
int acpi_build(const struct guest_ram *ram, const struct acpi_config *config, u64 *rsdp, char error[BOOT_ERROR_MAX]);

#endif
