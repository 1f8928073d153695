/*
 * checkpoint.c - writing and reading the state of a run
 *
 * Records: "settings" (u8, JSON text), "counters" (i64), of several domains "mix.taken" (i64) and "mix.weights" (f64), "best" (f64: step and
 * loss) where the best model is kept, then
 * for every parameter P in table order w.P, m.P, v.P (with a moving average e.P) in
 * chunks of at most CHUNK elements.  The reader expects exactly these, in any chunking, each element once.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "checkpoint.h"
#include "../base/log.h"
#include "../base/outfile.h"
#include "../io/artifact.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK ((int64_t)1 << 20)
enum { ARRAYS = 4, COUNTERS = 5 };
static const char letter[ARRAYS] = { 'w', 'm', 'v', 'e' };

/* The last is there with a moving average only. */
static int arrays(const struct trainer *t)
{
	return t->o.ema > 0 ? ARRAYS : ARRAYS - 1;
}

static bool low(const struct trainer *t, int a)
{
	return t->o.low_moments && (letter[a] == 'm' || letter[a] == 'v');
}

static size_t bytes_of(const struct trainer *t, int a, int64_t n)
{
	return (size_t)n * (low(t, a) ? 2 : 4);
}

/* Element i of array a */
static char *element(const struct trainer *t, int a, int64_t i)
{
	void *base = letter[a] == 'w' ? t->w : letter[a] == 'm' ? t->m : letter[a] == 'v' ? t->v : t->ema;
	return (char *)base + bytes_of(t, a, i);
}

static char *step_path(const struct rundir *d, int64_t step)
{
	return xasprintf("%s/ckpt/step-%lld", d->path, (long long)step);
}

/* ---- listing ---- */

static int descending(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return x < y ? 1 : x > y ? -1 : 0;
}

/* Steps with a checkpoint, newest first. */
static int64_t *list_new(const struct rundir *d, int *n)
{
	char *path = xasprintf("%s/ckpt", d->path);
	DIR *dir = opendir(path);
	int64_t *v = NULL, step;
	*n = 0;
	free(path);
	for (struct dirent *x; dir && (x = readdir(dir));) {
		char again[32];
		if (strncmp(x->d_name, "step-", 5) || parse_i64(x->d_name + 5, &step))
			continue;
		snprintf(again, sizeof again, "step-%lld", (long long)step);
		if (strcmp(again, x->d_name))
			continue;
		v = xrealloc(v, (size_t)*n + 1, sizeof *v);
		v[(*n)++] = step;
	}
	if (dir)
		closedir(dir);
	if (v)
		qsort(v, (size_t)*n, sizeof *v, descending);
	return v;
}

/* ---- writing ---- */

static int put(struct art_w *w, const char *name, int64_t offset, enum art_dtype type, int64_t n, const void *data,
	       struct err *e)
{
	art_map(w, 4);
	art_key(w, "name"), art_str(w, name);
	art_key(w, "offset"), art_int(w, offset);
	art_key(w, "count"), art_int(w, n);
	art_key(w, "data"), art_array(w, type, 1, &n, data);
	return art_end_record(w, e);
}

static int put_arrays(struct art_w *w, const struct trainer *t, struct err *e)
{
	float *host = xmalloc((size_t)CHUNK * sizeof *host);
	int rc = 0;
	for (int i = 0; i < t->n_param && !rc; i++) {
		const struct param *p = t->param[i];
		for (int a = 0; a < arrays(t) && !rc; a++) {
			char name[64];
			snprintf(name, sizeof name, "%c.%s", letter[a], p->name);
			for (int64_t at = 0, n = p->rows * p->cols; at < n && !rc; at += CHUNK) {
				int64_t k = n - at < CHUNK ? n - at : CHUNK;
				t->g->k->download(t->g->d, host, element(t, a, p->off + at), bytes_of(t, a, k));
				rc = put(w, name, at, low(t, a) ? ART_BF16 : ART_F32, k, host, e);
			}
		}
	}
	free(host);
	return rc;
}

