#!/bin/sh
# test_eval_resume.sh - tasks in which the model writes, killed: what was finished is not done again, the results are the same bytes
#
# A run's journal grows by a line for each text and each verdict.  Real kills at several lengths of it, then every kind of
# cut that a kill could leave, made from the whole journal: at a line's end, inside a line, inside a number.
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016  # sh -c '...' - ARGS: its own parameters
. tests/lib.sh
m=$t/model
cp -r tests/golden/models/llama-tied-gqa "$m"
cp tests/golden/written/tokenizer*.json "$m"
i=0
while [ $i -lt 24 ]; do
	printf '{"ctx": "What is %d and %d?", "until": ["z"], "target": "%d"}\n' $i $((2 * i)) $((3 * i))
	i=$((i + 1))
done >"$t/say.jsonl"
# the program's end is in its test, so that there are right ones
for i in 0 1; do
	printf '{"ctx": "x = %d # ", "until": ["\\n"], "prefix": "#", "test": "assert %d %% 2"}\n' $i $i
done >"$t/code.jsonl"
if evalharness -q -m "$m" --device ref --task "code=$t/code.jsonl" --limit 1 --max-new 2 -o "$t/try" >"$t/out.txt" 2>&1; then
	code="--task code=$t/code.jsonl" n_prog=4
else
	code='' n_prog=0   # no sandbox on this machine
fi
write() { # NAME: results in $t/NAME; every word of $code is an option
	# shellcheck disable=SC2086
	evalharness -m "$m" --device ref --dtype f32 --progress none --task "say=$t/say.jsonl" $code --max-new 24 \
		--samples 2 --at 1,2 --temperature 0.9 --sequences 3 --log-samples "$t/$1.log" -f -o "$t/$1" >"$t/out.txt" 2>"$t/err.$1"
}
unnamed() { sed 's/cut/whole/g' "$t/cut" | cmp -s - "$t/whole" && cmp -s "$t/cut.log" "$t/whole.log"; }

# all is done but the results are not there yet
upon rename 1 whole kill write whole
same "killed at the very end" "$? $(ls "$t/whole" 2>/dev/null)" "137 "
cp "$t/whole.state" "$t/full"
n=$(wc -l <"$t/full")
write whole
same "a whole run" $? 0
same "its journal: a line for each text and verdict" "$n" $((1 + 24 + n_prog + n_prog))
works "no journal is left" test ! -e "$t/whole.state"

bad=''
for at in 3 10 18 $((n - 7)) $((n - 2)); do   # n: 33, or 25 where there is no sandbox
	rm -f "$t/cut" "$t/cut.log" "$t/cut.state"
	upon write "$at" cut.state KILL write cut
	[ $? -eq 137 ] && [ ! -e "$t/cut" ] || bad="$bad $at(not killed)"
	lines=$(wc -l <"$t/cut.state")
	write cut
	unnamed || bad="$bad $at"
	[ "$lines" -lt 3 ] || grep -q 'of 24\|of 28' "$t/err.cut" || bad="$bad $at(forgot)"
done
same "kill -9 five times: the same bytes" "$bad" ""

size=$(wc -c <"$t/full") bad='' k=0
for cut in 0 7 44 45 46 120 $((size / 3)) $((size / 2)) $((size / 2 + 1)) $((size * 3 / 4)) $((size - 9)) $((size - 2)) $((size - 1)) "$size"; do
	rm -f "$t/cut" "$t/cut.log"
	head -c "$cut" "$t/full" >"$t/cut.state"
	write cut || bad="$bad $cut(failed)"
	unnamed || bad="$bad $cut"
	k=$((k + 1))
done
if [ -z "$bad" ]; then ok "journals cut at $k places: the same bytes"; else no "cut journals" "wrong after:$bad"; fi
cp "$t/full" "$t/cut.state"
write cut
works "nothing is done twice" grep -q "cut.state: $((24 + n_prog)) of $((24 + n_prog)) texts and $n_prog of $n_prog verdicts of an earlier run" "$t/err.cut"

# the journal of other work is not taken: another temperature, another program
for what in ${code:+"--temperature 0.9/--temperature 0.8"} "--max-new 24/--max-new 23" "--seconds 3/--seconds 4"; do
	cp "$t/full" "$t/cut.state"
	# shellcheck disable=SC2086
	works "journal of other options: ${what#*/}" sh -c '"$@" 2>&1 | grep -q "of another run: starting over"' - evalharness -m "$m" --device ref --dtype f32 \
		--task "say=$t/say.jsonl" $code --max-new 24 --samples 2 --at 1,2 --temperature 0.9 --sequences 3 ${what#*/} -f -o "$t/cut"
done
for line in 't 0 9 -0x1p0 1 5 .' 't 999 0 -0x1p0 1 5 .' 't 0 0 -0x1p0 9999 5 .' 't 0 0 -0x1p0 2 5 .' 't 0 0 -0x1p0 1 -5 .' 'p 0 7 .' 'p 99 1 .' 'x'; do
	{ head -n 4 "$t/full"; echo "$line"; } >"$t/cut.state"
	write cut || no "hostile line '$line'" "$(cat "$t/err.cut")"
	if unnamed; then ok "hostile line '$line' is not believed"; else no "hostile line '$line'" "other results"; fi
done
