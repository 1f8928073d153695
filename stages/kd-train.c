/*
 * kd-train - recovers a pruned student by distillation from its teacher
 *
 * Reads two model directories and a token set, trains the student so that its next-token distribution follows the
 * teacher's, and writes RUNDIR/student (a Hugging Face directory), RUNDIR/metrics.jsonl and RUNDIR/ckpt.
 *
 *	loss = w_kl tau^2 KL(teacher || student) + w_ce CE + ...,   KL between softmax(logits / tau), mean over positions
 *
 * A killed run is continued by the same command line, bit for bit; a finished one is left alone.
 *
 *	kd-train --teacher teacher --student student --data train.tok --steps 500 -o student-kd
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/log.h"
#include "../common/comm/comm.h"
#include "../common/io/artifact.h"
#include "../common/train/kd_export.h"
#include "../common/train/kd_opts.h"
#include "../common/train/layout.h"
#include "../common/train/session.h"
#include "../common/train/vocab.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct run {
	struct trainer t;
	struct correction correct;             /* used where the teacher is trained too */
	struct mix mix;
	int64_t vocab;                         /* tokens of both models */
	struct schedule rate;
	char teacher[33], student[33];         /* fingerprints */
	char *settings;
	double max_seconds;
	struct comm world, dp, tp;             /* all processes; those with the same part of the models; those with one batch */
	struct comm node;                      /* those that share a teacher between them */
};

static struct ptable *open_model(const char *dir, char print[33])
{
	struct err e = { 0 };
	struct arch a;
	if (arch_load(&a, dir, &e) || model_fingerprint(dir, print, &e))
		die_err(&e);
	struct ptable *t = ptable_new(&a);
	arch_free(&a);
	return t;
}

static void open_data(struct run *r, int64_t vocab)
{
	struct err e = { 0 };
	struct mix_spec o = { .data = &kd.data, .valid = &kd.valid, .cache = &kd.cache, .weights = kd.weights, .seq = kd.seq,
			      .vocab = vocab, .batch = kd.batch, .apart = !strcmp(kd.documents, "apart"), .valid_samples = kd.valid_samples, .seed = (uint64_t)com.seed };
	if (mix_open(&r->mix, &o, &e))
		die_err(&e);
	if (vocab_mix(kd.student ? kd.student : kd.teacher, &r->mix, &e))
		die_err(&e);
	if (kd.response_from && !kd.cache_out && vocab_responses(kd.student, kd.response_from, kd.response_to, &r->mix, &e))
		die_err(&e); /* a cache holds all positions */
	bool dynamic = !strcmp(kd.mix, "dynamic"), by_teacher = kd.mix_reference && !strcmp(kd.mix_reference, "teacher");
	if (dynamic && mix_dynamic(&r->mix, by_teacher ? NULL : kd.mix_reference, kd.mix_rate, kd.mix_floor, &e))
		die_err(&e);
}

/* The cached teacher in place of the teacher's own logits */
static void use_cache(struct run *r, struct objective *loss)
{
	struct err e = { 0 };
	const struct tcache_head *h = &r->mix.d[0].cache.head;
	const char *path = r->mix.d[0].cache.dir;
	if (kd.teacher && strcmp(h->teacher, r->teacher))
		die(EXIT_DATA, "%s: made by teacher %.8s, but %s is %.8s", path, h->teacher, kd.teacher, r->teacher);
	memcpy(r->teacher, h->teacher, sizeof r->teacher);
	if (h->width && !kd.teacher)
		die(EXIT_USAGE, "%s: holds hidden states: --teacher is needed for its output matrix", path);
	if (h->width)
		return;
	if (kd.best && kd.best != h->best)
		die(EXIT_DATA, "%s: holds the best %lld tokens, not --top-k %lld", path, (long long)h->best, (long long)kd.best);
	if (kd.tau != 1 && loss->tail == TAIL_GHOST && h->best < h->vocab)
		die(EXIT_USAGE, "%s: what lies outside of the best tokens is known at temperature 1 only: --tail renorm or zero", path);
	loss->best = h->best;
	if (objective_check(loss, &e))
		die_err(&e);
}

static int64_t auto_micro(int64_t batch, int64_t seq)
{
	int64_t best = 1;
	for (int64_t m = 2; m <= batch && m * seq <= 2048; m++)
		if (batch % m == 0)
			best = m;
	return best;
}

