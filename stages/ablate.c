/*
 * ablate - measures what a model loses when layers, attentions or MLPs are left out
 *
 * Reads a model and a "tokens" artifact (or a multiple-choice file), writes a "stats" artifact that rank turns into an
 * order of the layers.  Forward only; what lies before the first missing part is computed once.  Finished ablations are
 * kept in OUT.state until OUT is complete: a run that was killed goes on there.
 *
 *	ablate -m teacher calib.tok --metric kl --mode block:8 -o depth.stats
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/base/opt.h"
#include "../common/comm/comm.h"
#include "../common/eval/task.h"
#include "../common/io/tokenset.h"
#include "../common/prune/ablate.h"
#include "../common/prune/ablate_state.h"
#include <stdlib.h>
#include <string.h>

static struct {
	const char *model, *metric, *unit, *mode, *protect, *memory, *at;
	int64_t first, last, rounds, micro, samples;
	int64_t budget;
} o = { .metric = "loss", .unit = "layer", .mode = "single", .at = "last" };

static const struct opt opts[] = {
	OPT_STR('m', "model", &o.model, "DIR", "model directory to measure"),
	OPT_OUT_ROW("statistics to write (default: stdout)"),
	OPT_STR(0, "metric", &o.metric, "loss|kl|mse|task:FILE|angular",
		"what is lost: cross-entropy, KL or squared error of the logits against the whole model, right answers of "
		"multiple-choice items, or the angle between what enters and what leaves"),
	OPT_CHOICE(0, "unit", &o.unit, "layer|attn|ffn", "what is left out"),
	OPT_STR(0, "mode", &o.mode, "single|greedy|block:N",
		"one at a time; the cheapest for good, then again; N neighbours at a time"),
	OPT_STR(0, "protect", &o.protect, "LIST", "layers that are never left out, such as 0,30:31"),
	OPT_I64(0, "protect-first", &o.first, "N", "protect the first N layers", 0, 4096),
	OPT_I64(0, "protect-last", &o.last, "N", "protect the last N layers", 0, 4096),
	OPT_I64(0, "rounds", &o.rounds, "N", "greedy: parts to remove, 0: all but one", 0, 4096),
	OPT_I64(0, "micro", &o.micro, "N", "samples of tokens per forward pass, 0: as many as make about 4096 tokens", 0, 1 << 20),
	OPT_I64(0, "samples", &o.samples, "N", "stop after N samples or items, 0: all", 0, 1e12),
	OPT_CHOICE(0, "at", &o.at, "last|all", "angular: at the last token of each sample or at all"),
	OPT_STR(0, "memory", &o.memory, "BYTES",
		"stay within this much: larger weights are read block by block, larger hidden states go to a file in TMPDIR"),
	OPT_DEVICE_ROWS, OPT_COMMON_ROWS, OPT_END
};
static const struct usage usage = {
	"ablate", "Measures what a model loses when layers, attentions or MLPs are left out, with forward passes alone.",
	"-m DIR [TOKENS] [--metric loss|kl|mse|task:FILE|angular] [--mode single|greedy|block:N] [-o STATS]",
	"ablate -m teacher calib.tok --metric kl -o depth.stats\n"
	"ablate -m teacher --metric task:winogrande.jsonl --mode block:8 | rank | trim -m teacher --layers 24 -o student",
	opts
};

struct run {
	struct ablate_args a;
	struct ablate_batch *b;
	uint8_t *protect;
	struct ptable *t;
	struct tokenizer *tok;     /* of a task */
	struct encoder enc;
	struct task task;
	struct ll_set set;
	struct ll_batches q;
	int64_t seq, samples, tokens;
	struct comm world;
	char model[33], key[33]; /* digests: the weights; everything that shapes the result */
};

static const char *task_path(void)
{
	return strncmp(o.metric, "task:", 5) ? NULL : o.metric + 5;
}

