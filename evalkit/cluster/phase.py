"""The state of a run in one word and one sentence: what a person reads first.

Pure. The order of the rules is the order of what matters: complete, working, waiting, stopped, and
with the last two the reason and the log that proves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.cluster.answered_phase import answered_phase
from evalkit.cluster.phase_parts import (
    TROUBLE,
    Phase,
    age,
    brief,
    is_out_of_sight,
    is_unclear,
    unclear,
)
from evalkit.cluster.states import LIVE, JobState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.cluster.status_values import FailureGroup, JobStatus, ReplicaStatus, TaskStatus

WORKING = frozenset({"ready", "draining", "stopping"})
STARTING = frozenset({"starting", "loading"})
RUNNING = frozenset({JobState.RUNNING, JobState.FINISHING})


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
    busy = [replica for replica in replicas if replica.state in WORKING | STARTING]
    if owed == 0:
        alive = bool(live or busy or any(job.state in LIVE for job in gathers))
        return answered_phase(tasks, workers, gathers, is_gathered=is_gathered, alive=alive)
    silent = _silent(replicas, live)
    if busy:
        return _busy(busy, len(workers) or len(replicas), owed, silent)
    if live:
        return _waiting(live, owed, failures, silent)
    if any(is_unclear(job) for job in workers):
        return unclear(
            workers, f"{owed} units owed", "`evalkit resume --here` continues the run here"
        )
    if not jobs and not replicas:
        return Phase(
            "not_submitted", f"{owed} units owed; nothing was submitted: `evalkit submit`", True
        )
    return _with_gathers(_stopped(workers, replicas, owed), gathers)


def _with_gathers(stopped: Phase, gathers: Sequence[JobStatus]) -> Phase:
    """A run is not over while its gather lives, or may live."""
    unsaid = [job for job in gathers if is_unclear(job)]
    is_live = any(job.state in LIVE for job in gathers)
    is_blind = not is_live and bool(unsaid) and all(is_out_of_sight(job) for job in unsaid)
    return stopped._replace(is_over=not (is_live or unsaid), is_blind=is_blind)


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
