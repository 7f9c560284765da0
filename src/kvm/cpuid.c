/* CPUID at the ABI: KVM_GET_SUPPORTED_CPUID, KVM_SET_CPUID(2), KVM_GET_CPUID2. */
#include <errno.h>
#include <string.h>

#include "kvm/kvm.h"
#include "kvm/uaccess.h"

#define ENTRIES_MAX CPUID_MAX_ENTRIES /* KVM_MAX_CPUID_ENTRIES */

_Static_assert(sizeof(struct cpuid_entry) == sizeof(struct kvm_cpuid_entry2), "one layout");

static long write_entries(unsigned long arg, const struct cpuid_entry *e, u32 n)
{
	struct kvm_cpuid2 head = {.nent = n};

	if (uaccess_write((u8 *)arg + sizeof(head), e, n * sizeof(*e)))
		return -EFAULT;
	return uaccess_write((void *)arg, &head.nent, sizeof(head.nent));
}

long dev_get_supported_cpuid(unsigned cmd, unsigned long arg)
{
	struct cpuid_entry e[ENTRIES_MAX];
	struct kvm_cpuid2 head;

	if (uaccess_read(&head, (void *)arg, sizeof(head)))
		return -EFAULT;
	u32 n = MIN(cpuid_supported(e, ENTRIES_MAX), ENTRIES_MAX);
	return head.nent < n ? -E2BIG : write_entries(arg, e, n);
}

/* The linear address width that CPUID states must be one that there is. */
static bool widths_valid(const struct cpuid_entry *e, u32 n)
{
	for (u32 i = 0; i < n; i++) {
		u32 bits = e[i].eax >> 8 & 0xff;

		if (e[i].function == 0x80000008 && bits != 48 && bits != 57 && bits != 0)
			return false;
	}
	return true;
}

static bool same_as_now(const struct vcpu *v, const struct cpuid_entry *e, u32 n)
{
	if (n != v->cpu.nr_cpuid)
		return false;
	for (u32 i = 0; i < n; i++) {
		const struct cpuid_entry *now = &v->cpu.cpuid[i];

		if (e[i].function != now->function || e[i].index != now->index || e[i].flags != now->flags ||
		    e[i].eax != now->eax || e[i].ebx != now->ebx || e[i].ecx != now->ecx || e[i].edx != now->edx)
			return false;
	}
	return true;
}

static int set_cpuid(struct vcpu *v, const struct cpuid_entry *e, u32 n)
{
	/* A guest that has run has seen it. */
	if (v->ran)
		return same_as_now(v, e, n) ? 0 : -EINVAL;
	if (!widths_valid(e, n))
		return -EINVAL;
	int r = cpuid_set(&v->cpu, e, n);
	if (r == 0 && lapic_in_kernel(v)) {
		pthread_mutex_lock(&v->vm->irq_lock);
		v->lapic.has_x2apic = cpuid_has(&v->cpu, 1, 0, 2, 21);
		v->lapic.has_tsc_deadline = cpuid_has(&v->cpu, 1, 0, 2, 24);
		pthread_mutex_unlock(&v->vm->irq_lock);
	}
	return r;
}

static int ioctl_set_cpuid2(struct vcpu *v, unsigned long arg)
{
	struct cpuid_entry e[ENTRIES_MAX];
	struct kvm_cpuid2 head;

	if (uaccess_read(&head, (void *)arg, sizeof(head)))
		return -EFAULT;
	if (head.nent > ENTRIES_MAX)
		return -E2BIG;
	if (uaccess_read(e, (u8 *)arg + sizeof(head), head.nent * sizeof(e[0])))
		return -EFAULT;
	return set_cpuid(v, e, head.nent);
}

/* The first form of the ioctl, without sub-leaves. */
static int ioctl_set_cpuid(struct vcpu *v, unsigned long arg)
{
	struct kvm_cpuid_entry old[ENTRIES_MAX];
	struct cpuid_entry e[ENTRIES_MAX];
	struct kvm_cpuid head;

	if (uaccess_read(&head, (void *)arg, sizeof(head)))
		return -EFAULT;
	if (head.nent > ENTRIES_MAX)
		return -E2BIG;
	if (uaccess_read(old, (u8 *)arg + sizeof(head), head.nent * sizeof(old[0])))
		return -EFAULT;
	for (u32 i = 0; i < head.nent; i++)
		e[i] = (struct cpuid_entry){.function = old[i].function, .eax = old[i].eax, .ebx = old[i].ebx,
					    .ecx = old[i].ecx, .edx = old[i].edx};
	return set_cpuid(v, e, head.nent);
}

static long ioctl_get_cpuid2(struct vcpu *v, unsigned long arg)
{
	struct kvm_cpuid2 head;

	if (uaccess_read(&head, (void *)arg, sizeof(head)))
		return -EFAULT;
	return head.nent < v->cpu.nr_cpuid ? -E2BIG : write_entries(arg, v->cpu.cpuid, v->cpu.nr_cpuid);
}

long vcpu_ioctl_cpuid(struct vcpu *v, unsigned cmd, unsigned long arg)
{
	switch (cmd) {
	case KVM_SET_CPUID:
		return ioctl_set_cpuid(v, arg);
	case KVM_SET_CPUID2:
		return ioctl_set_cpuid2(v, arg);
	case KVM_GET_CPUID2:
		return ioctl_get_cpuid2(v, arg);
	default:
		return -ENOTTY;
	}
}
