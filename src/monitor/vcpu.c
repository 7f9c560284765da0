#include "monitor/vcpu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "monitor/exit_stats.h"
#include "monitor/report.h"

/* For the signal handler: what its thread runs. */
static _Thread_local struct kvm_run *current_run;

static void on_kick(int sig)
{
	if (current_run)
		__atomic_store_n(&current_run->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

void vcpu_install_kick(void)
{
	struct sigaction action = {.sa_handler = on_kick}; /* no SA_RESTART: system calls are to end */

	sigaction(VCPU_KICK_SIGNAL, &action, NULL);
}

/* RIP comes with every exit in the run page: KVM_CAP_SYNC_REGS (api.rst, 6.74). */
static bool count_exits(struct vcpu *v)
{
	struct machine *m = v->machine;

	v->exits = calloc(1, sizeof(*v->exits));
	if (!v->exits)
		return false;
	long sync = m->kvm->ioctl(m->kvm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_SYNC_REGS);

	v->exits->sites = sync > 0 && (sync & KVM_SYNC_X86_REGS);
	if (v->exits->sites)
		v->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	return true;
}

int vcpu_init(struct vcpu *v, struct machine *m, unsigned id, char error[BOOT_ERROR_MAX])
{
	const struct kvm_if *kvm = m->kvm;

	*v = (struct vcpu){.machine = m, .id = id, .fd = -1};

	long size = kvm->ioctl(m->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
	long fd = kvm->ioctl(m->vm_fd, KVM_CREATE_VCPU, (void *)(uintptr_t)id);

	if (size < (long)sizeof(struct kvm_run) || fd < 0) {
		snprintf(error, BOOT_ERROR_MAX, "cannot create CPU %u: %s", id, strerror(fd < 0 ? (int)-fd : EINVAL));
		return -1;
	}
	v->fd = (int)fd;
	v->run_size = (size_t)size;
	v->run = kvm->mmap(v->fd, v->run_size);
	if (!v->run) {
		snprintf(error, BOOT_ERROR_MAX, "cannot map the run page of CPU %u: %s", id, strerror(errno));
		return -1;
	}
	if (m->config->stats && !count_exits(v)) {
		snprintf(error, BOOT_ERROR_MAX, "out of memory");
		return -1;
	}
	return 0;
}

void vcpu_fini(struct vcpu *v)
{
	if (v->run)
		munmap(v->run, v->run_size);
	if (v->fd >= 0)
		v->machine->kvm->close(v->fd);
	free(v->exits);
}

static void handle_io(struct vcpu *v)
{
	const struct kvm_run *run = v->run;
	bool write = run->io.direction == KVM_EXIT_IO_OUT;
	u8 *data = (u8 *)v->run + run->io.data_offset;

	v->last = (struct last_exit){KVM_EXIT_IO, write, run->io.size, run->io.count, run->io.port};
	for (u32 i = 0; i < run->io.count; i++, data += run->io.size)
		bus_access(&v->machine->pio, run->io.port, data, run->io.size, write);
}

static void handle_mmio(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	u8 len = (u8)MIN(run->mmio.len, 8u);

	v->last = (struct last_exit){KVM_EXIT_MMIO, run->mmio.is_write, len, 1, run->mmio.phys_addr};
	bus_access(&v->machine->mmio, run->mmio.phys_addr, run->mmio.data, len, run->mmio.is_write);
}

static void handle_system_event(struct vcpu *v)
{
	switch (v->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN: machine_stop(v->machine, STOP_POWEROFF, 0, NULL); break;
	case KVM_SYSTEM_EVENT_RESET: machine_stop(v->machine, STOP_RESET, 0, NULL); break;
	default: report_exit(v, "unknown system event"); break;
	}
}

/* The exits of KVM_RUN (api.rst, section 5). What is not ours to handle ends the run with a report. */
static void handle_exit(struct vcpu *v)
{
	switch (v->run->exit_reason) {
	case KVM_EXIT_IO: handle_io(v); break;
	case KVM_EXIT_MMIO: handle_mmio(v); break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN: break;
	case KVM_EXIT_SYSTEM_EVENT: handle_system_event(v); break;
	case KVM_EXIT_SHUTDOWN: report_exit(v, "triple fault"); break;
	case KVM_EXIT_INTERNAL_ERROR: report_exit(v, "internal error"); break;
	case KVM_EXIT_FAIL_ENTRY: report_exit(v, "the processor refused the guest's state"); break;
	default: report_exit(v, "unexpected exit"); break;
	}
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *v = arg;
	struct machine *m = v->machine;
	char name[16];

	snprintf(name, sizeof(name), "vcpu %u", v->id);
	prctl(PR_SET_NAME, name);
	current_run = v->run;
	while (!machine_stopping(m)) {
		long rc = m->kvm->ioctl(v->fd, KVM_RUN, NULL);

		if (v->exits)
			exit_stats_count(v->exits, v->run, rc);
		if (rc >= 0) {
			handle_exit(v);
		} else if (rc == -EINTR) {
			/* A kick. Whoever sent it changed machine->stop first, so that clearing loses nothing. */
			__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		} else if (rc != -EAGAIN) { /* EAGAIN: another CPU started this one */
			report_error(v, (int)-rc);
		}
	}
	current_run = NULL;
	atomic_store(&v->done, true);
	machine_wake(m);
	return NULL;
}

int vcpu_start(struct vcpu *v)
{
	int rc = pthread_create(&v->thread, NULL, vcpu_thread, v);

	v->started = rc == 0;
	return -rc;
}

void vcpu_kick(struct vcpu *v)
{
	if (v->started && !atomic_load(&v->done))
		pthread_kill(v->thread, VCPU_KICK_SIGNAL);
}

void vcpu_join(struct vcpu *v)
{
	if (v->started)
		pthread_join(v->thread, NULL);
	v->started = false;
}
