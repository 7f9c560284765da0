/*
 * The ABI under any sequence of calls: descriptors opened, duplicated and closed in any order, every ioctl with
 * plausible, broken and unreadable arguments, memory slots over memory that comes and goes, eventfds of all sorts, run
 * pages scribbled over, and short runs of guests in between. Looked for: what the sanitizers find, calls that do not
 * come back, errors that are none, descriptors and memory that stay behind.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "anykvm.h"
#include "input.h"
#include "kvm/abi.h"

#define RAM_SIZE 0x100000u
#define HOLE_SIZE (1ull << 31)
#define ARG_SIZE 0x8000u
#define RUN_NS 400000
#define OPS_MAX 60
#define RUN_SIZE (3 * PAGE_SIZE)

enum kind { FREE, SYS, VM, VCPU };
struct handle {
	enum kind kind;
	int fd;
	struct kvm_run *run;
};

static struct handle handles[12];
static int eventfds[5]; /* the last is none */
static u8 *ram;         /* comes and goes: see change_memory() */
static u8 *hole;        /* never there */
static u8 *args;        /* its end is followed by an inaccessible page */
static timer_t timer;

static void on_timer(int sig)
{
	anykvm_signal();
}

static void setup_once(void)
{
	struct sigaction sa = {.sa_handler = on_timer};
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};

	if (ram)
		return;
	ram = guarded(RAM_SIZE, PROT_READ | PROT_WRITE);
	args = guarded(ARG_SIZE, PROT_READ | PROT_WRITE);
	hole = mmap(NULL, HOLE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	require(hole != MAP_FAILED && sigaction(SIGRTMIN, &sa, NULL) == 0);
	require(timer_create(CLOCK_MONOTONIC, &ev, &timer) == 0);
}

/* A pointer for a call: memory that is there, in part, or not at all. */
static void *pointer(struct input *in, size_t size)
{
	switch (number(in, 1) % 16) {
	case 0:
		return NULL;
	case 1:
		return hole;
	case 2:
		return (void *)0x8000000000000000;
	case 3:
		return args + ARG_SIZE - size / 2;
	case 4:
		return (void *)~0ul;
	default:
		return args + ARG_SIZE - size;
	}
}

/* --- Descriptors -------------------------------------------------------------------------------------------- */

static struct handle *handle_of(struct input *in, enum kind kind)
{
	u8 start = (u8)number(in, 1);

	for (unsigned n = 0; n < ARRAY_SIZE(handles); n++) {
		struct handle *h = &handles[(start + n) % ARRAY_SIZE(handles)];
		if (h->kind == kind)
			return h;
	}
	return NULL;
}

/* Takes over @fd. */
static void keep(enum kind kind, long fd)
{
	if (fd < 0)
		return;
	for (unsigned n = 0; n < ARRAY_SIZE(handles); n++) {
		if (handles[n].kind != FREE)
			continue;
		handles[n] = (struct handle){.kind = kind, .fd = (int)fd};
		if (kind == VCPU)
			handles[n].run = anykvm_mmap((int)fd, RUN_SIZE);
		return;
	}
	require(anykvm_close((int)fd) == 0);
}

static void drop(struct handle *h)
{
	if (h->run)
		munmap(h->run, RUN_SIZE);
	require(anykvm_close(h->fd) == 0);
	*h = (struct handle){0};
}

static long call(const struct handle *h, unsigned long request, void *arg)
{
	long r = anykvm_ioctl(h->fd, request, arg);

	require(r > -4096);
	return r;
}

static void create_vm(struct input *in)
{
	struct handle *sys = handle_of(in, SYS);
	u8 what = (u8)number(in, 1);

	if (!sys)
		return;
	keep(VM, call(sys, KVM_CREATE_VM, NULL));
	struct handle *vm = handle_of(in, VM);
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
	struct kvm_pit_config pit = {.flags = what & 1};
	if (!vm)
		return;
	if ((what & 6) == 2)
		call(vm, KVM_ENABLE_CAP, &split);
	else if (what & 4)
		call(vm, KVM_CREATE_IRQCHIP, NULL);
	if (what & 8)
		call(vm, KVM_CREATE_PIT2, &pit);
	struct kvm_userspace_memory_region r = {.memory_size = RAM_SIZE, .userspace_addr = (u64)ram};
	call(vm, KVM_SET_USER_MEMORY_REGION, &r);
}

