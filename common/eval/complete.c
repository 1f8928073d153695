/*
 * complete.c - texts continued by a model: EOS ids, stop strings, decoding
 *
 * After each token the whole of what was written is decoded again: bytes of one character may come in several tokens, and
 * a few hundred tokens decode in microseconds.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "complete.h"
#include "../base/outfile.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void add_eos(struct complete_set *s, int64_t id)
{
	if (id < 0 || id > UINT32_MAX)
		return;
	for (int64_t i = 0; i < s->n_eos; i++)
		if (s->eos[i] == id)
			return;
	s->eos = xrealloc(s->eos, (size_t)s->n_eos + 1, sizeof *s->eos);
	s->eos[s->n_eos++] = (uint32_t)id;
}

/* 1 when the file says which ids end a text, 0 when not (or it is not there), -1 on error */
static int eos_of_file(struct complete_set *s, const char *dir, const char *name, struct err *e)
{
	enum { MAX_JSON = 16 << 20 };
	char *path = xasprintf("%s/%s", dir, name);
	int found = 0;
	size_t n;
	if (access(path, F_OK)) {
		free(path);
		return 0;
	}
	char *text = file_read_new(path, MAX_JSON, &n, e);
	json_error_t je;
	json_t *j = text ? json_loadb(text, n, 0, &je) : NULL;
	if (text && !j)
		err_set(e, EXIT_DATA, "%s: not JSON: %s (line %d)", path, je.text, je.line);
	const json_t *eos = json_object_get(j, "eos_token_id");
	if (json_is_integer(eos))
		add_eos(s, json_integer_value(eos)), found = 1;
	for (size_t i = 0; i < json_array_size(eos); i++)
		add_eos(s, json_integer_value(json_array_get(eos, i))), found = 1;
	int rc = j ? found : -1;
	json_decref(j);
	free(text);
	free(path);
	return rc;
}

int complete_open(struct complete_set *s, struct encoder *enc, const char *dir, struct err *e)
{
	*s = (struct complete_set){ .enc = enc };
	int rc = eos_of_file(s, dir, "generation_config.json", e);
	if (!rc)
		rc = eos_of_file(s, dir, "config.json", e);
	add_eos(s, tok_eos(enc->t));
	const uint32_t id = (uint32_t)tok_eos(enc->t);
	size_t len;
	s->eos_text = tok_decode_new(enc->t, &id, tok_eos(enc->t) >= 0, false, &len);
	return rc < 0 ? -1 : 0;
}

void complete_close(struct complete_set *s)
{
	for (int64_t i = 0; i < s->g.n; i++)
		free(s->r[i].text);
	free(s->r);
	free(s->eos);
	free(s->eos_text);
	gen_set_free(&s->g);
	*s = (struct complete_set){ 0 };
}

int complete_add(struct complete_set *s, const char *prompt, size_t n, const struct complete_how *how, struct err *e)
{
	const struct tok_ids *ids = encode_prompt(s->enc, prompt, n, e);
	if (!ids || gen_add(&s->g, ids->v, ids->n, how->max_new, s->enc->max_length, e))
		return -1;
	struct gen_req *r = &s->g.r[s->g.n - 1];
	r->temperature = how->temperature;
	r->top_p = how->top_p;
	if (s->g.n > s->cap) {
		s->cap = 2 * s->g.n;
		s->r = xrealloc(s->r, (size_t)s->cap, sizeof *s->r);
	}
	s->r[s->g.n - 1] = (struct completion){ .stop = how->stop, .n_stop = how->n_stop };
	return 0;
}

static char *decode_new(const struct complete_set *s, const struct gen_req *r, bool skip_special, size_t *n)
{
	return tok_decode_new(s->enc->t, (const uint32_t *)r->out, r->n_out, skip_special, n);
}

/* The k-th stop string, NULL after the last */
static const char *stop_string(const struct complete_set *s, const struct completion *c, int k)
{
	return k < c->n_stop ? c->stop[k] : k == c->n_stop && *s->eos_text ? s->eos_text : NULL;
}

static int stops(void *arg, const struct gen_req *r)
{
	const struct complete_set *s = arg;
	const struct completion *c = &s->r[r - s->g.r];
	size_t n;
	int found = 0;
	char *text = decode_new(s, r, false, &n);
	const char *stop;
	for (int k = 0; (stop = stop_string(s, c, k)) && !found; k++)
		found = memmem(text, n, stop, strlen(stop)) != NULL;
	free(text);
	return found;
}

static void finish(struct complete_set *s, int64_t i)
{
	struct completion *c = &s->r[i];
	c->text = decode_new(s, &s->g.r[i], true, &c->len);
	const char *stop;
	for (int k = 0; (stop = stop_string(s, c, k)); k++) {
		char *at = memmem(c->text, c->len, stop, strlen(stop));
		if (at) {
			*at = 0;
			c->len = (size_t)(at - c->text);
		}
	}
}

int complete_run(struct complete_set *s, const struct weights *m, const struct gen_opts *opts, struct err *e)
{
	struct gen_opts o = *opts;
	o.eos = s->eos;
	o.n_eos = s->n_eos;
	o.stop = stops;
	o.stop_arg = s;
	if (gen_run(&s->g, m, &o, e))
		return -1;
	for (int64_t i = 0; i < s->g.n; i++)
		finish(s, i);
	return 0;
}
