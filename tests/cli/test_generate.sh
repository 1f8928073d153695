#!/bin/sh
# test_generate.sh - generate as users call it: JSON lines, texts, a page of two models; refusals
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016  # sh -c '...' - ARGS: its own parameters
set -u
here=$(cd "$(dirname "$0")/../.." && pwd)
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT
m=$tmp/first
for x in first:llama-untied second:llama-tied-gqa; do
	cp -r "$here/tests/golden/models/${x#*:}" "$tmp/${x%:*}"
	cp "$here"/tests/golden/eval/tokenizer*.json "$tmp/${x%:*}"   # one id per printable character
done
printf '{"prompt": "Once upon", "x": 1}\n\n{"prompt": "A ``` fence"}\n' >"$tmp/p.jsonl"
printf 'Once upon\n\nA ``` fence\n' >"$tmp/p.txt"
gen() { generate -q --device ref --dtype f32 --max-new 12 "$@"; }
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
gen -m "$m" "$tmp/p.jsonl" -o "$tmp/a.jsonl"
check "one line a continuation" test "$(grep -c '"model": *"first"' "$tmp/a.jsonl")" -eq 2
check "the same from lines of text" sh -c 'generate -q --device ref --dtype f32 --max-new 12 -m "$1" "$2" | cmp - "$3"' - "$m" "$tmp/p.txt" "$tmp/a.jsonl"
gen -m "$m" -p 'Once upon' -p 'A ``` fence' --batch 1 -o "$tmp/b.jsonl"
check "batch changes nothing" cmp "$tmp/a.jsonl" "$tmp/b.jsonl"
gen -m "$m" "$tmp/p.jsonl" --temperature 1.5 --top-p 0.9 --samples 3 --seed 7 --no-eos -o "$tmp/s1.jsonl"
gen -m "$m" "$tmp/p.jsonl" --temperature 1.5 --top-p 0.9 --samples 3 --seed 7 --no-eos --batch 2 -o "$tmp/s2.jsonl"
gen -m "$m" "$tmp/p.jsonl" --temperature 1.5 --top-p 0.9 --samples 3 --seed 8 --no-eos -o "$tmp/s3.jsonl"
check "draws depend on the seed alone" sh -c 'cmp "$1" "$2" && ! cmp -s "$1" "$3"' - "$tmp/s1.jsonl" "$tmp/s2.jsonl" "$tmp/s3.jsonl"
check "samples differ" test "$(sort -u "$tmp/s1.jsonl" | wc -l)" -eq 6
first=$(gen -m "$m" -p 'Once upon' --no-eos --format text)
cut=$(printf %s "$first" | cut -c 4)
check "a stop string ends the text before it" test "$(gen -m "$m" -p 'Once upon' --no-eos --format text --stop "$cut")" = "${first%%"$cut"*}"
gen -m "$tmp/first" -m "$tmp/second/" "$tmp/p.jsonl" --format md -o "$tmp/page.md"
check "a page of two models" sh -c 'test "$(grep -c "^\*\*[AB]: " "$1")" -eq 4 && grep -q "^| B | second |" "$1"' - "$tmp/page.md"
check "fences are longer than those inside" grep -qx '````text' "$tmp/page.md"
check "dry run" sh -c 'generate -m "$1" -p x --dry-run=json | grep -q "\"cache_bytes\": [1-9]"' - "$m"
refuses "no prompt" 2 "nothing to continue" gen -m "$m"
refuses "no model" 2 "-m is needed" gen -p x
refuses "a stop string of nothing" 2 "--stop" gen -m "$m" -p x --stop ''
refuses "a line that is no JSON" 65 "p.jsonl:2: not JSON" sh -c 'printf "{\"prompt\": \"a\"}\n{\n" >"$2/p.jsonl"; generate -m "$1" "$2/p.jsonl"' - "$m" "$tmp"
refuses "a missing field" 65 "'question' must be a string" sh -c 'printf "{\"prompt\": \"a\"}\n" >"$2/p.jsonl"; generate -m "$1" --field question "$2/p.jsonl"' - "$m" "$tmp"
refuses "no room for the prompt" 65 "leave no place" gen -m "$m" -p x --max-new 256
