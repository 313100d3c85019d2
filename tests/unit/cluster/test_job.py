"""The callables that run on nodes: signals, exit codes, what a job knows of itself."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import types
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

import evalkit.cluster
from evalkit.cluster.batch import TERMINATED
from evalkit.cluster.credentials import secrets_file, write_secrets
from evalkit.cluster.job import GatherJob, JobInfo, ReplicaJob, slurm_job
from evalkit.errors import IncompleteError
from evalkit.recipe.serving import VllmServing
from tests.unit.cluster.builders import make_plan, write_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from evalkit.store.layout import RunFolder

HANDLED = (signal.SIGTERM, signal.SIGUSR2)


class Worker(types.ModuleType):
    """Stands for `evalkit.cluster.worker`: `during` happens while it works or drains."""

    def __init__(self) -> None:
        super().__init__("evalkit.cluster.worker")
        self.calls: list[tuple[Any, ...]] = []
        self.during: Callable[[], object] = lambda: None
        self.code = 0

    def run_replica(self, run_dir: Path, replica: str, job: JobInfo) -> int:
        """Note the call, let happen what should, and return the code."""
        self.calls.append((run_dir, replica, job))
        self.during()
        return self.code

    def request_drain(self, reason: str, wait_s: float = 25.0) -> None:
        """Note the reason."""
        self.calls.append((reason,))
        if wait_s:
            self.during()

    def drain_before_end(self, reason: str) -> None:
        """Note the reason."""
        self.calls.append((reason, "before the end"))
        self.during()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker in the place of evalkit's; handlers, environment and submitit are restored."""
    fake = Worker()
    monkeypatch.setitem(sys.modules, "evalkit.cluster.worker", fake)
    monkeypatch.setattr(evalkit.cluster, "worker", fake, raising=False)
    monkeypatch.setenv("MY_KEY", "before")
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    yield fake
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_replica_runs_the_worker_with_its_secrets(tmp_path: Path, worker: Worker) -> None:
    """The worker gets folder, name and job, in an environment that has the run's secrets."""
    plan = make_plan(serving=VllmServing(secrets=("MY_KEY",)))
    folder = write_run(tmp_path / "demo", plan)
    write_secrets(secrets_file(folder, plan), {"MY_KEY": "value"})
    seen: list[str | None] = []
    worker.during = lambda: seen.append(os.environ.get("MY_KEY"))
    ReplicaJob(str(folder.root), 3)()
    ((run_dir, replica, job),) = worker.calls
    assert (run_dir, replica, job.executor) == (folder.root, "r3", "local")
    assert seen == ["value"]


def test_the_workers_code_is_the_jobs(run_folder: RunFolder, worker: Worker) -> None:
    """A worker that did not end well makes the job fail, so that Slurm shows it."""
    worker.code = 4
    with pytest.raises(SystemExit) as caught:
        ReplicaJob(str(run_folder.root), 0)()
    assert caught.value.code == 4


def test_sigterm_drains_and_exits(run_folder: RunFolder, worker: Worker) -> None:
    """TERM while working drains once and leaves with 143; a second one does nothing."""

    def terminate_twice() -> None:
        if len(worker.calls) < 3:
            os.kill(os.getpid(), signal.SIGTERM)

    worker.during = terminate_twice
    with pytest.raises(SystemExit) as caught:
        ReplicaJob(str(run_folder.root), 0)()
    assert caught.value.code == TERMINATED
    assert worker.calls[1:] == [("SIGTERM",)]


def test_a_time_limit_drains_and_starts_again(run_folder: RunFolder, worker: Worker) -> None:
    """USR2 drains in the time that is left; submitit's local controller then starts the next attempt."""

    def warn_once() -> None:
        if len(worker.calls) == 1:
            os.kill(os.getpid(), signal.SIGUSR2)

    worker.during = warn_once
    with pytest.raises(SystemExit) as caught:
        ReplicaJob(str(run_folder.root), 1)()
    assert caught.value.code == LOCAL_REQUEUE_RETURN_CODE
    assert worker.calls[1:] == [("SIGUSR2", "before the end")]


