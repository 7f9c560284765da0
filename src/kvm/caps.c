/* KVM_CHECK_EXTENSION and KVM_ENABLE_CAP. What is in the table works; what is not is absent: 0. */
#include <errno.h>
#include <unistd.h>

#include "cpu/fpu.h"
#include "kvm/kvm.h"
#include "kvm/uaccess.h"

static long host_cpus(struct vm *vm)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return MIN(MAX(n, 1), VM_MAX_VCPUS);
}

static long xsave2_bytes(struct vm *vm)
{
	return MAX((long)sizeof(struct kvm_xsave), (long)xsave_size(xsave_supported(), false));
}

#define X2APIC_API_FLAGS (KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)
#define QUIRKS                                                                                                         \
	(KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_CD_NW_CLEARED | KVM_X86_QUIRK_LAPIC_MMIO_HOLE |                 \
	 KVM_X86_QUIRK_OUT_7E_INC_RIP | KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT | KVM_X86_QUIRK_FIX_HYPERCALL_INSN)
#define MSR_EXITS (KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER)
#define DISABLE_EXITS (KVM_X86_DISABLE_EXITS_PAUSE | KVM_X86_DISABLE_EXITS_HLT)
#define MANUAL_DIRTY (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET)
#define DEBUG_BITS                                                                                                     \
	(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP | KVM_GUESTDBG_USE_SW_BP |             \
	 KVM_GUESTDBG_INJECT_BP | KVM_GUESTDBG_INJECT_DB)

