/*
 * artifact_r.c - the reading half of the container
 *
 * bytes -> LZ4 frames -> msgpack objects, each stage bounded.  fill() decompresses a little more, next_object() measures
 * with scan_object() before anything is unpacked.  While streaming, the running digest, the record count and the
 * frame positions are kept, so that the trailer and the index are verified without a second look at the file.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "artifact.h"
#include "art_index.h"
#include "scan.h"
#include <errno.h>
#include <fcntl.h>
#include <lz4frame.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define IN_SIZE ((size_t)256 << 10)
#define OUT_STEP ((size_t)256 << 10)

struct art_r {
	int fd;
	char *name, kind[64], digest[33];
	int version;
	LZ4F_dctx *lz;
	uint8_t in[IN_SIZE];
	size_t ipos, ilen;
	uint64_t ibase;                  /* file offset of in[0] */
	bool in_frame, eof;
	int64_t frames;
	uint8_t *buf;                    /* decompressed bytes: the current object is at [at, at + scan.pos) */
	size_t at, n, cap;
	struct scan scan;
	bool taken;                      /* the object at `at` was given out and is to be skipped */
	msgpack_unpacked obj, head;
	uint8_t *head_bytes;
	size_t head_len;
	int64_t records;                 /* records given out, or number of the next one after a seek */
	bool done, sought, aligned;
	bool want_index, have_index, index_ok;
	int64_t bytes;                   /* read from the file */
	XXH3_state_t *hash, *frame_hash;
	struct art_entry *index;         /* loaded by art_record_count and art_seek_record */
	int64_t index_n;
};

/* ---- bytes ---- */

static int refill(struct art_r *r, struct err *e)
{
	if (r->ipos > 0) {
		memmove(r->in, r->in + r->ipos, r->ilen - r->ipos);
		r->ibase += r->ipos;
		r->ilen -= r->ipos;
		r->ipos = 0;
	}
	while (!r->eof && r->ilen < IN_SIZE) {
		ssize_t k = read(r->fd, r->in + r->ilen, IN_SIZE - r->ilen);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return err_sys(e, "%s: cannot read", r->name);
		r->eof = k == 0;
		r->ilen += (size_t)k;
		r->bytes += k;
		if (k > 0)
			break;
	}
	return 0;
}

/* At least `want` (small) bytes of input in the buffer; how many there are, or -1. */
static int64_t peek(struct art_r *r, size_t want, struct err *e)
{
	while (r->ilen - r->ipos < want && !r->eof)
		if (refill(r, e))
			return -1;
	return (int64_t)(r->ilen - r->ipos);
}

static int truncated(const struct art_r *r, struct err *e)
{
	if (!r->head_bytes)
		return err_set(e, EXIT_DATA, "%s: is truncated inside its header", r->name);
	return err_set(e, EXIT_DATA, "%s: is truncated after record %lld, expected a trailer", r->name, (long long)r->records);
}

/* ---- frames ---- */

static int check_index(struct art_r *r, const uint8_t *p, size_t n, struct err *e)
{
	const uint8_t *foot = p + n - INDEX_FOOTER;
	uint64_t entries = get_le(foot, 8);
	if (r->sought)
		return 0;
	if (entries * 16 != n - INDEX_FOOTER || entries != (uint64_t)r->frames || get_le(foot + 16, 8) != n + 8 ||
	    get_le(foot + 8, 8) != XXH3_64bits(p, n - INDEX_FOOTER) || !r->aligned ||
	    get_le(foot + 8, 8) != XXH3_64bits_digest(r->frame_hash))
		return err_set(e, EXIT_DATA, "%s: its index is damaged or does not match its frames", r->name);
	r->have_index = true;
	return 0;
}

