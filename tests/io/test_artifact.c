/*
 * test_artifact.c - the container: round trips, random access, every truncation, every flipped byte, hostile msgpack
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/io/artifact.h"
#include "../../common/io/scan.h"
#include "../../common/io/schema.h"
#include "../../common/base/outfile.h"
#include "../../common/base/rng.h"
#include <lz4frame.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[] = "/tmp/adze-artifact-XXXXXX", path[128], copy[128];

static int setup(void **state)
{
	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/a", dir);
	snprintf(copy, sizeof copy, "%s/b", dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return remove_tree(dir, NULL);
}

/* Plain write to a fresh file: thousands of variants must not wait for the disk. */
static void put(const void *p, size_t n)
{
	unlink(copy);
	FILE *f = fopen(copy, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

/* n token samples of seq ids each: ids[j] = (i * 7 + j) & 0xffff */
static void write_tokens(const char *to, int64_t n, int64_t seq, const struct prov *p)
{
	struct err e = { 0 };
	struct art_w *w = art_create(to, "tokens", 1, p, true, &e);
	assert_non_null(w);
	art_meta_str(w, "tokenizer", "0123456789abcdef0123456789abcdef");
	art_meta_int(w, "vocab", 65536);
	art_meta_int(w, "seq", seq);
	uint16_t *ids = malloc((size_t)seq * 2 + 2);
	for (int64_t i = 0; i < n; i++) {
		for (int64_t j = 0; j < seq; j++)
			ids[j] = (uint16_t)(i * 7 + j * 2654435761);
		art_map(w, 3);
		art_key(w, "i"), art_int(w, i);
		art_key(w, "ids"), art_array(w, ART_U16, 1, &seq, ids);
		art_key(w, "doc"), art_int(w, i / 2);
		assert_int_equal(art_end_record(w, &e), 0);
	}
	free(ids);
	assert_int_equal(art_commit(w, &e), 0);
}

static int read_all(const char *from, int64_t *records, char digest[33], struct err *e)
{
	const msgpack_object *rec;
	struct art_r *r = art_open(from, "tokens", 1, e);
	int rc;
	*records = 0;
	if (!r)
		return -1;
	while ((rc = art_next(r, &rec, e)) > 0)
		++*records;
	memcpy(digest, art_digest(r), 33);
	art_close(r);
	return rc;
}

static void round_trip(void **state)
{
	static const int64_t counts[] = { 0, 1, 3, 1000 };
	(void)state;
	for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
		const msgpack_object *rec;
		struct err e = { 0 };
		int64_t i, n, seen = 0;
		const void *data;
		write_tokens(path, counts[c], 3001, NULL);
		struct art_r *r = art_open(path, "tokens", 1, &e);
		assert_non_null(r);
		assert_string_equal(art_kind(r), "tokens");
		assert_int_equal(art_version(r), 1);
		assert_int_equal(obj_int(r, art_meta(r), "vocab", &i, &e), 0);
		assert_int_equal(i, 65536);
		int rc;
		while ((rc = art_next(r, &rec, &e)) > 0) {
			uint16_t x;
			assert_int_equal(obj_int(r, rec, "i", &i, &e), 0);
			assert_int_equal(i, seen++);
			assert_int_equal(obj_array(r, rec, "ids", ART_U16, -1, &data, &n, &e), 0);
			assert_int_equal(n, 3001);
			memcpy(&x, (const char *)data + 2 * 3000, 2);
			assert_int_equal(x, (uint16_t)(i * 7 + 3000 * 2654435761));
			assert_int_equal(obj_array(r, rec, "ids", ART_U32, -1, &data, &n, &e), -1);
			assert_int_equal(obj_array(r, rec, "ids", ART_U16, 7, &data, &n, &e), -1);
			assert_int_equal(obj_int(r, rec, "absent", &i, &e), -1);
			assert_int_equal(e.code, EXIT_DATA);
		}
		assert_int_equal(rc, 0);
		assert_int_equal(seen, counts[c]);
		assert_int_equal(strlen(art_digest(r)), 32);
		assert_int_equal(art_next(r, &rec, &e), 0);
		art_close(r);
	}
}

static void random_access(void **state)
{
	struct err e = { 0 };
	const msgpack_object *rec;
	int64_t i;
	(void)state;
	write_tokens(path, 2000, 3001, NULL);
	struct art_r *r = art_open(path, "tokens", 1, &e);
	assert_int_equal(art_record_count(r, &e), 2000);
	static const int64_t at[] = { 1999, 0, 1, 5, 1000, 999, 174, 175, 176, 1998, 1999 };
	for (size_t k = 0; k < sizeof at / sizeof *at; k++) {
		assert_int_equal(art_seek_record(r, at[k], &e), 0);
		assert_int_equal(art_next(r, &rec, &e), 1);
		assert_int_equal(art_record_number(r), at[k]);
		assert_int_equal(obj_int(r, rec, "i", &i, &e), 0);
		assert_int_equal(i, at[k]);
	}
	assert_int_equal(art_next(r, &rec, &e), 0); /* at[] ends with the last record */
	assert_int_equal(art_seek_record(r, 2000, &e), -1);
	assert_int_equal(art_seek_record(r, -1, &e), -1);
	assert_int_equal(art_seek_record(r, 7, &e), 0);
	art_close(r);
}

static void same_bytes(void **state)
{
	struct err e = { 0 };
	size_t n, m;
	(void)state;
	write_tokens(path, 20, 100, NULL);
	write_tokens(copy, 20, 100, NULL);
	char *a = file_read_new(path, 1 << 20, &n, &e), *b = file_read_new(copy, 1 << 20, &m, &e);
	assert_int_equal(n, m);
	assert_memory_equal(a, b, n);
	free(a);
	free(b);
}

static void every_truncation(void **state)
{
	struct err e = { 0 };
	size_t n;
	int64_t k;
	char digest[33];
	(void)state;
	write_tokens(path, 5, 40, NULL);
	char *a = file_read_new(path, 1 << 20, &n, &e);
	for (size_t len = 0; len < n; len++) {
		put(a, len);
		if (read_all(copy, &k, digest, &e) != -1 || e.code != EXIT_DATA)
			fail_msg("%zu of %zu bytes were taken (code %d)", len, n, e.code);
	}
	put(a, n);
	assert_int_equal(read_all(copy, &k, digest, &e), 0);
	a = realloc(a, n + 8);
	memset(a + n, 'x', 8);
	for (size_t more = 1; more <= 8; more++) {
		put(a, n + more);
		assert_int_equal(read_all(copy, &k, digest, &e), -1);
		assert_int_equal(e.code, EXIT_DATA);
	}
	free(a);
}

static void every_flipped_bit(void **state)
{
	struct err e = { 0 };
	size_t n;
	int64_t k;
	char digest[33];
	(void)state;
	write_tokens(path, 3, 20, NULL);
	char *a = file_read_new(path, 1 << 20, &n, &e);
	for (size_t bit = 0; bit < 8 * n; bit++) {
		a[bit / 8] ^= (char)(1 << (bit % 8));
		put(a, n);
		if (read_all(copy, &k, digest, &e) != -1 || e.code != EXIT_DATA)
			fail_msg("bit %zu of %zu flipped and not noticed (code %d)", bit, 8 * n, e.code);
		struct art_r *r = art_open(copy, NULL, 1, &e);
		const msgpack_object *rec;
		if (r && art_seek_record(r, 1, &e) == 0) /* must not crash; may succeed where the damage is elsewhere */
			art_next(r, &rec, &e);
		art_close(r);
		a[bit / 8] ^= (char)(1 << (bit % 8));
	}
	free(a);
}

static void wrong_things(void **state)
{
	struct err e = { 0 };
	(void)state;
	write_tokens(path, 3, 20, NULL);
	assert_null(art_open(path, "stats", 1, &e));
	assert_non_null(strstr(e.msg, "is a 'tokens' artifact, expected 'stats'"));
	assert_int_equal(e.code, EXIT_DATA);
	assert_null(art_open(path, "tokens", 0, &e));
	assert_non_null(strstr(e.msg, "version"));
	assert_null(art_open("/nonexistent/x", NULL, 1, &e));
	assert_int_equal(e.code, EXIT_IO);
	assert_int_equal(file_write(copy, "{\"not\": 1}\n", 11, &e), 0);
	assert_null(art_open(copy, NULL, 1, &e));
	assert_non_null(strstr(e.msg, "is not an adze artifact"));
	assert_null(art_create(path, "tokens", 1, NULL, false, &e));
	assert_non_null(strstr(e.msg, "exists already"));
}

/* Wraps raw msgpack bytes in one frame and tries to read them. */
static void hostile(const void *p, size_t n)
{
	struct err e = { 0 };
	char digest[33];
	int64_t k;
	size_t cap = LZ4F_compressFrameBound(n, NULL), len;
	char *out = malloc(cap);
	len = LZ4F_compressFrame(out, cap, p, n, NULL);
	put(out, len);
	assert_int_equal(read_all(copy, &k, digest, &e), -1);
	assert_int_equal(e.code, EXIT_DATA);
	free(out);
}

static void hostile_msgpack(void **state)
{
	uint8_t deep[4000];
	(void)state;
	memset(deep, 0x91, sizeof deep);
	hostile(deep, sizeof deep);
	hostile("\xdd\xff\xff\xff\xff", 5);             /* list of 2^32-1 */
	hostile("\xdf\x7f\xff\xff\xff\xc0", 6);         /* map of 2^31-1 */
	hostile("\xc6\xff\xff\xff\xff", 5);             /* bin of 4 GiB */
	hostile("\xc6\x3f\xff\xff\xf0zzzz", 9);         /* bin of almost 1 GiB, not there */
	hostile("\xc1", 1);
	hostile("\xc0", 1);
	hostile("\x80", 1);
	hostile("\x81\xa6""format\xa4""adze", 13);
	hostile("", 0);
}

/* Random damage below the checksums: msgpack bytes changed, then compressed again.  Anything goes but a crash. */
static void mutated_msgpack(void **state)
{
	struct err e = { 0 };
	size_t n, m = 1 << 20, used = 0;
	(void)state;
	write_tokens(path, 4, 30, NULL);
	char *file = file_read_new(path, 1 << 20, &n, &e), *plain = malloc(m), *bad = malloc(m), *out = malloc(2 << 20);
	LZ4F_dctx *lz;
	LZ4F_createDecompressionContext(&lz, LZ4F_VERSION);
	for (size_t in = 0; in < n;) {
		size_t src = n - in, dst = m - used;
		LZ4F_decompress(lz, plain + used, &dst, file + in, &src, NULL);
		in += src;
		used += dst;
	}
	LZ4F_freeDecompressionContext(lz);
	for (uint64_t round = 0; round < 4000; round++) {
		const msgpack_object *rec;
		struct art_view v;
		memcpy(bad, plain, used);
		for (uint64_t k = 0; k <= round % 4; k++)
			bad[rng_below(1, round, 2 * k, used)] = (char)rng_u64(2, round, 2 * k + 1);
		put(out, LZ4F_compressFrame(out, 2 << 20, bad, used, NULL));
		struct art_r *r = art_open(copy, NULL, 1 << 20, &e);
		while (r && art_next(r, &rec, &e) > 0) {
			const msgpack_object *o = obj_get(rec, "ids");
			schema_check("tokens", rec, &e);
			if (o && !obj_view(o, &v, &e) && v.n)
				art_view_at(&v, v.n - 1);
		}
		if (r) {
			struct prov p = { 0 };
			prov_add_artifact(&p, "x", r);
			schema_check_meta("tokens", art_meta(r), &e);
		}
		art_close(r);
	}
	free(file);
	free(plain);
	free(bad);
	free(out);
}

static void scanner_resumes(void **state)
{
	msgpack_sbuffer b;
	msgpack_packer pk;
	(void)state;
	msgpack_sbuffer_init(&b);
	msgpack_packer_init(&pk, &b, msgpack_sbuffer_write);
	msgpack_pack_map(&pk, 3);
	msgpack_pack_int(&pk, -70000), msgpack_pack_double(&pk, 1.5);
	msgpack_pack_array(&pk, 2), msgpack_pack_map(&pk, 0), msgpack_pack_str(&pk, 300);
	for (int i = 0; i < 300; i++)
		msgpack_pack_str_body(&pk, "x", 1);
	msgpack_pack_nil(&pk), msgpack_pack_bin(&pk, 3), msgpack_pack_bin_body(&pk, "abc", 3);
	msgpack_pack_true(&pk), msgpack_pack_array(&pk, 0);
	for (size_t step = 1; step < 40; step++) {
		struct scan s = { 0 };
		size_t n = 0, first = b.size - 1; /* the last byte is the next object */
		while (scan_object(&s, (const uint8_t *)b.data, n) == 0)
			assert_true((n += step) < b.size + step);
		assert_int_equal(s.pos, first);
	}
	msgpack_sbuffer_destroy(&b);
}

static void chains(void **state)
{
	struct err e = { 0 };
	const msgpack_object *rec;
	struct prov p = { .seed = 5 }, q = { .seed = 6 };
	char digest[33];
	(void)state;
	prov_add_digest(&p, "text", "/some/where/corpus.txt", "text", "00112233445566778899aabbccddeeff");
	write_tokens(path, 2, 10, &p);
	struct art_r *r = art_open(path, "tokens", 1, &e);
	while (art_next(r, &rec, &e) > 0)
		;
	memcpy(digest, art_digest(r), 33);
	prov_add_artifact(&q, "tokens", r);
	art_close(r);
	write_tokens(copy, 1, 10, &q);
	r = art_open(copy, "tokens", 1, &e);
	const msgpack_object *in = obj_get(art_header(r), "inputs");
	assert_int_equal(in->via.array.size, 1);
	const msgpack_object *chain = obj_get(&in->via.array.ptr[0], "chain");
	assert_int_equal(chain->via.array.size, 1);
	const msgpack_object *d = obj_get(&chain->via.array.ptr[0], "digest");
	assert_memory_equal(d->via.str.ptr, digest, 32);
	struct prov t = { 0 };
	prov_add_artifact(&t, "tokens", r); /* nothing read yet: the digest is the header's */
	assert_true(t.in[0].header_only);
	art_close(r);
}

static void schema(void **state)
{
	struct err e = { 0 };
	int64_t dims[2] = { 6, 4 };
	double sums[28] = { 0 };
	(void)state;
	assert_int_equal(schema_version("stats"), 1);
	assert_int_equal(schema_version("nonsense"), 0);
	for (int bad = 0; bad < 4; bad++) {
		struct art_w *w = art_create(path, "stats", 1, NULL, true, &e);
		art_meta_str(w, "model", "ff"), art_meta_int(w, "layers", 2), art_meta_int(w, "hidden", 4);
		dims[0] = bad == 1 ? 6 : 7;
		art_map(w, bad == 3 ? 3 : 6);
		art_key(w, "site"), art_str(w, "ffn_act");
		art_key(w, "layer"), art_int(w, bad == 2 ? -2 : 0);
		art_key(w, "tokens"), art_int(w, 3);
		if (bad != 3) {
			art_key(w, "unit"), art_int(w, 1);
			art_key(w, "n"), art_int(w, 1);
			art_key(w, "sums"), art_array(w, ART_F64, 2, dims, sums);
		}
		assert_int_equal(art_end_record(w, &e), bad ? -1 : 0);
		art_abort(w);
	}
	assert_non_null(strstr(e.msg, "none of the fields"));
	assert_int_equal(access(path, F_OK), 0); /* an earlier file stays as it was */
}

int main(int argc, char **argv)
{
	if (argc == 5 && !strcmp(argv[1], "--make")) { /* for test_artifact.sh: --make PATH SAMPLES SEQ */
		prog_name = "test";
		write_tokens(argv[2], atoll(argv[3]), atoll(argv[4]), NULL);
		return 0;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip), cmocka_unit_test(random_access), cmocka_unit_test(same_bytes),
		cmocka_unit_test(every_truncation), cmocka_unit_test(every_flipped_bit), cmocka_unit_test(wrong_things),
		cmocka_unit_test(hostile_msgpack),
		cmocka_unit_test(mutated_msgpack), cmocka_unit_test(scanner_resumes), cmocka_unit_test(chains), cmocka_unit_test(schema),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
