/* Numbers that no guest is to know. */
#ifndef BASE_SECRET_H
#define BASE_SECRET_H

#include <immintrin.h>
#include <sys/random.h>

#include "base/types.h"

/* Does not wait for the host's random numbers: where there are none yet, it is a worse one. */
static inline u64 secret_new(void)
{
	u64 v;

	return getrandom(&v, sizeof(v), GRND_NONBLOCK) == sizeof(v) ? v : __rdtsc() * 0x9e3779b97f4a7c15;
}

#endif
