/* Virtual machines: creation, end, and the dispatch of their ioctls. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/file.h"
#include "kvm/kvm.h"
#include "kvm/uaccess.h"

struct vcpu *vm_find_vcpu(const struct vm *vm, u32 id)
{
	u32 nr = atomic_load(&vm->nr_vcpus);

	for (u32 i = 0; i < nr; i++)
		if (vm->vcpu[i]->id == id)
			return vm->vcpu[i];
	return NULL;
}

/* In the reverse order of what uses what: first the threads, then those who are called by them. */
static void vm_free(struct vm *vm)
{
	u32 nr = atomic_load(&vm->nr_vcpus);

	vm_stop_eventfds(vm);
	timer_thread_stop(vm->timers);
	iobus_free(vm);
	for (u32 i = 0; i < nr; i++)
		vcpu_free(vm->vcpu[i]);
	vm_free_irqchip(vm);
	vm_free_msr_filter(vm);
	vm_free_slots(vm);
	stats_file_fini(&vm->stats);
	pthread_mutex_destroy(&vm->lock);
	pthread_mutex_destroy(&vm->slots_lock);
	pthread_mutex_destroy(&vm->irq_lock);
	pthread_mutex_destroy(&vm->quiet_lock);
	pthread_mutex_destroy(&vm->ring_lock);
	pthread_mutex_destroy(&vm->clock_lock);
	pthread_mutex_destroy(&vm->filter_lock);
	pthread_cond_destroy(&vm->quiet);
	pthread_rwlock_destroy(&vm->bus_lock);
	if (vm->ops->vm_destroy)
		vm->ops->vm_destroy(vm->engine_vm);
	free(vm);
}

void vm_put(struct vm *vm)
{
	if (atomic_fetch_sub(&vm->refs, 1) == 1)
		vm_free(vm);
}

static void vm_release(void *obj)
{
	vm_put(obj);
}

static const struct file_ops vm_file_ops = {.name = "anykvm-vm", .ioctl = vm_ioctl, .release = vm_release};

/* [a] of the VMs to come */
static _Atomic(const struct x86_ops *) default_engine = &jit_x86_ops;

int vm_set_engine(const char *name)
{
	const struct x86_ops *ops = engine_find(name);

	if (!ops)
		return -EINVAL;
	atomic_store(&default_engine, ops);
	return 0;
}

int vm_create_fd(unsigned long type)
{
	if (type)
		return -EINVAL;
	const struct x86_ops *ops = atomic_load(&default_engine);
	int r = ops->hardware_setup();
	if (r)
		return r;
	struct vm *vm = calloc(1, sizeof(*vm));
	if (!vm)
		return -ENOMEM;
	vm->ops = ops;
	atomic_store(&vm->refs, 1);
	atomic_store(&vm->map_gen, 1);
	pthread_mutex_init(&vm->lock, NULL);
	pthread_mutex_init(&vm->slots_lock, NULL);
	pthread_mutex_init(&vm->irq_lock, NULL);
	pthread_mutex_init(&vm->quiet_lock, NULL);
	pthread_mutex_init(&vm->ring_lock, NULL);
	pthread_mutex_init(&vm->clock_lock, NULL);
	pthread_mutex_init(&vm->filter_lock, NULL);
	pthread_cond_init(&vm->quiet, NULL);
	pthread_rwlock_init(&vm->bus_lock, NULL);
	vm_clock_init(vm);
	/* Two timers a vCPU (LAPIC, signal mask), one for the PIT and the IOAPIC. */
	vm->timers = timer_thread_start(2 * VM_MAX_VCPUS + 1);
	r = ops->vm_init ? ops->vm_init(&vm->engine_vm) : 0;
	int fd = r ? r : vm->timers ? file_create(&vm_file_ops, vm, 0, NULL) : -ENOMEM;
	if (fd < 0)
		vm_put(vm);
	return fd;
}

/* --- ioctls ---------------------------------------------------------------------------------------------------- */

#define IN(var) (uaccess_read(&(var), (void *)arg, sizeof(var)))
#define OUT(var) (uaccess_write((void *)arg, &(var), sizeof(var)))
#define LOCKED(vm, call)                            \
	({                                          \
		pthread_mutex_lock(&(vm)->lock);    \
		long r_ = (call);                   \
		pthread_mutex_unlock(&(vm)->lock);  \
		r_;                                 \
	})

