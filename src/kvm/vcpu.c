/* vCPUs: creation and the dispatch of their ioctls. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kvm/file.h"
#include "base/low.h"
#include "kvm/kvm.h"
#include "kvm/sigmask.h"
#include "kvm/uaccess.h"

#define RUN_PAGES 3 /* run, PIO data, coalesced ring */
#define RUN_SIZE (RUN_PAGES * PAGE_SIZE)

void vcpu_reset(struct vcpu *v, bool init)
{
	struct cpu *c = &v->cpu;

	if (lapic_in_kernel(v)) {
		pthread_mutex_lock(&v->vm->irq_lock);
		lapic_reset(&v->lapic, init);
		c->apic_base = v->lapic.base_msr;
		pthread_mutex_unlock(&v->vm->irq_lock);
	}
	u64 apic_base = c->apic_base, tsc_offset = c->tsc_offset, tsc_ratio = c->tsc_ratio;
	cpu_reset(c, init);
	c->apic_base = apic_base;
	c->tsc_offset = tsc_offset;
	c->tsc_ratio = tsc_ratio;
	c->inject.type = EV_NONE;
	cpu_io_retire(c);
	v->exception.type = EV_NONE;
	v->nmi_pending = 0;
	v->irq_queued = false;
	v->wait = 0;
	v->clock_area.enabled = v->steal_area.enabled = v->eoi_area.enabled = false;
	v->msr_system_time = v->msr_steal_time = v->msr_pv_eoi = 0;
	v->msr_poll_control = 1;
	v->vm->ops->tlb_flush_all(c);
}

/* On an error the caller frees @v. */
static int vcpu_init(struct vcpu *v, struct vm *vm, u32 id)
{
	v->vm = vm;
	v->id = id;
	v->extint_vector = -1;
	v->cpu.tsc_ratio = BIT64(48);
	pthread_mutex_init(&v->mutex, NULL);
	int r = cpu_init(&v->cpu);
	if (r == 0)
		r = cpuid_set(&v->cpu, NULL, 0);
	v->cpu.engine_vm = vm->engine_vm;
	if (r == 0)
		r = vm->ops->vcpu_create(&v->cpu);
	if (r)
		return r;
	vcpu_clock_init(v);
	r = vcpu_lapic_create(v);
	if (r)
		return r;
	vcpu_reset(v, false);
	v->mp_state = !lapic_in_kernel(v) || id == vm->boot_cpu_id ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_UNINITIALIZED;
	return 0;
}

void vcpu_free(struct vcpu *v)
{
	if (v->lapic.chip) {
		pthread_mutex_lock(&v->vm->irq_lock);
		lapic_fini(&v->lapic);
		pthread_mutex_unlock(&v->vm->irq_lock);
	}
	if (v->cpu.engine)
		v->vm->ops->vcpu_free(&v->cpu);
	cpu_fini(&v->cpu);
	sigmask_free(v->sigmask);
	stats_file_fini(&v->stats);
	if (v->run)
		munmap(v->run, RUN_SIZE);
	pthread_mutex_destroy(&v->mutex);
	low_free(v, sizeof(*v));
}

static void vcpu_release(void *obj)
{
	vm_put(((struct vcpu *)obj)->vm);
}

/*
 * Maps the vCPU's pages for the client. The ring is the VM's, not the vCPU's: page 2 of the first vCPU, laid over
 * what this descriptor would show.
 */
static void *vcpu_mmap(void *obj, int fd, size_t size)
{
	struct vcpu *v = obj;
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		return NULL;
	if (size >= RUN_SIZE && v->index != 0 &&
	    mremap(v->vm->ring, 0, PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, (u8 *)p + 2 * PAGE_SIZE) == MAP_FAILED) {
		munmap(p, size);
		return NULL;
	}
	return p;
}

static const struct file_ops vcpu_file_ops = {
	.name = "anykvm-vcpu", .ioctl = vcpu_ioctl, .mmap = vcpu_mmap, .release = vcpu_release,
};

/* Other threads' and the VM's view of a vCPU begins when vm.nr_vcpus counts it. [L] */
static int vcpu_create(struct vm *vm, u32 id)
{
	u32 nr = atomic_load(&vm->nr_vcpus);
	void *pages = NULL;

	if (nr >= VM_MAX_VCPUS)
		return -EINVAL;
	if (vm_find_vcpu(vm, id))
		return -EEXIST;
	struct vcpu *v = low_alloc(sizeof(*v));
	if (!v)
		return -ENOMEM;
	v->index = nr;
	int r = vcpu_init(v, vm, id);
	int fd = r ? r : file_create(&vcpu_file_ops, v, RUN_SIZE, &pages);
	if (fd < 0) {
		vcpu_free(v);
		return fd;
	}
	/* The descriptor holds a reference to the VM; the vCPU itself lives as long as the VM. */
	atomic_fetch_add(&vm->refs, 1);
	v->run = pages;
	v->cpu.poll = (struct cpu_poll *)&v->run->immediate_exit;
	if (nr == 0)
		vm->ring = (void *)((u8 *)pages + 2 * PAGE_SIZE);
	vm->vcpu[nr] = v;
	atomic_store(&vm->nr_vcpus, nr + 1);
	return fd;
}

int vcpu_create_fd(struct vm *vm, u32 id)
{
	pthread_mutex_lock(&vm->lock);
	int r = id >= (vm->max_vcpu_id ? vm->max_vcpu_id : VM_MAX_VCPU_ID) ? -EINVAL : vcpu_create(vm, id);
	pthread_mutex_unlock(&vm->lock);
	return r;
}

static long vcpu_ioctl_locked(struct vcpu *v, unsigned cmd, unsigned long arg)
{
	struct kvm_enable_cap cap;
	long r;

	switch (cmd) {
	case KVM_RUN:
		return arg ? -EINVAL : vcpu_run_ioctl(v);
	case KVM_GET_MSRS:
	case KVM_SET_MSRS:
		return vcpu_ioctl_msrs(v, cmd == KVM_SET_MSRS, arg);
	case KVM_GET_STATS_FD:
		return vcpu_stats_fd(v);
	case KVM_ENABLE_CAP:
		return uaccess_read(&cap, (void *)arg, sizeof(cap)) ? -EFAULT : vcpu_enable_cap(v, &cap);
	}
	r = vcpu_ioctl_regs(v, cmd, arg);
	if (r == -ENOTTY)
		r = vcpu_ioctl_state(v, cmd, arg);
	if (r == -ENOTTY)
		r = vcpu_ioctl_cpuid(v, cmd, arg);
	return r;
}

long vcpu_ioctl(void *obj, unsigned cmd, unsigned long arg)
{
	struct vcpu *v = obj;

	pthread_mutex_lock(&v->mutex);
	long r = vcpu_ioctl_locked(v, cmd, arg);
	/* Whatever was set may have made something deliverable. */
	if (cmd != KVM_RUN)
		atomic_fetch_or(&v->requests, VREQ_EVENT);
	pthread_mutex_unlock(&v->mutex);
	return r;
}
