#!/bin/sh
# test_kill.sh - kill -9 at any point of every stage: under the final name there is nothing, or the whole thing
#
# Every stage runs once undisturbed for its bytes and its changes to the directory, then again with a kill in place of some of
# those and after them, and twice with one by the clock, which may come too early or too late and judges nothing by itself.
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh

sh tests/cli/tiny-tokenizer.sh "$t/tok"
mkmodel -q --layers 4 --hidden 64 --ffn 96 --heads 4 --kv-heads 2 --vocab 272 --tokenizer "$t/tok" -o "$t/m"
i=0
while [ $i -lt 40 ]; do cat README.md LICENSE; i=$((i + 1)); done >"$t/text.txt"
head -c 20000 "$t/text.txt" >"$t/short.txt"
calib-sample -q -t "$t/m" --documents paragraph --samples 64 --seq 64 "$t/text.txt" -o "$t/tok.tok"
act-stats -q -m "$t/m" "$t/tok.tok" -o "$t/stats"
rank -q "$t/stats" -o "$t/rank"

# the same bytes, for a file or a directory
identical() {
	if [ -d "$1" ]; then diff -r "$1" "$2" >/dev/null; else cmp -s "$1" "$2"; fi
}

# partial OUT WHOLE WHERE: adds to $bad if there is something else than the whole thing
partial() { if [ -e "$1" ] && ! identical "$1" "$2"; then bad="$bad partial output, killed at $3;"; fi; }

# killed NAME COMMAND...: "OUT" in the command is the output's place
killed() {
	name=$1 whole=$t/whole.$1 out=$t/out.$1 bad='' n=0
	shift
	cmd="exec $(printf '%s\n' "$*" | sed "s|OUT|$whole|g")"
	rm -f "$t/log"
	begin=$(date +%s%N)
	within "$t" 0 log sh -c "$cmd" >/dev/null || { no "$name" "undisturbed: $(cat "$t/err")"; return; }
	ms=$((($(date +%s%N) - begin) / 1000000 + 1)) calls=$(wc -l <"$t/log")
	cmd="exec $(printf '%s\n' "$*" | sed "s|OUT|$out|g")"
	# the last four calls, where it is published, and three before
	for at in 1 $((calls / 4)) $((calls / 2)) $((calls - 3)) $((calls - 2)) $((calls - 1)) "$calls"; do
		[ "$at" -gt 0 ] || continue
		for how in kill KILL; do
			rm -rf "$out" "$out.state"
			within "$t" "$at" $how sh -c "$cmd" >/dev/null
			rc=$?
			[ $rc -eq 137 ] || bad="$bad call $at of $calls was not reached: $rc;"
			partial "$out" "$whole" "call $at of $calls"
			n=$((n + 1))
		done
	done
	for share in 0.3 0.8; do
		rm -rf "$out" "$out.state"
		sh -c "$cmd" >/dev/null 2>&1 &
		pid=$!
		sleep "$(awk -v ms="$ms" -v share=$share 'BEGIN { printf "%.4f", ms * share / 1000 }')"
		kill -9 $pid 2>/dev/null
		wait $pid 2>/dev/null
		partial "$out" "$whole" "$share of $ms ms"
	done
	if [ -n "$bad" ] || [ "$calls" -lt 4 ]; then no "$name" "$calls calls;$bad"; else ok "$name: $n kills among $calls calls"; fi
}

(
	killed calib-sample "calib-sample -q -t '$t/m' --documents paragraph --samples 0 --seq 64 '$t/text.txt' -o OUT"
	killed act-stats "act-stats -q -m '$t/m' '$t/tok.tok' -o OUT"
	killed ablate "ablate -q -m '$t/m' '$t/tok.tok' --mode greedy --micro 8 -o OUT"
	killed rank "rank -q '$t/stats' -o OUT"
	killed candidates "candidates -q -m '$t/m' --layers 1:4 --hidden 16:64:16 --ffn 8:96:1 --params 10000:1000000 -o OUT"
	killed trim "trim -q -m '$t/m' -r '$t/rank' --layers 3 --hidden 48 --ffn 64 -o OUT"
	killed evalharness "evalharness -q -m '$t/m' --text '$t/short.txt' --max-length 64 -o OUT"
	killed mkmodel "mkmodel -q --layers 6 --hidden 256 --heads 8 --vocab 20000 -o OUT"
) 2>/dev/null || no stages "the shell gave up"   # what date or awk print may be no number

# kd-train's run directory is a work in progress by design: what counts is student/ inside it
kd="kd-train -q --teacher '$t/m' --student '$t/m' --data '$t/tok.tok' --steps 12 --batch 2 --save-every 3 --seq 64"
rm -f "$t/log"
within "$t" 0 log sh -c "$kd -o '$t/run.whole'" >/dev/null
calls=$(wc -l <"$t/log") bad='' k=1
while [ $k -le 9 ]; do
	run=$t/run.$k
	within "$t" $((calls * k / 9)) kill sh -c "exec $kd -o '$run'" >/dev/null
	rc=$?
	[ $rc -eq 137 ] || bad="$bad call $((calls * k / 9)) was not reached: $rc;"
	partial "$run/student" "$t/run.whole/student" "call $((calls * k / 9)) of $calls"
	for c in "$run"/ckpt/step-*; do
		[ ! -d "$c" ] || artcheck -q "$c"/* >/dev/null 2>&1 || bad="$bad $c"
	done
	k=$((k + 1))
done
if [ -z "$bad" ] && [ -e "$t/run.whole/student/config.json" ]; then ok "kd-train: 9 kills among $calls calls"; else no kd-train "partial:$bad"; fi
