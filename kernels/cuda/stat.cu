/*
 * stat.cu - statistics, losses between hidden states, gradients of masks
 *
 *   stat_width   sums over the rows of a sample in f64 (half rate on these GPUs, and memory is the limit): sum a, sum |a|,
 *                sum a^2; then m, l and v = sum a^2 / T - mean^2, which f64 makes exact enough for f32 inputs
 *   stat_contrib the same of a = ||z W_unit x_unit||
 *   mse          mean_c (a-b)^2            cosine, stat_cos   1 - cos(a,b), norms clamped at 1e-8
 * A block per row (a warp per unit) leaves its value in scratch; one block adds the rows in order.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "columns.cuh"
#include <math.h>

enum { THREADS = 256, LANES = THREADS / 32, COLS = 256, PIECE = 64 << 20 /* elements of a product */, BLOCKS = 1056 /* eight for each of 132 processors */ };

/* out[k] (f64) += sum over n rows of x [n, K] */
static __global__ void total_k(double *out, const double *x, int64_t n, int K)
{
	__shared__ double pad[32];
	for (int k = 0; k < K; k++) {
		double s[1] = { 0 };
		for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
			s[0] += x[i * K + k];
		block_sum(s, pad);
		if (threadIdx.x == 0)
			out[k] += s[0];
	}
}

void rows_total(struct dev *d, double *out, const double *x, int64_t n, int K)
{
	LAUNCH(d, total_k, 1, THREADS, 0, out, x, n, K);
}

/* norms [N*U] = L2 norm of each unit's columns; a warp each */
static __global__ void unit_norm_k(float *norms, view x, int64_t n, int unit)
{
	int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32;
	if (i >= n)
		return;
	float s = 0;
	for (int c = threadIdx.x % 32; c < unit; c += 32) {
		float v = ld1(x, i * unit + c);
		s += v * v;
	}
	s = warp_sum(s);
	if (threadIdx.x % 32 == 0)
		norms[i] = sqrtf(s);
}

/* norms[n * U] = L2 norm of row n of y [rows, O] times z; a block each */
static __global__ void row_norm_k(float *norms, const float *y, const float *z, int64_t O, int64_t U)
{
	__shared__ double pad[32];
	double s[1] = { 0 };
	for (int64_t o = threadIdx.x; o < O; o += blockDim.x) {
		float v = y[blockIdx.x * O + o] * (z ? z[o] : 1.0f);
		s[0] += v * v;
	}
	block_sum(s, pad);
	if (threadIdx.x == 0)
		norms[blockIdx.x * U] = (float)sqrt(s[0]);
}

/* part [samples, chunks, 3, U]: sums of a, |a| and a^2 over a chunk of a sample's rows; block (COLS units, chunk, sample), in which
 * each warp takes every LANES-th row and a thread eight neighbouring units */
static __global__ void width_k(double *part, view x, int64_t T, int64_t U, int64_t step, bool vec)
{
	__shared__ double pad[LANES][COLS];
	int lane = threadIdx.x / 32, j = threadIdx.x % 32 * 8;
	int64_t c = (int64_t)blockIdx.x * COLS + j, s0 = blockIdx.z * T, t0 = blockIdx.y * step, t1 = t0 + step < T ? t0 + step : T;
	int64_t u = (int64_t)blockIdx.x * COLS + threadIdx.x, to = ((int64_t)blockIdx.z * gridDim.y + blockIdx.y) * 3;
	double sum[3][8] = {};
	float a[8];
#pragma unroll 4
	for (int64_t t = t0 + lane; t < t1; t += LANES) {
		ld8(a, x, (s0 + t) * U + c, U - c, vec && c < U);
#pragma unroll
		for (int k = 0; k < 8; k++) {
			double v = a[k];
			sum[0][k] += v;
			sum[1][k] += fabs(v);
			sum[2][k] += v * v;
		}
	}
#pragma unroll
	for (int q = 0; q < 3; q++) {
		__syncthreads();           /* readers of the sum before are done */
#pragma unroll
		for (int k = 0; k < 8; k++)
			pad[lane][j + k] = sum[q][k];
		__syncthreads();
		double s = 0;
		for (int l = 0; l < LANES; l++)
			s += pad[l][threadIdx.x];
		if (u < U)
			part[(to + q) * U + u] = s;
	}
}

