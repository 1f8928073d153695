#!/bin/sh
# run.sh TEST... - runs test programs (cmocka) and scripts, shows failures, closes with "N passed, N failed".
# A script prints one line per check: "ok NAME" or "not ok NAME: why"; a program is a cmocka group.
# Exit status is 0 only when nothing failed and something ran.
# SPDX-License-Identifier: Apache-2.0
set -u
unset MAKEFLAGS MFLAGS MAKELEVEL   # a test that runs make is not part of the one that runs us
: "${B:=build}"
export B
export PATH="$PWD/$B/bin:$PATH"
# What sanitizers need to know; without them these are ignored.  A finding ends a program with 99, no documented exit code.
export ASAN_OPTIONS="detect_leaks=1:exitcode=99:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:${UBSAN_OPTIONS:-}"
export LSAN_OPTIONS="suppressions=$PWD/tests/lsan.supp:print_suppressions=0:exitcode=99:${LSAN_OPTIONS:-}"
log=$(mktemp) && trap 'rm -f "$log"' EXIT
passed=0 failed=0
for t in "$@"; do
	start=$(date +%s)
	case $t in
	*.sh) sh "$t" >"$log" 2>&1; rc=$?
		p=$(grep -c '^ok ' "$log"); f=$(grep -c '^not ok ' "$log") ;;
	*) CMOCKA_MESSAGE_OUTPUT=STDOUT "$t" >"$log" 2>&1; rc=$?
		p=$(grep -c '^\[       OK \]' "$log"); f=$(grep -c '^\[  FAILED  \] [A-Za-z_]*$' "$log"); f=$((f > 0 ? (f + 1) / 2 : 0)) ;;
	esac
	# a program that dies or fails without saying which check is one failure; one that checks nothing too
	if [ "$rc" -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
	if [ "$p" -eq 0 ] && [ "$f" -eq 0 ]; then f=1; echo "$t ran no check" >>"$log"; fi
	passed=$((passed + p)) failed=$((failed + f))
	printf '%-44s %4d passed %s(%d s)\n' "${t#"$B"/}" "$p" "$([ "$f" -eq 0 ] || echo "$f FAILED ")" $(($(date +%s) - start))
	[ "$f" -eq 0 ] || { grep -v '^\[       OK \]\|^\[ RUN\|^ok ' "$log" | tail -n 60; }
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
