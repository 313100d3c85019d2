"""The state of a run: what is done (journals), who works (replicas), what Slurm says (jobs).

Markers, heartbeats and attempt records come first, and progress never depends on Slurm: when it does
not answer, that is shown beside numbers that hold. Slurm is asked seldom, see `evalkit.cluster.live`.
Nothing is written, so any number of people may watch one run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.cluster.accounting import History
from evalkit.cluster.answered_phase import stage_of
from evalkit.cluster.attempt_status import Parts, attempt_statuses
from evalkit.cluster.attempts import AttemptReader, AttemptRecord
from evalkit.cluster.env import read_environment
from evalkit.cluster.grading_progress import GradingReader
from evalkit.cluster.jobs import (
    JobRecord,
    latest_submission,
    owner_of,
    read_jobs,
    whose_turn,
)
from evalkit.cluster.listing import read_summary
from evalkit.cluster.live import NO_ANSWER, NOT_VISIBLE, Answer
from evalkit.cluster.phase import describe_phase
from evalkit.cluster.postmortem import DEFAULT_WARNING_S, Postmortem, is_past
from evalkit.cluster.progress import ProgressReader, is_gathered
from evalkit.cluster.replica_report import ENDED, ReplicaReport, read_reports
from evalkit.cluster.requeue import bad_nodes
from evalkit.cluster.scheduler import Scheduler
from evalkit.cluster.slurm import SlurmCommands
from evalkit.cluster.states import ON_NODES, JobState, what_to_do
from evalkit.cluster.status_tasks import task_status, total, with_result
from evalkit.cluster.status_values import (
    JobStatus,
    ReplicaStatus,
    RunStatus,
    TaskStatus,
)
from evalkit.cluster.troubles import group_failures, ungraded
from evalkit.cluster.unit_failures import UnitSources
from evalkit.cluster.usage import count_usage
from evalkit.errors import StoreError
from evalkit.store.layout import attempt_id
from evalkit.store.run import load_cluster, load_plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from evalkit.clock import Clock
    from evalkit.store.layout import RunFolder

__all__ = ["ReplicaStatus", "RunStatus", "StatusReader", "TaskStatus", "run_status"]

NOT_ASKED = Answer({}, History({}))
QUEUED = frozenset({JobState.PENDING, JobState.REQUEUED, JobState.HELD})


class StatusReader:
    """Looks at one run again and again; after the first look only what is new is read."""

    def __init__(
        self, folder: RunFolder, *, clock: Clock, env: Mapping[str, str] | None = None
    ) -> None:
        """`env` is where Slurm's commands are looked for. Raises UsageError, StoreError."""
        self._folder = folder
        self._clock = clock
        self._plan = load_plan(folder)
        self._progress = ProgressReader(folder, self._plan)
        self._gradings = GradingReader(folder, self._plan)
        self._attempts = AttemptReader(folder)
        self._postmortem = Postmortem()
        self._scheduler = Scheduler(SlurmCommands(read_environment() if env is None else env))

    def read(self) -> RunStatus:
        """The run now. Raises StoreError when a journal cannot be read."""
        parts = self.look()
        answer = self._scheduler.look(
            parts.records,
            parts.unexplained,
            now=parts.now,
            monotonic=self._clock.monotonic(),
            reports=parts.reports,
        )
        return self.tell(parts, answer)

    def is_complete(self) -> bool:
        """A gather found every task complete, and nothing is owed. Raises StoreError."""
        done = (self._progress.read(task).done for task in self._plan.tasks)
        return is_gathered(self._folder) and sum(done) == self._plan.n_units

    def tell(self, parts: Parts, answer: Answer) -> RunStatus:
        """The run as of these parts and what Slurm says. Raises StoreError."""
        folder, plan = self._folder, self._plan
        parts = parts._replace(answer=answer)
        jobs = tuple(_job_statuses(folder, parts))
        replicas = tuple(_replica_statuses(folder, jobs, parts))
        alive = frozenset(replica.name for replica in replicas if replica.is_alive)
        progress = {task.name: self._progress.read(task) for task in plan.tasks}
        gradings = {t.name: c for t in plan.tasks if (c := self._gradings.read(t)) is not None}
        gathered = is_gathered(folder)
        results = _results(folder) if gathered else {}
        tasks = tuple(
            with_result(
                task_status(
                    t, progress[t.name], gradings.get(t.name), parts.reports, alive, parts.now
                ),
                results.get(t.name),
            )
            for t in plan.tasks
        )
        done = sum(task.done for task in tasks)
        rate = total(task.rate_per_s for task in tasks)
        eta_s = (plan.n_units - done) / rate if rate else None
        attempts = tuple(attempt_statuses(folder, jobs, parts, self._postmortem))
        sources = UnitSources(progress, gradings, attempts, jobs)
        failures = group_failures(folder, sources, parts.answer.rows, parts.answer.history)
        phase = describe_phase(tasks, replicas, jobs, failures, is_gathered=gathered)
        if phase.is_over:
            failures = (*failures, *ungraded(tasks))
        working = frozenset(attempt.id for attempt in attempts if attempt.is_alive)
        return RunStatus(
            run=plan.run,
            run_id=plan.run_id,
            folder=str(folder.root),
            time=parts.now,
            phase=phase.word,
            message=phase.message,
            is_over=phase.is_over,
            is_blind=phase.is_blind,
            expected=plan.n_units,
            done=done,
            rate_per_s=rate,
            eta_s=eta_s,
            tasks=tasks,
            replicas=replicas,
            jobs=jobs,
            attempts=attempts,
            failures=failures,
            usage=count_usage(parts.attempts, working, eta_s) if attempts else None,
            bad_nodes=bad_nodes(parts.attempts),
            slurm_error=parts.answer.error,
            stage=stage_of(tasks, is_gathered=gathered),
        )

    def look(self) -> Parts:
        """What files say now, without an answer of Slurm. Raises StoreError."""
        now = self._clock.wall()
        reports = read_reports(self._folder)
        attempts = self._attempts.read()
        known = read_jobs(self._folder)
        records = latest_submission(known)
        unexplained = _unexplained(known, attempts, reports, now)
        warning_s = _warning_s(self._folder)
        return Parts(known, records, reports, attempts, NOT_ASKED, now, warning_s, unexplained)


