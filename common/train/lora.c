/*
 * lora.c - which matrices have adapters, how they start, merging, PEFT's files
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lora.h"
#include "../base/outfile.h"
#include "../base/rng.h"
#include "../io/safetensors.h"
#include "../model/hfdir.h"
#include "trainer.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STREAM UINT64_C(0x6c6f7261)

static const struct prow row = { .name = "lora", .decay = 1 };

/* "self_attn.q_proj" of "self_attn.q_proj.weight", "model.layers.3.self_attn.q_proj" with the prefix of its block */
static const char *module(const struct ptable *t, const struct param *p, int seg, char buf[160])
{
	*strrchr(param_hf_name(t, p, seg, buf), '.') = '\0';
	return buf;
}

static struct param part(const struct param *p, const char *mod, const char *which, int64_t rows, int64_t cols, struct shard *s)
{
	struct param q = { .row = &row, .layer = p->layer, .rows = rows, .cols = cols, .off = shard_place(s, p->layer, rows * cols) };
	const char *tail = strstr(mod, "self_attn."); /* long names are cut to what tells them apart */
	tail = tail ? tail + 10 : strstr(mod, "mlp.") ? strstr(mod, "mlp.") + 4 : mod;
	if (snprintf(q.name, sizeof q.name, "blk.%d.%s.%s", p->layer, tail, which) >= (int)sizeof q.name)
		BUG("name of an adapter: %s", mod);
	return q;
}

int lora_choose(const struct ptable *t, const struct lora *l, const uint8_t *frozen, struct adapter **v_new, int *n, struct shard *place,
		struct err *e)
{
	uint8_t *mask = xcalloc((size_t)t->n, 1);
	struct adapter *v = xcalloc((size_t)t->n * 3, sizeof *v);
	char mod[160];
	int rc = trained_named(t, "lora", l->targets, mask, e);
	*n = 0;
	for (int i = 0; i < t->n && !rc; i++) {
		const struct param *p = &t->p[i];
		int64_t first = 0;
		for (int s = 0; s < p->row->nseg && !rc; s++) {
			int64_t rows = param_seg_rows(t, p, s);
			if (!(mask[i] >> s & 1)) {
				first += rows;
				continue;
			}
			param_hf_name(t, p, s, mod);
			if (p->layer < 0 || row_is_vector(p->row))
				rc = err_set(e, EXIT_USAGE, "--lora: %s is not the matrix of a linear in a block", mod);
			else if (!frozen[i])
				rc = err_set(e, EXIT_USAGE, "--lora: %s is trained itself", mod);
			if (rc)
				break;
			module(t, p, s, mod);
			struct adapter *q = &v[(*n)++];
			*q = (struct adapter){ .base = p, .at = first };
			q->a = part(p, mod, "lora_A", l->rank, p->cols, place);
			q->b = part(p, mod, "lora_B", rows, l->rank, place);
			first += rows;
		}
	}
	free(mask);
	*v_new = v;
	return rc;
}

void lora_init(struct trainer *t, uint64_t seed)
{
	for (int i = 0; i < t->n_adapter; i++) {
		const struct param *q = &t->adapter[i].a;
		int64_t n = q->rows * q->cols;
		double bound = 1 / sqrt((double)q->cols);
		float *host = xmalloc((size_t)n * sizeof *host);
		for (int64_t k = 0; k < n; k++)
			host[k] = (float)(bound * (2 * rng_uniform(seed, STREAM + (uint64_t)i, (uint64_t)k) - 1));
		trainer_put(t, q->off, n, host);
		free(host);
	}
}

static float *values_new(const struct trainer *t, enum weights_of of, const struct param *q, int64_t first, int64_t n)
{
	float *host = xmalloc((size_t)n * sizeof *host);
	trainer_get(t, of, q->off + first, n, host);
	return host;
}

void lora_merge(const struct trainer *t, enum weights_of of, const struct param *p, int64_t at, int64_t n, float *out)
{
	float scale = t->adapter_scale;
	for (int i = 0; i < t->n_adapter; i++) {
		const struct adapter *q = &t->adapter[i];
		int64_t C = p->cols, R = q->a.rows, from = q->at * C, to = from + q->b.rows * C;
		from = from > at ? from : at;
		to = to < at + n ? to : at + n;
		if (q->base != p || from >= to)
			continue;
		int64_t r0 = from / C - q->at, r1 = (to - 1) / C - q->at;
		float *A = values_new(t, of, &q->a, 0, R * C), *B = values_new(t, of, &q->b, r0 * R, (r1 - r0 + 1) * R);
		for (int64_t r = r0; r <= r1; r++) {
			int64_t row0 = (q->at + r) * C, c0 = from > row0 ? from - row0 : 0, c1 = to < row0 + C ? to - row0 : C;
			for (int64_t k = 0; k < R; k++) {
				float b = scale * B[(r - r0) * R + k];
				for (int64_t c = c0; c < c1; c++)
					out[row0 - at + c] += b * A[k * C + c];
			}
		}
		free(A);
		free(B);
	}
}

