/*
 * simd_attn.h - blocked attention, forward and backward, for one instruction set and one packed element type
 *
 * Included by simd_*.c once with EL = float, PAIR = 1 and, where bf16 dot products exist, once more with EL = uint16_t,
 * PAIR = 2.  The one idea: work on transposed scores.  A block holds S' = K Q', keys down and queries across (all R
 * query heads of a kv-head side by side: column r*BQ + i), so that maxima, sums and rescaling are plain vertical SIMD
 * and no step needs a horizontal reduction.  With A operands in rows ("A form") and B operands as rows of
 * PAIR-interleaved elements ("B form"), every product is the one micro-kernel mk():
 *
 *   forward   S' = K Q'      O' = alpha O' + V' P'                       m, l, alpha: running softmax per column
 *   backward  S' = K Q'      dP' = V dO'    P' = exp(S' - lse)    dS' = scale P' (dP' - delta)
 *             dV += P' dO    dK += dS' Q    dQ' += K' dS'
 *
 * B form of X' is the 32-bit transpose of X in A form; B form of X is its rows interleaved by PAIR.  Keys beyond T
 * are zero rows behind the causal mask; queries beyond T are columns that nobody reads.
 *
 * SPDX-License-Identifier: Apache-2.0
 */

/* B form of rows x cols (cols in elements): interleave PAIR rows; dst has rows/PAIR rows of cols*PAIR elements */
static void ATTN(interleave)(EL *dst, int64_t ldd, const EL *src, int64_t lds, int64_t rows, int64_t cols)
{
	for (int64_t r = 0; r < rows; r += PAIR)
		for (int64_t c = 0; c < cols; c++) {
#if PAIR == 2
			uint32_t lo = src[r * lds + c], hi = src[(r + 1) * lds + c], both = lo | hi << 16;
			memcpy(dst + r * ldd + c * 2, &both, 4);
#else
			dst[r * ldd + c] = src[r * lds + c];
#endif
		}
}

/* dst [cols][rows] = src [rows][cols]' in 32-bit units; rows, cols multiples of 4; strides in 32-bit units */
static void ATTN(transpose32)(void *dst, int64_t ldd, const void *src, int64_t lds, int64_t rows, int64_t cols)
{
	for (int64_t r = 0; r < rows; r += 4)
		for (int64_t c = 0; c < cols; c += 4) {
			const float *s = (const float *)src + r * lds + c;
			float *t = (float *)dst + c * ldd + r;
			__m128 x0 = _mm_loadu_ps(s), x1 = _mm_loadu_ps(s + lds), x2 = _mm_loadu_ps(s + 2 * lds);
			__m128 x3 = _mm_loadu_ps(s + 3 * lds);
			_MM_TRANSPOSE4_PS(x0, x1, x2, x3);
			_mm_storeu_ps(t, x0);
			_mm_storeu_ps(t + ldd, x1);
			_mm_storeu_ps(t + 2 * ldd, x2);
			_mm_storeu_ps(t + 3 * ldd, x3);
		}
}

INLINE void ATTN(put)(EL *dst, const float *src, int64_t n)
{
	EACH(i, n)
#if PAIR == 2
		sth(dst + i, ldf(src + i, lanes(n - i)), lanes(n - i));
#else
		stf(dst + i, ldf(src + i, lanes(n - i)), lanes(n - i));
#endif
}

/* Row t of one head as f32, zero beyond D and for rows beyond T; rotated when rope is given (sign -1: inverse) */
INLINE void ATTN(rotate)(float *x, const struct attn_call *c, int64_t seq, int64_t t, float sign)
{
	int half = c->g.rot / 2;
	t = c->start ? t - c->start[seq * c->g.T + t] : c->node ? c->node[2 * t] : t;
	const float *cs = (const float *)c->rope.p + t * c->g.rot, *sn = cs + half;
	for (int i = 0; i < half; i += W) {
		int n = lanes(half - i);
		vf a = ldf(x + i, n), b = ldf(x + half + i, n), p = ldf(cs + i, n), q = ldf(sn + i, n) * sign;
		stf(x + i, a * p - b * q, n);
		stf(x + half + i, b * p + a * q, n);
	}
}

