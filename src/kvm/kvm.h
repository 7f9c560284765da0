/*
 * KVM's half behind the ABI: virtual machines, vCPUs and what the ioctls on them do.
 *
 * Locks, outermost first. A tag after a field says what guards it:
 *   [v] vcpu.mutex     every vCPU ioctl, KVM_RUN included
 *   [L] vm.lock        creation and configuration
 *   [S] vm.slots_lock  memory slots and dirty logs
 *   [B] vm.bus_lock    in-kernel devices (readers-writer)
 *   [Q] vm.irq_lock    every call into the irqchip room, routing, irqfds
 *   [a] atomic         [I] immutable once visible
 * A vCPU takes no lock while it executes guest code, and takes neither [L] nor [S] inside KVM_RUN.
 */
#ifndef KVM_KVM_H
#define KVM_KVM_H

#include <linux/kvm.h>
#include <pthread.h>

#include "base/timer.h"
#include "base/types.h"
#include "cpu/cpu.h"
#include "cpu/cpuid.h"
#include "cpu/msr.h"
#include "engine/x86_ops.h"
#include "irqchip/irqchip.h"
#include "kvm/abi.h"
#include "kvm/iobus.h"
#include "kvm/stats.h"

#define VM_MAX_VCPUS IRQCHIP_MAX_LAPICS
#define VM_MAX_VCPU_ID 4096
#define VM_USER_MEM_SLOTS 32764 /* KVM_USER_MEM_SLOTS of x86: SHRT_MAX - 3 */

struct irqfd;
struct ioeventfd;
struct coalesced_zone;
struct eventfd_thread;
struct msr_filter;
struct sigmask;

/* --- vCPU ------------------------------------------------------------------------------------------ */

/* Bits of vcpu.requests: work to do before the next entry to the guest. */
#define VREQ_EVENT BIT(0)        /* look for something to inject */
#define VREQ_CLOCK BIT(1)        /* write the kvmclock page anew */
#define VREQ_STEAL BIT(2)        /* write the steal time anew */
#define VREQ_TRIPLE_FAULT BIT(3) /* from KVM_SET_VCPU_EVENTS */
#define VREQ_IOAPIC_EOI BIT(4)   /* report vcpu.eoi_vector to the client */
#define VREQ_TIMER BIT(5)        /* the LAPIC's deadline was changed by another thread */

/* Bits of vcpu.init_sipi. */
#define PENDING_INIT BIT(0)
#define PENDING_SIPI BIT(1)

/* What the client owes us after an exit. */
enum wait_kind { WAIT_NONE, WAIT_PIO, WAIT_MMIO, WAIT_MSR };

/* An area in guest memory that the guest named in an MSR. */
struct pv_area {
	bool enabled;
	u64 gpa;
};

struct vcpu {
	struct cpu cpu;       /* [v], but for what cpu.h tags as atomic */
	struct vm *vm;        /* [I] */
	u32 id, index;        /* [I] */
	struct kvm_run *run;  /* [I] our mapping of the run page, the PIO page and the coalesced ring */
	pthread_mutex_t mutex;
	struct lapic lapic;   /* [Q] in use when vm.irqchip_mode says so */
	struct timer timer;   /* its deadline: of the LAPIC, while the vCPU runs */
	u64 armed;            /* [v] what the timer was last armed for */
	_Atomic u64 deadline; /* [a] lapic_next_deadline() */

	_Atomic u32 requests;   /* [a] VREQ_* */
	_Atomic u32 init_sipi;  /* [a] PENDING_* */
	_Atomic u8 sipi_vector; /* [a] */
	_Atomic u32 nmi_queued; /* [a] NMIs that no one has counted yet */
	_Atomic bool unhalted;  /* [a] KVM_HC_KICK_CPU: the next or current HLT ends */
	_Atomic bool blocking;  /* [a] sleeps or is about to, on the first word of the run page */
	_Atomic u32 seen_gen;   /* [a] vm.map_gen that this vCPU has taken notice of; 0 while it uses no map */
	u32 flushed_gen;        /* [v] vm.map_gen at its last flush */

	u32 mp_state;           /* [v] KVM_MP_STATE_* */
	bool ran;               /* [v] KVM_RUN has been called */
	u32 nmi_pending;        /* [v] 0 to 2 */
	struct event exception; /* [v] pending, not yet injected (KVM_SET_VCPU_EVENTS) */
	bool irq_queued;        /* [v] KVM_INTERRUPT without an irqchip */
	u8 irq_vector;          /* [v] */
	s32 extint_vector;      /* [v] KVM_INTERRUPT with a split irqchip; -1: none */
	u8 wait;                /* [v] enum wait_kind */
	u8 eoi_vector;          /* [v] */
	struct sigmask *sigmask; /* [v] KVM_SET_SIGNAL_MASK: see sigmask.c; NULL until first set */

