/*
 * candidates - lists the shapes of a grid that fit a budget of parameters, memory, operations or time
 *
 * Reads only config.json; counts are exact (they equal what trim then writes).  Prints a table, or writes a "candidates"
 * artifact from which  trim --candidate FILE#ID  takes its sizes (arXiv 2407.14679, section 2.3 and table 12).
 *
 *	candidates -m nemotron-4-15b --layers 29:32 --hidden 4096,4608,5120 --ffn-ratio 2.5,3,3.5,4 --params 7.8e9:8.5e9
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/io/artifact.h"
#include "../common/prune/search.h"
#include "../common/prune/timing.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct {
	const char *model, *layers, *hidden, *ffn, *ratio, *heads, *kv_heads, *divisor, *params, *nonembedding, *active,
		*memory, *flops, *latency, *hardware, *tolerance, *pareto, *by, *format;
	int64_t top, seq, batch, context, bytes;
	bool loadable, measure;
} o = { .tolerance = "5%", .seq = 4096, .batch = 1, .bytes = 2 };

static const struct opt opts[] = {
	OPT_STR('m', "model", &o.model, "DIR", "parent; only its config.json is read"),
	OPT_STR(0, "layers", &o.layers, "LIST", "blocks, like 29:32"),
	OPT_STR(0, "hidden", &o.hidden, "LIST", "hidden sizes, like 4096,4608"),
	OPT_STR(0, "ffn", &o.ffn, "LIST", "MLP neurons, like 9216:16384:256"),
	OPT_STR(0, "ffn-ratio", &o.ratio, "LIST", "MLP neurons as multiples of hidden, like 2.5,3 or 2:4:0.25"),
	OPT_STR(0, "heads", &o.heads, "LIST", "query heads"),
	OPT_STR(0, "kv-heads", &o.kv_heads, "LIST", "key-value heads"),
	OPT_STR(0, "divisor", &o.divisor, "SIZE=N,...", "keep only multiples, like hidden=64,ffn=128; --ffn-ratio is rounded to them"),
	OPT_FLAG(0, "loadable", &o.loadable, "leave out shapes that transformers refuses (Llama: hidden no multiple of heads)"),
	OPT_STR(0, "params", &o.params, "LIMIT", "all parameters; a LIMIT is LO:HI, LO:, :HI, N~5% or N (see --tolerance)"),
	OPT_STR(0, "nonembedding", &o.nonembedding, "LIMIT", "parameters outside the embedding and output matrices"),
	OPT_STR(0, "active", &o.active, "LIMIT", "parameters that one token uses (all of a dense model)"),
	OPT_STR(0, "tolerance", &o.tolerance, "P", "around a single N of the three above, 5% or 0.05; elsewhere a single N is the most"),
	OPT_STR(0, "memory", &o.memory, "LIMIT", "bytes of weights and key-value cache"),
	OPT_STR(0, "flops", &o.flops, "LIMIT", "operations of one forward token"),
	OPT_STR(0, "latency", &o.latency, "LIMIT", "time of one decoded token on --hardware (or --measure), like 20ms"),
	OPT_STR(0, "hardware", &o.hardware, "NAME|FLOPS:BYTES", "roofline of the latency: h200 h100 a100 a10g l4 l40s rtx4090 mi300x cpu2, or peak FLOP/s and bytes/s"),
	OPT_FLAG(0, "measure", &o.measure, "time the matrix products of the --top K on this machine instead"),
	OPT_I64(0, "seq", &o.seq, "T", "sequence length for flops", 1, 1 << 30),
	OPT_I64(0, "batch", &o.batch, "B", "sequences in the key-value cache", 1, 1 << 20),
	OPT_I64(0, "context", &o.context, "T", "positions in the key-value cache, 0 for --seq", 0, 1 << 30),
	OPT_I64(0, "bytes", &o.bytes, "N", "bytes of a weight or cache element", 1, 4),
	OPT_STR(0, "pareto", &o.pareto, "COLUMN,...", "only shapes that no other beats: sizes and parameters large, memory, flops and latency small (COLUMN:asc, COLUMN:desc otherwise)"),
	OPT_I64(0, "top", &o.top, "K", "only the first K by --by, 0 for all in grid order", 0, LIST_SHAPES),
	OPT_STR(0, "by", &o.by, "COLUMN", "largest first by this column (params with --top); COLUMN:asc for smallest first"),
	OPT_CHOICE(0, "format", &o.format, "table|tsv|json", "print the list (default: table without -o)"),
	OPT_OUT_ROW("candidates to write"), OPT_DEVICE_ROWS, OPT_COMMON_ROWS, OPT_END
};
static const struct usage use = {
	"candidates", "Lists the shapes of a grid that fit a budget.",
	"-m DIR [--layers LIST] [--hidden LIST] [--ffn LIST | --ffn-ratio LIST] [--heads LIST] --params LIMIT [-o CAND]",
	"candidates -m nemotron-4-15b --layers 29:32 --hidden 4096,4608,5120 --ffn-ratio 2.5,3,3.5,4 --params 7.8e9:8.5e9\n"
	"candidates -m teacher --hidden 384:576:64 --ffn 768:1536:256 --params 80e6 --tolerance 5% -o cand\n"
	"candidates -m teacher --layers 16:32 --ffn 1024:8192:128 --hardware h100 --latency 5ms --pareto params,latency", opts
};

/* ---- the command line ---- */

