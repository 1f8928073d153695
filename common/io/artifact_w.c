/*
 * artifact_w.c - the writing half of the container
 *
 * Records collect in one msgpack buffer; when it passes ART_FRAME it becomes one LZ4 frame, which another thread compresses and
 * writes while the next one collects.  Frames start at object boundaries, so that the index can name the first record of each.  Every record is measured and checked against its
 * kind's table before it counts: a mistake of ours is found by the writer, not by the next stage.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "artifact.h"
#include "art_index.h"
#include "scan.h"
#include "schema.h"
#include "../base/opt.h"
#include "../base/outfile.h"
#include <lz4frame.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

struct bytes {
	uint8_t *p;
	size_t n, cap;
};

struct art_w {
	struct outfile *out;
	const char *kind;
	int version;
	const struct prov *prov;
	struct bytes buf, meta;      /* records of the next frame; packed pairs of the header's meta map */
	struct bytes frame;          /* records of the frame that is being written */
	int64_t frame_first;         /* the first of them */
	pthread_t writer;            /* of frame, if busy; its end: rc, why */
	bool busy;
	int rc;
	struct err why;
	msgpack_packer pk, meta_pk;  /* into buf, into meta */
	int meta_n;
	bool started, headed;        /* the header is in buf or written; is written */
	size_t record;               /* where the open record starts in buf */
	int64_t records, frame_record;
	uint64_t offset;             /* bytes written */
	struct bytes index, packed;
	XXH3_state_t *hash;
};

static void grow(struct bytes *b, size_t more)
{
	if (b->cap - b->n >= more)
		return;
	b->cap = (b->n + more) * 3 / 2 + 4096;
	b->p = xrealloc(b->p, b->cap, 1);
}

static int to_bytes(void *data, const char *p, size_t n)
{
	struct bytes *b = data;
	grow(b, n);
	memcpy(b->p + b->n, p, n);
	b->n += n;
	return 0;
}

static void pack_str(msgpack_packer *pk, const char *s)
{
	size_t n = strlen(s);
	msgpack_pack_str(pk, n);
	msgpack_pack_str_body(pk, s, n);
}

struct art_w *art_create(const char *path, const char *kind, int version, const struct prov *p, bool force, struct err *e)
{
	struct outfile *out = outfile_open(path, true, force, e);
	if (!out)
		return NULL;
	struct art_w *w = xcalloc(1, sizeof *w);
	w->out = out;
	w->kind = xstrdup(kind);
	w->version = version;
	w->prov = p;
	w->hash = XXH3_createState();
	if (!w->hash)
		die(EXIT_RESOURCE, "out of memory");
	XXH3_128bits_reset(w->hash);
	msgpack_packer_init(&w->pk, &w->buf, to_bytes);
	msgpack_packer_init(&w->meta_pk, &w->meta, to_bytes);
	return w;
}

/* ---- frames ---- */

/* Compresses and writes frame, and lists it in the index. */
static void *write_out(void *arg)
{
	struct art_w *w = arg;
	LZ4F_preferences_t prefs = { .frameInfo = { .blockSizeID = LZ4F_max256KB, .blockMode = LZ4F_blockLinked,
						    .blockChecksumFlag = LZ4F_blockChecksumEnabled, .contentSize = w->frame.n },
				     .autoFlush = 1 };
	w->packed.n = 0;
	grow(&w->packed, LZ4F_compressFrameBound(w->frame.n, &prefs));
	size_t n = LZ4F_compressFrame(w->packed.p, w->packed.cap, w->frame.p, w->frame.n, &prefs);
	if (LZ4F_isError(n)) {
		w->rc = err_set(&w->why, EXIT_FAIL, "%s: compression failed: %s", outfile_name(w->out), LZ4F_getErrorName(n));
		return NULL;
	}
	grow(&w->index, 16);
	put_le(w->index.p + w->index.n, w->offset, 8);
	put_le(w->index.p + w->index.n + 8, (uint64_t)w->frame_first, 8);
	w->index.n += 16;
	w->offset += n;
	w->rc = outfile_write(w->out, w->packed.p, n, &w->why);
	return NULL;
}

/* The end of the frame that is being written */
static int settle(struct art_w *w, struct err *e)
{
	if (w->busy)
		pthread_join(w->writer, NULL);
	w->busy = false;
	if (w->rc && e)
		*e = w->why;
	return w->rc;
}

/* Everything in buf becomes one frame.  A small one is written at once, as the last ones are; so is a large one, of which there
 * shall not be two in memory. */
static int write_frame(struct art_w *w, struct err *e)
{
	if (settle(w, e))
		return -1;
	if (!w->buf.n)
		return 0;
	struct bytes empty = w->frame;
	empty.n = 0;
	w->frame = w->buf;
	w->buf = empty;
	w->frame_first = w->frame_record;
	w->frame_record = w->records;
	w->record = 0;
	bool apart = w->frame.n >= ART_FRAME && w->frame.n <= 4 * ART_FRAME && (com.threads ? com.threads : cpu_count()) > 1;
	w->busy = apart && !pthread_create(&w->writer, NULL, write_out, w);
	if (w->busy)
		return 0;
	write_out(w);
	return settle(w, e);
}

