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
#include "../common/base/opt.h"
#include "../common/io/artifact.h"
#include "../common/train/session.h"
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
	const char *teacher, *student, *data, *valid, *loss, *tail, *weigh, *hidden, *alpha, *projection, *cache, *cache_out, *cache_dtype, *schedule, *max_time, *save_dtype, *export;
	double tau, beta, lr, min_lr, clip, decay, beta1, beta2, eps, wsd;
	int64_t best, cache_part, steps, tokens, seq, micro, batch, warmup, save_every, keep, log_every, valid_every, valid_samples, stop_after, stop_at;
	bool recompute, explain;
} o = { .schedule = "cosine", .save_dtype = "stored", .tail = "ghost", .weigh = "none", .alpha = "dynamic", .projection = "shared", .cache_dtype = "f16", .tau = 1, .beta = 0.5, .lr = 1e-4,
	.min_lr = 1e-5, .clip = 1,
	.decay = 0.1, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .wsd = 0.2, .batch = 8, .warmup = -1, .save_every = 100,
	.keep = 2, .log_every = 1 };

static const struct opt opts[] = {
	OPT_STR(0, "teacher", &o.teacher, "DIR", "model to learn from; without it, conventional training on --loss ce"),
	OPT_STR(0, "cache-teacher", &o.cache_out, "PATH", "write what --teacher says about --data (the best tokens, --top-k of them, 64 by default) and leave; goes on where it was stopped"),
	OPT_STR(0, "teacher-cache", &o.cache, "PATH", "train from that, without the teacher's weights; with --teacher as well, only compares the two"),
	OPT_CHOICE(0, "cache-dtype", &o.cache_dtype, "f16|f32", "of the log-probabilities that --cache-teacher writes"),
	OPT_I64(0, "cache-part", &o.cache_part, "N", "sequences of a part of the cache, 0 for about 64 MiB", 0, 1 << 24),
	OPT_STR(0, "student", &o.student, "DIR", "model to train"),
	OPT_STR(0, "data", &o.data, "TOKENS", "token set to train on"),
	OPT_STR(0, "valid", &o.valid, "TOKENS", "held-out token set, measured before, during and after"),
	OPT_OUT_ROW("directory of the run"),
	OPT_STR(0, "loss", &o.loss, "NAME:W,...", "terms and weights, kl:1 by default (ce:1 without teacher): kl, rkl, jsd, tvd, mse, cos, ce; kl, rkl, jsd and tvd enter the loss times temperature^2 and are reported without it"),
	OPT_F64(0, "temperature", &o.tau, "T", "divides the logits of teacher and student in kl, rkl, jsd and tvd", 1e-3, 1e3),
	OPT_F64(0, "jsd-beta", &o.beta, "B", "share of the teacher in the mixture m of jsd = B KL(teacher, m) + (1-B) KL(student, m)", 1e-3, 0.999),
	OPT_I64(0, "top-k", &o.best, "K", "kl against the K best tokens of the teacher, 0 for all", 0, 1 << 24),
	OPT_CHOICE(0, "tail", &o.tail, TAIL_WORDS, "with the best tokens alone: renorm both models over them, zero for the teacher's others, or one ghost token for the others of each"),
	OPT_CHOICE(0, "weigh", &o.weigh, "none|wsl", "wsl (weighted soft labels) weights a position's teacher terms by 1 - exp(-CE(student)/CE(teacher))"),
	OPT_STR(0, "hidden-loss", &o.hidden, "TERM;...", "losses between hidden states, TERM = cosine|mse[:W]@PAIR,..., PAIR = [SITE.]STUDENT:TEACHER, [SITE.]uniform or emb; blocks are numbers, last or last-N, SITE is norm (the default: after the block, normalised), in, out or mlp"),
	OPT_CHOICE(0, "hidden-alpha", &o.alpha, "dynamic|fixed", "factor of the hidden losses: what makes them as large as the teacher's terms on the logits, or 1"),
	OPT_CHOICE(0, "projection", &o.projection, "shared|pair", "where widths differ, one learned matrix from student to teacher for all pairs or one each"),
	OPT_I64(0, "steps", &o.steps, "N", "optimizer steps, 0 for one pass over the data", 0, 1e12),
	OPT_I64(0, "tokens", &o.tokens, "N", "tokens to train on, instead of --steps", 0, 1e15),
	OPT_I64(0, "seq", &o.seq, "T", "tokens per sequence, 0 for the token set's", 0, 1 << 24),
	OPT_I64(0, "batch", &o.batch, "N", "sequences per step", 1, 1 << 24),
	OPT_I64(0, "micro", &o.micro, "N", "sequences at a time, 0 for what makes about 2048 tokens", 0, 1 << 24),
	OPT_F64(0, "lr", &o.lr, "X", "peak learning rate", 0, 1e3),
	OPT_F64(0, "min-lr", &o.min_lr, "X", "learning rate of the last step", 0, 1e3),
	OPT_I64(0, "warmup", &o.warmup, "N", "steps of linear warm-up, -1 for the lesser of 40 and a tenth", -1, 1e12),
	OPT_CHOICE(0, "schedule", &o.schedule, SCHEDULE_WORDS, "how the rate falls after warm-up"),
	OPT_F64(0, "wsd-decay", &o.wsd, "F", "share of the steps in the final slope of wsd", 0, 1),
	OPT_F64(0, "clip", &o.clip, "X", "limit of the gradient's norm, 0 for none", 0, 1e9),
	OPT_F64(0, "weight-decay", &o.decay, "X", "of matrices", 0, 1e3),
	OPT_F64(0, "beta1", &o.beta1, "X", "AdamW, first moment", 0, 0.999999),
	OPT_F64(0, "beta2", &o.beta2, "X", "AdamW, second moment", 0, 0.999999),
	OPT_F64(0, "eps", &o.eps, "X", "AdamW, added to the denominator", 1e-30, 1),
	OPT_I64(0, "save-every", &o.save_every, "N", "steps between checkpoints, 0 for only when stopped", 0, 1e12),
	OPT_I64(0, "keep", &o.keep, "K", "checkpoints to keep", 1, 1e6),
	OPT_STR(0, "max-time", &o.max_time, "3h", "stop in time with a checkpoint and exit code 75 (90s, 15m, 1h30m)"),
	OPT_I64(0, "stop-after", &o.stop_after, "N", "likewise after N steps of this session, 0 for never", 0, 1e12),
	OPT_I64(0, "stop-at", &o.stop_at, "N", "end with a checkpoint and exit code 0 after step N of --steps; without it the run goes on later", 0, 1e12),
	OPT_STR(0, "export", &o.export, "DIR", "with --stop-at: write the model so far, a Hugging Face directory"),
	OPT_I64(0, "log-every", &o.log_every, "N", "steps between lines of metrics.jsonl", 1, 1e9),
	OPT_I64(0, "valid-every", &o.valid_every, "N", "steps between validations, 0 for only first and last", 0, 1e12),
	OPT_I64(0, "valid-samples", &o.valid_samples, "N", "sequences of --valid to use, 0 for all", 0, 1e12),
	OPT_CHOICE(0, "save-dtype", &o.save_dtype, "stored|bf16|f16|f32", "of the result; stored is the student's own"),
	OPT_FLAG(0, "recompute", &o.recompute, "less memory: run each block again in the backward pass"),
	OPT_FLAG(0, "explain", &o.explain, "print the training program and exit"),
	OPT_DEVICE_ROWS, OPT_SEED_ROW, OPT_COMMON_ROWS, OPT_END
};
static const struct usage use = {
	"kd-train", "Trains a student on a token set to follow its teacher; resumes after any kill.",
	"--teacher DIR --student DIR --data TOKENS -o RUNDIR",
	"kd-train --teacher teacher --student student --data train.tok --steps 500 -o student-kd\n"
	"kd-train --student student --data train.tok --loss ce --valid valid.tok -o student-ce\n"
	"kd-train --teacher teacher --data train.tok --cache-teacher train.cache\n"
	"kd-train --teacher-cache train.cache --student student --data train.tok -o student-kd", opts
};

