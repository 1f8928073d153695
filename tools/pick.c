/*
 * pick - which of several training runs is ahead, how their order changed, and whether it has settled
 *
 * Reads RUN/metrics.jsonl (or RUN/kd/metrics.jsonl) of each run and takes the steps that all have a held-out loss for; with
 * --score it takes RUN/score-STEP.json instead (evalharness).  The order has settled once it has stayed the same for
 * --patience evaluations after the first: then rankings of candidates can be trusted (arXiv 2407.14679, figure 9: they
 * move for some hundred steps).  What was measured before training, step 0, is shown and does not count.
 *
 * The answer is a function of the runs' files alone, so it can be asked again at any time.
 *
 *	pick search/c1 search/c4 search/c9 --patience 3 -o trajectory.jsonl
 *
 * Exit code 0: settled; 75: not yet, train on.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/base/outfile.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
	const char *key, *score, *format;
	int64_t patience, until;
} o = { .key = "valid/loss", .patience = 3, .format = "table" };

static const struct opt opts[] = {
	OPT_I64(0, "patience", &o.patience, "M", "evaluations in a row without a change of order", 1, 1e6),
	OPT_I64(0, "until", &o.until, "STEP", "look at steps up to this one, 0 for all", 0, 1e12),
	OPT_STR(0, "key", &o.key, "KEY", "what to compare in metrics.jsonl, smallest first: valid/loss, valid/lm/ce ..."),
	OPT_STR(0, "score", &o.score, "TASK", "compare RUN/score-STEP.json instead: accuracy largest first, perplexity smallest"),
	OPT_CHOICE(0, "format", &o.format, "table|jsonl", "what to print when there is no -o"),
	OPT_OUT_ROW("trajectory to write, JSON lines"), OPT_COMMON_ROWS, OPT_END
};
static const struct usage use = {
	"pick", "Orders training runs by held-out loss or score at every common step, and says whether the order has settled.",
	"RUN RUN... [--patience M] [-o TRAJECTORY]",
	"pick search/c1 search/c4 search/c9 --patience 3 -o trajectory.jsonl\n"
	"pick runs/lr-1e-4 runs/lr-3e-4 --key valid/lm/ce", opts
};

struct point {
	int64_t step;
	double tokens, value;
};
struct run {
	const char *dir;
	char name[64];
	struct point *pt;              /* steps rising */
	int64_t n;
};
struct eval {                          /* one common step */
	int64_t step;
	double tokens;
	int *order;                    /* [runs], best first */
	double *value;                 /* [runs], by run */
	int64_t swaps, unchanged;      /* pairs that changed places since the last; evaluations in a row without any */
};
static double sign = 1;                /* -1: larger values are better */

/* ---- reading ---- */

static void name_run(struct run *r)
{
	size_t len = strlen(r->dir);

	while (len > 1 && r->dir[len - 1] == '/')
		len--;
	const char *base = r->dir + len;
	while (base > r->dir && base[-1] != '/')
		base--;
	snprintf(r->name, sizeof r->name, "%.*s", (int)(r->dir + len - base), base);
}

/* Reads RUN/score-STEP.json; false when there is none. */
static bool read_score(const struct run *r, int64_t step, double *value)
{
	static const char *const larger[] = { "acc_norm,none", "acc,none", "exact_match,none", NULL };
	static const char *const smaller[] = { "token_perplexity,none", "word_perplexity,none", NULL };
	char *path = xasprintf("%s/score-%lld.json", r->dir, (long long)step);
	json_error_t je;
	const json_t *v = NULL;
	double s = -1;

	if (access(path, R_OK)) {
		free(path);
		return false;
	}
	json_t *all = json_load_file(path, 0, &je);
	if (!all)
		die(EXIT_DATA, "%s: line %d: %s", path, je.line, je.text);
	const json_t *task = json_object_get(json_object_get(all, "results"), o.score);
	for (const char *const *k = larger; *k && !json_is_number(v); k++)
		v = json_object_get(task, *k);
	for (const char *const *k = smaller; *k && !json_is_number(v); k++, s = 1)
		v = json_object_get(task, *k);
	if (!json_is_number(v))
		die(EXIT_DATA, "%s: no accuracy or perplexity of task %s", path, o.score);
	*value = json_number_value(v);
	sign = s;
	json_decref(all);
	free(path);
	return true;
}