	/* [v] Paravirtual state. */
	u64 msr_system_time, msr_steal_time, msr_pv_eoi, msr_poll_control;
	struct pv_area clock_area, steal_area, eoi_area;
	bool eoi_offered;       /* the PV EOI bit is set in guest memory */
	bool clock_stopped;     /* KVM_KVMCLOCK_CTRL: tell the guest once */
	u64 clock_tsc_offset;   /* TSC offset and ratio that the kvmclock page was written for */
	u64 clock_tsc_ratio;
	u64 steal_base, steal_checked;
	bool steal_started;
	int steal_thread;       /* on which steal_base was taken */
	u32 pv_version;
	u32 tsc_khz;            /* of the guest's TSC */
	bool pv_enforce;        /* KVM_CAP_ENFORCE_PV_FEATURE_CPUID */

	struct vcpu_stat stat;   /* [v] */
	struct stats_file stats; /* [v] */
};

/* --- VM ---------------------------------------------------------------------------------------------- */

enum irqchip_mode { IRQCHIP_NONE, IRQCHIP_KERNEL, IRQCHIP_SPLIT };

struct vm {
	_Atomic u32 refs;            /* [a] one per descriptor of the VM and of its vCPUs */
	const struct x86_ops *ops;   /* [I] */
	void *engine_vm;             /* [I] the engine's, for all vCPUs */
	pthread_mutex_t lock, slots_lock, irq_lock;
	struct timer_thread *timers; /* [I] */

	_Atomic u32 nr_vcpus;                /* [a] grows under [L] */
	struct vcpu *vcpu[VM_MAX_VCPUS];     /* [I] up to nr_vcpus */
	u32 boot_cpu_id;                     /* [L] */
	u32 max_vcpu_id;                     /* [L] KVM_CAP_MAX_VCPU_ID */

	/* Guest memory. */
	_Atomic(struct gpa_map *) map;       /* [a] replaced under [S] */
	_Atomic u32 map_gen;                 /* [a] changes whenever every vCPU must drop its translations; never 0 */
	pthread_mutex_t quiet_lock;
	pthread_cond_t quiet;                /* with quiet_lock: some vCPU has taken notice of map_gen */
	_Atomic u32 quiet_waiters;           /* [a] */
	u32 manual_dirty;                    /* [S] KVM_DIRTY_LOG_* */
	u64 nr_mmu_pages;                    /* [L] kept for KVM_GET_NR_MMU_PAGES */

	/* Devices. */
	pthread_rwlock_t bus_lock;
	struct iobus bus[NR_BUS];            /* [B] */
	struct ioeventfd *ioeventfds;        /* [B] */
	struct coalesced_zone *zones;        /* [B] */
	pthread_mutex_t ring_lock;
	struct kvm_coalesced_mmio_ring *ring; /* [ring_lock] page 2 of the first vCPU */

	/* Interrupts. */
	_Atomic u8 irqchip_mode;             /* [a] enum irqchip_mode, changes once */
	struct irqchip irqchip;              /* [Q] */
	struct timer irqchip_timer;
	struct irqfd *irqfds;                /* [Q] */
	struct eventfd_thread *irqfd_thread; /* [L] started by the first irqfd */

	/* Time: see clock.c. */
	pthread_mutex_t clock_lock;
	u64 clock_tsc, clock_ns;             /* [clock_lock] kvmclock was clock_ns at the host's TSC clock_tsc */
	u64 tsc_offset;                      /* [clock_lock] that vCPUs share */
	u64 tsc_written_value, tsc_written_at; /* [clock_lock] last KVM_SET_MSRS of a TSC, and the host's TSC then */
	u64 wall_clock;                      /* MSR_KVM_WALL_CLOCK, for those who read it */
	bool tsc_started, tsc_user_set;      /* [clock_lock] */
	u32 tsc_khz;                         /* [L] of vCPUs to come */

