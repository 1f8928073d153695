/*
 * shots.c - few-shot examples, chosen as lm-evaluation-harness chooses them
 *
 * One generator per task runs on from item to item; k indices are drawn for each (k + 1 where the examples could hold the
 * item itself, which then goes out).  Where copies of it leave fewer than k, k are drawn again from the others.
 *
 *	example = text + delimiter + answer + between          (an empty answer: text alone)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "items.h"
#include <stdlib.h>
#include <string.h>

int shots_open(struct shots *s, const struct rules *r, const struct items *pool, const char *path, const char *only,
	       int64_t k, uint64_t seed, struct err *e)
{
	*s = (struct shots){ .r = r, .path = path, .pool = pool, .k = k };
	if (!k)
		return 0;
	s->at = xcalloc((size_t)pool->n, sizeof *s->at);
	s->item = xcalloc((size_t)pool->n, sizeof *s->item);
	for (int64_t i = 0; i < pool->n; i++) {
		const char *v = only ? json_string_value(rules_field(pool->v[i], r->split_by)) : NULL;
		if (!only || (v && !strcmp(v, only)))
			s->at[s->n_pool++] = i;
	}
	pyrand_seed(&s->rnd, seed);
	int64_t need = k + (r && r->not_self);
	if (s->n_pool < need)
		return err_set(e, EXIT_DATA, "%s: %lld examples%s%s, %lld are needed", path, (long long)s->n_pool,
			       only ? " of " : "", only ? only : "", (long long)need);
	return 0;
}

void shots_close(struct shots *s)
{
	for (int64_t i = 0; i < s->n_pool; i++)
		json_decref(s->item[i]);
	free(s->at);
	free(s->item);
	*s = (struct shots){ 0 };
}

static const json_t *example(struct shots *s, int64_t i, struct err *e)
{
	json_t *raw = s->pool->v[s->at[i]], *prepared;
	if (!s->item[i] && !s->r)
		s->item[i] = json_incref(raw);
	if (!s->item[i] && (prepared = rules_prepare(s->r, raw, e))) {
		s->item[i] = rules_render(s->r, prepared, e);
		json_decref(prepared);
	}
	if (!s->item[i])
		err_wrap(e, "%s:%lld", s->path, (long long)s->pool->line[s->at[i]]);
	return s->item[i];
}

static void put(FILE *f, const json_t *string)
{
	fwrite(json_string_value(string), 1, json_string_length(string), f);
}

/* The context is that of the right choice where every choice has its own. */
static int write_example(struct shots *s, int64_t i, FILE *f, struct err *e)
{
	const json_t *item = example(s, i, e);
	if (!item)
		return -1;
	const json_t *gold = json_object_get(item, "gold"), *ctx = json_object_get(item, "ctx");
	const json_t *delimiter = json_object_get(item, "delimiter");
	size_t right = (size_t)json_integer_value(gold);
	ctx = ctx ? ctx : json_object_get(item, "query");
	if (json_is_array(ctx))
		ctx = json_array_get(ctx, right);
	const json_t *answer = gold ? json_array_get(json_object_get(item, "choices"), right) : json_object_get(item, "target");
	if (!json_is_string(ctx) || !json_is_string(answer))
		return err_set(e, EXIT_DATA, "%s:%lld: not usable as an example: it has no context or no right answer", s->path,
			       (long long)s->pool->line[s->at[i]]);
	put(f, ctx);
	if (!json_string_length(answer))
		return 0;
	if (delimiter)
		put(f, delimiter);
	else
		fputc(' ', f);
	put(f, answer);
	fputs(s->r && s->r->between ? s->r->between : "\n\n", f);
	return 0;
}

static int is_self(const struct shots *s, int64_t i, const json_t *raw)
{
	return s->r && s->r->not_self && json_equal(s->pool->v[s->at[i]], raw);
}

/* Draws into index[k]: places that are not the item itself */
static int draw(struct shots *s, const json_t *raw, int64_t *index, struct err *e)
{
	int64_t k = s->k + (s->r && s->r->not_self), got = 0, others = 0;
	int64_t *drawn = xcalloc((size_t)(s->n_pool + k), sizeof *drawn);
	pyrand_sample(&s->rnd, s->n_pool, k, drawn);
	for (int64_t i = 0; i < k && got < s->k; i++)
		if (!is_self(s, drawn[i], raw))
			index[got++] = drawn[i];
	if (got < s->k) {
		for (int64_t i = 0; i < s->n_pool; i++)
			if (!is_self(s, i, raw))
				drawn[others++] = i;
		if (others >= s->k)
			pyrand_sample(&s->rnd, others, s->k, index);
		for (int64_t i = 0; others >= s->k && i < s->k; i++)
			index[i] = drawn[index[i]];
	}
	free(drawn);
	return got < s->k && others < s->k ? err_set(e, EXIT_DATA, "%s: too few examples other than the item", s->path) : 0;
}

int shots_write(struct shots *s, const json_t *raw, FILE *f, struct err *e)
{
	int64_t *index = xcalloc((size_t)s->k + 1, sizeof *index);
	int rc = 0;
	for (int64_t i = 0; i < s->k; i++)
		index[i] = i;
	if (s->k && !(s->r && s->r->first_n))
		rc = draw(s, raw, index, e);
	for (int64_t i = 0; i < s->k && !rc; i++)
		rc = write_example(s, index[i], f, e);
	free(index);
	return rc;
}
