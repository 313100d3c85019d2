"""The job behind the replicas: what signals do to it, and what becomes of it, with a controller that is a
script."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster import gathering
from evalkit.cluster import grading as stage
from evalkit.cluster.attempts import begin_attempt, read_attempts, write_attempt
from evalkit.cluster.batch import REQUEUE_CODE, TERMINATED
from evalkit.cluster.drain import DrainedError
from evalkit.cluster.grading.work import GradingProgress
from evalkit.cluster.holding import begin_record
from evalkit.cluster.job import GatherJob, current_job
from evalkit.cluster.jobs import Fence, JobRecord, append_job, write_fence
from evalkit.errors import ClusterError, IncompleteError
from evalkit.store.run import save_cluster
from tests.unit.cluster.builders import make_cluster, make_plan, make_task, write_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from evalkit.cluster.grading import Watching
    from evalkit.store.layout import RunFolder
    from tests.unit.cluster.controller import Controller


class Grading:
    """In the place of the stage: waits until it is told to stop, or ends after `during`."""

    def __init__(self) -> None:
        self.during: Callable[[], None] = lambda: None
        self.waits = True
        self.units = 1
        self.calls = 0
        self.hangs = threading.Event()
        self.hangs.set()

    def __call__(self, *_: Any, watching: Watching, **__: Any) -> list[Any]:
        """As `grade_run`."""
        self.calls += 1
        watching.on_progress(GradingProgress("t", self.units, 0, 9, now=self.units))
        self.during()
        drain = watching.drain
        assert drain is not None
        if self.waits:
            while not drain.requested:
                threading.Event().wait(0.005)
            self.hangs.wait()
            raise DrainedError(f"interrupted: {drain.reason}")
        return []


@pytest.fixture
def grading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Grading]:
    """A stage of no real work; the gather finds units missing; handlers are restored."""
    fake = Grading()

    def gather(*_: object, **__: object) -> None:
        raise IncompleteError("gathered")

    monkeypatch.setattr(stage, "grade_run", fake)
    monkeypatch.setattr("evalkit.report.gather.gather_run", gather)
    handlers = {number: signal.getsignal(number) for number in gathering.HANDLED}
    yield fake
    fake.hangs.set()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with a task that needs a sandbox to be scored."""
    task = make_task().model_copy(update={"benchmark": "livecodebench_v6"})
    return write_run(tmp_path / "run", make_plan(task))


def send(*numbers: signal.Signals) -> Callable[[], None]:
    """Signals to this process, sent from the stage's thread."""
    return lambda: [os.kill(os.getpid(), number) for number in numbers] and None


def code_of(run: RunFolder) -> Any:
    """Exit code of the job."""
    with pytest.raises(SystemExit) as caught:
        GatherJob(str(run.root))()
    return caught.value.code


def ended(run: RunFolder) -> list[tuple[str | None, str | None]]:
    """How each attempt ended, and why."""
    return [(record.end, record.reason) for record in read_attempts(run.gather_place)]


def test_a_warned_grading_is_requeued(
    run: RunFolder, controller: Controller, grading: Grading
) -> None:
    """It drains, is on record apart from the replicas, and goes back as a replica does."""
    grading.during = send(signal.SIGUSR2)
    assert code_of(run) == TERMINATED
    assert controller.orders == ["requeue incomplete 7_0"]
    assert ended(run) == [("drained", "SIGUSR2")]
    assert read_attempts(run) == []
    assert "gather goes back into the queue: SIGUSR2" in run.stdout.read_text()


def test_a_grading_at_its_limit_is_requeued(
    run: RunFolder, controller: Controller, grading: Grading
) -> None:
    """A TERM that comes of the time limit needs words that mean it; a cancel's revives nothing."""
    grading.during = send(signal.SIGTERM)
    controller.say(state="COMPLETING", reason="TimeLimit")
    assert code_of(run) == TERMINATED
    assert controller.orders == ["requeue 7_0"]
    controller.say(state="COMPLETING")
    assert code_of(run) == TERMINATED
    assert controller.orders == ["requeue 7_0"]