	/* Configured by KVM_ENABLE_CAP. */
	_Atomic u32 disabled_quirks;         /* [a] KVM_X86_QUIRK_* */
	_Atomic u32 user_msr_mask;           /* [a] KVM_MSR_EXIT_REASON_* */
	/* [L], read without: a change races with nothing but the client's own vCPUs */
	bool exception_payload;
	bool triple_fault_event;
	bool exit_on_emulation_failure;
	u64 disabled_exits;                  /* KVM_X86_DISABLE_EXITS_* */
	pthread_mutex_t filter_lock;
	struct msr_filter *msr_filter;       /* [filter_lock] */
	_Atomic bool msr_exits;              /* [a] the guest's MSR accesses must be looked at */

	struct vm_stat stat;                 /* [S] */
	struct stats_file stats;             /* [S] */
};

static inline bool lapic_in_kernel(const struct vcpu *v)
{
	return atomic_load_explicit(&v->vm->irqchip_mode, memory_order_relaxed) != IRQCHIP_NONE;
}

static inline bool pic_in_kernel(const struct vm *vm)
{
	return atomic_load_explicit(&vm->irqchip_mode, memory_order_relaxed) == IRQCHIP_KERNEL;
}

static inline bool vm_quirk(const struct vm *vm, u32 quirk)
{
	return !(atomic_load_explicit(&vm->disabled_quirks, memory_order_relaxed) & quirk);
}

/* --- Rooms of this directory ---------------------------------------------------------------------- */

/* dev.c: the system descriptor. */
int dev_open(void);

/* vm.c */
int vm_create_fd(unsigned long type);
/* Names the engine of VMs that are created from now on: -EINVAL for an unknown one. */
int vm_set_engine(const char *name);
void vm_put(struct vm *vm);
struct vcpu *vm_find_vcpu(const struct vm *vm, u32 id);
long vm_ioctl(void *obj, unsigned cmd, unsigned long arg);

/* vcpu.c */
int vcpu_create_fd(struct vm *vm, u32 id);
void vcpu_free(struct vcpu *v);
long vcpu_ioctl(void *obj, unsigned cmd, unsigned long arg);
/* Registers after RESET#, or after INIT. [v] */
void vcpu_reset(struct vcpu *v, bool init);

/* run.c */
long vcpu_run_ioctl(struct vcpu *v);
void vcpu_request(struct vcpu *v, u32 vreq); /* from any thread: sets vcpu.requests, ends the run, wakes */
void vcpu_wake(struct vcpu *v);
void vcpu_signal_current(void);              /* async-signal-safe */
struct vcpu *vcpu_current(void);             /* the vCPU whose KVM_RUN is under way on this thread */
/* Takes INIT and SIPI. [v] */
void vcpu_accept_events(struct vcpu *v);
/* Tells every vCPU to drop its translations, and returns when none uses the old ones any more. [S] */
void vm_quiesce(struct vm *vm);

/* exit.c: what becomes of an exit. 1: go on, 0: to the client, < 0: -errno. [v] */
int vcpu_handle_exit(struct vcpu *v, enum exit_reason reason);
/* Takes what the client has left for us after an exit. 1 or -errno. */
int vcpu_complete(struct vcpu *v);

/* memslot.c, dirty.c */
int vm_set_memory_region(struct vm *vm, const struct kvm_userspace_memory_region2 *r);
int vm_get_dirty_log(struct vm *vm, const struct kvm_dirty_log *log);
int vm_clear_dirty_log(struct vm *vm, const struct kvm_clear_dirty_log *log);
void vm_free_slots(struct vm *vm);
/* Puts @map in place of the old one, which it frees when no vCPU uses it any more. [S] */
void vm_publish_map(struct vm *vm, struct gpa_map *map);
/* The slot with number @id, or NULL. [S] */
const struct gpa_slot *vm_slot_by_id(struct vm *vm, u32 id);
/* An empty dirty log for @pages pages, or a full one. NULL when memory has run out. */
_Atomic u64 *dirty_log_create(u64 pages, bool all_set);
/* Guest memory by physical address, as KVM itself writes it. 0 or -EFAULT. In KVM_RUN, or with [S]. */
int guest_read(const struct gpa_map *map, u64 gpa, void *to, size_t n);
int guest_write(const struct gpa_map *map, u64 gpa, const void *from, size_t n);

/* irq.c */
int vm_create_irqchip(struct vm *vm);
int vm_create_split_irqchip(struct vm *vm, u64 pins);
int vm_create_pit(struct vm *vm, u32 flags);
int vm_irq_line(struct vm *vm, u32 gsi, u32 level, u32 *status);
int vm_set_routing(struct vm *vm, const struct kvm_irq_routing_entry *e, u32 nr);
int vm_signal_msi(struct vm *vm, const struct kvm_msi *msi);
int vcpu_lapic_create(struct vcpu *v);
void vcpu_lapic_expire(struct vcpu *v);
void vm_free_irqchip(struct vm *vm);