static void create_vcpu(struct input *in)
{
	struct handle *vm = handle_of(in, VM);
	u8 id = (u8)number(in, 1);

	if (vm)
		keep(VCPU, call(vm, KVM_CREATE_VCPU, (void *)(id < 250 ? id % 4ul : id * 0x1001ul)));
}

static void duplicate_or_close(struct input *in)
{
	u8 what = (u8)number(in, 1);
	struct handle *h = &handles[what % ARRAY_SIZE(handles)];

	if (h->kind == FREE)
		return;
	if (what & 0x80)
		keep(h->kind, dup(h->fd));
	else
		drop(h);
}

/* --- ioctls by table ------------------------------------------------------------------------------------------- */

struct row {
	enum kind kind;
	u32 size;            /* of the argument; 0: a number */
	unsigned long request;
	unsigned long first; /* the argument begins with what this ioctl says; 0: zeros */
};

#define CPUID_SIZE (8 + 120 * sizeof(struct kvm_cpuid_entry2))
#define S(name, type) {SYS, sizeof(type), name, 0}
#define M(name, type) {VM, sizeof(type), name, 0}
#define C(name, type) {VCPU, sizeof(type), name, 0}
#define PAIR(kind, get, set, type) {kind, sizeof(type), get, 0}, {kind, sizeof(type), set, get}

