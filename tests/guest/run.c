/*
 * Runs one guest image on struct kvm_if and passes its TAP lines on.
 *
 * usage: run [-c CPUS] [-e ENGINE] [-t SECONDS] IMAGE
 * ANYKVM_TEST_KVM=sys takes the real /dev/kvm instead of libanykvm.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "anykvm.h"
#include "harness.h"
#include "monitor/kvm_if_sys.h"

#define RAM_SIZE (32u << 20)
#define LOAD_ADDRESS 0x8000

struct machine {
	const struct kvm_if *kvm;
	int vm;
	int nr_vcpus;
	pthread_mutex_t lock; /* console, mmio, fifo, failed */
	char line[256];
	size_t line_len;
	unsigned char mmio[MMIO_SIZE];
	unsigned mmio_accesses;
	unsigned char fifo[FIFO_SIZE];
	unsigned fifo_put, fifo_taken;
	bool failed;
	_Atomic int status; /* -1 while running */
};

struct vcpu {
	struct machine *m;
	int fd, index;
	struct kvm_run *run;
	pthread_t thread;
};

static void machine_fail(struct machine *m, const char *what, long detail)
{
	pthread_mutex_lock(&m->lock);
	printf("not ok - %s (%ld)\n", what, detail);
	m->failed = true;
	pthread_mutex_unlock(&m->lock);
	int running = -1;
	atomic_compare_exchange_strong(&m->status, &running, 1);
}

static void machine_console(struct machine *m, char ch)
{
	pthread_mutex_lock(&m->lock);
	if (ch == '\n' || m->line_len == sizeof(m->line) - 1) {
		m->line[m->line_len] = 0;
		puts(m->line);
		if (!strncmp(m->line, "not ok", 6))
			m->failed = true;
		m->line_len = 0;
	} else {
		m->line[m->line_len++] = ch;
	}
	pthread_mutex_unlock(&m->lock);
}

static void machine_in(struct machine *m, unsigned port, unsigned char *data, unsigned size)
{
	pthread_mutex_lock(&m->lock);
	switch (port) {
	case PORT_FIFO:
		for (unsigned b = 0; b < size; b++)
			data[b] = m->fifo_taken == m->fifo_put ? 0xff : m->fifo[m->fifo_taken++ % FIFO_SIZE];
		break;
	case PORT_MMIO_COUNT:
		memcpy(data, &m->mmio_accesses, size);
		m->mmio_accesses = 0;
		break;
	default:
		/* A recognisable pattern: the port's low byte, counted up. */
		for (unsigned b = 0; b < size; b++)
			data[b] = (unsigned char)(port + b);
	}
	pthread_mutex_unlock(&m->lock);
}

static void machine_out(struct machine *m, unsigned port, const unsigned char *data, unsigned size)
{
	struct kvm_irq_level irq = {.irq = data[0], .level = port == PORT_IRQ_HIGH};

	switch (port) {
	case PORT_CONSOLE:
		machine_console(m, (char)data[0]);
		break;
	case PORT_EXIT:
		atomic_store(&m->status, data[0]);
		break;
	case PORT_IRQ_HIGH:
	case PORT_IRQ_LOW:
		m->kvm->ioctl(m->vm, KVM_IRQ_LINE, &irq);
		break;
	case PORT_FIFO:
		pthread_mutex_lock(&m->lock);
		for (unsigned b = 0; b < size; b++)
			m->fifo[m->fifo_put++ % FIFO_SIZE] = data[b];
		pthread_mutex_unlock(&m->lock);
		break;
	}
}

static void vcpu_io(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	unsigned char *data = (unsigned char *)run + run->io.data_offset;

	for (unsigned n = 0; n < run->io.count; n++, data += run->io.size)
		if (run->io.direction == KVM_EXIT_IO_IN)
			machine_in(v->m, run->io.port, data, run->io.size);
		else
			machine_out(v->m, run->io.port, data, run->io.size);
}

