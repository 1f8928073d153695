#!/bin/sh
# test_nccl.sh - several processes, each with a GPU of its own: the NCCL exchanges on a machine without either (tests/cuda/shim), started in
# torchrun's manner and by mpirun; and the real library where it was built and no GPU is: one line, exit 69.
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
. tests/dist/openmpi.sh
if ! python3 -c 'import socket; s = socket.create_server(("localhost", 0)); socket.create_connection(("localhost", s.getsockname()[1]), 9)' 2>"$t/err"; then
	ok "NCCL # skipped, processes cannot meet at localhost on this machine: $(tail -n 1 "$t/err")"
	exit 0
fi
export SHIM_GUARD=0 FAKE_NCCL_DIR="$t" ADZE_COMM_TIMEOUT=60
lib=$t/lib
mkdir "$lib" && for f in "$PWD/$B"/tests/cuda/adze-*.so "$PWD/$B"/lib/adze/adze-mpi.so "$PWD/$B"/lib/adze/adze-cpu.so; do [ -e "$f" ] && ln -s "$f" "$lib/"; done
# free: sets $port to the next one that nobody listens at, below those that the system gives to anybody
port=$((10000 + $$ * 37 % 20000)) # neighbours by process number are 37 apart
free() {
	port=$(python3 - $port <<'PY'
import socket, sys
for port in range(int(sys.argv[1]) + 1, 32000):
    try:
        with socket.socket() as s:
            s.bind(('', port))
        print(port)
        break
    except OSError:
        pass
PY
)
}

# like_torchrun N COMMAND...: its processes; what process r says on stderr is in $t/err.r.  Exit code: the largest
like_torchrun() {
	np=$1 r=0 pids='' worst=0
	shift
	free
	while [ $r -lt "$np" ]; do
		RANK=$r LOCAL_RANK=$r WORLD_SIZE=$np MASTER_ADDR=localhost MASTER_PORT=$port SHIM_GPUS=$np ADZE_LIB=$lib "$@" >"$t/out.$r" 2>"$t/err.$r" </dev/null &
		pids="$pids $!" r=$((r + 1))
	done
	for p in $pids; do
		wait "$p"
		rc=$?
		[ $rc -le $worst ] || worst=$rc
	done
	return $worst
}

"$B/tests/train/test_batches" --make "$t/tok" 8 12 64
mkmodel -q --layers 2 --hidden 24 --ffn 40 --heads 4 --kv-heads 2 --vocab 64 --tied -o "$t/teacher"
mkmodel -q --layers 1 --hidden 16 --ffn 24 --heads 2 --kv-heads 1 --vocab 64 --seed 3 --std 0.2 -o "$t/student"
stats="act-stats -m $t/teacher --dtype f32 --micro 2 -q $t/tok"
kd="kd-train --teacher $t/teacher --student $t/student --data $t/tok --steps 3 --batch 4 --micro 1 --lr 1e-2 --dtype f32 -q"

$stats --device ref -o "$t/one" && $kd --device ref -o "$t/k1" || exit 1
if like_torchrun 2 $stats --device cuda -o "$t/two" && artdiff -t 1e-4 "$t/one" "$t/two" >"$t/diff"; then ok "torchrun's variables, the same sums"
else no "torchrun's variables, the same sums" "$(cat "$t"/err.? "$t/diff" | head -n 3)"; fi
losses() { grep -o '"\(loss\|grad_norm\)":[^,}]*' "$1/metrics.jsonl"; }
# near NAME RUN [ALONE]: the losses and gradient norms of one process
near() {
	losses "${3:-$t/k1}" >"$t/c1" && losses "$2" >"$t/c2"
	why=$(paste -d: "$t/c1" "$t/c2" 2>/dev/null | awk -F: '{ d = $2 - $4; if ($1 != $3 || (d < 0 ? -d : d) > 2e-4 * ($2 + 1e-3)) { print; exit } } END { if (NR < 6) print NR " values" }')
	same "$1" "$why" ""
}
for n in 2 4; do
	like_torchrun $n $kd --device cuda -o "$t/k$n" || no "$n processes train" "$(cat "$t"/err.? | head -n 3)"
	near "$n processes train, gradients added on the GPUs" "$t/k$n"
done
for z in 1 2; do
	SHIM_GUARD=1 like_torchrun 2 $kd --device cuda --zero $z -o "$t/z$z" || no "--zero $z" "$(cat "$t"/err.? | head -n 3)"
	near "--zero $z, sums in parts and gathering of the GPUs' memory" "$t/z$z"