/* [capability] = value, or a function that gives it. */
static const struct cap_row {
	long value;
	long (*fn)(struct vm *vm);
} caps[] = {
	[KVM_CAP_IRQCHIP] = {1},
	[KVM_CAP_HLT] = {1},
	[KVM_CAP_USER_MEMORY] = {1},
	[KVM_CAP_SET_TSS_ADDR] = {1},
	[KVM_CAP_EXT_CPUID] = {1},
	[KVM_CAP_CLOCKSOURCE] = {1},
	[KVM_CAP_NR_VCPUS] = {.fn = host_cpus},
	[KVM_CAP_NR_MEMSLOTS] = {VM_USER_MEM_SLOTS},
	[KVM_CAP_PIT] = {1},
	[KVM_CAP_NOP_IO_DELAY] = {1},
	[KVM_CAP_MP_STATE] = {1},
	[KVM_CAP_COALESCED_MMIO] = {2}, /* page of the vCPU's mapping that holds the ring */
	[KVM_CAP_SYNC_MMU] = {1},
	[KVM_CAP_DESTROY_MEMORY_REGION_WORKS] = {1},
	[KVM_CAP_USER_NMI] = {1},
	[KVM_CAP_SET_GUEST_DEBUG] = {1},
	[KVM_CAP_REINJECT_CONTROL] = {1},
	[KVM_CAP_IRQ_ROUTING] = {ROUTING_MAX_GSI},
	[KVM_CAP_IRQ_INJECT_STATUS] = {1},
	[KVM_CAP_JOIN_MEMORY_REGIONS_WORKS] = {1},
	[KVM_CAP_MCE] = {32},
	[KVM_CAP_IRQFD] = {1},
	[KVM_CAP_PIT2] = {1},
	[KVM_CAP_SET_BOOT_CPU_ID] = {1},
	[KVM_CAP_PIT_STATE2] = {1},
	[KVM_CAP_IOEVENTFD] = {1},
	[KVM_CAP_SET_IDENTITY_MAP_ADDR] = {1},
	[KVM_CAP_ADJUST_CLOCK] = {KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC},
	[KVM_CAP_INTERNAL_ERROR_DATA] = {1},
	[KVM_CAP_VCPU_EVENTS] = {1},
	[KVM_CAP_DEBUGREGS] = {1},
	[KVM_CAP_X86_ROBUST_SINGLESTEP] = {1},
	[KVM_CAP_ENABLE_CAP] = {1},
	[KVM_CAP_XSAVE] = {1},
	[KVM_CAP_XCRS] = {1},
	[KVM_CAP_ASYNC_PF] = {0},
	[KVM_CAP_TSC_CONTROL] = {1},
	[KVM_CAP_GET_TSC_KHZ] = {1},
	[KVM_CAP_MAX_VCPUS] = {VM_MAX_VCPUS},
	[KVM_CAP_TSC_DEADLINE_TIMER] = {1},
	[KVM_CAP_KVMCLOCK_CTRL] = {1},
	[KVM_CAP_SIGNAL_MSI] = {1},
	[KVM_CAP_READONLY_MEM] = {1},
	[KVM_CAP_IRQFD_RESAMPLE] = {1},
	[KVM_CAP_IOEVENTFD_NO_LENGTH] = {1},
	[KVM_CAP_ENABLE_CAP_VM] = {1},
	[KVM_CAP_IOEVENTFD_ANY_LENGTH] = {1},
	[KVM_CAP_CHECK_EXTENSION_VM] = {1},
	[KVM_CAP_DISABLE_QUIRKS] = {1},
	[KVM_CAP_MULTI_ADDRESS_SPACE] = {1},
	[KVM_CAP_SPLIT_IRQCHIP] = {1},
	[KVM_CAP_MAX_VCPU_ID] = {VM_MAX_VCPU_ID},
	[KVM_CAP_X2APIC_API] = {X2APIC_API_FLAGS},
	[KVM_CAP_IMMEDIATE_EXIT] = {1},
	[KVM_CAP_SYNC_REGS] = {KVM_SYNC_X86_VALID_FIELDS},
	[KVM_CAP_X86_DISABLE_EXITS] = {DISABLE_EXITS},
	[KVM_CAP_GET_MSR_FEATURES] = {1},
	[KVM_CAP_MSR_PLATFORM_INFO] = {1},
	[KVM_CAP_COALESCED_PIO] = {1},
	[KVM_CAP_EXCEPTION_PAYLOAD] = {1},
	[KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2] = {MANUAL_DIRTY},
	[KVM_CAP_LAST_CPU] = {0},
	[KVM_CAP_STEAL_TIME] = {1},
	[KVM_CAP_X86_USER_SPACE_MSR] = {MSR_EXITS},
	[KVM_CAP_X86_MSR_FILTER] = {1},
	[KVM_CAP_ENFORCE_PV_FEATURE_CPUID] = {1},
	[KVM_CAP_SET_GUEST_DEBUG2] = {DEBUG_BITS},
	[KVM_CAP_SREGS2] = {1},
	[KVM_CAP_EXIT_ON_EMULATION_FAILURE] = {1},
	[KVM_CAP_VCPU_ATTRIBUTES] = {1},
	[KVM_CAP_XSAVE2] = {.fn = xsave2_bytes},
	[KVM_CAP_BINARY_STATS_FD] = {1},
	[KVM_CAP_SYS_ATTRIBUTES] = {1},
	[KVM_CAP_DISABLE_QUIRKS2] = {QUIRKS},
	[KVM_CAP_VM_TSC_CONTROL] = {1},
	[KVM_CAP_X86_TRIPLE_FAULT_EVENT] = {1},
	[KVM_CAP_USER_MEMORY2] = {1},
	[KVM_CAP_MEMORY_FAULT_INFO] = {1},
	[KVM_CAP_VM_TYPES] = {BIT(0)},
	[KVM_CAP_X86_APIC_BUS_CYCLES_NS] = {1},
};

long vm_check_extension(struct vm *vm, unsigned long cap)
{
	if (cap >= ARRAY_SIZE(caps))
		return 0;
	return caps[cap].fn ? caps[cap].fn(vm) : caps[cap].value;
}

/* --- KVM_ENABLE_CAP on a VM ---------------------------------------------------------------------------------- */

/* Bits that the client may ask for; others are -EINVAL. [L] in all of these. */
static int enable_quirks(struct vm *vm, u64 quirks)
{
	atomic_store(&vm->disabled_quirks, (u32)quirks);
	pthread_mutex_lock(&vm->irq_lock);
	vm->irqchip.no_lint0_quirk = !vm_quirk(vm, KVM_X86_QUIRK_LINT0_REENABLED);
	vm->irqchip.no_mmio_hole_quirk = !vm_quirk(vm, KVM_X86_QUIRK_LAPIC_MMIO_HOLE);
	pthread_mutex_unlock(&vm->irq_lock);
	return 0;
}

static int enable_x2apic_api(struct vm *vm, u64 flags)
{
	if (flags & ~(u64)X2APIC_API_FLAGS)
		return -EINVAL;
	pthread_mutex_lock(&vm->irq_lock);
	vm->irqchip.x2apic_ids |= (flags & KVM_X2APIC_API_USE_32BIT_IDS) != 0;
	vm->irqchip.no_broadcast_quirk |= (flags & KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK) != 0;
	pthread_mutex_unlock(&vm->irq_lock);
	return 0;
}

