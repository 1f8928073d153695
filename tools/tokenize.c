/*
 * tokenize.c - token ids of each line of text, to look at a tokenizer or to compare it with another
 *
 * Reads lines (the newline is not part of the text), writes one line of ids each, or with --json one object with ids,
 * pieces and byte offsets.  --decode goes the other way.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/base/outfile.h"
#include "../common/io/tokenizer.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct {
	const char *tok;
	bool json, special, whole, decode;
} o;
static const struct opt opts[] = {
	OPT_STR('t', "tokenizer", &o.tok, "DIR", "model directory or tokenizer.json"),
	OPT_FLAG(0, "json", &o.json, "one JSON object a line: ids, pieces, offsets in bytes"),
	OPT_FLAG(0, "special", &o.special, "add what the post-processor adds, such as a begin-of-text token"),
	OPT_FLAG(0, "whole", &o.whole, "the whole input is one text, not one per line"),
	OPT_FLAG(0, "decode", &o.decode, "read lines of ids, write text"),
	OPT_OUT_ROW("where the lines go"),
	OPT_COMMON_ROWS, OPT_END
};
static const struct usage use = {
	"tokenize", "prints the token ids of each line of its input",
	"-t DIR [FILE] [--json] [-o out]",
	"tokenize -t teacher corpus.txt\n"
	"echo 'Call me Ishmael.' | tokenize -t teacher --json", opts
};

static void put(struct outfile *f, const char *s, size_t n)
{
	struct err e;
	if (outfile_write(f, s, n, &e))
		die_err(&e);
}

#define PUT(...) do { struct err put_e; if (outfile_printf(f, &put_e, __VA_ARGS__)) die_err(&put_e); } while (0)

/* A JSON string; the bytes of a token need not be UTF-8, hence its spelling is printed, which always is. */
static void put_string(struct outfile *f, const char *s)
{
	put(f, "\"", 1);
	for (; *s; s++) {
		uint8_t c = (uint8_t)*s;
		if (c == '"' || c == '\\')
			PUT("\\%c", c);
		else if (c < 0x20)
			PUT("\\u%04x", c);
		else
			put(f, s, 1);
	}
	put(f, "\"", 1);
}

static void put_line(struct outfile *f, const struct tokenizer *t, const struct tok_ids *ids, const struct tok_spans *sp)
{
	if (!o.json) {
		for (int64_t i = 0; i < ids->n; i++)
			PUT("%s%u", i ? " " : "", ids->v[i]);
		put(f, "\n", 1);
		return;
	}
	put(f, "{\"ids\":[", 8);
	for (int64_t i = 0; i < ids->n; i++)
		PUT("%s%u", i ? "," : "", ids->v[i]);
	put(f, "],\"pieces\":[", 12);
	for (int64_t i = 0; i < ids->n; i++) {
		if (i)
			put(f, ",", 1);
		put_string(f, tok_spelling(t, ids->v[i]));
	}
	put(f, "],\"offsets\":[", 13);
	for (int64_t i = 0; i < ids->n; i++)
		PUT("%s[%lld,%lld]", i ? "," : "", (long long)sp->v[i].lo, (long long)sp->v[i].hi);
	put(f, "]}\n", 3);
}

static void put_text(struct outfile *f, const struct tokenizer *t, char *line, struct tok_ids *ids, int64_t lineno)
{
	char *p = line, *end;
	size_t n;
	ids->n = 0;
	for (;;) {
		p += strspn(p, " ,\t\r");
		if (!*p)
			break;
		errno = 0;
		long long v = strtoll(p, &end, 10);
		if (end == p || errno || v < 0 || v >= tok_vocab_size(t))
			die(EXIT_DATA, "line %lld: '%.20s' is not a token id below %lld", (long long)lineno, p,
			    (long long)tok_vocab_size(t));
		if (ids->n == ids->cap) {
			ids->cap = ids->cap * 2 + 256;
			ids->v = xrealloc(ids->v, (size_t)ids->cap, sizeof *ids->v);
		}
		ids->v[ids->n++] = (uint32_t)v;
		p = end;
	}
	char *text = tok_decode_new(t, ids->v, ids->n, false, &n);
	put(f, text, n);
	put(f, "\n", 1);
	free(text);
}

/* Everything that is left, -1 when that is nothing. */
static ssize_t slurp(char **p, size_t *cap, FILE *in)
{
	size_t n = 0, k;
	do {
		if (*cap - n < 2) {
			*cap = *cap * 2 + 65536;
			*p = xrealloc(*p, *cap, 1);
		}
		k = fread(*p + n, 1, *cap - n - 1, in);
		n += k;
	} while (k);
	(*p)[n] = 0;
	return n ? (ssize_t)n : -1;
}

int main(int argc, char **argv)
{
	struct err e;
	int n = opt_parse(&use, argc, argv);
	if (!o.tok)
		opt_die("-t DIR is needed");
	if (n > 1)
		opt_die("one FILE at most, '%s' is too much", argv[1]);
	const char *path = n && strcmp(argv[0], "-") ? argv[0] : NULL;
	log_start();
	struct tokenizer *t = tok_load(o.tok, &e);
	if (!t)
		die_err(&e);
	if (com.dry_run) {
		printf("tokenizer %s: %lld ids, digest %s\n", tok_path(t), (long long)tok_vocab_size(t), tok_digest(t));
		tok_free(t);
		return EXIT_DONE;
	}
	FILE *in = path ? fopen(path, "rb") : stdin;
	if (!in)
		die(EXIT_IO, "%s: %s", path, strerror(errno));
	struct outfile *f = outfile_open(com.out, false, com.force, &e);
	if (!f)
		die_err(&e);
	struct tok_scratch *s = tok_scratch_new(t);
	struct tok_ids ids = { 0 };
	struct tok_spans sp = { 0 };
	char *line = NULL;
	size_t cap = 0;
	int64_t lines = 0;
	ssize_t len;
	errno = 0;
	while ((len = o.whole ? slurp(&line, &cap, in) : getline(&line, &cap, in)) >= 0) {
		lines++;
		if (!o.whole && len && line[len - 1] == '\n')
			line[--len] = 0;
		if (o.decode) {
			put_text(f, t, line, &ids, lines);
			continue;
		}
		ids.n = sp.n = 0;
		if (tok_encode_spans(t, s, line, (size_t)len, o.special, &ids, o.json ? &sp : NULL, &e) < 0)
			die_err(&e);
		put_line(f, t, &ids, &sp);
	}
	if (ferror(in))
		die(EXIT_IO, "%s: %s", path ? path : "stdin", strerror(errno));
	if (outfile_commit(f, &e))
		die_err(&e);
	log_verbose("%lld lines", (long long)lines);
	free(line);
	free(ids.v);
	free(sp.v);
	tok_scratch_free(s);
	if (path)
		fclose(in);
	tok_free(t);
	return EXIT_DONE;
}
