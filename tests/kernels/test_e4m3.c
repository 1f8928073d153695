/*
 * test_e4m3.c - 8-bit floats: all 256 codes by their definition, rounding as PyTorch's, saturation, what quantise leaves
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_ops.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

/* (-1)^s 2^(e-7) (1 + m/8);  e = 0: (-1)^s 2^-6 m/8;  e = 15, m = 7: NaN */
static void all_codes(void **state)
{
	(void)state;
	for (int q = 0; q < 256; q++) {
		int e = q >> 3 & 15, m = q & 7;
		double want = (q & 128 ? -1 : 1) * (e ? pow(2, e - 7) * (1 + m / 8.0) : pow(2, -6) * m / 8.0);
		float got = e4m3_to_f32((uint8_t)q);
		if (e == 15 && m == 7) {
			assert_true(isnan(got));
			assert_int_equal(f32_to_e4m3(got) & 127, 127);
			continue;
		}
		assert_true((double)got == want);
		assert_int_equal(f32_to_e4m3(got), q);
	}
}

static void as_pytorch(void **state)
{
	(void)state;
	FILE *f = fopen("tests/golden/e4m3.tsv", "r");
	uint32_t x, code, y;
	int n = 0;
	assert_non_null(f);
	for (; fscanf(f, "%x %x %x", &x, &code, &y) == 3; n++) {
		float in, out;
		memcpy(&in, &x, 4);
		memcpy(&out, &y, 4);
		if (isnan(in)) {
			assert_int_equal(f32_to_e4m3(in) & 127, 127);
			continue;
		}
		if (f32_to_e4m3(in) != code)
			fail_msg("%.9g: %02x, not %02x", (double)in, f32_to_e4m3(in), code);
		assert_true(e4m3_to_f32((uint8_t)code) == out);
	}
	assert_true(n > 1000);
	fclose(f);
}

static void saturates(void **state)
{
	(void)state;
	const float big[] = { 448, 449, 464, 1e9f, INFINITY };
	for (int i = 0; i < 5; i++) {
		assert_int_equal(f32_to_e4m3(big[i]), 0x7e);
		assert_int_equal(f32_to_e4m3(-big[i]), 0xfe);
	}
	assert_int_equal(f32_to_e4m3(0), 0);
	assert_int_equal(f32_to_e4m3(-0.0f), 0x80);
	assert_true(e4m3_factors(0).in == 1 && e4m3_factors(224).in == 2 && e4m3_factors(224).out == 0.5f);
}

/* In place, bf16 and f32: the largest becomes 448, zeros stay, relative error at most 2^-4 of normal numbers */
static void in_place(void **state)
{
	(void)state;
	const char *const name[] = { "ref", "cpu" };
	for (int i = 0; i < 4; i++) {
		struct backend b = backend_open(name[i / 2], 2);
		int dt = i % 2 ? DT_BF16 : DT_F32;
		enum { O = 5, I = 40 };
		mat W = { b.k->mem_alloc(b.d, O * I * 4), O, I, dt, 0 }, Q = W;
		float w[O * I], top = 0;
		Q.dtype = DT_E4M3;
		for (int k = 0; k < O * I; k++) {
			w[k] = k % 7 ? bf16_to_f32(f32_to_bf16((float)noise((uint64_t)k) * 0.1f)) : 0.0f;
			top = fmaxf(top, fabsf(w[k]));
			if (dt == DT_BF16)
				((uint16_t *)W.p)[k] = f32_to_bf16(w[k]);
			else
				((float *)W.p)[k] = w[k];
		}
		b.k->quantise(b.d, Q, W);
		float scale = *e4m3_scale(Q);
		assert_true(scale == top / 448);
		for (int k = 0; k < O * I; k++) {
			float v = scale * e4m3_to_f32(((uint8_t *)Q.p)[k]);
			assert_true(fabsf(v - w[k]) <= fmaxf(fabsf(w[k]) / 16, scale / 512) * 1.001f);
			assert_true(fabsf(w[k]) < top || fabsf(v - w[k]) <= top * 1e-6f);
		}
		b.k->mem_free(b.d, W.p, O * I * 4);
		backend_close(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_codes), cmocka_unit_test(as_pytorch), cmocka_unit_test(saturates), cmocka_unit_test(in_place)
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
