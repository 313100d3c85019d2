"""What Slurm's accounting knows of every execution of a job: sacct, all attempts, one query.

A job that was preempted and requeued has a row per execution only with `--duplicates`. Accounting may
be behind by seconds, switched off, or down; then less is known, and nothing else follows from it. Ids
start again when a controller is reset: rows of another name, or submitted before the job was, are of
another job.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from evalkit.cluster.slurm import (
    CLOCK_MARGIN_S,
    JobRow,
    SlurmCommands,
    expand_job_id,
)
from evalkit.cluster.slurm_times import parse_time, render_time
from evalkit.cluster.states import JobState, job_state
from evalkit.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.cluster.jobs import JobRecord

FORMAT = "JobID,State,ExitCode,Submit,Start,End,NodeList,JobName"
SWITCHED_OFF = ("accounting storage is disabled", "accounting_storage/none")
NO_ACCOUNTS = "this Slurm keeps no accounts of jobs that have ended"


class Execution(NamedTuple):
    """One execution of a job or array element. Times are Unix times (s); null: none, or not said."""

    element: str
    state: JobState
    raw: str
    exit_code: str
    submitted: float | None
    started: float | None
    ended: float | None
    nodes: str

    def to_row(self) -> JobRow:
        """As the present state of the job."""
        return JobRow(self.element, self.state, self.raw, "", self.nodes, self.exit_code)


class History(NamedTuple):
    """All executions by element, oldest first, and why some may be missing."""

    executions: Mapping[str, tuple[Execution, ...]]
    error: str | None = None

    def of(self, element: str) -> tuple[Execution, ...]:
        """Of one job or array element."""
        return self.executions.get(element, ())


class Accounts(NamedTuple):
    """What sacct printed, for the jobs of any number of runs, and why it may have said less."""

    text: str = ""
    error: str | None = None

    def of(self, records: Sequence[JobRecord]) -> History:
        """The executions of these jobs."""
        return History(parse_history(self.text, records), self.error)


def read_accounts(commands: SlurmCommands, records: Sequence[JobRecord]) -> Accounts:
    """Ask sacct for these jobs, once. Never raises: what cannot be asked is in `error`."""
    if not records:
        return Accounts()
    if not commands.has("sacct"):
        return Accounts(error=NO_ACCOUNTS)
    since = min(record.time for record in records) - CLOCK_MARGIN_S
    ids = ",".join(dict.fromkeys(record.job_id for record in records))
    try:
        ended = commands.run(
            *("sacct", "-X", "--parsable2", "--noheader", "--duplicates"),
            *(f"--starttime={render_time(since)}", "-j", ids, f"--format={FORMAT}"),
        )
    except ClusterError as error:
        return Accounts(error=error.message)
    if ended.returncode:
        off = any(text in ended.stderr.lower() for text in SWITCHED_OFF)
        return Accounts(error=NO_ACCOUNTS if off else f"sacct failed: {ended.stderr}")
    return Accounts(ended.stdout)


def parse_history(text: str, records: Sequence[JobRecord]) -> dict[str, tuple[Execution, ...]]:
    """sacct's rows in FORMAT by element, of these jobs, in the order of their start."""
    submitted: dict[tuple[str, str], float] = {}
    for record in records:
        key = (record.job_id, record.name)
        submitted[key] = min(record.time, submitted.get(key, record.time))
    found: dict[str, list[Execution]] = defaultdict(list)
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) != 8:
            continue
        when = submitted.get((fields[0].partition("_")[0], fields[7]))
        if when is None:
            continue
        for element in expand_job_id(fields[0]):
            row = _execution(element, fields)
            if row.submitted is None or row.submitted >= when - CLOCK_MARGIN_S:
                found[element].append(row)
    return {element: tuple(sorted(rows, key=_order)) for element, rows in found.items()}


def _execution(element: str, fields: Sequence[str]) -> Execution:
    _, raw, exit_code, submitted, started, ended, nodes, _ = fields
    times = (parse_time(submitted), parse_time(started), parse_time(ended))
    said = "" if nodes == "None assigned" else nodes
    return Execution(element, job_state(raw), raw, exit_code, *times, said)


def _order(row: Execution) -> tuple[float, float]:
    """One that has not started comes last: it is the one that waits now."""
    return (row.submitted or 0.0, row.started or float("inf"))
