/* Integer code: arithmetic, a hash, sorting, indirect branches, calls, atomic operations. */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

uint64_t integer_mix(void)
{
	static uint32_t table[4096];
	uint64_t random = 88172645463325252, sum = 0;

	memset(table, 0, sizeof(table));
	for (unsigned i = 1; i <= 100000; i++) {
		uint64_t x = bench_random(&random);
		uint32_t *slot = &table[x >> 52], n = (uint32_t)x | 1;

		*slot += n;
		sum += (uint64_t)__builtin_popcount(n) * *slot;
		if (!(i & 7))
			sum ^= x / (n >> 7 | 3);
		if (n & 0x100)
			sum = sum << 7 | sum >> 57;
		else if (*slot % 10 > 5)
			sum -= x >> (i & 31);
	}
	return sum;
}

/* SHA-256 (FIPS 180-4) of 128 KiB. */
static uint32_t sha_k[64];
static unsigned char sha_data[128 << 10];

static uint32_t rotr(uint32_t x, unsigned n)
{
	return x >> n | x << (32 - n);
}

/* The constants are the fractions of the cube roots of the first primes. */
static void sha_setup(void)
{
	uint64_t random = 1;

	for (unsigned n = 2, i = 0; i < 64; n++) {
		unsigned __int128 cube = (unsigned __int128)n << 96;
		uint64_t root = 0;
		unsigned d = 2;

		while (d * d <= n && n % d)
			d++;
		if (d * d <= n)
			continue;
		for (int bit = 34; bit >= 0; bit--) {
			uint64_t r = root | 1ull << bit;

			if ((unsigned __int128)r * r * r <= cube)
				root = r;
		}
		sha_k[i++] = (uint32_t)root;
	}
	for (size_t i = 0; i < sizeof(sha_data); i++)
		sha_data[i] = (unsigned char)bench_random(&random);
}

static void sha_block(uint32_t h[8], const unsigned char *p)
{
	uint32_t w[64], s[8];

	for (int i = 0; i < 16; i++) {
		memcpy(&w[i], p + 4 * i, 4);
		w[i] = __builtin_bswap32(w[i]);
	}
	for (int i = 16; i < 64; i++)
		w[i] = w[i - 16] + w[i - 7] + (rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ w[i - 15] >> 3) +
		       (rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ w[i - 2] >> 10);
	memcpy(s, h, sizeof(s));
	for (int i = 0; i < 64; i++) {
		uint32_t t1 = s[7] + (rotr(s[4], 6) ^ rotr(s[4], 11) ^ rotr(s[4], 25)) +
			      ((s[4] & s[5]) ^ (~s[4] & s[6])) + sha_k[i] + w[i];
		uint32_t t2 = (rotr(s[0], 2) ^ rotr(s[0], 13) ^ rotr(s[0], 22)) +
			      ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));

		memmove(s + 1, s, 7 * sizeof(s[0]));
		s[4] += t1;
		s[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h[i] += s[i];
}

static uint64_t sha_unit(void)
{
	uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab,
			 0x5be0cd19};

	for (size_t i = 0; i < sizeof(sha_data); i += 64)
		sha_block(h, sha_data + i);
	return bench_sum(0, h, sizeof(h));
}

#define SORTED 16384

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static uint64_t sort_unit(void)
{
	static uint32_t v[SORTED];
	uint64_t random = 1234567;

	for (size_t i = 0; i < SORTED; i++)
		v[i] = (uint32_t)bench_random(&random);
	qsort(v, SORTED, sizeof(v[0]), by_value);
	return bench_sum(0, v, sizeof(v));
}

/* A machine of 8 registers whose program sieves primes: an indirect jump each instruction. */
enum op { SET, ADD, MUL, LESS, LOAD, STORE, ADDI, JZ, JMP, MOV, END };

