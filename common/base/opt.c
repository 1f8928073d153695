/*
 * opt.c - the parser behind the option tables
 *
 * One pass over argv: options store through their row's address, operands are moved to the front.  Everything a user
 * can get wrong is one line that names the offender and exits with EXIT_USAGE; everything a programmer can get wrong
 * in a table is a BUG() at start-up.  Texts printed from the table are in opt_help.c, list syntax in opt_list.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "opt.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/param.h>

struct common_opts com = { .device = "auto", .dtype = "bf16", .progress = "auto" };

static char *command_line, *record_line;

static bool flag_like(const struct opt *o)
{
	return o->type == OPT_T_FLAG || o->type == OPT_T_OPTVAL;
}

static void check_table(const struct usage *u)
{
	for (const struct opt *o = u->opts; o->type != OPT_T_END; o++) {
		if (!o->name || !*o->name || !o->help || !*o->help || !o->dst)
			BUG("option row %d of %s has no name, help or address", (int)(o - u->opts), u->name);
		if (!o->arg && o->type != OPT_T_FLAG)
			BUG("option --%s of %s has no argument word", o->name, u->name);
		if ((o->type == OPT_T_I64 || o->type == OPT_T_F64) && !(o->lo <= o->hi))
			BUG("option --%s of %s has an empty range", o->name, u->name);
		if (!strcmp(o->name, "help") || !strcmp(o->name, "version") || o->letter == 'h')
			BUG("option --%s of %s is built in", o->name, u->name);
		for (const struct opt *q = u->opts; q < o; q++)
			if (!strcmp(q->name, o->name) || (q->letter && q->letter == o->letter))
				BUG("options --%s and --%s of %s clash", q->name, o->name, u->name);
	}
}

void opt_die(const char *fmt, ...)
{
	char msg[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	die(EXIT_USAGE, "%s (see %s --help)", msg, prog_name);
}

/* Edit distance, for "did you mean"; names are short. */
static int distance(const char *a, const char *b)
{
	int row[64], n = (int)MIN(strlen(b), 63);
	for (int j = 0; j <= n; j++)
		row[j] = j;
	for (int i = 0; a[i]; i++) {
		int diag = row[0];
		row[0] = i + 1;
		for (int j = 0; j < n; j++) {
			int best = MIN(diag + (a[i] != b[j]), MIN(row[j], row[j + 1]) + 1);
			diag = row[j + 1];
			row[j + 1] = best;
		}
	}
	return row[n];
}

static _Noreturn void unknown(const struct usage *u, const char *name)
{
	const struct opt *best = NULL;
	int d = 3;
	for (const struct opt *o = u->opts; o->type != OPT_T_END; o++) {
		int k = distance(name, o->name);
		if (k < d || (strlen(name) > 2 && !strncmp(o->name, name, strlen(name)))) {
			d = MIN(k, d);
			best = o;
		}
	}
	if (best)
		opt_die("unknown option '--%s', did you mean '--%s'?", name, best->name);
	opt_die("unknown option '--%s'", name);
}

static const char *choice(const struct opt *o, const char *v)
{
	size_t n = strlen(v);
	for (const char *p = o->arg; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
		if (n && !strncmp(p, v, n) && (p[n] == '|' || !p[n]))
			return v;
	opt_die("--%s: '%s' is none of %s", o->name, v, o->arg);
}

static void store(const struct opt *o, const char *v)
{
	int64_t i;
	double f;
	switch (o->type) {
	case OPT_T_FLAG:
		*(bool *)o->dst = true;
		break;
	case OPT_T_STR:
		if (!*v)
			opt_die("--%s: its value is empty", o->name);
		*(const char **)o->dst = v;
		break;
	case OPT_T_OPTVAL:
		*(const char **)o->dst = *v ? choice(o, v) : "";
		break;
	case OPT_T_CHOICE:
		*(const char **)o->dst = choice(o, v);
		break;
	case OPT_T_I64:
		if (parse_i64(v, &i))
			opt_die("--%s: '%s' is not a whole number", o->name, v);
		if ((double)i < o->lo || (double)i > o->hi)
			opt_die("--%s: %lld is outside %.16g..%.16g", o->name, (long long)i, o->lo, o->hi);
		*(int64_t *)o->dst = i;
		break;
	case OPT_T_F64:
		if (parse_f64(v, &f))
			opt_die("--%s: '%s' is not a number", o->name, v);
		if (f < o->lo || f > o->hi)
			opt_die("--%s: %g is outside %g..%g", o->name, f, o->lo, o->hi);
		*(double *)o->dst = f;
		break;
	case OPT_T_LIST: {
		struct opt_list *l = o->dst;
		l->v = xrealloc(l->v, (size_t)l->n + 1, sizeof *l->v);
		l->v[l->n++] = v;
		break;
	}
	case OPT_T_END:
		BUG("stored through the end of an option table");
	}
}

/* ---- recorded command lines ---- */

static void append(char **s, size_t *n, const char *p, size_t len)
{
	*s = xrealloc(*s, *n + len + 1, 1);
	memcpy(*s + *n, p, len);
	*n += len;
	(*s)[*n] = '\0';
}

static void append_quoted(char **s, size_t *n, const char *word)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,+@%#";
	if (*n)
		append(s, n, " ", 1);
	if (*word && !word[strspn(word, plain)] && *word != '#') {
		append(s, n, word, strlen(word));
		return;
	}
	append(s, n, "'", 1);
	for (; *word; word++)
		if (*word == '\'')
			append(s, n, "'\\''", 4);
		else
			append(s, n, word, 1);
	append(s, n, "'", 1);
}

