/*
 * simd_loss.h - one row of logits: softmaxes, losses and gradient of kd_head; log-probability of a label
 *
 * With a = (s - max s)/tau and b = (t - max t)/tau, S = sum e^a and T = sum e^b:
 *   KL = sum e^b (b - a) / T - log T + log S        RKL = sum e^a (a - b) / S - log S + log T
 * so one pass after the maxima gives every loss, equal logits give exactly 0, and nothing overflows.  The exponentials
 * replace the logits, and the gradient is a linear combination of them; the other losses, or CE at tau != 1, need the
 * logits again (slow path, gradients as in ref_head.c).  Sums are f32 in lanes for 4096 columns at a time, then f64.
 *
 * Three steps: sums, further sums that need those, losses and gradient.  Where the columns are one part of several, the sums
 * of all take the place of its own between them.
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
	if (r->label < 0)
		return;
	g -= r->a->coef[LOSS_CE];
	if (r->g_dtype == DT_BF16)
		((uint16_t *)r->g)[r->label] = f32_to_bf16(g);
	else
		((float *)r->g)[r->label] = g;
}

/* g = k (es/S - et/T) + ce es/S, from the exponentials, which are relative to the maxima here */
INLINE void kd_grad_fast(const struct kd_row *r, float k, float ce, int gt)
{
	double itau = (double)(1.0f / r->a->tau), S = exp((r->ms - r->z.ms) * itau) / r->z.S;
	vf is = vset((float)S), it = vset(r->t ? (float)(exp((r->mt - r->z.mt) * itau) / r->z.T) : 0.0f);
	float pl = r->label < 0 ? 0.0f : r->s[r->label] * is[0];
	float gl = pl * ce + (r->t && r->label >= 0 ? (pl - r->t[r->label] * it[0]) * k : 0.0f);
	EACH(i, r->V) {
		int n = lanes(r->V - i);
		vf ps = ldf(r->s + i, n) * is, g = ps * ce;
		if (r->t)
			g += (ps - ldf(r->t + i, n) * it) * k;
		vst(r->g, gt, i, g, n);
	}
	kd_label(r, gl);
}

struct kd_scale {                         /* from logits to log ps, log pt, ps, pt */
	float ms, mt, itau;
	vf ls, lt;
};

/* u = log(ps/m) for d = log pt - log ps */
INLINE vf log_mix(vf d, float beta)
{
	vi up = d > 0.0f;
	vf e = vexp(vsel(up, -d, d)), c = vsel(up, vset(1.0f - beta), vset(beta));
	return -vlog(vfma(c, e - 1.0f, vset(1.0f))) - vsel(up, d, vset(0));
}

INLINE vf half_sign(vf x)
{
	return vsel(x > 0.0f, vset(0.5f), vsel(x < 0.0f, vset(-0.5f), vset(0)));
}

static void kd_more_span(struct kd_more *z, const float *s, const float *t, int64_t n, const struct kd_scale *c, float beta)
{
	vf J = { 0 }, D = { 0 }, M = { 0 }, U = { 0 }, G = { 0 }, ss = { 0 }, tt = { 0 }, st_ = { 0 };
	EACH(i, n) {
		int k = lanes(n - i);
		vf x = ldf(s + i, k), y = ldf(t + i, k), la = (x - c->ms) * c->itau - c->ls, lb = (y - c->mt) * c->itau - c->lt;
		if (k < W)
			for (int j = k; j < W; j++)
				la[j] = lb[j] = -1e9f;
		vf ps = vexp(la), pt = vexp(lb), d = lb - la, p = ps - pt;
		D += vsel(p > 0.0f, p, -p);
		G = vfma(ps, half_sign(p), G);
		if (beta > 0.0f) {
			vf u = log_mix(d, beta), pu = ps * u;
			U += pu;
			J += pt * (d + u) * beta + pu * (1.0f - beta);
		}
		M = vfma(x - y, x - y, M);
		ss = vfma(x, x, ss);
		tt = vfma(y, y, tt);
		st_ = vfma(x, y, st_);
	}
	z->jsd += (double)vsum(J);
	z->tvd += 0.5 * (double)vsum(D);
	z->mse += (double)vsum(M);
	z->U += (double)vsum(U);
	z->G += (double)vsum(G);
	z->q[0] += (double)vsum(ss);
	z->q[1] += (double)vsum(tt);
	z->q[2] += (double)vsum(st_);
}