static const struct row rows[] = {
	{SYS, 0, KVM_GET_API_VERSION},
	{SYS, 0, KVM_CHECK_EXTENSION},
	{SYS, 0, KVM_GET_VCPU_MMAP_SIZE},
	{SYS, CPUID_SIZE, KVM_GET_SUPPORTED_CPUID},
	{SYS, 2048, KVM_GET_MSR_INDEX_LIST},
	{SYS, 2048, KVM_GET_MSR_FEATURE_INDEX_LIST},
	{SYS, 512, KVM_GET_MSRS},
	S(KVM_X86_GET_MCE_CAP_SUPPORTED, u64),
	S(KVM_GET_DEVICE_ATTR, struct kvm_device_attr),
	S(KVM_HAS_DEVICE_ATTR, struct kvm_device_attr),

	{VM, 0, KVM_CHECK_EXTENSION},
	{VM, 0, KVM_CREATE_IRQCHIP},
	{VM, 0, KVM_CREATE_PIT},
	{VM, 0, KVM_SET_TSS_ADDR},
	{VM, 0, KVM_SET_NR_MMU_PAGES},
	{VM, 0, KVM_GET_NR_MMU_PAGES},
	{VM, 0, KVM_SET_BOOT_CPU_ID},
	{VM, 0, KVM_GET_TSC_KHZ},
	{VM, 0, KVM_SET_TSC_KHZ},
	{VM, 0, KVM_CREATE_VCPU},
	{VM, 0, KVM_GET_STATS_FD},
	M(KVM_CREATE_PIT2, struct kvm_pit_config),
	M(KVM_IRQ_LINE, struct kvm_irq_level),
	M(KVM_IRQ_LINE_STATUS, struct kvm_irq_level),
	M(KVM_SIGNAL_MSI, struct kvm_msi),
	M(KVM_REINJECT_CONTROL, struct kvm_reinject_control),
	M(KVM_SET_IDENTITY_MAP_ADDR, u64),
	M(KVM_ENABLE_CAP, struct kvm_enable_cap),
	M(KVM_GET_DIRTY_LOG, struct kvm_dirty_log),
	M(KVM_CLEAR_DIRTY_LOG, struct kvm_clear_dirty_log),
	M(KVM_REGISTER_COALESCED_MMIO, struct kvm_coalesced_mmio_zone),
	M(KVM_UNREGISTER_COALESCED_MMIO, struct kvm_coalesced_mmio_zone),
	M(KVM_X86_SET_MSR_FILTER, struct kvm_msr_filter),
	{VM, 8 + 24 * 20, KVM_SET_GSI_ROUTING},
	PAIR(VM, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, struct kvm_irqchip),
	PAIR(VM, KVM_GET_PIT, KVM_SET_PIT, struct kvm_pit_state),
	PAIR(VM, KVM_GET_PIT2, KVM_SET_PIT2, struct kvm_pit_state2),
	PAIR(VM, KVM_GET_CLOCK, KVM_SET_CLOCK, struct kvm_clock_data),

	PAIR(VCPU, KVM_GET_REGS, KVM_SET_REGS, struct kvm_regs),
	PAIR(VCPU, KVM_GET_SREGS, KVM_SET_SREGS, struct kvm_sregs),
	PAIR(VCPU, KVM_GET_SREGS2, KVM_SET_SREGS2, struct kvm_sregs2),
	PAIR(VCPU, KVM_GET_FPU, KVM_SET_FPU, struct kvm_fpu),
	PAIR(VCPU, KVM_GET_XSAVE, KVM_SET_XSAVE, struct kvm_xsave),
	C(KVM_GET_XSAVE2, struct kvm_xsave),
	PAIR(VCPU, KVM_GET_XCRS, KVM_SET_XCRS, struct kvm_xcrs),
	PAIR(VCPU, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, struct kvm_debugregs),
	PAIR(VCPU, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, struct kvm_vcpu_events),
	PAIR(VCPU, KVM_GET_MP_STATE, KVM_SET_MP_STATE, struct kvm_mp_state),
	PAIR(VCPU, KVM_GET_LAPIC, KVM_SET_LAPIC, struct kvm_lapic_state),
	{VCPU, CPUID_SIZE, KVM_GET_CPUID2},
	{VCPU, CPUID_SIZE, KVM_SET_CPUID2, KVM_GET_SUPPORTED_CPUID},
	{VCPU, 512, KVM_SET_CPUID},
	{VCPU, 512, KVM_GET_MSRS},
	{VCPU, 512, KVM_SET_MSRS},
	C(KVM_INTERRUPT, struct kvm_interrupt),
	{VCPU, 0, KVM_NMI},
	{VCPU, 0, KVM_KVMCLOCK_CTRL},
	C(KVM_TRANSLATE, struct kvm_translation),
	C(KVM_SET_GUEST_DEBUG, struct kvm_guest_debug),
	C(KVM_X86_SETUP_MCE, u64),
	C(KVM_TPR_ACCESS_REPORTING, struct kvm_tpr_access_ctl),
	C(KVM_SET_VAPIC_ADDR, struct kvm_vapic_addr),
	{VCPU, 0, KVM_GET_TSC_KHZ},
	{VCPU, 0, KVM_SET_TSC_KHZ},
	{VCPU, 12, KVM_SET_SIGNAL_MASK},
	C(KVM_ENABLE_CAP, struct kvm_enable_cap),
	C(KVM_GET_DEVICE_ATTR, struct kvm_device_attr),
	C(KVM_SET_DEVICE_ATTR, struct kvm_device_attr),
	C(KVM_HAS_DEVICE_ATTR, struct kvm_device_attr),
	{VCPU, 0, KVM_SMI},
	{VCPU, 0, KVM_GET_STATS_FD},
};

static const u32 msrs[] = {
	0x10,       0x1b,       0x3b,       0x8b,       0xfe,       0x174,      0x175,      0x176,      0x179,
	0x17a,      0x1a0,      0x1d9,      0x200,      0x250,      0x277,      0x2ff,      0x400,      0x403,
	0x6e0,      0x80b,      0x808,      0x80f,      0x830,      0x832,      0x838,      0x83f,      0xda0,
	0xc0000080, 0xc0000081, 0xc0000082, 0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102, 0xc0000103, 0xc0010015,
	0x11,       0x12,       0x4b564d00, 0x4b564d01, 0x4b564d03, 0x4b564d04, 0x4b564d05,
};

