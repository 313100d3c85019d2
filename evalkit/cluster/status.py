"""The state of a run: what is done (journals), who works (replicas), what Slurm says (jobs).

Progress never depends on Slurm: when Slurm does not answer, that is shown beside numbers that hold.
Nothing is written, so any number of people may watch one run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.cluster.env import read_environment
from evalkit.cluster.jobs import JobRecord, latest_submission, read_jobs
from evalkit.cluster.live import NO_ANSWER, NO_SLURM, job_rows
from evalkit.cluster.phase import describe_phase
from evalkit.cluster.progress import ProgressReader, TaskProgress, is_gathered
from evalkit.cluster.replica_report import ENDED, ReplicaReport, read_reports
from evalkit.cluster.slurm import JobRow, SlurmCommands
from evalkit.cluster.states import JobState
from evalkit.errors import ClusterError
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from evalkit.clock import Clock
    from evalkit.plan.model import TaskPlan
    from evalkit.store.layout import RunFolder

QUEUED = frozenset({JobState.PENDING, JobState.REQUEUED, JobState.HELD})


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """One task."""

    name: str
    expected: int
    """Planned units."""
    done: int
    outcomes: dict[str, int]
    shards: int
    shards_done: int
    score: float | None
    """Mean score so far, over `scored` units; null when no worker has scored yet."""
    scored: int
    rate_per_s: float | None
    """Units per second now; null when nobody works on the task."""
    eta_s: float | None
    """Seconds until the task is done at this rate."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica."""

    name: str
    state: str
    """The worker's own word (see `ReplicaReport.state`); `waiting` before its first, `silent` when its
    heartbeat stands still, `ended` when its job is known to be over and it did not say so."""
    job_id: str | None
    node: str | None
    log: str | None
    """Path of the attempt's log, or of the job's output before the first attempt."""
    is_alive: bool = False
    """Its worker was heard lately, and its job is not known to be over."""
    attempt: int | None = None
    server: dict[str, Any] = field(default_factory=dict)
    """`state`, `log` and `restarts` of its server, as the worker sees it."""
    detail: str | None = None
    """What it is doing, in words, while it runs."""
    tokens_per_s: float = 0.0
    in_flight: int = 0
    heartbeat_age_s: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One job or array element, as Slurm says."""

    job_id: str
    role: str
    replica: str | None
    state: str
    raw: str
    """Slurm's own word."""
    reason: str
    nodes: str
    log: str | None
    """Path of the job's own output, where a worker that never started says why."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Everything at one moment."""

    run: str
    run_id: str
    folder: str
    time: float
    """Unix time (s)."""
    phase: str
    """One word: not_submitted, waiting, starting, running, gathering, complete, stopped, failed,
    unknown."""
    message: str
    """The phase in a sentence, with the reason and a log path when something is wrong."""
    is_over: bool
    """Nothing of the run lives any more."""
    expected: int
    done: int
    rate_per_s: float | None
    eta_s: float | None
    tasks: tuple[TaskStatus, ...]
    replicas: tuple[ReplicaStatus, ...]
    jobs: tuple[JobStatus, ...]
    slurm_error: str | None = None
    """Why the jobs' states are not known."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class StatusReader:
    """Looks at one run again and again; after the first look only what is new is read."""

    def __init__(
        self, folder: RunFolder, *, clock: Clock, env: Mapping[str, str] | None = None
    ) -> None:
        """`env` is where Slurm's commands are looked for. Raises UsageError, StoreError."""
        self._folder = folder
        self._clock = clock
        self._env = env
        self._plan = load_plan(folder)
        self._progress = ProgressReader(folder, self._plan)

    def read(self) -> RunStatus:
        """The run now. Raises StoreError when a journal cannot be read."""
        folder, plan, now = self._folder, self._plan, self._clock.wall()
        reports = read_reports(folder)
        records = latest_submission(read_jobs(folder))
        rows, slurm_error = _ask_slurm(records, self._env, now, reports)
        jobs = tuple(_job_statuses(folder, records, rows))
        replicas = tuple(_replica_statuses(folder, jobs, reports, now))
        alive = frozenset(replica.name for replica in replicas if replica.is_alive)
        tasks = tuple(
            _task_status(task, self._progress.read(task), reports, alive) for task in plan.tasks
        )
        done = sum(task.done for task in tasks)
        rate = _total(task.rate_per_s for task in tasks)
        phase = describe_phase(tasks, replicas, jobs, is_gathered=is_gathered(folder))
        return RunStatus(
            run=plan.run,
            run_id=plan.run_id,
            folder=str(folder.root),
            time=now,
            phase=phase.word,
            message=phase.message,
            is_over=phase.is_over,
            expected=plan.n_units,
            done=done,
            rate_per_s=rate,
            eta_s=(plan.n_units - done) / rate if rate else None,
            tasks=tasks,
            replicas=replicas,
            jobs=jobs,
            slurm_error=slurm_error,
        )