def test_a_grading_that_does_not_drain_is_left(
    run: RunFolder, controller: Controller, grading: Grading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The requeue is ordered before Slurm kills, whatever the grading is at."""
    monkeypatch.setattr(gathering, "REQUEUE_S", 29.9)  # of KillWait's 30 s
    grading.hangs.clear()
    grading.during = send(signal.SIGTERM)
    assert code_of(run) == TERMINATED
    assert controller.orders == ["requeue incomplete 7_0"]


def test_a_grading_that_ends_in_time_is_gathered(
    run: RunFolder, controller: Controller, grading: Grading
) -> None:
    """A warning that found nothing left to drain is no reason to go back."""
    grading.waits, grading.during = False, send(signal.SIGUSR2)
    with pytest.raises(IncompleteError, match="gathered"):
        GatherJob(str(run.root))()
    assert controller.orders == []
    assert ended(run) == [("done", None)]


def test_a_site_that_forbids_requeue(
    run: RunFolder, controller: Controller, grading: Grading
) -> None:
    """The job says what to type, and fails."""
    controller.say(requeue=0)
    grading.during = send(signal.SIGUSR2)
    with pytest.raises(ClusterError, match=r"gather is not requeued: .* forbid requeue") as caught:
        GatherJob(str(run.root))()
    assert "evalkit submit" in str(caught.value)
    assert controller.orders == []


def test_a_controller_that_refuses(
    run: RunFolder, controller: Controller, grading: Grading
) -> None:
    """The batch script is asked then."""
    (controller.folder / "refused").write_text("slurm_update error: Try again")
    grading.during = send(signal.SIGUSR2)
    assert code_of(run) == REQUEUE_CODE


def earlier(run: RunFolder, number: int, **changes: Any) -> None:
    """An attempt of this job that was drained after an hour."""
    attempt = begin_attempt(run.gather_place, gathering.NAME)
    record = begin_record(attempt, current_job(), 0, SYSTEM_CLOCK.wall() - 3600)
    fields = {"restart_count": number, "ended": SYSTEM_CLOCK.wall(), "end": "drained"} | changes
    write_attempt(run.gather_place, replace(record, **fields))


def test_the_limits_of_replicas_are_its_own(
    run: RunFolder, controller: Controller, grading: Grading
) -> None:
    """Over `max_hours`, or after eight attempts that graded nothing, it does not start again."""
    save_cluster(run, make_cluster(max_hours=1))
    earlier(run, 0, units=5)
    with pytest.raises(ClusterError, match=r"cluster\.max_hours is 1"):
        GatherJob(str(run.root))()
    save_cluster(run, make_cluster())
    for number in range(1, 9):
        earlier(run, number)
    with pytest.raises(ClusterError, match="attempts in a row ended before one unit"):
        GatherJob(str(run.root))()
    assert grading.calls == 0


def test_a_cancelled_grading_does_not_start(
    run: RunFolder, controller: Controller, grading: Grading
) -> None:
    """Slurm may requeue a job that a cancel came over."""
    append_job(run, JobRecord(1, 1.0, "h", "slurm", "x", "7", "gather", (), False, None))
    write_fence(run, Fence(1))
    assert code_of(run) == TERMINATED
    assert grading.calls == 0


def test_a_gather_hears_a_preemption_and_a_term(
    run: RunFolder, controller: Controller, grading: Grading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the warning before a limit: it takes a minute. What goes back can start over."""
    grading.waits = False
    preempted = {"preempted": "2026-11-23T11:39:05"}
    for number, said, ends, orders in (
        (signal.SIGUSR2, {}, False, 0),
        (signal.SIGTERM, {"state": "COMPLETING"}, True, 0),
        (signal.SIGTERM, {"state": "COMPLETING", **preempted}, True, 0),
        (signal.SIGTERM, preempted, True, 1),
        (signal.SIGUSR2, preempted, True, 2),
        (signal.SIGTERM, {}, True, 3),
    ):
        controller.say(**said)

        def gather(*_: object, number: signal.Signals = number, **__: object) -> None:
            os.kill(os.getpid(), number)

        monkeypatch.setattr("evalkit.report.gather.gather_run", gather)
        if ends:
            assert code_of(run) == TERMINATED
        else:
            GatherJob(str(run.root))()
        assert len(controller.orders) == orders


def test_a_signal_before_the_first_line(run: RunFolder, controller: Controller) -> None:
    """submitit's handler, which is there first, gets a requeue and never comes to its own books."""
    handlers = {number: signal.getsignal(number) for number in gathering.HANDLED}
    try:
        with pytest.raises(SystemExit) as caught:
            GatherJob(str(run.root)).checkpoint()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert caught.value.code == TERMINATED
    assert controller.orders == ["requeue incomplete 7_0"]
