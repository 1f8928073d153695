/*
 * gather.c - copying the kept rows and columns out of the parent's files
 *
 * Rows and columns are lists of units from keep_units(), spread to their width (a head is head_dim rows).  A tensor of
 * which nothing is cut is written as it lies in the file, so an empty cut changes no byte.  Scaled embeddings are multiplied
 * (see gather.h), biases that the parent lacks begin as 0, and three options add to a kept row, in f32 before it is rounded to the stored type:
 *	merge     theta*_l = theta_l + sum_k (theta_{l+k} - theta_l) over the dropped blocks l+1.. that follow block l (LaCo)
 *	add-back  W_i += W_i - W_{2K-i+1}, i and 2K-i+1 being places in the order of importance (Minitron, section 2.3)
 *	plus      b_i += what removed columns added on average (compensate.h)
 *
 * Work is cut into pieces of a few MiB of output, which a few threads take in file order, each asking for the pages of the
 * piece that it will do next and letting go of those it has done: the disk is read and written at the same time, and
 * memory does not depend on the size of the model.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "gather.h"
#include "../model/hfdir.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_BYTES = 8 << 20, THREADS = 4, THREADS_MAX = 64 };

struct cut {                           /* one tensor of the result */
	const struct st_tensor *x;     /* the parent's, or NULL: zeros */
	int dtype;                     /* of the result */
	const struct st_tensor **more; /* merge: the same tensor of the dropped blocks that follow */
	int n_more;
	int64_t src_cols, rows, cols;  /* of the parent's tensor; of the result */
	int32_t *row, *col;            /* kept indices or NULL */
	const int64_t *partner;        /* of the rows' heads, or NULL */
	int64_t width;                 /* rows of a head */
	const float *plus;             /* [rows] added to a bias, or NULL */
	double mul, add;               /* x becomes mul x + add: 1, 0 for all but scaled embeddings */
	int64_t batch;                 /* rows of a piece */
	int left;                      /* pieces to do */
};
struct piece {
	int tensor;
	int64_t row0, rows;
};
struct job {
	struct st_w *w;
	struct cut *cut;
	struct piece *piece;
	int n_cut, n_piece, next, done, failed, threads;
	void (*step)(void *arg, int done, int total);
	void *arg;
	pthread_mutex_t lock;          /* of next, done, failed, cut[].left, step */
	struct err *e;                 /* of the first failure */
};

/* Indices of rows or columns for an axis; NULL when all stay. */
static int32_t *spread_new(const struct keep *k, int axis, int64_t l)
{
	int64_t n, w = axis_width(&k->from, axis);   /* of a unit: the same in all blocks */
	const int64_t *u = keep_units(k, axis, l, &n);

	if (!u)
		return NULL;
	int32_t *v = xcalloc((size_t)(n * w), sizeof *v);
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = 0; j < w; j++)
			v[i * w + j] = (int32_t)(u[i] * w + j);
	return v;
}

/* dst[i] = src[cols[i]].  Four 16-bit values make one store: the loop is bound by its loads. */
static void pick2(char *dst, const char *src, const int32_t *cols, int64_t n)
{
	int64_t i = 0;

	for (; i + 4 <= n; i += 4) {
		uint16_t a, b, c, d;
		memcpy(&a, src + 2 * (size_t)cols[i], 2);
		memcpy(&b, src + 2 * (size_t)cols[i + 1], 2);
		memcpy(&c, src + 2 * (size_t)cols[i + 2], 2);
		memcpy(&d, src + 2 * (size_t)cols[i + 3], 2);
		uint64_t v = (uint64_t)d << 48 | (uint64_t)c << 32 | (uint64_t)b << 16 | a;
		memcpy(dst + 2 * i, &v, 8);
	}
	for (; i < n; i++)
		memcpy(dst + 2 * i, src + 2 * (size_t)cols[i], 2);
}