/* Values of JSD, TVD, MSE and COS */
static void kd_more_losses(struct kd_row *r)
{
	const struct kd_more *z = &r->more;
	r->loss[LOSS_JSD] = z->jsd;
	r->loss[LOSS_TVD] = z->tvd;
	r->loss[LOSS_MSE] = z->mse / (double)r->vocab;
	r->loss[LOSS_COS] = 1.0 - z->q[2] / sqrt(fmax(z->q[0], 1e-16) * fmax(z->q[1], 1e-16));
}

/* Everything at once, from the logits: CE at any tau and, with a teacher,
 *   k (ps - pt)   r ps (a - b - RKL)   j ps (u - U)   v ps (g - G)   (s - t) m   x (along s - away t) */
static void kd_grad_slow(const struct kd_row *r, const struct kd_scale *c)
{
	const struct kd_head_args *a = r->a;
	const struct kd_more *more = &r->more;
	float tau = a->tau, shift = 0, gl = 0, m = 0, xs = 0, xt = 0, l1 = (float)log(r->z.S1);
	float kl = a->coef[LOSS_KL] * tau, rkl = a->coef[LOSS_RKL] * tau, tvd = a->coef[LOSS_TVD] * tau;
	float jsd = a->coef[LOSS_JSD] * tau * (1.0f - a->beta), U = (float)more->U, G = (float)more->G;
	if (r->t) {
		double n2 = fmax(more->q[0], 1e-16), away = 1.0 / sqrt(n2 * fmax(more->q[1], 1e-16));
		shift = (float)(r->loss[LOSS_RKL]);
		m = (float)(2.0 * (double)a->coef[LOSS_MSE] / (double)r->vocab);
		xs = a->coef[LOSS_COS] * (more->q[0] > 1e-16 ? (float)(more->q[2] * away / n2) : 0.0f); /* a clamped norm is a constant */
		xt = a->coef[LOSS_COS] * (float)away;
	}
	EACH(i, r->V) {
		int n = lanes(r->V - i);
		vf x = ldf(r->s + i, n), g = vexp(x - c->ms - l1) * a->coef[LOSS_CE];
		if (r->t) {
			vf y = ldf(r->t + i, n), la = (x - c->ms) * c->itau - c->ls, lb = (y - c->mt) * c->itau - c->lt, ps = vexp(la);
			vf p = ps - vexp(lb), q = (la - lb - shift) * rkl;
			if (jsd != 0.0f)
				q += (log_mix(lb - la, a->beta) - U) * jsd;
			if (tvd != 0.0f)
				q += (half_sign(p) - G) * tvd;
			g += p * kl + ps * q + (x - y) * m + x * xs - y * xt;
		}
		vst(r->g, r->g_dtype, i, g, n);
		if (r->label >= i && r->label < i + n)
			gl = g[r->label - i];
	}
	kd_label(r, gl);
}

/* sum e^((s - top)/tau), in f64 by spans */
static double row_sumexp(const float *s, int64_t n, float top, float itau)
{
	double S = 0;
	for (int64_t i0 = 0; i0 < n; i0 += SPAN) {
		int64_t m = n - i0 < SPAN ? n - i0 : SPAN, i = 0;
		vf z = { 0 };
		for (; i + W <= m; i += W)
			z += vexp((ldf(s + i0 + i, W) - top) * itau);
		S += (double)vsum(z);
		for (; i < m; i++)
			S += exp((double)(s[i0 + i] - top) * (double)itau);
	}
	return S;
}

/* Weighted soft labels: the terms with the teacher count 1 - e^(-CE(student)/CE(teacher)) */
static double kd_trust(const struct kd_row *r)
{
	double ct = log(r->z.T1) + r->z.mt - r->z.t_at;
	return 1.0 - exp(-r->loss[LOSS_CE] / fmax(ct, 1e-8));
}

enum { KD_MORE = 1, KD_SLOW = 2 };

/* Whether there are losses with sums of their own; whether the gradient needs the logits again */
static int kd_needs(const struct kd_row *r)
{
	const struct kd_head_args *a = r->a;
	int more = 0;
	for (int k = LOSS_JSD; k < LOSS_KINDS; k++)
		more |= r->t && a->coef[k] != 0.0f;
	int slow = more || (r->t && (a->wsl || a->coef[LOSS_RKL] != 0.0f)) || (a->coef[LOSS_CE] != 0.0f && a->tau != 1.0f);
	return more * KD_MORE | slow * KD_SLOW;
}

