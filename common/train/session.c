/*
 * session.c - the loop around trainer_step
 *
 * Order within a step: data, step, validation when due, the metrics line, the checkpoint when due.  Resuming after any
 * kill therefore finds a checkpoint whose metrics lines are all there, and drops the later ones.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "session.h"
#include "../base/log.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct measured {              /* held-out losses: of each set, of all their labels */
	struct step_result set[MIX_MAX], all;
};
struct batch {                 /* of one step; owned */
	int32_t *ids, *labels;
	int32_t *best;                 /* and the cached teacher's tokens, [batch*seq, K] */
	float *logp;                   /* [batch*seq, K+1] */
	uint16_t *hidden;              /* or its hidden states [batch*seq, width] */
};
struct loop {
	struct session *s;
	struct batch b, next;          /* next: read ahead while a GPU works, where a batch is a function of its position alone */
	int64_t ahead;                 /* position of next, -1: nothing is there */
	double began, before;          /* clock at the start; seconds of earlier sessions */
	double slowest;                /* seconds of the longest step */
	int64_t first, saved;          /* step at the start; step of the newest checkpoint */
	struct measured valid;
};

/* ---- the metrics line ---- */

struct line {
	char *text;            /* owned */
	size_t n, cap;
};

static void PRINTF_LIKE(2, 3) put(struct line *l, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	if (l->cap - l->n < 256) { /* one item is a key of less than 100 characters and a number */
		l->cap += 1024;
		l->text = xrealloc(l->text, l->cap, 1);
	}
	int k = vsnprintf(l->text + l->n, l->cap - l->n, fmt, ap);
	va_end(ap);
	if (k < 0 || (size_t)k >= l->cap - l->n)
		BUG("item of a metrics line too long");
	l->n += (size_t)k;
}

static void put_real(struct line *l, const char *key, double v)
{
	if (isfinite(v))
		put(l, ",\"%s\":%.9g", key, v);
	else
		put(l, ",\"%s\":null", key);
}

/* Held-out text has no cached teacher: only what needs none is reported of it. */
static void put_losses(struct line *l, const struct session *s, const char *prefix, const struct step_result *r)
{
	bool alone = s->mix->d[0].cache.dir && *prefix;
	for (int k = 0; k < LOSS_KINDS; k++) {
		char key[96];
		bool asked = s->t->o.loss.weight[k] > 0 || k == LOSS_CE || (k == LOSS_KL && s->t->teacher);
		snprintf(key, sizeof key, "%s%s", prefix, loss_key(k));
		if (asked && !(alone && loss_needs_teacher(k)))
			put_real(l, key, r->mean[k]);
	}
}

/* Held-out sets one by one where they are named, then all of them; and the weights of a mix from here on */
static void put_valid(struct line *l, const struct session *s, const struct measured *v)
{
	const struct mix *m = s->mix;
	char prefix[64], key[80];
	for (int i = 0; i <= m->n_valid; i++) {
		bool all = i == m->n_valid;
		const struct step_result *r = all ? &v->all : &v->set[i];
		if (!all && !*m->v[i].name)
			continue;
		snprintf(prefix, sizeof prefix, all ? "valid/" : "valid/%s/", all ? "" : m->v[i].name);
		snprintf(key, sizeof key, "%sloss", prefix);
		if (!m->d[0].cache.dir)
			put_real(l, key, r->loss);
		put_losses(l, s, prefix, r);
	}
	put_real(l, "valid/ppl", exp(v->all.mean[LOSS_CE]));
	for (int i = 0; i < m->n && m->dynamic; i++) {
		snprintf(key, sizeof key, "mix/%s", m->d[i].name);
		put_real(l, key, m->w[i]);
	}
}

