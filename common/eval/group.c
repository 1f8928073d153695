/*
 * group.c - groups of tasks: one accuracy over all their items
 *
 *	acc = sum n_i acc_i / sum n_i        error: metric_pooled_stderr
 *
 * A task that was split by a field belongs to the group of all its parts and, for MMLU, to one of that group's own parts.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "metrics.h"
#include "task.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void note(struct group *g, int *n, const char *name, const char *parent, double version)
{
	for (int i = 0; i < *n; i++)
		if (!strcmp(g[i].name, name))
			return;
	g[(*n)++] = (struct group){ .name = name, .parent = parent, .version = version };
}

static int belongs(const struct task *t, const struct group *g)
{
	return (t->group && !strcmp(t->group, g->name)) || (t->top && !strcmp(t->top, g->name));
}

static const struct score *acc_of(const struct task *t)
{
	for (int i = 0; i < t->n_score; i++)
		if (!strcmp(t->score[i].metric, "acc"))
			return &t->score[i];
	return NULL;
}

static void measure(struct group *g, const struct task *t, int n)
{
	double *se = xcalloc((size_t)n, sizeof *se), sum = 0;
	int64_t *size = xcalloc((size_t)n, sizeof *size);
	int known = 1;
	for (int i = 0; i < n; i++) {
		const struct score *a = belongs(&t[i], g) ? acc_of(&t[i]) : NULL;
		if (!a)
			continue;
		known &= !isnan(a->err);
		se[g->tasks] = a->err;
		size[g->tasks++] = t[i].n;
		sum += (double)t[i].n * a->value;
		g->items += t[i].n;
		g->shots = t[i].shots;
	}
	double err = known ? metric_pooled_stderr(se, size, g->tasks) : NAN;
	g->acc = (struct score){ "acc", sum / (double)g->items, err, 1, NULL };
	free(se);
	free(size);
}

int groups_new(const struct task *t, int n, struct group **out)
{
	struct group *g = xcalloc(2 * (size_t)n + 1, sizeof *g);
	int k = 0, used = 0;
	for (int i = 0; i < n; i++)
		if (t[i].top && acc_of(&t[i]))
			note(g, &k, t[i].top, NULL, 2);
	for (int i = 0; i < n; i++)
		if (t[i].group && acc_of(&t[i]))
			note(g, &k, t[i].group, t[i].top, 2);
	for (int i = 0; i < k; i++) {
		measure(&g[i], t, n);
		if (g[i].items)
			g[used++] = g[i];
	}
	*out = g;
	return used;
}
