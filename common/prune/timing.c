/*
 * timing.c - timing a shape by a part of it
 *
 * A few blocks and some rows of the output matrix stand for all: as many blocks as exceed the caches (PART bytes of weights),
 * so that the weights come from memory as they would in the whole model, and both times are scaled to the full size.  Memory
 * is therefore bounded whatever the size of the model.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "timing.h"
#include "../base/rng.h"
#include <math.h>
#include <stdlib.h>

enum { HEAD_ROWS = 16384, RUNS = 7, NUMBERS = 4099 };
static const double PART = 256.0 * 1024 * 1024;

/* Blocks and vocabulary of the part. */
static struct arch part_of(const struct arch *a, int dtype)
{
	struct arch one = *a;

	one.config = NULL;
	one.layers = 1;
	one.vocab = a->vocab < HEAD_ROWS ? a->vocab : HEAD_ROWS;
	double block = (double)arch_count_nonembedding(&one) * (double)dtype_size(dtype), blocks = ceil(PART / block);
	one.layers = blocks < (double)a->layers ? (int64_t)blocks : a->layers;
	return one;
}

/* Random numbers of the size that keeps signals alive, NUMBERS of them over and over. */
static void fill(const struct ptable *t, const struct engine *g, void *w, int dtype)
{
	enum { CHUNK = 64 * NUMBERS };
	char *host = xcalloc(CHUNK, dtype_size(dtype));
	float scale = (float)(1 / sqrt((double)t->arch.hidden)), *as_float = (float *)(void *)host;
	uint16_t *as_bf16 = (uint16_t *)(void *)host;

	for (int64_t i = 0; i < CHUNK; i++) {
		float x = scale * (float)rng_normal(1, 0, (uint64_t)(i % NUMBERS));
		if (dtype == DT_BF16)
			as_bf16[i] = f32_to_bf16(x);
		else
			as_float[i] = x;
	}
	for (int64_t at = 0; at < t->elems; at += CHUNK) {
		int64_t n = t->elems - at < CHUNK ? t->elems - at : CHUNK;
		g->k->upload(g->d, (char *)w + (size_t)at * dtype_size(dtype), host, (size_t)n * dtype_size(dtype));
	}
	g->k->weights_changed(g->d);
	free(host);
}

static int rising(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Median seconds of ops [from, to), the first run not counted; the download makes sure that a device has finished. */
static double clock_part(struct frame *f, int from, int to, val out, void *host)
{
	double t[RUNS];

	for (int i = -1; i < RUNS; i++) {
		double t0 = now_seconds();
		prog_run_part(f, from, to);
		frame_get(f, out, host);
		if (i >= 0)
			t[i] = now_seconds() - t0;
	}
	qsort(t, RUNS, sizeof *t, rising);
	return t[RUNS / 2];
}

int timing_token(const struct arch *a, const struct engine *g, int dtype, int64_t batch, double *seconds, struct err *e)
{
	struct arch part = part_of(a, dtype);
	struct ptable *t = ptable_new(&part);
	size_t bytes = (size_t)t->elems * dtype_size(dtype);
	struct prog *p = prog_new(batch, 1);
	struct build b = { .t = t, .dtype = dtype, .space = SP_PARAM, .prefix = "", .blk1 = part.layers };
	struct frame f = { 0 };
	char text[32];
	int rc = -1;

	val tok = p_input(p, "tokens", batch, 1, DT_I32), h = p_forward(p, &b, tok, NONE);
	int blocks = p->n;
	val logits = p_linear(p, h, p_head_weight(p, &b), NONE, NONE, dtype);
	p_keep(p, h);
	p_keep(p, logits);
	int32_t *ids = xcalloc((size_t)batch, sizeof *ids);
	void *out = xcalloc((size_t)batch * (size_t)(part.vocab + part.hidden), sizeof(double)), *w = g->k->mem_alloc(g->d, bytes);
	if (!w)
		err_set(e, EXIT_RESOURCE, "no memory for %s of random weights", fmt_bytes(text, (double)bytes));
	if (w && !prog_plan(p, e) && !prog_check(p, e) && !frame_new(&f, g, p, e)) {
		fill(t, g, w, dtype);
		f.base[SP_PARAM] = w;
		frame_set(&f, tok, ids);
		*seconds = clock_part(&f, 0, blocks, h, out) * (double)a->layers / (double)part.layers;
		*seconds += clock_part(&f, blocks, p->n, logits, out) * (double)a->vocab / (double)part.vocab;
		frame_free(&f);
		rc = 0;
	}
	if (w)
		g->k->mem_free(g->d, w, bytes);
	free(out);
	free(ids);
	prog_free(p);
	ptable_free(t);
	return rc;
}
