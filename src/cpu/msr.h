/* MSRs: one row each (index, name, reset value, writable bits, field, read, write). */
#ifndef CPU_MSR_H
#define CPU_MSR_H

#include "cpu/cpu.h"

enum msr_result {
	MSR_OK,
	MSR_UNKNOWN, /* no such register, or CPUID hides it: #GP for the guest */
	MSR_INVALID, /* the value is refused: #GP for the guest */
	MSR_OUTSIDE, /* belongs to the owner (APIC base, x2APIC, TSC deadline, KVM's PV registers): IO_RDMSR/IO_WRMSR */
};

/* @host: from KVM_GET/SET_MSRS, which may write read-only feature MSRs and is not gated by CPUID. */
enum msr_result msr_read(struct cpu *c, u32 index, u64 *value, bool host);
enum msr_result msr_write(struct cpu *c, u32 index, u64 value, bool host);

/* Indices for KVM_GET_MSR_INDEX_LIST (@feature: KVM_GET_MSR_FEATURE_INDEX_LIST). Returns how many there are in all. */
unsigned msr_list(u32 *index, unsigned max, bool feature);
/* Value of a feature MSR for the system ioctl KVM_GET_MSRS. */
enum msr_result msr_feature(u32 index, u64 *value);

/* CPUID raises #GP(0) now: MISC_FEATURES_ENABLES asks for it and CPL is not 0. */
bool cpuid_faulting(const struct cpu *c);

void msr_reset(struct cpu *c, bool init);
unsigned msr_count(void); /* size of cpu->msr */

#endif