/* acc [STAT_ROWS, U] += what follows from each sample's sums */
static __global__ void samples_k(double *acc, const double *part, int64_t samples, int64_t chunks, int64_t T, int64_t U)
{
	int64_t u = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (u >= U)
		return;
	double total[STAT_ROWS] = {};
	for (int64_t n = 0; n < samples; n++) {
		double s[3] = {};
		for (int64_t p = 0; p < chunks; p++)
#pragma unroll
			for (int q = 0; q < 3; q++)
				s[q] += part[((n * chunks + p) * 3 + q) * U + u];
		double m = s[1] / (double)T, mean = s[0] / (double)T, v = s[2] / (double)T - mean * mean;
		v = v > 0 ? v : 0;
		const double row[STAT_ROWS] = { s[0], m, m * m, sqrt(s[2]), s[2], v, v * v };
#pragma unroll
		for (int r = 0; r < STAT_ROWS; r++)
			total[r] += row[r];
	}
#pragma unroll
	for (int r = 0; r < STAT_ROWS; r++)
		acc[r * U + u] += total[r];
}

struct pair {
	view a, b, da;
	const int32_t *label;      /* or NULL */
	int64_t C;
	float coef;
	const float *live;         /* coef in device memory, or NULL */
	int acc;
	bool vec;
};

/* Whether row n counts for nothing: its value and gradient then are 0 */
static __device__ __forceinline__ bool skipped(const pair &p, int64_t n, double *value)
{
	if (!p.label || p.label[n] >= 0)
		return false;
	float zero[8] = {};
	for (int64_t c = 8 * (int64_t)threadIdx.x; p.da.p && !p.acc && c < p.C; c += 8 * (int64_t)blockDim.x)
		st8(p.da, n * p.C + c, zero, p.C - c, p.vec);
	if (threadIdx.x == 0)
		*value = 0;
	return true;
}

static __device__ __forceinline__ float coef_of(const pair &p)
{
	return p.live ? *p.live : p.coef;
}

static __global__ void mse_k(double *value, pair p)
{
	__shared__ double pad[32];
	int64_t n = blockIdx.x, at = n * p.C;
	if (skipped(p, n, value + n))
		return;
	float a[8], b[8], g = 2 * coef_of(p) / (float)p.C;
	double s[1] = { 0 };
	for (int64_t c = 8 * (int64_t)threadIdx.x; c < p.C; c += 8 * (int64_t)blockDim.x) {
		float part = 0;
		ld8(a, p.a, at + c, p.C - c, p.vec);
		ld8(b, p.b, at + c, p.C - c, p.vec);
#pragma unroll
		for (int k = 0; k < 8; k++) {
			float e = a[k] - b[k];
			part += e * e;
			a[k] = g * e;
		}
		s[0] += part;
		if (p.da.p)
			put8(p.da, at + c, a, p.C - c, p.vec, p.acc);
	}
	block_sum(s, pad);
	if (threadIdx.x == 0)
		value[n] = s[0] / (double)p.C;
}