static int log_line(struct loop *o, double lr, double step_seconds, const struct measured *valid, struct err *e)
{
	struct session *s = o->s;
	const struct step_result *r = &s->last;
	struct line l = { .n = 0 };
	put(&l, "{\"step\":%lld,\"tokens\":%lld", (long long)s->at.step, (long long)s->at.tokens);
	struct token_flops per = account_flops(s->t);
	put_real(&l, "flops", (double)s->at.tokens * (per.teacher + per.student));
	if (per.teacher > 0)
		put_real(&l, "teacher_flops", (double)s->at.tokens * per.teacher);
	if (s->at.step) {
		put_real(&l, "lr", lr);
		put_real(&l, "loss", r->loss);
		put_losses(&l, s, "", r);
		if (s->t->o.hidden.n) {
			put_real(&l, "kd/hidden", r->hidden);
			put_real(&l, "kd/alpha", r->alpha);
		}
		put_real(&l, "grad_norm", r->grad_norm);
		if (s->teacher) {
			put_real(&l, "teacher/lr", schedule_lr(&s->teacher->rate, s->at.step));
			put_real(&l, "teacher/lm/ce", s->teacher->last.loss);
			put_real(&l, "teacher/grad_norm", s->teacher->last.grad_norm);
		}
		put(&l, ",\"skipped\":%lld", (long long)s->t->skipped);
		double rate = (double)(s->t->o.batch * s->t->o.seq) / (step_seconds > 0 ? step_seconds : 1e-9);
		put_real(&l, "tok_per_s", rate);
		put_real(&l, "flop_per_s", rate * (per.teacher + per.student));
		if (s->peak > 0)
			put_real(&l, "peak_share", rate * (per.teacher + per.student) / s->peak);
	}
	for (int i = 0; i < s->mix->n && s->mix->n > 1; i++)
		put(&l, ",\"data/%s\":%lld", s->mix->d[i].name, (long long)s->mix->taken[i]);
	if (valid)
		put_valid(&l, s, valid);
	put(&l, ",\"seconds\":%.3f}\n", o->before + now_seconds() - o->began);
	log_event("step", "%.*s", (int)l.n - 3, l.text + 1);
	int rc = rundir_line(s->dir, l.text, l.n, e);
	free(l.text);
	return rc;
}

/* ---- one step ---- */

static int save(struct loop *o, struct err *e)
{
	struct session *s = o->s;
	if ((s->dir->follows && !trainer_in_parts(s->t)) || o->saved == s->at.step || s->at.step == 0) /* step 0 is the student itself */
		return 0;
	if (rundir_sync(s->dir, e) || checkpoint_save(s->dir, s->t, &s->at, s->settings, s->keep, e))
		return -1;
	o->saved = s->at.step;
	log_verbose("checkpoint at step %lld", (long long)s->at.step);
	return 0;
}

static void measure(struct loop *o)
{
	struct session *s = o->s;
	struct step_result *r = &o->valid.all;
	*r = (struct step_result){ 0 };
	for (int i = 0; i < s->mix->n_valid; i++) {
		struct held_out *v = &s->mix->v[i];
		struct step_result *q = &o->valid.set[i];
		trainer_measure(s->t, &v->data, v->windows, o->b.ids, o->b.labels, q);
		v->ce = q->mean[LOSS_CE];
		r->labels += q->labels;
		for (int k = 0; k < LOSS_KINDS; k++)
			r->mean[k] += q->mean[k] * (double)q->labels;
	}
	for (int k = 0; k < LOSS_KINDS && r->labels; k++)
		r->mean[k] /= (double)r->labels;
	r->loss = objective_total(&s->t->o.loss, r->mean);
	log_info("step %lld: held out: ce %.4f, ppl %.3f", (long long)s->at.step, r->mean[LOSS_CE], exp(r->mean[LOSS_CE]));
	if (trainer_runs_teacher(s->t))
		log_info("step %lld: held out: kl %.4f, loss %.4f", (long long)s->at.step, r->mean[LOSS_KL], r->loss);
}

/* What the cached teacher says about sequence j of the step */
static int from_cache(const struct loop *o, struct batch *b, struct domain *d, int64_t j, struct err *e)
{
	const struct trainer_spec *t = &o->s->t->o;
	int64_t w = batches_at(&d->data, o->s->mix->at[j]), seq = t->seq, K = t->cached;
	if (t->cached_width)
		return tcache_hidden(&d->cache, w, b->hidden + j * seq * t->cached_width, e);
	return tcache_get(&d->cache, w, t->loss.tau, b->best + j * seq * K, b->logp + j * seq * (K + 1), e);
}

