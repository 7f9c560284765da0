/* CPUID: what the guest is told, and what it gates. */
#ifndef CPU_CPUID_H
#define CPU_CPUID_H

#include "cpu/cpu.h"

/* The layout of struct kvm_cpuid_entry2. */
struct cpuid_entry {
	u32 function, index, flags;
#define CPUID_SIGNIFICANT_INDEX BIT(0)
	u32 eax, ebx, ecx, edx;
	u32 padding[3];
};

/*
 * What the host has and the engines can run, KVM's own leaves (0x40000000) included.
 * Fills up to @max entries and returns how many there are in all.
 */
unsigned cpuid_supported(struct cpuid_entry *e, unsigned max);

/*
 * The CPUID instruction: EAX and ECX in, the four registers out. Dynamic bits (OSXSAVE, APIC, OSPKE, XSAVE sizes) are
 * computed.
 */
void cpuid_execute(const struct cpu *c, u32 function, u32 index, u32 out[4]);

/*
 * Installs a table (copied) and derives isa, maxphyaddr. 0, -ENOMEM, -EINVAL (more than CPUID_MAX_ENTRIES).
 * An empty table opens everything on offer, as for a vCPU whose client has not called KVM_SET_CPUID2.
 */
#define CPUID_MAX_ENTRIES 256u
int cpuid_set(struct cpu *c, const struct cpuid_entry *e, unsigned n);

const struct cpuid_entry *cpuid_find(const struct cpu *c, u32 function, u32 index);

/* A bit of the guest's table (@reg: 0 EAX to 3 EDX); false when the leaf is absent. */
bool cpuid_has(const struct cpu *c, u32 function, u32 index, unsigned reg, unsigned bit);
/* The guest's vendor, and the host's, is AMD or Hygon. */
bool cpuid_amd(const struct cpu *c);
bool cpuid_host_amd(void);

#endif