struct run {
	struct trainer t;
	struct batches data, valid;
	struct tcache cache;
	struct schedule rate;
	char teacher[33], student[33];         /* fingerprints */
	char *settings;
	double max_seconds;
};

static const char *save_dtype(const struct arch *a)
{
	static const char *const word[] = { "bf16", "bfloat16", "f16", "float16", "f32", "float32" };
	for (int i = 0; i < 6; i += 2)
		if (!strcmp(o.save_dtype, word[i]))
			return word[i + 1];
	return *a->dtype ? a->dtype : "bfloat16";
}

/* Everything that can be refused from the command line alone. */
static void validate(struct objective *loss, double *max_seconds)
{
	struct err e = { 0 };
	bool taught = o.teacher || o.cache;
	if (!o.student || !o.data)
		opt_die("%s is missing", o.student ? "--data" : "--student");
	if (!com.out && !com.dry_run && !o.explain)
		opt_die("--out is missing: the directory of the run");
	if (!o.loss)
		o.loss = taught ? "kl:1" : "ce:1";
	if (objective_parse(loss, o.loss, o.tau, &e))
		opt_die("%s", e.msg);
	loss->beta = o.beta;
	loss->best = o.best;
	loss->tail = tail_find(o.tail);
	loss->wsl = !strcmp(o.weigh, "wsl");
	if (objective_check(loss, &e))
		opt_die("%s", e.msg);
	if (o.cache && (o.hidden || loss->wsl))
		opt_die("--teacher-cache holds the teacher's best tokens: not enough for %s", o.hidden ? "--hidden-loss" : "--weigh wsl");
	if (!taught && objective_needs_teacher(loss))
		opt_die("--loss %s needs --teacher or --teacher-cache; conventional training is --loss ce", o.loss);
	if (o.hidden && !o.teacher)
		opt_die("--hidden-loss needs --teacher");
	if (o.hidden && !strcmp(o.alpha, "dynamic") && !objective_needs_teacher(loss))
		opt_die("--hidden-alpha dynamic compares with the teacher's terms, and --loss %s has none: say fixed", o.loss);
	if (o.steps && o.tokens)
		opt_die("--steps and --tokens exclude each other");
	if (o.micro && o.batch % o.micro)
		opt_die("--batch %lld is not a multiple of --micro %lld", (long long)o.batch, (long long)o.micro);
	if (o.min_lr > o.lr)
		opt_die("--min-lr %g is above --lr %g", o.min_lr, o.lr);
	if (o.export && !o.stop_at)
		opt_die("--export needs --stop-at: the step whose model is meant");
	if (o.max_time && parse_duration(o.max_time, max_seconds))
		opt_die("--max-time '%s' is not a time such as 90s, 15m, 3h or 1h30m", o.max_time);
}

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