static int put_mix(struct art_w *w, const struct mix *m, struct err *e)
{
	if (!m || m->n < 2)
		return 0;
	return put(w, "mix.taken", 0, ART_I64, m->n, m->taken, e) || put(w, "mix.weights", 0, ART_F64, m->n, m->w, e) ? -1 : 0;
}

static int put_best(struct art_w *w, const struct progress_state *s, struct err *e)
{
	double best[2] = { (double)s->best_step, s->best_loss };
	return s->best_step ? put(w, "best", 0, ART_F64, 2, best, e) : 0;
}

/* A chunk, the records that wait to become a frame, and the frame */
size_t checkpoint_buffer_bytes(const struct trainer *t)
{
	size_t chunk = 0, waiting = 0, most = 0;
	for (int i = 0; i < t->n_param; i++)
		for (int64_t a = 0, n = t->param[i]->rows * t->param[i]->cols; a < arrays(t); a++)
			for (int64_t at = 0; at < n; at += CHUNK) {
				size_t k = bytes_of(t, (int)a, n - at < CHUNK ? n - at : CHUNK);
				chunk = k > chunk ? k : chunk;
				waiting = (waiting >= ART_FRAME ? 0 : waiting) + k;
				most = waiting > most ? waiting : most;
			}
	return chunk + 2 * most;
}

static int write_state(const char *path, const struct trainer *t, const struct progress_state *s, const char *settings,
		       struct err *e)
{
	struct prov prov = { .seed = s->seed };
	char digest[33];
	int64_t count[COUNTERS] = { s->step, s->tokens, t->updates, t->skipped, t->skipped_row };
	struct art_w *w = art_create(path, "checkpoint", 1, &prov, true, e);
	if (!w)
		return -1;
	digest_hex(settings, strlen(settings), digest);
	art_meta_int(w, "step", s->step);
	art_meta_int(w, "tokens", s->tokens);
	art_meta_str(w, "config", digest);
	art_meta_int(w, "seed", s->seed);
	if (put(w, "settings", 0, ART_U8, (int64_t)strlen(settings), settings, e) ||
	    put(w, "counters", 0, ART_I64, COUNTERS, count, e) || put_mix(w, s->mix, e) || put_best(w, s, e) || put_arrays(w, t, e)) {
		art_abort(w);
		return -1;
	}
	return art_commit(w, e);
}

static int drop_old(const struct rundir *d, int64_t keep, struct err *e)
{
	int n, rc = 0;
	int64_t *v = list_new(d, &n);
	for (int i = 0; i < n && !rc; i++) {
		if (i < keep)
			continue;
		/* out of sight first: a half-removed checkpoint must not look like a whole one */
		char *p = step_path(d, v[i]), *gone = xasprintf("%s/ckpt/.step-%lld.tmp", d->path, (long long)v[i]);
		rc = rename(p, gone) ? err_sys(e, "%s: cannot rename", p) : remove_tree(gone, e);
		free(p);
		free(gone);
	}
	free(v);
	return rc;
}

int checkpoint_save(const struct rundir *d, const struct trainer *t, const struct progress_state *s, const char *settings,
		    int64_t keep, struct err *e)
{
	char *dir = xasprintf("%s/ckpt", d->path), *path = step_path(d, s->step), *file = NULL, *other = NULL;
	struct outdir *o = mkdir_p(dir, e) ? NULL : outdir_open(path, true, e);
	int rc = o ? 0 : -1;
	if (o) {
		file = xasprintf("%s/state", outdir_tmp(o));
		other = xasprintf("%s/teacher", outdir_tmp(o));
		rc = write_state(file, t, s, settings, e) || (s->teacher && write_state(other, s->teacher, s, settings, e)) ? -1 : 0;
		if (rc)
			outdir_abort(o);
		else
			rc = outdir_commit(o, e);
	}
	if (!rc)
		rc = drop_old(d, keep, e);
	free(dir);
	free(path);
	free(file);
	free(other);
	return rc;
}

/* ---- reading ---- */