def test_termination_while_draining_starts_nothing(run_folder: RunFolder, worker: Worker) -> None:
    """A cancelled local job makes haste, and is not started again."""
    signals = iter((signal.SIGUSR2, signal.SIGTERM))

    def warn_then_end() -> None:
        for number in signals:
            os.kill(os.getpid(), number)
            break

    worker.during = warn_then_end
    with pytest.raises(SystemExit) as caught:
        ReplicaJob(str(run_folder.root), 1)()
    assert caught.value.code == TERMINATED
    assert worker.calls[1:] == [("SIGUSR2", "before the end"), ("SIGTERM",)]


def test_a_signal_before_the_first_line_ends_the_attempt(
    run_folder: RunFolder, worker: Worker
) -> None:
    """submitit's handler, which is there first, gets a requeue and never comes to its own books."""
    with pytest.raises(SystemExit) as caught:
        ReplicaJob(str(run_folder.root), 1).checkpoint()
    assert caught.value.code == LOCAL_REQUEUE_RETURN_CODE
    assert worker.calls == []


def test_pickles_hold_a_folder_and_a_number() -> None:
    """What submitit stores is small, by reference, and equal when it comes back."""
    for job in (ReplicaJob("/runs/demo", 7), GatherJob("/runs/demo", ((1, 2.0),))):
        stored = cloudpickle.dumps(job)
        assert len(stored) < 300
        assert pickle.loads(stored) == job


def test_a_gather_that_is_complete_removes_the_secrets(
    tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The secrets stay while units are missing, and go with the last one."""
    plan = make_plan(serving=VllmServing(secrets=("MY_KEY",)))
    folder = write_run(tmp_path / "demo", plan)
    path = secrets_file(folder, plan)
    write_secrets(path, {"MY_KEY": "value"})
    with pytest.raises(IncompleteError):
        GatherJob(str(folder.root))()
    assert path.exists()
    monkeypatch.setattr("evalkit.report.gather.gather_run", lambda *_a, **_k: None)
    GatherJob(str(folder.root))()
    assert not path.exists()


def test_an_array_element_knows_its_array() -> None:
    """Ids, restart count, GPUs and end come from Slurm's variables."""
    env = {
        "SLURM_JOB_ID": "12",
        "SLURM_ARRAY_JOB_ID": "10",
        "SLURM_ARRAY_TASK_ID": "2",
        "SLURM_RESTART_COUNT": "3",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "SLURM_JOB_END_TIME": "1800000000",
    }
    assert slurm_job(env, "n1", ("n1", "n2")) == JobInfo(
        executor="slurm",
        job_id="10_2",
        array_id="10",
        restart_count=3,
        nodes=("n1", "n2"),
        host="n1",
        gpus="0,1",
        ends=1_800_000_000.0,
    )


def test_an_end_that_nobody_says_is_unknown() -> None:
    """Without the variable and without Slurm the end is None, not a guess; KillWait is the default."""
    job = slurm_job({"SLURM_JOB_ID": "12", "PATH": "/nonexistent"}, "n1", ("n1",))
    assert (job.ends, job.array_id, job.job_id, job.restart_count) == (None, None, "12", 0)
    assert job.kill_wait_s == 30


def test_kill_wait_is_the_sites(tmp_path: Path) -> None:
    """The time to drain after a TERM is read from Slurm's configuration."""
    program = tmp_path / "scontrol"
    program.write_text("#!/bin/sh\necho 'KillOnBadExit = 0\nKillWait                = 5 sec'\n")
    program.chmod(0o755)
    env = {"SLURM_JOB_ID": "12", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert slurm_job(env, "n1", ("n1",)).kill_wait_s == 5


def test_kill_wait_is_told_where_a_worker_cannot_ask() -> None:
    """In a container without Slurm's commands it is what Slurm said where the run was submitted."""
    env = {"SLURM_JOB_ID": "12", "PATH": "/nonexistent", "EVALKIT_KILL_WAIT_S": "5"}
    assert slurm_job(env, "n1", ("n1",)).kill_wait_s == 5
    env["EVALKIT_KILL_WAIT_S"] = "soon"
    assert slurm_job(env, "n1", ("n1",)).kill_wait_s == 30


def test_squeue_is_asked_for_the_end(tmp_path: Path) -> None:
    """Where Slurm sets no variable, squeue's time becomes Unix time."""
    program = tmp_path / "squeue"
    program.write_text("#!/bin/sh\necho '12|2027-01-15T08:00:00'\n")
    program.chmod(0o755)
    env = {"SLURM_JOB_ID": "12", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    ends = slurm_job(env, "n1", ("n1",)).ends
    assert ends == 1_800_000_000