/* Ids mean nothing under another tokenizer; a re-serialised one has another digest, so this is only a warning. */
static void compare_tokenizer(const char *dir, const char *path, const struct batches *b)
{
	char *file = xasprintf("%s/tokenizer.json", dir), digest[33];
	if (!access(file, R_OK) && !digest_file(file, digest, NULL) && strcmp(digest, b->tokenizer))
		log_warn("%s was made with another tokenizer.json than that of %s", path, dir);
	free(file);
}

static void open_data(struct run *r, int64_t vocab)
{
	struct err e = { 0 };
	if (batches_open(&r->data, o.data, o.seq, vocab, (uint64_t)com.seed, &e))
		die_err(&e);
	compare_tokenizer(o.student ? o.student : o.teacher, o.data, &r->data);
	if (r->data.left_out)
		log_verbose("%s: %lld tokens at the ends of samples are left out", o.data, (long long)r->data.left_out);
	if (o.valid && batches_open(&r->valid, o.valid, r->data.seq, vocab, 0, &e))
		die_err(&e);
}

/* The cached teacher in place of the teacher's own logits */
static void open_cache(struct run *r, int64_t vocab, struct objective *loss)
{
	struct err e = { 0 };
	if (tcache_open(&r->cache, o.cache, &r->data, vocab, &e))
		die_err(&e);
	const struct tcache_head *h = &r->cache.head;
	if (o.teacher && strcmp(h->teacher, r->teacher))
		die(EXIT_DATA, "%s: made by teacher %.8s, but %s is %.8s", o.cache, h->teacher, o.teacher, r->teacher);
	if (o.best && o.best != h->best)
		die(EXIT_DATA, "%s: holds the best %lld tokens, not --top-k %lld", o.cache, (long long)h->best, (long long)o.best);
	if (o.tau != 1 && loss->tail == TAIL_GHOST && h->best < h->vocab)
		die(EXIT_USAGE, "%s: what lies outside of the best tokens is known at temperature 1 only: --tail renorm or zero", o.cache);
	memcpy(r->teacher, h->teacher, sizeof r->teacher);
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
	int64_t step = o.batch * r->data.seq, n = o.steps;
	if (!n)
		n = o.tokens ? (o.tokens + step - 1) / step : (r->data.n + o.batch - 1) / o.batch;
	int64_t warmup = o.warmup >= 0 ? o.warmup : n / 10 < 40 ? n / 10 : 40;
	if (warmup > n)
		opt_die("--warmup %lld is longer than the run of %lld steps", (long long)warmup, (long long)n);
	if (o.stop_at > n || (o.export && o.stop_at == n))
		opt_die("--stop-at %lld: the run has %lld steps, and its last model is in RUNDIR/student", (long long)o.stop_at, (long long)n);
	r->rate = (struct schedule){ .kind = schedule_kind(o.schedule), .steps = n, .warmup = warmup,
				     .decay = (int64_t)(o.wsd * (double)n), .peak = o.lr, .min = o.min_lr };
}

