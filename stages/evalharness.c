/*
 * evalharness - scores a model on files of items, by the rules of lm-evaluation-harness
 *
 * Reads a model directory and task files (multiple choice or documents as JSON lines, or plain text), writes one JSON
 * object keyed as lm-evaluation-harness keys its results.  Every item becomes log-likelihood requests; those of all tasks
 * are scored in one sorted pass.
 *
 *	evalharness -m student --task hellaswag=hellaswag.jsonl --text book.txt -o results.json
 *
 * Kinds of task: common/eval/kinds.def; named tasks: common/eval/tasks.def.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/comm/comm.h"
#include "../common/eval/task.h"
#include <stdlib.h>
#include <string.h>

static struct {
	const char *model, *samples, *artifact;
	const char *bos;
	struct opt_list task, text, fewshot, template;
	int64_t limit, shots, fewshot_seed, max_length, batch_tokens;
} o = { .batch_tokens = 4096, .shots = -1, .fewshot_seed = 1234, .bos = "auto" };

static const struct opt opts[] = {
	OPT_STR('m', "model", &o.model, "DIR", "model directory to score, with its tokenizer"),
	OPT_LIST('t', "task", &o.task, "NAME[:KIND]=FILE",
		 "items to score, or a data directory; KIND: a kind or a named task, else NAME, else the items' fields tell"),
	OPT_LIST(0, "text", &o.text, "FILE", "perplexity of a whole UTF-8 file, named after it"),
	OPT_LIST(0, "template", &o.template, "NAME=FILE", "the prompt of a task of your own"),
	OPT_LIST(0, "fewshot", &o.fewshot, "NAME=FILE", "items that a task's examples are drawn from"),
	OPT_I64(0, "shots", &o.shots, "N", "examples in each prompt, -1: as the task says", -1, 1000),
	OPT_I64(0, "num-fewshot", &o.shots, "N", "the same by another name", -1, 1000),
	OPT_I64(0, "fewshot-seed", &o.fewshot_seed, "N", "seed of the choice of examples", 0, 9e15),
	OPT_CHOICE(0, "bos", &o.bos, "auto|always|never", "BOS before each text: as the tokenizer says, always, no special tokens"),
	OPT_I64(0, "limit", &o.limit, "N", "only the first N items of each task, 0: all", 0, 1e12),
	OPT_I64(0, "max-length", &o.max_length, "N", "tokens that the model reads at most, 0: as its config says", 0, 1 << 24),
	OPT_I64(0, "batch-tokens", &o.batch_tokens, "N", "tokens per forward pass (a longer request is one pass)", 1, 1 << 24),
	OPT_STR(0, "log-samples", &o.samples, "FILE", "write a JSON line per item with its log-likelihoods"),
	OPT_STR(0, "artifact", &o.artifact, "FILE", "also write the scores as an artifact"),
	OPT_OUT_ROW("results to write; a table then goes to stdout (default: JSON to stdout)"),
	OPT_DEVICE_ROWS, OPT_COMMON_ROWS, OPT_END
};
static const struct usage usage = {
	"evalharness",
	"Scores a model on multiple choice and perplexity tasks, as lm-evaluation-harness does.",
	"-m DIR (--task NAME=FILE | --text FILE)... [-o RESULTS]",
	"evalharness -m student --task hellaswag=hellaswag.jsonl --limit 100 -o results.json\n"
	"evalharness -m student --text book.txt --log-samples samples.jsonl",
	opts,
};

struct run {
	struct ptable *t;      /* shape, known before any weight is read */
	struct tokenizer *tok;
	struct encoder enc;
	struct suite u;
	struct ll_set set;
	struct ll_opts ll;
	struct ll_cost cost;
	int64_t items;
};

static void check_options(int operands, char **argv)
{
	if (operands)
		opt_die("unexpected operand '%s'", argv[0]);
	if (!o.model)
		opt_die("-m is needed");
	if (!o.task.n && !o.text.n)
		opt_die("nothing to score: --task or --text is needed");
	if (com.out && o.samples && !strcmp(com.out, o.samples))
		opt_die("-o and --log-samples are the same file");
}

/* Shape, tokenizer, items: everything that can be refused before the weights are read. */
static int prepare(struct run *r, struct err *e)
{
	struct arch a;
	if (arch_load(&a, o.model, e))
		return -1;
	r->t = ptable_new(&a);
	arch_free(&a);
	if (!o.max_length)
		o.max_length = r->t->arch.max_positions > 0 ? r->t->arch.max_positions : 2048;
	r->tok = tok_load(o.model, e);
	if (!r->tok || encoder_open(&r->enc, r->tok, o.max_length, r->t->arch.vocab, e))
		return -1;
	r->enc.bos = !strcmp(o.bos, "always") ? BOS_ALWAYS : !strcmp(o.bos, "never") ? BOS_NEVER : BOS_AUTO;
	const struct suite_opts so = { o.limit, o.shots, (uint64_t)o.fewshot_seed, o.fewshot.v, o.template.v, o.fewshot.n,
				       o.template.n };
	for (int i = 0; i < o.task.n + o.text.n; i++)
		if (i < o.task.n ? suite_add(&r->u, o.task.v[i], &so, &r->enc, &r->set, e)
				 : suite_add_text(&r->u, o.text.v[i - o.task.n], &r->enc, &r->set, e))
			return -1;
	for (int i = 0; i < r->u.n; i++) {
		r->items += r->u.t[i].n;
		for (int j = 0; j < i; j++)
			if (!strcmp(r->u.t[j].name, r->u.t[i].name))
				return err_set(e, EXIT_USAGE, "two tasks are named '%s'", r->u.t[i].name);
	}
	r->ll = (struct ll_opts){ o.batch_tokens };
	return ll_cost(&r->set, r->t, dtype_parse(com.dtype), &r->ll, &r->cost, e);
}

