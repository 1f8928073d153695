/*
 * trainer.h - one optimizer step of a student, with or without a teacher
 *
 *	struct trainer t;
 *	trainer_plan(&t, student, teacher, &spec, e);      records and lays out both programs; memory is known from here
 *	trainer_alloc(&t, &engine, e);                     trainer_load, or trainer_put, then trainer_sync(&t)
 *	trainer_step(&t, ids, labels, lr, &r);             forward, backward, clip, AdamW
 *
 * The training program holds the teacher's forward pass (no gradients), the student's forward pass, the chunked head
 * that compares them and the student's backward pass; it runs once per micro-batch and gradients add up.  A second,
 * forward-only program measures held-out text.  Master weights, moments and gradients are f32 arenas of the parameter
 * table's layout; with bf16 arithmetic there is a bf16 copy that the optimizer refreshes.
 *
 *	g = sum over micro-batches of  d/dw sum_rows weight_k loss_k / labels,   labels of the whole step
 *	g *= min(1, clip / (|g| + 1e-6));   AdamW(w, m, v, g), decay on matrices only
 *
 * Frozen parameters (spec.choice) have no gradient, no moments, no master copy beside bf16 weights and no share in |g|.
 * Several processes share the micro-batches of a step; sums and gradients are added up before clipping, so all of them make
 * the same update; with spec.zero each makes a part of it and keeps the master weights, moments and (2) gradients of that part
 * alone.  Nothing is allocated in a step.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_TRAINER_H
#define ADZE_TRAINER_H
#include "../comm/comm.h"
#include "../prog/stream.h"
#include "batches.h"
#include "hidden.h"
#include "lora.h"
#include "losses.h"
#include "shard.h"
#include "states.h"
#include "trained.h"

/* Where the teacher's weights are: all of them on every device; a part of each block on each of a node; in the files that they come from */
enum teacher_place { TEACHER_RESIDENT, TEACHER_SHARDED, TEACHER_HOST };
struct trainer_spec {
	struct objective loss;
	struct choice choice;          /* of what is trained */
	struct lora lora;              /* with targets, only those adapters and what choice.train names */
	struct hidden hidden;
	int64_t cached;                /* best tokens of a cached teacher, which stands for the teacher; 0: none */
	int64_t cached_width;          /* columns of its cached hidden states, of the teacher only the output matrix; 0: none */
	int64_t vocab;                 /* tokens of both models, what their matrices have beyond is padding; 0: all, and alike */
	int64_t seq, micro, batch;     /* sequences of a micro-batch, of a step; micro divides batch */
	int dtype;                     /* of weights and activations in the programs */
	bool apart;                    /* packed documents do not see each other; doc_end: the id that closes one */
	int64_t doc_end;
	int recompute;                 /* enum recompute */
	double clip;                   /* of the global norm; 0: none */
	double beta1, beta2, eps, weight_decay;
	const char *no_decay;          /* patterns (trained.h) of what is not decayed, besides vectors; or NULL */
	bool low_moments;              /* moments in bf16 */
	bool nearest;                  /* rounded to nearest instead of at random by (seed, step, element) */
	uint64_t seed;
	double ema;                    /* decay of the moving average of the weights; 0: none */
	struct comm *world;            /* all processes; NULL: alone */
	struct comm *tp;               /* those that both models are spread over (split.h); NULL: every process has them whole */
	struct comm *dp;               /* those that share the micro-batches of a step; NULL: all */
	struct comm *node;             /* those that share a teacher between them (place); NULL: none */
	bool pairs;                    /* sums over a step's micro-batches have the same bits on 1, 2, 4, 8 ... processes (trainer_pairs.c) */
	int zero;                      /* what dp shares out: 1 weights and moments, 2 gradients too */
	bool offload;                  /* master weights, moments and average in the host's memory (states.h) */
	enum teacher_place place;
	bool correct;                  /* the teacher will be trained too (correct.h) */
	bool teacher_e4m3;             /* the teacher's blocks in 8 bits */
	bool graph;                    /* the backend captures a micro-batch and the update once and replays them (trainer_once.c) */
};
struct lent {                          /* a bucket that process 0 asked for (trainer_get) */
	float *x;
	int64_t request;
};
struct recorded {                      /* work that may be captured */
	void *graph;                   /* the backend's, NULL: none */
	bool ready;                    /* ran once, so that all that it needs is there */
};
struct span {
	int64_t off, n;
	int decay;
};
struct pass {                          /* a program with its memory and the handles that the trainer feeds and reads */
	struct prog *p;
	struct frame f;
	val tok, label, sums;
	val start;                     /* where each token's document begins, or none */
	val ids, logp;                 /* inputs: the cached teacher's best tokens, or none */
	val hidden;                    /* input: its hidden states, or none */
	val inner[MAX_PAIRS];          /* sums of the hidden losses */
	int split;                     /* first op that needs alpha */
};
struct trainer {
	struct trainer_spec o;
	struct ptable *student, *teacher; /* of split and taught; teacher NULL: conventional training */
	struct split split, taught;    /* both models in their files and here */
	const struct engine *g;
	struct trainer *corrected;     /* whose weights the teacher's are (correct.h), NULL: the teacher stays as it is */
	struct comm *world, *dp, *tp, *node; /* as in o */
	bool together;                 /* programs exchange, somewhere: all processes run one or none does */
	int32_t *own_ids;              /* with tp [micro*seq]: ids that count from our first token, < 0 for others'; owned */
	struct shard shard;            /* what of the trained this process keeps */
	int *ticket;                   /* [shard.n]; owned */
	struct lent *lent;             /* owned */
	uint8_t *frozen;               /* [student->n]; owned */
	struct param *proj;            /* projections of hidden losses; owned */
	int n_proj;
	struct adapter *adapter;       /* low-rank, of frozen linears; owned */
	int n_adapter;
	float adapter_scale;
	const struct param **param;    /* all that is trained, in the order of the arenas; owned */
	int n_param;
	int64_t trained, elems;        /* elements: of the trained, which come first; with the frozen (trained.h) */
	float *w;                      /* device: elems, with wb shard.kept; NULL, as m, v and ema, where off has it */
	void *m, *v;                   /* device, shard.kept: f32, or bf16 with low_moments */
	float *grad;                   /* device: trained, with zero 2 shard.kept */
	float *pair_saved;             /* device, with pairs: sums of gradients that wait for another, and those of all processes */
	double *pair_sums;             /* host, likewise: losses of each micro-batch; owned */
	float *pool;                   /* device: buckets of gradients under way, with zero 2 */
	float *ema;                    /* device, shard.kept; NULL: none */
	struct offload off;
	uint16_t *wb;                  /* device, elems: bf16 weights, the trained a copy of w; NULL with f32 arithmetic */
	int32_t *starts;               /* host, [micro*seq] */
	void *tw;                      /* device, teacher->elems of dtype, or the pieces that are there (stream.h) */
	struct weight_source *source;         /* where those come from; owned.  NULL: all are there */
	struct pass train, eval;
	struct step_now *now;          /* device: what an update reads */
	double lr;                     /* of the step under way */
	double sumsq;                  /* of the gradient, where its norm was needed before the update */
	void (*meanwhile)(void *);     /* or NULL: called when a step is under way on the device, which the host then waits for */
	void *meanwhile_arg;
	struct recorded micro, update; /* the training program; the norm and AdamW */
	void *act;                     /* activations of the one that runs */
	struct span *span;             /* runs of parameters with equal decay */
	int n_span;
	const int32_t *best_ids;       /* [batch*seq, cached] and [batch*seq, cached+1]: of the next step, set by the owner */
	const float *best_logp;
	const uint16_t *cached_hidden; /* [batch*seq, cached_width] bf16, likewise */
	int64_t updates;               /* optimizer updates done: AdamW's step count */
	int64_t skipped, skipped_row;  /* steps without an update because of NaN or Inf: in all, in a row */
};
struct step_result {
	double mean[LOSS_KINDS], loss; /* over the labelled positions; loss is the weighted total */
	double hidden, alpha;          /* L_is, and its factor in the loss */
	double grad_norm;              /* before clipping */
	int64_t labels;
	int skipped;
};

