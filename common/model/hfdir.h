/*
 * hfdir.h - what surrounds the weights in a model directory: config, tokenizer files, card, and the final check
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_HFDIR_H
#define ADZE_HFDIR_H
#include "params.h"
#include "../io/safetensors.h"

/* Writes config.json, copies the tokenizer and generation files of `from` (NULL: none), and writes README.md. */
int hfdir_describe(const char *dir, const struct arch *a, const char *from, const struct model_card *card, struct err *e);
/* Only the copying: tokenizer, chat template, vocabulary, generation config, licence. */
int hfdir_copy_tokenizer(const char *dir, const char *from, struct err *e);
/* A JSON object as a file, indented, keys in their order, trailing newline. */
int hfdir_write_json(const char *dir, const char *name, const json_t *j, struct err *e);
/* Opens what was written: the config gives the shape a, every tensor is there, and the elements add up to arch_count(a). */
int hfdir_verify(const char *dir, const struct arch *a, struct err *e);
/* Names and shapes of all tensors in the order of the table; dtype is left to the caller.  Free with free(). */
struct st_spec *params_specs_new(const struct ptable *t, int *n);
#endif
