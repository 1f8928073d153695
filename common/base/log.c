/*
 * log.c - messages, progress, events, the closing summary, and polite stopping
 *
 * stderr is shared by the bar and the messages: whoever prints first wipes the bar, the next progress_step() redraws it.
 * The first SIGINT or SIGTERM only sets a flag - but only when the program polls stop_requested(); one that does not
 * poll has nothing to save and ends at once.  Either way uncommitted outputs are removed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "log.h"
#include "opt.h"
#include "outfile_pending.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static double start_time;
static FILE *events;
static bool bar_shown;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile sig_atomic_t stop_signal, want_checkpoint, polled;

static void on_stop(int sig)
{
	if (stop_signal || !polled) {
		pending_remove_all();
		_exit(128 + sig);
	}
	stop_signal = sig;
}

static void on_checkpoint(int sig)
{
	(void)sig;
	want_checkpoint = 1;
}

int stop_requested(void)
{
	polled = 1;
	return stop_signal;
}

int checkpoint_requested(void)
{
	if (!want_checkpoint)
		return 0;
	want_checkpoint = 0;
	return 1;
}

static void wipe_bar(void)
{
	if (bar_shown)
		fputs("\r\033[K", stderr);
	bar_shown = false;
}

void log_start(void)
{
	struct sigaction old, sa = { .sa_handler = on_stop }, ck = { .sa_handler = on_checkpoint, .sa_flags = SA_RESTART };
	start_time = now_seconds();
	on_message(wipe_bar);
	static const int stops[] = { SIGINT, SIGTERM, SIGUSR1 };
	for (size_t i = 0; i < sizeof stops / sizeof *stops; i++)
		if (!sigaction(stops[i], NULL, &old) && old.sa_handler != SIG_IGN) /* nohup, background jobs */
			sigaction(stops[i], &sa, NULL);
	sigaction(SIGUSR2, &ck, NULL);
	if (com.events) {
		events = fopen(com.events, "ae");
		if (!events)
			die(EXIT_IO, "%s: cannot open: %s", com.events, strerror(errno));
		setvbuf(events, NULL, _IOLBF, 1 << 16);
		log_event("start", "\"program\":\"%s\",\"version\":\"%s\",\"time\":%lld", prog_name, ADZE_VERSION, (long long)time(NULL));
	}
	log_verbose("%s", opt_command_line());
}

static void say(const char *tag, const char *fmt, va_list ap)
{
	pthread_mutex_lock(&lock);
	wipe_bar();
	fprintf(stderr, "%s: %s", prog_name, tag);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	pthread_mutex_unlock(&lock);
}

void log_info(const char *fmt, ...)
{
	va_list ap;
	if (com.quiet)
		return;
	va_start(ap, fmt);
	say("", fmt, ap);
	va_end(ap);
}

void log_verbose(const char *fmt, ...)
{
	va_list ap;
	if (!com.verbose || com.quiet)
		return;
	va_start(ap, fmt);
	say("", fmt, ap);
	va_end(ap);
}

void log_warn(const char *fmt, ...)
{
	va_list ap;
	if (com.quiet)
		return;
	va_start(ap, fmt);
	say("warning: ", fmt, ap);
	va_end(ap);
}

void log_event(const char *event, const char *fmt, ...)
{
	va_list ap;
	if (!events)
		return;
	pthread_mutex_lock(&lock);
	fprintf(events, "{\"t\":%.3f,\"event\":\"%s\"%s", now_seconds() - start_time, event, *fmt ? "," : "");
	va_start(ap, fmt);
	vfprintf(events, fmt, ap);
	va_end(ap);
	fputs("}\n", events);
	fflush(events);
	pthread_mutex_unlock(&lock);
}

/* ---- progress ---- */

enum style { NONE, PLAIN, BAR };

static enum style style(void)
{
	if (com.quiet || !strcmp(com.progress, "none"))
		return NONE;
	if (!strcmp(com.progress, "bar"))
		return BAR;
	const char *term = getenv("TERM");
	if (!strcmp(com.progress, "plain") || !isatty(STDERR_FILENO) || !term || !strcmp(term, "dumb"))
		return PLAIN;
	return BAR;
}

