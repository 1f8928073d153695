/*
 * simd_decode.h - what generating token by token needs: attention over a cache, and products with few rows
 *
 * Both are bound by memory, not by arithmetic, and both keep the same order of additions for a row whatever other rows
 * there are, so that a sequence gets the same bits alone and in company.
 *
 * Cache of one slot: for each kv-head keys, then for each kv-head values.  Keys lie transposed in blocks of KV_BLOCK
 * positions, [D][KV_BLOCK], so that the scores of a block are
 *	s[j..j+W) = sum over d of q_d K'[d][j..j+W)
 * without a horizontal sum; values lie as rows [T][D].
 *
 * SPDX-License-Identifier: Apache-2.0
 */

/* Head `col` of row n as f32 [D], rotated to its position when rope is set */
static void kv_head(float *x, const struct kv_call *c, int64_t n, int64_t col, int rope)
{
	int D = c->g.D, half = c->g.rot / 2;
	EACH(i, D)
		stf(x + i, vld(c->qkv.p, c->qkv.dtype, n * c->qkv.cols + col + i, lanes(D - i)), lanes(D - i));
	if (!rope || !half)
		return;
	const float *cs = (const float *)c->rope.p + ((const int32_t *)c->at.p)[2 * n + 1] * (int64_t)c->g.rot, *sn = cs + half;
	for (int i = 0; i < half; i += W) {
		int k = lanes(half - i);
		vf a = ldf(x + i, k), b = ldf(x + half + i, k), p = ldf(cs + i, k), q = ldf(sn + i, k);
		stf(x + i, a * p - b * q, k);
		stf(x + half + i, b * p + a * q, k);
	}
}

static void row_kv_put(const struct kv_call *c, int64_t n, int64_t g)
{
	const int32_t *at = (const int32_t *)c->at.p + 2 * n;
	int64_t D = c->g.D, T = c->g.T, G = c->g.G, t = at[1], k0 = at[0] * c->kv.cols + g * T * D, v0 = k0 + G * T * D;
	float x[512];
	if (at[0] < 0)
		return;
	kv_head(x, c, n, (c->g.H + G + g) * D, 0);
	row_cvt(elem_at(c->kv, v0 + t * D), c->kv.dtype, x, DT_F32, 1.0f, D);
	kv_head(x, c, n, (c->g.H + g) * D, 1);
	k0 += t / KV_BLOCK * KV_BLOCK * D + t % KV_BLOCK;
	for (int64_t d = 0; d < D; d++)
		if (c->kv.dtype == DT_BF16)
			((uint16_t *)c->kv.p)[k0 + d * KV_BLOCK] = f32_to_bf16(x[d]);
		else
			((float *)c->kv.p)[k0 + d * KV_BLOCK] = x[d];
}

enum { SPREAD = 4 };             /* registers side by side: chains of additions that do not wait for each other */

/* s [keys] of one block of KV_BLOCK keys */
INLINE void kv_scores(float *s, const float *q, const void *K, int64_t at, int64_t D, const int dt)
{
	for (int64_t j = 0; j < KV_BLOCK; j += SPREAD * W) {
		vf a[SPREAD] = { { 0 } };
		for (int64_t d = 0; d < D; d++)
			for (int v = 0; v < SPREAD; v++)
				a[v] = vfma(vld(K, dt, at + d * KV_BLOCK + j + v * W, W), vset(q[d]), a[v]);
		for (int v = 0; v < SPREAD; v++)
			stf(s + j + v * W, a[v], W);
	}
}

/* o [D] = sum over keys [j0, j1) of s[j] V[j] */
INLINE void kv_mix(float *o, const float *s, const void *V, int64_t at, int64_t D, int64_t j0, int64_t j1, const int dt)
{
	for (int64_t d = 0; d < D; d += SPREAD * W) {
		vf a[SPREAD] = { { 0 } };
		int64_t full = D - d >= SPREAD * W;
		for (int64_t j = j0; j < j1; j++)
			for (int v = 0; v < SPREAD; v++)
				if (full || d + v * W < D)
					a[v] = vfma(vld(V, dt, at + j * D + d + v * W, full ? W : lanes(D - d - v * W)),
						    vset(s[j]), a[v]);
		for (int v = 0; v < SPREAD; v++)
			if (d + v * W < D)
				stf(o + d + v * W, a[v], lanes(D - d - v * W));
	}
}

/* Scores to probabilities: s [b0, b1) with keys outside [j0, j1) hidden; whole registers */
static void kv_softmax(float *s, int64_t b0, int64_t b1, int64_t j0, int64_t j1)
{
	vf top = vset(-INFINITY), sum = { 0 };
	for (int64_t j = b0; j < j0; j++)
		s[j] = -INFINITY;
	for (int64_t j = j1; j < b1; j++)
		s[j] = -INFINITY;
	for (int64_t j = b0; j < b1; j += W)
		top = vmax(top, ldf(s + j, W));
	float m = vtop(top);
	for (int64_t j = b0; j < b1; j += W) {
		vf e = vexp(ldf(s + j, W) - m);
		sum += e;
		stf(s + j, e, W);
	}
	float inv = 1.0f / vsum(sum);
	for (int64_t j = b0; j < b1; j += W)
		stf(s + j, ldf(s + j, W) * inv, W);
}

