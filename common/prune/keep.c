/*
 * keep.c - from sizes and a ranking to the units that stay
 *
 * Everything is a selection of the first k of an order, returned ascending.  Heads: the best query groups stay, the order
 * of a block is walked and each of them takes its share, so grouped-query attention keeps its regular shape.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "share.h"
#include <stdlib.h>
#include <string.h>

bool keep_needs_ranking(const struct arch *from, const struct keep_want *w)
{
	return (w->hidden && w->hidden != from->hidden) || (w->ffn && w->ffn != from->ffn) ||
		(w->heads && w->heads != from->heads) || (w->kv_heads && w->kv_heads != from->kv_heads) || (w->layers && w->layers != from->layers && !w->ndrop);
}

static int check_size(const char *word, int64_t want, int64_t have, struct err *e)
{
	if (want < 1 || want > have)
		return err_set(e, EXIT_USAGE, "%s %lld: the model has %lld", word, (long long)want, (long long)have);
	return 0;
}

/* The nearest multiple of d, one more when that loses over a tenth (ModelOpt's rule), within the parent's size. */
static int64_t aligned(int64_t v, int64_t d, int64_t have)
{
	if (!d || v == have)
		return v;
	int64_t r = (v + d / 2) / d * d;
	if (r < d)
		r = d;
	if (10 * r < 9 * v)
		r += d;
	return r <= have ? r : have / d ? have / d * d : have;
}

static bool own_kv(const struct arch *a)       /* each head has its own key-value head */
{
	return a->kv_heads == a->heads;
}

/* Heads go that are not the heads of a group that goes. */
static bool heads_cut(const struct arch *from, const struct arch *to)
{
	return own_kv(from) ? to->heads != from->heads : to->heads / to->kv_heads != from->heads / from->kv_heads;
}

static int target_heads(struct arch *to, const struct arch *from, const struct keep_want *w, struct err *e)
{
	int64_t per = from->heads / from->kv_heads;

	to->kv_heads = w->kv_heads ? w->kv_heads : own_kv(from) && w->heads ? w->heads : from->kv_heads;
	to->heads = w->heads ? w->heads : to->kv_heads * per;
	if (check_size("heads", to->heads, from->heads, e) || check_size("kv-heads", to->kv_heads, from->kv_heads, e))
		return -1;
	if (to->heads % to->kv_heads)
		return err_set(e, EXIT_USAGE, "heads %lld: not a multiple of the %lld query groups", (long long)to->heads,
			(long long)to->kv_heads);
	if (to->heads / to->kv_heads > per)
		return err_set(e, EXIT_USAGE, "heads %lld: %lld query groups have %lld", (long long)to->heads,
			(long long)to->kv_heads, (long long)(to->kv_heads * per));
	if (w->add_back && (own_kv(from) ? 2 * to->heads < from->heads : 2 * (to->heads / to->kv_heads) < per))
		return err_set(e, EXIT_USAGE, "add-back needs at least half of the heads: %lld of %lld stay",
			(long long)to->heads, (long long)from->heads);
	return 0;
}

static int target(struct arch *to, const struct arch *from, const struct keep_want *w, struct err *e)
{
	arch_copy(to, from);
	to->hidden = w->hidden ? w->hidden : from->hidden;
	to->ffn = w->ffn ? w->ffn : from->ffn;
	to->layers = w->ndrop ? from->layers - w->ndrop : w->layers ? w->layers : from->layers;
	if (w->ndrop && w->layers && w->layers != to->layers)
		return err_set(e, EXIT_USAGE, "dropping %lld of %lld layers leaves %lld, not %lld", (long long)w->ndrop,
			(long long)from->layers, (long long)to->layers, (long long)w->layers);
	if (check_size("layers", to->layers, from->layers, e) || check_size("hidden", to->hidden, from->hidden, e) ||
	    check_size("ffn", to->ffn, from->ffn, e) || target_heads(to, from, w, e))
		return -1;
	for (int64_t i = 0; i < w->ndrop; i++)
		if (w->drop[i] < 0 || w->drop[i] >= from->layers || (i && w->drop[i] <= w->drop[i - 1]))
			return err_set(e, EXIT_USAGE, "layer %lld to drop: layers are 0 to %lld, each once",
				(long long)w->drop[i], (long long)from->layers - 1);
	to->hidden = aligned(to->hidden, w->align, from->hidden);
	to->ffn = aligned(to->ffn, w->align, from->ffn);
	to->embed_scale = arch_embed_scale(to);
	return 0;
}

