/*
 * attn_plain.cu - attention for any head width and dtype, in f32, by tiles: what attn_flash.cu does not take
 *
 * Forward: a block owns a tile of queries of one head and walks the tiles of keys, keeping for each query the maximum, the
 * sum and the output so far (online softmax).  Backward from lse, without atomics: one kernel owns a tile of queries and
 * sums dq over keys, another owns a tile of keys of a kv-head and sums dk and dv over the queries of all heads that read
 * it; both form p = exp(s - lse) and ds = p (do.v - delta) anew.  q and k are rotated as they are loaded, dq and dk
 * turned back as they are stored.  Tiles are 32 wide where shared memory allows, 16 or 8 for wide heads.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "attn.cuh"
#include "tiles.cuh"

/* Rows [t0, t0 + tile) of a head as f32, rows of D + 1; rows behind the end are 0 */
static __device__ void load_tile(float *out, view x, int64_t row0, int64_t W, int64_t col, int64_t t0, int tile, const geom &g,
				 bool turn)
{
	for (int e = threadIdx.x; e < tile * g.D; e += TILE_THREADS) {
		int r = e / g.D, c = e % g.D;
		int64_t t = t0 + r, at = (row0 + (t < g.P ? t : t - g.P)) * W + col;
		view in = t < g.P ? g.past : x;
		float v = 0;
		if (t < g.T)
			v = turn ? rotated(in, at, c, place_of(t, g), g, 1.0f) : ld1(in, at + c);
		out[r * (g.D + 1) + c] = v;
	}
}

/* Rows of a tile to dst; turned back first when `turn` */
static __device__ void store_tile(view dst, const float *x, int64_t row0, int64_t W, int64_t col, int64_t t0, int tile, const geom &g,
				  bool turn)
{
	view in = { (void *)x, DT_F32 };
	for (int e = threadIdx.x; e < tile * g.D; e += TILE_THREADS) {
		int r = e / g.D, c = e % g.D;
		int64_t t = t0 + r;
		if (t < g.T)
			st1(dst, (row0 + t - g.P) * W + col + c,
			    turn ? rotated(in, (int64_t)r * (g.D + 1), c, place_of(t, g), g, -1.0f) : x[r * (g.D + 1) + c]);
	}
}

/* block (tile of queries, head, sequence) */
static __global__ void fwd_k(attn_args a)
{
	SHARED_BYTES(float, mem);
	const geom g = at_sequence(a.g, blockIdx.z * a.g.T);
	int tile = a.tile, n = tile * (g.D + 1), h = blockIdx.y, kv = h / (g.H / g.G);
	float *q = mem, *k = q + n, *v = k + n, *o = v + n, *s = o + n, *top = s + tile * (tile + 1), *sum = top + tile, *keep = sum + tile;
	int64_t row0 = blockIdx.z * g.T, t0 = g.P + (int64_t)blockIdx.x * tile, HD = (int64_t)g.H * g.D;
	load_tile(q, a.qkv, row0, g.W, (int64_t)h * g.D, t0, tile, g, true);
	for (int e = threadIdx.x; e < n; e += TILE_THREADS)
		o[e] = 0;
	for (int r = threadIdx.x; r < tile; r += TILE_THREADS)
		top[r] = -INFINITY, sum[r] = 0;
	for (int64_t j0 = first_key(t0, g) / tile * tile; j0 < t0 + tile && j0 < g.T; j0 += tile) {
		int64_t mine = j0 + threadIdx.x;
		int live = !g.node || ((int)threadIdx.x < tile && mine < g.T && g.node[2 * mine + 1] > t0);
		if (!__syncthreads_or(live))
			continue;
		load_tile(k, a.qkv, row0, g.W, HD + (int64_t)kv * g.D, j0, tile, g, true);
		load_tile(v, a.qkv, row0, g.W, HD + (int64_t)(g.G + kv) * g.D, j0, tile, g, false);
		__syncthreads();
		scores(s, q, k, tile, g.D);
		__syncthreads();
		for (int r = threadIdx.x; r < tile; r += TILE_THREADS) {
			float *x = s + r * (tile + 1), m = top[r], z = 0;
			int64_t t = t0 + r;
			for (int c = 0; c < tile; c++) {
				x[c] = t < g.T && sees(t, j0 + c, g) ? x[c] * g.scale : -INFINITY;
				m = fmaxf(m, x[c]);
			}
			for (int c = 0; c < tile; c++)
				z += x[c] = x[c] > -INFINITY ? expf(x[c] - m) : 0.0f;
			keep[r] = top[r] > -INFINITY ? expf(top[r] - m) : 0.0f;
			sum[r] = sum[r] * keep[r] + z;
			top[r] = m;
		}
		__syncthreads();
		gather_rows(o, keep, s, v, tile, g.D, false);
	}
	__syncthreads();
	for (int e = threadIdx.x; e < tile * g.D; e += TILE_THREADS)
		o[e / g.D * (g.D + 1) + e % g.D] /= sum[e / g.D] > 0 ? sum[e / g.D] : 1.0f;
	for (int r = threadIdx.x; a.lse && r < tile && t0 + r < g.T; r += TILE_THREADS)
		a.lse[(row0 + t0 + r) * g.H + h] = top[r] + logf(sum[r]);
	__syncthreads();
	store_tile(a.o, o, row0, HD, (int64_t)h * g.D, t0, tile, g, false);
}

