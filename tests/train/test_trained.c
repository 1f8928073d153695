/*
 * test_trained.c - freezing: patterns, the same gradients as without, nothing done or kept for what is frozen
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_tiny.h"
#include "../../common/train/account.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const struct tiny small = { "llama", 1, 3, 12, 20, 4, 2, 4, 23, 1 };
static const struct tiny qwen = { "qwen2", 0, 2, 12, 20, 4, 2, 3, 23, 1 };
static const struct tiny gemma = { "gemma3_text", 1, 2, 12, 20, 4, 2, 4, 23, 1 };
static const struct tiny large = { "nemotron", 0, 2, 16, 24, 4, 2, 4, 23, 0.5 };
enum { SEQ = 8, BATCH = 4 };
static struct engine eng;
static int32_t ids[SEQ * BATCH], labels[SEQ * BATCH];

static struct trainer_spec spec(const char *train, const char *freeze, int recompute)
{
	struct trainer_spec o = { .seq = SEQ, .micro = 2, .batch = BATCH, .dtype = DT_F32, .clip = 1, .beta1 = 0.9, .beta2 = 0.95,
				  .eps = 1e-8, .weight_decay = 0.1, .recompute = recompute, .choice = { train, freeze } };
	o.loss.weight[LOSS_KL] = 1;
	o.loss.tau = 1;
	return o;
}

static void start(struct trainer *t, const struct tiny *shape, const char *train, const char *freeze, int recompute)
{
	struct trainer_spec o = spec(train, freeze, recompute);
	tiny_trainer(t, &eng, shape, &large, &o, 51);
	tiny_tokens(ids, labels, BATCH, SEQ, shape->vocab, 6);
}

/* Names of what is trained, spaces between */
static const char *trained(const struct trainer *t, char buf[2048])
{
	buf[0] = '\0';
	for (int i = 0; i < t->n_param; i++)
		snprintf(buf + strlen(buf), 2048 - strlen(buf), "%s%s", i ? " " : "", t->param[i]->name);
	return buf;
}

static void test_patterns(void **state)
{
	static const struct { const char *train, *freeze, *want; } row[] = {
		{ "embed_tokens", NULL, "embed" },
		{ "model.norm.weight", NULL, "final.norm.w" },
		{ "*layernorm", NULL, "blk.0.attn.norm.w blk.0.mlp.norm.w blk.1.attn.norm.w blk.1.mlp.norm.w blk.2.attn.norm.w blk.2.mlp.norm.w" },
		{ "layers.1.*", "o_proj,*layernorm", "blk.1.attn.qkv blk.1.mlp.up blk.1.mlp.down" },
		{ "layers.[02].mlp.*", "layers.0.*", "blk.2.mlp.up blk.2.mlp.down" },
		{ NULL, "embed*,layers.*", "final.norm.w" },
		{ "q_proj,[kv]_proj", "layers.?.self_attn.?_proj", NULL },
	};
	struct arch a = tiny_arch(&small);
	char buf[2048];
	(void)state;
	for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
		struct trainer t;
		struct err e = { 0 };
		struct trainer_spec o = spec(row[i].train, row[i].freeze, 0);
		o.loss = (struct objective){ .weight = { [LOSS_CE] = 1 }, .tau = 1 };
		int rc = trainer_plan(&t, ptable_new(&a), NULL, &o, &e);
		if (!row[i].want) {
			assert_int_equal(rc, -1);
			assert_int_equal(e.code, EXIT_USAGE);
			assert_non_null(strstr(e.msg, "nothing of the student is left"));
			continue;
		}
		assert_int_equal(rc, 0);
		assert_string_equal(trained(&t, buf), row[i].want);
		trainer_free(&t);
	}
}

static void test_refusals(void **state)
{
	static const struct { const char *train, *freeze, *say; } row[] = {
		{ "q_proj", NULL, "names model.layers.0.self_attn.q_proj.weight but not model.layers.0.self_attn.k_proj.weight" },
		{ NULL, "up_proj", "one matrix here" },
		{ NULL, "lm_head", "--freeze 'lm_head': the student has no such tensor" },
		{ "layers.3.*", NULL, "no such tensor" },
		{ ",", NULL, "no pattern" },
	};
	struct arch a = tiny_arch(&small);
	(void)state;
	for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
		struct trainer t;
		struct err e = { 0 };
		struct trainer_spec o = spec(row[i].train, row[i].freeze, 0);
		assert_int_equal(trainer_plan(&t, ptable_new(&a), NULL, &o, &e), -1);
		assert_int_equal(e.code, EXIT_USAGE);
		if (!strstr(e.msg, row[i].say))
			fail_msg("%s", e.msg);
	}
}