static const struct rank_axis *need_axis(const struct ranking *r, const char *name, const char *axis, int64_t layer,
		struct err *e)
{
	const struct rank_axis *x = r ? ranking_find(r, axis, layer) : NULL;

	if (x)
		return x;
	if (layer < 0)
		err_set(e, EXIT_DATA, "%s: axis '%s' is not ranked", name, axis);
	else
		err_set(e, EXIT_DATA, "%s: axis '%s' of layer %lld is not ranked", name, axis, (long long)layer);
	return NULL;
}

static int ascending(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

/* The first k of an order (NULL: all of 0..k), ascending. */
static void first(int64_t *out, const struct rank_axis *x, int64_t k)
{
	for (int64_t i = 0; i < k; i++)
		out[i] = x ? (int64_t)x->order[i] : i;
	qsort(out, (size_t)k, sizeof *out, ascending);
}

/* The best groups by xg and of each an equal share by x; fills the partners of the add-back as well. */
static void pick_heads(struct keep *k, int64_t l, const struct rank_axis *x, const struct rank_axis *xg, bool add_back)
{
	struct arch from = arch_at(&k->from, k->layer[l]), to = arch_at(&k->to, l);
	int64_t H = from.heads, n = to.heads, *out = k->head + l * k->to.heads;
	/* with its own key-value head each, all heads compete in one group */
	int64_t groups = own_kv(&from) ? 1 : from.kv_heads, stay = own_kv(&from) ? 1 : to.kv_heads;
	int64_t size = H / groups, share = n / stay, at = 0, *group = xcalloc((size_t)stay, sizeof *group);
	int64_t *ranked = xcalloc((size_t)size, sizeof *ranked), *partner_of = xcalloc((size_t)H, sizeof *partner_of);

	first(group, xg, stay);
	for (int64_t g = 0; g < stay; g++) {
		int64_t m = 0;
		for (int64_t i = 0; i < H; i++) {
			int64_t h = x ? (int64_t)x->order[i] : i;
			if (h / size == group[g])
				ranked[m++] = h;
		}
		for (int64_t i = 0; i < share; i++) {
			out[at++] = ranked[i];
			/* ranks from 1: head i takes up head 2K-i+1, for the pairs that exist */
			int64_t other = 2 * share - (i + 1) + 1;
			partner_of[ranked[i]] = other <= size ? ranked[other - 1] : -1;
		}
	}
	qsort(out, (size_t)n, sizeof *out, ascending);
	if (add_back)
		for (int64_t i = 0; i < n; i++)
			k->partner[l * k->to.heads + i] = partner_of[out[i]];
	for (int64_t i = 0; i < to.kv_heads; i++)
		k->group[l * k->to.kv_heads + i] = own_kv(&from) ? out[i] : group[i];
	free(group);
	free(ranked);
	free(partner_of);
}

/* What is said block by block: which slide, and lists of the config (layer_types again where the family reads it). */
static void slice_lists(struct keep *k)
{
	static const char *const names[] = { "layer_types", "mlp_layer_types", "no_rope_layers", "attention_window_sizes" };

	for (int64_t l = 0; l < k->to.layers; l++)
		arch_set_sliding(&k->to, l, arch_window(&k->from, k->layer[l]) != 0);
	if (!k->to.config)
		return;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		const json_t *list = json_object_get(k->to.config, names[i]);
		if (!json_is_array(list) || (int64_t)json_array_size(list) != k->from.layers)
			continue;
		json_t *cut = json_array();
		for (int64_t l = 0; l < k->to.layers; l++)
			json_array_append(cut, json_array_get(list, (size_t)k->layer[l]));
		json_object_set_new(k->to.config, names[i], cut);
	}
	json_t *cfg = arch_config_new(&k->to);
	json_decref(k->to.config);
	k->to.config = cfg;
}

