"""The failure table: every failure is in it, and once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from evalkit.cluster.accounting import Execution, History
from evalkit.cluster.failures import Failure, FailureKind
from evalkit.cluster.slurm import JobRow
from evalkit.cluster.states import JobState, job_state
from evalkit.cluster.status_values import AttemptStatus, JobStatus
from evalkit.cluster.troubles import group_failures
from evalkit.cluster.unit_failures import UnitSources

if TYPE_CHECKING:
    from evalkit.store.layout import RunFolder

JOB = "7_0"
PREEMPTED = Failure(FailureKind.PREEMPTED, "preempted by Slurm", "n1")


def attempt(number: int = 1, **changes: Any) -> AttemptStatus:
    """A preempted attempt, from 1000 to 1060."""
    values = {
        "id": f"r0.a{number}", "replica": "r0", "attempt": number, "job_id": JOB, "node": "n1",
        "gpus": 1, "started": 1000.0, "ended": 1060.0, "is_alive": False, "end": "drained",
        "units": 0, "completion_tokens": 0, "server_starts": 1, "failure": PREEMPTED,
    }  # fmt: skip
    return AttemptStatus(**{**values, **changes})


def execution(raw: str, started: float | None) -> Execution:
    return Execution(JOB, job_state(raw), raw, "1:0", 990.0, started, None, "n1")


def kinds(
    folder: RunFolder, attempts: list[AttemptStatus], *rows: Execution
) -> list[tuple[str, str]]:
    """What failed and how, of a job that has failed."""
    job = JobStatus(JOB, "replicas", "r0", "failed", "FAILED", "NonZeroExitCode", "n2", None)
    now = {JOB: JobRow(JOB, JobState.FAILED, "FAILED", "NonZeroExitCode", "n2", "1:0")}
    groups = group_failures(folder, UnitSources({}, {}, attempts, [job]), now, History({JOB: rows}))
    return [(group.of, str(group.kind)) for group in groups]


@pytest.fixture
def folder(run_folder: RunFolder) -> RunFolder:
    """A run whose job says in its log why it failed."""
    path = run_folder.job_log(JOB)
    path.parent.mkdir(parents=True)
    path.write_text("evalkit.errors.StoreError: cannot read plan.json\n")
    return run_folder


def test_a_job_that_fails_after_a_told_attempt(folder: RunFolder) -> None:
    """An execution without an attempt is in the table, though an earlier one had an attempt."""
    rows = (execution("PREEMPTED", 995.0), execution("FAILED", 1100.0))
    assert kinds(folder, [attempt()], *rows) == [("attempt", "preempted"), ("job", "storage")]


def test_where_old_rows_are_gone(folder: RunFolder) -> None:
    """A start long after the last attempt's end is of a later execution, whatever the count."""
    late = execution("FAILED", 9000.0)
    found = kinds(folder, [attempt(restart_count=5)], late)
    assert found == [("attempt", "preempted"), ("job", "storage")]


def test_a_failure_is_counted_once(folder: RunFolder) -> None:
    """A job is not counted beside the attempt of its last execution."""
    rows = (execution("PREEMPTED", 995.0), execution("FAILED", 1100.0))
    last = attempt(2, started=1110.0, ended=1200.0, restart_count=1)
    assert kinds(folder, [attempt(), last], *rows) == [("attempt", "preempted")]
    assert kinds(folder, [attempt()]) == [("attempt", "preempted")], "nobody keeps accounts"


def test_a_job_without_attempts(folder: RunFolder) -> None:
    """A worker that never started is in the table."""
    assert kinds(folder, [], execution("FAILED", 995.0)) == [("job", "storage")]
