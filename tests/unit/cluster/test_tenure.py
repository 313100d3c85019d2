"""One attempt in a Slurm job: its start, its signals, its requeue, with a controller that is a script."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import evalkit.cluster
from evalkit.cluster import tenure
from evalkit.cluster.attempts import AttemptRecord, read_attempts, write_attempt
from evalkit.cluster.executor import REQUEUE_CODE
from evalkit.cluster.failures import Failure, FailureKind, classify
from evalkit.cluster.job import TERMINATED, ReplicaJob, interrupt_gather
from evalkit.cluster.jobs import Fence, JobRecord, append_job, write_fence
from evalkit.errors import ClusterError, RecipeError, ServerDiedError, StoreError
from evalkit.serving import tree
from evalkit.serving.server import unendable
from evalkit.store.run import save_cluster
from tests.unit.cluster.builders import make_cluster
from tests.unit.cluster.test_job import HANDLED, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from evalkit.store.layout import RunFolder

SCONTROL = """#!/bin/sh
printf '%s\\n' "$*" >> calls
case "$*" in
"show config") echo "KillWait                = 30 sec";;
"-o show job 7_0") cat job;;
"show hostnames"*) echo given;;
"-o show partition"*) echo "PartitionName=low TotalNodes=9";;
*) [ ! -e refused ] || { cat refused >&2; exit 1; };;
esac
"""
JOB = (
    "JobId=9 ArrayJobId=7 JobName=evalkit JobState={state} Reason={reason} Requeue={requeue} "
    "Restarts={restarts} PreemptTime={preempted} Partition=low ExcNodeList=given Comment=Restarts=9"
)


class Controller:
    """What scontrol answers, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.say()

    def say(self, **changes: Any) -> None:
        """Set what Slurm says of the job."""
        facts = {
            "state": "RUNNING",
            "reason": "None",
            "requeue": 1,
            "restarts": 1,
            "preempted": "None",
        }
        facts |= changes
        (self.folder / "job").write_text(JOB.format(**facts))

    @property
    def orders(self) -> list[str]:
        """What it was told to do, questions left out."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [line for line in lines if "show" not in line]


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Controller:
    """A Slurm job `7_0` on node n1 that was requeued once, and its controller."""
    folder = tmp_path / "controller"
    folder.mkdir()
    program = folder / "scontrol"
    program.write_text(SCONTROL.replace("calls", str(folder / "calls")))
    text = program.read_text()
    for name in ("job", "refused"):
        text = text.replace(f"cat {name}", f"cat {folder / name}").replace(
            f"-e {name}", f"-e {folder / name}"
        )
    program.write_text(text)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    variables = {
        "PATH": f"{folder}:/usr/bin:/bin",
        "SUBMITIT_EXECUTOR": "slurm",
        "SLURM_JOB_ID": "9",
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "0",
        "SLURM_RESTART_COUNT": "1",
        "SLURM_JOB_NODELIST": "n1",
        "SLURM_JOB_END_TIME": "1800000000",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Controller(folder)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker in the place of evalkit's; handlers are restored."""
    fake = Worker()
    monkeypatch.setitem(sys.modules, "evalkit.cluster.worker", fake)
    monkeypatch.setattr(evalkit.cluster, "worker", fake, raising=False)
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    yield fake
    for number, handler in handlers.items():
        signal.signal(number, handler)


def record(folder: RunFolder, number: int, **changes: Any) -> None:
    """An attempt's record on disk: an hour on n1, drained, with something done."""
    folder.attempt_logs("r0", number).mkdir(parents=True)
    fields: dict[str, Any] = {
        "replica": "r0",
        "attempt": number,
        "executor": "slurm",
        "job_id": "7_0",
        "restart_count": number - 1,
        "host": "n1",
        "nodes": ("n1",),
        "gpus": 1,
        "started": 1000.0,
        "last": 4600.0,
        "ended": 4600.0,
        "end": "drained",
        "units": 1,
    }
    write_attempt(folder, AttemptRecord(**{**fields, **changes}))


def once(worker: Worker, *numbers: signal.Signals) -> None:
    """Send these signals to this process, one at each thing the worker does."""
    waiting = list(numbers)
    worker.during = lambda: os.kill(os.getpid(), waiting.pop(0)) if waiting else None


