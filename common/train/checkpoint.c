/*
 * checkpoint.c - writing the state of a run
 *
 * Every process writes what it keeps (shard.h) of what it has (split.h) into a file of its own; where all keep everything
 * there is one.
 *
 * Records: "settings" (u8, JSON text), "counters" (i64), of several domains "mix.taken" (i64) and "mix.weights" (f64), "best" (f64: step and
 * loss) where the best model is kept, then
 * for every parameter P in table order w.P, m.P, v.P (with a moving average e.P) in
 * chunks of at most CHUNK elements.  The header lists the chunks, so that a process can read those alone that it keeps a part of.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "checkpoint_parts.h"
#include "../base/outfile.h"
#include "../io/artifact.h"
#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK ((int64_t)1 << 18) /* f32: a frame of the file, the least that can be read of it */

/* The last is there with a moving average only. */
int ckpt_arrays(const struct trainer *t)
{
	return t->o.ema > 0 ? STATES : STATES - 1;
}

bool ckpt_low(const struct trainer *t, int a)
{
	return state_type(t, (enum state)a) == DT_BF16;
}

size_t ckpt_bytes(const struct trainer *t, int a, int64_t n)
{
	return (size_t)n * dtype_size(state_type(t, (enum state)a));
}

char *ckpt_path_new(const struct rundir *d, int64_t step)
{
	return xasprintf("%s/ckpt/step-%lld", d->path, (long long)step);
}

char *ckpt_file_new(const char *dir, const char *name, int part)
{
	return part ? xasprintf("%s/%s.%d", dir, name, part) : xasprintf("%s/%s", dir, name);
}

/* ---- listing ---- */

static int descending(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return x < y ? 1 : x > y ? -1 : 0;
}

/* Steps with a checkpoint, newest first. */
int64_t *ckpt_list_new(const struct rundir *d, int *n)
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

/* Elements [at, at + n) of our own of a parameter, by their places in the whole */
static int put_own(struct art_w *w, const struct trainer *t, const struct param *p, int a, int64_t at, int64_t n, const void *host, struct err *e)
{
	char name[64];
	int rc = 0;
	snprintf(name, sizeof name, "%c.%s", ckpt_letter[a], p->name);
	for (int64_t k = 0, there, run; k < n && !rc; k += run) {
		run = split_out(&t->split, trainer_number(t, p), at + k, n - k, &there);
		rc = put(w, name, there, ckpt_low(t, a) ? ART_BF16 : ART_F32, run, (const char *)host + ckpt_bytes(t, a, k), e);
	}
	return rc;
}

/* Which chunk is next, in the order of the file: elements from `at` on of what is kept of parameter i's array a */
struct cursor {
	int i, a;
	int64_t at;
};
struct chunk {
	const struct param *p;
	int a;
	struct piece q;
};

/* What this process keeps; what all of tp have, their first */
static bool next_chunk(const struct trainer *t, struct cursor *k, struct chunk *c)
{
	while (k->i < t->n_param) {
		const struct param *p = t->param[k->i];
		bool ours = !t->tp || !t->tp->rank || row_split(p->row);
		struct piece q = ours ? shard_part(&t->shard, p->off, p->rows * p->cols) : (struct piece){ .n = 0 };
		if (k->at < q.n) {
			*c = (struct chunk){ p, k->a, piece_cut(q, q.off + k->at, CHUNK) };
			k->at += CHUNK;
			return true;
		}
		k->at = 0;
		if (!q.n || ++k->a == ckpt_arrays(t)) {
			k->a = 0;
			k->i++;
		}
	}
	return false;
}

static int put_arrays(struct art_w *w, const struct trainer *t, struct err *e)
{
	float *host = xmalloc((size_t)CHUNK * sizeof *host);
	struct cursor k = { .i = 0 };
	struct chunk c;
	int rc = 0;
	while (!rc && next_chunk(t, &k, &c)) {
		state_get(t, (enum state)c.a, &c.q, host);
		rc = put_own(w, t, c.p, c.a, c.q.off - c.p->off, c.q.n, host, e);
	}
	free(host);
	return rc;
}

/* NAME:RECORDS:FIRST:END of every chunk: between which elements of the whole its records are */
static char *contents_new(const struct trainer *t)
{
	char *text = NULL, *blank = "";
	size_t size;
	struct cursor k = { .i = 0 };
	struct chunk c;
	FILE *f = open_memstream(&text, &size);
	if (!f)
		die(EXIT_RESOURCE, "out of memory");
	while (next_chunk(t, &k, &c)) {
		int64_t first = 0, there = 0, records = 0, at = c.q.off - c.p->off;
		for (int64_t n = 0, run = 0; n < c.q.n; n += run, there += run, records++) {
			run = split_out(&t->split, trainer_number(t, c.p), at + n, c.q.n - n, &there);
			first = n ? first : there;
		}
		fprintf(f, "%s%c.%s:%lld:%lld:%lld", blank, ckpt_letter[c.a], c.p->name, (long long)records, (long long)first, (long long)there);
		blank = " ";
	}
	if (fclose(f))
		die(EXIT_RESOURCE, "out of memory");
	return text;
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
	struct cursor at = { .i = 0 };
	struct chunk c;
	while (next_chunk(t, &at, &c)) {
		size_t k = ckpt_bytes(t, c.a, c.q.n);
		chunk = k > chunk ? k : chunk;
		waiting = (waiting >= ART_FRAME ? 0 : waiting) + k;
		most = waiting > most ? waiting : most;
	}
	return chunk + 2 * most;
}

