/*
 * gguf.h - llama.cpp's model files: a mapped reader of metadata and tensors, and the tokenizer.json that they imply
 *
 * Versions 2 and 3, little-endian.  Tensor types F32, F16, BF16, Q8_0, Q4_0, Q4_1; dimensions are given fastest first
 * (dims[0] = columns).  Every length is checked against the file before use.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_GGUF_H
#define ADZE_GGUF_H
#include "../base/base.h"
#include <jansson.h>

enum gguf_type {
	GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_U64,
	GGUF_I64, GGUF_F64, GGUF_TYPES
};
struct gguf_str {
	const char *p;                 /* not terminated */
	size_t n;
};
struct gguf_kv {
	char *key;
	int type, elem;                /* elem: type of an array's elements, else the type itself */
	int64_t n;                     /* elements; 1 for scalars */
	const unsigned char *data;     /* scalars and arrays of fixed width */
	struct gguf_str *str;          /* strings and arrays of them */
};
struct gguf_tensor {
	char *name;
	int type, nd;                  /* type: number of ggml's enum */
	int64_t dims[4], cols, rows;   /* rows: product of all but the first dimension */
	size_t row_bytes, bytes;
	const unsigned char *data;
};
struct gguf;
struct gguf *gguf_open(const char *path, struct err *e);
void gguf_close(struct gguf *g);
const char *gguf_path(const struct gguf *g);
const struct gguf_kv *gguf_get(const struct gguf *g, const char *key);                /* NULL: none */
/* 0: found; 1: absent (*v untouched); -1: another type */
int gguf_int(const struct gguf *g, const char *key, int64_t *v, struct err *e);
int gguf_real(const struct gguf *g, const char *key, double *v, struct err *e);
int gguf_string(const struct gguf *g, const char *key, struct gguf_str *v, struct err *e);
/* element i of an array of integers */
int64_t gguf_kv_int(const struct gguf_kv *kv, int64_t i);

int gguf_count(const struct gguf *g);
const struct gguf_tensor *gguf_at(const struct gguf *g, int i);
const struct gguf_tensor *gguf_find(const struct gguf *g, const char *name);          /* NULL: none */
const char *gguf_type_name(int type);
/* Row r as f32. */
void gguf_row(const struct gguf_tensor *t, int64_t r, float *dst);
void gguf_release(const struct gguf_tensor *t);  /* lets go of its pages */

/* tokenizer.json and tokenizer_config.json of a byte-level BPE vocabulary; the name in tokenizer.ggml.pre decides the
 * pre-tokenizer, an unknown one is refused by name.  Both objects are the caller's. */
int gguf_tokenizer_new(const struct gguf *g, int64_t vocab, int64_t context, json_t **tokenizer, json_t **config,
		struct err *e);
#endif
