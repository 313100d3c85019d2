"""The environment that sbatch sees."""

from __future__ import annotations

import os

from evalkit.cluster.env import process_environment, read_environment, submission_environment


def test_what_a_job_inherits_is_not_handed_on() -> None:
    """Variables of the job we run in go; those that say where Slurm is stay; secrets go."""
    given = {
        "SLURM_JOB_ID": "1",
        "SBATCH_PARTITION": "x",
        "SRUN_DEBUG": "3",
        "SLURMD_NODENAME": "n",
        "SUBMITIT_EXECUTOR": "slurm",
        "SUBMITIT_PREEMPT_SIGNAL": "USR1",
        "MASTER_PORT": "1",
        "SLURM_CONF": "/etc/slurm.conf",
        "PATH": "/bin",
        "KEY": "secret",
    }
    sent = submission_environment(given, frozenset({"KEY"}))
    assert sent == {"SLURM_CONF": "/etc/slurm.conf", "PATH": "/bin"}


def test_the_environment_is_replaced_and_restored() -> None:
    """Inside the block the process has exactly the given variables; afterwards its own."""
    before = read_environment()
    with process_environment({"ONLY": "this"}):
        assert dict(os.environ) == {"ONLY": "this"}
    assert read_environment() == before