static void pick4(char *dst, const char *src, const int32_t *cols, int64_t n)
{
	for (int64_t i = 0; i < n; i++)
		memcpy(dst + 4 * i, src + 4 * (size_t)cols[i], 4);
}

/* The kept columns of the parent's row `from`, as stored. */
static void pick_row(char *dst, const struct cut *c, const struct st_tensor *x, int64_t from)
{
	size_t es = st_dtype_size(x->dtype);
	const char *src = (const char *)x->data + (size_t)(from * c->src_cols) * es;

	if (!c->col)
		memcpy(dst, src, (size_t)c->cols * es);
	else if (es == 2)
		pick2(dst, src, c->col, c->cols);
	else
		pick4(dst, src, c->col, c->cols);
}

/* The same in f32, dropped blocks merged in.  raw: room for a row as stored; add: for one in f32. */
static void merged_row(float *out, const struct cut *c, int64_t from, char *raw, float *add)
{
	pick_row(raw, c, c->x, from);
	st_to_f32(out, raw, c->x->dtype, c->cols);
	if (!c->n_more)
		return;
	st_to_f32(add, raw, c->x->dtype, c->cols);
	for (int64_t j = 0; j < c->cols; j++)
		out[j] = (float)(1 - c->n_more) * add[j];
	for (int m = 0; m < c->n_more; m++) {
		pick_row(raw, c, c->more[m], from);
		st_to_f32(add, raw, c->more[m]->dtype, c->cols);
		for (int64_t j = 0; j < c->cols; j++)
			out[j] += add[j];
	}
}

struct scratch {                       /* of a thread, grown to the longest row */
	char *buf, *raw;
	float *a, *b, *add;
	int64_t cols;
	size_t bytes;
};

static void scratch_grow(struct scratch *s, int64_t cols, size_t bytes)
{
	if (bytes > s->bytes)
		s->buf = xrealloc(s->buf, bytes, 1), s->bytes = bytes;
	if (cols <= s->cols)
		return;
	s->cols = cols;
	s->raw = xrealloc(s->raw, (size_t)cols, 4);
	s->a = xrealloc(s->a, (size_t)cols, sizeof *s->a);
	s->b = xrealloc(s->b, (size_t)cols, sizeof *s->b);
	s->add = xrealloc(s->add, (size_t)cols, sizeof *s->add);
}

/* Row r of the result into dst. */
static void make_row(char *dst, const struct cut *c, int64_t r, struct scratch *s)
{
	int64_t from = c->row ? c->row[r] : r, other = c->partner ? c->partner[r / c->width] : -1;

	if (c->x && !c->n_more && other < 0 && c->mul == 1 && !c->plus) {
		pick_row(dst, c, c->x, from);
		return;
	}
	if (c->x)
		merged_row(s->a, c, from, s->raw, s->add);
	else
		memset(s->a, 0, (size_t)c->cols * sizeof *s->a);
	if (c->plus)
		s->a[0] += c->plus[r];
	if (other >= 0) {
		merged_row(s->b, c, other * c->width + r % c->width, s->raw, s->add);
		for (int64_t j = 0; j < c->cols; j++)
			s->a[j] += s->a[j] - s->b[j];
	}
	for (int64_t j = 0; j < c->cols && c->mul != 1; j++)
		s->a[j] = s->a[j] * (float)c->mul + (float)c->add;
	st_from_f32(dst, c->dtype, s->a, c->cols);
}

/* fn on the source bytes of a piece, in every block that it reads. */
static void each_source(const struct cut *c, const struct piece *p, void (*fn)(const void *, size_t))
{
	int64_t lo = c->row ? c->row[p->row0] : p->row0,
		hi = c->row ? c->row[p->row0 + p->rows - 1] + 1 : p->row0 + p->rows;

	for (int m = c->x ? -1 : c->n_more; m < c->n_more; m++) {
		const struct st_tensor *x = m < 0 ? c->x : c->more[m];
		size_t row = (size_t)c->src_cols * st_dtype_size(x->dtype);
		fn((const char *)x->data + (size_t)lo * row, (size_t)(hi - lo) * row);
	}
}

