/*
 * opt_list.c - list syntaxes of option values: "1,2,8:12,16:64:16" and "kl:1,ce:0.5"
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "opt.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LIST_MAX 100000000

/* "a", "a:b" or "a:b:step" */
static int parse_item(const char *item, int64_t r[3], struct err *e)
{
	char buf[128], *p = buf;
	int n = 0;
	if (strlen(item) >= sizeof buf)
		return err_set(e, EXIT_USAGE, "'%.40s...' is not a number or range", item);
	strcpy(buf, item);
	for (char *q; p; p = q, n++) {
		q = strchr(p, ':');
		if (q)
			*q++ = '\0';
		if (n == 3 || parse_i64(p, &r[n]))
			return err_set(e, EXIT_USAGE, "'%s' is not a number or range (a:b or a:b:step)", item);
	}
	if (n == 1)
		r[1] = r[0];
	if (n < 3)
		r[2] = 1;
	if (r[1] < r[0] || r[2] < 1)
		return err_set(e, EXIT_USAGE, "range '%s' is empty", item);
	return 0;
}

int parse_i64_list(const char *s, int64_t **v_new, int64_t *n, struct err *e)
{
	int64_t *v = NULL, cap = 0, len = 0, r[3];
	char *copy = xstrdup(s), *p = copy;
	for (char *q; p; p = q) {
		q = strchr(p, ',');
		if (q)
			*q++ = '\0';
		if (parse_item(p, r, e))
			goto fail;
		uint64_t more = ((uint64_t)r[1] - (uint64_t)r[0]) / (uint64_t)r[2] + 1;
		if (more > LIST_MAX || len + (int64_t)more > LIST_MAX) {
			err_set(e, EXIT_USAGE, "'%s' lists more than %d values", s, LIST_MAX);
			goto fail;
		}
		if (len + (int64_t)more > cap) {
			cap = (len + (int64_t)more) * 2;
			v = xrealloc(v, (size_t)cap, sizeof *v);
		}
		for (uint64_t i = 0; i < more; i++)
			v[len++] = r[0] + (int64_t)i * r[2];
	}
	free(copy);
	*v_new = v;
	*n = len;
	return 0;
fail:
	free(copy);
	free(v);
	return -1;
}

int parse_weights(const char *s, int (*cb)(void *, const char *, double, struct err *), void *arg, struct err *e)
{
	char *copy = xstrdup(s), *p = copy;
	int rc = 0;
	for (char *q; p && !rc; p = q) {
		double v = NAN;
		q = strchr(p, ',');
		if (q)
			*q++ = '\0';
		char *colon = strchr(p, ':');
		if (colon)
			*colon++ = '\0';
		if (!*p)
			rc = err_set(e, EXIT_USAGE, "'%s' has an item without a name", s);
		else if (colon && parse_f64(colon, &v))
			rc = err_set(e, EXIT_USAGE, "'%s' in '%s' is not a number", colon, s);
		else
			rc = cb(arg, p, v, e);
	}
	free(copy);
	return rc;
}
