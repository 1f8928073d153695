/*
 * evalharness - scores a model on files of items, by the rules of lm-evaluation-harness
 *
 * Reads a model directory and task files (multiple choice or documents as JSON lines, or plain text), writes one JSON
 * object keyed as lm-evaluation-harness keys its results.  Every item becomes log-likelihood requests; those of all tasks
 * are scored in one sorted pass.  Finished ones are kept in OUT.state until OUT is complete: a run that was killed goes on.
 *
 *	evalharness -m student --task hellaswag=hellaswag.jsonl --text book.txt -o results.json
 *
 * Processes under mpirun or srun share the batches.  Kinds of task: common/eval/kinds.def; named tasks: common/eval/tasks.def; those in which
 * the model writes: common/eval/written.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/comm/comm.h"
#include "../common/eval/compare.h"
#include "../common/eval/journal.h"
#include "../common/eval/written.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct {
	const char *model, *samples, *artifact;
	const char *bos;
	struct opt_list task, text, fewshot, template;
	bool verify, compare;
	int64_t resamples, shots, fewshot_seed, max_length, batch_tokens, max_new, samples_each, sequences;
	double limit, temperature, top_p, seconds;
	const char *at;
} o = { .batch_tokens = 4096, .resamples = 10000, .shots = -1, .fewshot_seed = 1234, .bos = "auto", .at = "1",
	.samples_each = 1, .sequences = 8, .top_p = 1, .seconds = 3 };

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
	OPT_F64(0, "limit", &o.limit, "N", "only the first N items of each task, below 1: this share of them; 0: all", 0, 1e12),
	OPT_I64(0, "max-length", &o.max_length, "N", "tokens that the model reads at most, 0: as its config says", 0, 1 << 24),
	OPT_I64(0, "batch-tokens", &o.batch_tokens, "N", "tokens per forward pass (a longer request is one pass)", 1, 1 << 24),
	OPT_FLAG(0, "verify-batch-invariance", &o.verify, "score every request once more, alone, and compare"),
	OPT_FLAG(0, "compare", &o.compare, "compare two --log-samples files (or --artifact files) A and B of the same items"),
	OPT_I64(0, "resamples", &o.resamples, "N", "draws of the comparison's bootstrap", 100, 1e7),
	OPT_I64(0, "max-new", &o.max_new, "N", "tokens that the model writes at most, 0: as the task says", 0, 1 << 20),
	OPT_I64(0, "samples", &o.samples_each, "N", "programs written for each item of a code task", 1, 1 << 16),
	OPT_STR(0, "at", &o.at, "LIST", "which pass@k of code tasks, by comma"),
	OPT_F64(0, "temperature", &o.temperature, "T", "draw the tokens of code tasks from softmax(logits / T), 0: the likeliest", 0, 1e3),
	OPT_F64(0, "top-p", &o.top_p, "P", "draw from the likeliest tokens that make up P", 0, 1),
	OPT_F64(0, "seconds", &o.seconds, "S", "time of one generated program", 0.1, 3600),
	OPT_I64(0, "sequences", &o.sequences, "N", "texts written at a time; changes the speed, not the result", 1, GEN_SLOTS),
	OPT_STR(0, "log-samples", &o.samples, "FILE", "write a JSON line per item with its log-likelihoods"),
	OPT_STR(0, "artifact", &o.artifact, "FILE", "also write the scores as an artifact"),
	OPT_OUT_ROW("results to write; a table then goes to stdout (default: JSON to stdout)"),
	OPT_DEVICE_ROWS, OPT_SEED_ROW, OPT_COMMON_ROWS, OPT_END
};
static const struct usage usage = {
	"evalharness",
	"Scores a model on multiple choice, perplexity, answers and programs, as lm-evaluation-harness does.",
	"-m DIR (--task NAME=FILE | --text FILE)... [-o RESULTS], or --compare A B [-o RESULTS]",
	"evalharness -m student --task hellaswag=hellaswag.jsonl --limit 100 -o results.json\n"
	"evalharness -m student --task humaneval=HumanEval.jsonl --samples 20 --temperature 0.2 --at 1,10",
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
	struct written w;
	struct gen_cost write_cost;
	struct progress pr;
	int64_t items;
	struct comm world;
	char *state;           /* the journal's path, NULL: none */
};

