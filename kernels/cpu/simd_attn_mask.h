/*
 * simd_attn_mask.h - who sees whom: causal order, windows, documents of a packed sequence, texts with common starts
 *
 * Included by simd_attn.h.  Whole key blocks that no query of a block sees are skipped; in the others hidden scores become -inf.
 *
 * SPDX-License-Identifier: Apache-2.0
 */

static int64_t ATTN(key_end)(const struct ATTN(blk) *q) /* key blocks that this query block sees: [begin, end) */
{
	int64_t last = q->q0 + q->c->BQ < q->c->g.T ? q->q0 + q->c->BQ : q->c->g.T;
	return (last + KEY_BLOCK - 1) / KEY_BLOCK;
}

static int64_t ATTN(key_begin)(const struct ATTN(blk) *q)
{
	const struct attn_call *c = q->c;
	int64_t w = c->node ? 0 : c->g.window, first = w > 0 ? q->q0 - w + 1 : 0;
	int64_t doc = c->start ? c->start[q->b * c->g.T + q->q0] : 0;
	first = doc > first ? doc : first;
	return first > 0 ? first / KEY_BLOCK : 0;
}

/* S' [keys][Nc]: -inf where the key is of a document before the query's */
static void ATTN(hide_documents)(float *S, const struct ATTN(blk) *q, int64_t k0)
{
	const struct attn_call *c = q->c;
	const int32_t *start = c->start + q->b * c->g.T + q->q0;
	int64_t n = c->g.T - q->q0 < c->BQ ? c->g.T - q->q0 : c->BQ;
	if (start[n - 1] <= k0)
		return;
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = 0; j < KEY_BLOCK && k0 + j < start[i]; j++)
			for (int r = 0; r < c->R; r++)
				S[j * q->Nc + r * c->BQ + i] = -INFINITY;
}

/* S' [keys][Nc]: -inf where query may not see key (only blocks that touch the diagonal or the window's edge) */
static void ATTN(hide)(float *S, const struct ATTN(blk) *q, int64_t k0)
{
	const struct attn_call *c = q->c;
	int64_t w = c->g.window;
	if (c->start)
		ATTN(hide_documents)(S, q, k0);
	if (k0 + KEY_BLOCK - 1 <= q->q0 && (w <= 0 || k0 > q->q0 + c->BQ - 1 - w))
		return;
	for (int64_t j = 0; j < KEY_BLOCK; j++) {
		int64_t before = k0 + j - q->q0, after = w > 0 ? before + w : c->BQ; /* visible: before <= i < after */
		before = before < 0 ? 0 : before > c->BQ ? c->BQ : before;
		after = after < before ? before : after > c->BQ ? c->BQ : after;
		for (int r = 0; r < c->R; r++) {
			float *s = S + j * q->Nc + r * c->BQ;
			for (int64_t i = 0; i < before; i++)
				s[i] = -INFINITY;
			for (int64_t i = after; i < c->BQ; i++)
				s[i] = -INFINITY;
		}
	}
}

/* The same for a forest.  Returns 0, without touching S, where no query of the block sees any key of this one: with S NULL
 * nothing is hidden yet. */
static int ATTN(hide_tree)(float *S, const struct ATTN(blk) *q, int64_t k0)
{
	const struct attn_call *c = q->c;
	const int32_t *node = c->node;
	int64_t w = c->g.window, seen = 0;
	for (int64_t j = 0; j < KEY_BLOCK; j++) {
		int64_t end = k0 + j < c->g.T ? node[2 * (k0 + j) + 1] : 0, before = k0 + j - q->q0, after = end - q->q0;
		before = before < 0 ? 0 : before > c->BQ ? c->BQ : before;
		after = after < before ? before : after > c->BQ ? c->BQ : after;
		seen |= after > before;
		for (int r = 0; S && r < c->R; r++) {
			float *s = S + j * q->Nc + r * c->BQ;
			for (int64_t i = 0; i < before; i++)
				s[i] = -INFINITY;
			for (int64_t i = after; i < c->BQ; i++)
				s[i] = -INFINITY;
			for (int64_t i = before; w > 0 && i < after; i++)
				if (q->q0 + i < c->g.T && node[2 * (q->q0 + i)] - node[2 * (k0 + j)] >= w)
					s[i] = -INFINITY;
		}
	}
	return seen != 0;
}
