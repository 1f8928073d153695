#!/bin/sh
# test_search.sh - the light-retraining loop on tiny random models: six candidates until their order settles, kill -9 on
# the way, nothing done twice; and pick on runs written by hand.
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
top=$PWD

# ---- pick ----
# run NAME VALUE...: held-out losses at steps 0, 5, 10 ...
run() {
	dir=$t/$1 step=0
	shift
	mkdir -p "$dir/kd"
	: >"$dir/kd/metrics.jsonl"
	for v; do
		echo "{\"step\":$step,\"tokens\":$((step * 100)),\"loss\":9,\"valid/loss\":$v}" >>"$dir/kd/metrics.jsonl"
		echo "{\"step\":$((step + 1)),\"tokens\":$((step * 100 + 100)),\"loss\":9}" >>"$dir/kd/metrics.jsonl"
		step=$((step + 5))
	done
}
run a 3 4 3 2 2 2 2
run b 5 3 4 3 3 3 1
run c 4 5 5 4 4 null
cd "$t" || exit 1
orders() { sed -n 's/.*"order":\[\([^]]*\)\].*/\1/p' "$1" | tr -d '"' | tr '\n' ' '; }
pick -q a b c --patience 9 -o t.jsonl; same "not settled: 75" $? 75
same "orders at common steps; not finite is last" "$(orders t.jsonl)" "a,c,b b,a,c a,b,c a,b,c a,b,c a,b,c "
same "swaps" "$(sed -n 's/.*"swaps":\([0-9]*\).*/\1/p' t.jsonl | tr '\n' ' ')" "0 2 1 0 0 0 "
same "unchanged" "$(sed -n 's/.*"unchanged":\([0-9]*\).*/\1/p' t.jsonl | tr '\n' ' ')" "0 0 0 1 2 3 "
same "the verdict is the last line" "$(tail -n 1 t.jsonl)" \
	'{"winner":"a","step":25,"settled":false,"patience":9,"tokens":7500.0,"evaluations":6}'
pick -q a b c --patience 3 --until 20 >t.txt; same "no patience before its time" $? 75
pick -q a b c --patience 3 >t.txt; same "settled: 0" $? 0
same "the table tells" "$(tail -n 1 t.txt)" "winner a: the order settled at step 25, the same for 3 evaluations in a row"
run d 1 2 3
run e 2 3 4
pick -q d e --patience 2 --format jsonl >t.jsonl; same "step 0 does not count" "$? $(grep -c '"settled":true' t.jsonl)" "75 0"
for s in 5 10; do
	echo "{\"results\":{\"quiz\":{\"acc,none\":0.$s}}}" >"d/score-$s.json"
	echo '{"results":{"quiz":{"acc,none":0.3}}}' >"e/score-$s.json"
done
same "scores: the larger is ahead" "$(pick -q d e --score quiz --format jsonl | sed -n 's/.*"order":\[\([^]]*\)\].*/\1/p' | tr '\n' ' ')" '"d","e" "e","d" '
pick -q d e --score riddle >/dev/null 2>err; same "unknown task: 65" "$? $(grep -c riddle err)" "65 1"
pick -q d >/dev/null 2>&1; same "one run is no race: 2" $? 2
printf 'x\n{}\n' >>e/kd/metrics.jsonl
pick -q d e >/dev/null 2>err; same "damaged metrics: 65" "$? $(grep -c 'line 7' err)" "65 1"

# ---- the loop ----
sh "$top/tests/cli/tiny-tokenizer.sh" tok || exit 1
mkmodel -q --layers 4 --hidden 32 --heads 4 --kv-heads 2 --head-dim 8 --ffn 96 --vocab 265 --eos 264 --tied --tokenizer tok \
	-o teacher || exit 1
