/* What the machine gives its devices: interrupt lines, clocks, the console, the end of the run. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "host/terminal.h"
#include "monitor/machine.h"

static struct machine *machine_of(struct board *b)
{
	return container_of(b, struct machine, board);
}

/* Lines are shared by an OR of their sources; KVM hears of changes only. */
static void board_set_irq(struct board *b, unsigned gsi, unsigned source, bool level)
{
	struct machine *m = machine_of(b);

	if (gsi >= MACHINE_NR_GSIS)
		return;
	pthread_mutex_lock(&m->irq_lock);
	u32 old = m->irq_lines[gsi].sources;
	u32 now = level ? old | BIT(source) : old & ~BIT(source);

	m->irq_lines[gsi].sources = now;
	if (!old != !now) {
		struct kvm_irq_level line = {.irq = gsi, .level = now != 0};

		m->kvm->ioctl(m->vm_fd, KVM_IRQ_LINE, &line);
	}
	pthread_mutex_unlock(&m->irq_lock);
}

static void board_console_write(struct board *b, const u8 *data, size_t n)
{
	struct machine *m = machine_of(b);
	char message[128];
	int rc = terminal_write(data, n, &m->cancel);

	if (rc == 0 || rc == -ECANCELED)
		return;
	snprintf(message, sizeof(message), "cannot write the console's output: %s", strerror(-rc));
	machine_stop(m, STOP_ERROR, 0, message);
}

/* Runs on the timer thread: the device may be waiting for a slow terminal, which the main thread must not. */
static void keys_arrived(struct timer *t)
{
	device_input(container_of(t, struct machine, input_timer)->console_device);
}

static size_t board_console_read(struct board *b, u8 *data, size_t n)
{
	struct machine *m = machine_of(b);
	bool half;

	n = console_get(&m->console, data, n, &half);
	if (half)
		machine_wake(m); /* it may have stopped reading standard input */
	return n;
}

static u64 board_monotonic_ns(struct board *b)
{
	return timer_now();
}

static u64 board_wall_ns(struct board *b)
{
	return clock_ns(CLOCK_REALTIME);
}

static void device_timer_fired(struct timer *t)
{
	device_tick(container_of(t, struct device_timer, timer)->device);
}

static void board_set_deadline(struct board *b, struct device *d, u64 deadline_ns)
{
	struct machine *m = machine_of(b);

	timer_arm(m->timers, &m->device_timers[d->source].timer, deadline_ns);
}

static void board_stop_run(struct board *b, enum stop_reason why, int status)
{
	machine_stop(machine_of(b), why, status, NULL);
}

const struct board_ops machine_board_ops = {
	.set_irq = board_set_irq,
	.console_write = board_console_write,
	.console_read = board_console_read,
	.monotonic_ns = board_monotonic_ns,
	.wall_ns = board_wall_ns,
	.set_deadline = board_set_deadline,
	.stop = board_stop_run,
};

void machine_board_init(struct machine *m)
{
	m->board.ops = &machine_board_ops;
	m->board.ram_low = m->ram.range[0].size;
	m->board.ram_high = m->ram.nr > 1 ? m->ram.range[1].size : 0;
	m->input_timer.fn = keys_arrived;
	for (unsigned i = 0; i < MACHINE_MAX_DEVICES; i++)
		m->device_timers[i] = (struct device_timer){{.fn = device_timer_fired}, &m->devices[i]};
}
