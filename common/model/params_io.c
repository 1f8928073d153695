/*
 * params_io.c - weights between a model directory and the flat arena, and the identity of a model
 *
 * Reading maps the files, checks every tensor against the table before the first copy, and lets go of pages behind
 * itself.  Writing converts in small pieces; what was written is opened again and counted.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hfdir.h"
#include "../base/outfile.h"
#include "../io/safetensors.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum { PIECE = 1 << 18 };              /* elements converted at a time */

static bool harmless(const struct ptable *t, const char *name)
{
	const char *tail = "rotary_emb.inv_freq";
	size_t n = strlen(name), k = strlen(tail);

	return (n >= k && !strcmp(name + n - k, tail)) || (t->arch.tied && !strcmp(name, "lm_head.weight"));
}

/* Segment s of p in the file; checks dtype and shape. */
static const struct st_tensor *segment(const struct ptable *t, const struct param *p, int s, const struct st_model *m,
		struct err *e)
{
	char name[160], got[128];
	const struct st_tensor *x = st_find(m, param_hf_name(t, p, s, name));
	int64_t rows = param_seg_rows(t, p, s);

	if (!x) {
		err_set(e, EXIT_DATA, "tensor '%s' is missing", name);
		return NULL;
	}
	if (row_is_vector(p->row)) {
		if (x->nd != 1 || x->dims[0] != rows * p->cols) {
			err_set(e, EXIT_DATA, "%s: tensor '%s': shape %s, expected [%lld]", x->file, name,
				st_shape(x, got), (long long)(rows * p->cols));
			return NULL;
		}
	} else if (x->nd != 2 || x->dims[0] != rows || x->dims[1] != p->cols) {
		err_set(e, EXIT_DATA, "%s: tensor '%s': shape %s, expected [%lld, %lld]", x->file, name, st_shape(x, got),
			(long long)rows, (long long)p->cols);
		return NULL;
	}
	if (x->dtype > ST_BF16) {
		err_set(e, EXIT_DATA, "%s: tensor '%s': dtype %s, expected F32, F16 or BF16", x->file, name,
			st_dtype_name(x->dtype));
		return NULL;
	}
	return x;
}

