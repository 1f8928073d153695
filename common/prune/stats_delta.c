/*
 * stats_delta.c - records of ablations: what changed when parts of the model were left out
 *
 * A record's key is (metric, site, first layer, count, round, parts removed before): records of one key add over disjoint
 * samples, which is how shards merge.  Shards of a greedy run that removed different parts have different keys and are
 * refused.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stats.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const stat_delta_metrics[] = { "loss", "kl", "mse", "task", "angular", NULL };

static int same_key(const struct stat_delta *x, const struct stat_delta *y)
{
	return x->layer == y->layer && x->count == y->count && x->step == y->step && x->n_dropped == y->n_dropped &&
	       !strcmp(x->site, y->site) && !strcmp(x->metric, y->metric) &&
	       (!x->n_dropped || !memcmp(x->dropped, y->dropped, (size_t)x->n_dropped * sizeof *x->dropped));
}

static struct stat_delta *find(const struct stats *s, const struct stat_delta *key)
{
	for (int i = 0; i < s->n_delta; i++)
		if (same_key(&s->delta[i], key))
			return &s->delta[i];
	return NULL;
}

void stats_delta_add(struct stats *s, const struct stat_delta *d)
{
	s->delta = xrealloc(s->delta, (size_t)s->n_delta + 1, sizeof *s->delta);
	struct stat_delta *x = &s->delta[s->n_delta++];
	*x = *d;
	x->dropped = d->n_dropped ? xcalloc((size_t)d->n_dropped, sizeof *x->dropped) : NULL;
	if (d->n_dropped)
		memcpy(x->dropped, d->dropped, (size_t)d->n_dropped * sizeof *x->dropped);
}

void stats_delta_free(struct stats *s)
{
	for (int i = 0; i < s->n_delta; i++)
		free(s->delta[i].dropped);
	free(s->delta);
	s->delta = NULL;
	s->n_delta = 0;
}

int stats_delta_merge(struct stats *a, const struct stats *b, struct err *e)
{
	if (a->n_delta != b->n_delta)
		return err_set(e, EXIT_DATA, "%d ablations cannot be added to %d", b->n_delta, a->n_delta);
	for (int i = 0; i < b->n_delta; i++) {
		const struct stat_delta *y = &b->delta[i];
		struct stat_delta *x = find(a, y);
		if (!x)
			return err_set(e, EXIT_DATA, "the %s of %s %lld without it has no counterpart to be added to (another mode, or "
				       "other parts removed before it)", y->metric, y->site, (long long)y->layer);
		x->tokens += y->tokens;
		x->base += y->base;
		x->delta += y->delta;
	}
	a->block_runs += b->block_runs;
	a->block_runs_plain += b->block_runs_plain;
	return 0;
}

int stats_join(struct stats *a, const struct stats *b, struct err *e)
{
	if (strcmp(a->model, b->model) || a->layers != b->layers)
		return err_set(e, EXIT_DATA, "statistics are of model %.8s..., those before are of model %.8s...", b->model, a->model);
	for (int i = 0; i < b->n; i++) {
		const struct stat_entry *y = &b->e[i];
		size_t n = y->units ? (size_t)y->units * STAT_ROWS : 1;
		if (stats_find(a, y->site, y->layer))
			return err_set(e, EXIT_DATA, "'%s' of layer %lld is in another input as well (act-stats --merge adds shards)",
				       y->site, (long long)y->layer);
		struct stat_entry *x = stats_entry(a, y->site, y->layer, y->unit, y->units);
		x->n = y->n;
		x->tokens = y->tokens;
		memcpy(x->sums, y->sums, n * sizeof *x->sums);
	}
	for (int i = 0; i < b->n_delta; i++) {
		if (find(a, &b->delta[i]))
			return err_set(e, EXIT_DATA, "the %s of %s %lld is in another input as well (act-stats --merge adds shards)",
				       b->delta[i].metric, b->delta[i].site, (long long)b->delta[i].layer);
		stats_delta_add(a, &b->delta[i]);
	}
	for (int64_t l = 0; b->passed && l < b->layers; l++)
		if (b->passed[l])
			stats_pass_over(a, l);
	return 0;
}

int stats_delta_write(const struct stat_delta *d, struct art_w *w, struct err *e)
{
	art_map(w, 7 + (d->step >= 0) + (d->n_dropped > 0));
	art_key(w, "site"), art_str(w, d->site);
	art_key(w, "layer"), art_int(w, d->layer);
	art_key(w, "tokens"), art_int(w, d->tokens);
	art_key(w, "metric"), art_str(w, d->metric);
	art_key(w, "count"), art_int(w, d->count);
	art_key(w, "base"), art_f64(w, d->base);
	art_key(w, "delta"), art_f64(w, d->delta);
	if (d->step >= 0)
		art_key(w, "step"), art_int(w, d->step);
	if (d->n_dropped)
		art_key(w, "dropped"), art_array(w, ART_U32, 1, &d->n_dropped, d->dropped);
	return art_end_record(w, e);
}

static int known(const char *word, const char *const *list)
{
	for (; *list; list++)
		if (!strcmp(word, *list))
			return 1;
	return 0;
}

int stats_delta_read(struct stats *s, const struct art_r *a, const msgpack_object *rec, struct err *e)
{
	static const char *const sites[] = { "block", "attn", "ffn", NULL };
	struct stat_delta d = { .step = -1 };
	const void *data = NULL;
	if (obj_str(a, rec, "site", d.site, sizeof d.site, e) || obj_str(a, rec, "metric", d.metric, sizeof d.metric, e) ||
	    obj_int(a, rec, "layer", &d.layer, e) || obj_int(a, rec, "count", &d.count, e) ||
	    obj_int(a, rec, "tokens", &d.tokens, e) || obj_f64(a, rec, "base", &d.base, e) ||
	    obj_f64(a, rec, "delta", &d.delta, e) || (obj_get(rec, "step") && obj_int(a, rec, "step", &d.step, e)) ||
	    (obj_get(rec, "dropped") && obj_array(a, rec, "dropped", ART_U32, -1, &data, &d.n_dropped, e)))
		return -1;
	int bad = !known(d.site, sites) || !known(d.metric, stat_delta_metrics) || d.layer < 0 || d.layer >= s->layers || d.count < 1 ||
		  d.count > s->layers - d.layer || d.tokens < 1 || d.step < -1 || d.step >= s->layers ||
		  d.n_dropped > s->layers || d.n_dropped != (d.step > 0 ? d.step : 0) || !isfinite(d.base) || !isfinite(d.delta);
	d.dropped = xcalloc((size_t)(bad ? 0 : d.n_dropped) + 1, sizeof *d.dropped);
	if (!bad && d.n_dropped)
		memcpy(d.dropped, data, (size_t)d.n_dropped * sizeof *d.dropped);
	for (int64_t i = 0; i < d.n_dropped && !bad; i++)
		bad = d.dropped[i] >= s->layers;
	int rc = 0;
	if (bad)
		rc = err_set(e, EXIT_DATA, "%s: %s of '%s' at layer %lld is malformed", art_name(a), d.metric, d.site, (long long)d.layer);
	else if (find(s, &d))
		rc = err_set(e, EXIT_DATA, "%s: %s of '%s' at layer %lld appears twice", art_name(a), d.metric, d.site, (long long)d.layer);
	else
		stats_delta_add(s, &d);
	free(d.dropped);
	return rc;
}