static long set_gsi_routing(struct vm *vm, unsigned long arg)
{
	struct kvm_irq_routing head;
	struct kvm_irq_routing_entry *e = NULL;
	long r = -EFAULT;

	if (IN(head))
		return -EFAULT;
	if (head.nr > ROUTING_MAX_GSI || head.flags)
		return -EINVAL;
	if (head.nr) {
		e = malloc(head.nr * sizeof(*e));
		if (!e)
			return -ENOMEM;
	}
	if (uaccess_read(e, (u8 *)arg + sizeof(head), head.nr * sizeof(*e)) == 0)
		r = vm_set_routing(vm, e, head.nr);
	free(e);
	return r;
}

static long irqchip_state(struct vm *vm, unsigned long arg, bool set)
{
	struct kvm_irqchip chip; /* to get one, too, it says which */

	if (IN(chip))
		return -EFAULT;
	if (!pic_in_kernel(vm))
		return -ENXIO;
	pthread_mutex_lock(&vm->irq_lock);
	int r = set ? irqchip_set_state(&vm->irqchip, &chip) : irqchip_get_state(&vm->irqchip, &chip);
	pthread_mutex_unlock(&vm->irq_lock);
	return r || set ? r : OUT(chip);
}

/* @size: of kvm_pit_state2, or of kvm_pit_state, which is its beginning. */
static long pit_state(struct vm *vm, unsigned long arg, size_t size, bool set)
{
	struct kvm_pit_state2 s;

	if (set && uaccess_read(&s, (void *)arg, size))
		return -EFAULT;
	pthread_mutex_lock(&vm->irq_lock);
	bool there = atomic_load(&vm->irqchip_mode) == IRQCHIP_KERNEL && vm->irqchip.has_pit;
	if (there && !set)
		i8254_get_state(&vm->irqchip.pit, &s);
	if (there && set) {
		struct kvm_pit_state2 whole;

		i8254_get_state(&vm->irqchip.pit, &whole);
		memcpy(&whole, &s, size);
		i8254_set_state(&vm->irqchip.pit, &whole);
	}
	pthread_mutex_unlock(&vm->irq_lock);
	if (!there)
		return -ENXIO;
	return set ? 0 : uaccess_write((void *)arg, &s, size);
}

static long reinject_control(struct vm *vm, unsigned long arg)
{
	struct kvm_reinject_control c;

	if (IN(c))
		return -EFAULT;
	pthread_mutex_lock(&vm->irq_lock);
	bool there = atomic_load(&vm->irqchip_mode) == IRQCHIP_KERNEL && vm->irqchip.has_pit;
	if (there)
		i8254_set_reinject(&vm->irqchip.pit, c.pit_reinject);
	pthread_mutex_unlock(&vm->irq_lock);
	return there ? 0 : -ENXIO;
}

static long get_stats_fd(struct vm *vm)
{
	pthread_mutex_lock(&vm->slots_lock);
	int fd = vm_stats_fd(vm);
	pthread_mutex_unlock(&vm->slots_lock);
	return fd;
}

static long set_boot_cpu_id(struct vm *vm, u32 id)
{
	if (atomic_load(&vm->nr_vcpus))
		return -EBUSY;
	vm->boot_cpu_id = id;
	return 0;
}

static long set_tsc_khz(struct vm *vm, u32 khz)
{
	if (atomic_load(&vm->nr_vcpus))
		return -EINVAL;
	vm->tsc_khz = khz ? khz : host_tsc_khz();
	return 0;
}

/* Interrupts and their controllers. */
static long ioctl_irq(struct vm *vm, unsigned cmd, unsigned long arg)
{
	union {
		struct kvm_irq_level level;
		struct kvm_msi msi;
		struct kvm_pit_config pit;
		struct kvm_irqfd irqfd;
	} u;
	long r;

	switch (cmd) {
	case KVM_CREATE_IRQCHIP:
		return LOCKED(vm, vm_create_irqchip(vm));
	case KVM_CREATE_PIT:
		return LOCKED(vm, vm_create_pit(vm, KVM_PIT_SPEAKER_DUMMY));
	case KVM_CREATE_PIT2:
		return IN(u.pit) ? -EFAULT : LOCKED(vm, vm_create_pit(vm, u.pit.flags));
	case KVM_IRQ_LINE:
		return IN(u.level) ? -EFAULT : vm_irq_line(vm, u.level.irq, u.level.level, NULL);
	case KVM_IRQ_LINE_STATUS:
		if (IN(u.level))
			return -EFAULT;
		r = vm_irq_line(vm, u.level.irq, u.level.level, (u32 *)&u.level.status);
		return r ? r : OUT(u.level);
	case KVM_SIGNAL_MSI:
		return IN(u.msi) ? -EFAULT : vm_signal_msi(vm, &u.msi);
	case KVM_SET_GSI_ROUTING:
		return set_gsi_routing(vm, arg);
	case KVM_IRQFD:
		return IN(u.irqfd) ? -EFAULT : LOCKED(vm, vm_irqfd(vm, &u.irqfd));
	case KVM_GET_IRQCHIP:
	case KVM_SET_IRQCHIP:
		return irqchip_state(vm, arg, cmd == KVM_SET_IRQCHIP);
	case KVM_GET_PIT:
	case KVM_SET_PIT:
		return pit_state(vm, arg, sizeof(struct kvm_pit_state), cmd == KVM_SET_PIT);
	case KVM_GET_PIT2:
	case KVM_SET_PIT2:
		return pit_state(vm, arg, sizeof(struct kvm_pit_state2), cmd == KVM_SET_PIT2);
	case KVM_REINJECT_CONTROL:
		return reinject_control(vm, arg);
	default:
		return -ENOTTY;
	}
}

