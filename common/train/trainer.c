/*
 * trainer.c - programs, arenas and the step
 *
 * Order of a step: zero gradients and sums; per micro-batch upload ids and run; norm; update.  One process reads the sums back
 * when all of that is under way (trainer_once.c), several need them before the update.  The weight of a row is 1 / labels of the whole step, so cutting a step into other micro-batches changes only rounding.
 * A loss or norm that is not finite leaves weights and moments as they are and is counted.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "trainer_parts.h"
#include "../base/log.h"
#include "../base/rng.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- programs ---- */

/* A student's value in the teacher's width; *W: the projection of the pair before, *k: the number of the next */
static val projected(const struct trainer *t, struct prog *p, const struct build *b, val a, val *W, int *k)
{
	if (!t->n_proj)
		return a;
	if (!W->id || t->o.hidden.per_pair) {
		const struct param *q = &t->proj[(*k)++];
		*W = p_param_beside(p, b, q->name, q->rows, q->cols, q->off);
	}
	return p_linear(p, a, *W, NONE, NONE, DT_F32);
}

static val pair_loss(const struct trainer *t, struct pass *s, int i, val a, val ht, int slot)
{
	const struct hidden *h = &t->o.hidden;
	if (hidden_projects(h, i))
		return p_inner_loss(s->p, h->term[h->pair[i].term].opcode, a, ht, s->label, slot);
	struct relation r = hidden_relation(h, &h->pair[i], &t->student->arch, &t->teacher->arch, t->o.seq);
	return p_relation(s->p, a, ht, s->label, s->start, slot, &r);
}

/* With a dynamic alpha the values come first, alone, so that alpha is known where the gradients need it. */
static void record_hidden(const struct trainer *t, struct pass *s, const struct build *b)
{
	const struct hidden *h = &t->o.hidden;
	struct prog *p = s->p;
	val a[MAX_PAIRS], ht[MAX_PAIRS], W = NONE;
	int k = 0;
	for (int i = 0; i < h->n; i++) {
		ht[i] = hidden_value(p, &h->pair[i], true);
		a[i] = hidden_value(p, &h->pair[i], false);
		if (hidden_projects(h, i))
			a[i] = projected(t, p, b, a[i], &W, &k);
		if (h->dynamic)
			s->inner[i] = pair_loss(t, s, i, a[i], ht[i], -1);
	}
	p->mark = p->n;
	for (int i = 0; i < h->n; i++) {
		val sums = pair_loss(t, s, i, a[i], ht[i], LOSS_KINDS + h->pair[i].term);
		if (!h->dynamic)
			s->inner[i] = sums;
	}
}

void pass_begin(const struct trainer *t, struct pass *s, const struct objective *o)
{
	int64_t n = t->o.micro * t->o.seq;
	s->p = prog_new(t->o.micro, t->o.seq);
	s->p->tp = t->tp;
	s->p->vocab = t->o.vocab;
	objective_head(o, &s->p->head);
	s->tok = p_input(s->p, "tokens", n, 1, DT_I32);
	s->label = p_input(s->p, "labels", n, 1, DT_I32);
	if (t->o.apart)
		s->start = p_input(s->p, "starts", n, 1, DT_I32);
}

void pass_feed(const struct trainer *t, struct pass *s, const int32_t *ids, const int32_t *labels)
{
	int64_t n = t->o.micro * t->o.seq;
	frame_set(&s->f, s->tok, t->tp ? tp_ids(t, ids) : ids);
	frame_set(&s->f, s->label, labels);
	if (!s->start.id)
		return;
	document_starts(t->starts, ids, n, t->o.seq, t->o.doc_end);
	frame_set(&s->f, s->start, t->starts);
}

