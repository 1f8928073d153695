/*
 * candidates - lists the shapes of a grid that fit a budget of parameters, memory or operations
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
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct {
	const char *model, *layers, *hidden, *ffn, *ratio, *heads, *kv_heads, *params, *nonembedding, *memory, *flops,
		*tolerance, *by, *format;
	int64_t top, seq, batch, bytes;
} o = { .tolerance = "5%", .seq = 4096, .batch = 1, .bytes = 2 };

static const struct opt opts[] = {
	OPT_STR('m', "model", &o.model, "DIR", "parent; only its config.json is read"),
	OPT_STR(0, "layers", &o.layers, "LIST", "blocks, like 29:32"),
	OPT_STR(0, "hidden", &o.hidden, "LIST", "hidden sizes, like 4096,4608"),
	OPT_STR(0, "ffn", &o.ffn, "LIST", "MLP neurons, like 9216:16384:256"),
	OPT_STR(0, "ffn-ratio", &o.ratio, "LIST", "MLP neurons as multiples of hidden, like 2.5,3"),
	OPT_STR(0, "heads", &o.heads, "LIST", "query heads"),
	OPT_STR(0, "kv-heads", &o.kv_heads, "LIST", "key-value heads"),
	OPT_STR(0, "params", &o.params, "LO:HI|N", "all parameters"),
	OPT_STR(0, "nonembedding", &o.nonembedding, "LO:HI|N", "parameters outside the embedding and output matrices"),
	OPT_STR(0, "tolerance", &o.tolerance, "P", "around a single N of the two above, 5% or 0.05"),
	OPT_STR(0, "memory", &o.memory, "LO:HI|MAX", "bytes of weights and key-value cache"),
	OPT_STR(0, "flops", &o.flops, "LO:HI|MAX", "operations of one forward token"),
	OPT_I64(0, "seq", &o.seq, "T", "sequence length for memory and flops", 1, 1 << 30),
	OPT_I64(0, "batch", &o.batch, "B", "sequences in the key-value cache", 1, 1 << 20),
	OPT_I64(0, "bytes", &o.bytes, "N", "bytes of a weight or cache element", 1, 4),
	OPT_I64(0, "top", &o.top, "K", "only the first K by --by, 0 for all in grid order", 0, 1e9),
	OPT_STR(0, "by", &o.by, "COLUMN", "largest first by this column (params with --top); COLUMN:asc for smallest first"),
	OPT_CHOICE(0, "format", &o.format, "table|tsv|json", "print the list (default: table without -o)"),
	OPT_OUT_ROW("candidates to write"), OPT_COMMON_ROWS, OPT_END
};
static const struct usage use = {
	"candidates", "Lists the shapes of a grid that fit a budget.",
	"-m DIR [--layers LIST] [--hidden LIST] [--ffn LIST | --ffn-ratio LIST] [--heads LIST] --params LO:HI [-o CAND]",
	"candidates -m nemotron-4-15b --layers 29:32 --hidden 4096,4608,5120 --ffn-ratio 2.5,3,3.5,4 --params 7.8e9:8.5e9\n"
	"candidates -m teacher --hidden 384:576:64 --ffn 768:1536:256 --params 80e6 --tolerance 5% -o cand", opts
};

static void list(const char *name, const char *text, struct grid_axis *to)
{
	struct err e;

	if (text && parse_i64_list(text, &to->v, &to->n, &e))
		opt_die("--%s: %s", name, e.msg);
}

static void ratios(struct grid *g)
{
	char *s = xstrdup(o.ratio), *save = NULL;

	for (char *item = strtok_r(s, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
		g->ratio = xrealloc(g->ratio, (size_t)g->nratio + 1, sizeof *g->ratio);
		if (parse_f64(item, &g->ratio[g->nratio++]))
			opt_die("--ffn-ratio: '%s' is not a number", item);
	}
	free(s);
	if (!g->nratio)
		opt_die("--ffn-ratio is empty");
}

static double tolerance(void)
{
	char *s = xstrdup(o.tolerance);
	size_t n = strlen(s);
	bool percent = n && s[n - 1] == '%';
	double v;

	if (percent)
		s[n - 1] = '\0';
	if (parse_f64(s, &v) || v < 0 || v > (percent ? 100 : 1))
		opt_die("--tolerance '%s': expected something like 5%% or 0.05", o.tolerance);
	free(s);
	return percent ? v / 100 : v;
}

/* LO:HI, or N with the tolerance around it, or (upper) N as the upper bound. */
static void limit(const char *name, const char *text, struct limit *l, bool upper)
{
	if (!text)
		return;
	char *s = xstrdup(text), *colon = strchr(s, ':');
	double a, b;
	if (colon)
		*colon = '\0';
	if (parse_f64(s, &a) || (colon && parse_f64(colon + 1, &b)) || !(a >= 0))
		opt_die("--%s '%s': expected LO:HI or a number", name, text);
	if (!colon && upper) {
		b = a;
		a = 0;
	} else if (!colon) {
		double t = tolerance();
		b = a * (1 + t);
		a *= 1 - t;
	}
	if (!(b > 0) || a > b)
		opt_die("--%s '%s': nothing lies between", name, text);
	*l = (struct limit){ a, b };
	free(s);
}