static void plausible_msrs(struct input *in, u8 *arg)
{
	struct kvm_msrs head = {.nmsrs = (u32)number(in, 1) % 24};

	memcpy(arg, &head, sizeof(head));
	for (u32 n = 0; n < head.nmsrs; n++) {
		struct kvm_msr_entry e = {.index = msrs[number(in, 1) % ARRAY_SIZE(msrs)]};

		e.data = number(in, 4) << (number(in, 1) & 32);
		memcpy(arg + sizeof(head) + n * sizeof(e), &e, sizeof(e));
	}
}

static void plausible_routes(struct input *in, u8 *arg)
{
	struct kvm_irq_routing head = {.nr = (u32)number(in, 1) % 10};

	memcpy(arg, &head, sizeof(head));
	for (u32 n = 0; n < head.nr; n++) {
		struct kvm_irq_routing_entry e = {.gsi = (u32)number(in, 1) % 26, .type = 1 + (u32)number(in, 1) % 3};

		if (e.type == KVM_IRQ_ROUTING_MSI) {
			e.u.msi.address_lo = 0xfee00000 | (u32)number(in, 2);
			e.u.msi.data = (u32)number(in, 2);
		} else {
			e.u.irqchip.irqchip = (u32)number(in, 1) % 4;
			e.u.irqchip.pin = (u32)number(in, 1) % 26;
		}
		memcpy(arg + sizeof(head) + n * sizeof(e), &e, sizeof(e));
	}
}

static void plausible_filter(struct input *in, struct kvm_msr_filter *f)
{
	f->flags = (u32)number(in, 1) & 1;
	for (u64 n = number(in, 1) % 4; n; n--) {
		struct kvm_msr_filter_range *r = &f->ranges[n];

		r->flags = 1 + (u32)number(in, 1) % 3;
		r->nmsrs = (u32)number(in, 1);
		r->base = msrs[number(in, 1) % ARRAY_SIZE(msrs)];
	}
}

/* Values that no arbitrary byte hits. */
static void plausible(struct input *in, const struct row *row, u8 *arg)
{
	switch (row->request) {
	case KVM_SET_MSRS:
	case KVM_GET_MSRS:
		plausible_msrs(in, arg);
		break;
	case KVM_SET_GSI_ROUTING:
		plausible_routes(in, arg);
		break;
	case KVM_X86_SET_MSR_FILTER:
		plausible_filter(in, (void *)arg);
		break;
	case KVM_ENABLE_CAP: {
		static const u32 caps[] = {KVM_CAP_SPLIT_IRQCHIP,
					   KVM_CAP_X2APIC_API,
					   KVM_CAP_DISABLE_QUIRKS2,
					   KVM_CAP_EXCEPTION_PAYLOAD,
					   KVM_CAP_X86_TRIPLE_FAULT_EVENT,
					   KVM_CAP_X86_USER_SPACE_MSR,
					   KVM_CAP_MAX_VCPU_ID,
					   KVM_CAP_EXIT_ON_EMULATION_FAILURE,
					   KVM_CAP_X86_APIC_BUS_CYCLES_NS,
					   KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
					   KVM_CAP_ENFORCE_PV_FEATURE_CPUID};
		struct kvm_enable_cap c = {.cap = caps[number(in, 1) % ARRAY_SIZE(caps)], .args = {number(in, 1)}};
		memcpy(arg, &c, sizeof(c));
		break;
	}
	case KVM_SIGNAL_MSI: {
		struct kvm_msi m = {.address_lo = 0xfee00000 | (u32)number(in, 2), .data = (u32)number(in, 2)};
		memcpy(arg, &m, sizeof(m));
		break;
	}
	case KVM_REGISTER_COALESCED_MMIO: {
		struct kvm_coalesced_mmio_zone z = {
			.addr = number(in, 1) << 12, .size = (u32)number(in, 2), .pio = number(in, 1) & 1};
		memcpy(arg, &z, sizeof(z));
		break;
	}
	}
}

