/*
 * arch_layers.c - which blocks slide over a window: reading it, and saying it in a config.json after blocks were cut
 *
 * Spellings: `layer_types`, one word a block (read first, wins); `sliding_window_pattern` P, every P-th block sees
 * everything; `max_window_layers` M with `use_sliding_window`, blocks from M on slide.  A trimmed model gets the list, and
 * the short form where it still says the same; otherwise the short form goes away.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "params.h"
#include <string.h>

static const char *const words[] = { "full_attention", "sliding_attention" };

void arch_set_sliding(struct arch *a, int64_t l, bool on)
{
	uint64_t bit = (uint64_t)1 << (l % 64);

	a->sliding[l / 64] = on ? a->sliding[l / 64] | bit : a->sliding[l / 64] & ~bit;
}

int64_t arch_window(const struct arch *a, int64_t l)
{
	return a->sliding[l / 64] >> (l % 64) & 1 ? a->window : 0;
}

int cfg_window(struct arch *a, const json_t *cfg, int64_t def, struct err *e)
{
	const json_t *w = json_object_get(cfg, "sliding_window");

	a->window = 0;
	if (w && json_is_null(w))
		return 0;
	return cfg_int(cfg, "sliding_window", def, 1, INT32_MAX, &a->window, e);
}

int cfg_layer_types(struct arch *a, const json_t *cfg, struct err *e)
{
	const json_t *list = json_object_get(cfg, "layer_types");

	if (!list || json_is_null(list))
		return 0;
	if (!json_is_array(list) || (int64_t)json_array_size(list) != a->layers)
		return err_set(e, EXIT_DATA, "field 'layer_types' is not a list of %lld words", (long long)a->layers);
	for (int64_t l = 0; l < a->layers; l++) {
		const char *s = json_string_value(json_array_get(list, (size_t)l));
		int k = s && !strcmp(s, words[1]) ? 1 : s && !strcmp(s, words[0]) ? 0 : -1;
		if (k < 0)
			return err_set(e, EXIT_DATA, "layer_types[%lld] is '%s', expected '%s' or '%s'", (long long)l,
				s ? s : "not a string", words[0], words[1]);
		arch_set_sliding(a, l, k);
	}
	return 0;
}

static bool has_pattern(const struct arch *a, int64_t p)
{
	for (int64_t l = 0; l < a->layers; l++)
		if ((arch_window(a, l) != 0) != ((l + 1) % p != 0))
			return false;
	return true;
}

static void set_pattern(const struct arch *a, json_t *cfg)
{
	const json_t *old = json_object_get(cfg, "sliding_window_pattern");

	if (!json_is_integer(old) || has_pattern(a, json_integer_value(old)))
		return;
	for (int64_t p = 1; p <= a->layers + 1; p++)
		if (has_pattern(a, p)) {
			json_object_set_new(cfg, "sliding_window_pattern", json_integer(p));
			return;
		}
	json_object_del(cfg, "sliding_window_pattern");
}

/* Leading full blocks, when all others slide. */
static void set_max_window(const struct arch *a, json_t *cfg)
{
	int64_t m = 0;

	if (!json_object_get(cfg, "max_window_layers") || !json_is_true(json_object_get(cfg, "use_sliding_window")))
		return;
	while (m < a->layers && !arch_window(a, m))
		m++;
	for (int64_t l = m; l < a->layers; l++)
		if (!arch_window(a, l))
			return;
	json_object_set_new(cfg, "max_window_layers", json_integer(m));
}

void arch_config_layers(const struct arch *a, json_t *cfg)
{
	const json_t *old = json_object_get(cfg, "layer_types");

	if (a->family->layer_types && (a->window || json_is_array(old))) {
		json_t *list = json_array();
		for (int64_t l = 0; l < a->layers; l++)
			json_array_append_new(list, json_string(words[arch_window(a, l) != 0]));
		json_object_set_new(cfg, "layer_types", list);
	}
	set_pattern(a, cfg);
	set_max_window(a, cfg);
}
