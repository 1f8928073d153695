#!/bin/bash
# slurm.sh - a pipeline, or one program, as a Slurm job that stops in time and queues itself again until it is done
#
#	sbatch -N 4 --ntasks-per-node 8 --time 4:00:00 pipelines/slurm.sh \
#	       make -f pipelines/minitron.mk TEACHER=nemotron-4-15b DATA=train.tok TARGETS="8b 4b" ... LAUNCH='srun --mpi=pmix'
#	sbatch -n 8 pipelines/slurm.sh srun --mpi=pmix kd-train --teacher t --student s --data train.tok -o run
#
# Five minutes before the limit Slurm signals this script (B:USR1), which passes it on to what computes: kd-train leaves a
# checkpoint and ends with 75.  The job is then queued again, and what make or kd-train find done is not done again.  A command
# that fails by itself ends the job with its exit code.  Options of sbatch on the command line win over those here.
# SPDX-License-Identifier: Apache-2.0
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
[ $# -gt 0 ] || { echo "usage: sbatch [OPTIONS] slurm.sh COMMAND..." >&2; exit 2; }
: "${SLURM_JOB_ID:?start it with sbatch}"
stopping=0
# to the steps that srun started, and to what runs without srun in this very session
pass_on() {
	stopping=1
	scancel --signal=USR1 "$SLURM_JOB_ID" 2>/dev/null
	pkill -USR1 --session "$(ps -o sid= -p $$ | tr -d ' ')" -x 'kd-train|ablate|evalharness'
}
trap pass_on USR1
"$@" &
child=$!
# a signal interrupts wait, not the command
while :; do
	wait "$child"
	rc=$?
	kill -0 "$child" 2>/dev/null || break
done
if [ "$rc" -eq 75 ] || { [ "$stopping" -eq 1 ] && [ "$rc" -ne 0 ]; }; then
	echo "slurm.sh: stopped with exit code $rc, queued again (restart $((${SLURM_RESTART_COUNT:-0} + 1)))"
	exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$rc"
