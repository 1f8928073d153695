/*
 * chat.c - conversations as text, by fixed templates
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "chat.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

const char *chat_mark(enum chat_kind kind, int i)
{
	static const char *const mark[][6] = {
		[CHAT_NONE] = { NULL },
		[CHAT_CHATML] = { "<|im_start|>", "<|im_end|>", NULL },
		[CHAT_LLAMA3] = { "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", NULL },
		[CHAT_MISTRAL] = { "<s>", "[INST]", "[/INST]", "</s>", NULL },
	};
	return mark[kind][i];
}

static void put(struct chat_text *t, const char *s, size_t n)
{
	if (t->n + n + 1 > t->cap) {
		t->cap = (t->n + n + 1) * 2;
		t->s = xrealloc(t->s, t->cap, 1);
	}
	memcpy(t->s + t->n, s, n);
	t->n += n;
	t->s[t->n] = 0;
}

static void puts_all(struct chat_text *t, const char *a, const char *b, const char *c)
{
	put(t, a, strlen(a));
	put(t, b, strlen(b));
	put(t, c, strlen(c));
}

/* Without white space at both ends. */
static void put_stripped(struct chat_text *t, const char *s, size_t n)
{
	static const char space[] = " \t\n\r\f\v";
	while (n && *s && strchr(space, *s))
		s++, n--;
	while (n && s[n - 1] && strchr(space, s[n - 1]))
		n--;
	put(t, s, n);
}

struct turn { const char *role, *text; size_t n; };

static void put_turn(enum chat_kind kind, struct chat_text *t, const struct turn *x, const struct turn *system)
{
	switch (kind) {
	case CHAT_NONE:
		return;
	case CHAT_CHATML:
		puts_all(t, "<|im_start|>", x->role, "\n");
		put(t, x->text, x->n);
		puts_all(t, "<|im_end|>\n", "", "");
		return;
	case CHAT_LLAMA3:
		puts_all(t, "<|start_header_id|>", x->role, "<|end_header_id|>\n\n");
		put_stripped(t, x->text, x->n);
		puts_all(t, "<|eot_id|>", "", "");
		return;
	case CHAT_MISTRAL:
		if (!strcmp(x->role, "assistant")) {
			put(t, " ", 1);
			put(t, x->text, x->n);
			puts_all(t, "</s>", "", "");
			return;
		}
		puts_all(t, "[INST] ", "", "");
		if (system->text) {
			put(t, system->text, system->n);
			put(t, "\n\n", 2);
		}
		put(t, x->text, x->n);
		puts_all(t, "[/INST]", "", "");
		return;
	}
}

int chat_render(enum chat_kind kind, const json_t *messages, struct chat_text *t, struct err *e)
{
	static const char *const roles[] = { "system", "user", "assistant" };
	struct turn system = { 0 };
	size_t i;
	const json_t *m;
	t->n = 0;
	put(t, "", 0);
	if (!json_is_array(messages))
		return err_set(e, EXIT_DATA, "is not a list of messages");
	if (kind != CHAT_CHATML)
		puts_all(t, chat_mark(kind, 0), "", "");
	json_array_foreach(messages, i, m) {
		const json_t *content = json_object_get(m, "content");
		struct turn x = { json_string_value(json_object_get(m, "role")), json_string_value(content), json_string_length(content) };
		int k = 0;
		while (k < 3 && x.role && strcmp(x.role, roles[k]))
			k++;
		if (k == 3 || !x.role || !x.text)
			return err_set(e, EXIT_DATA, "message %zu: expected a role of system, user or assistant, and content as a string", i);
		if (kind == CHAT_MISTRAL && !k) {
			system = x;
			continue;
		}
		put_turn(kind, t, &x, &system);
		if (k == 1)
			system = (struct turn){ 0 };
	}
	return 0;
}
