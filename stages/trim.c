/*
 * trim - cuts a model to a smaller shape by a ranking; the result is an ordinary, smaller model
 *
 * Reads a model directory and a "ranking" artifact; writes a model directory that any Hugging Face reader loads.  Kept
 * channels, heads, neurons and layers keep their order; weights are copied, not rescaled (arXiv 2407.14679, 2408.11796).
 * What was kept is in adze-kept.json beside the weights.
 *
 *	trim -m teacher -r teacher.rank --hidden 4096 --ffn 16384 -o student
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/base/outfile.h"
#include "../common/model/hfdir.h"
#include "../common/prune/compensate.h"
#include "../common/prune/stream.h"
#include <stdlib.h>
#include <string.h>

static struct {
	const char *model, *rank, *candidate, *config, *drop, *compensate;
	int64_t layers, hidden, ffn, heads, kv_heads, align;
	bool add_back, merge, allow_uneven, no_check;
} o;
static const struct opt opts[] = {
	OPT_STR('m', "model", &o.model, "DIR", "model directory to cut"),
	OPT_STR('r', "rank", &o.rank, "RANK", "ranking made for this model"),
	OPT_I64(0, "layers", &o.layers, "N", "blocks to keep", 0, 4096),
	OPT_I64(0, "hidden", &o.hidden, "N", "embedding channels to keep", 0, 1 << 20),
	OPT_I64(0, "ffn", &o.ffn, "N", "MLP neurons of each block to keep", 0, 1 << 24),
	OPT_I64(0, "heads", &o.heads, "N", "query heads of each block to keep", 0, 1 << 14),
	OPT_I64(0, "kv-heads", &o.kv_heads, "N", "key-value heads of each block to keep, with their query heads", 0, 1 << 14),
	OPT_STR(0, "candidate", &o.candidate, "FILE#ID", "sizes from a list that candidates wrote"),
	OPT_STR(0, "config", &o.config, "FILE", "sizes from a config.json"),
	OPT_STR(0, "drop", &o.drop, "LIST", "these blocks go, whatever their rank (16-31 or 3,5,7)"),
	OPT_I64(0, "align", &o.align, "N", "round hidden and ffn to multiples of N (64, 128, 256), 0: as they are", 0, 1 << 16),
	OPT_FLAG(0, "add-back", &o.add_back, "add the residual of dropped heads to kept ones"),
	OPT_STR(0, "compensate", &o.compensate, "STATS", "biases take over what removed heads and neurons added on average (FLAP)"),
	OPT_FLAG(0, "merge", &o.merge, "add what dropped blocks differ by to the kept block before them (LaCo)"),
	OPT_FLAG(0, "allow-uneven", &o.allow_uneven, "widths that differ from block to block (rank --scope global); no warning about odd sizes"),
	OPT_FLAG(0, "no-check", &o.no_check, "leave out the forward pass of a few tokens through what was written"),
	OPT_OUT_ROW("model directory to make"),
	{ 0, "device", OPT_T_STR, &com.device, "auto|cpu|cuda[:N]", "where to compute that pass", 0, 0, "common" },
	OPT_COMMON_ROWS, OPT_END
};
static const struct usage use = {
	"trim", "Cuts a model to a smaller shape by a ranking and writes an ordinary, smaller model.",
	"-m DIR -r RANK (--layers N --hidden N --ffn N --heads N --kv-heads N | --candidate FILE#ID | --config FILE) [--drop LIST] -o DIR",
	"trim -m teacher -r teacher.rank --hidden 4096 --ffn 16384 -o student\n"
	"trim -m teacher --drop 16-31 -o shallow", opts
};

static int ascending(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

/* "16-31,3": ranges with both ends, in any order. */
static int64_t *parse_drop(int64_t *n)
{
	char *list = xstrdup(o.drop), *save = NULL;
	int64_t *v = NULL;

	*n = 0;
	for (char *item = strtok_r(list, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
		char *dash = item[strcspn(item, "-:")] ? item + strcspn(item, "-:") : NULL;
		int64_t a, b;
		if (dash)
			*dash = '\0';
		if (parse_i64(item, &a) || parse_i64(dash ? dash + 1 : item, &b) || a < 0 || b < a || b > 4096)
			opt_die("--drop '%s': expected layers like 16-31 or 3,5,7", o.drop);
		v = xrealloc(v, (size_t)(*n + b - a + 1), sizeof *v);
		for (; a <= b; a++)
			v[(*n)++] = a;
	}
	free(list);
	if (!*n)
		opt_die("--drop '%s' names no layer", o.drop);
	qsort(v, (size_t)*n, sizeof *v, ascending);
	return v;
}

static int same(const char *what, const char *word, int64_t got, int64_t want, struct err *e)
{
	return got == want ? 0 : err_set(e, EXIT_DATA, "%s: %s %lld, but the model has %lld", what, word, (long long)got,
		(long long)want);
}

static int from_config(struct keep_want *w, const struct arch *a, struct err *e)
{
	struct arch c;

	if (arch_load(&c, o.config, e))
		return -1;
	w->layers = c.layers;
	w->hidden = c.hidden;
	w->ffn = c.ffn;
	w->heads = c.heads;
	w->kv_heads = c.kv_heads;
	int rc = c.family != a->family ? err_set(e, EXIT_DATA, "%s: model type %s, but the model is %s", o.config,
		c.family->model_type, a->family->model_type) : 0;
	if (!rc && (same(o.config, "head_dim", c.head_dim, a->head_dim, e) ||
	    same(o.config, "vocab_size", c.vocab, a->vocab, e) || same(o.config, "tie_word_embeddings", c.tied, a->tied, e) ||
	    (a->heads == a->kv_heads && same(o.config, "num_key_value_heads", c.kv_heads, c.heads, e))))
		rc = -1;
	arch_free(&c);
	return rc;
}

/* FILE#ID of a candidates artifact. */
static int from_candidate(struct keep_want *w, const struct arch *a, struct prov *prov, struct err *e)
{
	const char *hash = strrchr(o.candidate, '#');
	int64_t id, want, dim;
	int rc, found = 0;

	if (!hash || hash == o.candidate || parse_i64(hash + 1, &want))
		return err_set(e, EXIT_USAGE, "--candidate '%s': expected FILE#ID", o.candidate);
	char *path = xasprintf("%.*s", (int)(hash - o.candidate), o.candidate);
	struct art_r *r = art_open(path, "candidates", 1, e);
	const msgpack_object *rec;
	if (!r) {
		free(path);
		return -1;
	}
	while ((rc = art_next(r, &rec, e)) == 1) {
		if (obj_int(r, rec, "id", &id, e)) {
			rc = -1;
			break;
		}
		if (id != want || found)
			continue;
		found = 1;
		if (obj_int(r, rec, "layers", &w->layers, e) || obj_int(r, rec, "hidden", &w->hidden, e) ||
		    obj_int(r, rec, "ffn", &w->ffn, e) || obj_int(r, rec, "heads", &w->heads, e) ||
		    obj_int(r, rec, "kv_heads", &w->kv_heads, e) || obj_int(r, rec, "head_dim", &dim, e) ||
		    same(o.candidate, "head_dim", dim, a->head_dim, e) ||
		    (a->heads == a->kv_heads && same(o.candidate, "kv_heads", w->kv_heads, w->heads, e))) {
			rc = -1;
			break;
		}
	}
	if (!rc && !found)
		rc = err_set(e, EXIT_DATA, "%s: no candidate %lld", path, (long long)want);
	if (!rc)
		prov_add_artifact(prov, "candidates", r);
	art_close(r);
	free(path);
	return rc;
}

static void print_plan(const struct keep *k)
{
	const struct arch *a[2] = { &k->from, &k->to };
	char b[32];

	if (!strcmp(com.dry_run, "json")) {
		json_t *j = keep_json_new(k), *shapes[2];
		for (int i = 0; i < 2; i++)
			shapes[i] = json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "layers", (json_int_t)a[i]->layers, "hidden",
				(json_int_t)a[i]->hidden, "ffn", (json_int_t)a[i]->ffn, "heads", (json_int_t)a[i]->heads,
				"kv_heads", (json_int_t)a[i]->kv_heads, "head_dim", (json_int_t)a[i]->head_dim, "params",
				(json_int_t)arch_count(a[i]), "nonembedding", (json_int_t)arch_count_nonembedding(a[i]));
		json_t *all = json_pack("{s:o,s:o,s:o}", "from", shapes[0], "to", shapes[1], "kept", j);
		char *text = json_dumps(all, JSON_COMPACT);
		puts(text);
		free(text);
		json_decref(all);
		return;
	}
	printf("\tlayers\thidden\tffn\theads\tkv_heads\tparams\tnonembedding\tflops/token\n");
	for (int i = 0; i < 2; i++)
		printf("%s\t%lld\t%lld\t%lld\t%lld\t%lld\t%lld\t%lld\t%s\n", i ? "after" : "before", (long long)a[i]->layers,
			(long long)a[i]->hidden, (long long)a[i]->ffn, (long long)a[i]->heads, (long long)a[i]->kv_heads,
			(long long)arch_count(a[i]), (long long)arch_count_nonembedding(a[i]),
			fmt_count(b, arch_forward_flops(a[i], 4096, 1)));
	printf("weights on disk: %s\n", fmt_bytes(b, (double)arch_count(&k->to) * (!strcmp(k->to.dtype, "float32") ? 4 : 2)));
	if (k->to.layers != k->from.layers) {
		printf("kept layers:");
		for (int64_t l = 0; l < k->to.layers; l++)
			printf(" %lld", (long long)k->layer[l]);
		printf("\n");
	}
}

