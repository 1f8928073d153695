/*
 * observe.c - the forward program with statistics at its sites, batch by batch
 *
 * Sums stay on the device and are folded into `struct stats` when the batch shape changes and at the end.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "observe.h"
#include <stdlib.h>
#include <string.h>

int observe_sites_parse(const char *s, uint32_t *sites, struct err *e)
{
	static const char *const words[] = { "hidden", "heads", "ffn", "ffn-pre", "layers", "kv" };
	enum { WORDS = sizeof words / sizeof *words };
	if (!strcmp(s, "all")) {
		*sites = OBSERVE_ALL;
		return 0;
	}
	*sites = 0;
	if (!strcmp(s, "none"))
		return 0;
	for (const char *p = s; *p;) {
		size_t n = strcspn(p, ",");
		int k = 0;
		while (k < WORDS && (strlen(words[k]) != n || strncmp(words[k], p, n)))
			k++;
		if (k == WORDS)
			return err_set(e, EXIT_USAGE, "--sites %s: '%.*s' is not one of hidden, heads, ffn, ffn-pre, layers, kv, all, none",
				       s, (int)n, p);
		*sites |= 1u << k;
		p += n + (p[n] == ',');
	}
	return *sites ? 0 : err_set(e, EXIT_USAGE, "--sites is empty");
}

void observe_init(struct observer *o, const struct engine *g, const struct weights *w, struct stats *s, uint32_t sites)
{
	*o = (struct observer){ .g = g, .w = w, .s = s, .sites = sites, .block = -1 };
}

/* Masks of blocks [l0, l1) first, so that what is observed is masked; then the observations.  Free with free(). */
static struct probe *probes_new(const struct ptable *t, uint32_t sites, const struct masks *m, int64_t l0, int64_t l1,
				int *count)
{
	struct probe *pr = xcalloc((size_t)(2 * (l1 - l0) + 8), sizeof *pr);
	int n = 0;
	for (int64_t l = l0; l < l1; l++)
		n += masks_probes(m, l, pr + n);
	if (sites & OBSERVE_HIDDEN) {
		pr[n++] = (struct probe){ SITE_ATTN_IN, -1, PROBE_STAT, 1, NULL };
		pr[n++] = (struct probe){ SITE_FFN_IN, -1, PROBE_STAT, 1, NULL };
	}
	if (sites & OBSERVE_HEADS) {
		pr[n++] = (struct probe){ SITE_ATTN_OUT, -1, PROBE_STAT, 1, NULL };
		if (t->arch.head_dim > 1)
			pr[n++] = (struct probe){ SITE_ATTN_OUT, -1, PROBE_STAT, (int)t->arch.head_dim, NULL };
	}
	if (sites & OBSERVE_FFN)
		pr[n++] = (struct probe){ SITE_FFN_ACT, -1, PROBE_STAT, 1, NULL };
	if (sites & OBSERVE_FFN_PRE)
		pr[n++] = (struct probe){ SITE_FFN_PRE, -1, PROBE_STAT, 1, NULL };
	*count = n;
	return pr;
}

static struct prog *planned(struct prog *p, struct err *e)
{
	if (!prog_plan(p, e))
		return p;
	prog_free(p);
	return NULL;
}

struct prog *observe_prog_new(const struct ptable *t, int dtype, uint32_t sites, const struct masks *m, int64_t B, int64_t T,
			      val *tok, struct err *e)
{
	int n;
	struct probe *pr = probes_new(t, sites, m, 0, t->arch.layers, &n);
	struct prog *p = prog_new(B, T);
	struct build b = { .t = t, .dtype = dtype, .space = SP_PARAM, .prefix = "", .blk1 = t->arch.layers, .probe = pr,
			   .n_probe = n, .layer_stats = (sites & OBSERVE_LAYERS) != 0, .group_stats = (sites & OBSERVE_KV) != 0,
			   .drop = m ? m->drop : NULL, .hidden_mask = m ? m->hidden : NULL };
	*tok = p_input(p, "tokens", B * T, 1, DT_I32);
	p_forward(p, &b, *tok, NONE);
	free(pr);
	return planned(p, e);
}

struct prog *observe_block_new(const struct ptable *t, int dtype, uint32_t sites, const struct masks *m, int64_t B, int64_t T,
			       int64_t l, val *x, val *y, struct err *e)
{
	int n;
	struct probe *pr = probes_new(t, sites, m, l, l + 1, &n);
	struct prog *p = prog_new(B, T);
	struct build b = { .t = t, .dtype = dtype, .space = SP_PARAM, .prefix = "", .blk0 = l, .blk1 = l + 1, .slice = 1,
			   .probe = pr, .n_probe = n, .layer_stats = (sites & OBSERVE_LAYERS) != 0,
			   .group_stats = (sites & OBSERVE_KV) != 0, .hidden_mask = m ? m->hidden : NULL };
	*x = p_input(p, "hidden", B * T, t->arch.hidden, DT_F32);
	*y = p_forward(p, &b, NONE, *x);
	free(pr);
	p_keep(p, *y);
	return planned(p, e);
}