static void add_point(struct run *r, const json_t *line, const char *path, int number)
{
	const json_t *step = json_object_get(line, "step"), *v = json_object_get(line, o.key);
	struct point p = { json_integer_value(step), json_number_value(json_object_get(line, "tokens")), NAN };

	if (!json_is_integer(step))
		die(EXIT_DATA, "%s: line %d has no step", path, number);
	if ((o.until && p.step > o.until) || (o.score ? !read_score(r, p.step, &p.value) : !v))
		return;
	if (!o.score && json_is_number(v))     /* null: it was not finite */
		p.value = json_number_value(v);
	if (r->n && p.step <= r->pt[r->n - 1].step)
		die(EXIT_DATA, "%s: line %d: step %lld after step %lld", path, number, (long long)p.step,
			(long long)r->pt[r->n - 1].step);
	if (!(r->n & (r->n - 1)))
		r->pt = xrealloc(r->pt, (size_t)(r->n ? 2 * r->n : 1), sizeof *r->pt);
	r->pt[r->n++] = p;
}

static void read_run(struct run *r)
{
	char *path = xasprintf("%s/metrics.jsonl", r->dir);
	struct err e;
	size_t n;
	int number = 0;

	if (access(path, R_OK)) {
		free(path);
		path = xasprintf("%s/kd/metrics.jsonl", r->dir);
	}
	char *text = file_read_new(path, (size_t)1 << 31, &n, &e);
	if (!text)
		die_err(&e);
	for (char *save = NULL, *s = strtok_r(text, "\n", &save); s; s = strtok_r(NULL, "\n", &save)) {
		json_t *line = json_loads(s, 0, NULL);
		number++;
		if (!json_is_object(line) && *save)    /* the last line may be half written */
			die(EXIT_DATA, "%s: line %d is not a JSON object", path, number);
		if (json_is_object(line))
			add_point(r, line, path, number);
		json_decref(line);
	}
	free(text);
	free(path);
}

static const struct point *at_step(const struct run *r, int64_t step)
{
	for (int64_t i = 0; i < r->n; i++)
		if (r->pt[i].step == step)
			return &r->pt[i];
	return NULL;
}

/* ---- orders ---- */

/* Not a number comes last; equal values keep the order of the command line. */
static bool ahead(const struct eval *v, int a, int b)
{
	double x = sign * v->value[a], y = sign * v->value[b];

	if (isnan(x) || isnan(y))
		return isnan(x) == isnan(y) ? a < b : isnan(y);
	return x != y ? x < y : a < b;
}

static void sort_runs(struct eval *v, int n)
{
	for (int i = 0; i < n; i++) {
		int k = i;
		for (; k > 0 && ahead(v, i, v->order[k - 1]); k--)
			v->order[k] = v->order[k - 1];
		v->order[k] = i;
	}
}

static int64_t swapped(const struct eval *a, const struct eval *b, int n)
{
	int64_t s = 0;

	for (int i = 0; i < n; i++)
		for (int j = 0; j < i; j++)
			s += ahead(a, i, j) != ahead(b, i, j);
	return s;
}

/* Evaluations at the steps that all runs share. */
static struct eval *evaluations_new(const struct run *run, int runs, int64_t *n)
{
	struct eval *all = xcalloc((size_t)run[0].n + 1, sizeof *all);

	*n = 0;
	for (int64_t i = 0; i < run[0].n; i++) {
		struct eval *v = &all[*n];
		bool shared = true;
		v->value = xcalloc((size_t)runs, sizeof *v->value);
		for (int r = 0; r < runs && shared; r++) {
			const struct point *p = at_step(&run[r], run[0].pt[i].step);
			shared = p != NULL;
			v->value[r] = p ? p->value : NAN;
		}
		if (!shared) {
			free(v->value);
			continue;
		}
		v->step = run[0].pt[i].step;
		v->tokens = run[0].pt[i].tokens;
		v->order = xcalloc((size_t)runs, sizeof *v->order);
		sort_runs(v, runs);
		if (*n) {
			v->swaps = swapped(v, v - 1, runs);
			v->unchanged = v->swaps || v[-1].step == 0 ? 0 : v[-1].unchanged + 1;
		}
		(*n)++;
	}
	return all;
}

/* The first evaluation at which the order had settled, or -1. */
static int64_t settled_at(const struct eval *v, int64_t n)
{
	for (int64_t i = 0; i < n; i++)
		if (v[i].unchanged >= o.patience)
			return i;
	return -1;
}

/* ---- what is said ---- */