head -c 4000 "$top/README.md" >held
calib-sample -q -t teacher --documents paragraph --samples 40 --seq 32 "$top/LICENSE" -o train.tok || exit 1
calib-sample -q -t teacher --samples 8 --seq 32 held -o valid.tok || exit 1
cat >search <<'END'
work=$1; shift        # [VARIABLE=VALUE...] [MAKEOPTIONS...]
exec make -f "$top/pipelines/search.mk" BIN= WORK="$work" TEACHER=teacher DATA=train.tok VALID=valid.tok \
	CAND="--layers 2:4 --hidden 16:32:8 --ffn 48,96 --heads 2,4 --params 10000:40000" TOP=6 SLICE=2 PATIENCE=2 ROUNDS=6 \
	BATCH=4 LR=3e-3 KDOPTS="--dtype f32" RUNOPTS="--progress none --threads 1" "$@"
END
export top
search() { sh search "$@"; }
listing() { find "$1" -type f ! -name '*.log' ! -name .lock -printf "%P %T@\n" | sort; }
if search w >make.log 2>&1; then ok "search.mk ends"
else no "search.mk ends" "$(tail -n 3 make.log | tr '\n' ' ')"; exit 1; fi
same "six candidates in every order" "$(sed -n 's/.*"order":\[\([^]]*\)\].*/\1/p' w/trajectory.jsonl | awk -F, 'NF == 6' | wc -l)" \
	"$(($(wc -l <w/trajectory.jsonl) - 1))"
same "by its stop rule" "$(tail -n 1 w/trajectory.jsonl | grep -c '"settled":true') $(grep -c '"settled":true,\?}*$' w/trajectory.jsonl)" "1 1"
rounds=$(($(wc -l <w/trajectory.jsonl) - 2))
same "and no slice after it" "$(find w/c*/slices -type f -size +0 | wc -l)" $((6 * rounds))
winner=$(sed -n 's/.*"winner":"\([^"]*\).*/\1/p' w/trajectory.jsonl)
same "the winner is a model of its shape" "$(grep '"hidden_size"' w/winner/config.json)" "$(grep '"hidden_size"' "w/$winner/trimmed/config.json")"
same "the report shows the history" "$(grep -c 'the order settled at step' w/report.html) $(grep -c 'held-out loss by tokens' w/report.html)" "1 1"
same "the rate is constant" "$(sed -n 's/.*"step":[4-9],.*"lr":\([^,]*\),.*/\1/p' "w/$winner/kd/metrics.jsonl" | sort -u)" 0.003
listing w >t0
search w >again.log 2>&1
same "a second make rebuilds nothing" "$(listing w | diff t0 - | head -n 1)" ""
same "make -n has nothing to say" "$(search w -n 2>&1 | grep -vc 'Nothing to be done')" 0

# ---- more patience goes on, finish finishes ----
same "more patience trains on" "$(search w PATIENCE=$((rounds + 1)) 2>&1 | grep -c 'slice 1:') $(find w/c*/slices -type f -size +0 | wc -l)" \
	"0 $((6 * (rounds + 2 < 6 ? rounds + 2 : 6)))"
search w PATIENCE=$((rounds + 1)) finish >finish.log 2>&1
same "finish" "$(tail -n 1 "w/$(readlink w/student | sed 's,/.*,,')/kd/metrics.jsonl" | grep -c '"step":15,')" 1

# ---- kill -9 anywhere, then go on ----
mkdir k && cp -r teacher train.tok valid.tok search k
cd k || exit 1
for at in "rename 1 w/rank" "write 2 metrics.jsonl" "rename 1 ckpt/step-4"; do
	# shellcheck disable=SC2086
	upon $at -KILL sh search w >kill.log
	same "all are killed after $at" $? 137
done
cd ..
(cd k && sh search w) >resume.log 2>&1
search v >/dev/null 2>&1
for f in trajectory.jsonl winner/model.safetensors; do
	if cmp -s "v/$f" "k/w/$f"; then ok "three kills, the same $f"; else no "three kills, the same $f" "$(tail -n 1 resume.log)"; fi
done
search v TOP= CAND= -n >/dev/null 2>err; same "what is missing is named" "$(grep -c 'CAND="OPTIONS" is missing' err)" 1
