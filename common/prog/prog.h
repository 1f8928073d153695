/*
 * prog.h - a transformer as a straight-line program
 *
 * forward.c records the forward pass once, one fused op per line.  Passes then work on the flat list: prog_grad appends
 * the backward pass with one rule per op (re-emitting a block's forward first when recomputing), prog_plan places every
 * value by first write and last read, prog_check proves the result, prog_run walks it.  Nothing is allocated and no shape
 * is computed while it runs: what prog_explain prints is what executes.
 *
 * One program may hold several models (teacher and student), each with its own parameter space.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_PROG_H
#define ADZE_PROG_H
#include "../comm/comm.h"
#include "../model/split.h"

typedef struct {
	int32_t id;            /* handle; 0 means none */
} val;
static const val NONE = { 0 };

enum opcode {
#define OP(name, in, out, doc) OP_##name,
#include "ops.def"
#undef OP
	OP_COUNT
};
/* Where a value lives.  ACT is one arena laid out by prog_plan; PARAM*, GRAD and STATE are bound by the program's owner.
 * SHARD is what a process keeps of gradients that prog_overlap sums.  STATE outlives a run, and programs of one model recorded with the same cache share it. */
enum space {
	SP_ACT, SP_INPUT, SP_CONST, SP_STAT, SP_PARAM, SP_PARAM_T, SP_GRAD, SP_SHARD, SP_STATE, SP_COUNT
};
enum { MAX_IN = 6, MAX_OUT = 3, N_COEF = LOSS_KINDS + 32 };
enum { SPLIT_ROWS = 1, SPLIT_COLS = 2 };

struct weight_source;
struct value {
	const char *name;      /* "blk.3.mlp.up"; owned by the program */
	int64_t rows, cols;
	int64_t off;           /* bytes into its space */
	int32_t space, dtype;
	int32_t train;         /* a gradient must reach it */
	int32_t keep;          /* read by the owner after the run: never overwritten */
	int32_t grad;          /* id of its gradient, 0: none yet */
	int32_t within;        /* of a gradient or a weight: the bucket, the piece that it is a part of (its own id: is one), 0: none */
	int32_t split;         /* SPLIT_*: other tensor parallel processes have others of its rows, columns (split.h) */
	int32_t partial;       /* of a parameter: each process has a summand of its gradient */
	int32_t def, last;     /* first write, last access (op indices), set by prog_plan */
};
struct op {
	int16_t code, acc;     /* acc: add into the `~` output */
	int32_t block;         /* block that it belongs to, -1: none */
	val in[MAX_IN], out[MAX_OUT];
	int32_t arg;           /* norm, act kind; unit of a statistic; coefficient slot of a loss */
	float f;               /* eps, scale */
	int32_t geom;          /* index of its attention geometry, or relation */
};

/* What a stage attaches to a site. */
enum probe_what { PROBE_STAT, PROBE_MASK, PROBE_KEEP };
struct probe {
	int site, layer;       /* layer -1: all */
	int what;
	int unit;              /* PROBE_STAT: columns per unit (head_dim for norm-first heads), 1: channels */
	const float *z;        /* PROBE_MASK: axis_units values */
};

/* Parts of a block that a program leaves out: all of it, or a half with its norm. */
enum { DROP_LAYER = 1, DROP_ATTN = 2, DROP_FFN = 4 };

/* A low-rank sum beside a linear of weight `base`: scale (x A') B' is added to its output's columns [at, at + b.rows). */
struct adapter {
	const struct param *base;
	int64_t at;
	struct param a, b;     /* A [rank, columns of base], B [some rows of base, rank]; behind the table, in its space */
};

/* One model inside a program. */
struct build {
	const struct ptable *t;
	int dtype;             /* of weights and of the inputs of linears; the residual stream is always f32 */
	int e4m3;              /* its blocks' linears have weights in 8 bits (build_quantise) where those of dtype would lie */
	int wide;              /* outputs of the qkv and up projections in f32: nearer to f32 results, more memory traffic */
	int space;             /* SP_PARAM or SP_PARAM_T */
	const char *prefix;    /* of value names, "" or "t." */
	int64_t blk0, blk1;    /* blocks [blk0, blk1); 0, layers for the whole model */
	val start;             /* [N,1] i32: first position that each row attends to (packed documents), or NONE */
	int slice;             /* no embedding before blk0, no final norm after blk1: blocks alone */
	const uint8_t *drop;   /* [layers] DROP_* bits: what is left out; or NULL */
	const float *hidden_mask; /* [hidden] 0/1 or NULL: see kernels.h norm */
	const struct probe *probe;
	int n_probe;
	int train;             /* record gradients for its parameters */
	const uint8_t *frozen; /* per parameter of t, or NULL */
	const struct adapter *adapter;
	int n_adapter;
	float adapter_scale;
	int layer_stats;       /* block, attention and MLP cosines */
	val node;              /* [past+N,2] rows packed as a forest (kernels.h, attn_tree), or NONE; B is 1 then */
	int64_t past;          /* with node: rows of every block's qkv that stand before, state of a program that kept them; 0: none */
	val pick;              /* [M,1] i32: the rows whose results are wanted, or NONE: all.  The last block goes on with them behind its attention */
	int keep_past;         /* without node: every block's qkv is kept as that state */
	val at;                /* [N,2] slot and position of each row in a cache of slots x kv_len, or NONE: whole sequences */
	int64_t slots, kv_len;
	int group_stats;       /* what each query group adds to the residual stream */
};

