"""Where a run executes: submitit executors, templates, the worker, Slurm state and logs."""