/* A skippable frame at the input position: our index is checked, others are ignored. */
static int skip_frame(struct art_r *r, struct err *e)
{
	int64_t k = peek(r, 8, e);
	if (k < 8)
		return k < 0 ? -1 : truncated(r, e);
	bool ours = get_le(r->in + r->ipos, 4) == SKIP_MAGIC;
	uint64_t size = get_le(r->in + r->ipos + 4, 4);
	if (size > INDEX_MAX)
		return err_set(e, EXIT_DATA, "%s: has a skippable frame of %llu bytes, expected at most 256 MiB", r->name,
			       (unsigned long long)size);
	r->ipos += 8;
	uint8_t *p = NULL;
	size_t n = 0, cap = 0;
	while (n < size) {
		k = peek(r, 1, e);
		if (k <= 0) {
			free(p);
			return k < 0 ? -1 : truncated(r, e);
		}
		size_t take = (uint64_t)k < size - n ? (size_t)k : (size_t)(size - n);
		if (n + take > cap)
			p = xrealloc(p, cap = (n + take) * 2, 1);
		memcpy(p + n, r->in + r->ipos, take);
		r->ipos += take;
		n += take;
	}
	int rc = 0;
	if (ours && n >= INDEX_FOOTER && !memcmp(p + n - 8, INDEX_MAGIC, 8))
		rc = check_index(r, p, n, e);
	free(p);
	return rc;
}

/* Looks at the magic between frames.  1: a data frame begins; 0: clean end of input; -1 */
static int begin_frame(struct art_r *r, struct err *e)
{
	for (;;) {
		int64_t k = peek(r, 4, e);
		if (k <= 0)
			return (int)k;
		const uint8_t *p = r->in + r->ipos;
		uint32_t magic = k >= 4 ? (uint32_t)get_le(p, 4) : 0;
		if ((magic & 0xfffffff0u) == SKIP_MAGIC) {
			if (skip_frame(r, e))
				return -1;
			continue;
		}
		if (magic == LZ4_MAGIC)
			break;
		if (!r->frames)
			return err_set(e, EXIT_DATA, "%s: is not an adze artifact (starts with %02x %02x %02x %02x, expected 04 22 4d 18)",
				       r->name, p[0], k > 1 ? p[1] : 0, k > 2 ? p[2] : 0, k > 3 ? p[3] : 0);
		if (k < 4)
			return truncated(r, e);
		return err_set(e, EXIT_DATA, "%s: has garbage after record %lld (%02x %02x %02x %02x, expected an LZ4 frame)", r->name,
			       (long long)r->records, p[0], p[1], p[2], p[3]);
	}
	uint8_t entry[16];
	size_t object = r->taken ? r->scan.pos : 0;
	r->aligned &= r->n - r->at == object;
	put_le(entry, r->ibase + r->ipos, 8);
	put_le(entry + 8, (uint64_t)r->records, 8);
	XXH3_64bits_update(r->frame_hash, entry, 16);
	r->frames++;
	r->in_frame = true;
	return 1;
}

/* Decompresses until at least one more byte lies in buf.  1: yes; 0: clean end of input; -1 */
static int fill(struct art_r *r, struct err *e)
{
	if (r->at > 0) {
		memmove(r->buf, r->buf + r->at, r->n - r->at);
		r->n -= r->at;
		r->at = 0;
	}
	if (r->cap - r->n < OUT_STEP) {
		r->cap = r->n + r->n / 2 + 2 * OUT_STEP;
		r->buf = xrealloc(r->buf, r->cap, 1);
	}
	for (;;) {
		if (!r->in_frame) {
			int rc = begin_frame(r, e);
			if (rc <= 0)
				return rc;
		}
		int64_t k = peek(r, 1, e);
		if (k < 0)
			return -1;
		size_t src = (size_t)k, dst = r->cap - r->n;
		size_t hint = LZ4F_decompress(r->lz, r->buf + r->n, &dst, r->in + r->ipos, &src, NULL);
		if (LZ4F_isError(hint))
			return err_set(e, EXIT_DATA, "%s: is damaged after record %lld (LZ4 frame %lld: %s)", r->name,
				       (long long)r->records, (long long)r->frames - 1, LZ4F_getErrorName(hint));
		r->ipos += src;
		r->n += dst;
		if (hint == 0)
			r->in_frame = false;
		if (dst)
			return 1;
		if (k == 0 && src == 0 && r->in_frame)
			return truncated(r, e);
	}
}

/* ---- objects ---- */

