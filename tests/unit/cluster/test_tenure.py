"""One attempt in a Slurm job: its start, its signals, its requeue, with a controller that is a script."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import evalkit.cluster
from evalkit.cluster import departure, tenure
from evalkit.cluster.attempts import read_attempts
from evalkit.cluster.batch import ENDED_CODE, REQUEUE_CODE, TERMINATED
from evalkit.cluster.deaths import deaths_file
from evalkit.cluster.failures import Failure, FailureKind, classify
from evalkit.cluster.job import ReplicaJob
from evalkit.cluster.jobs import Fence, JobRecord, append_job, write_fence
from evalkit.errors import RecipeError, ServerDiedError, StoreError
from evalkit.serving import tree
from evalkit.serving.server import unendable
from evalkit.store.run import save_cluster
from tests.unit.cluster.builders import make_cluster
from tests.unit.cluster.controller import Controller, record
from tests.unit.cluster.test_job import HANDLED, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalkit.store.layout import RunFolder


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
    run_folder: RunFolder,
    controller: Controller,
    worker: Worker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An error that no other node cures is the job's own, with a code that its batch script accepts."""

    def fail() -> None:
        raise RecipeError("no such thing")

    worker.during = fail
    assert run(run_folder) == ENDED_CODE
    assert "evalkit.errors.RecipeError: no such thing" in capsys.readouterr().err
    assert controller.orders == []


def test_a_spent_budget_ends_the_job(
    run_folder: RunFolder,
    controller: Controller,
    worker: Worker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The attempt that spends `max_hours` is not requeued, and its record and the log say why."""
    save_cluster(run_folder, make_cluster(max_hours=1.5))
    record(run_folder, 1)

    def warn() -> None:
        if len(worker.calls) == 1:
            record(run_folder, 2)
            os.kill(os.getpid(), signal.SIGUSR2)

    worker.during = warn
    assert run(run_folder) == ENDED_CODE
    said = capsys.readouterr().err
    assert "ClusterError: r0 is not requeued: its 2 attempts" in said
    assert "cluster.max_hours is 1.5" in said
    assert controller.orders == []
    assert log_of(run_folder).count("is not requeued") == 1
    last = read_attempts(run_folder)[-1]
    assert (last.end, last.units) == ("over_budget", 1)
    assert last.failure is not None
    assert last.failure.kind is FailureKind.OVER_BUDGET
    assert "cluster.max_hours" in log_of(run_folder)


def test_an_attempt_over_its_budget_does_not_start(
    run_folder: RunFolder,
    controller: Controller,
    worker: Worker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Slurm requeues a preempted job without asking: the attempt ends before it loads a model."""
    save_cluster(run_folder, make_cluster(max_hours=1))
    record(run_folder, 1)
    assert run(run_folder) == ENDED_CODE
    said = capsys.readouterr().err
    assert "cluster.max_hours is 1" in said
    assert "evalkit submit" in said
    assert worker.calls == []
    first, second = read_attempts(run_folder)
    assert (first.end, second.end, second.wall_s) == ("drained", "over_budget", 0)


def test_a_budget_that_is_spent_in_between_drains(
    run_folder: RunFolder,
    controller: Controller,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An attempt is told to stop when `max_hours` are over, long before its time limit."""
    save_cluster(run_folder, make_cluster(max_hours=1e-6))
    worker.code = 1

    told = threading.Event()

    def hear(reason: str, wait_s: float) -> None:
        worker.calls.append((reason, wait_s))
        told.set()

    monkeypatch.setattr(worker, "request_drain", hear)
    worker.during = lambda: told.wait(60)
    assert run(run_folder) == ENDED_CODE
    assert "cluster.max_hours, 1e-06, are over" in capsys.readouterr().err
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
    monkeypatch.setattr(departure, "ANSWER_S", 0.2)
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
    assert run(run_folder) == ENDED_CODE
    assert "cluster.max_failures" in log_of(run_folder)
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
    monkeypatch.setattr(departure, "begin_attempt", fail)
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    controller.say(restarts=restarts)
    assert run(run_folder) == (TERMINATED if is_requeued else ENDED_CODE)
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
    assert run(run_folder) == ENDED_CODE
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


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_recalled_attempt_is_not_requeued(
    run_folder: RunFolder, controller: Controller, worker: Worker, restarts: int
) -> None:
    """A worker that drained because nobody wanted it ends; its batch script has nothing to do."""
    controller.say(restarts=restarts)
    worker.code = 1
    worker.during = lambda: record(run_folder, 2, reason="superseded")
    assert run(run_folder) == (ENDED_CODE if restarts == 1 else TERMINATED)
    assert controller.orders == []


def test_lines_of_batch_scripts_are_counted_at_the_start(
    run_folder: RunFolder, controller: Controller, worker: Worker
) -> None:
    """Attempts of which only a batch script tells get their records, and use up `max_failures`."""
    save_cluster(run_folder, make_cluster(max_failures=1))
    job = JobRecord(1, 1.0, "h", "slurm", "x", "7", "replicas", ("r0",), True, None)
    append_job(run_folder, job)
    deaths_file(run_folder, "7_0").write_text("0 127 1000 n1\n")
    assert run_of_a_good_worker(run_folder) is None
    assert [r.end for r in read_attempts(run_folder)] == ["failed"]
    assert not deaths_file(run_folder, "7_0").exists()
    deaths_file(run_folder, "7_0").write_text("5 127 2000 n1\n")
    assert run(run_folder) == ENDED_CODE
    assert "2 attempts in a row failed" in log_of(run_folder)


def run_of_a_good_worker(folder: RunFolder) -> None:
    """A job that ends well."""
    ReplicaJob(str(folder.root), 0)()


def test_damage_in_the_decision_is_left_to_the_batch_script(
    run_folder: RunFolder,
    controller: Controller,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error of ours while it is decided ends as itself, not as a decision to end the job."""

    def fail(*_: object, **__: object) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setattr(departure, "decide", fail)
    once(worker, signal.SIGTERM)
    with pytest.raises(KeyError):
        ReplicaJob(str(run_folder.root), 0)()