/* What shapes the result; a run is only continued with the same. */
static void settle(struct run *r, const struct objective *loss)
{
	const struct setting v[] = {
		{ "teacher", *r->teacher ? r->teacher : "none", 0 }, { "cache", r->cache.dir ? r->cache.head.dtype : "none", 0 }, { "student", r->student, 0 }, { "data", r->data.digest, 0 },
#define LOSS(id, word, teacher, tau2, key, doc) { word, NULL, loss->weight[LOSS_##id] },
#include "../common/train/losses.def"
#undef LOSS
		{ "temperature", NULL, o.tau }, { "jsd-beta", NULL, o.beta }, { "top-k", NULL, (double)loss->best },
		{ "tail", o.tail, 0 }, { "weigh", o.weigh, 0 }, { "hidden-loss", o.hidden ? o.hidden : "none", 0 },
		{ "hidden-alpha", o.alpha, 0 }, { "projection", o.projection, 0 }, { "steps", NULL, (double)r->rate.steps },
		{ "seq", NULL, (double)r->data.seq }, { "batch", NULL, (double)o.batch }, { "lr", NULL, o.lr },
		{ "min-lr", NULL, o.min_lr }, { "warmup", NULL, (double)r->rate.warmup }, { "schedule", o.schedule, 0 },
		{ "wsd-decay", NULL, o.wsd }, { "clip", NULL, o.clip }, { "weight-decay", NULL, o.decay },
		{ "beta1", NULL, o.beta1 }, { "beta2", NULL, o.beta2 }, { "eps", NULL, o.eps },
		{ "seed", NULL, (double)com.seed }, { "dtype", com.dtype, 0 },
		{ "save-dtype", save_dtype(&r->t.student->arch), 0 },
	};
	r->settings = settings_new(v, sizeof v / sizeof *v);
}

static void dry_run(const struct run *r)
{
	struct mem_row row[MEM_ROWS];
	char a[32], b[32], c[32];
	int n = trainer_memory(&r->t, row);
	double sum = 0, per = trainer_token_flops(&r->t), tok = (double)(r->rate.steps * o.batch * r->data.seq);
	bool json = !strcmp(com.dry_run, "json");
	printf(json ? "{\"steps\":%lld,\"batch\":%lld,\"micro\":%lld,\"seq\":%lld,\"memory\":{" :
		      "%lld steps of %lld sequences (%lld at a time) of %lld tokens\n",
	       (long long)r->rate.steps, (long long)o.batch, (long long)r->t.o.micro, (long long)r->data.seq);
	for (int i = 0; i < n; i++) {
		sum += row[i].bytes;
		if (json)
			printf("\"%s\":%.0f,", row[i].word, row[i].bytes);
		else
			printf("%-22s %s\n", row[i].word, fmt_bytes(a, row[i].bytes));
	}
	if (json)
		printf("\"sum\":%.0f},\"flops_per_token\":%.9g,\"tokens\":%.0f,\"flops\":%.9g}\n", sum, per, tok, per * tok);
	else
		printf("%-22s %s, and what the backend packs and buffers\n%-22s %s FLOP a token, %s in all for %.0f tokens\n",
		       "sum", fmt_bytes(a, sum), "compute", fmt_count(b, per), fmt_count(c, per * tok), tok);
}

static void load_weights(struct run *r, const struct engine *g)
{
	struct err e = { 0 };
	struct trainer *t = &r->t;
	if (trainer_alloc(t, g, &e) || params_load(t->student, o.student, t->w, DT_F32, 0, t->student->arch.layers, &e) ||
	    (t->teacher && params_load(t->teacher, o.teacher, t->tw, t->o.dtype, 0, t->teacher->arch.layers, &e)))
		die_err(&e);
	if (t->n_proj) {
		int64_t *kept = hidden_kept_new(o.student, r->teacher, t->student->arch.hidden, t->teacher->arch.hidden);
		log_verbose("projections start %s", kept ? "from the channels that trimming kept" : "at random");
		trainer_projections(t, kept, (uint64_t)com.seed);
		free(kept);
	}
	trainer_sync(t);
}

