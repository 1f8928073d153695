/*
 * hidden.c - reading --hidden-loss; where its values are; how projections start
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hidden.h"
#include "../base/rng.h"
#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STREAM UINT64_C(0x70726f6a)

enum where { AT_NORM, AT_IN, AT_OUT, AT_MLP, AT_Q, AT_K, AT_V, AT_WORDS };
static const char *const words[AT_WORDS] = { "norm", "in", "out", "mlp", "q", "k", "v" };

struct parse {
	struct hidden *h;
	const char *spec;
	int64_t layers[2];             /* student, teacher */
};

static int bad(const struct parse *p, const char *item, const char *what, struct err *e)
{
	return err_set(e, EXIT_USAGE, "--hidden-loss '%s': %s in '%s'", p->spec, what, item);
}

static struct place place(int where, int64_t l, int64_t layers)
{
	switch (where) {
	case AT_NORM: return l + 1 < layers ? (struct place){ SITE_ATTN_IN, (int)l + 1 } : (struct place){ SITE_FINAL, -1 };
	case AT_IN: return l > 0 ? (struct place){ SITE_BLOCK_OUT, (int)l - 1 } : (struct place){ SITE_EMBED, -1 };
	case AT_OUT: return (struct place){ SITE_BLOCK_OUT, (int)l };
	case AT_MLP: return (struct place){ SITE_FFN_OUT, (int)l };
	default: return (struct place){ SITE_QKV, (int)l };
	}
}

/* Blocks s and t at a place; where < 0: at all three of a relation */
static int add(struct parse *p, int where, int64_t s, int64_t t)
{
	struct hidden *h = p->h;
	int from = where < 0 ? AT_Q : where, to = where < 0 ? AT_V : where;
	for (int w = from; w <= to; w++) {
		if (h->n == MAX_PAIRS)
			return -1;
		h->pair[h->n++] = (struct hidden_pair){ place(w, s, p->layers[0]), place(w, t, p->layers[1]), h->terms, w >= AT_Q ? w - AT_Q : 0 };
		h->term[h->terms].pairs++;
	}
	return 0;
}

/* "5", "last", "last-2" -> a block, -1: none */
static int64_t layer(const char *s, int64_t layers)
{
	int64_t back = 0;
	if (!strncmp(s, "last", 4)) {
		if (s[4] && (s[4] != '-' || !isdigit((unsigned char)s[5]) || parse_i64(s + 5, &back)))
			return -1;
		back = layers - 1 - back;
	} else if (!isdigit((unsigned char)*s) || parse_i64(s, &back)) {
		return -1;
	}
	return back < layers ? back : -1;
}

/* "norm", "q" ... of the term's kind; AT_WORDS: none */
static int find_place(const char *word, bool relation)
{
	int w = relation ? AT_Q : AT_NORM, end = relation ? AT_WORDS : AT_Q;
	while (w < end && strcmp(words[w], word))
		w++;
	return w < end ? w : AT_WORDS;
}

static int one_pair(struct parse *p, char *item, struct err *e)
{
	char *dot = strchr(item, '.'), *at = dot ? dot + 1 : item, *colon;
	bool relation = p->h->term[p->h->terms].opcode == OP_RELATION;
	int where = relation ? -1 : AT_NORM, full = 0;
	if (!strcmp(item, "emb") && !relation)
		return add(p, AT_IN, 0, 0) ? bad(p, item, "too many pairs", e) : 0;
	if (dot) {
		*dot = '\0';
		where = find_place(item, relation);
		*dot = '.';
		if (where == AT_WORDS)
			return bad(p, item, relation ? "no such place (q, k, v)" : "no such place (norm, in, out, mlp)", e);
	}
	if (!strcmp(at, "uniform")) {
		for (int64_t s = 0, S = p->layers[0], T = p->layers[1]; s < S && !full; s++) {
			int64_t l = ((s + 1) * T + S / 2) / S - 1;
			full = add(p, where, s, l < 0 ? 0 : l);
		}
		return full ? bad(p, item, "too many pairs", e) : 0;
	}
	if (!(colon = strchr(at, ':')))
		return bad(p, item, "expected STUDENT:TEACHER, uniform or emb", e);
	*colon = '\0';
	int64_t s = layer(at, p->layers[0]), l = layer(colon + 1, p->layers[1]);
	*colon = ':';
	if (s < 0 || l < 0)
		return bad(p, item, s < 0 ? "the student has no such block" : "the teacher has no such block", e);
	return add(p, where, s, l) ? bad(p, item, "too many pairs", e) : 0;
}

static int one_term(struct parse *p, char *text, struct err *e)
{
	struct hidden *h = p->h;
	char *at = strchr(text, '@'), *save = NULL;
	double w = 1;
	if (h->terms == MAX_TERMS)
		return bad(p, text, "too many terms", e);
	if (!at)
		return bad(p, text, "no '@' and pairs", e);
	*at++ = '\0';
	char *colon = strchr(text, ':');
	if (colon)
		*colon++ = '\0';
	if (colon && (parse_f64(colon, &w) || !(w > 0) || !isfinite(w)))
		return bad(p, colon, "the weight is not a positive number", e);
	if (strcmp(text, "cosine") && strcmp(text, "mse") && strcmp(text, "relation"))
		return bad(p, text, "no such loss (cosine, mse, relation)", e);
	h->term[h->terms].opcode = text[0] == 'c' ? OP_COSINE : text[0] == 'm' ? OP_MSE : OP_RELATION;
	h->term[h->terms].weight = w;
	for (char *item = strtok_r(at, ",", &save); item; item = strtok_r(NULL, ",", &save))
		if (one_pair(p, item, e))
			return -1;
	if (!h->term[h->terms].pairs)
		return bad(p, text, "no pair", e);
	h->terms++;
	return 0;
}

