/*
 * hidden.h - losses between hidden states of teacher and student, at mapped places
 *
 *	L_is = sum over terms of  w / pairs * sum over its pairs of  loss(h_s P', h_t)       means over labelled positions
 *	total = L_logits + alpha L_is,  alpha = 1, or L_logits / L_is of each micro-batch as a constant (arXiv 2407.14679)
 *
 * P [teacher width, student width] is learned where the widths differ, shared by all pairs or one for each.
 *
 *	SPEC = TERM[;TERM...]     TERM = cosine|mse[:W]@PAIR[,PAIR...]     PAIR = emb | [SITE.]S:T | [SITE.]uniform
 *	SITE = norm (default: after the block, normalised as its reader sees it) | in (block input) | out (block output) |
 *	       mlp (output of the MLP, before it is added)
 *	S, T = a block of the student, of the teacher: a number from 0, last, or last-N.  uniform: every block of the student
 *	       with the teacher's that ends at the same share of the depth.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_HIDDEN_H
#define ADZE_HIDDEN_H
#include "../prog/prog.h"

enum { MAX_TERMS = 8, MAX_PAIRS = 256 };
struct place {
	int site, layer;               /* of the forward pass; layer -1: outside of the blocks */
};
struct hidden_pair {
	struct place s, t;
	int term;
};
struct hidden {
	int n, terms;                  /* pairs, terms; 0: no such loss */
	struct hidden_pair pair[MAX_PAIRS];
	struct { int opcode, pairs; double weight; } term[MAX_TERMS]; /* OP_MSE, OP_COSINE */
	bool dynamic;                  /* alpha */
	bool per_pair;                 /* a projection of its own for each pair */
};
/* Blocks of student and teacher bound the numbers.  EXIT_USAGE. */
int hidden_parse(struct hidden *h, const char *spec, int64_t student, int64_t teacher, struct err *e);
/* Probes that keep the values of one side; returns how many (at most h->n). */
int hidden_probes(const struct hidden *h, bool teacher, struct probe *out);
/* The kept value of a place */
val hidden_value(const struct prog *p, const struct hidden_pair *q, bool teacher);
/* Projection p [rows, cols] at the start: 1 where the student's channel is the teacher's kept[], else random by seed. */
void hidden_projection(float *w, int64_t rows, int64_t cols, const int64_t *kept, uint64_t seed, int index);
/* The channels of the teacher that dir/adze-kept.json says trimming kept: [n], newly allocated.  NULL: no such file, another
 * parent than `teacher` (a fingerprint), or other sizes. */
int64_t *hidden_kept_new(const char *dir, const char *teacher, int64_t n, int64_t width);
#endif