static void plan_rate(struct run *r)
{
	int64_t step = kd.batch * r->mix.seq, n = kd.steps;
	if (!n)
		n = kd.tokens ? (kd.tokens + step - 1) / step : (r->mix.windows + kd.batch - 1) / kd.batch;
	int64_t warmup = kd.warmup >= 0 ? kd.warmup : n / 10 < 40 ? n / 10 : 40;
	if (warmup > n)
		opt_die("--warmup %lld is longer than the run of %lld steps", (long long)warmup, (long long)n);
	if (kd.stop_at > n || (kd.export && kd.stop_at == n))
		opt_die("--stop-at %lld: the run has %lld steps, and its last model is in RUNDIR/student", (long long)kd.stop_at, (long long)n);
	r->rate = (struct schedule){ .kind = schedule_kind(kd.schedule), .steps = n, .warmup = warmup,
				     .decay = (int64_t)(kd.wsd * (double)n), .peak = kd.lr, .min = kd.min_lr };
}

/* What shapes the result; a run is only continued with the same. */
static void settle(struct run *r, const struct objective *loss)
{
	char *data = mix_settings_new(&r->mix), *mix = xstrdup(kd.mix);
	if (r->mix.dynamic) {
		free(mix);
		mix = xasprintf("dynamic:%.9g:%.9g:%lld:%s", kd.mix_rate, kd.mix_floor, (long long)kd.valid_every, kd.mix_reference);
	}
	const struct setting v[] = {
		{ "teacher", *r->teacher ? r->teacher : "none", 0 }, { "teacher-dtype", kd.teacher_dtype, 0 }, { "cache", kd.cache.n ? r->mix.d[0].cache.head.dtype : "none", 0 },
		{ "student", r->student, 0 }, { "data", data, 0 }, { "mix", mix, 0 }, { "documents", kd.documents, 0 },
		{ "response-from", kd.response_from ? kd.response_from : "", 0 }, { "response-to", kd.response_to ? kd.response_to : "", 0 }, { "vocab", NULL, (double)r->vocab },
#define LOSS(id, word, teacher, tau2, key, doc) { word, NULL, loss->weight[LOSS_##id] },
#include "../common/train/losses.def"
#undef LOSS
		{ "correct-teacher", NULL, kd.correct_teacher }, { "temperature", NULL, kd.tau }, { "jsd-beta", NULL, kd.beta }, { "top-k", NULL, (double)loss->best },
		{ "tail", kd.tail, 0 }, { "weigh", kd.weigh, 0 }, { "hidden-loss", kd.hidden ? kd.hidden : "none", 0 },
		{ "hidden-alpha", kd.alpha, 0 }, { "projection", kd.projection, 0 }, { "relation-heads", NULL, (double)kd.relation_heads }, { "steps", NULL, (double)r->rate.steps },
		{ "seq", NULL, (double)r->mix.seq }, { "batch", NULL, (double)kd.batch }, { "lr", NULL, kd.lr },
		{ "min-lr", NULL, kd.min_lr }, { "warmup", NULL, (double)r->rate.warmup }, { "schedule", kd.schedule, 0 },
		{ "wsd-decay", NULL, kd.wsd }, { "clip", NULL, kd.clip }, { "weight-decay", NULL, kd.decay },
		{ "beta1", NULL, kd.beta1 }, { "beta2", NULL, kd.beta2 }, { "eps", NULL, kd.eps },
		{ "no-decay", kd.no_decay ? kd.no_decay : "none", 0 }, { "moments", kd.moments, 0 }, { "ema", NULL, kd.ema },
		{ "train", kd.train ? kd.train : "all", 0 }, { "freeze", kd.freeze ? kd.freeze : "none", 0 },
		{ "lora", kd.lora.targets ? kd.lora.targets : "none", 0 }, { "lora-rank", NULL, (double)kd.lora.rank }, { "lora-alpha", NULL, kd.lora.alpha },
		{ "seed", NULL, (double)com.seed }, { "dtype", com.dtype, 0 },
		{ "save-dtype", kd_save_dtype(r->t.student->arch.dtype), 0 },
	};
	r->settings = settings_new(v, sizeof v / sizeof *v);
	free(data);
	free(mix);
}

