/*
 * report - what a chain of runs gave: a table on stdout, a self-contained HTML page with the loss curves
 *
 * A run is a directory as pipelines/minitron.mk and kd-train make them; whatever is there is shown:
 *
 *	config.json, student/, kd/student/, model/, trimmed/   the model (the first that exists gives shape and parameter counts)
 *	metrics.jsonl, kd/metrics.jsonl              training: tokens, FLOPs, loss per step
 *	trimmed.json                                 scores before training (the merely trimmed model)
 *	results.json                                 scores of the model
 *	*.log                                        events of the stages: how long each took
 *
 *	report build/demo/teacher build/demo/small -o report.html
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/base/outfile.h"
#include "../common/model/params.h"
#include <glob.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *notes;

static const struct opt opts[] = {
	OPT_STR(0, "notes", &notes, "FILE", "text to show on the page as it is, like the table of pick"),
	OPT_OUT_ROW("HTML page to write as well"),
	OPT_COMMON_ROWS,
	OPT_END,
};
static const struct usage usage = {
	"report",
	"Shows what runs gave: parameters, tokens, FLOPs and scores as a table, and as an HTML page with the loss curves.",
	"RUN... [-o PAGE.html]",
	"report build/minitron/teacher build/minitron/8b build/minitron/4b\n"
	"report runs/lr-1e-4 runs/lr-3e-4 -o report.html",
	opts,
};

struct point {
	double tokens, loss;
};
struct run {
	const char *dir;
	char name[64];
	bool shaped;
	struct arch arch;
	double params, nonembedding;
	double tokens, flops;
	struct point *pt, *held;       /* training loss; held-out loss where it was measured */
	int n_pt, n_held;
	json_t *before, *after;        /* the "results" objects, or NULL */
};
struct row {                           /* one line of the table */
	const struct run *r;
	const char *what;              /* appended to the name */
	json_t *scores;
	bool trained;
};
enum { MAX_COL = 24, MAX_CELL = 64 };
struct table {
	char (*cell)[MAX_COL][MAX_CELL];
	int rows, cols;
};

/* ---- what a directory holds ---- */

static const char *first_file(const char *dir, const char *const *names, char *buf, size_t n)
{
	for (; *names; names++) {
		snprintf(buf, n, "%s/%s", dir, *names);
		if (!access(buf, R_OK))
			return buf;
	}
	return NULL;
}

static json_t *scores_of(const char *dir, const char *file)
{
	char path[4096];
	json_error_t je;
	snprintf(path, sizeof path, "%s/%s", dir, file);
	if (access(path, R_OK))
		return NULL;
	json_t *all = json_load_file(path, 0, &je);
	if (!all)
		die(EXIT_DATA, "%s: line %d: %s", path, je.line, je.text);
	json_t *r = json_incref(json_object_get(all, "results"));
	json_decref(all);
	if (!json_is_object(r))
		die(EXIT_DATA, "%s: no \"results\" object", path);
	return r;
}

static void add_point(struct point **pt, int *n, double tokens, const json_t *loss)
{
	if (!json_is_number(loss))
		return;
	if (!(*n & (*n - 1)))
		*pt = xrealloc(*pt, (size_t)(*n ? *n * 2 : 1), sizeof **pt);
	(*pt)[(*n)++] = (struct point){ tokens, json_number_value(loss) };
}

static void read_metrics(struct run *r, const char *path)
{
	struct err e;
	size_t n;
	char *text = file_read_new(path, (size_t)1 << 31, &n, &e);
	if (!text)
		die_err(&e);
	int line = 0;
	for (char *save = NULL, *s = strtok_r(text, "\n", &save); s; s = strtok_r(NULL, "\n", &save)) {
		json_t *o = json_loads(s, 0, NULL);
		line++;
		if (!o && *save)       /* the last line may be half written */
			die(EXIT_DATA, "%s: line %d is not a JSON object", path, line);
		double tokens = json_number_value(json_object_get(o, "tokens"));
		double flops = json_number_value(json_object_get(o, "flops"));
		r->tokens = fmax(r->tokens, tokens);
		r->flops = fmax(r->flops, flops);
		add_point(&r->pt, &r->n_pt, tokens, json_object_get(o, "loss"));
		add_point(&r->held, &r->n_held, tokens, json_object_get(o, "valid/loss"));
		json_decref(o);
	}
	free(text);
}

