/*
 * task_target.c - one continuation that is known: how likely it is, and whether the model would have written it
 *
 *	{"ctx": "She opened the umbrella because it was", "target": " raining"}
 *
 * acc: every token of the target is the likeliest one at its place; perplexity = exp(-mean over items of ll), its error by
 * lm-evaluation-harness's bootstrap.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "metrics.h"
#include "task.h"
#include <math.h>
#include <stdlib.h>

static int add(struct doc *d, struct encoder *c, struct ll_set *s, struct err *e)
{
	const json_t *ctx = json_object_get(d->item, "ctx"), *target = json_object_get(d->item, "target");
	if (!json_is_string(ctx) || !json_is_string(target))
		return err_set(e, EXIT_DATA, "'ctx' and 'target' must be strings");
	return encode_pair(c, s, json_string_value(ctx), json_string_length(ctx), json_string_value(target),
			   json_string_length(target), e);
}

static void sample(const struct doc *d, const struct ll_set *s, json_t *o)
{
	const struct ll_req *r = &s->r[d->req0];
	json_t *q = json_pack("{s:O,s:O,s:f,s:b}", "context", json_object_get(d->item, "ctx"), "continuation",
			      json_object_get(d->item, "target"), "loglikelihood", r->sum, "greedy", r->greedy);
	json_object_set_new(o, "requests", json_pack("[o]", q));
	json_object_set_new(o, "acc", json_real(r->greedy));
}

static int score(const struct task *t, const struct ll_set *s, struct score out[MAX_SCORES])
{
	double *ll = xcalloc((size_t)t->n, sizeof *ll), *acc = xcalloc((size_t)t->n, sizeof *acc);
	for (int64_t i = 0; i < t->n; i++) {
		ll[i] = s->r[t->doc[i].req0].sum;
		acc[i] = s->r[t->doc[i].req0].greedy;
	}
	out[0] = (struct score){ "perplexity", exp(-metric_mean(ll, t->n)), metric_ppl_stderr(ll, t->n), 0, NULL };
	out[1] = (struct score){ "acc", metric_mean(acc, t->n), metric_stderr(acc, t->n), 1, NULL };
	free(ll);
	free(acc);
	return 2;
}

const struct task_kind task_target = { "target", { "ctx", "target" }, 0, add, sample, score, 0 };
