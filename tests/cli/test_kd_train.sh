#!/bin/sh
# test_kd_train.sh - runs that repeat, stop, are killed and go on; refusals; what is left on disk
#
# SPDX-License-Identifier: Apache-2.0
tokens=$B/tests/train/test_batches
. tests/lib.sh

# metrics without the fields that the clock decides
metrics() { sed 's/,"tok_per_s":[^,}]*//; s/,"flop_per_s":[^,}]*//; s/,"peak_share":[^,}]*//; s/,"seconds":[^,}]*//' "$1/metrics.jsonl"; }

"$tokens" --make "$t/tok" 40 24 96
"$tokens" --make "$t/valid" 6 24 96
"$tokens" --make "$t/tok-large" 4 24 300
mkmodel -q --layers 2 --hidden 32 --ffn 64 --heads 4 --kv-heads 2 --vocab 96 --tied -o "$t/teacher"
mkmodel -q --layers 1 --hidden 24 --ffn 40 --heads 3 --kv-heads 1 --vocab 96 --tied --seed 3 --store bf16 -o "$t/student"
mkmodel -q --family nemotron --layers 1 --hidden 24 --ffn 40 --heads 3 --kv-heads 1 --vocab 96 --seed 4 -o "$t/nemotron"
mkmodel -q --layers 1 --hidden 24 --ffn 40 --heads 3 --vocab 97 -o "$t/other-vocab"

train() { kd-train --teacher "$t/teacher" --student "$t/student" --data "$t/tok" --steps 20 --batch 4 --lr 1e-2 --threads 2 --save-every 5 --keep 9 -q "$@"; }

