#!/bin/sh
# test_ablate.sh - ablate as a user meets it: pipes into rank and trim, kills and resumes, shards, tasks, refusals
#
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh

meta() { artcat "$1" | head -1 | grep -o "\"$2\":[0-9]*" | cut -d: -f2; }
kept() { grep -o '"layers":\[[0-9,]*\]' "$1/adze-kept.json"; }
order() { rank --show "${2:-layer}" --top 0 "$1" | awk 'NR > 1 { printf "%s%s", s, $2; s = "," }'; }
ab() { ablate -q --dtype f32 --device cpu -f "$@"; }

sh tests/cli/tiny-tokenizer.sh "$t/tok"
i=0
while [ $i -lt 80 ]; do
	echo "the cat sat on $i mats and the hat was $((i * i)) wide, what a world"
	i=$((i + 1))
done >"$t/text"
for f in llama nemotron; do
	mkmodel -q --family $f --layers 8 --hidden 32 --ffn 48 --heads 4 --kv-heads 2 --vocab 265 --tokenizer "$t/tok" --seed 3 \
		-o "$t/$f" || no "mkmodel $f" failed
done
calib-sample -q -t "$t/llama" --no-shuffle --samples 6 --seq 40 "$t/text" -o "$t/all" || no calib-sample failed

# every metric, unit and mode: valid, the reference kernels agree, rank and trim understand it
for f in llama nemotron; do
	for m in loss kl mse angular; do
		works "$f $m" ab -m "$t/$f" "$t/all" --metric $m -o "$t/$m"
		works "$f $m is valid" artcheck -q "$t/$m"
		ab -m "$t/$f" "$t/all" --metric $m --device ref -o "$t/ref"
		works "$f $m: cpu and ref agree" artdiff -q -t 2e-3 "$t/$m" "$t/ref"
		ab -m "$t/$f" "$t/all" --metric $m --memory 64Ki -o "$t/blocks"
		works "$f $m: weights read block by block give the same" artdiff -q "$t/$m" "$t/blocks"
	done
done
m=$t/llama
ab -m "$m" "$t/all" -o "$t/loss"
same "single costs at most 0.6 of whole passes" "$(meta "$t/loss" block_runs) $(meta "$t/loss" block_runs_plain)" "36 64"
ab -m "$m" "$t/all" --metric kl --unit ffn -o "$t/ffn" && rank -q -f "$t/ffn" -o "$t/r" && works "halves are ranked" rank --show sub_mlp "$t/r"
ab -m "$m" "$t/all" --metric kl --mode greedy --rounds 3 --protect 0,7 -o "$t/greedy"
works "greedy is ranked" rank -q -f "$t/greedy" -o "$t/g.rank"
works "greedy is trimmed" trim -q -f -m "$m" -r "$t/g.rank" --layers 5 -o "$t/s5"
want=$(order "$t/g.rank" | tr , '\n' | head -5 | sort -n | paste -sd, -)
same "trim keeps the first five of the order" "$(kept "$t/s5")" "\"layers\":[$want]"
same "protected layers come first" "$(order "$t/g.rank" | cut -d, -f1-2)" "0,7"
ab -m "$m" "$t/all" --metric kl --mode block:3 --protect-first 1 --protect-last 1 -o "$t/block" && rank -q -f "$t/block" -o "$t/b.rank"
best=$(artcat "$t/block" | awk -F'[:,}]' '/"delta"/ { for (i = 1; i < NF; i++) { if ($i == "\"layer\"") l = $(i + 1); if ($i == "\"delta\"") d = $(i + 1) }
	if (!n++ || d < least) { least = d; best = l } } END { print best }')
works "a block is trimmed" trim -q -f -m "$m" -r "$t/b.rank" --layers 5 -o "$t/b5"
want=$(i=0; while [ $i -lt 8 ]; do [ $i -ge "$best" ] && [ $i -lt $((best + 3)) ] || echo $i; i=$((i + 1)); done | paste -sd, -)
same "the best contiguous block is gone" "$(kept "$t/b5")" "\"layers\":[$want]"
works "and so is it by --drop" trim -q -f -m "$m" --drop "$best-$((best + 2))" -o "$t/d5"
alike "with the same weights" "$t/b5/model.safetensors" "$t/d5/model.safetensors"