/* delta [N,H]; a warp per row and head */
static __global__ void delta_k(attn_args a, int64_t n)
{
	int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32;
	if (i >= n)
		return;
	float s = 0;
	for (int c = threadIdx.x % 32; c < a.g.D; c += 32)
		s += ld1(a.dout, i * a.g.D + c) * ld1(a.o, i * a.g.D + c);
	s = warp_sum(s);
	if (threadIdx.x % 32 == 0)
		a.delta[i] = s;
}

/* s, dp -> p, ds for queries i0.. and keys j0.. of head h; both [tile (query), tile (key)] */
static __device__ void probabilities(float *s, float *dp, const attn_args &a, const geom &g, int64_t row0, int h, int64_t i0, int64_t j0)
{
	int tile = a.tile;
	for (int e = threadIdx.x; e < tile * tile; e += TILE_THREADS) {
		int64_t i = i0 + e / tile, j = j0 + e % tile;
		int at = e / tile * (tile + 1) + e % tile;
		float p = 0, ds = 0;
		if (i < g.T && sees(i, j, g)) {
			p = expf(s[at] * g.scale - a.lse[(row0 + i) * g.H + h]);
			ds = p * (dp[at] - a.delta[(row0 + i) * g.H + h]) * g.scale;
		}
		s[at] = p;
		dp[at] = ds;
	}
}

static __global__ void dq_k(attn_args a)
{
	SHARED_BYTES(float, mem);
	const geom g = at_sequence(a.g, blockIdx.z * a.g.T);
	int tile = a.tile, n = tile * (g.D + 1), h = blockIdx.y, kv = h / (g.H / g.G);
	float *q = mem, *d = q + n, *k = d + n, *v = k + n, *dq = v + n, *s = dq + n, *dp = s + tile * (tile + 1);
	int64_t row0 = blockIdx.z * g.T, t0 = (int64_t)blockIdx.x * tile, HD = (int64_t)g.H * g.D;
	load_tile(q, a.qkv, row0, g.W, (int64_t)h * g.D, t0, tile, g, true);
	load_tile(d, a.dout, row0, HD, (int64_t)h * g.D, t0, tile, g, false);
	for (int e = threadIdx.x; e < n; e += TILE_THREADS)
		dq[e] = 0;
	for (int64_t j0 = first_key(t0, g) / tile * tile; j0 < t0 + tile && j0 < g.T; j0 += tile) {
		__syncthreads();
		load_tile(k, a.qkv, row0, g.W, HD + (int64_t)kv * g.D, j0, tile, g, true);
		load_tile(v, a.qkv, row0, g.W, HD + (int64_t)(g.G + kv) * g.D, j0, tile, g, false);
		__syncthreads();
		scores(s, q, k, tile, g.D);
		scores(dp, d, v, tile, g.D);
		__syncthreads();
		probabilities(s, dp, a, g, row0, h, t0, j0);
		__syncthreads();
		gather_rows(dq, NULL, dp, k, tile, g.D, false);
	}
	__syncthreads();
	store_tile(a.dqkv, dq, row0, g.W, (int64_t)h * g.D, t0, tile, g, true);
}

