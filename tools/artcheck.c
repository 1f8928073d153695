/*
 * artcheck.c - verifies artifacts: container, checksums, schema, record count, digest
 *
 * One line per file: what it is, or its first problem.  A kind without a table in formats/ is checked as a container.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../common/base/opt.h"
#include "../common/io/artifact.h"
#include "../common/io/schema.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static struct { const char *kind, *schema; bool quiet; } o;
static const struct opt opts[] = {
	OPT_STR('k', "kind", &o.kind, "KIND", "refuse every other kind"),
	OPT_STR(0, "schema", &o.schema, "KIND", "print the table of a kind as Markdown"),
	OPT_FLAG('q', "quiet", &o.quiet, "problems only"),
	OPT_END
};
static const struct usage use = {
	"artcheck", "Verifies artifacts: container, checksums, fields of every record, count and digest.", "[-q] [FILE...]",
	"artcheck *.stats *.rank\nartcheck --kind tokens train.tok", opts
};

static int check(const char *path, struct err *e)
{
	const msgpack_object *rec;
	int64_t n = 0;
	int rc;
	struct art_r *r = art_open(path, o.kind, 1 << 20, e);
	if (!r)
		return -1;
	const char *kind = art_kind(r);
	int known = schema_version(kind);
	bool table = known >= art_version(r);
	if (known && !table)
		rc = err_set(e, EXIT_DATA, "%s: is version %d of '%s', this program knows 1..%d", art_name(r), art_version(r), kind, known);
	else
		rc = table && schema_check_meta(kind, art_meta(r), e) ? err_wrap(e, "%s", art_name(r)) : 0;
	while (!rc && (rc = art_next(r, &rec, e)) > 0) {
		rc = table && schema_check(kind, rec, e) ? err_wrap(e, "%s: record %" PRId64, art_name(r), n) : 0;
		n++;
	}
	if (!rc && !o.quiet)
		printf("%s: %s version %d, %" PRId64 " records, digest %s%s\n", art_name(r), kind, art_version(r), n, art_digest(r),
		       known ? "" : " (no table for this kind, fields not checked)");
	art_close(r);
	return rc;
}

int main(int argc, char **argv)
{
	int operands = opt_parse(&use, argc, argv), worst = EXIT_DONE;
	if (o.schema) {
		if (schema_print(o.schema, stdout))
			opt_die("--schema: there is no kind '%s'", o.schema);
		return fflush(stdout) ? EXIT_IO : EXIT_DONE;
	}
	for (int i = 0; i < operands || (i == 0 && operands == 0); i++) {
		struct err e = { 0 };
		if (!check(operands ? argv[i] : NULL, &e))
			continue;
		fflush(stdout);
		fprintf(stderr, "%s: %s\n", prog_name, e.msg);
		if (worst != EXIT_DATA)
			worst = e.code;
	}
	if (fflush(stdout) || ferror(stdout))
		die(EXIT_IO, "stdout: cannot write");
	return worst;
}
