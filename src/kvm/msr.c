/* MSRs at the ABI: the list and get/set ioctls, the registers that are not the processor's own, filters. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "kvm/kvm.h"
#include "kvm/uaccess.h"

#define MSR_TSC 0x10
#define MSR_APIC_BASE 0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC_FIRST 0x800
#define MSR_X2APIC_LAST 0x8ff

#define MSRS_MAX 256 /* entries of one KVM_GET/SET_MSRS */

/* --- Registers outside the processor ----------------------------------------------------------------------- */

static bool x2apic_msr(u32 index)
{
	return index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST;
}

/* Bits of IA32_APIC_BASE that must be 0. */
static u64 apic_base_reserved(const struct vcpu *v)
{
	u64 r = ~(BIT64(v->cpu.maxphyaddr) - 1) | 0x2ff;

	return cpuid_has(&v->cpu, 1, 0, 2, 21) ? r : r | LAPIC_BASE_X2APIC;
}

static enum msr_result set_apic_base(struct vcpu *v, u64 value, bool host)
{
	u64 reserved = apic_base_reserved(v);

	if (!lapic_in_kernel(v)) {
		if (value & reserved)
			return MSR_INVALID;
		v->cpu.apic_base = value;
		return MSR_OK;
	}
	pthread_mutex_lock(&v->vm->irq_lock);
	bool ok = lapic_set_base(&v->lapic, value, reserved, host);
	v->cpu.apic_base = v->lapic.base_msr;
	pthread_mutex_unlock(&v->vm->irq_lock);
	return ok ? MSR_OK : MSR_INVALID;
}

static enum msr_result lapic_rdmsr(struct vcpu *v, u32 index, u64 *value, bool host)
{
	bool ok = lapic_in_kernel(v);

	if (!ok)
		return index == MSR_TSC_DEADLINE && host ? (*value = 0, MSR_OK) : MSR_UNKNOWN;
	pthread_mutex_lock(&v->vm->irq_lock);
	if (index == MSR_TSC_DEADLINE)
		*value = lapic_get_tsc_deadline(&v->lapic);
	else
		ok = lapic_msr_read(&v->lapic, index, value);
	pthread_mutex_unlock(&v->vm->irq_lock);
	return ok ? MSR_OK : MSR_UNKNOWN;
}

static enum msr_result lapic_wrmsr(struct vcpu *v, u32 index, u64 value, bool host)
{
	bool ok = lapic_in_kernel(v);

	if (!ok)
		return index == MSR_TSC_DEADLINE && host ? MSR_OK : MSR_UNKNOWN;
	pthread_mutex_lock(&v->vm->irq_lock);
	if (index == MSR_TSC_DEADLINE)
		lapic_set_tsc_deadline(&v->lapic, value);
	else
		ok = lapic_msr_write(&v->lapic, index, value);
	bool more = irqchip_has_interrupt(&v->vm->irqchip, &v->lapic);
	pthread_mutex_unlock(&v->vm->irq_lock);
	if (more)
		vcpu_request(v, VREQ_EVENT);
	return ok ? MSR_OK : MSR_INVALID;
}

enum msr_result vcpu_rdmsr(struct vcpu *v, u32 index, u64 *value, bool host)
{
	enum msr_result r = msr_read(&v->cpu, index, value, host);

	if (r != MSR_OUTSIDE)
		return r;
	if (index == MSR_APIC_BASE) {
		*value = v->cpu.apic_base;
		return MSR_OK;
	}
	if (index == MSR_TSC_DEADLINE || x2apic_msr(index))
		return lapic_rdmsr(v, index, value, host);
	return pv_rdmsr(v, index, value, host);
}

enum msr_result vcpu_wrmsr(struct vcpu *v, u32 index, u64 value, bool host)
{
	if (index == MSR_TSC && host) {
		vcpu_write_tsc(v, value);
		return MSR_OK;
	}
	enum msr_result r = msr_write(&v->cpu, index, value, host);
	if (r != MSR_OUTSIDE)
		return r;
	if (index == MSR_APIC_BASE)
		return set_apic_base(v, value, host);
	if (index == MSR_TSC_DEADLINE || x2apic_msr(index))
		return lapic_wrmsr(v, index, value, host);
	return pv_wrmsr(v, index, value, host);
}

/* --- KVM_GET_MSRS, KVM_SET_MSRS: as many as go well, and how many that were ---------------------------------- */

typedef bool msr_fn(struct vcpu *v, struct kvm_msr_entry *e);

static bool get_one(struct vcpu *v, struct kvm_msr_entry *e)
{
	u64 value = 0;

	if (vcpu_rdmsr(v, e->index, &value, true) != MSR_OK)
		return false;
	e->data = value;
	return true;
}

static bool set_one(struct vcpu *v, struct kvm_msr_entry *e)
{
	return vcpu_wrmsr(v, e->index, e->data, true) == MSR_OK;
}

static bool feature_one(struct vcpu *v, struct kvm_msr_entry *e)
{
	u64 value = 0;

	if (msr_feature(e->index, &value) != MSR_OK)
		return false;
	e->data = value;
	return true;
}

static long each_msr(struct vcpu *v, unsigned long arg, msr_fn *fn, bool write_back)
{
	struct kvm_msr_entry e[MSRS_MAX];
	struct kvm_msrs head;
	u32 done = 0;

	if (uaccess_read(&head, (void *)arg, sizeof(head)))
		return -EFAULT;
	if (head.nmsrs >= MSRS_MAX)
		return -E2BIG;
	size_t size = head.nmsrs * sizeof(e[0]);
	u8 *entries = (u8 *)arg + sizeof(head);
	if (uaccess_read(e, entries, size))
		return -EFAULT;
	while (done < head.nmsrs && fn(v, &e[done]))
		done++;
	if (write_back && uaccess_write(entries, e, size))
		return -EFAULT;
	return done;
}

