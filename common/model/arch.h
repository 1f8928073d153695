/*
 * arch.h - the shape of a model: everything a family's forward pass and a parameter count need, no weights
 *
 * Read from a Hugging Face config.json (either spelling: rope_theta or rope_parameters, torch_dtype or dtype); the
 * original JSON object is kept, so that writing a trimmed model changes only what trimming changed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_ARCH_H
#define ADZE_ARCH_H
#include "../base/base.h"
#include "../../kernels/kernels.h"
#include <jansson.h>

enum { ARCH_LAYERS = 4096 };      /* most blocks */
enum { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3 };
enum { BIAS_ATTN = 1, BIAS_MLP = 2 }; /* of q, k, v and o; of all products of the MLP: attention_bias, mlp_bias */

struct family;
struct arch {
	const struct family *family;
	int64_t layers, hidden, ffn, heads, kv_heads, head_dim, vocab;
	int tied;                 /* the output matrix is the embedding */
	int norm;                 /* enum norm_kind */
	int act;                  /* enum act_kind */
	int biases;               /* BIAS_* that config.json switched on */
	double norm_eps;
	double rope_theta, rope_frac; /* fraction of head_dim that is rotated */
	int rope_scaling;         /* ROPE_* */
	double rope_factor, rope_low_freq, rope_high_freq;
	int64_t rope_orig_ctx;
	double rope_local;        /* base of the frequencies of sliding blocks, unscaled; 0: as the others */
	double attn_scale;        /* multiplies q.k; 0: 1/sqrt(head_dim) */
	int64_t window;           /* positions that a sliding block sees; 0: every block sees all */
	uint64_t sliding[ARCH_LAYERS / 64]; /* bit l: block l slides; see arch_window() */
	int64_t max_positions;
	int64_t bos, eos, pad;    /* -1: none */
	double embed_scale;       /* multiplies embedding rows; 1 for most, see arch_embed_scale() */
	char dtype[16];           /* as stored: "bfloat16" ... */
	int64_t *layer_ffn, *layer_heads; /* [layers] where widths differ from block to block (ffn, heads: the largest), or NULL; owned */
	json_t *config;           /* owned; NULL when made by hand */
};

/* path: a model directory or a config.json.  Refuses an unknown model_type, a missing or non-positive field, heads not
 * divisible by kv heads, and features that the family does not compute (attention or MLP biases, unknown rope types ...)
 * by name, EXIT_DATA. */
int arch_load(struct arch *a, const char *path, struct err *e);
void arch_free(struct arch *a);
void arch_copy(struct arch *to, const struct arch *from);   /* deep */
/* The config object with hidden_size, intermediate_size, num_*_heads, head_dim, num_hidden_layers ... rewritten from a. */
json_t *arch_config_new(const struct arch *a);

/* The shape as block `layer` sees it (-1: no block): a borrowed view without lists.  Where each head has its own key-value
 * head, those go along. */
struct arch arch_at(const struct arch *a, int64_t layer);
static inline bool arch_uneven(const struct arch *a)
{
	return a->layer_ffn || a->layer_heads;
}

enum axis {
#define AXIS(id, word, units, width, tp) AX_##id,
#include "axes.def"
#undef AXIS
	AX_COUNT
};
enum site {
#define SITE(id, word, axis) SITE_##id,
#include "sites.def"
#undef SITE
	SITE_COUNT
};
const char *axis_word(int axis);
int64_t axis_units(const struct arch *a, int axis);    /* 9 heads */
int64_t axis_width(const struct arch *a, int axis);    /* 64 columns a head */
static inline int64_t axis_size(const struct arch *a, int axis)
{
	return axis_units(a, axis) * axis_width(a, axis);
}
const char *site_word(int site);
int site_axis(int site);
int site_find(const char *word);                       /* -1: none */
static inline int act_gated(int act)
{
	return act == ACT_SWIGLU || act == ACT_GEGLU;
}
int64_t arch_window(const struct arch *a, int64_t l);  /* positions that block l sees, 0: all before it */
void arch_set_sliding(struct arch *a, int64_t l, bool on);
double arch_embed_scale(const struct arch *a);         /* of the family at a->hidden: 1, or its square root */
/* rope table [T, rot] as kernels.h wants it: cos | sin, scaling applied.  rot = 2*floor(head_dim*rope_frac/2). */
int64_t arch_rope_dims(const struct arch *a);
void arch_rope_table(const struct arch *a, float *table, int64_t pos0, int64_t T);
void arch_rope_local_table(const struct arch *a, float *table, int64_t pos0, int64_t T);  /* of sliding blocks */
/* Training-style FLOPs of one forward token at sequence length T: 2 per weight of the linears and the output matrix,
 * causal attention 2*T*H*D (half of the full 4*T*H*D), less where a window hides keys. */
double arch_forward_flops(const struct arch *a, int64_t T, int with_head);
#endif