static void record_teacher(const struct trainer *t, struct pass *s, const struct probe *probe, int n, val *ht, val *Wt)
{
	struct build b = teacher_build(t, s);
	b.probe = probe;
	b.n_probe = n;
	int64_t best = t->o.loss.best, V = t->o.vocab ? t->o.vocab : t->teacher->arch.vocab;
	if (t->o.cached_width)
		*ht = s->hidden = p_input(s->p, "t.hidden", t->o.micro * t->o.seq, t->o.cached_width, DT_BF16);
	else
		*ht = p_forward(s->p, &b, s->tok, NONE);
	*Wt = p_head_weight(s->p, &b);
	if (best)
		*ht = p_topk(s->p, *ht, *Wt, s->label, best < V ? best : V, Wt);
}

static void sum_in_buckets(const struct trainer *t, struct prog *p)
{
	const struct shard *s = &t->shard;
	struct grad_bucket *b = xcalloc((size_t)s->n, sizeof *b);
	for (int i = 0; i < s->n; i++)
		b[i] = (struct grad_bucket){ s->b[i].off, s->b[i].each * s->size, s->b[i].each, s->b[i].kept };
	prog_overlap(p, b, s->n);
	free(b);
}

static int record(struct trainer *t, struct pass *s, int train, struct err *e)
{
	int64_t n = t->o.micro * t->o.seq;
	struct probe probe[2][MAX_PAIRS];
	int hidden = train && t->o.hidden.n, ns = hidden ? hidden_probes(&t->o.hidden, false, probe[0]) : 0;
	int nt = hidden ? hidden_probes(&t->o.hidden, true, probe[1]) : 0;
	val ht = NONE, Wt = NONE;
	pass_begin(t, s, &t->o.loss);
	struct prog *p = s->p;
	if (trainer_runs_teacher(t) || (t->teacher && train))
		record_teacher(t, s, probe[1], nt, &ht, &Wt);
	if (train && t->o.cached) {
		ht = s->ids = p_input(p, "best.ids", n, t->o.cached, DT_I32);
		Wt = s->logp = p_input(p, "best.logp", n, t->o.cached + 1, DT_F32);
	}
	struct build b = { .t = t->student, .dtype = t->o.dtype, .space = SP_PARAM, .prefix = "",
			   .blk1 = t->student->arch.layers, .train = train, .frozen = t->frozen,
			   .adapter = t->adapter, .n_adapter = t->n_adapter, .adapter_scale = t->adapter_scale, .probe = probe[0], .n_probe = ns,
			   .start = s->start };
	val hs = p_forward(p, &b, s->tok, NONE);
	s->sums = p_kd_head(p, hs, p_head_weight(p, &b), ht, Wt, s->label);
	if (hidden)
		record_hidden(t, s, &b);
	if (train)
		prog_grad(p, t->o.recompute);
	if (train && t->o.zero == 2)
		sum_in_buckets(t, p);
	teacher_record(t, p);
	s->split = p->mark;
	return prog_plan(p, e);
}

/* Both models, here */
static int agree(const struct trainer *t, struct err *e)
{
	if (!t->teacher)
		return 0;
	if (!t->o.vocab && t->teacher->arch.vocab != t->student->arch.vocab)
		return err_set(e, EXIT_DATA, "the teacher's vocabulary has %lld tokens, the student's %lld: distillation on logits needs the same",
			       (long long)t->taught.whole->arch.vocab, (long long)t->split.whole->arch.vocab);
	if (t->o.cached_width && t->o.cached_width != t->teacher->arch.hidden)
		return err_set(e, EXIT_DATA, "the cached hidden states have %lld channels, the teacher %lld", (long long)t->o.cached_width,
			       (long long)t->teacher->arch.hidden);
	return 0;
}

int trainer_plan(struct trainer *t, struct ptable *student, struct ptable *teacher, const struct trainer_spec *o,
		 struct err *e)
{
	*t = (struct trainer){ .o = *o, .world = o->world, .dp = o->dp ? o->dp : o->world, .tp = o->tp, .node = o->node };
	if (!t->dp || t->dp->size == 1)
		t->o.zero = 0;
	t->together = t->o.zero == 2 || o->place == TEACHER_SHARDED || t->tp;
	if (o->place == TEACHER_SHARDED && (!t->node || t->node->size == 1))
		t->o.place = TEACHER_RESIDENT;
	if (o->micro < 1 || o->batch % o->micro)
		BUG("micro-batch of %lld in a batch of %lld", (long long)o->micro, (long long)o->batch);
	t->starts = xcalloc((size_t)(o->micro * o->seq), sizeof *t->starts);
	if (tp_begin(t, student, teacher, e) || agree(t, e) || trainer_layout(t, e) || record(t, &t->train, 1, e) || record(t, &t->eval, 0, e)) {
		trainer_free(t);
		return -1;
	}
	return 0;
}