static int write_index(struct art_w *w, struct err *e)
{
	size_t n = w->index.n;
	uint8_t head[8], foot[INDEX_FOOTER];
	put_le(head, SKIP_MAGIC, 4);
	put_le(head + 4, n + INDEX_FOOTER, 4);
	put_le(foot, n / 16, 8);
	put_le(foot + 8, XXH3_64bits(w->index.p, n), 8);
	put_le(foot + 16, n + INDEX_FOOTER + 8, 8);
	memcpy(foot + 24, INDEX_MAGIC, 8);
	if (outfile_write(w->out, head, 8, e) || outfile_write(w->out, w->index.p, n, e))
		return -1;
	return outfile_write(w->out, foot, sizeof foot, e);
}

/* ---- header ---- */

static void pack_inputs(struct art_w *w)
{
	int n = w->prov ? w->prov->n : 0;
	msgpack_pack_array(&w->pk, (size_t)n);
	for (int i = 0; i < n; i++) {
		const struct prov_input *in = &w->prov->in[i];
		bool named = in->name && *in->name;
		msgpack_pack_map(&w->pk, 4 + (size_t)named + (size_t)in->header_only);
		pack_str(&w->pk, "role"), pack_str(&w->pk, in->role);
		if (named)
			pack_str(&w->pk, "name"), pack_str(&w->pk, in->name);
		pack_str(&w->pk, "kind"), pack_str(&w->pk, in->kind);
		pack_str(&w->pk, "digest"), pack_str(&w->pk, in->digest);
		if (in->header_only)
			pack_str(&w->pk, "digest_of"), pack_str(&w->pk, "header");
		pack_str(&w->pk, "chain");
		if (in->chain.size)
			to_bytes(&w->buf, in->chain.data, in->chain.size);
		else
			msgpack_pack_array(&w->pk, 0);
	}
}

static void pack_header(struct art_w *w)
{
	msgpack_pack_map(&w->pk, 10);
	pack_str(&w->pk, "format"), pack_str(&w->pk, "adze");
	pack_str(&w->pk, "container"), msgpack_pack_int(&w->pk, 1);
	pack_str(&w->pk, "kind"), pack_str(&w->pk, w->kind);
	pack_str(&w->pk, "version"), msgpack_pack_int(&w->pk, w->version);
	pack_str(&w->pk, "program"), pack_str(&w->pk, prog_name);
	pack_str(&w->pk, "program_version"), pack_str(&w->pk, ADZE_VERSION);
	pack_str(&w->pk, "args"), pack_str(&w->pk, opt_record_line());
	pack_str(&w->pk, "seed"), msgpack_pack_int64(&w->pk, w->prov ? w->prov->seed : 0);
	pack_str(&w->pk, "inputs"), pack_inputs(w);
	pack_str(&w->pk, "meta"), msgpack_pack_map(&w->pk, (size_t)w->meta_n);
	to_bytes(&w->buf, (const char *)w->meta.p, w->meta.n);
}

static void start(struct art_w *w)
{
	if (w->started)
		return;
	w->started = true;
	pack_header(w);
	w->record = w->buf.n;
}

static msgpack_packer *meta_key(struct art_w *w, const char *key)
{
	if (w->started)
		BUG("meta '%s' after the first record of a %s artifact", key, w->kind);
	w->meta_n++;
	pack_str(&w->meta_pk, key);
	return &w->meta_pk;
}

void art_meta_int(struct art_w *w, const char *key, int64_t v)
{
	msgpack_pack_int64(meta_key(w, key), v);
}

void art_meta_f64(struct art_w *w, const char *key, double v)
{
	msgpack_pack_double(meta_key(w, key), v);
}

void art_meta_str(struct art_w *w, const char *key, const char *v)
{
	pack_str(meta_key(w, key), v);
}

/* ---- records ---- */

static msgpack_packer *at(struct art_w *w)
{
	start(w);
	return &w->pk;
}

void art_map(struct art_w *w, int n)
{
	msgpack_pack_map(at(w), (size_t)n);
}

void art_list(struct art_w *w, int n)
{
	msgpack_pack_array(at(w), (size_t)n);
}

void art_key(struct art_w *w, const char *k)
{
	pack_str(at(w), k);
}

void art_int(struct art_w *w, int64_t v)
{
	msgpack_pack_int64(at(w), v);
}

void art_f64(struct art_w *w, double v)
{
	msgpack_pack_double(at(w), v);
}

void art_str(struct art_w *w, const char *s)
{
	pack_str(at(w), s);
}

void art_bool(struct art_w *w, bool b)
{
	if (b)
		msgpack_pack_true(at(w));
	else
		msgpack_pack_false(at(w));
}

void art_nil(struct art_w *w)
{
	msgpack_pack_nil(at(w));
}

