/*
 * st_write.c - writing weight files: headers first, data behind them in order or from several threads at known places
 *
 * All shapes are known before the first byte, so the header is final from the start and nothing is held in memory.
 * A shard is filled until the next tensor would pass shard_bytes.  Headers are padded to 64 bytes, so that tensors
 * start aligned as transformers' own files do.  A shard is created with its first piece and synced and closed with its
 * last; pieces are handed to the disk at once, so that the final sync finds little left to do.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "safetensors.h"
#include "jsontext.h"
#include "../base/outfile.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEADER_ALIGN = 64, FLUSH_BYTES = 32 << 20 };

struct shard {
	int fd;                        /* -1: not open */
	int opened;
	char *path;
	off_t data;                    /* where the first tensor starts */
	int64_t bytes, left;           /* of data; not yet written */
};
struct st_w {
	char *dir;
	struct st_spec *spec;
	int64_t *bytes, *off;          /* of each tensor; off: from the start of its shard's data */
	int *shard;                    /* of each tensor */
	struct shard *file;
	int n, nshards;
	int cur;                       /* in-order writing: tensor, bytes of it that are written */
	int64_t done;
	pthread_mutex_t lock;          /* of file[] */
};

static char *shard_name(const struct st_w *w, int s)
{
	return w->nshards == 1 ? xstrdup("model.safetensors") :
		xasprintf("model-%05d-of-%05d.safetensors", s + 1, w->nshards);
}

