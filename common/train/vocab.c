/*
 * vocab.c - comparing tokens by their spellings
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "vocab.h"
#include "../base/log.h"
#include "../io/artifact.h"
#include "../io/tokenizer.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *tokenizer_file(const char *dir)
{
	static const char *const names[] = { "tokenizer.json", "tokenizer.model" };
	for (int i = 0; dir && i < 2; i++) {
		char *path = xasprintf("%s/%s", dir, names[i]);
		if (!access(path, R_OK))
			return path;
		free(path);
	}
	return NULL;
}

/* NULL: there is none, or one that we cannot read */
static struct tokenizer *open_tokenizer(const char *dir)
{
	struct err e = { 0 };
	char *path = tokenizer_file(dir);
	struct tokenizer *t = path ? tok_load(path, &e) : NULL;
	if (path && !t)
		log_warn("%s: tokens are not compared", e.msg);
	free(path);
	return t;
}

/* A token as a word of a message: on one line, and not too long */
static const char *word(const struct tokenizer *t, int64_t id, char buf[40])
{
	const char *s = tok_spelling(t, (uint32_t)id);
	if (!s)
		return "nothing";
	snprintf(buf, 40, "'%.36s'", s);
	for (char *p = buf; *p; p++)
		*p = (unsigned char)*p < ' ' || *p == 127 ? '?' : *p;
	return buf;
}

static int same_tokens(const struct tokenizer *t, const char *teacher, const struct tokenizer *s, const char *student, struct err *e)
{
	char a[33], b[33], x[40], y[40];
	int64_t id = 0;
	tok_strings(t, a);
	tok_strings(s, b);
	if (!strcmp(a, b))
		return 0;
	for (const char *p, *q; id < tok_vocab_size(t) && id < tok_vocab_size(s); id++) {
		p = tok_spelling(t, (uint32_t)id);
		q = tok_spelling(s, (uint32_t)id);
		if (!p != !q || (p && strcmp(p, q)))
			break;
	}
	return err_set(e, EXIT_DATA, "%s: token %lld is %s, of teacher %s it is %s: distillation on logits needs the same tokens", student,
		       (long long)id, word(s, id, x), teacher, word(t, id, y));
}

int vocab_agree(struct vocab_of teacher, struct vocab_of student, int64_t *tokens, struct err *e)
{
	struct tokenizer *t = open_tokenizer(teacher.dir), *s = open_tokenizer(student.dir);
	int64_t n = s ? tok_vocab_size(s) : t ? tok_vocab_size(t) : 0;
	int64_t rows = !teacher.dir || (student.dir && student.rows < teacher.rows) ? student.rows : teacher.rows;
	bool alike = !teacher.dir || !student.dir || teacher.rows == student.rows;
	int rc = t && s ? same_tokens(t, teacher.dir, s, student.dir, e) : 0;
	if (!rc && !alike && (!n || n > rows))
		rc = err_set(e, EXIT_DATA, "the teacher's vocabulary has %lld tokens, the student's %lld, and %s: distillation on logits needs the same",
			     (long long)teacher.rows, (long long)student.rows, n ? "the tokenizer more" : "no tokenizer says which are padding");
	*tokens = n && n < rows ? n : rows;
	if (!rc && *tokens < rows)
		log_verbose("%lld tokens, what the models have beyond is padding", (long long)*tokens);
	if (t)
		tok_free(t);
	if (s)
		tok_free(s);
	return rc;
}

int vocab_data(const char *dir, const char *path, const struct batches *b, struct err *e)
{
	char *file = tokenizer_file(dir), digest[33];
	int rc = 0;
	if (file && !digest_file(file, digest, NULL) && strcmp(digest, b->tokenizer)) {
		struct tokenizer *t = *b->strings ? open_tokenizer(dir) : NULL;
		if (t)
			tok_strings(t, digest);
		if (t && strcmp(digest, b->strings))
			rc = err_set(e, EXIT_DATA, "%s: made with other tokens than those of %s", path, dir);
		if (!t)
			log_warn("%s was made with another tokenizer than that of %s", path, dir);
		if (t)
			tok_free(t);
	}
	free(file);
	return rc;
}

static int encode(const struct tokenizer *t, const char *text, int32_t **v_new, int64_t *n, struct err *e)
{
	struct tok_scratch *s = tok_scratch_new(t);
	struct tok_ids ids = { 0 };
	*n = text ? tok_encode(t, s, text, strlen(text), false, &ids, e) : 0;
	*v_new = xcalloc((size_t)(*n > 0 ? *n : 1), sizeof **v_new);
	for (int64_t i = 0; i < *n; i++)
		(*v_new)[i] = (int32_t)ids.v[i];
	tok_scratch_free(s);
	free(ids.v);
	return *n < 0 ? -1 : 0;
}

/* Set i of a run: domains, then held-out sets */
static struct batches *set_of(const struct mix *m, int i, const char **path)
{
	*path = i < m->n ? m->d[i].path : m->v[i - m->n].path;
	return i < m->n ? &m->d[i].data : &m->v[i - m->n].data;
}

int vocab_mix(const char *dir, const struct mix *m, struct err *e)
{
	const char *path;
	for (int i = 0; i < m->n + m->n_valid; i++) {
		const struct batches *b = set_of(m, i, &path);
		bool new = !i || strcmp(b->tokenizer, m->d[0].data.tokenizer);
		if (new && vocab_data(dir, path, b, e))
			return -1;
	}
	return 0;
}

int vocab_responses(const char *dir, const char *from, const char *to, struct mix *m, struct err *e)
{
	struct tokenizer *t = tok_load(dir, e);
	struct responses r = { 0 };
	const char *path;
	int rc = !t || encode(t, from, &r.from, &r.n[0], e) || encode(t, to, &r.to, &r.n[1], e) ? -1 : 0;
	for (int i = 0; i < m->n + m->n_valid && !rc; i++) {
		struct batches *b = set_of(m, i, &path);
		rc = batches_responses(b, path, &r, e);
	}
	free(r.from);
	free(r.to);
	if (t)
		tok_free(t);
	return rc;
}
