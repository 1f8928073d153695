#!/bin/sh
# test_mpi.sh - several processes on one job give what one gives; one that is stopped or killed is named, and the others end.
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
. tests/dist/mpi.sh
# all refuse, and mpirun may end the others before they have said why
says() { grep -q "$1" "$t/err" && echo said; }

sh tests/cli/tiny-tokenizer.sh "$t/tok" || exit 1
mkmodel -q --layers 3 --hidden 32 --heads 4 --kv-heads 2 --head-dim 8 --ffn 48 --vocab 265 --eos 264 --tied --tokenizer "$t/tok" -o "$t/m" || exit 1
calib-sample -q -t "$t/m" --documents paragraph --samples 13 --seq 32 LICENSE -o "$t/c.tok" || exit 1

# ---- statistics ----
stats="act-stats -m $t/m $t/c.tok --micro 2 --dtype f32 --threads 1"
$stats -q -o "$t/one" || exit 1
for n in 1 2 4 8; do
	works "$n processes measure" many $n $stats -o "$t/s$n"
	if [ "$n" = 8 ]; then same "one of them speaks" "$(grep -c '13 samples' "$t/err")" 1; fi
	if artdiff -t 1e-9 "$t/one" "$t/s$n" >"$t/diff"; then ok "$n processes, the same sums"; else no "$n processes, the same sums" "$(head -n 1 "$t/diff")"; fi
done
works "block by block, 3 processes" many 3 $stats --memory 100k -o "$t/sb"
if artdiff -t 1e-6 "$t/one" "$t/sb" >"$t/diff"; then ok "block by block, the same sums"; else no "block by block, the same sums" "$(head -n 1 "$t/diff")"; fi
works "fewer samples than processes" many 4 $stats --samples 3 -o "$t/few"
$stats -q --samples 3 -o "$t/few1"
if artdiff -t 1e-9 "$t/few1" "$t/few" >"$t/diff"; then ok "the limit is that of all"; else no "the limit is that of all" "$(head -n 1 "$t/diff")"; fi
many 2 act-stats -m "$t/m" -o "$t/p" <"$t/c.tok" >"$t/out.txt" 2>"$t/err"
same "a pipe has one reader" "$? $(says 'need the token set as a file') $([ -e "$t/p" ] && echo left)" "2 said "

# ---- ablations: the very bytes of one process, also where each round depends on the one before ----
ablate="ablate -m $t/m $t/c.tok --micro 2 --dtype f32 --threads 1"
for how in "--metric kl" "--metric loss --mode greedy" "--metric angular --mode block:2" "--metric mse --memory 100k"; do
	$ablate -q $how -o "$t/a1" -f || exit 1
	for n in 2 4 8; do
		works "ablate $how, $n processes" many $n $ablate $how -o "$t/a$n" -f
		if artdiff "$t/a1" "$t/a$n" >"$t/diff"; then ok "ablate $how, $n processes, the same bytes"; else no "ablate $how, $n processes, the same bytes" "$(head -n 1 "$t/diff")"; fi
	done
done
same "no state is left" "$(ls "$t" | grep -c state)" 0

# ---- training ----
mkmodel -q --like "$t/m" --std 0.2 --seed 2 --store f32 -o "$t/s" || exit 1
calib-sample -q -t "$t/m" --documents paragraph --samples 5 --seq 32 README.md -o "$t/v.tok" || exit 1
kd="kd-train --teacher $t/m --student $t/s --data $t/c.tok --valid $t/v.tok --batch 12 --micro 1 --steps 9 --lr 3e-3 --dtype f32 --save-dtype f32 --threads 1 --save-every 3"
$kd -q -o "$t/k1" || exit 1
for n in 2 3 4; do
	works "$n processes train" many $n $kd -o "$t/k$n"
	near "$n processes, the same training" "$t/k1" "$t/k$n"
done
for f in model.safetensors config.json; do
	if [ -s "$t/k4/student/$f" ]; then ok "one of them writes $f"; else no "one of them writes $f" "missing"; fi
done
many 4 $kd --stop-after 3 -o "$t/k" >"$t/out.txt" 2>"$t/err"
first=$?
many 2 $kd --stop-after 3 -o "$t/k" >"$t/out.txt" 2>"$t/err"
second=$?
many 3 $kd -o "$t/k" >"$t/out.txt" 2>"$t/err"
same "4, then 2, then 3 processes" "$first $second $?" "75 75 0"
near "a checkpoint is of no number of processes" "$t/k1" "$t/k"
many 5 $kd -o "$t/x" >"$t/out.txt" 2>"$t/err"
same "micro-batches that cannot be shared alike" "$? $(says '^kd-train.*: 5 processes cannot share') $([ -e "$t/x" ] && echo left)" "2 said "

# ---- who is missing ----
# of three processes the second gets SIGNAL when it begins to read what it is to measure
victim() { lost 3 1 open 1 c.tok "$1" act-stats -m "$t/m" "$t/c.tok" --micro 1 -o "$t/v"; }
victim KILL
same "one is killed: it is named and the others end" "$([ $rc -ne 0 ] && grep -c 'rank 1 .*signal 9' "$t/err") $([ -e "$t/v" ] && echo left)" "1 "
stopped() { victim STOP; [ $rc -ne 0 ] && grep -q 'process 1 on .* did not come' "$t/err" && [ ! -e "$t/v" ]; }
if patiently stopped; then ok "one is stopped: it is named and the others end"; else no "one is stopped: it is named and the others end" "$(cat "$t/err")"; fi
unset ADZE_COMM_TIMEOUT

# ---- scores: the very bytes of one process ----
awk 'BEGIN { for (i = 0; i < 24; i++) printf "{\"query\":\"item %d says that\",\"choices\":[\"one is %d\",\"two\",\"three and so on\"],\"gold\":%d}\n", i, i, i % 3 }' >"$t/mc.jsonl"
awk 'BEGIN { for (i = 0; i < 7; i++) printf "{\"ctx\":\"say %d\",\"until\":[\"e\"],\"target\":\"x\"}\n", i }' >"$t/say.jsonl"
eval="evalharness -m $t/m --task q:mc=$t/mc.jsonl --text LICENSE --task say=$t/say.jsonl --max-new 9 --batch-tokens 256 --threads 1 --dtype f32"
$eval -q -o "$t/e1" --log-samples "$t/l1" >"$t/out.txt" || exit 1
for n in 2 4 8; do
	works "$n processes score" many $n $eval -o "$t/e$n" --log-samples "$t/l$n"
	sed "s/log-samples l$n/log-samples l1/" "$t/e$n" >"$t/e"
	alike "$n processes, the same results" "$t/e" "$t/e1"
	alike "$n processes, the same log" "$t/l$n" "$t/l1"
done
same "no journal is left" "$(ls "$t" | grep -c state)" 0

env -u OMPI_COMM_WORLD_SIZE RANK=0 WORLD_SIZE=4 MASTER_ADDR=127.0.0.1 MASTER_PORT=29511 act-stats -m "$t/m" "$t/c.tok" -o "$t/x" >"$t/out.txt" 2>"$t/err"
same "torchrun needs NCCL" "$? $(grep -c 'WORLD_SIZE=4' "$t/err")" "69 1"