INLINE void kv_attend_body(const struct kv_call *c, int64_t n, int64_t g, float *tmp, const int dt)
{
	const int32_t *at = (const int32_t *)c->at.p + 2 * n;
	int64_t D = c->g.D, T = c->g.T, R = c->g.H / c->g.G, w = c->g.window, t = at[1];
	int64_t k0 = at[0] * c->kv.cols + g * T * D, v0 = k0 + c->g.G * T * D;
	int64_t j0 = w > 0 && t >= w ? t - w + 1 : 0, b0 = j0 / KV_BLOCK * KV_BLOCK, b1 = (t / KV_BLOCK + 1) * KV_BLOCK;
	float *q = tmp, *s = q + R * D, o[512];
	for (int64_t r = 0; r < R; r++) {
		kv_head(q + r * D, c, n, (g * R + r) * D, 1);
		row_cvt(q + r * D, DT_F32, q + r * D, DT_F32, c->g.scale, D);
	}
	for (int64_t b = b0; b < b1; b += KV_BLOCK)
		for (int64_t r = 0; r < R; r++)
			kv_scores(s + r * c->keys + b, q + r * D, c->kv.p, k0 + b * D, D, dt);
	for (int64_t r = 0; r < R; r++) {
		kv_softmax(s + r * c->keys, b0, b1, j0, t + 1);
		kv_mix(o, s + r * c->keys, c->kv.p, v0, D, j0, t + 1, dt);
		row_cvt(elem_at(c->o, n * c->o.cols + (g * R + r) * D), c->o.dtype, o, DT_F32, 1.0f, D);
	}
}

static void row_kv_attend(const struct kv_call *c, int64_t n, int64_t g, float *tmp)
{
	int64_t wide = c->g.H / c->g.G * (int64_t)c->g.D;
	if (((const int32_t *)c->at.p)[2 * n] < 0)
		memset(elem_at(c->o, n * c->o.cols + g * wide), 0, (size_t)wide * dtype_size(c->o.dtype));
	else if (c->kv.dtype == DT_BF16)
		kv_attend_body(c, n, g, tmp, DT_BF16);
	else
		kv_attend_body(c, n, g, tmp, DT_F32);
}

/* ---- products with few rows: NR rows of x by NO rows of W at a time, one register of sums for each pair ---- */

/* Columns [k, k + l) of x and W; every loop unrolled, or the sums would lie in memory */
INLINE void few_step(vf s[4][4], const struct few_call *c, const float *x, const void *w, int64_t k, const int NR, const int NO, const int wt, int l)
{
	vf b[4];
#pragma GCC unroll 4
	for (int i = 0; i < NO; i++)
		b[i] = vld(w, wt, i * c->K + k, l);
#pragma GCC unroll 4
	for (int r = 0; r < NR; r++) {
		vf a = ldf(x + r * c->K + k, l);
#pragma GCC unroll 4
		for (int i = 0; i < NO; i++)
			s[r][i] = vfma(a, b[i], s[r][i]);
	}
}

INLINE void few_tile(const struct few_call *c, int64_t n, int64_t o, const int NR, const int NO, const int wt)
{
	vf s[4][4];
	const float *x = c->x + n * c->K;
	const void *w = elem_at(c->w, o * c->K);
	int64_t k = 0, K = c->K;
#pragma GCC unroll 4
	for (int r = 0; r < NR; r++)
#pragma GCC unroll 4
		for (int i = 0; i < NO; i++)
			s[r][i] = (vf){ 0 };
	for (; k + W <= K; k += W)
		few_step(s, c, x, w, k, NR, NO, wt, W);
	if (k < K)
		few_step(s, c, x, w, k, NR, NO, wt, (int)(K - k));
#pragma GCC unroll 4
	for (int r = 0; r < NR; r++)
#pragma GCC unroll 4
		for (int i = 0; i < NO; i++) {
			int64_t y = (n + r) * c->y.cols + o + i;
			vf t = vset(vsum(s[r][i]));
			if (c->bias.p)
				t += vld(c->bias.p, c->bias.dtype, o + i, 1);
			if (c->res.p)
				t += vld(c->res.p, c->res.dtype, y, 1);
			vst(c->y.p, c->y.dtype, y, t, 1);
		}
}

INLINE void few_body(const struct few_call *c, int64_t o0, int64_t o1, const int wt)
{
	enum { NO = W == 16 ? 4 : 2 };
	for (int64_t o = o0; o < o1;) {
		int no = o1 - o >= NO ? NO : 1, nr = 1;
		for (int64_t n = 0; n < c->N; n += nr) {
			nr = no == NO && c->N - n >= 4 ? 4 : 1;
			if (nr == 4)
				few_tile(c, n, o, 4, NO, wt);
			else if (no == NO)
				few_tile(c, n, o, 1, NO, wt);
			else
				few_tile(c, n, o, 1, 1, wt);
		}
		o += no;
	}
}

static void row_few(const struct few_call *c, int64_t o0, int64_t o1)
{
	if (c->w.dtype == DT_BF16)
		few_body(c, o0, o1, DT_BF16);
	else
		few_body(c, o0, o1, DT_F32);
}