/* Gradients of what is trained are those of full training, bit for bit; |g| is theirs; no product for the rest */
static void compare(const struct tiny *shape, const char *train, const char *freeze, int recompute)
{
	struct trainer full, part;
	struct step_result a, b;
	double sum = 0;
	int dw = 0, matrices = 0;
	start(&full, shape, NULL, NULL, recompute);
	start(&part, shape, train, freeze, recompute);
	assert_true(part.trained < full.trained && part.elems == full.elems);
	assert_true(part.train.p->bytes[SP_GRAD] <= 4 * part.trained);
	assert_int_equal(trainer_gradients(&full, ids, labels, &a), 0);
	assert_int_equal(trainer_gradients(&part, ids, labels, &b), 0);
	assert_memory_equal(a.mean, b.mean, sizeof a.mean);
	for (int i = 0; i < part.n_param; i++) {
		const struct param *p = part.param[i], *q = ptable_find(full.student, p->name);
		int64_t n = p->rows * p->cols;
		if (memcmp(part.grad + p->off, full.grad + q->off, (size_t)n * 4))
			fail_msg("%s: another gradient", p->name);
		for (int64_t k = 0; k < n; k++)
			sum += (double)part.grad[p->off + k] * (double)part.grad[p->off + k];
		matrices += p->row->decay && strcmp(p->name, "embed") && strcmp(p->name, "head");
	}
	assert_true(fabs(b.grad_norm - sqrt(sum)) <= 1e-6 * b.grad_norm);
	for (int i = 0; i < part.train.p->n; i++)
		dw += part.train.p->op[i].code == OP_LINEAR_DW && part.train.p->op[i].out[0].id;
	assert_int_equal(dw, matrices);
	assert_true(part.train.p->bytes[SP_ACT] <= full.train.p->bytes[SP_ACT]);
	assert_true(account_flops_sum(&part) <= account_flops_sum(&full));
	trainer_free(&full);
	trainer_free(&part);
}

static void test_same_gradients(void **state)
{
	(void)state;
	for (int recompute = 0; recompute < 2; recompute++) {
		compare(&small, "*norm", NULL, recompute);
		compare(&small, NULL, "embed_tokens", recompute);
		compare(&small, "layers.1.mlp.*", NULL, recompute);
		compare(&small, "layers.2.*,model.norm", NULL, recompute);
		compare(&qwen, "*bias,lm_head", NULL, recompute);
		compare(&qwen, NULL, "*bias,*norm", recompute);
		compare(&gemma, "q_norm,post_attention_layernorm,down_proj", NULL, recompute);
	}
}

static void test_stops_early(void **state)
{
	struct trainer t;
	(void)state;
	start(&t, &small, "layers.2.*", NULL, 1);
	/* the final norm has no block; nothing of blocks 0 and 1 is run again or differentiated */
	for (int i = t.train.p->n_forward; i < t.train.p->n; i++)
		assert_true(t.train.p->op[i].block < 0 || t.train.p->op[i].block == 2);
	trainer_free(&t);
}

static void test_frozen_stay(void **state)
{
	struct trainer t;
	struct step_result r;
	(void)state;
	start(&t, &small, NULL, "embed_tokens,layers.1.*", 0);
	float *w = xmalloc((size_t)t.elems * 4);
	memcpy(w, t.w, (size_t)t.elems * 4);
	for (int i = 0; i < 5; i++)
		assert_int_equal(trainer_step(&t, ids, labels, 1e-2, &r), 0);
	for (int i = 0; i < t.student->n; i++) {
		const struct param *p = &t.student->p[i];
		int same = !memcmp(w + p->off, t.w + p->off, (size_t)(p->rows * p->cols) * 4);
		assert_int_equal(same, t.frozen[i]);
		assert_int_equal(t.frozen[i], !strcmp(p->name, "embed") || p->layer == 1);
	}
	free(w);
	trainer_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_patterns),    cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_same_gradients), cmocka_unit_test(test_stops_early),
		cmocka_unit_test(test_frozen_stay),
	};
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	if (eng.d)
		eng.k->dev_close(eng.d);
	return rc;
}
