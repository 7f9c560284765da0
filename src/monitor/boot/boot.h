/*
 * Loads a kernel (and an initrd) into guest RAM, writes what the boot protocol
 * and ACPI want beside it, and tells how the boot vCPU starts.
 */
#ifndef BOOT_BOOT_H
#define BOOT_BOOT_H

#include <linux/kvm.h>

#include "base/types.h"
#include "monitor/boot/guest_ram.h"

enum boot_protocol {
	BOOT_AUTO,    /* LINUX64 or LINUX32 for Linux, PVH for other ELF images with its entry note */
	BOOT_LINUX64, /* Documentation/arch/x86/boot.rst, "64-bit boot protocol", at the unpacked kernel's entry */
	BOOT_LINUX32, /* the same, "32-bit boot protocol": i386 kernels */
	BOOT_PVH,     /* Xen's "x86/HVM direct boot ABI" */
};

struct boot_config {
	const char *kernel;  /* path */
	const char *initrd;  /* path, or NULL */
	const char *cmdline; /* NULL: empty */
	unsigned nr_cpus;    /* APIC ids are 0 .. nr_cpus - 1 */
	enum boot_protocol protocol;
	/* Called now and then during long steps with @percent 0..100, always once with 100. NULL: not called. */
	void (*progress)(void *opaque, const char *what, unsigned percent);
	void *opaque;
};

struct boot_entry {
	enum boot_protocol protocol; /* the one chosen, never BOOT_AUTO */
	struct kvm_regs regs;        /* complete */
	struct kvm_sregs sregs;      /* complete but for apic_base and interrupt_bitmap: see boot_entry_sregs() */
	u64 kernel_start, kernel_end; /* guest-physical: the loaded image with its zeroed tail */
	u64 initrd_start, initrd_size;
	u64 rsdp;                    /* guest-physical address of the ACPI root pointer */
};

#define BOOT_ERROR_MAX 320

/*
 * Loads what @config names into @ram, which must read as zero, and fills
 * @entry. Returns 0, or -1 with one line for the user (no newline, file named)
 * in @error; RAM then holds an arbitrary part of the image. No state is kept:
 * to reboot, call it again on cleared RAM. Thread-safe.
 */
int boot_load(const struct boot_config *config, const struct guest_ram *ram, struct boot_entry *entry,
	      char error[BOOT_ERROR_MAX]);

/* Puts the entry state over a boot vCPU's @sregs as KVM_GET_SREGS gave them; its apic_base stays. */
void boot_entry_sregs(const struct boot_entry *entry, struct kvm_sregs *sregs);

#endif
