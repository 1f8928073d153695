/*
 * vocab.h - do two models and a token set mean the same tokens by their ids, and how many are there?
 *
 * A model's matrices may have more rows than its tokenizer has tokens (padding to a round number).  Distillation compares the
 * logical vocabulary, the tokens alone; padding counts as -inf for teacher and student.  Tokens are compared by their spellings, so a
 * tokenizer.json that was written anew is the same one.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_VOCAB_H
#define ADZE_VOCAB_H
#include "mix.h"

struct vocab_of {
	const char *dir;               /* model directory, NULL: no such model */
	int64_t rows;                  /* of its embedding */
};
/* The logical vocabulary of both.  Refuses (EXIT_DATA) other tokens, naming the first, and sizes that no tokenizer explains.
 * Where neither directory has a tokenizer that can be read, rows are tokens. */
int vocab_agree(struct vocab_of teacher, struct vocab_of student, int64_t *tokens, struct err *e);
/* Refuses a token set made with other tokens than those of dir; a set that does not say is only warned about. */
int vocab_data(const char *dir, const char *path, const struct batches *b, struct err *e);
/* The same for all sets of a run */
int vocab_mix(const char *dir, const struct mix *m, struct err *e);
/* batches_responses for all of them: labels are what follows the text `from`, up to and with the text `to` (NULL: the end id) */
int vocab_responses(const char *dir, const char *from, const char *to, struct mix *m, struct err *e);
#endif
