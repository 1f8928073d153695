/*
 * checkpoint_read.c - reading the state of a run, whoever wrote it
 *
 * One file or the parts of several processes: the first has settings and counters, and every array is there in pieces of
 * any length, in any order and file, each element exactly once.  A process takes what it has (split.h) and keeps (shard.h)
 * of them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "checkpoint_parts.h"
#include "../base/log.h"
#include "../io/artifact.h"
#include <stdlib.h>
#include <string.h>

struct range {                         /* elements [at, at + n) of parameter i's array a */
	int i, a;
	int64_t at, n;
};
struct reader {
	struct trainer *t;
	struct art_r *r;
	const char *settings;
	int64_t count[CKPT_COUNTERS];
	double best[2];                /* step and loss; 0: none */
	bool have_settings, have_counters, have_taken, have_weights;
	struct mix *mix;               /* NULL: the order needs no state */
	struct range *have;            /* what was read, in the order of the files */
	size_t n_have, cap_have;
	int part, files;               /* of the file that is read; how many there are */
	char config[64];               /* digest of the settings, from the first file */
	int64_t step;
};

static int bad(const struct reader *q, struct err *e, const char *what, const char *name)
{
	return err_set(e, EXIT_DATA, "%s: %s '%s'", art_name(q->r), what, name);
}

static int take_settings(struct reader *q, const msgpack_object *rec, struct err *e)
{
	const void *data;
	int64_t n;
	char why[256];
	if (obj_array(q->r, rec, "data", ART_U8, -1, &data, &n, e))
		return -1;
	char *text = xasprintf("%.*s", (int)n, (const char *)data);
	int rc = 0;
	if (strcmp(text, q->settings)) {
		if (!settings_differ(text, q->settings, why))
			snprintf(why, sizeof why, "other settings");
		rc = err_set(e, EXIT_USAGE, "%s: belongs to a run with %s: --force starts over", art_name(q->r), why);
	}
	free(text);
	q->have_settings = true;
	return rc;
}

/* Our own of elements [at, at + n) of array a of parameter p, from data, and of these what is kept */
static void keep(const struct reader *q, const struct param *p, int a, int64_t at, int64_t n, const char *data)
{
	const struct trainer *t = q->t;
	int64_t run, own, end = at + n;
	for (int64_t there = at; there < end && (run = split_in(&t->split, trainer_number(t, p), &there, end - there, &own)) > 0; there += run) {
		struct piece c = shard_part(&t->shard, p->off + own, run);
		if (ckpt_letter[a] == 'w' && !t->wb)
			c = (struct piece){ .off = p->off + own, .n = run };
		if (c.n)
			t->g->k->upload(t->g->d, ckpt_place(t, a, &c), data + ckpt_bytes(t, a, there - at + c.off - p->off - own),
					ckpt_bytes(t, a, c.n));
	}
}

static int take_array(struct reader *q, const msgpack_object *rec, const char *name, struct err *e)
{
	const struct param *p = NULL;
	const void *data;
	int64_t at, n;
	int a = 0, i = 0;
	while (a < ckpt_arrays(q->t) && ckpt_letter[a] != name[0])
		a++;
	for (int n_all = q->t->n_param; a < ckpt_arrays(q->t) && name[1] == '.' && i < n_all; i++)
		if (!strcmp((p = q->t->param[i])->name, name + 2))
			break;
	if (!p || i == q->t->n_param)
		return bad(q, e, "the student has no", name);
	if (obj_int(q->r, rec, "offset", &at, e) || obj_array(q->r, rec, "data", ckpt_low(q->t, a) ? ART_BF16 : ART_F32, -1, &data, &n, e))
		return -1;
	if (at < 0 || at > trainer_elems(q->t, p) || n > trainer_elems(q->t, p) - at)
		return bad(q, e, "elements out of order or too many in", name);
	keep(q, p, a, at, n, data);
	if (q->n_have == q->cap_have) {
		q->cap_have = q->cap_have ? 2 * q->cap_have : 256;
		q->have = xrealloc(q->have, q->cap_have, sizeof *q->have);
	}
	q->have[q->n_have++] = (struct range){ i, a, at, n };
	return 0;
}

