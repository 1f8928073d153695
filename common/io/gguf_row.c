/*
 * gguf_row.c - rows of GGUF tensors as f32
 *
 * Q8_0: 32 x (i8 * d).   Q4_0: 32 x ((q - 8) * d).   Q4_1: 32 x (q * d + m).   d and m are f16; of the 16 bytes of a 4-bit
 * block the low halves are elements 0..15 and the high halves 16..31.  The products are rounded to f32 before the sum,
 * as llama.cpp and its Python package do.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "gguf.h"
#include "safetensors.h"
#include <sys/mman.h>
#include <unistd.h>

static float half(const unsigned char *p)
{
	float f;

	st_to_f32(&f, p, ST_F16, 1);
	return f;
}

void gguf_row(const struct gguf_tensor *t, int64_t r, float *dst)
{
	const unsigned char *p = t->data + (size_t)r * t->row_bytes;

	switch (t->type) {
	case 0:
		st_to_f32(dst, p, ST_F32, t->cols);
		return;
	case 1:
		st_to_f32(dst, p, ST_F16, t->cols);
		return;
	case 30:
		st_to_f32(dst, p, ST_BF16, t->cols);
		return;
	}
	for (int64_t c = 0; c < t->cols; c += 32) {
		float d = half(p), *x = dst + c;
		if (t->type == 8) {
			for (int i = 0; i < 32; i++)
				x[i] = (float)(signed char)p[2 + i] * d;
			p += 34;
		} else if (t->type == 2) {
			for (int i = 0; i < 16; i++) {
				x[i] = (float)((p[2 + i] & 15) - 8) * d;
				x[i + 16] = (float)((p[2 + i] >> 4) - 8) * d;
			}
			p += 18;
		} else if (t->type == 3) {
			float m = half(p + 2);
			for (int i = 0; i < 16; i++) {
				x[i] = (float)(p[4 + i] & 15) * d + m;
				x[i + 16] = (float)(p[4 + i] >> 4) * d + m;
			}
			p += 20;
		} else {
			BUG("tensor type %d", t->type);
		}
	}
}

void gguf_release(const struct gguf_tensor *t)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), lo = (uintptr_t)t->data / page * page;

	madvise((void *)lo, (uintptr_t)t->data + t->bytes - lo, MADV_DONTNEED);
}