/* What the run will take, on the engine that it will use */
static void account(const struct run *r, struct engine *g, struct memory *m, double *peak)
{
	struct err e = { 0 };
	if (engine_open(g, com.device, (int)com.threads, &e))
		die_err(&e);
	*peak = kd.peak > 0 ? kd.peak : account_peak(g, r->t.o.dtype);
	account_memory(&r->t, g, m);
}

static void dry_run(const struct run *r)
{
	struct engine g;
	struct memory m;
	double peak;
	account(r, &g, &m, &peak);
	account_print(stdout, &r->t, &m, r->rate.steps, peak, !strcmp(com.dry_run, "json"));
	engine_close(&g);
}

static void load_weights(struct run *r, const struct engine *g)
{
	struct err e = { 0 };
	struct trainer *t = &r->t;
	if (t->corrected && correct_load(&r->correct, g, kd.teacher, &e))
		die_err(&e);
	if (trainer_alloc(t, g, &e) || trainer_load(t, kd.student, t->teacher ? kd.teacher : NULL, &e))
		die_err(&e);
	lora_init(t, (uint64_t)com.seed);
	if (t->n_proj) {
		int64_t *kept = hidden_kept_new(kd.student, r->teacher, t->student->arch.hidden, t->teacher->arch.hidden);
		log_verbose("projections start %s", kept ? "from the channels that trimming kept" : "at random");
		trainer_projections(t, kept, (uint64_t)com.seed);
		free(kept);
	}
	trainer_sync(t);
}

/* The teacher's own loss on each domain, as the reference of dynamic weights */
static void teacher_references(struct run *r)
{
	struct err e = { 0 };
	struct mix *m = &r->mix;
	const struct batches *set[MIX_MAX];
	int64_t n[MIX_MAX];
	struct step_result res[MIX_MAX];
	for (int i = 0; i < m->n; i++) {
		set[i] = &m->v[m->d[i].valid].data;
		n[i] = m->v[m->d[i].valid].windows;
	}
	if (trainer_measure_teacher(&r->t, set, n, m->n, res, &e))
		die_err(&e);
	for (int i = 0; i < m->n; i++) {
		m->reference[i] = res[i].mean[LOSS_CE];
		log_info("%s: the teacher's held-out loss is %.4f", m->d[i].name, m->reference[i]);
	}
}

/* The run is over, or has reached --stop-at (EXIT_DONE too), or was stopped before (EXIT_AGAIN). */
static int finish(struct run *r, const struct session *s, struct rundir *dir, int rc)
{
	struct err e = { 0 };
	if (rc == EXIT_AGAIN && kd.stop_at && s->at.step >= kd.stop_at) {
		if (kd.export && s->at.step > kd.stop_at)
			die(EXIT_FAIL, "%s: is at step %lld, the model of step %lld is gone", com.out, (long long)s->at.step,
			    (long long)kd.stop_at);
		if (kd.export && kd_export_model(s, kd.export, &e))
			die_err(&e);
		log_summary("step %lld of %lld reached", (long long)s->at.step, (long long)r->rate.steps);
		return EXIT_DONE;
	}
	if (rc == EXIT_AGAIN) {
		log_summary("stopped at step %lld of %lld, the same command goes on", (long long)s->at.step,
			    (long long)r->rate.steps);
		return rc;
	}
	if (kd_export_results(s, &e))
		die_err(&e);
	if (!dir->follows && rundir_mark(dir, r->settings, true, &e))
		die_err(&e);
	log_summary("%lld steps, %lld tokens, %lld skipped, last loss %.4f", (long long)s->at.step, (long long)s->at.tokens,
		    (long long)r->t.skipped, s->last.loss);
	return EXIT_DONE;
}

