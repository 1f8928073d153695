#!/bin/sh
# test_bench.sh - the driver of `make bench` on tiny models, without peers: its comparisons run, and their results are whole
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
: "${B:=build}"
bench() { BENCH_ROUNDS=1 BENCH_DIR="$t/work" PYTHONDONTWRITEBYTECODE=1 python3 tools/bench/run.py --build "$B" --small --results "$t/results" "$@"; }
field() { python3 -c 'import json, sys; r = json.load(open(sys.argv[1])); print(eval(sys.argv[2], {"r": r}))' "$@" 2>&1; }

works "comparisons run" bench start trim tokens plan
for name in start trim tokens plan; do
	same "$name has lines and a machine" "$(field "$t/results/bench-$name.json" 'len(r["lines"]) > 1 and bool(r["machine"]["cpu"])')" True
done
same "a target is judged" "$(field "$t/results/bench-trim.json" '[x["held"] for x in r["lines"] if "private" in x["what"]][0] is not None')" True
same "without peers nothing is compared" "$(field "$t/results/bench-tokens.json" '[x["peer"] for x in r["lines"] if "tiktoken" in x["what"]]')" "[None, None]"
case $(uname -n) in *[0-9-]*) host=$(uname -n) ;; *) host=$t ;; esac   # letters alone may be a word of the results
same "no place or name of this machine" "$(grep -l -w -F -e "$t" -e "$host" "$t/results/"* | tr '\n' ' ')" ""
works "the table" grep -q '^| trim of ' "$t/results/bench.md"
bench nope >"$t/out.txt" 2>"$t/err"
same "an unknown comparison" "$? $(grep -c "no comparison 'nope'" "$t/err")" "1 1"