static __global__ void cosine_k(double *value, pair p)
{
	__shared__ double pad[3 * 32];
	int64_t n = blockIdx.x, at = n * p.C;
	if (skipped(p, n, value + n))
		return;
	float a[8], b[8];
	double s[3] = { 0, 0, 0 };     /* a.a, b.b, a.b */
	for (int64_t c = 8 * (int64_t)threadIdx.x; c < p.C; c += 8 * (int64_t)blockDim.x) {
		float part[3] = { 0, 0, 0 };
		ld8(a, p.a, at + c, p.C - c, p.vec);
		ld8(b, p.b, at + c, p.C - c, p.vec);
#pragma unroll
		for (int k = 0; k < 8; k++) {
			part[0] += a[k] * a[k];
			part[1] += b[k] * b[k];
			part[2] += a[k] * b[k];
		}
		s[0] += part[0], s[1] += part[1], s[2] += part[2];
	}
	block_sum(s, pad);
	double ka = fmax(s[0], 1e-16), r = 1.0 / sqrt(ka * fmax(s[1], 1e-16)), cs = s[2] * r;
	if (threadIdx.x == 0)
		value[n] = 1.0 - cs;
	float coef = coef_of(p), drop = (float)(s[0] > 1e-16 ? cs / ka : 0.0) * coef, rb = (float)r * coef; /* a clamped norm is a constant */
	for (int64_t c = 8 * (int64_t)threadIdx.x; p.da.p && c < p.C; c += 8 * (int64_t)blockDim.x) {
		ld8(a, p.a, at + c, p.C - c, p.vec);
		ld8(b, p.b, at + c, p.C - c, p.vec);
#pragma unroll
		for (int k = 0; k < 8; k++)
			a[k] = a[k] * drop - b[k] * rb;
		put8(p.da, at + c, a, p.C - c, p.vec, p.acc);
	}
}

static __global__ void sumsq_k(double *part, view x, int64_t n, bool vec)
{
	__shared__ double pad[32];
	double s[1] = { 0 };
	float a[8];
	for (int64_t i = 8 * ((int64_t)blockIdx.x * blockDim.x + threadIdx.x); i < n; i += 8 * (int64_t)blockDim.x * gridDim.x) {
		float q = 0;
		ld8(a, x, i, n - i, vec && n - i >= 8);
#pragma unroll
		for (int k = 0; k < 8; k++)
			q += a[k] * a[k];
		s[0] += q;
	}
	block_sum(s, pad);
	if (threadIdx.x == 0)
		part[blockIdx.x] = s[0];
}

/* acc[1] += n */
static __global__ void count_k(double *acc, double n)
{
	acc[1] += n;
}

struct mask_columns {
	enum { SUMS = 1 };
	view dy, x;
	int64_t C;
	__device__ __forceinline__ void add(float *s, int64_t n, int64_t c) const
	{
		s[0] += ld1(dy, n * C + c) * ld1(x, n * C + c);
	}
};

/* ---- */

void cuda_mask_dz(struct dev *d, mat dz, mat dy, mat x)
{
	mat out[1] = { dz };
	mask_columns f = { view_of(dy), view_of(x), dy.cols };
	columns(d, out, f, dy.rows, dy.cols, dy.cols / dz.cols);
}

/* acc += the seven sums of a [N,U] */
static void width_of(struct dev *d, mat acc, mat a, int64_t T)
{
	int64_t U = a.cols, samples = a.rows / T, blocks = samples * (int64_t)blocks_for(U, COLS);
	if (!blocks)
		return;
	int64_t chunks = (BLOCKS + blocks - 1) / blocks, most = (T + 63) / 64; /* so many that all processors have work */
	chunks = chunks > most ? most : chunks;
	double *part = (double *)scratch(d, S_PART, (size_t)(samples * chunks * 3 * U) * sizeof *part);
	LAUNCH(d, width_k, dim3(blocks_for(U, COLS), (unsigned)chunks, (unsigned)samples), THREADS, 0, part, view_of(a), T, U, (T + chunks - 1) / chunks,
	       vec_ok(U, a));
	LAUNCH(d, samples_k, blocks_for(U, 64), 64, 0, (double *)acc.p, part, samples, chunks, T, U);
}

static mat unit_values(struct dev *d, int64_t rows, int64_t U)
{
	return { scratch(d, S_UNITS, (size_t)(rows * U) * sizeof(float)), rows, U, DT_F32, 0 };
}

void cuda_stat_width(struct dev *d, mat acc, mat x, int64_t T, int unit)
{
	if (unit > 1) {
		mat a = unit_values(d, x.rows, x.cols / unit);
		LAUNCH(d, unit_norm_k, blocks_for(x.rows * a.cols, THREADS / 32), THREADS, 0, (float *)a.p, view_of(x), x.rows * a.cols,
		       unit);
		x = a;
	}
	width_of(d, acc, x, T);
}

