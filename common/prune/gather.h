/*
 * gather.h - physical trimming: which units stay, and the copy of exactly those rows and columns
 *
 * `keep` says it per axis, always in ascending order of the parent (equal mathematics, diffable, kind to quantisers):
 * hidden channels once for the model, heads and neurons per kept block, blocks as a list.  The copy is one loop over the
 * parameter table; no family is named.  Where embeddings are multiplied by sqrt(hidden) (Gemma), every reader of the result
 * computes that from the new hidden size, so the kept embedding is multiplied by what is missing, and with a tied output
 * matrix the final norm's gain divided by it: the same function.  Query heads are kept in equal number per group; key-value heads stay, or go as
 * whole groups with their query heads (where every head has its own they go with their head).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_GATHER_H
#define ADZE_GATHER_H
#include "../io/safetensors.h"
#include "../model/params.h"
#include "ranking.h"

enum { KEEP_PARTS = 2 };               /* attention, MLP */
struct keep {
	struct arch from, to;          /* own copies; to.config is rewritten for the new shape */
	int64_t *layer;                /* [to.layers] block of the parent */
	int64_t *hidden;               /* [to.hidden] */
	int64_t *head, *group;         /* [to.layers, to.heads], [to.layers, to.kv_heads]; fewer are used where arch_at(to, l) */
	int64_t *ffn;                  /* [to.layers, to.ffn]                             says so */
	int64_t *partner;              /* [to.layers, to.heads] add-back: head whose residual is added, or -1; may be NULL */
	bool merge;                    /* dropped blocks are merged into the kept block before them */
	float *plus[KEEP_PARTS];       /* [to.layers, to.hidden] added to the output bias of the part, or NULL (compensate.h) */
};
/* What the user asked for; sizes of 0 mean "as the parent". */
struct keep_want {
	int64_t layers, hidden, ffn, heads, kv_heads; /* heads 0 with kv_heads: whole query groups go */
	const int64_t *drop;           /* explicit blocks to drop (ascending, distinct) instead of the ranking's */
	int64_t ndrop;
	bool add_back;                 /* Minitron 2.3: residual of dropped heads goes into kept ones */
	bool merge;                    /* dropped blocks are merged into the kept block before them instead */
	int64_t align;                 /* hidden and ffn become multiples of it; 0: as they are */
	bool uneven;                   /* widths may differ from block to block, which a ranking of global scope asks for */
};
/* True when something other than blocks listed in w->drop is cut, so that a ranking is needed. */
bool keep_needs_ranking(const struct arch *from, const struct keep_want *w);
/* Checks the sizes against the parent (EXIT_USAGE) and the ranking for every axis it is needed for (EXIT_DATA).
 * r may be NULL when keep_needs_ranking() is false.  rank_name is for messages. */
struct keep *keep_new(const struct arch *from, const struct keep_want *w, const struct ranking *r, const char *rank_name,
		struct err *e);
void keep_free(struct keep *k);
/* Indices of the parent's units on an axis for kept block l (-1: not in a block); NULL: all of them.  *n: how many. */
const int64_t *keep_units(const struct keep *k, int axis, int64_t l, int64_t *n);
/* Dropped blocks that are merged into kept block l. */
int64_t keep_merged(const struct keep *k, int64_t l);
/* {"layers":[...],"hidden":[...],"heads":[[...]],"kv_heads":[[...]],"ffn":[[...]]}, and "embed_factor" where kept
 * embeddings are multiplied */
json_t *keep_json_new(const struct keep *k);

/* Writes model*.safetensors of the trimmed model into dir, piece by piece from the parent's files, dtypes kept.
 * threads 0: a few.  step(arg, tensors done, total) may be NULL; one thread at a time calls it. */
int gather_model(const struct keep *k, const struct st_model *m, const char *dir, int threads,
		void (*step)(void *arg, int done, int total), void *arg, struct err *e);
#endif
