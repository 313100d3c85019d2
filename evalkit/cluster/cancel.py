"""Stop what works on a run, the whole chain of it: its Slurm jobs, or its processes on this machine.

Journals stay as they are, so a cancelled run goes on with the next submit. A job that is about to
requeue itself when it is cancelled may come back (Slurm takes the later of two orders), so the queue
is looked at until nothing of the run is in it, and what came back is cancelled again; what comes back
after that meets the fence (see `evalkit.cluster.jobs`) and ends. Jobs are found by their name as well
as by the record, for a submit may be killed between a job and its record. A process is signalled only
when its id and its start time are those that were recorded: ids come back after a reboot.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil
from filelock import FileLock, Timeout

from evalkit.cluster.credentials import remove_secrets, secrets_file
from evalkit.cluster.jobs import (
    Fence,
    JobRecord,
    is_wanted_elsewhere,
    job_name,
    latest_submission,
    read_jobs,
    write_fence,
)
from evalkit.cluster.live import find_worker, live_elements
from evalkit.cluster.processes import find_process, kill_tree
from evalkit.cluster.replica_report import read_reports
from evalkit.cluster.slurm import SlurmCommands
from evalkit.errors import ClusterError, StoreError
from evalkit.store.leases import forget_leases
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from evalkit.clock import Clock
    from evalkit.cluster.replica_report import ReplicaReport
    from evalkit.store.layout import RunFolder

DRAIN_WAIT_S = 60.0
"""A local worker drains in about 25 s and then stops its server; what is left after this is killed."""
KILL_WAIT_S = 30.0
"""Slurm's default time between the TERM and the KILL of a cancelled job."""
MARGIN_S = 30.0
"""After its KillWait Slurm kills, runs the epilog and frees the node: seconds on a quiet cluster."""
SUBMIT_WAIT_S = 30.0
"""A submit looks up what is owed and calls sbatch a few times."""
POLL_S = 1.0
LOOKS = 2
"""Looks at an empty queue before it is believed: an order to requeue may be on its way still."""
ROW_FORMAT = "%F|%i|%T|%r|%N|%j|%o"


