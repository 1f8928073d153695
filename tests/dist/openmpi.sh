# openmpi.sh - Open MPI on any machine; source it after lib.sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2154,SC2034
# In containers: root, more processes than cores, no reading of another process's memory.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl=self,vader OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_plm_rsh_agent=/bin/false
export OMPI_MCA_mpi_yield_when_idle=1
shm=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')
if [ "${shm:-0}" -lt 500000 ] || [ ! -w /dev/shm ]; then export OMPI_MCA_btl_vader_backing_directory="$t"; fi
export OMP_NUM_THREADS=1
# MPI keeps what it allocated in parts that are unloaded again, where no suppression by name finds them
export ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0"
