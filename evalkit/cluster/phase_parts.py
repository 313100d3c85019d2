"""A run's phase as a value, and the words that all phases share. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from evalkit.cluster.live import ELSEWHERE, NO_ANSWER, NO_SLURM, NOT_VISIBLE
from evalkit.cluster.states import JobState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.cluster.status_values import JobStatus

UNCLEAR = frozenset({NOT_VISIBLE, NO_ANSWER, NO_SLURM})
LOG_FOLLOWS = "; last lines of its log:"
TROUBLE = {
    JobState.FAILED: "failed",
    JobState.TIMEOUT: "reached its time limit and was not requeued",
    JobState.CANCELLED: "was cancelled",
    JobState.OOM: "was killed for its memory (cluster.mem)",
    JobState.NODE_FAIL: "lost its node",
    JobState.PREEMPTED: "was preempted and not requeued",
}


class Phase(NamedTuple):
    """Where a run is."""

    word: str
    message: str
    is_over: bool
    is_blind: bool = False
    """Nobody here can tell whether it is over."""


def brief(error: str) -> str:
    """An error in one line: its first, and the cause that was seen in a log, without the log.

    The whole text is in the worker's log and in the replica's report.
    """
    first, *rest = error.splitlines() or [""]
    seen = next((n for n, line in enumerate(rest) if line.startswith("Seen: ")), None)
    cause = [] if seen is None else [rest[seen], *rest[max(seen - 1, 0) : seen]]
    where = [line for line in rest[-1:] if line.startswith("Whole log: ")]
    return ". ".join(part.rstrip(".") for part in (first.removesuffix(LOG_FOLLOWS), *cause, *where))


def age(seconds: float) -> str:
    """How long ago, in the largest unit that says enough: `3 s`, `12 min`, `5 h`, `2 d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def unclear(jobs: Sequence[JobStatus], counts: str, here: str) -> Phase:
    """`here`: what can be done where nobody can ever say more."""
    if all(is_out_of_sight(job) for job in jobs):
        return Phase("unknown", f"{counts}; {jobs[0].reason}; {here}", False, is_blind=True)
    strange = next((job for job in jobs if is_strange(job)), None)
    if strange is not None:
        said = f"Slurm calls job {strange.job_id} {strange.raw}, which is not known here"
        return Phase("unknown", f"{counts}; {said}", False)
    return Phase("unknown", f"{counts}; Slurm does not show the jobs", False)


def is_unclear(job: JobStatus) -> bool:
    """Whether a job may live though nobody says so now."""
    is_unsaid = job.reason in UNCLEAR or is_out_of_sight(job)
    return job.state == JobState.UNKNOWN and (is_unsaid or is_strange(job))


def is_strange(job: JobStatus) -> bool:
    """Slurm has it, in a state that is not in our table: it gains states over the years."""
    return job.state == JobState.UNKNOWN and bool(job.raw)


def is_out_of_sight(job: JobStatus) -> bool:
    return job.reason == NO_SLURM or job.reason.startswith(ELSEWHERE)