struct prog {
	struct arena names;
	struct value *v;       /* v[0] unused */
	int nv, cap_v;
	struct op *op;
	int n, cap_op;
	struct attn_geom *geom;
	int n_geom;
	struct relation *rel;  /* of relation losses, likewise */
	int n_rel;
	int64_t B, T;
	struct comm *tp;       /* processes that the models in it are spread over, set before recording; NULL: alone */
	int64_t vocab;         /* rows of the output matrices (all parts) that are tokens, the others are padding: -inf; 0: all are tokens */
	int mark;              /* an op index that the owner remembers: passes that insert ops move it along */
	int n_forward;         /* ops before prog_grad appended the backward */
	int cur_block;
	const struct ptable *table[SP_COUNT]; /* whose parameters PARAM and PARAM_T hold */
	int64_t bytes[SP_COUNT]; /* size of ACT, INPUT, CONST, STAT after prog_plan; of the others while recording */
	float coef[N_COEF];    /* run-time scalars: weights of the losses of the head, then of inner losses */
	struct kd_head_args head; /* the head's other run-time scalars: tau, beta, tail, wsl */
	const float **konst;   /* host data of CONST values, by value id */
};

struct prog *prog_new(int64_t B, int64_t T);
void prog_free(struct prog *p);

/* Recorders: check shapes (BUG on our mistakes), append ops, return the result. */
val p_input(struct prog *p, const char *name, int64_t rows, int64_t cols, int dtype);
val p_const(struct prog *p, const char *name, int64_t rows, int64_t cols, const float *host_new); /* takes ownership */
val p_stat(struct prog *p, const char *name, int64_t rows, int64_t cols);                          /* f64 sums */
val p_param(struct prog *p, const struct build *b, const char *name);
/* A parameter that is no part of the model b, behind its table in the same space: element off (a multiple of 32). */
val p_param_beside(struct prog *p, const struct build *b, const char *name, int64_t rows, int64_t cols, int64_t off);
val p_embed(struct prog *p, val tok, val W, float scale);
val p_rows(struct prog *p, val pick, val x); /* rows of a value, in its own type */
val p_norm(struct prog *p, val x, val w, val bias, val z, int kind, float eps, int dtype);
val p_qknorm(struct prog *p, val qkv, val wq, val wk, const struct attn_geom *g, int kind, float eps, int dtype);
val p_linear(struct prog *p, val x, val W, val bias, val res, int dtype);
val p_lora(struct prog *p, val y, val x, val A, val B, int64_t at, float scale);
val p_attn(struct prog *p, val qkv, val rope, val start, const struct attn_geom *g, int dtype);
/* past: rows that stand before, or NONE */
val p_attn_tree(struct prog *p, val qkv, val past, val rope, val node, const struct attn_geom *g, int dtype);
/* Rows anywhere in the sequences of a cache (g->B slots of g->T positions); the cache is new state of type kv_dtype. */
val p_attn_kv(struct prog *p, val qkv, val rope, val at, const struct attn_geom *g, int kv_dtype, int dtype);
/* Rows of state that outlive a run: values of programs that make the same ones in the same order are the same memory. */
val p_state(struct prog *p, const char *name, int64_t rows, int64_t cols, int dtype);
void p_copy(struct prog *p, val to, val from);
val p_act(struct prog *p, val x, int kind, int dtype);
val p_add(struct prog *p, val a, val b);
val p_mask(struct prog *p, val x, val z);
val p_site(struct prog *p, const struct build *b, val x, int site, int64_t layer);
/* Records blocks of one model.  x: NONE and tok given when blk0 == 0, else the residual stream.  Returns the final
 * norm's output when blk1 == layers, else the residual stream. */
val p_forward(struct prog *p, const struct build *b, val tok, val x);
val p_head_weight(struct prog *p, const struct build *b);  /* output matrix, tied or not */
/* Losses: weights are p->coef[LOSS_*], the rest p->head at run time.  Returns the f64 sums [1, LOSS_KINDS].
 * With ht NONE only CE is computed; the teacher's best K (ids, logp of p_topk, or inputs like them) may stand for ht, Wt. */
