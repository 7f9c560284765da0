/* Copies of a few bytes whose number the compiler does not know: loads that may overlap instead of a call. */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <string.h>

#include "base/types.h"

static inline void copy_short(void *to, const void *from, size_t n)
{
	u8 *d = to;
	const u8 *s = from;
	u64 x, y;
	u32 p, q;

	if (n > 16) {
		memcpy(d, s, n);
	} else if (n >= 8) {
		memcpy(&x, s, 8);
		memcpy(&y, s + n - 8, 8);
		memcpy(d, &x, 8);
		memcpy(d + n - 8, &y, 8);
	} else if (n >= 4) {
		memcpy(&p, s, 4);
		memcpy(&q, s + n - 4, 4);
		memcpy(d, &p, 4);
		memcpy(d + n - 4, &q, 4);
	} else if (n) {
		u8 mid = s[n / 2], last = s[n - 1];
		d[0] = s[0];
		d[n / 2] = mid;
		d[n - 1] = last;
	}
}

#endif
