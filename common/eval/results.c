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

/* "acc,none" and "acc_stderr,none"; a filter's name in place of none */
static void add_score(json_t *r, json_t *better, const struct score *sc)
{
	char key[128];
	const char *filter = sc->filter ? sc->filter : "none";
	snprintf(key, sizeof key, "%s,%s", sc->metric, filter);
	json_object_set_new(r, key, real(sc->value));
	snprintf(key, sizeof key, "%s_stderr,%s", sc->metric, filter);
	json_object_set_new(r, key, isnan(sc->err) ? json_string("N/A") : real(sc->err));
	json_object_set_new(better, sc->metric, json_boolean(sc->higher));
}

/* The tables of the result: one entry each per task */
struct tables {
	json_t *results, *groups, *parts, *better, *shots, *samples, *versions, *digests;
};

static void add_task(struct tables *b, const struct task *t)
{
	const size_t skip = t->group ? strlen(t->top) + 1 : 0;
	char alias[128];
	snprintf(alias, sizeof alias, "%s%s", t->group ? "  - " : "", t->name + skip);
	json_t *r = json_pack("{s:s,s:I}", "alias", alias, "sample_len", (json_int_t)t->n), *h = json_object();
	for (int i = 0; i < t->n_score; i++)
		add_score(r, h, &t->score[i]);
	json_object_set_new(b->results, t->name, r);
	json_object_set_new(b->better, t->name, h);
	json_object_set_new(b->shots, t->name, json_integer(t->shots));
	json_object_set_new(b->digests, t->name, json_string(t->digest));
	if (t->rules)
		json_object_set_new(b->versions, t->name, json_real(t->rules->version));
	json_object_set_new(b->samples, t->name, json_pack("{s:I,s:I}", "original", (json_int_t)t->n_file, "effective",
							   (json_int_t)t->n));
}

static void add_part(json_t *parts, const char *group, const char *name)
{
	if (!json_object_get(parts, group))
		json_object_set_new(parts, group, json_array());
	json_array_append_new(json_object_get(parts, group), json_string(name));
}

static void add_group(struct tables *b, const struct group *g)
{
	char alias[128];
	snprintf(alias, sizeof alias, "%s%s", g->parent ? " - " : "", g->name + (g->parent ? strlen(g->parent) + 1 : 0));
	json_t *r = json_pack("{s:s,s:I}", "alias", alias, "sample_len", (json_int_t)g->items), *h = json_object();
	add_score(r, h, &g->acc);
	json_object_set(b->groups, g->name, r);
	json_object_set_new(b->results, g->name, r);
	json_object_set_new(b->better, g->name, h);
	json_object_set_new(b->shots, g->name, json_integer(g->shots));
	json_object_set_new(b->versions, g->name, json_real(g->version));
	if (g->parent)
		add_part(b->parts, g->parent, g->name);
}

static void fill_tables(struct tables *b, const struct task *t, int n)
{
	struct group *g;
	int n_group = groups_new(t, n, &g);
	json_t **all[] = { &b->results, &b->groups, &b->parts, &b->better, &b->shots, &b->samples, &b->versions, &b->digests };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		*all[i] = json_object();
	for (int i = 0; i < n_group; i++)
		add_group(b, &g[i]);
	for (int i = 0; i < n; i++) {
		add_task(b, &t[i]);
		if (t[i].group || t[i].top)
			add_part(b->parts, t[i].group ? t[i].group : t[i].top, t[i].name);
	}
	free(g);
}

int results_write(const struct task *t, int n, const struct eval_config *c, struct outfile *o, struct err *e)
{
	struct tables b;
	fill_tables(&b, t, n);
	json_t *config = json_pack("{s:s,s:s,s:s,s:s,s:s,s:I,s:s,s:o,s:I,s:s,s:s,s:s}", "model", c->model, "model_digest",
				   c->fingerprint, "tokenizer_digest", c->tokenizer, "dtype", c->dtype, "device", c->device,
				   "max_length", (json_int_t)c->max_length, "bos", c->bos, "limit",
				   !(c->limit > 0) ? json_null() : c->limit < 1 ? json_real(c->limit) : json_integer((json_int_t)c->limit), "fewshot_seed", (json_int_t)c->seed, "program",
				   "evalharness", "version", ADZE_VERSION, "command", c->command);
	json_t *all = json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "results", b.results, "groups", b.groups,
				"group_subtasks", b.parts, "versions", b.versions, "n-shot", b.shots, "higher_is_better",
				b.better, "n-samples", b.samples, "task_hashes", b.digests, "config", config);
	if (!all)
		BUG("results cannot be packed");
	if (!json_object_size(b.groups)) {
		json_object_del(all, "groups");
		json_object_del(all, "group_subtasks");
	}
	int rc = put_text(o, all, 2, e);
	json_decref(all);
	return rc;
}

static void table_row(FILE *f, size_t width, const char *name, int64_t n, const struct score *sc)
{
	char err[32] = "-", metric[96];
	snprintf(metric, sizeof metric, sc->filter ? "%s,%s" : "%s", sc->metric, sc->filter);
	if (!isnan(sc->err))
		snprintf(err, sizeof err, "%.4f", sc->err);
	fprintf(f, "%-*s %8lld  %-16s %14.4f %10s\n", (int)width, name, (long long)n, metric, sc->value, err);
}

void results_table(const struct task *t, int n, FILE *f)
{
	struct group *g;
	size_t width = 4;
	int n_group = groups_new(t, n, &g);
	for (int i = 0; i < n; i++)
		width = strlen(t[i].name) > width ? strlen(t[i].name) : width;
	fprintf(f, "%-*s %8s  %-16s %14s %10s\n", (int)width, "task", "items", "metric", "value", "stderr");
	for (int i = 0; i < n_group; i++)
		table_row(f, width, g[i].name, g[i].items, &g[i].acc);
	for (int i = 0; i < n; i++)
		for (int j = 0; j < t[i].n_score; j++)
			table_row(f, width, t[i].name, t[i].n, &t[i].score[j]);
	free(g);
}

/* One JSON line per item. */
int task_log_samples(const struct task *t, const struct ll_set *s, struct outfile *o, struct err *e)
{
	int rc = 0;
	for (int64_t i = 0; i < t->n && !rc; i++) {
		json_t *line = json_pack("{s:I,s:s}", "doc_id", (json_int_t)i, "task", t->name);
		t->kind->sample(&t->doc[i], s, line);
		if (!task_reports(t, "acc_norm"))
			json_object_del(line, "acc_norm");
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
	char metric[96];
	snprintf(metric, sizeof metric, sc->filter ? "%s,%s" : "%s", sc->metric, sc->filter);
	art_key(w, "metric");
	art_str(w, metric);
	art_key(w, "value");
	art_f64(w, sc->value);
	if (with_err) {
		art_key(w, "stderr");
		art_f64(w, sc->err);
	}
	art_key(w, "n");
	art_int(w, t->n);
	art_key(w, "shots");
	art_int(w, t->shots);
	return art_end_record(w, e);
}

int scores_commit(struct art_w *w, const struct task *t, int n, struct err *e)
{
	for (int i = 0; i < n; i++)
		for (int j = 0; j < t[i].n_score; j++)
			if (put_score(w, &t[i], &t[i].score[j], e)) {
				art_abort(w);
				return -1;
			}
	return art_commit(w, e);
}