val p_kd_head(struct prog *p, val hs, val Ws, val ht, val Wt, val label);
/* Best K at p->head.tau: returns ids [N,K] i32, *logp is [N,K+1] f32 */
val p_topk(struct prog *p, val h, val W, val label, int64_t K, val *logp);
/* Inner loss between kept values (same shape) over the rows with a label; weight p->coef[slot], slot -1: the value alone.
 * Returns the f64 sum [1,1]. */
val p_inner_loss(struct prog *p, int opcode, val a, val b, val label, int slot);
/* Likewise between relations of rows of a and b; start: as p_attn's */
val p_relation(struct prog *p, val a, val b, val label, val start, int slot, const struct relation *r);
val p_logprob(struct prog *p, val h, val W, val label);

void p_keep(struct prog *p, val v);
val prog_find(const struct prog *p, const char *name);     /* NONE when absent */

/* Passes, in this order. */
/* What of a block the backward pass computes again instead of finding it stored: nothing, norms and activation functions, all */
enum recompute { RECOMPUTE_NONE, RECOMPUTE_NORMS, RECOMPUTE_FULL };
void prog_grad(struct prog *p, int recompute);
/* A run of the arena of gradients, elements [off, off + n), whose sum over processes each needs a slice of: n = each times
 * processes, its own slice lies at `at` of what it keeps. */
struct grad_bucket {
	int64_t off, n, each, at;
};
/* With several processes, if asked for: sums gradients as the backward pass completes buckets, which hold all of them; what
 * is not complete yet shares the memory SP_GRAD, slices are added to SP_SHARD.  frame.comm must be set. */
void prog_overlap(struct prog *p, const struct grad_bucket *b, int n);
int prog_plan(struct prog *p, struct err *e);
int prog_check(const struct prog *p, struct err *e);
void prog_explain(const struct prog *p, FILE *f);

/* Running. */
struct engine {                /* a backend and its device */
	const struct kernels *k;
	struct dev *d;
	int threads;
};
/* device: auto|cpu|cuda[:N]|ref */
int engine_open(struct engine *g, const char *device, int threads, struct err *e);
void engine_close(struct engine *g);
/* As param_read, into device memory, in place where the host can write it; as params_load, all blocks of a model. */
int engine_read(const struct engine *g, const struct ptable *t, const struct param *p, const struct st_model *m, void *dst,
		int dtype, struct err *e);
int engine_load(const struct engine *g, const struct ptable *t, const char *dir, void *dst, int dtype, struct err *e);

/* The backend notes the scratch of p's products, attention and head: between plan(1) and plan(0) of kernels.h */
void prog_note(const struct prog *p, const struct engine *g);

struct frame {                 /* memory of one program on one engine */
	const struct engine *g;
	const struct prog *p;
	char *base[SP_COUNT];  /* ACT, INPUT, CONST, STAT owned; PARAM*, GRAD, STATE bound by the owner */
	struct comm *comm;     /* of a program with sums over processes, bound by the owner */
	int ticket;            /* of the sum that is under way */
	struct weight_source *source; /* of a program with weights that lie elsewhere (stream.h), likewise */
	int lent;              /* ACT is somebody else's */
	float *live;           /* device memory [N_COEF] with p->coef, kept up by the owner where a run is captured; or NULL */
};
int frame_new(struct frame *f, const struct engine *g, const struct prog *p, struct err *e);
/* With the activations in act, at least p->bytes[SP_ACT]: programs that never run at the same time may share it */
int frame_new_in(struct frame *f, const struct engine *g, const struct prog *p, void *act, struct err *e);
void frame_free(struct frame *f);
void frame_set(struct frame *f, val v, const void *host);  /* uploads a whole value */
mat frame_mat(const struct frame *f, val v);
void frame_zero_stats(struct frame *f);
void frame_get(const struct frame *f, val v, void *host);
void prog_run(struct frame *f);
void prog_run_part(struct frame *f, int from, int to);
static inline size_t value_bytes(const struct value *v)
{
	return (size_t)v->rows * (size_t)v->cols * dtype_size(v->dtype);
}

/* A model's weights on an engine. */
struct weights {
	struct ptable *t;      /* owned */
	void *w;               /* t->elems of dtype, device memory */
	int dtype;
	const struct engine *g;
};
/* Rounds them where they lie: w of dtype in the table's layout */
void build_quantise(const struct engine *g, const struct ptable *t, void *w, int dtype);
int weights_load(struct weights *m, const struct engine *g, const char *dir, int dtype, struct err *e);
void weights_free(struct weights *m);
int dtype_parse(const char *word); /* "f32" | "bf16" */
#endif