/* What the callee reads and writes through is ours, and the signal that ends a run is let through. */
static void harmless(struct input *in, const struct row *row, u8 *arg)
{
	void *p = pointer(in, 64);

	switch (row->request) {
	case KVM_GET_DIRTY_LOG:
		((struct kvm_dirty_log *)(void *)arg)->dirty_bitmap = p;
		break;
	case KVM_CLEAR_DIRTY_LOG:
		((struct kvm_clear_dirty_log *)(void *)arg)->dirty_bitmap = p;
		break;
	case KVM_GET_DEVICE_ATTR:
	case KVM_SET_DEVICE_ATTR:
	case KVM_HAS_DEVICE_ATTR:
		((struct kvm_device_attr *)(void *)arg)->addr = (u64)p;
		break;
	case KVM_X86_SET_MSR_FILTER:
		for (unsigned n = 0; n < KVM_MSR_FILTER_MAX_RANGES; n++)
			((struct kvm_msr_filter *)(void *)arg)->ranges[n].bitmap = p;
		break;
	case KVM_SET_SIGNAL_MASK: {
		u32 len = 8;
		u64 set;
		memcpy(&set, arg + 4, 8);
		set &= ~(BIT64(SIGRTMIN - 1) | BIT64(SIGALRM - 1));
		memcpy(arg, &len, number(in, 1) & 7 ? 4 : 0);
		memcpy(arg + 4, &set, 8);
		break;
	}
	}
}

static void by_table(struct input *in)
{
	const struct row *row = &rows[number(in, 1) % ARRAY_SIZE(rows)];
	u8 how = (u8)number(in, 1);
	struct handle *h = handle_of(in, (how & 0x1f) == 1 ? SYS + how % 3 : row->kind);
	struct handle *sys = handle_of(in, SYS);
	u64 start[CPUID_SIZE / 8 + 1] = {0};
	u8 *arg = (u8 *)start;

	if (!h)
		return;
	if (!row->size) {
		long r = call(h, row->request, (void *)(how & 0x80 ? number(in, 8) : number(in, 1)));

		if (row->request == KVM_CREATE_VCPU && h->kind == VM)
			keep(VCPU, r);
		if (row->request == KVM_GET_STATS_FD && r >= 0)
			require(anykvm_close((int)r) == 0);
		return;
	}
	if (row->first == KVM_GET_SUPPORTED_CPUID && sys) {
		*(u32 *)start = 120;
		call(sys, row->first, start);
	} else if (row->first && (how & 0x60)) {
		if (row->first == KVM_GET_IRQCHIP)
			*(u32 *)start = (u32)number(in, 1) % 3;
		call(h, row->first, start);
	} else if (!row->first) {
		plausible(in, row, arg);
	}
	for (u64 n = number(in, 1) % 6; n; n--) {
		u32 at = (u32)number(in, 2) % row->size, len = MIN(1u << number(in, 1) % 4, row->size - at);

		take(in, arg + at, len);
	}
	harmless(in, row, arg);
	u8 *p = pointer(in, row->size);
	if (p == args + ARG_SIZE - row->size)
		memcpy(p, arg, row->size);
	call(h, row->request, p);
}

/* --- Memory, eventfds ------------------------------------------------------------------------------------------- */

static void set_memory(struct input *in)
{
	static const u64 sizes[] = {0, PAGE_SIZE, 0x10000, RAM_SIZE, 0x200000, HOLE_SIZE, 0x1001, ~0xfffull};
	struct handle *vm = handle_of(in, VM);
	struct kvm_userspace_memory_region2 r = {.slot = (u32)number(in, 1) % 6, .flags = (u32)number(in, 1) & 3};
	u8 how = (u8)number(in, 1);

	r.memory_size = sizes[how & 7];
	r.guest_phys_addr = how & 8 ? number(in, 2) << 12 : number(in, 1) << 16;
	r.userspace_addr = (u64)hole;
	if (r.memory_size <= RAM_SIZE && (how & 0x30))
		r.userspace_addr = (u64)ram + (number(in, 1) << 12) % (RAM_SIZE - r.memory_size + PAGE_SIZE);
	if (how == 0xff) {
		r.slot = (u32)number(in, 4);
		r.flags = (u32)number(in, 4);
		r.guest_phys_addr = number(in, 8);
	}
	if (vm)
		call(vm, how & 0x80 ? KVM_SET_USER_MEMORY_REGION2 : KVM_SET_USER_MEMORY_REGION, &r);
}

