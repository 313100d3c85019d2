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
srun --unbuffered --output /data/runs/demo/cluster/%j_%t_log.out /data/venv/bin/python -u -m submitit.core._submit /data/runs/demo/cluster
