#!/bin/sh
# test_passk.sh - passk as users call it: verdicts and pass@k; refusals.  Skipped where there can be no sandbox.
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016  # sh -c '...' - ARGS: its own parameters
. tests/lib.sh
cat >"$t/p.jsonl" <<'END'
{"task_id": "a", "program": "assert 1 + 1 == 2"}
{"task_id": "a", "program": "assert 1 + 1 == 3"}
{"task_id": 7, "program": "import sys\nsys.exit(0)"}

{"task_id": 7, "program": "x = 1"}
{"task_id": "a", "program": "y = 2"}
END
fails "no sandbox without bubblewrap" 69 "no sandbox for generated programs: " env PATH=/nonexistent "$(command -v passk)" -q "$t/p.jsonl"
fails "not JSON" 65 "wrong:2: not JSON" sh -c 'printf "{\"program\": \"\"}\nx\n" >"$1/wrong"; passk -q "$1/wrong"' - "$t"
fails "no program" 65 "'program' must be a string" sh -c 'echo "{}" | passk -q' -
fails "no sample at all" 65 "no programs" sh -c 'passk -q </dev/null' -
fails "pass@0" 2 "-k" passk -k 0 "$t/p.jsonl"
works "dry run" sh -c 'test "$(passk --dry-run "$1")" = "5 programs, 2 problems"' - "$t/p.jsonl"
if ! passk -q --seconds 20 -k 1,2,3 "$t/p.jsonl" -o "$t/v.jsonl" >"$t/scores" 2>"$t/err"; then
	case $(cat "$t/err") in
	*"not installed"*) echo "not ok sandbox: $(cat "$t/err")" ;;
	*) echo "ok sandbox # skipped, this machine has no namespaces for it: $(cat "$t/err")" ;;
	esac
	exit
fi
printf 'pass@1\t0.583333\t2 problems\npass@2\t1.000000\t2 problems\n' >"$t/want"
works "pass@k without bias, only where there are k samples" cmp "$t/want" "$t/scores"
works "a verdict for each line" test "$(sed 's/.*"result": *"\([a-z ]*\)".*/\1/' "$t/v.jsonl" | tr '\n' ' ')" = "passed failed failed passed passed "