static void clock_text(char buf[32], double s)
{
	long t = s < 0 ? 0 : s > 9e8 ? 900000000 : (long)(s + 0.5);
	if (t >= 86400)
		snprintf(buf, 32, "%ldd%02ldh", t / 86400, t / 3600 % 24);
	else if (t >= 3600)
		snprintf(buf, 32, "%ld:%02ld:%02ld", t / 3600, t / 60 % 60, t % 60);
	else
		snprintf(buf, 32, "%ld:%02ld", t / 60, t % 60);
}

static double fraction(const struct progress *p)
{
	return p->total > 0 ? p->done < p->total ? p->done / p->total : 1 : 0;
}

static double rate_of(const struct progress *p, double now)
{
	double dt = now - p->t0;
	return dt > 0 ? p->done * (p->weight > 0 ? p->weight : 1) / dt : 0;
}

static void line_text(const struct progress *p, double now, char *buf, size_t n)
{
	char d[32], t[32], r[32], eta[32] = "";
	double f = fraction(p), dt = now - p->t0;
	snprintf(d, sizeof d, "%.0f", p->done);
	snprintf(t, sizeof t, "%.0f", p->total);
	fmt_count(r, rate_of(p, now));
	int k = p->total > 0 ? snprintf(buf, n, "%s %s/%s %3.0f%%", p->what, d, t, 100 * f) : snprintf(buf, n, "%s %s", p->what, d);
	if (k >= 0 && (size_t)k < n && p->unit)
		k += snprintf(buf + k, n - (size_t)k, " %s %s/s", r, p->unit);
	if (f > 0 && f < 1)
		clock_text(eta, dt * (1 - f) / f);
	if (k >= 0 && (size_t)k < n && *eta)
		k += snprintf(buf + k, n - (size_t)k, " eta %s", eta);
	if (k >= 0 && (size_t)k < n && p->extra[0])
		snprintf(buf + k, n - (size_t)k, " %s", p->extra);
}

static void draw_bar(const struct progress *p, const char *text)
{
	struct winsize w;
	int cols = !ioctl(STDERR_FILENO, TIOCGWINSZ, &w) && w.ws_col > 0 ? w.ws_col : 80;
	int room = cols - (int)strlen(prog_name) - (int)strlen(text) - 6;
	int width = p->total > 0 && room >= 8 ? room < 30 ? room : 30 : 0;
	bool color = !getenv("NO_COLOR");
	fprintf(stderr, "\r\033[K%s: ", prog_name);
	if (width) {
		int full = (int)(fraction(p) * width + 0.5);
		fprintf(stderr, "[%s", color ? "\033[32m" : "");
		for (int i = 0; i < width; i++)
			fputc(i < full ? '=' : ' ', stderr);
		fprintf(stderr, "%s] ", color ? "\033[0m" : "");
	}
	int left = cols - (int)strlen(prog_name) - 3 - (width ? width + 3 : 0);
	fprintf(stderr, "%.*s", left > 0 ? left : 0, text);
	fflush(stderr);
	bar_shown = true;
}

static void report(struct progress *p, double now, bool final)
{
	char text[256];
	enum style s = style();
	p->last = now;
	line_text(p, now, text, sizeof text);
	pthread_mutex_lock(&lock);
	if (s == BAR && final)
		wipe_bar();
	else if (s == BAR)
		draw_bar(p, text);
	else if (s == PLAIN && !final)
		fprintf(stderr, "%s: %s\n", prog_name, text);
	pthread_mutex_unlock(&lock);
	log_event("progress", "\"what\":\"%s\",\"done\":%.0f,\"total\":%.0f,\"unit\":\"%s\",\"rate\":%.6g", p->what, p->done, p->total,
		  p->unit ? p->unit : "", rate_of(p, now));
}

void progress_start(struct progress *p, const char *what, double total, const char *unit, double weight)
{
	*p = (struct progress){ .what = what, .unit = unit, .total = total, .weight = weight };
	p->t0 = p->last = now_seconds();
}

void progress_step(struct progress *p, double done)
{
	p->done = done;
	double now = now_seconds();
	if (now - p->last >= (style() == BAR ? 0.1 : 3.0))
		report(p, now, false);
}

void progress_end(struct progress *p)
{
	report(p, now_seconds(), true);
}

void log_summary(const char *fmt, ...)
{
	char text[512], mem[32];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	double s = now_seconds() - start_time;
	log_info("%s, %.1f s, peak %s", text, s, fmt_bytes(mem, (double)peak_rss_bytes()));
	log_event("summary", "\"seconds\":%.3f,\"peak_bytes\":%zu", s, peak_rss_bytes());
}
