#!/bin/sh
# test_kd_faults.sh - every write, fsync, rename and mkdir of training and export fails once, with a full disk and with kill -9
#
# After each fault: what was published is whole and among the old or the new, one checkpoint is there as soon as there has been one,
# and the same command again ends with the same bytes.  tests/fault/preload.c makes the faults.  To cover another
# mode of training, add a line to the list of option sets.
#
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
"$B/tests/train/test_batches" --make "$t/tok" 8 12 64
mkmodel -q --layers 1 --hidden 16 --ffn 32 --heads 2 --vocab 64 --tied -o "$t/teacher"
mkmodel -q --layers 1 --hidden 8 --ffn 16 --heads 2 --kv-heads 1 --vocab 64 --tied --seed 3 -o "$t/student"
kd-train -q --teacher "$t/teacher" --data "$t/tok" --top-k 8 --threads 1 --cache-teacher "$t/cache"

# shellcheck disable=SC2086
train() { kd-train --student "$t/student" --steps 2 --batch 4 --lr 1e-2 --threads 1 --peak-flops 1 --save-every 1 --keep 1 -q $set "$@"; }
faulty() { # MODE NUMBER DIR ARGUMENTS...
	dir=$3 fault=$1 at=$2
	shift 3
	within "$dir" "$at" "$fault" train "$@" >/dev/null
}
metrics() { sed 's/,"tok_per_s":[^,}]*//; s/,"flop_per_s":[^,}]*//; s/,"peak_share":[^,}]*//; s/,"seconds":[^,}]*//' "$1/metrics.jsonl"; }
# The first call of the log that publishes $1 (a name at the end of the path), or a number beyond all
published() { sed -n "s/^\([0-9]*\) rename .*\/$1\$/\1/p" "$t/log" | head -n 1 | grep . || echo 1000000; }

# one MODE NUMBER: a fault in a fresh run, then the run again; adds to $bad
one() {
	mode=$1 at=$2 d=$t/run
	rm -rf "$d"
	faulty "$mode" "$at" "$d" -o "$d"
	rc=$? found=0
	case $mode/$rc in
	kill/137 | error/0) ;;
	error/74) [ "$(wc -l <"$t/err")" -eq 1 ] && grep -q 'No space left' "$t/err" || bad="$bad $mode-$at: $(cat "$t/err");" ;;
	*) bad="$bad $mode-$at: exit code $rc $(cat "$t/err");" ;;
	esac
	for c in "$d"/ckpt/step-*/state; do
		[ -e "$c" ] || continue
		found=1
		artcheck -q "$c" 2>/dev/null || bad="$bad $mode-$at: damaged $c;"
	done
	[ "$at" -le "$first" ] || [ $found -eq 1 ] || bad="$bad $mode-$at: no checkpoint;"
	if [ -e "$d/student" ]; then
		cmp -s "$d/student/model.safetensors" "$t/ref/student/model.safetensors" || bad="$bad $mode-$at: another student;"
	elif [ "$at" -gt "$last" ]; then
		bad="$bad $mode-$at: no student;"
	fi
	train -o "$d" 2>"$t/err" || bad="$bad $mode-$at: not resumed: $(cat "$t/err");"
	cmp -s "$d/student/model.safetensors" "$t/ref/student/model.safetensors" || bad="$bad $mode-$at: resumed to another student;"
	[ "$(metrics "$d")" = "$(metrics "$t/ref")" ] || bad="$bad $mode-$at: other metrics;"
	[ -z "$(find "$d" -name '*.tmp*')" ] || bad="$bad $mode-$at: left $(find "$d" -name '*.tmp*' | head -n 1);"
}

# --- training: option sets and every how many calls
case $B in */san) slow=9 ;; *) slow=1 ;; esac   # sanitizers: fewer calls of each
while read -r name every set; do
	every=$((every * slow))
	rm -rf "$t/ref" "$t/log"
	faulty log 0 "$t/ref" -o "$t/ref" || no "$name" "undisturbed: $(cat "$t/err")"
	calls=$(wc -l <"$t/log") first=$(published step-1) last=$(published student) bad='' at=1 tried=0
	while [ $at -le "$calls" ]; do
		one error "$at"
		one kill "$at"
		at=$((at + every)) tried=$((tried + 1))
	done
	if [ "$first" -gt 999999 ] || [ "$last" -gt 999999 ]; then bad="$bad nothing published among $calls calls"; fi
	if [ -z "$bad" ]; then ok "$name: $tried of $calls calls"; else no "$name" "$bad"; fi
done <<END
full 1 --data $t/tok --teacher $t/teacher
cached 13 --data $t/tok --teacher-cache $t/cache
lora 13 --data $t/tok --teacher $t/teacher --lora q_proj --lora-rank 2
average 13 --data $t/tok --teacher $t/teacher --valid $t/tok --valid-every 1 --keep-best --ema 0.9 --moments bf16
mixed 13 --data a=$t/tok --data b=$t/tok --valid a=$t/tok --valid b=$t/tok --mix dynamic --mix-reference a:4,b:4 --valid-every 1 --loss ce
END

# --- export over a model that is there: the old or the new
set="--data $t/tok --teacher $t/teacher" bad='' at=1
mkdir "$t/place" && cp -r "$t/student" "$t/place/out"
train --stop-at 1 -o "$t/half" --export "$t/new"
rm -f "$t/log"
faulty log 0 "$t/place" --stop-at 1 -o "$t/half" --export "$t/place/out"
calls=$(wc -l <"$t/log")
while [ $at -le "$calls" ]; do
	for mode in error kill; do
		rm -rf "$t/place" && mkdir "$t/place" && cp -r "$t/student" "$t/place/out"
		faulty $mode $at "$t/place" --stop-at 1 -o "$t/half" --export "$t/place/out"
		diff -r "$t/place/out" "$t/student" >/dev/null || diff -r -x README.md "$t/place/out" "$t/new" >/dev/null || bad="$bad $mode-$at;"
	done
	at=$((at + 1))
done
if [ -z "$bad" ] && [ "$calls" -gt 5 ]; then ok "export: $calls calls"; else no export "of $calls:$bad"; fi
