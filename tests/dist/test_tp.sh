#!/bin/sh
# test_tp.sh - models spread over processes (kd-train --tp) train what one process trains
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
. tests/dist/mpi.sh
export ADZE_COMM_TIMEOUT=60
sh tests/cli/tiny-tokenizer.sh "$t/tok" || exit 1
model() { mkmodel -q --layers 2 --head-dim 8 --vocab 268 --eos 264 --tokenizer "$t/tok" "$@" || exit 1; }
model --hidden 32 --heads 8 --kv-heads 4 --ffn 48 --tied -o "$t/m"
model --like "$t/m" --std 0.2 --seed 2 --store f32 -o "$t/s"
model --family nemotron --hidden 24 --heads 4 --kv-heads 4 --ffn 40 --biases -o "$t/n"
model --family gemma3_text --hidden 24 --heads 4 --kv-heads 2 --ffn 40 --window 5 --window-pattern 2 --tied --seed 4 --store f32 -o "$t/g"
calib-sample -q -t "$t/m" --documents paragraph --samples 12 --seq 16 LICENSE -o "$t/c.tok" || exit 1
calib-sample -q -t "$t/m" --documents paragraph --samples 3 --seq 16 README.md -o "$t/v.tok" || exit 1
kd="kd-train --data $t/c.tok --valid $t/v.tok --micro 1 --steps 4 --batch 4 --lr 3e-3 --save-dtype f32 --threads 1 -q"
llama="$kd --teacher $t/m --student $t/s --dtype f32"

# ---- 1, 2, 4 ----
$llama -o "$t/k1" || exit 1
for n in 2 4; do
	works "--tp $n" many $n $llama --tp $n -o "$t/k$n"
	equal "llama, grouped queries, tied, over $n" "$t/k1" "$t/k$n"
done
model --like "$t/n" --std 0.2 --seed 2 --store f32 -o "$t/n2"
# what a key's bias does mostly cancels in the softmax: its gradient is rounding, which a small eps would enlarge
nemotron="$kd --dtype f32 --eps 1e-5 --teacher $t/n --student $t/n2 --recompute --loss rkl:1,jsd:1,tvd:1,mse:0.1,cos:1,ce:0.5 --temperature 1.5 --weigh wsl"
$nemotron -o "$t/n1" && works "nemotron over 4" many 4 $nemotron --tp 4 -o "$t/n4"
equal "nemotron, untied, biases, every loss, recomputed" "$t/n1" "$t/n4"
gemma="$kd --dtype f32 --teacher $t/m --student $t/g --loss ce:1,kl:0.5 --freeze model.layers.0.mlp.*,model.norm*"
$gemma -o "$t/g1" && works "gemma over 2" many 2 $gemma --tp 2 -o "$t/g2"
equal "gemma, norms of heads and after parts, some frozen" "$t/g1" "$t/g2"

# ---- beside data parallel and ZeRO, with averaged weights ----
more="$llama --ema 0.9 --keep-best --valid-every 2"
$more -o "$t/e1" || exit 1
for z in 0 1 2; do
	works "2 x 2, zero $z" many 4 $more --tp 2 --zero $z -o "$t/e$z"
	equal "2 x 2, zero $z" "$t/e1" "$t/e$z"
done
mkdir "$t/avg1" "$t/avg2" && ln -s "$t/e1/student-ema" "$t/avg1/student" && ln -s "$t/e2/student-ema" "$t/avg2/student"
students "2 x 2, zero 2: the same average" "$t/avg1" "$t/avg2"
low="$kd --teacher $t/m --student $t/s --dtype bf16 --moments bf16"
works "bf16 over 2" many 2 $low --tp 2 -o "$t/b2"
works "bf16, 2 x 2, zero 2" many 4 $low --tp 2 --zero 2 -o "$t/b4"
near "bf16, 2 x 2, zero 2: as over 2 alone" "$t/b2" "$t/b4"