static int by_string(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int params_check(const struct ptable *t, const struct st_model *m, struct err *e)
{
	struct arena names = { 0 };
	char **want = xcalloc((size_t)t->n * 3 + 1, sizeof *want), buf[160];
	int n = 0, rc = 0;

	for (int i = 0; i < t->n && !rc; i++)
		for (int s = 0; s < t->p[i].row->nseg && !rc; s++) {
			if (!segment(t, &t->p[i], s, m, e))
				rc = -1;
			want[n++] = arena_printf(&names, "%s", param_hf_name(t, &t->p[i], s, buf));
		}
	qsort(want, (size_t)n, sizeof *want, by_string);
	for (int i = 0; i < st_count(m) && !rc; i++) {
		const char *name = st_at(m, i)->name;
		if (!bsearch(&name, want, (size_t)n, sizeof *want, by_string) && !harmless(t, name))
			rc = err_set(e, EXIT_DATA, "%s: tensor '%s' is not part of a %s model of this config",
				st_at(m, i)->file, name, t->arch.family->model_type);
	}
	free(want);
	arena_free(&names);
	return rc;
}

/* n elements at `src` of a stored type into f32 or bf16. */
static void convert(void *dst, int dtype, const char *src, int from, int64_t n)
{
	if (dtype == DT_F32) {
		st_to_f32(dst, src, from, n);
	} else if (from == ST_BF16) {
		memcpy(dst, src, (size_t)n * 2);
	} else {
		float tmp[1024];
		for (int64_t i = 0; i < n; i += 1024) {
			int64_t k = n - i < 1024 ? n - i : 1024;
			st_to_f32(tmp, src + (size_t)i * st_dtype_size(from), from, k);
			st_from_f32((char *)dst + 2 * i, ST_BF16, tmp, k);
		}
	}
}

int param_read(const struct ptable *t, const struct param *p, const struct st_model *m, void *dst, int dtype,
		struct err *e)
{
	if (dtype != DT_F32 && dtype != DT_BF16)
		BUG("weights as dtype %d", dtype);
	for (int s = 0; s < p->row->nseg; s++) {
		const struct st_tensor *x = segment(t, p, s, m, e);
		if (!x)
			return -1;
		/* in pieces, so that an embedding of gigabytes is not mapped in and held twice */
		for (int64_t at = 0; at < x->elems; at += PIECE * 16) {
			int64_t n = x->elems - at < PIECE * 16 ? x->elems - at : PIECE * 16;
			const char *src = (const char *)x->data + (size_t)at * st_dtype_size(x->dtype);
			st_populate_bytes(src, (size_t)n * st_dtype_size(x->dtype));
			convert((char *)dst + (size_t)at * dtype_size(dtype), dtype, src, x->dtype, n);
			st_release_bytes(src, (size_t)n * st_dtype_size(x->dtype));
		}
		dst = (char *)dst + (size_t)x->elems * dtype_size(dtype);
	}
	return 0;
}

void param_read_at(const struct ptable *t, const struct param *p, const struct st_model *m, int64_t at, int64_t n, float *out)
{
	int s = 0;
	struct err e;

	for (int64_t rows; s < p->row->nseg && at >= (rows = param_seg_rows(t, p, s)) * p->cols; s++)
		at -= rows * p->cols;
	const struct st_tensor *x = s < p->row->nseg ? segment(t, p, s, m, &e) : NULL;
	if (!x || n > x->elems - at)
		BUG("%s: elements outside of a segment", p->name);
	const char *src = (const char *)x->data + (size_t)at * st_dtype_size(x->dtype);
	st_to_f32(out, src, x->dtype, n);
	st_release_bytes(src, (size_t)n * st_dtype_size(x->dtype));
}

struct range {                 /* what each_part does with the bytes of elements [off, off + n) of the arena */
	int64_t off, n;
	char *dst;             /* where element off goes; NULL: nowhere, only advice is given */
	int dtype;
	void (*advise)(const void *p, size_t n);
};

/* Elements [from, to) of the arena, which are of segment x, whose first is `first` */
static void one_part(const struct range *r, const struct st_tensor *x, int64_t first, int64_t from, int64_t to)
{
	size_t size = st_dtype_size(x->dtype), bytes = (size_t)(to - from) * size;
	const char *src = (const char *)x->data + (size_t)(from - first) * size;

	r->advise(src, bytes);
	if (!r->dst)
		return;
	convert(r->dst + (size_t)(from - r->off) * dtype_size(r->dtype), r->dtype, src, x->dtype, to - from);
	st_release_bytes(src, bytes);
}

static void each_part(const struct ptable *t, const struct st_model *m, const struct range *r)
{
	struct err e;

	for (int i = 0; i < t->n; i++) {
		const struct param *p = &t->p[i];
		int64_t first = p->off, last = r->off + r->n;
		if (first >= last || first + p->rows * p->cols <= r->off)
			continue;
		for (int s = 0; s < p->row->nseg; s++) {
			int64_t end = first + param_seg_rows(t, p, s) * p->cols, from = first > r->off ? first : r->off, to = end < last ? end : last;
			const struct st_tensor *x = from < to ? segment(t, p, s, m, &e) : NULL;
			if (from < to && !x)
				BUG("%s: read from a model that was not checked", p->name);
			if (x)
				one_part(r, x, first, from, to);
			first = end;
		}
	}
}

void params_read_range(const struct ptable *t, const struct st_model *m, int64_t off, int64_t n, void *dst, int dtype)
{
	each_part(t, m, &(struct range){ off, n, dst, dtype, st_populate_bytes });
}

void params_advise_range(const struct ptable *t, const struct st_model *m, int64_t off, int64_t n, bool soon)
{
	each_part(t, m, &(struct range){ .off = off, .n = n, .advise = soon ? st_prefetch_bytes : st_release_bytes });
}

/* What the threads of params_each share: each takes the next parameter until there is none or one has failed. */
struct each_job {
	const struct ptable *t;
	const struct st_model *m;
	int (*each)(void *arg, const struct param *p, const struct st_model *m, struct err *e);
	void *arg;
	atomic_int next, failed;
	struct err e;                  /* of the one that failed first */
};

static void *each_worker(void *job)
{
	struct each_job *j = job;
	struct err e = { 0 };

	for (int i; !atomic_load(&j->failed) && (i = atomic_fetch_add(&j->next, 1)) < j->t->n;)
		if (j->each(j->arg, &j->t->p[i], j->m, &e) && !atomic_exchange(&j->failed, 1))
			j->e = e;
	return NULL;
}

int params_each(const struct ptable *t, const char *dir, int threads,
		int (*each)(void *arg, const struct param *p, const struct st_model *m, struct err *e), void *arg, struct err *e)
{
	enum { MOST = 16 };            /* copying is bound by memory */
	struct each_job j = { .t = t, .m = st_open(dir, e), .each = each, .arg = arg };
	pthread_t helper[MOST];
	int n = 0;

	if (!j.m)
		return -1;
	int rc = params_check(t, j.m, e) ? err_wrap(e, "%s", dir) : 0;
	while (!rc && n + 1 < threads && n < MOST && !pthread_create(&helper[n], NULL, each_worker, &j))
		n++;
	if (!rc)
		each_worker(&j);
	while (n)
		pthread_join(helper[--n], NULL);
	if (atomic_load(&j.failed)) {
		if (e)
			*e = j.e;
		rc = -1;
	}
	st_close((struct st_model *)j.m);
	return rc;
}

struct arena_load {
	const struct ptable *t;
	char *dst;
	int dtype;
	int64_t layer0, layer1;
};

static int into_arena(void *arg, const struct param *p, const struct st_model *m, struct err *e)
{
	const struct arena_load *a = arg;

	if (p->layer >= 0 && (p->layer < a->layer0 || p->layer >= a->layer1))
		return 0;
	return param_read(a->t, p, m, a->dst + (size_t)p->off * dtype_size(a->dtype), a->dtype, e);
}

int params_load(const struct ptable *t, const char *dir, void *dst, int dtype, int64_t layer0, int64_t layer1,
		struct err *e)
{
	struct arena_load a = { t, dst, dtype, layer0, layer1 };

	return params_each(t, dir, cpu_count(), into_arena, &a, e);
}

struct st_spec *params_specs_new(const struct ptable *t, int *n)
{
	struct st_spec *spec = xcalloc((size_t)t->n * 3, sizeof *spec);

	*n = 0;
	for (int i = 0; i < t->n; i++)
		for (int s = 0; s < t->p[i].row->nseg; s++) {
			struct st_spec *x = &spec[(*n)++];
			int vector = row_is_vector(t->p[i].row);
			int64_t rows = param_seg_rows(t, &t->p[i], s);
			param_hf_name(t, &t->p[i], s, x->name);
			x->nd = vector ? 1 : 2;
			x->dims[0] = vector ? rows * t->p[i].cols : rows;
			x->dims[1] = vector ? 0 : t->p[i].cols;
		}
	return spec;
}

/* All weights in the table's order; segments of a fused matrix follow each other as in the file list. */
static int write_weights(const struct ptable *t, params_make *make, void *arg, int64_t shard_bytes, const char *dir,
		int dtype, struct err *e)
{
	int n, rc = 0;
	struct st_spec *spec = params_specs_new(t, &n);
	char *piece = xmalloc(PIECE * st_dtype_size(dtype));
	float *x = xmalloc(PIECE * sizeof *x);

	for (int i = 0; i < n; i++)
		spec[i].dtype = dtype;
	struct st_w *w = st_create(dir, spec, n, shard_bytes, e);
	if (!w)
		rc = -1;
	for (int i = 0; i < t->n && !rc; i++) {
		int64_t at = 0;
		for (int s = 0; s < t->p[i].row->nseg && !rc; s++) {
			int64_t end = at + param_seg_rows(t, &t->p[i], s) * t->p[i].cols;
			while (at < end && !rc) {
				int64_t k = end - at < PIECE ? end - at : PIECE;
				make(arg, &t->p[i], at, k, x);
				st_from_f32(piece, dtype, x, k);
				rc = st_write(w, piece, (size_t)k * st_dtype_size(dtype), e);
				at += k;
			}
		}
	}
	if (w && rc)
		st_abandon(w);
	else if (w)
		rc = st_finish(w, e);
	free(x);
	free(piece);
	free(spec);
	return rc;
}

int params_save_made(const struct ptable *t, params_make *make, void *arg, int64_t shard_bytes, const char *outdir,
		const char *from, const char *dtype, const struct model_card *card, bool force, struct err *e)
{
	int type = st_dtype_parse(dtype);

	if (type < 0)
		return err_set(e, EXIT_USAGE, "dtype '%s' is not bfloat16, float32 or float16", dtype);
	struct outdir *d = outdir_open(outdir, force, e);
	if (!d)
		return -1;
	struct arch a = t->arch;       /* borrows the config object */
	snprintf(a.dtype, sizeof a.dtype, "%s", st_dtype_torch(type));
	if (write_weights(t, make, arg, shard_bytes, outdir_tmp(d), type, e) ||
	    hfdir_describe(outdir_tmp(d), &a, from, card, e) || hfdir_verify(outdir_tmp(d), &a, e)) {
		outdir_abort(d);
		return -1;
	}
	return outdir_commit(d, e);
}

static void from_arena(void *arg, const struct param *p, int64_t at, int64_t n, float *out)
{
	const float *src = arg;

	memcpy(out, src + p->off + at, (size_t)n * sizeof *out);
}

int params_save(const struct ptable *t, const float *src, const char *outdir, const char *from, const char *dtype,
		const struct model_card *card, bool force, struct err *e)
{
	return params_save_made(t, from_arena, (float *)src, 0, outdir, from, dtype, card, force, e);
}

/* First and last 64 KiB of each tensor: enough that any training step or cut shows, cheap on a 15B model. */
static void hash_tensor(XXH3_state_t *h, const struct st_tensor *x)
{
	char head[512], shape[128];
	size_t edge = x->bytes < 65536 ? x->bytes : 65536;
	int n = snprintf(head, sizeof head, "%s %s %s %zu\n", x->name, st_dtype_name(x->dtype), st_shape(x, shape),
		x->bytes);

	XXH3_128bits_update(h, head, n < (int)sizeof head ? (size_t)n : sizeof head - 1);
	XXH3_128bits_update(h, x->data, edge);
	XXH3_128bits_update(h, (const char *)x->data + x->bytes - edge, edge);
}

int model_fingerprint(const char *dir, char out[33], struct err *e)
{
	struct arch a;
	char shape[512];

	if (arch_load(&a, dir, e))
		return -1;
	struct st_model *m = st_open(dir, e);
	if (!m) {
		arch_free(&a);
		return -1;
	}
	int n = snprintf(shape, sizeof shape, "%s %lld %lld %lld %lld %lld %lld %lld %d %.17g %.17g %.17g %d %.17g\n",
		a.family->model_type, (long long)a.layers, (long long)a.hidden, (long long)a.ffn, (long long)a.heads,
		(long long)a.kv_heads, (long long)a.head_dim, (long long)a.vocab, a.tied, a.norm_eps, a.rope_theta,
		a.rope_frac, a.rope_scaling, a.rope_factor);
	XXH3_state_t *h = XXH3_createState();
	XXH3_128bits_reset(h);
	XXH3_128bits_update(h, shape, (size_t)n);
	if (a.window || a.attn_scale > 0) {    /* what the line above does not say, for families that have it */
		n = snprintf(shape, sizeof shape, "%lld %.17g %.17g\n", (long long)a.window, a.rope_local, a.attn_scale);
		XXH3_128bits_update(h, shape, (size_t)n);
		XXH3_128bits_update(h, a.sliding, sizeof a.sliding);
	}
	for (int i = 0; i < st_count(m); i++) {
		hash_tensor(h, st_at(m, i));
		st_release(m, st_at(m, i));
	}
	XXH128_hash_t v = XXH3_128bits_digest(h);
	snprintf(out, 33, "%016llx%016llx", (unsigned long long)v.high64, (unsigned long long)v.low64);
	XXH3_freeState(h);
	st_close(m);
	arch_free(&a);
	return 0;
}
