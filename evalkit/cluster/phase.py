"""The state of a run in one word and one sentence: what a person reads first.

Pure. The order of the rules is the order of what matters: complete, working, waiting, stopped, and
with the last two the reason and the log that proves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from evalkit.cluster.live import ELSEWHERE, NO_ANSWER, NO_SLURM, NOT_VISIBLE
from evalkit.cluster.states import LIVE, JobState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.cluster.status_values import FailureGroup, JobStatus, ReplicaStatus, TaskStatus

WORKING = frozenset({"ready", "draining", "stopping"})
STARTING = frozenset({"starting", "loading"})
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


def describe_phase(
    tasks: Sequence[TaskStatus],
    replicas: Sequence[ReplicaStatus],
    jobs: Sequence[JobStatus],
    failures: Sequence[FailureGroup] = (),
    *,
    is_gathered: bool,
) -> Phase:
    """The phase of a run with these parts; `is_gathered`: results of all tasks are complete."""
    owed = sum(task.expected - task.done for task in tasks)
    workers = [job for job in jobs if job.role == "replicas"]
    live = [job for job in workers if job.state in LIVE]
    gathers = [job for job in jobs if job.role == "gather"]
    gathering = any(job.state in LIVE for job in gathers)
    busy = [replica for replica in replicas if replica.state in WORKING | STARTING]
    if owed == 0:
        alive = bool(live or busy or gathering)
        return _done(gathers, is_gathered=is_gathered, alive=alive)
    if busy:
        return _busy(busy, len(workers) or len(replicas), owed)
    if live:
        return _waiting(live, owed, failures)
    if any(job.reason in UNCLEAR or _is_elsewhere(job) for job in workers):
        return _unclear(workers, owed)
    if not jobs and not replicas:
        return Phase(
            "not_submitted", f"{owed} units owed; nothing was submitted: `evalkit submit`", True
        )
    return _stopped(workers, replicas, owed, gathering)


def _done(gathers: Sequence[JobStatus], *, is_gathered: bool, alive: bool) -> Phase:
    if alive:
        return Phase("gathering", "every unit is done; replicas stop and the gather follows", False)
    if is_gathered:
        return Phase("complete", "complete; results are in artifacts/", True)
    failed = [job for job in gathers if JobState(job.state).is_over]
    if failed and failed[0].state != JobState.DONE:
        log = f" (log: {failed[0].log})" if failed[0].log else ""
        return Phase(
            "failed",
            f"every unit is done, but gather job {failed[0].job_id} ended as {failed[0].state}{log}; "
            "`evalkit gather` tries again",
            True,
        )
    return Phase("gathering", "every unit is done; `evalkit gather` writes the results", True)


def _unclear(workers: Sequence[JobStatus], owed: int) -> Phase:
    if all(job.reason == NO_SLURM or _is_elsewhere(job) for job in workers):
        here = f"{workers[0].reason}; `evalkit resume --here` continues the run here"
        return Phase("unknown", f"{owed} units owed; {here}", False, is_blind=True)
    return Phase("unknown", f"{owed} units owed; Slurm does not show the jobs", False)


def _is_elsewhere(job: JobStatus) -> bool:
    return job.reason.startswith(ELSEWHERE)


def _busy(busy: Sequence[ReplicaStatus], of: int, owed: int) -> Phase:
    working = [replica for replica in busy if replica.state in WORKING]
    errors = [f"{replica.name}: {brief(replica.error)}" for replica in busy if replica.error]
    trouble = f"; {errors[0]}" if errors else ""
    if working:
        return Phase(
            "running", f"{len(working)} of {of} replicas work, {owed} units owed{trouble}", False
        )
    return Phase("starting", f"{len(busy)} of {of} replicas load the model{trouble}", False)


def _waiting(live: Sequence[JobStatus], owed: int, failures: Sequence[FailureGroup]) -> Phase:
    held = [job for job in live if job.state == JobState.HELD]
    if held:
        first = held[0]
        return Phase(
            "waiting",
            f"job {first.job_id} is held by Slurm ({first.reason or first.raw}) and does not start "
            f"by itself: {first.advice}",
            False,
        )
    running = [job for job in live if job.state in (JobState.RUNNING, JobState.FINISHING)]
    if running:
        log = f"; see {running[0].log}" if running[0].log else ""
        return Phase(
            "starting",
            f"job {running[0].job_id} runs, its worker has not said anything yet{log}",
            False,
        )
    reasons = sorted({job.reason for job in live if job.reason not in ("", "None")})
    why = f" ({', '.join(reasons)})" if reasons else ""
    jobs = "1 job waits" if len(live) == 1 else f"{len(live)} jobs wait"
    last = next((group for group in failures if group.of == "attempt"), None)
    after = f"; last: {last.where} {last.reason}" if last else ""
    return Phase("waiting", f"{jobs} for Slurm{why}, {owed} units owed{after}", False)


def _stopped(
    workers: Sequence[JobStatus], replicas: Sequence[ReplicaStatus], owed: int, gathering: bool
) -> Phase:
    failed = [replica for replica in replicas if replica.error and replica.state != "done"]
    if failed:
        first = failed[0]
        log = f" (log: {first.log})" if first.log else ""
        return Phase(
            "failed",
            f"{first.name} failed: {brief(first.error or '')}{log}; {owed} units owed",
            not gathering,
        )
    for job in workers:
        trouble = TROUBLE.get(JobState(job.state))
        if trouble:
            reason = f" ({job.reason})" if job.reason else ""
            log = f"{reason} (log: {job.log})" if job.log else reason
            again = "`evalkit submit` continues the run"
            return Phase(
                "stopped",
                f"job {job.job_id} {trouble}{log}; {owed} units owed; {again}",
                not gathering,
            )
    return Phase(
        "stopped",
        f"no job is left and {owed} units are owed; `evalkit submit` continues the run",
        not gathering,
    )
