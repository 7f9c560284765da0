/* What the KVM ABI of Linux 6.12 has and the installed <linux/kvm.h> may not have (it is of Linux 6.1). */
#ifndef KVM_ABI_H
#define KVM_ABI_H

#include <linux/kvm.h>

#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif

#ifndef KVM_SET_USER_MEMORY_REGION2
struct kvm_userspace_memory_region2 {
	__u32 slot, flags;
	__u64 guest_phys_addr, memory_size, userspace_addr;
	__u64 guest_memfd_offset;
	__u32 guest_memfd, pad1;
	__u64 pad2[14];
};
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#define KVM_MEM_GUEST_MEMFD (1UL << 2)
#define KVM_CAP_USER_MEMORY2 231
#define KVM_CAP_MEMORY_FAULT_INFO 232
#endif

#ifndef KVM_CAP_X86_APIC_BUS_CYCLES_NS
#define KVM_CAP_X86_APIC_BUS_CYCLES_NS 237
#endif
#ifndef KVM_CAP_VM_TYPES
#define KVM_CAP_VM_TYPES 235
#endif
#ifndef KVM_CAP_SUPPORTED_ARCH_VM_TYPES
#define KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS_BIT (1 << 6)
#define KVM_X86_QUIRK_SLOT_ZAP_ALL_BIT (1 << 7)
#endif

/* The fields of kvm_run that an exit with KVM_EXIT_MEMORY_FAULT fills. */
struct run_memory_fault {
	__u64 flags, gpa, size;
};

#endif
