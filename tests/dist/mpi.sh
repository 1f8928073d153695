# mpi.sh - several processes in a test script; source it after lib.sh.  Ends the script where mpirun cannot start any.
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2154,SC2034
. tests/dist/openmpi.sh
if ! mpirun -q -n 2 true >"$t/err" 2>&1; then
	ok "mpi # skipped, mpirun cannot start two processes on this machine: $(grep . "$t/err" | head -n 1)"
	exit 0
fi
# many N COMMAND...
many() { np=$1; shift; mpirun -q -n "$np" "$@"; }
# lost N RANK CALL NUMBER NAME SIGNAL COMMAND...: N processes, of which RANK gets SIGNAL when it has made that call (see upon).
# Exit code in $rc, words in $t/err; a process that is still stopped is ended
lost() {
	np=$1 moment="$3 $4 $5 $6"
	export FAULT_RANK="$2"
	shift 6
	rm -f "$t"/pid?
	# shellcheck disable=SC2086
	upon $moment mpirun -n "$np" sh -c 'echo $$ >"$0/pid$OMPI_COMM_WORLD_RANK"; exec "$@"' "$t" "$@" >"$t/out.txt"
	rc=$?
	pid=$(cat "$t/pid$FAULT_RANK")
	if grep -q "$t" "/proc/$pid/cmdline" 2>/dev/null; then kill -KILL "$pid"; fi
	unset FAULT_RANK
}
# curve RUN: every loss, norm and held-out loss
curve() { grep -o '"\(loss\|grad_norm\|valid/[a-z/]*\)":[^,}]*' "$1/metrics.jsonl"; }
# near NAME RUN RUN: the same curves to 1e-5 ($tolerance)
near() {
	curve "$2" >"$t/c1" && curve "$3" >"$t/c2"
	why=$(paste -d: "$t/c1" "$t/c2" | awk -F: '{ d = $2 - $4; m = $2 < 0 ? -$2 : $2; if ($1 != $3 || (d < 0 ? -d : d) > '"${tolerance:-1e-5}"' * (m + 1e-3)) { print; exit } } END { if (NR < 8) print NR " values" }')
	same "$1" "$why" ""
}
# students NAME RUN RUN: the same weights to 1e-5 ($tolerance)
students() {
	same "$1" "$(python3 - "$2/student/model.safetensors" "$3/student/model.safetensors" "${tolerance:-1e-5}" <<'PY'
import array, json, struct, sys
def load(path):
    with open(path, 'rb') as f:
        head = json.loads(f.read(struct.unpack('<Q', f.read(8))[0]))
        body = f.read()
    return {k: array.array('f', body[v['data_offsets'][0]:v['data_offsets'][1]]) for k, v in head.items() if k != '__metadata__'}
a, b = load(sys.argv[1]), load(sys.argv[2])
assert a.keys() == b.keys() and all(len(a[k]) == len(b[k]) for k in a)
worst = max((abs(x - y), k) for k in a for x, y in zip(a[k], b[k]))
print('' if 0 <= worst[0] < float(sys.argv[3]) else worst)
PY
)" ""
}
# equal NAME ALONE RUN: both
equal() {
	near "$1: the same losses and norms" "$2" "$3"
	students "$1: the same student" "$2" "$3"
}
