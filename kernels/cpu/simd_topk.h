/*
 * simd_topk.h - one row of logits and the teacher's best K: choosing them, and the losses against them
 *
 * The K best are kept in a heap whose root is the worst of them; a span of logits is looked at one by one only when its
 * maximum beats the root.  The losses need one softmax of the student (over all, or over the K alone); what lies between
 * neighbouring ids is the rest, so no copy of the row and no mark in it is needed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */

/* a is worse than b: smaller, or equal with the higher id */
INLINE int worse(float a, int32_t ia, float b, int32_t ib)
{
	return a < b || (a == b && ia > ib);
}

/* Moves entry i of a heap of n down.  by_id: the root has the highest id; else the root is the worst. */
INLINE void sift(int32_t *ids, float *x, int64_t i, int64_t n, int by_id)
{
	for (int64_t c; (c = 2 * i + 1) < n; i = c) {
		if (c + 1 < n && (by_id ? ids[c + 1] > ids[c] : worse(x[c + 1], ids[c + 1], x[c], ids[c])))
			c++;
		if (by_id ? ids[c] <= ids[i] : !worse(x[c], ids[c], x[i], ids[i]))
			return;
		int32_t t = ids[i];
		float u = x[i];
		ids[i] = ids[c], x[i] = x[c];
		ids[c] = t, x[c] = u;
	}
}

static void choose(int32_t *ids, float *x, const float *s, int64_t V, int64_t K)
{
	enum { LOOK = 16 * W };
	for (int64_t i = 0; i < K; i++) {
		ids[i] = (int32_t)i;
		x[i] = s[i];
	}
	for (int64_t i = K / 2; i-- > 0 && K < V;)
		sift(ids, x, i, K, 0);
	for (int64_t i0 = K; i0 < V; i0 += LOOK) {
		int64_t end = V - i0 < LOOK ? V : i0 + LOOK;
		if (!(row_top(s + i0, end - i0) > x[0]))
			continue;
		for (int64_t i = i0; i < end; i++)
			if (s[i] > x[0]) {
				ids[0] = (int32_t)i;
				x[0] = s[i];
				sift(ids, x, 0, K, 0);
			}
	}
	for (int64_t i = K / 2; i-- > 0 && K < V;) /* in order of id */
		sift(ids, x, i, K, 1);
	for (int64_t n = K - 1; n > 0 && K < V; n--) {
		int32_t t = ids[0];
		float u = x[0];
		ids[0] = ids[n], x[0] = x[n];
		ids[n] = t, x[n] = u;
		sift(ids, x, 0, n, 1);
	}
}

/* log sum e^(s/tau) over the columns that are not in ids; -inf when there is none */
static double log_rest(const float *s, const int32_t *ids, int64_t V, int64_t K, float itau)
{
	float top = -INFINITY;
	double S = 0;
	for (int64_t i = 0, at = 0; i <= K; i++) {
		int64_t end = i < K ? ids[i] : V;
		if (end > at)
			top = fmaxf(top, row_top(s + at, end - at));
		at = end + 1;
	}
	for (int64_t i = 0, at = 0; i <= K && top > -INFINITY; i++) {
		int64_t end = i < K ? ids[i] : V;
		if (end > at)
			S += row_sumexp(s + at, end - at, top, itau);
		at = end + 1;
	}
	return S > 0 ? (double)top * (double)itau + log(S) : -(double)INFINITY;
}

static void row_topk(int32_t *ids, float *logp, const float *s, int64_t V, int64_t K, float itau)
{
	float top = row_top(s, V);
	double all = (double)top * (double)itau + log(row_sumexp(s, V, top, itau));
	choose(ids, logp, s, V, K);
	for (int64_t i = 0; i < K; i++)
		logp[i] = (float)((double)logp[i] * (double)itau - all);
	logp[K] = (float)(log_rest(s, ids, V, K, itau) - all);
}

struct best {                       /* one row against the best K */
	double ls, lt, lrest;       /* logs of sums: student over its support, teacher, student over the rest */
	double rest;                /* teacher's probability of the rest */
};