class QueuedJob(NamedTuple):
    """A row of squeue."""

    job_id: str
    """Of the whole array."""
    element: str
    state: str
    """Slurm's own word."""
    reason: str
    nodes: str
    script: str
    """Path of its batch script, as it was submitted."""

    def __str__(self) -> str:
        where = f" on {self.nodes}" if self.nodes else ""
        return f"{self.element} ({self.state.lower()}{where})"


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What was stopped."""

    jobs: tuple[JobRecord, ...]
    killed: tuple[int, ...] = ()
    """Local processes that did not end by themselves."""
    unrecorded: tuple[str, ...] = ()
    """Slurm jobs of the run that no submit had noted."""
    left: tuple[str, ...] = ()
    """What is still there, in words."""
    spared: tuple[JobRecord, ...] = ()
    """Jobs that other runs share: they leave this one out."""

    @property
    def text(self) -> str:
        """One line for a person."""
        named = [f"{job.job_id} ({', '.join(job.replicas) or job.role})" for job in self.jobs]
        named += [f"{job_id} (not on record)" for job_id in self.unrecorded]
        if self.spared:
            ids = ", ".join(job.job_id for job in self.spared)
            rest = f"; {replace(self, spared=()).text}" if named else ""
            return f"job {ids} is shared, leaves this run out and goes on with the others{rest}"
        if not named:
            return "nothing of this run was running or waiting"
        kind = "process" if self.jobs and self.jobs[0].executor == "local" else "job"
        plural = "es" if kind == "process" else "s"
        what = f"{kind}{plural if len(named) > 1 else ''} {', '.join(named)}"
        if self.left:
            return f"told {what} to end; still there: {', '.join(self.left)}"
        return f"stopped {what}; finished work is kept, `evalkit submit` continues the run"


def cancel_run(
    folder: RunFolder, *, clock: Clock, env: Mapping[str, str], wait_s: float | None = None
) -> Cancelled:
    """Cancel everything of the run that runs or waits, and see it end.

    Waits at most `wait_s` for that (by default Slurm's KillWait and half a minute, or a minute for
    processes of this machine, which are killed then). Raises ClusterError, StoreError.
    """
    commands = SlurmCommands(env)
    if any(record.executor == "slurm" for record in latest_submission(read_jobs(folder))):
        _require_slurm(commands)
    records, last = fence_off(folder)
    on_slurm = any(record.executor == "slurm" for record in latest_submission(records))
    on_slurm = on_slurm or (not records and commands.has("squeue") and _was_submitting(folder))
    reports = read_reports(folder)
    live = live_elements(records, commands, now=clock.wall(), reports=reports)
    # the gather first: it would start as soon as the last replica is gone
    found = [record for record in records if live.intersection(record.elements)]
    spared = tuple(record for record in found if is_wanted_elsewhere(folder, record))
    jobs = sorted((r for r in found if r not in spared), key=lambda record: record.role)
    left: Sequence[QueuedJob] = ()
    unrecorded: tuple[str, ...] = ()
    if on_slurm or any(record.executor == "slurm" for record in jobs):
        mine = [record for record in records if not is_wanted_elsewhere(folder, record)]
        chain = Chain(folder, job_name(load_plan(folder)), commands, mine)
        chain.spare(job.job_id for job in spared)
        left = chain.end([r.job_id for r in jobs if r.executor == "slurm"], clock, wait_s)
        unrecorded = tuple(sorted(chain.unrecorded))
    # last: processes of another machine are an error, which must keep no job alive
    local = [record for record in jobs if record.executor == "local"]
    killed = _stop_processes(local, reports, wait_s)
    if not left:
        _raise_fence(folder, Fence(last, gone=True))
        forget_leases(folder)
    remove_secrets(secrets_file(folder, load_plan(folder)))
    return Cancelled(tuple(jobs), killed, unrecorded, tuple(map(str, left)), spared)


def fence_off(folder: RunFolder) -> tuple[list[JobRecord], int]:
    """Raise the fence over every submission that was made or is being made; all jobs, and its number.

    A submit that is at work ends first, so that its jobs are on record. One that does not end in time,
    or whose lock is not to be seen from here, finds its own number behind the fence before it starts
    more.
    """
    lock = FileLock(folder.submit_lock, timeout=SUBMIT_WAIT_S)
    is_free = True
    if folder.cluster.exists():
        _raise_fence(folder, Fence(_last(read_jobs(folder)) + 1))
        try:
            lock.acquire()
        except Timeout:
            is_free = False
        except (OSError, NotImplementedError):  # nobody can submit into such a folder
            pass
    try:
        records = read_jobs(folder)
        last = _last(records) + (not is_free)
        _raise_fence(folder, Fence(last))
    finally:
        lock.release()
    return records, last


def _last(records: Sequence[JobRecord]) -> int:
    return max((record.submission for record in records), default=0)


class Chain:
    """All Slurm jobs of one run: those on record, and those that only the queue knows of."""

    def __init__(
        self,
        folder: RunFolder,
        name: str,
        commands: SlurmCommands,
        records: Sequence[JobRecord],
    ) -> None:
        self._folder = folder.cluster.resolve()
        self._known = {record.job_id for record in records if record.executor == "slurm"}
        self._names = {name, *(record.name for record in records)}
        self._spared: set[str] = set()
        self._commands = commands
        self.found: set[str] = set()
        """Ids of all jobs of the run that were seen in the queue."""

    def spare(self, ids: Iterable[str]) -> None:
        """Leave these jobs alone."""
        self._spared.update(ids)

    def end(self, known: Sequence[str], clock: Clock, wait_s: float | None) -> list[QueuedJob]:
        """Cancel all, and again what comes back; what is left after `wait_s`. Raises ClusterError."""
        found = sorted({row.job_id for row in self.queued()}.difference(known))
        if not (ids := [*known, *found]):
            return []
        self._commands.cancel(ids)
        deadline = clock.monotonic() + (self._wait_s() if wait_s is None else wait_s)
        empty = 0
        while True:
            rows = self.queued()
            empty = 0 if rows else empty + 1
            again = sorted({row.job_id for row in rows if not _is_ending(row.state)})
            if again:
                self._commands.cancel(again)
            if empty == LOOKS or clock.monotonic() >= deadline:
                return rows
            time.sleep(POLL_S)

    @property
    def unrecorded(self) -> set[str]:
        """Ids of those found that no submit had noted."""
        return self.found - self._known

    def queued(self) -> list[QueuedJob]:
        """The run's rows in the queue. Two folders may hold the same run, whose jobs have one name:
        ours are those on record here, or whose script lies here, by whatever path. Raises ClusterError.
        """
        ended = self._commands.run(
            *("squeue", "-h", "-r", "--all", "--me"),
            *(f"--name={','.join(sorted(self._names))}", "-o", ROW_FORMAT),
        )
        if ended.returncode:
            raise ClusterError(f"squeue failed: {ended.stderr or ended.returncode}")
        rows = [row for row in parse_rows(ended.stdout, self._names) if self._is_ours(row)]
        self.found.update(row.job_id for row in rows)
        return rows

    def _is_ours(self, row: QueuedJob) -> bool:
        if row.job_id in self._spared:
            return False
        return row.job_id in self._known or Path(row.script).parent.resolve() == self._folder

    def _wait_s(self) -> float:
        """KillWait of the cluster and a margin (s)."""
        shown = self._commands.run("scontrol", "show", "config").stdout
        found = re.search(r"^KillWait\s*=\s*(\d+)", shown, re.MULTILINE)
        return (float(found[1]) if found else KILL_WAIT_S) + MARGIN_S


def parse_rows(text: str, names: Collection[str]) -> list[QueuedJob]:
    """Rows of `squeue -o` ROW_FORMAT of jobs with one of these names."""
    rows = []
    for line in text.splitlines():
        fields = line.strip().split("|", 6)
        if len(fields) == 7 and fields[5] in names:
            job_id, element, state, reason, nodes, _, script = fields
            rows.append(QueuedJob(job_id, element, state, reason, nodes, script))
    return rows


def _raise_fence(folder: RunFolder, fence: Fence) -> None:
    """A full disk must not keep anybody from stopping what fills it."""
    with contextlib.suppress(StoreError):
        write_fence(folder, fence)


def _is_ending(state: str) -> bool:
    """Whether Slurm has taken the order: such a job only waits for its processes to be gone."""
    return state in ("COMPLETING", "CANCELLED")


def _was_submitting(folder: RunFolder) -> bool:
    """Whether a submit came as far as a batch script, though it noted no job."""
    return any(folder.cluster.glob("*submission*"))


def _require_slurm(commands: SlurmCommands) -> None:
    """Without Slurm, "nothing was running" would be a guess."""
    if not commands.has("squeue"):
        raise ClusterError(
            "no Slurm on this machine: squeue is not on PATH, and the run was submitted to Slurm",
            hint="Type `evalkit cancel` on a login node of its cluster.",
        )


def _stop_processes(
    records: Sequence[JobRecord], reports: Mapping[str, ReplicaReport], wait_s: float | None
) -> tuple[int, ...]:
    elsewhere = sorted({r.host for r in records if r.host != socket.gethostname()})
    if elsewhere:
        raise ClusterError(
            f"the run's processes are on {', '.join(elsewhere)}",
            hint=f"Type `evalkit cancel` there; this is {socket.gethostname()}.",
        )
    for record in records:
        if record.role == "gather":  # writes whole files or nothing: it may just end
            kill_tree(find_process(int(record.job_id), record.started))
    # a worker that has lost its controller is told itself
    found = [
        find_process(int(r.job_id), r.started) or find_worker(r, reports)
        for r in records
        if r.role == "replicas"
    ]
    processes = [process for process in found if process is not None]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    timeout_s = DRAIN_WAIT_S if wait_s is None else wait_s
    _, stubborn = psutil.wait_procs(processes, timeout=timeout_s)
    for process in stubborn:
        kill_tree(process)
    return tuple(process.pid for process in stubborn)
