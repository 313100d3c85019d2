"""What the scheduler knows of jobs right now: one squeue and one sacct for all of them, of all runs.

A job that neither knows is `unknown`: just submitted (accounting lags), or long forgotten; so is every
Slurm job where there is no Slurm, as for a run folder that was copied. Whether work is done is never
concluded from here. The controller is shared by everybody: who looks again and again asks through
`evalkit.cluster.scheduler`.
"""

from __future__ import annotations

import contextlib
import socket
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import psutil

from evalkit.cluster.accounting import NO_ACCOUNTS, History, read_accounts
from evalkit.cluster.processes import START_TOLERANCE_S, find_process
from evalkit.cluster.replica_report import ENDED
from evalkit.cluster.slurm import JobRow, Queue, SlurmCommands
from evalkit.cluster.states import LIVE, JobState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from evalkit.cluster.jobs import JobRecord
    from evalkit.cluster.replica_report import ReplicaReport

VISIBLE_AFTER_S = 120.0
"""A new job is in squeue or sacct by then; later it is lost (purged, or no accounting)."""
NOT_VISIBLE = "not visible yet"
FORGOTTEN = "Slurm no longer knows it"
SEEN_GONE = "`evalkit cancel` has seen it gone"
NO_ANSWER = "Slurm does not answer"
NO_SLURM = "there is no Slurm on this machine to ask"
ELSEWHERE = "its processes can be seen only on"
"""Begins the reason for a local job of another machine, whose name follows."""
NO_REPORTS: Mapping[str, ReplicaReport] = MappingProxyType({})
STALE_ROW_S = 3600.0
"""Accounting that calls a job live whose execution ended so long ago, and that the queue does not have,
is behind for ever: some sites keep the row of a requeued execution. Without an end it is believed: a
job too many that lives is better than one too few."""


class Question(NamedTuple):
    """What is asked of one run."""

    records: Sequence[JobRecord]
    """Jobs whose state is asked for."""
    unexplained: Sequence[JobRecord]
    """Jobs of which only the history is."""
    reports: Mapping[str, ReplicaReport] = NO_REPORTS
    """Tell of what nothing else can see: local processes of another machine, and Slurm's jobs where
    there is no Slurm."""

    @property
    def on_slurm(self) -> bool:
        """Whether Slurm is asked."""
        return bool(on_slurm([*self.records, *self.unexplained]))


class Answer(NamedTuple):
    """What Slurm (or this machine's process table) says."""

    rows: Mapping[str, JobRow]
    """The present state of every element that was asked for."""
    history: History
    error: str | None = None
    """Why the rows are not known, or not all."""


def job_rows(
    records: Sequence[JobRecord],
    commands: SlurmCommands,
    *,
    now: float,
    reports: Mapping[str, ReplicaReport] = NO_REPORTS,
) -> dict[str, JobRow]:
    """A row for every element of these jobs. Raises ClusterError when Slurm does not answer.

    `reports` tell of what nothing else can see: local processes of another machine, and Slurm's jobs
    where there is no Slurm.
    """
    return dict(ask(records, (), commands, now=now, reports=reports).rows)


def ask(
    records: Sequence[JobRecord],
    unexplained: Sequence[JobRecord],
    commands: SlurmCommands,
    *,
    now: float,
    reports: Mapping[str, ReplicaReport] = NO_REPORTS,
) -> Answer:
    """The state of `records`, and the history of those and of `unexplained`: see `ask_all`."""
    [answer] = ask_all([Question(records, unexplained, reports)], commands, now=now)
    return answer


def ask_all(questions: Sequence[Question], commands: SlurmCommands, *, now: float) -> list[Answer]:
    """What is known of each run, in the order of `questions`: one squeue, one sacct.

    Raises ClusterError when the queue cannot be asked.
    """
    if not commands.has("squeue"):
        return [_without_slurm(question, now) for question in questions]
    jobs = [on_slurm(question.records) for question in questions]
    queue = commands.queue(job_ids(record for records in jobs for record in records))
    queued = [_rows_of(queue, records) for records in jobs]
    untold = [
        [
            *(r for r in records if not rows.keys() >= {*r.elements}),
            *on_slurm(question.unexplained),
        ]
        for records, rows, question in zip(jobs, queued, questions, strict=True)
    ]
    accounts = read_accounts(commands, [record for records in untold for record in records])
    answers = []
    for question, records, rows, asked in zip(questions, jobs, queued, untold, strict=True):
        history = accounts.of(asked) if asked else History({})
        found = _slurm_rows(records, rows, history, now) | _local_rows(question, now)
        answers.append(
            Answer(found, history, None if history.error == NO_ACCOUNTS else history.error)
        )
    return answers


def _rows_of(queue: Queue, records: Sequence[JobRecord]) -> dict[str, JobRow]:
    """Rows of a run's jobs. A job that it shares has another run's name."""
    rows: dict[str, JobRow] = {}
    for name in dict.fromkeys(record.name for record in records):
        since = min(record.time for record in records if record.name == name)
        rows |= queue.of(name, since)
    return rows


def _without_slurm(question: Question, now: float) -> Answer:
    rows = _heard_rows(on_slurm(question.records), question.reports, now)
    error = NO_SLURM if any(row.reason == NO_SLURM for row in rows.values()) else None
    return Answer(rows | _local_rows(question, now), History({}), error)


