/*
 * artdiff.c - are two artifacts the same, and if not, where and by how much?
 *
 * Kind, version, meta and records are compared in order; how the artifacts were made (program, arguments, inputs) only
 * with --provenance.  Numbers and array elements may differ by --tolerance.  Prints the first difference, then per
 * array field the largest absolute difference.  Exit code 1: different.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/opt.h"
#include "../common/io/artifact.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct { double tolerance; bool provenance, quiet; } o;
static const struct opt opts[] = {
	OPT_F64('t', "tolerance", &o.tolerance, "X", "absolute difference allowed between numbers", 0, HUGE_VAL),
	OPT_FLAG('p', "provenance", &o.provenance, "compare also program, arguments, seed and inputs"),
	OPT_FLAG('q', "quiet", &o.quiet, "only the exit code"),
	OPT_END
};
static const struct usage use = {
	"artdiff", "Compares two artifacts; exit code 1 and the first difference when they differ.", "[-t X] A B",
	"artdiff once.stats again.stats\nartdiff --tolerance 1e-6 cpu.stats cuda.stats", opts
};

struct field {
	char name[64];
	int64_t elements, differ, record;
	double max, a, b;
};
static struct field *fields;
static int n_fields;
static int64_t record = -1; /* -1: header */
static char first[512];

