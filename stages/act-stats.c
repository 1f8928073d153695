/*
 * act-stats - forward passes over calibration samples; writes additive statistics of every prunable site
 *
 * Reads a model directory and a token set, writes a "stats" artifact: for heads, MLP neurons and embedding channels
 * the sums from which `rank` makes any of Minitron's aggregations, for layers the sums of 1 - cos(input, output)
 * (arXiv 2407.14679, section 2.2).  Forward only; all axes in one pass.
 *
 *	calib-sample -t teacher corpus.jsonl | act-stats -m teacher -o teacher.stats
 *
 * With --keep RANKING and sizes it measures what trim would make of the model, by masks in memory: importance in rounds
 * (pipelines/iterative.mk) without writing the models between.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/comm/comm.h"
#include "../common/io/tokenset.h"
#include "../common/prune/observe.h"
#include "../common/prune/stream.h"
#include <stdlib.h>
#include <string.h>

static struct {
	const char *model, *sites, *keep;
	int64_t micro, samples, layers, hidden, ffn, heads, kv_heads;
	const char *memory;
	bool merge, explain;
	int64_t budget;
} o = { .sites = "hidden,heads,ffn,ffn-pre,layers" };

static const struct opt opts[] = {
	OPT_STR('m', "model", &o.model, "DIR", "model directory to measure"),
	OPT_OUT_ROW("statistics to write (default: stdout)"),
	OPT_STR(0, "sites", &o.sites, "LIST", "what to observe, of hidden,heads,ffn,ffn-pre,layers,kv, or all or none; kv (for kv-contrib) costs a tenth more"),
	OPT_I64(0, "micro", &o.micro, "N", "samples per forward pass, 0: as many as make about 4096 tokens", 0, 1 << 20),
	OPT_STR(0, "memory", &o.memory, "BYTES",
		"stay within this much memory: more than it for the weights and all samples go through one block at a time"),
	OPT_I64(0, "samples", &o.samples, "N", "stop after N samples, 0: all", 0, 1e12),
	OPT_STR(0, "keep", &o.keep, "RANKING", "measure the model cut down by this ranking to the sizes that follow"),
	OPT_I64(0, "layers", &o.layers, "N", "with --keep: blocks that stay, 0: all", 0, 4096),
	OPT_I64(0, "hidden", &o.hidden, "N", "with --keep: embedding channels that stay, 0: all", 0, 1 << 20),
	OPT_I64(0, "ffn", &o.ffn, "N", "with --keep: MLP neurons of each block that stay, 0: all", 0, 1 << 24),
	OPT_I64(0, "heads", &o.heads, "N", "with --keep: query heads of each block that stay, 0: all", 0, 1 << 14),
	OPT_I64(0, "kv-heads", &o.kv_heads, "N", "with --keep: key-value heads of each block that stay, 0: all", 0, 1 << 14),
	OPT_FLAG(0, "merge", &o.merge, "add the statistics files given as operands instead of measuring"),
	OPT_FLAG(0, "explain", &o.explain, "print the program that would run, and stop"),
	OPT_DEVICE_ROWS,
	OPT_COMMON_ROWS,
	OPT_END,
};
static const struct usage usage = {
	"act-stats",
	"Measures, with forward passes alone, how active every head, MLP neuron, embedding channel and layer is.",
	"-m DIR [TOKENS] [--keep RANKING --layers N --hidden N --ffn N --heads N] [-o STATS] | --merge STATS... [-o STATS]",
	"act-stats -m teacher calib.tok -o teacher.stats\n"
	"calib-sample -t teacher corpus.jsonl | act-stats -m teacher | rank -o teacher.rank\n"
	"act-stats -m teacher calib.tok --keep teacher.rank --ffn 12288 -o round2.stats",
	opts,
};

static int64_t micro_of(int64_t seq)
{
	int64_t n = o.micro ? o.micro : (4096 + seq - 1) / seq;
	return n < 1 ? 1 : n;
}

static int write_stats(const struct stats *s, const struct prov *prov, struct err *e)
{
	struct art_w *w = art_create(com.out, "stats", 1, prov, com.force, e);
	if (!w)
		return -1;
	if (stats_write(s, w, e)) {
		art_abort(w);
		return -1;
	}
	return art_commit(w, e);
}

static int merge(char **argv, int n, struct err *e)
{
	struct stats sum, next;
	struct prov prov = { 0 };
	if (stats_read(&sum, argv[0], NULL, &prov, e))
		return -1;
	for (int i = 1; i < n; i++) {
		if (stats_read(&next, argv[i], NULL, &prov, e))
			return -1;
		int rc = stats_add(&sum, &next, e);
		stats_free(&next);
		if (rc)
			return err_wrap(e, "%s", argv[i]);
	}
	int rc = write_stats(&sum, &prov, e);
	if (!rc)
		log_summary("%d files, %lld samples", n, (long long)sum.samples);
	stats_free(&sum);
	return rc;
}

/* Samples of equal length are run together. */
static int measure(struct tokenset *t, struct observer *ob, int64_t *done, struct err *e)
{
	int64_t micro = micro_of(t->seq), n = 0, len = 0;
	int32_t *ids = xcalloc((size_t)(micro * t->seq), sizeof *ids);
	struct progress pr;
	progress_start(&pr, "samples", (double)(t->limit && t->limit < t->samples ? t->limit : t->samples), "tok", (double)t->seq);
	int rc = 0;
	while (!rc && !stop_requested()) {
		int more = tokenset_next(t, e);
		if (more < 0)
			rc = -1;
		if (n && (more != 1 || t->n != len || n == micro) && !rc) {
			rc = observe_batch(ob, ids, n, len, e);
			*done += n;
			n = 0;
			progress_step(&pr, (double)(t->seen - (more == 1)));
		}
		if (more != 1)
			break;
		len = t->n;
		memcpy(ids + n++ * len, t->ids, (size_t)len * sizeof *ids);
	}
	if (!rc)
		observe_flush(ob);
	progress_end(&pr);
	free(ids);
	return rc;
}

