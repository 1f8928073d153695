/*
 * trainer_layout.c - what is trained, and where everything lies (trained.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "trainer_parts.h"
#include <stdlib.h>

/* One more trained matrix from the student's width to the teacher's */
static void add_projection(struct trainer *t)
{
	static const struct prow row = { .name = "proj", .decay = 1 };
	int64_t cols = t->student->arch.hidden, rows = t->teacher->arch.hidden;
	t->proj = xrealloc(t->proj, (size_t)t->n_proj + 1, sizeof *t->proj);
	struct param *q = &t->proj[t->n_proj];
	*q = (struct param){ .row = &row, .layer = -1, .rows = rows, .cols = cols };
	q->off = shard_place(&t->shard, q->layer, rows * cols);
	snprintf(q->name, sizeof q->name, "hidden.proj.%d", t->n_proj++);
}

/* Vectors (norms, biases) are never decayed. */
static int decays(const struct trainer *t, const struct param *p, const uint8_t *exempt)
{
	bool student = p >= t->student->p && p < t->student->p + t->student->n;
	return p->row->decay && !(student && exempt[p - t->student->p]);
}

/* Neighbours with equal decay become one span; the padding between them is zero everywhere and stays so. */
static int find_spans(struct trainer *t, struct err *e)
{
	uint8_t *exempt = xcalloc((size_t)t->student->n, 1);
	int rc = t->o.no_decay ? trained_named(t->student, "no-decay", t->o.no_decay, exempt, e) : 0;
	t->span = xcalloc((size_t)t->n_param, sizeof *t->span);
	for (int i = 0; i < t->n_param && !rc; i++) {
		const struct param *q = t->param[i];
		int decay = decays(t, q, exempt);
		int64_t end = i + 1 < t->n_param ? t->param[i + 1]->off : t->trained;
		struct span *last = t->n_span ? &t->span[t->n_span - 1] : NULL;
		if (last && last->decay == decay)
			last->n = end - last->off;
		else
			t->span[t->n_span++] = (struct span){ q->off, end - q->off, decay };
	}
	free(exempt);
	return rc;
}

/* A table whose arena holds the output matrix and nothing else */
static void head_alone(struct ptable *t)
{
	struct param *p = &t->p[ptable_find(t, "head") - t->p];
	p->off = 0;
	t->elems = (p->rows * p->cols + 31) / 32 * 32;
}

/* A teacher that is trained too lies as its own trainer has it. */
static void place_teacher(struct trainer *t)
{
	struct shard s;
	shard_init(&s, 0, t->shard.size, true);
	trained_place(t->teacher, NULL, &s);
	t->teacher->elems = shard_end(&s);
	shard_free(&s);
}

int trainer_layout(struct trainer *t, struct err *e)
{
	struct ptable *s = t->student;
	const struct hidden *h = &t->o.hidden;
	if (t->o.cached_width)
		head_alone(t->teacher);
	t->frozen = xcalloc((size_t)s->n, 1);
	if (trained_choose(s, &t->o.choice, t->frozen, e))
		return -1;
	const struct comm *w = t->dp;
	shard_init(&t->shard, w ? w->rank : 0, w ? w->size : 1, t->o.zero == 0);
	if (t->o.correct)
		place_teacher(t);
	trained_place(s, t->frozen, &t->shard);
	if (h->n && hidden_settle(&t->o.hidden, &s->arch, &t->teacher->arch, e))
		return -1;
	for (int i = 0; i < h->n && s->arch.hidden != t->teacher->arch.hidden; i++)
		if (hidden_projects(h, i) && (h->per_pair || !t->n_proj))
			add_projection(t);
	if (t->o.lora.targets && lora_choose(s, &t->o.lora, t->frozen, &t->adapter, &t->n_adapter, &t->shard, e))
		return -1;
	t->adapter_scale = t->n_adapter ? (float)(t->o.lora.alpha / (double)t->o.lora.rank) : 0;
	t->trained = shard_end(&t->shard);
	t->elems = trained_place_frozen(s, t->frozen, t->trained);
	t->ticket = xcalloc((size_t)t->shard.n + 1, sizeof *t->ticket);
	t->lent = xcalloc(1, sizeof *t->lent);
	t->param = xcalloc((size_t)(s->n + t->n_proj + 2 * t->n_adapter), sizeof *t->param);
	for (int i = 0; i < s->n; i++)
		if (!t->frozen[i])
			t->param[t->n_param++] = &s->p[i];
	if (!t->n_param && !t->n_adapter)
		return err_set(e, EXIT_USAGE, "--freeze, --train: nothing of the student is left to train");
	for (int i = 0; i < t->n_proj; i++)
		t->param[t->n_param++] = &t->proj[i];
	for (int i = 0; i < 2 * t->n_adapter; i++)
		t->param[t->n_param++] = i % 2 ? &t->adapter[i / 2].b : &t->adapter[i / 2].a;
	return find_spans(t, e);
}

void trainer_projections(struct trainer *t, const int64_t *kept, uint64_t seed)
{
	for (int i = 0; i < t->n_proj; i++) {
		const struct param *q = &t->proj[i];
		size_t bytes = (size_t)(q->rows * q->cols) * 4;
		float *host = xmalloc(bytes);
		hidden_projection(host, q->rows, q->cols, kept, seed, i);
		trainer_put(t, q->off, q->rows * q->cols, host);
		free(host);
	}
}