static void differ(const char *path, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void differ(const char *path, const char *fmt, ...)
{
	va_list ap;
	if (*first)
		return;
	int k = record < 0 ? snprintf(first, sizeof first, "header: ") : snprintf(first, sizeof first, "record %" PRId64 ": ", record);
	k += snprintf(first + k, sizeof first - (size_t)k, "%.80s%s", path, *path ? ": " : "");
	va_start(ap, fmt);
	vsnprintf(first + k, sizeof first - (size_t)k, fmt, ap);
	va_end(ap);
}

static struct field *field_of(const char *path)
{
	for (int i = 0; i < n_fields; i++)
		if (!strcmp(fields[i].name, path))
			return &fields[i];
	fields = xrealloc(fields, (size_t)n_fields + 1, sizeof *fields);
	fields[n_fields] = (struct field){ .record = -1 };
	snprintf(fields[n_fields].name, sizeof fields->name, "%s", path);
	return &fields[n_fields++];
}

/* NaN equals NaN; so do equal infinities. */
static double distance(double a, double b)
{
	if (a == b || (isnan(a) && isnan(b)))
		return 0;
	double d = fabs(a - b);
	return isnan(d) ? HUGE_VAL : d;
}

static void diff_arrays(const char *path, const struct art_view *a, const struct art_view *b)
{
	if (a->dtype != b->dtype) {
		differ(path, "dtype %s against %s", art_dtype_name(a->dtype), art_dtype_name(b->dtype));
		return;
	}
	if (a->nd != b->nd || memcmp(a->dims, b->dims, sizeof a->dims)) {
		differ(path, "shapes differ (%" PRId64 " against %" PRId64 " elements)", a->n, b->n);
		return;
	}
	struct field *f = field_of(path);
	f->elements += a->n;
	if (!memcmp(a->data, b->data, (size_t)a->n * art_dtype_size(a->dtype)))
		return;
	for (int64_t i = 0; i < a->n; i++) {
		double x = art_view_at(a, i), y = art_view_at(b, i), d = distance(x, y);
		if (d > o.tolerance) {
			f->differ++;
			differ(path, "element %" PRId64 ": %.9g against %.9g", i, x, y);
		}
		if (d > f->max) {
			f->max = d;
			f->record = record;
			f->a = x;
			f->b = y;
		}
	}
}

static bool number(const msgpack_object *x, double *v)
{
	if (x->type == MSGPACK_OBJECT_FLOAT32 || x->type == MSGPACK_OBJECT_FLOAT64)
		*v = x->via.f64;
	else if (x->type == MSGPACK_OBJECT_POSITIVE_INTEGER)
		*v = (double)x->via.u64;
	else if (x->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
		*v = (double)x->via.i64;
	else
		return false;
	return true;
}

static void diff_objects(const char *path, const msgpack_object *a, const msgpack_object *b);

static void diff_maps(const char *path, const msgpack_object *a, const msgpack_object *b)
{
	char sub[128], key[48];
	for (int side = 0; side < 2; side++) {
		const msgpack_object *m = side ? b : a, *other = side ? a : b;
		for (uint32_t i = 0; i < m->via.map.size; i++) {
			const msgpack_object *k = &m->via.map.ptr[i].key;
			if (k->type != MSGPACK_OBJECT_STR)
				continue;
			snprintf(key, sizeof key, "%.*s", k->via.str.size < 40 ? (int)k->via.str.size : 40, k->via.str.ptr);
			const msgpack_object *v = obj_get(other, key);
			if (!v)
				differ(path, "only the %s has field '%s'", side ? "second" : "first", key);
			snprintf(sub, sizeof sub, "%.70s%s%s", path, *path ? "." : "", key);
			if (v && !side)
				diff_objects(sub, &m->via.map.ptr[i].val, v);
		}
	}
}

static void diff_objects(const char *path, const msgpack_object *a, const msgpack_object *b)
{
	struct art_view va, vb;
	double x, y;
	if (number(a, &x) && number(b, &y)) {
		if (!msgpack_object_equal(*a, *b) && (distance(x, y) > o.tolerance || o.tolerance == 0))
			differ(path, "%.17g against %.17g", x, y);
	} else if (a->type != b->type) {
		differ(path, "%s against %s", obj_type_name(a), obj_type_name(b));
	} else if (a->type == MSGPACK_OBJECT_STR) {
		if (!msgpack_object_equal(*a, *b))
			differ(path, "'%.*s' against '%.*s'", a->via.str.size < 60 ? (int)a->via.str.size : 60, a->via.str.ptr,
			       b->via.str.size < 60 ? (int)b->via.str.size : 60, b->via.str.ptr);
	} else if (a->type == MSGPACK_OBJECT_MAP) {
		if (!obj_view(a, &va, NULL) && !obj_view(b, &vb, NULL))
			diff_arrays(path, &va, &vb);
		else
			diff_maps(path, a, b);
	} else if (a->type == MSGPACK_OBJECT_ARRAY && a->via.array.size == b->via.array.size) {
		for (uint32_t i = 0; i < a->via.array.size; i++)
			diff_objects(path, &a->via.array.ptr[i], &b->via.array.ptr[i]);
	} else if (!msgpack_object_equal(*a, *b)) {
		differ(path, "values differ");
	}
}

static void diff_headers(struct art_r *a, struct art_r *b)
{
	if (strcmp(art_kind(a), art_kind(b)))
		differ("kind", "%s against %s", art_kind(a), art_kind(b));
	if (art_version(a) != art_version(b))
		differ("version", "%d against %d", art_version(a), art_version(b));
	if (o.provenance)
		diff_objects("", art_header(a), art_header(b));
	else
		diff_objects("meta", art_meta(a), art_meta(b));
}

static void report(void)
{
	for (int i = 0; i < n_fields; i++) {
		const struct field *f = &fields[i];
		printf("%s: %" PRId64 " of %" PRId64 " elements differ", f->name, f->differ, f->elements);
		if (f->max > 0)
			printf(", largest difference %.3g (%.9g against %.9g in record %" PRId64 ")", f->max, f->a, f->b, f->record);
		putchar('\n');
	}
}

int main(int argc, char **argv)
{
	struct err e = { 0 };
	const msgpack_object *ra, *rb;
	if (opt_parse(&use, argc, argv) != 2)
		opt_die("two artifacts are compared: A B");
	struct art_r *a = art_open(argv[0], NULL, 1 << 20, &e);
	struct art_r *b = a ? art_open(argv[1], NULL, 1 << 20, &e) : NULL;
	if (!b)
		die_err(&e);
	diff_headers(a, b);
	for (record = 0;; record++) {
		int ka = art_next(a, &ra, &e), kb = ka < 0 ? ka : art_next(b, &rb, &e);
		if (ka < 0 || kb < 0)
			die_err(&e);
		if (ka != kb)
			differ("", "only the %s has it", ka ? "first" : "second");
		if (!ka || !kb)
			break;
		diff_objects("", ra, rb);
	}
	art_close(a);
	art_close(b);
	if (!o.quiet) {
		if (*first)
			printf("first difference: %s\n", first);
		report();
	}
	if (fflush(stdout) || ferror(stdout))
		die(EXIT_IO, "stdout: cannot write");
	free(fields);
	return *first ? EXIT_FAIL : EXIT_DONE;
}
