#include "monitor/machine.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "device/devices.h"
#include "host/terminal.h"
#include "monitor/cpuid.h"
#include "monitor/platform.h"
#include "monitor/ram.h"
#include "monitor/stats.h"
#include "monitor/vcpu.h"

#define PORTS(at, n) {.space = REGION_PIO, .base = (at), .size = (n), .min = 1, .max = 1}
#define WIDE_PORTS(at, n, narrowest, widest) \
	{.space = REGION_PIO, .base = (at), .size = (n), .min = (narrowest), .max = (widest)}

/* The machine, besides what KVM has inside: CPUs, local APICs, IOAPIC, 8259s, 8254 and port 61h. */
static const struct part parts[] = {
	{.ops = &uart16550_ops, .regions = {PORTS(PLATFORM_COM1_PORT, 8)}, .irq = PLATFORM_COM1_IRQ, .console = true},
	{.ops = &mc146818_ops, .regions = {PORTS(PLATFORM_RTC_PORT, 2)}, .irq = PLATFORM_RTC_IRQ},
	{.ops = &i8042_ops,
	 .regions = {PORTS(PLATFORM_I8042_DATA_PORT, 1), PORTS(PLATFORM_I8042_COMMAND_PORT, 1)},
	 .irq = PLATFORM_KBD_IRQ},
	{.ops = &acpi_pm_ops,
	 .regions = {WIDE_PORTS(PLATFORM_PM1A_EVT_PORT, PLATFORM_PM1A_EVT_LEN, 1, 2),
		     WIDE_PORTS(PLATFORM_PM1A_CNT_PORT, PLATFORM_PM1A_CNT_LEN, 1, 2),
		     WIDE_PORTS(PLATFORM_PM_TMR_PORT, PLATFORM_PM_TMR_LEN, 4, 4)},
	 .irq = PLATFORM_SCI_IRQ},
	{.ops = &post_ops, .regions = {PORTS(PLATFORM_POST_PORT, 1)}},
	{.ops = &port92_ops, .regions = {PORTS(PLATFORM_PORT92, 1)}},
	{.ops = &reset_ctl_ops, .regions = {PORTS(PLATFORM_RESET_PORT, 1)}},
	{.ops = &debug_exit_ops, .regions = {PORTS(PLATFORM_DEBUG_EXIT_PORT, 1)}},
	{.ops = &debugcon_ops, .regions = {PORTS(PLATFORM_DEBUGCON_PORT, 1)}},
};
_Static_assert(ARRAY_SIZE(parts) <= MACHINE_MAX_DEVICES, "devices[] is too small");

__attribute__((format(printf, 2, 3))) static int fail(struct machine *m, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(m->result->message, sizeof(m->result->message), fmt, ap);
	va_end(ap);
	return -1;
}

void machine_wake(struct machine *m)
{
	u64 one = 1;

	if (write(m->wake_fd, &one, sizeof(one)) < 0)
		return; /* EAGAIN: the main loop has 2^64 - 1 wakes before it */
}

void machine_stop(struct machine *m, enum stop_reason why, int status, const char *message)
{
	bool by_user = why == STOP_QUIT || why == STOP_SIGNAL;

	pthread_mutex_lock(&m->stop_lock);
	int before = atomic_load(&m->stop);

	/* The first reason counts; but after a reset the run may go on, and then the user's wish would be lost. */
	if (before == STOP_NONE || (before == STOP_RESET && by_user)) {
		m->result->why = why;
		m->result->status = status;
		snprintf(m->result->message, sizeof(m->result->message), "%s", message ? message : "");
		atomic_store(&m->stop, why);
	}
	/* The guest's own end waits until the console has taken all of its output; the user's does not. */
	if (by_user || why == STOP_ERROR)
		atomic_store(&m->cancel, true);
	pthread_mutex_unlock(&m->stop_lock);
	machine_wake(m);
}

/* Interrupt lines 0 to 15 reach both chips; the timer's is wired to pin 2 of the IOAPIC, as on every PC. */
static long set_routing(struct machine *m)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry[16 + MACHINE_NR_GSIS];
	} table = {.head.nr = 0};

	for (u32 gsi = 0; gsi < MACHINE_NR_GSIS; gsi++) {
		if (gsi == 2)
			continue; /* the cascade; its pin is the timer's */
		if (gsi < 16)
			table.entry[table.head.nr++] = (struct kvm_irq_routing_entry){
				.gsi = gsi,
				.type = KVM_IRQ_ROUTING_IRQCHIP,
				.u.irqchip = {gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, gsi % 8},
			};
		table.entry[table.head.nr++] = (struct kvm_irq_routing_entry){
			.gsi = gsi,
			.type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = {KVM_IRQCHIP_IOAPIC, gsi ? gsi : PLATFORM_PIT_GSI},
		};
	}
	return m->kvm->ioctl(m->vm_fd, KVM_SET_GSI_ROUTING, &table);
}