/* States of the optimizer (trainer_states.c): their type; bytes of one in all, of w also where it is what computes, 0: there is none;
 * how they are cut with that engine, without memory (bytes 0: they lie on the device) */
int state_type(const struct trainer *t, enum state a);
size_t state_bytes(const struct trainer *t, enum state a);
struct offload states_cut(const struct trainer *t, const struct engine *g);
/* Elements of q that are kept here, between steps; of w with f32 arithmetic by q.off, else by q.at */
void state_get(const struct trainer *t, enum state a, const struct piece *q, void *out);
void state_put(struct trainer *t, enum state a, const struct piece *q, const void *in);
/* Of grad; of pool; of act */
static inline size_t trainer_grad_bytes(const struct trainer *t) { return (size_t)(t->o.zero == 2 ? t->shard.kept : t->trained) * 4; }
static inline size_t trainer_pool_bytes(const struct trainer *t) { return t->o.zero == 2 ? (size_t)t->train.p->bytes[SP_GRAD] : 0; }
static inline size_t trainer_act_bytes(const struct trainer *t)
{
	int64_t a = t->train.p->bytes[SP_ACT], b = t->eval.p->bytes[SP_ACT];
	return (size_t)(a > b ? a : b);
}
/* Of pair_saved */
size_t trainer_pairs_bytes(const struct trainer *t);
/* Of tw */
size_t trainer_teacher_bytes(const struct trainer *t);
/* A teacher that does not lie whole on the device: its program fetches weights (trainer_teacher.c) */
void teacher_record(const struct trainer *t, struct prog *p);
struct build teacher_build(const struct trainer *t, const struct pass *s); /* the teacher as recorded in a program */
int teacher_load(struct trainer *t, const char *dir, struct err *e);
/* What is held besides tw, on that engine: one's own part, buffers on the way */
double teacher_held_bytes(const struct trainer *t, const struct engine *g);
/* Whether other processes than the first have something of a checkpoint */
static inline bool trainer_in_parts(const struct trainer *t) { return !t->shard.whole || t->tp; }
/* Number of a trained parameter in both tables of a student that is spread over processes; else it does not matter */
static inline int trainer_number(const struct trainer *t, const struct param *p) { return t->tp ? (int)(p - t->student->p) : 0; }
/* Elements that it has in all */
static inline int64_t trainer_elems(const struct trainer *t, const struct param *p)
{
	p = t->tp ? &t->split.whole->p[trainer_number(t, p)] : p;
	return p->rows * p->cols;
}
/* Whether the teacher itself runs: then held-out text has teacher's terms as well */
static inline bool trainer_runs_teacher(const struct trainer *t) { return t->teacher && !t->o.cached_width; }
static inline bool trainer_trains(const struct trainer *t, const struct param *p) { return p->off < t->trained; }
/* Of elements [off, off + n) of the trained, within one bucket: f32 values into the master weights where they are kept */
void trainer_put(struct trainer *t, int64_t off, int64_t n, const float *host);
/* And out of them, or of their average, wherever they are kept: on process 0, while the others are in trainer_serve, which
 * they leave when process 0 says trainer_served.  Where every process keeps all, both do nothing. */
