/*
 * masks.c - from kept units to 0/1 vectors at the sites
 *
 * Multiplying head outputs, MLP activations and (in norms, kernels.h) hidden channels by 0 or 1 computes what the trimmed
 * model computes; a dropped block is left out of the program.  tests/prune/test_mask_trim.c holds the two together.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "masks.h"
#include <stdlib.h>
#include <string.h>

/* [layers, of] with ones at the units that kept blocks keep; NULL when all stay. */
static float *table_new(const struct keep *k, int axis, int64_t of)
{
	int64_t n;
	float *z = xcalloc((size_t)(k->from.layers * of), sizeof *z);
	bool cut = false;

	for (int64_t l = 0; l < k->to.layers; l++) {
		const int64_t *u = keep_units(k, axis, l, &n);
		cut |= u != NULL;
		for (int64_t i = 0; i < n; i++)
			z[k->layer[l] * of + (u ? u[i] : i)] = 1;
	}
	if (cut)
		return z;
	free(z);
	return NULL;
}

struct masks *masks_new(const struct keep *k)
{
	struct masks *m = xcalloc(1, sizeof *m);
	const struct arch *a = &k->from;
	int64_t n;
	const int64_t *u = keep_units(k, AX_HIDDEN, -1, &n);

	m->layers = a->layers, m->n_hidden = a->hidden, m->n_heads = a->heads, m->n_ffn = a->ffn;
	if (u)
		m->hidden = xcalloc((size_t)a->hidden, sizeof *m->hidden);
	for (int64_t i = 0; u && i < n; i++)
		m->hidden[u[i]] = 1;
	m->head = table_new(k, AX_HEAD, a->heads);
	m->ffn = table_new(k, AX_FFN, a->ffn);
	if (k->to.layers < a->layers) {
		m->drop = xcalloc((size_t)a->layers, 1);
		memset(m->drop, DROP_LAYER, (size_t)a->layers);
		for (int64_t l = 0; l < k->to.layers; l++)
			m->drop[k->layer[l]] = 0;
	}
	if (m->hidden || m->head || m->ffn || m->drop)
		return m;
	masks_free(m);
	return NULL;
}

void masks_free(struct masks *m)
{
	if (!m)
		return;
	free(m->hidden);
	free(m->head);
	free(m->ffn);
	free(m->drop);
	free(m);
}

int masks_probes(const struct masks *m, int64_t l, struct probe pr[2])
{
	int n = 0;

	if (m && m->head)
		pr[n++] = (struct probe){ SITE_ATTN_OUT, (int)l, PROBE_MASK, 1, m->head + l * m->n_heads };
	if (m && m->ffn)
		pr[n++] = (struct probe){ SITE_FFN_ACT, (int)l, PROBE_MASK, 1, m->ffn + l * m->n_ffn };
	return n;
}

/* Columns of x whose unit is masked; x may hold several columns per unit, or several runs of units (a gate before up). */
static void clear(struct stat_entry *x, const float *z, int64_t units)
{
	int head = !strncmp(x->site, "attn_out", 8);
	int64_t width = head ? x->units / units : 1;

	for (int64_t c = 0; c < x->units; c++)
		if (z[c / width % units] == 0)
			for (int r = 0; r < STAT_ROWS; r++)
				x->sums[r * x->units + c] = 0;
}

/* Groups of heads that are all masked. */
static void clear_groups(struct stat_entry *x, const float *z, int64_t heads)
{
	int64_t per = heads / x->units;

	for (int64_t g = 0; g < x->units; g++) {
		int64_t left = 0;
		for (int64_t h = g * per; h < (g + 1) * per; h++)
			left += z[h] != 0;
		for (int r = 0; r < STAT_ROWS && !left; r++)
			x->sums[r * x->units + g] = 0;
	}
}

void masks_clear(const struct masks *m, struct stats *s)
{
	for (int i = 0; m && i < s->n; i++) {
		struct stat_entry *x = &s->e[i];
		if (!x->units || x->layer < 0)
			continue;
		if (m->head && !strcmp(x->site, "attn_kv"))
			clear_groups(x, m->head + x->layer * m->n_heads, m->n_heads);
		else if (m->head && !strncmp(x->site, "attn_out", 8))
			clear(x, m->head + x->layer * m->n_heads, m->n_heads);
		else if (m->ffn && !strncmp(x->site, "ffn_", 4) && strcmp(x->site, "ffn_in"))
			clear(x, m->ffn + x->layer * m->n_ffn, m->n_ffn);
		else if (m->hidden && (!strcmp(x->site, "attn_in") || !strcmp(x->site, "ffn_in")))
			clear(x, m->hidden, m->n_hidden);
	}
}