/* Shapes that are right, but that others dislike. */
static void warn_uneven(const struct keep *k)
{
	const struct arch *a = &k->from, *b = &k->to;

	if ((b->hidden % 8 && !(a->hidden % 8)) || (b->ffn % 8 && !(a->ffn % 8)))
		log_warn("hidden %lld or ffn %lld is not a multiple of 8: slow on GPUs", (long long)b->hidden,
			(long long)b->ffn);
	if (b->hidden % b->heads && !(a->hidden % a->heads) && a->family->hidden_by_heads)
		log_warn("hidden %lld is not a multiple of %lld heads: transformers 5 refuses such models",
			(long long)b->hidden, (long long)b->heads);
}

static void step(void *arg, int done, int total)
{
	struct progress *p = arg;

	if (!p->what)
		progress_start(p, "tensors", total, "tensors", 0);
	progress_step(p, done);
	if (done == total)
		progress_end(p);
}

static int write_kept(const struct keep *k, const char *dir, const char *print, const struct ranking *r,
		const struct prov *prov, struct err *e)
{
	json_t *j = keep_json_new(k);

	json_object_set_new(j, "parent", json_string(print));
	json_object_set_new(j, "command", json_string(opt_record_line()));
	json_object_set_new(j, "method", r ? json_string(r->method) : json_null());
	for (int i = 0; i < prov->n; i++)
		json_object_set_new(j, prov->in[i].role, json_string(prov->in[i].digest));
	char *text = json_dumps(j, JSON_COMPACT), *path = xasprintf("%s/adze-kept.json", dir);
	char *line = xasprintf("%s\n", text);
	int rc = file_write(path, line, strlen(line), e);
	free(line);
	free(path);
	free(text);
	json_decref(j);
	return rc;
}