enum { ATTN(AHEAD) = 6 };
static void ATTN(load)(EL *dst, const struct attn_call *c, mat m, int64_t b, int64_t t, int64_t col, int rope)
{
	float x[512];
	int D = c->g.D;
	memset(x, 0, (size_t)c->Dp * sizeof x[0]);
	if (t < c->g.T) {
		m = t < c->past.rows ? c->past : m;
		int64_t at = (b * c->g.T + t - (t < c->past.rows ? 0 : c->past.rows)) * m.cols + col;
		if (t + ATTN(AHEAD) < c->g.T) /* one short piece of each row: too sparse for the hardware to foresee */
			for (int i = 0; i < D; i += 64 / (int)sizeof(EL))
				__builtin_prefetch(elem_at(m, at + ATTN(AHEAD) * m.cols + i));
		EACH(i, D)
			stf(x + i, vld(m.p, m.dtype, at + i, lanes(D - i)), lanes(D - i));
		if (rope)
			ATTN(rotate)(x, c, b, t, 1.0f);
	}
	ATTN(put)(dst, x, c->Dp);
}

/* ---- micro-kernel: C [M,N] f32 = (cs ? cs[n] C : 0 or C) + A [M,K] B [K,N] ---- */

INLINE vf ATTN(fma)(vf acc, const EL *a, const EL *b)
{
#if PAIR == 2
	int32_t pair;
	memcpy(&pair, a, 4);
	return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(b), (__m512bh)_mm512_set1_epi32(pair));
#else
	return vfma(ldf(b, W), vset(*a), acc);
#endif
}

INLINE void ATTN(tile)(float *C, int64_t ldc, const EL *A, int64_t lda, const EL *B, int64_t ldb, int64_t K,
		       const float *cs, int acc, const int MR, const int NV)
{
	vf c[8][3];
#pragma GCC unroll 8
	for (int m = 0; m < MR; m++)
#pragma GCC unroll 3
		for (int v = 0; v < NV; v++) {
			c[m][v] = acc ? ldf(C + m * ldc + v * W, W) : (vf){ 0 };
			if (acc && cs)
				c[m][v] *= ldf(cs + v * W, W);
		}
	for (int64_t k = 0; k < K; k += PAIR) {
#pragma GCC unroll 8
		for (int m = 0; m < MR; m++)
#pragma GCC unroll 3
			for (int v = 0; v < NV; v++)
				c[m][v] = ATTN(fma)(c[m][v], A + m * lda + k, B + k * ldb + v * W * PAIR);
	}
#pragma GCC unroll 8
	for (int m = 0; m < MR; m++)
#pragma GCC unroll 3
		for (int v = 0; v < NV; v++)
			stf(C + m * ldc + v * W, c[m][v], W);
}

#define MR (W == 16 ? 8 : 4)
/* M a multiple of 8, N of 16, K of 16 */
static void ATTN(mk)(float *C, int64_t ldc, const EL *A, int64_t lda, const EL *B, int64_t ldb, int64_t M, int64_t N,
		     int64_t K, const float *cs, int acc)
{
	int64_t left = N / W;
	for (int64_t n = 0; left > 0;) {
		int nv = left == 4 || left == 2 ? 2 : left >= 3 ? 3 : 1;
		for (int64_t m = 0; m < M; m += MR) {
			float *c = C + m * ldc + n;
			const EL *a = A + m * lda, *b = B + n * PAIR;
			const float *s = cs ? cs + n : NULL;
			if (nv == 3)
				ATTN(tile)(c, ldc, a, lda, b, ldb, K, s, acc, MR, 3);
			else if (nv == 2)
				ATTN(tile)(c, ldc, a, lda, b, ldb, K, s, acc, MR, 2);
			else
				ATTN(tile)(c, ldc, a, lda, b, ldb, K, s, acc, MR, 1);
		}
		n += nv * W;
		left -= nv;
	}
}
#undef MR

/* ---- shared steps ---- */

struct ATTN(blk) { /* one query block of one kv-head */
	const struct attn_call *c;
	int64_t b, g, q0, Nc;
};

static struct ATTN(blk) ATTN(block)(const struct attn_call *c, int64_t bg, int64_t qb)
{
	return (struct ATTN(blk)){ c, bg / c->g.G, bg % c->g.G, c->past.rows + qb * c->BQ, (int64_t)c->R * c->BQ };
}