static int pick_layers(struct keep *k, const struct keep_want *w, const struct ranking *r, const char *name, struct err *e)
{
	if (w->ndrop) {
		int64_t n = 0, d = 0;
		for (int64_t l = 0; l < k->from.layers; l++)
			if (d < w->ndrop && w->drop[d] == l)
				d++;
			else
				k->layer[n++] = l;
		return 0;
	}
	const struct rank_axis *x = NULL;
	if (k->to.layers != k->from.layers && !(x = need_axis(r, name, "layer", -1, e)))
		return -1;
	first(k->layer, x, k->to.layers);
	return 0;
}

/* Widths of the kept blocks of an uneven parent, which only its depth can change. */
static int64_t *kept_list_new(const struct keep *k, const int64_t *of)
{
	int64_t *v = of ? xcalloc((size_t)k->to.layers, sizeof *v) : NULL;

	for (int64_t l = 0; of && l < k->to.layers; l++)
		v[l] = of[k->layer[l]];
	return v;
}

/* Where the ranking compares blocks with each other, a width is an average: each block gets what it deserves of it. */
static int uneven_widths(struct keep *k, const struct keep_want *w, const struct ranking *r, const char *name, struct err *e)
{
	struct arch *to = &k->to, *from = &k->from;
	bool ffn = to->ffn != from->ffn, heads = heads_cut(from, to), groups = !own_kv(from) && to->kv_heads != from->kv_heads;

	if (arch_uneven(from)) {
		if (ffn || heads || groups)
			return err_set(e, EXIT_USAGE, "widths of the model differ from block to block: ffn and heads cannot be cut again");
		free(to->layer_ffn);
		free(to->layer_heads);
		to->layer_ffn = kept_list_new(k, from->layer_ffn);
		to->layer_heads = kept_list_new(k, from->layer_heads);
		to->ffn = share_largest(to->layer_ffn, to->layers, to->ffn);
		to->heads = share_largest(to->layer_heads, to->layers, to->heads);
		if (own_kv(from))
			to->kv_heads = to->heads;
		return 0;
	}
	if (!r || !r->global || (!ffn && !heads))
		return 0;
	if (!w->uneven)
		return err_set(e, EXIT_USAGE, "%s: ranking of global scope gives each block its own width: needs --allow-uneven", name);
	if (w->add_back && heads)
		return err_set(e, EXIT_USAGE, "add-back and heads that differ from block to block exclude each other");
	if (ffn && !(to->layer_ffn = share_new(k, r, name, "mlp", w->align ? w->align : 1, to->ffn, e)))
		return -1;
	if (heads && groups)
		return err_set(e, EXIT_USAGE, "kv-heads and heads that differ from block to block exclude each other");
	int64_t group = own_kv(from) ? 1 : from->kv_heads;
	if (heads && !(to->layer_heads = share_new(k, r, name, "head", group, to->heads, e)))
		return -1;
	to->ffn = share_largest(to->layer_ffn, to->layers, to->ffn);
	if (own_kv(from))
		to->kv_heads = share_largest(to->layer_heads, to->layers, to->kv_heads);
	to->heads = share_largest(to->layer_heads, to->layers, to->heads);
	return 0;
}

struct keep *keep_new(const struct arch *from, const struct keep_want *w, const struct ranking *r, const char *rank_name,
		struct err *e)
{
	struct keep *k = xcalloc(1, sizeof *k);
	const struct rank_axis *x = NULL, *xg;

