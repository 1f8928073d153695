#!/bin/sh
# test_kill.sh - kill -9 at a random point of every stage: under the final name there is nothing, or the whole thing
#
# Every stage runs once undisturbed for its bytes and its duration, then several times with a kill somewhere inside.
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

# killed NAME COMMAND...: "OUT" in the command is the output's place
killed() {
	name=$1
	shift
	whole=$t/whole.$name
	cmd=$(printf '%s\n' "$*" | sed "s|OUT|$whole|g")
	begin=$(date +%s%N)
	eval "$cmd" >/dev/null 2>"$t/err" || { no "$name" "undisturbed: $(cat "$t/err")"; return; }
	ms=$((($(date +%s%N) - begin) / 1000000 + 1))
	hits=0 bad='' k=0
	while [ $k -lt 12 ] && { [ $k -lt 6 ] || [ $hits -lt 2 ]; }; do
		out=$t/$name.$k
		cmd=$(printf '%s\n' "$*" | sed "s|OUT|$out|g")
		delay=$(awk -v ms="$ms" -v k="$k" 'BEGIN { srand(k + 1); printf "%.4f", ms * (0.05 + 0.9 * rand()) / 1000 }')
		eval "exec $cmd" >/dev/null 2>&1 &
		pid=$!
		sleep "$delay"
		if kill -9 $pid 2>/dev/null; then hits=$((hits + 1)); else ms=$((ms * 2 / 3 + 1)); fi   # too late: it runs faster now
		wait $pid 2>/dev/null
		if [ -e "$out" ] && ! identical "$out" "$whole"; then bad="$bad partial output in try $k;"; fi
		k=$((k + 1))
	done
	if [ -n "$bad" ]; then no "$name" "$bad"; elif [ $hits -eq 0 ]; then no "$name" "no kill hit in $k tries"; else ok "$name: $hits of $k killed"; fi
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
) 2>/dev/null

# kd-train's run directory is a work in progress by design: what counts is student/ inside it
kd="kd-train -q --teacher '$t/m' --student '$t/m' --data '$t/tok.tok' --steps 12 --batch 2 --save-every 3 --seq 64"
eval "$kd -o '$t/run.whole'" >/dev/null 2>&1
hits=0 bad='' k=0
while [ $k -lt 5 ]; do
	(eval "exec $kd -o '$t/run.$k'" >/dev/null 2>&1) &
	pid=$!
	sleep "0.$((k * 17 % 9 + 1))"
	kill -9 $pid 2>/dev/null && hits=$((hits + 1))
	wait $pid 2>/dev/null
	[ ! -e "$t/run.$k/student" ] || identical "$t/run.$k/student" "$t/run.whole/student" || bad="$bad try $k"
	for c in "$t/run.$k"/ckpt/step-*; do
		[ ! -d "$c" ] || artcheck -q "$c"/* >/dev/null 2>&1 || bad="$bad $c"
	done
	k=$((k + 1))
done 2>/dev/null
if [ -z "$bad" ] && [ -e "$t/run.whole/student/config.json" ]; then ok "kd-train: $hits of $k killed"; else no kd-train "partial:$bad"; fi