static void write_student(const struct run *r, const struct session *s, const char *out)
{
	struct err e = { 0 };
	char *from = xstrdup(o.student), *notes, flops[32], loss[48] = "";
	if (s->at.step == r->rate.steps)
		snprintf(loss, sizeof loss, " Loss of the last step %.4f.", s->last.loss);
	notes = xasprintf("%s for %lld steps of %lld sequences of %lld tokens (%s training FLOPs%s).%s",
			  o.teacher || o.cache ? "Distilled" : "Trained", (long long)s->at.step, (long long)o.batch,
			  (long long)r->data.seq, fmt_count(flops, (double)s->at.tokens * trainer_token_flops(&r->t)),
			  r->t.teacher ? ", the teacher's forward pass included" : "", loss);
	struct model_card card = { .title = o.teacher || o.cache ? "Distilled student" : "Trained model", .origin = basename(from),
				   .commands = opt_record_line(), .notes = notes };
	if (params_save(r->t.student, r->t.w, out, o.student, save_dtype(&r->t.student->arch), &card, true, &e))
		die_err(&e);
	free(from);
	free(notes);
}

/* The run is over, or has reached --stop-at (EXIT_DONE too), or was stopped before (EXIT_AGAIN). */
static int finish(struct run *r, const struct session *s, struct rundir *dir, int rc)
{
	struct err e = { 0 };
	if (rc == EXIT_AGAIN && o.stop_at && s->at.step >= o.stop_at) {
		if (o.export && s->at.step > o.stop_at)
			die(EXIT_FAIL, "%s: is at step %lld, the model of step %lld is gone", com.out, (long long)s->at.step,
			    (long long)o.stop_at);
		if (o.export)
			write_student(r, s, o.export);
		log_summary("step %lld of %lld reached", (long long)s->at.step, (long long)r->rate.steps);
		return EXIT_DONE;
	}
	if (rc == EXIT_AGAIN) {
		log_summary("stopped at step %lld of %lld, the same command goes on", (long long)s->at.step,
			    (long long)r->rate.steps);
		return rc;
	}
	char *out = xasprintf("%s/student", com.out);
	write_student(r, s, out);
	free(out);
	if (rundir_mark(dir, r->settings, true, &e))
		die_err(&e);
	log_summary("%lld steps, %lld tokens, %lld skipped, last loss %.4f", (long long)s->at.step, (long long)s->at.tokens,
		    (long long)r->t.skipped, s->last.loss);
	return EXIT_DONE;
}

static int train(struct run *r, struct rundir *dir)
{
	struct err e = { 0 };
	struct engine g;
	if (engine_open(&g, com.device, (int)com.threads, &e))
		die_err(&e);
	load_weights(r, &g);
	struct session s = { .t = &r->t, .data = &r->data, .valid = o.valid ? &r->valid : NULL, .dir = dir, .rate = r->rate,
			     .settings = r->settings, .seed = com.seed, .log_every = o.log_every, .save_every = o.save_every,
			     .keep = o.keep, .valid_every = o.valid_every, .stop_after = o.stop_after,
.stop_at = o.stop_at, .cache = r->cache.dir ? &r->cache : NULL, .max_seconds = r->max_seconds };
	s.valid_windows = o.valid_samples && o.valid_samples < r->valid.n ? o.valid_samples : r->valid.n;
	int rc = session_run(&s, &e);
	if (rc < 0)
		die_err(&e);
	rc = finish(r, &s, dir, rc);
	struct mem_row row[MEM_ROWS];
	char buf[32];
	for (int i = 0, n = trainer_memory(&r->t, row); i < n; i++)
		log_verbose("memory: %s %s", row[i].word, fmt_bytes(buf, row[i].bytes));
	trainer_free(&r->t);
	engine_close(&g);
	return rc;
}

static void open_run(struct rundir *dir, const struct run *r, enum run_state *state)
{
	struct err e = { 0 };
	if (rundir_open(dir, com.out, &e))
		die_err(&e);
	if (com.force && rundir_clear(dir, &e))
		die_err(&e);
	if (rundir_state(dir, r->settings, state, &e))
		die_err(&e);
	if (*state == RUN_FRESH && rundir_mark(dir, r->settings, false, &e))
		die_err(&e);
}