static int enable_manual_dirty(struct vm *vm, u64 flags)
{
	/* All dirty at first only makes sense when the client clears by hand. */
	if (flags & ~(u64)MANUAL_DIRTY || flags == KVM_DIRTY_LOG_INITIALLY_SET)
		return -EINVAL;
	pthread_mutex_lock(&vm->slots_lock);
	vm->manual_dirty = (u32)flags;
	pthread_mutex_unlock(&vm->slots_lock);
	return 0;
}

static int enable_bus_cycles(struct vm *vm, u64 ns)
{
	/* KVM's limit: an initial count of all ones at divisor 128 must not overflow 64 bits of ns. */
	if (ns == 0 || ns > 0xffffffffffffffffull / (0xffffffffull * 128))
		return -EINVAL;
	if (atomic_load(&vm->irqchip_mode) == IRQCHIP_NONE)
		return -ENXIO;
	if (atomic_load(&vm->nr_vcpus))
		return -EINVAL;
	pthread_mutex_lock(&vm->irq_lock);
	vm->irqchip.bus_cycle_ns = (u32)ns;
	pthread_mutex_unlock(&vm->irq_lock);
	return 0;
}

static int enable_max_vcpu_id(struct vm *vm, u64 max)
{
	if (max == 0 || max > VM_MAX_VCPU_ID)
		return -EINVAL;
	if (vm->max_vcpu_id == max)
		return 0;
	if (atomic_load(&vm->nr_vcpus) || vm->max_vcpu_id)
		return -EINVAL;
	vm->max_vcpu_id = (u32)max;
	return 0;
}

static int enable(struct vm *vm, const struct kvm_enable_cap *c)
{
	switch (c->cap) {
	case KVM_CAP_DISABLE_QUIRKS2:
		if (c->args[0] & ~(u64)QUIRKS)
			return -EINVAL;
		/* fallthrough */
	case KVM_CAP_DISABLE_QUIRKS:
		return enable_quirks(vm, c->args[0]);
	case KVM_CAP_SPLIT_IRQCHIP:
		return vm_create_split_irqchip(vm, c->args[0]);
	case KVM_CAP_X2APIC_API:
		return enable_x2apic_api(vm, c->args[0]);
	case KVM_CAP_X86_DISABLE_EXITS:
		if (c->args[0] & ~(u64)DISABLE_EXITS)
			return -EINVAL;
		vm->disabled_exits |= c->args[0];
		return 0;
	case KVM_CAP_MSR_PLATFORM_INFO:
		return 0;
	case KVM_CAP_EXCEPTION_PAYLOAD:
		vm->exception_payload = c->args[0] != 0;
		return 0;
	case KVM_CAP_X86_TRIPLE_FAULT_EVENT:
		vm->triple_fault_event = c->args[0] != 0;
		return 0;
	case KVM_CAP_X86_USER_SPACE_MSR:
		if (c->args[0] & ~(u64)MSR_EXITS)
			return -EINVAL;
		vm_set_user_msr_mask(vm, (u32)c->args[0]);
		return 0;
	case KVM_CAP_EXIT_ON_EMULATION_FAILURE:
		if (c->args[0] & ~1ull)
			return -EINVAL;
		vm->exit_on_emulation_failure = c->args[0] != 0;
		return 0;
	case KVM_CAP_MAX_VCPU_ID:
		return enable_max_vcpu_id(vm, c->args[0]);
	case KVM_CAP_X86_APIC_BUS_CYCLES_NS:
		return enable_bus_cycles(vm, c->args[0]);
	default:
		return -EINVAL;
	}
}

int vm_enable_cap(struct vm *vm, const struct kvm_enable_cap *c)
{
	if (c->flags)
		return -EINVAL;
	if (c->cap == KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)
		return enable_manual_dirty(vm, c->args[0]);
	pthread_mutex_lock(&vm->lock);
	int r = enable(vm, c);
	pthread_mutex_unlock(&vm->lock);
	return r;
}

int vcpu_enable_cap(struct vcpu *v, const struct kvm_enable_cap *c)
{
	if (c->flags || c->cap != KVM_CAP_ENFORCE_PV_FEATURE_CPUID)
		return -EINVAL;
	v->pv_enforce = c->args[0] != 0;
	return 0;
}
