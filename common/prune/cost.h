/*
 * cost.h - what a shape costs: parameters, memory, operations and the time of a token, fast enough for 1e8 shapes
 *
 * Parameters and operations are affine in each of four sizes while the others stay: every term is a product of distinct
 * sizes, like hidden x ffn.  So for one number of layers a quantity is 16 coefficients, found from the exact counts at the 16
 * corners {1,2}^4, and fixing one size halves them.  Coefficients are whole numbers below 2^53: nothing is rounded.
 *
 *	q(ffn, kv, hidden, heads) = sum over subsets m of the sizes   c[m] * product of the sizes in m
 *
 * Time of one decoded token for each of `batch` sequences with `context` positions in the cache (roofline):
 *
 *	latency = layers * max(bytes of a layer and its cache / bandwidth, operations / peak) + the same for the output matrix
 *
 * All quantities rise with every size; the search relies on it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_COST_H
#define ADZE_COST_H
#include "../model/params.h"

enum size { SIZE_FFN, SIZE_KV, SIZE_HIDDEN, SIZE_HEADS, SIZES };        /* from the innermost loop outwards */
/* Q_DECODE: operations of the blocks for a token that sees `context` positions, without the output matrix */
enum quantity { Q_PARAMS, Q_NONEMBEDDING, Q_ACTIVE, Q_FLOPS, Q_DECODE, QUANTITIES };

struct hardware {
	char word[64];
	double peak, bandwidth;        /* FLOP/s, bytes/s */
};
/* A row of hardware.def, or "PEAK:BANDWIDTH"; -1 with e: neither. */
int hardware_find(struct hardware *h, const char *word, struct err *e);

struct workload {
	int64_t seq;                   /* positions for the operations of a forward token */
	int64_t batch, context;        /* sequences and positions in the cache */
	int64_t bytes;                 /* of a weight or cache element */
	struct hardware hw;            /* peak 0: no latency */
};
/* Coefficients by subset; after cost_fix(... SIZE_HIDDEN ...) only the first 2^SIZE_HIDDEN count. */
struct cost {
	double c[QUANTITIES][1 << SIZES];
	double layers, hidden, kv, vocab, head_dim;    /* hidden and kv once they are fixed */
	const struct workload *w;
};
/* For a's number of layers.  BUG when the counts of the family are not of the form above. */
void cost_init(struct cost *c, const struct arch *a, const struct workload *w);
/* Fixes the outermost size that is free. */
void cost_fix(struct cost *to, const struct cost *from, enum size which, int64_t value);
/* With all sizes but ffn fixed: a quantity; bytes of weights and cache; seconds of a decoded token. */
static inline double cost_at(const struct cost *c, enum quantity q, int64_t ffn)
{
	return c->c[q][0] + c->c[q][1] * (double)ffn;
}
double cost_memory(const struct cost *c, int64_t ffn);
double cost_latency(const struct cost *c, int64_t ffn);
#endif
