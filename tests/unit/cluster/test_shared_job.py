"""A job that several runs share: turns, failures, cancels and signals, with a controller that is a script."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from evalkit.cluster.attempts import read_attempts
from evalkit.cluster.batch import ENDED_CODE, TERMINATED
from evalkit.cluster.job import ReplicaJob
from evalkit.cluster.jobs import (
    Fence,
    JobRecord,
    append_job,
    goes_on_after,
    is_wanted_elsewhere,
    owner_of,
    read_jobs,
    whose_turn,
    write_fence,
)
from evalkit.cluster.live import live_elements
from evalkit.cluster.requeue import STUCK_AFTER, refuse
from evalkit.cluster.slurm import SlurmCommands
from evalkit.errors import RecipeError
from tests.unit.cluster.builders import make_cluster, make_plan, write_run
from tests.unit.cluster.test_accounting import make_job
from tests.unit.cluster.test_live import write_job
from tests.unit.cluster.test_requeue import attempt, barren
from tests.unit.cluster.test_tenure import once, worker  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.store.layout import RunFolder
    from tests.unit.cluster.conftest import FakeSlurm
    from tests.unit.cluster.controller import Controller
    from tests.unit.cluster.test_job import Worker


@pytest.fixture
def runs(tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    """Two runs that share the element 7_0, each with the job on record."""
    made = [write_run(tmp_path / "out" / name, make_plan()) for name in "ab"]
    for here, there in (("a", "b"), ("b", "a")):
        job = JobRecord(1, 1.0, "h", "slurm", "x", "7", "replicas", ("r0",), True, None)
        shared = replace(job, shared=(f"../{there}",), owner="." if here == "a" else "../a")
        append_job(made[here == "b"], shared)
    return made[0], made[1]


def shared_job(runs: tuple[RunFolder, RunFolder]) -> ReplicaJob:
    """What runs in the element."""
    first, second = (str(run.root) for run in runs)
    return ReplicaJob(first, 0, (second,))


def worked_for(worker: Worker) -> list[str]:  # noqa: F811
    """Names of the runs that had a turn."""
    return [call[0].name for call in worker.calls if len(call) == 3]


def test_one_after_the_other(
    runs: tuple[RunFolder, RunFolder],
    controller: Controller,
    worker: Worker,  # noqa: F811
) -> None:
    """Each run has its turn, and others can see whose it is."""
    first, second = runs
    turns: list[str] = []
    worker.during = lambda: turns.append(whose_turn(first, "7_0").root.name)
    shared_job(runs)()
    assert worked_for(worker) == turns == ["a", "b"]
    assert [owner_of(run, read_jobs(run)[0]) for run in runs] == [first, first]
    assert goes_on_after(first, first, "7_0")
    assert not goes_on_after(first, second, "7_0")
    assert controller.orders == []


def test_a_run_that_fails_for_good(
    runs: tuple[RunFolder, RunFolder],
    controller: Controller,
    worker: Worker,  # noqa: F811
) -> None:
    """The next has its turn all the same, and the job's code says that something failed."""
    waiting = [RecipeError("no such option")]

    def fail() -> None:
        if waiting:
            raise waiting.pop()

    worker.during = fail
    with pytest.raises(SystemExit) as caught:
        shared_job(runs)()
    assert caught.value.code == ENDED_CODE
    assert worked_for(worker) == ["a", "b"]
    assert controller.orders == []
    assert [a.end for a in read_attempts(runs[0])] == ["failed"]


def test_a_cancelled_run_takes_no_other_along(
    runs: tuple[RunFolder, RunFolder],
    controller: Controller,
    worker: Worker,  # noqa: F811
) -> None:
    """Preempted while the cancelled run drains, the job goes back for the others."""

    def cancel() -> None:
        write_fence(runs[0], Fence(1))
        os.kill(os.getpid(), signal.SIGUSR2)

    worker.during = cancel
    with pytest.raises(SystemExit) as caught:
        shared_job(runs)()
    assert caught.value.code == TERMINATED
    assert controller.orders == ["requeue incomplete 7_0"]
    worker.calls.clear()
    worker.during = lambda: None
    shared_job(runs)()
    assert worked_for(worker) == ["b"], "the cancelled one is left out when the job is back"


def test_a_job_that_nobody_wants(
    runs: tuple[RunFolder, RunFolder],
    controller: Controller,
    worker: Worker,  # noqa: F811
) -> None:
    """Both runs cancelled: it does not start again."""
    [job] = read_jobs(runs[0])
    assert is_wanted_elsewhere(runs[0], job)
    for run in runs:
        write_fence(run, Fence(1))
    assert not is_wanted_elsewhere(runs[0], job)
    with pytest.raises(SystemExit) as caught:
        shared_job(runs)()
    assert caught.value.code == TERMINATED
    assert worker.calls == []
    assert controller.orders == []


def test_a_signal_between_turns(
    runs: tuple[RunFolder, RunFolder],
    controller: Controller,
    worker: Worker,  # noqa: F811
) -> None:
    """The first run fails for good as the warning comes: the job goes back, and loads no other model."""
    once(worker, signal.SIGUSR2)
    calm = worker.during

    def fail() -> None:
        calm()
        raise RecipeError("no such option")

    worker.during = fail
    with pytest.raises(SystemExit) as caught:
        shared_job(runs)()
    assert caught.value.code == TERMINATED
    assert worked_for(worker) == ["a"]
    assert controller.orders == ["requeue incomplete 7_0"]


def test_finished_turns_are_not_fruitless() -> None:
    """Each requeue of a shared job begins and ends an attempt of a run that owes nothing."""
    done = [barren(number, end="done") for number in range(2, STUCK_AFTER + 9)]
    assert refuse([attempt(1), *done], make_cluster()) is None


def test_a_run_whose_jobs_have_two_names(fake_slurm: FakeSlurm) -> None:
    """The shared job is called after another run, the gather after this one: both are seen."""
    fake_slurm.switch("no_accounting")
    write_job(fake_slurm, 7, name="evalkit-other-1")
    write_job(fake_slurm, 8)
    shared, gather = make_job("7"), make_job("8")
    records = [replace(shared, name="evalkit-other-1"), replace(gather, role="gather")]
    commands = SlurmCommands(fake_slurm.env)
    for order in (records, records[::-1]):
        assert live_elements(order, commands, now=100_100.0) == {"7", "8"}