static void dry_run(const struct ptable *t, const struct tokenset *ts, uint32_t sites, const struct masks *m, struct err *e)
{
	val tok;
	int dtype = dtype_parse(com.dtype);
	int64_t B = micro_of(ts->seq);
	struct prog *p = observe_prog_new(t, dtype, sites, m, B, ts->seq, &tok, e);
	if (!p)
		die_err(e);
	if (o.explain) {
		prog_explain(p, stdout);
		exit(EXIT_DONE);
	}
	double w = (double)p->bytes[SP_PARAM], a = (double)p->bytes[SP_ACT],
	       fl = arch_forward_flops(&t->arch, ts->seq, 0) * (double)ts->seq * (double)ts->samples;
	char b1[32], b2[32], b3[32];
	if (!strcmp(com.dry_run, "json"))
		printf("{\"samples\": %lld, \"seq\": %lld, \"batch\": %lld, \"weights_bytes\": %.0f, \"activation_bytes\": %.0f, "
		       "\"flops\": %.6g}\n",
		       (long long)ts->samples, (long long)ts->seq, (long long)B, w, a, fl);
	else
		printf("%lld samples of %lld tokens, %lld a pass\nweights      %s\nactivations  %s\ncompute      %s FLOP\n",
		       (long long)ts->samples, (long long)ts->seq, (long long)B, fmt_bytes(b1, w), fmt_bytes(b2, a),
		       fmt_count(b3, fl));
	exit(EXIT_DONE);
}

/* Weights, statistics and a batch's activations of whole-model passes. */
static int64_t whole_bytes(const struct ptable *t, int64_t seq, uint32_t sites, struct err *e)
{
	val tok;
	struct prog *p = observe_prog_new(t, dtype_parse(com.dtype), sites, NULL, micro_of(seq), seq, &tok, e);
	if (!p)
		die_err(e);
	int64_t n = 2 * p->bytes[SP_PARAM] + p->bytes[SP_ACT] + p->bytes[SP_STAT]; /* weights once more, packed */
	prog_free(p);
	return n;
}

static void whole_model(const struct engine *g, struct tokenset *ts, struct stats *s, uint32_t sites, const struct masks *m,
			struct err *e)
{
	struct weights w;
	struct observer ob;
	int64_t done = 0;
	if (weights_load(&w, g, o.model, dtype_parse(com.dtype), e))
		die_err(e);
	observe_init(&ob, g, &w, s, sites);
	ob.m = m;
	if (measure(ts, &ob, &done, e))
		die_err(e);
	if (stop_requested())
		die(128 + stop_requested(), "stopped after %lld samples, nothing written", (long long)done);
	observe_free(&ob);
	weights_free(&w);
}