#include "simd_attn_mask.h"

/* Columns r*BQ + i of a matrix of heads, as rows [Nc][Dp] in A form */
static void ATTN(load_queries)(EL *dst, const struct ATTN(blk) *q, mat m, int rope)
{
	const struct attn_call *c = q->c;
	for (int r = 0; r < c->R; r++)
		for (int i = 0; i < c->BQ; i++)
			ATTN(load)(dst + (r * c->BQ + i) * c->Dp, c, m, q->b, q->q0 + i, (q->g * c->R + r) * c->g.D, rope);
}

INLINE void *ATTN(take)(char **p, size_t bytes)
{
	void *r = *p;
	*p += (bytes + 63) / 64 * 64;
	return r;
}

/* K of one key block: rotated rows in A form, and V' in A form.  Layout per (b, kv-head): [Tp][Dp] each, V' by blocks
 * [Dp][KEY_BLOCK].  tmp: 2 blocks. */
static void ATTN(pack)(const struct attn_call *c, int64_t bg, int64_t kb, void *tmp)
{
	int64_t b = bg / c->g.G, g = bg % c->g.G, D = c->g.D, Dp = c->Dp;
	EL *k = (EL *)c->k + (bg * c->Tp + kb * KEY_BLOCK) * Dp, *v = (EL *)c->v + (bg * c->Tp + kb * KEY_BLOCK) * Dp;
	EL *rows = tmp, *inter = rows + KEY_BLOCK * Dp;
	for (int64_t j = 0; j < KEY_BLOCK; j++) {
		ATTN(load)(k + j * Dp, c, c->qkv, b, kb * KEY_BLOCK + j, (c->g.H + g) * D, 1);
		ATTN(load)(rows + j * Dp, c, c->qkv, b, kb * KEY_BLOCK + j, (c->g.H + c->g.G + g) * D, 0);
	}
	ATTN(interleave)(inter, Dp, rows, Dp, KEY_BLOCK, Dp);
	ATTN(transpose32)(v, KEY_BLOCK / PAIR, inter, Dp, KEY_BLOCK / PAIR, Dp);
}

/* ---- forward ---- */

static size_t ATTN(fwd_bytes)(const struct attn_call *c)
{
	size_t N = (size_t)c->R * (size_t)c->BQ, D = (size_t)c->Dp, E = sizeof(EL);
	size_t packs = 2 * KEY_BLOCK * D * E;
	size_t need = 2 * N * D * E + KEY_BLOCK * N * (4 + E) + N * D * 8 + 3 * N * 4 + 16 * 64;
	return need > packs ? need : packs;
}

/* P' = exp(scale S' - m) into B form; updates m, l and sets alpha per column */
static void ATTN(softmax)(EL *P, const float *S, float *m, float *l, float *alpha, int64_t N, float scale)
{
	for (int64_t n = 0; n < N; n += W) {
		vf old = ldf(m + n, W), most = ldf(S + n, W), sum = { 0 };
		for (int64_t j = 1; j < KEY_BLOCK; j++)
			most = vmax(most, ldf(S + j * N + n, W));
		vf top = vmax(old, most * scale); /* scale > 0 */
		vf al = vexp(old - top);
		for (int64_t j = 0; j < KEY_BLOCK; j += PAIR) {
			vf a = vexp(vfma(ldf(S + j * N + n, W), vset(scale), -top));
			sum += a;
#if PAIR == 2
			vf b = vexp(vfma(ldf(S + (j + 1) * N + n, W), vset(scale), -top));
			sum += b;
			vu both = vpair(a, b);
			memcpy(P + j * N + n * 2, &both, sizeof both);
#else
			stf(P + j * N + n, a, W);
#endif
		}
		stf(l + n, vfma(ldf(l + n, W), al, sum), W);
		stf(m + n, top, W);
		stf(alpha + n, al, W);
	}
}

