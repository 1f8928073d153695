/*
 * encode.h - texts to requests, by the rules of lm-evaluation-harness (0.4.9.2 and later)
 *
 * Special tokens (unless told otherwise) are those that tokenizer.json's post_processor adds, except that a text which already starts with the
 * prefix token's text gets none.  The prefix token (BOS, or EOS where there is no BOS) stands for an empty context.
 *
 *   pair      white space at the end of the context moves to the front of the continuation; then
 *             whole = encode(context + continuation), c = encode(context), continuation ids = whole[len(c):]
 *   rolling   encode(text), windows of loglik.h
 *   prompt    encode(text), or the prefix token for an empty one
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_ENCODE_H
#define ADZE_ENCODE_H
#include "../io/tokenizer.h"
#include "loglik.h"

enum bos_rule {
	BOS_AUTO,              /* as the post-processor says (0.4.9.2 and later) */
	BOS_ALWAYS,            /* the prefix token in front of every text that does not start with it */
	BOS_NEVER              /* no special tokens (0.4.9.1 and before) */
};
struct encoder {
	const struct tokenizer *t;
	struct tok_scratch *scratch;
	uint32_t prefix;
	char *prefix_text;
	size_t prefix_len;
	int64_t max_length, vocab;
	enum bos_rule bos;     /* BOS_AUTO; may be set after opening */
	char *ctx_text;        /* that ctx encodes: choices of one item share it */
	size_t ctx_len;
	struct tok_ids whole, ctx, empty;  /* empty: the prefix alone */
};
/* vocab: rows of the model's embedding; ids beyond it are refused.  EXIT_DATA without BOS and EOS. */
int encoder_open(struct encoder *c, const struct tokenizer *t, int64_t max_length, int64_t vocab, struct err *e);
void encoder_close(struct encoder *c);

/* Ids of a prompt, valid until the next call; NULL on error. */
const struct tok_ids *encode_prompt(struct encoder *c, const char *text, size_t n, struct err *e);
/* Adds one request. */
int encode_pair(struct encoder *c, struct ll_set *s, const char *ctx, size_t n_ctx, const char *cont, size_t n_cont,
		struct err *e);
/* Adds the windows of a text, none for an empty one; returns the tokens scored, -1 on error. */
int64_t encode_rolling(struct encoder *c, struct ll_set *s, const char *text, size_t n, struct err *e);
#endif
