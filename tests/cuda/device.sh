#!/bin/sh
# device.sh test | bench | pack DIR - everything that needs a GPU, by one command (make test DEVICE=cuda, make bench DEVICE=cuda), and what came
# of it in tests/results/cuda-test-DATE.md or cuda-bench-DATE.md.  Without a GPU: one line, exit 69.
#
#   test    the op list, captured steps and whole programs with the CUDA kernels on the GPU, compute-sanitizer over the op list, the demo
#   bench   a distillation step of a Llama-shaped pair, 1.6e9 -> 1.0e9 parameters, sequences of 4096, statistics of the teacher, and each op;
#           with PYTHON=python (that has torch and transformers) the same step in PyTorch, eager and compiled
#   pack    what these need, built here, into DIR with the libraries that a GPU's machine may lack; there, from this tree's root:
#           B=DIR PYTHON=python3 sh tests/cuda/device.sh bench
#
# PART="a b": only these parts (test: ops graph programs several sanitizer demo; bench: step peers stats kernels), each at most LIMIT seconds; results of
# one day add up in one file.  PEAK: FLOP/s of the GPU, bf16, dense (989e12: H100).  SIZE=tiny tries the script itself.
# SPDX-License-Identifier: Apache-2.0
set -u
mode=$1
shift
: "${B:=build}" "${PEAK:=989e12}" "${PYTHON:=}" "${SIZE:=full}" "${PART:=}" "${LIMIT:=240}"
if [ "$mode" = pack ]; then
	set -e
	mkdir -p "$1/so" "$1/lib/adze" "$1/bin"
	for p in "$B"/bin/* "$B/lib/adze/adze-cuda.so" "$B/tests/kernels/test_ops" "$B/tests/kernels/test_parts" "$B/tests/cuda/test_graph" "$B/tests/train/test_batches"; do
		mkdir -p "$1/$(dirname "${p#"$B"/}")"
		cp "$p" "$1/${p#"$B"/}"
		strip "$1/${p#"$B"/}"
		ldd "$p" | sed -n 's|.* => \(/[^ ]*\) .*|\1|p'
	done | sort -u | grep -v -e '/libc\.' -e '/libm\.' -e '/librt\.' -e '/libdl\.' -e '/libpthread\.' -e cublas -e '/libstdc' -e '/libgcc' |
		while read -r so; do cp -L "$so" "$1/so/"; done
	du -sh "$1"
	exit
fi
export PATH="$PWD/$B/bin:$PATH"
export LD_LIBRARY_PATH="$PWD/$B/so:${LD_LIBRARY_PATH:-}:${CUDA_HOME:-/usr/local/cuda}/lib64"
wants() { [ -z "$PART" ] || case " $PART " in *" $1 "*) ;; *) return 1 ;; esac; }
lib=${ADZE_CUDA_LIB:-$PWD/$B/lib/adze}
t=$(mktemp -d) && trap 'rm -rf "$t"' EXIT

# ---- is there a GPU? ----
mkmodel -q -o "$t/tiny" || exit 1
if ! ADZE_LIB=$lib logits -m "$t/tiny" --ids 1,2 --device cuda >"$t/out" 2>"$t/err"; then
	echo "make $mode DEVICE=cuda: $(tail -n 1 "$t/err")" >&2
	exit 69
fi
gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -n 1)
day=$(date -u +%F)
results=${RESULTS:-tests/results}/cuda-$mode-$day.md
failed=0
[ -s "$results" ] || printf '# CUDA, %s, %s\n' "$mode" "$day" >"$results"
printf '\nGPU: %s.  Commit %s.  Command: `make %s DEVICE=cuda%s`.\n\n' "${gpu:-unknown}" "$(git rev-parse --short HEAD 2>/dev/null)" "$mode" \
	"${PART:+ PART=\"$PART\"}" >>"$results"
say() { echo "$*" | tee -a "$results"; }
clock() { date +%s.%N; }
# part KIND NAME COMMAND...: its last line beside the name; counts what fails
part() {
	kind=$1 name=$2
	shift 2
	wants "$kind" || return 0
	begun=$(clock)
	if timeout "$LIMIT" "$@" >"$t/log" 2>&1; then verdict=passed; else verdict="FAILED ($?)" failed=$((failed + 1)); tail -n 40 "$t/log"; fi
	say "| $name | $verdict | $(awk "BEGIN { printf \"%.0f s\", $(clock) - $begun }") | $(grep . "$t/log" | tail -n 1 | cut -c1-120) |"
}

if [ "$mode" = test ]; then
	export ADZE_CUDA_LIB="$lib"
	say "| part | | time | last line |"
	say "|---|---|---:|---|"
	part ops "op list against the reference" "$B/tests/kernels/test_ops" cuda_kernels
	part ops "head in parts, by turns on one GPU" "$B/tests/kernels/test_parts" on_cuda
	part graph "captured steps, states from the host" "$B/tests/cuda/test_graph"
	part programs "whole programs" sh tests/run.sh tests/cli/test_device.sh
	if [ "$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')" -ge 2 ] && command -v mpirun >/dev/null 2>&1; then
		part several "models spread over GPUs (--tp)" sh tests/run.sh tests/dist/test_tp_cuda.sh
	fi
	for tool in memcheck racecheck synccheck; do
		if command -v compute-sanitizer >/dev/null 2>&1; then
			part sanitizer "compute-sanitizer $tool, op list" env ADZE_TEST_MOST=17 compute-sanitizer --tool $tool --error-exitcode 1 \
				"$B/tests/kernels/test_ops" cuda_kernels
		else
			part sanitizer "compute-sanitizer $tool, op list" sh -c 'echo "compute-sanitizer is not in PATH"; exit 1'
		fi
	done
	if [ "$SIZE" = full ]; then
		part demo "pipeline demo" env ADZE_LIB="$lib" make -s -f pipelines/demo.mk WORK="$t/demo" BIN="$PWD/$B/bin" STATSOPTS='--dtype bf16 --device cuda' \
			KDOPTS='--dtype bf16 --device cuda'
	fi
	say ""
	say "$failed parts failed"
	[ $failed -eq 0 ]
	exit
fi

# ---- benchmark ----
if [ "$SIZE" = full ]; then
	seq=4096 vocab=32000 batch=16 micro=2 steps=6 shapes=large
	teacher="--layers 24 --hidden 2048 --ffn 8192 --heads 16 --kv-heads 8" student="--layers 24 --hidden 1536 --ffn 7168 --heads 12 --kv-heads 4"
else
	seq=64 vocab=256 batch=2 micro=1 steps=3 shapes=small
	teacher="--layers 2 --hidden 64 --ffn 128 --heads 2 --kv-heads 1" student="--layers 1 --hidden 32 --ffn 64 --heads 1 --kv-heads 1"
fi
make_pair() {
	mkmodel -q --fast --store bf16 --vocab $vocab --positions $seq $teacher -o "$t/teacher" &&
		mkmodel -q --fast --store bf16 --vocab $vocab --positions $seq --seed 2 $student -o "$t/student" &&
		"$B/tests/train/test_batches" --make "$t/few" $batch $seq $vocab && "$B/tests/train/test_batches" --make "$t/tok" $((4 * batch)) $seq $vocab
}
make_pair || exit 1
# watched COMMAND...: $most = the largest memory that nvidia-smi saw while it ran, in MiB
watched() {
	(while :; do nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits 2>/dev/null | head -n 1; sleep 0.2; done) >"$t/used" &
	watcher=$!
	timeout "$LIMIT" "$@" >"$t/log" 2>&1
	rc=$?
	kill $watcher 2>/dev/null
	wait $watcher 2>/dev/null
	most=$(sort -n "$t/used" | tail -n 1)
	return $rc
}
# The largest number of that name in the last three JSON lines that have it
value() { sed -n "s/.*\"$1\":\([-+0-9.eE]*\).*/\1/p" | tail -n 3 | sort -g | tail -n 1; }
say "Teacher: $teacher.  Student: $student.  Vocabulary $vocab, sequence $seq, $batch sequences a step, $micro at a time, bf16."
say "FLOPs counted: 2 P_teacher + 6 P_student a token (attention's own products are not).  Peak $PEAK FLOP/s."
say ""
say "| program | tokens/s | share of peak | peak memory, MiB |"
say "|---|---:|---:|---:|"