/* ---- PEFT's files ---- */

static const char *last_part(const char *name)
{
	return strrchr(name, '.') ? strrchr(name, '.') + 1 : name;
}

static int segment_of(const struct trainer *t, const struct adapter *q)
{
	int64_t first = 0;
	int s = 0;
	while (first < q->at)
		first += param_seg_rows(t->student, q->base, s++);
	return s;
}

/* Linears whose module ends like this one */
static int alike(const struct ptable *t, const char *word)
{
	char mod[160];
	int n = 0;
	for (int i = 0; i < t->n; i++)
		for (int s = 0; s < t->p[i].row->nseg; s++)
			n += !row_is_vector(t->p[i].row) && !strcmp(last_part(module(t, &t->p[i], s, mod)), word);
	return n;
}

/* "q_proj" where every such linear has an adapter, else the whole names */
static json_t *target_list(const struct trainer *t)
{
	json_t *list = json_array();
	char mod[160], other[160];
	for (int i = 0; i < t->n_adapter; i++) {
		int with = 0, earlier = 0;
		const char *word = last_part(module(t->student, t->adapter[i].base, segment_of(t, &t->adapter[i]), mod));
		for (int k = 0; k < t->n_adapter; k++) {
			int same = !strcmp(word, last_part(module(t->student, t->adapter[k].base, segment_of(t, &t->adapter[k]), other)));
			with += same;
			earlier += same && k < i;
		}
		if (with < alike(t->student, word))
			json_array_append_new(list, json_string(mod));
		else if (!earlier)
			json_array_append_new(list, json_string(word));
	}
	return list;
}

static int write_config(const struct trainer *t, const char *dir, const char *base, struct err *e)
{
	json_t *c = json_pack("{s:s,s:s,s:s,s:s,s:b,s:b,s:b,s:f,s:f,s:i,s:n,s:n,s:o}", "peft_type", "LORA", "task_type", "CAUSAL_LM",
			      "base_model_name_or_path", base, "bias", "none", "fan_in_fan_out", 0, "inference_mode", 1,
			      "init_lora_weights", 1, "lora_alpha", t->o.lora.alpha, "lora_dropout", 0.0, "r", (int)t->o.lora.rank,
			      "layers_to_transform", "modules_to_save", "target_modules", target_list(t));
	if (!c)
		BUG("the adapter's configuration is no JSON");
	int rc = hfdir_write_json(dir, "adapter_config.json", c, e);
	json_decref(c);
	return rc;
}

static int write_weights(const struct trainer *t, const char *dir, struct err *e)
{
	struct st_spec *spec = xcalloc((size_t)t->n_adapter * 2, sizeof *spec);
	char mod[160];
	int n = 2 * t->n_adapter, rc = 0;
	for (int i = 0; i < n; i++) {
		const struct adapter *q = &t->adapter[i / 2];
		const struct param *w = i % 2 ? &q->b : &q->a;
		module(t->student, q->base, segment_of(t, q), mod);
		if (snprintf(spec[i].name, sizeof spec[i].name, "base_model.model.%s.lora_%s.weight", mod, i % 2 ? "B" : "A") >= (int)sizeof spec[i].name)
			BUG("name of an adapter: %s", mod);
		spec[i].dtype = ST_F32;
		spec[i].nd = 2;
		spec[i].dims[0] = w->rows;
		spec[i].dims[1] = w->cols;
	}
	struct st_w *w = st_create(dir, spec, n, INT64_MAX, e);
	for (int i = 0; i < n && w && !rc; i++) {
		const struct param *q = i % 2 ? &t->adapter[i / 2].b : &t->adapter[i / 2].a;
		float *host = values_new(t, OF_STUDENT, q, 0, q->rows * q->cols);
		rc = st_put(w, i, 0, host, (size_t)(q->rows * q->cols) * sizeof *host, e);
		free(host);
	}
	free(spec);
	if (w && rc)
		st_abandon(w);
	return !w || rc ? -1 : st_finish(w, e);
}

int lora_save(const struct trainer *t, const char *dir, const char *base, struct err *e)
{
	struct outdir *d = outdir_open(dir, true, e);
	if (!d)
		return -1;
	char *from = xasprintf("%s/model.safetensors", outdir_tmp(d)), *to = xasprintf("%s/adapter_model.safetensors", outdir_tmp(d));
	int rc = write_weights(t, outdir_tmp(d), e) || write_config(t, outdir_tmp(d), base, e) ? -1 : 0;
	if (!rc && rename(from, to))
		rc = err_sys(e, "%s: cannot rename", from);
	free(from);
	free(to);
	if (rc)
		outdir_abort(d);
	return rc ? rc : outdir_commit(d, e);
}
