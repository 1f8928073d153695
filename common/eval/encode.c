/*
 * encode.c - texts to requests
 *
 * The continuation is cut out of the whole by count: whole[0, len(c)) need not equal c where a token spans the seam,
 * and c is what the model reads.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "encode.h"
#include "../io/text.h"
#include <stdlib.h>
#include <string.h>

int encoder_open(struct encoder *c, const struct tokenizer *t, int64_t max_length, int64_t vocab, struct err *e)
{
	int64_t prefix = tok_bos(t) >= 0 ? tok_bos(t) : tok_eos(t);
	*c = (struct encoder){ .t = t, .max_length = max_length, .vocab = vocab };
	if (prefix < 0 || prefix >= vocab)
		return err_set(e, EXIT_DATA, "%s: no BOS or EOS token to stand for an empty context", tok_path(t));
	c->prefix = (uint32_t)prefix;
	c->prefix_text = tok_decode_new(t, &c->prefix, 1, false, &c->prefix_len);
	c->scratch = tok_scratch_new(t);
	return 0;
}

void encoder_close(struct encoder *c)
{
	tok_scratch_free(c->scratch);
	free(c->prefix_text);
	free(c->whole.v);
	free(c->ctx.v);
	free(c->ctx_text);
	*c = (struct encoder){ 0 };
}

static int put_prefix(const struct encoder *c, struct tok_ids *ids)
{
	if (ids->n && ids->v[0] == c->prefix)
		return 0;
	if (ids->n == ids->cap) {
		ids->cap = ids->cap ? 2 * ids->cap : 64;
		ids->v = xrealloc(ids->v, (size_t)ids->cap, sizeof *ids->v);
	}
	memmove(ids->v + 1, ids->v, (size_t)ids->n++ * sizeof *ids->v);
	ids->v[0] = c->prefix;
	return 0;
}

static int encode(struct encoder *c, struct tok_ids *ids, const char *s, size_t n, bool special, struct err *e)
{
	const bool any = special;
	if (c->bos == BOS_NEVER)
		special = false;
	if (special && c->prefix_len && n >= c->prefix_len && !memcmp(s, c->prefix_text, c->prefix_len))
		special = false;
	ids->n = 0;
	if (tok_encode(c->t, c->scratch, s, n, special, ids, e) < 0)
		return -1;
	for (int64_t i = 0; i < ids->n; i++)
		if (ids->v[i] >= c->vocab)
			return err_set(e, EXIT_DATA, "token %u of the tokenizer is beyond the model's vocabulary of %lld",
				       ids->v[i], (long long)c->vocab);
	return any && c->bos == BOS_ALWAYS ? put_prefix(c, ids) : 0;
}

/* What the model reads before the continuation; kept, for the next choice has it too */
static int encode_context(struct encoder *c, const char *s, size_t n, struct err *e)
{
	if (c->ctx_text && c->ctx_len == n && !memcmp(c->ctx_text, s, n))
		return 0;
	free(c->ctx_text);
	c->ctx_text = NULL;
	if (encode(c, &c->ctx, s, n, true, e))
		return -1;
	c->ctx_text = xmalloc(n + 1);
	memcpy(c->ctx_text, s, n);
	c->ctx_len = n;
	return 0;
}

const struct tok_ids *encode_prompt(struct encoder *c, const char *text, size_t n, struct err *e)
{
	if (encode(c, &c->whole, text, n, true, e))
		return NULL;
	if (c->whole.n)
		return &c->whole;
	c->empty = (struct tok_ids){ .v = &c->prefix, .n = 1 };
	return &c->empty;
}

/* The prefix token as context; a continuation that starts with it provides it itself. */
static int pair_without_context(struct encoder *c, struct ll_set *s, const char *cont, size_t n, struct err *e)
{
	if (encode(c, &c->whole, cont, n, false, e))
		return -1;
	int64_t own = c->whole.n > 0 && c->whole.v[0] == c->prefix;
	return ll_add(s, &c->prefix, 1, c->whole.v + own, c->whole.n - own, c->max_length, e);
}

int encode_pair(struct encoder *c, struct ll_set *s, const char *ctx, size_t n_ctx, const char *cont, size_t n_cont,
		struct err *e)
{
	size_t keep = text_rstrip(ctx, n_ctx);
	char *whole = xmalloc(n_ctx + n_cont + 1);
	memcpy(whole, ctx, n_ctx);
	memcpy(whole + n_ctx, cont, n_cont);
	int rc;
	if (!keep)
		rc = pair_without_context(c, s, whole, n_ctx + n_cont, e);
	else if (encode(c, &c->whole, whole, n_ctx + n_cont, true, e) || encode_context(c, whole, keep, e))
		rc = -1;
	else
		rc = ll_add(s, c->ctx.v, c->ctx.n, c->whole.v + c->ctx.n, c->whole.n - c->ctx.n, c->max_length, e);
	free(whole);
	return rc;
}

int64_t encode_rolling(struct encoder *c, struct ll_set *s, const char *text, size_t n, struct err *e)
{
	if (encode(c, &c->whole, text, n, true, e))
		return -1;
	ll_add_rolling(s, c->prefix, c->whole.v, c->whole.n, c->max_length);
	return c->whole.n;
}
