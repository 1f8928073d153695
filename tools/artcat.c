/*
 * artcat.c - any artifact as JSON lines: the header, one line per record, the trailer
 *
 * Arrays become nested JSON lists in their shape; numbers are printed with as few digits as read back the same.  JSON has
 * no NaN: "NaN", "Infinity" and "-Infinity" are strings.  The trailer is printed only after it was verified.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/io/artifact.h"
#include "../common/io/jsontext.h"
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct { bool summary, header; int64_t limit; } o = { .limit = -1 };
static const struct opt opts[] = {
	OPT_FLAG('s', "summary", &o.summary, "for arrays print dtype, shape, smallest and largest value"),
	OPT_FLAG(0, "header", &o.header, "print the header only"),
	OPT_I64('n', "records", &o.limit, "N", "print the first N records only, -1 for all", -1, INT64_MAX),
	OPT_END
};
static const struct usage use = {
	"artcat", "Prints any artifact as JSON lines: its header, each record, its trailer.", "[-s] [FILE]",
	"artcat --summary teacher.stats\nartcat train.tok | jq -c .ids[:8]", opts
};

static void put_number(double v, bool single)
{
	char buf[40];
	if (!isfinite(v)) {
		fputs(isnan(v) ? "\"NaN\"" : v > 0 ? "\"Infinity\"" : "\"-Infinity\"", stdout);
		return;
	}
	for (int digits = single ? 6 : 15; digits <= 17; digits++) {
		snprintf(buf, sizeof buf, "%.*g", digits, v);
		double back = strtod(buf, NULL);
		if (single ? (float)back == (float)v : back == v)
			break;
	}
	fputs(buf, stdout);
}

static void put_element(const struct art_view *v, int64_t i)
{
	int64_t x;
	switch (v->dtype) {
	case ART_I64:
		memcpy(&x, (const char *)v->data + 8 * i, 8);
		printf("%" PRId64, x);
		break;
	case ART_U8: case ART_U16: case ART_U32: case ART_I32:
		printf("%.0f", art_view_at(v, i));
		break;
	default:
		put_number(art_view_at(v, i), v->dtype != ART_F64);
	}
}

static void put_array(const struct art_view *v)
{
	int64_t step[9] = { 0 };
	if (v->nd == 0)
		put_element(v, 0);
	if (v->nd && v->n == 0)
		fputs("[]", stdout);
	if (v->nd == 0 || v->n == 0)
		return;
	step[v->nd] = 1; /* elements in one item of dimension d-1 */
	for (int d = v->nd - 1; d >= 0; d--)
		step[d] = step[d + 1] * v->dims[d];
	for (int64_t i = 0; i < v->n; i++) {
		if (i)
			putchar(',');
		for (int d = 0; d < v->nd; d++)
			if (i % step[d] == 0)
				putchar('[');
		put_element(v, i);
		for (int d = 0; d < v->nd; d++)
			if ((i + 1) % step[d] == 0)
				putchar(']');
	}
}

static void put_summary(const struct art_view *v)
{
	double lo = HUGE_VAL, hi = -HUGE_VAL;
	int64_t nans = 0;
	for (int64_t i = 0; i < v->n; i++) {
		double x = art_view_at(v, i);
		nans += isnan(x);
		lo = fmin(lo, x);
		hi = fmax(hi, x);
	}
	printf("{\"dtype\":\"%s\",\"shape\":[", art_dtype_name(v->dtype));
	for (int d = 0; d < v->nd; d++)
		printf("%s%" PRId64, d ? "," : "", v->dims[d]);
	fputs("]", stdout);
	if (v->n > nans) {
		fputs(",\"min\":", stdout);
		put_number(lo, v->dtype != ART_F64);
		fputs(",\"max\":", stdout);
		put_number(hi, v->dtype != ART_F64);
	}
	if (nans)
		printf(",\"nan\":%" PRId64, nans);
	putchar('}');
}

/* Depth is bounded by the reader. */
static void put_object(const msgpack_object *x)
{
	struct art_view v;
	switch (x->type) {
	case MSGPACK_OBJECT_NIL:
		fputs("null", stdout);
		break;
	case MSGPACK_OBJECT_BOOLEAN:
		fputs(x->via.boolean ? "true" : "false", stdout);
		break;
	case MSGPACK_OBJECT_POSITIVE_INTEGER:
		printf("%" PRIu64, x->via.u64);
		break;
	case MSGPACK_OBJECT_NEGATIVE_INTEGER:
		printf("%" PRId64, x->via.i64);
		break;
	case MSGPACK_OBJECT_FLOAT32: case MSGPACK_OBJECT_FLOAT64:
		put_number(x->via.f64, x->type == MSGPACK_OBJECT_FLOAT32);
		break;
	case MSGPACK_OBJECT_STR:
		json_put_string(stdout, x->via.str.ptr, x->via.str.size);
		break;
	case MSGPACK_OBJECT_BIN:
		putchar('"');
		for (uint32_t i = 0; i < x->via.bin.size; i++)
			printf("%02x", (unsigned char)x->via.bin.ptr[i]);
		putchar('"');
		break;
	case MSGPACK_OBJECT_ARRAY:
		putchar('[');
		for (uint32_t i = 0; i < x->via.array.size; i++) {
			if (i)
				putchar(',');
			put_object(&x->via.array.ptr[i]);
		}
		putchar(']');
		break;
	case MSGPACK_OBJECT_MAP:
		if (!obj_view(x, &v, NULL)) {
			if (o.summary)
				put_summary(&v);
			else
				put_array(&v);
			break;
		}
		putchar('{');
		for (uint32_t i = 0; i < x->via.map.size; i++) {
			const msgpack_object *k = &x->via.map.ptr[i].key;
			if (i)
				putchar(',');
			if (k->type == MSGPACK_OBJECT_STR)
				put_object(k);
			else
				printf("\"(%s)\"", obj_type_name(k));
			putchar(':');
			put_object(&x->via.map.ptr[i].val);
		}
		putchar('}');
		break;
	default:
		fputs("null", stdout);
	}
}

static void put_line(const msgpack_object *x)
{
	put_object(x);
	putchar('\n');
	if (ferror(stdout))
		die(EXIT_IO, "stdout: cannot write");
}

int main(int argc, char **argv)
{
	struct err e = { 0 };
	const msgpack_object *rec;
	int64_t n = 0;
	int rc;
	int operands = opt_parse(&use, argc, argv);
	if (operands > 1)
		opt_die("one artifact at a time, not also '%s'", argv[1]);
	struct art_r *r = art_open(operands ? argv[0] : NULL, NULL, 1 << 20, &e);
	if (!r)
		die_err(&e);
	put_line(art_header(r));
	if (o.header || o.limit == 0)
		goto out;
	while ((rc = art_next(r, &rec, &e)) > 0) {
		put_line(rec);
		if (++n == o.limit)
			goto out;
	}
	if (rc < 0) {
		fflush(stdout);
		die_err(&e);
	}
	printf("{\"trailer\":true,\"records\":%" PRId64 ",\"digest\":\"%s\"}\n", n, art_digest(r));
out:
	art_close(r);
	if (fflush(stdout))
		die(EXIT_IO, "stdout: cannot write");
	return EXIT_DONE;
}
