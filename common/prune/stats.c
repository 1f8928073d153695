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
	free(s->passed);
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
	return s->n > 0 && !(s->passed && layer >= 0 && layer < s->layers && s->passed[layer]);
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

/* A record of this layer is there and was not taken. */
void stats_pass_over(struct stats *s, int64_t layer)
{
	if (!s->passed)
		s->passed = xcalloc((size_t)s->layers, 1);
	if (layer >= 0 && layer < s->layers)
		s->passed[layer] = 1;
}

static bool wanted(const struct stats_want *want, const char *site)
{
	int i = 0;
	while (want && want->sites[i] && strcmp(want->sites[i], site))
		i++;
	return !want || want->sites[i];
}

/* All layers of a site lie together: who needs some sites passes over whole frames of the others. */
static void by_site(const struct stats *s, int *order)
{
	int n = 0;
	uint8_t *done = xcalloc((size_t)s->n, 1);
	for (int i = 0; i < s->n; i++)
		for (int j = i, first = !done[i]; j < s->n && first; j++)
			if (!strcmp(s->e[i].site, s->e[j].site)) {
				order[n++] = j;
				done[j] = 1;
			}
	free(done);
}

/* The header's list of the records: "delta" of an ablation, "SITE:LAYER" of channels, "SITE" of a layer record. */
static void write_contents(const struct stats *s, const int *order, struct art_w *w)
{
	size_t cap = 6 * (size_t)s->n_delta + 48 * (size_t)s->n + 1, n = 0;
	char *text = xcalloc(cap, 1);
	for (int i = 0; i < s->n_delta; i++)
		n += (size_t)snprintf(text + n, cap - n, " delta");
	for (int i = 0; i < s->n; i++) {
		const struct stat_entry *x = &s->e[order[i]];
		n += (size_t)snprintf(text + n, cap - n, x->units ? " %s:%lld" : " %s", x->site, (long long)x->layer);
	}
	art_meta_str(w, "contents", n ? text + 1 : "");
	free(text);
}

static int write_entry(const struct stat_entry *x, struct art_w *w, struct err *e)
{
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
	return art_end_record(w, e);
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
	int *order = xcalloc((size_t)s->n, sizeof *order), rc = 0;
	by_site(s, order);
	write_contents(s, order, w);
	for (int i = 0; i < s->n_delta && !rc; i++)
		rc = stats_delta_write(&s->delta[i], w, e);
	for (int i = 0; i < s->n && !rc; i++)
		rc = write_entry(&s->e[order[i]], w, e);
	free(order);
	return rc;
}

static int read_entry(struct stats *s, const struct art_r *a, const msgpack_object *rec, const struct stats_want *want, struct err *e)
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
	if (width && !wanted(want, site)) {
		stats_pass_over(s, layer);
		return 0;
	}
	struct stat_entry *x = stats_entry(s, site, layer, unit, width ? count / STAT_ROWS : 0);
	x->n = n;
	x->tokens = tokens;
	if (!width)
		x->sums[0] = c;
	for (int row = 0; row < (width ? STAT_ROWS : 1); row++) {
		size_t from = (size_t)row * (size_t)x->units, to = width ? from + (size_t)x->units : 1;
		if (width && want && !(want->rows >> row & 1))
			continue;
		if (width)
			memcpy(x->sums + from, (const char *)data + from * sizeof *x->sums, (to - from) * sizeof *x->sums);
		for (size_t k = from; k < to; k++)
			if (!isfinite(x->sums[k]))
				return err_set(e, EXIT_DATA, "%s: entry '%s' of layer %lld: sum %zu is not finite", art_name(a), site,
					       (long long)layer, k);
	}
	return 0;
}

static int read_all(struct stats *s, struct art_r *a, const struct stats_want *want, struct err *e)
{
	const msgpack_object *rec;
	int rc;
	while ((rc = art_next(a, &rec, e)) == 1)
		if (read_entry(s, a, rec, want, e))
			return -1;
	return rc;
}

/* By the header's list of contents, each wanted record by random access, then the trailer.  1: there is no list or no index. */
static int read_wanted(struct stats *s, struct art_r *a, const struct stats_want *want, struct err *e)
{
	const msgpack_object *list = obj_get(art_meta(a), "contents"), *rec;
	int64_t records = list && list->type == MSGPACK_OBJECT_STR ? art_record_count(a, NULL) : -1, n = 0;
	if (records < 0)
		return 1;
	char *text = xasprintf("%.*s", (int)list->via.str.size, list->via.str.ptr), *rest = NULL;
	for (const char *p = text; *p; p += strcspn(p, " "), p += *p == ' ')
		n++;
	int rc = n != records;
	n = 0;
	for (char *word = strtok_r(text, " ", &rest); word && !rc; word = strtok_r(NULL, " ", &rest), n++) {
		char *colon = strchr(word, ':');
		if (colon)
			*colon = '\0';
		if (colon && !wanted(want, word))
			stats_pass_over(s, strtoll(colon + 1, NULL, 10));
		else
			rc = art_seek_record(a, n, e) || art_next(a, &rec, e) != 1 || read_entry(s, a, rec, want, e) ? -1 : 0;
	}
	free(text);
	return rc ? rc : art_seek_end(a, e) ? -1 : art_next(a, &rec, e);
}

int stats_read(struct stats *s, const char *path, const struct stats_want *want, struct prov *prov, struct err *e)
{
	memset(s, 0, sizeof *s);
	struct art_r *a = art_open(path, "stats", 1, e);
	if (!a)
		return -1;
	const char *name[9];
	int64_t *at[9];
	const msgpack_object *m = art_meta(a);
	int rc = obj_str(a, m, "model", s->model, sizeof s->model, e) || obj_str(a, m, "family", s->family, sizeof s->family, e);
	for (int i = 0, n = shape_fields(s, name, at); i < n && !rc; i++) {
		rc = obj_int(a, m, name[i], at[i], e);
		if (!rc && (*at[i] < 1 || *at[i] > INT64_C(1) << 50))
			rc = err_set(e, EXIT_DATA, "%s: %s is %lld", art_name(a), name[i], (long long)*at[i]);
	}
	if (!rc && obj_get(m, "block_runs"))
		rc = obj_int(a, m, "block_runs", &s->block_runs, e) || obj_int(a, m, "block_runs_plain", &s->block_runs_plain, e);
	if (!rc)
		rc = want && path && strcmp(path, "-") ? read_wanted(s, a, want, e) : 1;
	if (rc == 1)
		rc = read_all(s, a, want, e);
	if (!rc && prov)
		prov_add_artifact(prov, "stats", a);
	art_close(a);
	if (rc)
		stats_free(s);
	return rc ? -1 : 0;
}