	arch_copy(&k->from, from);
	if (target(&k->to, from, w, e))
		goto fail;
	size_t L = (size_t)k->to.layers;
	k->layer = xcalloc(L, sizeof *k->layer);
	k->hidden = xcalloc((size_t)k->to.hidden, sizeof *k->hidden);
	if (pick_layers(k, w, r, rank_name, e) || uneven_widths(k, w, r, rank_name, e))
		goto fail;
	k->head = xcalloc(L * (size_t)k->to.heads, sizeof *k->head);
	k->group = xcalloc(L * (size_t)k->to.kv_heads, sizeof *k->group);
	k->ffn = xcalloc(L * (size_t)k->to.ffn, sizeof *k->ffn);
	if (w->add_back && (k->to.heads != from->heads || k->to.layer_heads))
		k->partner = xcalloc(L * (size_t)k->to.heads, sizeof *k->partner);
	k->merge = w->merge && k->to.layers != from->layers;
	if (k->merge && k->layer[0] != 0) {
		err_set(e, EXIT_USAGE, "merge: block 0 is dropped, and no kept block comes before it");
		goto fail;
	}
	if (k->to.hidden != from->hidden && !(x = need_axis(r, rank_name, "emb", -1, e)))
		goto fail;
	first(k->hidden, x, k->to.hidden);
	for (int64_t l = 0; l < k->to.layers; l++) {
		struct arch a = arch_at(from, k->layer[l]), b = arch_at(&k->to, l);
		x = xg = NULL;
		if (heads_cut(&a, &b) && !(x = need_axis(r, rank_name, "head", k->layer[l], e)))
			goto fail;
		if (!own_kv(&a) && b.kv_heads != a.kv_heads && !(xg = need_axis(r, rank_name, "kv", k->layer[l], e)))
			goto fail;
		pick_heads(k, l, x, xg, k->partner != NULL);
		x = NULL;
		if (b.ffn != a.ffn && !(x = need_axis(r, rank_name, "mlp", k->layer[l], e)))
			goto fail;
		first(k->ffn + l * k->to.ffn, x, b.ffn);
	}
	slice_lists(k);
	return k;
fail:
	keep_free(k);
	return NULL;
}

void keep_free(struct keep *k)
{
	if (!k)
		return;
	arch_free(&k->from);
	arch_free(&k->to);
	free(k->layer);
	free(k->hidden);
	free(k->head);
	free(k->group);
	free(k->ffn);
	free(k->partner);
	for (int i = 0; i < KEEP_PARTS; i++)
		free(k->plus[i]);
	free(k);
}

const int64_t *keep_units(const struct keep *k, int axis, int64_t l, int64_t *n)
{
	const int64_t *list = axis == AX_HIDDEN ? k->hidden : axis == AX_HEAD ? k->head + l * k->to.heads :
		axis == AX_GROUP ? k->group + l * k->to.kv_heads : axis == AX_FFN ? k->ffn + l * k->to.ffn : NULL;

	struct arch from = arch_at(&k->from, l < 0 ? -1 : k->layer[l]), to = arch_at(&k->to, l);

	*n = axis_units(&to, axis);
	return *n == axis_units(&from, axis) ? NULL : list;
}

int64_t keep_merged(const struct keep *k, int64_t l)
{
	int64_t next = l + 1 < k->to.layers ? k->layer[l + 1] : k->from.layers;

	return k->merge ? next - k->layer[l] - 1 : 0;
}

static json_t *list_new(const int64_t *v, int64_t n)
{
	json_t *a = json_array();

	for (int64_t i = 0; i < n; i++)
		json_array_append_new(a, json_integer(v[i]));
	return a;
}

/* One list per block: the units of `axis` out of v, whose rows are as long as the widest block. */
static json_t *table_new(const struct keep *k, int axis, const int64_t *v)
{
	json_t *a = json_array();

	for (int64_t l = 0; l < k->to.layers; l++) {
		struct arch at = arch_at(&k->to, l);
		json_array_append_new(a, list_new(v + l * axis_units(&k->to, axis), axis_units(&at, axis)));
	}
	return a;
}

json_t *keep_json_new(const struct keep *k)
{
	int64_t L = k->to.layers;

	json_t *j = json_pack("{s:o,s:b,s:o,s:o,s:o,s:o}", "layers", list_new(k->layer, L), "merged", k->merge, "hidden",
		list_new(k->hidden, k->to.hidden), "heads", table_new(k, AX_HEAD, k->head), "kv_heads",
		table_new(k, AX_GROUP, k->group), "ffn", table_new(k, AX_FFN, k->ffn));
	if (k->from.embed_scale != k->to.embed_scale)
		json_object_set_new(j, "embed_factor", json_real(k->from.embed_scale / k->to.embed_scale));
	return j;
}