# without a temporary file; width and depth in one ranking
works "a pipe" sh -c "ablate -q --dtype f32 --device cpu -m '$m' --metric kl <'$t/all' | rank -q | trim -q -f -m '$m' --layers 6 -o '$t/piped'"
ab -m "$m" "$t/all" --metric kl -o "$t/kl" && rank -q -f "$t/kl" -o "$t/kl.rank"
works "by files" trim -q -f -m "$m" -r "$t/kl.rank" --layers 6 -o "$t/filed"
alike "gives the same" "$t/piped/model.safetensors" "$t/filed/model.safetensors"
act-stats -q --dtype f32 --device cpu -m "$m" "$t/all" -o "$t/width"
works "width and depth are merged" rank -q -f "$t/width" "$t/kl" -o "$t/both"
same "depth comes from the ablations" "$(order "$t/both")" "$(order "$t/kl.rank")"
works "both axes are trimmed" trim -q -f -m "$m" -r "$t/both" --layers 6 --ffn 24 -o "$t/small"
rank -q -f "$t/width" "$t/kl" --layer-metric bi -o "$t/bi" && rank -q -f "$t/width" -o "$t/bi2"
same "or from block importance when asked" "$(order "$t/bi")" "$(order "$t/bi2")"
works "block importance of halves" rank --show sub_attn "$t/bi"
fails "a metric that is not there" 65 "no layer metric 'mse'" rank "$t/width" "$t/kl" --layer-metric mse -o "$t/bad"
fails "two metrics" 65 "choose with --layer-metric" rank "$t/loss" "$t/kl" -o "$t/bad"
works "two metrics, one chosen" rank -q -f "$t/loss" "$t/kl" --layer-metric loss -o "$t/r"
fails "the same twice" 65 "in another input as well" rank "$t/kl" "$t/kl" -o "$t/bad"
ab -m "$t/nemotron" "$t/all" -o "$t/other"
fails "another model's" 65 "are of model" rank "$t/width" "$t/other" -o "$t/bad"

# shards add
calib-sample -q -t "$m" --no-shuffle --samples 2 --seq 40 "$t/text" -o "$t/first" || no shards failed
ab -m "$m" "$t/all" --samples 2 -o "$t/a" && ab -m "$m" "$t/first" -o "$t/b"
works "--samples stops early" artdiff -q "$t/a" "$t/b"
works "shards are merged" act-stats -q -f --merge "$t/a" "$t/loss" -o "$t/merged"
same "their block runs add" "$(meta "$t/merged" block_runs)" 72
fails "modes do not add" 65 "cannot be added" act-stats --merge "$t/kl" "$t/greedy" -o "$t/bad"
fails "metrics do not add" 65 "no counterpart" act-stats --merge "$t/kl" "$t/loss" -o "$t/bad"

# a task: right answers lost, by the harness's own judgement of the trimmed model
i=0
while [ $i -lt 24 ]; do
	echo "{\"ctx\": \"the cat sat on $i\", \"choices\": [\"mats\", \"$((i * i)) hats\", \"a world\"], \"gold\": $((i % 3))}"
	i=$((i + 1))
done >"$t/items.jsonl"
works "task" ab -m "$m" --metric "task:$t/items.jsonl" -o "$t/task"
works "task is valid" artcheck -q "$t/task"
right() { evalharness -q --dtype f32 --device cpu -m "$1" --task "t=$t/items.jsonl" | tr -d ' \n' | grep -o '"acc,none":[0-9.]*' | cut -d: -f2; }
bad=0
for l in 0 3 7; do
	trim -q -f -m "$m" --drop $l -o "$t/cut"
	d=$(artcat "$t/task" | grep "\"layer\":$l," | sed 's/.*"delta":\([-0-9.e+]*\).*/\1/')
	awk -v a="$(right "$m")" -v b="$(right "$t/cut")" -v d="$d" 'BEGIN { x = 24 * (a - b) - d; exit !(x < 1e-6 && x > -1e-6) }' || bad=$((bad + 1))
