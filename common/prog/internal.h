/*
 * internal.h - shared by the passes in common/prog only
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_PROG_INTERNAL_H
#define ADZE_PROG_INTERNAL_H
#include "prog.h"
#include "stream.h"

val prog_value(struct prog *p, const char *name, int64_t rows, int64_t cols, int space, int dtype);
struct op *prog_op(struct prog *p, int code);  /* the pointer lives until the next call */

void prog_shape(const struct prog *p, val x, int64_t rows, int64_t cols); /* a BUG where x has another */
/* x becomes its sum over p->tp. */
void prog_total(struct prog *p, val x);

struct opinfo {
	const char *name, *in, *out, *doc;
};
extern const struct opinfo opinfo[OP_COUNT];
/* Whether output k of o is added into (`+`, or `~` with acc): a read as well as a write. */
int op_adds(const struct op *o, int k);
/* Whether prog_plan places v by its lifetime: activations, and buckets of gradients */
static inline int is_planned(const struct prog *p, int id, int space)
{
	return p->v[id].space == space && (space == SP_ACT || p->v[id].within == id);
}
#endif
