/*
 * opt.h - one table of options per program: parser, --help, man page, completion and tests follow from it
 *
 *	static struct { const char *model, *out; int64_t seq; } o = { .seq = 4096 };
 *	static const struct opt opts[] = {
 *		OPT_STR('m', "model", &o.model, "DIR", "model directory to measure"),
 *		OPT_I64(0, "seq", &o.seq, "T", "tokens per sample", 1, 1 << 20),
 *		OPT_COMMON_ROWS, OPT_END
 *	};
 *	static const struct usage use = { "act-stats", "one sentence", "-m DIR [TOKENS] -o stats", "two examples", opts };
 *	int n = opt_parse(&use, argc, argv);      operands are then argv[0..n)
 *
 * Options may follow operands; `--` ends options; `--name=value` and `--name value` both work; `-` is an operand.
 * An unknown option, a missing value, a value out of range or trailing junk ends the program with EXIT_USAGE and
 * a line that names the offender.  --help prints to stdout and exits 0; --version prints "act-stats (adze) X.Y.Z".
 * Hidden: --options (tab-separated table, for completion and tests), --man (mdoc page).
 * The table checks itself at start-up (duplicate names, missing help) and BUG()s.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_OPT_H
#define ADZE_OPT_H
#include "base.h"

enum opt_type {
	OPT_T_END, OPT_T_FLAG, OPT_T_STR, OPT_T_I64, OPT_T_F64, OPT_T_CHOICE, OPT_T_LIST, OPT_T_OPTVAL
};
struct opt_list {              /* repeatable option: values in the order given; argv memory, table grows with xrealloc */
	const char **v;
	int n;
};
struct opt {
	char letter;           /* 0: none */
	const char *name;
	enum opt_type type;
	void *dst;             /* bool*, const char**, int64_t*, double*, const char**(choice), struct opt_list*, const char**(optval) */
	const char *arg;       /* "DIR"; for CHOICE "auto|cpu|cuda" */
	const char *help;      /* lower case, no full stop; the default is printed from *dst */
	double lo, hi;         /* inclusive range of numbers */
	const char *group;     /* NULL: the stage's own; else "common" */
};
#define OPT_FLAG(l, n, d, h) { l, n, OPT_T_FLAG, d, NULL, h, 0, 0, NULL }
#define OPT_STR(l, n, d, a, h) { l, n, OPT_T_STR, d, a, h, 0, 0, NULL }
#define OPT_I64(l, n, d, a, h, lo, hi) { l, n, OPT_T_I64, d, a, h, (double)(lo), (double)(hi), NULL }
#define OPT_F64(l, n, d, a, h, lo, hi) { l, n, OPT_T_F64, d, a, h, lo, hi, NULL }
#define OPT_CHOICE(l, n, d, a, h) { l, n, OPT_T_CHOICE, d, a, h, 0, 0, NULL }
#define OPT_LIST(l, n, d, a, h) { l, n, OPT_T_LIST, d, a, h, 0, 0, NULL }
/* --dry-run or --dry-run=json: value optional, only with '='; plain form stores "" */
#define OPT_OPTVAL(l, n, d, a, h) { l, n, OPT_T_OPTVAL, d, a, h, 0, 0, NULL }
#define OPT_END { 0, NULL, OPT_T_END, NULL, NULL, NULL, 0, 0, NULL }

/* Shared by all programs; filled by the rows below. */
extern struct common_opts {
	const char *out;       /* -o; NULL: stdout */
	const char *device;    /* auto|cpu|cuda[:N] (also "ref": the reference kernels) */
	const char *dtype;     /* f32|bf16 */
	int64_t threads;       /* 0: all usable cores */
	int64_t seed;
	const char *dry_run;   /* NULL: no; "": text; "json" */
	const char *progress;  /* auto|bar|plain|none */
	const char *events;    /* FILE of JSON lines, or NULL */
	bool force, quiet, verbose;
} com;
#define OPT_OUT_ROW(h) OPT_STR('o', "out", &com.out, "PATH", h)
#define OPT_DEVICE_ROWS \
	{ 0, "device", OPT_T_STR, &com.device, "auto|cpu|cuda[:N]", "where to compute", 0, 0, "common" }, \
	{ 0, "dtype", OPT_T_CHOICE, &com.dtype, "f32|bf16", "arithmetic type of matrix products", 0, 0, "common" }
#define OPT_SEED_ROW { 0, "seed", OPT_T_I64, &com.seed, "N", "seed of every random choice", 0, 9e15, "common" }
#define OPT_COMMON_ROWS \
	{ 0, "threads", OPT_T_I64, &com.threads, "N", "threads, 0 for all usable cores", 0, 4096, "common" }, \
	{ 0, "dry-run", OPT_T_OPTVAL, &com.dry_run, "json", "print the plan with memory and FLOP estimates, do nothing", 0, 0, "common" }, \
	{ 0, "progress", OPT_T_CHOICE, &com.progress, "auto|bar|plain|none", "how to show progress on stderr", 0, 0, "common" }, \
	{ 0, "events", OPT_T_STR, &com.events, "FILE", "append machine-readable events as JSON lines", 0, 0, "common" }, \
	{ 'f', "force", OPT_T_FLAG, &com.force, NULL, "overwrite an existing output", 0, 0, "common" }, \
	{ 'q', "quiet", OPT_T_FLAG, &com.quiet, NULL, "errors only", 0, 0, "common" }, \
	{ 'v', "verbose", OPT_T_FLAG, &com.verbose, NULL, "say more", 0, 0, "common" }

struct usage {
	const char *name;      /* program */
	const char *what;      /* one sentence: what it reads, computes, writes */
	const char *synopsis;  /* without the program's name */
	const char *examples;  /* two real command lines, one per line */
	const struct opt *opts;
};
/* Parses, moves operands to argv[0..n) and returns n.  Sets prog_name.  Exits on --help, --version, --options,
 * --man and on any usage error. */
int opt_parse(const struct usage *u, int argc, char **argv);
/* Usage error found after parsing ("--hidden needs --rank"): one line and EXIT_USAGE, with a pointer to --help. */
_Noreturn void opt_die(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* The command line as one shell-quoted string, as it was given (for the log); lives forever. */
const char *opt_command_line(void);
/* The part of it that shapes the result, for artifacts: without operands (inputs are recorded by digest), -o, -f, -q, -v,
 * --threads, --progress, --events, and with absolute paths cut to their last component: equal work records equal bytes,
 * whether its input came by name or through a pipe. */
const char *opt_record_line(void);

/* --help, --man and --options texts (opt_help.c) */
void opt_print_help(const struct usage *u, FILE *f);
void opt_print_man(const struct usage *u, FILE *f);
void opt_print_table(const struct usage *u, FILE *f);

/* Lists and ranges: "1,2,8:12,16:64:16" -> sorted as written, newly allocated; -1 with e set on bad input.
 * Limits the result to 1e8 items. */
int parse_i64_list(const char *s, int64_t **v_new, int64_t *n, struct err *e);
/* "kl:1,ce:0.5" -> calls cb(name, value) per item; value NAN when absent. */
int parse_weights(const char *s, int (*cb)(void *, const char *name, double v, struct err *e), void *arg, struct err *e);
#endif
