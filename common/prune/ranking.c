/*
 * ranking.c - reading, checking, writing rankings; sorting with a fixed tie rule
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ranking.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Best first: a key that grows as the score falls.  -0 and 0 are one score. */
static uint32_t key_of(float score)
{
	uint32_t u;
	score += 0.0f;
	memcpy(&u, &score, sizeof u);
	return u >> 31 ? u : ~u & 0x7fffffff;
}

/* Counting sort by 11 bits of the key, three times; each pass keeps the order of equals, so the lower index comes first. */
void order_by_score(const float *score, int64_t n, uint32_t *order)
{
	enum { BITS = 11, SIZE = 1 << BITS, PASSES = 3 };
	uint32_t (*at)[SIZE] = xcalloc(PASSES, sizeof *at), *spare = xmalloc((size_t)n * sizeof *spare);
	for (int64_t i = 0; i < n; i++)
		for (int pass = 0; pass < PASSES; pass++)
			at[pass][key_of(score[i]) >> BITS * pass & (SIZE - 1)]++;
	for (int pass = 0; pass < PASSES; pass++) {
		uint32_t sum = 0, *from = pass % 2 ? order : spare, *to = pass % 2 ? spare : order;
		for (int k = 0; k < SIZE; k++) {
			uint32_t count = at[pass][k];
			at[pass][k] = sum;
			sum += count;
		}
		for (int64_t i = 0; i < n; i++) {
			uint32_t x = pass ? from[i] : (uint32_t)i;
			to[at[pass][key_of(score[x]) >> BITS * pass & (SIZE - 1)]++] = x;
		}
	}
	free(at);
	free(spare);
}

static struct rank_axis *add(struct ranking *r, const char *axis, int64_t layer, int64_t n)
{
	r->ax = xrealloc(r->ax, (size_t)r->n + 1, sizeof *r->ax);
	struct rank_axis *x = &r->ax[r->n++];
	*x = (struct rank_axis){ .layer = layer, .n = n };
	snprintf(x->axis, sizeof x->axis, "%s", axis);
	x->score = xcalloc((size_t)n, sizeof *x->score);
	x->order = xcalloc((size_t)n, sizeof *x->order);
	return x;
}

void ranking_add(struct ranking *r, const char *axis, int64_t layer, const double *score, int64_t n)
{
	struct rank_axis *x = add(r, axis, layer, n);
	for (int64_t i = 0; i < n; i++)
		x->score[i] = (float)score[i];
	order_by_score(x->score, n, x->order);
}

void ranking_add_prefix(struct ranking *r, const char *axis, int64_t layer, const double *score, const uint32_t *order,
		int64_t n)
{
	struct rank_axis *x = add(r, axis, layer, n);
	for (int64_t i = 0; i < n; i++)
		x->score[i] = (float)score[i];
	memcpy(x->order, order, (size_t)n * sizeof *x->order);
	x->prefix = 1;
}

const struct rank_axis *ranking_find(const struct ranking *r, const char *axis, int64_t layer)
{
	for (int i = 0; i < r->n; i++)
		if (!strcmp(r->ax[i].axis, axis) && r->ax[i].layer == layer)
			return &r->ax[i];
	return NULL;
}

void ranking_free(struct ranking *r)
{
	for (int i = 0; i < r->n; i++) {
		free(r->ax[i].score);
		free(r->ax[i].order);
	}
	free(r->ax);
	memset(r, 0, sizeof *r);
}

void ranking_meta(const struct ranking *r, struct art_w *w)
{
	art_meta_str(w, "model", r->model);
	art_meta_str(w, "method", r->method);
	art_meta_int(w, "layers", r->layers);
	art_meta_int(w, "hidden", r->hidden);
	art_meta_int(w, "ffn", r->ffn);
	art_meta_int(w, "heads", r->heads);
	art_meta_int(w, "kv_heads", r->kv_heads);
	art_meta_int(w, "head_dim", r->head_dim);
	if (r->global)
		art_meta_str(w, "scope", "global");
}

int ranking_write(const struct ranking *r, struct art_w *w, struct err *e)
{
	for (int i = 0; i < r->n; i++) {
		const struct rank_axis *x = &r->ax[i];
		art_map(w, 5);
		art_key(w, "axis"), art_str(w, x->axis);
		art_key(w, "layer"), art_int(w, x->layer);
		art_key(w, "score"), art_array(w, ART_F32, 1, &x->n, x->score);
		art_key(w, "order"), art_array(w, ART_U32, 1, &x->n, x->order);
		art_key(w, "order_kind"), art_str(w, x->prefix ? "prefix" : "independent");
		if (art_end_record(w, e))
			return -1;
	}
	return 0;
}

