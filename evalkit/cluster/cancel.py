"""Stop what works on a run: its Slurm jobs, or its processes on this machine.

Journals stay as they are, so a cancelled run goes on with the next submit. A process is signalled only
when its id and its start time are those that were recorded: ids come back after a reboot.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from evalkit.cluster.credentials import remove_secrets, secrets_file
from evalkit.cluster.jobs import JobRecord, latest_submission, read_jobs
from evalkit.cluster.live import live_elements
from evalkit.cluster.local import find_process
from evalkit.cluster.replica_report import read_reports
from evalkit.cluster.slurm import SlurmCommands
from evalkit.errors import ClusterError
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.clock import Clock
    from evalkit.store.layout import RunFolder

DRAIN_WAIT_S = 60.0
"""A worker drains in about 25 s and then stops its server; what is left after this is killed."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What was stopped."""

    jobs: tuple[JobRecord, ...]
    killed: tuple[int, ...] = ()
    """Local processes that did not end by themselves."""

    @property
    def text(self) -> str:
        """One line for a person."""
        if not self.jobs:
            return "nothing of this run was running or waiting"
        named = [f"{job.job_id} ({', '.join(job.replicas) or job.role})" for job in self.jobs]
        kind = "process" if self.jobs[0].executor == "local" else "job"
        plural = "es" if kind == "process" else "s"
        return (
            f"stopped {kind}{plural if len(named) > 1 else ''} {', '.join(named)}; "
            "finished work is kept, `evalkit submit` continues the run"
        )


def cancel_run(
    folder: RunFolder, *, clock: Clock, env: Mapping[str, str], wait_s: float = DRAIN_WAIT_S
) -> Cancelled:
    """Cancel everything of the run that runs or waits. Raises ClusterError, StoreError."""
    records = read_jobs(folder)
    commands = SlurmCommands(env)
    if any(record.executor == "slurm" for record in latest_submission(records)):
        _require_slurm(commands)
    live = live_elements(records, commands, now=clock.wall(), reports=read_reports(folder))
    # the gather first: it would start as soon as the last replica is gone
    jobs = sorted(
        (record for record in records if live.intersection(record.elements)),
        key=lambda record: record.role,
    )
    slurm = [record.job_id for record in jobs if record.executor == "slurm"]
    if slurm:
        commands.cancel(slurm)
    killed = _stop_processes([record for record in jobs if record.executor == "local"], wait_s)
    remove_secrets(secrets_file(folder, load_plan(folder)))
    return Cancelled(tuple(jobs), killed)


def _require_slurm(commands: SlurmCommands) -> None:
    """Without Slurm, "nothing was running" would be a guess."""
    if not commands.has("squeue"):
        raise ClusterError(
            "no Slurm on this machine: squeue is not on PATH, and the run was submitted to Slurm",
            hint="Type `evalkit cancel` on a login node of its cluster.",
        )


def _stop_processes(records: Sequence[JobRecord], wait_s: float) -> tuple[int, ...]:
    elsewhere = sorted({r.host for r in records if r.host != socket.gethostname()})
    if elsewhere:
        raise ClusterError(
            f"the run's processes are on {', '.join(elsewhere)}",
            hint=f"Type `evalkit cancel` there; this is {socket.gethostname()}.",
        )
    for record in records:
        if record.role == "gather":  # writes whole files or nothing: it may just end
            _kill_tree(find_process(int(record.job_id), record.started))
    found = [find_process(int(r.job_id), r.started) for r in records if r.role == "replicas"]
    controllers = [process for process in found if process is not None]
    for process in controllers:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stubborn = psutil.wait_procs(controllers, timeout=wait_s)
    for process in stubborn:
        _kill_tree(process)
    return tuple(process.pid for process in stubborn)


def _kill_tree(process: psutil.Process | None) -> None:
    """Kill a process and all below it; children first listed, or they would be lost to us."""
    if process is None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in (*process.children(recursive=True), process):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
