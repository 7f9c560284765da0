#include "device/device.h"

#include <errno.h>
#include <stdlib.h>

int device_init(struct device *d, const struct part *part, struct board *board, unsigned source)
{
	*d = (struct device){
		.ops = part->ops,
		.board = board,
		.irq = part->irq,
		.source = source,
		.console = part->console,
		.deadline = DEVICE_NO_DEADLINE,
	};
	while (d->nr_regions < DEVICE_MAX_REGIONS && part->regions[d->nr_regions].size) {
		struct region *r = &d->regions[d->nr_regions];

		*r = part->regions[d->nr_regions++];
		r->min = r->min ? r->min : 1;
		r->max = MAX(r->max, r->min);
	}
	if (d->ops->state_size) {
		d->state = calloc(1, d->ops->state_size);
		if (!d->state)
			return -ENOMEM;
	}
	pthread_mutex_init(&d->lock, NULL);
	int rc = d->ops->init ? d->ops->init(d) : 0;
	if (rc < 0) {
		pthread_mutex_destroy(&d->lock);
		free(d->state);
		return rc;
	}
	if (d->ops->reset)
		d->ops->reset(d);
	return 0;
}

void device_fini(struct device *d)
{
	if (d->ops->fini)
		d->ops->fini(d);
	pthread_mutex_destroy(&d->lock);
	free(d->state);
	d->state = NULL;
}

/* Lets the device notice the time and tells the board of a new deadline, or when @fired of any. The lock is held. */
static void settle(struct device *d, bool fired)
{
	if (!d->ops->tick)
		return;
	u64 next = d->ops->tick(d, d->board->ops->monotonic_ns(d->board));

	if (next == d->deadline && !fired)
		return;
	d->deadline = next;
	d->board->ops->set_deadline(d->board, d, next);
}

u64 device_read(struct device *d, unsigned region, u64 offset, unsigned size)
{
	u64 value = UINT64_MAX;

	if (!d->ops->read)
		return value;
	pthread_mutex_lock(&d->lock);
	value = d->ops->read(d, region, offset, size);
	settle(d, false);
	pthread_mutex_unlock(&d->lock);
	return value;
}

void device_write(struct device *d, unsigned region, u64 offset, unsigned size, u64 value)
{
	if (!d->ops->write)
		return;
	pthread_mutex_lock(&d->lock);
	d->ops->write(d, region, offset, size, value);
	settle(d, false);
	pthread_mutex_unlock(&d->lock);
}

void device_input(struct device *d)
{
	if (!d->ops->input)
		return;
	pthread_mutex_lock(&d->lock);
	d->ops->input(d);
	settle(d, false);
	pthread_mutex_unlock(&d->lock);
}

void device_tick(struct device *d)
{
	pthread_mutex_lock(&d->lock);
	settle(d, true);
	pthread_mutex_unlock(&d->lock);
}
