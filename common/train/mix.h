/*
 * mix.h - the data of a run: weighted domains to train on, held-out sets, and the weights' own dynamics
 *
 *	position k draws domain i with probability w_i = draw(seed, k), and takes the next unused window of i; a domain that
 *	has none left starts over in a new order
 *	dynamic batch loading (Sheared-LLaMA, arXiv 2310.06694), after each validation, for n domains:
 *	    D_i = loss_i - reference_i     a = softmax(ln w + rate D)     w = (1 - floor) a + floor / n, made to sum to 1
 *	    (as the authors' code has it: D is not cut at 0)
 *
 * With one domain this is batches.h and nothing else.  What a resumed run needs is w and how many windows were taken of each:
 * both are in the checkpoint.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_MIX_H
#define ADZE_MIX_H
#include "../base/opt.h"
#include "tcache.h"

enum { MIX_NAME = 32, MIX_MAX = 64 };
struct domain {
	char name[MIX_NAME];           /* "": the only one, and not named */
	const char *path;
	struct batches data;
	struct tcache cache;           /* what the teacher said about data; dir NULL: none */
	int valid;                     /* held-out set of the same name, -1: none */
};
struct held_out {
	char name[MIX_NAME];
	const char *path;
	struct batches data;
	int64_t windows;               /* how many of them are used */
	double ce;                     /* of the latest validation */
};
struct mix {
	int n, n_valid;
	struct domain *d;              /* owned */
	struct held_out *v;            /* owned */
	int64_t seq, windows, batch;   /* of all domains; batch: sequences of a step */
	int64_t eos;                   /* documents are kept apart at this id, -1: they are not */
	uint64_t seed;
	double *w;                     /* [n] weights, their sum is 1; owned, as all below */
	int64_t *taken, *before;       /* [n] windows taken so far; before the current step */
	int *from;                     /* [batch] domain of each sequence of the current step */
	int64_t *at;                   /* [batch] and its position in it */
	bool dynamic;
	double rate, floor;
	double *reference;             /* [n] */
};
/* What a command line says */
struct mix_spec {
	const struct opt_list *data, *valid, *cache; /* "[NAME=]PATH" each */
	const char *weights;           /* "NAME:W,...", NULL: by size */
	int64_t seq, vocab, batch, valid_samples;
	bool apart;                    /* documents */
	uint64_t seed;
};
/* A word before '=' is a name if it is made of letters, digits, '_', '-' and '.'; returns the path */
const char *mix_name(const char *arg, char name[MIX_NAME]);
/* What is wrong with the names in a list alone: a missing or a second one (EXIT_USAGE).  Without any name the last item stands
 * for all, as with other options. */
int mix_names(struct opt_list *l, const char *option, struct err *e);
int mix_open(struct mix *m, const struct mix_spec *o, struct err *e);
void mix_free(struct mix *m);
/* Dynamic weights: references "NAME:L,..." for every domain, or NULL to fill in m->reference afterwards.  Every domain needs
 * a held-out set of its name (EXIT_USAGE). */
int mix_dynamic(struct mix *m, const char *reference, double rate, double floor, struct err *e);
/* The sequences of the step that begins at position k, into m->from and m->at; mix_undo: as if it had not been. */
void mix_draw(struct mix *m, int64_t k);
void mix_undo(struct mix *m);
/* New weights from v[].ce; false, and nothing done, when a loss is not a number. */
bool mix_update(struct mix *m);
/* The part of the settings that says which data, newly allocated */
char *mix_settings_new(const struct mix *m);
#endif