# --- the same twice
train --valid "$t/valid" --valid-every 8 -o "$t/a"; same full-run $? 0
train --valid "$t/valid" --valid-every 8 -o "$t/b"
alike repeat-student "$t/a/student/model.safetensors" "$t/b/student/model.safetensors"
alike repeat-checkpoint "$t/a/ckpt/step-15/state" "$t/b/ckpt/step-15/state"
same repeat-metrics "$(metrics "$t/a" | cksum)" "$(metrics "$t/b" | cksum)"
if artcheck "$t/a/ckpt/step-15/state" >/dev/null 2>"$t/err"; then ok checkpoint-format; else no checkpoint-format "$(cat "$t/err")"; fi
same metrics-lines "$(wc -l <"$t/a/metrics.jsonl")" 21
same metrics-fields "$(sed -n 9p "$t/a/metrics.jsonl" | tr ',' '\n' | sed 's/^{*"\([^"]*\)".*/\1/' | tr '\n' ' ')" \
	"step tokens flops teacher_flops lr loss kd/kl lm/ce grad_norm skipped tok_per_s flop_per_s peak_share valid/loss valid/kd/kl valid/lm/ce valid/ppl seconds "
loss() { sed -n "$2p" "$1/metrics.jsonl" | sed 's/.*"loss":\([0-9.]*\).*/\1/'; }
if awk "BEGIN { exit !($(loss "$t/a" 21) < 0.8 * $(loss "$t/a" 2)) }"; then ok bf16-learns; else no bf16-learns "loss $(loss "$t/a" 2) to $(loss "$t/a" 21)"; fi
same stored-dtype "$(grep -c 'dtype": "bfloat16"' "$t/a/student/config.json")" 1

# --- 10 + resume + 10
train --valid "$t/valid" --valid-every 8 --stop-after 10 -o "$t/c"; same stops-75 $? 75
same no-student-yet "$(ls "$t/c/student" 2>&1 | grep -c safetensors)" 0
train --valid "$t/valid" --valid-every 8 -o "$t/c"; same resumes $? 0
alike resumed-student "$t/a/student/model.safetensors" "$t/c/student/model.safetensors"
alike resumed-checkpoint "$t/a/ckpt/step-15/state" "$t/c/ckpt/step-15/state"
same resumed-metrics "$(metrics "$t/c" | cksum)" "$(metrics "$t/a" | cksum)"

# --- up to given steps, with the model so far
train --valid "$t/valid" --valid-every 8 --stop-at 7 -o "$t/upto"; same stop-at $? 0
same stop-at-validates "$(grep -c '"step":7,.*"valid/loss"' "$t/upto/metrics.jsonl")" 1
train --valid "$t/valid" --valid-every 8 --stop-at 8 --export "$t/e8" -o "$t/upto"; same stop-at-goes-on $? 0
cp "$t/e8/model.safetensors" "$t/e8.before"
train --valid "$t/valid" --valid-every 8 --stop-at 8 --export "$t/e8" -o "$t/upto"; same stop-at-is-there $? 0
alike export-again "$t/e8.before" "$t/e8/model.safetensors"
if cmp -s "$t/e8.before" "$t/student/model.safetensors"; then no export-is-trained "the student as it was"; else ok export-is-trained; fi
fails export-too-late 1 "the model of step 7 is gone" train --valid "$t/valid" --valid-every 8 --stop-at 7 --export "$t/e7" -o "$t/upto"
train --valid "$t/valid" --valid-every 8 -o "$t/upto"; same stop-at-then-all $? 0
alike stop-at-student "$t/a/student/model.safetensors" "$t/upto/student/model.safetensors"
fails export-of-no-step 2 "--export needs --stop-at" train --export "$t/e7" -o "$t/upto"
fails stop-at-beyond 2 "the run has 20 steps" train --stop-at 21 -o "$t/upto"
train --max-time 0.000001s --save-every 0 -o "$t/m"; same max-time-75 $? 75
train --save-every 7 --keep 1 --stop-after 18 -o "$t/k"; same keeps-newest "$(ls "$t/k/ckpt")" step-18

# --- recomputation gives the same bytes
train --recompute=none -o "$t/r"; alike recompute-none "$t/a/student/model.safetensors" "$t/r/student/model.safetensors"
train --recompute -f -o "$t/r"; alike recompute "$t/a/student/model.safetensors" "$t/r/student/model.safetensors"
fails recompute-word 2 "none of none|selective|full" train --recompute=some -o "$t/x"

# --- finished, other settings, force
kd-train --teacher "$t/teacher" --student "$t/student" --data "$t/tok" --steps 20 --batch 4 --lr 1e-2 -o "$t/a" 2>"$t/err"
same already-done "$? $(grep -c 'already done' "$t/err")" "0 1"
fails other-steps 65 "steps 20, now 21" train --steps 21 -o "$t/a"
fails other-student 65 "with student" train --student "$t/nemotron" -o "$t/a"
fails other-data 65 "with data" train --data "$t/valid" -o "$t/c"
train --steps 2 -f -o "$t/b"; same force-again "$? $(wc -l <"$t/b/metrics.jsonl")" "0 2"

# --- a checkpoint of another run, a damaged one
train --stop-after 10 -o "$t/d" && no stop "not 75"
train --lr 2e-2 --stop-after 5 -o "$t/e" && no stop "not 75"
mkdir "$t/e/keep" && mv "$t/e/ckpt/step-5" "$t/e/keep/" && cp -r "$t/d/ckpt/step-10" "$t/e/ckpt/"
fails foreign-checkpoint 65 "lr 0.01, now 0.02" train --lr 2e-2 -o "$t/e"
printf x | dd of="$t/d/ckpt/step-10/state" bs=1 seek=9000 conv=notrunc 2>/dev/null
train -o "$t/d" 2>/dev/null; alike damaged-checkpoint "$t/a/student/model.safetensors" "$t/d/student/model.safetensors"

# --- signals
newest() { ls "$t/s/ckpt" | sed 's/step-//' | sort -n | tail -n 1; }
upon write 3 metrics.jsonl USR2 train --save-every 0 --stop-after 6 -o "$t/s"; same usr2-goes-on "$? $(ls "$t/s/ckpt" | tr '\n' ' ')" "75 step-3 step-6 "
for signal in TERM USR1; do
	upon write 4 metrics.jsonl $signal train --save-every 0 -o "$t/s"; same "$signal-75" $? 75
	same "$signal-at-last-step" "$(tail -n 1 "$t/s/metrics.jsonl" | sed 's/{"step":\([0-9]*\),.*/\1/')" "$(newest)"
done
same stopped-thrice "$(ls "$t/s/ckpt" | wc -l) $(newest)" "4 14"

# --- kill -9 at any point, kill: in place of the call: nothing partial under a final name, and the same end
long() { train --steps 300 --save-every 3 --keep 2 -o "$t/z"; }
n=0 bad=
while read -r call number name signal; do
	upon "$call" "$number" "$name" "$signal" long
	[ $? -eq 137 ] && n=$((n + 1)) || bad="$bad $call-$name-not-killed"
	for f in "$t"/z/ckpt/step-*/state; do
		[ ! -e "$f" ] || artcheck "$f" >/dev/null 2>&1 || bad="$bad $f"
	done
	[ ! -e "$t/z/student" ] || [ -s "$t/z/student/model.safetensors" ] || bad="$bad student"
done <<END
mkdir 1 z KILL
rename 1 run.json kill
rename 1 run.json KILL
write 2 metrics.jsonl kill
write 7 metrics.jsonl KILL
rename 2 state KILL
fsync 3 ckpt KILL
write 40 metrics.jsonl kill
mkdir 3 ckpt KILL
fsync 2 metrics.jsonl KILL
write 5 model.safetensors kill
fsync 1 model.safetensors KILL
rename 1 student kill
END
same kill-leaves-whole "$bad" ""
train --steps 300 --save-every 100 --keep 2 -o "$t/z"
train --steps 300 --save-every 0 -o "$t/y"
alike kill-same-student "$t/y/student/model.safetensors" "$t/z/student/model.safetensors"
same kill-same-metrics "$(metrics "$t/z" | cksum)" "$(metrics "$t/y" | cksum)"
same kill-no-leftovers "$(find "$t/z" -name '*.tmp*' | wc -l)" 0
same killed-often "$n" 13

# --- objectives, families, arithmetic
kd-train --teacher "$t/teacher" --student "$t/teacher" --data "$t/tok" --valid "$t/valid" --steps 1 --dtype f32 -q -o "$t/self"
if sed -n 1p "$t/self/metrics.jsonl" | sed 's/.*"valid.kd.kl":\([^,]*\),.*/\1/' | awk '{ exit !($1 <= 1e-6 && $1 >= -1e-6) }'; then ok self-kl-zero
else no self-kl-zero "$(sed -n 1p "$t/self/metrics.jsonl")"; fi
kd-train --student "$t/nemotron" --data "$t/tok" --steps 30 --batch 4 --lr 1e-2 -q -o "$t/ce"
same ce-only "$? $(grep -c kd/kl "$t/ce/metrics.jsonl")" "0 0"
if awk "BEGIN { exit !($(loss "$t/ce" 30) < 0.9 * $(loss "$t/ce" 1)) }"; then ok ce-learns; else no ce-learns "loss $(loss "$t/ce" 1) to $(loss "$t/ce" 30)"; fi
kd-train --teacher "$t/nemotron" --student "$t/student" --data "$t/tok" --steps 2 --loss kl:0.7,ce:0.3,rkl:0.1 --temperature 2 \
	--schedule wsd --seq 10 --tokens 0 --save-dtype f32 -q -o "$t/mix"
same mixed-families "$? $(grep -c kd/rkl "$t/mix/metrics.jsonl") $(grep -c 'dtype": "float32"' "$t/mix/student/config.json")" "0 2 1"

train --steps 2 --loss jsd:1,tvd:1,mse:0.1,cos:1 --jsd-beta 0.3 --weigh wsl --valid "$t/valid" -o "$t/many"
same many-losses "$? $(grep -c '"kd/jsd":.*"kd/tvd":.*"kd/mse":.*"kd/cos":.*"valid/kd/tvd"' "$t/many/metrics.jsonl")" "0 1"
train --top-k 96 --tail ghost -o "$t/best"; train --valid "$t/valid" -o "$t/full"
if awk "BEGIN { d = $(loss "$t/best" 20) / $(loss "$t/full" 21) - 1; exit !(d < 0.02 && d > -0.02) }"; then ok best-of-all; else no best-of-all "$(loss "$t/best" 20) and $(loss "$t/full" 21)"; fi
fails other-tail 65 'tail "ghost", now "zero"' train --top-k 96 --tail zero -o "$t/best"

# every key of every run so far is in the manual
unknown=$(cat "$t"/*/metrics.jsonl | tr '{,' '\n\n' | sed -n 's|^"\([^"]*\)":.*|\1|; s|^valid/kd/.*|valid/kd/...|; /^[a-z]/p' | sort -u |
	while read -r key; do grep -q -F "\`$key\`" formats/metrics.md || echo "$key"; done)
same keys-in-manual "$unknown" ""

# weights that grow a million times a step overflow soon
fails nan-guard 1 "not finite in 10 steps in a row, up to step " train --steps 40 --lr 1e3 --weight-decay 1e3 -o "$t/nan"
cp -r "$t/student" "$t/student2" && echo '{}' >"$t/student2/tokenizer.json"
kd-train --student "$t/student2" --data "$t/tok" --steps 1 -o "$t/warn" 2>"$t/err"
same tokenizer-warning "$? $(grep -c 'another tokenizer' "$t/err") $(cat "$t/warn/student/tokenizer.json")" "0 1 {}"

# --- plans write nothing
train --dry-run -o "$t/plan" >"$t/out"; same dry-run "$? $(grep -c -e optimizer -e gradients -e activations "$t/out") $([ -e "$t/plan" ] && echo left)" "0 3 "
if train --dry-run=json -o "$t/plan" | grep -q '"flops_per_token":'; then ok dry-run-json; else no dry-run-json "no flops_per_token"; fi
same explain "$(train --explain | grep -c -i kd_head)" 1
same help-says-temperature "$(kd-train --help | grep -c 'temperature^2')" 1

# --- refusals
fails no-data 2 "--data is missing" kd-train --student "$t/student" -o "$t/x"
fails no-out 2 "--out is missing" kd-train --student "$t/student" --data "$t/tok"
fails kl-without-teacher 2 "needs --teacher" kd-train --student "$t/student" --data "$t/tok" --loss kl:1 -o "$t/x"
fails unknown-loss 2 "hinge" train --loss hinge:1 -o "$t/x"
fails best-of-rkl 2 "not rkl" train --loss kl:1,rkl:1 --top-k 4 -o "$t/x"
fails best-and-wsl 2 "weighted soft labels" train --top-k 4 --weigh wsl -o "$t/x"
fails micro-batch 2 "not a multiple" train --micro 3 -o "$t/x"
fails bad-time 2 "3x" train --max-time 3x -o "$t/x"
fails two-lengths 2 "exclude" train --tokens 10 -o "$t/x"
fails missing-teacher 74 "nowhere" train --teacher "$t/nowhere" -o "$t/x"
fails missing-data 74 "nowhere" train --data "$t/nowhere" -o "$t/x"
fails vocabularies 65 "97" train --teacher "$t/other-vocab" -o "$t/x"
fails wrong-tokens 65 "vocabulary of 300" train --data "$t/tok-large" -o "$t/x"
fails wrong-kind 65 "expected" train --data "$t/a/ckpt/step-15/state" -o "$t/x"
fails too-long 65 "--seq 25" train --seq 25 -o "$t/x"
head -c 300 "$t/tok" >"$t/cut"
fails truncated 65 "cut" train --data "$t/cut" -o "$t/x"
fails not-a-run 2 "not the directory of a run" train -o "$t/student"
same refused-writes-nothing "$([ -e "$t/x" ] && echo left)" ""
mkdir -p "$t/locked"
fails locked 1 "another program" flock "$t/locked/.lock" kd-train --student "$t/student" --data "$t/tok" -q -o "$t/locked"
