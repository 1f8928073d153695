/*
 * tensorboard-events - kd-train's metrics.jsonl as an event file that TensorBoard reads
 *
 * Every number of a line becomes a scalar of that name at the line's step; null, which was not finite, becomes NaN.  The file is
 * a sequence of records, each a protobuf message `Event` (field numbers of tensorflow/core/util/event.proto and summary.proto):
 *
 *	record  = u64 length, u32 mask(crc32c(length)), bytes, u32 mask(crc32c(bytes))       little-endian
 *	mask(c) = (c >> 15 | c << 17) + 0xa282ead8
 *	Event   = 1: wall_time double, 2: step int64, 3: file_version string | 5: Summary      zeros are left out
 *	Summary = 1: Value, repeated;   Value = 1: tag string, 2: simple_value float
 *
 * The clock is --start plus the line's `seconds`, so that the same input gives the same bytes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/base/outfile.h"
#include <errno.h>
#include <float.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int64_t start;

static const struct opt opts[] = {
	OPT_I64(0, "start", &start, "SECONDS", "when the run began, in seconds since 1970 (date +%s): what TensorBoard shows as wall time", 0, 1e11),
	OPT_OUT_ROW("log directory, made where it is missing; the file in it is events.out.tfevents.SECONDS.adze"),
	OPT_COMMON_ROWS, OPT_END
};
static const struct usage use = {
	"tensorboard-events", "Turns the metrics of a training run into an event file for TensorBoard.", "[RUNDIR | METRICS.jsonl | -] -o LOGDIR",
	"tensorboard-events student-kd -o logs/student-kd && tensorboard --logdir logs\n"
	"ssh cluster cat run/metrics.jsonl | tensorboard-events --start \"$(date +%s)\" -o logs/run", opts
};

struct bytes {
	char *p;
	size_t n, room;
};
struct source {
	FILE *f;
	char *name;
	int64_t line, step;        /* of the last line, -1: none */
	int64_t scalars;
};

/* ---- bytes ---- */

static void put(struct bytes *b, const void *p, size_t n)
{
	if (b->n + n > b->room) {
		b->room = 2 * (b->n + n);
		b->p = xrealloc(b->p, b->room, 1);
	}
	memcpy(b->p + b->n, p, n);
	b->n += n;
}

/* The lowest n bytes, little-endian on any machine */
static void put_fixed(struct bytes *b, uint64_t x, int n)
{
	for (int i = 0; i < n; i++)
		put(b, &(uint8_t){ (uint8_t)(x >> 8 * i) }, 1);
}

static void put_varint(struct bytes *b, uint64_t x)
{
	for (; x >= 128; x >>= 7)
		put(b, &(uint8_t){ (uint8_t)(x | 128) }, 1);
	put(b, &(uint8_t){ (uint8_t)x }, 1);
}

enum wire { WIRE_VARINT, WIRE_64, WIRE_BYTES, WIRE_32 = 5 };

static void put_key(struct bytes *b, int field, enum wire w)
{
	put_varint(b, (uint64_t)field << 3 | w);
}

static void put_string(struct bytes *b, int field, const void *p, size_t n)
{
	put_key(b, field, WIRE_BYTES);
	put_varint(b, n);
	put(b, p, n);
}

static void put_double(struct bytes *b, int field, double x)
{
	uint64_t u;
	memcpy(&u, &x, 8);
	put_key(b, field, WIRE_64);
	put_fixed(b, u, 8);
}

static void put_float(struct bytes *b, int field, float x)
{
	uint32_t u;
	memcpy(&u, &x, 4);
	put_key(b, field, WIRE_32);
	put_fixed(b, u, 4);
}

/* CRC-32C (Castagnoli), masked */
static uint32_t checksum(const void *p, size_t n)
{
	static uint32_t table[256];
	for (uint32_t i = 0; !table[255] && i < 256; i++) {
		uint32_t c = i;
		for (int k = 0; k < 8; k++)
			c = c >> 1 ^ (c & 1 ? 0x82f63b78u : 0);
		table[i] = c;
	}
	uint32_t c = ~0u;
	for (size_t i = 0; i < n; i++)
		c = table[(c ^ ((const uint8_t *)p)[i]) & 255] ^ c >> 8;
	c = ~c;
	return (c >> 15 | c << 17) + 0xa282ead8u;
}

static void put_record(struct bytes *out, const struct bytes *event)
{
	size_t at = out->n;
	put_fixed(out, event->n, 8);
	put_fixed(out, checksum(out->p + at, 8), 4);
	put(out, event->p, event->n);
	put_fixed(out, checksum(event->p, event->n), 4);
}

/* ---- lines ---- */

