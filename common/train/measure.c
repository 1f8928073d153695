/*
 * measure.c - losses on held-out text, forward only: of student and teacher together, or of the teacher alone
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "trainer.h"
#include <stdlib.h>
#include <string.h>

/* The first n windows of b through a forward-only program */
static void run_windows(const struct trainer *t, struct pass *s, const struct batches *b, int64_t n, int32_t *ids,
			int32_t *labels, struct step_result *r)
{
	int64_t seq = t->o.seq, micro = t->o.micro, end = n, round = t->world ? micro * t->world->size : micro;
	if (t->o.place == TEACHER_SHARDED) /* all processes run the program equally often: windows beyond n count for nothing */
		end = (n + round - 1) / round * round;
	int64_t rows = (end + micro - 1) / micro;
	double *each = t->o.pairs ? xcalloc((size_t)(rows * LOSS_KINDS), sizeof *each) : NULL, sum[LOSS_KINDS];
	*r = (struct step_result){ 0 };
	frame_zero_stats(&s->f);
	for (int64_t at = 0; at < end; at += micro) {
		if (!comm_mine(t->dp, at / micro))
			continue;
		for (int64_t j = 0; j < micro; j++)
			if (at + j < n)
				batches_window(b, at + j, ids + j * seq, labels + j * seq);
			else
				memset(labels + j * seq, 0xff, (size_t)seq * sizeof *labels); /* -1: counts for nothing */
		for (int64_t i = 0; i < micro * seq; i++)
			r->labels += labels[i] >= 0;
		pass_feed(t, s, ids, labels);
		prog_run(&s->f);
		if (each) {
			frame_get(&s->f, s->sums, each + at / micro * LOSS_KINDS);
			frame_zero_stats(&s->f);
		}
	}
	if (each) {
		add_in_order(t->dp, each, rows, LOSS_KINDS, sum);
		frame_set(&s->f, s->sums, sum);
	}
	free(each);
	comm_sum_i64(t->dp, &r->labels, 1);
	pass_means(t, s, r);
}

void trainer_measure(struct trainer *t, const struct batches *b, int64_t n, int32_t *ids, int32_t *labels,
		     struct step_result *r)
{
	pass_weights(&t->eval, &t->o.loss, 1); /* no gradients: it only says which losses are wanted */
	run_windows(t, &t->eval, b, n, ids, labels, r);
}

int trainer_measure_teacher(struct trainer *t, const struct batches *const b[], const int64_t n[], int sets,
			    struct step_result *r, struct err *e)
{
	struct objective ce = { .tau = 1, .beta = 0.5, .weight[LOSS_CE] = 1 };
	int64_t rows = t->o.micro * t->o.seq;
	struct pass s = { 0 };
	pass_begin(t, &s, &ce);
	struct build build = teacher_build(t, &s);
	val h = p_forward(s.p, &build, s.tok, NONE);
	s.sums = p_kd_head(s.p, h, p_head_weight(s.p, &build), NONE, NONE, s.label);
	pass_weights(&s, &ce, 1);
	teacher_record(t, s.p);
	int rc = prog_plan(s.p, e) || frame_new(&s.f, t->g, s.p, e) ? -1 : 0;
	if (!rc) {
		int32_t *ids = xcalloc((size_t)rows, sizeof *ids), *labels = xcalloc((size_t)rows, sizeof *labels);
		s.f.base[SP_PARAM_T] = t->tw;
		s.f.source = t->source;
		for (int i = 0; i < sets; i++)
			run_windows(t, &s, b[i], n[i], ids, labels, &r[i]);
		free(ids);
		free(labels);
	}
	frame_free(&s.f);
	prog_free(s.p);
	return rc;
}
