/*
 * params.h - the parameter table: every weight, what its dimensions mean, where it lies
 *
 * A family describes its weights once, as rows of fused matrices: attn.qkv is q_proj over k_proj over v_proj, mlp.up is
 * gate_proj over up_proj.  Each row segment names its Hugging Face tensor and its axis.  From that table follow loading,
 * writing, counting, trimming, mask widths, weight decay.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_PARAMS_H
#define ADZE_PARAMS_H
#include "arch.h"

struct prog;
struct seg {                   /* a run of rows that is one Hugging Face tensor */
	const char *hf;        /* "self_attn.q_proj.weight"; "model.layers.N." is prefixed when per layer */
	int axis;              /* of its rows; AX_NONE for vectors (1 row) */
};
struct prow {
	const char *name;      /* "attn.qkv"; "blk.N." is prefixed when per layer */
	int per_layer;
	int cols;              /* axis of columns */
	int decay;             /* weight decay applies (matrices, not norms) */
	int nseg;
	struct seg seg[3];
	int when;              /* BIAS_* that the model must have; 0: all models of the family have the row */
};
struct family {
	const char *model_type;
	const struct prow *rows;           /* ends with name NULL */
	const char *layer_prefix;          /* "model.layers.%d." */
	const char *hf_class, *hf_act, *eps_key; /* for a fresh config.json: "LlamaForCausalLM", "silu", "rms_norm_eps" */
	const char *act_key;               /* config key of the activation; NULL: "hidden_act" */
	const char *hf_null;               /* key that a fresh config.json must set to null, or NULL */
	double rope_theta, rope_local;     /* defaults of its transformers class; 0: 10000, none */
	int64_t head_dim;                  /* default; 0: hidden / heads */
	bool layer_types;                  /* config.json may list a kind of attention per block */
	bool hidden_by_heads;              /* transformers refuses a hidden size that is no multiple of the heads */
	bool embed_sqrt;                   /* embeddings are multiplied by sqrt(hidden) */
	int biases;                        /* BIAS_* that config.json may switch on */
	/* fills norm, act, windows and checks the family's own config keys */
	int (*configure)(struct arch *a, const json_t *cfg, struct err *e);
};
extern const struct prow llama_rows[];                     /* Llama's table, which others share */
const struct family *family_find(const char *model_type);   /* NULL: unknown */
const char *family_list(void);                              /* "llama mistral nemotron" */
int qwen_configure(struct arch *a, const json_t *cfg, struct err *e); /* of Qwen 2 and 3 */
static inline int row_is_vector(const struct prow *r)       /* a norm's weight (1 x cols) or a linear's bias (rows x 1) */
{
	return r->cols == AX_NONE || r->seg[0].axis == AX_NONE;
}
/* For configure(): a positive number, an integer in [lo, hi] (absent: def; def < lo: required); a feature that must not
 * be on; the activation by name; sliding_window (null: none) into a->window; layer_types, if any, into a->sliding. */
int cfg_real(const json_t *o, const char *key, double def, double *v, struct err *e);
int cfg_refuse_true(const json_t *o, const char *key, struct err *e);
int cfg_biases(struct arch *a, const json_t *cfg, struct err *e);  /* attention_bias, mlp_bias: into a->biases or refused */
int cfg_int(const json_t *o, const char *key, int64_t def, int64_t lo, int64_t hi, int64_t *v, struct err *e);
int cfg_expect_act(const json_t *o, const char *key, const char *want, struct err *e);
int cfg_window(struct arch *a, const json_t *cfg, int64_t def, struct err *e);
int cfg_layer_types(struct arch *a, const json_t *cfg, struct err *e);
void arch_config_layers(const struct arch *a, json_t *cfg); /* kinds of attention per block into a config object */

