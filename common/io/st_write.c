/*
 * st_write.c - writing weight files: headers first, data streamed behind them
 *
 * All shapes are known before the first byte, so the header is final from the start and nothing is held in memory.
 * A shard is filled until the next tensor would pass shard_bytes.  Headers are padded to 64 bytes, so that tensors
 * start aligned as transformers' own files do.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "safetensors.h"
#include "jsontext.h"
#include "../base/outfile.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct st_w {
	char *dir;
	struct st_spec *spec;
	int64_t *bytes;                /* of each tensor */
	int *shard;                    /* of each tensor */
	int n, nshards;
	int cur;                       /* tensor being written */
	int64_t left;                  /* bytes of it still to come */
	int fd;                        /* -1: no shard open */
	char *path;                    /* of the open shard */
	off_t at;
};

static char *shard_name(const struct st_w *w, int s)
{
	return w->nshards == 1 ? xstrdup("model.safetensors") :
		xasprintf("model-%05d-of-%05d.safetensors", s + 1, w->nshards);
}

static int write_all(struct st_w *w, const void *p, size_t n, struct err *e)
{
	const char *c = p;

	while (n) {
		ssize_t k = pwrite(w->fd, c, n > 1 << 30 ? 1 << 30 : n, w->at);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return err_sys(e, "%s", w->path);
		c += k;
		n -= (size_t)k;
		w->at += k;
	}
	return 0;
}

static json_t *entry_new(const struct st_spec *s, int64_t from, int64_t bytes)
{
	json_t *o = json_object(), *shape = json_array(), *off = json_array();

	for (int d = 0; d < s->nd; d++)
		json_array_append_new(shape, json_integer(s->dims[d]));
	json_array_append_new(off, json_integer(from));
	json_array_append_new(off, json_integer(from + bytes));
	json_object_set_new(o, "dtype", json_string(st_dtype_name(s->dtype)));
	json_object_set_new(o, "shape", shape);
	json_object_set_new(o, "data_offsets", off);
	return o;
}

static int close_shard(struct st_w *w, struct err *e)
{
	int rc = 0;

	if (w->fd >= 0) {
		if (fsync(w->fd))
			rc = err_sys(e, "%s: fsync", w->path);
		if (close(w->fd) && !rc)
			rc = err_sys(e, "%s: close", w->path);
	}
	w->fd = -1;
	free(w->path);
	w->path = NULL;
	return rc;
}

static int open_shard(struct st_w *w, int s, struct err *e)
{
	char *name = shard_name(w, s);
	json_t *h = json_object();
	int64_t off = 0;

	w->path = xasprintf("%s/%s", w->dir, name);
	free(name);
	json_object_set_new(h, "__metadata__", json_pack("{s:s}", "format", "pt"));
	for (int i = 0; i < w->n; i++)
		if (w->shard[i] == s) {
			json_object_set_new(h, w->spec[i].name, entry_new(&w->spec[i], off, w->bytes[i]));
			off += w->bytes[i];
		}
	char *text = json_dumps(h, JSON_COMPACT);
	json_decref(h);
	size_t len = strlen(text), padded = (len + 8 + 63) / 64 * 64 - 8;
	unsigned char *head = xmalloc(padded + 8);
	memset(head, ' ', padded + 8);
	for (int i = 0; i < 8; i++)
		head[i] = (unsigned char)((uint64_t)padded >> 8 * i);
	memcpy(head + 8, text, len);
	free(text);
	w->at = 0;
	w->fd = open(w->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	int rc = w->fd < 0 ? err_sys(e, "%s", w->path) : write_all(w, head, padded + 8, e);
	free(head);
	return rc;
}

/* Opens the shard of tensor `cur`; skips tensors without data. */
static int advance(struct st_w *w, struct err *e)
{
	for (; w->cur < w->n; w->cur++) {
		if (w->cur == 0 || w->shard[w->cur] != w->shard[w->cur - 1])
			if (close_shard(w, e) || open_shard(w, w->shard[w->cur], e))
				return -1;
		w->left = w->bytes[w->cur];
		if (w->left)
			return 0;
	}
	return 0;
}

struct st_w *st_create(const char *dir, const struct st_spec *spec, int n, int64_t shard_bytes, struct err *e)
{
	struct st_w *w = xcalloc(1, sizeof *w);
	int64_t fill = 0;

	w->dir = xstrdup(dir);
	w->fd = -1;
	w->n = n;
	w->nshards = 1;
	w->spec = xcalloc((size_t)n + 1, sizeof *spec);
	w->bytes = xcalloc((size_t)n + 1, sizeof *w->bytes);
	w->shard = xcalloc((size_t)n + 1, sizeof *w->shard);
	memcpy(w->spec, spec, (size_t)n * sizeof *spec);
	for (int i = 0; i < n; i++) {
		int64_t b = (int64_t)st_dtype_size(spec[i].dtype);
		for (int d = 0; d < spec[i].nd; d++)
			if (mul_over(b, spec[i].dims[d], &b))
				BUG("size of tensor %s overflows", spec[i].name);
		if (fill && fill + b > shard_bytes) {
			w->nshards++;
			fill = 0;
		}
		fill += b;
		w->bytes[i] = b;
		w->shard[i] = w->nshards - 1;
	}
	if (n == 0 ? open_shard(w, 0, e) : advance(w, e)) {
		st_abandon(w);
		return NULL;
	}
	return w;
}

int st_write(struct st_w *w, const void *data, size_t bytes, struct err *e)
{
	if (!bytes)
		return 0;
	if (w->cur >= w->n || (int64_t)bytes > w->left)
		BUG("%zu bytes written to %s, %lld expected", bytes, w->cur < w->n ? w->spec[w->cur].name : "the end",
			(long long)w->left);
	if (write_all(w, data, bytes, e))
		return -1;
	w->left -= (int64_t)bytes;
	if (w->left)
		return 0;
	w->cur++;
	return advance(w, e);
}

static int write_index(const struct st_w *w, struct err *e)
{
	json_t *map = json_object(), *o = json_object();
	int64_t total = 0;

	for (int i = 0; i < w->n; i++) {
		char *name = shard_name(w, w->shard[i]);
		json_object_set_new(map, w->spec[i].name, json_string(name));
		total += w->bytes[i];
		free(name);
	}
	json_object_set_new(o, "metadata", json_pack("{s:I}", "total_size", (json_int_t)total));
	json_object_set_new(o, "weight_map", map);
	char *path = xasprintf("%s/model.safetensors.index.json", w->dir), *text = json_text_new(o, 2);
	int rc = file_write(path, text, strlen(text), e);
	free(text);
	free(path);
	json_decref(o);
	return rc;
}

int st_finish(struct st_w *w, struct err *e)
{
	int rc = 0;

	if (w->cur < w->n)
		BUG("tensor %s was not written", w->spec[w->cur].name);
	rc = close_shard(w, e);
	if (!rc && w->nshards > 1)
		rc = write_index(w, e);
	st_abandon(w);
	return rc;
}

void st_abandon(struct st_w *w)
{
	if (!w)
		return;
	if (w->fd >= 0)
		close(w->fd);
	free(w->path);
	free(w->dir);
	free(w->spec);
	free(w->bytes);
	free(w->shard);
	free(w);
}