static int train(struct run *r, struct rundir *dir)
{
	struct err e = { 0 };
	struct engine g;
	struct memory m;
	char buf[32], room[32];
	double peak;
	account(r, &g, &m, &peak);
	if (m.peak > m.room)
		log_warn("needs %s of memory, and there are %s", fmt_bytes(buf, m.peak), fmt_bytes(room, m.room));
	load_weights(r, &g);
	if (r->mix.dynamic && !strcmp(kd.mix_reference, "teacher"))
		teacher_references(r);
	struct session s = { .t = &r->t, .teacher = r->t.corrected ? &r->correct : NULL, .mix = &r->mix, .dir = dir, .rate = r->rate,
			     .settings = r->settings, .seed = com.seed, .log_every = kd.log_every, .save_every = kd.save_every,
			     .keep = kd.keep, .valid_every = kd.valid_every, .stop_after = kd.stop_after,
			     .stop_at = kd.stop_at, .peak = peak * r->world.size, .max_skips = kd.max_skips,
			     .max_seconds = r->max_seconds };
	s.best = kd.best_valid ? kd_export_best : NULL;
	s.best_arg = &s;
	int rc = session_run(&s, &e);
	if (rc < 0)
		die_err(&e);
	rc = finish(r, &s, dir, rc);
	for (int i = 0; i < m.n; i++)
		log_verbose("memory: %s %s", m.row[i].word, fmt_bytes(buf, m.row[i].bytes));
	log_verbose("memory: predicted peak %s", fmt_bytes(buf, m.peak));
	trainer_free(&r->t);
	trainer_free(&r->correct.t);
	engine_close(&g);
	return rc;
}

/* Every --tp neighbours have the models together, the processes of a node a sharded teacher. */
static void split_processes(struct run *r)
{
	r->dp = r->world;
	if (kd.place == TEACHER_SHARDED)
		comm_split_nodes(&r->world, kd.teacher_group, &r->node);
	if (kd.tp == 1)
		return;
	if (r->world.size % kd.tp)
		opt_die("--tp %lld: %d process%s no multiple of it; mpirun -n N kd-train starts N", (long long)kd.tp, r->world.size,
			r->world.size == 1 ? " is" : "es are");
	comm_split(&r->world, r->world.rank % (int)kd.tp, &r->dp);
	comm_split(&r->world, r->world.rank / (int)kd.tp, &r->tp);
}

/* The first process opens it and tells the others. */
static void open_run(struct rundir *dir, struct run *r, enum run_state *state)
{
	struct err e = { 0 };
	if (!comm_first(&r->world)) {
		rundir_follow(dir, com.out);
		*state = (enum run_state)comm_max(&r->world, 0);
		return;
	}
	if (rundir_open(dir, com.out, &e))
		die_err(&e);
	if (com.force && rundir_clear(dir, &e))
		die_err(&e);
	if (rundir_state(dir, r->settings, state, &e))
		die_err(&e);
	if (*state == RUN_FRESH && rundir_mark(dir, r->settings, false, &e))
		die_err(&e);
	comm_max(&r->world, *state);
}

/* --cache-teacher: no training */
static int make_cache(struct run *r)
{
	struct err e = { 0 };
	struct engine g;
	struct weights w;
	if (!kd.teacher || !kd.data.n)
		opt_die("--cache-teacher needs %s", kd.teacher ? "--data" : "--teacher");
	if (strcmp(kd.teacher_place, "resident"))
		opt_die("--cache-teacher reads a teacher that is resident, not --teacher-place %s", kd.teacher_place);
	if (r->world.size > 1 || kd.tp > 1)
		opt_die("--cache-teacher works as one process: part the token set instead");
	if (kd.student || kd.cache.n || com.out)
		opt_die("--cache-teacher only writes the cache: no --student, --teacher-cache or --out");
	if (strcmp(kd.teacher_dtype, "same"))
		opt_die("--cache-teacher writes what the teacher says in --dtype: no --teacher-dtype");
	if (kd.data.n > 1 || kd.valid.n)
		opt_die("--cache-teacher: one --data at a time, each has a cache of its own");
	struct ptable *t = open_model(kd.teacher, r->teacher);
	struct tcache_job j = { .dir = kd.cache_out, .teacher = &w, .force = com.force };
	if (vocab_agree((struct vocab_of){ kd.teacher, t->arch.vocab }, (struct vocab_of){ 0 }, &j.head.vocab, &e))
		die_err(&e);
	open_data(r, j.head.vocab);
	j.data = &r->mix.d[0].data;
	memcpy(j.head.teacher, r->teacher, sizeof j.head.teacher);
	snprintf(j.head.dtype, sizeof j.head.dtype, "%s", kd.cache_dtype);
	if (!strcmp(kd.cache_what, "hidden")) {
		if (kd.best)
			opt_die("--top-k is no part of --cache-what hidden");
		snprintf(j.head.dtype, sizeof j.head.dtype, "bf16");
		j.head.width = t->arch.hidden;
	} else {
		j.head.best = kd.best ? kd.best : 64;
	}
	j.head.per_part = kd.cache_part;
	j.micro = kd.micro ? kd.micro : auto_micro(kd.batch, r->mix.seq);
	if (com.dry_run) {
		printf("%lld windows of %lld tokens, %lld %s of each\n", (long long)r->mix.windows,
		       (long long)r->mix.seq, (long long)(j.head.width + j.head.best), j.head.width ? "channels" : "best tokens");
		return EXIT_DONE;
	}
	if (engine_open(&g, com.device, (int)com.threads, &e) || weights_load(&w, &g, kd.teacher, dtype_parse(com.dtype), &e))
		die_err(&e);
	int rc = tcache_make(&j, &g, &e);
	if (rc < 0)
		die_err(&e);
	log_summary("%lld sequences cached, %lld were there%s", (long long)j.made, (long long)j.found,
		    rc ? "; stopped, the same command goes on" : "");
	weights_free(&w);
	engine_close(&g);
	ptable_free(t);
	mix_free(&r->mix);
	return rc;
}

