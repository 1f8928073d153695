/*
 * params.c - from the family's rows and a shape to the list of parameters, their places in the arena and their counts
 *
 * Nothing here knows a family: sizes come from axes, names from the rows.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "params.h"
#include <stdlib.h>
#include <string.h>

#define FAMILY(id, type) extern const struct family family_##id;
#include "families.def"
#undef FAMILY

static const struct family *const families[] = {
#define FAMILY(id, type) &family_##id,
#include "families.def"
#undef FAMILY
};

const struct family *family_find(const char *model_type)
{
	for (size_t i = 0; i < sizeof families / sizeof *families; i++)
		if (!strcmp(families[i]->model_type, model_type))
			return families[i];
	return NULL;
}

const char *family_list(void)
{
	static const char list[] =
#define FAMILY(id, type) " " type
#include "families.def"
#undef FAMILY
		;
	return list + 1;
}

static int64_t seg_rows(const struct arch *a, const struct seg *s)
{
	return axis_size(a, s->axis);
}

static int64_t row_rows(const struct arch *a, const struct prow *r)
{
	int64_t n = 0;

	for (int i = 0; i < r->nseg; i++)
		n += seg_rows(a, &r->seg[i]);
	return n;
}

static bool row_absent(const struct arch *a, const struct prow *r)
{
	return (a->tied && !strcmp(r->name, "head")) || (r->when & ~a->biases);
}

/* Appends one parameter; its place is aligned to 32 elements so that f32 and bf16 copies start on a cache line. */
static void add(struct ptable *t, const struct prow *r, int layer)
{
	struct param *p = &t->p[t->n++];

	p->row = r;
	p->layer = layer;
	if (layer < 0)
		snprintf(p->name, sizeof p->name, "%s", r->name);
	else
		snprintf(p->name, sizeof p->name, "blk.%d.%s", layer, r->name);
	struct arch at = arch_at(&t->arch, layer);
	p->rows = row_rows(&at, r);
	p->cols = axis_size(&at, r->cols);
	p->off = t->elems;
	t->elems += (p->rows * p->cols + 31) / 32 * 32;
	t->count += p->rows * p->cols;
}

struct ptable *ptable_new(const struct arch *a)
{
	struct ptable *t = xcalloc(1, sizeof *t);
	const struct prow *r = a->family->rows;
	int max = 0;

	for (const struct prow *q = r; q->name; q++)
		max += q->per_layer ? (int)a->layers : 1;
	arch_copy(&t->arch, a);
	t->p = xcalloc((size_t)max, sizeof *t->p);
	while (r->name) {
		if (!r->per_layer) {
			if (!row_absent(a, r))
				add(t, r, -1);
			r++;
			continue;
		}
		const struct prow *end = r;
		while (end->name && end->per_layer)
			end++;
		for (int l = 0; l < a->layers; l++)
			for (const struct prow *q = r; q < end; q++)
				if (!row_absent(a, q))
					add(t, q, l);
		r = end;
	}
	return t;
}

void ptable_free(struct ptable *t)
{
	if (!t)
		return;
	arch_free(&t->arch);
	free(t->p);
	free(t);
}

const struct param *ptable_find(const struct ptable *t, const char *name)
{
	if (t->arch.tied && !strcmp(name, "head"))
		name = "embed";
	for (int i = 0; i < t->n; i++)
		if (!strcmp(t->p[i].name, name))
			return &t->p[i];
	return NULL;
}

char *param_hf_name(const struct ptable *t, const struct param *p, int s, char buf[160])
{
	int n = 0;

	/* the prefix is a constant of the family, with one %d */
	if (p->layer >= 0) {
		const char *pre = t->arch.family->layer_prefix, *d = strstr(pre, "%d");
		n = snprintf(buf, 160, "%.*s%d%s", (int)(d - pre), pre, p->layer, d + 2);
	}
	snprintf(buf + n, 160 - (size_t)n, "%s", p->row->seg[s].hf);
	return buf;
}

int64_t param_seg_rows(const struct ptable *t, const struct param *p, int s)
{
	struct arch at = arch_at(&t->arch, p->layer);

	return seg_rows(&at, &p->row->seg[s]);
}

static int64_t count(const struct arch *a, bool embedding)
{
	int64_t n = 0;

	for (const struct prow *r = a->family->rows; r->name; r++) {
		bool vocab = r->seg[0].axis == AX_VOCAB;
		if (row_absent(a, r) || (vocab && !embedding))
			continue;
		if (!r->per_layer)
			n += row_rows(a, r) * axis_size(a, r->cols);
		for (int64_t l = 0; r->per_layer && l < a->layers; l++) {
			struct arch at = arch_at(a, l);
			n += row_rows(&at, r) * axis_size(&at, r->cols);
		}
	}
	return n;
}

int64_t arch_count(const struct arch *a)
{
	return count(a, true);
}

int64_t arch_count_nonembedding(const struct arch *a)
{
	return count(a, false);
}

int64_t arch_count_active(const struct arch *a)
{
	return arch_count(a);
}
