/*
 * select.h - which of a stream of shapes to keep: all, the first K by a column, or the Pareto front
 *
 * Shapes arrive as lines: all sizes but ffn fixed, ffn rising, so that every column rises along the line (or stays).  That
 * lets the first K skip what cannot enter by bisection, and the front skip whole stretches whose best corner is beaten.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_SELECT_H
#define ADZE_SELECT_H
#include "search.h"

struct line {
	struct cost cost;              /* all but ffn fixed */
	struct shape fixed;            /* sizes without ffn, id of index 0 (may be below 1) */
	const int64_t *ffn;
	int64_t n;
};
double line_value(const struct line *l, int column, int64_t i);
/* First index from which `column` is >= v (above: > v); n when none is. */
int64_t line_bound(const struct line *l, int column, double v, bool above);

struct front_key { double v[FRONT_COLUMNS]; int64_t at; };     /* larger is better */
struct selection {
	const struct query *q;
	struct shape *s;               /* list, heap (worst first), or what the front's keys point to */
	int64_t n, room;
	struct front_key *key;         /* by falling v[0] */
	int64_t n_key;
};
/* Shapes [lo, hi) of the line. */
int selection_add(struct selection *sel, const struct line *l, int64_t lo, int64_t hi, struct err *e);
/* The result in sel->s, in the order of q->by; frees the rest. */
void selection_end(struct selection *sel);
#endif
