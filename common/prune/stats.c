/*
 * stats.c - the statistics artifact
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stats.h"
#include "../model/params.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

void stats_init(struct stats *s, const struct arch *a, const char *model, int64_t seq)
{
	memset(s, 0, sizeof *s);
	snprintf(s->model, sizeof s->model, "%s", model);
	snprintf(s->family, sizeof s->family, "%s", a->family->model_type);
	s->layers = a->layers, s->hidden = a->hidden, s->ffn = a->ffn;
	s->heads = a->heads, s->kv_heads = a->kv_heads, s->head_dim = a->head_dim, s->seq = seq;
}

void stats_free(struct stats *s)
{
	for (int i = 0; i < s->n; i++)
		free(s->e[i].sums);
	free(s->e);
	stats_delta_free(s);
	memset(s, 0, sizeof *s);
}

const struct stat_entry *stats_find(const struct stats *s, const char *site, int64_t layer)
{
	for (int i = 0; i < s->n; i++)
		if (s->e[i].layer == layer && !strcmp(s->e[i].site, site))
			return &s->e[i];
	return NULL;
}

bool stats_left_out(const struct stats *s, int64_t layer)
{
	for (int i = 0; i < s->n; i++)
		if (s->e[i].layer == layer)
			return false;
	return s->n > 0;
}

static size_t sums_of(int64_t units)
{
	return units ? (size_t)units * STAT_ROWS : 1;
}

struct stat_entry *stats_entry(struct stats *s, const char *site, int64_t layer, int64_t unit, int64_t units)
{
	const struct stat_entry *old = stats_find(s, site, layer);
	if (old)
		return (struct stat_entry *)old;
	s->e = xrealloc(s->e, (size_t)s->n + 1, sizeof *s->e);
	struct stat_entry *x = &s->e[s->n++];
	*x = (struct stat_entry){ .layer = layer, .unit = unit, .units = units };
	snprintf(x->site, sizeof x->site, "%s", site);
	x->sums = xcalloc(sums_of(units), sizeof *x->sums);
	return x;
}

int stats_add(struct stats *a, const struct stats *b, struct err *e)
{
	if (strcmp(a->model, b->model))
		return err_set(e, EXIT_DATA, "statistics of model %.8s... cannot be added to those of model %.8s...", b->model,
			       a->model);
	if (a->n != b->n)
		return err_set(e, EXIT_DATA, "statistics of %d entries cannot be added to %d entries (different --sites?)",
			       b->n, a->n);
	for (int i = 0; i < b->n; i++) {
		const struct stat_entry *y = &b->e[i], *x = stats_find(a, y->site, y->layer);
		if (!x || x->units != y->units || x->unit != y->unit)
			return err_set(e, EXIT_DATA, "statistics of %s, layer %lld differ in shape", y->site,
				       (long long)y->layer);
		struct stat_entry *to = (struct stat_entry *)x;
		to->n += y->n;
		to->tokens += y->tokens;
		for (size_t k = 0; k < sums_of(y->units); k++)
			to->sums[k] += y->sums[k];
	}
	if (stats_delta_merge(a, b, e))
		return -1;
	a->samples += b->samples;
	a->tokens += b->tokens;
	if (a->seq < b->seq)
		a->seq = b->seq;
	return 0;
}

/* name, address and value of each integer of the header, in one place for reading and writing */
static int shape_fields(struct stats *s, const char *name[9], int64_t *at[9])
{
	static const char *const words[] = { "layers", "hidden", "ffn", "heads", "kv_heads", "head_dim", "seq", "samples",
					     "tokens" };
	int64_t *const p[] = { &s->layers, &s->hidden, &s->ffn, &s->heads, &s->kv_heads, &s->head_dim, &s->seq, &s->samples,
			       &s->tokens };
	for (int i = 0; i < 9; i++)
		name[i] = words[i], at[i] = p[i];
	return 9;
}

