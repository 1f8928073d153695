/*
 * gguf.c - parsing GGUF: header, key-value pairs, tensor list
 *
 * A cursor that cannot leave the file does all the reading.  Counts are bounded by what the rest of the file could hold
 * at one byte each, so a lying header costs no memory.  Nested arrays are refused: nothing of ours needs them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "gguf.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct gguf {
	char *path;
	unsigned char *map;
	size_t size;
	struct arena names;
	struct gguf_kv *kv;
	int nkv;
	struct gguf_tensor *t;
	int nt;
};
struct cursor {
	const unsigned char *p, *end;
};

static const unsigned char type_size[GGUF_TYPES] = {
	[GGUF_U8] = 1, [GGUF_I8] = 1, [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4,
	[GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8
};
/* ggml's tensor types; block = elements that share their scales */
static const struct { int type; const char *name; int block, bytes; } tensor_types[] = {
	{ 0, "F32", 1, 4 }, { 1, "F16", 1, 2 }, { 2, "Q4_0", 32, 18 }, { 3, "Q4_1", 32, 20 }, { 8, "Q8_0", 32, 34 },
	{ 30, "BF16", 1, 2 }
};

static uint64_t little(const unsigned char *p, int n)
{
	uint64_t v = 0;

	while (n--)
		v = v << 8 | p[n];
	return v;
}

static int take(struct cursor *c, size_t n, const unsigned char **p, struct err *e)
{
	*p = c->p;
	if ((size_t)(c->end - c->p) < n)
		return err_set(e, EXIT_DATA, "ends in the middle of its header (truncated?)");
	c->p += n;
	return 0;
}

static int take_int(struct cursor *c, int n, uint64_t *v, struct err *e)
{
	const unsigned char *p;

	if (take(c, (size_t)n, &p, e))
		return -1;
	*v = little(p, n);
	return 0;
}

static int take_str(struct cursor *c, struct gguf_str *s, struct err *e)
{
	uint64_t n;
	const unsigned char *p;

	if (take_int(c, 8, &n, e))
		return -1;
	if (n > (uint64_t)(c->end - c->p))
		return err_set(e, EXIT_DATA, "string of %llu bytes, %zu are left", (unsigned long long)n,
			(size_t)(c->end - c->p));
	if (take(c, n, &p, e))
		return -1;
	s->p = (const char *)p;
	s->n = n;
	return 0;
}

/* A name that goes into messages and look-ups: printable, no NUL, short. */
static char *take_name(struct gguf *g, struct cursor *c, struct err *e)
{
	struct gguf_str s;

	if (take_str(c, &s, e))
		return NULL;
	if (s.n == 0 || s.n > 256) {
		err_set(e, EXIT_DATA, "a name of %zu bytes", s.n);
		return NULL;
	}
	for (size_t i = 0; i < s.n; i++)
		if ((unsigned char)s.p[i] < 32 || s.p[i] == 127) {
			err_set(e, EXIT_DATA, "a name with control characters");
			return NULL;
		}
	return arena_printf(&g->names, "%.*s", (int)s.n, s.p);
}

static int take_kv(struct gguf *g, struct cursor *c, struct gguf_kv *kv, struct err *e)
{
	uint64_t type, n = 1;

	kv->key = take_name(g, c, e);
	if (!kv->key || take_int(c, 4, &type, e))
		return -1;
	kv->type = kv->elem = type < GGUF_TYPES ? (int)type : -1;
	if (kv->type == GGUF_ARRAY) {
		if (take_int(c, 4, &type, e) || take_int(c, 8, &n, e))
			return -1;
		kv->elem = type < GGUF_TYPES && type != GGUF_ARRAY ? (int)type : -1;
	}
	if (kv->elem < 0)
		return err_set(e, EXIT_DATA, "key '%s': value type %llu is not known", kv->key, (unsigned long long)type);
	size_t width = kv->elem == GGUF_STRING ? 8 : type_size[kv->elem];
	if (n > (size_t)(c->end - c->p) / width)
		return err_set(e, EXIT_DATA, "key '%s': array of %llu elements does not fit the file", kv->key,
			(unsigned long long)n);
	kv->n = (int64_t)n;
	if (kv->elem != GGUF_STRING)
		return take(c, n * width, &kv->data, e);
	kv->str = xcalloc(n + 1, sizeof *kv->str);
	for (uint64_t i = 0; i < n; i++)
		if (take_str(c, &kv->str[i], e))
			return err_wrap(e, "key '%s'", kv->key);
	return 0;
}

