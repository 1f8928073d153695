/*
 * safetensors.c - reading weight files: mapping, header checks, shards
 *
 * Layout of a file: u64 little-endian header length, JSON header, data.  Every number in the header is bounded before it
 * is used; the tensors must cover the data exactly, so neither overlaps nor hidden bytes pass.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "safetensors.h"
#include "../base/outfile.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEADER_MAX = 100 << 20, SHARDS_MAX = 10000 };

struct st_file {
	char *path;
	unsigned char *map;
	size_t size;
	json_t *header;                /* owns the tensor names */
};
struct st_model {
	struct st_file *files;
	int nfiles;
	struct st_tensor *t;
	int n;
};

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct st_tensor *)a)->name, ((const struct st_tensor *)b)->name);
}

static int by_place(const void *a, const void *b)
{
	const struct st_tensor *x = a, *y = b;

	if (x->data != y->data)
		return (const char *)x->data < (const char *)y->data ? -1 : 1;
	return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int find_dtype(const char *s)
{
	for (int i = 0; i < ST_DTYPES; i++)
		if (!strcmp(s, st_dtype_name(i)))
			return i;
	return -1;
}

/* One entry of the header into t; lo..hi is the data section. */
static int parse_tensor(struct st_tensor *t, const json_t *j, const unsigned char *lo, size_t avail, struct err *e)
{
	const char *dtype = json_string_value(json_object_get(j, "dtype"));
	const json_t *shape = json_object_get(j, "shape"), *off = json_object_get(j, "data_offsets");

	if (!dtype || !json_is_array(shape) || !json_is_array(off) || json_array_size(off) != 2)
		return err_set(e, EXIT_DATA, "dtype, shape or data_offsets is missing or malformed");
	t->dtype = find_dtype(dtype);
	if (t->dtype < 0)
		return err_set(e, EXIT_DATA, "unknown dtype '%.40s'", dtype);
	if (json_array_size(shape) > ST_MAX_DIMS)
		return err_set(e, EXIT_DATA, "%zu dimensions, at most %d are supported", json_array_size(shape),
			ST_MAX_DIMS);
	t->nd = (int)json_array_size(shape);
	t->elems = 1;
	for (int d = 0; d < t->nd; d++) {
		const json_t *v = json_array_get(shape, (size_t)d);
		if (!json_is_integer(v) || json_integer_value(v) < 0)
			return err_set(e, EXIT_DATA, "dimension %d of the shape is not a size", d);
		t->dims[d] = json_integer_value(v);
		if (mul_over(t->elems, t->dims[d], &t->elems))
			return err_set(e, EXIT_DATA, "the product of its shape overflows");
	}
	const json_t *b = json_array_get(off, 0), *en = json_array_get(off, 1);
	int64_t want;
	if (!json_is_integer(b) || !json_is_integer(en) || json_integer_value(b) < 0 ||
	    json_integer_value(en) < json_integer_value(b))
		return err_set(e, EXIT_DATA, "data_offsets are not two ascending numbers");
	if ((uint64_t)json_integer_value(en) > avail)
		return err_set(e, EXIT_DATA, "data_offsets end at %lld, but the file holds %zu bytes of data (truncated?)",
			(long long)json_integer_value(en), avail);
	t->bytes = (size_t)(json_integer_value(en) - json_integer_value(b));
	if (mul_over(t->elems, (int64_t)st_dtype_size(t->dtype), &want) || (uint64_t)want != t->bytes)
		return err_set(e, EXIT_DATA, "%zu bytes, expected %lld elements of %s", t->bytes, (long long)t->elems,
			dtype);
	t->data = lo + json_integer_value(b);
	return 0;
}

/* Tensors t[0..n) of one file must follow each other without gap or overlap and end with the file. */
static int check_cover(const char *path, struct st_tensor *t, int n, const unsigned char *lo, size_t avail,
		struct err *e)
{
	const unsigned char *at = lo;

	qsort(t, (size_t)n, sizeof *t, by_place);
	for (int i = 0; i < n; i++) {
		if ((const unsigned char *)t[i].data != at)
			return err_set(e, EXIT_DATA, "%s: tensor '%s': data starts at byte %zu, expected %zu (%s)",
				path, t[i].name, (size_t)((const unsigned char *)t[i].data - lo), (size_t)(at - lo),
				(const unsigned char *)t[i].data < at ? "overlaps another tensor" : "hole before it");
		at += t[i].bytes;
	}
	if ((size_t)(at - lo) != avail)
		return err_set(e, EXIT_DATA, "%s: holds %zu bytes of data, its tensors cover %zu", path, avail,
			(size_t)(at - lo));
	return 0;
}

static int map_file(struct st_file *f, struct err *e)
{
	struct stat st;
	int fd = open(f->path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(e, "%s", f->path);
	if (fstat(fd, &st)) {
		err_sys(e, "%s", f->path);
		close(fd);
		return -1;
	}
	if (!S_ISREG(st.st_mode) || st.st_size < 8) {
		close(fd);
		return err_set(e, EXIT_DATA, "%s: not a safetensors file (%lld bytes)", f->path, (long long)st.st_size);
	}
	f->size = (size_t)st.st_size;
	f->map = mmap(NULL, f->size, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (f->map == MAP_FAILED) {
		f->map = NULL;
		return err_sys(e, "%s: mmap", f->path);
	}
	return 0;
}

/* Maps one file and appends its tensors. */
static int add_file(struct st_model *m, const char *path, struct err *e)
{
	m->files = xrealloc(m->files, (size_t)m->nfiles + 1, sizeof *m->files);
	struct st_file *f = &m->files[m->nfiles++];
	*f = (struct st_file){ .path = xstrdup(path) };
	if (map_file(f, e))
		return -1;
	uint64_t len = 0;
	for (int i = 7; i >= 0; i--)
		len = len << 8 | f->map[i];
	if (len > HEADER_MAX || len > f->size - 8)
		return err_set(e, EXIT_DATA, "%s: header length %llu does not fit the file of %zu bytes", path,
			(unsigned long long)len, f->size);
	json_error_t je;
	f->header = json_loadb((const char *)f->map + 8, len, JSON_REJECT_DUPLICATES, &je);
	if (!json_is_object(f->header))
		return err_set(e, EXIT_DATA, "%s: header is not a JSON object: %s", path, f->header ? "" : je.text);

	const unsigned char *lo = f->map + 8 + len;
	size_t avail = f->size - 8 - len;
	int first = m->n;
	const char *key;
	json_t *v;
	m->t = xrealloc(m->t, (size_t)m->n + json_object_size(f->header) + 1, sizeof *m->t);
	json_object_foreach(f->header, key, v) {
		struct st_tensor *t = &m->t[m->n];
		if (!strcmp(key, "__metadata__"))
			continue;
		*t = (struct st_tensor){ .name = key, .file = f->path };
		if (!json_is_object(v))
			return err_set(e, EXIT_DATA, "%s: tensor '%s': entry is not an object", path, key);
		if (parse_tensor(t, v, lo, avail, e))
			return err_wrap(e, "%s: tensor '%s'", path, key);
		m->n++;
	}
	return check_cover(path, m->t + first, m->n - first, lo, avail, e);
}

/* Shards of an index: each file once, then every weight must be where the index says. */
static int add_index(struct st_model *m, const char *dir, const char *index, struct err *e)
{
	size_t n;
	json_error_t je;
	char *text = file_read_new(index, HEADER_MAX, &n, e);

	if (!text)
		return -1;
	json_t *j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
	free(text);
	const json_t *map = json_object_get(j, "weight_map");
	int rc = 0;
	const char *key;
	json_t *v, *seen = json_object();
	if (!json_is_object(map))
		rc = err_set(e, EXIT_DATA, "%s: %s", index, j ? "no weight_map object" : je.text);
	json_object_foreach((json_t *)map, key, v) {
		const char *file = json_string_value(v);
		if (!file || strchr(file, '/') || !strcmp(file, "..") || !*file)
			rc = err_set(e, EXIT_DATA, "%s: tensor '%s': its file is not a plain name", index, key);
		else if (!json_object_get(seen, file)) {
			char *path = xasprintf("%s/%s", dir, file);
			json_object_set_new(seen, file, json_true());
			rc = m->nfiles >= SHARDS_MAX ? err_set(e, EXIT_DATA, "%s: more than %d shards", index, SHARDS_MAX) :
				add_file(m, path, e);
			free(path);
		}
		if (rc)
			break;
	}
	if (!rc)
		qsort(m->t, (size_t)m->n, sizeof *m->t, by_name);
	for (int i = 0; !rc && i < m->n; i++) {
		const char *want = json_string_value(json_object_get(map, m->t[i].name));
		const char *base = strrchr(m->t[i].file, '/') + 1;
		if (!want || strcmp(want, base))
			rc = err_set(e, EXIT_DATA, "%s: tensor '%s' is in %s, the index says %s", index, m->t[i].name, base,
				want ? want : "nothing of it");
	}
	if (!rc)
		json_object_foreach((json_t *)map, key, v)
			if (!st_find(m, key)) {
				rc = err_set(e, EXIT_DATA, "%s: tensor '%s' is missing from %s", index, key,
					json_string_value(v));
				break;
			}
	json_decref(seen);
	json_decref(j);
	return rc;
}

struct st_model *st_open(const char *path, struct err *e)
{
	struct st_model *m = xcalloc(1, sizeof *m);
	struct stat st;
	int rc;

	if (stat(path, &st)) {
		err_sys(e, "%s", path);
		free(m);
		return NULL;
	}
	if (S_ISDIR(st.st_mode)) {
		char *one = xasprintf("%s/model.safetensors", path);
		char *index = xasprintf("%s/model.safetensors.index.json", path);
		if (!access(one, F_OK))
			rc = add_file(m, one, e);
		else if (!access(index, F_OK))
			rc = add_index(m, path, index, e);
		else
			rc = err_set(e, EXIT_DATA, "%s: no model.safetensors and no model.safetensors.index.json", path);
		free(one);
		free(index);
	} else {
		rc = add_file(m, path, e);
	}
	if (!rc && m->n)
		qsort(m->t, (size_t)m->n, sizeof *m->t, by_name);
	for (int i = 1; !rc && i < m->n; i++)
		if (!strcmp(m->t[i - 1].name, m->t[i].name))
			rc = err_set(e, EXIT_DATA, "%s: tensor '%s' is also in %s", m->t[i].file, m->t[i].name,
				m->t[i - 1].file);
	if (!rc)
		return m;
	st_close(m);
	return NULL;
}

void st_close(struct st_model *m)
{
	if (!m)
		return;
	for (int i = 0; i < m->nfiles; i++) {
		if (m->files[i].map)
			munmap(m->files[i].map, m->files[i].size);
		json_decref(m->files[i].header);
		free(m->files[i].path);
	}
	free(m->files);
	free(m->t);
	free(m);
}

int st_count(const struct st_model *m)
{
	return m->n;
}

const struct st_tensor *st_at(const struct st_model *m, int i)
{
	if (i < 0 || i >= m->n)
		BUG("tensor %d of %d", i, m->n);
	return &m->t[i];
}

const struct st_tensor *st_find(const struct st_model *m, const char *name)
{
	struct st_tensor key = { .name = name };

	return m->n ? bsearch(&key, m->t, (size_t)m->n, sizeof *m->t, by_name) : NULL;
}

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22          /* Linux 5.14 */
#endif

/* Advice may fail (an old kernel): pages are then read when they are touched. */
static void advise(const void *p, size_t n, int advice)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), lo = (uintptr_t)p / page * page;

	if (n)
		madvise((void *)lo, (uintptr_t)p + n - lo, advice);
}

void st_release_bytes(const void *p, size_t n)
{
	advise(p, n, MADV_DONTNEED);   /* a page that is still wanted is simply read again */
}

void st_prefetch_bytes(const void *p, size_t n)
{
	advise(p, n, MADV_WILLNEED);
}

void st_populate_bytes(const void *p, size_t n)
{
	advise(p, n, MADV_POPULATE_READ);
}

void st_release(const struct st_model *m, const struct st_tensor *t)
{
	(void)m;
	st_release_bytes(t->data, t->bytes);
}

char *st_shape(const struct st_tensor *t, char buf[128])
{
	int n = snprintf(buf, 128, "[");

	for (int d = 0; d < t->nd && n < 100; d++)
		n += snprintf(buf + n, 128 - (size_t)n, "%s%lld", d ? ", " : "", (long long)t->dims[d]);
	snprintf(buf + n, 128 - (size_t)n, "]");
	return buf;
}
