"""The parts of scripts/slurm_dev_cluster, which says what they are for. Standard library only."""