/* log sum e^x, of n values x[i] = s[ids[i]] * itau, or s[i] * itau without ids */
static double log_some(const float *s, const int32_t *ids, int64_t n, float itau)
{
	double top = -(double)INFINITY, S = 0;
	for (int64_t i = 0; i < n; i++)
		top = fmax(top, (double)s[ids ? ids[i] : i]);
	for (int64_t i = 0; i < n; i++)
		S += exp(((double)s[ids ? ids[i] : i] - top) * (double)itau);
	return top * (double)itau + log(S);
}

static void put_gradient(const struct kd_row *r, int64_t v, double g)
{
	if (r->g_dtype == DT_BF16)
		((uint16_t *)r->g)[v] = f32_to_bf16((float)g);
	else
		((float *)r->g)[v] = (float)g;
}

/* First every column as if it were outside of the K and not the label, then those that are not */
static void best_gradient(const struct kd_row *r, const struct best *b, double all, double one)
{
	const struct kd_head_args *a = r->a;
	float itau = 1.0f / a->tau, ce = a->coef[LOSS_CE], kl = a->tail == TAIL_RENORM ? 0.0f : a->coef[LOSS_KL] * a->tau;
	float la = (float)(all * (double)a->tau), l1 = (float)one; /* ps = e^((s - la)/tau) */
	float lr = (float)(b->lrest * (double)a->tau), rest = (float)b->rest;
	double k = (double)a->coef[LOSS_KL] * (double)a->tau;
	EACH(i, r->V) {
		int n = lanes(r->V - i);
		vf x = ldf(r->s + i, n), g = vexp(x - l1) * ce;
		if (kl != 0.0f) {
			vf ps = vexp((x - la) * itau);
			g += (rest > 0.0f ? ps - vexp((x - lr) * itau) * rest : ps) * kl;
		}
		vst(r->g, r->g_dtype, i, g, n);
	}
	int inside = 0;
	for (int64_t i = 0; i < r->K; i++) {
		int64_t v = r->ids[i];
		double x = (double)r->s[v], g = (double)ce * (exp(x - one) - (v == r->label));
		g += k * (exp(x * (double)itau - b->ls) - exp((double)r->logp[i] - b->lt));
		put_gradient(r, v, g);
		inside |= v == r->label;
	}
	if (inside)
		return;
	double x = (double)r->s[r->label], ps = exp(x * (double)itau - all), gl = (double)ce * (exp(x - one) - 1.0);
	gl += (double)kl * (ps - (b->rest > 0 ? b->rest * exp(x * (double)itau - b->lrest) : 0.0));
	put_gradient(r, r->label, gl);
}

static void kd_best(struct kd_row *r)
{
	const struct kd_head_args *a = r->a;
	float itau = 1.0f / a->tau, ms = row_top(r->s, r->V);
	double S = row_sumexp(r->s, r->V, ms, itau), S1 = itau == 1.0f ? S : row_sumexp(r->s, r->V, ms, 1.0f), kl = 0;
	double all = (double)ms * (double)itau + log(S), one = (double)ms + log(S1);
	int ghost = a->tail == TAIL_GHOST && r->K < r->V;
	struct best b = { .ls = all, .lt = log_some(r->logp, NULL, r->K + ghost, 1.0f) };
	if (a->tail == TAIL_RENORM)
		b.ls = log_some(r->s, r->ids, r->K, itau);
	if (ghost) {
		b.rest = exp((double)r->logp[r->K] - b.lt);
		b.lrest = log_rest(r->s, r->ids, r->V, r->K, itau);
	}
	if (b.rest > 0)
		kl += b.rest * ((double)r->logp[r->K] - b.lt - (b.lrest - b.ls));
	for (int64_t i = 0; i < r->K; i++) {
		double lt = (double)r->logp[i] - b.lt, p = exp(lt);
		if (p > 0)
			kl += p * (lt - ((double)r->s[r->ids[i]] * (double)itau - b.ls));
	}
	memset(r->loss, 0, sizeof r->loss);
	r->loss[LOSS_KL] = kl;
	r->loss[LOSS_CE] = one - (double)r->s[r->label];
	if (r->g)
		best_gradient(r, &b, all, one);
}
