/*
 * safetensors.h - Hugging Face weight files: a mapped reader that trusts nothing, a writer that streams
 *
 * A model is one model.safetensors, or shards listed by model.safetensors.index.json; both read as one list of tensors
 * sorted by name.  Data stays in the file (mmap); st_release() lets go of pages already used, so a pass over a large
 * model holds one tensor at a time.  The writer is given all names and shapes first, then the data in that order.
 *
 *	struct st_model *m = st_open(dir, e);
 *	const struct st_tensor *t = st_find(m, "model.norm.weight");
 *	st_to_f32(dst, t->data, t->dtype, t->elems);  st_release(m, t);  st_close(m);
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_SAFETENSORS_H
#define ADZE_SAFETENSORS_H
#include "../base/base.h"

enum st_dtype {
	ST_F32, ST_F16, ST_BF16,       /* what models are made of; the rest is only skipped over */
	ST_F64, ST_I64, ST_I32, ST_I16, ST_I8, ST_U64, ST_U32, ST_U16, ST_U8, ST_BOOL, ST_F8_E4M3, ST_F8_E5M2, ST_DTYPES
};
enum { ST_MAX_DIMS = 8 };
size_t st_dtype_size(int dtype);
const char *st_dtype_name(int dtype);          /* "BF16", as in the file */
const char *st_dtype_torch(int dtype);         /* "bfloat16", as in config.json; "?" for those that are not floats */
int st_dtype_parse(const char *s);             /* "bfloat16" "bf16" "BF16" -> ST_BF16; f32, f16 likewise; -1 */

struct st_tensor {
	const char *name;
	const char *file;              /* for messages */
	int dtype, nd;
	int64_t dims[ST_MAX_DIMS];
	int64_t elems;
	size_t bytes;
	const void *data;              /* unaligned in the general case */
};

struct st_model;
/* path: a directory or one .safetensors file.  NULL with EXIT_DATA on anything malformed: header length, JSON, dtype,
 * shape products, offsets outside, overlapping or leaving holes, an index that does not agree with its shards. */
struct st_model *st_open(const char *path, struct err *e);
void st_close(struct st_model *m);
int st_count(const struct st_model *m);
const struct st_tensor *st_at(const struct st_model *m, int i);             /* in name order */
const struct st_tensor *st_find(const struct st_model *m, const char *name); /* NULL: none */
void st_release(const struct st_model *m, const struct st_tensor *t);
void st_release_bytes(const void *p, size_t n);  /* a part of one, for tensors larger than memory should hold */
void st_prefetch_bytes(const void *p, size_t n); /* asks for pages that will be read soon */
void st_populate_bytes(const void *p, size_t n); /* maps pages that are read now, in one call instead of many faults */
/* "[576, 1536]" */
char *st_shape(const struct st_tensor *t, char buf[128]);

/* Floating types only; source and destination may be unaligned, but must not overlap. */
void st_to_f32(float *dst, const void *src, int dtype, int64_t n);
void st_from_f32(void *dst, int dtype, const float *src, int64_t n);

struct st_spec {
	char name[160];
	int dtype, nd;
	int64_t dims[ST_MAX_DIMS];
};
struct st_w;
/* Creates model.safetensors in dir, or model-0000x-of-0000n.safetensors and the index when more than shard_bytes
 * (0: ST_SHARD_BYTES). */
struct st_w *st_create(const char *dir, const struct st_spec *spec, int n, int64_t shard_bytes, struct err *e);
/* The next `bytes` of the data, in the order of the specs; pieces may be of any size within one tensor. */
int st_write(struct st_w *w, const void *data, size_t bytes, struct err *e);
/* Bytes [off, off + bytes) of a tensor (index among the specs), each byte once, in any order and from any thread. */
int st_put(struct st_w *w, int tensor, int64_t off, const void *data, size_t bytes, struct err *e);
int st_finish(struct st_w *w, struct err *e);  /* everything written and synced; frees w in every case */
void st_abandon(struct st_w *w);               /* closes and frees, leaves the files to the caller's directory */
#define ST_SHARD_BYTES INT64_C(5000000000)
#endif
