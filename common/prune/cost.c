/*
 * cost.c - coefficients from exact counts by finite differences, and the roofline
 *
 * The counts themselves come from the family's parameter table (arch_count ...), so a new family needs nothing here.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cost.h"
#include <math.h>
#include <string.h>

static const struct { const char *word, *what; double peak, bandwidth; } table[] = {
#define HARDWARE(word, peak, bandwidth, what) { word, what, peak, bandwidth },
#include "hardware.def"
#undef HARDWARE
};

int hardware_find(struct hardware *h, const char *word, struct err *e)
{
	static const char words[] = ""
#define HARDWARE(word, peak, bandwidth, what) " " word
#include "hardware.def"
#undef HARDWARE
		;
	const char *colon = strchr(word, ':');

	*h = (struct hardware){ 0 };
	for (size_t i = 0; i < sizeof table / sizeof *table; i++)
		if (!strcmp(table[i].word, word)) {
			snprintf(h->word, sizeof h->word, "%s", word);
			h->peak = table[i].peak;
			h->bandwidth = table[i].bandwidth;
			return 0;
		}
	snprintf(h->word, sizeof h->word, "%.*s", colon ? (int)(colon - word) : 0, word);
	if (!colon || parse_f64(h->word, &h->peak) || parse_f64(colon + 1, &h->bandwidth) || !(h->peak > 0) ||
	    !(h->bandwidth > 0) || !isfinite(h->peak) || !isfinite(h->bandwidth))
		return err_set(e, EXIT_USAGE, "hardware '%s': expected FLOPS:BANDWIDTH or one of%s", word, words);
	snprintf(h->word, sizeof h->word, "%s", word);
	return 0;
}

static void set_size(struct arch *a, int which, int64_t v)
{
	int64_t *const field[SIZES] = { [SIZE_FFN] = &a->ffn, [SIZE_KV] = &a->kv_heads, [SIZE_HIDDEN] = &a->hidden,
		[SIZE_HEADS] = &a->heads };

	*field[which] = v;
}

static double counted(const struct arch *a, const struct workload *w, int q)
{
	switch (q) {
	case Q_PARAMS: return (double)arch_count(a);
	case Q_NONEMBEDDING: return (double)arch_count_nonembedding(a);
	case Q_ACTIVE: return (double)arch_count_active(a);
	case Q_FLOPS: return arch_forward_flops(a, w->seq, 1);
	/* a forward token sees half of T positions in the causal mean: one that sees all costs what 2T cost on average */
	case Q_DECODE: return arch_forward_flops(a, 2 * w->context, 0);
	}
	BUG("quantity %d", q);
}

static double evaluate(const double *c, const int64_t size[SIZES])
{
	double sum = 0;

	for (int m = 0; m < 1 << SIZES; m++) {
		double term = c[m];
		for (int s = 0; s < SIZES; s++)
			if (m >> s & 1)
				term *= (double)size[s];
		sum += term;
	}
	return sum;
}

/* Values at the corners {1,2}^4 become coefficients, one size after the other: with f(x) = c0 + c1 x,
 * c1 = f(2) - f(1) and c0 = f(1) - c1. */
static void coefficients(double *c)
{
	for (int s = 0; s < SIZES; s++)
		for (int m = 0; m < 1 << SIZES; m++)
			if (!(m >> s & 1)) {
				double slope = c[m | 1 << s] - c[m];
				c[m] -= slope;
				c[m | 1 << s] = slope;
			}
}

void cost_init(struct cost *c, const struct arch *a, const struct workload *w)
{
	const int64_t own[SIZES] = { [SIZE_FFN] = a->ffn, [SIZE_KV] = a->kv_heads, [SIZE_HIDDEN] = a->hidden,
		[SIZE_HEADS] = a->heads };
	struct arch b = *a;

	*c = (struct cost){ .layers = (double)a->layers, .vocab = (double)a->vocab, .head_dim = (double)a->head_dim, .w = w };
	for (int q = 0; q < QUANTITIES; q++) {
		for (int m = 0; m < 1 << SIZES; m++) {
			for (int s = 0; s < SIZES; s++)
				set_size(&b, s, 1 + (m >> s & 1));
			c->c[q][m] = counted(&b, w, q);
		}
		coefficients(c->c[q]);
		if (evaluate(c->c[q], own) != counted(a, w, q))
			BUG("quantity %d of %s is not affine in every size", q, a->family->model_type);
	}
}

void cost_fix(struct cost *to, const struct cost *from, enum size which, int64_t value)
{
	to->layers = from->layers;
	to->hidden = which == SIZE_HIDDEN ? (double)value : from->hidden;
	to->kv = which == SIZE_KV ? (double)value : from->kv;
	to->vocab = from->vocab;
	to->head_dim = from->head_dim;
	to->w = from->w;
	for (int q = 0; q < QUANTITIES; q++)
		for (int m = 0; m < 1 << which; m++)
			to->c[q][m] = from->c[q][m] + (double)value * from->c[q][m | 1 << which];
}

/* Keys and values of one block, bytes. */
static double layer_cache(const struct cost *c)
{
	return 2 * (double)c->w->bytes * (double)(c->w->batch * c->w->context) * c->kv * c->head_dim;
}

double cost_memory(const struct cost *c, int64_t ffn)
{
	return (double)c->w->bytes * cost_at(c, Q_PARAMS, ffn) + c->layers * layer_cache(c);
}

double cost_latency(const struct cost *c, int64_t ffn)
{
	const struct hardware *hw = &c->w->hw;
	double bytes = (double)c->w->bytes, batch = (double)c->w->batch, head = c->vocab * c->hidden;
	double blocks = cost_at(c, Q_ACTIVE, ffn) - cost_at(c, Q_PARAMS, ffn) + cost_at(c, Q_NONEMBEDDING, ffn);
	double layer = fmax((bytes * blocks / c->layers + layer_cache(c)) / hw->bandwidth,
		batch * cost_at(c, Q_DECODE, ffn) / c->layers / hw->peak);

	return c->layers * layer + fmax(bytes * head / hw->bandwidth, batch * 2 * head / hw->peak);
}
