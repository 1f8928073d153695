/*
 * tokpack.h - documents into token streams, streams into samples of one length
 *
 * A stream holds the ids of one source's documents, two or four bytes an id, never the text.  Documents are tokenized
 * by several threads and kept in the order they came, so that nothing depends on the number of threads.  A draw is an
 * order of samples: packed (documents shuffled, joined with the end id between them, cut into equal windows, windows
 * shuffled) or one sample per document; several streams give samples in proportion to their weights.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_TOKPACK_H
#define ADZE_TOKPACK_H
#include "../base/base.h"
#include "corpus.h"
#include "tokenizer.h"

enum pack_part { PART_ALL, PART_TRAIN, PART_VALID };
struct pack_how {
	int64_t seq;               /* tokens per sample */
	int64_t eos;               /* put after each document, -1: nothing */
	bool pack, special, dedup, shuffle;
	enum pack_part part;       /* held out by a hash of the document's text: the same for any order, seed and source */
	double valid_fraction;
	int64_t min_tokens;        /* shorter documents are passed over */
	int threads;
	uint64_t seed;
	int64_t enough;            /* stop reading after this many samples, 0: read all */
	int strata;                /* above 1: so many classes of documents by length, taken in turn */
};

struct stream {
	bool wide;
	void *ids;                 /* u16 or u32 [n] */
	int64_t n, cap;
	int64_t *end;              /* [docs] where each document ends; its end id included */
	int64_t docs, docs_cap;
	int64_t held_out, repeated, too_short;  /* documents passed over */
	int64_t given, given_docs, given_ids;   /* samples, documents and ids that stream_give took off the front */
};
void stream_free(struct stream *s);

/* Calls put for each whole sample at the front of the stream, in order, `most` in all since it began (0: no limit), then
 * lets go of them: what is left is less than a sample.  doc = number of the sample's first document. */
int stream_give(struct stream *s, const struct pack_how *how, int64_t most,
		int (*put)(void *arg, int64_t i, const void *ids, int64_t n, int64_t doc), void *arg);

struct packer;
struct packer *packer_new(const struct tokenizer *t, const struct pack_how *how);
void packer_free(struct packer *p);
/* Appends the corpus's documents to the stream. progress(arg, bytes read) is called after each batch, NULL
 * for none.  0, -1 on error, 1 when `enough` stopped it or progress returned non-zero. */
int packer_read(struct packer *p, struct stream *s, struct corpus *c, int (*progress)(void *, int64_t), void *arg,
		struct err *e);

struct draw {
	const struct pack_how *how;
	const struct stream *s;    /* [n] the caller's */
	int n;
	int64_t **doc, **at;       /* per stream: documents in their drawn order; where each starts in that order */
	int64_t **win, *wins;      /* per stream: samples in their drawn order; how many there are */
	int32_t *from;             /* [samples] stream of each sample */
	int64_t samples;
};
/* samples 0: as many as the texts give with those weights (NULL: equal). -1: too little text; e says how much. */
int draw_new(struct draw *d, const struct pack_how *how, const struct stream *s, const double *weight, int n,
	     int64_t samples, struct err *e);
/* The error for a stream that gives `wins` samples where `need` are wanted; source: its number from 1, 0 when there is one. */
int too_little(struct err *e, const struct stream *s, const struct pack_how *how, int64_t need, int64_t wins, int source);
void draw_free(struct draw *d);
/* Sample i in order (call with i = 0, 1, 2 ...): copies its ids to out[seq], returns how many; *doc = its first document */
struct draw_pos { int64_t next[64]; };
enum { MAX_STREAMS = 64 };
int64_t draw_sample(const struct draw *d, struct draw_pos *pos, int64_t i, void *out, int64_t *doc);
#endif
