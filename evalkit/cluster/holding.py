"""What an attempt holds when it begins: its nodes, its GPUs, and the first of its record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.cluster.attempts import AttemptRecord
from evalkit.serving.followers import DEVICES
from evalkit.serving.gpus import gpu_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.cluster.attempts import Attempt
    from evalkit.cluster.job import JobInfo

NO_GPUS = frozenset({"", "-1", "NoDevFiles"})
"""What a variable of DEVICES says where there are none to see."""


def held_gpus(job: JobInfo, planned: int, env: Mapping[str, str]) -> int:
    """GPUs that a replica has, over all its nodes; `planned` is what its largest server needs.

    Where nothing restricts which ones are seen, a replica holds what it needs of those that exist.
    """
    named = (job.gpus, *(env.get(name) for name in DEVICES))  # Slurm sets others for other makers
    given = next((text for text in named if text is not None), None)
    if given is not None:
        seen = 0 if given in NO_GPUS else len(given.split(","))
        return seen * len(job.nodes)
    return min(planned, len(gpu_names(env)) * len(job.nodes)) if planned else 0


def begin_record(attempt: Attempt, job: JobInfo, gpus: int, now: float) -> AttemptRecord:
    """The record of an attempt that starts now (Unix time, s)."""
    return AttemptRecord(
        replica=attempt.replica,
        attempt=attempt.number,
        executor=job.executor,
        job_id=job.job_id,
        restart_count=job.restart_count,
        host=job.host,
        nodes=job.nodes,
        gpus=gpus,
        started=now,
        last=now,
        ends=job.ends,
    )