/* What each unit adds to x W', a product per unit and piece of rows, of which only the norms stay */
void cuda_stat_contrib(struct dev *d, mat acc, mat x, mat W, mat z, int64_t T)
{
	int64_t U = acc.cols, unit = x.cols / U, O = W.rows, step = (PIECE + O - 1) / O;
	mat a = unit_values(d, x.rows, U);
	float *y = (float *)scratch(d, S_LOGIT_S, (size_t)((step < x.rows ? step : x.rows) * O) * sizeof *y);
	for (int64_t u = 0; u < U; u++)
		for (int64_t n0 = 0; n0 < x.rows; n0 += step) {
			int64_t n = x.rows - n0 < step ? x.rows - n0 : step;
			product_args q = { n, O, unit, { row_at(x, n0) + (size_t)(u * unit) * dtype_size(x.dtype), x.dtype, 0, x.cols },
					   { (char *)W.p + (size_t)(u * unit) * dtype_size(W.dtype), W.dtype, 1, W.cols }, y, DT_F32, 0, O, {}, {}, NULL, NULL };
			product(d, &q);
			LAUNCH(d, row_norm_k, (unsigned)n, row_threads(O), 0, (float *)a.p + n0 * U + u, y, (const float *)z.p, O, U);
		}
	width_of(d, acc, a, T);
}

static pair pair_of(mat da, mat a, mat b, mat label, float coef, const float *live, int acc)
{
	return { view_of(a), view_of(b), view_of(da), (const int32_t *)label.p, a.cols, coef, live, acc, vec_ok(a.cols, a, b, da) };
}

void cuda_mse(struct dev *d, mat sums, mat da, mat a, mat b, mat label, float coef, const float *live, int acc)
{
	double *value = (double *)scratch(d, S_ROWS, (size_t)(a.rows + 1) * sizeof *value);
	LAUNCH(d, mse_k, (unsigned)a.rows, row_threads(a.cols), 0, value, pair_of(da, a, b, label, coef, live, acc));
	rows_total(d, (double *)sums.p, value, a.rows, 1);
}

void cuda_cosine(struct dev *d, mat sums, mat da, mat a, mat b, mat label, float coef, const float *live, int acc)
{
	double *value = (double *)scratch(d, S_ROWS, (size_t)(a.rows + 1) * sizeof *value);
	LAUNCH(d, cosine_k, (unsigned)a.rows, row_threads(a.cols), 0, value, pair_of(da, a, b, label, coef, live, acc));
	rows_total(d, (double *)sums.p, value, a.rows, 1);
}

void cuda_stat_cos(struct dev *d, mat acc, mat a, mat b)
{
	cuda_cosine(d, acc, mat{}, a, b, mat{}, 0, NULL, 0);
	LAUNCH(d, count_k, 1, 1, 0, (double *)acc.p, (double)a.rows);
}

/* step_settle of kernels.h */
static __global__ void guard_k(step_now *now, const double *sums, int64_t n, uint32_t which)
{
	double norm = sqrt(now->sumsq), scale = now->clip > 0 ? now->clip / (norm + 1e-6) : 1;
	int skip = now->skip | !isfinite(norm);
	for (int64_t k = 0; k < n; k++)
		skip |= (which >> k & 1) && !isfinite(sums[k]);
	now->norm = norm;
	now->scale = (float)(scale < 1 ? scale : 1);
	now->skip = skip;
}

void cuda_guard(struct dev *d, struct step_now *now, mat sums, uint32_t which)
{
	LAUNCH(d, guard_k, 1, 1, 0, now, (const double *)sums.p, sums.cols, which);
}

void cuda_sumsq(struct dev *d, mat out, mat x)
{
	int64_t n = x.rows * x.cols, blocks = (n + 8 * THREADS - 1) / (8 * THREADS);
	blocks = blocks > 1024 ? 1024 : blocks;
	double *part = (double *)scratch(d, S_ROWS, (size_t)(blocks + 1) * sizeof *part);
	LAUNCH(d, sumsq_k, (unsigned)blocks, THREADS, 0, part, view_of(x), n, vec_ok(0, x));
	rows_total(d, (double *)out.p, part, blocks, 1);
}