done
mkmodel -q --layers 1 --hidden 16 --ffn 24 --heads 2 --kv-heads 2 --vocab 64 --seed 3 --std 0.2 -o "$t/even"
$kd --student "$t/even" --device ref -o "$t/e1" || exit 1
like_torchrun 2 $kd --student "$t/even" --device cuda --tp 2 -o "$t/e2" || no "--tp 2" "$(cat "$t"/err.? | head -n 3)"
near "--tp 2, all exchanges by NCCL" "$t/e2" "$t/e1"
like_torchrun 2 $kd --device cuda --teacher-place sharded -o "$t/s2" || no "a teacher in parts" "$(cat "$t"/err.? | head -n 3)"
near "a teacher in parts over those that share a machine" "$t/s2"
if like_torchrun 3 "$PWD/$B/tests/dist/test_comm"; then ok "sums in parts and gathering, of the host's memory and the GPUs'"
else no "sums in parts and gathering, of the host's memory and the GPUs'" "$(cat "$t"/out.? "$t"/err.? | grep -v OK | head -n 3)"; fi
if [ -e "$lib/adze-mpi.so" ] && mpirun -q -n 2 true 2>"$t/err"; then
	works "mpirun, gradients by NCCL" env ADZE_LIB="$lib" SHIM_GPUS=2 mpirun -q -n 2 $kd --device cuda -o "$t/km"
	near "mpirun, the same training" "$t/km"
	rm "$lib/adze-nccl.so"
	works "mpirun, sums of host memory need no NCCL" env ADZE_LIB="$lib" SHIM_GPUS=2 mpirun -q -n 2 $stats --device cuda -o "$t/sm"
	ADZE_LIB=$lib SHIM_GPUS=2 mpirun -q -n 2 $kd --device cuda -o "$t/x" >"$t/out.txt" 2>"$t/err"
	same "mpirun, but gradients do" "$? $(grep -c 'by NCCL: no shared object' "$t/err" | sed 's/[12]/said/')" "69 said"
	ln -s "$PWD/$B/tests/cuda/adze-nccl.so" "$lib/"
fi

# ---- who does not come, what goes wrong ----
(
	export FAKE_NCCL_STOP=1:5
	hung() {
		like_torchrun 2 $stats --device cuda -o "$t/hung"
		[ "$(grep -c "exchange [0-9]* by NCCL .* did not finish within $ADZE_COMM_TIMEOUT s" "$t/err.0")" = 1 ] && grep -q '^  exchange .* done ' "$t/err.0" && [ ! -e "$t/hung" ]
	}
	if patiently hung; then ok "an exchange that does not end: the record, and the end"; else no "an exchange that does not end: the record, and the end" "$(cat "$t"/err.?)"; fi
)
(
	FAKE_NCCL_FAIL=4 like_torchrun 2 $stats --device cuda -o "$t/x"
	same "an error of the library" "$? $(grep -c 'invalid usage: fake: an error was asked for; the job ends' "$t/err.0")" "1 1"
)
free
alone() { env RANK="$1" LOCAL_RANK=0 WORLD_SIZE=3 MASTER_ADDR=localhost MASTER_PORT=$port ADZE_LIB="$lib" $stats --device cuda -o "$t/bad"; }
export ADZE_COMM_TIMEOUT=1
fails "nobody comes" 69 "these have not come: process 1, 2" alone 0
fails "no process 0" 69 "process 0 cannot be reached at localhost" alone 1
export ADZE_COMM_TIMEOUT=60
# strangers at the port: nothing, noise, another job's process, a rank that is none
free
python3 - $port <<'PY' >"$t/strangers" 2>&1 &
import socket, struct, sys, time
end = time.time() + 120     # where process 0 does not start there is nobody to talk to
def talk(said):
    while True:
        try:
            s = socket.create_connection(('localhost', int(sys.argv[1])), 60)
            break
        except OSError:
            if time.time() > end:
                sys.exit('nobody listens')
            time.sleep(0.05)
    s.sendall(said)
    return s
keep = [talk(b''), talk(b'GET / HTTP/1.1\r\nHost: x\r\n\r\n' * 2), talk(b'adzemeet' + struct.pack('<QIIII', 1, 2, 1, 128, 0)), talk(b'adzemeet' + b'\xff' * 24)]
for s in keep[1:]:
    s.settimeout(60)
    try:
        assert s.recv(1) == b'', 'was answered'
    except ConnectionResetError:
        pass
print('turned away')
PY
strangers=$!
of_two() { RANK=$1 LOCAL_RANK=$1 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=$port SHIM_GPUS=2 ADZE_LIB=$lib $stats --device cuda -o "$t/guests" >"$t/out.$1" 2>"$t/err.$1"; }
of_two 0 &
first=$!
wait $strangers
of_two 1
wait $first
same "strangers at the port are turned away" "$? $(cat "$t/strangers")" "0 turned away"
fails "garbage in the variables" 2 "RANK=3: expected a number from 0 to 1" env RANK=3 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=2 act-stats -m "$t/teacher" -q "$t/tok" -o "$t/bad"
fails "half of the variables" 2 "MASTER_PORT is not" env RANK=1 WORLD_SIZE=2 MASTER_ADDR=localhost act-stats -m "$t/teacher" -q "$t/tok" -o "$t/bad"
fails "on CPUs by mpirun" 69 "on CPUs start with mpirun" env RANK=1 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=2 act-stats -m "$t/teacher" --device cpu -q "$t/tok" -o "$t/bad"

# ---- the real library ----
if [ ! -e "$B/lib/adze/adze-nccl.so" ]; then
	ok "NCCL without a GPU # skipped: not built (make cuda)"
elif [ -e /dev/nvidiactl ]; then
	ok "NCCL without a GPU # skipped: here is one"
else
	fails "NCCL without a GPU" 69 "NCCL: process 0 has no usable GPU" env RANK=0 LOCAL_RANK=0 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=$port \
		act-stats -m "$t/teacher" --device cuda -q "$t/tok" -o "$t/bad"
fi
