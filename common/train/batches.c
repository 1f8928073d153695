/*
 * batches.c - reading a token set into windows, and the order in which a run sees them
 *
 * The permutation of epoch e is rng_permute on stream STREAM + e; it is made again when the epoch changes, into memory that
 * exists already.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "batches.h"
#include "../io/tokenset.h"
#include "../base/rng.h"
#include <stdlib.h>
#include <string.h>

#define STREAM (UINT64_C(0x6b642d747261) << 16)

struct builder {
	struct batches *b;
	int64_t cap, used, cap_win;
};

static uint32_t id_at(const struct batches *b, int64_t i)
{
	return b->wide ? ((const uint32_t *)b->ids)[i] : ((const uint16_t *)b->ids)[i];
}

static void add_window(struct builder *w, int64_t at, int64_t len)
{
	struct batches *b = w->b;
	if (b->n >= w->cap_win) {
		w->cap_win = w->cap_win ? 2 * w->cap_win : 1024;
		b->win = xrealloc(b->win, (size_t)w->cap_win, sizeof *b->win);
	}
	b->win[b->n++] = (struct window){ at, len };
	b->tokens += len;
}

/* Windows of a sample of len tokens that starts at `at`. */
static void cut(struct builder *w, int64_t at, int64_t len)
{
	int64_t seq = w->b->seq, done = 0;
	for (; len - done >= seq; done += seq)
		add_window(w, at + done, seq);
	if (!done && len >= 2) {
		add_window(w, at, len);
		done = len;
	}
	w->b->left_out += len - done;
}

/* Room for n more ids. */
static void reserve(struct builder *w, int64_t n)
{
	if (w->used + n <= w->cap)
		return;
	w->cap = 2 * (w->used + n) > 1 << 16 ? 2 * (w->used + n) : 1 << 16;
	w->b->ids = xrealloc(w->b->ids, (size_t)w->cap, w->b->wide ? 4 : 2);
}

static void finish(struct builder *w)
{
	struct batches *b = w->b;
	b->perm = xcalloc((size_t)(b->n ? b->n : 1), sizeof *b->perm);
	b->epoch = -1;
}

static void add_sample(struct builder *w, const int32_t *ids, int64_t n)
{
	struct batches *b = w->b;
	int64_t at = w->used;
	reserve(w, n);
	for (int64_t i = 0; i < n; i++)
		if (b->wide)
			((uint32_t *)b->ids)[at + i] = (uint32_t)ids[i];
		else
			((uint16_t *)b->ids)[at + i] = (uint16_t)ids[i];
	w->used += n;
	cut(w, at, n);
}

static int read_all(struct batches *b, struct tokenset *t, int64_t seq, struct err *e)
{
	const char *name = art_name(t->r);
	struct builder w = { .b = b };
	int rc;
	if (seq > t->seq)
		return err_set(e, EXIT_DATA, "%s: holds samples of %lld tokens, --seq %lld is longer", name, (long long)t->seq,
			       (long long)seq);
	b->seq = seq ? seq : t->seq;
	if (b->seq < 2)
		return err_set(e, EXIT_DATA, "%s: sequences of one token have nothing to predict", name);
	snprintf(b->tokenizer, sizeof b->tokenizer, "%s", t->tokenizer);
	snprintf(b->strings, sizeof b->strings, "%s", t->strings);
	while ((rc = tokenset_next(t, e)) > 0)
		add_sample(&w, t->ids, t->n);
	if (rc < 0)
		return -1;
	finish(&w);
	if (!b->n)
		return err_set(e, EXIT_DATA, "%s: no sample of two tokens or more", name);
	snprintf(b->digest, sizeof b->digest, "%s", art_digest(t->r));
	return 0;
}

int batches_open(struct batches *b, const char *path, int64_t seq, int64_t vocab, uint64_t seed, struct err *e)
{
	struct tokenset t;
	*b = (struct batches){ .seed = seed };
	if (tokenset_open(&t, path, vocab, e))
		return -1;
	b->wide = t.vocab > 65536;
	b->eos = t.pack ? t.eos : -1;
	b->packed = t.pack != 0;
	int rc = read_all(b, &t, seq, e);
	tokenset_close(&t);
	if (rc)
		batches_free(b);
	return rc;
}

