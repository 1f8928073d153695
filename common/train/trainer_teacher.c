/*
 * trainer_teacher.c - where the teacher's weights are while it runs, and how they get there
 *
 * Resident: all of them are loaded once.  Else tw has room for two neighbouring pieces, and the programs fetch piece after
 * piece (stream.h), with the same results.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "trainer.h"
#include "../io/safetensors.h"

static bool streamed(const struct trainer *t)
{
	return t->teacher && t->o.place != TEACHER_RESIDENT;
}

struct build teacher_build(const struct trainer *t, const struct pass *s)
{
	return (struct build){ .t = t->teacher, .dtype = t->o.dtype, .space = SP_PARAM_T, .prefix = "t.", .blk1 = t->teacher->arch.layers,
			       .start = s->start, .e4m3 = t->o.teacher_e4m3 };
}

void teacher_record(const struct trainer *t, struct prog *p)
{
	struct pieces q;
	if (!streamed(t))
		return;
	pieces_new(&q, t->teacher, t->o.place == TEACHER_SHARDED ? t->node->size : 1);
	prog_stream(p, SP_PARAM_T, &q);
	pieces_free(&q);
}

size_t trainer_teacher_bytes(const struct trainer *t)
{
	if (!streamed(t))
		return (size_t)t->teacher->elems * dtype_size(t->o.dtype);
	int64_t a = t->train.p->bytes[SP_PARAM_T], b = t->eval.p->bytes[SP_PARAM_T];
	return (size_t)(a > b ? a : b);
}

double teacher_held_bytes(const struct trainer *t, const struct engine *g)
{
	if (!streamed(t))
		return 0;
	if (t->o.place == TEACHER_HOST)
		return (double)source_files_bytes(g, t->o.dtype);
	return (double)g->k->mem_bytes(source_shared_bytes(t->teacher, t->node, t->o.dtype));
}

static int load_head(struct trainer *t, const char *dir, struct err *e)
{
	struct st_model *m = st_open(dir, e);
	int rc = m ? engine_read(t->g, t->teacher, ptable_find(t->teacher, "head"), m, t->tw, t->o.dtype, e) : -1;
	if (m)
		st_close(m);
	return rc;
}

int teacher_load(struct trainer *t, const char *dir, struct err *e)
{
	if (t->o.cached_width)
		return load_head(t, dir, e);
	if (!streamed(t)) {
		int rc = engine_load(t->g, t->teacher, dir, t->tw, t->o.dtype, e);
		if (!rc && t->o.teacher_e4m3)
			build_quantise(t->g, t->teacher, t->tw, t->o.dtype);
		return rc;
	}
	t->source = t->o.place == TEACHER_HOST ? source_files_new(t->g, t->teacher, dir, t->o.dtype, e) :
						 source_shared_new(t->g, t->teacher, dir, t->o.dtype, t->node, e);
	t->train.f.source = t->eval.f.source = t->source;
	return t->source ? 0 : -1;
}
