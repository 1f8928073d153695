/*
 * test_compensate.c - biases that stand for removed heads and neurons
 *
 * The judge is PyTorch (tests/oracle/ablations.py): inputs of removed columns replaced by their means.  A cut of hidden
 * channels on top is the same whether it comes with the compensation or after it.  Weights are copied to f32 first, so that
 * no bias is rounded.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "../../common/base/outfile.h"
#include "../../common/model/hfdir.h"
#include "../../common/prune/compensate.h"
#include "../../common/prune/observe.h"

static char dir[] = "/tmp/adze-comp-XXXXXX";
static struct engine g;
static struct err e;

static void must(int rc)
{
	if (rc)
		fail_msg("%s", e.msg);
}

/* Scores of 1 for the units listed in row l of a tensor [layers, kept], 0 for the others. */
static int64_t rank_kept(struct ranking *r, const char *axis, int64_t l, int64_t units, const struct st_tensor *t)
{
	double *s = xcalloc((size_t)units, sizeof *s);
	int32_t u;
	for (int64_t i = 0; i < t->dims[1]; i++) {
		memcpy(&u, (const char *)t->data + (l * t->dims[1] + i) * 4, 4);
		s[u] = 1;
	}
	ranking_add(r, axis, l, s, units);
	free(s);
	return t->dims[1];
}

/* Cuts the model in `from` into `to`; compensated when there are statistics. */
static int cut(const char *from, const char *to, const struct ranking *r, struct keep_want w, const struct stats *st)
{
	struct arch a;
	must(arch_load(&a, from, &e));
	struct st_model *m = st_open(from, &e);
	struct keep *k = m ? keep_new(&a, &w, r, "test", &e) : NULL;
	must(!k);
	int rc = st ? compensate(k, m, st, "stats", &e) : 0;
	if (!rc) {
		struct model_card card = { .title = "test", .origin = "test", .commands = "none" };
		must(mkdir_p(to, &e));
		must(gather_model(k, m, to, 1, NULL, NULL, &e) || hfdir_describe(to, &k->to, NULL, &card, &e) ||
		     hfdir_verify(to, &k->to, &e));
	}
	keep_free(k);
	st_close(m);
	arch_free(&a);
	return rc;
}

static float *logits_new(const char *path, const int32_t *ids, int64_t B, int64_t T, int64_t *n)
{
	struct weights w;
	struct frame f;
	must(weights_load(&w, &g, path, DT_F32, &e));
	struct build b = { .t = w.t, .dtype = DT_F32, .space = SP_PARAM, .prefix = "", .blk1 = w.t->arch.layers };
	struct prog *p = prog_new(B, T);
	val tok = p_input(p, "tokens", B * T, 1, DT_I32);
	val y = p_linear(p, p_forward(p, &b, tok, NONE), p_head_weight(p, &b), NONE, NONE, DT_F32);
	p_keep(p, y);
	must(prog_plan(p, &e) || frame_new(&f, &g, p, &e));
	f.base[SP_PARAM] = w.w;
	frame_set(&f, tok, ids);
	prog_run(&f);
	*n = p->v[y.id].rows * p->v[y.id].cols;
	float *out = xcalloc((size_t)*n, sizeof *out);
	frame_get(&f, y, out);
	frame_free(&f);
	prog_free(p);
	weights_free(&w);
	return out;
}

static void same_logits(const char *what, const char *path, const int32_t *ids, int64_t B, int64_t T, const float *want, double tol)
{
	int64_t n;
	float *got = logits_new(path, ids, B, T, &n);
	double worst = 0;
	for (int64_t i = 0; i < n; i++)
		worst = fmax(worst, fabs((double)got[i] - (double)want[i]));
	if (!(worst <= tol))
		fail_msg("%s: logits differ by %g", what, worst);
	free(got);
}

/* A copy of a fixture's model in f32, the statistics of the fixture's ids and a ranking of what it keeps. */
static struct st_model *prepare(const char *name, char *base, struct stats *st, struct ranking *r, struct keep_want *w)
{
	char path[160];
	struct weights m;
	struct observer ob;
	snprintf(path, sizeof path, "tests/golden/%s.safetensors", name);
	struct st_model *fx = st_open(path, &e);
	must(!fx);
	const struct st_tensor *ids = st_find(fx, "ids"), *heads = st_find(fx, "compensate.heads"), *ffn = st_find(fx, "compensate.ffn");
	assert_true(ids && heads && ffn);
	snprintf(path, sizeof path, "tests/golden/models/%s", name);
	must(weights_load(&m, &g, path, DT_F32, &e));
	must(params_save(m.t, m.w, base, path, "float32", &(struct model_card){ .title = "test" }, true, &e));
	stats_init(st, &m.t->arch, "0", ids->dims[1]);
	observe_init(&ob, &g, &m, st, OBSERVE_ALL);
	must(observe_batch(&ob, ids->data, ids->dims[0], ids->dims[1], &e));
	observe_flush(&ob);
	observe_free(&ob);
	const struct arch *a = &m.t->arch;
	*r = (struct ranking){ .layers = a->layers, .hidden = a->hidden, .ffn = a->ffn, .heads = a->heads, .kv_heads = a->kv_heads,
			       .head_dim = a->head_dim };
	*w = (struct keep_want){ 0 };
	for (int64_t l = 0; l < a->layers; l++) {
		w->heads = rank_kept(r, "head", l, a->heads, heads);
		w->ffn = rank_kept(r, "mlp", l, a->ffn, ffn);
	}
	double *emb = xcalloc((size_t)a->hidden, sizeof *emb);
	for (int64_t c = 0; c < a->hidden; c++)
		emb[c] = (double)(c * 5 % a->hidden);
	ranking_add(r, "emb", -1, emb, a->hidden);
	free(emb);
	weights_free(&m);
	return fx;
}