/* Windows taken and weights are checked before they decide anything. */
static int take_mix(struct reader *q, const msgpack_object *rec, const char *name, struct err *e)
{
	bool taken = !strcmp(name, "mix.taken");
	const void *data;
	if (!q->mix || (!taken && strcmp(name, "mix.weights")))
		return bad(q, e, "the run has no", name);
	if (obj_array(q->r, rec, "data", taken ? ART_I64 : ART_F64, q->mix->n, &data, NULL, e))
		return -1;
	for (int i = 0; i < q->mix->n; i++) {
		int64_t n;
		double w;
		memcpy(taken ? (void *)&n : (void *)&w, (const char *)data + 8 * i, 8);
		if (taken ? n < 0 : !(w >= 0 && w <= 1))
			return bad(q, e, "impossible value in", name);
		if (taken)
			q->mix->taken[i] = n;
		else
			q->mix->w[i] = w;
	}
	*(taken ? &q->have_taken : &q->have_weights) = true;
	return 0;
}

static int take_best(struct reader *q, const msgpack_object *rec, struct err *e)
{
	const void *data;
	if (obj_array(q->r, rec, "data", ART_F64, 2, &data, NULL, e))
		return -1;
	memcpy(q->best, data, sizeof q->best);
	return q->best[0] >= 1 && q->best[0] < 1e15 ? 0 : bad(q, e, "impossible value in", "best");
}

static int take(struct reader *q, const msgpack_object *rec, struct err *e)
{
	char name[80];
	const void *data;
	if (obj_str(q->r, rec, "name", name, sizeof name, e))
		return -1;
	if (!strcmp(name, "settings"))
		return take_settings(q, rec, e);
	if (!q->have_settings)
		return bad(q, e, "settings missing before", name);
	if (!strncmp(name, "mix.", 4))
		return take_mix(q, rec, name, e);
	if (!strcmp(name, "best"))
		return take_best(q, rec, e);
	if (strcmp(name, "counters"))
		return take_array(q, rec, name, e);
	if (obj_array(q->r, rec, "data", ART_I64, CKPT_COUNTERS, &data, NULL, e))
		return -1;
	memcpy(q->count, data, sizeof q->count);
	q->have_counters = true;
	return 0;
}

static int by_place(const void *x, const void *y)
{
	const struct range *a = x, *b = y;
	return a->i != b->i ? a->i - b->i : a->a != b->a ? a->a - b->a : a->at < b->at ? -1 : a->at > b->at;
}

/* Every element of every array once, whatever pieces they came in */
static int covered(struct reader *q, struct err *e)
{
	const struct trainer *t = q->t;
	size_t k = 0;
	if (q->n_have)
		qsort(q->have, q->n_have, sizeof *q->have, by_place);
	for (int i = 0; i < t->n_param; i++)
		for (int a = 0; a < ckpt_arrays(t); a++) {
			int64_t filled = 0;
			for (; k < q->n_have && q->have[k].i == i && q->have[k].a == a; filled += q->have[k++].n)
				if (q->have[k].at != filled)
					return bad(q, e, q->have[k].at > filled ? "elements missing of" : "elements out of order or too many in",
						   t->param[i]->name);
			if (filled != trainer_elems(t, t->param[i]))
				return bad(q, e, "elements missing of", t->param[i]->name);
		}
	return 0;
}

static int complete(struct reader *q, struct err *e)
{
	if (!q->have_settings || !q->have_counters)
		return bad(q, e, "missing", "counters");
	if (q->mix && (!q->have_taken || !q->have_weights))
		return bad(q, e, "missing", "mix.weights");
	return covered(q, e);
}

