/*
 * artifact.h - the container that all stages exchange: msgpack records in LZ4 frames
 *
 * formats/container.md is the specification.  First object: header map; then records (each one map); last: trailer map.
 * Writers never seek, readers work on pipes.  A reader trusts nothing: every length is bounded, depth is limited,
 * frames carry checksums, a missing trailer or wrong count is EXIT_DATA.
 *
 *	struct art_w *w = art_create(com.out, "stats", 1, &prov, e);
 *	art_map(w, 2); art_key(w, "layer"); art_int(w, 3); art_key(w, "sum"); art_array(w, ART_F64, nd, dims, data);
 *	art_end_record(w, e);  ...  art_commit(w, e);
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_ARTIFACT_H
#define ADZE_ARTIFACT_H
#include "../base/base.h"
#include <msgpack.h>

enum art_dtype { ART_U8, ART_U16, ART_U32, ART_I32, ART_I64, ART_F16, ART_BF16, ART_F32, ART_F64, ART_DTYPES };
size_t art_dtype_size(enum art_dtype t);
const char *art_dtype_name(enum art_dtype t);            /* "u16", "f64" ... */

/* Provenance: what was run on what.  The header keeps program, version, args, seed and per input its kind,
 * name, digest and its own chain, like the @PG lines of SAM files. */
struct art_r;
struct prov_input {
	const char *role, *name, *kind;
	char digest[33];
	bool header_only;        /* digest covers the header alone: the records had not been read yet */
	msgpack_sbuffer chain;   /* packed list of ancestors, nearest first; like the strings it lives until the process ends */
};
struct prov {
	int64_t seed;
	int n;
	struct prov_input in[16];
};
/* File names of artifacts are not kept: their digest says which they were, and a pipe gives the same bytes as a file. */
void prov_add_artifact(struct prov *p, const char *role, const struct art_r *r);  /* takes digest and chain of an opened input (digest is that of its header when read in a stream, see container.md) */
void prov_add_digest(struct prov *p, const char *role, const char *name, const char *kind, const char *digest);

struct art_w;
/* path NULL or "-": stdout.  extra header fields may be packed between art_create and the first record with art_header_*:
 * they land in the header's "meta" map.  p (may be NULL) must live until the first record. */
struct art_w *art_create(const char *path, const char *kind, int version, const struct prov *p, bool force, struct err *e);
/* meta map of the header: call any number before the first record */
void art_meta_int(struct art_w *w, const char *key, int64_t v);
void art_meta_f64(struct art_w *w, const char *key, double v);
void art_meta_str(struct art_w *w, const char *key, const char *v);
/* one record = one map; build it with these, values nest */
void art_map(struct art_w *w, int n);
void art_list(struct art_w *w, int n);
void art_key(struct art_w *w, const char *k);
void art_int(struct art_w *w, int64_t v);
void art_f64(struct art_w *w, double v);
void art_str(struct art_w *w, const char *s);
void art_bool(struct art_w *w, bool b);
void art_nil(struct art_w *w);
/* {"dtype":"f64","shape":[..],"data":bin} */
void art_array(struct art_w *w, enum art_dtype t, int nd, const int64_t *dims, const void *data);
#define ART_FRAME ((size_t)1 << 20)
int art_end_record(struct art_w *w, struct err *e);      /* compresses and writes out once there are ART_FRAME bytes */
int art_commit(struct art_w *w, struct err *e);          /* trailer, flush, rename; frees w */
void art_abort(struct art_w *w);

struct art_r;
/* path NULL or "-": stdin.  kind NULL: any.  Refuses a wrong kind ("FILE: is a 'rank' artifact, expected 'stats'"),
 * a newer version, garbage. */
struct art_r *art_open(const char *path, const char *kind, int max_version, struct err *e);
const char *art_kind(const struct art_r *r);
int art_version(const struct art_r *r);
const char *art_name(const struct art_r *r);             /* for messages: path or "stdin" */
const msgpack_object *art_header(const struct art_r *r);
const msgpack_object *art_meta(const struct art_r *r);   /* the header's meta map */
/* 1: *rec is the next record, valid until the next call; 0: end, trailer verified; -1: e says what is wrong */
int art_next(struct art_r *r, const msgpack_object **rec, struct err *e);
const char *art_digest(const struct art_r *r);           /* 32 hex digits of XXH3-128, known after art_next returned 0 */
void art_header_digest(const struct art_r *r, char out[33]);
void art_close(struct art_r *r);

/* Field access with checked types; the error names file, record and field. */
const msgpack_object *obj_get(const msgpack_object *map, const char *key);        /* NULL when absent */
int obj_int(const struct art_r *r, const msgpack_object *map, const char *key, int64_t *v, struct err *e);
int obj_f64(const struct art_r *r, const msgpack_object *map, const char *key, double *v, struct err *e);
int obj_str(const struct art_r *r, const msgpack_object *map, const char *key, char *buf, size_t n, struct err *e);
/* array object: checks dtype, shape product == n (n < 0: any, *n_out gets it); data may be unaligned: copy it out */
int obj_array(const struct art_r *r, const msgpack_object *map, const char *key, enum art_dtype t, int64_t n, const void **data, int64_t *n_out, struct err *e);

/* An array object as it lies in the record: dtype, dimensions, n elements at data (unaligned, little-endian). */
struct art_view {
	enum art_dtype dtype;
	int nd;
	int64_t dims[8], n;
	const void *data;
};
int obj_view(const msgpack_object *o, struct art_view *v, struct err *e);         /* checks that bytes match dtype and shape */
const char *obj_type_name(const msgpack_object *o);                               /* "a map", "a string" ... for messages */
/* element i of a view as a double (f16 and bf16 widened) */
double art_view_at(const struct art_view *v, int64_t i);

/* Random access, regular files with an index only (EXIT_DATA otherwise); decompresses only the frame of record i.
 * The next art_next() gives record i.  Count and digest of the whole are then not verified. */
int64_t art_record_count(struct art_r *r, struct err *e);                         /* from the index; -1 on error */
int art_seek_record(struct art_r *r, int64_t i, struct err *e);
int art_seek_end(struct art_r *r, struct err *e);                                 /* the next art_next() reads the trailer: art_digest() is what it claims */
int64_t art_record_number(const struct art_r *r);                                 /* of the record last given by art_next */

int64_t art_bytes_read(const struct art_r *r);                                    /* of the file, so far */

/* XXH3-128 helpers */
void digest_hex(const void *p, size_t n, char out[33]);
int digest_file(const char *path, char out[33], struct err *e);
#endif