static void read_run(struct run *r, const char *dir)
{
	static const char *const models[] = { "config.json", "student/config.json", "kd/student/config.json",
		"model/config.json", "trimmed/config.json", NULL };
	static const char *const logs[] = { "metrics.jsonl", "kd/metrics.jsonl", NULL };
	char path[4096];
	struct err e;
	*r = (struct run){ .dir = dir };
	size_t len = strlen(dir);
	while (len > 1 && dir[len - 1] == '/')
		len--;
	const char *base = dir + len;
	while (base > dir && base[-1] != '/')
		base--;
	snprintf(r->name, sizeof r->name, "%.*s", (int)(dir + len - base), base);
	const char *m = first_file(dir, models, path, sizeof path);
	if (m) {
		if (arch_load(&r->arch, m, &e))
			die_err(&e);
		r->shaped = true;
		r->params = (double)arch_count(&r->arch);
		r->nonembedding = (double)arch_count_nonembedding(&r->arch);
	}
	const char *l = first_file(dir, logs, path, sizeof path);
	if (l)
		read_metrics(r, l);
	r->before = scores_of(dir, "trimmed.json");
	r->after = scores_of(dir, "results.json");
	if (!m && !l && !r->before && !r->after)
		die(EXIT_DATA, "%s: no model, no metrics.jsonl and no results.json here", dir);
}

static void free_run(struct run *r)
{
	if (r->shaped)
		arch_free(&r->arch);
	free(r->pt);
	free(r->held);
	json_decref(r->before);
	json_decref(r->after);
}

/* ---- the table ---- */

/* The number that stands for a task: perplexity per token as "loss / ppl", else the accuracy. */
static void score_text(char *cell, const json_t *scores, const char *task)
{
	static const char *const accuracy[] = { "acc_norm,none", "acc,none", "exact_match,none", NULL };
	const json_t *t = json_object_get(scores, task), *v = json_object_get(t, "token_perplexity,none");
	strcpy(cell, "-");
	if (json_is_number(v)) {
		double ppl = json_number_value(v);
		snprintf(cell, MAX_CELL, ppl < 1e5 ? "%.3f / %.2f" : "%.3f / %.3g", log(ppl), ppl);
		return;
	}
	for (const char *const *k = accuracy; *k; k++)
		if (json_is_number(v = json_object_get(t, *k))) {
			char key[48];
			snprintf(key, sizeof key, "%.*s_stderr,none", (int)strcspn(*k, ","), *k);
			const json_t *se = json_object_get(t, key);
			int n = snprintf(cell, MAX_CELL, "%.1f", 100 * json_number_value(v));
			if (json_is_number(se))
				n += snprintf(cell + n, MAX_CELL - (size_t)n, " +- %.1f", 100 * json_number_value(se));
			snprintf(cell + n, MAX_CELL - (size_t)n, " %%");
			return;
		}
}

static bool is_text_task(const json_t *scores, const char *task)
{
	return json_object_get(json_object_get(scores, task), "token_perplexity,none") != NULL;
}

static int list_tasks(const struct row *row, int n, const char *task[MAX_COL])
{
	int k = 0;
	for (int i = 0; i < n; i++) {
		const char *key;
		json_t *v;
		json_object_foreach(row[i].scores, key, v) {
			int j = 0;
			while (j < k && strcmp(task[j], key))
				j++;
			if (j == k && k < MAX_COL - 6)
				task[k++] = key;
		}
	}
	return k;
}