static int take_tensor(struct gguf *g, struct cursor *c, struct gguf_tensor *t, uint64_t *off, struct err *e)
{
	uint64_t nd, d, type;
	size_t k = 0, kinds = sizeof tensor_types / sizeof *tensor_types;

	t->name = take_name(g, c, e);
	if (!t->name || take_int(c, 4, &nd, e))
		return -1;
	if (nd < 1 || nd > 4)
		return err_set(e, EXIT_DATA, "tensor '%s': %llu dimensions", t->name, (unsigned long long)nd);
	t->nd = (int)nd;
	t->rows = 1;
	for (int i = 0; i < t->nd; i++) {
		if (take_int(c, 8, &d, e))
			return -1;
		if (d < 1 || d > INT64_MAX || (i && mul_over(t->rows, (int64_t)d, &t->rows)))
			return err_set(e, EXIT_DATA, "tensor '%s': dimension %d is out of range", t->name, i);
		t->dims[i] = (int64_t)d;
	}
	t->cols = t->dims[0];
	if (take_int(c, 4, &type, e) || take_int(c, 8, off, e))
		return -1;
	while (k < kinds && tensor_types[k].type != (int64_t)type)
		k++;
	if (k == kinds)
		return err_set(e, EXIT_DATA, "tensor '%s': type %llu is not supported (F32, F16, BF16, Q8_0, Q4_0, Q4_1 are)",
			t->name, (unsigned long long)type);
	t->type = (int)type;
	if (t->cols % tensor_types[k].block)
		return err_set(e, EXIT_DATA, "tensor '%s': rows of %lld are not whole %s blocks of %d", t->name,
			(long long)t->cols, tensor_types[k].name, tensor_types[k].block);
	int64_t row, all;
	if (mul_over(t->cols / tensor_types[k].block, tensor_types[k].bytes, &row) || mul_over(row, t->rows, &all))
		return err_set(e, EXIT_DATA, "tensor '%s': its size overflows", t->name);
	t->row_bytes = (size_t)row;
	t->bytes = (size_t)all;
	return 0;
}

static int by_key(const void *a, const void *b)
{
	return strcmp(((const struct gguf_kv *)a)->key, ((const struct gguf_kv *)b)->key);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct gguf_tensor *)a)->name, ((const struct gguf_tensor *)b)->name);
}

static int place_tensors(struct gguf *g, struct cursor *c, const uint64_t *off, struct err *e)
{
	int64_t align = 32;
	size_t used = (size_t)(c->p - g->map);

	if (gguf_int(g, "general.alignment", &align, e) < 0)
		return -1;
	if (align < 1 || align > 65536 || (align & (align - 1)))
		return err_set(e, EXIT_DATA, "general.alignment is %lld", (long long)align);
	size_t start = (used + (size_t)align - 1) / (size_t)align * (size_t)align;
	size_t avail = start < g->size ? g->size - start : 0;
	for (int i = 0; i < g->nt; i++) {
		struct gguf_tensor *t = &g->t[i];
		if (off[i] % (uint64_t)align || off[i] > avail || t->bytes > avail - off[i])
			return err_set(e, EXIT_DATA, "tensor '%s': %zu bytes at offset %llu are outside the %zu bytes of data "
				"(truncated?)", t->name, t->bytes, (unsigned long long)off[i], avail);
		t->data = g->map + start + off[i];
	}
	return 0;
}

static int parse(struct gguf *g, struct err *e)
{
	struct cursor c = { g->map, g->map + g->size };
	uint64_t magic, version, nt, nkv;
	int rc = 0;

	if (take_int(&c, 4, &magic, e) || take_int(&c, 4, &version, e) || take_int(&c, 8, &nt, e) ||
	    take_int(&c, 8, &nkv, e))
		return -1;
	if (magic != 0x46554747)
		return err_set(e, EXIT_DATA, "not a GGUF file");
	if (version != 2 && version != 3)
		return err_set(e, EXIT_DATA, "GGUF version %llu, expected 2 or 3", (unsigned long long)version);
	/* the shortest entries take 13 and 25 bytes */
	if (nkv > (g->size - 24) / 13 || nt > (g->size - 24) / 25 || nkv > 1000000 || nt > 1000000)
		return err_set(e, EXIT_DATA, "%llu keys and %llu tensors do not fit the file", (unsigned long long)nkv,
			(unsigned long long)nt);
	g->kv = xcalloc(nkv + 1, sizeof *g->kv);
	for (uint64_t i = 0; i < nkv; i++) {
		g->nkv++;
		if (take_kv(g, &c, &g->kv[i], e))
			return -1;
	}
	qsort(g->kv, nkv, sizeof *g->kv, by_key);
	for (int i = 1; i < g->nkv; i++)
		if (!strcmp(g->kv[i - 1].key, g->kv[i].key))
			return err_set(e, EXIT_DATA, "key '%s' is there twice", g->kv[i].key);
	g->t = xcalloc(nt + 1, sizeof *g->t);
	uint64_t *off = xcalloc(nt + 1, sizeof *off);
	for (; (uint64_t)g->nt < nt && !rc; g->nt++)
		rc = take_tensor(g, &c, &g->t[g->nt], &off[g->nt], e);
	if (!rc)
		rc = place_tensors(g, &c, off, e);
	free(off);
	if (rc)
		return -1;
	qsort(g->t, nt, sizeof *g->t, by_name);
	for (int i = 1; i < g->nt; i++)
		if (!strcmp(g->t[i - 1].name, g->t[i].name))
			return err_set(e, EXIT_DATA, "tensor '%s' is there twice", g->t[i].name);
	return 0;
}

