"""Evaluate language models reproducibly on Slurm clusters with local vLLM serving."""

__version__ = "0.1.0"
