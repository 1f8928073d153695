/*
 * simd_rows.h - the row functions of struct simd, compiled once per instruction set
 *
 * Included by simd_*.c after vec.h.  Loops go one register at a time; the last one is short (see vec.h).  A function
 * is written once for all dtypes: FAST() calls it with both dtypes as constants in the two cases that matter, so that
 * the compiler drops the dtype tests from the loop.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define EACH(i, n) for (int64_t i = 0; i < (n); i += W)
#define FAST(xt, yt, call_h, call_f, call)                    \
	do {                                                  \
		if ((xt) == DT_BF16 && (yt) == DT_BF16)       \
			call_h;                               \
		else if ((xt) == DT_F32 && (yt) == DT_F32)    \
			call_f;                               \
		else                                          \
			call;                                 \
	} while (0)

INLINE void cvt_body(void *y, int yt, const void *x, int xt, float c, int64_t n)
{
	EACH(i, n)
		vst(y, yt, i, vld(x, xt, i, lanes(n - i)) * c, lanes(n - i));
}

static void row_cvt(void *y, int yt, const void *x, int xt, float c, int64_t n)
{
	if (xt == yt && c == 1.0f)
		memcpy(y, x, (size_t)n * dtype_size(xt));
	else
		FAST(xt, yt, cvt_body(y, DT_BF16, x, DT_BF16, c, n), cvt_body(y, DT_F32, x, DT_F32, c, n),
		     cvt_body(y, yt, x, xt, c, n));
}

INLINE void lincomb_body(void *y, int yt, int acc, const void *a, int at, float ca, const void *b, int bt, float cb,
			 int64_t n)
{
	EACH(i, n) {
		int k = lanes(n - i);
		vf s = vld(a, at, i, k) * ca;
		if (b)
			s = vfma(vld(b, bt, i, k), vset(cb), s);
		if (acc)
			s += vld(y, yt, i, k);
		vst(y, yt, i, s, k);
	}
}

static void row_lincomb(void *y, int yt, int acc, const void *a, int at, float ca, const void *b, int bt, float cb,
			int64_t n)
{
	if (b && !acc && yt == DT_BF16 && at == DT_BF16 && bt == DT_BF16)
		lincomb_body(y, DT_BF16, 0, a, DT_BF16, ca, b, DT_BF16, cb, n);
	else
		lincomb_body(y, yt, acc, a, at, ca, b, bt, cb, n);
}

static void row_mul(void *y, int yt, const void *x, int xt, const float *z, int64_t n)
{
	EACH(i, n)
		vst(y, yt, i, vld(x, xt, i, lanes(n - i)) * ldf(z + i, lanes(n - i)), lanes(n - i));
}

static void row_axpy(float *s, const void *x, int xt, float c, int64_t n)
{
	EACH(i, n)
		stf(s + i, vfma(vld(x, xt, i, lanes(n - i)), vset(c), ldf(s + i, lanes(n - i))), lanes(n - i));
}

static void row_addmul(float *s, const void *x, int xt, const void *y, int yt, int64_t n)
{
	EACH(i, n) {
		int k = lanes(n - i);
		stf(s + i, vfma(vld(x, xt, i, k), vld(y, yt, i, k), ldf(s + i, k)), k);
	}
}

static void row_dot3(double out[3], const void *a, int at, const void *b, int bt, int64_t n)
{
	vf aa = { 0 }, bb = { 0 }, ab = { 0 };
	EACH(i, n) {
		int k = lanes(n - i);
		vf x = vld(a, at, i, k), y = vld(b, bt, i, k);
		aa = vfma(x, x, aa);
		bb = vfma(y, y, bb);
		ab = vfma(x, y, ab);
	}
	out[0] = (double)vsum(aa);
	out[1] = (double)vsum(bb);
	out[2] = (double)vsum(ab);
}

static double row_sqdiff(const void *a, int at, const void *b, int bt, int64_t n)
{
	vf s = { 0 };
	EACH(i, n) {
		vf e = vld(a, at, i, lanes(n - i)) - vld(b, bt, i, lanes(n - i));
		s = vfma(e, e, s);
	}
	return (double)vsum(s);
}

static double row_sumsq(const void *x, int xt, int64_t n)
{
	double total = 0;
	for (int64_t i0 = 0; i0 < n; i0 += 1024) { /* f32 lanes never add more than a few hundred squares */
		int64_t m = n - i0 < 1024 ? n - i0 : 1024;
		vf s = { 0 };
		EACH(i, m) {
			vf e = vld(x, xt, i0 + i, lanes(m - i));
			s = vfma(e, e, s);
		}
		total += (double)vsum(s);
	}
	return total;
}

