/* The CPUID a vCPU gets: what the accelerator offers, with this vCPU's identity and the machine's topology. */
#ifndef MONITOR_CPUID_H
#define MONITOR_CPUID_H

#include <linux/kvm.h>

#include "kvm_if.h"

#define CPUID_MAX_ENTRIES 512u

/* KVM_GET_SUPPORTED_CPUID with room for all entries. Allocated; NULL and errno on failure. */
struct kvm_cpuid2 *vcpu_cpuid_offered(const struct kvm_if *kvm, int kvm_fd);

/*
 * Makes @cpuid (room for CPUID_MAX_ENTRIES) that of CPU @id of @nr: one package of @nr cores, one thread each; APIC
 * id = CPU number. @tsc_deadline: offer the local APIC's TSC deadline timer (KVM leaves that to its client).
 */
void vcpu_cpuid_set_topology(struct kvm_cpuid2 *cpuid, unsigned id, unsigned nr, int tsc_deadline);

#endif