static int compare(int operands, char **argv, struct err *e)
{
	struct comparisons c = { 0 };
	struct outfile *out = NULL;
	if (operands != 2 || o.model || o.task.n || o.text.n)
		opt_die("--compare takes two files and no model");
	int rc = compare_files(&c, argv[0], argv[1], o.resamples, (uint64_t)com.seed, e);
	if (!rc && com.out && strcmp(com.out, "-"))
		rc = !(out = outfile_open(com.out, false, com.force, e)) || compare_write(&c, argv[0], argv[1], out, e) ||
		     outfile_commit(out, e) ? -1 : 0;
	if (!rc)
		compare_table(&c, stdout);
	comparisons_free(&c);
	return rc;
}

/* NAME=FILE of --fewshot and --template belong to a --task NAME... */
static void check_names(const char *option, const struct opt_list *l)
{
	for (int i = 0; i < l->n; i++) {
		size_t n = strcspn(l->v[i], "=");
		int found = 0;
		if (!n || !l->v[i][n] || !l->v[i][n + 1])
			opt_die("%s %s: expected NAME=FILE", option, l->v[i]);
		for (int t = 0; t < o.task.n && !found; t++)
			found = !strncmp(o.task.v[t], l->v[i], n) && (o.task.v[t][n] == '=' || o.task.v[t][n] == ':');
		if (!found)
			opt_die("%s %s: there is no --task %.*s", option, l->v[i], (int)n, l->v[i]);
	}
}

static void check_options(int operands, char **argv)
{
	if (operands)
		opt_die("unexpected operand '%s'", argv[0]);
	if (!o.model)
		opt_die("-m is needed");
	if (!o.task.n && !o.text.n)
		opt_die("nothing to score: --task or --text is needed");
	if (o.limit > 1 && o.limit > floor(o.limit))
		opt_die("--limit %g: a number of items, or a share below 1", o.limit);
	check_names("--fewshot", &o.fewshot);
	check_names("--template", &o.template);
	if (com.out && o.samples && !strcmp(com.out, o.samples))
		opt_die("-o and --log-samples are the same file");
}

/* The prompts of tasks in which the model writes */
static int prepare_writing(struct run *r, struct err *e)
{
	struct write_opts wo = { .max_new = o.max_new, .samples = o.samples_each, .temperature = o.temperature, .top_p = o.top_p,
				 .slots = o.sequences, .seconds = o.seconds, .seed = (uint64_t)com.seed, .plan = com.dry_run != NULL };
	int64_t *at;
	if (parse_i64_list(o.at, &at, &wo.n_at, e))
		return err_wrap(e, "--at");
	wo.at = at;
	int rc = written_open(&r->w, &r->u, &r->enc, o.model, &wo, e);
	free(at);
	gen_cost(&r->w.c.g, &r->t->arch, dtype_parse(com.dtype), o.sequences, &r->write_cost);
	return rc;
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
	r->ll = (struct ll_opts){ .batch_tokens = o.batch_tokens };
	return prepare_writing(r, e) ? -1 : ll_cost(&r->set, r->t, dtype_parse(com.dtype), &r->ll, &r->cost, e);
}

static void dry_run(const struct run *r)
{
	double w = (double)r->t->elems * (double)dtype_size(dtype_parse(com.dtype)), a = (double)r->cost.act_bytes;
	double flops = r->cost.flops + r->write_cost.flops;
	char b1[32], b2[32], b3[32], b4[32];
	if (!strcmp(com.dry_run, "json"))
		printf("{\"tasks\": %d, \"items\": %lld, \"requests\": %lld, \"tokens\": %lld, \"padded_tokens\": %lld, "
		       "\"scored_tokens\": %lld, \"written\": %lld, \"weights_bytes\": %.0f, \"activation_bytes\": %.0f, "
		       "\"cache_bytes\": %lld, \"flops\": %.6g}\n",
		       r->u.n, (long long)r->items, (long long)r->set.n, (long long)r->cost.tokens,
		       (long long)r->cost.padded, (long long)r->cost.scored, (long long)r->w.c.g.n, w, a,
		       (long long)r->write_cost.kv_bytes, flops);
	else
		printf("%d tasks, %lld items, %lld requests\n%lld tokens to read (%lld with padding), %lld to score\n"
		       "%lld texts to write, at most %lld tokens with their prompts\n"
		       "weights      %s\nactivations  %s\ncache        %s\ncompute      %s FLOP\n",
		       r->u.n, (long long)r->items, (long long)r->set.n, (long long)r->cost.tokens,
		       (long long)r->cost.padded, (long long)r->cost.scored, (long long)r->w.c.g.n,
		       (long long)r->write_cost.tokens, fmt_bytes(b1, w), fmt_bytes(b2, a),
		       fmt_bytes(b3, (double)r->write_cost.kv_bytes), fmt_count(b4, flops));
}

