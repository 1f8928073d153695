/*
 * losses.c - parsing and summing the terms of losses.def; the kernels know their values and gradients
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "losses.h"
#include "../base/opt.h"
#include <math.h>
#include <string.h>

static const struct {
	const char *word, *key;
	bool teacher, tau2;
} terms[LOSS_KINDS] = {
#define LOSS(id, word, teacher, tau2, key, doc) [LOSS_##id] = { word, key, teacher, tau2 },
#include "losses.def"
#undef LOSS
};

const char *loss_word(int kind)
{
	return terms[kind].word;
}

const char *loss_key(int kind)
{
	return terms[kind].key;
}

bool loss_needs_teacher(int kind)
{
	return terms[kind].teacher;
}

struct parse {
	struct objective *o;
	bool seen[LOSS_KINDS];
};

static int one(void *arg, const char *name, double v, struct err *e)
{
	struct parse *p = arg;
	for (int k = 0; k < LOSS_KINDS; k++) {
		if (strcmp(terms[k].word, name))
			continue;
		if (p->seen[k])
			return err_set(e, EXIT_USAGE, "--loss: %s is given twice", name);
		p->seen[k] = true;
		p->o->weight[k] = isnan(v) ? 1 : v;
		if (!(p->o->weight[k] >= 0) || !isfinite(p->o->weight[k]))
			return err_set(e, EXIT_USAGE, "--loss: the weight of %s must not be negative", name);
		return 0;
	}
	return err_set(e, EXIT_USAGE, "--loss: no loss is called '%s'; there are"
#define LOSS(id, word, teacher, tau2, key, doc) " " word
#include "losses.def"
#undef LOSS
		       , name);
}

int objective_parse(struct objective *o, const char *text, double tau, struct err *e)
{
	struct parse p = { .o = o };
	double sum = 0;
	*o = (struct objective){ .tau = tau, .beta = 0.5 };
	if (parse_weights(text, one, &p, e))
		return -1;
	for (int k = 0; k < LOSS_KINDS; k++)
		sum += o->weight[k];
	return sum > 0 ? 0 : err_set(e, EXIT_USAGE, "--loss %s: every weight is zero", text);
}

int tail_find(const char *word)
{
	static const char *const words[] = { "renorm", "zero", "ghost" };
	int k = 0;
	while (k < TAIL_GHOST && strcmp(words[k], word))
		k++;
	return k;
}

int objective_check(const struct objective *o, struct err *e)
{
	for (int k = 0; o->best && k < LOSS_KINDS; k++)
		if (o->weight[k] > 0 && k != LOSS_KL && k != LOSS_CE)
			return err_set(e, EXIT_USAGE, "the teacher's best tokens alone serve kl and ce, not %s", terms[k].word);
	if (o->best && o->wsl)
		return err_set(e, EXIT_USAGE, "weighted soft labels need all of the teacher's logits, not its best tokens");
	return 0;
}

void objective_head(const struct objective *o, struct kd_head_args *a)
{
	*a = (struct kd_head_args){ .tau = (float)o->tau, .beta = (float)o->beta, .tail = o->tail, .wsl = o->wsl };
}

bool objective_needs_teacher(const struct objective *o)
{
	for (int k = 0; k < LOSS_KINDS; k++)
		if (terms[k].teacher && o->weight[k] > 0)
			return true;
	return false;
}

double objective_total(const struct objective *o, const double mean[LOSS_KINDS])
{
	double sum = 0;
	for (int k = 0; k < LOSS_KINDS; k++)
		if (o->weight[k] > 0)
			sum += o->weight[k] * (terms[k].tau2 ? o->tau * o->tau : 1) * mean[k];
	return sum;
}
