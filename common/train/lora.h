/*
 * lora.h - low-rank adapters: W + alpha/rank B A in place of a frozen W (arXiv 2106.09685)
 *
 * A [rank, in] starts uniform in +-1/sqrt(in), B [out, rank] at zero, as in the PEFT library.  A fused matrix has an adapter
 * for each of its tensors that the patterns name (trained.h), so that q_proj can have one without k_proj.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_LORA_H
#define ADZE_LORA_H
#include "../prog/prog.h"
#include "shard.h"

struct lora {
	const char *targets;           /* patterns, NULL: no adapters */
	int64_t rank;
	double alpha;
};
struct trainer;
/* Adapters of the linears that l->targets names, their parameters placed by s.  EXIT_USAGE: a target that is no linear
 * of a block, or that is trained itself. */
int lora_choose(const struct ptable *t, const struct lora *l, const uint8_t *frozen, struct adapter **v_new, int *n, struct shard *s,
		struct err *e);
/* First values into t->w. */
void lora_init(struct trainer *t, uint64_t seed);
/* Adds scale B A, as they are or averaged, to elements [at, at + n) of the matrix p in out. */
void lora_merge(const struct trainer *t, enum weights_of of, const struct param *p, int64_t at, int64_t n, float *out);
/* A directory in PEFT's format: adapter_config.json, adapter_model.safetensors (f32).  base: name of the model beneath. */
int lora_save(const struct trainer *t, const char *dir, const char *base, struct err *e);
#endif
