/* Memory: copies of three sizes, and chains of dependent loads in the first-level cache and in DRAM. */
#include <string.h>

#include "bench.h"

#define COPY_MAX (64u << 20)
#define DRAM_SIZE (128u << 20)
#define L1_SIZE (16u << 10)
#define LINE 64

/*
 * The copy is not at a round distance, which would be the one where a page and its copy compete for the same place in
 * tables that are indexed by page number: luck that should not be what is measured.
 */
#define DISTANCE (COPY_MAX + (2u << 20) + 5 * 4096 + 0x840)
#define AREA_SIZE (2 * COPY_MAX + (4u << 20))

static char *from, *to;

static void copy_setup(void)
{
	from = bench_alloc(AREA_SIZE);
	to = from + DISTANCE;
	memset(from, 1, COPY_MAX);
	memset(to, 2, COPY_MAX);
	for (size_t i = 0; i < COPY_MAX; i += 1021)
		from[i] = (char)i;
}

static void copy_teardown(void)
{
	bench_free(from, AREA_SIZE);
}

static uint64_t copies(size_t size, unsigned count)
{
	void *(*volatile copy)(void *, const void *, size_t) = memcpy;

	for (unsigned i = 0; i < count; i++)
		copy(to, from, size);
	return bench_sum(0, to + size - 64, 64);
}

static uint64_t copy_4k(void)
{
	return copies(4096, 2000);
}

static uint64_t copy_1m(void)
{
	return copies(1 << 20, 16);
}

static uint64_t copy_64m(void)
{
	return copies(COPY_MAX, 1);
}

/*
 * A ring through all lines of an area, in the order of a linear congruential
 * generator: one cycle over a power of two (multiplier 1 modulo 4, odd
 * increment) that no prefetcher follows.
 */
static void **chain;
static size_t chain_size;

static void **chain_line(size_t i)
{
	return (void **)((char *)chain + i * LINE);
}

static void chain_setup(size_t size)
{
	size_t lines = size / LINE;

	chain_size = size;
	chain = bench_alloc(size);
	for (size_t i = 0; i < lines; i++)
		*chain_line(i) = chain_line((i * 1664525 + 1013904223) & (lines - 1));
}

static void chain_l1(void)
{
	chain_setup(L1_SIZE);
}

static void chain_dram(void)
{
	chain_setup(DRAM_SIZE);
}

static void *place;

/* Goes @count lines on from where the last call stopped, so that the caches do not learn the way. */
static uint64_t follow(unsigned count)
{
	void **p = place ? place : (void *)chain;

	for (unsigned i = 0; i < count; i += 8) {
		p = *p, p = *p, p = *p, p = *p;
		p = *p, p = *p, p = *p, p = *p;
		__asm__ volatile("" : "+r"(p));
	}
	place = p;
	return count;
}

static uint64_t follow_l1(void)
{
	return follow(1 << 18);
}

static uint64_t follow_dram(void)
{
	return follow(1 << 14);
}

static void chain_end(void)
{
	place = NULL;
	bench_free(chain, chain_size);
}

const struct bench_test memory_tests[] = {
	{"memcpy_4k", "memory", 2000, 0, copy_setup, copy_4k, copy_teardown},
	{"memcpy_1m", "memory", 16, 0, copy_setup, copy_1m, copy_teardown},
	{"memcpy_64m", "memory", 1, 0, copy_setup, copy_64m, copy_teardown},
	{"chase_l1", "memory", 1 << 18, 0, chain_l1, follow_l1, chain_end},
	{"chase_dram", "memory", 1 << 14, 0, chain_dram, follow_dram, chain_end},
	{NULL},
};
