/*
 * simd_loss.h - one row of logits: softmaxes, losses and gradient of kd_head; log-probability of a label
 *
 * With a = (s - max s)/tau and b = (t - max t)/tau, S = sum e^a and T = sum e^b:
 *   KL = sum e^b (b - a) / T - log T + log S        RKL = sum e^a (a - b) / S - log S + log T
 * so one pass after the maxima gives every loss, equal logits give exactly 0, and nothing overflows.  The exponentials
 * replace the logits, and the gradient is a linear combination of them; only RKL, or CE at tau != 1, needs the
 * logits again (slow path).  Sums are f32 in lanes for 4096 columns at a time, then f64.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
enum { SPAN = 4096 };

static float row_top(const float *x, int64_t n)
{
	vf m = vset(-INFINITY);
	int64_t i = 0;
	for (; i + W <= n; i += W)
		m = vmax(ldf(x + i, W), m);
	float top = vtop(m);
	for (; i < n; i++)
		top = x[i] > top ? x[i] : top;
	return top;
}

struct kd_sums {
	double S, T, A, B, S1; /* S1 = sum e^(s - max s) */
};

/* One span of at most SPAN columns; keep: leave the logits alone */
INLINE void kd_span(struct kd_sums *z, float *s, float *t, int64_t n, float ms, float mt, float itau, int keep)
{
	vf S = { 0 }, T = { 0 }, A = { 0 }, B = { 0 }, S1 = { 0 };
	EACH(i, n) {
		int k = lanes(n - i);
		vf x = k == W ? ldf(s + i, W) : vset(-INFINITY);
		if (k < W)
			for (int j = 0; j < k; j++)
				x[j] = s[i + j];
		vf a = (x - ms) * itau, ea = vexp(a);
		S += ea;
		if (itau != 1.0f)
			S1 += vexp(x - ms);
		if (t) {
			vf y = k == W ? ldf(t + i, W) : x - ms + mt; /* dead lanes: -inf */
			if (k < W)
				for (int j = 0; j < k; j++)
					y[j] = t[i + j];
			vf b = (y - mt) * itau, eb = vexp(b), e = b - a;
			if (k < W)
				for (int j = k; j < W; j++)
					e[j] = 0;
			T += eb;
			A = vfma(eb, e, A);
			B = vfma(ea, -e, B);
			if (!keep)
				stf(t + i, eb, k);
		}
		if (!keep)
			stf(s + i, ea, k);
	}
	z->S += (double)vsum(S);
	z->T += (double)vsum(T);
	z->A += (double)vsum(A);
	z->B += (double)vsum(B);
	z->S1 += (double)vsum(itau != 1.0f ? S1 : S);
}

/* The label's own column once more, now with -1: p - 1 must be formed before it is rounded to bf16. */
static void kd_label(const struct kd_row *r, float g)
{
	g -= r->a->coef[LOSS_CE];
	if (r->g_dtype == DT_BF16)
		((uint16_t *)r->g)[r->label] = f32_to_bf16(g);
	else
		((float *)r->g)[r->label] = g;
}

/* g = k (es/S - et/T) + ce es/S, from the exponentials */
INLINE void kd_grad_fast(const struct kd_row *r, const struct kd_sums *z, float k, float ce, int gt)
{
	vf is = vset((float)(1.0 / z->S)), it = vset(r->t ? (float)(1.0 / z->T) : 0.0f);
	float pl = r->s[r->label] * is[0], gl = pl * ce + (r->t ? (pl - r->t[r->label] * it[0]) * k : 0.0f);
	EACH(i, r->V) {
		int n = lanes(r->V - i);
		vf ps = ldf(r->s + i, n) * is, g = ps * ce;
		if (r->t)
			g += (ps - ldf(r->t + i, n) * it) * k;
		vst(r->g, gt, i, g, n);
	}
	kd_label(r, gl);
}

/* The same plus RKL and CE at tau != 1, from the logits */
static void kd_grad_slow(const struct kd_row *r, const struct kd_sums *z, float ms, float mt)
{
	float tau = r->a->tau, itau = 1.0f / tau, ce = r->a->coef[LOSS_CE], kl = r->a->coef[LOSS_KL] * tau;
	float rkl = r->t ? r->a->coef[LOSS_RKL] * tau : 0.0f, shift = 0, gl = 0;
	vf is = vset((float)(1.0 / z->S)), it = vset(r->t ? (float)(1.0 / z->T) : 0.0f);
	vf i1 = vset((float)(1.0 / z->S1) * ce);
	if (r->t)
		shift = (float)(log(z->S) - log(z->T) + r->loss[LOSS_RKL]);
	EACH(i, r->V) {
		int n = lanes(r->V - i);
		vf x = ldf(r->s + i, n) - ms, a = x * itau, ps = vexp(a) * is, g = vexp(x) * i1;
		if (r->t) {
			vf b = (ldf(r->t + i, n) - mt) * itau;
			g += (ps - vexp(b) * it) * kl + ps * (a - b - shift) * rkl;
		}
		vst(r->g, r->g_dtype, i, g, n);
		if (r->label >= i && r->label < i + n)
			gl = g[r->label - i];
	}
	kd_label(r, gl);
}

static void row_kd(struct kd_row *r)
{
	const struct kd_head_args *a = r->a;
	float ms = row_top(r->s, r->V), mt = r->t ? row_top(r->t, r->V) : 0, itau = 1.0f / a->tau;
	float at = r->s[r->label];
	int slow = (r->t && a->coef[LOSS_RKL] != 0.0f) || (a->coef[LOSS_CE] != 0.0f && a->tau != 1.0f);
	int keep = slow || !r->g;
	struct kd_sums z = { 0 };
	for (int64_t i = 0; i < r->V; i += SPAN)
		kd_span(&z, r->s + i, r->t ? r->t + i : NULL, r->V - i < SPAN ? r->V - i : SPAN, ms, mt, itau, keep);
	r->loss[LOSS_KL] = r->t ? z.A / z.T - log(z.T) + log(z.S) : 0;
	r->loss[LOSS_RKL] = r->t ? z.B / z.S - log(z.S) + log(z.T) : 0;
	r->loss[LOSS_CE] = log(z.S1) + (double)ms - (double)at;
	if (!r->g)
		return;
	if (slow)
		kd_grad_slow(r, &z, ms, mt);
	else if (r->g_dtype == DT_BF16)
		kd_grad_fast(r, &z, a->coef[LOSS_KL] * a->tau, a->coef[LOSS_CE], DT_BF16);
	else
		kd_grad_fast(r, &z, a->coef[LOSS_KL] * a->tau, a->coef[LOSS_CE], DT_F32);
}

static void row_logprob(float out[2], const float *s, int64_t V, int64_t label)
{
	float top = row_top(s, V);
	double S = 0;
	for (int64_t i0 = 0; i0 < V; i0 += SPAN) {
		int64_t n = V - i0 < SPAN ? V - i0 : SPAN, i = 0;
		vf z = { 0 };
		for (; i + W <= n; i += W)
			z += vexp(ldf(s + i0 + i, W) - top);
		S += (double)vsum(z);
		for (; i < n; i++)
			S += exp((double)s[i0 + i] - (double)top);
	}
	int first = s[label] == top;
	for (int64_t i = 0; first && i < label; i++)
		first = s[i] != top;
	out[0] = (float)((double)s[label] - (double)top - log(S));
	out[1] = first ? 1.0f : 0.0f;
}
