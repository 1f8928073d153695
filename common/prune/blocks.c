/*
 * blocks.c - reading block after block into one buffer
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "blocks.h"
#include <stdlib.h>
#include <string.h>

static void find_range(struct blocks *b)
{
	const struct ptable *t = b->t;

	while (t->p[b->first].layer != 0)
		b->first++;
	while (b->first + b->n < t->n && t->p[b->first + b->n].layer == 0)
		b->n++;
	for (int64_t l = 0; l < t->arch.layers; l++) {
		int64_t i = b->first + l * b->n, end = i + b->n < t->n ? t->p[i + b->n].off : t->elems;
		b->elems = end - t->p[i].off > b->elems ? end - t->p[i].off : b->elems;
	}
}

int blocks_open(struct blocks *b, const struct engine *g, const char *dir, const struct ptable *t, int dtype, struct err *e)
{
	*b = (struct blocks){ .g = g, .t = t, .dtype = dtype, .m = st_open(dir, e) };
	if (!b->m || params_check(t, b->m, e))
		return -1;
	struct arch a = t->arch;       /* the same without blocks; lists and config are only borrowed */
	a.layers = 0;
	a.layer_ffn = a.layer_heads = NULL;
	b->tail = ptable_new(&a);
	b->tail0 = a.tied ? 0 : ptable_find(b->tail, "final.norm.w")->off;
	find_range(b);
	return 0;
}

void blocks_whole(struct blocks *b, const struct weights *w)
{
	*b = (struct blocks){ .g = w->g, .t = w->t, .dtype = w->dtype, .whole = w->w };
	find_range(b);
}

static void drop(struct blocks *b, char **w, int64_t elems)
{
	if (*w)
		b->g->k->mem_free(b->g->d, *w, (size_t)elems * dtype_size(b->dtype));
	*w = NULL;
}

void blocks_close(struct blocks *b)
{
	drop(b, &b->w, b->elems);
	drop(b, &b->tail_w, b->tail ? b->tail->elems - b->tail0 : 0);
	ptable_free(b->tail);
	if (b->m)
		st_close(b->m);
	*b = (struct blocks){ 0 };
}

static int room(struct blocks *b, char **w, int64_t elems, struct err *e)
{
	char buf[32];
	size_t bytes = (size_t)elems * dtype_size(b->dtype);

	if (!*w && !(*w = b->g->k->mem_alloc(b->g->d, bytes)))
		return err_set(e, EXIT_RESOURCE, "no memory for %s of weights", fmt_bytes(buf, (double)bytes));
	return 0;
}

int blocks_load(struct blocks *b, int64_t l, struct err *e)
{
	const struct param *p0 = &b->t->p[b->first + l * b->n];
	size_t es = dtype_size(b->dtype);

	if (b->whole)
		return 0;
	drop(b, &b->tail_w, b->tail->elems - b->tail0);
	if (room(b, &b->w, b->elems, e))
		return -1;
	for (const struct param *p = p0; p < p0 + b->n; p++) {
		if (p->layer != l)
			BUG("%s is not of block %lld", p->name, (long long)l);
		if (engine_read(b->g, b->t, p, b->m, b->w + (size_t)(p->off - p0->off) * es, b->dtype, e))
			return -1;
	}
	b->g->k->weights_changed(b->g->d);
	for (int64_t i = 0; i < b->n && l + 1 < b->t->arch.layers; i++) {
		const struct param *p = p0 + b->n + i;
		for (int s = 0; s < p->row->nseg; s++) {
			char name[160];
			const struct st_tensor *x = st_find(b->m, param_hf_name(b->t, p, s, name));
			st_prefetch_bytes(x->data, x->bytes);
		}
	}
	return 0;
}

char *blocks_base(const struct blocks *b, int64_t l, int64_t made)
{
	const struct param *p = &b->t->p[b->first];
	int64_t es = (int64_t)dtype_size(b->dtype);
	char *at = b->whole ? b->whole + p[l * b->n].off * es : b->w;

	return at - p[made * b->n].off * es;
}

int blocks_tail(struct blocks *b, const struct ptable **t, int64_t *at, char **base, struct err *e)
{
	int64_t es = (int64_t)dtype_size(b->dtype);

	*t = b->whole ? b->t : b->tail;
	*at = b->whole ? b->t->arch.layers : 0;
	*base = b->whole;
	if (b->whole)
		return 0;
	drop(b, &b->w, b->elems);
	if (!b->tail_w) {
		if (room(b, &b->tail_w, b->tail->elems - b->tail0, e))
			return -1;
		for (const struct param *p = b->tail->p; p < b->tail->p + b->tail->n; p++)
			if (p->off >= b->tail0 &&
			    engine_read(b->g, b->tail, p, b->m, b->tail_w + (p->off - b->tail0) * es, b->dtype, e))
				return -1;
		b->g->k->weights_changed(b->g->d);
	}
	*base = b->tail_w - b->tail0 * es;
	return 0;
}

void blocks_embed(const struct blocks *b, const int32_t *ids, int64_t n, float *x)
{
	const struct ptable *t = b->t;
	int64_t C = t->arch.hidden;
	char name[160];
	const struct st_tensor *E = st_find(b->m, param_hf_name(t, ptable_find(t, "embed"), 0, name));
	size_t row = (size_t)C * st_dtype_size(E->dtype);

	for (int64_t i = 0; i < n; i++) {
		float *y = x + i * C;
		st_to_f32(y, (const char *)E->data + (size_t)ids[i] * row, E->dtype, C);
		for (int64_t c = 0; c < C; c++)
			y[c] = (b->dtype == DT_BF16 ? bf16_to_f32(f32_to_bf16(y[c])) : y[c]) * (float)t->arch.embed_scale;
	}
	st_release(b->m, E);
}