/* Makes the next object whole at buf[at, at + scan.pos).  1, 0 at a clean end of input, -1 */
static int next_object(struct art_r *r, struct err *e)
{
	if (r->taken) {
		r->at += r->scan.pos;
		r->taken = false;
	}
	r->scan = (struct scan){ 0 };
	for (;;) {
		int rc = r->n > r->at ? scan_object(&r->scan, r->buf + r->at, r->n - r->at) : 0;
		if (rc < 0)
			return err_set(e, EXIT_DATA, "%s: record %lld: %s", r->name, (long long)r->records, r->scan.why);
		if (rc > 0) {
			r->taken = true;
			return 1;
		}
		bool partial = r->n > r->at;
		rc = fill(r, e);
		if (rc < 0)
			return -1;
		if (rc == 0)
			return partial ? truncated(r, e) : 0;
	}
}

static int unpack(struct art_r *r, msgpack_unpacked *u, const uint8_t *p, size_t n, struct err *e)
{
	size_t off = 0;
	msgpack_unpacked_destroy(u);
	msgpack_unpacked_init(u);
	if (msgpack_unpack_next(u, (const char *)p, n, &off) != MSGPACK_UNPACK_SUCCESS || off != n)
		return err_set(e, EXIT_DATA, "%s: record %lld: not valid msgpack", r->name, (long long)r->records);
	if (u->data.type != MSGPACK_OBJECT_MAP)
		return err_set(e, EXIT_DATA, "%s: record %lld: is %s, expected a map", r->name, (long long)r->records,
			       obj_type_name(&u->data));
	return 0;
}

static int read_header(struct art_r *r, const char *kind, int max_version, struct err *e)
{
	char format[16];
	int64_t v;
	int rc = next_object(r, e);
	if (rc < 0)
		return -1;
	if (rc == 0)
		return err_set(e, EXIT_DATA, "%s: is empty, expected an adze artifact%s", r->name,
			       r->fd == STDIN_FILENO ? " (did the program before it fail?)" : "");
	r->head_len = r->scan.pos;
	r->head_bytes = xmalloc(r->head_len);
	memcpy(r->head_bytes, r->buf + r->at, r->head_len);
	XXH3_128bits_update(r->hash, r->head_bytes, r->head_len);
	if (unpack(r, &r->head, r->head_bytes, r->head_len, e) ||
	    obj_str(r, &r->head.data, "format", format, sizeof format, e) || strcmp(format, "adze"))
		return err_set(e, EXIT_DATA, "%s: is not an adze artifact (no header map with format 'adze')", r->name);
	if (obj_int(r, &r->head.data, "container", &v, e))
		return -1;
	if (v != 1)
		return err_set(e, EXIT_DATA, "%s: has container version %lld, this program reads 1", r->name, (long long)v);
	if (obj_str(r, &r->head.data, "kind", r->kind, sizeof r->kind, e))
		return -1;
	if (kind && strcmp(kind, r->kind))
		return err_set(e, EXIT_DATA, "%s: is a '%s' artifact, expected '%s'", r->name, r->kind, kind);
	if (obj_int(r, &r->head.data, "version", &v, e))
		return -1;
	if (v < 1 || v > max_version)
		return err_set(e, EXIT_DATA, "%s: is version %lld of '%s', this program reads 1..%d", r->name, (long long)v, r->kind,
			       max_version);
	r->version = (int)v;
	const msgpack_object *m = obj_get(&r->head.data, "meta");
	if (!m || m->type != MSGPACK_OBJECT_MAP)
		return err_set(e, EXIT_DATA, "%s: its header has no meta map", r->name);
	return 0;
}

struct art_r *art_open(const char *path, const char *kind, int max_version, struct err *e)
{
	bool std = !path || !strcmp(path, "-");
	if (std && isatty(STDIN_FILENO)) {
		err_set(e, EXIT_USAGE, "stdin is a terminal: name a%s artifact or pipe one in", kind ? kind : "n");
		return NULL;
	}
	int fd = std ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		err_sys(e, "%s: cannot open", path);
		return NULL;
	}
	struct art_r *r = xcalloc(1, sizeof *r);
	r->fd = fd;
	r->name = xstrdup(std ? "stdin" : path);
	r->aligned = true;
	r->hash = XXH3_createState();
	r->frame_hash = XXH3_createState();
	if (!r->hash || !r->frame_hash || LZ4F_isError(LZ4F_createDecompressionContext(&r->lz, LZ4F_VERSION)))
		die(EXIT_RESOURCE, "out of memory");
	XXH3_128bits_reset(r->hash);
	XXH3_64bits_reset(r->frame_hash);
	msgpack_unpacked_init(&r->obj);
	msgpack_unpacked_init(&r->head);
	if (read_header(r, kind, max_version, e)) {
		art_close(r);
		return NULL;
	}
	return r;
}

