/*
 * correct.c - planning and loading the teacher's own trainer
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "correct.h"

int correct_plan(struct correction *c, struct trainer *student, const struct ptable *teacher, struct err *e)
{
	struct trainer_spec o = student->o;
	o.loss = (struct objective){ .tau = 1, .beta = 0.5, .weight[LOSS_CE] = 1 };
	o.ema = 0;
	o.correct = false;
	o.hidden.n = o.hidden.terms = 0;
	o.lora = (struct lora){ 0 };
	o.choice = (struct choice){ 0 };
	struct ptable *own = ptable_new(&teacher->arch);
	if (trainer_plan(&c->t, own, NULL, &o, e))
		return -1;
	for (int i = 0; i < own->n; i++)
		if (own->p[i].off != teacher->p[i].off)
			BUG("%s lies elsewhere in the teacher's own trainer", own->p[i].name);
	student->corrected = &c->t;
	return 0;
}

int correct_load(struct correction *c, const struct engine *g, const char *dir, struct err *e)
{
	if (trainer_alloc(&c->t, g, e) || trainer_load(&c->t, dir, NULL, e))
		return -1;
	trainer_sync(&c->t);
	return 0;
}