def run_status(
    folder: RunFolder, *, clock: Clock, env: Mapping[str, str] | None = None
) -> RunStatus:
    """Look at a run once. Raises StoreError when its plan or a journal cannot be read."""
    return StatusReader(folder, clock=clock, env=env).read()


def _results(folder: RunFolder) -> dict[str, str]:
    """What was gathered, by task; nothing where the summary is not readable."""
    summary = read_summary(folder)
    found = () if summary is None else summary.tasks
    return {task.task: task.headline.words for task in found if task.headline is not None}


def _warning_s(folder: RunFolder) -> float:
    """How long before their time limit the jobs are warned, as far as the settings can be read."""
    try:
        return float(load_cluster(folder).signal_delay_s)
    except StoreError:
        return DEFAULT_WARNING_S


def _unexplained(
    records: Sequence[JobRecord],
    attempts: Iterable[AttemptRecord],
    reports: Mapping[str, ReplicaReport],
    now: float,
) -> list[JobRecord]:
    """Jobs with attempts of which only Slurm may know how they ended."""
    heard = {attempt_id(r.replica, r.attempt) for r in reports.values() if r.is_fresh(now)}
    ids = {
        attempt.job_id.partition("_")[0]
        for attempt in attempts
        if attempt.end != "done" and (attempt.ended is not None or attempt.id not in heard)
    }
    return [record for record in records if record.job_id in ids]


def _job_statuses(folder: RunFolder, parts: Parts) -> Iterable[JobStatus]:
    silent = NOT_VISIBLE if parts.answer.error is None else NO_ANSWER
    for record in parts.records:
        for index, element in enumerate(record.elements):
            row = parts.answer.rows.get(element)
            state = row.state if row else JobState.UNKNOWN
            reason = row.reason if row else silent
            owner = owner_of(folder, record)
            turn = whose_turn(owner, element).root if record.shared else folder.root
            yield JobStatus(
                job_id=element,
                role=record.role,
                replica=record.replicas[index] if record.replicas else None,
                state=str(state),
                raw=row.raw if row else "",
                reason=reason,
                nodes=row.nodes if row else "",
                log=_existing(owner.job_log(element)),
                works_for=None if turn == folder.root else turn.name,
                advice=what_to_do(element, state, row.raw if row else "", reason),
                excluded=row.excluded if row else "",
            )


def _replica_statuses(
    folder: RunFolder, jobs: Iterable[JobStatus], parts: Parts
) -> Iterable[ReplicaStatus]:
    by_replica = {job.replica: job for job in jobs if job.replica is not None}
    of_replica: dict[str, list[AttemptRecord]] = {}
    for attempt in parts.attempts:
        of_replica.setdefault(attempt.replica, []).append(attempt)
    for name in sorted({*by_replica, *parts.reports}, key=lambda name: (len(name), name)):
        job, report = by_replica.get(name), parts.reports.get(name)
        mine = of_replica.get(name, [])
        if report is None:
            yield _unheard(name, job, len(mine))
            continue
        fresh = report.is_fresh(parts.now) and not (job and JobState(job.state).is_over)
        yield ReplicaStatus(
            name=name,
            state=_replica_state(report, job, fresh=fresh, is_past=_is_past(report, mine, parts)),
            job_id=job.job_id if job else report.job_id,
            node=(job.nodes if job else "") or report.host,
            is_alive=fresh,
            attempt=report.attempt,
            attempts=len(mine),
            restarts=sum(attempt.restarts for attempt in mine),
            server=report.server,
            detail=report.detail if fresh else None,
            tokens_per_s=report.tokens_per_s if fresh else 0.0,
            in_flight=report.in_flight if fresh else 0,
            warnings=tuple(report.warnings),
            heartbeat_age_s=max(0.0, parts.now - report.heartbeat),
            error=report.error,
            log=_existing(folder.worker_log(name, report.attempt)),
        )


def _is_past(report: ReplicaReport, mine: Iterable[AttemptRecord], parts: Parts) -> bool:
    """Whether a report is of an execution before the one that the job runs now."""
    spoke = [attempt for attempt in mine if attempt.attempt == report.attempt]
    return any(is_past(attempt, parts.answer.history) for attempt in spoke)


def _replica_state(
    report: ReplicaReport, job: JobStatus | None, *, fresh: bool, is_past: bool
) -> str:
    if fresh:
        return report.state
    if job is not None and (job.state in QUEUED or (is_past and job.state in ON_NODES)):
        return "waiting"  # the report is of an earlier attempt
    if report.state in ENDED:
        return report.state
    if job is not None and job.state == JobState.SUSPENDED:
        return "suspended"
    return "ended" if job is not None and JobState(job.state).is_over else "silent"


def _unheard(name: str, job: JobStatus | None, attempts: int) -> ReplicaStatus:
    """A replica whose worker has not written anything."""
    if job is None:
        return ReplicaStatus(name, "waiting", None, None, None, attempts=attempts)
    state = "waiting" if not JobState(job.state).is_over else "ended"
    return ReplicaStatus(name, state, job.job_id, job.nodes or None, job.log, attempts=attempts)


def _existing(path: Path) -> str | None:
    return str(path) if path.exists() else None
