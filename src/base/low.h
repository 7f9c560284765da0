/* Zeroed memory below 2 GiB where the host has some left there: generated code can name it in 32 bits. Or elsewhere. */
#ifndef BASE_LOW_H
#define BASE_LOW_H

#include <stddef.h>

#include "base/types.h"

/* Page-aligned. NULL: no memory. */
void *low_alloc(size_t size);
/* @p may be NULL; @size as it was given. */
void low_free(void *p, size_t size);

/*
 * Makes @p, page-aligned memory of @size bytes from low_alloc(), show up @times times more, each behind the other, and
 * zeroes it. Returns where, below 1 GiB, to be freed before @p; NULL: that cannot be had.
 */
void *low_repeat(void *p, size_t size, unsigned times);

/* A pointer to such memory, or NULL, in 4 bytes. */
static inline u32 low_ref(const void *p)
{
	return (u32)(u64)p;
}

static inline void *low_at(u32 ref)
{
	return (void *)(u64)ref;
}

#endif
