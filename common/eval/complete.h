/*
 * complete.h - texts continued by a model, cut at stop strings, by the rules of lm-evaluation-harness
 *
 * A sequence ends at an EOS id, at its limit, or when what it has written, special tokens spelled out, holds a stop string.
 * The text is what was written without special tokens, then for each stop string in turn only what is before it.
 *
 *	complete_open(&c, &encoder, DIR, e);  complete_add(&c, prompt, n, &how, e);  ...
 *	complete_run(&c, &weights, &opts, e);  c.r[i].text
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_COMPLETE_H
#define ADZE_COMPLETE_H
#include "encode.h"
#include "generate.h"

struct complete_how {
	int64_t max_new;
	double temperature, top_p;     /* as struct gen_req */
	const char *const *stop;       /* n_stop strings, not empty, that outlive the set */
	int n_stop;
};
struct completion {
	const char *const *stop;
	int n_stop;
	char *text;                    /* result, valid UTF-8 */
	size_t len;
};
struct complete_set {
	struct encoder *enc;
	struct gen_set g;
	struct completion *r;          /* parallel to g.r */
	int64_t cap;
	uint32_t *eos;                 /* of generation_config.json or config.json, and the tokenizer's */
	int64_t n_eos;
	char *eos_text;                /* the tokenizer's EOS as text: a stop string after all others */
};
/* Reads the EOS ids of the model in dir. */
int complete_open(struct complete_set *s, struct encoder *enc, const char *dir, struct err *e);
void complete_close(struct complete_set *s);
int complete_add(struct complete_set *s, const char *prompt, size_t n, const struct complete_how *how, struct err *e);
/* As gen_run; where to stop is the set's. */
int complete_run(struct complete_set *s, const struct weights *m, const struct gen_opts *o, struct err *e);
#endif