/* ---- norm: see ref_norm.c for the equations ---- */

static const float ones[16] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 };

INLINE vf live_of(const struct norm_row *r, int64_t i, int k)
{
	return r->ind ? ldf(r->ind + i, k) : vset(1.0f);
}

INLINE void norm_body(const struct norm_row *r, void *y, int yt, float stat[2], const void *x, int xt)
{
	int64_t C = r->C;
	float mean = 0;
	if (r->kind == NORM_LAYER1P) {
		vf s = { 0 };
		EACH(i, C)
			s = vfma(vld(x, xt, i, lanes(C - i)), live_of(r, i, lanes(C - i)), s);
		mean = vsum(s) / r->width;
	}
	vf q = { 0 };
	EACH(i, C) {
		int k = lanes(C - i);
		vf u = vld(x, xt, i, k) - mean;
		if (r->ind)
			u *= ldf(r->ind + i, k);
		else if (k < W)
			u *= ldf(ones, k); /* dead lanes held -mean */
		q = vfma(u, u, q);
	}
	float rstd = 1.0f / sqrtf(vsum(q) / r->width + r->eps);
	EACH(i, C) {
		int k = lanes(C - i);
		vf h = (vld(x, xt, i, k) - mean) * rstd * ldf(r->gain + i, k);
		if (r->bias)
			h += ldf(r->bias + i, k);
		vst(y, yt, i, h, k);
	}
	stat[0] = mean;
	stat[1] = rstd;
}

static void row_norm(const struct norm_row *r, void *y, int yt, float stat[2], const void *x, int xt)
{
	FAST(xt, yt, norm_body(r, y, DT_BF16, stat, x, DT_BF16), norm_body(r, y, DT_F32, stat, x, DT_F32),
	     norm_body(r, y, yt, stat, x, xt));
}

INLINE void norm_bwd_body(const struct norm_row *r, void *dx, int dxt, int acc, float *sw, float *sb, const void *dy,
			  int dyt, const void *x, int xt, const float stat[2])
{
	int64_t C = r->C;
	float mean = stat[0], rstd = stat[1];
	vf se = { 0 }, seh = { 0 };
	EACH(i, C) {
		int k = lanes(C - i);
		vf g = vld(dy, dyt, i, k), h = (vld(x, xt, i, k) - mean) * rstd, e = g * ldf(r->gain + i, k);
		se += e;
		seh = vfma(e, h, seh);
		if (sw)
			stf(sw + i, vfma(g, h, ldf(sw + i, k)), k);
		if (sb)
			stf(sb + i, g + ldf(sb + i, k), k);
	}
	float me = r->kind != NORM_LAYER1P ? 0.0f : vsum(se) / r->width, meh = vsum(seh) / r->width;
	if (!dx)
		return;
	EACH(i, C) {
		int k = lanes(C - i);
		vf h = (vld(x, xt, i, k) - mean) * rstd, e = vld(dy, dyt, i, k) * ldf(r->gain + i, k);
		vf v = (e - me - h * meh) * rstd;
		if (r->ind)
			v *= ldf(r->ind + i, k);
		if (acc)
			v += vld(dx, dxt, i, k);
		vst(dx, dxt, i, v, k);
	}
}