static void fill_row(char (*c)[MAX_CELL], const struct row *w, const char *const *task, int n_task)
{
	const struct run *r = w->r;
	const struct arch *a = &r->arch;
	snprintf(c[0], MAX_CELL, "%s%s", r->name, w->what);
	for (int i = 1; i < 6; i++)
		strcpy(c[i], "-");
	if (r->shaped) {
		snprintf(c[1], MAX_CELL, "%lldx%lldx%lld %lld/%lld", (long long)a->layers, (long long)a->hidden,
			 (long long)a->ffn, (long long)a->heads, (long long)a->kv_heads);
		fmt_count(c[2], r->params);
		fmt_count(c[3], r->nonembedding);
	}
	if (w->trained && r->n_pt) {
		fmt_count(c[4], r->tokens);
		snprintf(c[5], MAX_CELL, "%.2e", r->flops);
	}
	for (int i = 0; i < n_task; i++)
		score_text(c[6 + i], w->scores, task[i]);
}

static struct table make_table(const struct row *row, int n)
{
	static const char *const head[] = { "model", "layers x hidden x ffn h/kv", "parameters", "non-embedding",
		"tokens seen", "training FLOPs" };
	const char *task[MAX_COL];
	int k = list_tasks(row, n, task);
	struct table t = { xcalloc((size_t)n + 1, sizeof *t.cell), n + 1, 6 + k };
	for (int i = 0; i < 6; i++)
		snprintf(t.cell[0][i], MAX_CELL, "%s", head[i]);
	for (int i = 0; i < k; i++) {
		const char *unit = "";
		for (int j = 0; j < n; j++)
			if (is_text_task(row[j].scores, task[i]))
				unit = " loss / ppl";
		snprintf(t.cell[0][6 + i], MAX_CELL, "%.*s%s", MAX_CELL - 16, task[i], unit);
	}
	for (int i = 0; i < n; i++)
		fill_row(t.cell[i + 1], &row[i], task, k);
	return t;
}

static void print_table(const struct table *t)
{
	for (int i = 0; i < t->rows; i++)
		for (int j = 0; j < t->cols; j++) {
			int w = 0;
			for (int k = 0; k < t->rows; k++)
				w = (int)strlen(t->cell[k][j]) > w ? (int)strlen(t->cell[k][j]) : w;
			printf(j < 2 ? "%-*s" : "%*s", w, t->cell[i][j]);
			fputs(j + 1 < t->cols ? "  " : "\n", stdout);
		}
}

/* ---- how long the stages took ---- */

/* Seconds in an events file: the last clock of every start, so that killed and resumed runs add up. */
static double log_seconds(const char *path)
{
	struct err e;
	size_t n;
	char *text = file_read_new(path, (size_t)1 << 31, &n, &e);
	if (!text)
		die_err(&e);
	double sum = 0, last = 0;
	for (char *save = NULL, *s = strtok_r(text, "\n", &save); s; s = strtok_r(NULL, "\n", &save)) {
		double t = 0;
		if (sscanf(s, "{\"t\":%lf", &t) != 1)
			continue;
		if (strstr(s, "\"event\":\"start\"")) {
			sum += last;
			last = 0;
		}
		last = fmax(last, t);
	}
	free(text);
	return sum + last;
}

static void print_times(const struct run *r, FILE *f)
{
	char pattern[4096];
	glob_t g;
	snprintf(pattern, sizeof pattern, "%s/*.log", r->dir);
	if (glob(pattern, 0, NULL, &g))
		return;
	double total = 0;
	fprintf(f, "%s:", r->name);
	for (size_t i = 0; i < g.gl_pathc; i++) {
		const char *base = strrchr(g.gl_pathv[i], '/') + 1;
		double s = log_seconds(g.gl_pathv[i]);
		fprintf(f, "%s %.*s %.1f s", i ? "," : "", (int)(strlen(base) - 4), base, s);
		total += s;
	}
	fprintf(f, "; together %.1f s\n", total);
	globfree(&g);
}

