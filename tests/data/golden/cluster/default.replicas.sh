#!/bin/bash

# Parameters
#SBATCH --gres=gpu:4
#SBATCH --job-name=evalkit-demo-808d8c9a
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/data/runs/demo/cluster/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@180
#SBATCH --time=240

# setup
trap : TERM
export PYTHONUNBUFFERED=1
unset SUBMITIT_PREEMPT_SIGNAL

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /data/runs/demo/cluster/%j_%t_log.out --export=ALL sh -c 'trap "" TERM USR2; exec "$@"' sh /data/venv/bin/python -u -m submitit.core._submit /data/runs/demo/cluster


# teardown
code=$? verdict=$?
job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"
deaths=/data/runs/demo/cluster/"$job.deaths"
again() { for pause in 2 8 0; do how=incomplete
  scontrol -o show job "$job" | grep -q " Reason=TimeLimit " && how=
  scontrol requeue ${how:+"$how"} "$job" && return; sleep "$pause"; done; }
case "$code" in 0|86|143|85) ;; *)
  timeout -s KILL 60 sh -c 'trap "" TERM USR2; exec "$@"' sh /data/venv/bin/python -m evalkit.cluster.aftermath /data/runs/demo "$code"
  verdict=$? ;; esac
case "$verdict" in 0|86|143) ;; 85) again ;; *)
  if echo "${SLURM_RESTART_COUNT:-0} $code $(date +%s) ${SLURMD_NODENAME:-}" >>"$deaths"
  then tries=$(grep -c . "$deaths"); else tries=$((${SLURM_RESTART_COUNT:-0} + 1)); fi
  [ "$tries" -gt 3 ] || again ;; esac
exit "$code"