static void check_options(struct run *r, int operands)
{
	struct ablate_args *a = &r->a;
	if (!o.model)
		opt_die("--model is missing");
	if (operands > (task_path() ? 0 : 1))
		opt_die(task_path() ? "a task needs no tokens" : "one token set at most, got %d operands", operands);
	a->metric = ABLATE_TASK;
	if (!task_path())
		for (a->metric = 0; stat_delta_metrics[a->metric] && strcmp(stat_delta_metrics[a->metric], o.metric);)
			a->metric++;
	if (task_path() ? !*task_path() : a->metric == ABLATE_TASK || !stat_delta_metrics[a->metric])
		opt_die("--metric %s: expected loss, kl, mse, task:FILE or angular", o.metric);
	a->part = *o.unit == 'l' ? DROP_LAYER : *o.unit == 'a' ? DROP_ATTN : DROP_FFN;
	a->count = 1;
	a->greedy = !strcmp(o.mode, "greedy");
	if (!strncmp(o.mode, "block:", 6)) {
		if (parse_i64(o.mode + 6, &a->count) || a->count < 1)
			opt_die("--mode %s: expected block:N, N at least 1", o.mode);
	} else if (!a->greedy && strcmp(o.mode, "single")) {
		opt_die("--mode %s: expected single, greedy or block:N", o.mode);
	}
	if (a->metric == ABLATE_ANGULAR && (a->greedy || a->part != DROP_LAYER))
		opt_die("--metric angular measures layers, alone or as block:N");
	if (o.rounds && !a->greedy)
		opt_die("--rounds is for --mode greedy");
	o.budget = INT64_C(4) << 30;
	if (o.memory && (parse_i64(o.memory, &o.budget) || o.budget < 0))
		opt_die("--memory %s: expected a size such as 4Gi", o.memory);
	a->rounds = o.rounds;
	a->last = !strcmp(o.at, "last");
	a->hidden_budget = o.budget / 2;       /* the rest is weights and a batch's activations */
}

static int protect(struct run *r, struct err *e)
{
	int64_t L = r->t->arch.layers, *v, n;
	r->a.protect = r->protect = xcalloc((size_t)L, 1);
	for (int64_t l = 0; l < L; l++)
		r->protect[l] = l < o.first || l >= L - o.last;
	if (!o.protect)
		return 0;
	if (parse_i64_list(o.protect, &v, &n, e))
		return err_wrap(e, "--protect");
	for (int64_t i = 0; i < n; i++) {
		if (v[i] < 0 || v[i] >= L)
			return err_set(e, EXIT_USAGE, "--protect %s: layers are 0 to %lld", o.protect, (long long)L - 1);
		r->protect[v[i]] = 1;
	}
	free(v);
	return 0;
}

static struct ablate_batch *add_batch(struct run *r, int64_t B, int64_t T)
{
	r->b = xrealloc(r->b, (size_t)r->a.n_batch + 1, sizeof *r->b);
	struct ablate_batch *b = &r->b[r->a.n_batch++];
	*b = (struct ablate_batch){ B, T, xcalloc((size_t)(B * T), sizeof *b->ids), xcalloc((size_t)(B * T), sizeof *b->label) };
	return b;
}

/* Samples of equal length run together; each token's label is the next one. */
static int read_tokens(struct run *r, const char *path, struct prov *prov, struct err *e)
{
	struct tokenset t;
	int rc;
	if (tokenset_open(&t, path, r->t->arch.vocab, e))
		return -1;
	int64_t micro = o.micro ? o.micro : (4096 + t.seq - 1) / t.seq;
	while ((rc = tokenset_next(&t, e)) == 1) {
		if (o.samples && r->samples >= o.samples)
			continue;                      /* the rest is read for its trailer */
		struct ablate_batch *b = r->a.n_batch ? &r->b[r->a.n_batch - 1] : NULL;
		if (!b || b->T != t.n || b->B == micro)
			b = add_batch(r, 0, t.n);
		size_t rows = (size_t)(b->B * b->T), n = (size_t)t.n;
		b->ids = xrealloc(b->ids, rows + n, sizeof *b->ids);
		b->label = xrealloc(b->label, rows + n, sizeof *b->label);
		memcpy(b->ids + rows, t.ids, n * sizeof *b->ids);
		memcpy(b->label + rows, t.ids + 1, (n - 1) * sizeof *b->label);
		b->label[rows + n - 1] = -1;
		b->B++;
		r->samples++;
		r->tokens += t.n;
	}
	r->seq = t.seq;
	if (!rc && !r->samples)
		rc = err_set(e, EXIT_DATA, "%s: no samples", art_name(t.r));
	if (!rc)
		prov_add_artifact(prov, "tokens", t.r);
	tokenset_close(&t);
	return rc;
}