/* What only the first file has */
static int put_once(struct art_w *w, const struct trainer *t, const struct progress_state *s, const char *settings, struct err *e)
{
	int64_t count[CKPT_COUNTERS] = { s->step, s->tokens, t->updates, t->skipped, t->skipped_row };
	return put(w, "settings", 0, ART_U8, (int64_t)strlen(settings), settings, e) ||
	       put(w, "counters", 0, ART_I64, CKPT_COUNTERS, count, e) || put_mix(w, s->mix, e) || put_best(w, s, e) ? -1 : 0;
}

/* Which of how many files is ours; -1: none */
static int own_part(const struct trainer *t, int *files)
{
	*files = !t->shard.whole ? t->world->size : t->tp ? t->tp->size : 1;
	if (!t->shard.whole || !t->tp)
		return t->shard.whole ? 0 : t->world->rank;
	return comm_first(t->dp) ? t->tp->rank : -1;
}

static int write_state(const char *dir, const char *name, const struct trainer *t, const struct progress_state *s, const char *settings,
		       struct err *e)
{
	struct prov prov = { .seed = s->seed };
	char digest[33];
	int files, part = own_part(t, &files);
	if (part < 0)
		return 0;
	char *path = ckpt_file_new(dir, name, part);
	struct art_w *w = art_create(path, "checkpoint", 1, &prov, true, e);
	free(path);
	if (!w)
		return -1;
	digest_hex(settings, strlen(settings), digest);
	art_meta_int(w, "step", s->step);
	art_meta_int(w, "tokens", s->tokens);
	art_meta_str(w, "config", digest);
	art_meta_int(w, "seed", s->seed);
	if (files > 1) {
		art_meta_int(w, "part", part);
		art_meta_int(w, "files", files);
	}
	char *contents = contents_new(t);
	art_meta_str(w, "contents", contents);
	free(contents);
	if ((!part && put_once(w, t, s, settings, e)) || put_arrays(w, t, e)) {
		art_abort(w);
		return -1;
	}
	return art_commit(w, e);
}

static int drop_old(const struct rundir *d, int64_t keep, struct err *e)
{
	int n, rc = 0;
	int64_t *v = ckpt_list_new(d, &n);
	for (int i = 0; i < n && !rc; i++) {
		if (i < keep)
			continue;
		/* out of sight first: a half-removed checkpoint must not look like a whole one */
		char *p = ckpt_path_new(d, v[i]), *gone = xasprintf("%s/ckpt/.step-%lld.tmp", d->path, (long long)v[i]);
		rc = rename(p, gone) ? err_sys(e, "%s: cannot rename", p) : remove_tree(gone, e);
		free(p);
		free(gone);
	}
	free(v);
	return rc;
}

/* All processes write their parts into dir.  -1 in all of them when one fails. */
static int write_parts(const char *dir, const struct trainer *t, const struct progress_state *s, const char *settings, struct err *e)
{
	int rc = write_state(dir, "state", t, s, settings, e) || (s->teacher && write_state(dir, "teacher", s->teacher, s, settings, e)) ? -1 : 0;
	if (!trainer_in_parts(t) || !comm_max(t->world, rc != 0) || rc)
		return rc;
	return err_set(e, EXIT_IO, "%s: another process could not write its part of the checkpoint", dir);
}

/* The others write where the first says: one byte for whether there is such a place, then its name */
static int follow(const struct trainer *t, const struct progress_state *s, const char *settings, struct err *e)
{
	char dir[PATH_MAX];
	comm_bcast(t->world, dir, sizeof dir, 0);
	if (!*dir)
		return err_set(e, EXIT_IO, "the first process could not begin a checkpoint");
	if (write_parts(dir, t, s, settings, e))
		return -1;
	return comm_max(t->world, 0) ? err_set(e, EXIT_IO, "the first process could not finish a checkpoint") : 0;
}

int checkpoint_save(const struct rundir *d, const struct trainer *t, const struct progress_state *s, const char *settings,
		    int64_t keep, struct err *e)
{
	if (d->follows)
		return follow(t, s, settings, e);
	char *dir = xasprintf("%s/ckpt", d->path), *path = ckpt_path_new(d, s->step), to[PATH_MAX] = "";
	struct outdir *o = mkdir_p(dir, e) ? NULL : outdir_open(path, true, e);
	int rc = o ? 0 : -1;
	if (o && (size_t)snprintf(to, sizeof to, "%s", outdir_tmp(o)) >= sizeof to)
		BUG("%s: a name too long was created", outdir_tmp(o));
	if (trainer_in_parts(t))
		comm_bcast(t->world, to, sizeof to, 0);
	if (o && write_parts(to, t, s, settings, e)) {
		rc = -1;
		outdir_abort(o);
	} else if (o) {
		rc = outdir_commit(o, e);
		if (trainer_in_parts(t))
			comm_max(t->world, rc != 0);
	}
	if (!rc)
		rc = drop_old(d, keep, e);
	free(dir);
	free(path);
	return rc;
}
