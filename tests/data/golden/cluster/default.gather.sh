#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=1
#SBATCH --dependency=afterany:REPLICAS_JOB_ID
#SBATCH --job-name=evalkit-demo-808d8c9a
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mem=2GB
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/data/runs/demo/cluster/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=120

# setup
trap : TERM
export PYTHONUNBUFFERED=1
unset SUBMITIT_PREEMPT_SIGNAL

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /data/runs/demo/cluster/%j_%t_log.out --export=ALL sh -c 'trap "" TERM USR2; exec "$@"' sh /data/venv/bin/python -u -m submitit.core._submit /data/runs/demo/cluster


# teardown
code=$?
job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"
again() { for pause in 2 8 0; do how=incomplete
  scontrol -o show job "$job" | grep -q " Reason=TimeLimit " && how=
  scontrol requeue ${how:+"$how"} "$job" && return; sleep "$pause"; done; }
[ "$code" -ne 85 ] || again
exit "$code"