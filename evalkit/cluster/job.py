"""What runs on a node: the two callables that submitit pickles, and what a job knows of itself.

Both hold a folder and a name, nothing else: a requeued attempt imports the code and reads the disk.
Exit codes and result pickles are for Slurm's records; nobody reads a result from them.

submitit handles signals only until a callable runs: then a replica's are `evalkit.cluster.tenure`'s, and
those of the job behind the replicas `evalkit.cluster.gathering`'s.
"""

from __future__ import annotations

import signal
import socket
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from submitit.slurm.slurm import SlurmJobEnvironment

from evalkit.cluster import env as environment
from evalkit.cluster.batch import ENDED_CODE
from evalkit.cluster.credentials import read_secrets, secrets_file
from evalkit.cluster.drain import DEFAULT_KILL_WAIT_S
from evalkit.cluster.jobs import note_turn
from evalkit.cluster.parameters import KILL_WAIT
from evalkit.cluster.processes import find_process
from evalkit.cluster.slurm import SlurmCommands
from evalkit.store.layout import RunFolder
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    from collections.abc import Mapping

EXECUTOR = "SUBMITIT_EXECUTOR"
WAIT_POLL_S = 1.0
QUERY_TIMEOUT_S = 8.0
"""For Slurm's commands in a job: it may have no more time than that."""


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
    kill_wait_s: float = DEFAULT_KILL_WAIT_S
    """Time between a TERM and the KILL (s): Slurm's KillWait, which is the site's."""


@dataclass(frozen=True, slots=True)
class ReplicaJob:
    """One replica of a run: `run_dir` is the run folder, `replica_index` counts from 0.

    A job that several runs share is a replica of the same name of each, one after the other.
    """

    run_dir: str
    replica_index: int
    then: tuple[str, ...] = ()
    """Folders of the runs that it works for after the first."""

    @property
    def replica(self) -> str:
        """Name of the replica."""
        return f"r{self.replica_index}"

    def __call__(self) -> None:
        """Work until nothing is left to lease. Exits with the worker's code when that is not 0."""
        early: list[int] = []
        failure: BaseException | None = None
        for position, run_dir in enumerate(runs := (self.run_dir, *self.then)):
            keep_signals(early)  # not to import in a handler what is being imported when it runs
            if self.then:
                note_turn(RunFolder(Path(self.run_dir)), current_job_id(), Path(run_dir))
            failure = self._work_for(run_dir, early, is_last=position + 1 == len(runs)) or failure
        if failure is not None:  # the last run was done, and one before it failed
            if environment.read_environment().get(EXECUTOR) == "slurm":
                raise SystemExit(ENDED_CODE)
            raise failure

    def _work_for(self, run_dir: str, early: list[int], *, is_last: bool) -> BaseException | None:
        """One run's turn. Its failure where that is final, and other runs wait; raises it for the last."""
        from evalkit.cluster.tenure import Tenure  # heavy: it knows this module

        tenure = Tenure(RunFolder(Path(run_dir)), self.replica, goes_on=not is_last)
        try:
            tenure.hold(early)
        except Exception as error:  # damage in the decision itself is for the batch script to judge
            if not tenure.is_over:
                raise
            if is_last and environment.read_environment().get(EXECUTOR) != "slurm":
                raise
            traceback.print_exc()  # submitit would, and end with a code that says nothing
            if not is_last:
                early += tenure.heard  # the job ends: the next run's turn is to take leave of it
                return error
            raise SystemExit(ENDED_CODE) from None
        return None

    def checkpoint(self) -> None:
        """What submitit's handler calls for a USR2 that came before `__call__`: never returns."""
        from evalkit.cluster.tenure import Tenure

        first = RunFolder(Path(self.run_dir))
        Tenure(first, self.replica, goes_on=bool(self.then)).leave("SIGUSR2")


