#!/bin/sh
# test_kd_mix.sh - several domains: what is drawn and logged, dynamic weights, resuming, refusals
#
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
make_tokens() { "$B/tests/train/test_batches" --make "$@"; }
metrics() { sed 's/,"tok_per_s":[^,}]*//; s/,"flop_per_s":[^,}]*//; s/,"peak_share":[^,}]*//; s/,"seconds":[^,}]*//' "$1/metrics.jsonl"; }
# value RUN LINE KEY
value() { sed -n "$2p" "$1/metrics.jsonl" | sed "s|.*\"$3\":\([^,}]*\).*|\1|"; }
# holds NAME EXPRESSION
holds() { if awk "BEGIN { exit !($2) }"; then ok "$1"; else no "$1" "$2"; fi; }

# easy: the next token is known; hard: one of 24
make_tokens "$t/easy" 40 24 96 5 1; make_tokens "$t/easy-v" 6 24 96 5 1
make_tokens "$t/hard" 9 24 96 7 24; make_tokens "$t/hard-v" 6 24 96 7 24
mkmodel -q --layers 2 --hidden 32 --ffn 64 --heads 4 --kv-heads 2 --vocab 96 --tied -o "$t/teacher"
mkmodel -q --layers 1 --hidden 24 --ffn 40 --heads 3 --kv-heads 1 --vocab 96 --tied --seed 3 -o "$t/student"

base() { kd-train --student "$t/student" --steps 100 --batch 4 --lr 1e-2 --threads 1 --save-every 10 --seed 5 "$@"; }
train() { base -q --data easy="$t/easy" --data hard="$t/hard" --valid easy="$t/easy-v" --valid hard="$t/hard-v" --valid-every 10 "$@"; }
dynamic() { train --loss ce --weights easy:0.5,hard:0.5 --mix dynamic --mix-reference easy:0.1,hard:3.1 "$@"; }