/* Memory and devices. */
static long ioctl_memory(struct vm *vm, unsigned cmd, unsigned long arg)
{
	union {
		struct kvm_userspace_memory_region region;
		struct kvm_userspace_memory_region2 region2;
		struct kvm_dirty_log log;
		struct kvm_clear_dirty_log clear;
		struct kvm_coalesced_mmio_zone zone;
		struct kvm_ioeventfd ioeventfd;
		u64 addr;
	} u = {0};

	switch (cmd) {
	case KVM_SET_USER_MEMORY_REGION:
		return IN(u.region) ? -EFAULT : vm_set_memory_region(vm, &u.region2); /* the beginning of region2 */
	case KVM_SET_USER_MEMORY_REGION2:
		return IN(u.region2) ? -EFAULT : vm_set_memory_region(vm, &u.region2);
	case KVM_GET_DIRTY_LOG:
		return IN(u.log) ? -EFAULT : vm_get_dirty_log(vm, &u.log);
	case KVM_CLEAR_DIRTY_LOG:
		return IN(u.clear) ? -EFAULT : vm_clear_dirty_log(vm, &u.clear);
	case KVM_REGISTER_COALESCED_MMIO:
		return IN(u.zone) ? -EFAULT : vm_register_coalesced(vm, &u.zone);
	case KVM_UNREGISTER_COALESCED_MMIO:
		return IN(u.zone) ? -EFAULT : vm_unregister_coalesced(vm, &u.zone);
	case KVM_IOEVENTFD:
		return IN(u.ioeventfd) ? -EFAULT : vm_ioeventfd(vm, &u.ioeventfd);
	case KVM_SET_TSS_ADDR: /* these two name pages that Intel's real mode needs; this one does not */
		return arg > 0xffffffff - 3 * PAGE_SIZE ? -EINVAL : 0;
	case KVM_SET_IDENTITY_MAP_ADDR:
		return IN(u.addr) ? -EFAULT : LOCKED(vm, atomic_load(&vm->nr_vcpus) ? -EINVAL : 0);
	case KVM_SET_NR_MMU_PAGES:
		if ((u32)arg < 64)
			return -EINVAL;
		return LOCKED(vm, (vm->nr_mmu_pages = (u32)arg, 0));
	case KVM_GET_NR_MMU_PAGES:
		return LOCKED(vm, (long)vm->nr_mmu_pages);
	default:
		return -ENOTTY;
	}
}

long vm_ioctl(void *obj, unsigned cmd, unsigned long arg)
{
	struct vm *vm = obj;
	struct kvm_enable_cap cap;
	struct kvm_clock_data clock;
	long r;

	switch (cmd) {
	case KVM_CREATE_VCPU:
		return arg > VM_MAX_VCPU_ID ? -EINVAL : vcpu_create_fd(vm, (u32)arg);
	case KVM_CHECK_EXTENSION:
		return vm_check_extension(vm, arg);
	case KVM_ENABLE_CAP:
		return IN(cap) ? -EFAULT : vm_enable_cap(vm, &cap);
	case KVM_GET_CLOCK:
		vm_get_clock(vm, &clock);
		return OUT(clock);
	case KVM_SET_CLOCK:
		return IN(clock) ? -EFAULT : vm_set_clock(vm, &clock);
	case KVM_GET_TSC_KHZ:
		return LOCKED(vm, (long)vm->tsc_khz);
	case KVM_SET_TSC_KHZ:
		return LOCKED(vm, set_tsc_khz(vm, (u32)arg));
	case KVM_SET_BOOT_CPU_ID:
		return LOCKED(vm, set_boot_cpu_id(vm, (u32)arg));
	case KVM_GET_STATS_FD:
		return get_stats_fd(vm);
	case KVM_X86_SET_MSR_FILTER:
		return vm_set_msr_filter(vm, arg);
	}
	r = ioctl_irq(vm, cmd, arg);
	return r == -ENOTTY ? ioctl_memory(vm, cmd, arg) : r;
}