def run(folder: RunFolder) -> Any:
    """Exit code of the job."""
    with pytest.raises(SystemExit) as caught:
        ReplicaJob(str(folder.root), 0)()
    return caught.value.code


def log_of(folder: RunFolder) -> str:
    return folder.stdout.read_text() if folder.stdout.exists() else ""


def test_a_warned_job_is_requeued_past_submitit(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """USR2 drains, and the job goes back by its array id, in words that revive no cancelled job."""
    once(worker, signal.SIGUSR2)
    assert run(run_folder) == TERMINATED
    assert worker.calls[1:] == [("SIGUSR2", "before the end")]
    assert controller.orders == ["requeue incomplete 7_0"]
    assert "r0 goes back into the queue: SIGUSR2" in log_of(run_folder)


def test_a_job_that_slurm_requeued_is_left_alone(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """Preempted with both signals at once: Slurm counts its requeue, so there is none of ours."""
    controller.say(state="COMPLETING", restarts=2)
    once(worker, signal.SIGUSR2, signal.SIGTERM)
    assert run(run_folder) == TERMINATED
    assert worker.calls[1:] == [("SIGUSR2", "before the end"), ("SIGTERM",)]
    assert controller.orders == []


def test_a_cancelled_job_is_not_revived(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """TERM of a cancel drains and ends, though Slurm calls the job no more than completing."""
    controller.say(state="COMPLETING")
    once(worker, signal.SIGTERM)
    assert run(run_folder) == TERMINATED
    assert controller.orders == []


def test_a_fenced_job_is_not_revived(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """What a cancel of the run has fenced off ends, also where Slurm still calls it running."""
    job = JobRecord(1, 1.0, "h", "slurm", "x", "7", "replicas", ("r0",), True, None)
    append_job(run_folder, job)

    def cancel() -> None:
        write_fence(run_folder, Fence(1))
        os.kill(os.getpid(), signal.SIGTERM)

    worker.during = cancel
    assert run(run_folder) == TERMINATED
    assert controller.orders == []
    worker.calls.clear()
    assert run(run_folder) == TERMINATED
    assert worker.calls == [], "a fenced attempt does not start"


def test_termination_in_grace_time_is_requeued(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """A job that Slurm still calls running was not cancelled: if it just ended it would be lost."""
    once(worker, signal.SIGTERM)
    assert run(run_folder) == TERMINATED
    assert controller.orders == ["requeue incomplete 7_0"]


def test_a_drain_that_met_the_limit_is_requeued(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """When Slurm ends the job for its time limit the requeue means an ended job."""
    controller.say(state="COMPLETING", reason="TimeLimit")
    once(worker, signal.SIGTERM)
    assert run(run_folder) == TERMINATED
    assert controller.orders == ["requeue 7_0"]


def test_a_failed_server_is_tried_on_another_node(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """The job is requeued first and kept off the node then: Slurm takes it in this order only."""

    def fail() -> None:
        failure = Failure(FailureKind.SERVER_CRASH, "it died", "n1")
        record(run_folder, 2, end="failed", failure=failure)
        raise ServerDiedError("it died")

    worker.during = fail
    assert run(run_folder) == TERMINATED
    assert controller.orders == [
        "requeue incomplete 7_0",
        "update JobId=7_0 ExcNodeList=given,n1",
    ]
    assert "without given, n1" in log_of(run_folder)


def test_a_server_that_cannot_be_ended_is_tried_on_another_node(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """What the stop of a server on a hung node raises blames the node, though it hides the first error."""

    def fail() -> None:
        try:
            raise ServerDiedError("it hangs", kind=FailureKind.SERVER_HANG)
        finally:
            error = unendable([tree.Process(1, 0, 1, 1)])
            failure = classify(error, node="n1")
            record(run_folder, 2, end="failed", failure=failure)
            raise error

    worker.during = fail
    assert run(run_folder) == TERMINATED
    assert controller.orders == [
        "requeue incomplete 7_0",
        "update JobId=7_0 ExcNodeList=given,n1",
    ]


def test_a_wrong_recipe_ends_at_once(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """An error that no other node cures is the job's own."""

    def fail() -> None:
        raise RecipeError("no such thing")

    worker.during = fail
    with pytest.raises(RecipeError, match="no such thing"):
        ReplicaJob(str(run_folder.root), 0)()
    assert controller.orders == []


def test_a_spent_budget_ends_the_job(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """The attempt that spends `max_hours` is not requeued, and its record and the log say why."""
    save_cluster(run_folder, make_cluster(max_hours=1.5))
    record(run_folder, 1)

    def warn() -> None:
        if len(worker.calls) == 1:
            record(run_folder, 2)
            os.kill(os.getpid(), signal.SIGUSR2)

    worker.during = warn
    with pytest.raises(ClusterError, match=r"r0 is not requeued: .* cluster.max_hours is 1.5"):
        ReplicaJob(str(run_folder.root), 0)()
    assert controller.orders == []
    assert log_of(run_folder).count("is not requeued") == 1
    last = read_attempts(run_folder)[-1]
    assert (last.end, last.units) == ("over_budget", 1)
    assert last.failure is not None
    assert last.failure.kind is FailureKind.OVER_BUDGET
    assert "cluster.max_hours" in log_of(run_folder)


def test_an_attempt_over_its_budget_does_not_start(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """Slurm requeues a preempted job without asking: the attempt ends before it loads a model."""
    save_cluster(run_folder, make_cluster(max_hours=1))
    record(run_folder, 1)
    with pytest.raises(ClusterError, match=r"cluster.max_hours is 1") as caught:
        ReplicaJob(str(run_folder.root), 0)()
    assert "evalkit submit" in (caught.value.hint or "")
    assert worker.calls == []
    first, second = read_attempts(run_folder)
    assert (first.end, second.end, second.wall_s) == ("drained", "over_budget", 0)


def test_a_budget_that_is_spent_in_between_drains(
    run_folder: RunFolder,
    controller: Controller,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An attempt is told to stop when `max_hours` are over, long before its time limit."""
    save_cluster(run_folder, make_cluster(max_hours=1e-6))
    worker.code = 1

    told = threading.Event()

    def hear(reason: str, wait_s: float) -> None:
        worker.calls.append((reason, wait_s))
        told.set()

    monkeypatch.setattr(worker, "request_drain", hear)
    worker.during = lambda: told.wait(10)
    with pytest.raises(ClusterError, match=r"cluster.max_hours, 1e-06, are over"):
        ReplicaJob(str(run_folder.root), 0)()
    assert worker.calls[1:] == [("max_hours", 0)]
    assert controller.orders == []


@pytest.mark.parametrize("number", HANDLED)
def test_what_slurm_does_not_requeue_is_the_batch_scripts(
    run_folder: RunFolder, controller: Controller, worker: Worker, number: signal.Signals
) -> None:
    """A requeue that times out or is refused leaves Slurm's words, and the job to its batch script."""
    (controller.folder / "refused").write_text("slurm_requeue error: Socket timed out")
    once(worker, number)
    assert run(run_folder) == REQUEUE_CODE
    assert "asks its batch script for a requeue" in log_of(run_folder)
    assert "Socket timed out" in log_of(run_folder)


@pytest.mark.parametrize("number", HANDLED)
def test_a_silent_controller_loses_no_job(
    run_folder: RunFolder, controller: Controller, worker: Worker, number: signal.Signals
) -> None:
    """A preempted job in its grace time is requeued by nobody else: the batch script goes on asking."""
    (controller.folder / "job").unlink()
    once(worker, number)
    assert run(run_folder) == REQUEUE_CODE
    assert controller.orders == []
    assert "Slurm does not answer" in log_of(run_folder)


def test_a_slow_controller_loses_no_job(
    run_folder: RunFolder, controller: Controller, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a TERM nothing waits longer than KillWait leaves, and the batch script asks instead."""
    program = controller.folder / "scontrol"
    program.write_text(program.read_text().replace("cat", "exec tail -f /dev/null; cat"))
    monkeypatch.setattr(tenure, "ANSWER_S", 0.2)
    once(worker, signal.SIGTERM)
    assert run(run_folder) == REQUEUE_CODE


def test_an_error_before_the_worker_is_tried_again(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """A file system that hides the plan leaves a failed attempt, so that max_failures counts it."""
    run_folder.plan.unlink()
    assert run(run_folder) == TERMINATED
    assert worker.calls == []
    assert controller.orders[0] == "requeue incomplete 7_0"
    (last,) = read_attempts(run_folder)
    assert (last.end, last.restart_count) == ("failed", 1)
    assert last.failure is not None
    assert (last.failure.kind, last.failure.node) == (FailureKind.STORAGE, "n1")


def test_errors_before_the_worker_end_at_max_failures(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """What fails at every start is not requeued for ever."""
    run_folder.plan.unlink()
    for number in range(1, 10):
        record(run_folder, number, end="failed", units=0, restart_count=number + 1)
    with pytest.raises(ClusterError, match=r"cluster\.max_failures"):
        ReplicaJob(str(run_folder.root), 0)()
    assert controller.orders == []


@pytest.mark.parametrize(("restarts", "is_requeued"), [(1, True), (99, False)])
def test_attempts_without_a_record_are_bounded(
    run_folder: RunFolder,
    controller: Controller,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    restarts: int,
    is_requeued: bool,
) -> None:
    """Where not even the record can be written, Slurm's count of restarts is the limit."""

    def fail(*_: object) -> None:
        raise StoreError("Stale file handle")

    monkeypatch.setattr(tenure, "load_cluster", fail)
    monkeypatch.setattr(tenure, "begin_attempt", fail)
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    controller.say(restarts=restarts)
    with pytest.raises((SystemExit, ClusterError)):
        ReplicaJob(str(run_folder.root), 0)()
    assert bool(controller.orders) is is_requeued


def test_an_unforeseen_error_is_tried_again(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """Damage of our own is a failure of unknown kind, which another attempt may not meet."""

    def fail() -> None:
        raise KeyError("unforeseen")

    worker.during = fail
    assert run(run_folder) == TERMINATED
    assert controller.orders[0] == "requeue incomplete 7_0"


def test_the_record_says_why_slurm_stopped_the_job(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """A preemption, in its grace time, is in the record of the attempt that it ended."""
    controller.say(preempted="2026-11-23T11:39:05")
    record(run_folder, 2)
    once(worker, signal.SIGUSR2)
    assert run(run_folder) == TERMINATED
    assert [r.cause for r in read_attempts(run_folder)] == ["preempted"]


def test_a_job_that_may_not_be_requeued_says_so(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """Where requeue is forbidden the job ends, and its record stays what it was: drained."""
    controller.say(requeue=0)
    once(worker, signal.SIGUSR2)
    with pytest.raises(ClusterError, match="forbid requeue"):
        ReplicaJob(str(run_folder.root), 0)()
    assert controller.orders == []
    assert "r0 is not requeued: its settings or the site's forbid requeue" in log_of(run_folder)


def test_a_finished_attempt_is_not_requeued(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """A signal that comes when everything is done changes nothing."""

    def end() -> None:
        if len(worker.calls) == 1:
            record(run_folder, 2, end="done")
            os.kill(os.getpid(), signal.SIGTERM)

    worker.during = end
    assert run(run_folder) == TERMINATED
    assert controller.orders == []


def test_in_a_container_without_slurm_the_batch_script_requeues(
    run_folder: RunFolder,
    controller: Controller,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that cannot ask Slurm ends with the code for which its batch script requeues the job."""
    monkeypatch.setenv("PATH", str(controller.folder / "empty"))
    for number in (signal.SIGUSR2, signal.SIGTERM):
        worker.calls.clear()
        once(worker, number)
        assert run(run_folder) == REQUEUE_CODE
    assert "asks its batch script for a requeue: SIGTERM" in log_of(run_folder)


def test_a_gather_goes_on_after_a_preemption(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its grace time it requeues itself; the warning before a limit is not heard, a TERM ends it."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    preempted = {"preempted": "2026-11-23T11:39:05"}
    once, twice = ["requeue incomplete 7_0"], ["requeue incomplete 7_0"] * 2
    for number, said, ends, orders in (
        (signal.SIGUSR2, {}, False, []),
        (signal.SIGTERM, {}, True, []),
        (signal.SIGTERM, {"state": "COMPLETING", **preempted}, True, []),
        (signal.SIGTERM, preempted, True, once),
        (signal.SIGUSR2, preempted, True, twice),
    ):
        controller.say(**said)
        with pytest.raises(SystemExit) if ends else contextlib.nullcontext():
            interrupt_gather(number, None)
        assert controller.orders == orders
