/*
 * opt_help.c - texts printed from the option table: --help, --man (mdoc) and --options (tab-separated)
 *
 * Defaults are read through each row's address, so help can never disagree with the program.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "opt.h"
#include <ctype.h>
#include <string.h>

static const struct { int code; const char *what; } exit_codes[] = {
	{ EXIT_DONE, "done" },
	{ EXIT_FAIL, "failed" },
	{ EXIT_USAGE, "bad command line" },
	{ EXIT_DATA, "bad, truncated or mismatched input" },
	{ EXIT_RESOURCE, "a needed resource is missing (GPU, memory, sandbox)" },
	{ EXIT_IO, "read or write error" },
	{ EXIT_AGAIN, "checkpointed, run me again" },
};

/* The default as text; empty when there is none worth showing. */
static void default_text(const struct opt *o, char *buf, size_t n)
{
	const char *s = NULL;
	buf[0] = '\0';
	switch (o->type) {
	case OPT_T_STR: case OPT_T_CHOICE: case OPT_T_OPTVAL:
		s = *(const char **)o->dst;
		if (s)
			snprintf(buf, n, "%s", s);
		break;
	case OPT_T_I64:
		snprintf(buf, n, "%lld", (long long)*(int64_t *)o->dst);
		break;
	case OPT_T_F64:
		if (*(double *)o->dst == *(double *)o->dst) /* NAN: no default */
			snprintf(buf, n, "%g", *(double *)o->dst);
		break;
	default:
		break;
	}
}

static void synopsis_of(const struct opt *o, char *buf, size_t n)
{
	char lead[8] = "    ";
	if (o->letter)
		snprintf(lead, sizeof lead, "-%c, ", o->letter);
	if (o->type == OPT_T_FLAG)
		snprintf(buf, n, "%s--%s", lead, o->name);
	else if (o->type == OPT_T_OPTVAL)
		snprintf(buf, n, "%s--%s[=%s]", lead, o->name, o->arg);
	else
		snprintf(buf, n, "%s--%s %s", lead, o->name, o->arg);
}

static void print_row(FILE *f, const char *left, const char *help, const char *def, bool repeat)
{
	if (strlen(left) > 28)
		fprintf(f, "  %s\n  %28s  %s", left, "", help);
	else
		fprintf(f, "  %-28s  %s", left, help);
	if (repeat)
		fputs(" (repeatable)", f);
	if (*def)
		fprintf(f, " [%s]", def);
	fputc('\n', f);
}

static void print_group(const struct usage *u, FILE *f, const char *group, bool tail)
{
	char left[160], def[128];
	const char *title = group ? group : "options";
	bool any = tail;
	for (const struct opt *o = u->opts; o->type != OPT_T_END; o++)
		any |= group ? o->group && !strcmp(o->group, group) : !o->group;
	if (!any)
		return;
	fprintf(f, "\n%s%s:\n", title, group ? " options" : "");
	for (const struct opt *o = u->opts; o->type != OPT_T_END; o++) {
		if (group ? !o->group || strcmp(o->group, group) : o->group != NULL)
			continue;
		synopsis_of(o, left, sizeof left);
		default_text(o, def, sizeof def);
		print_row(f, left, o->help, def, o->type == OPT_T_LIST);
	}
	if (tail) {
		print_row(f, "-h, --help", "print this text", "", false);
		print_row(f, "    --version", "print the version", "", false);
	}
}

/* Groups in order of first appearance; "common" is always last. */
static const char *next_group(const struct usage *u, int k)
{
	for (const struct opt *o = u->opts; o->type != OPT_T_END; o++) {
		bool seen = !o->group || !strcmp(o->group, "common");
		for (const struct opt *q = u->opts; q < o && !seen; q++)
			seen = q->group && !strcmp(q->group, o->group);
		if (!seen && k-- == 0)
			return o->group;
	}
	return NULL;
}

