#!/bin/sh
# slurm-local.sh - pipelines/slurm.sh under a real Slurm on this machine: submit, signal, requeue, finish.  Not part of `make test`:
# run it by hand as root after `apt-get install slurm-wlm`; it starts its own slurmctld and slurmd and takes half a minute.
#
#	make all && sudo sh tests/dist/slurm-local.sh
# SPDX-License-Identifier: Apache-2.0
. tests/lib.sh
B=${B:-build}
PATH=$PWD/$B/bin:$PATH
host=$(hostname -s)
mkdir "$t/state" "$t/spool"
cat >"$t/slurm.conf" <<END
ClusterName=local
SlurmctldHost=$host
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
StateSaveLocation=$t/state
SlurmdSpoolDir=$t/spool
SlurmctldLogFile=$t/slurmctld.log
SlurmdLogFile=$t/slurmd.log
SlurmctldPidFile=$t/slurmctld.pid
SlurmdPidFile=$t/slurmd.pid
SlurmctldPort=16817
SlurmdPort=16818
SlurmdParameters=config_overrides
NodeName=$host CPUs=8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
END
export SLURM_CONF="$t/slurm.conf"
slurmctld -c && slurmd -c || exit 1
trap 'scancel -u root 2>/dev/null; kill $(cat "$t/slurmd.pid" "$t/slurmctld.pid"); sleep 1; rm -rf "$t"' EXIT
for _ in $(seq 50); do sinfo -h -o %T 2>/dev/null | grep -q idle && break; sleep 0.2; done

sh tests/cli/tiny-tokenizer.sh "$t/tok" || exit 1
mkmodel -q --layers 3 --hidden 32 --heads 4 --kv-heads 2 --head-dim 8 --ffn 48 --vocab 265 --eos 264 --tied --tokenizer "$t/tok" -o "$t/m" || exit 1
calib-sample -q -t "$t/m" --documents paragraph --samples 40 --seq 64 README.md -o "$t/c.tok" || exit 1
export OMPI_MCA_btl=self,vader OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_mpi_yield_when_idle=1
kd="kd-train --student $t/m --data $t/c.tok --loss ce --batch 8 --micro 1 --steps 600 --threads 1 --dtype f32 --seed 3"

# wait_for SECONDS COMMAND...
wait_for() {
	n=$(($1 * 5))
	shift
	until "$@"; do n=$((n - 1)); [ $n -gt 0 ] || return 1; sleep 0.2; done
}
steps() { grep -c . "$1/metrics.jsonl" 2>/dev/null | grep . || echo 0; }
begun() { [ "$(steps "$1")" -gt 20 ]; }
state_is() { [ "$(squeue -h -j "$1" -o %T 2>/dev/null)" = "$2" ]; }
gone() { ! squeue -h -j "$1" -o %T 2>/dev/null | grep -q .; }

# life NAME COMMAND...: a job whose training writes to $t/$name
life() {
	name=$1
	shift
	id=$(sbatch --parsable -n 2 -o "$t/$name.out" pipelines/slurm.sh "$@")
	wait_for 60 begun "$t/$name"
	scancel --signal=USR1 --batch "$id"
	wait_for 30 state_is "$id" PENDING
	same "$name: queued again" "$(squeue -h -j "$id" -o %T) $(grep -c 'queued again (restart 1)' "$t/$name.out")" "PENDING 1"
	same "$name: stopped on the way" "$([ "$(steps "$t/$name")" -lt 600 ] && echo yes) $([ -e "$t/$name/student" ] && echo whole)" "yes "
	scontrol update jobid="$id" StartTime=now
	wait_for 180 gone "$id"
	same "$name: finished" "$(steps "$t/$name") $([ -s "$t/$name/student/model.safetensors" ] && echo whole)" "600 whole"
}
life srun srun --mpi=pmix $kd -o "$t/srun"
cat >"$t/job.mk" <<END
\$(eval include pipelines/rules.mk)
.DEFAULT_GOAL := all
\$(eval \$(call kd-train,$t/make,,$t/m,$t/c.tok,$(echo "$kd" | sed 's/.*--loss/--loss/'),))
all: $t/make/student/config.json
END
life make make -f "$t/job.mk" LAUNCH='srun --mpi=pmix'
id=$(sbatch --parsable -n 1 -o "$t/bad.out" pipelines/slurm.sh sh -c 'exit 3')
wait_for 30 gone "$id"
same "a command that fails ends the job" "$(scontrol show job "$id" | grep -o 'ExitCode=[0-9]*') $(grep -c queued "$t/bad.out")" "ExitCode=3 0"
