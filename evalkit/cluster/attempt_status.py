"""The attempts of a run for its status: which of them run, and why the others did not end as done.

Pure, but for what `evalkit.cluster.postmortem` reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from evalkit.cluster.jobs import read_fence
from evalkit.cluster.live import NO_ANSWER, NOT_VISIBLE
from evalkit.cluster.phase_parts import is_strange
from evalkit.cluster.postmortem import DEFAULT_WARNING_S, Postmortem, Scene, is_past
from evalkit.cluster.states import ON_NODES, JobState
from evalkit.cluster.status_values import AttemptStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from evalkit.cluster.attempts import AttemptRecord
    from evalkit.cluster.jobs import JobRecord
    from evalkit.cluster.live import Answer
    from evalkit.cluster.replica_report import ReplicaReport
    from evalkit.cluster.status_values import JobStatus
    from evalkit.store.layout import RunFolder

NOT_SAID = frozenset({NO_ANSWER, NOT_VISIBLE})
"""Reasons for which nothing is concluded from a job that is unknown."""


class Parts(NamedTuple):
    """What was read of a run, as of one moment."""

    known: Sequence[JobRecord]
    """All jobs ever submitted."""
    records: Sequence[JobRecord]
    """Those of the last submit."""
    reports: Mapping[str, ReplicaReport]
    attempts: Sequence[AttemptRecord]
    answer: Answer
    now: float
    warning_s: float = DEFAULT_WARNING_S
    """Jobs are warned so long before their time limit (s)."""
    unexplained: Sequence[JobRecord] = ()
    """Jobs with attempts of which only Slurm may know how they ended."""


def attempt_statuses(
    folder: RunFolder, jobs: Sequence[JobStatus], parts: Parts, postmortem: Postmortem
) -> Iterable[AttemptStatus]:
    """All attempts of a run, in their order."""
    alive = frozenset(_alive(jobs, parts))
    undecided = frozenset(_undecided(jobs, parts)) - alive
    fence = read_fence(folder).submission
    cancelled = frozenset(r.job_id for r in parts.known if r.submission <= fence)
    scene = Scene(parts.answer.history, alive, cancelled, folder, parts.warning_s, undecided)
    for attempt in parts.attempts:
        yield AttemptStatus(
            id=attempt.id,
            replica=attempt.replica,
            attempt=attempt.attempt,
            job_id=attempt.job_id,
            node=attempt.node,
            gpus=attempt.gpus,
            started=attempt.started,
            ended=attempt.last if attempt.ended is None else attempt.ended,
            is_alive=attempt.id in alive,
            end=attempt.end,
            units=attempt.units,
            completion_tokens=attempt.completion_tokens,
            server_starts=attempt.server_starts,
            failure=postmortem.explain(attempt, scene),
            restart_count=attempt.restart_count,
        )


def _alive(jobs: Sequence[JobStatus], parts: Parts) -> Iterable[str]:
    """Attempts that run: heard lately, or the last of the execution that its job runs or has
    suspended."""
    of_job = {job.job_id: job for job in jobs}
    latest = {attempt.replica: attempt for attempt in parts.attempts}
    for name, attempt in latest.items():
        report, job = parts.reports.get(name), of_job.get(attempt.job_id)
        heard = (
            report is not None and report.attempt == attempt.attempt and report.is_fresh(parts.now)
        )
        runs = job is not None and job.state in ON_NODES
        held = runs and not is_past(attempt, parts.answer.history)
        over = job is not None and JobState(job.state).is_over
        if attempt.ended is None and (held or (heard and not over)):
            yield attempt.id


def _undecided(jobs: Sequence[JobStatus], parts: Parts) -> Iterable[str]:
    """Attempts without an end of whose job Slurm says nothing now, or a word that is not known here:
    neither alive nor failed."""
    unsaid = {job.job_id for job in jobs if job.reason in NOT_SAID or is_strange(job)}
    latest = {attempt.replica: attempt for attempt in parts.attempts}
    for attempt in latest.values():
        is_open = attempt.ended is None and not is_past(attempt, parts.answer.history)
        if is_open and attempt.job_id in unsaid:
            yield attempt.id