static void list(const char *name, const char *text, struct grid_axis *to)
{
	struct err e;

	if (text && parse_i64_list(text, &to->v, &to->n, &e))
		opt_die("--%s: %s", name, e.msg);
}

/* X or A:B:STEP */
static void ratio_item(struct grid *g, char *item)
{
	double r[3];
	int n = 0;

	for (char *save = NULL, *p = strtok_r(item, ":", &save); p; p = strtok_r(NULL, ":", &save))
		if (n == 3 || parse_f64(p, &r[n++]))
			opt_die("--ffn-ratio: '%s' is not a number", p);
	if (n == 1) {
		r[1] = r[0];
		r[2] = 1;
	}
	double steps = n == 2 || n == 0 ? -1 : (r[1] - r[0]) / r[2];
	if (!(r[2] > 0) || !(steps >= 0) || steps > 1e6)
		opt_die("--ffn-ratio: expected numbers or ranges A:B:STEP");
	for (int64_t i = 0; i <= (int64_t)(steps + 1e-9); i++) {
		g->ratio = xrealloc(g->ratio, (size_t)g->nratio + 1, sizeof *g->ratio);
		g->ratio[g->nratio++] = r[0] + (double)i * r[2];
	}
}

static void ratios(struct grid *g)
{
	char *s = xstrdup(o.ratio), *save = NULL;

	for (char *item = strtok_r(s, ",", &save); item; item = strtok_r(NULL, ",", &save))
		ratio_item(g, item);
	free(s);
	if (!g->nratio)
		opt_die("--ffn-ratio is empty");
}