static int create_vm(struct machine *m)
{
	const struct kvm_if *kvm = m->kvm;
	u64 identity_map = PLATFORM_IDENTITY_MAP_ADDR;
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	long rc;

	m->kvm_fd = kvm->open();
	if (m->kvm_fd < 0)
		return fail(m, "cannot open KVM (%s): %s", kvm->name, strerror(-m->kvm_fd));
	if (kvm->ioctl(m->kvm_fd, KVM_GET_API_VERSION, NULL) != KVM_API_VERSION)
		return fail(m, "KVM (%s) has an unknown API version", kvm->name);

	long max = kvm->ioctl(m->kvm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_MAX_VCPUS);
	if (max > 0 && m->nr_vcpus > max)
		return fail(m, "at most %ld CPUs are possible here, not %u", max, m->nr_vcpus);

	rc = kvm->ioctl(m->kvm_fd, KVM_CREATE_VM, NULL);
	if (rc < 0)
		return fail(m, "cannot create a virtual machine: %s", strerror((int)-rc));
	m->vm_fd = (int)rc;
	if ((rc = kvm->ioctl(m->vm_fd, KVM_SET_TSS_ADDR, (void *)(uintptr_t)PLATFORM_TSS_ADDR)) < 0 ||
	    (rc = kvm->ioctl(m->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map)) < 0)
		return fail(m, "cannot place KVM's own pages: %s", strerror((int)-rc));
	if ((rc = kvm->ioctl(m->vm_fd, KVM_CREATE_IRQCHIP, NULL)) < 0 || (rc = set_routing(m)) < 0)
		return fail(m, "cannot create the interrupt controllers: %s", strerror((int)-rc));
	if ((rc = kvm->ioctl(m->vm_fd, KVM_CREATE_PIT2, &pit)) < 0)
		return fail(m, "cannot create the timer: %s", strerror((int)-rc));
	return 0;
}

/* Physical address bits the guest's processor has, from leaf 0x80000008. */
static unsigned physical_bits(struct machine *m)
{
	struct kvm_cpuid2 *cpuid = vcpu_cpuid_offered(m->kvm, m->kvm_fd);
	unsigned bits = 36;

	for (u32 i = 0; cpuid && i < cpuid->nent; i++)
		if (cpuid->entries[i].function == 0x80000008)
			bits = cpuid->entries[i].eax & 0xff;
	free(cpuid);
	return MIN(bits, 52u);
}

static int create_ram(struct machine *m)
{
	u64 hole = PLATFORM_RAM_HIGH_BASE - PLATFORM_RAM_LOW_MAX;
	u64 most = (1ull << physical_bits(m)) - hole;

	if (m->config->memory > most)
		return fail(m, "the guest's processor can address %llu GiB of memory at most",
			    (unsigned long long)most >> 30);

	int rc = ram_map(&m->ram, m->config->memory);

	if (rc < 0)
		return fail(m, "cannot have %llu MiB of guest memory: %s",
			    (unsigned long long)m->config->memory >> 20, strerror(-rc));
	for (unsigned i = 0; i < m->ram.nr; i++) {
		const struct guest_ram_range *r = &m->ram.range[i];
		struct kvm_userspace_memory_region region = {
			.slot = i,
			.guest_phys_addr = r->gpa,
			.memory_size = r->size,
			.userspace_addr = (u64)(uintptr_t)r->host,
		};
		long err = m->kvm->ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);

		if (err < 0)
			return fail(m, "cannot give the guest its memory: %s", strerror((int)-err));
	}
	return 0;
}

static int create_devices(struct machine *m)
{
	m->timers = timer_thread_start(MACHINE_MAX_DEVICES + 1);
	if (!m->timers)
		return fail(m, "cannot start the timer thread");
	machine_board_init(m);
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		struct device *d = &m->devices[i];
		int rc = device_init(d, &parts[i], &m->board, (unsigned)i);

		if (rc < 0)
			return fail(m, "cannot create device %s: %s", parts[i].ops->name, strerror(-rc));
		m->nr_devices++;
		if (d->console)
			m->console_device = d;
		for (unsigned r = 0; r < d->nr_regions; r++)
			if ((rc = bus_add(d->regions[r].space == REGION_PIO ? &m->pio : &m->mmio, d, r)) < 0)
				return fail(m, "cannot place device %s: %s", d->ops->name, strerror(-rc));
	}
	return 0;
}

