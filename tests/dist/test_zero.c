/*
 * test_zero.c - a checkpoint means the same whoever wrote it and whoever reads it
 *
 * Every element of weights, moments and average is given a value that follows from its name and place.  A first process or
 * job saves them; each that comes after loads them, looks at what it keeps, wipes it, and saves again for the next.  Alone
 * here; test_zero.sh does it with 4, 2, 3 and 1 processes, ZERO = 0, 1, 2, over one directory DIR.  A large state (1) is in
 * many frames: there each process is to read its share of the files and what else is in the frames at its ends.
 *
 *	test_zero [DIR ZERO f32|bf16 LARGE]
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../../common/base/log.h"
#include "../../common/base/opt.h"
#include "../../common/base/outfile.h"
#include "../../common/io/artifact.h"
#include "../../common/train/checkpoint_parts.h"
#include "../train/aux_tiny.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct comm world;
static const char *dir, *dtype = "bf16";
static char own_dir[] = "/tmp/test_zero.XXXXXX";
static int zero, large;

static const struct tiny shape[] = { { "llama", 1, 3, 24, 40, 3, 1, 8, 61, 0 }, { "llama", 1, 1, 512, 2048, 8, 8, 64, 61, 0 } };

static uint32_t key(const struct param *p, int a)
{
	uint32_t h = 17 + (uint32_t)a;
	for (const char *s = p->name; *s; s++)
		h = h * 31 + (uint32_t)*s;
	return h;
}

/* Element i of an array, exact in bf16 */
static float value(uint32_t h, int64_t i)
{
	return (float)((h + (uint64_t)i * (uint64_t)i % 65521) % 251);
}

static bool both_w_and_whole(const struct trainer *t, int a)
{
	return ckpt_letter[a] == 'w' && !t->wb;
}

/* Runs over all that this process keeps; how many elements are wrong; with `fill` they become right */
static int64_t each(struct trainer *t, bool fill, float scale)
{
	int64_t wrong = 0;
	for (int i = 0; i < t->n_param; i++)
		for (int a = 0; a < ckpt_arrays(t); a++) {
			const struct param *p = t->param[i];
			int64_t n = p->rows * p->cols;
			struct piece q = both_w_and_whole(t, a) ? (struct piece){ .off = p->off, .n = n } : shard_part(&t->shard, p->off, n);
			if (!q.n)
				continue;
			char *x = xcalloc(ckpt_bytes(t, a, q.n), 1);
			state_get(t, (enum state)a, &q, x);
			uint32_t h = key(p, a);
			for (int64_t k = 0; k < q.n; k++) {
				float v = scale * value(h, q.off - p->off + k);
				uint16_t low = f32_to_bf16(v);
				void *at = x + ckpt_bytes(t, a, k);
				wrong += memcmp(at, ckpt_low(t, a) ? (void *)&low : &v, ckpt_bytes(t, a, 1)) != 0;
				memcpy(at, ckpt_low(t, a) ? (void *)&low : &v, ckpt_bytes(t, a, 1));
			}
			if (fill)
				state_put(t, (enum state)a, &q, x);
			free(x);
		}
	return wrong;
}

/* Bytes of the files of a checkpoint */
static int64_t on_disk(int64_t step)
{
	int64_t sum = 0;
	struct stat st;
	for (int part = 0; part < 16; part++) {
		char *d = xasprintf("%s/ckpt/step-%lld", dir, (long long)step), *path = ckpt_file_new(d, "state", part);
		sum += stat(path, &st) ? 0 : (int64_t)st.st_size;
		free(path);
		free(d);
	}
	return sum;
}

static void open_trainer(struct trainer *t, struct engine *g)
{
	struct err e = { 0 };
	struct trainer_spec o = { .loss = { .weight[LOSS_CE] = 1, .tau = 1, .beta = 0.5 }, .seq = 4, .micro = 1, .batch = world.size, .dtype = dtype_parse(dtype),
				  .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .low_moments = true, .ema = large ? 0 : 0.9, .world = &world, .zero = zero };
	struct arch a = tiny_arch(&shape[large]);
	*g = (struct engine){ .k = &kernels_ref, .d = kernels_ref.dev_open(1) };
	if (trainer_plan(t, ptable_new(&a), NULL, &o, &e) || trainer_alloc(t, g, &e))
		fail_msg("%s", e.msg);
}

