#!/bin/sh
# test_pairs.sh - kd-train --deterministic: losses, norms and weights have the same bits on any number of processes
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
. tests/dist/mpi.sh
sh tests/cli/tiny-tokenizer.sh "$t/tok" || exit 1
mkmodel -q --layers 2 --hidden 32 --heads 4 --kv-heads 2 --head-dim 8 --ffn 48 --vocab 265 --eos 264 --tied --tokenizer "$t/tok" -o "$t/m" || exit 1
mkmodel -q --like "$t/m" --std 0.2 --seed 2 --store f32 -o "$t/s" || exit 1
calib-sample -q -t "$t/m" --documents paragraph --samples 24 --seq 16 LICENSE -o "$t/c.tok" || exit 1
calib-sample -q -t "$t/m" --documents paragraph --samples 5 --seq 16 README.md -o "$t/v.tok" || exit 1
kd="kd-train --deterministic --teacher $t/m --student $t/s --data $t/c.tok --valid $t/v.tok --valid-every 2 --steps 4 --lr 3e-3 --save-dtype f32 --threads 1"
everything() { (cd "$1" && curve . && find . -name '*.safetensors' | sort | xargs cat); }

# alone OPTION...: what one process trains, in $t/one;  together NAME N OPTION...: N processes have the same
alone() {
	rm -rf "$t/k1"
	$kd "$@" -q -o "$t/k1" 2>"$t/err" || no "alone $*" "$(cat "$t/err")"
	everything "$t/k1" >"$t/one"
}
together() {
	how="$1, $2 processes" n=$2
	shift 2
	rm -rf "$t/k"
	works "$how" many "$n" $kd "$@" -o "$t/k"
	everything "$t/k" >"$t/all"
	alike "$how: the same bits" "$t/one" "$t/all"
}
alone --micro 1 --batch 16 --dtype f32
same "there is something to compare" "$(curve "$t/k1" | grep -c .)" 20
for n in 2 4 8; do together f32 $n --micro 1 --batch 16 --dtype f32; done
together "zero 1" 4 --micro 1 --batch 16 --dtype f32 --zero 1
alone --micro 2 --batch 24 --ema 0.9 --moments bf16 --loss kl:1,ce:0.3 --correct-teacher 1e-3
for n in 2 4; do together "twelve micro-batches, bf16" $n --micro 2 --batch 24 --ema 0.9 --moments bf16 --loss kl:1,ce:0.3 --correct-teacher 1e-3; done
alone --micro 1 --batch 6 --dtype f32 --hidden-loss 'mse@last:last' --lora q_proj --lora-rank 2
together "hidden losses, adapters" 2 --micro 1 --batch 6 --dtype f32 --hidden-loss 'mse@last:last' --lora q_proj --lora-rank 2

# a run goes on with another number of processes
alone --micro 1 --batch 8 --dtype f32
rm -rf "$t/k"
many 4 $kd --micro 1 --batch 8 --dtype f32 --stop-after 2 -o "$t/k" >"$t/out.txt" 2>"$t/err"
works "4, then 2 processes" many 2 $kd --micro 1 --batch 8 --dtype f32 -o "$t/k"
everything "$t/k" >"$t/all"
alike "4, then 2 processes: the same bits" "$t/one" "$t/all"

# it is another sum than the usual one, to rounding the same
kd-train --teacher "$t/m" --student "$t/s" --data "$t/c.tok" --valid "$t/v.tok" --valid-every 2 --steps 4 --lr 3e-3 --save-dtype f32 --threads 1 --micro 1 \
	--batch 8 --dtype f32 -q -o "$t/u" || exit 1
near "the usual order" "$t/k1" "$t/u"

# memory is planned for
gradients() { $kd --micro 1 --batch "$1" --dry-run=json | sed -n 's/.*"gradients":\([0-9]*\).*/\1/p'; }
same "a copy of the gradients for each doubling" $(($(gradients 16) * 2)) $(($(gradients 2) * 5))
refuses() { # TEXT COMMAND...
	text=$1
	shift
	"$@" -o "$t/bad" >"$t/out.txt" 2>"$t/err"
	same "refused: $text" "$? $(grep -o "$text" "$t/err" | head -n 1) $([ -e "$t/bad" ] && echo left)" "2 $text "
}
refuses "adds up in pairs: 1, 2, 4, 8 ... processes, not 3" many 3 $kd --micro 1 --batch 12
refuses "deterministic needs --micro" $kd --batch 12
refuses "deterministic and --zero 2 exclude" $kd --micro 1 --batch 12 --zero 2
refuses "deterministic and --tp exclude" $kd --micro 1 --batch 12 --tp 2