static void dry_run(const struct run *r)
{
	double w = (double)r->t->elems * (double)dtype_size(dtype_parse(com.dtype)), a = (double)r->cost.act_bytes;
	char b1[32], b2[32], b3[32];
	if (!strcmp(com.dry_run, "json"))
		printf("{\"tasks\": %d, \"items\": %lld, \"requests\": %lld, \"tokens\": %lld, \"padded_tokens\": %lld, "
		       "\"scored_tokens\": %lld, \"weights_bytes\": %.0f, \"activation_bytes\": %.0f, \"flops\": %.6g}\n",
		       r->u.n, (long long)r->items, (long long)r->set.n, (long long)r->cost.tokens,
		       (long long)r->cost.padded, (long long)r->cost.scored, w, a, r->cost.flops);
	else
		printf("%d tasks, %lld items, %lld requests\n%lld tokens to read (%lld with padding), %lld to score\n"
		       "weights      %s\nactivations  %s\ncompute      %s FLOP\n",
		       r->u.n, (long long)r->items, (long long)r->set.n, (long long)r->cost.tokens,
		       (long long)r->cost.padded, (long long)r->cost.scored, fmt_bytes(b1, w), fmt_bytes(b2, a),
		       fmt_count(b3, r->cost.flops));
}

static void step(void *arg, int64_t padded)
{
	progress_step(arg, (double)padded);
}

static int score(struct run *r, struct engine *g, struct err *e)
{
	struct weights m;
	struct progress pr;
	if (engine_open(g, com.device, (int)com.threads, e) ||
	    weights_load(&m, g, o.model, dtype_parse(com.dtype), e))
		return -1;
	progress_start(&pr, "tokens", (double)r->cost.padded, "tok", 0);
	int rc = ll_score(&r->set, &m, &r->ll, step, &pr, e);
	progress_end(&pr);
	weights_free(&m);
	return rc;
}

static const char *last_component(const char *path)
{
	static char buf[256];
	size_t n = strlen(path);
	while (n > 1 && path[n - 1] == '/')
		n--;
	size_t i = n;
	while (i > 0 && path[i - 1] != '/')
		i--;
	snprintf(buf, sizeof buf, "%.*s", (int)(n - i), path + i);
	return buf;
}

static int write_samples(const struct run *r, struct outfile *f, struct err *e)
{
	for (int i = 0; i < r->u.n; i++)
		if (task_log_samples(&r->u.t[i], &r->set, f, e))
			return -1;
	return outfile_commit(f, e);
}

/* Outputs are opened before the work, so that one that cannot be written costs nothing. */
static int score_and_write(struct run *r, struct err *e)
{
	char digest[33];
	struct engine g = { 0 };
	struct outfile *samples = NULL, *out = NULL;
	struct art_w *scores = NULL;
	struct eval_config cfg = {
		.model = last_component(o.model), .fingerprint = digest, .tokenizer = tok_digest(r->tok),
		.dtype = com.dtype, .command = opt_record_line(), .max_length = o.max_length, .limit = o.limit,
		.bos = o.bos, .seed = (uint64_t)o.fewshot_seed,
	};
	if (model_fingerprint(o.model, digest, e) || !(out = outfile_open(com.out, false, com.force, e)) ||
	    (o.samples && !(samples = outfile_open(o.samples, false, com.force, e))) ||
	    (o.artifact && !(scores = scores_create(r->u.t, r->u.n, &cfg, o.artifact, com.force, e))) || score(r, &g, e)) {
		outfile_abort(out);
		outfile_abort(samples);
		art_abort(scores);
		return -1;
	}
	cfg.device = g.k->name;
	for (int i = 0; i < r->u.n; i++)
		task_score(&r->u.t[i], &r->set);
	if ((samples && write_samples(r, samples, e)) || (scores && scores_commit(scores, r->u.t, r->u.n, e)) ||
	    results_write(r->u.t, r->u.n, &cfg, out, e) || outfile_commit(out, e))
		return -1;
	if (com.out && strcmp(com.out, "-"))
		results_table(r->u.t, r->u.n, stdout);
	engine_close(&g);
	return 0;
}

int main(int argc, char **argv)
{
	struct err e = { 0 };
	struct run r = { 0 };
	int n = opt_parse(&usage, argc, argv);
	check_options(n, argv);
	comm_alone();
	log_start();
	if (prepare(&r, &e))
		die_err(&e);
	if (o.max_length > r.t->arch.max_positions && r.t->arch.max_positions > 0)
		log_warn("--max-length %lld is beyond the model's %lld positions", (long long)o.max_length,
			 (long long)r.t->arch.max_positions);
	if (com.dry_run)
		dry_run(&r);
	else if (score_and_write(&r, &e))
		die_err(&e);
	else
		log_summary("%d tasks, %lld items, %lld requests, %lld tokens", r.u.n, (long long)r.items,
			    (long long)r.set.n, (long long)r.cost.tokens);
	suite_free(&r.u);
	ll_set_free(&r.set);
	encoder_close(&r.enc);
	tok_free(r.tok);
	ptable_free(r.t);
	return EXIT_DONE;
}