@dataclass(frozen=True, slots=True)
class GatherJob:
    """The end of a run, once the replicas have ended: what needs it is graded, and all gathered."""

    run_dir: str
    after: tuple[tuple[int, float], ...] = ()
    """Local processes to wait for: (process id, start); Slurm has dependencies for that."""

    def __call__(self) -> None:
        """Grade and gather. Raises IncompleteError while units are missing; the job then counts as failed."""
        early: list[int] = []
        keep_signals(early)
        from evalkit.cluster.gathering import Gathering  # heavy: it knows this module

        gathering = Gathering(RunFolder(Path(self.run_dir)))
        if signal.SIGTERM in early:
            gathering.leave(signal.SIGTERM.name)
        gathering.run(self._wait)

    def checkpoint(self) -> None:
        """What submitit's handler calls for a USR2 that came before `__call__`: never returns."""
        from evalkit.cluster.gathering import Gathering

        Gathering(RunFolder(Path(self.run_dir))).leave("SIGUSR2")

    def _wait(self) -> None:
        for pid, started in self.after:
            while find_process(pid, started) is not None:
                time.sleep(WAIT_POLL_S)


def current_job_id() -> str:
    """Id of the job this process runs in, as it is on record."""
    env = environment.read_environment()
    if env.get(EXECUTOR) == "slurm":
        return slurm_id(env)
    return env.get("SUBMITIT_LOCAL_JOB_ID", "0")


def keep_signals(kept: list[int]) -> None:
    """Keep what tells a job to end until somebody can act on it."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda signum, _frame: kept.append(signum))


def load_secrets(folder: RunFolder) -> None:
    """Put the run's secrets into this process's environment. Raises ClusterError."""
    plan = load_plan(folder)
    environment.export(read_secrets(secrets_file(folder, plan), plan))


def current_job() -> JobInfo:
    """The job this process runs in."""
    env = environment.read_environment()
    host = socket.gethostname()
    if env.get(EXECUTOR) == "slurm":
        nodes = tuple(SlurmJobEnvironment().hostnames)
        return slurm_job(env, host, nodes)
    limit = env.get("SUBMITIT_LOCAL_TIMEOUT_S")
    return JobInfo(
        executor="local",
        job_id=current_job_id(),
        array_id=None,
        restart_count=0,
        nodes=(host,),
        host=host,
        gpus=env.get("CUDA_VISIBLE_DEVICES"),
        ends=psutil.Process().create_time() + float(limit) if limit else None,
    )


def slurm_job(env: Mapping[str, str], host: str, nodes: tuple[str, ...]) -> JobInfo:
    """The job that Slurm's variables in `env` describe."""
    return JobInfo(
        executor="slurm",
        job_id=slurm_id(env),
        array_id=env.get("SLURM_ARRAY_JOB_ID"),
        restart_count=int(env.get("SLURM_RESTART_COUNT", "0")),
        nodes=nodes,
        host=host,
        gpus=env.get("CUDA_VISIBLE_DEVICES"),
        ends=_end_time(env, env["SLURM_JOB_ID"]),
        kill_wait_s=_kill_wait(env),
    )


def _kill_wait(env: Mapping[str, str]) -> float:
    """As Slurm says, or as it said where the run was submitted; its default where nobody knows."""
    commands = SlurmCommands(env, QUERY_TIMEOUT_S)
    if commands.has("scontrol") and (found := commands.kill_wait_s()) is not None:
        return found
    told = env.get(KILL_WAIT, "")
    return float(told) if told.isdigit() else DEFAULT_KILL_WAIT_S


def slurm_id(env: Mapping[str, str]) -> str:
    """Id of the job that Slurm's variables describe. The plain id of an element may mean its array."""
    array = env.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{env['SLURM_ARRAY_TASK_ID']}" if array else env["SLURM_JOB_ID"]


def _end_time(env: Mapping[str, str], raw_id: str) -> float | None:
    known = env.get("SLURM_JOB_END_TIME", "")
    if known.isdigit():
        return float(known)
    return SlurmCommands(env, QUERY_TIMEOUT_S).end_time(raw_id)