static void compare(const char *name)
{
	struct stats st;
	struct ranking r;
	struct keep_want w;
	char base[96], one[96], two[96], both[96];
	snprintf(base, sizeof base, "%s/%s", dir, name);
	snprintf(one, sizeof one, "%s/%s-1", dir, name);
	snprintf(two, sizeof two, "%s/%s-2", dir, name);
	snprintf(both, sizeof both, "%s/%s-12", dir, name);
	struct st_model *fx = prepare(name, base, &st, &r, &w);
	const struct st_tensor *ids = st_find(fx, "ids"), *want = st_find(fx, "compensate.logits");
	must(cut(base, one, &r, w, &st));
	same_logits("against PyTorch", one, ids->data, ids->dims[0], ids->dims[1], want->data, 1e-3);
	/* hidden channels afterwards, or at once */
	struct keep_want narrow = { .hidden = r.hidden - 8 };
	must(cut(one, two, &r, narrow, NULL));
	w.hidden = narrow.hidden;
	must(cut(base, both, &r, w, &st));
	int64_t n;
	float *y = logits_new(two, ids->data, ids->dims[0], ids->dims[1], &n);
	same_logits("hidden too", both, ids->data, ids->dims[0], ids->dims[1], y, 1e-5);
	free(y);
	/* a model that has biases keeps them: nothing more is removed, so nothing more is added */
	struct ranking empty = { .layers = r.layers };
	struct keep_want whole = { .layers = r.layers };
	assert_int_equal(cut(one, both, &empty, whole, &st), -1);
	assert_int_equal(e.code, EXIT_USAGE);
	st_close(fx);
	stats_free(&st);
	ranking_free(&r);
}

static void test_pytorch(void **s)
{
	(void)s;
	compare("llama-tied-gqa");
	compare("nemotron");
}

/* Biases that were there are added to: the cut in two halves is the cut at once. */
static void test_twice(void **s)
{
	struct stats st, next;
	struct ranking r;
	struct keep_want w;
	char base[96], one[96], two[96], both[96];
	(void)s;
	snprintf(base, sizeof base, "%s/twice", dir);
	snprintf(one, sizeof one, "%s/twice-1", dir);
	snprintf(two, sizeof two, "%s/twice-2", dir);
	snprintf(both, sizeof both, "%s/twice-12", dir);
	struct st_model *fx = prepare("nemotron", base, &st, &r, &w);
	const struct st_tensor *ids = st_find(fx, "ids");
	int64_t keep = w.ffn - 3, n;
	w.heads = 0;
	must(cut(base, one, &r, w, &st));
	w.ffn = keep;
	must(cut(base, both, &r, w, &st));
	/* the first step keeps 22 of 44, in their order; means of what is left are the same numbers */
	stats_init(&next, &(struct arch){ .family = family_find("nemotron"), .layers = st.layers, .hidden = st.hidden, .ffn = w.ffn + 3,
					  .heads = st.heads, .kv_heads = st.kv_heads, .head_dim = st.head_dim }, "0", st.seq);
	struct ranking again = { .layers = r.layers, .hidden = r.hidden, .ffn = keep + 3, .heads = r.heads, .kv_heads = r.kv_heads,
				 .head_dim = r.head_dim };
	for (int64_t l = 0; l < st.layers; l++) {
		const struct stat_entry *x = stats_find(&st, "ffn_act", l);
		const struct rank_axis *a = ranking_find(&r, "mlp", l);
		double score[64] = { 0 };
		struct stat_entry *y = stats_entry(&next, "ffn_act", l, 1, keep + 3);
		y->n = x->n, y->tokens = x->tokens;
		for (int64_t j = 0, i = 0; j < x->units; j++) {
			int64_t place = 0;
			while (a->order[place] != j)
				place++;
			if (place >= keep + 3)
				continue;
			y->sums[i] = x->sums[j];
			score[i++] = (double)-place;
		}
		ranking_add(&again, "mlp", l, score, keep + 3);
	}
	must(cut(one, two, &again, (struct keep_want){ .ffn = keep }, &next));
	float *y = logits_new(both, ids->data, ids->dims[0], ids->dims[1], &n);
	same_logits("in two steps", two, ids->data, ids->dims[0], ids->dims[1], y, 1e-4);
	free(y);
	st_close(fx);
	stats_free(&st);
	stats_free(&next);
	ranking_free(&r);
	ranking_free(&again);
}

static int setup(void **s)
{
	(void)s;
	return mkdtemp(dir) && !engine_open(&g, "ref", 1, &e) ? 0 : -1;
}

static int teardown(void **s)
{
	(void)s;
	engine_close(&g);
	return remove_tree(dir, &e);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_pytorch), cmocka_unit_test(test_twice) };
	return cmocka_run_group_tests(tests, setup, teardown);
}