static void ATTN(fwd)(const struct attn_call *c, int64_t bg, int64_t qb, void *tmp)
{
	struct ATTN(blk) q = ATTN(block)(c, bg, qb);
	int64_t N = q.Nc, Dp = c->Dp, D = c->g.D;
	char *p = tmp;
	EL *rows = ATTN(take)(&p, (size_t)(N * Dp) * sizeof(EL)), *B = ATTN(take)(&p, (size_t)(N * Dp) * sizeof(EL));
	EL *P = ATTN(take)(&p, (size_t)(KEY_BLOCK * N) * sizeof(EL));
	float *S = ATTN(take)(&p, (size_t)(KEY_BLOCK * N) * 4), *O = ATTN(take)(&p, (size_t)(N * Dp) * 4);
	float *out = ATTN(take)(&p, (size_t)(N * Dp) * 4), *m = ATTN(take)(&p, (size_t)N * 4);
	float *l = ATTN(take)(&p, (size_t)N * 4), *alpha = ATTN(take)(&p, (size_t)N * 4);
	ATTN(load_queries)(rows, &q, c->qkv, 1);
	ATTN(transpose32)(B, N, rows, Dp / PAIR, N, Dp / PAIR);
	for (int64_t n = 0; n < N; n++) {
		m[n] = -1e30f;
		l[n] = 0;
	}
	int64_t first = ATTN(key_begin)(&q), end = ATTN(key_end)(&q);
	int some = 0;
	for (int64_t kb = first; kb < end; kb++) {
		if (c->node && !ATTN(hide_tree)(NULL, &q, kb * KEY_BLOCK))
			continue;
		const EL *k = (const EL *)c->k + (bg * c->Tp + kb * KEY_BLOCK) * Dp;
		const EL *v = (const EL *)c->v + (bg * c->Tp + kb * KEY_BLOCK) * Dp;
		ATTN(mk)(S, N, k, Dp, B, N, KEY_BLOCK, N, Dp, NULL, 0);
		if (c->node)
			ATTN(hide_tree)(S, &q, kb * KEY_BLOCK);
		else
			ATTN(hide)(S, &q, kb * KEY_BLOCK);
		ATTN(softmax)(P, S, m, l, alpha, N, c->g.scale);
		ATTN(mk)(O, N, v, KEY_BLOCK, P, N, Dp, N, KEY_BLOCK, alpha, some);
		some = 1;
	}
	ATTN(transpose32)(out, Dp, O, N, Dp, N);
	for (int64_t n = 0; n < N; n++) {
		int64_t t = q.q0 + n % c->BQ, h = q.g * c->R + n / c->BQ;
		if (t >= c->g.T)
			continue;
		row_cvt(elem_at(c->o, (q.b * c->g.T + t - c->past.rows) * c->o.cols + h * D), c->o.dtype, out + n * Dp, DT_F32, 1.0f / l[n], D);
		if (c->lse.p)
			((float *)c->lse.p)[(q.b * c->g.T + t) * c->g.H + h] = m[n] + logf(l[n]);
	}
}

/* ---- backward: one (b, kv-head), or every parts-th query block of it ---- */

struct ATTN(work) {
	EL *K, *Kt, *V;                     /* keys: A form, transposed A form by blocks; values: A form */
	EL *qa, *qT, *qB, *oa, *oT, *oB;    /* queries and dO: A form, B form of the transpose, B form */
	EL *P, *dS, *dSB;                   /* P', dS' in A form; dS' in B form */
	float *S, *dP, *dQ, *out, *dK, *dV, *lse, *delta;
};

static size_t ATTN(carve)(struct ATTN(work) *w, const struct attn_call *c, void *tmp)
{
	size_t N = (size_t)c->R * (size_t)c->BQ, D = (size_t)c->Dp, T = (size_t)c->Tp, E = sizeof(EL), KB = KEY_BLOCK;
	char *start = tmp, *p = start;
	EL **keys[] = { &w->K, &w->Kt, &w->V }, **qs[] = { &w->qa, &w->qT, &w->qB, &w->oa, &w->oT, &w->oB };
	for (int i = 0; i < 3; i++)
		*keys[i] = ATTN(take)(&p, T * D * E);
	for (int i = 0; i < 6; i++)
		*qs[i] = ATTN(take)(&p, N * D * E);
	w->P = ATTN(take)(&p, KB * N * E);
	w->dS = ATTN(take)(&p, KB * N * E);
	w->dSB = ATTN(take)(&p, KB * N * E);
	w->S = ATTN(take)(&p, KB * N * 4);
	w->dP = ATTN(take)(&p, KB * N * 4);
	w->dQ = ATTN(take)(&p, N * D * 4);
	w->out = ATTN(take)(&p, N * D * 4);
	w->dK = ATTN(take)(&p, T * D * 4);
	w->dV = ATTN(take)(&p, T * D * 4);
	w->lse = ATTN(take)(&p, N * 4);
	w->delta = ATTN(take)(&p, N * 4);
	return (size_t)(p - start);
}