/* What was written computes, block by block, so that memory does not depend on its size. */
static int check_forward(const struct keep *k, const char *dir, struct err *e)
{
	struct engine g;
	struct ptable *t = ptable_new(&k->to);
	int rc = engine_open(&g, com.device, (int)com.threads, e);
	if (!rc) {
		struct stream_args a = { .g = &g, .dir = dir, .t = t, .dtype = strcmp(k->to.dtype, "float32") ? DT_BF16 : DT_F32 };
		rc = stream_sound(&a, e);
		engine_close(&g);
	}
	ptable_free(t);
	return rc;
}

static int write_model(const struct keep *k, const struct st_model *m, const char *print, const struct ranking *r,
		const struct prov *prov, struct err *e)
{
	struct outdir *d = outdir_open(com.out, com.force, e);
	struct progress p = { 0 };

	if (!d)
		return -1;
	const char *base = strrchr(o.model, '/');
	base = base && base[1] ? base + 1 : o.model;
	char *notes = xasprintf("Parent: %lld parameters, %lld layers, hidden %lld, ffn %lld, %lld heads (fingerprint %s).  "
		"Ranking: %s.  Kept indices are in `adze-kept.json`.\n\nA trimmed model needs training (distillation) "
		"before use.", (long long)arch_count(&k->from), (long long)k->from.layers, (long long)k->from.hidden,
		(long long)k->from.ffn, (long long)k->from.heads, print, r ? r->method : "none");
	struct model_card card = { .title = "Trimmed model", .origin = base, .commands = opt_record_line(), .notes = notes };
	const char *dir = outdir_tmp(d);
	int rc = gather_model(k, m, dir, (int)com.threads, step, &p, e) || hfdir_describe(dir, &k->to, o.model, &card, e) ||
		write_kept(k, dir, print, r, prov, e) || hfdir_verify(dir, &k->to, e) ||
		(!o.no_check && check_forward(k, dir, e)) ? -1 : 0;
	free(notes);
	if (!rc)
		return outdir_commit(d, e);
	outdir_abort(d);
	return rc;
}

