"""What the scheduler knows of a run's jobs right now: one squeue and one sacct for all of them.

A job that neither knows is `unknown`: just submitted (accounting lags), or long forgotten; so is every
Slurm job where there is no Slurm, as for a run folder that was copied. Whether work is done is never
concluded from here.
"""

from __future__ import annotations

import socket
from types import MappingProxyType
from typing import TYPE_CHECKING

import psutil

from evalkit.cluster.local import find_process
from evalkit.cluster.slurm import JobRow, SlurmCommands
from evalkit.cluster.states import JobState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from evalkit.cluster.jobs import JobRecord
    from evalkit.cluster.replica_report import ReplicaReport

VISIBLE_AFTER_S = 120.0
"""A new job is in squeue or sacct by then; later it is lost (purged, or no accounting)."""
NOT_VISIBLE = "not visible yet"
FORGOTTEN = "Slurm no longer knows it"
NO_ANSWER = "Slurm does not answer"
NO_SLURM = "there is no Slurm on this machine to ask"
NO_REPORTS: Mapping[str, ReplicaReport] = MappingProxyType({})
SINCE_MARGIN_S = 3600.0
"""The submit host's clock may be off against the controller's."""


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
    rows: dict[str, JobRow] = {}
    slurm = [record for record in records if record.executor == "slurm"]
    if slurm and not commands.has("squeue"):
        rows.update(_heard_rows(slurm, reports, now))
    elif slurm:
        rows.update(_slurm_rows(slurm, commands, now))
    for record in records:
        if record.executor == "local":
            rows[record.job_id] = _local_row(record, reports, now)
    return rows


def live_elements(
    records: Sequence[JobRecord],
    commands: SlurmCommands,
    *,
    now: float,
    reports: Mapping[str, ReplicaReport] = NO_REPORTS,
) -> set[str]:
    """Elements that run or may still run; also those submitted so recently that nobody can say."""
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
        if row.state.is_live or (row.state is JobState.UNKNOWN and element in young)
    }


def _slurm_rows(
    records: Sequence[JobRecord], commands: SlurmCommands, now: float
) -> dict[str, JobRow]:
    name = records[0].name
    queued = commands.queue(_ids(records), name)
    rest = [r for r in records if any(element not in queued for element in r.elements)]
    since = min((record.time for record in rest), default=now) - SINCE_MARGIN_S
    ended = commands.accounting(_ids(rest), name, since)
    rows = {}
    for record in records:
        for element in record.elements:
            unknown = _unknown(element, record, now)
            rows[element] = queued.get(element) or ended.get(element) or unknown
    return rows


def _unknown(element: str, record: JobRecord, now: float) -> JobRow:
    new = now - record.time < VISIBLE_AFTER_S
    reason = NOT_VISIBLE if new else FORGOTTEN
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
        reason = "" if speaks else f"only {record.host} can say"
    elif find_process(int(record.job_id), record.started) is not None:
        state, reason = JobState.RUNNING, ""
    elif speaks and any(psutil.pid_exists(report.pid) for report in heard):
        state, reason = JobState.UNKNOWN, "its worker goes on without it"
    elif record.role == "gather":
        state, reason = JobState.UNKNOWN, "the process has ended"  # its artifacts say how
    else:
        # a report older than the job is of an earlier one
        state, reason = _local_end([r for r in heard if r.heartbeat >= record.time])
    return JobRow(record.job_id, state, "", reason, record.host)


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
