/*
 * items.h - a file of JSON lines, and examples drawn from one
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_ITEMS_H
#define ADZE_ITEMS_H
#include "pyrand.h"
#include "rules.h"

struct items {
	json_t **v;            /* owned references, objects all */
	int64_t *line;         /* in the file, from 1 */
	int64_t n, cap;
	int64_t n_file;        /* items in the file: those beyond the limit are counted, not read */
	char digest[33];       /* of the file */
};
/* limit 0: all.  Blank lines are skipped, `-` is stdin; refuses a file without items.  The error names file and line. */
int items_read(struct items *it, const char *path, int64_t limit, struct err *e);
/* Items that are a text in memory; name is for errors. */
int items_parse(struct items *it, const char *text, size_t n, const char *name, int64_t limit, struct err *e);
void items_free(struct items *it);
/* Whole text file, refused when it is a directory; digest as above.  The caller frees. */
char *items_file_new(const char *path, size_t *n, char digest[33], struct err *e);

/* Few-shot examples of one task, as lm-evaluation-harness chooses them. */
struct shots {
	const struct rules *r; /* NULL: the pool's items are of the kind already */
	const char *path;
	const struct items *pool;
	int64_t *at, n_pool;   /* places in the pool that belong to this task */
	json_t **item;         /* [n_pool] prepared and rendered when first drawn */
	int64_t k;             /* examples per prompt */
	struct pyrand rnd;
};
/* only: examples whose field r->split_by has this value; NULL: all. */
int shots_open(struct shots *s, const struct rules *r, const struct items *pool, const char *path, const char *only,
	       int64_t k, uint64_t seed, struct err *e);
void shots_close(struct shots *s);
/* Writes the examples for one item (raw: as it was read), each with what follows it. */
int shots_write(struct shots *s, const json_t *raw, FILE *f, struct err *e);
#endif
