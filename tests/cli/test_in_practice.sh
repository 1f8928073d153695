#!/bin/sh
# test_in_practice.sh - teacher correction: beside the student (kd-train --correct-teacher: it learns what conventional training
# gives, the student follows it, both survive kills), and pipelines/in-practice.mk in its variants
#
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
top=$PWD
sh tests/cli/tiny-tokenizer.sh "$t/tok"
mkmodel -q --layers 4 --hidden 16 --heads 2 --kv-heads 1 --ffn 32 --vocab 265 --eos 264 --tied --tokenizer "$t/tok" -o "$t/teacher"
mkmodel -q --layers 1 --hidden 12 --heads 2 --kv-heads 1 --ffn 16 --vocab 265 --eos 264 --tied --seed 3 --tokenizer "$t/tok" -o "$t/student"
calib-sample -q -t "$t/teacher" --documents paragraph --samples 48 --seq 32 LICENSE -o "$t/data"
cd "$t" || exit 1
kd() { kd-train -q --data data --steps 20 --batch 4 --lr 1e-2 --min-lr 1e-3 --warmup 2 --threads 1 --save-every 5 "$@"; }
metrics() { sed 's/,"tok_per_s":.*"peak_share":[^,}]*//; s/,"tok_per_s":[^,}]*//; s/,"flop_per_s":[^,}]*//; s/,"seconds":[^,}]*//' "$1/metrics.jsonl"; }
value() { sed -n "$2p" "$1/metrics.jsonl" | sed "s|.*\"$3\":\([^,}]*\).*|\1|"; }

# ---- beside the student ----
for type in f32 bf16; do
	works "$type: correction" kd --dtype $type --student student --teacher teacher --correct-teacher 5e-3 -o par-$type
	kd --dtype $type --student teacher --loss ce --lr 5e-3 -o seq-$type
	alike "$type: the teacher learns as by itself" par-$type/teacher/model.safetensors seq-$type/student/model.safetensors
	same "$type: and says so" "$(value par-$type 20 teacher/lm/ce)" "$(value seq-$type 20 lm/ce)"
	kd --dtype $type --student student --teacher teacher -o plain-$type
	same "$type: the first step is from the original" "$(value par-$type 1 kd/kl)" "$(value plain-$type 1 kd/kl)"
	if [ "$(value par-$type 2 kd/kl)" != "$(value plain-$type 2 kd/kl)" ]; then ok "$type: the second is not"; else no "$type: the second is not" "the same"; fi
done
correct() { kd --dtype bf16 --student student --teacher teacher --correct-teacher 5e-3 -o halt "$@"; }
correct --stop-after 7; same stopped $? 75
upon rename 1 ckpt/step-15 KILL correct; same killed "$? $(ls halt | grep -c student)" "137 0"
works goes-on correct
alike same-student par-bf16/student/model.safetensors halt/student/model.safetensors
alike same-teacher par-bf16/teacher/model.safetensors halt/teacher/model.safetensors
same same-metrics "$(metrics halt | cksum)" "$(metrics par-bf16 | cksum)"
works checkpoint-format artcheck -q par-bf16/ckpt/step-15/teacher
same planned "$(kd --student student --teacher teacher --correct-teacher 5e-3 --dry-run -o bad | grep -c "teacher's training")" 1
fails no-teacher 2 "trains the weights of --teacher" kd --student student --loss ce --correct-teacher 1e-3 -o bad
fails other-rate 65 "correct-teacher 0.005, now 0.001" kd --dtype bf16 --student student --teacher teacher --correct-teacher 1e-3 -o par-bf16

# ---- the pipeline ----
practice() { # WORK VARIABLES...
	work=$1
	shift
	make -s -f "$top/pipelines/in-practice.mk" WORK="$work" BIN="$top/$B/bin" TEACHER=teacher DATA=data DEPTH=2 WIDTH="--hidden 12 --ffn 24" \
		STEPS=4 BATCH=4 LR=1e-3 CORRECT_LR=5e-4 KDOPTS="--dtype f32 --warmup 1" STATSOPTS="--dtype f32" ABLATEOPTS="--dtype f32" \
		EVAL="--text held" EVAL_INPUTS=held RUNOPTS="--progress none -q" "$@"
}
head -c 1500 "$top/README.md" >held
works first practice w1
same "two students, two teachers" "$(grep -c '^teacher  \|^correct  \|^depth, \|^width, ' w1/report.txt)" 6
same "cut from the corrected" "$(grep -c 'w1/correct/student' w1/depth/trimmed.cmd w1/width/trimmed.cmd w1/depth/kd.cmd w1/width/kd.cmd | grep -c ':1')" 4
dropped=$(sed -n 's/.*"layers": *\[\([^]]*\)\].*/\1/p' w1/depth/trimmed/adze-kept.json)
case $(echo "$dropped" | tr -d ' ') in 0,3) ok contiguous ;; *) no contiguous "kept $dropped" ;; esac
before=$(find w1 -type f ! -name '*.log' ! -name .lock -printf '%P %T@\n' | sort | cksum)
practice w1 >log 2>&1
same "twice does nothing" "$(find w1 -type f ! -name '*.log' ! -name .lock -printf '%P %T@\n' | sort | cksum)" "$before"
works parallel practice w2 CORRECTION=parallel WIDTH=
same "the original is cut, its training is followed" "$(grep -c -e '-m teacher' w2/depth/trimmed.cmd) $(grep -c -e '--correct-teacher 5e-4' w2/depth/kd.cmd) $(ls w2/depth/kd/teacher | grep -c safetensors)" "1 1 1"
works none practice w3 CORRECTION=none DEPTH=
same "no correction" "$(ls w3 | tr '\n' ' ')" "report.cmd report.html report.txt teacher width "
touch items.jsonl
calib-sample -q -t teacher --documents paragraph --samples 12 --seq 32 "$top/README.md" -o more
works domains practice w5 CORRECTION=none DEPTH= DATA="a=data b=more" CALIB=data VALID="a=data b=more" EVAL=
same "domains by name" "$(grep -c 'valid/b/lm/ce' w5/width/kd/metrics.jsonl)" 2
works task practice w4 CORRECTION=none WIDTH= DEPTH_METRIC=task:items.jsonl -n
fails unknown-variant 2 "none of first, parallel and none" practice bad CORRECTION=later
