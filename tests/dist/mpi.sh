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
# near NAME RUN RUN: the same curves to 1e-5
near() {
	curve "$2" >"$t/c1" && curve "$3" >"$t/c2"
	why=$(paste -d: "$t/c1" "$t/c2" | awk -F: '{ d = $2 - $4; m = $2 < 0 ? -$2 : $2; if ($1 != $3 || (d < 0 ? -d : d) > 1e-5 * (m + 1e-3)) { print; exit } } END { if (NR < 8) print NR " values" }')
	same "$1" "$why" ""
}