static struct kd_scale kd_scale_of(const struct kd_row *r)
{
	return (struct kd_scale){ (float)r->z.ms, (float)r->z.mt, 1.0f / r->a->tau, vset((float)log(r->z.S)),
				  vset(r->t ? (float)log(r->z.T) : 0.0f) };
}

/* Other losses than KL and CE, other weights: the logits are still there */
static void kd_slow(struct kd_row *r, int needs)
{
	struct kd_scale c = kd_scale_of(r);
	struct kd_head_args weighed = *r->a;
	double w = r->t && r->a->wsl ? kd_trust(r) : 1.0;
	if (needs & KD_MORE)
		kd_more_losses(r);
	for (int k = 0; k < LOSS_KINDS; k++)
		weighed.coef[k] *= k == LOSS_CE ? 1.0f : (float)w;
	if (r->g) {
		struct kd_row q = *r;
		q.a = &weighed;
		kd_grad_slow(&q, &c);
	}
	for (int k = 0; k < LOSS_KINDS; k++)
		r->loss[k] *= k == LOSS_CE ? 1.0 : k > LOSS_CE && r->a->coef[k] == 0.0f ? 0.0 : w; /* not asked for */
}

static void kd_first(struct kd_row *r)
{
	const struct kd_head_args *a = r->a;
	float ms = row_top(r->s, r->V), mt = r->t ? row_top(r->t, r->V) : 0, itau = 1.0f / a->tau;
	int keep = kd_needs(r) & KD_SLOW || !r->g;
	struct kd_sums *z = &r->z;
	*z = (struct kd_sums){ .ms = (double)ms, .mt = (double)mt };
	r->ms = z->ms;
	r->mt = z->mt;
	r->more = (struct kd_more){ 0 };
	if (r->label >= 0) {
		z->s_at = (double)r->s[r->label];
		z->t_at = r->t ? (double)r->t[r->label] : 0;
	}
	for (int64_t i = 0; i < r->V; i += SPAN)
		kd_span(z, r->s + i, r->t ? r->t + i : NULL, r->V - i < SPAN ? r->V - i : SPAN, ms, mt, itau, keep);
	if (r->t && a->wsl)
		z->T1 = row_sumexp(r->t, r->V, mt, 1.0f);
}

static void kd_second(struct kd_row *r)
{
	if (!(kd_needs(r) & KD_MORE))
		return;
	struct kd_scale c = kd_scale_of(r);
	float beta = r->a->coef[LOSS_JSD] != 0.0f ? r->a->beta : 0.0f;
	for (int64_t i = 0; i < r->V; i += SPAN)
		kd_more_span(&r->more, r->s + i, r->t + i, r->V - i < SPAN ? r->V - i : SPAN, &c, beta);
}

static void kd_third(struct kd_row *r)
{
	const struct kd_sums *z = &r->z;
	const struct kd_head_args *a = r->a;
	int needs = kd_needs(r);
	memset(r->loss, 0, sizeof r->loss);
	r->loss[LOSS_KL] = r->t ? z->A / z->T - log(z->T) + log(z->S) : 0;
	r->loss[LOSS_RKL] = r->t ? z->B / z->S - log(z->S) + log(z->T) : 0;
	r->loss[LOSS_CE] = log(z->S1) + z->ms - z->s_at;
	if (needs & KD_SLOW)
		kd_slow(r, needs);
	else if (r->g && r->g_dtype == DT_BF16)
		kd_grad_fast(r, a->coef[LOSS_KL] * a->tau, a->coef[LOSS_CE], DT_BF16);
	else if (r->g)
		kd_grad_fast(r, a->coef[LOSS_KL] * a->tau, a->coef[LOSS_CE], DT_F32);
}

static void kd_best(struct kd_row *r);

static void row_kd(struct kd_row *r)
{
	if (r->ids) {
		kd_best(r);
		return;
	}
	kd_first(r);
	kd_second(r);
	kd_third(r);
}

static void row_logprob(float out[2], const float *s, int64_t V, int64_t label)
{
	float top = row_top(s, V);
	double S = row_sumexp(s, V, top, 1.0f);
	int first = s[label] == top;
	for (int64_t i = 0; first && i < label; i++)
		first = s[i] != top;
	out[0] = (float)((double)s[label] - (double)top - log(S));
	out[1] = first ? 1.0f : 0.0f;
}
