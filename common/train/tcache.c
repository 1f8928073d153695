/*
 * tcache.c - reading a cached teacher, window by window in any order
 *
 * Everything that comes from the file is checked before it is used as an index: shapes, ids below the vocabulary and
 * ascending, log-probabilities that are numbers.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tcache.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *tcache_part_new(const char *dir, int64_t part)
{
	return xasprintf("%s/part-%05lld", dir, (long long)part);
}

int tcache_head_read(const struct art_r *r, struct tcache_head *h, int64_t *part, struct err *e)
{
	const msgpack_object *m = art_meta(r);
	if (obj_str(r, m, "teacher", h->teacher, sizeof h->teacher, e) ||
	    obj_str(r, m, "tokenizer", h->tokenizer, sizeof h->tokenizer, e) || obj_str(r, m, "data", h->data, sizeof h->data, e) ||
	    obj_str(r, m, "dtype", h->dtype, sizeof h->dtype, e) || obj_int(r, m, "vocab", &h->vocab, e) ||
	    obj_int(r, m, "seq", &h->seq, e) || obj_int(r, m, "windows", &h->windows, e) ||
	    obj_int(r, m, "per_part", &h->per_part, e) || obj_int(r, m, "part", part, e))
		return -1;
	h->apart = -1;
	if (obj_get(m, "apart") && obj_int(r, m, "apart", &h->apart, e))
		return -1;
	h->best = h->width = 0;
	bool hidden = obj_get(m, "width") != NULL;
	if (obj_int(r, m, hidden ? "width" : "best", hidden ? &h->width : &h->best, e))
		return -1;
	bool sane = hidden ? h->width > 0 && h->width <= 1 << 24 && !strcmp(h->dtype, "bf16") :
			     h->best > 0 && h->best <= h->vocab && (!strcmp(h->dtype, "f16") || !strcmp(h->dtype, "f32"));
	if (!sane || h->vocab < 1 || h->vocab > INT32_MAX || h->seq < 2 || h->seq > INT32_MAX || h->windows < 1 || h->per_part < 1)
		return err_set(e, EXIT_DATA, "%s: best or width %lld, vocabulary %lld, seq %lld, %lld windows by %lld in %s make no sense", art_name(r),
			       (long long)(h->best + h->width), (long long)h->vocab, (long long)h->seq, (long long)h->windows,
			       (long long)h->per_part, h->dtype);
	return 0;
}

static bool same_head(const struct tcache_head *a, const struct tcache_head *b)
{
	return !strcmp(a->teacher, b->teacher) && !strcmp(a->data, b->data) && !strcmp(a->dtype, b->dtype) &&
	       !strcmp(a->tokenizer, b->tokenizer) && a->vocab == b->vocab && a->seq == b->seq && a->apart == b->apart && a->best == b->best && a->width == b->width &&
	       a->windows == b->windows && a->per_part == b->per_part;
}

static struct art_r *open_part(const char *dir, int64_t part, struct tcache_head *h, struct err *e)
{
	char *path = tcache_part_new(dir, part);
	struct art_r *r = art_open(path, "teacher-cache", 1, e);
	int64_t number;
	if (r && (tcache_head_read(r, h, &number, e) || (number != part && err_set(e, EXIT_DATA, "%s: holds part %lld", path, (long long)number)))) {
		art_close(r);
		r = NULL;
	}
	free(path);
	return r;
}

static int fits(const struct tcache *c, const struct batches *data, int64_t vocab, struct err *e)
{
	const struct tcache_head *h = &c->head;
	if (strcmp(h->tokenizer, data->tokenizer))
		return err_set(e, EXIT_DATA, "%s: made with tokenizer %.8s, the token set with %.8s", c->dir, h->tokenizer, data->tokenizer);
	if (strcmp(h->data, data->digest))
		return err_set(e, EXIT_DATA, "%s: made for token set %.8s, not for %.8s", c->dir, h->data, data->digest);
	if (h->seq != data->seq || h->windows != data->n)
		return err_set(e, EXIT_DATA, "%s: made for %lld windows of %lld tokens, not for %lld of %lld", c->dir,
			       (long long)h->windows, (long long)h->seq, (long long)data->n, (long long)data->seq);
	if (h->apart != (data->apart ? data->eos : -1))
		return err_set(e, EXIT_DATA, "%s: made with documents %s, not %s (--documents)", c->dir, h->apart >= 0 ? "apart" : "joined",
			       data->apart ? "apart" : "joined");
	if (h->vocab != vocab)
		return err_set(e, EXIT_DATA, "%s: the teacher's vocabulary has %lld tokens, the student's %lld", c->dir,
			       (long long)h->vocab, (long long)vocab);
	return 0;
}

int tcache_open(struct tcache *c, const char *dir, const struct batches *data, int64_t vocab, struct err *e)
{
	*c = (struct tcache){ .dir = xstrdup(dir) };
	for (int i = 0; i < TCACHE_OPEN; i++)
		c->number[i] = -1;
	c->part[0] = open_part(dir, 0, &c->head, e);
	int rc = c->part[0] ? fits(c, data, vocab, e) : -1;
	c->number[0] = c->part[0] ? 0 : -1;
	for (int64_t p = 0; !rc && p * c->head.per_part < c->head.windows; p++) {
		char *path = tcache_part_new(dir, p);
		if (access(path, R_OK))
			rc = err_set(e, EXIT_DATA, "%s: is missing: the cache is not complete, --cache-teacher goes on with it", path);
		free(path);
	}
	if (rc)
		tcache_close(c);
	return rc;
}

void tcache_close(struct tcache *c)
{
	for (int i = 0; i < TCACHE_OPEN; i++)
		if (c->part[i])
			art_close(c->part[i]);
	free(c->dir);
	*c = (struct tcache){ 0 };
}

static struct art_r *part_of(struct tcache *c, int64_t part, struct err *e)
{
	struct tcache_head h;
	int slot = (int)(part % TCACHE_OPEN);
	if (c->number[slot] == part)
		return c->part[slot];
	if (c->part[slot])
		art_close(c->part[slot]);
	c->number[slot] = -1;
	c->part[slot] = open_part(c->dir, part, &h, e);
	if (c->part[slot] && !same_head(&h, &c->head)) {
		err_set(e, EXIT_DATA, "%s: is of another cache than part 0", art_name(c->part[slot]));
		art_close(c->part[slot]);
		c->part[slot] = NULL;
	}
	if (c->part[slot])
		c->number[slot] = part;
	return c->part[slot];
}

static int view(const struct art_r *r, const msgpack_object *rec, const char *key, struct art_view *v, struct err *e)
{
	const msgpack_object *o = obj_get(rec, key);
	if (!o)
		return err_set(e, EXIT_DATA, "%s: no field '%s'", art_name(r), key);
	return obj_view(o, v, e) ? err_wrap(e, "%s", art_name(r)), -1 : 0;
}

/* One position, checked */
static int position(const struct tcache *c, const struct art_view v[3], int64_t n, double tau, int32_t *ids, float *logp)
{
	int64_t K = c->head.best;
	for (int64_t i = 0; i < K; i++) {
		double id = art_view_at(&v[0], n * K + i), x = art_view_at(&v[1], n * K + i);
		if (id >= (double)c->head.vocab || (i && id <= (double)ids[i - 1]) || isnan(x) || x > 0.01)
			return -1;
		ids[i] = (int32_t)id;
		logp[i] = (float)(x / tau);
	}
	logp[K] = tau == 1.0 ? (float)art_view_at(&v[2], n) : -INFINITY;
	return isnan(logp[K]) || logp[K] > 0.01f ? -1 : 0;
}

