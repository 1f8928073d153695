/*
 * linear.cu - y = x W' + bias + res and both gradients, through the product library
 *
 * What the library does not take as it stands (factors of two dtypes, a bias or residual of another dtype than the
 * output, bf16 from f32 factors) is done in f32 on converted column tiles of bounded size.
 *
 * Few rows are always computed as FEW_ROWS of them, so that the library takes the same algorithm and a row has the same
 * bits however many go with it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "columns.cuh"

enum { TILE = 16 << 20, THREADS = 256 };

/* out [rows, cols] f32 dense = in with leading dimension ld */
static __global__ void widen_k(float *out, view in, int64_t rows, int64_t cols, int64_t ld)
{
	int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (i < rows * cols)
		out[i] = ld1(in, i / cols * ld + i % cols);
}

/* C [M, n0 .. n0+n) = [C +] [sa sb] tile [M,n] + bias + res */
static __global__ void settle_k(view C, int64_t ldc, const float *tile, view bias, view res, int64_t M, int64_t n0, int64_t n,
				int acc, const float *sa, const float *sb)
{
	int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (i >= M * n)
		return;
	int64_t m = i / n, c = n0 + i % n;
	float y = sa ? *sa * *sb * tile[i] : tile[i];
	if (bias.p)
		y += ld1(bias, c);
	if (res.p)
		y += ld1(res, m * ldc + c);
	if (acc)
		y += ld1(C, m * ldc + c);
	st1(C, m * ldc + c, y);
}

/* Stored rows x cols of a factor as dense f32 in slot s; one that is f32 already stays where it is */
static factor as_f32(struct dev *d, enum slot s, factor f, int64_t rows, int64_t cols)
{
	if (f.dtype == DT_F32)
		return f;
	float *out = (float *)scratch(d, s, (size_t)(rows * cols) * sizeof *out);
	view in = { (void *)f.p, f.dtype };
	LAUNCH(d, widen_k, blocks_for(rows * cols, THREADS), THREADS, 0, out, in, rows, cols, f.ld);
	return { out, DT_F32, f.trans, cols };
}

static void converted(struct dev *d, const product_args *q)
{
	int64_t wide = q->K > q->M ? q->K : q->M, step = TILE / (wide ? wide : 1);
	step = step < 256 ? 256 : step;
	view C = { q->C, q->c_dtype };
	factor A = as_f32(d, S_GEMM_A, q->A, q->A.trans ? q->K : q->M, q->A.trans ? q->M : q->K);
	for (int64_t n0 = 0; n0 < q->N; n0 += step) {
		int64_t n = q->N - n0 < step ? q->N - n0 : step;
		factor B = q->B;
		B.p = (const char *)B.p + (size_t)(B.trans ? n0 * B.ld : n0) * dtype_size(B.dtype);
		product_args t = *q;
		t.A = A;
		t.B = as_f32(d, S_GEMM_B, B, B.trans ? n : q->K, B.trans ? q->K : n);
		t.N = t.ldc = n;
		t.acc = 0;
		t.C = scratch(d, S_GEMM_C, (size_t)(q->M * n) * sizeof(float));
		t.c_dtype = DT_F32;
		t.bias = t.res = mat{};
		product_direct(d, &t);
		LAUNCH(d, settle_k, blocks_for(q->M * n, THREADS), THREADS, 0, C, q->ldc, (const float *)t.C, view_of(q->bias),
		       view_of(q->res), q->M, n0, n, q->acc, (const float *)NULL, (const float *)NULL);
	}
}

void product(struct dev *d, const product_args *q)
{
	if (q->M <= 0 || q->N <= 0)
		return;
	bool plain = q->A.dtype == q->B.dtype && (q->A.dtype == DT_BF16 || q->c_dtype == DT_F32);
	plain = plain && (!q->bias.p || q->bias.dtype == q->c_dtype) && (!q->res.p || q->res.dtype == q->c_dtype);
	if (plain)
		product_direct(d, q);
	else
		converted(d, q);
}

static factor factor_of(mat m, int trans)
{
	return { m.p, m.dtype, trans, m.cols };
}

void settle(struct dev *d, mat C, const float *tile, mat bias, mat res, const float *sa, const float *sb)
{
	int64_t n = C.rows * C.cols;
	LAUNCH(d, settle_k, blocks_for(n, THREADS), THREADS, 0, view_of(C), C.cols, tile, view_of(bias), view_of(res), C.rows, 0, C.cols, 0, sa,
	       sb);
}

static void few_rows(struct dev *d, mat y, mat x, mat W, mat bias, mat res)
{
	int64_t n = x.rows, O = W.rows, bytes = x.cols * (int64_t)dtype_size(x.dtype);
	char *in = (char *)scratch(d, S_FEW_X, (size_t)(FEW_ROWS * bytes));
	float *out = (float *)scratch(d, S_FEW_Y, (size_t)(FEW_ROWS * O) * sizeof *out);
	if (!d->planning) {
		CUDA(cudaMemcpyAsync(in, x.p, (size_t)(n * bytes), cudaMemcpyDeviceToDevice, d->stream));
		CUDA(cudaMemsetAsync(in + n * bytes, 0, (size_t)((FEW_ROWS - n) * bytes), d->stream));
	}
	mat all = { in, FEW_ROWS, x.cols, x.dtype, 0 };
	product_args q = { FEW_ROWS, O, W.cols, factor_of(all, 0), factor_of(W, 1), out, DT_F32, 0, O, {}, {}, NULL, NULL };
	product(d, &q);
	settle(d, y, out, bias, res, NULL, NULL);
}

/* y [N,O], x [N,I], W [O,I] */
void cuda_linear(struct dev *d, mat y, mat x, mat W, mat bias, mat res)
{
	if (W.dtype == DT_E4M3) {
		linear_e4m3(d, y, x, W, bias, res);
		return;
	}
	if (x.rows <= FEW_ROWS) {
		few_rows(d, y, x, W, bias, res);
		return;
	}
	product_args q = { x.rows, W.rows, W.cols, factor_of(x, 0), factor_of(W, 1), y.p, y.dtype, 0, W.rows, bias, res, NULL, NULL };
	product(d, &q);
}

/* dx [N,I] (=, +=) dy [N,O] W */
void cuda_linear_dx(struct dev *d, mat dx, mat dy, mat W, int acc)
{
	product_args q = { dy.rows, W.cols, W.rows, factor_of(dy, 0), factor_of(W, 0), dx.p, dx.dtype, acc, W.cols, {}, {}, NULL, NULL };
	product(d, &q);
}

struct bias_columns {
	enum { SUMS = 1 };
	view dy;
	int64_t O;
	__device__ __forceinline__ void add(float *s, int64_t n, int64_t c) const
	{
		s[0] += ld1(dy, n * O + c);
	}
};

/* dW [O,I] += dy' x;  dbias [O] += column sums of dy */
void cuda_linear_dw(struct dev *d, mat dW, mat dbias, mat dy, mat x)
{
	product_args q = { dy.cols, x.cols, x.rows, factor_of(dy, 1), factor_of(x, 0), dW.p, dW.dtype, 1, x.cols, {}, {}, NULL, NULL };
	if (dW.p)
		product(d, &q);
	mat out[1] = { dbias };
	bias_columns f = { view_of(dy), dy.cols };
	if (dbias.p)
		columns(d, out, f, dy.rows, dy.cols, 1);
}
