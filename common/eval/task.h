/*
 * task.h - a file of items, what it asks of the model, and its scores
 *
 * A task is opened (items become requests in a shared set), the set is scored once for all tasks, then each task reads
 * its results.  A kind of task is one file task_KIND.c with three functions and a row of tasks.def.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_TASK_H
#define ADZE_TASK_H
#include "../base/outfile.h"
#include "../io/artifact.h"
#include "encode.h"
#include <jansson.h>

struct doc {                   /* one item */
	json_t *item;          /* owned: the item as read; {"text": ...} of a text file */
	int64_t req0, n_req;   /* its requests in the set */
	int64_t tokens;        /* scored, for perplexities */
};
struct task {
	const char *name, *path;   /* argv memory or owned by `names` */
	const struct task_kind *kind;
	struct arena names;
	struct doc *doc;
	int64_t n, cap;        /* items used; --limit cuts */
	int64_t n_file;        /* items in the file */
	char digest[33];       /* of the file */
};
struct score {                 /* one metric of a task */
	const char *metric;
	double value, err;     /* err NAN: "N/A" */
	int higher;            /* higher is better */
};
enum { MAX_SCORES = 8 };

struct task_kind {
	const char *word;
	const char *mark;      /* a field that only this kind's items have; NULL: never guessed */
	int whole_file;        /* the file is one item, not JSON lines */
	/* Checks one item and adds its requests; d->item is set. */
	int (*add)(struct doc *d, struct encoder *c, struct ll_set *s, struct err *e);
	/* Fields of the sample log beyond doc_id and task: keys into o. */
	void (*sample)(const struct doc *d, const struct ll_set *s, json_t *o);
	/* Scores of the task; returns their number. */
	int (*score)(const struct task *t, const struct ll_set *s, struct score out[MAX_SCORES]);
};
#define TASK(id, word, items, doc) extern const struct task_kind task_##id;
#include "tasks.def"
#undef TASK

/* spec: NAME=FILE (kind from the first item's fields) or NAME:KIND=FILE; FILE - is stdin.  limit 0: all items.  The error
 * names file and line.  The caller frees with task_free in either case. */
int task_open(struct task *t, const char *spec, int64_t limit, struct encoder *c, struct ll_set *s, struct err *e);
/* A whole file under the name of its last component without extension. */
int task_open_text(struct task *t, const char *path, struct encoder *c, struct ll_set *s, struct err *e);
void task_free(struct task *t);

/* One JSON line per item. */
int task_log_samples(const struct task *t, const struct ll_set *s, struct outfile *o, struct err *e);

/* What the results say about how they were made. */
struct eval_config {
	const char *model, *fingerprint, *tokenizer, *dtype, *device, *command;
	int64_t max_length, limit;
	struct prov prov;      /* filled by scores_create, which needs it until scores_commit */
};
/* Keyed as lm-evaluation-harness keys its own; the same scores give the same bytes. */
int results_write(const struct task *t, int n, const struct ll_set *s, const struct eval_config *cfg,
		  struct outfile *o, struct err *e);
/* A "scores" artifact (formats/scores.md): one record per task and metric.  Refuses early, when created. */
struct art_w *scores_create(const struct task *t, int n, struct eval_config *cfg, const char *path, bool force,
			    struct err *e);
int scores_commit(struct art_w *w, const struct task *t, int n, const struct ll_set *s, struct err *e);
void results_table(const struct task *t, int n, const struct ll_set *s, FILE *f);
#endif
