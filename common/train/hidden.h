/*
 * hidden.h - losses between hidden states of teacher and student, at mapped places
 *
 *	L_is = sum over terms of  w / pairs * sum over its pairs of  loss(h_s P', h_t)       means over labelled positions
 *	total = L_logits + alpha L_is,  alpha = 1, or L_logits / L_is of each micro-batch as a constant (arXiv 2407.14679)
 *
 * P [teacher width, student width] is learned where the widths differ, shared by all pairs or one for each.  A relation
 * (kernels.h) compares how positions relate to each other through their queries, keys or values, cut into as many relation
 * heads on both sides, so it needs no P.
 *
 *	SPEC = TERM[;TERM...]     TERM = cosine|mse|relation[:W]@PAIR[,PAIR...]     PAIR = emb | [SITE.]S:T | [SITE.]uniform
 *	SITE = norm (default: after the block, normalised as its reader sees it) | in (block input) | out (block output) |
 *	       mlp (output of the MLP, before it is added);  of relation: q | k | v, without it all three are pairs
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
	int part;                      /* of a relation: 0 queries, 1 keys, 2 values */
};
struct hidden {
	int n, terms;                  /* pairs, terms; 0: no such loss */
	struct hidden_pair pair[MAX_PAIRS];
	struct { int opcode, pairs; double weight; } term[MAX_TERMS]; /* OP_MSE, OP_COSINE, OP_RELATION */
	bool dynamic;                  /* alpha */
	int64_t heads;                 /* of relations; 0: hidden_settle takes the most up to 64 that leave 16 columns to each */
	bool per_pair;                 /* a projection of its own for each pair */
};
/* Blocks of student and teacher bound the numbers.  EXIT_USAGE. */
int hidden_parse(struct hidden *h, const char *spec, int64_t student, int64_t teacher, struct err *e);
static inline bool hidden_projects(const struct hidden *h, int pair) /* its values may have different widths */
{
	return h->term[h->pair[pair].term].opcode != OP_RELATION;
}
/* Settles the number of relation heads for these two models.  EXIT_USAGE where it does not divide a width. */
int hidden_settle(struct hidden *h, const struct arch *student, const struct arch *teacher, struct err *e);
/* Of pair q in sequences of T rows */
struct relation hidden_relation(const struct hidden *h, const struct hidden_pair *q, const struct arch *student,
				const struct arch *teacher, int64_t T);
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
