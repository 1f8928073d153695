/*
 * split.c - dividing a shape, and the places of one process's elements in the whole
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "split.h"
#include <stdlib.h>

bool axis_split(int axis)
{
	static const bool split[AX_COUNT] = {
#define AXIS(id, word, units, width, tp) [AX_##id] = tp,
#include "axes.def"
#undef AXIS
	};
	return split[axis];
}

bool row_split(const struct prow *r)
{
	return axis_split(r->cols) || axis_split(r->seg[0].axis);
}

static int divisible(const struct arch *a, int size, struct err *e)
{
	for (int l = -1; l < a->layers; l++) {
		struct arch at = arch_at(a, l);
		for (int x = 0; x < AX_COUNT; x++)
			if (axis_split(x) && axis_units(&at, x) % size)
				return err_set(e, EXIT_USAGE, "--tp %d: the model has %s = %lld%s, which is no multiple", size, axis_word(x),
					       (long long)axis_units(&at, x), arch_uneven(a) && l >= 0 ? " in a block" : "");
	}
	return 0;
}

int arch_split(struct arch *a, int n, struct err *e)
{
	if (divisible(a, n, e))
		return -1;
#define DIVIDE_0(units)
#define DIVIDE_1(units) units /= n;
#define AXIS(id, word, units, width, tp) DIVIDE_##tp(units)
#include "axes.def"
#undef AXIS
	for (int64_t l = 0; l < a->layers; l++) {
		if (a->layer_ffn)
			a->layer_ffn[l] /= n;
		if (a->layer_heads)
			a->layer_heads[l] /= n;
	}
	return 0;
}

int split_init(struct split *s, struct ptable *whole, int rank, int size, struct err *e)
{
	struct arch a;
	*s = (struct split){ whole, whole, rank, size };
	if (size == 1)
		return 0;
	arch_copy(&a, &whole->arch);
	int rc = arch_split(&a, size, e);
	if (!rc)
		s->own = ptable_new(&a);
	arch_free(&a);
	return rc;
}

void split_free(struct split *s)
{
	if (s->own != s->whole)
		ptable_free(s->own);
	ptable_free(s->whole);
	*s = (struct split){ 0 };
}

/* One segment of a parameter in both tables: rows before it, its rows, and where our own of them begin; columns likewise */
struct part {
	int64_t before, rows, first;   /* own: rows before, rows; first of ours among its rows in the whole */
	int64_t whole_before, whole_rows;
	int64_t cols, whole_cols, first_col;
};

static struct part part_of(const struct split *s, int i, int seg)
{
	const struct param *p = &s->own->p[i], *q = &s->whole->p[i];
	struct part a = { .cols = p->cols, .whole_cols = q->cols, .first_col = axis_split(q->row->cols) ? s->rank * p->cols : 0 };
	for (int k = 0; k <= seg; k++) {
		a.before += a.rows;
		a.whole_before += a.whole_rows;
		a.rows = param_seg_rows(s->own, p, k);
		a.whole_rows = param_seg_rows(s->whole, q, k);
	}
	a.first = axis_split(q->row->seg[seg].axis) ? s->rank * a.rows : 0;
	return a;
}

int64_t split_out(const struct split *s, int i, int64_t at, int64_t n, int64_t *there)
{
	*there = at;
	if (s->size == 1)
		return n;
	int seg = 0;
	struct part a = part_of(s, i, 0);
	int64_t row = at / a.cols, col = at % a.cols;
	while (row >= a.before + a.rows)
		a = part_of(s, i, ++seg);
	row -= a.before;
	*there = (a.whole_before + a.first + row) * a.whole_cols + a.first_col + col;
	int64_t run = a.cols == a.whole_cols ? (a.rows - row) * a.cols - col : a.cols - col;
	return run < n ? run : n;
}

int64_t split_in(const struct split *s, int i, int64_t *there, int64_t n, int64_t *at)
{
	int64_t end = *there + n;
	*at = *there;
	if (s->size == 1)
		return n;
	int seg = 0;
	struct part a = part_of(s, i, 0);
	while (*there < end) {
		while (*there / a.whole_cols >= a.whole_before + a.whole_rows)
			a = part_of(s, i, ++seg);
		int64_t row = *there / a.whole_cols - a.whole_before, col = *there % a.whole_cols;
		if (row >= a.first + a.rows || col >= a.first_col + a.cols) { /* on to the next segment, or row */
			*there = (a.whole_before + (row + 1 >= a.first + a.rows ? a.whole_rows : row + 1)) * a.whole_cols;
		} else if (row < a.first || col < a.first_col) {
			*there = (a.whole_before + (row < a.first ? a.first : row)) * a.whole_cols + a.first_col;
		} else {
			int64_t run = a.cols == a.whole_cols ? (a.first + a.rows - row) * a.cols - col : a.first_col + a.cols - col;
			*at = (a.before + row - a.first) * a.cols + col - a.first_col;
			return run < end - *there ? run : end - *there;
		}
	}
	return 0;
}
