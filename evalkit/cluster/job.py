"""What runs on a node: the two callables that submitit pickles, and what a job knows of itself.

Both hold a folder and a name, nothing else: a requeued attempt imports the code and reads the disk.
Exit codes and result pickles are for Slurm's records; nobody reads a result from them.

Signals: USR2 (time limit, preemption) calls `checkpoint`, which drains the worker in the time that is
left to the job; submitit then requeues it. TERM (scancel, preemption without warning) drains and
exits; who sent it decides what becomes of the job, so it is never requeued from here. The drain has
to end within Slurm's KillWait (30 s by default) then.
"""

from __future__ import annotations

import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import psutil
from submitit.core.utils import DelayedSubmission
from submitit.slurm.slurm import SlurmJobEnvironment

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster import env as environment
from evalkit.cluster.credentials import read_secrets, remove_secrets, secrets_file
from evalkit.cluster.local import find_process
from evalkit.cluster.slurm import SlurmCommands
from evalkit.store.layout import RunFolder
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM, as shells report it."""
WAIT_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class JobInfo:
    """What a replica's job is, as the node sees it."""

    executor: str
    """`slurm` or `local`."""
    job_id: str
    """`123_4`, `123`, or the controller's process id."""
    array_id: str | None
    """`123` of `123_4`."""
    restart_count: int
    """Requeues of this job so far (Slurm); 0 for a local job."""
    nodes: tuple[str, ...]
    """All nodes of the replica, this one first."""
    host: str
    gpus: str | None
    """CUDA_VISIBLE_DEVICES as the job got it."""
    ends: float | None
    """Projected end, Unix time (s); None when nobody says."""


@dataclass(frozen=True, slots=True)
class ReplicaJob:
    """One replica of a run: `run_dir` is the run folder, `replica_index` counts from 0."""

    run_dir: str
    replica_index: int

    @property
    def replica(self) -> str:
        """Name of the replica."""
        return f"r{self.replica_index}"

    def __call__(self) -> None:
        """Work until nothing is left to lease. Exits with the worker's code when that is not 0."""
        from evalkit.cluster import worker  # heavy: serving and client

        def terminate(_signum: int, _frame: FrameType | None) -> NoReturn:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one changes nothing
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            worker.request_drain("SIGTERM")
            raise SystemExit(TERMINATED)

        signal.signal(signal.SIGTERM, terminate)
        SlurmJobEnvironment._requeue = requeue_job  # type: ignore[method-assign, assignment]
        load_secrets(RunFolder(Path(self.run_dir)))
        code = worker.run_replica(Path(self.run_dir), self.replica, current_job())
        if code:
            raise SystemExit(code)

    def checkpoint(self) -> DelayedSubmission:
        """Drain, then let submitit requeue the same call (its handler of USR2 calls this)."""
        from evalkit.cluster import worker

        terminated: list[int] = []

        def hurry(signum: int, _frame: FrameType | None) -> None:
            terminated.append(signum)
            worker.request_drain("SIGTERM", wait_s=0)

        signal.signal(signal.SIGTERM, hurry)
        worker.drain_before_end("SIGUSR2")
        if terminated:  # cancelled, or Slurm requeues by itself: a requeue of ours would revive it
            raise SystemExit(TERMINATED)
        return DelayedSubmission(self)


@dataclass(frozen=True, slots=True)
class GatherJob:
    """The end of a run: journals to artifacts, once the replicas have ended."""

    run_dir: str
    after: tuple[tuple[int, float], ...] = ()
    """Local processes to wait for: (process id, start); Slurm has dependencies for that."""

    def __call__(self) -> None:
        """Gather. Raises IncompleteError while units are missing; the job then counts as failed."""
        from evalkit.report.gather import gather_run

        # submitit ignores it, but artifacts are published whole: a cancelled gather may just end
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for pid, started in self.after:
            while find_process(pid, started) is not None:
                time.sleep(WAIT_POLL_S)
        folder = RunFolder(Path(self.run_dir))
        plan = load_plan(folder)
        load_secrets(folder)
        gather_run(folder, plan, on_progress=_ignore, clock=SYSTEM_CLOCK.wall)
        remove_secrets(secrets_file(folder, plan))


def load_secrets(folder: RunFolder) -> None:
    """Put the run's secrets into this process's environment. Raises ClusterError."""
    plan = load_plan(folder)
    environment.export(read_secrets(secrets_file(folder, plan), plan))


def requeue_job(job: SlurmJobEnvironment, countdown: int) -> None:
    """In place of submitit's own: a job that Slurm requeued first (preemption) is no failure.

    submitit takes scontrol's "Job is pending execution" for an error and records a failed result.
    SIGTERM is ignored meanwhile, by scontrol too: a preemption without grace sends it to every
    process of the job, right behind SIGUSR2.
    """
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        SlurmCommands(environment.read_environment()).requeue(job.job_id)
    finally:
        signal.signal(signal.SIGTERM, before)


def current_job() -> JobInfo:
    """The job this process runs in."""
    env = environment.read_environment()
    host = socket.gethostname()
    if env.get("SUBMITIT_EXECUTOR") == "slurm":
        nodes = tuple(SlurmJobEnvironment().hostnames)
        return slurm_job(env, host, nodes)
    limit = env.get("SUBMITIT_LOCAL_TIMEOUT_S")
    return JobInfo(
        executor="local",
        job_id=env.get("SUBMITIT_LOCAL_JOB_ID", "0"),
        array_id=None,
        restart_count=0,
        nodes=(host,),
        host=host,
        gpus=env.get("CUDA_VISIBLE_DEVICES"),
        ends=psutil.Process().create_time() + float(limit) if limit else None,
    )


def slurm_job(env: Mapping[str, str], host: str, nodes: tuple[str, ...]) -> JobInfo:
    """The job that Slurm's variables in `env` describe."""
    raw_id = env["SLURM_JOB_ID"]
    array = env.get("SLURM_ARRAY_JOB_ID")
    return JobInfo(
        executor="slurm",
        job_id=f"{array}_{env['SLURM_ARRAY_TASK_ID']}" if array else raw_id,
        array_id=array,
        restart_count=int(env.get("SLURM_RESTART_COUNT", "0")),
        nodes=nodes,
        host=host,
        gpus=env.get("CUDA_VISIBLE_DEVICES"),
        ends=_end_time(env, raw_id),
    )


def _end_time(env: Mapping[str, str], raw_id: str) -> float | None:
    known = env.get("SLURM_JOB_END_TIME", "")
    if known.isdigit():
        return float(known)
    text = SlurmCommands(env).end_time(raw_id)
    return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S")) if text else None


def _ignore(_progress: object) -> None:
    """A job has nobody who watches; what was found goes to the run's log."""
