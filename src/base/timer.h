/* One thread that calls functions at given times of CLOCK_MONOTONIC. */
#ifndef BASE_TIMER_H
#define BASE_TIMER_H

#include <time.h>

#include "base/types.h"

struct timer_thread;

#define TIMER_NEVER (~0ull)

/*
 * Embedded by its owner. @fn runs on the timer's thread with no lock held; it may arm timers again.
 * The other fields belong to timer.c, under the thread's lock.
 */
struct timer {
	void (*fn)(struct timer *t);
	u64 deadline;
	u32 slot; /* 1 + place in the heap, 0 when idle */
};

/* Now, in nanoseconds of @id; 0 when there is no such clock. */
u64 clock_ns(clockid_t id);

/* The same as kernel interfaces want it. */
struct timespec clock_timespec(u64 ns);

/* Now, in nanoseconds of CLOCK_MONOTONIC. */
u64 timer_now(void);

/* Starts a thread with room for @max armed timers. NULL when memory or threads have run out. */
struct timer_thread *timer_thread_start(u32 max);

/* Stops the thread and frees it: afterwards no timer function runs. NULL is fine. */
void timer_thread_stop(struct timer_thread *tt);

/* (Re-)arms @t for @deadline (ns); TIMER_NEVER disarms. A function that already runs is not waited for. */
void timer_arm(struct timer_thread *tt, struct timer *t, u64 deadline);

#endif