static int add_biases(struct keep *k, const struct st_model *m, const char *print, struct prov *prov, struct err *e)
{
	struct stats s;

	if (stats_read(&s, o.compensate, NULL, prov, e))
		return -1;
	int rc = strcmp(s.model, print) ? err_set(e, EXIT_DATA, "%s: statistics are of model %.8s, not of %s (%.8s)", o.compensate,
		s.model, o.model, print) : compensate(k, m, &s, o.compensate, e);
	stats_free(&s);
	return rc;
}

static void check_options(int operands, char **argv)
{
	if (operands > 1 || (operands && o.rank))
		opt_die("unexpected operand '%s'", argv[operands - 1]);
	if (operands)
		o.rank = argv[0];
	if (!o.model)
		opt_die("-m DIR is needed");
	if (!com.dry_run && (!com.out || !strcmp(com.out, "-")))
		opt_die("-o DIR is needed");
	int sizes = o.layers || o.hidden || o.ffn || o.heads || o.kv_heads;
	if ((o.candidate != NULL) + (o.config != NULL) + sizes > 1)
		opt_die("sizes come from options, --candidate or --config: give one of them");
	if (!sizes && !o.candidate && !o.config && !o.drop)
		opt_die("say what to keep: --layers, --hidden, --ffn, --heads, --kv-heads, --candidate, --config or --drop");
}

int main(int argc, char **argv)
{
	struct keep_want w = { 0 };
	struct arch a;
	struct err e;
	struct ranking r = { 0 };
	struct prov prov = { 0 };
	char print[33];

	check_options(opt_parse(&use, argc, argv), argv);
	w.layers = o.layers;
	w.hidden = o.hidden;
	w.ffn = o.ffn;
	w.heads = o.heads;
	w.kv_heads = o.kv_heads;
	w.add_back = o.add_back;
	w.merge = o.merge;
	w.align = o.align;
	w.uneven = o.allow_uneven;
	if (o.drop)
		w.drop = parse_drop(&w.ndrop);
	log_start();
	if (arch_load(&a, o.model, &e))
		die_err(&e);
	if ((o.config && from_config(&w, &a, &e)) || (o.candidate && from_candidate(&w, &a, &prov, &e)))
		die_err(&e);
	struct st_model *m = st_open(o.model, &e);
	if (!m)
		die_err(&e);
	struct ptable *t = ptable_new(&a);
	if (params_check(t, m, &e)) {
		err_wrap(&e, "%s", o.model);
		die_err(&e);
	}
	ptable_free(t);
	if (model_fingerprint(o.model, print, &e))
		die_err(&e);
	bool ranked = o.rank || keep_needs_ranking(&a, &w);
	const char *rank_name = o.rank && strcmp(o.rank, "-") ? o.rank : "stdin";
	if (ranked && (ranking_read(&r, o.rank, &prov, &e) || ranking_check(&r, rank_name, &a, o.model, print, &e)))
		die_err(&e);
	struct keep *k = keep_new(&a, &w, ranked ? &r : NULL, rank_name, &e);
	if (!k)
		die_err(&e);
	if (o.compensate && add_biases(k, m, print, &prov, &e))
		die_err(&e);
	if (!o.allow_uneven)
		warn_uneven(k);
	if (com.dry_run)
		print_plan(k);
	else if (write_model(k, m, print, ranked ? &r : NULL, &prov, &e))
		die_err(&e);
	else
		log_summary("%lld of %lld parameters kept", (long long)arch_count(&k->to), (long long)arch_count(&k->from));
	free((int64_t *)w.drop);
	keep_free(k);
	ranking_free(&r);
	st_close(m);
	arch_free(&a);
	return EXIT_DONE;
}
