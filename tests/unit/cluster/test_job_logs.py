"""The output of jobs that no attempt tells of, among a run's logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from evalkit.cluster.attempts import write_attempt
from evalkit.cluster.logs import Follower, Wanted
from tests.unit.cluster.test_attempts import make_record
from tests.unit.cluster.test_logs import shown, write
from tests.unit.cluster.test_status import NOW, record

if TYPE_CHECKING:
    from evalkit.store.layout import RunFolder


@pytest.fixture
def folder(run_folder: RunFolder) -> RunFolder:
    """An array of two, of which one never had a worker, and a gather that failed."""
    record(run_folder, "7", replicas=("r0", "r1"), is_array=True)
    record(run_folder, "8", "gather")
    write(run_folder.worker_log("r0", 1), "works\n")
    write_attempt(run_folder, make_record("r0", 1, job_id="7_0"))
    for job in ("7_0", "7_1", "8"):
        write(run_folder.job_log(job), f"of {job}\n")
    return run_folder


def test_a_worker_that_never_started(folder: RunFolder) -> None:
    """Its job's output is shown, and the gather's; not that of a job whose worker has a log."""
    assert shown(folder) == ["r0.a1 worker| works", "r1 job 7_1| of 7_1", "gather job 8| of 8"]


@pytest.mark.parametrize(
    ("replica", "lines"),
    [
        ("r0", ["r0.a1 worker| works"]),
        ("r1", ["r1 job 7_1| of 7_1"]),
        ("r0.a1", ["r0.a1 worker| works"]),
    ],
)
def test_of_one_replica(folder: RunFolder, replica: str, lines: list[str]) -> None:
    """A replica's job is its own; the gather is nobody's."""
    assert shown(folder, replica=replica) == lines


def test_since_the_submit(folder: RunFolder) -> None:
    """Lines without a time are of when the job was submitted."""
    assert len(shown(folder, since=NOW - 10_001)) == 2
    assert shown(folder, since=NOW - 9_999) == []


def test_a_job_that_writes_later(folder: RunFolder) -> None:
    """A new output is found while the logs are followed; an empty one is none."""
    follower = Follower(folder, Wanted())
    list(follower.begin())
    record(folder, "9", replicas=("r2",), submission=2)
    folder.job_log("9").touch()
    follower.discover()
    assert list(follower.read()) == []
    write(folder.job_log("9"), "bash: module: command not found\n")
    follower.discover()
    assert [str(line) for line in follower.read()] == ["r2 job 9| bash: module: command not found"]


def test_a_damaged_list_of_jobs(folder: RunFolder) -> None:
    """It hides no worker's log."""
    folder.jobs.write_text("{\n")
    assert shown(folder) == ["r0.a1 worker| works"]
