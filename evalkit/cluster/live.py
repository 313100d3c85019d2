"""What the scheduler knows of a run's jobs right now: one squeue and one sacct for all of them.

A job that neither knows is `unknown`: just submitted (accounting lags), or long forgotten; so is every
Slurm job where there is no Slurm, as for a run folder that was copied. Whether work is done is never
concluded from here.

The controller is shared by everybody: who looks again and again asks a `Scheduler`, which waits between
two queries, and longer when nothing changes.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import psutil

from evalkit.cluster.accounting import NO_ACCOUNTS, History, read_history
from evalkit.cluster.local import START_TOLERANCE_S, find_process
from evalkit.cluster.replica_report import ENDED
from evalkit.cluster.slurm import JobRow, SlurmCommands
from evalkit.cluster.states import LIVE, JobState
from evalkit.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

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
ASK_EVERY_S = 30.0
ASK_AT_MOST_EVERY_S = 180.0
"""Queries are at least 30 s apart, and up to three minutes while the answers stay the same."""
ASK_SOON_S = 5.0
"""After something has changed on disk (a replica ended or fell silent, a new submit) Slurm may know more."""
NO_REPORTS: Mapping[str, ReplicaReport] = MappingProxyType({})
STALE_ROW_S = 3600.0
"""Accounting that calls a job live whose execution ended so long ago, and that the queue does not have,
is behind for ever: some sites keep the row of a requeued execution. Without an end it is believed: the
queue may not show jobs of hidden partitions."""


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
    """The state of `records`, and the history of those and of `unexplained`: one squeue, one sacct.

    Raises ClusterError when the queue cannot be asked.
    """
    rows: dict[str, JobRow] = {}
    history, error = History({}), None
    slurm = [record for record in records if record.executor == "slurm"]
    earlier = [record for record in unexplained if record.executor == "slurm"]
    if (slurm or earlier) and not commands.has("squeue"):
        rows.update(_heard_rows(slurm, reports, now))
        error = NO_SLURM if any(row.reason == NO_SLURM for row in rows.values()) else None
    elif slurm or earlier:
        since = min((record.time for record in slurm), default=now)
        queued = commands.queue(_ids(slurm), slurm[0].name, since) if slurm else {}
        rest = [r for r in slurm if any(element not in queued for element in r.elements)]
        history = read_history(commands, [*rest, *earlier])
        rows.update(_slurm_rows(slurm, queued, history, now))
        error = None if history.error == NO_ACCOUNTS else history.error
    for record in records:
        if record.executor == "local":
            rows[record.job_id] = _local_row(record, reports, now)
    return Answer(rows, history, error)


@dataclass(slots=True)
class Scheduler:
    """Slurm for somebody who looks at one run again and again: asked seldom, remembered between."""

    commands: SlurmCommands
    answer: Answer = field(default_factory=lambda: Answer({}, History({})))
    asked: float | None = None
    """Monotonic time (s) of the last query."""
    wait_s: float = ASK_EVERY_S
    seen: Hashable = None
    """What was on disk at the last query."""
    known: History = field(default_factory=lambda: History({}))

    def look(
        self,
        records: Sequence[JobRecord],
        unexplained: Sequence[JobRecord],
        *,
        now: float,
        monotonic: float,
        reports: Mapping[str, ReplicaReport],
    ) -> Answer:
        """The last answer, or a new one when it is time. Never raises: see `Answer.error`."""
        on_slurm = any(record.executor == "slurm" for record in (*records, *unexplained))
        if not on_slurm or not self.commands.has("squeue"):  # nobody to spare
            return ask(records, (), self.commands, now=now, reports=reports)
        seen = _on_disk(records, unexplained, reports, now)
        if self._is_due(seen, monotonic):
            before = self.answer
            self.answer = self._ask(records, unexplained, now, reports)
            is_new = self.asked is None or self.seen != seen or before.rows != self.answer.rows
            self.wait_s = ASK_EVERY_S if is_new else min(2 * self.wait_s, ASK_AT_MOST_EVERY_S)
            self.asked, self.seen = monotonic, seen
        return self.answer

    def _is_due(self, seen: Hashable, monotonic: float) -> bool:
        if self.asked is None:
            return True
        passed = monotonic - self.asked
        return passed >= (ASK_SOON_S if seen != self.seen else self.wait_s)

    def _ask(
        self,
        records: Sequence[JobRecord],
        unexplained: Sequence[JobRecord],
        now: float,
        reports: Mapping[str, ReplicaReport],
    ) -> Answer:
        try:
            found = ask(records, unexplained, self.commands, now=now, reports=reports)
        except ClusterError as error:  # the last rows are old by now: better none than those
            return Answer({}, self.known, error.message)
        executions = {**self.known.executions, **found.history.executions}
        self.known = History(executions, found.history.error)
        return found._replace(history=self.known)


def _on_disk(
    records: Sequence[JobRecord],
    unexplained: Sequence[JobRecord],
    reports: Mapping[str, ReplicaReport],
    now: float,
) -> Hashable:
    """What tells that Slurm may have news: jobs, and attempts that speak, end or fall silent."""
    said = [(r.replica, r.attempt, r.state, r.is_fresh(now)) for r in reports.values()]
    return (tuple(_ids(records)), tuple(_ids(unexplained)), tuple(sorted(said)))


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


def _ids(records: Iterable[JobRecord]) -> list[str]:
    return [record.job_id for record in records]
