"""A worker's process that ended with a code of nobody's choice: what its batch script is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from evalkit.cluster import aftermath, departure
from evalkit.cluster.attempts import read_attempts
from evalkit.cluster.batch import ENDED_CODE, REQUEUE_CODE, TERMINATED
from evalkit.cluster.failures import Failure, FailureKind
from evalkit.cluster.jobs import Fence, JobRecord, append_job, write_fence
from evalkit.errors import ClusterError, StoreError
from evalkit.store.run import save_cluster
from tests.unit.cluster.builders import make_cluster
from tests.unit.cluster.controller import Controller, record

if TYPE_CHECKING:
    from evalkit.store.layout import RunFolder

OPEN: dict[str, Any] = {"end": None, "ended": None, "units": 0}
"""Of a worker that was killed: its record has no end."""


@pytest.fixture(autouse=True)
def _of_this_test(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job `7_0` runs r3 of the run; signals stay as they are."""
    append_job(
        run_folder, JobRecord(1, 1.0, "h", "slurm", "x", "7", "replicas", ("r3", "r4"), True, None)
    )
    monkeypatch.setattr("signal.signal", lambda *_: None)


def decide(folder: RunFolder, code: int) -> int:
    """The code for the batch script."""
    try:
        return aftermath.main([str(folder.root), str(code)])
    except SystemExit as end:
        return int(str(end.code))


def last(folder: RunFolder) -> tuple[str | None, FailureKind | None, str]:
    """How the latest attempt is said to have ended."""
    found = read_attempts(folder)[-1]
    assert found.failure is not None
    return found.end, found.failure.kind, found.failure.reason


def test_an_attempt_that_never_began_is_a_failed_one(
    run_folder: RunFolder, controller: Controller
) -> None:
    """It gets a record with its node and the job's own log, and the job goes on without the node."""
    run_folder.job_log("7_0").write_text("srun: error: no such mount\n")
    assert decide(run_folder, 1) == TERMINATED
    (found,) = read_attempts(run_folder)
    assert (found.id, found.restart_count, found.end) == ("r3.a1", 1, "failed")
    reason = "its worker ended without a word (exit code 1)"
    lines = ("srun: error: no such mount",)
    log = "cluster/7_0_0_log.out"
    assert found.failure == Failure(FailureKind.UNKNOWN, reason, "n1", log, lines)
    assert controller.orders == [
        "requeue incomplete 7_0",
        "update JobId=7_0 ExcNodeList=given,n1",
    ]


def test_a_killed_worker_has_failed_there(run_folder: RunFolder, controller: Controller) -> None:
    """Its open record says so from then on: it counts as a failure, also where it had kept something."""
    record(run_folder, 2, replica="r3", **{**OPEN, "units": 9})
    assert decide(run_folder, 139) == TERMINATED
    assert last(run_folder)[:2] == ("failed", FailureKind.UNKNOWN)
    assert last(run_folder)[2] == "its worker was killed without a word (SIGSEGV)"
    (found,) = read_attempts(run_folder)
    assert (found.units, found.wall_s) == (9, 3600)


def test_failures_without_a_word_are_bounded(
    run_folder: RunFolder, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are counted like any other, and the last one ends the job with the reason."""
    save_cluster(run_folder, make_cluster(max_failures=1))
    failure = Failure(FailureKind.UNKNOWN, "killed", "n1")
    record(run_folder, 1, replica="r3", end="failed", units=0, failure=failure)
    assert decide(run_folder, 137) == ENDED_CODE
    assert controller.orders == []
    assert "2 attempts in a row failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "said",
    [{"state": "COMPLETING"}, {"restarts": 2}, {"state": "COMPLETING", "restarts": 2}],
    ids=["cancelled", "requeued", "preempted"],
)
def test_what_slurm_ended_is_no_failure(
    run_folder: RunFolder, controller: Controller, said: dict[str, Any]
) -> None:
    """A worker that was killed in the end of its job: Slurm's accounts say why, and nothing is revived."""
    record(run_folder, 2, replica="r3", **OPEN)
    controller.say(**said)
    assert decide(run_folder, 137) in (ENDED_CODE, TERMINATED)
    assert controller.orders == []
    assert [(r.end, r.failure) for r in read_attempts(run_folder)] == [(None, None)]


def test_a_fenced_job_is_not_revived(run_folder: RunFolder, controller: Controller) -> None:
    """What `evalkit cancel` came over ends, though Slurm still calls it running."""
    write_fence(run_folder, Fence(1))
    assert decide(run_folder, 137) == ENDED_CODE
    assert controller.orders == []


def test_a_worker_that_was_told_to_stop_has_not_failed(
    run_folder: RunFolder, controller: Controller
) -> None:
    """One that is killed while it drains (in the grace time of a preemption) goes on as drained."""
    record(run_folder, 2, replica="r3", **{**OPEN, "reason": "SIGTERM"})
    assert decide(run_folder, 137) == TERMINATED
    assert controller.orders == ["requeue incomplete 7_0"]
    assert [(r.end, r.failure) for r in read_attempts(run_folder)] == [(None, None)]


@pytest.mark.parametrize(
    ("changes", "code", "orders"),
    [
        ({"end": "done"}, ENDED_CODE, 0),
        ({"end": "drained", "reason": "SIGUSR2"}, TERMINATED, 1),
        ({"end": "failed", "failure": Failure(FailureKind.CONFIG, "wrong")}, ENDED_CODE, 0),
        ({"end": "failed", "failure": Failure(FailureKind.SERVER_CRASH, "died")}, TERMINATED, 2),
    ],
    ids=["done", "drained", "wrong recipe", "server crash"],
)
def test_a_worker_that_was_killed_after_its_last_word(
    run_folder: RunFolder, controller: Controller, changes: dict[str, Any], code: int, orders: int
) -> None:
    """What it said of its end counts, not the code that its process left."""
    record(run_folder, 2, replica="r3", **changes)
    before = read_attempts(run_folder)
    assert decide(run_folder, 134) == code
    assert len(controller.orders) == orders
    assert read_attempts(run_folder) == before


def test_a_silent_controller_is_left_to_the_script(
    run_folder: RunFolder, controller: Controller
) -> None:
    """The failure is on record, and the batch script goes on asking."""
    (controller.folder / "job").unlink()
    assert decide(run_folder, 1) == REQUEUE_CODE
    assert last(run_folder)[0] == "failed"


def test_without_a_record_slurms_count_is_the_limit(
    run_folder: RunFolder, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk nothing is counted, so a job that was requeued very often ends."""

    def fail(*_: object) -> None:
        raise StoreError("No space left on device")

    monkeypatch.setattr(departure, "begin_attempt", fail)
    assert decide(run_folder, 1) == TERMINATED
    monkeypatch.setenv("SLURM_RESTART_COUNT", "99")
    controller.say(restarts=99)
    assert decide(run_folder, 1) == ENDED_CODE


def test_a_job_that_is_not_on_record_is_not_decided_about(
    run_folder: RunFolder, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its submit was killed, or has not noted it yet: an error, and so any other code, says it."""
    monkeypatch.setattr(aftermath, "ON_RECORD_S", 0)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "8")
    with pytest.raises(ClusterError, match="8_0 is not on record"):
        aftermath.main([str(run_folder.root), "1"])
    assert controller.orders == []
