/*
 * chat.h - conversations as text, by fixed templates
 *
 * A conversation is a JSON list of {"role": "system" | "user" | "assistant", "content": TEXT}.  The marks below are tokens of
 * the model's vocabulary; marks inside a content count as such too, as with any chat template.
 *
 *	chatml   <|im_start|>ROLE\nTEXT<|im_end|>\n                                            each message (SmolLM2, Qwen)
 *	llama3   <|begin_of_text|>, then <|start_header_id|>ROLE<|end_header_id|>\n\nTEXT<|eot_id|> each message, TEXT stripped
 *	mistral  <s>, then [INST] TEXT[/INST] for the user and " TEXT</s>" for the assistant; a system message goes before the
 *	         first user's text with a blank line between (Mistral-Instruct v0.3)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_CHAT_H
#define ADZE_CHAT_H
#include "../base/base.h"

enum chat_kind { CHAT_NONE, CHAT_CHATML, CHAT_LLAMA3, CHAT_MISTRAL };
/* The marks of a kind, one at a time from 0; NULL after the last. */
const char *chat_mark(enum chat_kind kind, int i);

struct json_t;
struct chat_text { char *s; size_t n, cap; };          /* the caller frees s */
/* The conversation as text in *t; -1 with what is wrong in e->msg (no file name yet). */
int chat_render(enum chat_kind kind, const struct json_t *messages, struct chat_text *t, struct err *e);
#endif
