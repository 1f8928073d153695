/*
 * vec.h - one SIMD register of floats, for whichever instruction set the including file was compiled for
 *
 * Included after `#pragma GCC target`; W is the number of lanes.  Arithmetic is the compiler's vector extension, so
 * only what it cannot say (fma, sqrt, masked and bf16 access) differs between instruction sets.  Every access takes
 * the number of live lanes `n` (1..W): dead lanes read as 0 and are not written.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_VEC_H
#define ADZE_VEC_H
#include "cpu.h"
#include <immintrin.h>
#include <math.h>
#include <string.h>

#if defined(__AVX512F__)
#define W 16
#elif defined(__AVX2__)
#define W 8
#else
#define W 4
#endif
#define INLINE static inline __attribute__((always_inline, unused))

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W)));

INLINE vf vset(float x)
{
	return x - (vf){ 0 };
}

INLINE vf vsel(vi m, vf a, vf b) /* m ? a : b, lanes of m are 0 or -1 */
{
	return (vf)((m & (vi)a) | (~m & (vi)b));
}

INLINE int lanes(int64_t left)
{
	return left < W ? (int)left : W;
}

#if W == 16
INLINE vf vfma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vsqrt(vf a) { return _mm512_sqrt_ps(a); }
INLINE vf vmax(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf vmin(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE float vsum(vf a) { return _mm512_reduce_add_ps(a); }
INLINE float vtop(vf a) { return _mm512_reduce_max_ps(a); }
INLINE __mmask16 vlive(int n) { return (__mmask16)((1u << n) - 1u); }
INLINE vf ldf(const float *p, int n) { return _mm512_maskz_loadu_ps(vlive(n), p); }
INLINE void stf(float *p, vf x, int n) /* a masked store does not forward to the next load */
{
	if (n == W)
		_mm512_storeu_ps(p, x);
	else
		_mm512_mask_storeu_ps(p, vlive(n), x);
}
INLINE vf ldh(const uint16_t *p, int n)
{
	__m256i h = n == W ? _mm256_loadu_si256((const __m256i *)p) : _mm256_maskz_loadu_epi16(vlive(n), p);
	return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16);
}
#else
#if W == 8
INLINE vf vfma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf vsqrt(vf a) { return _mm256_sqrt_ps(a); }
INLINE vf vmax(vf a, vf b) { return _mm256_max_ps(a, b); }
#else
INLINE vf vfma(vf a, vf b, vf c) { return a * b + c; }
INLINE vf vsqrt(vf a) { return _mm_sqrt_ps(a); }
INLINE vf vmax(vf a, vf b) { return _mm_max_ps(a, b); }
#endif
INLINE float vsum(vf a)
{
	float s = 0;
	for (int i = 0; i < W; i++)
		s += a[i];
	return s;
}
INLINE float vtop(vf a)
{
	float s = a[0];
	for (int i = 1; i < W; i++)
		s = a[i] > s ? a[i] : s;
	return s;
}
INLINE vf ldf(const float *p, int n)
{
	vf x = { 0 };
	if (n == W)
		memcpy(&x, p, sizeof x);
	else
		for (int i = 0; i < n; i++)
			x[i] = p[i];
	return x;
}
INLINE void stf(float *p, vf x, int n)
{
	if (n == W)
		memcpy(p, &x, sizeof x);
	else
		for (int i = 0; i < n; i++)
			p[i] = x[i];
}
INLINE vf ldh(const uint16_t *p, int n)
{
	vh h = { 0 };
	if (n == W)
		memcpy(&h, p, sizeof h);
	else
		for (int i = 0; i < n; i++)
			h[i] = p[i];
	return (vf)(__builtin_convertvector(h, vu) << 16);
}
#endif

/* The upper halves after rounding to nearest even, still in place; NaN stays NaN. */
INLINE vu vround(vf x)
{
	vu u = (vu)x, r = u + 0x7fffu + ((u >> 16) & 1u);
	vu nan = (vu)(x != x);
	return (r & ~nan) | ((u | 0x400000u) & nan);
}

INLINE void sth(uint16_t *p, vf x, int n)
{
#if W == 16
#ifdef __AVX512BF16__
	__m256i h = (__m256i)_mm512_cvtneps_pbh(x);
#else
	__m256i h = _mm512_cvtepi32_epi16((__m512i)(vround(x) >> 16));
#endif
	if (n == W)
		_mm256_storeu_si256((__m256i *)p, h);
	else
		_mm256_mask_storeu_epi16(p, vlive(n), h);
#else
	vh h = __builtin_convertvector(vround(x) >> 16, vh);
	if (n == W)
		memcpy(p, &h, sizeof h);
	else
		for (int i = 0; i < n; i++)
			p[i] = h[i];
#endif
}

#ifdef __AVX512BF16__
/* lanes of bf16 pairs: a in the low half, b in the high half */
INLINE vu vpair(vf a, vf b)
{
	static const uint16_t turns[32] = { 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31 };
	return (vu)_mm512_permutexvar_epi16(_mm512_loadu_si512(turns), (__m512i)_mm512_cvtne2ps_pbh(b, a));
}
#endif

INLINE vf vld(const void *p, int dt, int64_t i, int n)
{
	return dt == DT_BF16 ? ldh((const uint16_t *)p + i, n) : ldf((const float *)p + i, n);
}

INLINE void vst(void *p, int dt, int64_t i, vf x, int n)
{
	if (dt == DT_BF16)
		sth((uint16_t *)p + i, x, n);
	else
		stf((float *)p + i, x, n);
}

/* e^x to 2 ulp; at most e^88.3; 0 below -104 (and at -inf), where there is no instruction that scales from -87.3 on; NaN stays */
INLINE vf vexp(vf x)
{
	vf big = vset(12582912.0f);
#if W == 16
	vf t = vmin(vset(88.3f), vmax(vset(-110.0f), x)); /* in this order NaN gets through */
	vf k = vfma(t, vset(1.44269504f), big) - big;
#else
	vi low = x < -87.3f;
	vf t = vsel(x > 88.3f, vset(88.3f), vsel(low, vset(0), x)), k = vfma(t, vset(1.44269504f), big);
	vi e = (vi)k - (vi)big;
	k -= big;
#endif
	vf r = vfma(k, vset(-0.693359375f), t);
	r = vfma(k, vset(2.12194440e-4f), r);
	vf y = vset(1.9875691500e-4f);
	y = vfma(y, r, vset(1.3981999507e-3f));
	y = vfma(y, r, vset(8.3334519073e-3f));
	y = vfma(y, r, vset(4.1665795894e-2f));
	y = vfma(y, r, vset(1.6666665459e-1f));
	y = vfma(y, r, vset(5.0000001201e-1f));
	y = vfma(y * r, r, r) + 1.0f;
#if W == 16
	return _mm512_scalef_ps(y, k);
#else
	return (vf)(~low & (vi)(y * (vf)((e + 127) << 23)));
#endif
}

/* natural logarithm of a positive normal number, to 2 ulp; exactly 0 at 1 */
INLINE vf vlog(vf x)
{
	vi i = (vi)x - 0x3f3504f3, e = i >> 23;        /* mantissa in [sqrt(1/2), sqrt(2)) */
	vf f = (vf)((i & 0x7fffff) + 0x3f3504f3) - 1.0f, n = __builtin_convertvector(e, vf), q = f * f;
	vf y = vset(7.0376836292e-2f);
	y = vfma(y, f, vset(-1.1514610310e-1f));
	y = vfma(y, f, vset(1.1676998740e-1f));
	y = vfma(y, f, vset(-1.2420140846e-1f));
	y = vfma(y, f, vset(1.4249322787e-1f));
	y = vfma(y, f, vset(-1.6668057665e-1f));
	y = vfma(y, f, vset(2.0000714765e-1f));
	y = vfma(y, f, vset(-2.4999993993e-1f));
	y = vfma(y, f, vset(3.3333331174e-1f));
	y = vfma(n, vset(-2.12194440e-4f), y * f * q);
	return vfma(n, vset(0.693359375f), f + vfma(q, vset(-0.5f), y));
}
#endif