# tensors PATH: parameters, from the lengths in the files' headers
tensors() { python3 - "$1" <<'PY'
import glob, json, struct, sys
n = 0
for f in glob.glob(sys.argv[1] + '/*.safetensors'):
    with open(f, 'rb') as h:
        head = json.loads(h.read(struct.unpack('<Q', h.read(8))[0]))
    for k, v in head.items():
        if k != '__metadata__':
            m = 1
            for d in v['shape']:
                m *= d
            n += m
print(n)
PY
}
pt=$(tensors "$t/teacher") ps=$(tensors "$t/student")
row() { say "| $1 | $(awk "BEGIN { printf \"%.0f | %.1f %%\", $2, 100 * $2 * $3 / $PEAK }") | $4 |"; }
step_flops=$(awk "BEGIN { print 2 * $pt + 6 * $ps }")
# ours NAME OPTION...
ours() {
	name=$1
	shift
	if watched env ADZE_LIB="$lib" kd-train --device cuda --teacher "$t/teacher" --student "$t/student" --data "$t/tok" --batch $batch --micro $micro \
		--steps $steps --dtype bf16 --peak-flops "$PEAK" -q -f -o "$t/run" "$@"; then
		row "adze, distillation$name" "$(value tok_per_s <"$t/run/metrics.jsonl")" "$step_flops" "$most"
	else
		say "| adze, distillation$name | FAILED: $(tail -n 1 "$t/log") | | |"
		failed=1
	fi
}
if wants step; then
	ours "" --recompute=none
	ours ", --graph" --recompute=none --graph
	ours ", --graph, selective recomputation" --graph
	ours ", --optimizer-place host" --recompute=none --optimizer-place host
fi
if ! wants peers; then
	:
elif [ -n "$PYTHON" ]; then
	for how in eager compile; do
		if watched "$PYTHON" tests/oracle/bench_torch.py "$t/teacher" "$t/student" $seq $micro $batch $how; then
			row "PyTorch $how, distillation" "$(value tok_per_s <"$t/log")" "$step_flops" "$most"
		else
			say "| PyTorch $how, distillation | FAILED: $(tail -n 1 "$t/log" | cut -c1-100) | | |"
		fi
	done
else
	say "| PyTorch | not run: PYTHON= names no python | | |"
fi
# forward only: what the second half of the tokens costs
took() {
	a=$(clock)
	watched env ADZE_LIB="$lib" act-stats --device cuda -m "$t/teacher" --dtype bf16 --micro $micro -q -f -o "$t/stats" "$1" || return 1
	spent=$(awk "BEGIN { print $(clock) - $a }")
}
if ! wants stats; then
	:
elif took "$t/few" && short=$spent && took "$t/tok"; then
	row "adze, act-stats" "$(awk "BEGIN { d = $spent - $short; print (d > 0) ? 3 * $batch * $seq / d : 0 }")" "$(awk "BEGIN { print 2 * $pt }")" "$most"
else
	say "| adze, act-stats | FAILED: $(tail -n 1 "$t/log") | | |"
	failed=1
fi
if wants kernels; then
	say ""
	say '```'
	ADZE_LIB="$lib" timeout "$LIMIT" bench-kernels -b cuda --shapes "$shapes" --rows $((micro * seq)) >"$t/log" 2>&1 || { failed=1; echo FAILED >>"$t/log"; }
	tee -a "$results" <"$t/log"
	say '```'
fi
[ $failed -eq 0 ]
