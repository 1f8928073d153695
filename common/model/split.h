/*
 * split.h - a model spread over several processes: which rows and columns of every parameter are whose (tensor parallel)
 *
 * An axis that axes.def marks is cut into `size` runs of equally many units (heads, kv-heads, neurons, tokens), and process
 * `rank` has one run of each.  The shape that it computes with is the model's with these units divided, its table of
 * parameters follows from that shape as any other; what of the model's files is in it follows from the axes of rows and
 * columns.  Rows and columns of other axes all processes have.
 *
 *	q, k, v, gate, up   rows        o, down   columns        embedding, output matrix   rows        norms   all
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_SPLIT_H
#define ADZE_SPLIT_H
#include "params.h"

struct split {
	struct ptable *whole, *own;    /* of the files; of this process (the same where size is 1); owned */
	int rank, size;
};
bool axis_split(int axis);
bool row_split(const struct prow *r);                          /* rows or columns */
/* The shape of one process.  EXIT_USAGE: units that `size` does not divide, by name. */
int arch_split(struct arch *a, int size, struct err *e);
/* Takes the table; refuses as arch_split. */
int split_init(struct split *s, struct ptable *whole, int rank, int size, struct err *e);
void split_free(struct split *s);
/* Own element `at` of parameter i is element *there of the whole; how many from there on, up to n, lie side by side in both */
int64_t split_out(const struct split *s, int i, int64_t at, int64_t n, int64_t *there);
/* The first of elements [*there, *there + n) of whole parameter i that are our own, from *at on: how many lie side by side
 * in both, and *there moves to them.  0: none is */
int64_t split_in(const struct split *s, int i, int64_t *there, int64_t n, int64_t *at);
#endif
