/* Zeroed memory below 2 GiB where the host has some left there: generated code can name it in 32 bits. Or elsewhere. */
#ifndef BASE_LOW_H
#define BASE_LOW_H

#include <stddef.h>

#include "base/types.h"

/* Page-aligned. NULL: no memory. */
void *low_alloc(size_t size);
/* @p may be NULL; @size as it was given. */
void low_free(void *p, size_t size);

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