/* block (tile of keys, kv-head, sequence) */
static __global__ void dkv_k(attn_args a)
{
	SHARED_BYTES(float, mem);
	const geom g = at_sequence(a.g, blockIdx.z * a.g.T);
	int tile = a.tile, n = tile * (g.D + 1), kv = blockIdx.y, each = g.H / g.G;
	float *k = mem, *v = k + n, *dk = v + n, *dv = dk + n, *q = dv + n, *d = q + n, *s = d + n, *dp = s + tile * (tile + 1);
	int64_t row0 = blockIdx.z * g.T, j0 = (int64_t)blockIdx.x * tile, HD = (int64_t)g.H * g.D;
	int64_t ck = HD + (int64_t)kv * g.D, cv = HD + (int64_t)(g.G + kv) * g.D;
	load_tile(k, a.qkv, row0, g.W, ck, j0, tile, g, true);
	load_tile(v, a.qkv, row0, g.W, cv, j0, tile, g, false);
	for (int e = threadIdx.x; e < n; e += TILE_THREADS)
		dk[e] = dv[e] = 0;
	int64_t end = g.window > 0 && j0 + tile + g.window < g.T ? j0 + tile + g.window : g.T;
	for (int h = kv * each; h < (kv + 1) * each; h++)
		for (int64_t i0 = j0; i0 < end; i0 += tile) {
			__syncthreads();
			load_tile(q, a.qkv, row0, g.W, (int64_t)h * g.D, i0, tile, g, true);
			load_tile(d, a.dout, row0, HD, (int64_t)h * g.D, i0, tile, g, false);
			__syncthreads();
			scores(s, q, k, tile, g.D);
			scores(dp, d, v, tile, g.D);
			__syncthreads();
			probabilities(s, dp, a, g, row0, h, i0, j0);
			__syncthreads();
			gather_rows(dv, NULL, s, d, tile, g.D, true);
			gather_rows(dk, NULL, dp, q, tile, g.D, true);
		}
	__syncthreads();
	store_tile(a.dqkv, dk, row0, g.W, ck, j0, tile, g, true);
	store_tile(a.dqkv, dv, row0, g.W, cv, j0, tile, g, false);
}

/* ---- */

static size_t choose_tile(attn_args *a, int tiles)
{
	return widest_tile(&a->tile, tiles * (a->g.D + 1));
}

static void attn_plain(struct dev *d, const attn_args *args, int64_t B)
{
	attn_args a = *args;
	size_t shared = choose_tile(&a, 4);
	ALLOW_SHARED(fwd_k, shared);
	LAUNCH(d, fwd_k, dim3(blocks_for(a.g.T - a.g.P, a.tile), (unsigned)a.g.H, (unsigned)B), TILE_THREADS, shared, a);
}

void attn_delta(struct dev *d, attn_args *args, int64_t n)
{
	args->delta = (float *)scratch(d, S_ATTN, (size_t)n * sizeof *args->delta);
	attn_args a = *args;
	LAUNCH(d, delta_k, blocks_for(n, 4), 128, 0, a, n);
}

static void attn_plain_bwd(struct dev *d, const attn_args *args, int64_t B)
{
	attn_args a = *args;
	attn_delta(d, &a, B * a.g.T * a.g.H);
	size_t shared = choose_tile(&a, 6);
	ALLOW_SHARED(dq_k, shared);
	ALLOW_SHARED(dkv_k, shared);
	LAUNCH(d, dq_k, dim3(blocks_for(a.g.T, a.tile), (unsigned)a.g.H, (unsigned)B), TILE_THREADS, shared, a);
	LAUNCH(d, dkv_k, dim3(blocks_for(a.g.T, a.tile), (unsigned)a.g.G, (unsigned)B), TILE_THREADS, shared, a);
}

static attn_args args_of(mat qkv, mat rope, mat lse, mat o, const struct attn_geom *g)
{
	attn_args a = {};
	a.qkv = view_of(qkv);
	a.o = view_of(o);
	a.lse = (float *)lse.p;
	a.g = { g->T, qkv.cols, g->H, g->G, g->D, g->rot, g->window, g->scale, (const float *)rope.p, NULL, NULL, {}, 0 };
	return a;
}

void cuda_attn(struct dev *d, mat o, mat lse, mat qkv, mat rope, mat start, const struct attn_geom *g)
{
	attn_args a = args_of(qkv, rope, lse, o, g);
	a.g.start = (const int32_t *)start.p;
	if (!attn_flash(d, &a, g->B))
		attn_plain(d, &a, g->B);
}

void cuda_attn_bwd(struct dev *d, mat dqkv, mat dout, mat o, mat lse, mat qkv, mat rope, mat start,
		   const struct attn_geom *g)
{
	attn_args a = args_of(qkv, rope, lse, o, g);
	a.g.start = (const int32_t *)start.p;
	a.dout = view_of(dout);
	a.dqkv = view_of(dqkv);
	if (!attn_flash_bwd(d, &a, g->B))
		attn_plain_bwd(d, &a, g->B);
}

void cuda_attn_tree(struct dev *d, mat o, mat qkv, mat past, mat rope, mat node, const struct attn_geom *g)
{
	attn_args a = args_of(qkv, rope, mat{}, o, g);
	a.g.T = past.rows + qkv.rows;
	a.g.past = view_of(past);
	a.g.P = past.rows;
	a.g.node = (const int32_t *)node.p;
	attn_plain(d, &a, 1);
}