static void vcpu_mmio(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	struct machine *m = v->m;
	unsigned long off = run->mmio.phys_addr - MMIO_BASE;

	if (run->mmio.phys_addr < MMIO_BASE || off + run->mmio.len > MMIO_SIZE) {
		memset(run->mmio.data, 0xff, run->mmio.is_write ? 0 : sizeof(run->mmio.data));
		return;
	}
	pthread_mutex_lock(&m->lock);
	m->mmio_accesses++;
	if (run->mmio.is_write)
		memcpy(m->mmio + off, run->mmio.data, run->mmio.len);
	else
		memcpy(run->mmio.data, m->mmio + off, run->mmio.len);
	if (off == MMIO_COUNTER && !run->mmio.is_write)
		m->mmio[off]++;
	pthread_mutex_unlock(&m->lock);
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *v = arg;
	struct machine *m = v->m;

	while (atomic_load(&m->status) < 0) {
		long r = m->kvm->ioctl(v->fd, KVM_RUN, NULL);
		if (r == -EINTR || r == -EAGAIN)
			continue;
		if (r < 0) {
			machine_fail(m, "KVM_RUN", r);
			break;
		}
		switch (v->run->exit_reason) {
		case KVM_EXIT_IO:
			vcpu_io(v);
			break;
		case KVM_EXIT_MMIO:
			vcpu_mmio(v);
			break;
		case KVM_EXIT_INTR:
			break;
		default: {
			struct kvm_regs regs;
			if (!m->kvm->ioctl(v->fd, KVM_GET_REGS, &regs))
				printf("# cpu %d rip %#llx rsp %#llx\n", v->index, regs.rip, regs.rsp);
			machine_fail(m, "exit_reason", v->run->exit_reason);
		}
		}
	}
	return NULL;
}

static void kick_handler(int sig)
{
	anykvm_signal();
}

static int vcpu_create(struct machine *m, struct vcpu *v, int index, struct kvm_cpuid2 *cpuid)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = {.rip = LOAD_ADDRESS, .rflags = 2};

	*v = (struct vcpu){.m = m, .index = index};
	v->fd = (int)m->kvm->ioctl(m->vm, KVM_CREATE_VCPU, (void *)(long)index);
	if (v->fd < 0)
		return v->fd;
	long size = m->kvm->ioctl(m->kvm->open(), KVM_GET_VCPU_MMAP_SIZE, NULL);
	v->run = m->kvm->mmap(v->fd, (size_t)size);
	if (!v->run)
		return -errno;
	for (unsigned n = 0; n < cpuid->nent; n++)
		if (cpuid->entries[n].function == 1)
			cpuid->entries[n].ebx = (cpuid->entries[n].ebx & 0xffffff) | (unsigned)index << 24;
	long r = m->kvm->ioctl(v->fd, KVM_SET_CPUID2, cpuid);
	if (r < 0 || index)
		return (int)r;
	r = m->kvm->ioctl(v->fd, KVM_GET_SREGS, &sregs);
	sregs.cs.base = sregs.cs.selector = 0;
	if (r >= 0)
		r = m->kvm->ioctl(v->fd, KVM_SET_SREGS, &sregs);
	if (r >= 0)
		r = m->kvm->ioctl(v->fd, KVM_SET_REGS, &regs);
	return (int)r;
}

static int load_image(const char *path, unsigned char *ram)
{
	FILE *f = fopen(path, "rb");

	if (!f)
		return -errno;
	size_t n = fread(ram + LOAD_ADDRESS, 1, RAM_SIZE - LOAD_ADDRESS, f);
	fclose(f);
	return n ? 0 : -EINVAL;
}

/* As a PC is wired: GSI 0 to 15 at the two 8259s, all at the IOAPIC, the 8254's GSI 0 at its pin 2. */
static int set_routing(struct machine *m)
{
	static struct { struct kvm_irq_routing r; struct kvm_irq_routing_entry e[48]; } table;
	struct kvm_irq_routing_entry *e = table.e;

	for (unsigned gsi = 0; gsi < 16; gsi++)
		*e++ = (struct kvm_irq_routing_entry){.gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = {.irqchip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
				      .pin = gsi & 7}};
	for (unsigned gsi = 0; gsi < 24; gsi++)
		if (gsi != 2)
			*e++ = (struct kvm_irq_routing_entry){.gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP,
				.u.irqchip = {.irqchip = KVM_IRQCHIP_IOAPIC, .pin = gsi ? gsi : 2}};
	table.r.nr = (unsigned)(e - table.e);
	return (int)m->kvm->ioctl(m->vm, KVM_SET_GSI_ROUTING, &table);
}

