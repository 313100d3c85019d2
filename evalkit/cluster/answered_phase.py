"""The phase of a run whose answers are all there: graded, gathered, or neither. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeGuard

from evalkit.cluster.phase_parts import TROUBLE, Phase, brief, is_unclear, unclear
from evalkit.cluster.states import LIVE, JobState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.cluster.status_values import JobStatus, TaskStatus


def answered_phase(
    tasks: Sequence[TaskStatus],
    workers: Sequence[JobStatus],
    gathers: Sequence[JobStatus],
    *,
    is_gathered: bool,
    alive: bool,
) -> Phase:
    """The phase when no unit is owed; `alive`: something of the run works or waits."""
    graded = Graded.of(tasks)
    if graded.graders or (alive and graded.owed):
        return _grading(graded, gathers)
    if graded.owed and not is_gathered:
        return _ungraded(graded, workers, gathers)
    return _done(workers, gathers, is_gathered=is_gathered, alive=alive)


def stage_of(
    tasks: Sequence[TaskStatus], *, is_gathered: bool
) -> Literal["generating", "grading", "gathering", "done"]:
    """What is to be done next of a run with these tasks."""
    if any(task.done < task.expected for task in tasks):
        return "generating"
    graded = Graded.of(tasks)
    if graded.graders or (graded.owed and not is_gathered):
        return "grading"
    return "done" if is_gathered else "gathering"


class Graded(NamedTuple):
    """How far the answers of all tasks that need it are graded."""

    owed: int = 0
    graded: int = 0
    expected: int = 0
    graders: int = 0
    words: str = ""
    """What a grader waits for, or why the last one could not grade."""

    @classmethod
    def of(cls, tasks: Sequence[TaskStatus]) -> Graded:
        """Of these tasks."""
        found = [task.grading for task in tasks if task.grading is not None]
        said = (each.detail or each.error for each in found)
        return cls(
            sum(each.owed for each in found),
            sum(each.graded for each in found),
            sum(each.expected for each in found),
            sum(each.graders for each in found),
            next((brief(text) for text in said if text), ""),
        )

    def __str__(self) -> str:
        return f"{self.graded:,} of {self.expected:,} answers are graded"


def _grading(graded: Graded, gathers: Sequence[JobStatus]) -> Phase:
    """Answers are all there; somebody grades them, or a job that will is there."""
    if graded.graders:
        return Phase("grading", "; ".join(filter(None, (str(graded), graded.words))), False)
    held = next((job for job in gathers if job.state == JobState.HELD), None)
    if held is not None:
        return Phase("grading", f"{graded}; job {held.job_id} is held: {held.advice}", False)
    waiting = next((job for job in gathers if job.state in LIVE), None)
    if waiting is None:
        return Phase("grading", f"{graded}; replicas stop and the grading follows", False)
    why = f", {waiting.reason}" if waiting.reason not in ("", "None") else ""
    text = f"{graded}; job {waiting.job_id}, which grades, is {waiting.state}{why}"
    return Phase("grading", text, False)


def _ungraded(graded: Graded, workers: Sequence[JobStatus], gathers: Sequence[JobStatus]) -> Phase:
    """Answers are all there, not all are graded, and nobody is known to go on."""
    unsaid = [job for job in (*gathers, *workers) if is_unclear(job)]
    if unsaid:
        return unclear(unsaid, str(graded), "`evalkit score` grades the others here")
    ended = next((job for job in gathers if JobState(job.state).is_over), None)
    how = f" (job {ended.job_id} {TROUBLE[JobState(ended.state)]})" if _is_trouble(ended) else ""
    log = f" (log: {ended.log})" if ended is not None and how and ended.log else ""
    why = f": {graded.words}" if graded.words else ""
    text = f"{graded}{how}{why}{log}; `evalkit submit` sends a job that grades the others, "
    return Phase("failed" if why else "stopped", f"{text}`evalkit score` does it here", True)


def _is_trouble(job: JobStatus | None) -> TypeGuard[JobStatus]:
    return job is not None and JobState(job.state) in TROUBLE


def _done(
    workers: Sequence[JobStatus],
    gathers: Sequence[JobStatus],
    *,
    is_gathered: bool,
    alive: bool,
) -> Phase:
    if alive:
        return Phase("gathering", "every unit is done; replicas stop and the gather follows", False)
    if is_gathered:
        return Phase("complete", "complete; results are in artifacts/", True)
    unsaid = [job for job in (*gathers, *workers) if is_unclear(job)]
    if unsaid:
        return unclear(unsaid, "every unit is done", "`evalkit gather` writes the results here")
    failed = [job for job in gathers if JobState(job.state).is_over]
    if failed and failed[0].state != JobState.DONE:
        log = f" (log: {failed[0].log})" if failed[0].log else ""
        return Phase(
            "failed",
            f"every unit is done, but gather job {failed[0].job_id} ended as {failed[0].state}{log}; "
            "`evalkit score` grades what it could not, and gathers again",
            True,
        )
    return Phase("gathering", "every unit is done; `evalkit gather` writes the results", True)