long vcpu_ioctl_msrs(struct vcpu *v, bool set, unsigned long arg)
{
	return each_msr(v, arg, set ? set_one : get_one, !set);
}

static long msr_index_list(unsigned long arg, bool feature)
{
	u32 index[1024];
	struct kvm_msr_list head;

	if (uaccess_read(&head, (void *)arg, sizeof(head)))
		return -EFAULT;
	u32 room = head.nmsrs;
	head.nmsrs = msr_list(index, ARRAY_SIZE(index), feature);
	if (uaccess_write((void *)arg, &head, sizeof(head)))
		return -EFAULT;
	if (room < head.nmsrs)
		return -E2BIG;
	return uaccess_write((u8 *)arg + sizeof(head), index, head.nmsrs * sizeof(index[0]));
}

long dev_get_msrs(unsigned cmd, unsigned long arg)
{
	if (cmd == KVM_GET_MSRS)
		return each_msr(NULL, arg, feature_one, true);
	return msr_index_list(arg, cmd == KVM_GET_MSR_FEATURE_INDEX_LIST);
}

/* --- KVM_X86_SET_MSR_FILTER ------------------------------------------------------------------------------------- */

struct msr_filter {
	bool allow; /* what no range names */
	u32 nr;
	struct {
		u32 flags, base, nmsrs;
		u8 *bitmap;
	} range[KVM_MSR_FILTER_MAX_RANGES];
};

#define FILTER_MAX_MSRS (0x600u * 8) /* KVM_MSR_FILTER_MAX_BITMAP_SIZE bytes */

static void filter_free(struct msr_filter *f)
{
	for (u32 n = 0; f && n < f->nr; n++)
		free(f->range[n].bitmap);
	free(f);
}

static int filter_add(struct msr_filter *f, const struct kvm_msr_filter_range *r)
{
	if (!r->nmsrs)
		return 0;
	if (r->flags & ~(u32)(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE) || !r->flags || r->nmsrs > FILTER_MAX_MSRS)
		return -EINVAL;
	size_t size = (r->nmsrs + 63) / 64 * 8;
	u8 *bitmap = malloc(size);
	if (!bitmap)
		return -ENOMEM;
	if (uaccess_read(bitmap, r->bitmap, size)) {
		free(bitmap);
		return -EFAULT;
	}
	f->range[f->nr].flags = r->flags;
	f->range[f->nr].base = r->base;
	f->range[f->nr].nmsrs = r->nmsrs;
	f->range[f->nr++].bitmap = bitmap;
	return 0;
}

/* Whether the guest's RDMSR and WRMSR must all be looked at here. */
static void msr_exits_update(struct vm *vm)
{
	atomic_store(&vm->msr_exits, vm->msr_filter || atomic_load(&vm->user_msr_mask));
	u32 nr = atomic_load(&vm->nr_vcpus);
	for (u32 i = 0; i < nr; i++)
		vcpu_request(vm->vcpu[i], VREQ_EVENT);
}

void vm_set_user_msr_mask(struct vm *vm, u32 mask)
{
	atomic_store(&vm->user_msr_mask, mask);
	msr_exits_update(vm);
}

int vm_set_msr_filter(struct vm *vm, unsigned long arg)
{
	struct kvm_msr_filter k;
	int r = 0;

	if (uaccess_read(&k, (void *)arg, sizeof(k)))
		return -EFAULT;
	if (k.flags & ~(u32)KVM_MSR_FILTER_DEFAULT_DENY)
		return -EINVAL;
	struct msr_filter *f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->allow = !(k.flags & KVM_MSR_FILTER_DEFAULT_DENY);
	for (u32 n = 0; r == 0 && n < ARRAY_SIZE(k.ranges); n++)
		r = filter_add(f, &k.ranges[n]);
	/* A filter without ranges must allow: it takes the old one away. */
	if (r == 0 && !f->nr && !f->allow)
		r = -EINVAL;
	if (r) {
		filter_free(f);
		return r;
	}
	if (!f->nr) {
		filter_free(f);
		f = NULL;
	}
	pthread_mutex_lock(&vm->filter_lock);
	struct msr_filter *old = vm->msr_filter;
	vm->msr_filter = f;
	msr_exits_update(vm);
	pthread_mutex_unlock(&vm->filter_lock);
	filter_free(old);
	return 0;
}

bool vm_msr_allowed(struct vm *vm, u32 index, bool write)
{
	u32 type = write ? KVM_MSR_FILTER_WRITE : KVM_MSR_FILTER_READ;
	bool allowed = true;

	if (!atomic_load_explicit(&vm->msr_exits, memory_order_relaxed) || x2apic_msr(index))
		return true;
	pthread_mutex_lock(&vm->filter_lock);
	const struct msr_filter *f = vm->msr_filter;
	if (f)
		allowed = f->allow;
	for (u32 n = 0; f && n < f->nr; n++) {
		u32 bit = index - f->range[n].base;

		if (index >= f->range[n].base && bit < f->range[n].nmsrs && (f->range[n].flags & type)) {
			allowed = bit_get(f->range[n].bitmap, bit);
			break;
		}
	}
	pthread_mutex_unlock(&vm->filter_lock);
	return allowed;
}

void vm_free_msr_filter(struct vm *vm)
{
	filter_free(vm->msr_filter);
}
