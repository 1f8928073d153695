/*
 * schema.h - checks of records against the tables in formats/ (one .def per kind)
 *
 * Writers check what they write and artcheck what it reads with the same tables; unknown extra fields are allowed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_SCHEMA_H
#define ADZE_SCHEMA_H
#include "../base/base.h"
#include <msgpack.h>

/* Newest version of a kind that has a table, 0 when there is none (then nothing is checked). */
int schema_version(const char *kind);
/* The kind's table as Markdown, as its page in formats/ shows it; -1 for an unknown kind */
int schema_print(const char *kind, FILE *f);
/* One record, or the header's meta map: 0, or -1 with "field 'ids': ..." */
int schema_check(const char *kind, const msgpack_object *record, struct err *e);
int schema_check_meta(const char *kind, const msgpack_object *meta, struct err *e);
#endif