static void divisors(struct grid *g)
{
	const struct { const char *word; int64_t *to; } size[] = { { "layers", &g->div_layers }, { "hidden", &g->div_hidden },
		{ "ffn", &g->div_ffn }, { "heads", &g->div_heads }, { "kv-heads", &g->div_kv_heads } };
	char *s = xstrdup(o.divisor), *save = NULL;

	for (char *item = strtok_r(s, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
		char *eq = strchr(item, '=');
		size_t i = 0;
		if (eq)
			*eq = '\0';
		while (i < sizeof size / sizeof *size && strcmp(size[i].word, item))
			i++;
		if (i == sizeof size / sizeof *size || !eq || parse_i64(eq + 1, size[i].to) || *size[i].to < 1)
			opt_die("--divisor '%s': expected SIZE=N with layers, hidden, ffn, heads or kv-heads", item);
	}
	free(s);
}

static double tolerance(const char *text)
{
	char *s = xstrdup(text);
	size_t n = strlen(s);
	bool percent = n && s[n - 1] == '%';
	double v;

	if (percent)
		s[n - 1] = '\0';
	if (parse_f64(s, &v) || v < 0 || v > (percent ? 100 : 1))
		opt_die("tolerance '%s': expected something like 5%% or 0.05", text);
	free(s);
	return percent ? v / 100 : v;
}

/* A number; of a time also 20ms, 150us, 1s. */
static int quantity(char *s, bool time, double *v)
{
	size_t n = strlen(s);
	double unit = 1;

	if (time && n && s[n - 1] == 's') {
		s[--n] = '\0';
		if (n && (s[n - 1] == 'm' || s[n - 1] == 'u')) {
			unit = s[n - 1] == 'm' ? 1e-3 : 1e-6;
			s[--n] = '\0';
		}
	}
	if (parse_f64(s, v))
		return -1;
	*v *= unit;
	return 0;
}

/* LO:HI, LO:, :HI, N~P, or N: with --tolerance around it or (most) the upper bound. */
static void limit(const char *name, const char *text, struct limit *l, bool most)
{
	if (!text)
		return;
	char *s = xstrdup(text), *colon = strchr(s, ':'), *around = strchr(s, '~');
	bool time = !strcmp(name, "latency"), bad = colon && around;
	double a = 0, b = INFINITY;
	if (colon || around)
		*(colon ? colon : around) = '\0';
	if (colon) {
		bad |= (!*s && !colon[1]) || (*s && quantity(s, time, &a)) || (colon[1] && quantity(colon + 1, time, &b));
	} else if (!(bad |= quantity(s, time, &b) != 0) && (around || !most)) {
		double t = tolerance(around ? around + 1 : o.tolerance);
		a = b * (1 - t);
		b *= 1 + t;
	}
	if (bad || !(a >= 0))
		opt_die("--%s '%s': expected LO:HI, LO:, :HI, N~5%% or a number", name, text);
	if (!(b > 0) || a > b)
		opt_die("--%s '%s': nothing lies between", name, text);
	*l = (struct limit){ a, b };
	free(s);
}

/* COLUMN, COLUMN:asc or COLUMN:desc */
static struct sort order(const char *name, const char *text, bool costs_rise)
{
	char *s = xstrdup(text), *colon = strchr(s, ':');
	struct sort by;

	if (colon)
		*colon = '\0';
	by.column = shape_column_find(s);
	if (by.column < 0 || (colon && strcmp(colon + 1, "asc") && strcmp(colon + 1, "desc")))
		opt_die("--%s '%s': columns are id layers hidden ffn heads kv_heads head_dim params nonembedding memory flops "
			"active loadable latency", name, text);
	by.rising = colon ? !strcmp(colon + 1, "asc") : costs_rise && (by.column == COL_MEMORY || by.column == COL_FLOPS ||
		by.column == COL_LATENCY);
	free(s);
	return by;
}

static void front(struct query *q)
{
	char *s = xstrdup(o.pareto), *save = NULL;

	for (char *item = strtok_r(s, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
		if (q->n_front == FRONT_COLUMNS)
			opt_die("--pareto: at most %d columns", FRONT_COLUMNS);
		q->front[q->n_front++] = order("pareto", item, true);
	}
	if (q->n_front < 2)
		opt_die("--pareto: at least two columns, like params,latency");
	free(s);
}

static bool uses(const struct query *q, int column)
{
	bool yes = q->by.column == column;

	for (int i = 0; i < q->n_front; i++)
		yes |= q->front[i].column == column;
	return yes;
}

static void parse_grid(struct grid *g)
{
	struct err e;

	list("layers", o.layers, &g->layers);
	list("hidden", o.hidden, &g->hidden);
	list("ffn", o.ffn, &g->ffn);
	list("heads", o.heads, &g->heads);
	list("kv-heads", o.kv_heads, &g->kv_heads);
	if (o.ffn && o.ratio)
		opt_die("--ffn and --ffn-ratio exclude each other");
	if (o.ratio)
		ratios(g);
	if (o.divisor)
		divisors(g);
	g->loadable = o.loadable;
	g->work = (struct workload){ .seq = o.seq, .batch = o.batch, .context = o.context, .bytes = o.bytes };
	if (o.hardware && hardware_find(&g->work.hw, o.hardware, &e))
		opt_die("%s", e.msg);
}

static void free_grid(struct grid *g)
{
	free(g->layers.v);
	free(g->hidden.v);
	free(g->ffn.v);
	free(g->heads.v);
	free(g->kv_heads.v);
	free(g->ratio);
}

static void parse_query(struct query *q)
{
	limit("params", o.params, &q->limits[COL_PARAMS], false);
	limit("nonembedding", o.nonembedding, &q->limits[COL_NONEMBEDDING], false);
	limit("active", o.active, &q->limits[COL_ACTIVE], false);
	limit("memory", o.memory, &q->limits[COL_MEMORY], true);
	limit("flops", o.flops, &q->limits[COL_FLOPS], true);
	limit("latency", o.latency, &q->limits[COL_LATENCY], true);
	tolerance(o.tolerance);
	q->top = o.top;
	if (o.pareto)
		front(q);
	q->by = o.by ? order("by", o.by, false) : o.pareto ? q->front[0] : (struct sort){ o.top ? COL_PARAMS : COL_ID, !o.top };
	if (o.measure && !o.top)
		opt_die("--measure needs --top K: the number of shapes to time");
	if ((uses(q, COL_LATENCY) || (o.latency && !o.measure)) && !o.hardware)
		opt_die("latency needs --hardware, the device whose roofline is meant");
}

/* ---- what is printed and written ---- */

static bool is_real(int column)
{
	return column == COL_MEMORY || column == COL_FLOPS || column == COL_LATENCY;
}

static int columns(void)
{
	return o.hardware || o.measure ? SHAPE_COLUMNS : COL_LATENCY;
}

static json_t *shape_json(const struct shape *s)
{
	json_t *j = json_object();

	for (int c = 0; c < columns(); c++)
		json_object_set_new(j, shape_columns[c], is_real(c) ? json_real(shape_value(s, c)) :
			json_integer((json_int_t)shape_value(s, c)));
	return j;
}

static void print_json(const struct shape *s, int64_t n)
{
	json_t *all = json_array();

	for (int64_t i = 0; i < n; i++)
		json_array_append_new(all, shape_json(&s[i]));
	char *out = json_dumps(all, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
	puts(out);
	free(out);
	json_decref(all);
}

static void cell_text(char text[32], int column, double v, bool table)
{
	if (table && column == COL_MEMORY)
		fmt_bytes(text, v);
	else if (table && column == COL_FLOPS)
		fmt_count(text, v);
	else if (table && column == COL_LATENCY)
		snprintf(text, 32, "%.4g ms", 1e3 * v);
	else if (column == COL_LATENCY)
		snprintf(text, 32, "%.9g", v);
	else
		snprintf(text, 32, "%.0f", v);
}

/* What says nothing is left out of the table for people: active parameters of dense models, loadable when all are. */
static bool telling(const struct shape *s, int64_t n, int column)
{
	for (int64_t i = 0; i < n; i++)
		if (column == COL_ACTIVE ? s[i].active != s[i].params : column == COL_LOADABLE ? !s[i].loadable : true)
			return true;
	return false;
}

static void print(const char *format, const struct shape *s, int64_t n)
{
	bool table = !strcmp(format, "table"), show[SHAPE_COLUMNS];
	char text[32];

	if (!strcmp(format, "json")) {
		print_json(s, n);
		return;
	}
	for (int64_t i = -1; i < n; i++) {
		for (int c = 0; c < columns(); c++) {
			if (i < 0)
				show[c] = !table || telling(s, n, c);
			if (!show[c])
				continue;
			if (i < 0)
				snprintf(text, sizeof text, "%s", shape_columns[c]);
			else
				cell_text(text, c, shape_value(&s[i], c), table);
			if (table)
				printf("%*s", c == COL_ID ? 5 : c >= COL_PARAMS && c != COL_LOADABLE ? 16 : 9, text);
			else
				printf("%s%s", c ? "\t" : "", text);
		}
		printf("\n");
	}
}

static int write_artifact(const struct shape *s, int64_t n, struct err *e)
{
	struct prov prov = { 0 };
	char digest[33], *config = xasprintf("%s/config.json", o.model);

	/* -m may also name a config.json */
	if (!digest_file(config, digest, NULL) || !digest_file(o.model, digest, NULL))
		prov_add_digest(&prov, "config", o.model, "config.json", digest);
	free(config);
	struct art_w *w = art_create(com.out, "candidates", 1, &prov, com.force, e);
	if (!w)
		return -1;
	const char *base = strrchr(o.model, '/');
	art_meta_str(w, "model", base && base[1] ? base + 1 : o.model);
	if (columns() > COL_LATENCY)
		art_meta_str(w, "hardware", o.measure ? "measured" : o.hardware);
	for (int64_t i = 0; i < n; i++) {
		art_map(w, columns());
		for (int c = 0; c < columns(); c++) {
			art_key(w, shape_columns[c]);
			if (is_real(c))
				art_f64(w, shape_value(&s[i], c));
			else
				art_int(w, (int64_t)shape_value(&s[i], c));
		}
		if (art_end_record(w, e)) {
			art_abort(w);
			return -1;
		}
	}
	return art_commit(w, e);
}

/* ---- the work ---- */

/* Measured latencies of what was found; then the limit, and the order when it is by latency. */
static int measure(struct found *f, const struct arch *parent, const struct query *q, const struct limit *l, struct err *e)
{
	struct engine g;
	struct progress pr;
	int64_t kept = 0;

	if (engine_open(&g, com.device, (int)com.threads, e))
		return -1;
	progress_start(&pr, "shapes", (double)f->n, "shapes", 1);
	for (int64_t i = 0; i < f->n; i++) {
		struct shape *s = &f->s[i];
		struct arch a = *parent;
		a.layers = s->layers;
		a.hidden = s->hidden;
		a.ffn = s->ffn;
		a.heads = s->heads;
		a.kv_heads = s->kv_heads;
		if (timing_token(&a, &g, dtype_parse(com.dtype), o.batch, &s->latency, e)) {
			engine_close(&g);
			return -1;
		}
		if (!(l->hi > 0) || (s->latency >= l->lo && s->latency <= l->hi))
			f->s[kept++] = *s;
		progress_step(&pr, (double)(i + 1));
	}
	progress_end(&pr);
	engine_close(&g);
	f->n = kept;
	if (q->by.column == COL_LATENCY)
		search_sort(f->s, f->n, q->by);
	return 0;
}

int main(int argc, char **argv)
{
	struct query q = { .n_front = 0 };
	struct limit timed = { 0, 0 };
	struct grid g = { .nratio = 0 };
	struct found f;
	struct arch a;
	struct err e;

	if (opt_parse(&use, argc, argv))
		opt_die("unexpected operand '%s'", argv[0]);
	if (!o.model)
		opt_die("-m DIR is needed");
	parse_grid(&g);
	parse_query(&q);
	if (o.measure) {
		timed = q.limits[COL_LATENCY];
		q.limits[COL_LATENCY] = (struct limit){ 0, 0 };
	}
	log_start();
	if (arch_load(&a, o.model, &e) || search_shapes(&a, &g, &q, &f, &e))
		die_err(&e);
	if (f.uneven > 0)
		log_warn("%.0f combinations passed over: heads are no multiple of kv-heads, or more to each than the model has", f.uneven);
	if (f.refused > 0)
		log_info("%.0f combinations passed over: transformers refuses them", f.refused);
	if (o.measure && measure(&f, &a, &q, &timed, &e))
		die_err(&e);
	if (!f.n)
		die(EXIT_FAIL, "no shape of the grid fits");
	if (com.out && !com.dry_run && write_artifact(f.s, f.n, &e))
		die_err(&e);
	bool to_stdout = com.out && !strcmp(com.out, "-");
	if (com.dry_run || !com.out || (o.format && !to_stdout))
		print(o.format ? o.format : "table", f.s, f.n);
	if (fflush(stdout) || ferror(stdout))
		die(EXIT_IO, "stdout: write error");
	log_summary("%lld candidates; %.0f fit of %.0f in the grid", (long long)f.n, f.fits, f.grid);
	free(f.s);
	free_grid(&g);
	arch_free(&a);
	return EXIT_DONE;
}