/* Half of the budget may hold hidden states; the rest is a block, a batch and the packed copies. */
static void by_blocks(const struct engine *g, const struct ptable *t, struct tokenset *ts, struct stats *s, uint32_t sites,
		      const struct masks *m, struct err *e)
{
	struct stream_args a = { g, o.model, t, dtype_parse(com.dtype), sites, m, micro_of(ts->seq), o.budget / 2 };
	log_verbose("block by block: weights do not fit in --memory %s", o.memory);
	if (stream_stats(&a, ts, s, e) < 0)
		die_err(e);
}

/* What --keep and the sizes leave of the model; NULL: all of it. */
static struct masks *masks_asked(const struct arch *a, const char *model, struct prov *prov, struct err *e)
{
	struct ranking r;
	struct keep_want w = { .layers = o.layers, .hidden = o.hidden, .ffn = o.ffn, .heads = o.heads, .kv_heads = o.kv_heads,
				.uneven = true };
	if (!o.keep)
		return NULL;
	if (ranking_read(&r, o.keep, prov, e) || ranking_check(&r, o.keep, a, o.model, model, e))
		die_err(e);
	struct keep *k = keep_new(a, &w, &r, o.keep, e);
	if (!k)
		die_err(e);
	struct masks *m = masks_new(k);
	keep_free(k);
	ranking_free(&r);
	return m;
}

int main(int argc, char **argv)
{
	struct err e = { 0 };
	uint32_t sites;
	struct comm world;
	int n = opt_parse(&usage, argc, argv);
	if (comm_open(&world, &e))
		die_err(&e);
	log_start();
	stop_requested();
	if (o.memory && (parse_i64(o.memory, &o.budget) || o.budget < 1))
		opt_die("--memory %s: expected a size such as 4Gi", o.memory);
	if (o.merge) {
		if (n < 1)
			opt_die("--merge needs statistics files");
		if (merge(argv, n, &e))
			die_err(&e);
		return EXIT_DONE;
	}
	if (!o.model)
		opt_die("--model is missing");
	if (n > 1)
		opt_die("one token set at most, got %d operands", n);
	if (world.size > 1 && !n)
		opt_die("several processes need the token set as a file: only the first has the standard input");
	if (!o.keep && (o.layers || o.hidden || o.ffn || o.heads || o.kv_heads))
		opt_die("--layers, --hidden, --ffn, --heads and --kv-heads need --keep");
	if (observe_sites_parse(o.sites, &sites, &e))
		die_err(&e);
	struct arch a;
	struct tokenset ts;
	struct prov prov = { .seed = com.seed };
	char model[33];
	if (arch_load(&a, o.model, &e) || model_fingerprint(o.model, model, &e) ||
	    tokenset_open(&ts, n ? argv[0] : NULL, a.vocab, &e))
		die_err(&e);
	ts.limit = o.samples;
	tokenset_share(&ts, world.rank, world.size, micro_of(ts.seq));
	struct masks *m = masks_asked(&a, model, &prov, &e);
	if (com.dry_run || o.explain)
		dry_run(ptable_new(&a), &ts, sites, m, &e);
	struct engine g;
	struct stats s;
	struct ptable *t = ptable_new(&a);
	if (engine_open(&g, com.device, (int)com.threads, &e))
		die_err(&e);
	stats_init(&s, &a, model, ts.seq);
	if (o.memory && whole_bytes(t, ts.seq, sites, &e) > o.budget)
		by_blocks(&g, t, &ts, &s, sites, m, &e);
	else
		whole_model(&g, &ts, &s, sites, m, &e);
	stats_sum(&s, &world);
	if (!s.samples)
		die(EXIT_DATA, "%s: no samples", art_name(ts.r));
	masks_clear(m, &s);
	masks_free(m);
	prov_add_digest(&prov, "model", o.model, "model", model);
	prov_add_artifact(&prov, "tokens", ts.r);
	if (comm_first(&world) && write_stats(&s, &prov, &e))
		die_err(&e);
	log_summary("%lld samples, %lld tokens", (long long)s.samples, (long long)s.tokens);
	comm_close(&world);
	engine_close(&g);
	stats_free(&s);
	ptable_free(t);
	tokenset_close(&ts);
	arch_free(&a);
	return EXIT_DONE;
}
