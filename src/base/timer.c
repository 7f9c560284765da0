#include "base/timer.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>

/* A binary heap of armed timers, earliest first; slots count from 1 so that slot 0 means "not armed". */
struct timer_thread {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool stop;       /* [lock] */
	u64 sleeping_to; /* [lock] what the thread waits for; 0 while it is awake */
	u32 nr, max;     /* [lock] */
	struct timer *heap[];
};

#define NSEC_PER_SEC 1000000000ull

u64 clock_ns(clockid_t id)
{
	struct timespec ts = {.tv_sec = 0};

	clock_gettime(id, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

struct timespec clock_timespec(u64 ns)
{
	return (struct timespec){.tv_sec = (time_t)(ns / NSEC_PER_SEC), .tv_nsec = (long)(ns % NSEC_PER_SEC)};
}

u64 timer_now(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static void place(struct timer_thread *tt, struct timer *t, u32 slot)
{
	tt->heap[slot - 1] = t;
	t->slot = slot;
}

static void sift(struct timer_thread *tt, struct timer *t, u32 slot)
{
	while (slot > 1 && tt->heap[slot / 2 - 1]->deadline > t->deadline) {
		place(tt, tt->heap[slot / 2 - 1], slot);
		slot /= 2;
	}
	for (;;) {
		u32 child = slot * 2;

		if (child > tt->nr)
			break;
		if (child < tt->nr && tt->heap[child]->deadline < tt->heap[child - 1]->deadline)
			child++;
		if (tt->heap[child - 1]->deadline >= t->deadline)
			break;
		place(tt, tt->heap[child - 1], slot);
		slot = child;
	}
	place(tt, t, slot);
}

static void take_out(struct timer_thread *tt, struct timer *t)
{
	u32 slot = t->slot;
	struct timer *last = tt->heap[tt->nr - 1];

	t->slot = 0;
	tt->nr--;
	if (last != t)
		sift(tt, last, slot);
}

void timer_arm(struct timer_thread *tt, struct timer *t, u64 deadline)
{
	pthread_mutex_lock(&tt->lock);
	if (deadline == TIMER_NEVER) {
		if (t->slot)
			take_out(tt, t);
	} else if (t->slot || tt->nr < tt->max) {
		t->deadline = deadline;
		sift(tt, t, t->slot ? t->slot : ++tt->nr);
		if (deadline < tt->sleeping_to)
			pthread_cond_signal(&tt->cond);
	}
	pthread_mutex_unlock(&tt->lock);
}

static void *timer_main(void *arg)
{
	struct timer_thread *tt = arg;

	/* The default slack of 50 us would be seen in every guest's timers. */
	prctl(PR_SET_TIMERSLACK, 1);
	prctl(PR_SET_NAME, "anykvm-timer");
	pthread_mutex_lock(&tt->lock);
	while (!tt->stop) {
		struct timer *t = tt->nr ? tt->heap[0] : NULL;

		if (t && t->deadline <= timer_now()) {
			take_out(tt, t);
			pthread_mutex_unlock(&tt->lock);
			t->fn(t);
			pthread_mutex_lock(&tt->lock);
			continue;
		}
		tt->sleeping_to = t ? t->deadline : TIMER_NEVER;
		if (t) {
			struct timespec ts = clock_timespec(t->deadline);
			pthread_cond_timedwait(&tt->cond, &tt->lock, &ts);
		} else {
			pthread_cond_wait(&tt->cond, &tt->lock);
		}
		tt->sleeping_to = 0;
	}
	pthread_mutex_unlock(&tt->lock);
	return NULL;
}

struct timer_thread *timer_thread_start(u32 max)
{
	struct timer_thread *tt = calloc(1, sizeof(*tt) + max * sizeof(tt->heap[0]));
	pthread_condattr_t attr;
	sigset_t all, old;

	if (!tt)
		return NULL;
	tt->max = max;
	pthread_mutex_init(&tt->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&tt->cond, &attr);
	pthread_condattr_destroy(&attr);
	/* The client's signals are for the client's threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int err = pthread_create(&tt->thread, NULL, timer_main, tt);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err) {
		pthread_cond_destroy(&tt->cond);
		pthread_mutex_destroy(&tt->lock);
		free(tt);
		return NULL;
	}
	return tt;
}

void timer_thread_stop(struct timer_thread *tt)
{
	if (!tt)
		return;
	pthread_mutex_lock(&tt->lock);
	tt->stop = true;
	pthread_cond_signal(&tt->cond);
	pthread_mutex_unlock(&tt->lock);
	pthread_join(tt->thread, NULL);
	pthread_cond_destroy(&tt->cond);
	pthread_mutex_destroy(&tt->lock);
	free(tt);
}
