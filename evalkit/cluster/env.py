"""The process environment, as far as submitting and running jobs need it. The only door to it here.

A command typed inside a Slurm job (an interactive allocation) inherits variables that override what
the recipe says: `SBATCH_PARTITION` wins over `#SBATCH --partition`, `SLURM_*` confuses srun and
submitit. They are removed before anything is submitted. submitit runs sbatch with the environment of
this process and takes no other, so the environment is really replaced while it submits.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

INHERITED = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_")
"""Prefixes of variables that a job hands down and that would change the next job."""
DISTRIBUTED = frozenset(
    {"MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}
)
SITE = frozenset({"SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS", "SUBMITIT_LOG_LEVEL"})
"""Variables with such a prefix that say where Slurm is, not what a job is: these stay. submitit's signal
does not: with another one than evalkit's, a job would be warned with a signal that nobody hears."""


def read_environment() -> dict[str, str]:
    """A copy of the process environment."""
    return dict(os.environ)


def is_inherited(name: str) -> bool:
    """Whether a variable belongs to the job that we run in, not to the one we submit."""
    return name in DISTRIBUTED or (name.startswith(INHERITED) and name not in SITE)


def submission_environment(env: Mapping[str, str], hidden: frozenset[str]) -> dict[str, str]:
    """`env` as sbatch may see it: without inherited variables and without the `hidden` secrets.

    sbatch sends its whole environment with the job, and accounting may keep it.
    """
    return {k: v for k, v in env.items() if not is_inherited(k) and k not in hidden}


@contextlib.contextmanager
def process_environment(env: Mapping[str, str]) -> Iterator[None]:
    """Make `env` the environment of this process for the time of the block."""
    before = dict(os.environ)
    _replace(env)
    try:
        yield
    finally:
        _replace(before)


def export(variables: Mapping[str, str]) -> None:
    """Add variables to the environment of this process and of its children."""
    os.environ.update(variables)


def refuse_telemetry() -> None:
    """Packages that report their use to their makers do not do so from here, unless the user says it."""
    for name, value in (("MLFLOW_DISABLE_TELEMETRY", "true"), ("WANDB_ERROR_REPORTING", "false")):
        os.environ.setdefault(name, value)


def _replace(env: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(env):
        del os.environ[name]
    os.environ.update(env)
