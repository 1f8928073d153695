/*
 * batches.h - training sequences from a token set, in an order that is a pure function of (seed, position)
 *
 * The token set is cut into windows of `seq` tokens; a sample that is longer gives several (its remainder is left out), a
 * shorter one is padded and its padding carries no label.  Position k of the run is window perm_e[k mod n] with epoch
 * e = k / n and a fresh permutation each epoch, so a checkpoint needs only the step.  Labels are the next token of the
 * same window; the last position has none (-1).
 *
 * A packed window may hold several documents, each but the last closed by the set's end id.  Kept apart, the token after an
 * end id is no label, and document_starts says where each token's own document begins.
 *
 * Tokens are held in memory, two bytes each where the ids allow.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_BATCHES_H
#define ADZE_BATCHES_H
#include "../base/base.h"

struct window {
	int64_t at;            /* first token */
	int64_t len;           /* <= seq */
};
struct batches {
	int64_t seq, n;        /* window length, windows */
	int64_t tokens, left_out; /* in windows; in remainders of samples */
	uint64_t seed;
	int wide;              /* ids are u32 */
	void *ids;             /* owned, u16 or u32 */
	struct window *win;    /* owned */
	int64_t *perm;         /* owned: order of `epoch` */
	int64_t epoch;
	int64_t eos;           /* id that closes a packed document, -1: none, or the set has one document a sample */
	bool packed;           /* samples may hold several documents */
	bool apart;            /* documents are kept apart */
	struct responses {     /* labels are only tokens between these, `to` included; n[0] 0: all tokens are labels */
		int32_t *from, *to; /* owned; to of no token: the end id */
		int64_t n[2];
	} only;
	char digest[33];       /* of the artifact's content */
	char tokenizer[33];    /* digest of the tokenizer that made it */
	char strings[33];      /* of its tokens, "": not said */
};
/* seq 0: the stored length.  Refuses a set made with a vocabulary larger than vocab (the model's), and one without a single
 * window that has a label. */
int batches_open(struct batches *b, const char *path, int64_t seq, int64_t vocab, uint64_t seed, struct err *e);
/* Keeps documents apart; refuses a packed set without an end id. */
int batches_apart(struct batches *b, const char *path, struct err *e);
/* Only responses are labels from here on: what follows the tokens `from`, up to and with the tokens `to`.  A window that begins inside of
 * one has none before the next.  Refuses a set in which no label is left (EXIT_DATA). */
int batches_responses(struct batches *b, const char *path, const struct responses *only, struct err *e);
/* start [n]: for each token, the position in its window of seq tokens where its document begins */
void document_starts(int32_t *start, const int32_t *ids, int64_t n, int64_t seq, int64_t eos);
/* From tokens in memory, for programs that make their own; n samples of len ids. */
int batches_from(struct batches *b, const uint32_t *ids, int64_t n, int64_t len, int64_t seq, uint64_t seed);
void batches_free(struct batches *b);
/* ids, labels [seq].  batches_get: position k of the run; batches_window: window w of the file, in its order. */
int64_t batches_at(struct batches *b, int64_t k); /* the window of the file that is position k of the run */
void batches_get(struct batches *b, int64_t k, int32_t *ids, int32_t *labels);
void batches_window(const struct batches *b, int64_t w, int32_t *ids, int32_t *labels);
#endif
