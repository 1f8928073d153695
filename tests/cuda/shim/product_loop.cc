/*
 * product_loop.cc - the shim's matrix products: plain loops in place of cuBLASLt, and what it would refuse
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../../kernels/cuda/cuda.h"
#include <stdio.h>
#include <stdlib.h>

struct products {
	int open;
};

struct products *products_open(struct dev *)
{
	return (struct products *)calloc(1, sizeof(struct products));
}

void products_close(struct products *g)
{
	free(g);
}

static float get(const void *p, int dtype, int64_t i)
{
	return dtype == DT_E4M3 ? e4m3_to_f32(((const uint8_t *)p)[i]) : dtype == DT_BF16 ? bf16_to_f32(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

static void put(void *p, int dtype, int64_t i, float x)
{
	if (dtype == DT_BF16)
		((uint16_t *)p)[i] = f32_to_bf16(x);
	else
		((float *)p)[i] = x;
}

static void refuse(int bad, const char *what)
{
	if (bad) {
		fprintf(stderr, "cuda shim: product of %s\n", what);
		abort();
	}
}

/* A factor as dense f32 [rows, cols], so that the loops below run over neighbours */
static float *dense(const struct factor &f, int64_t rows, int64_t cols, int trans)
{
	float *x = (float *)malloc((size_t)(rows * cols + 1) * sizeof *x);
	for (int64_t r = 0; r < rows; r++)
		for (int64_t c = 0; c < cols; c++)
			x[r * cols + c] = get(f.p, f.dtype, trans ? c * f.ld + r : r * f.ld + c);
	return x;
}

static void multiply(const struct product_args *q)
{
	shim_access(1);
	float *a = dense(q->A, q->M, q->K, q->A.trans), *b = dense(q->B, q->N, q->K, !q->B.trans);
	for (int64_t m = 0; m < q->M; m++)
		for (int64_t n = 0; n < q->N; n++) {
			const float *x = a + m * q->K, *y = b + n * q->K;
			float s = 0;
			for (int64_t k = 0; k < q->K; k++)
				s += x[k] * y[k];
			if (q->scale_a)
				s *= *q->scale_a * *q->scale_b;
			if (q->bias.p)
				s += get(q->bias.p, q->bias.dtype, n);
			if (q->res.p)
				s += get(q->res.p, q->res.dtype, m * q->ldc + n);
			if (q->acc)
				s += get(q->C, q->c_dtype, m * q->ldc + n);
			put(q->C, q->c_dtype, m * q->ldc + n, s);
		}
	free(a);
	free(b);
	shim_access(0);
}

void product_direct(struct dev *d, const struct product_args *q)
{
	refuse(q->A.dtype != q->B.dtype, "factors of two dtypes");
	refuse(q->A.dtype == DT_F32 && q->c_dtype != DT_F32, "f32 factors with a bf16 result");
	refuse(q->bias.p && q->bias.dtype != q->c_dtype, "a result and a bias of two dtypes");
	refuse(q->res.p && (q->res.dtype != q->c_dtype || q->acc), "a residual that beta cannot carry");
	refuse(q->A.dtype == DT_E4M3 && (!q->scale_a || q->A.trans || !q->B.trans || q->M % 16 || q->N % 16 || q->K % 16),
	       "8-bit factors that tensor cores do not take");
	if (!d->planning)
		shim_do(d->stream, [args = *q]() { multiply(&args); });
}