/* --cache-teacher: no training */
static int make_cache(struct run *r)
{
	struct err e = { 0 };
	struct engine g;
	struct weights w;
	if (!o.teacher || !o.data)
		opt_die("--cache-teacher needs %s", o.teacher ? "--data" : "--teacher");
	if (o.student || o.cache || com.out)
		opt_die("--cache-teacher only writes the cache: no --student, --teacher-cache or --out");
	struct ptable *t = open_model(o.teacher, r->teacher);
	struct tcache_job j = { .dir = o.cache_out, .data = &r->data, .teacher = &w, .force = com.force };
	open_data(r, t->arch.vocab);
	memcpy(j.head.teacher, r->teacher, sizeof j.head.teacher);
	snprintf(j.head.dtype, sizeof j.head.dtype, "%s", o.cache_dtype);
	j.head.best = o.best ? o.best : 64;
	j.head.per_part = o.cache_part;
	j.micro = o.micro ? o.micro : auto_micro(o.batch, r->data.seq);
	if (com.dry_run) {
		printf("%lld windows of %lld tokens, at most %lld best tokens of each\n", (long long)r->data.n,
		       (long long)r->data.seq, (long long)j.head.best);
		return EXIT_DONE;
	}
	if (engine_open(&g, com.device, (int)com.threads, &e) || weights_load(&w, &g, o.teacher, dtype_parse(com.dtype), &e))
		die_err(&e);
	int rc = tcache_make(&j, &g, &e);
	if (rc < 0)
		die_err(&e);
	log_summary("%lld sequences cached, %lld were there%s", (long long)j.made, (long long)j.found,
		    rc ? "; stopped, the same command goes on" : "");
	weights_free(&w);
	engine_close(&g);
	ptable_free(t);
	batches_free(&r->data);
	return rc;
}

int main(int argc, char **argv)
{
	struct err e = { 0 };
	struct run r = { 0 };
	struct objective loss;
	struct rundir dir;
	enum run_state state;
	int rc = EXIT_DONE;
	if (opt_parse(&use, argc, argv))
		opt_die("unexpected operand '%s'", argv[0]);
	log_start();
	stop_requested(); /* from here on a signal means: leave something to resume, exit 75 */
	if (o.cache_out)
		return make_cache(&r);
	validate(&loss, &r.max_seconds);
	struct ptable *teacher = o.teacher ? open_model(o.teacher, r.teacher) : NULL;
	struct ptable *student = open_model(o.student, r.student);
	open_data(&r, student->arch.vocab);
	plan_rate(&r);
	if (o.cache) {
		open_cache(&r, student->arch.vocab, &loss);
		ptable_free(teacher);
		teacher = NULL;
	}
	struct trainer_spec spec = { .loss = loss, .seq = r.data.seq, .batch = o.batch, .dtype = dtype_parse(com.dtype),
				     .cached = loss.best && o.cache ? loss.best : 0, .recompute = o.recompute, .clip = o.clip, .beta1 = o.beta1, .beta2 = o.beta2,
				     .eps = o.eps, .weight_decay = o.decay };
	if (o.hidden) {
		spec.hidden.dynamic = !strcmp(o.alpha, "dynamic");
		spec.hidden.per_pair = !strcmp(o.projection, "pair");
		if (hidden_parse(&spec.hidden, o.hidden, student->arch.layers, teacher->arch.layers, &e))
			die_err(&e);
	}
	spec.micro = o.micro ? o.micro : auto_micro(o.batch, r.data.seq);
	if (trainer_plan(&r.t, student, teacher, &spec, &e))
		die_err(&e);
	settle(&r, &loss);
	if (o.explain || com.dry_run) {
		if (o.explain)
			prog_explain(r.t.train.p, stdout);
		else
			dry_run(&r);
	} else {
		open_run(&dir, &r, &state);
		if (state == RUN_DONE && o.export)
			die(EXIT_FAIL, "%s: is done, the model of step %lld is gone", com.out, (long long)o.stop_at);
		if (state == RUN_DONE)
			log_info("%s: already done (--force trains again)", com.out);
		else
			rc = train(&r, &dir);
		rundir_close(&dir);
	}
	trainer_free(&r.t);
	if (r.cache.dir)
		tcache_close(&r.cache);
	batches_free(&r.data);
	batches_free(&r.valid);
	free(r.settings);
	return rc;
}