done
same "task: as the harness scores the trimmed model" $bad 0

# killed at some unit and resumed: the same bytes
mkmodel -q --layers 10 --hidden 128 --ffn 384 --heads 4 --vocab 265 --seed 5 -o "$t/deep"
run="ablate -q --dtype f32 --device cpu -m $t/deep $t/all --metric kl --mode greedy --rounds 4 --micro 1"
$run -o "$t/whole"
# shellcheck disable=SC2086
for lines in 2 38 110; do
	upon write $lines k.state KILL $run -o "$t/k"
	same "killed after $lines more results" "$? $(ls "$t/k" 2>/dev/null)" "137 "
done
# shellcheck disable=SC2086
works "a killed run goes on" $run -o "$t/k"
alike "to the same bytes" "$t/whole" "$t/k"
same "and leaves no state" "$(ls "$t/k.state" 2>/dev/null)" ""
# shellcheck disable=SC2086
upon write 5 k2.state TERM $run -o "$t/k2"
same "SIGTERM leaves a resumable state" "$? $(ls "$t/k2" 2>/dev/null)" "75 "
ablate -q --dtype f32 --device cpu -m "$t/deep" "$t/all" --metric mse --micro 1 -o "$t/k2" 2>"$t/err"
same "the state of another run is not used" "$(grep -c 'of another run' "$t/err")" 0
ablate -q --dtype f32 --device cpu -m "$t/deep" "$t/all" --metric mse --micro 1 -f -o "$t/k3"
alike "nor does it change anything" "$t/k2" "$t/k3"

works "dry run" ablate -m "$m" "$t/all" --dry-run=json
same "dry run says the cost" "$(grep -o '"block_runs": [0-9]*' "$t/out.txt")" '"block_runs": 36'
works "spilled to a file" ab -m "$m" "$t/all" --metric kl --memory 0 -o "$t/spill"
works "the same sums" artdiff -q "$t/kl" "$t/spill"

fails "no model" 2 "--model is missing" ablate "$t/all" -o "$t/bad"
fails "metric" 2 "--metric nope" ablate -m "$m" "$t/all" --metric nope -o "$t/bad"
fails "metric without a file" 2 "--metric task" ablate -m "$m" --metric task: -o "$t/bad"
fails "mode" 2 "--mode block:x" ablate -m "$m" "$t/all" --mode block:x -o "$t/bad"
fails "block too long" 2 "nothing to leave out" ablate -m "$m" "$t/all" --mode block:9 -o "$t/bad"
fails "all protected" 2 "nothing to leave out" ablate -m "$m" "$t/all" --protect-first 8 -o "$t/bad"
fails "protected beyond the model" 2 "layers are 0 to 7" ablate -m "$m" "$t/all" --protect 8 -o "$t/bad"
fails "greedy angles" 2 "--metric angular" ablate -m "$m" "$t/all" --metric angular --mode greedy -o "$t/bad"
fails "tokens and a task" 2 "a task needs no tokens" ablate -m "$m" "$t/all" --metric "task:$t/items.jsonl" -o "$t/bad"
fails "not tokens" 65 "expected 'tokens'" ablate -m "$m" "$t/kl" -o "$t/bad"
head -c 200 "$t/all" >"$t/cut.tok"
fails "truncated tokens" 65 "cut.tok" ablate -m "$m" "$t/cut.tok" -o "$t/bad"
fails "no such items" 74 "none.jsonl" ablate -m "$m" --metric "task:$t/none.jsonl" -o "$t/bad"
echo '{"text": "no choices here"}' >"$t/text.jsonl"
fails "items without accuracy" 65 "have no accuracy" ablate -m "$m" --metric "task:$t/text.jsonl" -o "$t/bad"
fails "output exists" 1 "exists" ablate -m "$m" "$t/all" -o "$t/kl"
