/*
 * attn_flash.cu - attention on tensor cores: bf16, heads of 64, 96, 128 or 256, causal with windows and documents
 *
 * All three kernels are one pattern.  A block owns rows (queries, or keys of a kv-head in dkv), 16 to a warp, and walks tiles
 * of the others, the next of which is copied while this one is used:
 *
 *   s [16,N] = own other'      p = exp(s - max or lse)      acc [16,D] += p other
 *
 * s leaves the tensor cores as it enters them for the second product, so scores never go through memory.  Sums are f32; p and
 * ds are rounded to bf16 as operands.  q and k are rotated once, before, into scratch; dq and dk turned back as they are
 * stored.  No atomics: dq by blocks of queries, dk and dv by blocks of keys over all heads that read them (at 256 columns one after
 * the other: both sums do not fit into registers).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "flash.cuh"

enum { BWD_THREADS = 128, BWD_ROWS = 64 };
enum { DK = 1, DV = 2 };
#define LOG2E 1.4426950408889634f

struct flash_args {
	attn_args a;
	const bf16 *turned;    /* [N, (H+G) D]: q and k, rotated */
};

/* q and k of a row, rotated; 8 columns a thread */
static __global__ void turn_k(attn_args a, bf16 *turned)
{
	const geom &g = a.g;
	int64_t n = blockIdx.x, t = n % g.T, wide = (int64_t)(g.H + g.G) * g.D;
	int64_t place = g.start ? t - g.start[n] : t;
	int half = g.rot / 2;
	view rope = { (void *)g.rope, DT_F32 }, out = { turned, DT_BF16 };
	for (int64_t e = threadIdx.x * 8; e < wide; e += blockDim.x * 8) {
		float x[8], y[8], cs[8], sn[8];
		int c = (int)(e % g.D);
		ld8(x, a.qkv, n * g.W + e, 8, true);
		if (c < g.rot) {
			bool low = c < half;
			ld8(y, a.qkv, n * g.W + e + (low ? half : -half), 8, true);
			ld8(cs, rope, place * g.rot + (low ? c : c - half), 8, true);
			ld8(sn, rope, place * g.rot + (low ? c : c - half) + half, 8, true);
#pragma unroll
			for (int k = 0; k < 8; k++)
				x[k] = low ? x[k] * cs[k] - y[k] * sn[k] : x[k] * cs[k] + y[k] * sn[k];
		}
		st8(out, n * wide + e, x, 8, true);
	}
}

/* Rows i and i + 8 of a tile of keys from j0 on: -inf where key j is not in [lo, row] */
template <int N> static __device__ __forceinline__ void hide(float (&s)[N / 8][4], int64_t i, const int64_t (&lo)[2], int64_t j0)
{
	int t = threadIdx.x % 4, first[2] = { (int)(lo[0] - j0), (int)(lo[1] - j0) }, end[2] = { (int)(i - j0), (int)(i + 8 - j0) };
#pragma unroll
	for (int n = 0; n < N / 8; n++)
#pragma unroll
		for (int k = 0; k < 4; k++) {
			int j = 8 * n + 2 * t + k % 2;
			s[n][k] = j >= first[k / 2] && j <= end[k / 2] ? s[n][k] : -INFINITY;
		}
}

/* Where the operands of a head lie: rows of `turned` and of qkv */
struct heads {
	const bf16 *q, *k, *v;
	int64_t wide;          /* of a row of turned */
};

static __device__ __forceinline__ heads heads_of(const flash_args &f, int64_t row0, int h, int kv)
{
	const geom &g = f.a.g;
	int64_t wide = (int64_t)(g.H + g.G) * g.D;
	const bf16 *row = f.turned + row0 * wide;
	return { row + h * g.D, row + (g.H + kv) * g.D, (const bf16 *)f.a.qkv.p + row0 * g.W + wide + kv * g.D, wide };
}

/* Begins to copy the N keys and values from position j on: side by side, keys first */
template <int D, int N, int THREADS>
static __device__ __forceinline__ void fetch_keys(bf16 *tile, const heads &x, int64_t j, const geom &g)
{
	fetch<D, N, THREADS>(tile, x.k + j * x.wide, x.wide, g.T - j);
	fetch<D, N, THREADS>(tile + N * D, x.v + j * g.W, g.W, g.T - j);
}

/* ---- forward: block (tile of queries, head, sequence), the longest first ---- */