static void row_norm_bwd(const struct norm_row *r, void *dx, int dxt, int acc, float *sw, float *sb, const void *dy,
			 int dyt, const void *x, int xt, const float stat[2])
{
	if (dxt == DT_BF16 && dyt == DT_BF16 && xt == DT_BF16)
		norm_bwd_body(r, dx, DT_BF16, acc, sw, sb, dy, DT_BF16, x, DT_BF16, stat);
	else
		norm_bwd_body(r, dx, dxt, acc, sw, sb, dy, dyt, x, xt, stat);
}

/* ---- activations: see ref_act.c for the equations ---- */

INLINE vf sigmoid(vf x)
{
	return 1.0f / (1.0f + vexp(-x));
}

/* f(x) and, in *df, f'(x) */
INLINE vf act_eval(vf x, int kind, vf *df)
{
	if (kind == ACT_RELU2) {
		vf p = vmax(x, vset(0.0f));
		*df = p * 2.0f;
		return p * p;
	}
	if (kind == ACT_SWIGLU) {
		vf s = sigmoid(x);
		*df = s * (x * (1.0f - s) + 1.0f);
		return x * s;
	}
	const float k = 0.7978845608f, c = 0.044715f; /* gelu: x sigma(2u) = x/2 (1 + tanh u), u = k (x + c x^3) */
	vf s = sigmoid(x * (x * x * c + 1.0f) * (2.0f * k));
	*df = s + x * s * (1.0f - s) * (x * x * (3.0f * c) + 1.0f) * (2.0f * k);
	return x * s;
}

INLINE void act_body(void *y, int yt, const void *x, int xt, int kind, int64_t F)
{
	int gated = kind == ACT_SWIGLU || kind == ACT_GEGLU;
	EACH(i, F) {
		int k = lanes(F - i);
		vf df, f = act_eval(vld(x, xt, i, k), kind, &df);
		vst(y, yt, i, gated ? f * vld(x, xt, F + i, k) : f, k);
	}
}

static void row_act(void *y, int yt, const void *x, int xt, int kind, int64_t F)
{
	if (kind == ACT_SWIGLU)
		FAST(xt, yt, act_body(y, DT_BF16, x, DT_BF16, ACT_SWIGLU, F), act_body(y, DT_F32, x, DT_F32, ACT_SWIGLU, F),
		     act_body(y, yt, x, xt, ACT_SWIGLU, F));
	else
		act_body(y, yt, x, xt, kind, F);
}

INLINE void act_dx_body(void *dx, int dxt, const void *dy, int dyt, const void *x, int xt, int kind, int64_t F)
{
	int gated = kind == ACT_SWIGLU || kind == ACT_GEGLU;
	EACH(i, F) {
		int k = lanes(F - i);
		vf df, f = act_eval(vld(x, xt, i, k), kind, &df), e = vld(dy, dyt, i, k);
		if (gated) {
			vst(dx, dxt, i, e * vld(x, xt, F + i, k) * df, k);
			vst(dx, dxt, F + i, e * f, k);
		} else
			vst(dx, dxt, i, e * df, k);
	}
}

static void row_act_dx(void *dx, int dxt, const void *dy, int dyt, const void *x, int xt, int kind, int64_t F)
{
	if (kind == ACT_SWIGLU && dxt == DT_BF16 && dyt == DT_BF16 && xt == DT_BF16)
		act_dx_body(dx, DT_BF16, dy, DT_BF16, x, DT_BF16, ACT_SWIGLU, F);
	else
		act_dx_body(dx, dxt, dy, dyt, x, xt, kind, F);
}

/* ---- statistics: columns of x into f64 sums, through f32 sums over FOLD rows ---- */

enum { FOLD = 128, FEW = 8 };
typedef float vq __attribute__((vector_size(2 * W))); /* half a register, and its values as f64 */
typedef double vd __attribute__((vector_size(4 * W)));