struct gguf *gguf_open(const char *path, struct err *e)
{
	struct gguf *g = xcalloc(1, sizeof *g);
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc;

	g->path = xstrdup(path);
	if (fd < 0 || fstat(fd, &st)) {
		rc = err_sys(e, "%s", path);
	} else if (!S_ISREG(st.st_mode) || st.st_size < 24) {
		rc = err_set(e, EXIT_DATA, "%s: not a GGUF file", path);
	} else {
		g->size = (size_t)st.st_size;
		g->map = mmap(NULL, g->size, PROT_READ, MAP_SHARED, fd, 0);
		if (g->map == MAP_FAILED) {
			g->map = NULL;
			rc = err_sys(e, "%s: mmap", path);
		} else {
			rc = parse(g, e) ? err_wrap(e, "%s", path) : 0;
		}
	}
	if (fd >= 0)
		close(fd);
	if (!rc)
		return g;
	gguf_close(g);
	return NULL;
}

void gguf_close(struct gguf *g)
{
	if (!g)
		return;
	if (g->map)
		munmap(g->map, g->size);
	for (int i = 0; i < g->nkv; i++)
		free(g->kv[i].str);
	arena_free(&g->names);
	free(g->kv);
	free(g->t);
	free(g->path);
	free(g);
}

const char *gguf_path(const struct gguf *g)
{
	return g->path;
}

const struct gguf_kv *gguf_get(const struct gguf *g, const char *key)
{
	struct gguf_kv k = { .key = (char *)key };

	return g->nkv ? bsearch(&k, g->kv, (size_t)g->nkv, sizeof k, by_key) : NULL;
}

int64_t gguf_kv_int(const struct gguf_kv *kv, int64_t i)
{
	int n = type_size[kv->elem];
	uint64_t v;

	if (i < 0 || i >= kv->n || !kv->data)
		BUG("element %lld of key %s", (long long)i, kv->key);
	v = little(kv->data + i * n, n);
	switch (kv->elem) {
	case GGUF_I8: return (int8_t)v;
	case GGUF_I16: return (int16_t)v;
	case GGUF_I32: return (int32_t)v;
	}
	return (int64_t)v;
}

static bool is_int(int type)
{
	return type != GGUF_F32 && type != GGUF_F64 && type != GGUF_STRING && type != GGUF_ARRAY;
}

int gguf_int(const struct gguf *g, const char *key, int64_t *v, struct err *e)
{
	const struct gguf_kv *kv = gguf_get(g, key);

	if (!kv)
		return 1;
	if (!is_int(kv->type))
		return err_set(e, EXIT_DATA, "%s: key '%s' is not an integer", g->path, key);
	*v = gguf_kv_int(kv, 0);
	return 0;
}

int gguf_real(const struct gguf *g, const char *key, double *v, struct err *e)
{
	const struct gguf_kv *kv = gguf_get(g, key);
	float f;

	if (!kv)
		return 1;
	if (kv->type == GGUF_F32) {
		memcpy(&f, kv->data, 4);
		*v = f;
	} else if (kv->type == GGUF_F64) {
		memcpy(v, kv->data, 8);
	} else {
		return err_set(e, EXIT_DATA, "%s: key '%s' is not a real number", g->path, key);
	}
	return 0;
}

int gguf_string(const struct gguf *g, const char *key, struct gguf_str *v, struct err *e)
{
	const struct gguf_kv *kv = gguf_get(g, key);

	if (!kv)
		return 1;
	if (kv->type != GGUF_STRING)
		return err_set(e, EXIT_DATA, "%s: key '%s' is not a string", g->path, key);
	*v = kv->str[0];
	return 0;
}

int gguf_count(const struct gguf *g)
{
	return g->nt;
}

const struct gguf_tensor *gguf_at(const struct gguf *g, int i)
{
	return &g->t[i];
}

const struct gguf_tensor *gguf_find(const struct gguf *g, const char *name)
{
	struct gguf_tensor k = { .name = (char *)name };

	return g->nt ? bsearch(&k, g->t, (size_t)g->nt, sizeof k, by_name) : NULL;
}

const char *gguf_type_name(int type)
{
	for (size_t k = 0; k < sizeof tensor_types / sizeof *tensor_types; k++)
		if (tensor_types[k].type == type)
			return tensor_types[k].name;
	return "?";
}
