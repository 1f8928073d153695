/*
 * test_vocab.c - padding of the vocabulary counts for nothing: a model with rows beyond its tokens, filled with anything, gives the
 * losses and gradients of the model without them, bit for bit in the reference, and its padding gets no gradient
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aux_tiny.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { TOKENS = 19, SEQ = 7, BATCH = 2 };
static struct tiny student = { .family = "llama", .layers = 1, .hidden = 8, .ffn = 10, .heads = 2, .kv_heads = 1, .head_dim = 4 };
static struct tiny teacher = { .family = "llama", .layers = 1, .hidden = 12, .ffn = 8, .heads = 3, .kv_heads = 3, .head_dim = 4 };

/* The weights of one size of vocabulary in the layout of another: what the smaller one has is the same. */
static void fill(const struct ptable *t, float *w, uint64_t seed)
{
	struct tiny most = t->arch.hidden == 8 ? student : teacher;
	most.vocab = 40;
	struct arch a = tiny_arch(&most);
	struct ptable *big = ptable_new(&a);
	float *all = xcalloc((size_t)big->elems, sizeof *all);
	tiny_fill(big, all, DT_F32, seed);
	for (int i = 0; i < t->n; i++)
		memcpy(w + t->p[i].off, all + big->p[i].off, (size_t)(t->p[i].rows * t->p[i].cols) * sizeof *w);
	free(all);
	ptable_free(big);
}

static void one(struct trainer *t, struct engine *g, int rows_s, int rows_t, int64_t best, struct step_result *r)
{
	struct trainer_spec o = { .seq = SEQ, .micro = BATCH, .batch = BATCH, .vocab = TOKENS, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8 };
	int32_t ids[BATCH * SEQ], labels[BATCH * SEQ];
	o.loss = (struct objective){ .tau = 2, .beta = 0.5, .best = best, .tail = TAIL_GHOST };
	for (int k = 0; k < LOSS_KINDS; k++)
		o.loss.weight[k] = best && k != LOSS_KL && k != LOSS_CE ? 0 : 1;
	student.vocab = rows_s;
	teacher.vocab = rows_t;
	tiny_trainer(t, g, &student, &teacher, &o, 3);
	fill(t->student, t->w, 3);
	fill(t->teacher, t->tw, 4);
	trainer_sync(t);
	tiny_tokens(ids, labels, BATCH, SEQ, TOKENS, 8);
	assert_int_equal(trainer_gradients(t, ids, labels, r), 0);
}

static void test_padding(void **state)
{
	(void)state;
	for (int64_t best = 0; best <= 5; best += 5) {
		struct engine g = { 0 };
		struct trainer a, b;
		struct step_result ra, rb;
		one(&a, &g, TOKENS, TOKENS, best, &ra);
		one(&b, &g, 24, 40, best, &rb);
		assert_true(ra.loss == rb.loss);
		for (int k = 0; k < LOSS_KINDS; k++)
			assert_true(ra.mean[k] == rb.mean[k]);
		for (int i = 0; i < a.student->n; i++) {
			const struct param *p = &a.student->p[i], *q = &b.student->p[i];
			for (int64_t k = 0; k < p->rows * p->cols; k++)
				assert_true(a.grad[p->off + k] == b.grad[q->off + k]);
			for (int64_t k = p->rows * p->cols; k < q->rows * q->cols; k++)
				assert_true(b.grad[q->off + k] == 0);
		}
		trainer_free(&a);
		trainer_free(&b);
		g.k->dev_close(g.d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_padding) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
