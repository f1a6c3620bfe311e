/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matrix product and fast Fourier transform in double precision. Both are built for plain
 * x86-64 and for AVX2 with FMA, and the C library picks by what the CPU says it has, as
 * numerical libraries do.
 */
#include <complex.h>
#include <math.h>
#include <stdlib.h>

#include "bench.h"

#define CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#define MATRIX_N 512
#define FFT_LOG 16
#define FFT_ROUNDS 120

static double a[MATRIX_N][MATRIX_N], b[MATRIX_N][MATRIX_N], c[MATRIX_N][MATRIX_N];

CLONES static void multiply(void)
{
	for (int i = 0; i < MATRIX_N; i++)
		for (int k = 0; k < MATRIX_N; k++) {
			double x = a[i][k];

			for (int j = 0; j < MATRIX_N; j++)
				c[i][j] += x * b[k][j];
		}
}

double bench_matrix(void)
{
	double sum = 0;

	for (int i = 0; i < MATRIX_N; i++)
		for (int j = 0; j < MATRIX_N; j++) {
			a[i][j] = (i * 3 + j) % 17 - 8;
			b[i][j] = (i + j * 5) % 13 - 6;
			c[i][j] = 0;
		}
	for (int round = 0; round < 8; round++)
		multiply();
	for (int i = 0; i < MATRIX_N; i++)
		sum += c[i][(i * 7) % MATRIX_N];
	return sum;
}

/* Radix 2, in place, decimation in time; re and im apart so that the inner loop vectorises. */
CLONES static void transform(double *restrict re, double *restrict im, const double *restrict wr,
			     const double *restrict wi, int log_n)
{
	int n = 1 << log_n;

	for (int i = 1, j = 0; i < n; i++) {
		int bit = n >> 1;

		for (; j & bit; bit >>= 1)
			j ^= bit;
		j |= bit;
		if (i < j) {
			double t = re[i];

			re[i] = re[j];
			re[j] = t;
			t = im[i];
			im[i] = im[j];
			im[j] = t;
		}
	}
	for (int half = 1; half < n; half <<= 1)
		for (int start = 0; start < n; start += 2 * half) {
			double *restrict r0 = re + start, *restrict r1 = re + start + half;
			double *restrict i0 = im + start, *restrict i1 = im + start + half;
			const double *restrict cr = wr + half, *restrict ci = wi + half;

			for (int k = 0; k < half; k++) {
				double tr = r1[k] * cr[k] - i1[k] * ci[k];
				double ti = r1[k] * ci[k] + i1[k] * cr[k];

				r1[k] = r0[k] - tr;
				i1[k] = i0[k] - ti;
				r0[k] += tr;
				i0[k] += ti;
			}
		}
}

double bench_fft(void)
{
	int n = 1 << FFT_LOG;
	double *re = calloc((size_t)n, sizeof(double)), *im = calloc((size_t)n, sizeof(double));
	double *wr = calloc((size_t)n, sizeof(double)), *wi = calloc((size_t)n, sizeof(double));
	double sum = 0;

	if (!re || !im || !wr || !wi)
		abort();
	for (int half = 1; half < n; half <<= 1)
		for (int k = 0; k < half; k++) {
			wr[half + k] = cos(-M_PI * k / half);
			wi[half + k] = sin(-M_PI * k / half);
		}
	for (int i = 0; i < n; i++)
		re[i] = (i * 37) % 101 - 50;
	for (int round = 0; round < FFT_ROUNDS; round++) {
		transform(re, im, wr, wi, FFT_LOG);
		for (int i = 0; i < n; i++) {
			re[i] /= 256;
			im[i] /= 256;
		}
	}
	for (int i = 0; i < n; i += 97)
		sum += re[i] - im[i];
	free(re);
	free(im);
	free(wr);
	free(wi);
	return sum;
}