/* eventfd.c, coalesced.c */
int vm_irqfd(struct vm *vm, const struct kvm_irqfd *arg);
void irqfd_ack(struct vm *vm, u32 gsi); /* [Q] */
int vm_ioeventfd(struct vm *vm, const struct kvm_ioeventfd *arg);
void vm_stop_eventfds(struct vm *vm); /* no irqfd fires afterwards */
int vm_register_coalesced(struct vm *vm, const struct kvm_coalesced_mmio_zone *z);
int vm_unregister_coalesced(struct vm *vm, const struct kvm_coalesced_mmio_zone *z);

/* caps.c */
long vm_check_extension(struct vm *vm, unsigned long cap); /* @vm NULL: on the system descriptor */
int vm_enable_cap(struct vm *vm, const struct kvm_enable_cap *cap);
int vcpu_enable_cap(struct vcpu *v, const struct kvm_enable_cap *cap);

/* cpuid.c */
long dev_get_supported_cpuid(unsigned cmd, unsigned long arg);
long vcpu_ioctl_cpuid(struct vcpu *v, unsigned cmd, unsigned long arg);

/* msr.c */
long dev_get_msrs(unsigned cmd, unsigned long arg);
long vcpu_ioctl_msrs(struct vcpu *v, bool set, unsigned long arg);
/* MSR_OK, or MSR_UNKNOWN, MSR_INVALID: #GP. @host: KVM_GET/SET_MSRS. [v] */
enum msr_result vcpu_rdmsr(struct vcpu *v, u32 index, u64 *value, bool host);
enum msr_result vcpu_wrmsr(struct vcpu *v, u32 index, u64 value, bool host);
int vm_set_msr_filter(struct vm *vm, unsigned long arg);
bool vm_msr_allowed(struct vm *vm, u32 index, bool write);
void vm_set_user_msr_mask(struct vm *vm, u32 mask);
void vm_free_msr_filter(struct vm *vm);

/* regs.c, state.c: the get/set ioctls on a vCPU. -ENOTTY when @cmd is none of theirs. */
long vcpu_ioctl_regs(struct vcpu *v, unsigned cmd, unsigned long arg);
long vcpu_ioctl_state(struct vcpu *v, unsigned cmd, unsigned long arg);
void regs_get(const struct vcpu *v, struct kvm_regs *r);
void regs_set(struct vcpu *v, const struct kvm_regs *r);
void sregs_get(struct vcpu *v, struct kvm_sregs *s);
int sregs_set(struct vcpu *v, const struct kvm_sregs *s);
void events_get(struct vcpu *v, struct kvm_vcpu_events *e);
int events_set(struct vcpu *v, const struct kvm_vcpu_events *e);
u64 vcpu_get_cr8(struct vcpu *v);
bool vcpu_set_cr8(struct vcpu *v, u64 cr8);

/* clock.c */
void host_tsc_start(void); /* begins to measure: the earlier, the less there is to wait for later */
u32 host_tsc_khz(void);
void vm_clock_init(struct vm *vm);
void vcpu_clock_init(struct vcpu *v);
u64 vm_clock_ns(struct vm *vm); /* kvmclock, now */
void vm_get_clock(struct vm *vm, struct kvm_clock_data *d);
int vm_set_clock(struct vm *vm, const struct kvm_clock_data *d);
void vcpu_clock_update(struct vcpu *v);  /* writes the guest's kvmclock page */
void vcpu_write_tsc(struct vcpu *v, u64 value); /* by the client */
u64 vcpu_tsc(struct vcpu *v);
u64 vcpu_tsc_to_ns(struct vcpu *v, u64 tsc);
int vcpu_set_tsc_khz(struct vcpu *v, u32 khz);
void pv_wall_clock(struct vcpu *v, u64 gpa);
void vcpu_clock_pairing(struct vcpu *v, u64 *realtime_ns, u64 *tsc);

/* pv.c */
u64 pv_hypercall(struct vcpu *v); /* what RAX gets */
void pv_steal_update(struct vcpu *v);
void pv_eoi_offer(struct vcpu *v);   /* before an entry: an interrupt was just injected */
void pv_eoi_collect(struct vcpu *v); /* after a run: has the guest used it? */
enum msr_result pv_wrmsr(struct vcpu *v, u32 index, u64 value, bool host);
enum msr_result pv_rdmsr(struct vcpu *v, u32 index, u64 *value, bool host);

#endif