static int do_piece(struct job *j, const struct piece *p, struct scratch *s, struct err *e)
{
	const struct cut *c = &j->cut[p->tensor];
	size_t row = (size_t)c->cols * st_dtype_size(c->dtype);
	const char *data = c->x ? (const char *)c->x->data + (size_t)p->row0 * row : NULL;

	each_source(c, p, st_populate_bytes);
	if (!c->x || c->row || c->col || c->partner || c->n_more || c->mul != 1 || c->plus) {
		scratch_grow(s, c->cols, (size_t)p->rows * row);
		for (int64_t i = 0; i < p->rows; i++)
			make_row(s->buf + (size_t)i * row, c, p->row0 + i, s);
		data = s->buf;
	}
	int rc = st_put(j->w, p->tensor, p->row0 * (int64_t)row, data, (size_t)p->rows * row, e);
	each_source(c, p, st_release_bytes);
	return rc;
}

static void *worker(void *arg)
{
	struct job *j = arg;
	struct scratch s = { 0 };
	struct err e = { 0 };
	int rc = 0;

	pthread_mutex_lock(&j->lock);
	while (!j->failed && j->next < j->n_piece) {
		int i = j->next++, ahead = i + j->threads;
		pthread_mutex_unlock(&j->lock);
		if (ahead < j->n_piece)
			each_source(&j->cut[j->piece[ahead].tensor], &j->piece[ahead], st_prefetch_bytes);
		rc = do_piece(j, &j->piece[i], &s, &e);
		pthread_mutex_lock(&j->lock);
		if (rc && !j->failed++)
			*j->e = e;
		if (!rc && !--j->cut[j->piece[i].tensor].left) {
			j->done++;
			if (j->step)
				j->step(j->arg, j->done, j->n_cut);
		}
	}
	pthread_mutex_unlock(&j->lock);
	free(s.buf);
	free(s.raw);
	free(s.a);
	free(s.b);
	free(s.add);
	return NULL;
}

static int run(struct job *j)
{
	pthread_t id[THREADS_MAX];
	int n = 0;

	pthread_mutex_init(&j->lock, NULL);
	for (int i = 0; i < j->threads && i < j->n_piece; i++)
		each_source(&j->cut[j->piece[i].tensor], &j->piece[i], st_prefetch_bytes);
	while (n < j->threads - 1 && !pthread_create(&id[n], NULL, worker, j))
		n++;
	worker(j);
	while (n)
		pthread_join(id[--n], NULL);
	pthread_mutex_destroy(&j->lock);
	return j->failed ? -1 : 0;
}

/* E' = r E and, where E is also the output matrix, g' = g / r for the final gain g = w or 1 + w. */
static void fold_embed_scale(struct cut *c, const struct keep *k, const struct param *p)
{
	double r = k->from.embed_scale / k->to.embed_scale;

	c->mul = 1;
	if (p->layer >= 0 || r == 1)
		return;
	if (!strcmp(p->name, "embed")) {
		c->mul = r;
	} else if (k->from.tied && !strncmp(p->name, "final.norm.", 11)) {
		c->mul = 1 / r;
		c->add = strcmp(p->name, "final.norm.w") || k->from.norm == NORM_RMS ? 0 : 1 / r - 1;
	}
}