static int step(void *arg, const int64_t *req, int64_t n, int64_t tokens, struct err *e)
{
	struct run *r = arg;
	progress_step(&r->pr, (double)tokens);
	return journal_add(r->w.journal, &r->set, req, n, e);
}

/* Digest of all that shapes the results, so that the state of another run is not taken for this one's. */
static void make_key(const struct run *r, const struct engine *g, const char *model, char key[33])
{
	char ids[33], places[33], texts[33];
	struct ll_req *q = xcalloc((size_t)r->set.n + 1, sizeof *q);
	for (int64_t i = 0; i < r->set.n; i++)
		q[i] = (struct ll_req){ .off = r->set.r[i].off, .n = r->set.r[i].n, .n_cont = r->set.r[i].n_cont };
	digest_hex(r->set.ids, (size_t)r->set.n_ids * sizeof *r->set.ids, ids);
	digest_hex(q, (size_t)r->set.n * sizeof *q, places);
	written_digest(&r->w, texts);
	char *text = xasprintf("%s %s %s %s %s %s %lld %lld %d of %d", model, ids, places, texts, g->k->name, com.dtype,
			       (long long)o.batch_tokens, (long long)(com.threads ? com.threads : cpu_count()), r->world.rank, r->world.size);
	digest_hex(text, strlen(text), key);
	free(text);
	free(q);
}

/* Beside -o FILE, until that is complete */
static int open_journal(struct run *r, const struct engine *g, const char *model, struct err *e)
{
	struct journal_found found;
	const struct journal_of all = { &r->set, &r->w.c.g, r->w.prog, r->w.programs };
	char key[33];
	if (!r->state)
		return 0;
	make_key(r, g, model, key);
	r->w.journal = journal_open(r->state, key, &all, &found, e);
	if (r->w.journal && found.other)
		log_warn("%s is of another run: starting over", r->state);
	if (r->w.journal && found.requests)
		log_info("%s: %lld of %lld requests of an earlier run", r->state, (long long)found.requests, (long long)r->set.n);
	if (r->w.journal && found.texts)
		log_info("%s: %lld of %lld texts and %lld of %lld verdicts of an earlier run", r->state, (long long)found.texts,
			 (long long)r->w.c.g.n, (long long)found.programs, (long long)r->w.programs);
	return r->w.journal ? 0 : -1;
}

/* Every request once more, by itself: what its company changed. */
static int verify(struct run *r, const struct weights *m, struct err *e)
{
	const struct ll_opts alone = { .batch_tokens = o.batch_tokens, .alone = 1 };
	struct ll_req *first = xcalloc((size_t)r->set.n + 1, sizeof *first);
	double worst = 0;
	int64_t at = 0;
	memcpy(first, r->set.r, (size_t)r->set.n * sizeof *first);
	for (int64_t i = 0; i < r->set.n; i++)
		r->set.r[i].done = 0;
	int rc = ll_score(&r->set, m, &alone, e);
	for (int64_t i = 0; i < r->set.n && !rc; i++) {
		double d = fabs(r->set.r[i].sum - first[i].sum) / fmax(1, fabs(first[i].sum));
		if (!(d <= worst) || r->set.r[i].greedy != first[i].greedy) {
			worst = r->set.r[i].greedy != first[i].greedy ? INFINITY : d;
			at = i;
		}
	}
	memcpy(r->set.r, first, (size_t)r->set.n * sizeof *first);
	free(first);
	if (rc)
		return rc;
	if (!(worst <= (strcmp(com.dtype, "f32") ? 1e-2 : 1e-5)))
		return err_set(e, EXIT_FAIL, "batch invariance: request %lld alone differs by %.2g of its log-likelihood", (long long)at,
			       worst);
	log_info("batch invariance: %lld requests, largest relative difference %.2g", (long long)r->set.n, worst);
	return 0;
}