# --- fixed weights
works fixed train --loss ce --weights easy:3,hard:1 -o "$t/fixed"
same fields "$(sed -n 11p "$t/fixed/metrics.jsonl" | tr ',' '\n' | sed 's/^{*"\([^"]*\)".*/\1/' | tr '\n' ' ')" \
	"step tokens flops lr loss lm/ce grad_norm skipped tok_per_s flop_per_s peak_share data/easy data/hard valid/easy/loss valid/easy/lm/ce valid/hard/loss valid/hard/lm/ce valid/loss valid/lm/ce valid/ppl seconds "
same all-drawn "$(($(value "$t/fixed" 101 data/easy) + $(value "$t/fixed" 101 data/hard)))" 400
holds shares "$(value "$t/fixed" 101 data/easy) > 265 && $(value "$t/fixed" 101 data/easy) < 335"
holds each-and-all "($(value "$t/fixed" 51 valid/easy/lm/ce) + $(value "$t/fixed" 51 valid/hard/lm/ce)) / 2 - $(value "$t/fixed" 51 valid/lm/ce) < 1e-6"
base --data easy="$t/easy" --data hard="$t/hard" --loss ce --weights easy:0,hard:1 --steps 10 -o "$t/over" 2>"$t/err"
same wraps-around "$(grep -c 'hard: all 9 sequences used, starts over' "$t/err") $(value "$t/over" 10 data/easy)" "4 0"
train --loss ce --steps 10 -o "$t/by-size"; holds by-size "$(value "$t/by-size" 11 data/easy) > 25"
# one domain with a name is the run without a name
base -q --data "$t/easy" --loss ce --steps 10 -o "$t/plain"; base -q --data e="$t/easy" --loss ce --steps 10 -o "$t/named"
alike named "$t/plain/student/model.safetensors" "$t/named/student/model.safetensors"

# --- dynamic weights: the domain that is further from its reference is drawn more
works dynamic dynamic -o "$t/dyn"
w() { awk "BEGIN { e = $(value "$t/dyn" "$1" mix/easy) * exp($(value "$t/dyn" "$2" valid/easy/lm/ce) - 0.1);
	h = $(value "$t/dyn" "$1" mix/hard) * exp($(value "$t/dyn" "$2" valid/hard/lm/ce) - 3.1); d = (1 - 1e-4) * e / (e + h) + 5e-5 - $(value "$t/dyn" "$2" mix/easy); exit !(d < 1e-6 && d > -1e-6) }"; }
if w 1 11 && w 11 21 && w 91 101; then ok rule; else no rule "$(grep -o '"mix.*' "$t/dyn/metrics.jsonl")"; fi
holds start "$(value "$t/dyn" 1 mix/easy) == 0.5"
holds grows "$(value "$t/dyn" 11 mix/easy) > 0.6"
works repeats dynamic -o "$t/dyn2"; same same-metrics "$(metrics "$t/dyn2" | cksum)" "$(metrics "$t/dyn" | cksum)"
dynamic --teacher "$t/teacher" --loss kl:1 --mix-reference teacher --steps 10 -o "$t/kl"
holds teacher-reference "$(value "$t/kl" 11 mix/easy) != 0.5"

# --- 100 steps are 50, kill -9, and the rest; a stop in between draws nothing twice
upon write 57 metrics.jsonl KILL dynamic -o "$t/k"; same killed "$? $(ls "$t/k" | grep -c student)" "137 0"
works after-kill dynamic -o "$t/k"
alike kill-same-student "$t/dyn/student/model.safetensors" "$t/k/student/model.safetensors"
alike kill-same-checkpoint "$t/dyn/ckpt/step-90/state" "$t/k/ckpt/step-90/state"
same kill-same-metrics "$(metrics "$t/k" | cksum)" "$(metrics "$t/dyn" | cksum)"
dynamic --stop-after 37 -o "$t/s"; dynamic -o "$t/s"; alike stop-same-student "$t/dyn/student/model.safetensors" "$t/s/student/model.safetensors"
works checkpoint-format artcheck -q "$t/k/ckpt/step-90/state"

# --- cached teachers, one for each domain
for d in easy hard; do kd-train -q --teacher "$t/teacher" --data "$t/$d" --top-k 96 --cache-dtype f32 --dtype f32 --cache-teacher "$t/$d.cache"; done
train --dtype f32 --teacher "$t/teacher" --steps 10 -o "$t/online"
train --dtype f32 --teacher-cache easy="$t/easy.cache" --teacher-cache hard="$t/hard.cache" --steps 10 -o "$t/cached"
holds cached "$(value "$t/online" 11 loss) / $(value "$t/cached" 11 loss) - 1 < 1e-4"

# --- refusals
fails no-name 2 "need names" base --loss ce --data "$t/easy" --data h="$t/hard" -o "$t/bad"
fails same-name 2 "two are named a" base --loss ce --data a="$t/easy" --data a="$t/hard" -o "$t/bad"
fails weight-of-none 2 "no --data is named x" train --loss ce --weights easy:1,hard:1,x:2 -o "$t/bad"
fails weight-missing 2 "nothing for hard" train --loss ce --weights easy:1 -o "$t/bad"
fails weight-negative 2 "not negative" train --loss ce --weights easy:-1,hard:1 -o "$t/bad"
fails no-reference 2 "needs --mix-reference" train --loss ce --mix dynamic -o "$t/bad"
fails useless-reference 2 "is for --mix dynamic" train --loss ce --mix-reference easy:1,hard:1 -o "$t/bad"
fails no-held-out 2 "no --valid hard=" base -q --data easy="$t/easy" --data hard="$t/hard" --valid easy="$t/easy-v" --valid-every 5 --loss ce --mix dynamic --mix-reference easy:1,hard:1 -o "$t/bad"
fails one-domain 2 "several --data" base -q --data easy="$t/easy" --valid easy="$t/easy-v" --valid-every 5 --loss ce --mix dynamic --mix-reference easy:1 -o "$t/bad"
fails cache-missing 2 "none for --data hard" train --teacher-cache easy="$t/easy.cache" -o "$t/bad"
fails cache-of-none 2 "no --data is named x" train --teacher-cache x="$t/easy.cache" -o "$t/bad"
fails other-weights 65 "data" train --loss ce --weights easy:2,hard:1 -o "$t/fixed"
fails other-reference 65 "mix" dynamic --mix-reference easy:0.2,hard:3 -o "$t/dyn"
