/*
 * relation.cu - KL between attention relations, by tiles
 *
 *   R_t = softmax_{start_t <= u <= t} x_t.x_u / sqrt(D)     L_t = KL(R_t(b) || R_t(a))     g_tu = c (R_t(a) - R_t(b))
 *   dx_n = sum_{u <= n} g_nu x_u + sum_{t >= n} g_tn x_t
 * One kernel leaves the log of each row's sum, for a and for b; then a block owns a tile of rows of one piece and walks all
 * other tiles, which it meets as rows that it sees or as rows that see it: no atomics.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tiles.cuh"
#include <math.h>

struct side {
	view x;
	int64_t cols, first, D;    /* of x; first column of piece 0; columns of a piece */
	float *lse;                /* [N, heads] */
};

struct rel_args {
	side a, b;
	view da;
	double *loss;              /* [N, heads] */
	const int32_t *label, *start; /* or NULL */
	int64_t T, window;
	float coef, over;          /* gradients are coef / over */
	const float *live;         /* coef in device memory, or NULL */
	int heads, tile;
};

/* The first position that row t of the sequence from row0 on sees */
static __device__ int64_t first_seen(const int32_t *start, int64_t window, int64_t row0, int64_t t)
{
	int64_t from = start ? start[row0 + t] : 0;
	return window && t - window >= from ? t - window + 1 : from;
}

/* Rows [t0, t0 + tile) of the block's piece; rows behind the sequence's end are 0 */
static __device__ void load_piece(float *out, const side &s, int64_t row0, int64_t t0, int64_t T, int tile)
{
	for (int e = threadIdx.x; e < tile * s.D; e += TILE_THREADS) {
		int r = (int)(e / s.D), c = (int)(e % s.D);
		out[r * (s.D + 1) + c] = t0 + r < T ? ld1(s.x, (row0 + t0 + r) * s.cols + s.first + blockIdx.y * s.D + c) : 0.0f;
	}
}

/* block (tile of rows, piece, sequence) */
static __global__ void lse_k(side s, const int32_t *start, int64_t T, int64_t window, int heads, int tile)
{
	SHARED_BYTES(float, mem);
	int n = tile * (int)(s.D + 1);
	float *x = mem, *y = x + n, *sc = y + n, *top = sc + tile * (tile + 1), *sum = top + tile, is = 1.0f / sqrtf((float)s.D);
	int64_t row0 = blockIdx.z * T, t0 = (int64_t)blockIdx.x * tile;
	load_piece(x, s, row0, t0, T, tile);
	for (int r = threadIdx.x; r < tile; r += TILE_THREADS)
		top[r] = -INFINITY, sum[r] = 0;
	for (int64_t u0 = 0; u0 <= t0; u0 += tile) {
		__syncthreads();
		load_piece(y, s, row0, u0, T, tile);
		__syncthreads();
		scores(sc, x, y, tile, (int)s.D);
		__syncthreads();
		for (int r = threadIdx.x; r < tile && t0 + r < T; r += TILE_THREADS) {
			int64_t from = first_seen(start, window, row0, t0 + r);
			for (int c = from > u0 ? (int)(from - u0) : 0; c < tile && u0 + c <= t0 + r; c++) {
				float v = sc[r * (tile + 1) + c] * is, m = fmaxf(top[r], v);
				sum[r] = sum[r] * expf(top[r] - m) + expf(v - m);
				top[r] = m;
			}
		}
	}
	__syncthreads();
	for (int r = threadIdx.x; r < tile && t0 + r < T; r += TILE_THREADS)
		s.lse[(row0 + t0 + r) * heads + blockIdx.y] = top[r] + logf(sum[r]);
}

/* Scores of rows t0.. (the rows of sa, sb) with u0..: sa becomes g, and rows add their loss */
static __device__ void differences(float *sa, const float *sb, float *loss, const rel_args &q, int64_t row0, int64_t t0, int64_t u0)
{
	float ia = 1.0f / sqrtf((float)q.a.D), ib = 1.0f / sqrtf((float)q.b.D), scale = (q.live ? *q.live : q.coef) / q.over;
	for (int r = threadIdx.x; r < q.tile; r += TILE_THREADS) {
		int64_t t = t0 + r, n = (row0 + t) * q.heads + blockIdx.y;
		bool counts = t < q.T && (!q.label || q.label[row0 + t] >= 0);
		int64_t from = counts ? first_seen(q.start, q.window, row0, t) : 0;
		for (int c = 0; c < q.tile; c++) {
			int at = r * (q.tile + 1) + c;
			float g = 0;
			if (counts && u0 + c <= t && u0 + c >= from) {
				float la = sa[at] * ia - q.a.lse[n], lb = sb[at] * ib - q.b.lse[n], pb = expf(lb);
				g = scale * (expf(la) - pb);
				if (loss)
					loss[r] += pb * (lb - la);
			}
			sa[at] = g;
		}
	}
}

