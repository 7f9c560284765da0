/* Floating point: scalar and vector SSE2, x87. */
#include <emmintrin.h>
#include <math.h>
#include <string.h>

#include "bench.h"

#define BODIES 5
#define MATRIX 96

struct body {
	double at[3], v[3], mass;
};

/* Bodies that attract each other, from made-up places. */
static uint64_t nbody_unit(void)
{
	struct body b[BODIES];

	for (int i = 0; i < BODIES; i++)
		for (int k = 0; k < 3; k++) {
			b[i].at[k] = i * 1.5 + k * 0.7 - 3;
			b[i].v[k] = 0.1 * (i - k);
			b[i].mass = 1.0 / (1 + i);
		}
	for (int step = 0; step < 5000; step++) {
		for (int i = 0; i < BODIES; i++)
			for (int j = i + 1; j < BODIES; j++) {
				double d[3], square = 0.01, force;

				for (int k = 0; k < 3; k++) {
					d[k] = b[i].at[k] - b[j].at[k];
					square += d[k] * d[k];
				}
				force = 0.001 / (square * sqrt(square));
				for (int k = 0; k < 3; k++) {
					b[i].v[k] -= d[k] * b[j].mass * force;
					b[j].v[k] += d[k] * b[i].mass * force;
				}
			}
		for (int i = 0; i < BODIES; i++)
			for (int k = 0; k < 3; k++)
				b[i].at[k] += 0.001 * b[i].v[k];
	}
	return bench_sum(0, b, sizeof(b));
}

static double left[MATRIX][MATRIX], right[MATRIX][MATRIX], product[MATRIX][MATRIX];

static void matmul_setup(void)
{
	for (int i = 0; i < MATRIX; i++)
		for (int j = 0; j < MATRIX; j++) {
			left[i][j] = i - j * 0.5;
			right[i][j] = j + i * 0.25;
		}
}

static uint64_t matmul_unit(void)
{
	memset(product, 0, sizeof(product));
	for (int i = 0; i < MATRIX; i++)
		for (int k = 0; k < MATRIX; k++) {
			__m128d a = _mm_set1_pd(left[i][k]);

			for (int j = 0; j < MATRIX; j += 2) {
				__m128d p = _mm_loadu_pd(&product[i][j]);

				p = _mm_add_pd(p, _mm_mul_pd(a, _mm_loadu_pd(&right[k][j])));
				_mm_storeu_pd(&product[i][j], p);
			}
		}
	return bench_sum(0, product[MATRIX - 1], sizeof(product[0]));
}

/* The Mandelbrot set in extended precision. */
static uint64_t x87_unit(void)
{
	uint64_t sum = 0;

	for (int row = 0; row < 32; row++)
		for (int column = 0; column < 32; column++) {
			long double cx = column / 16.0L - 1.5L, cy = row / 16.0L - 1.0L, x = 0, y = 0;
			unsigned n = 0;

			while (n < 100 && x * x + y * y < 4) {
				long double t = x * x - y * y + cx;

				y = 2 * x * y + cy;
				x = t;
				n++;
			}
			sum = sum * 31 + n;
		}
	return sum;
}

const struct bench_test fp_tests[] = {
	{"nbody", "fp", 1, 0, NULL, nbody_unit},
	{"matmul", "fp", 1, 0, matmul_setup, matmul_unit},
	{"x87", "fp", 1, 0, NULL, x87_unit},
	{NULL},
};
