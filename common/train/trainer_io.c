/*
 * trainer_io.c - the trainer's weights from and to model directories
 *
 * What is trained has an f32 master copy; frozen weights lie only where the products read them, so with bf16 arithmetic
 * the exported model takes them from the directory that they were loaded from.  Adapters are merged into their matrices.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "trainer_parts.h"
#include "../io/safetensors.h"
#include <stdlib.h>
#include <string.h>

/* What this process keeps of a master copy */
static void load_part(struct trainer *t, const struct param *p, const struct st_model *m)
{
	enum { CHUNK = 1 << 18 };
	struct piece q = shard_part(&t->shard, p->off, p->rows * p->cols);
	float *host = xmalloc(CHUNK * sizeof *host);
	int64_t end = p->off;
	for (int s = 0; s < p->row->nseg; s++) {
		int64_t from = end, n;
		end += param_seg_rows(t->student, p, s) * p->cols;
		from = from > q.off ? from : q.off;
		for (int64_t to = end < q.off + q.n ? end : q.off + q.n; from < to; from += n) {
			n = to - from < CHUNK ? to - from : CHUNK;
			param_read_at(t->student, p, m, from - p->off, n, host);
			trainer_put(t, from, n, host);
		}
	}
	free(host);
}

static int load_student(void *arg, const struct param *p, const struct st_model *m, struct err *e)
{
	struct trainer *t = arg;
	if (t->wb && !trainer_trains(t, p))
		return engine_read(t->g, t->student, p, m, t->wb + p->off, DT_BF16, e);
	if (!t->w || (t->wb && !t->shard.whole)) {
		load_part(t, p, m);
		return 0;
	}
	return engine_read(t->g, t->student, p, m, t->w + p->off, DT_F32, e);
}

int trainer_load(struct trainer *t, const char *student, const char *teacher, struct err *e)
{
	if (t->tp)
		return tp_load(t, student, teacher, e);
	if (params_each(t->student, student, 1, load_student, t, e))
		return -1;
	return teacher && !t->corrected ? teacher_load(t, teacher, e) : 0;
}

struct source {
	const struct trainer *t;
	const struct st_model *m;      /* NULL: everything is in t->w */
	enum weights_of of;
};

static void make(void *arg, const struct param *p, int64_t at, int64_t n, float *out)
{
	const struct source *s = arg;
	int i = (int)(p - s->t->split.whole->p);
	if (s->m && !trainer_trains(s->t, &s->t->student->p[i]))
		param_read_at(s->t->split.whole, p, s->m, at, n, out);
	else if (s->t->tp)
		tp_get(s->t, s->of, i, at, n, out);
	else if (trainer_trains(s->t, p))
		trainer_get(s->t, s->of, p->off + at, n, out);
	else
		s->t->g->k->download(s->t->g->d, out, s->t->w + p->off + at, (size_t)n * sizeof *out);
	lora_merge(s->t, s->of, p, at, n, out);
}

int trainer_export(const struct trainer *t, enum weights_of of, const char *from, const char *out, const char *dtype, const struct model_card *card,
		   struct err *e)
{
	struct st_model *m = t->wb && t->trained < t->elems ? st_open(from, e) : NULL;
	struct source s = { t, m, of };
	if (t->wb && t->trained < t->elems && !m) {
		trainer_served(t);
		return -1;
	}
	int rc = m && params_check(t->split.whole, m, e) ? err_wrap(e, "%s", from) : 0;
	if (!rc)
		rc = params_save_made(t->split.whole, make, &s, 0, out, from, dtype, card, true, e);
	trainer_served(t);
	if (m)
		st_close(m);
	return rc;
}