/* The client's mapping changes under the VM. */
static void change_memory(struct input *in)
{
	u32 at = (u32)(number(in, 1) << 12) % RAM_SIZE;
	u8 how = (u8)number(in, 1);

	if (how & 1)
		mprotect(ram + at, MIN(PAGE_SIZE * (1 + (how >> 4)), RAM_SIZE - at), how & 2 ? PROT_READ : PROT_NONE);
	else
		madvise(ram + at, PAGE_SIZE, MADV_DONTNEED);
}

static void use_eventfd(struct input *in)
{
	struct handle *vm = handle_of(in, VM);
	u8 how = (u8)number(in, 1), which = (u8)number(in, 1);
	int fd = which % 8 < ARRAY_SIZE(eventfds) ? eventfds[which % 8] : which % 8 == 7 ? -1 : handles[which % 4].fd;

	if (how & 1) {
		struct kvm_irqfd a = {.fd = (u32)fd, .gsi = (u32)number(in, 1) % 30, .flags = how >> 1 & 3,
				      .resamplefd = (u32)eventfds[which >> 4 & 3]};
		if (vm)
			call(vm, KVM_IRQFD, &a);
	} else if (how & 2) {
		struct kvm_ioeventfd a = {.fd = fd,
					  .flags = how >> 3 & 7,
					  .len = BIT(how >> 6 & 3) & ~1u,
					  .addr = number(in, 1) * (how & 16 ? 0x10 : 0x1000),
					  .datamatch = number(in, 1)};
		if (vm)
			call(vm, KVM_IOEVENTFD, &a);
	} else if (fd >= 0 && which % 8 < 4) {
		u64 v = number(in, 1);
		struct itimerspec limit = {.it_value = {.tv_nsec = RUN_NS}, .it_interval = {.tv_nsec = RUN_NS}},
				  off = {0};

		timer_settime(timer, 0, &limit, NULL);
		ssize_t n = how & 4 ? read(fd, &v, 8) : write(fd, &v, 8);
		(void)n;
		timer_settime(timer, 0, &off, NULL);
	}
}

/* --- Runs --------------------------------------------------------------------------------------------------------- */

/* Puts a vCPU into real mode or flat protected mode, at code that does this and that; DS over RAM or a device. */
static void start_guest(struct input *in)
{
	static const u8 text[] = {
		0xe6, 0x80, 0xe4, 0x40, 0xee, 0xed, 0x88, 0x07, 0x8a, 0x07, 0x66, 0x89, 0x07, 0x66,
		0x8b, 0x07, 0xa4, 0xf3, 0xa4, 0xf3, 0x6e, 0xf3, 0x6c, 0xfb, 0xf4, 0xfa, 0x0f, 0x30,
		0x0f, 0x32, 0x0f, 0xa2, 0x0f, 0x01, 0xc1, 0xcd, 0x20, 0xcf, 0x0f, 0x31, 0xf3, 0x90,
		0x0f, 0x20, 0xc0, 0x0f, 0x22, 0xc0, 0x0f, 0x0b, 0xcc, 0xeb, 0xfe,
	};
	struct handle *h = handle_of(in, VCPU);
	u8 how = (u8)number(in, 1);
	struct kvm_sregs s;
	struct kvm_regs r = {.rip = 0x1000, .rflags = 2 | (how & 2) << 8, .rsp = 0x8000, .rdx = number(in, 2)};
	struct kvm_mp_state mp = {KVM_MP_STATE_RUNNABLE};

	if (!h || call(h, KVM_GET_SREGS, &s))
		return;
	s.cs.base = s.cs.selector = 0;
	s.cs.limit = 0xffffffff;
	s.ds.base = how & 4 ? 0xfee00000 : how & 8 ? 0xfec00000 : how & 16 ? 0x200000 : 0x4000;
	s.ds.limit = s.es.limit = 0xffffffff;
	s.cr0 = how & 1 ? 0x11 : 0x10;
	s.cs.db = s.ss.db = how & 1;
	r.rbx = number(in, 1) << 4;
	r.rax = number(in, 4);
	r.rcx = how & 32 ? msrs[number(in, 1) % ARRAY_SIZE(msrs)] : number(in, 4);
	r.rsi = r.rbx;
	r.rdi = number(in, 2);
	if (!(how & 64))
		r.rbp = r.rsp = 0xfff0;
	call(h, KVM_SET_SREGS, &s);
	call(h, KVM_SET_REGS, &r);
	call(h, KVM_SET_MP_STATE, &mp);
	if (mprotect(ram, RAM_SIZE, PROT_READ | PROT_WRITE))
		return;
	for (unsigned n = 0; n < 24; n++) {
		u8 b = (u8)number(in, 1);

		ram[0x1000 + n] = b < 0x80 ? text[b % sizeof(text)] : b;
	}
	memset(ram, (u8)number(in, 1), 0x400); /* interrupt vectors */
}

