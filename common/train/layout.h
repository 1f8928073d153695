/*
 * layout.h - how a distillation would lie on many GPUs: bytes of each by kind, traffic, time, and the first layout that fits
 *
 * Nothing is measured here: these are the counts of bytes and operations that data-parallel training with sharded states
 * (ZeRO, arXiv 1910.02054) implies for these shapes; activations as in arXiv 2205.05198 without T x T scores.
 *
 *	student   18 P replicated; sharded over d: (6 + 12/d) P, (2 + 16/d) P, 18 P/d + two gathered blocks   (ZeRO 1, 2, 3)
 *	          ZeRO 2 also holds gradients that are not complete or under way (prog_overlap): the output matrix's and a block's,
 *	          or two blocks', and a tied matrix's all along; with bf16 gradients 2 P less; the optimizer on the host: 12 P/d go there, and
 *	          come and go once a step, behind the last micro-batch; two pieces of them are on the GPU (states.h)
 *	teacher   2 Pt whole, 2 Pt / GPUs of a node (or of --teacher-group) + two neighbouring pieces (2 bytes a parameter of a block and of the
 *		  output matrix, or of two blocks: stream.h), those two alone (on the host), or nothing (cached)
 *	step      (2 Pt + 6 P) FLOPs a token, 8 P with full recomputation
 *
 * Tensor parallel over t of them (split.h): shapes are those of one process, its P, Pt about a t-th, and d is world / t.  The residual
 * stream stays whole; a micro-batch sums it up, f32 [tokens, hidden], 2 (t - 1) / t of it sent each time: twice a block forward and
 * twice backward, in the embedding and in the head, whose rows exchange 18 sums.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_LAYOUT_H
#define ADZE_LAYOUT_H
#include "../prog/prog.h"

struct layout {
	int zero;              /* 0..3 */
	bool sharded_teacher;  /* over the GPUs of a node, or of a cluster's group */
	bool bf16_grads;
	int recompute;
	bool offload;          /* master weights and moments in the host's memory */
	bool host_teacher;     /* block by block from the host's memory */
};
struct cluster {
	int64_t world, per_node;       /* GPUs; GPUs of a node */
	double memory;                 /* bytes of one */
	double flops;                  /* that one achieves a second, in bf16 products */
	double link_node, link_net;    /* bytes a second and GPU, within a node and between nodes */
	int64_t tp;                    /* neighbours that the models are spread over; 0 or 1: none are */
	int64_t group;                 /* neighbours that a teacher is sharded over; 0: those of a node */
};
struct run_shape {
	const struct arch *teacher, *student; /* what one GPU has of them; teacher NULL: none, or cached */
	int64_t seq, batch, micro;     /* micro: sequences of a micro-batch of one GPU */
	double tokens;                 /* of the whole training */
};
enum { NEED_STUDENT, NEED_TEACHER, NEED_ACTIVATIONS, NEED_HEAD, NEED_CONTEXT, NEED_KINDS };
struct need {
	double bytes[NEED_KINDS], sum; /* of one GPU */
	double host;                   /* of the host's memory, a GPU */
	double sent_node, sent_net;    /* bytes sent, a step and GPU: within the node, between nodes */
	double teacher_node, teacher_net; /* of these a sharded teacher's weights */
	double from_host, to_host;     /* bytes over PCIe, a step and GPU */
	double step_flops, seconds;    /* of one GPU: a step; compute alone */
	double traffic;                /* seconds of the traffic if nothing hides it */
	double days;                   /* of the training: compute and what states on the host take, other traffic hidden */
};
extern const char *const need_word[];
void layout_need(const struct layout *l, const struct cluster *c, const struct run_shape *r, struct need *n);
/* Sharding first, because its traffic hides behind compute; then recomputation, which costs FLOPs; the host last.  In that
 * order every layout for this world; returns how many. */
int layout_list(const struct cluster *c, const struct run_shape *r, struct layout out[], int room);
/* "zero 2, teacher sharded in the node, bf16 gradients, full recomputation, optimizer on the host" */
char *layout_words(const struct layout *l, const struct cluster *c, const struct run_shape *r, char buf[160]);
enum { LAYOUTS_MAX = 64 };
/* The layouts as a table (or one JSON object), the first that fits marked; 0 when one fits, else EXIT_RESOURCE. */
int layout_print(FILE *f, const struct cluster *c, const struct run_shape *r, bool json);
#endif
