/*
 * arch.c - axis and site tables, rotary table, FLOP counts, and the config.json that a shape stands for
 *
 * Reading a config.json is in arch_load.c.  The rotary table follows transformers to the bit where f32 allows: the
 * inverse frequencies and the angles are rounded to f32, because that is what the published models were trained with.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "params.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const axis_words[AX_COUNT] = {
#define AXIS(id, word, units, width, tp) [AX_##id] = word,
#include "axes.def"
#undef AXIS
};

const char *axis_word(int axis)
{
	if (axis < 0 || axis >= AX_COUNT)
		BUG("axis %d", axis);
	return axis_words[axis];
}

int64_t axis_units(const struct arch *a, int axis)
{
	switch (axis) {
#define AXIS(id, word, units, width, tp) case AX_##id: return (units);
#include "axes.def"
#undef AXIS
	}
	BUG("axis %d", axis);
}

int64_t axis_width(const struct arch *a, int axis)
{
	switch (axis) {
#define AXIS(id, word, units, width, tp) case AX_##id: return (width);
#include "axes.def"
#undef AXIS
	}
	BUG("axis %d", axis);
}

static const struct { const char *word; int axis; } sites[SITE_COUNT] = {
#define SITE(id, word, axis) [SITE_##id] = { word, AX_##axis },
#include "sites.def"
#undef SITE
};

const char *site_word(int site)
{
	if (site < 0 || site >= SITE_COUNT)
		BUG("site %d", site);
	return sites[site].word;
}

int site_axis(int site)
{
	if (site < 0 || site >= SITE_COUNT)
		BUG("site %d", site);
	return sites[site].axis;
}

int site_find(const char *word)
{
	for (int s = 0; s < SITE_COUNT; s++)
		if (!strcmp(sites[s].word, word))
			return s;
	return -1;
}

void arch_free(struct arch *a)
{
	json_decref(a->config);
	free(a->layer_ffn);
	free(a->layer_heads);
	memset(a, 0, sizeof *a);
}

struct arch arch_at(const struct arch *a, int64_t layer)
{
	struct arch b = *a;

	if (layer >= 0 && a->layer_ffn)
		b.ffn = a->layer_ffn[layer];
	if (layer >= 0 && a->layer_heads) {
		b.heads = a->layer_heads[layer];
		if (a->kv_heads == a->heads)
			b.kv_heads = b.heads;
	}
	b.layer_ffn = b.layer_heads = NULL;
	return b;
}

static int64_t *list_copy_new(const int64_t *v, int64_t n)
{
	int64_t *c = v ? xcalloc((size_t)n, sizeof *c) : NULL;

	for (int64_t i = 0; v && i < n; i++)
		c[i] = v[i];
	return c;
}

void arch_copy(struct arch *to, const struct arch *from)
{
	*to = *from;
	to->config = from->config ? json_deep_copy(from->config) : NULL;
	to->layer_ffn = list_copy_new(from->layer_ffn, from->layers);
	to->layer_heads = list_copy_new(from->layer_heads, from->layers);
}

int64_t arch_rope_dims(const struct arch *a)
{
	return 2 * (int64_t)floor((double)a->head_dim * a->rope_frac / 2);
}

/* Llama-3 scaling: long wavelengths are slowed by `factor`, short ones kept, those between are blended. */
static double rope_scaled(const struct arch *a, double inv)
{
	if (a->rope_scaling == ROPE_LINEAR)
		return inv / a->rope_factor;
	if (a->rope_scaling != ROPE_LLAMA3)
		return inv;
	double ctx = (double)a->rope_orig_ctx, wave = 2 * M_PI / inv;
	if (wave > ctx / a->rope_low_freq)
		return inv / a->rope_factor;
	if (wave < ctx / a->rope_high_freq)
		return inv;
	double s = (ctx / wave - a->rope_low_freq) / (a->rope_high_freq - a->rope_low_freq);
	return (1 - s) * inv / a->rope_factor + s * inv;
}

static void rope_table(const struct arch *a, double theta, int scaled, float *table, int64_t pos0, int64_t T)
{
	int64_t rot = arch_rope_dims(a), half = rot / 2;

	for (int64_t i = 0; i < half; i++) {
		double plain = pow(theta, -2.0 * (double)i / (double)rot);
		float inv = (float)(scaled ? rope_scaled(a, plain) : plain);
		for (int64_t t = 0; t < T; t++) {
			float angle = (float)(pos0 + t) * inv;
			table[t * rot + i] = (float)cos((double)angle);
			table[t * rot + half + i] = (float)sin((double)angle);
		}
	}
}

void arch_rope_table(const struct arch *a, float *table, int64_t pos0, int64_t T)
{
	rope_table(a, a->rope_theta, 1, table, pos0, T);
}

void arch_rope_local_table(const struct arch *a, float *table, int64_t pos0, int64_t T)
{
	rope_table(a, a->rope_local > 0 ? a->rope_local : a->rope_theta, a->rope_local <= 0, table, pos0, T);
}

double arch_embed_scale(const struct arch *a)
{
	return a->family->embed_sqrt ? sqrt((double)a->hidden) : 1;
}

/* Of one block, without what a window hides. */
static double block_flops(const struct arch *a, int64_t T)
{
	double q = (double)(a->heads * a->head_dim), kv = (double)(a->kv_heads * a->head_dim), h = (double)a->hidden;
	double linear = h * (q + 2 * kv) + q * h + (act_gated(a->act) ? 3 : 2) * h * (double)a->ffn;

	return 2 * linear + 2 * (double)T * q;
}