void art_array(struct art_w *w, enum art_dtype t, int nd, const int64_t *dims, const void *data)
{
	int64_t n = (int64_t)art_dtype_size(t);
	msgpack_packer *pk = at(w);
	for (int i = 0; i < nd; i++)
		if (mul_over(n, dims[i], &n))
			BUG("array of dimension %lld", (long long)dims[i]);
	msgpack_pack_map(pk, 3);
	pack_str(pk, "dtype"), pack_str(pk, art_dtype_name(t));
	pack_str(pk, "shape"), msgpack_pack_array(pk, (size_t)nd);
	for (int i = 0; i < nd; i++)
		msgpack_pack_int64(pk, dims[i]);
	pack_str(pk, "data"), msgpack_pack_bin(pk, (size_t)n);
	if (n)
		msgpack_pack_bin_body(pk, data, (size_t)n);
}

/* Unpacks what was just packed and checks it: one map within the limits, as the kind's table says. */
static int check_packed(struct art_w *w, size_t from, bool header, struct err *e)
{
	struct scan s = { 0 };
	size_t n = w->buf.n - from, off = 0;
	int rc = scan_object(&s, w->buf.p + from, n);
	if (rc < 0)
		return err_set(e, EXIT_FAIL, "%s: record %lld would be %s", outfile_name(w->out), (long long)w->records, s.why);
	if (rc == 0 || s.pos != n)
		BUG("record %lld of a %s artifact is not one whole map", (long long)w->records, w->kind);
	msgpack_unpacked u;
	msgpack_unpacked_init(&u);
	if (msgpack_unpack_next(&u, (const char *)w->buf.p + from, n, &off) != MSGPACK_UNPACK_SUCCESS)
		die(EXIT_RESOURCE, "out of memory");
	rc = header ? schema_check_meta(w->kind, obj_get(&u.data, "meta"), e) : schema_check(w->kind, &u.data, e);
	if (rc && e) {
		e->code = EXIT_FAIL;
		if (!header)
			err_wrap(e, "record %lld", (long long)w->records);
		err_wrap(e, "%s: the %s artifact being written breaks its format", outfile_name(w->out), w->kind);
	}
	msgpack_unpacked_destroy(&u);
	return rc;
}

/* The header is a frame of its own, sent on at once: the next stage of a pipe can refuse it before any work. */
static int flush_header(struct art_w *w, size_t end, struct err *e)
{
	size_t rest = w->buf.n - end;
	uint8_t *tail = rest ? xmalloc(rest) : NULL;
	if (rest)
		memcpy(tail, w->buf.p + end, rest);
	w->buf.n = end;
	int rc = check_packed(w, 0, true, e);
	if (!rc) {
		XXH3_128bits_update(w->hash, w->buf.p, w->buf.n);
		rc = write_frame(w, e);
		outfile_fd(w->out);
		w->headed = !rc;
	}
	if (!rc && rest)
		to_bytes(&w->buf, (char *)tail, rest);
	free(tail);
	return rc;
}

int art_end_record(struct art_w *w, struct err *e)
{
	start(w);
	if (!w->headed && flush_header(w, w->record, e))
		return -1;
	if (check_packed(w, w->record, false, e))
		return -1;
	XXH3_128bits_update(w->hash, w->buf.p + w->record, w->buf.n - w->record);
	w->record = w->buf.n;
	w->records++;
	return w->buf.n >= ART_FRAME ? write_frame(w, e) : 0;
}

static void release(struct art_w *w)
{
	XXH3_freeState(w->hash);
	free((char *)w->kind);
	free(w->buf.p);
	free(w->frame.p);
	free(w->meta.p);
	free(w->index.p);
	free(w->packed.p);
	free(w);
}

int art_commit(struct art_w *w, struct err *e)
{
	char hex[33];
	start(w);
	if (w->buf.n != w->record)
		BUG("commit of a %s artifact inside a record", w->kind);
	int rc = !w->headed ? flush_header(w, w->record, e) : 0;
	if (!rc)
		rc = write_frame(w, e);
	if (!rc) {
		XXH128_hash_t h = XXH3_128bits_digest(w->hash);
		snprintf(hex, sizeof hex, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
		msgpack_pack_map(&w->pk, 4);
		pack_str(&w->pk, "trailer"), msgpack_pack_true(&w->pk);
		pack_str(&w->pk, "records"), msgpack_pack_int64(&w->pk, w->records);
		pack_str(&w->pk, "digest"), pack_str(&w->pk, hex);
		pack_str(&w->pk, "index"), msgpack_pack_true(&w->pk);
		rc = write_frame(w, e);
	}
	if (!rc)
		rc = write_index(w, e);
	if (rc)
		outfile_abort(w->out);
	else
		rc = outfile_commit(w->out, e);
	release(w);
	return rc;
}

void art_abort(struct art_w *w)
{
	if (!w)
		return;
	settle(w, NULL);
	outfile_abort(w->out);
	release(w);
}