/* Online softmax of a tile: s becomes p = exp(scale2 s - max) in powers of 2; keep = what earlier sums are multiplied by */
template <int N>
static __device__ __forceinline__ void soften(float (&s)[N / 8][4], float (&top)[2], float (&sum)[2], float (&keep)[2], float scale2)
{
	float base[2];
#pragma unroll
	for (int r = 0; r < 2; r++) {
		float best = top[r];
#pragma unroll
		for (int n = 0; n < N / 8; n++)
			best = fmaxf(best, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
		best = fmaxf(best, __shfl_xor_sync((unsigned)FULL_WARP, best, 1));
		best = fmaxf(best, __shfl_xor_sync((unsigned)FULL_WARP, best, 2));
		base[r] = best > -INFINITY ? best * scale2 : 0.0f;
		keep[r] = power2(top[r] * scale2 - base[r]);
		top[r] = best;
		sum[r] *= keep[r];
	}
#pragma unroll
	for (int n = 0; n < N / 8; n++)
#pragma unroll
		for (int k = 0; k < 4; k++) {
			s[n][k] = power2(s[n][k] * scale2 - base[k / 2]);
			sum[k / 2] += s[n][k];
		}
}

template <int D, int ROWS, int N> static __global__ void __launch_bounds__(2 * ROWS) flash_fwd_k(flash_args f)
{
	SHARED_BYTES(bf16, mem);
	enum { THREADS = 2 * ROWS };
	const geom g = at_sequence(f.a.g, blockIdx.z * f.a.g.T);
	int h = blockIdx.y, warp = threadIdx.x / 32, l = threadIdx.x % 32;
	int64_t row0 = blockIdx.z * g.T, t0 = (int64_t)(gridDim.x - 1 - blockIdx.x) * ROWS, w0 = t0 + OWN * warp, i = w0 + l / 4;
	heads x = heads_of(f, row0, h, h / (g.H / g.G));
	bf16 *own = mem, *stage = own + ROWS * D;
	int64_t end = t0 + ROWS < g.T ? t0 + ROWS : g.T, last = g.T - 1;
	int64_t lo[2] = { first_key(i < last ? i : last, g), first_key(i + 8 < last ? i + 8 : last, g) };
	int64_t low = first_key(w0 < last ? w0 : last, g), high = first_key(w0 + OWN - 1 < last ? w0 + OWN - 1 : last, g);
	int64_t j0 = first_key(t0, g) / N * N;
	float o[D / 8][4], top[2] = { -INFINITY, -INFINITY }, sum[2] = { 0, 0 };
	clear(o);
	fetch<D, ROWS, THREADS>(own, x.q + t0 * x.wide, x.wide, g.T - t0);
	fetch_keys<D, N, THREADS>(stage, x, j0, g);
	for (int turn = 0; j0 < end; j0 += N, turn ^= 1) {
		copies_come();
		__syncthreads();
		const bf16 *now = stage + turn * 2 * N * D;
		bf16 *next = stage + (turn ^ 1) * 2 * N * D;
		int64_t j1 = j0 + N;
		if (j1 < end)
			fetch_keys<D, N, THREADS>(next, x, j1, g);
		if (j0 > w0 + OWN - 1 || j1 <= low)
			continue;
		float s[N / 8][4], keep[2];
		against<D, N>(s, own, OWN * warp, now);
		if (j1 - 1 > w0 || j0 < high)
			hide<N>(s, i, lo, j0);
		soften<N>(s, top, sum, keep, g.scale * LOG2E);
		times(o, keep[0], keep[1]);
		gather<D, N>(o, s, now + N * D);
	}
#pragma unroll
	for (int r = 0; r < 2; r++) {
		sum[r] += __shfl_xor_sync((unsigned)FULL_WARP, sum[r], 1);
		sum[r] += __shfl_xor_sync((unsigned)FULL_WARP, sum[r], 2);
		if (f.a.lse && l % 4 == 0 && i + 8 * r < g.T)
			f.a.lse[(row0 + i + 8 * r) * g.H + h] = top[r] * g.scale + logf(sum[r]);
		sum[r] = sum[r] > 0 ? 1 / sum[r] : 0;
	}
	times(o, sum[0], sum[1]);
	__syncthreads();
	store_rows<D>(f.a.o, (int64_t)g.H * D, row0, w0, (int64_t)h * D, o, (float *)mem + warp * OWN * (D + 4), g, false);
}

/* ---- backward ---- */

/* With p = exp(scale s - lse), the slopes ds = p (dp - delta) are left without the factor `scale`, which dq and dk get at
 * the end. */

/* block (tile of queries, head, sequence) */
template <int D, int N> static __global__ void __launch_bounds__(BWD_THREADS) flash_dq_k(flash_args f)
{
	SHARED_BYTES(bf16, mem);
	const geom g = at_sequence(f.a.g, blockIdx.z * f.a.g.T);
	int h = blockIdx.y, warp = threadIdx.x / 32, l = threadIdx.x % 32;
	int64_t row0 = blockIdx.z * g.T, t0 = (int64_t)(gridDim.x - 1 - blockIdx.x) * BWD_ROWS, w0 = t0 + OWN * warp, i = w0 + l / 4;
	int64_t HD = (int64_t)g.H * D, last = g.T - 1;
	heads x = heads_of(f, row0, h, h / (g.H / g.G));
	bf16 *q = mem, *d = q + BWD_ROWS * D, *stage = d + BWD_ROWS * D;
	int64_t end = t0 + BWD_ROWS < g.T ? t0 + BWD_ROWS : g.T, j0 = first_key(t0, g) / N * N;
	int64_t low = first_key(w0 < last ? w0 : last, g), high = first_key(w0 + OWN - 1 < last ? w0 + OWN - 1 : last, g), lo[2];
	float lse[2], delta[2], scale2 = g.scale * LOG2E, dq[D / 8][4];
#pragma unroll
	for (int r = 0; r < 2; r++) {
		int64_t t = i + 8 * r < last ? i + 8 * r : last;
		lo[r] = first_key(t, g);
		lse[r] = f.a.lse[(row0 + t) * g.H + h] * LOG2E;
		delta[r] = f.a.delta[(row0 + t) * g.H + h];
	}
	clear(dq);
	fetch<D, BWD_ROWS, BWD_THREADS>(q, x.q + t0 * x.wide, x.wide, g.T - t0);
	fetch<D, BWD_ROWS, BWD_THREADS>(d, (const bf16 *)f.a.dout.p + (row0 + t0) * HD + h * D, HD, g.T - t0);
	fetch_keys<D, N, BWD_THREADS>(stage, x, j0, g);
	for (int turn = 0; j0 < end; j0 += N, turn ^= 1) {
		copies_come();
		__syncthreads();
		const bf16 *now = stage + turn * 2 * N * D;
		bf16 *next = stage + (turn ^ 1) * 2 * N * D;
		int64_t j1 = j0 + N;
		if (j1 < end)
			fetch_keys<D, N, BWD_THREADS>(next, x, j1, g);
		if (j0 > w0 + OWN - 1 || j1 <= low)
			continue;
		float s[N / 8][4], dp[N / 8][4];
		against<D, N>(s, q, OWN * warp, now);
		against<D, N>(dp, d, OWN * warp, now + N * D);
		if (j1 - 1 > w0 || j0 < high)
			hide<N>(s, i, lo, j0);
#pragma unroll
		for (int n = 0; n < N / 8; n++)
#pragma unroll
			for (int k = 0; k < 4; k++)
				s[n][k] = power2(s[n][k] * scale2 - lse[k / 2]) * (dp[n][k] - delta[k / 2]);
		gather<D, N>(dq, s, now);
	}
	times(dq, g.scale, g.scale);
	__syncthreads();
	store_rows<D>(f.a.dqkv, g.W, row0, w0, (int64_t)h * D, dq, (float *)mem + warp * OWN * (D + 4), g, true);
}

/* What dkv needs of a tile of queries besides q and do */
template <int N> struct tile_rows {
	float lse[N], delta[N];
	int lo[N];             /* first key that is seen; T for rows that are none */
};

template <int N>
static __device__ __forceinline__ void fill(tile_rows<N> *r, const flash_args &f, const geom &g, int64_t row0, int h, int64_t i0)
{
	for (int e = threadIdx.x; e < N; e += BWD_THREADS) {
		int64_t i = i0 + e, t = i < g.T ? i : g.T - 1;
		r->lse[e] = f.a.lse[(row0 + t) * g.H + h] * LOG2E;
		r->delta[e] = f.a.delta[(row0 + t) * g.H + h];
		r->lo[e] = (int)(i < g.T ? first_key(t, g) : g.T);
	}
}

/* Rows are keys j and j + 8, columns queries from i0 on */
template <int N> static __device__ __forceinline__ void hide_across(float (&s)[N / 8][4], const int *lo, int j, int i0)
{
#pragma unroll
	for (int n = 0; n < N / 8; n++)
#pragma unroll
		for (int e = 0; e < 4; e++) {
			int c = 8 * n + 2 * (threadIdx.x % 4) + e % 2, key = j + 8 * (e / 2);
			s[n][e] = key <= i0 + c && key >= lo[c] ? s[n][e] : -INFINITY;
		}
}

/* block (tile of keys, kv-head, sequence); over the heads that read them and their tiles of queries */
template <int D, int N, int WHAT> static __global__ void __launch_bounds__(BWD_THREADS) flash_dkv_k(flash_args f)
{
	SHARED_BYTES(bf16, mem);
	const geom g = at_sequence(f.a.g, blockIdx.z * f.a.g.T);
	int kv = blockIdx.y, each = g.H / g.G, warp = threadIdx.x / 32, l = threadIdx.x % 32;
	int64_t row0 = blockIdx.z * g.T, t0 = (int64_t)blockIdx.x * BWD_ROWS, w0 = t0 + OWN * warp, j = w0 + l / 4, HD = (int64_t)g.H * D;
	bf16 *k = mem, *v = k + BWD_ROWS * D, *stage = v + BWD_ROWS * D;
	tile_rows<N> *rows = (tile_rows<N> *)(stage + 4 * N * D);
	float dk[D / 8][4], dv[D / 8][4], scale2 = g.scale * LOG2E;
	int tiles = 0;         /* of queries that may see these keys: those behind begin later, and so do their first keys */
	while (t0 + (int64_t)tiles * N < g.T && first_key(t0 + (int64_t)tiles * N, g) < t0 + BWD_ROWS)
		tiles++;
	clear(dk);
	clear(dv);
	heads x = heads_of(f, row0, kv * each, kv);
	fetch<D, BWD_ROWS, BWD_THREADS>(k, x.k + t0 * x.wide, x.wide, g.T - t0);
	fetch<D, BWD_ROWS, BWD_THREADS>(v, x.v + t0 * g.W, g.W, g.T - t0);
	for (int it = -1; it < each * tiles; it++) {
		int n1 = it + 1, h1 = n1 / tiles;
		int64_t i1 = t0 + (int64_t)(n1 % tiles) * N;
		if (it >= 0) {
			copies_come();
			__syncthreads();
		}
		if (n1 < each * tiles) {
			bf16 *next = stage + (n1 & 1) * 2 * N * D;
			fetch<D, N, BWD_THREADS>(next, x.q + h1 * D + i1 * x.wide, x.wide, g.T - i1);
			fetch<D, N, BWD_THREADS>(next + N * D, (const bf16 *)f.a.dout.p + (row0 + i1) * HD + (kv * each + h1) * D, HD, g.T - i1);
			fill<N>(&rows[n1 & 1], f, g, row0, kv * each + h1, i1);
		}
		int64_t i0 = t0 + (int64_t)(it % tiles) * N;
		if (it < 0 || i0 + N - 1 < w0)
			continue;
		const bf16 *now = stage + (it & 1) * 2 * N * D;
		const tile_rows<N> &r = rows[it & 1];
		float s[N / 8][4], dp[N / 8][4];
		against<D, N>(s, k, OWN * warp, now);
		if constexpr (WHAT & DK)
			against<D, N>(dp, v, OWN * warp, now + N * D);
		if (i0 < w0 + OWN - 1 || r.lo[N - 1] > w0)
			hide_across<N>(s, r.lo, (int)j, (int)i0);
#pragma unroll
		for (int n = 0; n < N / 8; n++)
#pragma unroll
			for (int e = 0; e < 4; e++) {
				int c = 8 * n + 2 * (l % 4) + e % 2;
				s[n][e] = power2(s[n][e] * scale2 - r.lse[c]);
				if constexpr (WHAT & DK)
					dp[n][e] = s[n][e] * (dp[n][e] - r.delta[c]);
			}
		if constexpr (WHAT & DV)
			gather<D, N>(dv, s, now + N * D);
		if constexpr (WHAT & DK)
			gather<D, N>(dk, dp, now);
	}
	times(dk, g.scale, g.scale);
	__syncthreads();
	float *pad = (float *)mem + warp * OWN * (D + 4);
	if constexpr (WHAT & DK)
		store_rows<D>(f.a.dqkv, g.W, row0, w0, (int64_t)(g.H + kv) * D, dk, pad, g, true);
	if constexpr (WHAT & DV)
		store_rows<D>(f.a.dqkv, g.W, row0, w0, (int64_t)(g.H + g.G + kv) * D, dv, pad, g, false);
}

/* ---- */

static bool fits(const attn_args *a)
{
	const geom &g = a->g;
	auto good = [](view v) { return !v.p || (v.dtype == DT_BF16 && ((uintptr_t)v.p & 15) == 0); };
	return !g.node && g.scale > 0 && g.T < INT32_MAX && (g.D == 64 || g.D == 96 || g.D == 128 || g.D == 256) && g.rot % 16 == 0 && ((uintptr_t)g.rope & 15) == 0 && good(a->qkv) && good(a->o) &&
	       good(a->dout) && good(a->dqkv);
}

static flash_args turned(struct dev *d, const attn_args *a, int64_t B)
{
	int64_t wide = (int64_t)(a->g.H + a->g.G) * a->g.D, n = B * a->g.T;
	bf16 *to = (bf16 *)scratch(d, S_TURNED, (size_t)(n * wide) * sizeof *to);
	attn_args args = *a;
	LAUNCH(d, turn_k, (unsigned)n, row_threads(wide), 0, args, to);
	return { args, to };
}

template <int D, int ROWS, int N> static void forward(struct dev *d, const flash_args &f, int64_t B)
{
	size_t tiles = (ROWS + 4 * N) * D * sizeof(bf16), pads = ROWS * (D + 4) * sizeof(float), shared = tiles > pads ? tiles : pads;
	auto kernel = flash_fwd_k<D, ROWS, N>;
	ALLOW_SHARED(kernel, shared);
	LAUNCH(d, kernel, dim3(blocks_for(f.a.g.T, ROWS), (unsigned)f.a.g.H, (unsigned)B), 2 * ROWS, shared, f);
}

template <int D, int N, int WHAT> static void keys_backward(struct dev *d, const flash_args &f, int64_t B)
{
	size_t shared = (2 * BWD_ROWS + 4 * N) * D * sizeof(bf16) + 2 * sizeof(tile_rows<N>);
	auto kernel = flash_dkv_k<D, N, WHAT>;
	ALLOW_SHARED(kernel, shared);
	LAUNCH(d, kernel, dim3(blocks_for(f.a.g.T, BWD_ROWS), (unsigned)f.a.g.G, (unsigned)B), BWD_THREADS, shared, f);
}

template <int D, int N> static void backward(struct dev *d, const flash_args &f, int64_t B)
{
	size_t shared = (2 * BWD_ROWS + 4 * N) * D * sizeof(bf16);
	auto kernel = flash_dq_k<D, N>;
	ALLOW_SHARED(kernel, shared);
	LAUNCH(d, kernel, dim3(blocks_for(f.a.g.T, BWD_ROWS), (unsigned)f.a.g.H, (unsigned)B), BWD_THREADS, shared, f);
	if constexpr (D > 128) {
		keys_backward<D, N, DK>(d, f, B);
		keys_backward<D, N, DV>(d, f, B);
	} else {
		keys_backward<D, N, DK | DV>(d, f, B);
	}
}

bool attn_flash(struct dev *d, const attn_args *a, int64_t B)
{
	if (!fits(a))
		return false;
	flash_args f = turned(d, a, B);
	if (a->g.D == 64)
		forward<64, 128, 64>(d, f, B);
	else if (a->g.D == 96)
		forward<96, 128, 64>(d, f, B);
	else if (a->g.D == 128)
		forward<128, 128, 64>(d, f, B);
	else
		forward<256, 64, 16>(d, f, B);
	return true;
}

bool attn_flash_bwd(struct dev *d, const attn_args *args, int64_t B)
{
	attn_args a = *args;
	if (!fits(&a))
		return false;
	attn_delta(d, &a, B * a.g.T * a.g.H);
	flash_args f = turned(d, &a, B);
	if (a.g.D == 64)
		backward<64, 64>(d, f, B);
	else if (a.g.D == 96)
		backward<96, 32>(d, f, B);
	else if (a.g.D == 128)
		backward<128, 32>(d, f, B);
	else
		backward<256, 16>(d, f, B);
	return true;
}