/* ---- memory ---- */

int trainer_memory(struct trainer *t, void *slot, size_t bytes, const char *what, struct err *e)
{
	char buf[32];
	void *p = t->g->k->mem_alloc(t->g->d, bytes);
	if (!p)
		return err_set(e, EXIT_RESOURCE, "no memory for %s of %s", fmt_bytes(buf, (double)bytes), what);
	memcpy(slot, &p, sizeof p);
	return 0;
}

static void attach(struct trainer *t, struct pass *s, int grads)
{
	s->f.comm = t->dp;
	s->f.base[SP_PARAM] = t->wb ? (char *)t->wb : (char *)t->w;
	s->f.base[SP_PARAM_T] = t->tw;
	if (!grads)
		return;
	s->f.base[SP_GRAD] = (char *)(t->pool ? t->pool : t->grad);
	s->f.base[SP_SHARD] = t->pool ? (char *)t->grad : NULL;
}

int trainer_alloc(struct trainer *t, const struct engine *g, struct err *e)
{
	t->g = g;
	if (states_alloc(t, e) || trainer_memory(t, &t->grad, trainer_grad_bytes(t), "gradients", e))
		return -1;
	if (trainer_memory(t, &t->now, sizeof *t->now, "the update", e))
		return -1;
	if (t->o.pairs && pairs_alloc(t, e))
		return -1;
	if (t->o.zero == 2 && trainer_memory(t, &t->pool, trainer_pool_bytes(t), "gradients under way", e))
		return -1;
	if (t->world && t->world->size > 1 && !g->k->host(t->grad) && !t->world->gpu)
		return err_set(e, EXIT_RESOURCE, "several processes add up gradients that lie on GPUs by NCCL: %s", t->world->why_no_gpu);
	if (t->o.dtype == DT_BF16 && trainer_memory(t, &t->wb, (size_t)t->elems * 2, "bf16 weights", e))
		return -1;
	if (t->corrected)
		t->tw = t->corrected->wb ? (void *)t->corrected->wb : t->corrected->w;
	else if (t->teacher && trainer_memory(t, &t->tw, trainer_teacher_bytes(t), "teacher weights", e))
		return -1;
	if (trainer_memory(t, &t->act, trainer_act_bytes(t), "activations", e) ||
	    frame_new_in(&t->train.f, g, t->train.p, t->act, e) || frame_new_in(&t->eval.f, g, t->eval.p, t->act, e))
		return -1;
	if (t->o.teacher_e4m3 && !g->k->e4m3(g->d))
		return err_set(e, EXIT_RESOURCE, "--teacher-dtype fp8: this GPU has no products of 8-bit floats (compute capability 8.9 or later has)");
	if (t->o.graph && !g->k->capture)
		return err_set(e, EXIT_RESOURCE, "--graph: the %s backend cannot replay a step", g->k->name);
	if (t->o.graph && trainer_memory(t, &t->train.f.live, sizeof t->train.p->coef, "weights of the losses", e))
		return -1;
	attach(t, &t->train, 1);
	attach(t, &t->eval, 0);
	return 0;
}