int batches_from(struct batches *b, const uint32_t *ids, int64_t n, int64_t len, int64_t seq, uint64_t seed)
{
	*b = (struct batches){ .seed = seed, .wide = 1, .seq = seq, .eos = -1 };
	struct builder w = { .b = b };
	reserve(&w, n * len);
	memcpy(b->ids, ids, (size_t)(n * len) * 4);
	for (int64_t i = 0; i < n; i++)
		cut(&w, i * len, len);
	finish(&w);
	return b->n ? 0 : -1;
}

void batches_free(struct batches *b)
{
	free(b->ids);
	free(b->win);
	free(b->perm);
	free(b->only.from);
	free(b->only.to);
	*b = (struct batches){ 0 };
}

int batches_apart(struct batches *b, const char *path, struct err *e)
{
	if (b->packed && b->eos < 0)
		return err_set(e, EXIT_DATA, "%s: does not say which token ends a document: documents cannot be kept apart", path);
	b->apart = b->eos >= 0;
	return 0;
}

void document_starts(int32_t *start, const int32_t *ids, int64_t n, int64_t seq, int64_t eos)
{
	for (int64_t i = 0; i < n; i++)
		start[i] = i % seq == 0 ? 0 : ids[i - 1] == eos ? (int32_t)(i % seq) : start[i - 1];
}

/* The tokens that end at ids[i] are these */
static bool ends_with(const int32_t *ids, int64_t i, const int32_t *v, int64_t n)
{
	return n > 0 && i + 1 >= n && !memcmp(ids + i + 1 - n, v, (size_t)n * sizeof *v);
}

static void drop_prompts(const struct batches *b, const int32_t *ids, int32_t *labels)
{
	const struct responses *q = &b->only;
	bool inside = false;
	for (int64_t i = 0; i < b->seq; i++) {
		if (i && !inside)
			labels[i - 1] = -1;
		if (inside)
			inside = !(q->n[1] ? ends_with(ids, i, q->to, q->n[1]) : ids[i] == b->eos);
		else
			inside = ends_with(ids, i, q->from, q->n[0]);
	}
}

int batches_responses(struct batches *b, const char *path, const struct responses *only, struct err *e)
{
	b->only = *only;
	b->only.from = xcalloc((size_t)only->n[0], sizeof *only->from);
	b->only.to = xcalloc((size_t)only->n[1] + 1, sizeof *only->to);
	memcpy(b->only.from, only->from, (size_t)only->n[0] * sizeof *only->from);
	if (only->n[1])
		memcpy(b->only.to, only->to, (size_t)only->n[1] * sizeof *only->to);
	int32_t *ids = xcalloc((size_t)b->seq, sizeof *ids), *labels = xcalloc((size_t)b->seq, sizeof *labels);
	int64_t left = 0;
	for (int64_t k = 0; k < b->n && !left; k++) {
		batches_window(b, k, ids, labels);
		for (int64_t i = 0; i < b->seq; i++)
			left += labels[i] >= 0;
	}
	free(ids);
	free(labels);
	return left ? 0 : err_set(e, EXIT_DATA, "%s: no response in it: the tokens of --response-from do not occur", path);
}

void batches_window(const struct batches *b, int64_t k, int32_t *ids, int32_t *labels)
{
	struct window w = b->win[k];
	for (int64_t i = 0; i < b->seq; i++) {
		ids[i] = i < w.len ? (int32_t)id_at(b, w.at + i) : 0;
		labels[i] = i + 1 < w.len && !(b->apart && ids[i] == b->eos) ? (int32_t)id_at(b, w.at + i + 1) : -1;
	}
	if (b->only.n[0])
		drop_prompts(b, ids, labels);
}

int64_t batches_at(struct batches *b, int64_t k)
{
	int64_t epoch = k / b->n;
	if (epoch != b->epoch) {
		rng_permute(b->seed, STREAM + (uint64_t)epoch, b->perm, b->n);
		b->epoch = epoch;
	}
	return b->perm[k % b->n];
}

void batches_get(struct batches *b, int64_t k, int32_t *ids, int32_t *labels)
{
	batches_window(b, batches_at(b, k), ids, labels);
}