static size_t ATTN(bwd_bytes)(const struct attn_call *c)
{
	struct ATTN(work) w;
	return ATTN(carve)(&w, c, NULL);
}

static void ATTN(load_keys)(struct ATTN(work) *w, const struct attn_call *c, int64_t b, int64_t g)
{
	int64_t D = c->g.D, Dp = c->Dp;
	for (int64_t t = 0; t < c->Tp; t++) {
		ATTN(load)(w->K + t * Dp, c, c->qkv, b, t, (c->g.H + g) * D, 1);
		ATTN(load)(w->V + t * Dp, c, c->qkv, b, t, (c->g.H + c->g.G + g) * D, 0);
	}
	EL *inter = (EL *)w->dK; /* not in use yet, and large enough */
	for (int64_t t = 0; t < c->Tp; t += KEY_BLOCK) {
		ATTN(interleave)(inter, Dp, w->K + t * Dp, Dp, KEY_BLOCK, Dp);
		ATTN(transpose32)(w->Kt + t * Dp, KEY_BLOCK / PAIR, inter, Dp, KEY_BLOCK / PAIR, Dp);
	}
	memset(w->dK, 0, (size_t)(c->Tp * Dp) * 4);
	memset(w->dV, 0, (size_t)(c->Tp * Dp) * 4);
}

/* Q, dO in their three forms; lse and delta = dO . O per column (unused columns: P = 0) */
static void ATTN(load_block)(struct ATTN(work) *w, const struct ATTN(blk) *q)
{
	const struct attn_call *c = q->c;
	int64_t N = q->Nc, Dp = c->Dp;
	ATTN(load_queries)(w->qa, q, c->qkv, 1);
	ATTN(load_queries)(w->oa, q, c->dout, 0);
	ATTN(transpose32)(w->qT, N, w->qa, Dp / PAIR, N, Dp / PAIR);
	ATTN(transpose32)(w->oT, N, w->oa, Dp / PAIR, N, Dp / PAIR);
	ATTN(interleave)(w->qB, Dp, w->qa, Dp, N, Dp);
	ATTN(interleave)(w->oB, Dp, w->oa, Dp, N, Dp);
	for (int64_t n = 0; n < N; n++) {
		int64_t t = q->q0 + n % c->BQ, h = q->g * c->R + n / c->BQ, row = q->b * c->g.T + t;
		double dot[3];
		w->lse[n] = 1e30f;
		w->delta[n] = 0;
		if (t >= c->g.T)
			continue;
		int64_t at = row * c->o.cols + h * c->g.D;
		row_dot3(dot, elem_at(c->dout, at), c->dout.dtype, elem_at(c->o, at), c->o.dtype, c->g.D);
		w->delta[n] = (float)dot[2];
		w->lse[n] = ((const float *)c->lse.p)[row * c->g.H + h];
	}
}

/* From S' and dP': P' and dS', in the forms that the last three products read */
static void ATTN(scores)(struct ATTN(work) *w, int64_t N, float scale)
{
	for (int64_t j = 0; j < KEY_BLOCK; j += PAIR)
		for (int64_t n = 0; n < N; n += W) {
			vf l = ldf(w->lse + n, W), d = ldf(w->delta + n, W);
			vf p[PAIR], s[PAIR];
			for (int i = 0; i < PAIR; i++) {
				int64_t at = (j + i) * N + n;
				p[i] = vexp(vfma(ldf(w->S + at, W), vset(scale), -l));
				s[i] = p[i] * (ldf(w->dP + at, W) - d) * scale;
				ATTN(put)(w->P + at, (const float *)&p[i], W);
				ATTN(put)(w->dS + at, (const float *)&s[i], W);
			}
#if PAIR == 2
			vu both = vpair(s[0], s[1]);
			memcpy(w->dSB + j * N + n * 2, &both, sizeof both);
#endif
		}
}