/* Percentages on one line of a terminal; nothing elsewhere. */
static void show_progress(void *opaque, const char *what, unsigned percent)
{
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\ranykvm: %s %u%%\x1b[K%s", what, percent, percent == 100 ? "\r\x1b[K" : "");
}

static int boot(struct machine *m, struct boot_entry *entry)
{
	const struct machine_config *c = m->config;
	char error[BOOT_ERROR_MAX];
	struct boot_config config = {
		.kernel = c->kernel,
		.initrd = c->initrd,
		.cmdline = c->cmdline,
		.nr_cpus = c->nr_cpus,
		.progress = show_progress,
	};

	if (boot_load(&config, &m->ram, entry, error) < 0)
		return fail(m, "%s", error);
	return 0;
}

static int create_vcpus(struct machine *m, const struct boot_entry *entry)
{
	char error[BOOT_ERROR_MAX];

	m->vcpus = calloc(m->nr_vcpus, sizeof(m->vcpus[0]));
	if (!m->vcpus)
		return fail(m, "out of memory");
	for (unsigned i = 0; i < m->nr_vcpus; i++)
		m->vcpus[i].fd = -1;
	for (unsigned i = 0; i < m->nr_vcpus; i++)
		if (vcpu_init(&m->vcpus[i], m, i, error) < 0 || vcpu_setup(&m->vcpus[i], entry, error) < 0)
			return fail(m, "%s", error);
	return 0;
}

static int create(struct machine *m)
{
	struct boot_entry entry;

	m->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->wake_fd < 0)
		return fail(m, "cannot create an eventfd: %s", strerror(errno));
	if (create_vm(m) < 0 || create_ram(m) < 0 || create_devices(m) < 0 || boot(m, &entry) < 0)
		return -1;
	return create_vcpus(m, &entry);
}

static void destroy(struct machine *m)
{
	timer_thread_stop(m->timers); /* before the devices it calls */
	while (m->nr_devices)
		device_fini(&m->devices[--m->nr_devices]);
	for (unsigned i = 0; m->vcpus && i < m->nr_vcpus; i++)
		vcpu_fini(&m->vcpus[i]);
	free(m->vcpus);
	if (m->vm_fd >= 0)
		m->kvm->close(m->vm_fd);
	if (m->kvm_fd >= 0)
		m->kvm->close(m->kvm_fd);
	ram_unmap(&m->ram);
	if (m->wake_fd >= 0)
		close(m->wake_fd);
	console_fini(&m->console);
	pthread_mutex_destroy(&m->irq_lock);
	pthread_mutex_destroy(&m->stop_lock);
}

/* Starts the vCPUs and runs the main loop. False when a vCPU cannot be stopped. */
static bool run(struct machine *m, const sigset_t *signals)
{
	for (unsigned i = 0; i < m->nr_vcpus; i++) {
		int rc = vcpu_start(&m->vcpus[i]);

		if (rc < 0) {
			char message[96];

			snprintf(message, sizeof(message), "cannot start the thread of CPU %u: %s", i, strerror(-rc));
			machine_stop(m, STOP_ERROR, 0, message);
			break;
		}
	}
	if (!machine_loop(m, signals))
		return false;
	for (unsigned i = 0; i < m->nr_vcpus; i++)
		vcpu_join(&m->vcpus[i]);
	return true;
}

void machine_prepare(void)
{
	terminal_init();
	vcpu_install_kick();
}

int machine_run(const struct machine_config *config, struct machine_result *result)
{
	static const int taken[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT};
	struct machine *m = calloc(1, sizeof(*m));
	sigset_t signals, old;

	*result = (struct machine_result){.why = STOP_NONE};
	if (!m) {
		snprintf(result->message, sizeof(result->message), "out of memory");
		return -1;
	}
	m->config = config;
	m->kvm = config->kvm;
	m->nr_vcpus = config->nr_cpus;
	m->result = result;
	m->kvm_fd = m->vm_fd = m->wake_fd = -1;
	pthread_mutex_init(&m->irq_lock, NULL);
	pthread_mutex_init(&m->stop_lock, NULL);
	console_init(&m->console);

	sigemptyset(&signals);
	for (size_t i = 0; i < ARRAY_SIZE(taken); i++)
		sigaddset(&signals, taken[i]);

	/* Before any thread exists: all inherit the mask, so that these signals reach the main loop alone. */
	pthread_sigmask(SIG_BLOCK, &signals, &old);
	int rc = create(m);
	if (rc == 0)
		result->stuck = !run(m, &signals);
	if (rc == 0 && config->stats && !result->stuck)
		stats_print(m, stderr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!result->stuck) {
		destroy(m);
		free(m);
	}
	return rc;
}
