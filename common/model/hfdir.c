/*
 * hfdir.c - config, tokenizer files and model card of a directory that is being made
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hfdir.h"
#include "../base/outfile.h"
#include "../io/jsontext.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int hfdir_write_json(const char *dir, const char *name, const json_t *j, struct err *e)
{
	char *text = json_text_new(j, 2), *path = xasprintf("%s/%s", dir, name);
	int rc = file_write(path, text, strlen(text), e);

	free(text);
	free(path);
	return rc;
}

static int copy_file(const char *dir, const char *from, const char *name, struct err *e)
{
	char *src = xasprintf("%s/%s", from, name), *dst = xasprintf("%s/%s", dir, name);
	size_t n;
	int rc = 0;

	if (!access(src, F_OK)) {
		char *data = file_read_new(src, (size_t)1 << 30, &n, e);
		rc = data ? file_write(dst, data, n, e) : -1;
		free(data);
	}
	free(src);
	free(dst);
	return rc;
}

int hfdir_copy_tokenizer(const char *dir, const char *from, struct err *e)
{
	static const char *const names[] = {
		"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
		"generation_config.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
		"chat_template.json", "LICENSE", "NOTICE",
	};

	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (copy_file(dir, from, names[i], e))
			return -1;
	return 0;
}

/* The shape table and provenance that a person sees first. */
static int write_card(const char *dir, const struct arch *a, const struct model_card *c, struct err *e)
{
	char *text = NULL;
	size_t n = 0;
	char total[32], body[32];
	FILE *f = open_memstream(&text, &n);

	if (!f)
		return err_sys(e, "model card");
	fprintf(f, "---\nlibrary_name: transformers\ntags:\n- adze\n- %s\n---\n\n# %s\n\n", a->family->model_type,
		c->title ? c->title : "Model");
	if (c->origin)
		fprintf(f, "Made from `%s`.\n\n", c->origin);
	fprintf(f, "| layers | hidden | ffn | heads | kv-heads | head-dim | vocab | parameters | without embeddings |\n"
		"|---|---|---|---|---|---|---|---|---|\n| %lld | %lld | %lld | %lld | %lld | %lld | %lld | %lld (%s) | %lld (%s) |\n\n",
		(long long)a->layers, (long long)a->hidden, (long long)a->ffn, (long long)a->heads, (long long)a->kv_heads,
		(long long)a->head_dim, (long long)a->vocab, (long long)arch_count(a),
		fmt_count(total, (double)arch_count(a)), (long long)arch_count_nonembedding(a),
		fmt_count(body, (double)arch_count_nonembedding(a)));
	fprintf(f, "%s output matrix, stored as %s.\n\n", a->tied ? "Tied" : "Untied", a->dtype);
	if (c->notes && *c->notes)
		fprintf(f, "%s\n\n", c->notes);
	if (c->commands && *c->commands)
		fprintf(f, "## How it was made\n\n```sh\n%s\n```\n\nadze %s\n", c->commands, ADZE_VERSION);
	fclose(f);
	char *path = xasprintf("%s/README.md", dir);
	int rc = file_write(path, text, n, e);
	free(path);
	free(text);
	return rc;
}

static int write_generation_config(const char *dir, const struct arch *a, struct err *e)
{
	json_t *g = json_pack("{s:b}", "_from_model_config", 1);

	if (a->bos >= 0)
		json_object_set_new(g, "bos_token_id", json_integer(a->bos));
	if (a->eos >= 0)
		json_object_set_new(g, "eos_token_id", json_integer(a->eos));
	if (a->pad >= 0)
		json_object_set_new(g, "pad_token_id", json_integer(a->pad));
	int rc = hfdir_write_json(dir, "generation_config.json", g, e);
	json_decref(g);
	return rc;
}

int hfdir_describe(const char *dir, const struct arch *a, const char *from, const struct model_card *card, struct err *e)
{
	json_t *cfg = arch_config_new(a);
	int rc = hfdir_write_json(dir, "config.json", cfg, e);

	json_decref(cfg);
	if (!rc && from)
		rc = hfdir_copy_tokenizer(dir, from, e);
	char *gen = xasprintf("%s/generation_config.json", dir);
	if (!rc && access(gen, F_OK))
		rc = write_generation_config(dir, a, e);
	free(gen);
	return rc || !card ? rc : write_card(dir, a, card, e);
}

int hfdir_verify(const char *dir, const struct arch *a, struct err *e)
{
	struct arch b;
	int64_t n = 0;

	if (arch_load(&b, dir, e))
		return -1;
	struct ptable *t = ptable_new(&b);
	struct st_model *m = st_open(dir, e);
	int rc = m ? params_check(t, m, e) : -1;
	for (int i = 0; m && i < st_count(m); i++)
		n += st_at(m, i)->elems;
	if (!rc && (n != arch_count(a) || t->count != arch_count(a)))
		rc = err_set(e, EXIT_FAIL, "%s: holds %lld parameters, its config gives %lld, expected %lld", dir, (long long)n,
			(long long)t->count, (long long)arch_count(a));
	st_close(m);
	ptable_free(t);
	arch_free(&b);
	return rc;
}