/* The loss that was asked for; without the teacher's weights cross-entropy */
static int keep_best(struct loop *o, struct err *e)
{
	struct session *s = o->s;
	double loss = s->mix->d[0].cache.dir ? o->valid.all.mean[LOSS_CE] : o->valid.all.loss;
	if (!s->best || !isfinite(loss) || (s->at.best_step && loss >= s->at.best_loss))
		return 0;
	s->at.best_step = s->at.step;
	s->at.best_loss = loss;
	return s->best(s->best_arg, e);
}

/* Tokens of the step that begins at position k of the run, and what the cached teacher says about them */
static int read_batch(struct loop *o, struct batch *b, struct err *e)
{
	struct session *s = o->s;
	int64_t seq = s->t->o.seq;
	for (int64_t j = 0; j < s->t->o.batch; j++) {
		struct domain *d = &s->mix->d[s->mix->from[j]];
		batches_get(&d->data, s->mix->at[j], b->ids + j * seq, b->labels + j * seq);
		if (d->cache.dir && from_cache(o, b, d, j, e))
			return -1;
	}
	return 0;
}

/* The step after this one; what fails is found out again when its turn comes */
static void look_ahead(void *arg)
{
	struct loop *o = arg;
	struct session *s = o->s;
	struct err e = { 0 };
	int64_t k = (s->at.step + 1) * s->t->o.batch;
	if (s->at.step + 1 >= s->rate.steps)
		return;
	mix_draw(s->mix, k);
	o->ahead = read_batch(o, &o->next, &e) ? -1 : k;
	mix_undo(s->mix);
}

static int fetch(struct loop *o, int64_t k, struct err *e)
{
	struct session *s = o->s;
	mix_draw(s->mix, k);
	if (o->ahead == k) {
		struct batch b = o->b;
		o->b = o->next;
		o->next = b;
	} else if (read_batch(o, &o->b, e)) {
		return -1;
	}
	s->t->best_ids = o->b.best;
	s->t->best_logp = o->b.logp;
	s->t->cached_hidden = o->b.hidden;
	return 0;
}

static void batch_new(struct batch *b, const struct trainer_spec *t)
{
	size_t n = (size_t)(t->batch * t->seq);
	b->ids = xcalloc(n, sizeof *b->ids);
	b->labels = xcalloc(n, sizeof *b->labels);
	if (t->cached) {
		b->best = xcalloc(n * (size_t)t->cached, sizeof *b->best);
		b->logp = xcalloc(n * (size_t)(t->cached + 1), sizeof *b->logp);
	}
	if (t->cached_width)
		b->hidden = xcalloc(n * (size_t)t->cached_width, sizeof *b->hidden);
}

static void batch_free(struct batch *b)
{
	free(b->hidden);
	free(b->best);
	free(b->logp);
	free(b->ids);
	free(b->labels);
}

/* 0, 1: asked to stop, -1 */
static int one_step(struct loop *o, struct progress *pr, struct err *e)
{
	struct session *s = o->s;
	int64_t batch = s->t->o.batch, seq = s->t->o.seq, step = s->at.step + 1;
	double t0 = now_seconds(), lr = schedule_lr(&s->rate, step);
	char digest[33];
	if (fetch(o, (step - 1) * batch, e))
		return -1;
	struct correction *c = s->teacher;
	if ((c && trainer_gradients(&c->t, o->b.ids, o->b.labels, &c->last)) || trainer_step(s->t, o->b.ids, o->b.labels, lr, &s->last)) {
		mix_undo(s->mix);
		return 1;
	}
	if (c)
		trainer_apply(&c->t, schedule_lr(&c->rate, step), &c->last);
	double took = now_seconds() - t0;
	o->slowest = took > o->slowest ? took : o->slowest;
	s->at.step = step;
	s->at.tokens += batch * seq;
	if (s->last.skipped) {
		digest_hex(o->b.ids, (size_t)(batch * seq) * sizeof *o->b.ids, digest);
		log_warn("step %lld: loss or gradient is not finite, weights left as they are (batch %s)", (long long)step, digest);
	}
	if (c && c->last.skipped)
		log_warn("step %lld: loss or gradient of the teacher is not finite, its weights left as they are", (long long)step);
	if (s->t->skipped_row >= s->max_skips || (c && c->t.skipped_row >= s->max_skips))
		return err_set(e, EXIT_FAIL, "loss or gradient was not finite in %lld steps in a row, up to step %lld (batch %s): lower --lr, raise --warmup or use --dtype f32",
			       (long long)s->max_skips, (long long)step, s->last.skipped ? digest : "of the teacher");
	bool end = step == s->rate.steps;
	bool regular = s->valid_every && step % s->valid_every == 0;
	bool due = s->mix->n_valid && (end || step == s->stop_at || regular);
	snprintf(pr->extra, sizeof pr->extra, "loss %.4f lr %.2g", s->last.loss, lr);
	if (due)
		measure(o);
	if (due && keep_best(o, e))
		return -1;
	if (regular && s->mix->dynamic && !mix_update(s->mix))
		log_warn("step %lld: held-out loss is not finite, weights of the data left as they are", (long long)step);
	if ((end || due || step % s->log_every == 0) && log_line(o, lr, took, due ? &o->valid : NULL, e))
		return -1;
	bool save_now = comm_max(s->t->world, checkpoint_requested()) || (s->save_every && step % s->save_every == 0);
	if (save_now && !end && save(o, e))
		return -1;
	progress_step(pr, (double)(step - o->first));
	return 0;
}