int stats_write(const struct stats *s, struct art_w *w, struct err *e)
{
	const char *name[9];
	int64_t *at[9];
	struct stats copy = *s;
	art_meta_str(w, "model", s->model);
	art_meta_str(w, "family", s->family);
	for (int i = 0, n = shape_fields(&copy, name, at); i < n; i++)
		art_meta_int(w, name[i], *at[i]);
	if (s->block_runs) {
		art_meta_int(w, "block_runs", s->block_runs);
		art_meta_int(w, "block_runs_plain", s->block_runs_plain);
	}
	for (int i = 0; i < s->n_delta; i++)
		if (stats_delta_write(&s->delta[i], w, e))
			return -1;
	for (int i = 0; i < s->n; i++) {
		const struct stat_entry *x = &s->e[i];
		art_map(w, x->units ? 6 : 4);
		art_key(w, "site"), art_str(w, x->site);
		art_key(w, "layer"), art_int(w, x->layer);
		art_key(w, "tokens"), art_int(w, x->tokens);
		if (x->units) {
			int64_t dims[] = { STAT_ROWS, x->units };
			art_key(w, "unit"), art_int(w, x->unit);
			art_key(w, "n"), art_int(w, x->n);
			art_key(w, "sums"), art_array(w, ART_F64, 2, dims, x->sums);
		} else {
			art_key(w, "one_minus_cos"), art_f64(w, x->sums[0]);
		}
		if (art_end_record(w, e))
			return -1;
	}
	return 0;
}

static int read_entry(struct stats *s, const struct art_r *a, const msgpack_object *rec, struct err *e)
{
	char site[24];
	int64_t layer, tokens, unit = 1, n = 0, count = 0;
	const void *data = NULL;
	double c = 0;
	if (obj_get(rec, "delta"))
		return stats_delta_read(s, a, rec, e);
	if (obj_str(a, rec, "site", site, sizeof site, e) || obj_int(a, rec, "layer", &layer, e) ||
	    obj_int(a, rec, "tokens", &tokens, e))
		return -1;
	int width = obj_get(rec, "sums") != NULL;
	if (width && (obj_int(a, rec, "unit", &unit, e) || obj_int(a, rec, "n", &n, e) ||
		      obj_array(a, rec, "sums", ART_F64, -1, &data, &count, e)))
		return -1;
	if (!width && obj_f64(a, rec, "one_minus_cos", &c, e))
		return -1;
	if (layer < -1 || layer >= s->layers || tokens < 1 || unit < 1 || (width && (n < 1 || !count || count % STAT_ROWS)))
		return err_set(e, EXIT_DATA, "%s: entry '%s' of layer %lld is malformed", art_name(a), site, (long long)layer);
	if (stats_find(s, site, layer))
		return err_set(e, EXIT_DATA, "%s: entry '%s' of layer %lld appears twice", art_name(a), site, (long long)layer);
	struct stat_entry *x = stats_entry(s, site, layer, unit, width ? count / STAT_ROWS : 0);
	x->n = n;
	x->tokens = tokens;
	if (width)
		memcpy(x->sums, data, (size_t)count * sizeof *x->sums);
	else
		x->sums[0] = c;
	for (size_t k = 0; k < sums_of(x->units); k++)
		if (!isfinite(x->sums[k]))
			return err_set(e, EXIT_DATA, "%s: entry '%s' of layer %lld: sum %zu is not finite", art_name(a), site,
				       (long long)layer, k);
	return 0;
}

int stats_read(struct stats *s, const char *path, struct prov *prov, struct err *e)
{
	memset(s, 0, sizeof *s);
	struct art_r *a = art_open(path, "stats", 1, e);
	if (!a)
		return -1;
	const char *name[9];
	int64_t *at[9];
	const msgpack_object *m = art_meta(a), *rec;
	int rc = obj_str(a, m, "model", s->model, sizeof s->model, e) || obj_str(a, m, "family", s->family, sizeof s->family, e);
	for (int i = 0, n = shape_fields(s, name, at); i < n && !rc; i++) {
		rc = obj_int(a, m, name[i], at[i], e);
		if (!rc && (*at[i] < 1 || *at[i] > INT64_C(1) << 50))
			rc = err_set(e, EXIT_DATA, "%s: %s is %lld", art_name(a), name[i], (long long)*at[i]);
	}
	if (!rc && obj_get(m, "block_runs"))
		rc = obj_int(a, m, "block_runs", &s->block_runs, e) || obj_int(a, m, "block_runs_plain", &s->block_runs_plain, e);
	if (rc)
		rc = -1;
	else
		while ((rc = art_next(a, &rec, e)) == 1)
			if (read_entry(s, a, rec, e)) {
				rc = -1;
				break;
			}
	if (!rc && prov)
		prov_add_artifact(prov, "stats", a);
	art_close(a);
	if (rc)
		stats_free(s);
	return rc ? -1 : 0;
}
