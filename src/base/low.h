/* Zeroed memory below 2 GiB where the host has some left there: generated code can name it in 32 bits. Or elsewhere. */
#ifndef BASE_LOW_H
#define BASE_LOW_H

#include <stddef.h>

/* Page-aligned. NULL: no memory. */
void *low_alloc(size_t size);
/* @p may be NULL; @size as it was given. */
void low_free(void *p, size_t size);

#endif