static void count(void *arg, int64_t done)
{
	progress_step(arg, (double)done);
}

/* Texts of all tasks in which the model writes, and what becomes of them */
static int write_texts(struct run *r, const struct weights *m, struct err *e)
{
	if (!r->w.c.g.n)
		return 0;
	progress_start(&r->pr, "written", (double)r->write_cost.tokens, "tok", 0);
	int rc = written_run(&r->w, m, count, &r->pr, e);
	progress_end(&r->pr);
	if (rc || !comm_first(&r->world)) /* what the others would write is not read */
		return rc;
	progress_start(&r->pr, "programs", (double)r->w.programs, "programs", 0);
	rc = written_judge(&r->w, count, &r->pr, e);
	progress_end(&r->pr);
	return rc;
}

static int score(struct run *r, struct engine *g, const char *model, struct err *e)
{
	struct weights m;
	if (engine_open(g, com.device, (int)com.threads, e) ||
	    weights_load(&m, g, o.model, dtype_parse(com.dtype), e) || open_journal(r, g, model, e))
		return -1;
	progress_start(&r->pr, "tokens", (double)r->cost.padded, "tok", 0);
	r->ll.world = &r->world;
	r->ll.step = step;
	r->ll.arg = r;
	int rc = ll_score(&r->set, &m, &r->ll, e);
	progress_end(&r->pr);
	r->w.world = &r->world;
	if (!rc)
		rc = write_texts(r, &m, e);
	if (rc && stop_requested() && r->w.journal)
		err_set(e, EXIT_AGAIN, "stopped, run again to go on");
	if (!rc && o.verify)
		rc = verify(r, &m, e);
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
	    (o.artifact && !(scores = scores_create(r->u.t, r->u.n, &cfg, o.artifact, com.force, e))) || score(r, &g, digest, e)) {
		outfile_abort(out);
		outfile_abort(samples);
		art_abort(scores);
		journal_close(r->w.journal, false);
		return -1;
	}
	cfg.device = g.k->name;
	for (int i = 0; i < r->u.n; i++)
		task_score(&r->u.t[i], &r->set);
	if ((samples && write_samples(r, samples, e)) || (scores && scores_commit(scores, r->u.t, r->u.n, e)) ||
	    results_write(r->u.t, r->u.n, &cfg, out, e) || outfile_commit(out, e))
		return -1;
	journal_close(r->w.journal, true);
	if (com.out && strcmp(com.out, "-"))
		results_table(r->u.t, r->u.n, stdout);
	engine_close(&g);
	return 0;
}

/* Each process keeps its own journal; the first alone writes. */
static void share(struct run *r)
{
	if (com.out && strcmp(com.out, "-"))
		r->state = comm_first(&r->world) ? xasprintf("%s.state", com.out) : xasprintf("%s.state-%d", com.out, r->world.rank);
	if (!comm_first(&r->world))
		com.out = o.samples = o.artifact = NULL;
}

int main(int argc, char **argv)
{
	struct err e = { 0 };
	struct run r = { 0 };
	int n = opt_parse(&usage, argc, argv);
	if (o.compare) {
		if (compare(n, argv, &e))
			die_err(&e);
		return EXIT_DONE;
	}
	check_options(n, argv);
	if (comm_open(&r.world, &e))
		die_err(&e);
	log_start();
	share(&r);
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
	comm_close(&r.world);
	free(r.state);
	written_close(&r.w);
	suite_free(&r.u);
	ll_set_free(&r.set);
	encoder_close(&r.enc);
	tok_free(r.tok);
	ptable_free(r.t);
	return EXIT_DONE;
}
