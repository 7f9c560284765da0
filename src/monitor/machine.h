/*
 * A virtual PC on a struct kvm_if, from its parts list to the end of its run.
 *
 * Threads: the caller's runs the main loop (terminal, signals, the end); one
 * thread per vCPU; one timer thread for the devices' deadlines and console input.
 * Lock order: device->lock, then any one of irq_lock, stop_lock, console.lock and the timer thread's.
 */
#ifndef MONITOR_MACHINE_H
#define MONITOR_MACHINE_H

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "base/timer.h"
#include "device/device.h"
#include "host/escape.h"
#include "kvm_if.h"
#include "monitor/boot/boot.h"
#include "monitor/bus.h"
#include "monitor/console.h"

/* APIC ids are below 255, the xAPIC's broadcast address. */
#define MACHINE_MAX_CPUS 255
#define MACHINE_MIN_MEMORY (8ull << 20)
#define MACHINE_MAX_MEMORY (1ull << 42)
#define MACHINE_MAX_DEVICES 32
#define MACHINE_NR_GSIS 24
#define MACHINE_MESSAGE_MAX 4096

struct machine_config {
	const struct kvm_if *kvm;
	const char *kernel, *initrd, *cmdline; /* initrd may be NULL */
	unsigned nr_cpus;
	u64 memory; /* bytes */
	bool stats; /* count, and print to standard error at the end */
};

/* How a run ended. */
struct machine_result {
	enum stop_reason why;
	int status; /* STOP_EXIT: the guest's; STOP_SIGNAL: the signal */
	bool stuck; /* a vCPU did not return from KVM_RUN: its machine is still there, the process should end */
	char message[MACHINE_MESSAGE_MAX]; /* for the user; lines; empty when there is nothing to say */
};

struct machine;

/* [I] immutable once the vCPUs run, [v] the vCPU's thread only, [a] atomic. */
struct vcpu {
	struct machine *machine; /* [I] */
	unsigned id;             /* [I] */
	int fd;                  /* [I] */
	struct kvm_run *run;     /* [v], but for immediate_exit: [a] */
	size_t run_size;         /* [I] */
	pthread_t thread;        /* [I] */
	bool started;            /* main thread */
	atomic_bool done;        /* [a] the thread has left its loop */
	struct last_exit {       /* [v] for the report: the last exit that was handled */
		u32 reason; /* KVM_EXIT_* */
		bool write;
		u8 size;
		u32 count;
		u64 addr; /* port or guest-physical address */
	} last;
	struct exit_stats *exits; /* [v] NULL: not wanted */
};

struct irq_line {
	u32 sources; /* [irq_lock] which devices assert it */
};

struct machine {
	struct board board;                 /* first: what the devices see */
	const struct machine_config *config; /* [I] */
	const struct kvm_if *kvm;           /* [I] */
	int kvm_fd, vm_fd;                  /* [I] */
	struct guest_ram ram;               /* [I] */
	struct bus pio, mmio;               /* [I] */
	unsigned nr_devices;                /* [I] */
	struct device devices[MACHINE_MAX_DEVICES];
	struct timer_thread *timers;        /* [I] */
	struct device_timer {
		struct timer timer;
		struct device *device;
	} device_timers[MACHINE_MAX_DEVICES];
	unsigned nr_vcpus;                  /* [I] */
	struct vcpu *vcpus;                 /* [I] */

	struct console console;
	struct timer input_timer;           /* tells the console's device of keys */
	struct device *console_device;      /* [I] */

	pthread_mutex_t irq_lock;
	struct irq_line irq_lines[MACHINE_NR_GSIS]; /* [irq_lock] */

	pthread_mutex_t stop_lock;
	struct machine_result *result;      /* [stop_lock] written by the first who stops the run */
	atomic_int stop;                    /* [a] enum stop_reason; written under stop_lock */
	atomic_bool cancel;                 /* [a] stop waiting for the console too */
	int wake_fd;                        /* [I] eventfd: the main loop has something to look at */
};

/* Once in a process, before anything else: the terminal will be restored and vCPUs can be kicked. */
void machine_prepare(void);

/*
 * Builds the machine, boots and runs it until it stops. One life: to reboot, call it again. Returns 0 with @result
 * filled, or -1 with one line in @result->message when the machine could not be started.
 */
int machine_run(const struct machine_config *config, struct machine_result *result);

/*
 * Ends the run, from any thread; the first caller's reason and message count, but for the user's and signals', which
 * also end the wait for a console that takes no output. The message is for the user, without a newline; may be NULL.
 */
void machine_stop(struct machine *m, enum stop_reason why, int status, const char *message);

static inline bool machine_stopping(struct machine *m)
{
	return atomic_load_explicit(&m->stop, memory_order_relaxed) != STOP_NONE;
}

/* Wakes the main loop. */
void machine_wake(struct machine *m);

/* board.c: the machine as its devices see it. */
extern const struct board_ops machine_board_ops;
/* Arms the timers of the board; the timer thread runs. */
void machine_board_init(struct machine *m);

/*
 * loop.c: the main loop. Returns true when every vCPU has left its loop, false when one does not. @signals are
 * blocked in all threads; those that would end the process end the run.
 */
bool machine_loop(struct machine *m, const sigset_t *signals);

#endif