/* --dry-run --world: from config.json alone */
static int plan_world(void)
{
	struct err e = { 0 };
	struct arch teacher = { 0 }, student;
	int64_t mem = 80000000000;
	struct cluster c = { .world = kd.world, .per_node = kd.per_node, .flops = 400e12, .link_node = 370e9, .link_net = 45e9, .tp = kd.tp, .group = kd.teacher_group };
	struct run_shape r = { .seq = kd.seq ? kd.seq : 4096, .batch = kd.batch, .tokens = (double)kd.tokens };
	if (!com.dry_run || !kd.student)
		opt_die(com.dry_run ? "--student is missing" : "--world needs --dry-run: it only plans");
	if (kd.gpu_mem && (parse_i64(kd.gpu_mem, &mem) || mem < 1))
		opt_die("--gpu-mem %s: expected a size such as 80G", kd.gpu_mem);
	if (kd.gpu_flops && (parse_f64(kd.gpu_flops, &c.flops) || c.flops <= 0))
		opt_die("--gpu-flops %s: expected a number such as 400e12", kd.gpu_flops);
	r.micro = kd.micro ? kd.micro : 8192 / r.seq > 1 ? 8192 / r.seq : 1;
	if (c.world % c.tp)
		opt_die("--tp %lld: --world %lld is no multiple of it", (long long)c.tp, (long long)c.world);
	if (r.batch < r.micro * c.world / c.tp)
		opt_die("--batch %lld gives %lld GPUs less than one micro-batch of %lld each", (long long)r.batch, (long long)(c.world / c.tp), (long long)r.micro);
	if (!kd.tokens)
		r.tokens = (double)(r.batch * r.seq) * (double)(kd.steps ? kd.steps : 1);
	c.memory = (double)mem;
	if (arch_load(&student, kd.student, &e) || (kd.teacher && arch_load(&teacher, kd.teacher, &e)))
		die_err(&e);
	if (arch_split(&student, (int)c.tp, &e) || (kd.teacher && arch_split(&teacher, (int)c.tp, &e)))
		die_err(&e);
	r.student = &student;
	r.teacher = kd.teacher && !kd.cache.n ? &teacher : NULL;
	int rc = layout_print(stdout, &c, &r, !strcmp(com.dry_run, "json"));
	arch_free(&student);
	arch_free(&teacher);
	return rc;
}

