#!/bin/sh
# test_passk.sh - passk as users call it: verdicts and pass@k; refusals.  Skipped where there can be no sandbox.
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016  # sh -c '...' - ARGS: its own parameters
set -u
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT
check() { # NAME COMMAND...: the command succeeds
	name=$1
	shift
	if "$@" >"$tmp/out" 2>"$tmp/err"; then echo "ok $name"; else echo "not ok $name: $(tail -n 3 "$tmp/out" "$tmp/err" | tr '\n' ' ')"; fi
}
refuses() { # NAME CODE TEXT COMMAND...
	name=$1 code=$2 text=$3
	shift 3
	"$@" >"$tmp/out" 2>"$tmp/err"
	rc=$?
	if [ "$rc" -ne "$code" ]; then echo "not ok $name: exit $rc, expected $code: $(cat "$tmp/err")"
	elif ! grep -qF -- "$text" "$tmp/err"; then echo "not ok $name: '$text' not in: $(cat "$tmp/err")"
	else echo "ok $name"; fi
}
cat >"$tmp/p.jsonl" <<'END'
{"task_id": "a", "program": "assert 1 + 1 == 2"}
{"task_id": "a", "program": "assert 1 + 1 == 3"}
{"task_id": 7, "program": "import sys\nsys.exit(0)"}

{"task_id": 7, "program": "x = 1"}
{"task_id": "a", "program": "y = 2"}
END
refuses "no sandbox without bubblewrap" 69 "bubblewrap" env PATH=/nonexistent "$(command -v passk)" -q "$tmp/p.jsonl"
refuses "not JSON" 65 "bad:2: not JSON" sh -c 'printf "{\"program\": \"\"}\nx\n" >"$1/bad"; passk -q "$1/bad"' - "$tmp"
refuses "no program" 65 "'program' must be a string" sh -c 'echo "{}" | passk -q' -
refuses "no sample at all" 65 "no programs" sh -c 'passk -q </dev/null' -
refuses "pass@0" 2 "-k" passk -k 0 "$tmp/p.jsonl"
check "dry run" sh -c 'test "$(passk --dry-run "$1")" = "5 programs, 2 problems"' - "$tmp/p.jsonl"
if ! passk -q --seconds 20 -k 1,2,3 "$tmp/p.jsonl" -o "$tmp/v.jsonl" >"$tmp/scores" 2>"$tmp/err"; then
	case $(cat "$tmp/err") in
	*"not installed"*) echo "not ok sandbox: $(cat "$tmp/err")" ;;
	*) echo "ok sandbox # skipped, this machine has no namespaces for it: $(cat "$tmp/err")" ;;
	esac
	exit
fi
printf 'pass@1\t0.583333\t2 problems\npass@2\t1.000000\t2 problems\n' >"$tmp/want"
check "pass@k without bias, only where there are k samples" cmp "$tmp/want" "$tmp/scores"
check "a verdict for each line" test "$(sed 's/.*"result": *"\([a-z ]*\)".*/\1/' "$tmp/v.jsonl" | tr '\n' ' ')" = "passed failed failed passed passed "