static int machine_create(struct machine *m, const char *image)
{
	int sys = m->kvm->open();

	if (sys < 0)
		return sys;
	unsigned char *ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ram == MAP_FAILED)
		return -errno;
	int r = load_image(image, ram);
	if (r)
		return r;
	m->vm = (int)m->kvm->ioctl(sys, KVM_CREATE_VM, NULL);
	m->kvm->close(sys);
	if (m->vm < 0)
		return m->vm;
	struct kvm_userspace_memory_region region = {.memory_size = RAM_SIZE, .userspace_addr = (unsigned long)ram};
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	m->kvm->ioctl(m->vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000ul);
	r = (int)m->kvm->ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region);
	if (!r)
		r = (int)m->kvm->ioctl(m->vm, KVM_CREATE_IRQCHIP, NULL);
	if (!r)
		r = set_routing(m);
	if (!r)
		r = (int)m->kvm->ioctl(m->vm, KVM_CREATE_PIT2, &pit);
	return r;
}

int main(int argc, char **argv)
{
	static struct machine m = {.lock = PTHREAD_MUTEX_INITIALIZER, .status = -1, .nr_vcpus = 1};
	static struct vcpu vcpus[8];
	static struct { struct kvm_cpuid2 c; struct kvm_cpuid_entry2 e[256]; } cpuid = {.c = {.nent = 256}};
	const char *which = getenv("ANYKVM_TEST_KVM");
	int opt, seconds = 60, r;

	while ((opt = getopt(argc, argv, "c:e:t:")) != -1) {
		if (opt == 'c')
			m.nr_vcpus = atoi(optarg);
		else if (opt == 'e' && !anykvm_set_engine(optarg))
			;
		else if (opt == 't')
			seconds = atoi(optarg);
		else
			return 2;
	}
	if (optind != argc - 1 || m.nr_vcpus < 1 || m.nr_vcpus > 8) {
		fprintf(stderr, "usage: run [-c CPUS] [-e ENGINE] [-t SECONDS] IMAGE\n");
		return 2;
	}
	m.kvm = which && !strcmp(which, "sys") ? &sys_kvm_if : &anykvm_kvm_if;
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGUSR1, kick_handler);

	r = machine_create(&m, argv[optind]);
	if (!r)
		r = (int)m.kvm->ioctl(m.kvm->open(), KVM_GET_SUPPORTED_CPUID, &cpuid);
	for (int n = 0; !r && n < m.nr_vcpus; n++)
		r = vcpu_create(&m, &vcpus[n], n, &cpuid.c);
	if (r) {
		printf("not ok - machine set-up: %s\n", strerror(-r));
		return 1;
	}
	for (int n = 0; n < m.nr_vcpus; n++)
		pthread_create(&vcpus[n].thread, NULL, vcpu_thread, &vcpus[n]);
	for (time_t end = time(NULL) + seconds; atomic_load(&m.status) < 0;) {
		usleep(2000);
		if (time(NULL) > end)
			machine_fail(&m, "time out after seconds", seconds);
	}
	for (int n = 0; n < m.nr_vcpus; n++) {
		/* The signal may come just before KVM_RUN: immediate_exit first, and again until the thread is gone. */
		struct timespec until;
		do {
			vcpus[n].run->immediate_exit = 1;
			pthread_kill(vcpus[n].thread, SIGUSR1);
			clock_gettime(CLOCK_REALTIME, &until);
			until.tv_nsec += 10000000;
			if (until.tv_nsec >= 1000000000) {
				until.tv_sec++;
				until.tv_nsec -= 1000000000;
			}
		} while (pthread_timedjoin_np(vcpus[n].thread, NULL, &until) == ETIMEDOUT);
	}
	return m.failed || atomic_load(&m.status) ? 1 : 0;
}