def run_status(
    folder: RunFolder, *, clock: Clock, env: Mapping[str, str] | None = None
) -> RunStatus:
    """Look at a run once. Raises StoreError when its plan or a journal cannot be read."""
    return StatusReader(folder, clock=clock, env=env).read()


def _ask_slurm(
    records: Sequence[JobRecord],
    env: Mapping[str, str] | None,
    now: float,
    reports: Mapping[str, ReplicaReport],
) -> tuple[dict[str, JobRow], str | None]:
    commands = SlurmCommands(read_environment() if env is None else env)
    try:
        rows = job_rows(records, commands, now=now, reports=reports)
    except ClusterError as error:
        return {}, error.message
    return rows, NO_SLURM if any(row.reason == NO_SLURM for row in rows.values()) else None


def _task_status(
    task: TaskPlan,
    progress: TaskProgress,
    reports: Mapping[str, ReplicaReport],
    alive: frozenset[str],
) -> TaskStatus:
    seen = [report for report in reports.values() if task.name in report.tasks]
    rate = _total(r.tasks[task.name].rate_per_s or None for r in seen if r.replica in alive)
    # markers count finished shards, reports count what each last attempt did: the larger is better
    scored = sum(report.tasks[task.name].scored for report in seen)
    score_sum = sum(report.tasks[task.name].score_sum for report in seen)
    if progress.scored >= scored:
        scored, score_sum = progress.scored, progress.score_sum
    owed = task.n_units - progress.done
    return TaskStatus(
        name=task.name,
        expected=task.n_units,
        done=progress.done,
        outcomes=dict(sorted(progress.outcomes.items())),
        shards=task.n_shards,
        shards_done=progress.shards_done,
        score=score_sum / scored if scored else None,
        scored=scored,
        rate_per_s=rate,
        eta_s=owed / rate if rate else None,
    )


def _job_statuses(
    folder: RunFolder, records: Iterable[JobRecord], rows: Mapping[str, JobRow]
) -> Iterable[JobStatus]:
    for record in records:
        for index, element in enumerate(record.elements):
            row = rows.get(element)
            yield JobStatus(
                job_id=element,
                role=record.role,
                replica=record.replicas[index] if record.replicas else None,
                state=str(row.state) if row else "unknown",
                raw=row.raw if row else "",
                reason=row.reason if row else NO_ANSWER,
                nodes=row.nodes if row else "",
                log=_existing(folder.cluster / f"{element}_0_log.out"),
            )


def _replica_statuses(
    folder: RunFolder,
    jobs: Iterable[JobStatus],
    reports: Mapping[str, ReplicaReport],
    now: float,
) -> Iterable[ReplicaStatus]:
    by_replica = {job.replica: job for job in jobs if job.replica is not None}
    for name in sorted({*by_replica, *reports}, key=lambda name: (len(name), name)):
        job, report = by_replica.get(name), reports.get(name)
        if report is None:
            yield _unheard(name, job)
            continue
        fresh = report.is_fresh(now) and not (job and JobState(job.state).is_over)
        yield ReplicaStatus(
            name=name,
            state=_replica_state(report, job, fresh=fresh),
            job_id=job.job_id if job else report.job_id,
            node=(job.nodes if job else "") or report.host,
            is_alive=fresh,
            attempt=report.attempt,
            server=report.server,
            detail=report.detail if fresh else None,
            tokens_per_s=report.tokens_per_s if fresh else 0.0,
            in_flight=report.in_flight if fresh else 0,
            heartbeat_age_s=max(0.0, now - report.heartbeat),
            error=report.error,
            log=_existing(folder.worker_log(name, report.attempt)),
        )


def _replica_state(report: ReplicaReport, job: JobStatus | None, *, fresh: bool) -> str:
    if fresh:
        return report.state
    if job is not None and job.state in QUEUED:
        return "waiting"  # the report is of an earlier attempt
    if report.state in ENDED:
        return report.state
    return "ended" if job is not None and JobState(job.state).is_over else "silent"


def _unheard(name: str, job: JobStatus | None) -> ReplicaStatus:
    """A replica whose worker has not written anything."""
    if job is None:
        return ReplicaStatus(name, "waiting", None, None, None)
    state = "waiting" if JobState(job.state).is_live else "ended"
    return ReplicaStatus(name, state, job.job_id, job.nodes or None, job.log)


def _total(rates: Iterable[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None


def _existing(path: Path) -> str | None:
    return str(path) if path.exists() else None
