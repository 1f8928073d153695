/*
 * aux_tiny.c - small random models inside a trainer, for tests of training
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_tiny.h"
#include "../../common/base/rng.h"
#include <math.h>
#include <string.h>

struct arch tiny_arch(const struct tiny *d)
{
	struct err e;
	struct arch a = { .family = family_find(d->family), .layers = d->layers, .hidden = d->hidden, .ffn = d->ffn,
			  .heads = d->heads, .kv_heads = d->kv_heads, .head_dim = d->head_dim, .vocab = d->vocab, .tied = d->tied };
	a.rope_theta = 10000;
	a.rope_local = a.family->rope_local > 0 ? 100 : 0;
	json_t *cfg = json_pack("{s:i,s:i,s:b}", "sliding_window", 3, "sliding_window_pattern", 2, "tie_word_embeddings", d->tied);
	if (a.family->configure(&a, cfg, &e))
		BUG("%s", e.msg);
	json_decref(cfg);
	a.norm_eps = 1e-5;
	a.rope_frac = d->rope_frac > 0 ? d->rope_frac : 1;
	a.max_positions = 256;
	a.bos = a.eos = a.pad = -1;
	a.embed_scale = arch_embed_scale(&a);
	return a;
}

void tiny_fill(const struct ptable *t, void *dst, int dtype, uint64_t seed)
{
	memset(dst, 0, (size_t)t->elems * dtype_size(dtype));
	for (int i = 0; i < t->n; i++) {
		const struct param *p = &t->p[i];
		double scale = row_is_vector(p->row) ? 0.2 : strcmp(p->name, "embed") ? 1.2 / sqrt((double)p->cols) : 0.5;
		double mid = p->rows == 1 && t->arch.norm == NORM_RMS ? 1 : 0; /* gains; a bias has one column */
		for (int64_t k = 0; k < p->rows * p->cols; k++) {
			float x = (float)(mid + scale * rng_normal(seed, (uint64_t)i, (uint64_t)k));
			if (dtype == DT_F32)
				((float *)dst)[p->off + k] = x;
			else
				((uint16_t *)dst)[p->off + k] = f32_to_bf16(x);
		}
	}
}

void tiny_trainer(struct trainer *t, struct engine *g, const struct tiny *student, const struct tiny *teacher,
		  const struct trainer_spec *o, uint64_t seed)
{
	struct err e;
	struct arch sa = tiny_arch(student), ta = tiny_arch(teacher ? teacher : student);
	g->k = &kernels_ref;
	if (!g->d)
		g->d = g->k->dev_open(1);
	if (trainer_plan(t, ptable_new(&sa), teacher ? ptable_new(&ta) : NULL, o, &e) || trainer_alloc(t, g, &e))
		BUG("%s", e.msg);
	tiny_fill(t->student, t->w, DT_F32, seed);
	if (teacher)
		tiny_fill(t->teacher, t->tw, o->dtype, seed + 1);
	trainer_sync(t);
}

void tiny_tokens(int32_t *ids, int32_t *labels, int64_t n, int64_t seq, int64_t vocab, uint64_t seed)
{
	for (int64_t i = 0; i < n * seq; i++)
		ids[i] = (int32_t)rng_below(seed, 7, (uint64_t)i, (uint64_t)vocab);
	for (int64_t i = 0; i < n * seq; i++)
		labels[i] = (i + 1) % seq ? ids[i + 1] : -1;
}
