/*
 * trainer_once.c - a step that is read back once, when all of it is under way, and that can be captured
 *
 * Norm, clipping and the guard against what is not finite are decided where the gradients are (guard of kernels.h), so the host
 * runs ahead of a GPU by a whole step: it writes struct step_now before, and reads sums and norm behind.  On a skipped step the
 * update runs and does nothing.
 *
 * Captured (spec.graph), a micro-batch and an update are two graphs: the first time they run as they are, which makes the
 * backend's scratch and plans, the second time they are captured, then replayed.  What differs from step to step lies in device
 * memory: tokens, the losses' weights (frame.live), step_now.  Where the backend's scratch has moved since, they are captured
 * again.  An update whose states come from the host (states.h) is walked: copies beside the kernels are no part of a graph.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "trainer_parts.h"

void trainer_play(struct trainer *t, struct recorded *r, void (*walk)(struct trainer *))
{
	const struct kernels *k = t->g->k;
	struct dev *d = t->g->d;
	if (r->graph && !k->replay(d, r->graph))
		return;
	if (r->graph) {
		k->drop(d, r->graph);
		r->graph = NULL;
	}
	if (!t->o.graph || !r->ready) {
		walk(t);
		r->ready = true;
		return;
	}
	k->capture(d, 1);
	walk(t);
	r->graph = k->capture(d, 0);
	if (k->replay(d, r->graph))
		BUG("what was just captured cannot be replayed");
}

/* Which sums must be finite for an update: the loss's own terms and hidden losses */
static void walk_update(struct trainer *t)
{
	const struct pass *s = &t->train;
	uint32_t which = 0;
	for (int k = 0; k < LOSS_KINDS; k++)
		which |= (uint32_t)(t->o.loss.weight[k] > 0) << k;
	trainer_squares(t);
	t->g->k->guard(t->g->d, t->now, frame_mat(&s->f, s->sums), which);
	for (int i = 0; i < t->o.hidden.n; i++)
		t->g->k->guard(t->g->d, t->now, frame_mat(&s->f, s->inner[i]), 1);
	trainer_update(t);
}

int trainer_step_once(struct trainer *t, const int32_t *ids, const int32_t *labels, double lr, struct step_result *r)
{
	const struct kernels *k = t->g->k;
	struct inner q;
	struct step_now now;
	if (trainer_enqueue(t, ids, labels, r, &q))
		return 1;
	trainer_tell(t, lr, 0);
	if (t->off.held)
		walk_update(t);
	else
		trainer_play(t, &t->update, walk_update);
	if (t->meanwhile)
		t->meanwhile(t->meanwhile_arg);
	trainer_results(t, r, &q);
	k->download(t->g->d, &now, t->now, sizeof now);
	r->grad_norm = now.norm;
	r->skipped = now.skip != 0;
	t->updates += !r->skipped;
	return 0;
}