/* ---- the page ---- */

static int put_escaped(struct outfile *o, const char *s, struct err *e)
{
	for (; *s; s++) {
		const char *x = *s == '<' ? "&lt;" : *s == '>' ? "&gt;" : *s == '&' ? "&amp;" : NULL;
		if (x ? outfile_write(o, x, strlen(x), e) : outfile_write(o, s, 1, e))
			return -1;
	}
	return 0;
}

static int put_table(struct outfile *o, const struct table *t, struct err *e)
{
	if (outfile_printf(o, e, "<table>\n"))
		return -1;
	for (int i = 0; i < t->rows; i++) {
		if (outfile_printf(o, e, "<tr>"))
			return -1;
		for (int j = 0; j < t->cols; j++)
			if (outfile_printf(o, e, i ? "<td>" : "<th>") || put_escaped(o, t->cell[i][j], e))
				return -1;
		if (outfile_printf(o, e, "\n"))
			return -1;
	}
	return outfile_printf(o, e, "</table>\n");
}

enum { W = 760, H = 360, LEFT = 56, RIGHT = 16, TOP = 16, BOTTOM = 40 };
static const char *const color[] = { "#0b6e99", "#c4421a", "#4d7c0f", "#7e3794", "#8a6d00", "#666666" };

struct frame_of {                      /* data range of the plot */
	double x1, y0, y1;
};
static double px(const struct frame_of *f, double x)
{
	return LEFT + (W - LEFT - RIGHT) * x / f->x1;
}
static double py(const struct frame_of *f, double y)
{
	return TOP + (H - TOP - BOTTOM) * (f->y1 - y) / (f->y1 - f->y0);
}

static int put_axes(struct outfile *o, const struct frame_of *f, const char *what, struct err *e)
{
	char text[32];
	int rc = outfile_printf(o, e, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s loss by tokens\">\n", W, H, what);
	for (int i = 0; i <= 4 && !rc; i++) {
		double x = f->x1 * i / 4, y = f->y0 + (f->y1 - f->y0) * i / 4;
		rc = outfile_printf(o, e, "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.3g</text>\n"
				    "<text x=\"%.1f\" y=\"%d\" text-anchor=\"%s\">%s</text>\n", LEFT, py(f, y), W - RIGHT,
				    LEFT - 6, py(f, y) + 4, y, px(f, x), H - BOTTOM + 18, i < 4 ? "middle" : "end",
				    fmt_count(text, x));
	}
	return rc || outfile_printf(o, e, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">tokens; y: %s loss</text>\n",
				    W / 2, H - 4, what);
}

static const struct point *series(const struct run *r, bool held, int *n)
{
	*n = held ? r->n_held : r->n_pt;
	return held ? r->held : r->pt;
}

/* One line a run: training loss, or held-out loss. */
static int put_curves(struct outfile *o, const struct run *run, int n, bool held, struct err *e)
{
	struct frame_of f = { 0, INFINITY, -INFINITY };
	const struct point *pt;
	int k;
	for (int i = 0; i < n; i++) {
		pt = series(&run[i], held, &k);
		for (int j = 0; j < k; j++) {
			f.x1 = fmax(f.x1, pt[j].tokens);
			f.y0 = fmin(f.y0, pt[j].loss);
			f.y1 = fmax(f.y1, pt[j].loss);
		}
	}
	if (!(f.x1 > 0) || !(f.y1 >= f.y0))
		return 0;
	if (f.y1 == f.y0)
		f.y1 += 1;
	if (put_axes(o, &f, held ? "held-out" : "training", e))
		return -1;
	for (int i = 0, shown = 0; i < n; i++) {
		pt = series(&run[i], held, &k);
		if (!k)
			continue;
		const char *c = color[shown % 6];
		if (outfile_printf(o, e, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.6\" points=\"", c))
			return -1;
		int step = k / 1000 + 1;
		for (int j = 0; j < k; j += step)
			if (outfile_printf(o, e, "%.1f,%.1f ", px(&f, pt[j].tokens), py(&f, pt[j].loss)))
				return -1;
		if (outfile_printf(o, e, "\"/>\n<text x=\"%d\" y=\"%d\" text-anchor=\"end\" style=\"fill:%s\">", W - RIGHT - 8,
				   TOP + 16 + 18 * shown++, c) || put_escaped(o, run[i].name, e) || outfile_printf(o, e, "</text>\n"))
			return -1;
	}
	return outfile_printf(o, e, "</svg>\n");
}