/* The same answer in all processes */
static bool leave(const struct loop *o)
{
	const struct session *s = o->s;
	double spent = now_seconds() - o->began;
	bool mine = stop_requested() || (s->stop_at && s->at.step >= s->stop_at) || (s->stop_after && s->at.step - o->first >= s->stop_after) ||
	       (s->max_seconds > 0 && spent + o->slowest > s->max_seconds);
	return comm_max(s->t->world, mine);
}

static int steps(struct loop *o, struct err *e)
{
	struct session *s = o->s;
	struct progress pr;
	int rc = 0;
	progress_start(&pr, "steps", (double)(s->rate.steps - o->first), "tok", (double)(s->t->o.batch * s->t->o.seq));
	if (!s->at.step && s->mix->n_valid) {
		measure(o);
		rc = log_line(o, 0, 0, &o->valid, e);
	}
	while (!rc && s->at.step < s->rate.steps && !leave(o))
		rc = one_step(o, &pr, e);
	progress_end(&pr);
	if (rc < 0)
		return -1;
	if (s->at.step == s->rate.steps)
		return rundir_sync(s->dir, e);
	return save(o, e) ? -1 : EXIT_AGAIN;
}

int session_run(struct session *s, struct err *e)
{
	struct loop o = { .s = s, .began = now_seconds(), .ahead = -1 };
	s->at = (struct progress_state){ .seed = s->seed, .mix = s->mix, .teacher = s->teacher ? &s->teacher->t : NULL };
	if (checkpoint_load(s->dir, s->t, &s->at, s->settings, e))
		return -1;
	o.first = o.saved = s->at.step;
	if (o.first)
		log_info("goes on after step %lld of %lld", (long long)o.first, (long long)s->rate.steps);
	if (rundir_metrics(s->dir, o.first, &o.before, e))
		return -1;
	batch_new(&o.b, &s->t->o);
	if (s->mix->n == 1 && !s->t->g->k->host(s->t->grad)) {
		batch_new(&o.next, &s->t->o);
		s->t->meanwhile = look_ahead;
		s->t->meanwhile_arg = &o;
	}
	int rc = steps(&o, e);
	s->t->meanwhile = NULL;
	batch_free(&o.b);
	batch_free(&o.next);
	return rc;
}

int parse_duration(const char *s, double *seconds)
{
	static const char unit[] = "smhd";
	static const double length[] = { 1, 60, 3600, 86400 };
	double sum = 0;
	if (!isdigit((unsigned char)*s))
		return -1;
	while (*s) {
		char *end;
		if (!isdigit((unsigned char)*s))
			return -1;
		double v = strtod(s, &end);
		const char *u = *end ? strchr(unit, *end) : unit;
		if (!u || !isfinite(v))
			return -1;
		sum += v * length[u - unit];
		s = *end ? end + 1 : end;
	}
	*seconds = sum;
	return sum > 0 ? 0 : -1;
}
