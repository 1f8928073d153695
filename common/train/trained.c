/*
 * trained.c - patterns against the names of tensors
 *
 * q_proj, k_proj and v_proj are one matrix here, gate_proj and up_proj another: they are trained or frozen together.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "trained.h"
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

static bool matches(const char *glob, const char *name)
{
	char module[160];
	for (const char *s = name; s; s = strchr(s, '.') ? strchr(s, '.') + 1 : NULL) {
		const char *last = strrchr(s, '.');
		snprintf(module, sizeof module, "%.*s", (int)(last ? last - s : 0), s);
		if (!fnmatch(glob, s, 0) || (last && !fnmatch(glob, module, 0)))
			return true;
	}
	return false;
}

int trained_named(const struct ptable *t, const char *option, const char *list, uint8_t *mask, struct err *e)
{
	char *copy = xstrdup(list), *save = NULL, name[160];
	int rc = 0, globs = 0;
	memset(mask, 0, (size_t)t->n);
	for (char *g = strtok_r(copy, ",", &save); g && !rc; g = strtok_r(NULL, ",", &save), globs++) {
		int hits = 0;
		for (int i = 0; i < t->n; i++)
			for (int s = 0; s < t->p[i].row->nseg; s++)
				if (matches(g, param_hf_name(t, &t->p[i], s, name))) {
					mask[i] |= (uint8_t)(1u << s);
					hits++;
				}
		if (!hits)
			rc = err_set(e, EXIT_USAGE, "--%s '%s': the student has no such tensor", option, g);
	}
	if (!rc && !globs)
		rc = err_set(e, EXIT_USAGE, "--%s '%s': no pattern", option, list);
	free(copy);
	return rc;
}

/* A fused matrix is named as a whole or not at all. */
static int whole(const struct ptable *t, const char *option, const uint8_t *mask, struct err *e)
{
	char in[160], out[160];
	for (int i = 0; i < t->n; i++) {
		int n = t->p[i].row->nseg, a = 0, b = 0;
		if (!mask[i] || mask[i] == (1 << n) - 1)
			continue;
		while (!(mask[i] >> a & 1))
			a++;
		while (mask[i] >> b & 1)
			b++;
		return err_set(e, EXIT_USAGE, "--%s: names %s but not %s: they are one matrix here, name both or neither", option,
			       param_hf_name(t, &t->p[i], a, in), param_hf_name(t, &t->p[i], b, out));
	}
	return 0;
}

int trained_choose(const struct ptable *t, const struct choice *c, uint8_t *frozen, struct err *e)
{
	uint8_t *mask = xcalloc((size_t)t->n, 1);
	int rc = 0;
	memset(frozen, c->none, (size_t)t->n);
	if (c->train) {
		rc = trained_named(t, "train", c->train, mask, e) || whole(t, "train", mask, e) ? -1 : 0;
		for (int i = 0; i < t->n; i++)
			frozen[i] = !mask[i];
	}
	if (c->freeze && !rc) {
		rc = trained_named(t, "freeze", c->freeze, mask, e) || whole(t, "freeze", mask, e) ? -1 : 0;
		for (int i = 0; i < t->n; i++)
			frozen[i] |= mask[i] != 0;
	}
	free(mask);
	return rc;
}

void trained_place(struct ptable *t, const uint8_t *frozen, struct shard *s)
{
	for (int i = 0; i < t->n; i++)
		if (!frozen || !frozen[i])
			t->p[i].off = shard_place(s, t->p[i].layer, t->p[i].rows * t->p[i].cols);
}

int64_t trained_place_frozen(struct ptable *t, const uint8_t *frozen, int64_t at)
{
	for (int i = 0; i < t->n; i++)
		if (frozen[i]) {
			t->p[i].off = at;
			at += (t->p[i].rows * t->p[i].cols + 31) / 32 * 32;
		}
	return at;
}
