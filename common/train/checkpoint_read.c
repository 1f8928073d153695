/*
 * checkpoint_read.c - reading the state of a run, whoever wrote it
 *
 * One file or the parts of several processes: the first has settings and counters, and every array is there in pieces of
 * any length, in any order and file, each element exactly once.  A process takes what it has (split.h) and keeps (shard.h)
 * of them: where a file lists its chunks, others are not read, and every process sees to it that nothing of its own is missing.
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
struct listed {                        /* so many records with some of these */
	struct range r;
	int64_t records;
};
struct reader {
	struct trainer *t;
	struct art_r *r;
	const char *settings;
	int64_t count[CKPT_COUNTERS];
	double best[2];                /* step and loss; 0: none */
	bool have_settings, have_counters, have_taken, have_weights;
	struct mix *mix;               /* NULL: the order needs no state */
	struct range *have;            /* what was read of what this process has and keeps, in the order of the files */
	size_t n_have, cap_have;
	int part, files;               /* of the file that is read; how many there are */
	char config[64];               /* digest of the settings, from the first file */
	int64_t step, bytes;           /* bytes read so far */
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

static void remember(struct reader *q, struct range r)
{
	if (q->n_have == q->cap_have) {
		q->cap_have = q->cap_have ? 2 * q->cap_have : 256;
		q->have = xrealloc(q->have, q->cap_have, sizeof *q->have);
	}
	q->have[q->n_have++] = r;
}

/* Our own of elements r, and of these what is kept: how many.  data NULL: only counts; else they are taken out of it */
static int64_t keep(struct reader *q, struct range r, const char *data)
{
	const struct trainer *t = q->t;
	const struct param *p = t->param[r.i];
	int64_t run, own, kept = 0, end = r.at + r.n;
	for (int64_t there = r.at; there < end && (run = split_in(&t->split, trainer_number(t, p), &there, end - there, &own)) > 0; there += run) {
		struct piece c = shard_part(&t->shard, p->off + own, run);
		kept += c.n;
		if (!c.n || !data)
			continue;
		state_put(q->t, (enum state)r.a, &c, data + ckpt_bytes(t, r.a, there - r.at + c.off - p->off - own));
		remember(q, (struct range){ r.i, r.a, c.off - p->off, c.n });
	}
	return kept;
}

/* Elements of the array of that name; -1: there is none, or not these */
static int find_range(const struct reader *q, const char *name, int64_t at, int64_t n, struct range *r, struct err *e)
{
	*r = (struct range){ .at = at, .n = n };
	while (r->a < ckpt_arrays(q->t) && ckpt_letter[r->a] != name[0])
		r->a++;
	bool known = r->a < ckpt_arrays(q->t) && name[1] == '.';
	while (known && r->i < q->t->n_param && strcmp(q->t->param[r->i]->name, name + 2))
		r->i++;
	if (!known || r->i == q->t->n_param)
		return bad(q, e, "the student has no", name);
	int64_t all = trainer_elems(q->t, q->t->param[r->i]);
	return at < 0 || at > all || n < 0 || n > all - at ? bad(q, e, "elements out of order or too many in", name) : 0;
}

static int take_array(struct reader *q, const msgpack_object *rec, const char *name, struct err *e)
{
	struct range r;
	const void *data;
	int64_t at, n;
	if (find_range(q, name, 0, 0, &r, e) || obj_int(q->r, rec, "offset", &at, e) ||
	    obj_array(q->r, rec, "data", ckpt_low(q->t, r.a) ? ART_BF16 : ART_F32, -1, &data, &n, e) || find_range(q, name, at, n, &r, e))
		return -1;
	keep(q, r, data);
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

/* Every element that this process keeps once, whatever pieces they came in */
static int covered(struct reader *q, struct err *e)
{
	const struct trainer *t = q->t;
	const struct range *r = q->have, *end = r + q->n_have;
	if (q->n_have)
		qsort(q->have, q->n_have, sizeof *q->have, by_place);
	for (int i = 0; i < t->n_param; i++)
		for (int a = 0; a < ckpt_arrays(t); a++) {
			const struct param *p = t->param[i];
			struct piece all = shard_part(&t->shard, p->off, p->rows * p->cols);
			int64_t filled = all.off - p->off;
			for (; r < end && r->i == i && r->a == a; filled += r++->n)
				if (all.n && r->at != filled)
					return bad(q, e, r->at > filled ? "elements missing of" : "elements out of order or too many in", p->name);
			if (all.n && filled != all.off - p->off + all.n)
				return bad(q, e, "elements missing of", p->name);
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

/* NAME:RECORDS:FIRST:END */
static int read_word(const struct reader *q, char *word, struct listed *l, struct err *e)
{
	char *p = strchr(word, ':'), *rest = p;
	int64_t v[3] = { 0 };
	for (int i = 0; i < 3 && rest && *rest == ':'; i++)
		v[i] = strtoll(rest + 1, &rest, 10);
	if (!p || *rest || v[0] < 1 || v[0] > INT64_C(1) << 40 || v[1] < 0 || v[2] <= v[1])
		return bad(q, e, "impossible value in", "contents");
	*p = '\0';
	l->records = v[0];
	return find_range(q, word, v[1], v[2] - v[1], &l->r, e);
}

/* The header's list of chunks, and how many records come before them; NULL and *n 0 where there is none, *n -1: an error */
static struct listed *contents_new(struct reader *q, int64_t *n, int64_t *before, struct err *e)
{
	const msgpack_object *list = obj_get(art_meta(q->r), "contents");
	*n = 0;
	*before = list && list->type == MSGPACK_OBJECT_STR ? art_record_count(q->r, NULL) : -1;
	if (*before < 0)
		return NULL;
	char *text = xasprintf("%.*s", (int)list->via.str.size, list->via.str.ptr), *rest = NULL;
	struct listed *l = xcalloc(strlen(text) / 9 + 1, sizeof *l); /* w.P:1:0:1 */
	for (char *word = strtok_r(text, " ", &rest); word && *n >= 0 && *before >= 0; word = strtok_r(NULL, " ", &rest)) {
		int rc = read_word(q, word, &l[*n], e);
		*before -= rc ? 0 : l[*n].records;
		*n = rc ? -1 : *n + 1;
	}
	free(text);
	if (*n >= 0 && *before < 0) {
		bad(q, e, "more records than there are in", "contents");
		*n = -1;
	}
	return l;
}

/* The next n records */
static int take_some(struct reader *q, int64_t n, struct err *e)
{
	const msgpack_object *rec;
	int rc = 0;
	for (int64_t k = 0; k < n && !rc; k++) {
		rc = art_next(q->r, &rec, e);
		rc = rc == 1 ? take(q, rec, e) : rc < 0 ? -1 : bad(q, e, "fewer records than in", "contents");
	}
	return rc;
}

/* Chunks of which we keep something, by random access, and the trailer.  1: they are all, or there is no list */
static int read_wanted(struct reader *q, struct err *e)
{
	int64_t n, at, wanted = 0;
	const msgpack_object *rec;
	struct listed *l = contents_new(q, &n, &at, e);
	int rc = n < 0 ? -1 : 0;
	for (int64_t k = 0; k < n; k++)
		wanted += keep(q, l[k].r, NULL) > 0;
	if (!rc && wanted == n) {
		free(l);
		return 1;
	}
	rc = rc ? rc : take_some(q, at, e);
	for (int64_t k = 0; k < n && !rc; at += l[k++].records)
		if (keep(q, l[k].r, NULL))
			rc = art_seek_record(q->r, at, e) ? -1 : take_some(q, l[k].records, e);
	free(l);
	return rc ? rc : art_seek_end(q->r, e) ? -1 : art_next(q->r, &rec, e);
}

static int read_part(struct reader *q, const char *dir, const char *name, int part, struct err *e)
{
	const msgpack_object *rec;
	char *path = ckpt_file_new(dir, name, part);
	q->r = art_open(path, "checkpoint", 1, e);
	free(path);
	if (!q->r)
		return -1;
	int rc = take_meta(q, part, e) ? -1 : read_wanted(q, e);
	while (rc == 1 && (rc = art_next(q->r, &rec, e)) > 0)
		rc = take(q, rec, e) ? -1 : 1;
	if (!rc && part + 1 == q->files)
		rc = complete(q, e);
	q->bytes += art_bytes_read(q->r);
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
	s->read += q.bytes;
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
	char buf[32];
	int64_t *v = ckpt_list_new(d, &n);
	s->step = s->tokens = s->read = 0;
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
	if (!rc) {
		int64_t most = comm_max(t->world, s->read);
		log_verbose("checkpoint of step %lld: no process read more than %s", (long long)s->step, fmt_bytes(buf, (double)most));
	}
	return n ? rc : 0;
}
