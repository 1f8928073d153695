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

static int write_model(const struct session *s, enum weights_of of, const char *out, struct err *e)
{
	const struct trainer *t = s->t;
	if (s->dir->follows) {
		trainer_serve(t);
		return 0;
	}
	char *from = xstrdup(kd.student), *notes, flops[32], loss[48] = "";
	if (s->at.step == s->rate.steps)
		snprintf(loss, sizeof loss, " Loss of the last step %.4f.", s->last.loss);
	notes = xasprintf("%s for %lld steps of %lld sequences of %lld tokens (%s training FLOPs%s).%s",
			  kd.teacher || kd.cache.n ? "Distilled" : "Trained", (long long)s->at.step, (long long)kd.batch,
			  (long long)s->mix->seq, fmt_count(flops, (double)s->at.tokens * account_flops_sum(s->t)),
			  s->t->teacher ? ", the teacher's forward pass included" : "", loss);
	struct model_card card = { .title = kd.teacher || kd.cache.n ? "Distilled student" : "Trained model", .origin = basename(from),
				   .commands = opt_record_line(), .notes = notes };
	int rc = trainer_export(t, of, kd.student, out, kd_save_dtype(t->student->arch.dtype), &card, e);
	free(from);
	free(notes);
	return rc;
}

static int write_teacher(const struct session *s, const char *out, struct err *e)
{
	if (s->dir->follows) {
		trainer_serve(&s->teacher->t);
		return 0;
	}
	char *from = xstrdup(kd.teacher);
	char *notes = xasprintf("Trained on the data of a student's distillation for %lld steps of %lld sequences of %lld tokens.",
				(long long)s->at.step, (long long)kd.batch, (long long)s->mix->seq);
	struct model_card card = { .title = "Corrected teacher", .origin = basename(from), .commands = opt_record_line(), .notes = notes };
	const struct trainer *t = &s->teacher->t;
	int rc = trainer_export(t, OF_STUDENT, kd.teacher, out, kd_save_dtype(t->student->arch.dtype), &card, e);
	free(from);
	free(notes);
	return rc;
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
	if (!rc && s->t->ema)
		rc = write_model(s, OF_AVERAGE, path[2], e);
	if (!rc && s->teacher)
		rc = write_teacher(s, path[3], e);
	for (int i = 0; i < 4; i++)
		free(path[i]);
	return rc;
}
