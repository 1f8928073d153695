/*
 * st_dtype.c - element types of weight files and their conversions
 *
 * Narrowing rounds to nearest even; bf16 and f16 widen exactly.  Loads and stores go through memcpy because tensors in
 * a file need not be aligned.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "safetensors.h"
#include <string.h>

static const struct { const char *name, *torch, *word; size_t size; } dtypes[ST_DTYPES] = {
	[ST_F32] = { "F32", "float32", "f32", 4 },
	[ST_F16] = { "F16", "float16", "f16", 2 },
	[ST_BF16] = { "BF16", "bfloat16", "bf16", 2 },
	[ST_F64] = { "F64", "?", "?", 8 },
	[ST_I64] = { "I64", "?", "?", 8 },
	[ST_I32] = { "I32", "?", "?", 4 },
	[ST_I16] = { "I16", "?", "?", 2 },
	[ST_I8] = { "I8", "?", "?", 1 },
	[ST_U64] = { "U64", "?", "?", 8 },
	[ST_U32] = { "U32", "?", "?", 4 },
	[ST_U16] = { "U16", "?", "?", 2 },
	[ST_U8] = { "U8", "?", "?", 1 },
	[ST_BOOL] = { "BOOL", "?", "?", 1 },
	[ST_F8_E4M3] = { "F8_E4M3", "?", "?", 1 },
	[ST_F8_E5M2] = { "F8_E5M2", "?", "?", 1 },
};

size_t st_dtype_size(int dtype)
{
	return dtypes[dtype].size;
}

const char *st_dtype_name(int dtype)
{
	return dtypes[dtype].name;
}

const char *st_dtype_torch(int dtype)
{
	return dtypes[dtype].torch;
}

int st_dtype_parse(const char *s)
{
	for (int i = ST_F32; i <= ST_BF16; i++)
		if (!strcmp(s, dtypes[i].name) || !strcmp(s, dtypes[i].torch) || !strcmp(s, dtypes[i].word))
			return i;
	return -1;
}

static uint32_t bits_of(float f)
{
	uint32_t u;

	memcpy(&u, &f, 4);
	return u;
}

static float f16_widen(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, man = h & 1023, u;
	float f;

	if (exp == 0) {
		f = (float)man * 0x1p-24f;
		u = bits_of(f) | sign;
	} else if (exp == 31) {
		u = sign | 0x7f800000u | man << 13;
	} else {
		u = sign | (exp + 112) << 23 | man << 13;
	}
	memcpy(&f, &u, 4);
	return f;
}

static uint16_t f16_narrow(float f)
{
	uint32_t u = bits_of(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;

	if (a > 0x7f800000u)
		return (uint16_t)(sign | 0x7e00);
	if (a >= 0x477ff000u)              /* 65520 and above round to infinity */
		return (uint16_t)(sign | 0x7c00);
	if (a < 0x38800000u) {             /* below 2^-14: the float adder rounds to the subnormal grid */
		float t;
		memcpy(&t, &a, 4);
		t += 0.5f;
		return (uint16_t)(sign | (bits_of(t) - 0x3f000000u));
	}
	a += 0xfff + (a >> 13 & 1);
	return (uint16_t)(sign | (a - 0x38000000u) >> 13);
}

static uint16_t bf16_narrow(float f)
{
	uint32_t u = bits_of(f);

	if ((u & 0x7fffffffu) > 0x7f800000u)
		return (uint16_t)(u >> 16 | 0x40);
	return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

void st_to_f32(float *dst, const void *src, int dtype, int64_t n)
{
	const unsigned char *s = src;
	uint16_t h;

	switch (dtype) {
	case ST_F32:
		memcpy(dst, src, (size_t)n * 4);
		return;
	case ST_BF16:
		for (int64_t i = 0; i < n; i++) {
			memcpy(&h, s + 2 * i, 2);
			uint32_t u = (uint32_t)h << 16;
			memcpy(dst + i, &u, 4);
		}
		return;
	case ST_F16:
		for (int64_t i = 0; i < n; i++) {
			memcpy(&h, s + 2 * i, 2);
			dst[i] = f16_widen(h);
		}
		return;
	}
	BUG("dtype %d is not a float that converts", dtype);
}

void st_from_f32(void *dst, int dtype, const float *src, int64_t n)
{
	unsigned char *d = dst;
	uint16_t h;

	switch (dtype) {
	case ST_F32:
		memcpy(dst, src, (size_t)n * 4);
		return;
	case ST_BF16:
		for (int64_t i = 0; i < n; i++) {
			h = bf16_narrow(src[i]);
			memcpy(d + 2 * i, &h, 2);
		}
		return;
	case ST_F16:
		for (int64_t i = 0; i < n; i++) {
			h = f16_narrow(src[i]);
			memcpy(d + 2 * i, &h, 2);
		}
		return;
	}
	BUG("dtype %d is not a float that converts", dtype);
}