def live_elements(
    records: Sequence[JobRecord],
    commands: SlurmCommands,
    *,
    now: float,
    reports: Mapping[str, ReplicaReport] = NO_REPORTS,
) -> set[str]:
    """Elements that run or may still run; also those submitted so recently that nobody can say, and
    those that Slurm has, in a state that is not known here."""
    if not records:
        return set()
    rows = job_rows(records, commands, now=now, reports=reports)
    young = {
        element
        for record in records
        if record.executor == "slurm" and now - record.time < VISIBLE_AFTER_S
        for element in record.elements
    }
    return {
        element
        for element, row in rows.items()
        if row.state.is_live or (row.state is JobState.UNKNOWN and (row.raw or element in young))
    }


def _slurm_rows(
    records: Sequence[JobRecord], queued: Mapping[str, JobRow], history: History, now: float
) -> dict[str, JobRow]:
    rows = {}
    for record in records:
        for element in record.elements:
            rows[element] = queued.get(element) or _ended_row(element, record, history, now)
    return rows


def _ended_row(element: str, record: JobRecord, history: History, now: float) -> JobRow:
    """Of a job that is not in the queue."""
    new = now - record.time < VISIBLE_AFTER_S
    executions = history.of(element)
    if record.gone and not (executions and executions[-1].state.is_over):
        return JobRow(element, JobState.CANCELLED, "", SEEN_GONE)
    if executions:
        last = executions[-1]
        is_behind = last.state in LIVE and last.ended is not None and now - last.ended > STALE_ROW_S
        if last.state is JobState.UNKNOWN and last.ended is not None:
            return JobRow(element, JobState.UNKNOWN, "", f"ended as {last.raw}", last.nodes)
        if not is_behind:
            return last.to_row()
        new = False
    if history.error is not None and history.error != NO_ACCOUNTS:
        reason = NO_ANSWER
    else:
        reason = NOT_VISIBLE if new else history.error or FORGOTTEN
    return JobRow(element, JobState.UNKNOWN, "", reason)


def _heard_rows(
    records: Sequence[JobRecord], reports: Mapping[str, ReplicaReport], now: float
) -> dict[str, JobRow]:
    """Slurm's jobs where Slurm is absent: those whose worker is heard run, the others are unknown."""
    rows = {}
    for record in records:
        for index, element in enumerate(record.elements):
            report = reports.get(record.replicas[index]) if record.replicas else None
            heard = report is not None and report.is_fresh(now) and report.job_id == element
            state = JobState.RUNNING if heard else JobState.UNKNOWN
            rows[element] = JobRow(element, state, "", "" if heard else NO_SLURM)
    return rows


def _local_rows(question: Question, now: float) -> dict[str, JobRow]:
    local = [record for record in question.records if record.executor == "local"]
    return {record.job_id: _local_row(record, question.reports, now) for record in local}


def _local_row(record: JobRecord, reports: Mapping[str, ReplicaReport], now: float) -> JobRow:
    """A process of this host is alive or gone, whatever its last report says."""
    heard = [reports[name] for name in record.replicas if name in reports]
    speaks = any(report.is_fresh(now) for report in heard)
    if record.host != socket.gethostname():
        state = JobState.RUNNING if speaks else JobState.UNKNOWN
        reason = "" if speaks else f"{ELSEWHERE} {record.host}"
    elif find_process(int(record.job_id), record.started) is not None:
        state, reason = JobState.RUNNING, ""
    elif find_worker(record, reports) is not None:
        state, reason = JobState.RUNNING, "its worker goes on without its controller"
    elif record.role == "gather":
        state, reason = JobState.UNKNOWN, "the process has ended"  # its artifacts say how
    else:
        # a report older than the job is of an earlier one
        state, reason = _local_end([r for r in heard if r.heartbeat >= record.time])
    return JobRow(record.job_id, state, "", reason, record.host)


def find_worker(record: JobRecord, reports: Mapping[str, ReplicaReport]) -> psutil.Process | None:
    """The process that works for a local job of this machine; None when it has ended.

    A process that got the id of a worker that is gone is younger than that worker's report.
    """
    for report in (reports[name] for name in record.replicas if name in reports):
        if report.job_id != record.job_id or report.host != socket.gethostname():
            continue
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(report.pid)
            is_ours = process.create_time() < report.started + START_TOLERANCE_S
            if is_ours and report.state not in ENDED and process.status() != psutil.STATUS_ZOMBIE:
                return process
    return None


def _local_end(reports: Sequence[ReplicaReport]) -> tuple[JobState, str]:
    """How a process that is gone has ended, from its worker's last words."""
    if not reports:
        return JobState.FAILED, "its process ended without a word"
    last = reports[0].state
    ends = {"done": JobState.DONE, "failed": JobState.FAILED, "interrupted": JobState.CANCELLED}
    if last in ends:
        return ends[last], "interrupted" if last == "interrupted" else ""
    return JobState.FAILED, f"killed while it was {last}"


def on_slurm(records: Iterable[JobRecord]) -> list[JobRecord]:
    """Those of these jobs that are Slurm's."""
    return [record for record in records if record.executor == "slurm"]


def job_ids(records: Iterable[JobRecord]) -> list[str]:
    """Ids of these jobs, without array indices."""
    return [record.job_id for record in records]
