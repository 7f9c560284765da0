/*
 * The benchmark program that runs in guests and, as it is, on the host. It
 * takes no time itself: it says on its output when a test begins and ends, and
 * whoever reads that takes the time.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stddef.h>
#include <stdint.h>

struct bench_test {
	const char *name;
	const char *group; /* integer, memory, fp, kernel, program or smp */
	unsigned ops;	   /* operations in one unit: what the time is divided by for people */
	unsigned procs;	   /* this many processes do the same at once; 0: one, kept on one processor */
	void (*setup)(void); /* not timed; may be NULL, like teardown */
	/* the work, about 1 to 20 ms of a host; returns the same sum each time, on every machine */
	uint64_t (*unit)(void);
	void (*teardown)(void);
};

/* Each ends with a row without a name. */
extern const struct bench_test integer_tests[], memory_tests[], fp_tests[], kernel_tests[], program_tests[],
	smp_tests[];

/* Ends the program with a message: a benchmark that cannot do its work has no time to tell. */
void bench_fail(const char *what) __attribute__((noreturn));

/* @r, unless it is negative: then bench_fail(). */
long bench_must(long r, const char *what);

/* @size bytes at 2 MiB alignment, in huge pages where the kernel has them. Freed by bench_free(). */
void *bench_alloc(size_t size);
void bench_free(void *p, size_t size);

/* The next of a sequence of pseudo-random numbers. @state is not 0. */
static inline uint64_t bench_random(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

/* FNV-1a, from @sum on; start with 0. */
static inline uint64_t bench_sum(uint64_t sum, const void *data, size_t size)
{
	const unsigned char *p = data;

	sum = sum ? sum : 0xcbf29ce484222325;
	while (size--)
		sum = (sum ^ *p++) * 0x100000001b3;
	return sum;
}

/* The integer mix, which two busy processes do as well. */
uint64_t integer_mix(void);

#endif
