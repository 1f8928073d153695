/*
 * test_depth.c - orders of layers from ablations, by hand
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/prune/depth.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct err e;

static void put(struct stats *s, const char *site, const char *metric, int64_t layer, int64_t count, int64_t step, double delta,
		const uint32_t *dropped)
{
	struct stat_delta d = { .layer = layer, .count = count, .step = step, .tokens = 10, .delta = delta,
				.dropped = (uint32_t *)dropped, .n_dropped = step > 0 ? step : 0 };
	snprintf(d.site, sizeof d.site, "%s", site);
	snprintf(d.metric, sizeof d.metric, "%s", metric);
	stats_delta_add(s, &d);
}

static void order_is(struct stats *s, const char *metric, const char *want)
{
	struct ranking r = { 0 };
	char got[32] = "";
	if (depth_rank(s, metric, &r, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(r.n, 1);
	for (int i = 0; i < r.ax[0].n; i++)
		snprintf(got + strlen(got), sizeof got - strlen(got), "%u", r.ax[0].order[i]);
	assert_string_equal(got, want);
	ranking_free(&r);
	stats_free(s);
}

static void refused(struct stats *s, const char *metric)
{
	struct ranking r = { 0 };
	assert_int_equal(depth_rank(s, metric, &r, &e), -1);
	assert_int_equal(e.code, EXIT_DATA);
	ranking_free(&r);
	stats_free(s);
}

static void test_orders(void **x)
{
	struct stats s = { .layers = 7 };
	static const double windows[] = { 5, 3, 1, 2, 4 }, one[] = { 4, 1, 1, 3, 2 };
	(void)x;
	for (int i = 0; i < 5; i++)            /* layer 0 and 6 protected; windows of 2 from 1 on: 1-2, 2-3, 3-4, 4-5 */
		put(&s, "block", "loss", i + 1, 1, -1, one[i], NULL);
	order_is(&s, "loss", "0614523");       /* protected, then 4 3 2 1 1: of equals the later goes first */
	s.layers = 7;
	for (int i = 0; i < 4; i++)
		put(&s, "block", "kl", i + 1, 2, -1, windows[i], NULL);
	order_is(&s, "auto", "0651234");       /* 3-4 is cheapest; 1-2 comes next without overlap; 5 is left */
	s.layers = 4;
	static const uint32_t gone[] = { 2, 0 };
	for (int i = 0; i < 3; i++)
		put(&s, "block", "mse", i, 1, 0, 3 - i, NULL);
	for (int i = 0; i < 2; i++)
		put(&s, "block", "mse", i, 1, 1, 4 + i, gone);
	order_is(&s, "auto", "3102");
}

static void test_refused(void **x)
{
	struct stats s = { 0 };
	static const uint32_t gone[] = { 2, 0 };
	(void)x;
	s.layers = 4;                          /* round 1 says that 1 went, but 0 was cheapest */
	put(&s, "block", "mse", 0, 1, 0, 1, NULL), put(&s, "block", "mse", 1, 1, 0, 2, NULL);
	put(&s, "block", "mse", 2, 1, 1, 1, gone + 0);
	refused(&s, "auto");
	s.layers = 4;                          /* no round 0 */
	put(&s, "block", "mse", 1, 1, 1, 4, gone);
	refused(&s, "auto");
	s.layers = 4;
	put(&s, "block", "mse", 1, 1, -1, 4, NULL), put(&s, "block", "kl", 1, 1, -1, 4, NULL);
	refused(&s, "auto");
	s.layers = 4;
	put(&s, "block", "kl", 1, 1, -1, 4, NULL), put(&s, "block", "kl", 1, 2, -1, 4, NULL);
	refused(&s, "kl");
	s.layers = 4;
	put(&s, "block", "kl", 1, 1, -1, 4, NULL);
	refused(&s, "bi");
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_orders), cmocka_unit_test(test_refused) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