/* The header says which part of which checkpoint a file is. */
static int take_meta(struct reader *q, int part, struct err *e)
{
	const msgpack_object *m = art_meta(q->r);
	int64_t step, files = 1, is = 0;
	char config[sizeof q->config] = "";
	if (obj_int(q->r, m, "step", &step, e) || (obj_get(m, "config") && obj_str(q->r, m, "config", config, sizeof config, e)))
		return -1;
	if ((obj_get(m, "files") || part) && (obj_int(q->r, m, "files", &files, e) || obj_int(q->r, m, "part", &is, e)))
		return -1;
	if (files < 1 || files > CKPT_FILES_MAX || is != part)
		return err_set(e, EXIT_DATA, "%s: is part %lld of %lld, part %d was expected", art_name(q->r), (long long)is, (long long)files, part);
	if (!part) {
		q->files = (int)files;
		q->step = step;
		memcpy(q->config, config, sizeof config);
	} else if (files != q->files || step != q->step || strcmp(config, q->config)) {
		return err_set(e, EXIT_DATA, "%s: belongs to another checkpoint than the first part", art_name(q->r));
	}
	q->part = part;
	return 0;
}

static int read_part(struct reader *q, const char *dir, const char *name, int part, struct err *e)
{
	const msgpack_object *rec;
	char *path = ckpt_file_new(dir, name, part);
	q->r = art_open(path, "checkpoint", 1, e);
	free(path);
	if (!q->r)
		return -1;
	int rc = take_meta(q, part, e);
	while (!rc && (rc = art_next(q->r, &rec, e)) > 0)
		rc = take(q, rec, e);
	if (!rc && part + 1 == q->files)
		rc = complete(q, e);
	art_close(q->r);
	return rc;
}

/* 0 or -1, in all processes alike; a refusal for its settings is EXIT_USAGE here, damage is anything else. */
static int read_state(const char *dir, const char *name, struct trainer *t, struct progress_state *s, const char *settings, struct err *e)
{
	struct reader q = { .t = t, .settings = settings, .mix = s->mix && s->mix->n > 1 ? s->mix : NULL, .files = 1 };
	int rc = 0;
	for (int i = 0; i < q.files && !rc; i++)
		rc = read_part(&q, dir, name, i, e);
	free(q.have);
	if (comm_max(t->world, rc != 0) && !rc)
		rc = err_set(e, EXIT_DATA, "%s: another process cannot read its checkpoint", dir);
	if (rc)
		return rc;
	s->step = q.count[0];
	s->tokens = q.count[1];
	s->best_step = (int64_t)q.best[0];
	s->best_loss = q.best[1];
	t->updates = q.count[2];
	t->skipped = q.count[3];
	t->skipped_row = q.count[4];
	trainer_sync(t);
	return 0;
}

int checkpoint_load(const struct rundir *d, struct trainer *t, struct progress_state *s, const char *settings, struct err *e)
{
	int n, rc = -1;
	int64_t *v = ckpt_list_new(d, &n);
	s->step = s->tokens = 0;
	int64_t newest = n ? v[0] : 0;
	if (comm_max(t->world, newest) != newest) {
		free(v);
		return err_set(e, EXIT_IO, "%s: this process sees a checkpoint of step %lld, another one a later one: a file system that all share is needed",
			       d->path, (long long)newest);
	}
	for (int i = 0; i < n && rc; i++) {
		char *p = ckpt_path_new(d, v[i]);
		rc = read_state(p, "state", t, s, settings, e) || (s->teacher && read_state(p, "teacher", s->teacher, s, settings, e)) ? -1 : 0;
		free(p);
		if (rc && e->code == EXIT_USAGE) {
			e->code = EXIT_DATA;
			break;
		}
		if (rc)
			log_warn("%s; trying an older checkpoint", e->msg);
		else if (s->step != v[i])
			rc = err_set(e, EXIT_DATA, "ckpt/step-%lld: holds step %lld", (long long)v[i], (long long)s->step);
	}
	free(v);
	return n ? rc : 0;
}
