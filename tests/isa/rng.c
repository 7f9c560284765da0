/* Numbers that find mistakes, and the two copies of the data they are put into. */
#include <string.h>

#include "isa.h"

static u64 rng_state[2];

static u64 splitmix(u64 *x)
{
	u64 z = *x += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

void rng_seed(u64 seed)
{
	rng_state[0] = splitmix(&seed);
	rng_state[1] = splitmix(&seed) | 1;
}

u64 rng(void)
{
	u64 a = rng_state[0], b = rng_state[1];

	rng_state[0] = b;
	a ^= a << 23;
	rng_state[1] = a ^ b ^ a >> 18 ^ b >> 5;
	return rng_state[1] + b;
}

u64 rng_value(void)
{
	u64 r = rng(), v = rng();
	unsigned bit = r >> 8 & 63;

	switch (r & 7) {
	case 0: return v & 0xff;
	case 1: return v >> bit;
	case 2: return (1ull << bit) + (s64)(r >> 16 & 3) - 1;
	case 3: return -(1ull << bit) + (s64)(r >> 16 & 3) - 1;
	case 4: return (u64)(s64)(s32)v;
	case 5: return (u64)(s64)(s8)v;
	default: return v;
	}
}

static u32 f32(void)
{
	static const u32 special[] = {0,          0x3f800000, 0x7f800000, 0x7fc00000, 0x7f800001,
				      0x00000001, 0x007fffff, 0x00800000, 0x7f7fffff, 0x4f000000,
				      0x5f000000, 0x4b000000, 0x3f000000, 0x7fbfffff};
	u64 r = rng();
	u32 v = r >> 32;

	switch (r & 3) {
	case 0: return special[(r >> 2) % ARRAY_SIZE(special)] | (v & 0x80000000);
	case 1: return (v & 0x807fffff) | (0x78u + (r >> 2 & 31)) << 23; /* about 1 to a million */
	case 2: return (v & 0x80ffffff) | 0x3f000000;
	default: return v;
	}
}

static u64 f64(void)
{
	static const u64 special[] = {
		0, 0x3ff0000000000000, 0x7ff0000000000000, 0x7ff8000000000000, 0x7ff0000000000001, 1,
		0x000fffffffffffff, 0x0010000000000000, 0x7fefffffffffffff, 0x41e0000000000000,
		0x43e0000000000000, 0x4330000000000000, 0x47efffffe0000000, 0x3810000000000000,
	};
	u64 r = rng(), v = rng();

	switch (r & 3) {
	case 0: return special[(r >> 2) % ARRAY_SIZE(special)] | (v & 1ull << 63);
	case 1: return (v & 0x800fffffffffffff) | (0x3f8ull + (r >> 2 & 127)) << 52;
	case 2: return (v & 0x801fffffffffffff) | 0x3fe0000000000000;
	default: return v;
	}
}

void rng_numbers(u8 *to, unsigned size)
{
	u64 kind = rng() % 6, same = rng_value();

	for (unsigned n = 0; n < size; n += 8) {
		u64 v;
		switch (kind) {
		case 0: v = rng(); break;
		case 1: v = f32() | (u64)f32() << 32; break;
		case 2: v = f64(); break;
		case 3: v = rng() & 0x8000ff7f00ff807f; break;
		case 4: v = rng_value(); break;
		default: v = rng_chance(4) ? rng() : same; break;
		}
		memcpy(to + n, &v, MIN(8u, size - n));
	}
}

/* --- Data --------------------------------------------------------------------------------------------------- */

static u8 original[DATA_SIZE];

void data_init(void)
{
	rng_seed(0x6973612d64617461);
	rng_numbers(original, sizeof(original) / 2);
	rng_numbers(original + sizeof(original) / 2, sizeof(original) / 2);
	data_restore();
}

void data_restore(void)
{
	memcpy(native_data(), original, DATA_SIZE);
	memcpy(guest_data(), original, DATA_SIZE);
}

void poke(u64 la, const void *from, unsigned size)
{
	const u8 *p = from;

	for (unsigned n = 0; n < size; n++)
		if (la + n - DATA_BASE < DATA_SIZE)
			native_data()[la + n - DATA_BASE] = guest_data()[la + n - DATA_BASE] = p[n];
}