/* Lists of chunks that no writer makes, or of chunks that are not there: one line that says so */
static void listed(void **state)
{
	static const struct { const char *contents, *why; } list[] = {
		{ "settings", "impossible value" }, { "w.embed", "impossible value" }, { "w.embed:1:0", "impossible value" }, { "w.embed:1:0:1x", "impossible value" },
		{ "w.embed:0:0:1", "impossible value" }, { "w.embed:-1:0:1", "impossible value" }, { "w.embed:1:-1:1", "impossible value" },
		{ "w.embed:1:5:5", "impossible value" }, { "w.embed:99999999999999999999:0:1", "impossible value" },
		{ "w.embed:1:0:9223372036854775807", "too many in 'w.embed'" }, { "w.none:1:0:1", "no 'w.none'" }, { "x.embed:1:0:1", "no 'x.embed'" },
		{ "w.embed:1:0:1 w.embed:1:1:2", "more records than there are" }, { "w.embed:1:0:1", "missing 'counters'" }, { "", "missing 'counters'" },
	};
	struct err e = { 0 };
	struct engine g;
	struct trainer t;
	struct rundir d = { .path = xasprintf("%s/listed", dir), .lock = -1, .metrics = -1 };
	(void)state;
	if (world.size > 1)
		return;
	open_trainer(&t, &g);
	char *ckpt = xasprintf("%s/ckpt/step-1", d.path), *path = ckpt_file_new(ckpt, "state", 0);
	assert_int_equal(mkdir_p(ckpt, &e), 0);
	for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
		struct progress_state s = { .seed = 1 };
		struct prov prov = { .seed = 1 };
		int64_t two = 2;
		struct art_w *w = art_create(path, "checkpoint", 1, &prov, true, &e);
		art_meta_int(w, "step", 1);
		art_meta_str(w, "contents", list[i].contents);
		art_map(w, 4);
		art_key(w, "name"), art_str(w, "settings");
		art_key(w, "offset"), art_int(w, 0);
		art_key(w, "count"), art_int(w, two);
		art_key(w, "data"), art_array(w, ART_U8, 1, &two, "{}");
		assert_true(!art_end_record(w, &e) && !art_commit(w, &e));
		assert_int_equal(checkpoint_load(&d, &t, &s, "{}", &e), -1);
		if (e.code != EXIT_DATA || !strstr(e.msg, list[i].why))
			fail_msg("%s: %s", list[i].contents, e.msg);
	}
	free(path);
	free(ckpt);
	free(d.path);
	trainer_free(&t);
	g.k->dev_close(g.d);
}

static void handed_on(void **state)
{
	struct err e = { 0 };
	struct engine g;
	struct trainer t;
	struct rundir d = { .path = xstrdup(dir), .lock = -1, .metrics = -1, .follows = world.rank > 0 };
	struct progress_state s = { .seed = 1 };
	(void)state;
	open_trainer(&t, &g);
	if (checkpoint_load(&d, &t, &s, "{}", &e))
		fail_msg("%s", e.msg);
	if (s.step) {
		int64_t all = on_disk(s.step), frames = 2 * ckpt_arrays(&t) * (int64_t)ART_FRAME; /* at both ends of a slice of each array */
		assert_true(s.read > 0 && (!large || s.read < (zero ? all / world.size : all) + frames + (1 << 20)));
		assert_int_equal(each(&t, false, 1), 0);
		assert_int_equal(s.tokens, 1000);
		assert_int_equal(t.updates, 77);
		for (int64_t i = 0; i < t.trained && t.wb; i++) /* gathered from all */
			assert_true(t.wb[i] == 0 || bf16_to_f32(t.wb[i]) == (float)(int)bf16_to_f32(t.wb[i]));
	} else {
		each(&t, true, 1);
	}
	s.step++;
	s.tokens = 1000;
	t.updates = 77;
	if (checkpoint_save(&d, &t, &s, "{}", 2, &e))
		fail_msg("%s", e.msg);
	each(&t, true, -1);
	assert_true(each(&t, false, 1) > 0);
	if (checkpoint_load(&d, &t, &s, "{}", &e)) /* one's own */
		fail_msg("%s", e.msg);
	assert_int_equal(each(&t, false, 1), 0);
	trainer_free(&t);
	g.k->dev_close(g.d);
	free(d.path);
}

/* Slices: every element is somebody's, once, and random rounding finds the same index for it whatever the number */
static void slices(void **state)
{
	static const struct { int key; int64_t n; } param[] = { { -1, 1000 }, { 0, 33 }, { 0, 4096 }, { 1, 1 }, { 1, 640 }, { -1, 24 } };
	enum { PARAMS = sizeof param / sizeof *param };
	int64_t index[PARAMS];
	(void)state;
	for (int size = 1; size <= 9; size++)
		for (int whole = 0; whole < 2; whole++) {
			int64_t had[PARAMS] = { 0 }, end = 0, kept = 0;
			for (int r = 0; r < size; r++) {
				struct shard s;
				int64_t off[PARAMS];
				shard_init(&s, r, size, whole);
				for (int i = 0; i < PARAMS; i++)
					off[i] = shard_place(&s, param[i].key, param[i].n);
				end = shard_end(&s);
				kept += s.kept;
				assert_int_equal(s.n, size > 1 ? 4 : 1);
				for (int i = 0; i < PARAMS; i++) {
					struct piece q = shard_part(&s, off[i], param[i].n);
					had[i] += q.n;
					assert_true(q.n == 0 || (q.off >= off[i] && q.at >= 0 && q.at + q.n <= s.kept));
					if (size == 1)
						index[i] = q.index;
					else if (q.n)
						assert_int_equal(q.index, index[i] + q.off - off[i]);
				}
				shard_free(&s);
			}
			assert_int_equal(kept, whole ? size * end : end);
			for (int i = 0; i < PARAMS; i++)
				assert_int_equal(had[i], param[i].n * (whole ? size : 1));
		}
}

int main(int argc, char **argv)
{
	struct err e = { 0 };
	const struct CMUnitTest tests[] = { cmocka_unit_test(slices), cmocka_unit_test(listed), cmocka_unit_test(handed_on) };
	prog_name = "test_zero";
	dir = argc == 5 ? argv[1] : mkdtemp(own_dir);
	int64_t z = 0, l = 0;
	if (!dir || (argc == 5 && (parse_i64(argv[2], &z) || parse_i64(argv[4], &l))))
		return EXIT_USAGE;
	zero = (int)z;
	large = l != 0;
	dtype = argc == 5 ? argv[3] : dtype;
	if (comm_open(&world, &e))
		die_err(&e);
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	comm_close(&world);
	if (argc != 5)
		remove_tree(dir, &e);
	return rc;
}
