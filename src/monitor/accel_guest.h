/* The guest of the self-test: how it is laid out in its memory and what it leaves there. */
#ifndef MONITOR_ACCEL_GUEST_H
#define MONITOR_ACCEL_GUEST_H

#include "kvm_if.h"
#include "monitor/accel.h"

#define ACCEL_GUEST_MEMORY 0x10000u

/* What the guest has come to; the host writes ACCEL_SETUP. */
enum accel_stage {
	ACCEL_SETUP,
	ACCEL_LOOP,
	ACCEL_CPUID,
	ACCEL_MSR,
	ACCEL_EXCEPTION,
	ACCEL_PAGE_FAULT,
	ACCEL_INTERRUPT,
	ACCEL_MMIO,
	ACCEL_PIO,
	ACCEL_DONE,
};

/* Runs the guest in @memory (ACCEL_GUEST_MEMORY bytes, zeroed) and judges it. */
void accel_guest_run(const struct kvm_if *kvm, u8 *memory, struct accel_check *check);

/* What the guest in @memory has come to, from any process that shares it. */
enum accel_stage accel_guest_stage(const u8 *memory);
/* The same for a person. */
const char *accel_guest_doing(const u8 *memory);

#endif