double arch_forward_flops(const struct arch *a, int64_t T, int with_head)
{
	double flops = (double)a->layers * block_flops(a, T), past = (double)(T - a->window);
	double unseen = floor(2 * past * past / (double)T);    /* whole, so that sums of counts are exact */

	for (int64_t l = 0; l < a->layers && (arch_uneven(a) || (a->window && past > 0)); l++) {
		struct arch at = arch_at(a, l);
		flops += block_flops(&at, T) - block_flops(a, T);
		if (a->window && past > 0 && arch_window(a, l))
			flops -= unseen * (double)(at.heads * at.head_dim);
	}
	return flops + (with_head ? 2 * (double)a->hidden * (double)a->vocab : 0);
}

static void set_rope(const struct arch *a, json_t *cfg)
{
	static const char *const words[] = { "default", "linear", "llama3" };

	json_object_set_new(cfg, "rope_theta", json_real(a->rope_theta));
	if (a->rope_local > 0)
		json_object_set_new(cfg, "rope_local_base_freq", json_real(a->rope_local));
	if (a->rope_scaling == ROPE_DEFAULT)
		return;
	json_t *s = json_object();
	json_object_set_new(s, "rope_type", json_string(words[a->rope_scaling]));
	json_object_set_new(s, "factor", json_real(a->rope_factor));
	if (a->rope_scaling == ROPE_LLAMA3) {
		json_object_set_new(s, "low_freq_factor", json_real(a->rope_low_freq));
		json_object_set_new(s, "high_freq_factor", json_real(a->rope_high_freq));
		json_object_set_new(s, "original_max_position_embeddings", json_integer(a->rope_orig_ctx));
	}
	json_object_set_new(cfg, "rope_scaling", s);
}

static void set_id(json_t *cfg, const char *key, int64_t id)
{
	json_object_set_new(cfg, key, id < 0 ? json_null() : json_integer(id));
}

/* A config for a shape that was made by hand: every field that transformers would otherwise guess. */
static json_t *config_fresh(const struct arch *a)
{
	json_t *cfg = json_object();

	json_object_set_new(cfg, "architectures", json_pack("[s]", a->family->hf_class));
	json_object_set_new(cfg, "model_type", json_string(a->family->model_type));
	json_object_set_new(cfg, a->family->act_key ? a->family->act_key : "hidden_act", json_string(a->family->hf_act));
	json_object_set_new(cfg, a->family->eps_key, json_real(a->norm_eps));
	if (a->rope_frac != 1)
		json_object_set_new(cfg, "partial_rotary_factor", json_real(a->rope_frac));
	if (a->family->hf_null)
		json_object_set_new(cfg, a->family->hf_null, json_null());
	if (a->window)
		json_object_set_new(cfg, "sliding_window", json_integer(a->window));
	if (a->attn_scale > 0)
		json_object_set_new(cfg, "query_pre_attn_scalar", json_integer(llround(1 / (a->attn_scale * a->attn_scale))));
	set_rope(a, cfg);
	json_object_set_new(cfg, "attention_bias", json_false());
	json_object_set_new(cfg, "mlp_bias", json_false());
	json_object_set_new(cfg, "attention_dropout", json_real(0));
	json_object_set_new(cfg, "max_position_embeddings", json_integer(a->max_positions));
	json_object_set_new(cfg, "initializer_range", json_real(0.02));
	json_object_set_new(cfg, "tie_word_embeddings", json_boolean(a->tied));
	json_object_set_new(cfg, "use_cache", json_true());
	set_id(cfg, "bos_token_id", a->bos);
	set_id(cfg, "eos_token_id", a->eos);
	if (a->pad >= 0)
		set_id(cfg, "pad_token_id", a->pad);
	json_object_set_new(cfg, "torch_dtype", json_string(a->dtype[0] ? a->dtype : "float32"));
	return cfg;
}

/* Per-block sizes under a key of ours; other readers refuse the weights because their shapes do not fit the largest. */
static void set_list(json_t *cfg, const char *key, const int64_t *v, int64_t n)
{
	json_object_del(cfg, key);
	if (!v)
		return;
	json_t *list = json_array();
	for (int64_t i = 0; i < n; i++)
		json_array_append_new(list, json_integer(v[i]));
	json_object_set_new(cfg, key, list);
}

json_t *arch_config_new(const struct arch *a)
{
	json_t *cfg = a->config ? json_deep_copy(a->config) : config_fresh(a);

	json_object_set_new(cfg, "hidden_size", json_integer(a->hidden));
	json_object_set_new(cfg, "intermediate_size", json_integer(a->ffn));
	json_object_set_new(cfg, "num_attention_heads", json_integer(a->heads));
	json_object_set_new(cfg, "num_key_value_heads", json_integer(a->kv_heads));
	json_object_set_new(cfg, "head_dim", json_integer(a->head_dim));
	set_list(cfg, "adze_intermediate_sizes", a->layer_ffn, a->layers);
	set_list(cfg, "adze_num_attention_heads", a->layer_heads, a->layers);
	json_object_set_new(cfg, "num_hidden_layers", json_integer(a->layers));
	json_object_set_new(cfg, "vocab_size", json_integer(a->vocab));
	if (a->biases & BIAS_ATTN)
		json_object_set_new(cfg, "attention_bias", json_true());
	if (a->biases & BIAS_MLP)
		json_object_set_new(cfg, "mlp_bias", json_true());
	arch_config_layers(a, cfg);
	if (a->dtype[0])
		json_object_set_new(cfg, json_object_get(cfg, "dtype") ? "dtype" : "torch_dtype", json_string(a->dtype));
	return cfg;
}
