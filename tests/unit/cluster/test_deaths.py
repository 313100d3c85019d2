"""Attempts of which a batch script alone tells: read as failed ones, and made records of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from evalkit.cluster.attempts import AttemptReader, begin_attempt, read_attempts, settle_deaths
from evalkit.cluster.deaths import (
    Death,
    deaths_file,
    ended_without_a_word,
    parse_deaths,
    read_deaths,
)
from evalkit.cluster.failures import FailureKind
from evalkit.cluster.jobs import JobRecord, append_job
from evalkit.cluster.requeue import bad_nodes, failures_in_a_row
from evalkit.store.layout import RunFolder
from tests.unit.cluster.controller import record

if TYPE_CHECKING:
    from pathlib import Path


def die(folder: RunFolder, element: str, *lines: str) -> None:
    """What the batch script of an element of job 7 leaves."""
    if not folder.jobs.exists():
        job = JobRecord(1, 1.0, "h", "slurm", "x", "7", "replicas", ("r0", "r1"), True, None)
        append_job(folder, job)
    deaths_file(folder, element).write_text("".join(f"{line}\n" for line in lines))


def test_a_line_is_a_failed_attempt(run_folder: RunFolder) -> None:
    """With its node, its code and the job's own log, numbered behind the replica's others."""
    begin_attempt(run_folder, "r1")
    die(run_folder, "7_1", "0 127 1000 n1", "1 1 2000 n2")
    first, second = read_attempts(run_folder)
    assert [first.id, second.id] == ["r1.a2", "r1.a3"]
    assert (first.job_id, first.restart_count, first.end) == ("7_1", 0, "failed")
    assert (first.node, first.gpus, first.wall_s, first.ended) == ("n1", 0, 0, 1000.0)
    assert first.failure is not None
    assert (first.failure.kind, first.failure.node) == (FailureKind.UNKNOWN, "n1")
    assert "exit code 127" in first.failure.reason
    assert first.failure.log == "cluster/7_1_0_log.out"
    assert AttemptReader(run_folder).read() == [first, second]
    assert read_attempts(run_folder, "r0") == []
    assert failures_in_a_row([first, second]) == 2


def test_a_node_where_nothing_starts_is_bad(run_folder: RunFolder) -> None:
    """Elements that die there one after the other make it a node to stay off."""
    record(run_folder, 1)
    die(run_folder, "7_0", "1 127 1000 n7")
    die(run_folder, "7_1", "0 127 1001 n7")
    assert bad_nodes(read_attempts(run_folder)) == ("n7",)


def test_lines_become_records(run_folder: RunFolder) -> None:
    """The next attempt that starts makes records of its job's lines, before it takes a number; others stay."""
    die(run_folder, "7_0", "0 127 1000 n1")
    die(run_folder, "7_1", "0 127 1001 n1")
    before = read_attempts(run_folder)
    settle_deaths(run_folder, "r0", "7_0")
    assert read_attempts(run_folder) == before
    assert run_folder.attempt_record("r0", 1).exists()
    assert [death.job_id for death in read_deaths(run_folder)] == ["7_1"]
    assert begin_attempt(run_folder, "r0").number == 2


def test_a_record_is_worth_more_than_a_line(run_folder: RunFolder) -> None:
    """Of an attempt that has a record a line tells nothing new: a crash while they are settled."""
    record(run_folder, 1)
    die(run_folder, "7_0", "0 139 4600 n1")
    assert [attempt.id for attempt in read_attempts(run_folder)] == ["r0.a1"]
    settle_deaths(run_folder, "r0", "7_0")
    assert [attempt.id for attempt in read_attempts(run_folder)] == ["r0.a1"]


def test_what_cannot_be_written_stays(run_folder: RunFolder) -> None:
    """A log folder that is no folder keeps nothing from starting, and the lines stay."""
    die(run_folder, "7_0", "0 127 1000 n1")
    logs = run_folder.replica_logs("r0")
    logs.parent.mkdir(parents=True, exist_ok=True)
    logs.write_text("")
    settle_deaths(run_folder, "r0", "7_0")
    assert deaths_file(run_folder, "7_0").exists()


def test_a_job_of_another_run_is_nobodys(run_folder: RunFolder) -> None:
    """A line of a job that is not on record names no replica."""
    die(run_folder, "8", "0 127 1000 n1")
    assert read_attempts(run_folder) == []


@given(st.text(alphabet="0123456789 n\nx²", max_size=40))
def test_torn_lines_are_left_out(text: str) -> None:
    """Whatever is in the file, only whole lines count."""
    for death in parse_deaths("7", text):
        line = f"{death.restart_count} {death.code} {death.time:.0f} {death.node}"
        assert line.split(" ")[3] in text
    whole = f"{text}\n0 1 5 n1\n"
    assert parse_deaths("7", whole)[-1] == Death("7", 0, 1, 5.0, "n1")


def test_signals_have_names() -> None:
    """A code above 128 is a signal's where there is such a signal."""
    assert "SIGKILL" in ended_without_a_word(137)
    assert "exit code 255" in ended_without_a_word(255)
    assert "exit code 128" in ended_without_a_word(128)


def test_no_folder_no_deaths(tmp_path: Path) -> None:
    """A run that was never submitted has none."""
    assert read_deaths(RunFolder(tmp_path / "none")) == []
