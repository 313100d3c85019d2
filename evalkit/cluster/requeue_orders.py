"""What Slurm, or the job's batch script, is asked for when an attempt has ended.

`evalkit.cluster.requeue` has decided by then, and `evalkit.cluster.tenure` says when. A refusal is an
answer here: the finished work is on disk, and the caller still has the batch script to ask.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster import env as environment
from evalkit.cluster.attempts import AttemptRecord
from evalkit.cluster.batch import REQUEUE_CODE
from evalkit.cluster.requeue import UNRECORDED_AFTER, choose_excluded, given_exclude
from evalkit.cluster.slurm import JobView, SlurmCommands
from evalkit.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.cluster.job import JobInfo
    from evalkit.cluster.requeue import Verdict
    from evalkit.recipe.schema import Cluster

log = logging.getLogger("evalkit.worker")

OUTSIDE = JobView("RUNNING", "", 0, may_requeue=True, is_preempted=False, excluded="", partition="")
"""In place of Slurm's words in a container that has none of its commands. A requeue by the batch script
does nothing to a job that was cancelled, or that Slurm has requeued."""


def requeue_job(
    commands: SlurmCommands, view: JobView | None, verdict: Verdict, job: JobInfo
) -> str | None:
    """Requeue the job. What kept it from that, for the batch script to try; it has more patience."""
    if view is OUTSIDE:
        return ""
    if view is None:
        return "; Slurm does not answer"
    try:
        commands.requeue(job.job_id, even_ended=verdict.even_ended)
    except ClusterError as error:
        return f"; {error.message}"
    return None


def keep_off(
    commands: SlurmCommands,
    job: JobInfo,
    view: JobView | None,
    avoid: Sequence[str],
    cluster: Cluster,
) -> str:
    """Keep a job that was just requeued off nodes that failed; what to say of it."""
    if view is None or not avoid:
        return ""
    try:
        excluded = commands.host_names(view.excluded)
        size = commands.partition_size(view.partition)
        fixed = commands.host_names(given_exclude(cluster))
        nodes = choose_excluded(avoid, excluded, fixed, size=size, nodes=len(job.nodes))
        if nodes is None:
            return ""
        commands.exclude(job.job_id, nodes)
    except ClusterError as error:
        return f"; {error.message}"
    return f"; without {', '.join(nodes)}" if nodes else ""


def empty_record(job: JobInfo, replica: str, number: int) -> AttemptRecord:
    """The record of an attempt that ended before its worker began."""
    now = SYSTEM_CLOCK.wall()
    fields: dict[str, Any] = {"started": now, "last": now, "ended": now, "gpus": 0}
    fields |= {"executor": job.executor, "job_id": job.job_id, "host": job.host}
    fields |= {"nodes": job.nodes, "restart_count": job.restart_count, "ends": job.ends}
    return AttemptRecord(replica=replica, attempt=number, **fields)


def retry_unknown_job() -> None:
    """Let the batch script requeue a job that could not be found out about; SystemExit, if it may."""
    env = environment.read_environment()
    restarts = env.get("SLURM_RESTART_COUNT", "0")
    if env.get("SUBMITIT_EXECUTOR") == "slurm" and int(restarts) < UNRECORDED_AFTER:
        log.error("the job is unknown; the batch script is asked for a requeue")
        raise SystemExit(REQUEUE_CODE)
