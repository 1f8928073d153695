/*
 * written.c - prompts of all writing tasks in one set, their texts back to the items, and what becomes of these
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "written.h"
#include "../io/extract.h"
#include <stdlib.h>
#include <string.h>

/* Items of writing tasks in order; f returns nonzero to stop. */
static int each(struct written *w, int (*f)(struct written *w, struct task *t, struct doc *d, struct err *e), struct err *e)
{
	for (int k = 0; k < w->u->n; k++) {
		struct task *t = &w->u->t[k];
		for (int64_t i = 0; t->kind->writes && i < t->n; i++)
			if (f(w, t, &t->doc[i], e))
				return err_wrap(e, "%s: item %lld", t->path, (long long)i);
	}
	return 0;
}

static int64_t samples_of(const struct written *w, const struct task *t)
{
	return t->kind->writes == 2 ? w->o.samples : 1;
}

static int add_prompts(struct written *w, struct task *t, struct doc *d, struct err *e)
{
	const json_t *until = json_object_get(d->item, "until"), *ctx = json_object_get(d->item, "ctx");
	const json_t *max = json_object_get(d->item, "max_new");
	size_t n = json_array_size(until);
	const char **stop = arena_alloc(&w->lists, (n + 1) * sizeof *stop);
	for (size_t i = 0; i < n; i++)
		stop[i] = json_string_value(json_array_get(until, i));
	struct complete_how how = { .max_new = w->o.max_new ? w->o.max_new : max ? json_integer_value(max) : 256, .stop = stop,
				    .n_stop = (int)n, .top_p = 1 };
	if (t->kind->writes == 2) {
		how.temperature = w->o.temperature;
		how.top_p = w->o.top_p;
	}
	for (int64_t i = 0; i < samples_of(w, t); i++)
		if (complete_add(&w->c, json_string_value(ctx), json_string_length(ctx), &how, e))
			return -1;
	return 0;
}

static int check_filters(const struct task *t, struct err *e)
{
	for (int k = 0; t->rules && k < MAX_FILTERS && t->rules->extract[k]; k++) {
		struct extractor *f = extractor_new(t->rules->extract[k], e);
		if (!f)
			return err_wrap(e, "task %s", t->name);
		extractor_free(f);
	}
	return 0;
}

static void name_scores(struct written *w, struct task *t)
{
	const char *passes = t->rules && t->rules->passes ? t->rules->passes : "pass@";
	for (int64_t k = 0; k < w->o.n_at && t->n_at < MAX_SCORES; k++) {
		if (w->o.at[k] > w->o.samples)
			continue;
		t->at[t->n_at] = w->o.at[k];
		t->at_name[t->n_at++] = arena_printf(&t->names, "%s%lld", passes, (long long)w->o.at[k]);
	}
}

int written_open(struct written *w, struct suite *u, struct encoder *enc, const char *dir, const struct write_opts *o,
		 struct err *e)
{
	*w = (struct written){ .u = u, .o = *o };
	int any = 0;
	for (int k = 0; k < u->n; k++) {
		any |= u->t[k].kind->writes;
		if (u->t[k].kind->writes == 1 && check_filters(&u->t[k], e))
			return -1;
		if (u->t[k].kind->writes == 2) {
			w->programs += u->t[k].n * o->samples;
			name_scores(w, &u->t[k]);
		}
	}
	if (!any)
		return 0;
	w->prog = xcalloc((size_t)w->programs + 1, sizeof *w->prog);
	if (complete_open(&w->c, enc, dir, e) || each(w, add_prompts, e))
		return -1;
	return w->programs && !o->plan ? sandbox_open(&w->box, o->seconds, 0, e) : 0;
}

void written_close(struct written *w)
{
	complete_close(&w->c);
	arena_free(&w->lists);
	free(w->prog);
	*w = (struct written){ 0 };
}

void written_digest(const struct written *w, char hex[33])
{
	char *s = NULL;
	size_t n;
	FILE *f = open_memstream(&s, &n);
	if (!f)
		BUG("memory stream");
	fprintf(f, "%llu %a", (unsigned long long)w->o.seed, w->o.seconds);
	for (int64_t i = 0; i < w->c.g.n; i++) {
		const struct gen_req *r = &w->c.g.r[i];
		fprintf(f, "\n%lld %lld %a %a %llu %s", (long long)r->n, (long long)r->max_new, r->temperature, r->top_p,
			(unsigned long long)r->stream, w->c.eos_text);
		for (int k = 0; k < w->c.r[i].n_stop; k++)
			fprintf(f, "%c%s", 0, w->c.r[i].stop[k]);
	}
	for (int k = 0; k < w->u->n; k++)
		for (int64_t i = 0; w->u->t[k].kind->writes == 2 && i < w->u->t[k].n; i++)
			json_dumpf(w->u->t[k].doc[i].item, f, JSON_COMPACT | JSON_SORT_KEYS);
	if (w->c.g.n_ids) /* no text to write: no array */
		fwrite(w->c.g.ids, sizeof *w->c.g.ids, (size_t)w->c.g.n_ids, f);
	if (w->c.n_eos)
		fwrite(w->c.eos, sizeof *w->c.eos, (size_t)w->c.n_eos, f);
	fclose(f);
	digest_hex(s, n, hex);
	free(s);
}