/* Count, digest, and nothing but the index behind it. */
static int check_trailer(struct art_r *r, struct err *e)
{
	int64_t count;
	char claimed[40];
	XXH128_hash_t h = XXH3_128bits_digest(r->hash);
	const msgpack_object *ix = obj_get(&r->obj.data, "index");
	snprintf(r->digest, sizeof r->digest, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
	if (obj_int(r, &r->obj.data, "records", &count, e) || obj_str(r, &r->obj.data, "digest", claimed, sizeof claimed, e))
		return -1;
	if (count != r->records)
		return err_set(e, EXIT_DATA, "%s: has %lld records, its trailer says %lld", r->name, (long long)r->records, (long long)count);
	if (r->sought)
		snprintf(r->digest, sizeof r->digest, "%.32s", claimed);
	else if (strcmp(claimed, r->digest))
		return err_set(e, EXIT_DATA, "%s: its content has digest %s, its trailer says %s", r->name, r->digest, claimed);
	int rc = next_object(r, e);
	if (rc < 0)
		return -1;
	if (rc > 0 || r->n > r->at)
		return err_set(e, EXIT_DATA, "%s: has data after its trailer", r->name);
	if (!r->sought && ix && ix->type == MSGPACK_OBJECT_BOOLEAN && ix->via.boolean && !r->have_index)
		return err_set(e, EXIT_DATA, "%s: is truncated after its trailer, expected an index", r->name);
	return 0;
}

int art_next(struct art_r *r, const msgpack_object **rec, struct err *e)
{
	if (r->done)
		return 0;
	int rc = next_object(r, e);
	if (rc == 0)
		rc = truncated(r, e);
	if (rc < 0 || unpack(r, &r->obj, r->buf + r->at, r->scan.pos, e))
		return -1;
	const msgpack_object *t = obj_get(&r->obj.data, "trailer");
	if (t && t->type == MSGPACK_OBJECT_BOOLEAN) {
		/* the trailer's strings lie in buf: copy what matters before next_object() moves it */
		if (check_trailer(r, e))
			return -1;
		r->done = true;
		return 0;
	}
	if (!r->sought)
		XXH3_128bits_update(r->hash, r->buf + r->at, r->scan.pos);
	r->records++;
	*rec = &r->obj.data;
	return 1;
}

void art_close(struct art_r *r)
{
	if (!r)
		return;
	if (r->fd != STDIN_FILENO)
		close(r->fd);
	msgpack_unpacked_destroy(&r->obj);
	msgpack_unpacked_destroy(&r->head);
	LZ4F_freeDecompressionContext(r->lz);
	XXH3_freeState(r->hash);
	XXH3_freeState(r->frame_hash);
	free(r->head_bytes);
	free(r->index);
	free(r->buf);
	free(r->name);
	free(r);
}

const char *art_kind(const struct art_r *r) { return r->kind; }
int art_version(const struct art_r *r) { return r->version; }
const char *art_name(const struct art_r *r) { return r->name; }
const msgpack_object *art_header(const struct art_r *r) { return &r->head.data; }
const msgpack_object *art_meta(const struct art_r *r) { return obj_get(&r->head.data, "meta"); }
int64_t art_bytes_read(const struct art_r *r) { return r->bytes; }
int64_t art_record_number(const struct art_r *r) { return r->records - 1; }

const char *art_digest(const struct art_r *r)
{
	return r->digest;
}

void art_header_digest(const struct art_r *r, char out[33])
{
	digest_hex(r->head_bytes, r->head_len, out);
}

/* ---- random access ---- */

static int no_index(const struct art_r *r, const char *why, struct err *e)
{
	return err_set(e, EXIT_DATA, "%s: no random access: %s", r->name, why);
}

static int load_index(struct art_r *r, struct err *e)
{
	uint8_t foot[INDEX_FOOTER], *p;
	struct stat st;
	if (r->index)
		return 0;
	if (fstat(r->fd, &st) || !S_ISREG(st.st_mode))
		return no_index(r, "it is not a regular file", e);
	if (st.st_size < INDEX_FOOTER + 8 || pread(r->fd, foot, sizeof foot, st.st_size - INDEX_FOOTER) != INDEX_FOOTER ||
	    memcmp(foot + 24, INDEX_MAGIC, 8))
		return no_index(r, "it has no index at its end", e);
	uint64_t n = get_le(foot, 8), total = get_le(foot + 16, 8);
	if (n < 2 || n > INDEX_MAX / 16 || total != n * 16 + INDEX_FOOTER + 8 || total > (uint64_t)st.st_size)
		return no_index(r, "its index is damaged", e);
	p = xmalloc(n * 16);
	if (pread(r->fd, p, n * 16, st.st_size - (off_t)total + 8) != (ssize_t)(n * 16) || XXH3_64bits(p, n * 16) != get_le(foot + 8, 8)) {
		free(p);
		return no_index(r, "its index is damaged", e);
	}
	r->bytes += (int64_t)(sizeof foot + n * 16);
	struct art_entry *x = xcalloc(n, sizeof *x);
	bool ok = true;
	for (uint64_t i = 0; i < n; i++) {
		x[i] = (struct art_entry){ get_le(p + 16 * i, 8), get_le(p + 16 * i + 8, 8) };
		ok &= x[i].offset < (uint64_t)st.st_size && x[i].record < (uint64_t)1 << 62;
		ok &= i ? x[i].offset > x[i - 1].offset && x[i].record >= x[i - 1].record : x[i].record == 0;
	}
	free(p);
	if (!ok) {
		free(x);
		return no_index(r, "its index is out of order", e);
	}
	r->index = x;
	r->index_n = (int64_t)n;
	return 0;
}

int64_t art_record_count(struct art_r *r, struct err *e)
{
	if (load_index(r, e))
		return -1;
	return (int64_t)r->index[r->index_n - 1].record; /* the trailer's frame */
}

/* Starts over at a frame of the index. */
static int enter_frame(struct art_r *r, const struct art_entry *x, struct err *e)
{
	if (lseek(r->fd, (off_t)x->offset, SEEK_SET) < 0)
		return err_sys(e, "%s: cannot seek", r->name);
	LZ4F_resetDecompressionContext(r->lz);
	r->ipos = r->ilen = r->at = r->n = 0;
	r->ibase = x->offset;
	r->in_frame = r->eof = r->taken = r->done = false;
	r->records = (int64_t)x->record;
	r->sought = true;
	return 0;
}

int art_seek_end(struct art_r *r, struct err *e)
{
	if (load_index(r, e))
		return -1;
	return enter_frame(r, &r->index[r->index_n - 1], e);
}

int art_seek_record(struct art_r *r, int64_t i, struct err *e)
{
	if (load_index(r, e))
		return -1;
	int64_t n = art_record_count(r, e), lo = 0, hi = r->index_n - 1;
	if (i < 0 || i >= n)
		return err_set(e, EXIT_DATA, "%s: has no record %lld, only 0..%lld", r->name, (long long)i, (long long)n - 1);
	while (lo < hi) { /* the last frame whose first record is <= i; the header's frame also says 0 */
		int64_t mid = (lo + hi + 1) / 2;
		if (r->index[mid].record <= (uint64_t)i)
			lo = mid;
		else
			hi = mid - 1;
	}
	bool ahead = !r->done && r->sought && r->records <= i && r->records >= (int64_t)r->index[lo].record;
	if (!ahead && enter_frame(r, &r->index[lo], e))
		return -1;
	while (r->records < i) {
		int rc = next_object(r, e);
		if (rc <= 0)
			return rc < 0 ? -1 : truncated(r, e);
		r->records++;
	}
	return 0;
}
