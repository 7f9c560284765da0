/*
 * Devices as state machines that know no thread, no bus and no KVM.
 *
 * A device is one file: its state, and a const struct device_ops. The machine's
 * parts list says where it sits. What it needs from the machine (interrupt
 * lines, clocks, the console, the end of the run) it asks of its struct board,
 * so that a test can be the board.
 */
#ifndef DEVICE_DEVICE_H
#define DEVICE_DEVICE_H

#include <pthread.h>

#include "base/types.h"

#define DEVICE_MAX_REGIONS 4
#define DEVICE_NO_DEADLINE UINT64_MAX

struct device;

enum region_space { REGION_PIO, REGION_MMIO };

/* A range of addresses a device decodes. */
struct region {
	enum region_space space;
	u64 base;
	u64 size; /* 0 ends a list of regions */
	/* Access sizes the device takes: 1, 2, 4 or 8. 0 stands for 1. The bus splits and widens the guest's. */
	u8 min, max;
};

struct device_ops {
	const char *name;
	size_t state_size; /* of device->state, zeroed before init */
	/* Once, before the first access. Returns 0 or -errno. NULL: nothing to do. */
	int (*init)(struct device *d);
	/* The power-on state. */
	void (*reset)(struct device *d);
	/* @offset from the start of regions[@region], aligned to @size, which is in its bounds. NULL: ones, ignored. */
	u64 (*read)(struct device *d, unsigned region, u64 offset, unsigned size);
	void (*write)(struct device *d, unsigned region, u64 offset, unsigned size, u64 value);
	/*
	 * Does what is due at monotonic time @now_ns and returns when to be called next, or DEVICE_NO_DEADLINE. Also
	 * called after every access, since an access may move the deadline. NULL: the device keeps no time.
	 */
	u64 (*tick)(struct device *d, u64 now_ns);
	/* The console has keys: the device takes what it has room for by console_read(), now and when it has again. */
	void (*input)(struct device *d);
	void (*fini)(struct device *d);
};

/* Why a run ends. */
enum stop_reason {
	STOP_NONE,
	STOP_POWEROFF,    /* by the guest */
	STOP_RESET,       /* by the guest */
	STOP_EXIT,        /* by the guest, with a status */
	STOP_QUIT,        /* by the user, at the terminal */
	STOP_SIGNAL,      /* by a signal; the status is its number */
	STOP_ERROR,       /* the host failed us: console gone, disk full */
	STOP_GUEST_ERROR, /* triple fault, internal error */
};

struct board;

/* What the machine gives its devices. Called with the device's lock held, from any thread. */
struct board_ops {
	void (*set_irq)(struct board *b, unsigned gsi, unsigned source, bool level);
	void (*console_write)(struct board *b, const u8 *data, size_t n);
	/* Takes up to @n keys. Returns how many there were. */
	size_t (*console_read)(struct board *b, u8 *data, size_t n);
	u64 (*monotonic_ns)(struct board *b);
	u64 (*wall_ns)(struct board *b); /* since 1970, UTC */
	/* device_tick() is wanted at monotonic time @deadline_ns, in place of any time asked for before. */
	void (*set_deadline)(struct board *b, struct device *d, u64 deadline_ns);
	void (*stop)(struct board *b, enum stop_reason why, int status);
};

struct board {
	const struct board_ops *ops; /* [I] */
	u64 ram_low, ram_high;       /* [I] bytes of RAM below and above 4 GiB */
};

/* Locking: [I] immutable once the machine runs, [d] device->lock. */
struct device {
	const struct device_ops *ops;              /* [I] */
	struct board *board;                       /* [I] */
	struct region regions[DEVICE_MAX_REGIONS]; /* [I] */
	unsigned nr_regions;                       /* [I] */
	unsigned irq;                              /* [I] GSI, where the device has one */
	unsigned source;                           /* [I] this device among the sources of a shared line, below 32 */
	bool console;                              /* [I] wired to the terminal */
	pthread_mutex_t lock;                      /* taken by device_read() and its kin, never by the device */
	void *state;                               /* [d] */
	u64 deadline;                              /* [d] monotonic ns */
};

/* What a parts list says of one device. */
struct part {
	const struct device_ops *ops;
	struct region regions[DEVICE_MAX_REGIONS];
	unsigned irq;
	bool console;
};

/* Makes the device of @part on @board, in its power-on state. Returns 0 or -errno, the device then needs no fini. */
int device_init(struct device *d, const struct part *part, struct board *board, unsigned source);
void device_fini(struct device *d);

/* The doors for the bus and for the machine's threads: each takes the device's lock and settles its deadline. */
u64 device_read(struct device *d, unsigned region, u64 offset, unsigned size);
void device_write(struct device *d, unsigned region, u64 offset, unsigned size, u64 value);
void device_input(struct device *d);
/* Runs what is due by now: the answer to set_deadline(). */
void device_tick(struct device *d);

/* Drives the device's own line. The lock is held. */
static inline void device_set_irq(struct device *d, bool level)
{
	d->board->ops->set_irq(d->board, d->irq, d->source, level);
}

static inline void board_stop(struct board *b, enum stop_reason why, int status)
{
	b->ops->stop(b, why, status);
}

#endif