static int put_notes(struct outfile *o, struct err *e)
{
	size_t n;
	char *text = notes ? file_read_new(notes, 1 << 24, &n, e) : NULL;
	int rc = notes ? !text || outfile_printf(o, e, "<pre>") || put_escaped(o, text, e) || outfile_printf(o, e, "</pre>\n") : 0;
	free(text);
	return rc ? -1 : 0;
}

static int write_page(const char *path, const struct table *t, const struct run *run, int n, struct err *e)
{
	char *times = NULL;
	size_t len;
	FILE *m = open_memstream(&times, &len);
	if (!m)
		return err_sys(e, "%s", path);
	for (int i = 0; i < n; i++)
		print_times(&run[i], m);
	fclose(m);
	struct outfile *o = outfile_open(path, false, com.force, e);
	int rc = !o || outfile_printf(o, e, "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">"
		"<meta name=\"viewport\" content=\"width=device-width\"><title>adze report</title>\n"
		"<style>body{font:15px/1.45 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem}"
		"table{border-collapse:collapse;display:block;overflow-x:auto}th,td{padding:.3rem .7rem;text-align:right;"
		"border-bottom:1px solid #ddd;white-space:nowrap}th:first-child,td:first-child{text-align:left}"
		"svg{width:100%%;max-width:%dpx;margin-top:1.5rem}svg text{font-size:12px;fill:#555}.grid{stroke:#ddd}"
		"pre{color:#555}</style>\n<h1>Compression report</h1>\n", W) ||
		put_table(o, t, e) || put_notes(o, e) || put_curves(o, run, n, false, e) || put_curves(o, run, n, true, e) ||
		 outfile_printf(o, e, "<h2>Time</h2>\n<pre>") ||
		put_escaped(o, times, e) || outfile_printf(o, e, "</pre>\n</html>\n");
	free(times);
	if (!rc)
		return outfile_commit(o, e);
	if (o)
		outfile_abort(o);
	return -1;
}

int main(int argc, char **argv)
{
	struct err e;
	int n = opt_parse(&usage, argc, argv), rows = 0;
	if (n < 1)
		opt_die("no run is named");
	log_start();
	struct run *run = xcalloc((size_t)n, sizeof *run);
	struct row *row = xcalloc((size_t)n * 2, sizeof *row);
	for (int i = 0; i < n; i++) {
		struct run *r = &run[i];
		read_run(r, argv[i]);
		if (r->before)
			row[rows++] = (struct row){ r, ", trimmed", r->before, false };
		row[rows++] = (struct row){ r, r->before ? ", distilled" : "", r->after, true };
	}
	struct table t = make_table(row, rows);
	print_table(&t);
	for (int i = 0; i < n; i++)
		print_times(&run[i], stdout);
	if (com.out && write_page(com.out, &t, run, n, &e))
		die_err(&e);
	if (fflush(stdout) || ferror(stdout))
		die(EXIT_IO, "stdout: write error");
	for (int i = 0; i < n; i++)
		free_run(&run[i]);
	free(t.cell);
	free(row);
	free(run);
	return EXIT_DONE;
}
