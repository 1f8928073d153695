/*
 * ref_embed.c - token embedding: y = W[tok] * scale, and its weight gradient
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ref.h"

/* y [N,C], tok [N,1], W [V,C] */
void ref_embed(struct dev *d, mat y, mat tok, mat W, float scale)
{
	(void)d;
	for (int64_t n = 0; n < y.rows; n++)
		for (int64_t c = 0; c < y.cols; c++)
			st(y, n * y.cols + c, ref_int(tok, n) < 0 ? 0 : (double)scale * ld(W, ref_int(tok, n) * W.cols + c));
}

/* dW[tok[n]] += scale * dy[n] */
void ref_embed_dw(struct dev *d, mat dW, mat tok, mat dy, float scale)
{
	(void)d;
	double *s = ref_tmp(dW.rows * dW.cols);
	for (int64_t n = 0; n < dy.rows; n++)
		for (int64_t c = 0; ref_int(tok, n) >= 0 && c < dy.cols; c++)
			s[ref_int(tok, n) * dW.cols + c] += (double)scale * ld(dy, n * dy.cols + c);
	for (int64_t i = 0; i < dW.rows * dW.cols; i++)
		st(dW, i, ld(dW, i) + s[i]);
	free(s);
}