static int expected_units(const struct ranking *r, const char *axis, int64_t layer, int64_t *n)
{
	static const char *const words[] = { "layer", "sub_attn", "sub_mlp", "emb", "head", "mlp", "kv" };
	const int64_t sizes[] = { r->layers, r->layers, r->layers, r->hidden, r->heads, r->ffn, r->kv_heads };
	for (int i = 0; i < 7; i++)
		if (!strcmp(axis, words[i])) {
			*n = sizes[i];
			return i < 4 ? layer == -1 : layer >= 0 && layer < r->layers;
		}
	return 0;
}

static int read_record(struct ranking *r, const struct art_r *a, const msgpack_object *rec, struct err *e)
{
	char axis[12], kind[16] = "independent";
	int64_t layer, n = 0;
	const void *score, *order;
	if (obj_str(a, rec, "axis", axis, sizeof axis, e) || obj_int(a, rec, "layer", &layer, e))
		return -1;
	if (!expected_units(r, axis, layer, &n))
		return err_set(e, EXIT_DATA, "%s: axis '%s' of layer %lld does not exist in a model of %lld layers",
			       art_name(a), axis, (long long)layer, (long long)r->layers);
	if (ranking_find(r, axis, layer))
		return err_set(e, EXIT_DATA, "%s: axis '%s' of layer %lld is ranked twice", art_name(a), axis,
			       (long long)layer);
	if (obj_array(a, rec, "score", ART_F32, n, &score, NULL, e) || obj_array(a, rec, "order", ART_U32, n, &order, NULL, e))
		return -1;
	if (obj_get(rec, "order_kind") && obj_str(a, rec, "order_kind", kind, sizeof kind, e))
		return -1;
	struct rank_axis *x = add(r, axis, layer, n);
	memcpy(x->score, score, (size_t)n * sizeof *x->score);
	memcpy(x->order, order, (size_t)n * sizeof *x->order);
	x->prefix = !strcmp(kind, "prefix");
	uint8_t *seen = xcalloc((size_t)n, 1);
	int bad = 0;
	for (int64_t i = 0; i < n && !bad; i++) {
		if (!isfinite(x->score[i]))
			bad = err_set(e, EXIT_DATA, "%s: %s of layer %lld: score of unit %lld is not finite", art_name(a), axis,
				      (long long)layer, (long long)i);
		else if (x->order[i] >= n || seen[x->order[i]]++)
			bad = err_set(e, EXIT_DATA, "%s: %s of layer %lld: order is not a permutation of %lld units",
				      art_name(a), axis, (long long)layer, (long long)n);
	}
	free(seen);
	return bad;
}

int ranking_read(struct ranking *r, const char *path, struct prov *prov, struct err *e)
{
	memset(r, 0, sizeof *r);
	struct art_r *a = art_open(path, "ranking", 1, e);
	if (!a)
		return -1;
	const msgpack_object *m = art_meta(a), *rec;
	int rc = -1;
	if (obj_str(a, m, "model", r->model, sizeof r->model, e) || obj_str(a, m, "method", r->method, sizeof r->method, e) ||
	    obj_int(a, m, "layers", &r->layers, e) || obj_int(a, m, "hidden", &r->hidden, e) ||
	    obj_int(a, m, "ffn", &r->ffn, e) || obj_int(a, m, "heads", &r->heads, e) ||
	    obj_int(a, m, "kv_heads", &r->kv_heads, e) || obj_int(a, m, "head_dim", &r->head_dim, e))
		goto out;
	char scope[16] = "layer";
	if (obj_get(m, "scope") && obj_str(a, m, "scope", scope, sizeof scope, e))
		goto out;
	r->global = !strcmp(scope, "global");
	while ((rc = art_next(a, &rec, e)) == 1)
		if (read_record(r, a, rec, e)) {
			rc = -1;
			break;
		}
	if (!rc && prov)
		prov_add_artifact(prov, "ranking", a);
out:
	art_close(a);
	if (rc)
		ranking_free(r);
	return rc ? -1 : 0;
}

int ranking_check(const struct ranking *r, const char *name, const struct arch *a, const char *model, const char *print,
		  struct err *e)
{
	if (strcmp(r->model, print))
		return err_set(e, EXIT_DATA, "%s: ranking was made for model %.8s (%lld layers), not for %s (%.8s, %lld layers)",
			       name, r->model, (long long)r->layers, model, print, (long long)a->layers);
	if (r->layers != a->layers || r->hidden != a->hidden || r->ffn != a->ffn || r->heads != a->heads)
		return err_set(e, EXIT_DATA, "%s: ranking of %lld layers, hidden %lld, ffn %lld, %lld heads does not fit %s",
			       name, (long long)r->layers, (long long)r->hidden, (long long)r->ffn, (long long)r->heads, model);
	return 0;
}