int hidden_parse(struct hidden *h, const char *spec, int64_t student, int64_t teacher, struct err *e)
{
	struct parse p = { .h = h, .spec = spec, .layers = { student, teacher } };
	char *copy = xstrdup(spec), *save = NULL;
	int rc = 0;
	h->n = h->terms = 0;
	memset(h->term, 0, sizeof h->term);
	for (char *t = strtok_r(copy, ";", &save); t && !rc; t = strtok_r(NULL, ";", &save))
		rc = one_term(&p, t, e);
	free(copy);
	if (!rc && !h->n)
		rc = err_set(e, EXIT_USAGE, "--hidden-loss '%s': no term", spec);
	return rc;
}

/* ---- relations ---- */

/* Columns of a part of a block's qkv, and the first of them */
static int64_t part_width(const struct arch *a, const struct place *at, int part, int64_t *first)
{
	struct arch l = arch_at(a, at->layer);
	int64_t q = l.heads * l.head_dim, kv = l.kv_heads * l.head_dim;
	*first = part == 0 ? 0 : part == 1 ? q : q + kv;
	return part ? kv : q;
}

static int64_t divisor(int64_t a, int64_t b)
{
	return b ? divisor(b, a % b) : a;
}

int hidden_settle(struct hidden *h, const struct arch *student, const struct arch *teacher, struct err *e)
{
	int64_t common = 0, least = INT64_MAX, first;
	for (int i = 0; i < h->n; i++) {
		const struct hidden_pair *q = &h->pair[i];
		if (hidden_projects(h, i))
			continue;
		int64_t w[] = { part_width(student, &q->s, q->part, &first), part_width(teacher, &q->t, q->part, &first) };
		for (int k = 0; k < 2; k++) {
			if (h->heads && w[k] % h->heads)
				return err_set(e, EXIT_USAGE, "--relation-heads %lld does not divide the %lld columns of %s in block %d of the %s",
					       (long long)h->heads, (long long)w[k], words[AT_Q + q->part], k ? q->t.layer : q->s.layer,
					       k ? "teacher" : "student");
			common = divisor(w[k], common);
			least = w[k] < least ? w[k] : least;
		}
	}
	for (int64_t n = 64; n > 0 && !h->heads && common; n--)
		if (common % n == 0 && (least / n >= 16 || n == 1))
			h->heads = n;
	return 0;
}

struct relation hidden_relation(const struct hidden *h, const struct hidden_pair *q, const struct arch *student,
				const struct arch *teacher, int64_t T)
{
	struct relation r = { .T = T, .heads = (int32_t)h->heads };
	r.da = part_width(student, &q->s, q->part, &r.a0) / h->heads;
	r.db = part_width(teacher, &q->t, q->part, &r.b0) / h->heads;
	int64_t w = arch_window(student, q->s.layer), v = arch_window(teacher, q->t.layer);
	w = w && (!v || w < v) ? w : v;        /* what both see */
	r.window = w < T ? (int32_t)w : 0;
	return r;
}

/* ---- values ---- */

int hidden_probes(const struct hidden *h, bool teacher, struct probe *out)
{
	int n = 0;
	for (int i = 0; i < h->n; i++) {
		struct place q = teacher ? h->pair[i].t : h->pair[i].s;
		int k = 0;
		while (k < n && (out[k].site != q.site || out[k].layer != q.layer))
			k++;
		if (k == n)
			out[n++] = (struct probe){ .site = q.site, .layer = q.layer, .what = PROBE_KEEP, .unit = 1 };
	}
	return n;
}

val hidden_value(const struct prog *p, const struct hidden_pair *q, bool teacher)
{
	struct place x = teacher ? q->t : q->s;
	char name[64];
	snprintf(name, sizeof name, "%skeep.%s.%d", teacher ? "t." : "", site_word(x.site), x.layer);
	val v = prog_find(p, name);
	if (!v.id)
		BUG("no value %s", name);
	return v;
}

void hidden_projection(float *w, int64_t rows, int64_t cols, const int64_t *kept, uint64_t seed, int index)
{
	double scale = 1 / sqrt((double)cols);
	for (int64_t i = 0; i < rows * cols; i++)
		w[i] = kept ? 0 : (float)(scale * rng_normal(seed, STREAM + (uint64_t)index, (uint64_t)i));
	for (int64_t c = 0; kept && c < cols; c++)
		w[kept[c] * cols + c] = 1;
}

int64_t *hidden_kept_new(const char *dir, const char *teacher, int64_t n, int64_t width)
{
	char *path = xasprintf("%s/adze-kept.json", dir);
	json_t *o = json_load_file(path, 0, NULL), *list = json_object_get(o, "hidden");
	const char *parent = json_string_value(json_object_get(o, "parent"));
	int64_t *v = NULL;
	if (parent && !strcmp(parent, teacher) && json_is_array(list) && (int64_t)json_array_size(list) == n) {
		v = xcalloc((size_t)n, sizeof *v);
		for (int64_t i = 0; i < n && v; i++) {
			const json_t *x = json_array_get(list, (size_t)i);
			v[i] = json_is_integer(x) ? json_integer_value(x) : -1;
			if (v[i] < 0 || v[i] >= width) {
				free(v);
				v = NULL;
			}
		}
	}
	json_decref(o);
	free(path);
	return v;
}