static void scribble(struct input *in, struct handle *h)
{
	if (!h->run)
		return;
	for (u64 n = 1 + number(in, 1) % 8; n; n--) {
		u32 at = (u32)number(in, 2) % RUN_SIZE;

		if (number(in, 1) & 1)
			at %= 256;
		((u8 *)h->run)[at] = (u8)number(in, 1);
	}
}

static void run(struct input *in)
{
	struct handle *h = handle_of(in, VCPU);
	struct itimerspec limit = {.it_value = {.tv_nsec = RUN_NS}, .it_interval = {.tv_nsec = RUN_NS}}, off = {0};
	u8 how = (u8)number(in, 1);

	if (!h)
		return;
	for (unsigned n = 0; n <= (how & 3u); n++) {
		if (how & 4)
			scribble(in, h);
		if (h->run && !(how & 0x38))
			h->run->kvm_valid_regs = h->run->kvm_dirty_regs = 0;
		if (h->run)
			h->run->immediate_exit = how >> 6 == 3;
		timer_settime(timer, 0, &limit, NULL);
		long r = call(h, KVM_RUN, how == 0x3f ? args : NULL);
		timer_settime(timer, 0, &off, NULL);
		require(r == 0 || r == -EINTR || r == -EAGAIN || r == -EINVAL || r == -EFAULT);
	}
}

/* A bit for each of the first descriptors. */
static u64 open_descriptors(void)
{
	u64 set = 0;

	for (int fd = 0; fd < 64; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			set |= BIT64(fd);
	return set;
}

static void (*const operations[])(struct input *in) = {
	create_vm,  create_vcpu,   duplicate_or_close, by_table,    by_table,    by_table, by_table, by_table,
	set_memory, change_memory, use_eventfd,        use_eventfd, start_guest, run,      run,      run,
};

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = {data, size};
	u64 full = ~0ull - 1;

	setup_once();
	u64 open_before = open_descriptors();
	mprotect(ram, RAM_SIZE, PROT_READ | PROT_WRITE);
	eventfds[0] = eventfd(0, EFD_NONBLOCK);
	eventfds[1] = eventfd(0, 0);
	eventfds[2] = eventfd(0, EFD_SEMAPHORE);
	eventfds[3] = eventfd(0, 0);
	require(write(eventfds[3], &full, 8) == 8);
	eventfds[4] = memfd_create("none", 0);
	require(anykvm_set_engine(number(&in, 1) & 1 ? "jit" : "interp") == 0);
	keep(SYS, anykvm_open());
	create_vm(&in);
	create_vcpu(&in);
	for (unsigned n = 0; in.size && n < OPS_MAX; n++)
		operations[number(&in, 1) % ARRAY_SIZE(operations)](&in);
	for (unsigned n = 0; n < ARRAY_SIZE(handles); n++)
		if (handles[n].kind != FREE)
			drop(&handles[n]);
	for (unsigned n = 0; n < ARRAY_SIZE(eventfds); n++)
		close(eventfds[n]);
	require(open_descriptors() == open_before);
	return 0;
}
