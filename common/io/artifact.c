/*
 * artifact.c - what both halves share: dtypes, digests, provenance, access to fields
 *
 * The reader is artifact_r.c, the writer artifact_w.c, the tables' checker schema.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "artifact.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "arrays are stored little-endian and used in place; this machine is not"
#endif

static const struct { const char *name; size_t size; } dtypes[ART_DTYPES] = {
	[ART_U8] = { "u8", 1 }, [ART_U16] = { "u16", 2 }, [ART_U32] = { "u32", 4 }, [ART_I32] = { "i32", 4 },
	[ART_I64] = { "i64", 8 }, [ART_F16] = { "f16", 2 }, [ART_BF16] = { "bf16", 2 }, [ART_F32] = { "f32", 4 },
	[ART_F64] = { "f64", 8 },
};

size_t art_dtype_size(enum art_dtype t)
{
	return dtypes[t].size;
}

const char *art_dtype_name(enum art_dtype t)
{
	return dtypes[t].name;
}

/* ---- digests ---- */

static void hex_of(XXH128_hash_t h, char out[33])
{
	snprintf(out, 33, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
}

void digest_hex(const void *p, size_t n, char out[33])
{
	hex_of(XXH3_128bits(p, n), out);
}

int digest_file(const char *path, char out[33], struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;
	if (fd < 0)
		return err_sys(e, "%s: cannot open", path);
	size_t size = (size_t)1 << 20;
	void *buf = xmalloc(size);
	XXH3_state_t *h = XXH3_createState();
	if (!h)
		die(EXIT_RESOURCE, "out of memory");
	XXH3_128bits_reset(h);
	for (;;) {
		ssize_t k = read(fd, buf, size);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			rc = err_sys(e, "%s: cannot read", path);
		if (k <= 0)
			break;
		XXH3_128bits_update(h, buf, (size_t)k);
	}
	hex_of(XXH3_128bits_digest(h), out);
	XXH3_freeState(h);
	free(buf);
	close(fd);
	return rc;
}

/* ---- provenance ---- */

#define CHAIN_MAX 256
static struct arena texts; /* names and chains: a process has a handful of inputs, so they live as long as it */

static struct prov_input *prov_slot(struct prov *p, const char *role, const char *name, const char *kind)
{
	if (p->n == (int)(sizeof p->in / sizeof *p->in))
		return NULL; /* more inputs than the header lists: merges of many shards; their counts are in meta */
	struct prov_input *in = &p->in[p->n++];
	*in = (struct prov_input){ .role = arena_printf(&texts, "%s", role), .name = arena_printf(&texts, "%s", name ? name : ""),
				  .kind = arena_printf(&texts, "%s", kind ? kind : "file") };
	return in;
}

void prov_add_digest(struct prov *p, const char *role, const char *name, const char *kind, const char *digest)
{
	const char *base = name && *name == '/' && strrchr(name, '/')[1] ? strrchr(name, '/') + 1 : name;
	struct prov_input *in = prov_slot(p, role, base, kind);
	if (in)
		snprintf(in->digest, sizeof in->digest, "%s", digest);
}

static void pack_text(msgpack_packer *pk, const char *s)
{
	msgpack_pack_str(pk, strlen(s));
	msgpack_pack_str_body(pk, s, strlen(s));
}

static void pack_copy(msgpack_packer *pk, const msgpack_object *map, const char *key)
{
	const msgpack_object *o = obj_get(map, key);
	pack_text(pk, key);
	if (o)
		msgpack_pack_object(pk, *o);
	else
		msgpack_pack_nil(pk);
}

static const msgpack_object *list_of(const msgpack_object *map, const char *key)
{
	const msgpack_object *o = map->type == MSGPACK_OBJECT_MAP ? obj_get(map, key) : NULL;
	return o && o->type == MSGPACK_OBJECT_ARRAY ? o : NULL;
}

/* The chain of an input: itself, then the chains of its own inputs, each ancestor once. */
void prov_add_artifact(struct prov *p, const char *role, const struct art_r *r)
{
	const msgpack_object *h = art_header(r), *ins = list_of(h, "inputs"), *take[CHAIN_MAX];
	struct prov_input *in = prov_slot(p, role, "", art_kind(r));
	int n = 0;
	if (!in)
		return;
	in->header_only = !*art_digest(r);
	if (in->header_only)
		art_header_digest(r, in->digest);
	else
		snprintf(in->digest, sizeof in->digest, "%s", art_digest(r));
	for (uint32_t i = 0; ins && i < ins->via.array.size; i++) {
		const msgpack_object *c = list_of(&ins->via.array.ptr[i], "chain");
		for (uint32_t j = 0; c && j < c->via.array.size && n < CHAIN_MAX; j++) {
			const msgpack_object *x = &c->via.array.ptr[j];
			bool seen = x->type != MSGPACK_OBJECT_MAP;
			for (int k = 0; k < n && !seen; k++)
				seen = msgpack_object_equal(*take[k], *x);
			if (!seen)
				take[n++] = x;
		}
	}
	msgpack_sbuffer b;
	msgpack_packer pk;
	msgpack_sbuffer_init(&b);
	msgpack_packer_init(&pk, &b, msgpack_sbuffer_write);
	msgpack_pack_array(&pk, (size_t)n + 1);
	msgpack_pack_map(&pk, 7);
	pack_copy(&pk, h, "kind");
	pack_copy(&pk, h, "program");
	pack_copy(&pk, h, "program_version");
	pack_copy(&pk, h, "args");
	pack_copy(&pk, h, "seed");
	pack_text(&pk, "digest"), pack_text(&pk, in->digest);
	pack_text(&pk, "inputs"), msgpack_pack_array(&pk, ins ? ins->via.array.size : 0);
	for (uint32_t i = 0; ins && i < ins->via.array.size; i++) {
		const msgpack_object *m = &ins->via.array.ptr[i];
		const msgpack_object *d = m->type == MSGPACK_OBJECT_MAP ? obj_get(m, "digest") : NULL;
		if (d)
			msgpack_pack_object(&pk, *d);
		else
			msgpack_pack_nil(&pk);
	}
	for (int i = 0; i < n; i++)
		msgpack_pack_object(&pk, *take[i]);
	in->chain = (msgpack_sbuffer){ .size = b.size, .data = memcpy(arena_alloc(&texts, b.size), b.data, b.size) };
	msgpack_sbuffer_destroy(&b);
}

/* ---- fields ---- */

const char *obj_type_name(const msgpack_object *o)
{
	switch (o->type) {
	case MSGPACK_OBJECT_NIL: return "nil";
	case MSGPACK_OBJECT_BOOLEAN: return "a boolean";
	case MSGPACK_OBJECT_POSITIVE_INTEGER: case MSGPACK_OBJECT_NEGATIVE_INTEGER: return "an integer";
	case MSGPACK_OBJECT_FLOAT32: case MSGPACK_OBJECT_FLOAT64: return "a number";
	case MSGPACK_OBJECT_STR: return "a string";
	case MSGPACK_OBJECT_ARRAY: return "a list";
	case MSGPACK_OBJECT_MAP: return "a map";
	case MSGPACK_OBJECT_BIN: return "bytes";
	default: return "an extension";
	}
}

const msgpack_object *obj_get(const msgpack_object *map, const char *key)
{
	size_t n = strlen(key);
	if (map->type != MSGPACK_OBJECT_MAP)
		return NULL;
	for (uint32_t i = 0; i < map->via.map.size; i++) {
		const msgpack_object *k = &map->via.map.ptr[i].key;
		if (k->type == MSGPACK_OBJECT_STR && k->via.str.size == n && !memcmp(k->via.str.ptr, key, n))
			return &map->via.map.ptr[i].val;
	}
	return NULL;
}

/* "FILE: record 3" or "FILE: header" */
static int field_error(const struct art_r *r, const msgpack_object *map, const char *key, const char *what, struct err *e)
{
	const msgpack_object *o = obj_get(map, key);
	char where[48];
	if (map == art_header(r) || (art_header(r)->type == MSGPACK_OBJECT_MAP && map == art_meta(r)))
		snprintf(where, sizeof where, "header");
	else
		snprintf(where, sizeof where, "record %lld", (long long)art_record_number(r));
	if (!o)
		return err_set(e, EXIT_DATA, "%s: %s: field '%s' is missing, expected %s", art_name(r), where, key, what);
	return err_set(e, EXIT_DATA, "%s: %s: field '%s' is %s, expected %s", art_name(r), where, key, obj_type_name(o), what);
}

int obj_int(const struct art_r *r, const msgpack_object *map, const char *key, int64_t *v, struct err *e)
{
	const msgpack_object *o = obj_get(map, key);
	if (o && o->type == MSGPACK_OBJECT_POSITIVE_INTEGER && o->via.u64 <= INT64_MAX)
		*v = (int64_t)o->via.u64;
	else if (o && o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
		*v = o->via.i64;
	else
		return field_error(r, map, key, "an integer of 64 bits", e);
	return 0;
}

int obj_f64(const struct art_r *r, const msgpack_object *map, const char *key, double *v, struct err *e)
{
	const msgpack_object *o = obj_get(map, key);
	if (o && (o->type == MSGPACK_OBJECT_FLOAT64 || o->type == MSGPACK_OBJECT_FLOAT32))
		*v = o->via.f64;
	else if (o && o->type == MSGPACK_OBJECT_POSITIVE_INTEGER)
		*v = (double)o->via.u64;
	else if (o && o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
		*v = (double)o->via.i64;
	else
		return field_error(r, map, key, "a number", e);
	return 0;
}

int obj_str(const struct art_r *r, const msgpack_object *map, const char *key, char *buf, size_t n, struct err *e)
{
	char what[64];
	const msgpack_object *o = obj_get(map, key);
	if (!o || o->type != MSGPACK_OBJECT_STR || o->via.str.size >= n || memchr(o->via.str.ptr, 0, o->via.str.size)) {
		snprintf(what, sizeof what, "a string shorter than %zu bytes", n);
		return field_error(r, map, key, what, e);
	}
	memcpy(buf, o->via.str.ptr, o->via.str.size);
	buf[o->via.str.size] = '\0';
	return 0;
}

int obj_view(const msgpack_object *o, struct art_view *v, struct err *e)
{
	const msgpack_object *dt = obj_get(o, "dtype"), *sh = obj_get(o, "shape"), *d = obj_get(o, "data");
	int t = 0;
	if (!dt || dt->type != MSGPACK_OBJECT_STR || !sh || sh->type != MSGPACK_OBJECT_ARRAY || !d || d->type != MSGPACK_OBJECT_BIN)
		return err_set(e, EXIT_DATA, "is not an array (a map of dtype, shape and data)");
	while (t < ART_DTYPES && (strlen(dtypes[t].name) != dt->via.str.size ||
				  memcmp(dtypes[t].name, dt->via.str.ptr, dt->via.str.size)))
		t++;
	if (t == ART_DTYPES)
		return err_set(e, EXIT_DATA, "dtype '%.*s' is unknown", dt->via.str.size < 16 ? (int)dt->via.str.size : 16, dt->via.str.ptr);
	if (sh->via.array.size > 8)
		return err_set(e, EXIT_DATA, "has %u dimensions, expected at most 8", sh->via.array.size);
	*v = (struct art_view){ .dtype = (enum art_dtype)t, .nd = (int)sh->via.array.size, .n = 1, .data = d->via.bin.ptr };
	for (int i = 0; i < v->nd; i++) {
		const msgpack_object *x = &sh->via.array.ptr[i];
		if (x->type != MSGPACK_OBJECT_POSITIVE_INTEGER || x->via.u64 > INT64_MAX || mul_over(v->n, (int64_t)x->via.u64, &v->n))
			return err_set(e, EXIT_DATA, "dimension %d is not a size", i);
		v->dims[i] = (int64_t)x->via.u64;
	}
	int64_t bytes;
	if (mul_over(v->n, (int64_t)dtypes[t].size, &bytes) || bytes != (int64_t)d->via.bin.size)
		return err_set(e, EXIT_DATA, "has %u bytes, expected %lld elements of %s", d->via.bin.size, (long long)v->n, dtypes[t].name);
	return 0;
}

int obj_array(const struct art_r *r, const msgpack_object *map, const char *key, enum art_dtype t, int64_t n, const void **data,
	      int64_t *n_out, struct err *e)
{
	struct art_view v;
	const msgpack_object *o = obj_get(map, key);
	if (!o || o->type != MSGPACK_OBJECT_MAP)
		return field_error(r, map, key, "an array", e);
	if (obj_view(o, &v, e))
		return err_wrap(e, "%s: record %lld: field '%s'", art_name(r), (long long)art_record_number(r), key);
	if (v.dtype != t)
		return err_set(e, EXIT_DATA, "%s: record %lld: field '%s' has dtype %s, expected %s", art_name(r),
			       (long long)art_record_number(r), key, dtypes[v.dtype].name, dtypes[t].name);
	if (n >= 0 && v.n != n)
		return err_set(e, EXIT_DATA, "%s: record %lld: field '%s' has %lld elements, expected %lld", art_name(r),
			       (long long)art_record_number(r), key, (long long)v.n, (long long)n);
	*data = v.data;
	if (n_out)
		*n_out = v.n;
	return 0;
}

static double half_to_double(uint16_t h)
{
	int ex = h >> 10 & 31, m = h & 1023;
	double v = ex == 31 ? (m ? (double)__builtin_nanf("") : (double)__builtin_inff())
			    : __builtin_ldexp(ex ? m + 1024 : m, (ex ? ex : 1) - 25);
	return h >> 15 ? -v : v;
}

double art_view_at(const struct art_view *v, int64_t i)
{
	union { uint8_t u8; uint16_t u16; uint32_t u32; int32_t i32; int64_t i64; float f32; double f64; } x = { 0 };
	size_t size = dtypes[v->dtype].size;
	memcpy(&x, (const char *)v->data + (size_t)i * size, size);
	switch (v->dtype) {
	case ART_U8: return x.u8;
	case ART_U16: return x.u16;
	case ART_U32: return x.u32;
	case ART_I32: return x.i32;
	case ART_I64: return (double)x.i64;
	case ART_F16: return half_to_double(x.u16);
	case ART_BF16: x.u32 = (uint32_t)x.u16 << 16; return (double)x.f32;
	case ART_F32: return (double)x.f32;
	default: return x.f64;
	}
}
