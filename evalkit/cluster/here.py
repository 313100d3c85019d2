"""One replica in this process: what `evalkit run` does between preparing and gathering.

It registers as a job of the run, so that status, cancel and a second command know of it, and it turns
the first Ctrl-C or SIGTERM into a drain; a second one ends the process as usual, and even then
nothing journaled is lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from evalkit.benchmarks.registry import benchmark_class
from evalkit.cluster.credentials import collect_secrets
from evalkit.cluster.job import current_job
from evalkit.cluster.jobs import JobRecord, append_job, job_name, latest_submission, read_jobs
from evalkit.cluster.live import live_elements
from evalkit.cluster.processes import started_at
from evalkit.cluster.replica_report import read_reports
from evalkit.cluster.slurm import SlurmCommands
from evalkit.errors import ClusterError
from evalkit.store.survey import Survey, survey_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

    from evalkit.clock import Clock
    from evalkit.cluster.job import JobInfo
    from evalkit.plan.model import Plan
    from evalkit.store.layout import RunFolder

REPLICA = "r0"


def survey_here(folder: RunFolder, plan: Plan) -> Survey:
    """What is not finished yet, and what was found damaged. Raises StoreError."""
    single = {t.name: benchmark_class(t.benchmark).single_call for t in plan.tasks}
    return survey_run(folder, plan, single)


def slurm_note(folder: RunFolder, env: Mapping[str, str]) -> str | None:
    """What to know before working on a run that Slurm has jobs of, where there is no Slurm."""
    sent = [job.job_id for job in latest_submission(read_jobs(folder)) if job.executor == "slurm"]
    if not sent or SlurmCommands(env).has("squeue"):
        return None
    return (
        f"this run was submitted to Slurm (jobs {', '.join(sent)}), which this machine cannot ask; "
        "if they still wait there, cancel them there: they would do the same work"
    )


def run_here(folder: RunFolder, plan: Plan, *, clock: Clock, env: Mapping[str, str]) -> int:
    """Work until nothing is owed; 0, or 1 when it was interrupted.

    Raises ClusterError while jobs of the run live, RecipeError for a secret that is not set,
    ServingError, StoreError.
    """
    from evalkit.cluster.worker import run_replica

    collect_secrets(plan, env)
    _register(folder, plan, clock, env)
    with _draining_signals():
        return run_replica(folder.root, REPLICA, _this_job(), clock)


def _this_job() -> JobInfo:
    """This process as the job that was registered: attempts and reports name it as `_register` does."""
    job = current_job()
    return job if job.executor == "slurm" else replace(job, job_id=str(os.getpid()))


def _register(folder: RunFolder, plan: Plan, clock: Clock, env: Mapping[str, str]) -> None:
    known = read_jobs(folder)
    reports = read_reports(folder)
    live = live_elements(known, SlurmCommands(env), now=clock.wall(), reports=reports)
    if live:
        raise ClusterError(
            f"jobs of this run are still there: {', '.join(sorted(live))}",
            hint=f"`evalkit status {folder.root}` shows them, `evalkit cancel` stops them.",
        )
    pid = os.getpid()
    append_job(
        folder,
        JobRecord(
            submission=max((job.submission for job in known), default=0) + 1,
            time=clock.wall(),
            host=socket.gethostname(),
            executor="local",
            name=job_name(plan),
            job_id=str(pid),
            role="replicas",
            replicas=(REPLICA,),
            is_array=False,
            script=None,
            started=started_at(pid),
        ),
    )


@contextlib.contextmanager
def _draining_signals() -> Iterator[None]:
    from evalkit.cluster.worker import request_drain

    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def drain(signum: int, _frame: FrameType | None) -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        request_drain(signal.Signals(signum).name, wait_s=0)

    for number in before:
        signal.signal(number, drain)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
