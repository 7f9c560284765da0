/* What firmware would leave behind on each vCPU. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "monitor/cpuid.h"
#include "monitor/vcpu.h"

#define MSR_MISC_ENABLE 0x1a0u
#define MISC_ENABLE_FAST_STRING 1u
#define MSR_MTRR_DEF_TYPE 0x2ffu
#define MTRR_ENABLE (1u << 11)
#define MTRR_WRITE_BACK 6u

#define APIC_LVT0 0x350
#define APIC_LVT1 0x360
#define APIC_DELIVERY_MODE 0x700u
#define APIC_MODE_NMI 0x400u
#define APIC_MODE_EXTINT 0x700u
#define APIC_LVT_MASKED 0x10000u

static int fail(struct vcpu *v, const char *what, long rc, char error[BOOT_ERROR_MAX])
{
	snprintf(error, BOOT_ERROR_MAX, "cannot set up CPU %u: %s: %s", v->id, what, strerror((int)-rc));
	return -1;
}

static long set_cpuid(struct vcpu *v)
{
	struct machine *m = v->machine;
	struct kvm_cpuid2 *cpuid = vcpu_cpuid_offered(m->kvm, m->kvm_fd);

	if (!cpuid)
		return -errno;
	int tsc_deadline = m->kvm->ioctl(m->kvm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_TSC_DEADLINE_TIMER) > 0;

	vcpu_cpuid_set_topology(cpuid, v->id, m->nr_vcpus, tsc_deadline);
	long rc = m->kvm->ioctl(v->fd, KVM_SET_CPUID2, cpuid);

	free(cpuid);
	return rc;
}

/* Caches write-back everywhere: there is no firmware that would program ranges. Refused MSRs stay as they are. */
static void set_msrs(struct vcpu *v)
{
	static const struct kvm_msr_entry value[] = {
		{.index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLE | MTRR_WRITE_BACK},
		{.index = MSR_MISC_ENABLE, .data = MISC_ENABLE_FAST_STRING},
	};
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[1];
	} one = {.head.nmsrs = 1};

	for (size_t i = 0; i < ARRAY_SIZE(value); i++) {
		one.entry[0] = value[i];
		v->machine->kvm->ioctl(v->fd, KVM_SET_MSRS, &one);
	}
}

static u32 lvt_mode(u32 lvt, u32 mode)
{
	return (lvt & ~(APIC_DELIVERY_MODE | APIC_LVT_MASKED)) | mode;
}

/* Virtual wire mode (MultiProcessor Specification 3.6.2.2): LINT0 takes the 8259's interrupts, LINT1 is NMI. */
static long set_lapic(struct vcpu *v)
{
	const struct kvm_if *kvm = v->machine->kvm;
	struct kvm_lapic_state lapic;
	long rc = kvm->ioctl(v->fd, KVM_GET_LAPIC, &lapic);
	u32 lvt;

	if (rc < 0)
		return rc;
	if (v->id == 0) {
		memcpy(&lvt, lapic.regs + APIC_LVT0, sizeof(lvt));
		lvt = lvt_mode(lvt, APIC_MODE_EXTINT);
		memcpy(lapic.regs + APIC_LVT0, &lvt, sizeof(lvt));
	}
	memcpy(&lvt, lapic.regs + APIC_LVT1, sizeof(lvt));
	lvt = lvt_mode(lvt, APIC_MODE_NMI);
	memcpy(lapic.regs + APIC_LVT1, &lvt, sizeof(lvt));
	return kvm->ioctl(v->fd, KVM_SET_LAPIC, &lapic);
}

static long set_registers(struct vcpu *v, const struct boot_entry *entry)
{
	const struct kvm_if *kvm = v->machine->kvm;
	struct kvm_regs regs = entry->regs;
	struct kvm_sregs sregs;
	long rc = kvm->ioctl(v->fd, KVM_GET_SREGS, &sregs);

	if (rc < 0)
		return rc;
	boot_entry_sregs(entry, &sregs);
	rc = kvm->ioctl(v->fd, KVM_SET_SREGS, &sregs);
	return rc < 0 ? rc : kvm->ioctl(v->fd, KVM_SET_REGS, &regs);
}

int vcpu_setup(struct vcpu *v, const struct boot_entry *entry, char error[BOOT_ERROR_MAX])
{
	long rc = set_cpuid(v);

	if (rc < 0)
		return fail(v, "CPUID", rc, error);
	set_msrs(v);
	rc = set_lapic(v);
	if (rc < 0)
		return fail(v, "local APIC", rc, error);
	if (v->id == 0 && (rc = set_registers(v, entry)) < 0)
		return fail(v, "registers", rc, error);
	return 0;
}
