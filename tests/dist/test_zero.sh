#!/bin/sh
# test_zero.sh - processes that share out optimizer state and gradients (kd-train --zero) train what those that do not train
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
. tests/dist/mpi.sh
works "exchanges in parts" many 3 "$B/tests/dist/test_comm"
# processes and --zero: each loads what the one before saved, looks at every element, and saves
for job in "4 2 0" "2 1 0" "3 2 0" "1 0 0" "4 2 1" "2 1 1" "3 2 1"; do
	# shellcheck disable=SC2086
	set -- $job
	[ "$job" != "4 2 1" ] || rm -r "$t/ckpt"
	works "a checkpoint goes on to $1 processes, zero $2, bit for bit$([ "$3" = 0 ] || echo "; each reads its share")" many "$1" "$B/tests/dist/test_zero" "$t" "$2" "$([ "$job" = "2 1 1" ] && echo f32 || echo bf16)" "$3"
done
same "each wrote its part" "$(ls "$t/ckpt/step-3" | tr '\n' ' ')" "state state.1 state.2 "
rm -r "$t/ckpt"

sh tests/cli/tiny-tokenizer.sh "$t/tok" || exit 1
mkmodel -q --layers 3 --hidden 32 --heads 4 --kv-heads 2 --head-dim 8 --ffn 48 --vocab 265 --eos 264 --tied --tokenizer "$t/tok" -o "$t/m" || exit 1
mkmodel -q --like "$t/m" --std 0.2 --seed 2 --store f32 -o "$t/s" || exit 1
mkmodel -q --layers 2 --hidden 24 --heads 3 --kv-heads 1 --head-dim 8 --ffn 40 --vocab 265 --eos 264 --tokenizer "$t/tok" -o "$t/w" || exit 1
calib-sample -q -t "$t/m" --documents paragraph --samples 12 --seq 16 LICENSE -o "$t/c.tok" || exit 1
calib-sample -q -t "$t/m" --documents paragraph --samples 3 --seq 16 README.md -o "$t/v.tok" || exit 1
kd="kd-train --teacher $t/m --student $t/s --data $t/c.tok --micro 1 --steps 4 --lr 3e-3 --save-dtype f32 --threads 1"
results() { (cd "$1" && find . -name '*.safetensors' | sort | xargs cat); }

# ---- one micro-batch each, two addends: the same bytes whoever keeps what ----
bytes() {
	how=$1 list=$2
	shift 2
	for z in 0 $list; do works "$how, zero $z" many 2 $kd --batch 2 "$@" --zero $z -o "$t/$how$z"; done
	results "$t/${how}0" >"$t/r0"
	for z in $list; do results "$t/$how$z" >"$t/r" && alike "$how: zero $z, the same bytes" "$t/r" "$t/r0"; done
}
bytes plain "1 2" --dtype f32
bytes low "1 2" --moments bf16 --ema 0.9 --keep-best --valid "$t/v.tok" --valid-every 2 --recompute
bytes lora 2 --lora 'q_proj,down_proj' --lora-rank 4 --train '*norm*' --freeze 'model.norm*'
bytes wide 2 --student "$t/w" --hidden-loss 'cosine@last:last' --correct-teacher 1e-3 --no-decay embed_tokens
same "what was asked for is there" "$(cd "$t" && ls -d low2/student-ema low2/best wide2/teacher | wc -l)" 3

# ---- several micro-batches each: to rounding ----
$kd --dtype f32 --batch 12 --valid "$t/v.tok" -q -o "$t/k1" || exit 1
for n in 2 3; do
	z=$((n % 2 + 1))
	works "$n processes, zero $z" many $n $kd --dtype f32 --batch 12 --valid "$t/v.tok" --zero $z -o "$t/k$n"
	near "$n processes, zero $z, the same training" "$t/k1" "$t/k$n"
done
many 4 $kd --dtype f32 --batch 12 --valid "$t/v.tok" --zero 2 --stop-after 1 -o "$t/k" >"$t/out.txt" 2>"$t/err"
first=$?
parts=$(ls "$t"/k/ckpt/step-1 | wc -l)
many 2 $kd --dtype f32 --batch 12 --valid "$t/v.tok" --stop-after 1 -o "$t/k" >"$t/out.txt" 2>"$t/err"
second=$?
many 3 $kd --dtype f32 --batch 12 --valid "$t/v.tok" --zero 1 --save-every 1 --keep 9 -o "$t/k" >"$t/out.txt" 2>"$t/err"
same "4, then 2, then 3 processes" "$first $parts $second $?" "75 4 75 0"
near "a checkpoint is of no number of processes" "$t/k1" "$t/k"

# ---- a part that is damaged, or not the one that it should be: the checkpoint before ----
cut() {
	rm -rf "$t/d" && cp -r "$t/k" "$t/d" && rm -r "$t/d/student" && $2
	works "$1: goes on" many 2 $kd --dtype f32 --batch 12 --valid "$t/v.tok" --zero 2 -o "$t/d"
	same "$1: from the checkpoint before" "$(grep -c 'trying an older checkpoint' "$t/err") $(grep -c 'goes on after step 2' "$t/err")" "1 1"
	near "$1: the same training" "$t/k1" "$t/d"
}
damage() { head -c 2000 "$t/d/ckpt/step-3/state.1" >"$t/part" && mv "$t/part" "$t/d/ckpt/step-3/state.1"; }
other() { cp "$t/d/ckpt/step-3/state.1" "$t/d/ckpt/step-3/state.2"; }
cut "a part is cut short" damage
cut "a part stands for another" other