struct reader {
	struct trainer *t;
	struct art_r *r;
	const char *settings;
	int64_t count[COUNTERS];
	double best[2];                /* step and loss; 0: none */
	bool have_settings, have_counters, have_taken, have_weights;
	struct mix *mix;               /* NULL: the order needs no state */
	int64_t *filled;               /* [params * ARRAYS] elements read so far */
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

static int take_array(struct reader *q, const msgpack_object *rec, const char *name, struct err *e)
{
	const struct param *p = NULL;
	const void *data;
	int64_t at, n;
	int a = 0, i = 0;
	while (a < arrays(q->t) && letter[a] != name[0])
		a++;
	for (int n_all = q->t->n_param; a < arrays(q->t) && name[1] == '.' && i < n_all; i++)
		if (!strcmp((p = q->t->param[i])->name, name + 2))
			break;
	if (!p || i == q->t->n_param)
		return bad(q, e, "the student has no", name);
	int64_t *filled = &q->filled[i * ARRAYS + a];
	if (obj_int(q->r, rec, "offset", &at, e) || obj_array(q->r, rec, "data", low(q->t, a) ? ART_BF16 : ART_F32, -1, &data, &n, e))
		return -1;
	if (at != *filled || n > p->rows * p->cols - at)
		return bad(q, e, "elements out of order or too many in", name);
	q->t->g->k->upload(q->t->g->d, element(q->t, a, p->off + at), data, bytes_of(q->t, a, n));
	*filled += n;
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
	if (obj_array(q->r, rec, "data", ART_I64, COUNTERS, &data, NULL, e))
		return -1;
	memcpy(q->count, data, sizeof q->count);
	q->have_counters = true;
	return 0;
}

static int complete(const struct reader *q, struct err *e)
{
	if (!q->have_settings || !q->have_counters)
		return bad(q, e, "missing", "counters");
	if (q->mix && (!q->have_taken || !q->have_weights))
		return bad(q, e, "missing", "mix.weights");
	for (int i = 0; i < q->t->n_param * ARRAYS; i++) {
		const struct param *p = q->t->param[i / ARRAYS];
		if (i % ARRAYS < arrays(q->t) && q->filled[i] != p->rows * p->cols)
			return bad(q, e, "elements missing of", p->name);
	}
	return 0;
}

/* 0 or -1; a refusal for its settings is EXIT_USAGE here, damage is anything else. */
static int read_state(const char *path, struct trainer *t, struct progress_state *s, const char *settings, struct err *e)
{
	struct reader q = { .t = t, .settings = settings, .mix = s->mix && s->mix->n > 1 ? s->mix : NULL };
	const msgpack_object *rec;
	int rc;
	q.r = art_open(path, "checkpoint", 1, e);
	if (!q.r)
		return -1;
	q.filled = xcalloc((size_t)t->n_param * ARRAYS, sizeof *q.filled);
	while ((rc = art_next(q.r, &rec, e)) > 0)
		if ((rc = take(&q, rec, e)))
			break;
	if (!rc)
		rc = complete(&q, e);
	if (!rc) {
		s->step = q.count[0];
		s->tokens = q.count[1];
		s->best_step = (int64_t)q.best[0];
		s->best_loss = q.best[1];
		t->updates = q.count[2];
		t->skipped = q.count[3];
		t->skipped_row = q.count[4];
		trainer_sync(t);
	}
	free(q.filled);
	art_close(q.r);
	return rc;
}

int checkpoint_load(const struct rundir *d, struct trainer *t, struct progress_state *s, const char *settings, struct err *e)
{
	int n, rc = -1;
	int64_t *v = list_new(d, &n);
	s->step = s->tokens = 0;
	for (int i = 0; i < n && rc; i++) {
		char *p = step_path(d, v[i]), *file = xasprintf("%s/state", p), *other = xasprintf("%s/teacher", p);
		rc = read_state(file, t, s, settings, e) || (s->teacher && read_state(other, s->teacher, s, settings, e)) ? -1 : 0;
		free(p);
		free(file);
		free(other);
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
