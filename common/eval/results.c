/*
 * results.c - scores for programs (JSON, sample lines, an artifact) and for people (a table)
 *
 * The same scores give the same bytes: nothing written depends on the time or the place of the run.  JSON has no infinity,
 * so a perplexity that overflows is null.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../io/jsontext.h"
#include "task.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static json_t *real(double x)
{
	return isfinite(x) ? json_real(x) : json_null();
}

static int put_text(struct outfile *o, const json_t *j, int indent, struct err *e)
{
	char *text = json_text_new(j, indent);
	int rc = outfile_write(o, text, strlen(text), e);
	free(text);
	return rc;
}

/* One task's entry in "results" and in "higher_is_better". */
static void add_scores(const struct task *t, const struct ll_set *s, json_t *results, json_t *better)
{
	struct score sc[MAX_SCORES];
	int n = t->kind->score(t, s, sc);
	json_t *r = json_pack("{s:s}", "alias", t->name), *b = json_object();
	for (int i = 0; i < n; i++) {
		char key[64];
		snprintf(key, sizeof key, "%s,none", sc[i].metric);
		json_object_set_new(r, key, real(sc[i].value));
		snprintf(key, sizeof key, "%s_stderr,none", sc[i].metric);
		json_object_set_new(r, key, isnan(sc[i].err) ? json_string("N/A") : real(sc[i].err));
		json_object_set_new(b, sc[i].metric, json_boolean(sc[i].higher));
	}
	json_object_set_new(results, t->name, r);
	json_object_set_new(better, t->name, b);
}

int results_write(const struct task *t, int n, const struct ll_set *s, const struct eval_config *c, struct outfile *o,
		  struct err *e)
{
	json_t *results = json_object(), *better = json_object(), *shots = json_object(), *samples = json_object(),
	       *digests = json_object();
	for (int i = 0; i < n; i++) {
		add_scores(&t[i], s, results, better);
		json_object_set_new(shots, t[i].name, json_integer(0));
		json_object_set_new(digests, t[i].name, json_string(t[i].digest));
		json_object_set_new(samples, t[i].name, json_pack("{s:I,s:I}", "original", (json_int_t)t[i].n_file,
								  "effective", (json_int_t)t[i].n));
	}
	json_t *config = json_pack("{s:s,s:s,s:s,s:s,s:s,s:I,s:o,s:s,s:s,s:s}", "model", c->model, "model_digest",
				   c->fingerprint, "tokenizer_digest", c->tokenizer, "dtype", c->dtype, "device", c->device,
				   "max_length", (json_int_t)c->max_length, "limit",
				   c->limit ? json_integer(c->limit) : json_null(), "program", "evalharness", "version",
				   ADZE_VERSION, "command", c->command);
	json_t *all = json_pack("{s:o,s:o,s:o,s:o,s:o,s:o}", "results", results, "n-shot", shots, "higher_is_better",
				better, "n-samples", samples, "task_hashes", digests, "config", config);
	if (!all)
		BUG("results cannot be packed");
	int rc = put_text(o, all, 2, e);
	json_decref(all);
	return rc;
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
	int rc = 0;
	for (int64_t i = 0; i < t->n && !rc; i++) {
		json_t *line = json_pack("{s:I,s:s}", "doc_id", (json_int_t)i, "task", t->name);
		t->kind->sample(&t->doc[i], s, line);
		rc = put_text(o, line, 0, e);
		json_decref(line);
	}
	return rc;
}

struct art_w *scores_create(const struct task *t, int n, struct eval_config *c, const char *path, bool force,
			    struct err *e)
{
	prov_add_digest(&c->prov, "model", c->model, "model", c->fingerprint);
	for (int i = 0; i < n; i++)
		prov_add_digest(&c->prov, "task", t[i].path, "items", t[i].digest);
	struct art_w *w = art_create(path, "scores", 1, &c->prov, force, e);
	if (w)
		art_meta_str(w, "model", c->fingerprint);
	return w;
}

static int put_score(struct art_w *w, const struct task *t, const struct score *sc, struct err *e)
{
	int with_err = !isnan(sc->err);
	art_map(w, 5 + with_err);
	art_key(w, "task");
	art_str(w, t->name);
	art_key(w, "metric");
	art_str(w, sc->metric);
	art_key(w, "value");
	art_f64(w, sc->value);
	if (with_err) {
		art_key(w, "stderr");
		art_f64(w, sc->err);
	}
	art_key(w, "n");
	art_int(w, t->n);
	art_key(w, "shots");
	art_int(w, 0);
	return art_end_record(w, e);
}

int scores_commit(struct art_w *w, const struct task *t, int n, const struct ll_set *s, struct err *e)
{
	for (int i = 0; i < n; i++) {
		struct score sc[MAX_SCORES];
		int k = t[i].kind->score(&t[i], s, sc);
		for (int j = 0; j < k; j++)
			if (put_score(w, &t[i], &sc[j], e)) {
				art_abort(w);
				return -1;
			}
	}
	return art_commit(w, e);
}