/* Right answers, from the log-likelihoods of all requests in the order of their batches. */
static double right_answers(void *arg, const double *v)
{
	struct run *r = arg;
	struct score sc[MAX_SCORES];
	for (int64_t i = 0; i < r->set.n; i++)
		r->set.r[r->q.order[i]].sum = v[i];
	int n = r->task.kind->score(&r->task, &r->set, sc);
	for (int i = 0; i < n; i++)
		if (!strcmp(sc[i].metric, "acc"))
			return sc[i].value * (double)r->task.n;
	return 0;
}

static int read_task(struct run *r, struct prov *prov, struct err *e)
{
	const struct arch *a = &r->t->arch;
	char *spec = xasprintf("task=%s", task_path());
	r->tok = tok_load(o.model, e);
	int rc = !r->tok || encoder_open(&r->enc, r->tok, a->max_positions > 0 ? a->max_positions : 2048, a->vocab, e) ||
		 task_open(&r->task, spec, o.samples, &r->enc, &r->set, e) ? -1 : 0;
	struct score sc[MAX_SCORES];
	for (int i = 0, n = rc ? 0 : r->task.kind->score(&r->task, &r->set, sc), found = 0; i <= n && !rc && !found; i++) {
		found = i < n && !strcmp(sc[i].metric, "acc");
		if (i == n)
			rc = err_set(e, EXIT_DATA, "%s: items of kind '%s' have no accuracy", task_path(), r->task.kind->word);
	}
	if (!rc) {
		ll_batches_make(&r->q, &r->set, 4096);
		for (int64_t i = 0; i < r->q.n; i++) {
			struct ablate_batch *b = add_batch(r, r->q.b[i].n, r->q.b[i].T);
			ll_batch_fill(&r->set, &r->q, i, b->ids, b->label);
			r->seq = b->T > r->seq ? b->T : r->seq;
			r->tokens += b->B * b->T;
		}
		r->samples = r->a.items = r->task.n;
		r->a.score = right_answers;
		r->a.arg = r;
		r->task.path = task_path();
		prov_add_digest(prov, "task", task_path(), "task", r->task.digest);
	}
	free(spec);
	return rc;
}

/* Digest of all that shapes the result, so that the state of another run is not taken for this one's. */
static void make_key(struct run *r, const char *backend)
{
	struct ablate_args *a = &r->a;
	char *text = xasprintf("%s %d %d %d %lld %d %s %s %d of %d", r->model, a->metric, a->part, a->greedy, (long long)a->count, a->last,
			       com.dtype, backend, r->world.rank, r->world.size);
	size_t n = strlen(text), L = (size_t)r->t->arch.layers;
	text = xrealloc(text, n + L, 1);
	memcpy(text + n, r->protect, L);
	n += L;
	for (int64_t k = 0; k < a->n_batch; k++) {
		const struct ablate_batch *b = &r->b[k];
		size_t size = (size_t)(b->B * b->T) * sizeof *b->ids;
		text = xrealloc(text, n + 16 + 2 * size, 1);
		memcpy(text + n, &b->B, 8);
		memcpy(text + n + 8, &b->T, 8);
		memcpy(text + n + 16, b->ids, size);
		memcpy(text + n + 16 + size, b->label, size);
		n += 16 + 2 * size;
	}
	digest_hex(text, n, r->key);
	free(text);
}

static void dry_run(const struct run *r, const struct ablate_plan *p)
{
	const struct arch *a = &r->t->arch;
	double fl = arch_forward_flops(a, r->seq, 0) * (double)r->tokens / (double)(a->layers * r->a.n_batch) * (double)p->runs,
	       w = (double)r->t->elems * (double)dtype_size(dtype_parse(com.dtype));
	char b1[32], b2[32];
	if (!strcmp(com.dry_run, "json"))
		printf("{\"ablations\": %lld, \"batches\": %lld, \"block_runs\": %lld, \"block_runs_plain\": %lld, "
		       "\"weights_bytes\": %.0f, \"flops\": %.6g}\n", (long long)p->ablations, (long long)r->a.n_batch,
		       (long long)p->runs, (long long)p->plain, w, fl);
	else
		printf("%lld ablations over %lld tokens in %lld batches\nblock runs   %lld (%.2f of %lld)\nweights      %s\n"
		       "compute      %s FLOP without the heads\n", (long long)p->ablations, (long long)r->tokens,
		       (long long)r->a.n_batch, (long long)p->runs, (double)p->runs / (double)p->plain, (long long)p->plain,
		       fmt_bytes(b1, w), fmt_count(b2, fl));
}