static json_t *eval_json(const struct eval *v, const struct run *run, int runs)
{
	json_t *names = json_array(), *values = json_object();

	for (int i = 0; i < runs; i++) {
		int r = v->order[i];
		json_array_append_new(names, json_string(run[r].name));
		json_object_set_new(values, run[r].name, isfinite(v->value[r]) ? json_real(v->value[r]) : json_null());
	}
	return json_pack("{sI,sf,so,so,sI,sI,sb}", "step", (json_int_t)v->step, "tokens", v->tokens, "order", names,
		o.score ? o.score : o.key, values, "swaps", (json_int_t)v->swaps, "unchanged", (json_int_t)v->unchanged,
		"settled", v->unchanged >= o.patience);
}

static json_t *verdict_json(const struct eval *v, int64_t n, int64_t settled, const struct run *run, int runs)
{
	const struct eval *end = &v[n - 1];

	return json_pack("{ss,sI,sb,sI,sf,sI}", "winner", run[end->order[0]].name, "step", (json_int_t)end->step, "settled",
		settled >= 0, "patience", (json_int_t)o.patience, "tokens", end->tokens * runs, "evaluations",
		(json_int_t)n);
}

static void put_line(struct outfile *f, json_t *j)
{
	char *s = json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(9));
	struct err e;

	if (!f)
		puts(s);
	else if (outfile_printf(f, &e, "%s\n", s))
		die_err(&e);
	free(s);
	json_decref(j);
}

static void put_trajectory(struct outfile *f, const struct eval *v, int64_t n, int64_t settled, const struct run *run, int runs)
{
	for (int64_t i = 0; i < n; i++)
		put_line(f, eval_json(&v[i], run, runs));
	put_line(f, verdict_json(v, n, settled, run, runs));
}

static void put_table(const struct eval *v, int64_t n, int64_t settled, const struct run *run, int runs)
{
	char text[32];
	int w = 0;

	for (int r = 0; r < runs; r++)
		w = (int)strlen(run[r].name) > w ? (int)strlen(run[r].name) : w;
	printf("%8s %8s %6s %6s  %s, best first\n", "step", "tokens", "swaps", "same", o.score ? o.score : o.key);
	for (int64_t i = 0; i < n; i++) {
		printf("%8lld %8s %6lld %6lld ", (long long)v[i].step, fmt_count(text, v[i].tokens), (long long)v[i].swaps,
			(long long)v[i].unchanged);
		for (int r = 0; r < runs; r++)
			printf(" %*s %-7.4f", r ? w + 1 : w, run[v[i].order[r]].name, v[i].value[v[i].order[r]]);
		printf("\n");
	}
	const char *best = run[v[n - 1].order[0]].name;
	if (settled >= 0)
		printf("winner %s: the order settled at step %lld, the same for %lld evaluations in a row\n", best,
			(long long)v[settled].step, (long long)v[settled].unchanged);
	else
		printf("%s is ahead at step %lld; the order has not settled\n", best, (long long)v[n - 1].step);
}

int main(int argc, char **argv)
{
	int runs = opt_parse(&use, argc, argv);
	struct err e;
	int64_t n;

	if (runs < 2)
		opt_die("at least two runs are needed");
	log_start();
	struct run *run = xcalloc((size_t)runs, sizeof *run);
	for (int i = 0; i < runs; i++) {
		run[i].dir = argv[i];
		name_run(&run[i]);
		for (int k = 0; k < i; k++)
			if (!strcmp(run[i].name, run[k].name))
				opt_die("two runs are called %s", run[i].name);
		read_run(&run[i]);
	}
	struct eval *v = evaluations_new(run, runs, &n);
	if (!n)
		die(EXIT_DATA, "no step has a value of %s in every run", o.score ? o.score : o.key);
	int64_t settled = settled_at(v, n);
	if (com.out) {
		struct outfile *f = outfile_open(com.out, false, com.force, &e);
		if (!f)
			die_err(&e);
		put_trajectory(f, v, n, settled, run, runs);
		if (outfile_commit(f, &e))
			die_err(&e);
	} else if (!strcmp(o.format, "jsonl")) {
		put_trajectory(NULL, v, n, settled, run, runs);
	} else {
		put_table(v, n, settled, run, runs);
	}
	if (fflush(stdout) || ferror(stdout))
		die(EXIT_IO, "stdout: write error");
	for (int64_t i = 0; i < n; i++) {
		free(v[i].order);
		free(v[i].value);
	}
	for (int i = 0; i < runs; i++)
		free(run[i].pt);
	free(v);
	free(run);
	return settled >= 0 ? EXIT_DONE : EXIT_AGAIN;
}
