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
RUNNING = frozenset({JobState.RUNNING, JobState.FINISHING})
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
        return _done(workers, gathers, is_gathered=is_gathered, alive=alive)
    silent = _silent(replicas, live)
    if busy:
        return _busy(busy, len(workers) or len(replicas), owed, silent)
    if live:
        return _waiting(live, owed, failures, silent)
    if any(_is_unclear(job) for job in workers):
        return _unclear(
            workers, f"{owed} units owed", "`evalkit resume --here` continues the run here"
        )
    if not jobs and not replicas:
        return Phase(
            "not_submitted", f"{owed} units owed; nothing was submitted: `evalkit submit`", True
        )
    return _with_gathers(_stopped(workers, replicas, owed), gathers)


def _with_gathers(stopped: Phase, gathers: Sequence[JobStatus]) -> Phase:
    """A run is not over while its gather lives, or may live."""
    unclear = [job for job in gathers if _is_unclear(job)]
    is_live = any(job.state in LIVE for job in gathers)
    is_blind = not is_live and bool(unclear) and all(_is_out_of_sight(job) for job in unclear)
    return stopped._replace(is_over=not (is_live or unclear), is_blind=is_blind)


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
    unclear = [job for job in (*gathers, *workers) if _is_unclear(job)]
    if unclear:
        return _unclear(unclear, "every unit is done", "`evalkit gather` writes the results here")
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


def _unclear(jobs: Sequence[JobStatus], counts: str, here: str) -> Phase:
    """`here`: what can be done where nobody can ever say more."""
    if all(_is_out_of_sight(job) for job in jobs):
        return Phase("unknown", f"{counts}; {jobs[0].reason}; {here}", False, is_blind=True)
    strange = next((job for job in jobs if is_strange(job)), None)
    if strange is not None:
        said = f"Slurm calls job {strange.job_id} {strange.raw}, which is not known here"
        return Phase("unknown", f"{counts}; {said}", False)
    return Phase("unknown", f"{counts}; Slurm does not show the jobs", False)


def _is_unclear(job: JobStatus) -> bool:
    """Whether a job may live though nobody says so now."""
    is_unsaid = job.reason in UNCLEAR or _is_out_of_sight(job)
    return job.state == JobState.UNKNOWN and (is_unsaid or is_strange(job))


def is_strange(job: JobStatus) -> bool:
    """Slurm has it, in a state that is not in our table: it gains states over the years."""
    return job.state == JobState.UNKNOWN and bool(job.raw)


def _is_out_of_sight(job: JobStatus) -> bool:
    return job.reason == NO_SLURM or job.reason.startswith(ELSEWHERE)


def _silent(replicas: Sequence[ReplicaStatus], live: Sequence[JobStatus]) -> str:
    """The first replica that is not heard although its job runs, in words; empty: there is none."""
    running = {job.job_id for job in live if job.state in RUNNING}
    silent = [r for r in replicas if r.state == "silent" and r.job_id in running]
    if not silent:
        return ""
    first = silent[0]
    since = "" if first.heartbeat_age_s is None else f" for {age(first.heartbeat_age_s)}"
    log = f" (log: {first.log})" if first.log else ""
    more = f", and {len(silent) - 1} more" if len(silent) > 1 else ""
    return f"{first.name} has not been heard{since} although its job runs{log}{more}"


def _busy(busy: Sequence[ReplicaStatus], of: int, owed: int, silent: str) -> Phase:
    working = [replica for replica in busy if replica.state in WORKING]
    errors = [f"{replica.name}: {brief(replica.error)}" for replica in busy if replica.error]
    trouble = "".join(f"; {text}" for text in (*errors[:1], silent) if text)
    if working:
        return Phase(
            "running", f"{len(working)} of {of} replicas work, {owed} units owed{trouble}", False
        )
    return Phase("starting", f"{len(busy)} of {of} replicas load the model{trouble}", False)


def _waiting(
    live: Sequence[JobStatus], owed: int, failures: Sequence[FailureGroup], silent: str
) -> Phase:
    held = [job for job in live if job.state == JobState.HELD]
    if held:
        first = held[0]
        return Phase(
            "waiting",
            f"job {first.job_id} is held by Slurm ({first.reason or first.raw}) and does not start "
            f"by itself: {first.advice}",
            False,
        )
    if silent:
        return Phase("silent", f"{silent}; {owed} units owed", False)
    running = [job for job in live if job.state in RUNNING]
    elsewhere = [job for job in running if job.works_for]
    if running and len(elsewhere) == len(running):
        first = elsewhere[0]
        return Phase(
            "waiting",
            f"job {first.job_id} works for {first.works_for} now, {owed} units owed here",
            False,
        )
    if running:
        log = f"; see {running[0].log}" if running[0].log else ""
        return Phase(
            "starting",
            f"job {running[0].job_id} runs, its worker has not said anything yet{log}",
            False,
        )
    suspended = [job for job in live if job.state == JobState.SUSPENDED]
    if suspended:
        first = suspended[0]
        return Phase(
            "waiting", f"job {first.job_id} is suspended: {first.advice}; {owed} units owed", False
        )
    reasons = sorted({job.reason for job in live if job.reason not in ("", "None")})
    why = f" ({', '.join(reasons)})" if reasons else ""
    jobs = "1 job waits" if len(live) == 1 else f"{len(live)} jobs wait"
    last = next((group for group in failures if group.of == "attempt"), None)
    after = f"; last: {last.where} {last.reason}" if last else ""
    return Phase("waiting", f"{jobs} for Slurm{why}, {owed} units owed{after}", False)


def _stopped(workers: Sequence[JobStatus], replicas: Sequence[ReplicaStatus], owed: int) -> Phase:
    failed = [replica for replica in replicas if replica.error and replica.state != "done"]
    if failed:
        first = failed[0]
        log = f" (log: {first.log})" if first.log else ""
        return Phase(
            "failed",
            f"{first.name} failed: {brief(first.error or '')}{log}; {owed} units owed",
            True,
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
                True,
            )
    return Phase(
        "stopped",
        f"no job is left and {owed} units are owed; `evalkit submit` continues the run",
        True,
    )
