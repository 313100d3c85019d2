"""What the scheduler knows of a run's jobs right now: one squeue and one sacct for all of them.

A job that neither knows is `unknown`: just submitted (accounting lags), or long forgotten. Whether
work is done is never concluded from here.
"""

from __future__ import annotations

import socket
from types import MappingProxyType
from typing import TYPE_CHECKING

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

    `reports` tell of local processes on another machine, which nothing else can see.
    """
    rows: dict[str, JobRow] = {}
    slurm = [record for record in records if record.executor == "slurm"]
    if slurm:
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


def _local_row(record: JobRecord, reports: Mapping[str, ReplicaReport], now: float) -> JobRow:
    if record.host != socket.gethostname():
        heard = [reports[name] for name in record.replicas if name in reports]
        lives = any(report.is_fresh(now) for report in heard)
        reason = f"only {record.host} can say"
    else:
        lives = find_process(int(record.job_id), record.started) is not None
        reason = "the process has ended"
    state = JobState.RUNNING if lives else JobState.UNKNOWN
    return JobRow(record.job_id, state, "", "" if lives else reason, record.host)


def _ids(records: Iterable[JobRecord]) -> list[str]:
    return [record.job_id for record in records]
