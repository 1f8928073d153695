/*
 * corpus.h - documents out of text and JSONL, one at a time
 *
 * What a document is: in JSONL each line's field; in plain text the whole file, each paragraph (parts between blank
 * lines), or each line that is not blank.  Reads files and pipes alike, holds one document.  Input packed by gzip, zstd, xz
 * or bzip2 goes through those programs.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_CORPUS_H
#define ADZE_CORPUS_H
#include "chat.h"

enum corpus_format { CORPUS_AUTO, CORPUS_TEXT, CORPUS_JSONL };
enum corpus_doc { CORPUS_FILE, CORPUS_PARAGRAPH, CORPUS_LINE };
struct corpus_how {
	enum corpus_format format;     /* AUTO: by the name (.jsonl .ndjson .json .txt .md), else JSONL if it starts with '{' */
	enum corpus_doc doc;           /* of plain text */
	const char *field;             /* of JSONL; NULL: "text", of conversations "messages" */
	enum chat_kind chat;           /* the field holds a conversation, written by this template */
};

struct corpus;
/* path NULL or "-": stdin.  NULL on error. */
struct corpus *corpus_open(const char *path, const struct corpus_how *how, struct err *e);
/* 1: text[0, n) is the next document, valid until the next call (empty documents are passed over); 0: end; -1: error */
int corpus_next(struct corpus *c, const char **text, size_t *n, struct err *e);
const char *corpus_name(const struct corpus *c);
int64_t corpus_bytes(const struct corpus *c);              /* read so far, unpacked */
void corpus_digest(const struct corpus *c, char out[33]);  /* XXH3-128 of what was read so far, unpacked */
void corpus_close(struct corpus *c);

/* A file of "weight path [field]" lines; blank lines and # comments are passed over.  A relative path starts at the
 * file's own directory.  Freed by source_list_free. */
struct source { double weight; char *path, *field; };      /* field NULL: the default */
struct source_list { struct source *v; int n; };
int source_list_read(const char *file, struct source_list *l, struct err *e);
void source_list_free(struct source_list *l);
#endif