static int write_all(int fd, const char *path, const void *p, size_t n, off_t at, struct err *e)
{
	const char *c = p;

	while (n) {
		ssize_t k = pwrite(fd, c, n > FLUSH_BYTES ? FLUSH_BYTES : n, at);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return err_sys(e, "%s", path);
		sync_file_range(fd, at, k, SYNC_FILE_RANGE_WRITE);   /* a hint: failure shows at fsync */
		c += k;
		n -= (size_t)k;
		at += k;
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

static int close_shard(struct shard *f, struct err *e)
{
	int rc = 0, fd = f->fd;

	f->fd = -1;
	if (fsync(fd))
		rc = err_sys(e, "%s: fsync", f->path);
	if (close(fd) && !rc)
		rc = err_sys(e, "%s: close", f->path);
	return rc;
}

static int open_shard(struct st_w *w, int s, struct err *e)
{
	struct shard *f = &w->file[s];
	char *name = shard_name(w, s);
	json_t *h = json_object();

	f->opened = 1;
	f->path = xasprintf("%s/%s", w->dir, name);
	free(name);
	json_object_set_new(h, "__metadata__", json_pack("{s:s}", "format", "pt"));
	for (int i = 0; i < w->n; i++)
		if (w->shard[i] == s)
			json_object_set_new(h, w->spec[i].name, entry_new(&w->spec[i], w->off[i], w->bytes[i]));
	char *text = json_dumps(h, JSON_COMPACT);
	json_decref(h);
	size_t len = strlen(text), padded = (len + 8 + HEADER_ALIGN - 1) / HEADER_ALIGN * HEADER_ALIGN - 8;
	unsigned char *head = xmalloc(padded + 8);
	memset(head, ' ', padded + 8);
	for (int i = 0; i < 8; i++)
		head[i] = (unsigned char)((uint64_t)padded >> 8 * i);
	memcpy(head + 8, text, len);
	free(text);
	f->data = (off_t)padded + 8;
	f->fd = open(f->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	int rc = f->fd < 0 ? err_sys(e, "%s", f->path) : write_all(f->fd, f->path, head, padded + 8, 0, e);
	free(head);
	if (!rc && !f->left)
		rc = close_shard(f, e);
	return rc;
}

struct st_w *st_create(const char *dir, const struct st_spec *spec, int n, int64_t shard_bytes, struct err *e)
{
	struct st_w *w = xcalloc(1, sizeof *w);

	w->dir = xstrdup(dir);
	w->n = n;
	w->nshards = 1;
	w->spec = xcalloc((size_t)n + 1, sizeof *spec);
	w->bytes = xcalloc((size_t)n + 1, sizeof *w->bytes);
	w->off = xcalloc((size_t)n + 1, sizeof *w->off);
	w->shard = xcalloc((size_t)n + 1, sizeof *w->shard);
	w->file = xcalloc((size_t)n + 1, sizeof *w->file);
	pthread_mutex_init(&w->lock, NULL);
	memcpy(w->spec, spec, (size_t)n * sizeof *spec);
	for (int i = 0; i < n; i++) {
		int64_t b = (int64_t)st_dtype_size(spec[i].dtype), *fill = &w->file[w->nshards - 1].bytes;
		for (int d = 0; d < spec[i].nd; d++)
			if (mul_over(b, spec[i].dims[d], &b))
				BUG("size of tensor %s overflows", spec[i].name);
		if (*fill && *fill + b > (shard_bytes ? shard_bytes : ST_SHARD_BYTES))
			fill = &w->file[w->nshards++].bytes;
		w->off[i] = *fill;
		*fill += b;
		w->bytes[i] = b;
		w->shard[i] = w->nshards - 1;
	}
	for (int s = 0; s < w->nshards; s++) {
		w->file[s].fd = -1;
		w->file[s].left = w->file[s].bytes;
	}
	if (open_shard(w, 0, e)) {     /* a directory that cannot be written shows at once */
		st_abandon(w);
		return NULL;
	}
	return w;
}

int st_put(struct st_w *w, int tensor, int64_t off, const void *data, size_t bytes, struct err *e)
{
	struct shard *f = &w->file[w->shard[tensor]];
	int rc = 0;

	if (off < 0 || off + (int64_t)bytes > w->bytes[tensor])
		BUG("%zu bytes at %lld of %s, which has %lld", bytes, (long long)off, w->spec[tensor].name,
			(long long)w->bytes[tensor]);
	if (!bytes)
		return 0;
	pthread_mutex_lock(&w->lock);
	if (!f->opened)
		rc = open_shard(w, w->shard[tensor], e);
	else if (f->fd < 0)
		rc = err_set(e, EXIT_IO, "%s: could not be created", f->path);
	pthread_mutex_unlock(&w->lock);
	if (rc || write_all(f->fd, f->path, data, bytes, f->data + w->off[tensor] + off, e))
		return -1;
	pthread_mutex_lock(&w->lock);
	f->left -= (int64_t)bytes;
	int last = f->left == 0;
	pthread_mutex_unlock(&w->lock);
	return last ? close_shard(f, e) : 0;
}

int st_write(struct st_w *w, const void *data, size_t bytes, struct err *e)
{
	if (!bytes)
		return 0;
	while (w->cur < w->n && w->done == w->bytes[w->cur]) {   /* full, or without data */
		w->cur++;
		w->done = 0;
	}
	if (w->cur >= w->n)
		BUG("%zu bytes written after the last tensor", bytes);
	if (st_put(w, w->cur, w->done, data, bytes, e))
		return -1;
	w->done += (int64_t)bytes;
	return 0;
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

	for (int s = 0; s < w->nshards && !rc; s++) {
		if (w->file[s].left)
			BUG("%lld bytes of shard %d were not written", (long long)w->file[s].left, s);
		if (!w->file[s].opened)         /* nothing but empty tensors */
			rc = open_shard(w, s, e);
	}
	if (!rc && w->nshards > 1)
		rc = write_index(w, e);
	st_abandon(w);
	return rc;
}

void st_abandon(struct st_w *w)
{
	if (!w)
		return;
	for (int s = 0; s < w->nshards; s++) {
		if (w->file[s].fd >= 0)
			close(w->file[s].fd);
		free(w->file[s].path);
	}
	pthread_mutex_destroy(&w->lock);
	free(w->dir);
	free(w->spec);
	free(w->bytes);
	free(w->off);
	free(w->shard);
	free(w->file);
	free(w);
}
