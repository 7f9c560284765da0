/* The bytes of a fuzz input, taken from its beginning. */
#ifndef TESTS_FUZZ_INPUT_H
#define TESTS_FUZZ_INPUT_H

#include <string.h>

#include "base/types.h"

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

#endif
