/*
 * results.c - scores for programs (JSON, sample lines) and for people (a table)
 *
 * Numbers are written with the fewest digits that read back as the same double, so equal scores are equal bytes; nothing
 * written depends on the time or the place of the run.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "task.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A double for JSON, which has no infinity and no NaN. */
static char *real(char buf[40], double x)
{
	if (!isfinite(x))
		return strcpy(buf, "null");
	for (int digits = 15; digits <= 17; digits++) {
		snprintf(buf, 40, "%.*g", digits, x);
		if (strtod(buf, NULL) == x)
			break;
	}
	if (!strpbrk(buf, ".e"))
		strcat(buf, ".0");
	return buf;
}

/* A JSON string literal; the caller frees. */
static char *quoted_new(const char *s)
{
	json_t *j = json_string_nocheck(s);
	char *q = json_dumps(j, JSON_ENCODE_ANY);
	json_decref(j);
	return q;
}

static int pair(struct outfile *o, const char *indent, const char *key, const char *value, const char *end, struct err *e)
{
	char *k = quoted_new(key), *v = quoted_new(value);
	int rc = outfile_printf(o, e, "%s%s: %s%s\n", indent, k, v, end);
	free(k);
	free(v);
	return rc;
}

static int write_scores(const struct task *t, const struct ll_set *s, struct outfile *o, struct err *e)
{
	struct score sc[MAX_SCORES];
	char b1[40], b2[40];
	int n = t->kind->score(t, s, sc);
	if (pair(o, "      ", "alias", t->name, ",", e))
		return -1;
	for (int i = 0; i < n; i++)
		if (outfile_printf(o, e, "      \"%s,none\": %s,\n      \"%s_stderr,none\": %s%s\n", sc[i].metric,
				   real(b1, sc[i].value), sc[i].metric, isnan(sc[i].err) ? "\"N/A\"" : real(b2, sc[i].err),
				   i + 1 < n ? "," : ""))
			return -1;
	return 0;
}

static int write_samples(const struct task *t, const struct ll_set *s, struct outfile *o, struct err *e)
{
	(void)s;
	return outfile_printf(o, e, "      \"original\": %lld,\n      \"effective\": %lld\n", (long long)t->n_file,
			      (long long)t->n);
}

static int write_better(const struct task *t, const struct ll_set *s, struct outfile *o, struct err *e)
{
	struct score sc[MAX_SCORES];
	int n = t->kind->score(t, s, sc);
	for (int i = 0; i < n; i++)
		if (outfile_printf(o, e, "      \"%s\": %s%s\n", sc[i].metric, sc[i].higher ? "true" : "false",
				   i + 1 < n ? "," : ""))
			return -1;
	return 0;
}

/* "title": { NAME: { body }, ... }, */
static int section(const char *title, const struct task *t, int n, const struct ll_set *s, struct outfile *o,
		   int (*body)(const struct task *, const struct ll_set *, struct outfile *, struct err *), struct err *e)
{
	int rc = outfile_printf(o, e, "  \"%s\": {\n", title);
	for (int i = 0; i < n && !rc; i++) {
		char *name = quoted_new(t[i].name);
		rc = outfile_printf(o, e, "    %s: {\n", name) || body(&t[i], s, o, e) ||
		     outfile_printf(o, e, "    }%s\n", i + 1 < n ? "," : "");
		free(name);
	}
	return rc || outfile_printf(o, e, "  },\n") ? -1 : 0;
}

int results_write(const struct task *t, int n, const struct ll_set *s, const struct eval_config *cfg,
		  struct outfile *o, struct err *e)
{
	char limit[32] = "null";
	if (cfg->limit)
		snprintf(limit, sizeof limit, "%lld", (long long)cfg->limit);
	if (outfile_printf(o, e, "{\n") || section("results", t, n, s, o, write_scores, e) ||
	    section("higher_is_better", t, n, s, o, write_better, e) ||
	    section("n-samples", t, n, s, o, write_samples, e) || outfile_printf(o, e, "  \"config\": {\n") ||
	    pair(o, "    ", "model", cfg->model, ",", e) || pair(o, "    ", "model_digest", cfg->fingerprint, ",", e) ||
	    pair(o, "    ", "tokenizer_digest", cfg->tokenizer, ",", e) || pair(o, "    ", "dtype", cfg->dtype, ",", e) ||
	    pair(o, "    ", "device", cfg->device, ",", e) ||
	    outfile_printf(o, e, "    \"max_length\": %lld,\n    \"limit\": %s,\n    \"num_fewshot\": 0,\n",
			   (long long)cfg->max_length, limit) ||
	    pair(o, "    ", "program", "evalharness", ",", e) || pair(o, "    ", "version", ADZE_VERSION, ",", e) ||
	    pair(o, "    ", "command", cfg->command, "", e) || outfile_printf(o, e, "  }\n}\n"))
		return -1;
	return 0;
}

void results_table(const struct task *t, int n, const struct ll_set *s, FILE *f)
{
	size_t width = 4;
	for (int i = 0; i < n; i++)
		width = strlen(t[i].name) > width ? strlen(t[i].name) : width;
	fprintf(f, "%-*s %8s  %-16s %14s %10s\n", (int)width, "task", "items", "metric", "value", "stderr");
	for (int i = 0; i < n; i++) {
		struct score sc[MAX_SCORES];
		int k = t[i].kind->score(&t[i], s, sc);
		for (int j = 0; j < k; j++) {
			char err[32] = "-";
			if (!isnan(sc[j].err))
				snprintf(err, sizeof err, "%.4f", sc[j].err);
			fprintf(f, "%-*s %8lld  %-16s %14.4f %10s\n", (int)width, t[i].name, (long long)t[i].n,
				sc[j].metric, sc[j].value, err);
		}
	}
}

int task_log_samples(const struct task *t, const struct ll_set *s, struct outfile *o, struct err *e)
{
	for (int64_t i = 0; i < t->n; i++) {
		json_t *line = json_pack("{s:I,s:s}", "doc_id", (json_int_t)i, "task", t->name);
		t->kind->sample(&t->doc[i], s, line);
		char *text = json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(17));
		int rc = outfile_printf(o, e, "%s\n", text);
		free(text);
		json_decref(line);
		if (rc)
			return -1;
	}
	return 0;
}