static const char *shorten(const char *word)
{
	if (*word != '/')
		return word;
	const char *slash = strrchr(word, '/');
	while (slash > word && !slash[1]) { /* trailing slashes */
		do
			slash--;
		while (slash > word && *slash != '/');
	}
	return slash[1] ? slash + 1 : word;
}

static bool shapes_result(const struct opt *o)
{
	static const char *const quiet[] = { "out", "force", "quiet", "verbose", "threads", "progress", "events" };
	for (size_t i = 0; i < sizeof quiet / sizeof *quiet; i++)
		if (!strcmp(o->name, quiet[i]))
			return false;
	return true;
}

static size_t record_n;

static void record_option(const struct opt *o, const char *v)
{
	if (!shapes_result(o))
		return;
	char *name = xasprintf("--%s", o->name);
	append_quoted(&record_line, &record_n, name);
	free(name);
	if (!v || !*v)
		return;
	const char *eq = strstr(v, "=/");      /* NAME=/path/FILE */
	char *word = eq ? xasprintf("%.*s%s", (int)(eq + 1 - v), v, shorten(eq + 1)) : xstrdup(shorten(v));
	append_quoted(&record_line, &record_n, word);
	free(word);
}

const char *opt_command_line(void)
{
	return command_line ? command_line : prog_name;
}

const char *opt_record_line(void)
{
	return record_line ? record_line : prog_name;
}

/* ---- the pass over argv ---- */

static void take(const struct opt *o, const char *v)
{
	store(o, v);
	record_option(o, v);
}

static void builtin(const struct usage *u, const char *name)
{
	if (!strcmp(name, "help"))
		opt_print_help(u, stdout);
	else if (!strcmp(name, "version"))
		printf("%s (adze) %s\n", u->name, ADZE_VERSION);
	else if (!strcmp(name, "options"))
		opt_print_table(u, stdout);
	else if (!strcmp(name, "man"))
		opt_print_man(u, stdout);
	else
		return;
	if (fflush(stdout) || ferror(stdout))
		die(EXIT_IO, "stdout: write error");
	exit(EXIT_DONE);
}

static const struct opt *find_long(const struct usage *u, const char *name)
{
	for (const struct opt *o = u->opts; o->type != OPT_T_END; o++)
		if (!strcmp(o->name, name))
			return o;
	unknown(u, name);
}

/* --name, --name=value, --name value; returns how many argv words were used. */
static int take_long(const struct usage *u, int i, int argc, char **argv)
{
	char name[64];
	const char *word = argv[i] + 2, *eq = strchr(word, '=');
	size_t n = eq ? (size_t)(eq - word) : strlen(word);
	snprintf(name, sizeof name, "%.*s", (int)MIN(n, sizeof name - 1), word);
	if (!eq)
		builtin(u, name);
	const struct opt *o = find_long(u, name);
	if (eq && o->type == OPT_T_FLAG)
		opt_die("--%s takes no value, not '%s'", name, eq + 1);
	if (eq || flag_like(o)) {
		take(o, eq ? eq + 1 : "");
		return 1;
	}
	if (i + 1 >= argc)
		opt_die("--%s needs a value (%s)", name, o->arg);
	take(o, argv[i + 1]);
	return 2;
}

/* -q, -qv, -o FILE, -oFILE; returns how many argv words were used. */
static int take_short(const struct usage *u, int i, int argc, char **argv)
{
	for (const char *c = argv[i] + 1; *c; c++) {
		if (*c == 'h')
			builtin(u, "help");
		const struct opt *o = u->opts;
		while (o->type != OPT_T_END && o->letter != *c)
			o++;
		if (o->type == OPT_T_END)
			opt_die("unknown option '-%c'", *c);
		if (flag_like(o)) {
			take(o, "");
			continue;
		}
		if (c[1]) {
			take(o, c + 1);
			return 1;
		}
		if (i + 1 >= argc)
			opt_die("-%c needs a value (%s)", *c, o->arg);
		take(o, argv[i + 1]);
		return 2;
	}
	return 1;
}

int opt_parse(const struct usage *u, int argc, char **argv)
{
	size_t n = 0;
	prog_name = u->name;
	check_table(u);
	free(command_line);
	free(record_line);
	command_line = record_line = NULL;
	record_n = 0;
	append_quoted(&command_line, &n, u->name);
	append_quoted(&record_line, &record_n, u->name);
	for (int i = 1; i < argc; i++)
		append_quoted(&command_line, &n, argv[i]);
	/* --help shows defaults, so it must come before any option changes them */
	for (int i = 1; i < argc && strcmp(argv[i], "--"); i++)
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			builtin(u, "help");

	int operands = 0;
	bool literal = false;
	for (int i = 1; i < argc;) {
		char *a = argv[i];
		if (literal || a[0] != '-' || !a[1]) {
			argv[operands++] = a;
			i++;
		} else if (!strcmp(a, "--")) {
			literal = true;
			i++;
		} else if (a[1] == '-') {
			i += take_long(u, i, argc, argv);
		} else {
			i += take_short(u, i, argc, argv);
		}
	}
	return operands;
}