/* "stat.ffn_act.3" -> site, layer */
static int parse_name(const char *name, char site[24], int64_t *layer)
{
	const char *dot = strrchr(name, '.');
	if (strncmp(name, "stat.", 5) || !dot || dot - name - 5 >= 24)
		return 0;
	snprintf(site, 24, "%.*s", (int)(dot - name - 5), name + 5);
	*layer = atoll(dot + 1);
	return 1;
}

static int64_t unit_of(const struct prog *p, int id)
{
	for (int i = 0; i < p->n; i++)
		if ((p->op[i].code == OP_STAT_WIDTH || p->op[i].code == OP_STAT_CONTRIB) && p->op[i].out[0].id == id)
			return p->op[i].arg;
	return 1;
}

void observe_flush(struct observer *o)
{
	if (!o->p || !o->pending)
		return;
	for (int i = 1; i < o->p->nv; i++) {
		const struct value *v = &o->p->v[i];
		char site[24];
		int64_t layer;
		if (v->space != SP_STAT || !parse_name(v->name, site, &layer))
			continue;
		if (o->block >= 0)
			layer = o->block;
		double *d = xcalloc((size_t)(v->rows * v->cols), sizeof *d);
		frame_get(&o->f, (val){ i }, d);
		int width = v->rows == STAT_ROWS;
		struct stat_entry *x = stats_entry(o->s, site, layer, width ? unit_of(o->p, i) : 1, width ? v->cols : 0);
		for (int64_t k = 0; k < (width ? v->rows * v->cols : 1); k++)
			x->sums[k] += d[k];
		x->n += o->pending;
		x->tokens += o->pending * o->p->T;
		free(d);
	}
	o->s->samples += o->pending;
	o->s->tokens += o->pending * o->p->T;
	o->pending = 0;
	frame_zero_stats(&o->f);
}

void observe_free(struct observer *o)
{
	if (o->p) {
		frame_free(&o->f);
		prog_free(o->p);
		o->p = NULL;
	}
}

/* Parameters of block l lie this many elements behind those of block 0. */
static int64_t block_offset(const struct ptable *t, int64_t l)
{
	int i = 0, first;
	while (t->p[i].layer != 0)
		i++;
	first = i;
	while (t->p[i].layer != l)
		i++;
	return t->p[i].off - t->p[first].off;
}

/* Makes o->p fit batches of B x T, and the kind of block. */
static int shape(struct observer *o, int64_t B, int64_t T, struct err *e)
{
	const struct arch *a = &o->w->t->arch;
	if (o->p && o->p->B == B && o->p->T == T &&
	    (o->block < 0 || o->block == o->made_for ||
	     (arch_window(a, o->block) == arch_window(a, o->made_for) && !arch_uneven(a))))
		return 0;
	observe_flush(o);
	observe_free(o);
	o->p = o->block < 0 ? observe_prog_new(o->w->t, o->w->dtype, o->sites, o->m, B, T, &o->tok, e) :
			      observe_block_new(o->w->t, o->w->dtype, o->sites, o->m, B, T, o->block, &o->tok, &o->out, e);
	if (!o->p)
		return -1;
	if (frame_new(&o->f, o->g, o->p, e)) {
		prog_free(o->p);
		o->p = NULL;
		return -1;
	}
	o->f.base[SP_PARAM] = o->w->w;
	if (o->block >= 0) {                   /* one block's weights lie where block 0's would */
		o->made_for = o->block;
		o->f.base[SP_PARAM] -= block_offset(o->w->t, o->block) * (int64_t)dtype_size(o->w->dtype);
	}
	return 0;
}

int observe_batch(struct observer *o, const int32_t *ids, int64_t B, int64_t T, struct err *e)
{
	if (shape(o, B, T, e))
		return -1;
	frame_set(&o->f, o->tok, ids);
	prog_run(&o->f);
	o->pending += B;
	return 0;
}

/* The one-block program was recorded with the masks of another block. */
static void set_masks(struct observer *o)
{
	struct probe pr[2];
	char name[64];
	for (int i = 0, n = masks_probes(o->m, o->block, pr); i < n; i++) {
		snprintf(name, sizeof name, "mask.%s.%lld", site_word(pr[i].site), (long long)o->made_for);
		frame_set(&o->f, prog_find(o->p, name), pr[i].z);
	}
}

int observe_block(struct observer *o, float *x, int64_t B, int64_t T, struct err *e)
{
	if (shape(o, B, T, e))
		return -1;
	set_masks(o);
	frame_set(&o->f, o->tok, x);
	prog_run(&o->f);
	frame_get(&o->f, o->out, x);
	o->pending += B;
	return 0;
}