static json_t *shape_json(const struct shape *s)
{
	json_t *j = json_object();

	for (int c = 0; c < SHAPE_COLUMNS; c++)
		json_object_set_new(j, shape_columns[c], c == COL_MEMORY || c == COL_FLOPS ? json_real(shape_value(s, c)) :
			json_integer((json_int_t)shape_value(s, c)));
	return j;
}

static void cell(bool table, int column, const char *text)
{
	if (table)
		printf("%*s", column == COL_ID ? 5 : column >= COL_PARAMS ? 16 : 9, text);
	else
		printf("%s%s", column ? "\t" : "", text);
}

static void print(const char *format, const struct shape *s, int64_t n)
{
	bool table = !strcmp(format, "table");
	char text[32];

	if (!strcmp(format, "json")) {
		json_t *all = json_array();
		for (int64_t i = 0; i < n; i++)
			json_array_append_new(all, shape_json(&s[i]));
		char *out = json_dumps(all, JSON_INDENT(2));
		puts(out);
		free(out);
		json_decref(all);
		return;
	}
	for (int c = 0; c < SHAPE_COLUMNS; c++)
		cell(table, c, shape_columns[c]);
	printf("\n");
	for (int64_t i = 0; i < n; i++) {
		for (int c = 0; c < SHAPE_COLUMNS; c++) {
			double v = shape_value(&s[i], c);
			if (table && c == COL_MEMORY)
				fmt_bytes(text, v);
			else if (table && c == COL_FLOPS)
				fmt_count(text, v);
			else
				snprintf(text, sizeof text, "%.0f", v);
			cell(table, c, text);
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
	for (int64_t i = 0; i < n; i++) {
		art_map(w, SHAPE_COLUMNS);
		for (int c = 0; c < SHAPE_COLUMNS; c++) {
			art_key(w, shape_columns[c]);
			if (c == COL_MEMORY || c == COL_FLOPS)
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

/* --by COLUMN or COLUMN:asc */
static int order(bool *rising)
{
	char *s = xstrdup(o.by ? o.by : "params"), *colon = strchr(s, ':');

	if (colon)
		*colon = '\0';
	int column = shape_column_find(s);
	if (column < 0 || (colon && strcmp(colon + 1, "asc") && strcmp(colon + 1, "desc")))
		opt_die("--by '%s': columns are id layers hidden ffn heads kv_heads head_dim params nonembedding memory flops",
			o.by);
	*rising = colon && !strcmp(colon + 1, "asc");
	free(s);
	return column;
}

int main(int argc, char **argv)
{
	struct limit limits[SHAPE_COLUMNS] = { 0 };
	struct grid g = { 0 };
	struct shape *s;
	struct arch a;
	struct err e;
	int64_t n, uneven;
	bool rising;

	if (opt_parse(&use, argc, argv))
		opt_die("unexpected operand '%s'", argv[0]);
	if (!o.model)
		opt_die("-m DIR is needed");
	if (o.ffn && o.ratio)
		opt_die("--ffn and --ffn-ratio exclude each other");
	list("layers", o.layers, &g.layers);
	list("hidden", o.hidden, &g.hidden);
	list("ffn", o.ffn, &g.ffn);
	list("heads", o.heads, &g.heads);
	list("kv-heads", o.kv_heads, &g.kv_heads);
	if (o.ratio)
		ratios(&g);
	g.seq = o.seq;
	g.batch = o.batch;
	g.weight_bytes = o.bytes;
	limit("params", o.params, &limits[COL_PARAMS], false);
	limit("nonembedding", o.nonembedding, &limits[COL_NONEMBEDDING], false);
	limit("memory", o.memory, &limits[COL_MEMORY], true);
	limit("flops", o.flops, &limits[COL_FLOPS], true);
	int column = order(&rising);
	log_start();
	if (arch_load(&a, o.model, &e) || search_shapes(&a, &g, limits, &s, &n, &uneven, &e))
		die_err(&e);
	if (uneven)
		log_warn("%lld combinations passed over: heads are no multiple of kv-heads", (long long)uneven);
	if (!n)
		die(EXIT_FAIL, "no shape of the grid fits");
	if (o.top || o.by)
		search_sort(s, n, column, rising);
	if (o.top && n > o.top)
		n = o.top;
	if (com.out && !com.dry_run && write_artifact(s, n, &e))
		die_err(&e);
	bool to_stdout = com.out && !strcmp(com.out, "-");
	if (com.dry_run || !com.out || (o.format && !to_stdout))
		print(o.format ? o.format : "table", s, n);
	if (fflush(stdout) || ferror(stdout))
		die(EXIT_IO, "stdout: write error");
	log_summary("%lld candidates", (long long)n);
	free(s);
	arch_free(&a);
	return EXIT_DONE;
}