static __global__ void relation_k(rel_args q)
{
	SHARED_BYTES(float, mem);
	int tile = q.tile, na = tile * (int)(q.a.D + 1), nb = tile * (int)(q.b.D + 1), Da = (int)q.a.D, Db = (int)q.b.D;
	float *xa = mem, *ya = xa + na, *dx = ya + na, *xb = dx + na, *yb = xb + nb, *sa = yb + nb, *sb = sa + tile * (tile + 1);
	float *loss = sb + tile * (tile + 1);
	int64_t row0 = blockIdx.z * q.T, t0 = (int64_t)blockIdx.x * tile;
	load_piece(xa, q.a, row0, t0, q.T, tile);
	load_piece(xb, q.b, row0, t0, q.T, tile);
	for (int e = threadIdx.x; e < na; e += TILE_THREADS)
		dx[e] = 0;
	for (int r = threadIdx.x; r < tile; r += TILE_THREADS)
		loss[r] = 0;
	for (int64_t u0 = 0; u0 < q.T && (q.da.p || u0 <= t0); u0 += tile) {
		__syncthreads();
		load_piece(ya, q.a, row0, u0, q.T, tile);
		load_piece(yb, q.b, row0, u0, q.T, tile);
		if (u0 <= t0) {            /* rows that these see */
			__syncthreads();
			scores(sa, xa, ya, tile, Da);
			scores(sb, xb, yb, tile, Db);
			__syncthreads();
			differences(sa, sb, loss, q, row0, t0, u0);
			__syncthreads();
			gather_rows(dx, NULL, sa, ya, tile, Da, false);
		}
		if (u0 >= t0) {            /* rows that see these */
			__syncthreads();
			scores(sa, ya, xa, tile, Da);
			scores(sb, yb, xb, tile, Db);
			__syncthreads();
			differences(sa, sb, NULL, q, row0, u0, t0);
			__syncthreads();
			gather_rows(dx, NULL, sa, ya, tile, Da, true);
		}
	}
	__syncthreads();
	for (int r = threadIdx.x; r < tile && t0 + r < q.T; r += TILE_THREADS)
		q.loss[(row0 + t0 + r) * q.heads + blockIdx.y] = loss[r] / (float)q.heads;
	for (int e = threadIdx.x; q.da.p && e < tile * Da; e += TILE_THREADS) {
		int64_t t = t0 + e / Da, at = (row0 + t) * q.a.cols + q.a.first + blockIdx.y * q.a.D + e % Da;
		if (t < q.T)
			st1(q.da, at, ld1(q.da, at) + dx[e / Da * (Da + 1) + e % Da]);
	}
}

void cuda_relation(struct dev *d, mat sums, mat da, mat a, mat b, mat label, mat start, const struct relation *r, float coef,
		   const float *live, int acc)
{
	int64_t n = a.rows * r->heads;
	if (!n)
		return;
	double *loss = (double *)scratch(d, S_ROWS, (size_t)n * sizeof *loss);
	float *lse = (float *)scratch(d, S_ATTN, (size_t)(2 * n) * sizeof *lse);
	rel_args q = { { view_of(a), a.cols, r->a0, r->da, lse }, { view_of(b), b.cols, r->b0, r->db, lse + n }, view_of(da), loss,
		       (const int32_t *)label.p, (const int32_t *)start.p, r->T, r->window, coef, (float)r->heads * sqrtf((float)r->da), live,
		       r->heads, 0 };
	const side *both[] = { &q.a, &q.b };
	for (int k = 0; k < 2; k++) {
		int tile;
		size_t shared = widest_tile(&tile, 2 * (int)(both[k]->D + 1));
		ALLOW_SHARED(lse_k, shared);
		LAUNCH(d, lse_k, dim3(blocks_for(r->T, tile), (unsigned)r->heads, (unsigned)(a.rows / r->T)), TILE_THREADS, shared, *both[k],
		       q.start, r->T, q.window, r->heads, tile);
	}
	if (da.p && !acc)
		cuda_zero(d, da);
	size_t shared = widest_tile(&q.tile, 3 * (int)(r->da + 1) + 2 * (int)(r->db + 1));
	ALLOW_SHARED(relation_k, shared);
	LAUNCH(d, relation_k, dim3(blocks_for(r->T, q.tile), (unsigned)r->heads, (unsigned)(a.rows / r->T)), TILE_THREADS, shared, q);
	rows_total(d, (double *)sums.p, loss, n, 1);
}
