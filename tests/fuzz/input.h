/* What the fuzz targets share: the bytes of an input, taken from its beginning; promises; memory between guards. */
#ifndef TESTS_FUZZ_INPUT_H
#define TESTS_FUZZ_INPUT_H

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/types.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

struct input {
	const u8 *data;
	size_t size;
};

/* The next @n bytes; zeros when the input is short. */
static inline void take(struct input *in, void *to, size_t n)
{
	size_t have = MIN(n, in->size);

	memset(to, 0, n);
	if (have)
		memcpy(to, in->data, have);
	in->data += have;
	in->size -= have;
}

static inline u64 number(struct input *in, size_t bytes)
{
	u64 value = 0;

	take(in, &value, bytes);
	return value;
}

/* A promise that is not kept is a find. */
static inline void require(bool promise)
{
	if (!promise)
		abort();
}

#define GUARD 0x100000u

/* @size bytes between inaccessible pages, for guarded_free(). */
static inline u8 *guarded(size_t size, int prot)
{
	u8 *area = mmap(NULL, size + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	require(area != MAP_FAILED && mprotect(area + GUARD, size, prot) == 0);
	return area + GUARD;
}

static inline void guarded_free(u8 *p, size_t size)
{
	munmap(p - GUARD, size + 2 * GUARD);
}

#endif
