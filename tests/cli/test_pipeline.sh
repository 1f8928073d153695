#!/bin/sh
# test_pipeline.sh - the chain as its users see it, on a tiny random model: a pipe without files, minitron.mk with two
# targets (nothing twice, only what an edit touches, kill -9 and go on), start-up time, --help of every program.
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
top=$PWD

# ---- a model, a text ----
sh tests/cli/tiny-tokenizer.sh "$t/tok" || exit 1
mkmodel -q --layers 4 --hidden 32 --heads 4 --kv-heads 2 --head-dim 8 --ffn 96 --vocab 265 --eos 264 --tied \
	--tokenizer "$t/tok" -o "$t/teacher" || exit 1
cp LICENSE "$t/text"
head -c 2000 README.md >"$t/held"
cd "$t" || exit 1

# ---- stages chain in a pipe ----
mkdir empty aside
calib="calib-sample -q -t teacher --documents paragraph --samples 8 --seq 64 text"
$calib -o c.tok && act-stats -q -m teacher c.tok -o c.stats && rank -q c.stats -o c.rank || exit 1
before=$(ls -A)
TMPDIR=$t/empty sh -c "$calib | act-stats -q -m teacher | rank -q" >aside/rank
same "a pipe leaves no files" "$(ls -A)$(ls -A empty)" "$before"
if artdiff c.rank aside/rank >diff.txt; then ok "a pipe gives the ranking that files give"
else no "a pipe gives the ranking that files give" "$(head -n 1 diff.txt)"; fi

# ---- two targets by make ----
cat >mini <<'END'
work=$1; shift        # [VARIABLE=VALUE...] [MAKEOPTIONS...]
exec make -f "$top/pipelines/minitron.mk" WORK="$work" BIN="$top/$B/bin" TEACHER=teacher TEXT=text TARGETS="a b" SAMPLES=8 SEQ=64 \
	CALIBOPTS="--documents paragraph" SHAPE_a="--layers 3 --hidden 32 --ffn 64 --heads 4" \
	SHAPE_b="--layers 2 --hidden 24 --ffn 48 --heads 2" STEPS=12 BATCH=4 MICRO=2 LR=1e-3 KDOPTS="--warmup 2 --save-every 3 --dtype f32" \
	EVAL="--text held" EVAL_INPUTS=held RUNOPTS="--progress none" "$@"
END
export top B
mini() { sh mini "$@"; }
listing() { find "$1" -type f ! -name '*.log' ! -name .lock -printf "%P %T@\n" | sort; }
# files whose time differs between two listings, without the report
touched() { sort "$1" "$2" | uniq -u | sed 's/ .*//' | grep -v '^report' | sort -u; }

if mini w >make.log 2>&1; then ok "minitron.mk makes two students"
else no "minitron.mk makes two students" "$(tail -n 3 make.log | tr '\n' ' ')"; exit 1; fi
same "the report has five models" "$(grep -c '^teacher  \|^[ab], ' w/report.txt)" 5
listing w >t0
mini w >again.log 2>&1
listing w >t1
same "a second make rebuilds nothing" "$(touched t0 t1)" ""
same "make -n has nothing to say" "$(mini w -n 2>&1 | grep -vc 'Nothing to be done')" 0

planned=$(mini w -n RANKOPTS="--agg batch=mean" | grep -c -e '-o w/a/stats' -e '^calib-sample')
same "another aggregation plans no new statistics of the teacher" "$planned" 0
mini w LR_b=2e-3 >lr.log 2>&1
listing w >t2
same "a learning rate re-runs one training and its score" "$(touched t1 t2 | sed 's,/ckpt/.*,/ckpt,; s,/student/.*,/student,' | sort -u | tr '\n' ' ')" \
	"b/kd.cmd b/kd.new b/kd/ckpt b/kd/metrics.jsonl b/kd/run.json b/kd/student b/results.json "
cp w/b/trimmed/config.json kept.json
touch text
mini w -q LR_b=2e-3 >/dev/null 2>&1
same "a newer text makes all of it stale" $? 1

# ---- kill -9 anywhere, then go on ----
mkdir k && cp -r teacher text held mini k
cd k || exit 1
for at in "rename 1 a/stats" "write 5 metrics.jsonl" "write 3 model.safetensors"; do
	# shellcheck disable=SC2086
	upon $at -KILL sh mini w >kill.log
	same "all are killed after $at" $? 137
	for f in w/*.tok w/*/stats w/*/rank; do
		[ ! -e "$f" ] || artcheck "$f" >/dev/null 2>&1 || no "kill -9 leaves no partial file" "$f"
	done
done
cd ..
(cd k && sh mini w) >resume.log 2>&1
mini w >/dev/null 2>&1
equal=0
for f in train.tok calib.tok a/stats a/rank a/trimmed/model.safetensors a/kd/student/model.safetensors b/rank \
	b/kd/student/model.safetensors b/results.json; do
	if cmp -s "w/$f" "k/w/$f"; then equal=$((equal + 1)); else echo "differs: $f"; fi
done
same "three kills, then the same bytes as without" "$equal" 9

# ---- programs start at once and explain themselves ----
# Processor time, the least of several tries: the machine may be busy.  It may also be slow, so any program's time is the unit there
limit=20
case $B in *san*) limit=400 ;; esac
least() { # COMMAND...: milliseconds
	bash -c 'TIMEFORMAT="%U %S"; for i in 1 2 3 4 5; do time "$@" >/dev/null; done' - "$@" 2>&1 |
		awk '{ ms = 1000 * ($1 + $2); if (NR == 1 || ms < least) least = ms } END { printf "%d", least }'
}
slow='' silent=''
for p in "$top"/stages/*.c "$top"/tools/*.c; do
	p=$top/$B/bin/$(basename "$p" .c)
	"$p" --help >help.txt 2>&1
	[ "$(sed -n '/^examples:/,/^$/p' help.txt | grep -c '^  ')" -ge 2 ] || silent="$silent ${p##*/}"
	ms=$(least "$p" --version)
	[ "$ms" -lt $limit ] || [ "$ms" -lt $((limit * (1 + $(least env true)))) ] || slow="$slow ${p##*/}:${ms}ms"
done
same "every program starts within $limit ms" "$slow" ""
same "every --help has two examples" "$silent" ""
