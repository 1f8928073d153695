/*
 * aux_tiny.h - small random models inside a trainer, for tests of training
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_AUX_TINY_H
#define ADZE_AUX_TINY_H
#include "../../common/train/trainer.h"

struct tiny {
	const char *family;
	int tied;
	int64_t layers, hidden, ffn, heads, kv_heads, head_dim, vocab;
	double rope_frac;
};
struct arch tiny_arch(const struct tiny *d);
/* Random weights of one scale in a table's layout; padding stays zero.  dtype f32 or bf16. */
void tiny_fill(const struct ptable *t, void *dst, int dtype, uint64_t seed);
/* A planned, allocated trainer on the reference kernels, filled with random weights; teacher NULL: none.
 * g must outlive it. */
void tiny_trainer(struct trainer *t, struct engine *g, const struct tiny *student, const struct tiny *teacher,
		  const struct trainer_spec *o, uint64_t seed);
/* Random ids and next-token labels [n sequences of seq]. */
void tiny_tokens(int32_t *ids, int32_t *labels, int64_t n, int64_t seq, int64_t vocab, uint64_t seed);
#endif
