"""The failure table of a run: by kind, how many, and the last of each with its log lines.

Three things fail: attempts, jobs that no attempt tells of (a worker that never started, a job on hold,
a gather), and units, which are owed again. A failure is counted once, where most is known of it. Pure,
but for what `evalkit.cluster.postmortem` and `evalkit.cluster.unit_failures` read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from evalkit.cluster.accounting import History
from evalkit.cluster.failures import Failure, FailureKind
from evalkit.cluster.postmortem import CLOCK_MARGIN_S, explain_job
from evalkit.cluster.states import JobState
from evalkit.cluster.status_values import FailureGroup
from evalkit.cluster.unit_failures import unit_failures

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from evalkit.cluster.slurm import JobRow
    from evalkit.cluster.status_values import AttemptStatus, JobStatus, TaskStatus
    from evalkit.cluster.unit_failures import UnitSources
    from evalkit.store.layout import RunFolder

NO_HISTORY = History({})
NOBODY_GRADED = "nobody has graded them: `evalkit submit` or `evalkit score` does"


class Case(NamedTuple):
    """Failures of one kind that are known together."""

    of: Literal["attempt", "job", "unit"]
    where: str
    time: float | None
    failure: Failure
    n: int = 1


def group_failures(
    folder: RunFolder,
    sources: UnitSources,
    rows: Mapping[str, JobRow],
    history: History = NO_HISTORY,
) -> tuple[FailureGroup, ...]:
    """All failures of a run, the latest kind first."""
    attempts, jobs = sources.attempts, sources.jobs
    told = _told(attempts, history)
    cases = [
        *_of_attempts(attempts),
        *_of_jobs(folder, [job for job in jobs if job.job_id not in told or _is_held(job)], rows),
        *_of_units(folder, sources),
    ]
    groups: dict[tuple[str, FailureKind], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.of, case.failure.kind), []).append(case)
    found = [_group(folder, members) for members in groups.values()]
    return tuple(sorted(found, key=lambda group: -(group.time or 0.0)))


def _told(attempts: Iterable[AttemptStatus], history: History) -> set[str]:
    """Jobs whose last execution has an attempt, which knows most of its end."""
    latest = {attempt.job_id: attempt for attempt in sorted(attempts, key=lambda a: a.started)}
    return {job for job, attempt in latest.items() if not _has_later(attempt, history)}


def _has_later(attempt: AttemptStatus, history: History) -> bool:
    """Whether its job was started again after it: by count, or by time where old rows are gone."""
    starts = [row.started for row in history.of(attempt.job_id) if row.started is not None]
    if len(starts) > attempt.restart_count + 1:
        return True
    return any(start > attempt.ended + CLOCK_MARGIN_S for start in starts)


def _of_attempts(attempts: Iterable[AttemptStatus]) -> Iterable[Case]:
    for attempt in attempts:
        if attempt.failure is not None:
            yield Case("attempt", attempt.id, attempt.ended, attempt.failure)


def _of_jobs(
    folder: RunFolder, jobs: Iterable[JobStatus], rows: Mapping[str, JobRow]
) -> Iterable[Case]:
    for job in jobs:
        row = rows.get(job.job_id)
        if _is_held(job):
            reason = f"held by Slurm ({job.reason or job.raw}): {job.advice}"
            yield Case("job", job.job_id, None, Failure(FailureKind.HELD, reason))
        elif row is not None and (failure := explain_job(row, folder)) is not None:
            yield Case("job", job.job_id, None, failure)


def ungraded(tasks: Sequence[TaskStatus]) -> tuple[FailureGroup, ...]:
    """Answers that are all there and that nobody grades any more, with the last grader's reason."""
    found = [(t.name, t.grading) for t in tasks if t.grading is not None and t.done == t.expected]
    waiting = [(name, grading) for name, grading in found if grading.ungraded]
    if not waiting:
        return ()
    name, last = next((each for each in waiting if each[1].error), waiting[-1])
    return (
        FailureGroup(
            kind=FailureKind.UNGRADED,
            of="unit",
            count=sum(grading.ungraded for _, grading in waiting),
            where=name,
            time=None,
            reason=last.error or NOBODY_GRADED,
            node=None,
            log=last.log if last.error else None,
            lines=(),
        ),
    )


def _of_units(folder: RunFolder, sources: UnitSources) -> Iterable[Case]:
    for found in unit_failures(folder, sources):
        yield Case("unit", found.task, None, found.failure, found.n)


def _is_held(job: JobStatus) -> bool:
    return job.state == JobState.HELD


def _group(folder: RunFolder, cases: Sequence[Case]) -> FailureGroup:
    last = max(cases, key=lambda case: case.time or 0.0)
    failure = last.failure
    return FailureGroup(
        kind=failure.kind,
        of=last.of,
        count=sum(case.n for case in cases),
        where=last.where,
        time=last.time,
        reason=failure.reason,
        node=failure.node,
        log=None if failure.log is None else str(folder.root / failure.log),
        lines=failure.lines,
    )
