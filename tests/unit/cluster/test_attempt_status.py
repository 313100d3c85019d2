"""Which attempts are alive: heard, or held by a job that runs their execution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.cluster.accounting import Execution, History
from evalkit.cluster.attempt_status import Parts, attempt_statuses
from evalkit.cluster.live import NO_ANSWER, Answer
from evalkit.cluster.postmortem import Postmortem
from evalkit.cluster.replica_report import ReplicaReport
from evalkit.cluster.states import job_state
from evalkit.cluster.status_values import AttemptStatus, JobStatus
from tests.unit.cluster.test_attempts import make_record

if TYPE_CHECKING:
    from evalkit.store.layout import RunFolder

JOB = "7_0"
NOW = 100_000.0
RUNNING = JobStatus(JOB, "replicas", "r0", "running", "RUNNING", "", "n2", None)
STOPPED = JobStatus(JOB, "replicas", "r0", "suspended", "SUSPENDED", "", "n2", None)
STRANGE = JobStatus(JOB, "replicas", "r0", "unknown", "NEW_STATE", "", "n2", None)
MUTE = JobStatus(JOB, "replicas", "r0", "unknown", "", NO_ANSWER, "", None)


def execution(raw: str, started: float, ended: float | None = None) -> Execution:
    return Execution(JOB, job_state(raw), raw, "0:0", 990.0, started, ended, "n1")


def look(
    folder: RunFolder, job: JobStatus, *rows: Execution, heard: float | None = None
) -> AttemptStatus:
    """The attempt of `make_record`, which began at 1000 and has no end."""
    reports = {}
    if heard is not None:
        reports["r0"] = ReplicaReport("r0", 1, "n1", 1, JOB, 1000.0, "ready", heartbeat=heard)
    parts = Parts([], [], reports, [make_record()], Answer({}, History({JOB: rows})), NOW)
    [found] = attempt_statuses(folder, [job], parts, Postmortem())
    return found


def test_an_attempt_before_the_one_that_runs(run_folder: RunFolder) -> None:
    """While a requeued job runs and its worker has no record yet, the attempt before is over."""
    rows = (execution("NODE_FAIL", 995.0, 2000.0), execution("RUNNING", 2100.0))
    found = look(run_folder, RUNNING, *rows)
    assert not found.is_alive
    assert found.failure is not None
    assert found.failure.kind == "node_failure"


def test_an_attempt_that_its_job_holds(run_folder: RunFolder) -> None:
    """A silent attempt of the execution that runs, or of which no accounts are kept, is alive."""
    assert look(run_folder, RUNNING, execution("RUNNING", 995.0)).is_alive
    assert look(run_folder, RUNNING).is_alive


def test_an_attempt_of_a_suspended_job(run_folder: RunFolder) -> None:
    """It stands still, so it is not heard; it is alive all the same, and nothing of it is lost."""
    for rows in ((), (execution("SUSPENDED", 995.0),)):
        found = look(run_folder, STOPPED, *rows)
        assert (found.is_alive, found.failure) == (True, None)


def test_an_attempt_under_a_new_state(run_folder: RunFolder) -> None:
    """Not heard, and Slurm has its job under a word that is not known here: neither alive nor failed."""
    for rows in ((), (execution("NEW_STATE", 995.0),)):
        found = look(run_folder, STRANGE, *rows)
        assert (found.is_alive, found.failure) == (False, None)
    assert look(run_folder, STRANGE, heard=NOW - 1.0).is_alive


def test_silence_all_around(run_folder: RunFolder) -> None:
    """Not heard, and Slurm is mute: neither alive nor failed. A heartbeat alone makes it alive."""
    found = look(run_folder, MUTE)
    assert (found.is_alive, found.failure) == (False, None)
    assert look(run_folder, MUTE, heard=NOW - 86_400.0).is_alive is False
    assert look(run_folder, MUTE, heard=NOW - 1.0).is_alive