struct param {
	char name[40];         /* "blk.3.attn.qkv" */
	const struct prow *row;
	int layer;             /* -1: not in a block */
	int64_t rows, cols;
	int64_t off;           /* first element in the flat arena (elements, multiple of 32) */
};
struct ptable {
	struct arch arch;      /* own copy */
	struct param *p;
	int n;
	int64_t elems;         /* arena length with padding */
	int64_t count;         /* true parameter count (tied output matrix once) */
};
/* Lists embed, blocks 0..layers-1, final norm and, unless tied, the output matrix ("head"), in this order. */
struct ptable *ptable_new(const struct arch *a);
void ptable_free(struct ptable *t);
const struct param *ptable_find(const struct ptable *t, const char *name);  /* NULL: none; "head" of a tied model is "embed" */
/* Hugging Face name of segment s of p; buf is returned. */
char *param_hf_name(const struct ptable *t, const struct param *p, int s, char buf[160]);
int64_t param_seg_rows(const struct ptable *t, const struct param *p, int s);
/* Exact counts without weights (reference/minitron.md 3.4): total, and total minus both V x H matrices (minus the one
 * when tied). */
int64_t arch_count(const struct arch *a);
int64_t arch_count_nonembedding(const struct arch *a);
int64_t arch_count_active(const struct arch *a);               /* that one token uses: all of a dense model */

/* An opened model against its table: every tensor there, every shape right, stored as f32, f16 or bf16; surplus tensors
 * are refused unless known to be harmless (rotary inv_freq, lm_head of a tied model).  EXIT_DATA names the tensor. */
struct st_model;
int params_check(const struct ptable *t, const struct st_model *m, struct err *e);
/* One parameter of a checked model into dst (rows x cols, f32 or bf16), for passes that hold a block at a time. */
int param_read(const struct ptable *t, const struct param *p, const struct st_model *m, void *dst, int dtype,
		struct err *e);
/* Elements [at, at + n) of one parameter, which must lie within a segment. */
void param_read_at(const struct ptable *t, const struct param *p, const struct st_model *m, int64_t at, int64_t n, float *out);
/* Elements [off, off + n) of the arena, whatever they belong to, of a checked model; padding is left as it is; and what becomes of
 * their pages: read soon, or let go of (reading lets go too, but neighbours may bring some back). */
void params_read_range(const struct ptable *t, const struct st_model *m, int64_t off, int64_t n, void *dst, int dtype);
void params_advise_range(const struct ptable *t, const struct st_model *m, int64_t off, int64_t n, bool soon);
/* Opens dir, checks it against the table and hands every parameter to each(): in order, or from several threads at once. */
int params_each(const struct ptable *t, const char *dir, int threads,
		int (*each)(void *arg, const struct param *p, const struct st_model *m, struct err *e), void *arg, struct err *e);
/* Weights of a model directory into a flat arena of the table's layout: dst is f32 or bf16 (enum dtype), n = t->elems.
 * Reads by mmap and converts on the way.  Blocks outside [layer0, layer1) are left untouched; the rest is always read. */
int params_load(const struct ptable *t, const char *dir, void *dst, int dtype, int64_t layer0, int64_t layer1,
		struct err *e);
/* A complete model directory: config, generation config, tokenizer files copied from `from` (may be NULL), model card,
 * model.safetensors in dtype "bfloat16" | "float32" | "float16"; atomic.  Weights come from the f32 arena src, or piece by
 * piece from `make`, which fills elements [at, at + n) of parameter p, in order; shards of shard_bytes (0: 5 GB). */
struct model_card {
	const char *title;             /* first line of the README */
	const char *origin;            /* base model directory or name */
	const char *commands;          /* how it was made, one command a line */
	const char *notes;             /* Markdown, may be NULL */
};
int params_save(const struct ptable *t, const float *src, const char *outdir, const char *from, const char *dtype,
		const struct model_card *card, bool force, struct err *e);
typedef void params_make(void *arg, const struct param *p, int64_t at, int64_t n, float *out);
int params_save_made(const struct ptable *t, params_make *make, void *arg, int64_t shard_bytes, const char *outdir,
		const char *from, const char *dtype, const struct model_card *card, bool force, struct err *e);
/* Identity of a model for rankings and provenance: XXH3-128 over the canonical config shape and, per tensor in name order,
 * name, shape, dtype and content sampled (first and last 64 KiB and size), hex. */
int model_fingerprint(const char *dir, char out[33], struct err *e);
#endif