void trainer_free(struct trainer *t)
{
	const struct { void *p; size_t bytes; } own[] = {
		{ t->grad, trainer_grad_bytes(t) }, { t->pool, t->pool ? trainer_pool_bytes(t) : 0 }, { t->pair_saved, trainer_pairs_bytes(t) }, { t->wb, (size_t)t->elems * 2 },
		{ t->corrected ? NULL : t->tw, t->tw ? trainer_teacher_bytes(t) : 0 },
		{ t->act, t->act ? trainer_act_bytes(t) : 0 },
		{ t->now, sizeof *t->now }, { t->train.f.live, sizeof t->train.p->coef },
	};
	struct recorded *recorded[] = { &t->micro, &t->update };
	for (int i = 0; i < 2; i++)
		if (recorded[i]->graph)
			t->g->k->drop(t->g->d, recorded[i]->graph);
	source_close(t->source);
	states_free(t);
	for (size_t i = 0; i < sizeof own / sizeof *own; i++)
		if (own[i].p)
			t->g->k->mem_free(t->g->d, own[i].p, own[i].bytes);
	struct pass *pass[] = { &t->train, &t->eval };
	for (int i = 0; i < 2; i++) {
		frame_free(&pass[i]->f);
		prog_free(pass[i]->p);
	}
	shard_free(&t->shard);
	free(t->ticket);
	free(t->lent);
	free(t->span);
	free(t->param);
	free(t->frozen);
	free(t->starts);
	free(t->proj);
	free(t->pair_sums);
	free(t->adapter);
	free(t->own_ids);
	split_free(&t->split);
	split_free(&t->taught);
	*t = (struct trainer){ 0 };
}

/* ---- the step ---- */

void pass_weights(const struct pass *s, const struct objective *o, int64_t labels)
{
	for (int k = 0; k < LOSS_KINDS; k++)
		s->p->coef[k] = labels ? (float)(o->weight[k] / (double)labels) : 0;
}

void pass_means(const struct trainer *t, const struct pass *s, struct step_result *r)
{
	double sum[LOSS_KINDS];
	frame_get(&s->f, s->sums, sum);
	if (!t->o.pairs)
		comm_sum_f64(t->dp, sum, LOSS_KINDS);
	for (int k = 0; k < LOSS_KINDS; k++)
		r->mean[k] = r->labels ? sum[k] / (double)r->labels : 0;
	r->loss = objective_total(&t->o.loss, r->mean);
}

static double teacher_terms(const struct trainer *t, const struct pass *s)
{
	struct objective q = t->o.loss;
	double sum[LOSS_KINDS];
	frame_get(&s->f, s->sums, sum);
	for (int k = 0; k < LOSS_KINDS; k++)
		if (!loss_needs_teacher(k))
			q.weight[k] = 0;
	return objective_total(&q, sum);
}

double take_inner(const struct trainer *t, const struct pass *s, struct inner *q)
{
	const struct hidden *h = &t->o.hidden;
	double is = 0;
	for (int i = 0; i < h->n; i++) {
		double sum;
		int k = h->pair[i].term;
		frame_get(&s->f, s->inner[i], &sum);
		is += h->term[k].weight / h->term[k].pairs * (sum - q->seen[i]);
		q->seen[i] = sum;
	}
	return is;
}

static void walk_micro(struct trainer *t)
{
	prog_run(&t->train.f);
}

static void run_micro(struct trainer *t, struct pass *s, struct inner *q, int64_t labels)
{
	const struct hidden *h = &t->o.hidden;
	bool dynamic = h->dynamic && h->n;
	double alpha = 1, is = 0;
	if (dynamic) {
		prog_run_part(&s->f, 0, s->split);
		double now = teacher_terms(t, s);
		is = take_inner(t, s, q);
		alpha = is > 0 ? (now - q->logits) / is : 0;
		q->logits = now;
	}
	for (int k = 0; k < h->terms; k++)
		s->p->coef[LOSS_KINDS + k] = labels ? (float)(alpha * h->term[k].weight / h->term[k].pairs / (double)labels) : 0;
	if (s->f.live)
		t->g->k->upload(t->g->d, s->f.live, s->p->coef, sizeof s->p->coef);
	if (dynamic)
		prog_run_part(&s->f, s->split, s->p->n);
	else
		trainer_play(t, &t->micro, walk_micro);
	q->sum += is;
	q->scaled += alpha * is;
}