static void event_begin(struct bytes *e, double wall, int64_t step)
{
	e->n = 0;
	if (wall != 0)
		put_double(e, 1, wall);
	if (step) {
		put_key(e, 2, WIRE_VARINT);
		put_varint(e, (uint64_t)step);
	}
}

static void put_scalar(struct bytes *summary, const char *tag, double x)
{
	struct bytes v = { 0 };
	put_string(&v, 1, tag, strlen(tag));
	put_float(&v, 2, fabs(x) > FLT_MAX ? (float)copysign(INFINITY, x) : (float)x);
	put_string(summary, 1, v.p, v.n);
	free(v.p);
}

/* One line's numbers but the step, in the line's order */
static void put_line(struct bytes *out, struct source *s, json_t *line)
{
	const json_t *step = json_object_get(line, "step"), *seconds = json_object_get(line, "seconds");
	struct bytes event = { 0 }, summary = { 0 };
	const char *key;
	json_t *v;
	if (!json_is_integer(step) || json_integer_value(step) < 0)
		die(EXIT_DATA, "%s:%lld: no \"step\" that is a whole number", s->name, (long long)s->line);
	int64_t at = json_integer_value(step);
	if (at <= s->step)
		die(EXIT_DATA, "%s:%lld: step %lld after step %lld", s->name, (long long)s->line, (long long)at, (long long)s->step);
	s->step = at;
	json_object_foreach(line, key, v) {
		if (!strcmp(key, "step"))
			continue;
		if (!json_is_number(v) && !json_is_null(v))
			die(EXIT_DATA, "%s:%lld: \"%s\" is neither a number nor null", s->name, (long long)s->line, key);
		put_scalar(&summary, key, json_is_null(v) ? NAN : json_number_value(v));
		s->scalars++;
	}
	event_begin(&event, (double)start + json_number_value(seconds), at);
	if (summary.n)
		put_string(&event, 5, summary.p, summary.n);
	put_record(out, &event);
	free(summary.p);
	free(event.p);
}

static void convert(struct bytes *out, struct source *s)
{
	static const char version[] = "brain.Event:2";
	struct bytes first = { 0 };
	char *text = NULL;
	size_t room = 0;
	ssize_t n;
	event_begin(&first, (double)start, 0);
	put_string(&first, 3, version, strlen(version));
	put_record(out, &first);
	free(first.p);
	while ((n = getline(&text, &room, s->f)) >= 0) {
		json_error_t je;
		json_t *line = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &je);
		s->line++;
		if (!line && text[n - 1] != '\n') {
			log_warn("%s:%lld: left out, it is not complete yet", s->name, (long long)s->line);
			break;
		}
		if (!line)
			die(EXIT_DATA, "%s:%lld: not JSON: %s", s->name, (long long)s->line, je.text);
		if (!json_is_object(line))
			die(EXIT_DATA, "%s:%lld: not a JSON object", s->name, (long long)s->line);
		put_line(out, s, line);
		json_decref(line);
	}
	if (ferror(s->f))
		die(EXIT_IO, "%s: %s", s->name, strerror(errno));
	free(text);
	if (s->step < 0)
		die(EXIT_DATA, "%s: no metrics", s->name);
}

static void open_source(struct source *s, const char *path)
{
	struct stat st;
	*s = (struct source){ .f = stdin, .step = -1 };
	if (!path || !strcmp(path, "-")) {
		s->name = xstrdup("stdin");
		return;
	}
	s->name = !stat(path, &st) && S_ISDIR(st.st_mode) ? xasprintf("%s/metrics.jsonl", path) : xstrdup(path);
	if (!(s->f = fopen(s->name, "re")))
		die(EXIT_IO, "%s: %s", s->name, strerror(errno));
}

int main(int argc, char **argv)
{
	struct err e;
	struct source s;
	struct bytes out = { 0 };
	int n = opt_parse(&use, argc, argv);
	if (n > 1)
		opt_die("unexpected operand '%s'", argv[1]);
	if (!com.out && !com.dry_run)
		opt_die("--out is missing: the log directory");
	log_start();
	open_source(&s, n ? argv[0] : NULL);
	convert(&out, &s);
	if (com.dry_run) {
		printf("%lld scalars, %zu bytes\n", (long long)s.scalars, out.n);
	} else {
		char *path = xasprintf("%s/events.out.tfevents.%010lld.adze", com.out, (long long)start);
		struct outfile *f = mkdir_p(com.out, &e) ? NULL : outfile_open(path, true, com.force, &e);
		if (!f || outfile_write(f, out.p, out.n, &e) || outfile_commit(f, &e))
			die_err(&e);
		log_summary("%lld scalars up to step %lld", (long long)s.scalars, (long long)s.step);
		free(path);
	}
	if (s.f != stdin)
		fclose(s.f);
	free(s.name);
	free(out.p);
	return EXIT_DONE;
}