int main(int argc, char **argv)
{
	struct err e = { 0 };
	struct run r = { 0 };
	struct objective loss;
	struct rundir dir;
	enum run_state state;
	int64_t width = 0; /* of cached hidden states */
	int rc = EXIT_DONE;
	if (opt_parse(&kd_usage, argc, argv))
		opt_die("unexpected operand '%s'", argv[0]);
	if (comm_open(&r.world, &e))
		die_err(&e);
	log_start();
	stop_requested(); /* from here on a signal means: leave something to resume, exit 75 */
	if (kd.world)
		return plan_world();
	if (kd.cache_out)
		return make_cache(&r);
	kd_validate(&loss, &r.max_seconds);
	split_processes(&r);
	struct ptable *teacher = kd.teacher ? open_model(kd.teacher, r.teacher) : NULL;
	struct ptable *student = open_model(kd.student, r.student);
	struct vocab_of of_teacher = { kd.teacher, teacher ? teacher->arch.vocab : 0 };
	if (vocab_agree(of_teacher, (struct vocab_of){ kd.student, student->arch.vocab }, &r.vocab, &e))
		die_err(&e);
	open_data(&r, r.vocab);
	plan_rate(&r);
	if (kd.cache.n) {
		use_cache(&r, &loss);
		width = r.mix.d[0].cache.head.width;
	}
	if (kd.cache.n && !width) {
		ptable_free(teacher);
		teacher = NULL;
	}
	struct trainer_spec spec = { .loss = loss, .choice = { kd.train, kd.freeze, kd.lora.targets != NULL }, .lora = kd.lora,
				     .cached = kd.cache.n && !width ? loss.best : 0, .cached_width = width, .recompute = kd.recompute,
				     .apart = r.mix.eos >= 0, .doc_end = r.mix.eos, .vocab = r.vocab,
				     .seq = r.mix.seq, .batch = kd.batch, .dtype = dtype_parse(com.dtype),
				     .clip = kd.clip, .beta1 = kd.beta1, .beta2 = kd.beta2,
				     .eps = kd.eps, .weight_decay = kd.decay, .no_decay = kd.no_decay,
				     .low_moments = strcmp(kd.moments, "f32") != 0, .nearest = !strcmp(kd.moments, "bf16-nearest"),
				     .seed = (uint64_t)com.seed, .ema = kd.ema, .world = &r.world, .dp = &r.dp,
				     .tp = kd.tp > 1 ? &r.tp : NULL, .node = &r.node, .zero = (int)kd.zero, .pairs = kd.deterministic, .offload = !strcmp(kd.optimizer_place, "host"),
				     .place = (enum teacher_place)kd.place, .correct = kd.correct_teacher > 0, .graph = kd.graph,
				     .teacher_e4m3 = !strcmp(kd.teacher_dtype, "fp8") };
	if (kd.hidden) {
		spec.hidden.dynamic = !strcmp(kd.alpha, "dynamic");
		spec.hidden.heads = kd.relation_heads;
		spec.hidden.per_pair = !strcmp(kd.projection, "pair");
		if (hidden_parse(&spec.hidden, kd.hidden, student->arch.layers, teacher->arch.layers, &e))
			die_err(&e);
	}
	spec.micro = kd.micro ? kd.micro : auto_micro(kd.batch / r.dp.size, r.mix.seq);
	if (kd.batch % (spec.micro * r.dp.size))
		opt_die("%d processes cannot share a --batch of %lld in --micro %lld alike", r.dp.size, (long long)kd.batch,
			(long long)spec.micro);
	if (spec.pairs && (r.dp.size & (r.dp.size - 1)))
		opt_die("--deterministic adds up in pairs: 1, 2, 4, 8 ... processes, not %d", r.dp.size);
	if (trainer_plan(&r.t, student, teacher, &spec, &e))
		die_err(&e);
	r.correct.rate = r.rate;
	r.correct.rate.peak = kd.correct_teacher;
	r.correct.rate.min = kd.min_lr < kd.correct_teacher ? kd.min_lr : kd.correct_teacher;
	if (kd.correct_teacher > 0 && correct_plan(&r.correct, &r.t, r.t.teacher, &e))
		die_err(&e);
	settle(&r, &loss);
	if (kd.explain || com.dry_run) {
		if (kd.explain)
			prog_explain(r.t.train.p, stdout);
		else
			dry_run(&r);
	} else {
		open_run(&dir, &r, &state);
		if (state == RUN_DONE && kd.export)
			die(EXIT_FAIL, "%s: is done, the model of step %lld is gone", com.out, (long long)kd.stop_at);
		if (state == RUN_DONE)
			log_info("%s: already done (--force trains again)", com.out);
		else
			rc = train(&r, &dir);
		rundir_close(&dir);
	}
	comm_close(&r.world);
	trainer_free(&r.t);
	trainer_free(&r.correct.t);
	mix_free(&r.mix);
	free(r.settings);
	return rc;
}