many 2 $kd --dtype f32 --steps 40 --batch 2 --lr 1000 --weight-decay 1000 --clip 0 --warmup 0 --max-skips 3 --zero 2 -o "$t/nan" >"$t/out.txt" 2>"$t/err"
same "not finite: all give up at one step" "$? $(grep -o 'up to step [0-9]*' "$t/err" | uniq | wc -l)" "1 1"

# ---- memory: what each takes is what the planner says of it, and less ----
mkmodel -q --layers 4 --hidden 128 --heads 4 --kv-heads 2 --head-dim 32 --ffn 384 --vocab 265 --eos 264 --tied --fast --tokenizer "$t/tok" -o "$t/big" || exit 1
plan() { many "$1" kd-train --student "$t/big" --data "$t/c.tok" --batch 4 --micro 1 --steps 1 --zero "$2" --dry-run=json 2>"$t/err"; }
sum() { python3 -c 'import json,sys; m=json.load(sys.stdin)["memory"]; print(int(sum(m[k] for k in ("student weights","optimizer","gradients"))))'; }
told() {
	kd-train --dry-run=json --world "$1" --student "$t/big" --seq 16 --batch 4 --micro 1 |
		python3 -c "import json,sys; print(int([l['bytes']['student'] for l in json.load(sys.stdin)['layouts'] if l['layout'].startswith('ZeRO $2')][0]))"
}
for job in "2 1" "4 2"; do
	# shellcheck disable=SC2086
	set -- $job
	got=$(plan "$1" "$2" | sum) want=$(told "$1" "$2")
	if [ -n "$got" ] && awk "BEGIN { exit !($got > 0.97 * $want && $got < 1.03 * $want) }"; then ok "$1 processes, zero $2: bytes as planned"
	else no "$1 processes, zero $2: bytes as planned" "$got, planned $want"; fi
done

# and the peak of the first process, which has all buffers (sanitizers take memory of their own)
mkmodel -q --layers 8 --hidden 384 --heads 6 --kv-heads 6 --head-dim 64 --ffn 1024 --vocab 265 --eos 264 --tied --fast --tokenizer "$t/tok" -o "$t/big" -f
case $B in */san) sizes='' ;; *) sizes='0 2' ;; esac
for z in $sizes; do
	many 2 kd-train --student "$t/big" --data "$t/c.tok" --batch 2 --micro 1 --steps 1 --save-every 0 --threads 1 --zero $z --events "$t/ev$z" -q -o "$t/m$z" 2>"$t/err"
	plan 2 $z | sed 's/.*"peak_bytes":\([0-9]*\).*/\1/' >"$t/want$z"
	sed -n 's/.*"peak_bytes":\([0-9]*\).*/\1/p' "$t/ev$z" >"$t/got$z"
	if paste "$t/got$z" "$t/want$z" | awk '{ exit !($1 > 0.9 * $2 && $1 < 1.1 * $2) }'; then ok "zero $z: peak as planned"
	else no "zero $z: peak as planned" "$(paste "$t/got$z" "$t/want$z")"; fi
done
if [ -z "$sizes" ] || paste "$t/got0" "$t/got2" | awk '{ exit !($2 < 0.85 * $1) }'; then ok "zero 2 takes less"; else no "zero 2 takes less" "$(cat "$t"/got?)"; fi

# ---- one process is killed, or asked to stop ----
# three processes that train for long; RANK gets SIGNAL when it has written its part of the third checkpoint
start() {
	rm -rf "$t/l"
	lost 3 "$1" rename 3 "state.$1" "$2" $kd --steps 100000 --batch 3 --save-every 1 --keep 1 --zero 2 -o "$t/l"
}
last() { tail -n 1 "$t/l/metrics.jsonl" | sed 's/.*"step":\([0-9]*\).*/\1/'; }
start 1 KILL
same "one is killed: it is named and the others end" "$([ $rc -ne 0 ] && grep -c 'rank 1 .*signal 9' "$t/err")" 1
hangs() { start 2 STOP; [ $rc -ne 0 ] && grep -q 'process 2 on .* did not ' "$t/err"; }
if patiently hangs; then ok "one hangs: it is named and the others end"; else no "one hangs: it is named and the others end" "$(cat "$t/err")"; fi
unset ADZE_COMM_TIMEOUT
start 1 USR1
step=$(last)
same "one is told to stop: all do, at one step, with a checkpoint" "$rc $(ls "$t/l/ckpt") $(ls "$t/l/ckpt/step-$step" | tr '\n' ' ')" "75 step-$step state state.1 state.2 "
many 2 $kd --steps 100000 --batch 4 --zero 1 --save-every 0 --stop-after 1 -o "$t/l" >"$t/out.txt" 2>"$t/err"
same "another batch is another run" "$?" 65
many 3 $kd --steps 100000 --batch 3 --save-every 0 --zero 1 --stop-after 1 -o "$t/l" >"$t/out.txt" 2>"$t/err"
same "and it goes on" "$? $(last)" "75 $((step + 1))"