/* Undo the rotation (rope) and store one row of a gradient */
static void ATTN(store)(const struct attn_call *c, float *x, int64_t b, int64_t t, int64_t col, int rope)
{
	if (rope)
		ATTN(rotate)(x, c, b, t, -1.0f);
	row_cvt(elem_at(c->dqkv, (b * c->g.T + t) * c->dqkv.cols + col), c->dqkv.dtype, x, DT_F32, 1.0f, c->g.D);
}

/* Key and value gradients of one (b, kv-head): add the other parts to the first, store rows [t0, t1) */
static void ATTN(finish)(const struct attn_call *c, int64_t bg, float *dK, float *dV, int64_t t0, int64_t t1)
{
	int64_t b = bg / c->g.G, g = bg % c->g.G, Dp = c->Dp, D = c->g.D;
	for (int64_t t = t0; t < t1 && t < c->g.T; t++) {
		for (int p = 1; p < c->parts; p++) {
			row_axpy(dK + t * Dp, dK + (p * c->Tp + t) * Dp, DT_F32, 1.0f, Dp);
			row_axpy(dV + t * Dp, dV + (p * c->Tp + t) * Dp, DT_F32, 1.0f, Dp);
		}
		ATTN(store)(c, dK + t * Dp, b, t, (c->g.H + g) * D, 1);
		ATTN(store)(c, dV + t * Dp, b, t, (c->g.H + c->g.G + g) * D, 0);
	}
}

/* Query blocks part, part + parts, ... of one (b, kv-head) */
static void ATTN(bwd)(const struct attn_call *c, int64_t bg, int64_t part, void *tmp)
{
	struct ATTN(work) w;
	int64_t Dp = c->Dp, D = c->g.D;
	ATTN(carve)(&w, c, tmp);
	if (c->parts > 1) {
		w.dK = (float *)c->k + (bg * c->parts + part) * c->Tp * Dp;
		w.dV = (float *)c->v + (bg * c->parts + part) * c->Tp * Dp;
	}
	ATTN(load_keys)(&w, c, bg / c->g.G, bg % c->g.G);
	const EL *dSB = PAIR == 2 ? w.dSB : w.dS;
	for (int64_t qb = part; qb < c->nq; qb += c->parts) {
		struct ATTN(blk) q = ATTN(block)(c, bg, qb);
		int64_t N = q.Nc, first = ATTN(key_begin)(&q), end = ATTN(key_end)(&q);
		ATTN(load_block)(&w, &q);
		for (int64_t kb = first; kb < end; kb++) {
			int64_t at = kb * KEY_BLOCK * Dp;
			ATTN(mk)(w.S, N, w.K + at, Dp, w.qT, N, KEY_BLOCK, N, Dp, NULL, 0);
			ATTN(hide)(w.S, &q, kb * KEY_BLOCK);
			ATTN(mk)(w.dP, N, w.V + at, Dp, w.oT, N, KEY_BLOCK, N, Dp, NULL, 0);
			ATTN(scores)(&w, N, c->g.scale);
			ATTN(mk)(w.dV + at, Dp, w.P, N, w.oB, Dp, KEY_BLOCK, Dp, N, NULL, 1);
			ATTN(mk)(w.dK + at, Dp, w.dS, N, w.qB, Dp, KEY_BLOCK, Dp, N, NULL, 1);
			ATTN(mk)(w.dQ, N, w.Kt + at, KEY_BLOCK, dSB, N, Dp, N, KEY_BLOCK, NULL, kb > first);
		}
		ATTN(transpose32)(w.out, Dp, w.dQ, N, Dp, N);
		for (int64_t n = 0; n < N; n++)
			if (q.q0 + n % c->BQ < c->g.T)
				ATTN(store)(c, w.out + n * Dp, q.b, q.q0 + n % c->BQ, (q.g * c->R + n / c->BQ) * D, 1);
	}
	if (c->parts == 1)
		ATTN(finish)(c, bg, w.dK, w.dV, 0, c->g.T);
}

static const struct attn_ops ATTN(ops) = {
	sizeof(EL), ATTN(fwd_bytes), ATTN(bwd_bytes), ATTN(pack), ATTN(fwd), ATTN(bwd), ATTN(finish),
};