bool trainer_told_to_stop(const struct trainer *t)
{
	return t->together ? comm_stop_requested(t->world) : stop_requested();
}

void trainer_micro(struct trainer *t, const int32_t *ids, const int32_t *labels, int64_t i, int64_t counted, struct inner *q)
{
	struct pass *s = &t->train;
	int64_t at = i * t->o.micro * t->o.seq;
	pass_feed(t, s, ids + at, labels + at);
	if (t->o.cached) {
		frame_set(&s->f, s->ids, t->best_ids + at * t->o.cached);
		frame_set(&s->f, s->logp, t->best_logp + at * (t->o.cached + 1));
	}
	if (t->o.cached_width)
		frame_set(&s->f, s->hidden, t->cached_hidden + at * t->o.cached_width);
	run_micro(t, s, q, counted);
}

int trainer_enqueue(struct trainer *t, const int32_t *ids, const int32_t *labels, struct step_result *r, struct inner *q)
{
	int64_t n = t->o.micro * t->o.seq, all = t->o.batch * t->o.seq;
	struct pass *s = &t->train;
	*q = (struct inner){ .sum = 0 };
	*r = (struct step_result){ 0 };
	for (int64_t i = 0; i < all; i++)
		r->labels += labels[i] >= 0;
	pass_weights(s, &t->o.loss, r->labels);
	t->g->k->zero(t->g->d, (mat){ t->grad, 1, (int64_t)trainer_grad_bytes(t) / 4, DT_F32, 0 });
	frame_zero_stats(&s->f);
	if (t->o.pairs)
		pairs_run(t, ids, labels, r->labels, q);
	for (int64_t i = 0; i < all / n && !t->o.pairs; i++) {
		if (!comm_mine(t->dp, i))
			continue;
		if (trainer_told_to_stop(t))
			break;
		trainer_micro(t, ids, labels, i, r->labels, q);
	}
	return comm_stop_requested(t->world);
}

void trainer_results(struct trainer *t, struct step_result *r, struct inner *q)
{
	if (t->o.pairs) {
		pairs_results(t, q);
	} else {
		if (!t->o.hidden.dynamic)
			q->sum = q->scaled = take_inner(t, &t->train, q);
		comm_sum_f64(t->dp, &q->sum, 1);
		comm_sum_f64(t->dp, &q->scaled, 1);
	}
	pass_means(t, &t->train, r);
	if (!r->labels)
		return;
	r->hidden = q->sum / (double)r->labels;
	r->alpha = q->sum > 0 ? q->scaled / q->sum : 0;
	r->loss += q->scaled / (double)r->labels;
}

int trainer_gradients(struct trainer *t, const int32_t *ids, const int32_t *labels, struct step_result *r)
{
	struct inner q;
	if (trainer_enqueue(t, ids, labels, r, &q))
		return 1;
	trainer_results(t, r, &q);
	trainer_sum_gradients(t);
	r->grad_norm = trainer_norm(t);
	return 0;
}

static void count_skipped(struct trainer *t, const struct step_result *r)
{
	t->skipped += r->skipped;
	t->skipped_row = r->skipped ? t->skipped_row + 1 : 0;
}

void trainer_apply(struct trainer *t, double lr, struct step_result *r)
{
	r->skipped = !isfinite(r->loss) || !isfinite(r->grad_norm);
	count_skipped(t, r);
	if (r->skipped)
		return;
	trainer_tell(t, lr, t->sumsq);
	t->g->k->guard(t->g->d, t->now, (mat){ 0 }, 0);
	trainer_update(t);
	t->updates++;
}

int trainer_step(struct trainer *t, const int32_t *ids, const int32_t *labels, double lr, struct step_result *r)
{
	if (!t->world || t->world->size == 1) {
		int rc = trainer_step_once(t, ids, labels, lr, r);
		if (!rc)
			count_skipped(t, r);
		return rc;
	}
	if (trainer_gradients(t, ids, labels, r))
		return 1;
	trainer_apply(t, lr, r);
	return 0;
}