/* Segment s of parameter p of the trimmed table. */
static void plan_segment(struct cut *c, const struct keep *k, const struct ptable *src, const struct ptable *t,
		const struct param *p, int s, const struct st_model *m)
{
	int axis = p->row->seg[s].axis, mha = k->from.kv_heads == k->from.heads;
	struct param q = *p;
	struct arch from;
	char name[160];

	if (p->layer >= 0)
		q.layer = (int)k->layer[p->layer];
	from = arch_at(&k->from, q.layer);
	*c = (struct cut){ .x = st_find(m, param_hf_name(src, &q, s, name)), .src_cols = axis_size(&from, p->row->cols),
		.rows = axis == AX_NONE ? 1 : param_seg_rows(t, p, s), .cols = p->cols, .width = k->from.head_dim };
	c->row = axis == AX_NONE ? NULL : spread_new(k, axis, p->layer);
	c->col = spread_new(k, p->row->cols, p->layer);
	/* the residual goes into queries only where keys and values are shared (Minitron, section 2.3) */
	if (k->partner && (axis == AX_HEAD || (axis == AX_GROUP && mha)))
		c->partner = k->partner + p->layer * k->to.heads;
	fold_embed_scale(c, k, p);
	for (int i = 0; i < KEEP_PARTS; i++)
		if (k->plus[i] && p->layer >= 0 && !strcmp(p->row->name, i ? "mlp.down.bias" : "attn.o.bias"))
			c->plus = k->plus[i] + p->layer * k->to.hidden;
	if (p->layer >= 0)
		c->n_more = (int)keep_merged(k, p->layer);
	if (c->n_more)
		c->more = xcalloc((size_t)c->n_more, sizeof *c->more);
	for (int i = 0; i < c->n_more; i++) {
		q.layer++;
		c->more[i] = st_find(m, param_hf_name(src, &q, s, name));
	}
	c->dtype = c->x ? c->x->dtype : st_find(m, param_hf_name(src, ptable_find(src, "embed"), 0, name))->dtype;
	size_t row = (size_t)c->cols * st_dtype_size(c->dtype);
	c->batch = (int64_t)(PIECE_BYTES / (row ? row : 1)) + 1;
	c->left = (int)((c->rows + c->batch - 1) / c->batch);
}

static void plan(struct job *j, const struct keep *k, const struct ptable *src, const struct ptable *t,
		const struct st_model *m, struct st_spec *spec)
{
	int at = 0, n = 0;

	for (int i = 0; i < t->n; i++)
		for (int s = 0; s < t->p[i].row->nseg; s++, at++) {
			plan_segment(&j->cut[at], k, src, t, &t->p[i], s, m);
			spec[at].dtype = j->cut[at].dtype;
			n += j->cut[at].left;
		}
	j->piece = xcalloc((size_t)n, sizeof *j->piece);
	for (at = 0; at < j->n_cut; at++) {
		const struct cut *c = &j->cut[at];
		for (int64_t r = 0; r < c->rows; r += c->batch)
			j->piece[j->n_piece++] = (struct piece){ at, r, c->rows - r < c->batch ? c->rows - r : c->batch };
	}
}

int gather_model(const struct keep *k, const struct st_model *m, const char *dir, int threads,
		void (*step)(void *arg, int done, int total), void *arg, struct err *e)
{
	struct ptable *src = ptable_new(&k->from), *t = ptable_new(&k->to);
	struct job j = { .threads = threads < 1 ? THREADS : threads > THREADS_MAX ? THREADS_MAX : threads, .step = step,
		.arg = arg, .e = e };
	struct st_spec *spec = params_specs_new(t, &j.n_cut);
	int rc = params_check(src, m, e);

	j.cut = xcalloc((size_t)j.n_cut, sizeof *j.cut);
	if (!rc) {
		plan(&j, k, src, t, m, spec);
		j.w = st_create(dir, spec, j.n_cut, 0, e);
		rc = j.w ? run(&j) : -1;
	}
	if (j.w && rc)
		st_abandon(j.w);
	else if (j.w)
		rc = st_finish(j.w, e);
	for (int i = 0; i < j.n_cut; i++) {
		free(j.cut[i].row);
		free(j.cut[i].col);
		free(j.cut[i].more);
	}
	free(j.cut);
	free(j.piece);
	free(spec);
	ptable_free(src);
	ptable_free(t);
	return rc;
}