/* The record of window w, or NULL */
static const msgpack_object *window(struct tcache *c, int64_t w, struct art_r **r, struct err *e)
{
	int64_t part = w / c->head.per_part, number;
	const msgpack_object *rec;
	*r = part_of(c, part, e);
	if (!*r || art_seek_record(*r, w - part * c->head.per_part, e))
		return NULL;
	int rc = art_next(*r, &rec, e);
	if (rc == 0)
		err_set(e, EXIT_DATA, "%s: no window %lld", art_name(*r), (long long)w);
	if (rc != 1 || obj_int(*r, rec, "i", &number, e))
		return NULL;
	if (number != w)
		err_set(e, EXIT_DATA, "%s: window %lld: not as the header says", art_name(*r), (long long)w);
	return number == w ? rec : NULL;
}

int tcache_hidden(struct tcache *c, int64_t w, uint16_t *h, struct err *e)
{
	int64_t C = c->head.width, seq = c->head.seq;
	struct art_r *r;
	struct art_view v;
	const msgpack_object *rec = window(c, w, &r, e);
	if (!rec || view(r, rec, "h", &v, e))
		return -1;
	if (v.nd != 2 || v.dims[0] < 0 || v.dims[0] > seq || v.dims[1] != C || v.dtype != ART_BF16)
		return err_set(e, EXIT_DATA, "%s: window %lld: not as the header says", art_name(r), (long long)w);
	memset(h, 0, (size_t)(seq * C) * sizeof *h);
	memcpy(h, v.data, (size_t)v.n * sizeof *h);
	for (int64_t i = 0; i < v.n; i++)
		if ((h[i] & 0x7f80) == 0x7f80)
			return err_set(e, EXIT_DATA, "%s: window %lld, position %lld: a hidden state is not finite", art_name(r),
				       (long long)w, (long long)(i / C));
	return 0;
}

int tcache_get(struct tcache *c, int64_t w, double tau, int32_t *ids, float *logp, struct err *e)
{
	int64_t K = c->head.best, seq = c->head.seq;
	struct art_r *r;
	struct art_view v[3];
	const msgpack_object *rec = window(c, w, &r, e);
	if (!rec || view(r, rec, "ids", &v[0], e) || view(r, rec, "logp", &v[1], e) || view(r, rec, "rest", &v[2], e))
		return -1;
	int64_t n = v[0].nd == 2 ? v[0].dims[0] : -1;
	if (n < 0 || n > seq || v[0].dims[1] != K || v[1].nd != 2 || v[1].dims[0] != n || v[1].dims[1] != K ||
	    v[2].nd != 1 || v[2].n != n || v[0].dtype != (c->head.vocab > 65536 ? ART_U32 : ART_U16) ||
	    v[1].dtype != (!strcmp(c->head.dtype, "f16") ? ART_F16 : ART_F32) || v[2].dtype != ART_F32)
		return err_set(e, EXIT_DATA, "%s: window %lld: not as the header says", art_name(r), (long long)w);
	memset(ids, 0, (size_t)(seq * K) * sizeof *ids);
	memset(logp, 0, (size_t)(seq * (K + 1)) * sizeof *logp);
	for (int64_t i = 0; i < n; i++)
		if (position(c, v, i, tau, ids + i * K, logp + i * (K + 1)))
			return err_set(e, EXIT_DATA, "%s: window %lld, position %lld: ids that do not ascend below %lld, or no probabilities",
				       art_name(r), (long long)w, (long long)i, (long long)c->head.vocab);
	return 0;
}
