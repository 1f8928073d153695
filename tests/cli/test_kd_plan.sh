#!/bin/sh
# test_kd_plan.sh - kd-train --dry-run --world: plans from config.json alone; figures are checked in tests/train/test_layout.c
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
# nemotron DIR HIDDEN FFN HEADS
nemotron() {
	mkdir "$1"
	cat >"$1/config.json" <<-END
	{"model_type":"nemotron","hidden_size":$2,"intermediate_size":$3,"num_hidden_layers":32,"num_attention_heads":$4,"num_key_value_heads":8,"head_dim":128,
	 "vocab_size":256000,"hidden_act":"relu2","norm_eps":1e-5,"partial_rotary_factor":0.5,"rope_theta":10000,"max_position_embeddings":4096,"tie_word_embeddings":false}
	END
}
nemotron "$t/15b" 6144 24576 48
nemotron "$t/8b" 4096 16384 48
nemotron "$t/4b" 3072 9216 24
plan="kd-train --dry-run --world 8 --gpu-mem 80G --teacher $t/15b --student $t/8b --seq 4096 --batch 1152 --tokens 94e9"
works "15B to 8B on eight GPUs" $plan
same "the first that fits is marked" "$(grep '^>' "$t/out.txt" | sed 's/.*ZeRO/ZeRO/')" "ZeRO 3, teacher sharded in the node"
same "and told" "$(grep -c '^94.0B tokens: 27.5 days$' "$t/out.txt")" 1
works "as JSON" sh -c "$(echo "$plan" | sed 's/--dry-run/--dry-run=json/') | python3 -c 'import json,sys; d=json.load(sys.stdin); l=d[\"layouts\"][d[\"fits\"]]; assert l[\"bytes\"][\"sum\"] <= d[\"gpu_mem\"] < d[\"layouts\"][d[\"fits\"]-1][\"bytes\"][\"sum\"]'"
works "a cached teacher takes no memory" $plan --teacher-cache x
same "a cached teacher takes no memory: none" "$(grep '^>' "$t/out.txt" | awk '{ print $4 }') $(grep -c 'teacher ' "$t/out.txt")" "0.0 1"
works "8B to 4B on one GPU" $plan --world 1 --teacher "$t/8b" --student "$t/4b"
same "8B to 4B on one GPU: the optimizer to the host, both ways once a step" "$(grep '^>' "$t/out.txt" | sed 's/.*ZeRO/ZeRO/') $(grep -c "has 46.8 GiB from the host's memory and sends 46.8 GiB there: 1.01 s" "$t/out.txt")" "ZeRO 0, teacher whole, optimizer on the host 1"
$plan --gpu-mem 8G >"$t/out.txt" 2>"$t/err"
same "none fits: 69" "$? $(grep -c 'none of them fits' "$t/out.txt")" "69 1"
works "spread over eight" $plan --tp 8
same "spread over eight: one copy, no ZeRO" "$(head -c 45 "$t/out.txt") $(grep '^>' "$t/out.txt" | sed 's/.*ZeRO/ZeRO/')" "Models spread over every 8 of 8 GPUs of 80 GB ZeRO 0, teacher whole"
sh tests/dist/layouts.sh >"$t/table" && grep '^|' tests/results/layouts.md >"$t/committed"
alike "the table of tests/results/layouts.md" "$t/table" "$t/committed"
works "a teacher over two nodes" $plan --world 16 --teacher-group 16
same "a teacher over two nodes: sent between them" "$(grep -c '^of that the teacher.s weights: 0 B in the node, 982 GiB between nodes$' "$t/out.txt") $(grep -c '^> .*teacher sharded over 16' "$t/out.txt")" "1 1"
fails "spread over what does not divide" 2 "--tp 3: --world 8 is no multiple" $plan --tp 3
fails "fewer kv-heads than that" 2 "--tp 16: the model has kv = 8, which is no multiple" $plan --world 16 --tp 16
fails "it only plans" 2 "--world needs --dry-run" kd-train --world 8 --student "$t/8b"
fails "no student" 2 "--student is missing" kd-train --dry-run --world 8
fails "memory in words" 2 "--gpu-mem much: expected a size" $plan --gpu-mem much
fails "speed in words" 2 "--gpu-flops fast: expected a number" $plan --gpu-flops fast
fails "too few sequences" 2 "less than one micro-batch" $plan --batch 8
