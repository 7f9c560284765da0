/* Bits of arrays of bytes. */
#ifndef BASE_BITS_H
#define BASE_BITS_H

#include "base/types.h"

static inline bool bit_get(const u8 *map, unsigned i)
{
	return map[i / 8] >> i % 8 & 1;
}

static inline void bit_set(u8 *map, unsigned i, bool to)
{
	u8 bit = (u8)BIT(i % 8);

	map[i / 8] = (u8)(to ? map[i / 8] | bit : map[i / 8] & ~bit);
}

#endif