INLINE void fold(double *s, const float *f, int64_t n)
{
	int64_t i = 0;
	for (; i + W / 2 <= n; i += W / 2) {
		vq x;
		vd y;
		memcpy(&x, f + i, sizeof x);
		memcpy(&y, s + i, sizeof y);
		y += __builtin_convertvector(x, vd);
		memcpy(s + i, &y, sizeof y);
	}
	for (; i < n; i++)
		s[i] += (double)f[i];
}

/* `rows` rows, a register of columns: sums of x - c, |x|, x^2, (x - c)^2 */
INLINE void moments_add(float (*s)[MOMENTS], const float *about, const void *x, int xt, int64_t ld, int rows, int64_t i, int k)
{
	vf c = ldf(about + i, k), dev = ldf(s[0] + i, k), abs = ldf(s[1] + i, k), sq = ldf(s[2] + i, k), dev2 = ldf(s[3] + i, k);
	for (int r = 0; r < rows; r++) {
		__builtin_prefetch((const char *)x + (size_t)((r + rows) * ld + i) * dtype_size(xt), 0, 2);
		vf y = vld(x, xt, r * ld + i, k), d = y - c;
		dev += d;
		abs += (vf)((vi)y & 0x7fffffff);
		sq = vfma(y, y, sq);
		dev2 = vfma(d, d, dev2);
	}
	stf(s[0] + i, dev, k);
	stf(s[1] + i, abs, k);
	stf(s[2] + i, sq, k);
	stf(s[3] + i, dev2, k);
}

INLINE void moments_few(float (*s)[MOMENTS], const float *about, const void *x, int xt, int64_t ld, int rows, int64_t n)
{
	int64_t i = 0;
	for (; i + W <= n; i += W)
		moments_add(s, about, x, xt, ld, rows, i, W);
	if (i < n)
		moments_add(s, about, x, xt, ld, rows, i, lanes(n - i));
}

/* A few rows at a time from left to right, the next few on their way: whole lines and pages in order, the sums stay in L1 */
INLINE void moments_body(double *const to[4], const float *about, const char *x, int xt, int64_t ld, int64_t rows, int64_t n)
{
	float s[4][MOMENTS];
	for (int64_t r = 0, end; r < rows; r = end) {
		end = rows - r < FOLD ? rows : r + FOLD;
		memset(s, 0, sizeof s);
		int64_t i = r;
		for (; i + FEW <= end; i += FEW)
			moments_few(s, about, x + (size_t)(i * ld) * dtype_size(xt), xt, ld, FEW, n);
		for (; i < end; i++)
			moments_few(s, about, x + (size_t)(i * ld) * dtype_size(xt), xt, ld, 1, n);
		for (int m = 0; m < 4; m++)
			fold(to[m], s[m], n);
	}
}

static void row_moments(double *const to[4], const float *about, const void *x, int xt, int64_t ld, int64_t rows, int64_t n)
{
	if (xt == DT_BF16)
		moments_body(to, about, x, DT_BF16, ld, rows, n);
	else
		moments_body(to, about, x, DT_F32, ld, rows, n);
}

/* ---- adamw: c1, c2 = 1 / (1 - beta^step) ---- */

static void row_adamw(float *w, float *m, float *v, const float *g, uint16_t *wb, const struct adamw_args *a, float c1,
		      float c2, int64_t n)
{
	EACH(i, n) {
		int k = lanes(n - i);
		vf x = ldf(g + i, k) * a->grad_scale, old = ldf(w + i, k);
		vf mi = ldf(m + i, k) * a->beta1 + x * (1.0f - a->beta1);
		vf vi2 = ldf(v + i, k) * a->beta2 + x * x * (1.0f - a->beta2);
		vf step = mi * c1 / (vsqrt(vi2 * c2) + a->eps) + old * a->weight_decay;
		vf now = old - step * a->lr;
		stf(m + i, mi, k);
		stf(v + i, vi2, k);
		stf(w + i, now, k);
		if (wb)
			sth(wb + i, now, k);
	}
}
