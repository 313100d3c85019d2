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
command -v apptainer >/dev/null || module load apptainer
export PYTHONUNBUFFERED=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /data/runs/demo/cluster/%j_%t_log.out sh -c 'trap "" TERM USR2; exec "$@"' sh /data/venv/bin/python -u -m submitit.core._submit /data/runs/demo/cluster


# teardown
code=$?
job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"
[ "$code" -ne 85 ] || for pause in 2 8 0; do scontrol requeue incomplete "$job" && break; sleep "$pause"; done
exit "$code"