/*
 * kd_export.c - student, averaged student, best student, adapter and corrected teacher as Hugging Face directories
 *
 * Every process of a job comes here: the first writes, the others give it what they keep of the weights.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "kd_export.h"
#include "kd_opts.h"
#include "../base/log.h"
#include <libgen.h>
#include <stdlib.h>
#include <string.h>

/* The weights of t in a directory, by the first process; takes the notes */
static int write_dir(const struct session *s, const struct trainer *t, enum weights_of of, const char *from, const char *out, const char *title,
		     char *notes, struct err *e)
{
	int rc = 0;
	if (s->dir->follows) {
		trainer_serve(t);
	} else {
		char *path = xstrdup(from);
		struct model_card card = { .title = title, .origin = basename(path), .commands = opt_record_line(), .notes = notes };
		rc = trainer_export(t, of, from, out, kd_save_dtype(t->student->arch.dtype), &card, e);
		free(path);
	}
	free(notes);
	return rc;
}

static int write_model(const struct session *s, enum weights_of of, const char *out, struct err *e)
{
	bool distilled = kd.teacher || kd.cache.n;
	char flops[32], loss[48] = "";
	if (s->at.step == s->rate.steps)
		snprintf(loss, sizeof loss, " Loss of the last step %.4f.", s->last.loss);
	char *notes = xasprintf("%s for %lld steps of %lld sequences of %lld tokens (%s training FLOPs%s).%s", distilled ? "Distilled" : "Trained",
				(long long)s->at.step, (long long)kd.batch, (long long)s->mix->seq,
				fmt_count(flops, (double)s->at.tokens * account_flops_sum(s->t)), s->t->teacher ? ", the teacher's forward pass included" : "", loss);
	return write_dir(s, s->t, of, kd.student, out, distilled ? "Distilled student" : "Trained model", notes, e);
}

static int write_teacher(const struct session *s, const char *out, struct err *e)
{
	char *notes = xasprintf("Trained on the data of a student's distillation for %lld steps of %lld sequences of %lld tokens.",
				(long long)s->at.step, (long long)kd.batch, (long long)s->mix->seq);
	return write_dir(s, &s->teacher->t, OF_STUDENT, kd.teacher, out, "Corrected teacher", notes, e);
}

static int write_adapter(const struct session *s, const char *out, struct err *e)
{
	if (s->dir->follows) {
		trainer_serve(s->t);
		return 0;
	}
	int rc = lora_save(s->t, out, kd.student, e);
	trainer_served(s->t);
	return rc;
}

int kd_export_model(const struct session *s, const char *out, struct err *e)
{
	return write_model(s, OF_STUDENT, out, e);
}

int kd_export_best(void *arg, struct err *e)
{
	const struct session *s = arg;
	char *out = xasprintf("%s/best", s->dir->path);
	int rc = write_model(s, OF_STUDENT, out, e);
	log_verbose("best so far: held-out loss %.4f after step %lld", s->at.best_loss, (long long)s->at.best_step);
	free(out);
	return rc;
}

int kd_export_results(const struct session *s, struct err *e)
{
	char *path[4];
	static const char *const name[4] = { "adapter", "student", "student-ema", "teacher" };
	for (int i = 0; i < 4; i++)
		path[i] = xasprintf("%s/%s", s->dir->path, name[i]);
	int rc = kd.lora_adapter ? write_adapter(s, path[0], e) : 0;
	if (!rc)
		rc = write_model(s, OF_STUDENT, path[1], e);
	if (!rc && s->t->o.ema > 0)
		rc = write_model(s, OF_AVERAGE, path[2], e);
	if (!rc && s->teacher)
		rc = write_teacher(s, path[3], e);
	for (int i = 0; i < 4; i++)
		free(path[i]);
	return rc;
}
