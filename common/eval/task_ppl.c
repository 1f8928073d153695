/*
 * task_ppl.c - perplexity of documents: JSON lines with "text" (other fields are ignored), or a whole file
 *
 * The perplexities are weighted: one quotient of sums over all documents, as lm-evaluation-harness does for wikitext.
 * Words and bytes are those of the text as it stands (or of the text that a task's rules count), tokens are those that
 * were scored.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../io/text.h"
#include "metrics.h"
#include "task.h"
#include <math.h>

static int add(struct doc *d, struct encoder *c, struct ll_set *s, struct err *e)
{
	const json_t *text = json_object_get(d->item, "text");
	if (!json_is_string(text))
		return err_set(e, EXIT_DATA, "'text' must be a string");
	if (!d->words) { /* unless the rules count another text */
		d->words = text_words(json_string_value(text), json_string_length(text));
		d->bytes = (int64_t)json_string_length(text);
	}
	d->tokens = encode_rolling(c, s, json_string_value(text), json_string_length(text), e);
	return d->tokens < 0 ? -1 : 0;
}

static struct ppl measure(const struct doc *d, const struct ll_set *s)
{
	struct ppl p = { .words = d->words, .bytes = d->bytes, .tokens = d->tokens };
	for (int64_t i = 0; i < d->n_req; i++)
		p.sum += s->r[d->req0 + i].sum;
	return p;
}

static void sample(const struct doc *d, const struct ll_set *s, json_t *o)
{
	struct ppl p = measure(d, s);
	int greedy = 1;
	for (int64_t i = 0; i < d->n_req; i++)
		greedy &= s->r[d->req0 + i].greedy;
	json_t *r = json_pack("{s:s,s:O,s:f,s:b}", "context", "", "continuation", json_object_get(d->item, "text"),
			      "loglikelihood", p.sum, "greedy", greedy);
	json_object_set_new(o, "requests", json_pack("[o]", r));
	json_object_set_new(o, "words", json_integer(p.words));
	json_object_set_new(o, "bytes", json_integer(p.bytes));
	json_object_set_new(o, "tokens", json_integer(p.tokens));
}

static int score(const struct task *t, const struct ll_set *s, struct score out[MAX_SCORES])
{
	struct ppl all = { 0 };
	for (int64_t i = 0; i < t->n; i++) {
		struct ppl p = measure(&t->doc[i], s);
		ppl_add(&all, &p);
	}
	out[0] = (struct score){ "word_perplexity", ppl_word(&all), NAN, 0, NULL };
	out[1] = (struct score){ "byte_perplexity", ppl_byte(&all), NAN, 0, NULL };
	out[2] = (struct score){ "bits_per_byte", ppl_bits(&all), NAN, 0, NULL };
	out[3] = (struct score){ "token_perplexity", ppl_token(&all), NAN, 0, NULL };
	return 4;
}

const struct task_kind task_ppl = { "ppl", { "text" }, 0, add, sample, score, 0 };
const struct task_kind task_text = { "text", { NULL }, 1, add, sample, score, 0 };