void trainer_get(const struct trainer *t, enum weights_of of, int64_t off, int64_t n, float *out);
void trainer_serve(const struct trainer *t);
void trainer_served(const struct trainer *t);
/* The weights of both models from their directories (teacher NULL: none); trainer_sync is left to the caller. */
int trainer_load(struct trainer *t, const char *student, const char *teacher, struct err *e);
/* A complete model directory of the student as it is, or of its average, see params_save; `from`: where it was loaded from.
 * Ends with trainer_served. */
int trainer_export(const struct trainer *t, enum weights_of of, const char *from, const char *out, const char *dtype, const struct model_card *card,
		   struct err *e);
/* Fills the projections in t->w: kept as for hidden_projection. */
void trainer_projections(struct trainer *t, const int64_t *kept, uint64_t seed);
/* Takes both tables, those of the files, in every case.  Refuses different vocabularies (EXIT_DATA). */
int trainer_plan(struct trainer *t, struct ptable *student, struct ptable *teacher, const struct trainer_spec *o,
		 struct err *e);
int trainer_alloc(struct trainer *t, const struct engine *g, struct err *e);
void trainer_free(struct trainer *t);
/* After t->w was filled from outside: refreshes what is derived from it.  All processes. */
void trainer_sync(struct trainer *t);
/* ids, labels [batch*seq].  1: stop_requested() between micro-batches, nothing was changed. */
int trainer_step(struct trainer *t, const int32_t *ids, const int32_t *labels, double lr, struct step_result *r);
/* The two halves of it: forward and backward only, gradients into t->grad, returns as trainer_step; and the update. */
int trainer_gradients(struct trainer *t, const int32_t *ids, const int32_t *labels, struct step_result *r);
void trainer_apply(struct trainer *t, double lr, struct step_result *r);
/* Means over the first n windows of b (n <= b->n), no gradients; ids, labels: scratch [micro*seq] (measure.c). */
void trainer_measure(struct trainer *t, const struct batches *b, int64_t n, int32_t *ids, int32_t *labels,
		     struct step_result *r);
/* r [sets]: the same of the teacher alone, CE only */
int trainer_measure_teacher(struct trainer *t, const struct batches *const b[], const int64_t n[], int sets,
			    struct step_result *r, struct err *e);
/* Feeds a micro-batch: ids, labels [micro*seq], and what follows from the ids */
void pass_feed(const struct trainer *t, struct pass *s, const int32_t *ids, const int32_t *labels);
/* A program that computes that loss; records these inputs */
void pass_begin(const struct trainer *t, struct pass *s, const struct objective *o);
/* x [rows,cols], of which each process has some rows and zeros elsewhere: all of it, and their sum [cols] in the order of the rows */
void add_in_order(struct comm *c, double *x, int64_t rows, int64_t cols, double *sum);
/* Weights of the losses for gradients that are means over so many labels; means of what has been summed up since */
void pass_weights(const struct pass *s, const struct objective *o, int64_t labels);
void pass_means(const struct trainer *t, const struct pass *s, struct step_result *r);

#endif