static const int16_t sieve[][4] = {
	/* 0 */ {SET, 0, 2},	 /* r0 = i */
	/* 1 */ {SET, 7, 4000},	 /* r7 = limit */
	/* 2 */ {SET, 5, 1},
	/* 3 */ {LESS, 1, 0, 7}, /* while r0 < limit */
	/* 4 */ {JZ, 1, 19},
	/* 5 */ {LOAD, 2, 0},	 /* composite? */
	/* 6 */ {JZ, 2, 9},
	/* 7 */ {ADDI, 0, 1},
	/* 8 */ {JMP, 0, 3},
	/* 9 */ {ADDI, 6, 1},	 /* r6 counts primes */
	/* 10 */ {MUL, 3, 0, 0},
	/* 11 */ {LESS, 4, 3, 7},
	/* 12 */ {JZ, 4, 7},
	/* 13 */ {STORE, 5, 3},
	/* 14 */ {ADD, 3, 3, 0},
	/* 15 */ {MOV, 2, 3},
	/* 16 */ {LESS, 4, 2, 7},
	/* 17 */ {JZ, 4, 7},
	/* 18 */ {JMP, 0, 13},
	/* 19 */ {END, 0, 0},
};

static uint64_t bytecode_once(void)
{
	static const void *const labels[] = {&&set, &&add, &&mul, &&less, &&load, &&store, &&addi, &&jz, &&jmp, &&mov,
					     &&end};
	static unsigned char memory[4000];
	int64_t r[8] = {0};
	const int16_t *i = sieve[0];

#define NEXT                                                                                                           \
	do {                                                                                                           \
		i += 4;                                                                                                \
		goto *labels[*i];                                                                                      \
	} while (0)
	memset(memory, 0, sizeof(memory));
	goto *labels[*i];
set:	r[i[1]] = i[2];
	NEXT;
add:	r[i[1]] = r[i[2]] + r[i[3]];
	NEXT;
mul:	r[i[1]] = r[i[2]] * r[i[3]];
	NEXT;
less:	r[i[1]] = r[i[2]] < r[i[3]];
	NEXT;
load:	r[i[1]] = memory[r[i[2]]];
	NEXT;
store:	memory[r[i[2]]] = (unsigned char)r[i[1]];
	NEXT;
addi:	r[i[1]] += i[2];
	NEXT;
mov:	r[i[1]] = r[i[2]];
	NEXT;
jz:	i = r[i[1]] ? i + 4 : sieve[i[2]];
	goto *labels[*i];
jmp:	i = sieve[i[2]];
	goto *labels[*i];
end:	return (uint64_t)r[6];
#undef NEXT
}

static uint64_t bytecode_unit(void)
{
	uint64_t sum = 0;

	for (int i = 0; i < 20; i++)
		sum += bytecode_once();
	return sum;
}

__attribute__((noipa)) static unsigned fib(unsigned n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t fib_unit(void)
{
	return fib(25);
}

static uint64_t atomic_unit(void)
{
	static uint64_t counter, word;

	__atomic_store_n(&counter, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&word, 1, __ATOMIC_SEQ_CST);
	for (uint64_t i = 0; i < 50000; i++) {
		uint64_t old = word;

		__atomic_fetch_add(&counter, i, __ATOMIC_SEQ_CST);
		__atomic_compare_exchange_n(&word, &old, old * 3, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	}
	return counter + word;
}

const struct bench_test integer_tests[] = {
	{"mix", "integer", 1, 0, NULL, integer_mix},
	{"sha256", "integer", 1, 0, sha_setup, sha_unit},
	{"qsort", "integer", 1, 0, NULL, sort_unit},
	{"bytecode", "integer", 1, 0, NULL, bytecode_unit},
	{"fib", "integer", 1, 0, NULL, fib_unit},
	{"atomics", "integer", 100000, 0, NULL, atomic_unit},
	{NULL},
};

const struct bench_test smp_tests[] = {
	{"busy_1", "smp", 1, 1, NULL, integer_mix},
	{"busy_2", "smp", 1, 2, NULL, integer_mix},
	{NULL},
};