static void step(void *arg, double runs)
{
	progress_step(arg, runs);
}

static int measure(struct run *r, struct art_w *w, const struct ablate_plan *p, struct err *e)
{
	int to_file = com.out && strcmp(com.out, "-"), other = 0;
	char *path = !to_file ? NULL : comm_first(&r->world) ? xasprintf("%s.state", com.out) : xasprintf("%s.state-%d", com.out, r->world.rank);
	struct engine g;
	struct weights m;
	struct stats s;
	struct progress pr;
	int64_t found = 0;
	int dtype = dtype_parse(com.dtype), whole = !o.memory || r->t->elems * (int64_t)dtype_size(dtype) <= o.budget / 2;
	if (engine_open(&g, com.device, (int)com.threads, e) || (whole && weights_load(&m, &g, o.model, dtype, e)))
		return -1;
	if (!whole)
		log_verbose("block by block: weights do not fit in --memory %s", o.memory);
	make_key(r, g.k->name);
	if (to_file && !(r->a.state = ablate_state_open(path, r->key, &found, &other, e)))
		return -1;
	if (other)
		log_warn("%s is of another run: starting over", path);
	if (found)
		log_info("%s: %lld results of an earlier run", path, (long long)found);
	r->a.g = &g;
	r->a.w = whole ? &m : NULL;
	r->a.dir = o.model;
	r->a.t = r->t;
	r->a.dtype = dtype;
	r->a.batch = r->b;
	r->a.step = step;
	r->a.step_arg = &pr;
	r->a.world = &r->world;
	stats_init(&s, &r->t->arch, r->model, r->seq);
	s.samples = r->samples;
	s.tokens = r->tokens;
	progress_start(&pr, "blocks", (double)p->runs / r->world.size, "blocks", r->world.size);
	int rc = ablate_run(&r->a, &s, e) || (w && stats_write(&s, w, e)) ? -1 : 0;
	progress_end(&pr);
	if (rc && w)
		art_abort(w);
	else if (w)
		rc = art_commit(w, e);
	ablate_state_close(r->a.state, !rc);
	if (!rc)
		log_summary("%d ablations, %lld block runs (%.3f of %lld for whole passes)", s.n_delta, (long long)s.block_runs,
			    (double)s.block_runs / (double)s.block_runs_plain, (long long)s.block_runs_plain);
	free(path);
	stats_free(&s);
	if (whole)
		weights_free(&m);
	engine_close(&g);
	return rc;
}

int main(int argc, char **argv)
{
	struct err e = { 0 };
	struct run r = { 0 };
	struct arch a;
	struct ablate_plan plan;
	int n = opt_parse(&usage, argc, argv);
	struct prov prov = { .seed = com.seed };
	check_options(&r, n);
	if (comm_open(&r.world, &e))
		die_err(&e);
	if (r.world.size > 1 && !n && !task_path())
		opt_die("several processes need the token set as a file: only the first has the standard input");
	log_start();
	stop_requested();
	if (arch_load(&a, o.model, &e) || model_fingerprint(o.model, r.model, &e))
		die_err(&e);
	r.t = ptable_new(&a);
	prov_add_digest(&prov, "model", o.model, "model", r.model);
	if (protect(&r, &e) ||
	    (task_path() ? read_task(&r, &prov, &e) : read_tokens(&r, n ? argv[0] : NULL, &prov, &e)) ||
	    ablate_plan(&r.a, &a, &plan, &e))
		die_err(&e);
	if (com.dry_run) {
		dry_run(&r, &plan);
	} else {
		struct art_w *w = NULL; /* the first process writes */
		if ((comm_first(&r.world) && !(w = art_create(com.out, "stats", 1, &prov, com.force, &e))) || measure(&r, w, &plan, &e))
			die_err(&e);
	}
	comm_close(&r.world);
	for (int64_t k = 0; k < r.a.n_batch; k++)
		free(r.b[k].ids), free(r.b[k].label);
	free(r.b);
	free(r.protect);
	if (task_path()) {
		task_free(&r.task);
		ll_batches_free(&r.q);
		ll_set_free(&r.set);
		encoder_close(&r.enc);
		tok_free(r.tok);
	}
	ptable_free(r.t);
	arch_free(&a);
	return EXIT_DONE;
}
