#!/bin/sh
# test_kd_memory.sh - what --dry-run says about memory, against the peak of the run itself; FLOPs in the metrics
#
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
"$B/tests/train/test_batches" --make "$t/tok" 8 128 16384
mkmodel -q --layers 3 --hidden 128 --ffn 384 --heads 4 --kv-heads 2 --vocab 16384 --tied --fast -o "$t/teacher"
mkmodel -q --layers 2 --hidden 96 --ffn 256 --heads 3 --kv-heads 1 --vocab 16384 --tied --fast --seed 3 -o "$t/student"
mkmodel -q --family nemotron --layers 2 --hidden 64 --ffn 256 --heads 4 --vocab 16384 --fast --seed 4 -o "$t/nemotron"
kd-train -q --teacher "$t/teacher" --data "$t/tok" --cache-teacher "$t/cache"

field() { sed -n "s/.*\"$1\":\([-0-9.e+]*\).*/\1/p" "$2" | tail -n 1; }
# predicted NAME OPTIONS...: within 8 % or 16 MB (pages of libraries and compiled kernels, which vary from system to system; what a set
# of buffers takes here is more, but for activations), and the machine has room
predicted() {
	name=$1
	shift
	kd-train --data "$t/tok" --steps 2 --batch 4 --save-every 1 --threads 2 "$@" --dry-run=json >"$t/plan" &&
		kd-train --data "$t/tok" --steps 2 --batch 4 --save-every 1 --threads 2 "$@" -q --events "$t/$name.events" -o "$t/$name.run" 2>"$t/err" ||
		{ no "$name" "$(cat "$t/err")"; return; }
	want=$(field peak_bytes "$t/plan") got=$(field peak_bytes "$t/$name.events")
	if awk "BEGIN { d = $want - $got; d = d < 0 ? -d : d; exit !(d < 0.08 * $got || d < 16e6) }"; then ok "$name"; else no "$name" "predicted $want, measured $got"; fi
	same "$name-fits" "$(grep -c '"fits":true' "$t/plan")" 1
}
pair="--teacher $t/teacher --student $t/student"
# Sanitizers take memory of their own
case $B in */san) mem='echo' ;; *) mem='predicted' ;; esac
for c in "in-default" "all-stored --recompute=none" "recomputed --recompute" "in-f32 --dtype f32" "small-micro --micro 1" "in-pairs --deterministic --micro 1" "low-moments --moments bf16 --ema 0.9" "held-out --valid $t/tok" "lora --lora *_proj" "corrected --correct-teacher 1e-4" "corrected-low --correct-teacher 1e-4 --moments bf16"; do
	# shellcheck disable=SC2086
	$mem "${c%% *}" $pair $(echo "$c " | cut -d' ' -f2-)
done
$mem cached --teacher-cache "$t/cache" --student "$t/student"
$mem no-teacher --student "$t/nemotron"

# --- FLOPs: the teacher's apart, the same in plan and metrics
# shellcheck disable=SC2086
kd-train $pair --data "$t/tok" --steps 2 --batch 8 --peak-flops 1e12 -q -o "$t/run"
# shellcheck disable=SC2086
kd-train $pair --data "$t/tok" --steps 2 --batch 8 --peak-flops 1e12 --dry-run=json >"$t/plan"
m=$t/run/metrics.jsonl
same flops "$(field flops "$t/plan") $(field tokens "$t/plan")" "$(field flops "$m") $(field tokens "$m")"
if awk "BEGIN { a = $(field teacher_flops "$m") / $(field flops "$m"); b = $(field teacher_flops_per_token "$t/plan") / $(field flops_per_token "$t/plan"); exit !(a > 0 && a / b < 1.000001 && b / a < 1.000001) }"; then ok teacher-apart; else no teacher-apart "$(cat "$m")"; fi
if awk "BEGIN { a = $(field flop_per_s "$m") / $(field peak_share "$m"); exit !(a > 0.999e12 && a < 1.001e12) }"; then ok peak-share; else no peak-share "$(cat "$m")"; fi
if awk "BEGIN { a = $(field flop_per_s "$m") / $(field tok_per_s "$m") / $(field flops_per_token "$t/plan"); exit !(a > 0.999 && a < 1.001) }"; then ok flop-rate; else no flop-rate "$(cat "$m")"; fi
# shellcheck disable=SC2086
kd-train $pair --data "$t/tok" --steps 1 --batch 8 --dry-run >"$t/plan"
same words "$(grep -c -e "^teacher weights" -e "^output head's chunks" -e "^checkpoint buffers" -e ': fits in' -e 'at best' "$t/plan")" 5

# --- the head's buffers grow with neither vocabulary nor tokens
head_bytes() { # VOCAB MICRO
	mkmodel -q -f --layers 1 --hidden 16 --ffn 32 --heads 2 --vocab "$1" --tied --fast -o "$t/wide"
	kd-train --teacher "$t/wide" --student "$t/wide" --data "$t/tok" --steps 1 --batch 8 --micro "$2" --dry-run=json >"$t/plan"
	field "output head's chunks" "$t/plan"
}
a=$(head_bytes 65536 4) b=$(head_bytes 65536 8) c=$(head_bytes 131072 8)
if awk "BEGIN { exit !($a > 9e7 && $b < 1.02 * $a && $c < 1.1 * $b) }"; then ok head-is-bounded; else no head-is-bounded "$a, twice the tokens $b, twice the vocabulary $c"; fi