void opt_print_help(const struct usage *u, FILE *f)
{
	fprintf(f, "usage: %s %s\n\n%s\n", u->name, u->synopsis, u->what);
	print_group(u, f, NULL, false);
	const char *g;
	for (int k = 0; (g = next_group(u, k)); k++)
		print_group(u, f, g, false);
	print_group(u, f, "common", true);
	if (u->examples && *u->examples) {
		fputs("\nexamples:\n", f);
		for (const char *p = u->examples; *p;) {
			size_t n = strcspn(p, "\n");
			if (n)
				fprintf(f, "  %.*s\n", (int)n, p);
			p += n + (p[n] == '\n');
		}
	}
	fputs("\nexit codes:\n", f);
	for (size_t i = 0; i < sizeof exit_codes / sizeof *exit_codes; i++)
		fprintf(f, "  %-4d %s\n", exit_codes[i].code, exit_codes[i].what);
	fputs("  128+N ended by signal N\n", f);
}

void opt_print_table(const struct usage *u, FILE *f)
{
	static const char *const types[] = { "end", "flag", "string", "int", "float", "choice", "list", "optional" };
	char def[128];
	for (const struct opt *o = u->opts; o->type != OPT_T_END; o++) {
		default_text(o, def, sizeof def);
		fprintf(f, "--%s\t%.*s\t%s\t%s\t%s\t", o->name, o->letter != 0, &o->letter, types[o->type], o->arg ? o->arg : "", def);
		if (o->type == OPT_T_I64 || o->type == OPT_T_F64)
			fprintf(f, "%.16g:%.16g", o->lo, o->hi);
		fprintf(f, "\t%s\t%s\n", o->group ? o->group : "", o->help);
	}
}

/* One line of running text in mdoc: a leading dot or quote and backslashes are escaped. */
static void man_text(FILE *f, const char *s, size_t n)
{
	if (n && (*s == '.' || *s == '\''))
		fputs("\\&", f);
	for (size_t i = 0; i < n; i++)
		if (s[i] == '\\')
			fputs("\\e", f);
		else if (s[i] == '-')
			fputs("\\-", f);
		else
			fputc(s[i], f);
	fputc('\n', f);
}

static void man_options(const struct usage *u, FILE *f)
{
	char left[160], def[128];
	fputs(".Sh OPTIONS\n.Bl -tag -width Ds\n", f);
	for (const struct opt *o = u->opts; o->type != OPT_T_END; o++) {
		synopsis_of(o, left, sizeof left);
		default_text(o, def, sizeof def);
		const char *p = left + strspn(left, " ");
		fputs(".It ", f);
		man_text(f, p, strlen(p));
		man_text(f, o->help, strlen(o->help));
		if (*def) {
			fputs("The default is ", f);
			size_t n = strlen(def);
			def[n] = '.';
			man_text(f, def, n + 1);
		}
	}
	fputs(".It \\-h, \\-\\-help\nprint a summary\n.It \\-\\-version\nprint the version\n.El\n", f);
}

void opt_print_man(const struct usage *u, FILE *f)
{
	fputs(".Dd\n.Dt ", f);
	for (const char *p = u->name; *p; p++)
		fputc(toupper((unsigned char)*p), f);
	fprintf(f, " 1\n.Os adze %s\n.Sh NAME\n.Nm %s\n.Nd ", ADZE_VERSION, u->name);
	man_text(f, u->what, strlen(u->what));
	fprintf(f, ".Sh SYNOPSIS\n.Nm\n");
	man_text(f, u->synopsis, strlen(u->synopsis));
	man_options(u, f);
	fputs(".Sh EXIT STATUS\n.Bl -tag -width Ds\n", f);
	for (size_t i = 0; i < sizeof exit_codes / sizeof *exit_codes; i++)
		fprintf(f, ".It %d\n%s\n", exit_codes[i].code, exit_codes[i].what);
	fputs(".El\n", f);
	if (u->examples && *u->examples) {
		fputs(".Sh EXAMPLES\n.Bd -literal\n", f);
		for (const char *p = u->examples; *p;) {
			size_t n = strcspn(p, "\n");
			man_text(f, p, n);
			p += n + (p[n] == '\n');
		}
		fputs(".Ed\n", f);
	}
}
