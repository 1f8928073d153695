/*
 * kd_opts.h - the command line of kd-train: one table of options, where their values lie, and what they rule out together
 *
 * A new option is a field, a row and, where it forbids another, a line in kd_validate.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_KD_OPTS_H
#define ADZE_KD_OPTS_H
#include "../base/opt.h"
#include "lora.h"
#include "losses.h"

extern struct kd_opts {
	/* models, data */
	const char *teacher, *student, *cache_out, *cache_what, *cache_dtype, *weights, *documents, *response_from, *response_to, *mix, *mix_reference, *teacher_place, *optimizer_place;
	struct opt_list data, valid, cache;
	double mix_rate, mix_floor;
	int64_t cache_part, seq, batch, micro, teacher_group;
	/* losses */
	const char *loss, *tail, *weigh, *hidden, *alpha, *projection;
	int64_t relation_heads;
	double tau, beta;
	int64_t best;
	/* optimizer */
	const char *train, *freeze, *schedule;
	struct lora lora;
	bool lora_adapter;
	double correct_teacher, lr, min_lr, wsd, clip, decay, beta1, beta2, eps, peak;
	int64_t steps, tokens, warmup;
	const char *moments, *no_decay;
	double ema;
	int64_t max_skips, zero, tp;
	bool best_valid;
	const char *recompute_word;
	int recompute, place;          /* enum recompute, enum teacher_place, of the words */
	/* saving, stopping, reporting */
	const char *max_time, *save_dtype, *export;
	int64_t save_every, keep, stop_after, stop_at, log_every, valid_every, valid_samples;
	bool explain, graph, deterministic;
	const char *teacher_dtype;
	/* planning for other machines */
	const char *gpu_mem, *gpu_flops;
	int64_t world, per_node;
} kd;
extern const struct usage kd_usage;

/* Everything that can be refused from the command line alone ends the program here. */
void kd_validate(struct objective *loss, double *max_seconds);
/* The word that save_dtype stands for in a config.json; the student's own is `stored`. */
const char *kd_save_dtype(const char *stored);
#endif