static int text_ended(void *arg, int64_t i, struct err *e)
{
	struct written *w = arg;
	return journal_text(w->journal, &w->c.g, i, e);
}

int written_run(struct written *w, const struct weights *m, void (*step)(void *arg, int64_t tokens), void *arg, struct err *e)
{
	if (!w->c.g.n)
		return 0;
	const struct gen_opts o = { .slots = w->o.slots, .seed = w->o.seed, .world = w->world, .step = step, .step_arg = arg,
				    .ended = text_ended, .ended_arg = w };
	if (complete_run(&w->c, m, &o, e))
		return -1;
	int64_t at = 0;
	for (int k = 0; k < w->u->n; k++) {
		struct task *t = &w->u->t[k];
		for (int64_t i = 0; t->kind->writes && i < t->n; i++) {
			t->doc[i].texts = json_array();
			for (int64_t j = 0; j < samples_of(w, t); j++, at++)
				json_array_append_new(t->doc[i].texts, json_stringn_nocheck(w->c.r[at].text, w->c.r[at].len));
		}
	}
	return 0;
}

/* One filter's answer (without a filter the text as it stands), and whether it is the target */
static json_t *compared(const struct task *t, const struct doc *d, const char *spec, struct err *e)
{
	static const char *const nothing[1];
	const json_t *text = json_array_get(d->texts, 0);
	const char *s = json_string_value(text), *target = json_string_value(json_object_get(d->item, "target"));
	struct extractor *f = spec ? extractor_new(spec, e) : NULL;
	if (spec && !f)
		return NULL;
	char *answer = f ? extract_new(f, s, json_string_length(text), e) : xstrdup(s);
	int same = answer ? exact_match(answer, target, t->rules ? t->rules->ignore : nothing, t->rules ? MAX_CHOICES : 0, e) : -1;
	json_t *v = same < 0 ? NULL : json_pack("{s:s,s:s,s:b}", "filter", f ? extractor_name(f) : "none", "answer", answer,
						"exact_match", same);
	free(answer);
	extractor_free(f);
	return v;
}

static int compare_answers(struct written *w, struct task *t, struct doc *d, struct err *e)
{
	(void)w;
	if (t->kind->writes != 1)
		return 0;
	json_decref(d->verdicts);
	d->verdicts = json_array();
	for (int k = 0; k < MAX_FILTERS && (k == 0 || (t->rules && t->rules->extract[k])); k++) {
		json_t *v = compared(t, d, t->rules ? t->rules->extract[k] : NULL, e);
		if (!v)
			return -1;
		json_array_append_new(d->verdicts, v);
	}
	return 0;
}

/* prefix + text + "\n" + test; the caller frees */
static char *program_new(const struct doc *d, const json_t *text, size_t *n)
{
	const json_t *part[] = { json_object_get(d->item, "prefix"), text, NULL, json_object_get(d->item, "test") };
	char *s = NULL;
	FILE *f = open_memstream(&s, n);
	if (!f)
		BUG("memory stream");
	for (int k = 0; k < 4; k++) {
		if (part[k])
			fwrite(json_string_value(part[k]), 1, json_string_length(part[k]), f);
		else if (k == 2)
			fputc('\n', f);
	}
	fclose(f);
	return s;
}

/* Who hears of the verdicts */
struct hearing {
	struct written *w;
	void (*step)(void *arg, int64_t programs);
	void *arg;
};

static int program_ended(void *arg, int64_t i, int64_t done, struct err *e)
{
	const struct hearing *h = arg;
	if (h->step)
		h->step(h->arg, done);
	return journal_verdict(h->w->journal, h->w->prog, i, e);
}

static int run_programs(struct written *w, void (*step)(void *arg, int64_t programs), void *arg, struct err *e)
{
	char **text = xcalloc((size_t)w->programs, sizeof *text);
	struct doc **of = xcalloc((size_t)w->programs, sizeof *of);
	struct hearing h = { w, step, arg };
	int64_t n = 0;
	for (int k = 0; k < w->u->n; k++) {
		struct task *t = &w->u->t[k];
		for (int64_t i = 0; t->kind->writes == 2 && i < t->n; i++)
			for (size_t j = 0; j < json_array_size(t->doc[i].texts); j++, n++) {
				text[n] = program_new(&t->doc[i], json_array_get(t->doc[i].texts, j), &w->prog[n].n);
				w->prog[n].text = text[n];
				of[n] = &t->doc[i];
			}
	}
	int rc = sandbox_run(&w->box, w->prog, n, program_ended, &h, e);
	for (int64_t i = 0; i < n; i++) {
		if (!rc && !of[i]->verdicts)
			of[i]->verdicts = json_array();
		if (!rc)
			json_array_append_new(of[i]->verdicts, json_boolean(w->prog[i].end == SANDBOX_PASSED));
		free(text[i]);
	}
	free(text);
	free(of);
	return rc;
}

int written_judge(struct written *w, void (*step)(void *arg, int64_t programs), void *arg, struct err *e)
{
	if (each(w, compare_answers, e))
		return -1;
	return w->programs ? run_programs(w, step, arg, e) : 0;
}