# ---- a checkpoint is of no number of processes ----
step() { many "$@" --stop-after 1 -o "$t/c" >"$t/out.txt" 2>"$t/err"; echo $?; }
codes="$(step 2 $llama --tp 2) $(step 1 $llama) $(step 2 $llama --zero 1)"
many 4 $llama --tp 2 --zero 2 --save-every 1 -o "$t/c" >"$t/out.txt" 2>"$t/err"
same "a checkpoint goes from --tp 2 to 1, to 2 x 1 and to 2 x 2" "$codes $?" "75 75 75 0"
equal "a checkpoint goes on" "$t/k1" "$t/c"
codes="$(step 4 $llama --tp 2 --zero 2 --force)"
same "2 x 2, zero 2: each wrote its part" "$codes $(ls "$t/c/ckpt/step-1" | tr '\n' ' ')" "75 state state.1 state.2 state.3 "
works "alone it goes on from there" $llama -o "$t/c"
equal "alone from 2 x 2" "$t/k1" "$t/c"

# ---- memory of each ----
bytes() { python3 -c 'import json,sys; m=json.load(sys.stdin)["memory"]; print(int(sum(m[k] for k in ("student weights","teacher weights","optimizer","gradients"))))'; }
whole=$($llama --dry-run=json | bytes) half=$(many 2 $llama --tp 2 --dry-run=json | bytes)
if [ "$half" -lt $((whole * 53 / 100)) ] && [ "$half" -gt $((whole / 2)) ]; then ok "weights, moments and gradients: a half in each of 2"
else no "weights, moments and gradients: a half in each of 2" "$half of $whole"; fi

# ---- what is refused: one line of the first process ----
refused() {
	name=$1 np=$2 text=$3
	shift 3
	many "$np" "$@" -o "$t/bad" >"$t/out.txt" 2>"$t/err"
	same "$name" "$? $(grep -c "^kd-train: .*$text" "$t/err") $([ -e "$t/bad" ] && echo left)" "2 1 "
}
refused "fewer kv-heads than processes" 4 "tp 4: the model has kv = 2, which is no multiple" $gemma --tp 4
refused "processes that are no multiple" 3 "3 processes are no multiple of it" $llama --tp 2
fails "one process" 2 "1 process is no multiple of it; mpirun -n N kd-train starts N" $llama --tp 2 -o "$t/bad"
fails "low-rank adapters" 2 "--tp does not go with --lora" $llama --tp 2 --lora q_proj -o "$t/bad"
fails "losses between hidden states" 2 "--tp does not go with --hidden-loss" $llama --tp 2 --hidden-loss cosine@last:last -o "$t/bad"
fails "the teacher's best tokens" 2 "--tp does not go with --top-k" $llama --tp 2 --top-k 8 -o "$t/bad"

# ---- one process is killed, or hangs ----
# four processes that train for long; the last gets SIGNAL when it has written its part of the third checkpoint
start() {
	rm -rf "$t/l"
	lost 4 3 rename 3 state.3 "$1" $llama --steps 100000 --tp 2 --zero 2 --save-every 1 --keep 1 -o "$t/l"
}
start KILL
same "one is killed: it is named and the others end" "$([ $rc -ne 0 ] && grep -c 'rank 3 .*signal 9' "$t/err")" 1
hangs() { start STOP; [ $rc -ne 0 ] && [ "$(grep -c 'process 3 on [^ ]* (last seen at exchange [0-9]*) did not ' "$t/err")" = 1 ]; }
if patiently hangs; then ok "one hangs: it alone is named and the others end"; else no "one hangs: it alone is named and the others end" "$(cat "$t/err")"; fi
unset ADZE_COMM_TIMEOUT
start USR1
same "one is told to stop: all do, with a checkpoint" "$rc $(ls "$t"/l/ckpt/step-* | tr '\n' ' ')" "75 state state.1 state.2 state.3 "
