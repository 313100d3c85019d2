"""How far gradings are: markers and journals count alike, and nothing is read twice."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from evalkit.benchmarks.registry import make_benchmark
from evalkit.cluster import grading_progress
from evalkit.cluster.grading_progress import GradingReader
from evalkit.cluster.progress import TaskProgress
from evalkit.cluster.replica_report import ReplicaReport
from evalkit.cluster.status_tasks import task_status
from evalkit.cluster.troubles import NOBODY_GRADED, ungraded
from evalkit.cluster.unit_failures import UnitSources, unit_failures
from evalkit.store.codec import encode, header, seal
from evalkit.store.gradings import GradingCounters, grading_plan, mark_graded, scored_as
from evalkit.store.records import GradingRecord, Outcome
from tests.unit.cluster.builders import make_plan, make_task, write_marker, write_run

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.cluster.grading_progress import GradingCounts
    from evalkit.cluster.status_values import TaskStatus
    from evalkit.store.layout import RunFolder

BENCHMARK = make_benchmark("livecodebench_v6", {}, "card")
TASK = make_task(n_shards=2).model_copy(
    update={
        "benchmark": BENCHMARK.name,
        "benchmark_version": BENCHMARK.version,
        "params": BENCHMARK.params.model_dump(mode="json"),
    }
)
PLAN = make_plan(TASK)
GRADING = grading_plan(PLAN, TASK, BENCHMARK.grading_params)
FIRST, SECOND = TASK.shards()
NOW = 1000.0


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of eight answers in two shards, none graded."""
    folder = write_run(tmp_path / "run", PLAN)
    for shard in (FIRST, SECOND):
        write_marker(folder, TASK, shard.index)
    return folder


def place_of(run: RunFolder) -> RunFolder:
    return run.grading(TASK.name, GRADING.fingerprint)


def find(run: RunFolder, *outcomes: Outcome, attempt: str = "r900.a1.0") -> None:
    """Findings about the second shard's units, in order."""
    path = place_of(run).journal(SECOND, attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [] if path.exists() else [seal(header(GRADING.fingerprint, TASK.name, 1, attempt))]
    for key, outcome in zip(TASK.units(SECOND), outcomes, strict=False):
        is_found = outcome is Outcome.OK
        detail = None if is_found else f"{outcome} of ours"
        found = {"code": 1} if is_found else None
        record = GradingRecord(key.sample, key.repeat, "a", outcome, found, detail)
        lines.append(seal(encode(record)))
    with path.open("ab") as file:
        file.write(b"".join(lines))


def grade_first(run: RunFolder, label: str | None = None) -> None:
    """A marker of the first shard: all graded, one of four right."""
    path = place_of(run).journal(FIRST, "r900.a1.0")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not to be read")
    counters = GradingCounters(4, 4, 1.0, 4.0)
    mark_graded(run, place_of(run), FIRST, counters, label or scored_as(TASK))


def read(reader: GradingReader) -> GradingCounts:
    counts = reader.read(TASK)
    assert counts is not None
    return counts


def shown(counts: GradingCounts, done: int = 8) -> TaskStatus:
    return task_status(TASK, TaskProgress(done=done), counts, {}, frozenset(), NOW)


def test_markers_and_journals(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A marked shard's journals stay closed, and of the others only what is new is read."""
    grade_first(run)
    find(run, Outcome.OK, Outcome.SCORER_ERROR)
    reader = GradingReader(run, PLAN)
    counts = read(reader)
    assert (counts.graded, dict(counts.errors)) == (5, {"scorer_error": 1})
    decoded: list[object] = []
    monkeypatch.setattr(
        grading_progress, "decode", lambda payload: decoded.append(payload) or payload
    )
    assert read(reader).graded == 5
    assert decoded == []


def test_an_error_that_was_made_good(run: RunFolder) -> None:
    """What was found later counts; what failed after a finding does not."""
    find(run, Outcome.SCORER_ERROR, Outcome.OK)
    find(run, Outcome.OK, Outcome.SCORER_ERROR, attempt="r900.a2.0")
    counts = read(GradingReader(run, PLAN))
    assert (counts.graded, +counts.errors) == (2, {})


def test_marker_of_other_scores_is_not_read(run: RunFolder) -> None:
    """Counts of another profile are not shown as this one's: the journals are read."""
    grade_first(run, "another")
    counts = read(GradingReader(run, PLAN))
    assert (counts.graded, counts.scored) == (0, 0)


def test_status_of_a_grading(run: RunFolder) -> None:
    """Counts add up to what is done, and the score is of the graded answers."""
    grade_first(run)
    find(run, Outcome.SCORER_ERROR)
    report = ReplicaReport("r900", 1, "n1", 7, "9", 900.0, state="ready", heartbeat=NOW)
    report.tally(TASK.name).rate_per_s = 2.0
    path = place_of(run).replica("r900.a1")
    path.parent.mkdir(parents=True)
    path.write_bytes(report.render())
    status = shown(read(GradingReader(run, PLAN)))
    grading = status.grading
    assert grading is not None
    assert (grading.graded, grading.ungraded, grading.scorer_error) == (4, 3, 1)
    assert (grading.graders, grading.rate_per_s, grading.eta_s) == (1, 2.0, 2.0)
    assert (status.score, status.scored) == (0.25, 4)
    assert status.score_note == "of the 4 graded answers"


def test_grader_that_was_killed_here(run: RunFolder) -> None:
    """Its process is gone, so it grades no more, however fresh its report is."""
    host = socket.gethostname()
    for pid, state in ((os.getpid(), "ready"), (2**22 + 1, "interrupted")):
        report = ReplicaReport("r900", 1, host, pid, "9", time.time(), state="ready")
        path = place_of(run).replica("r900.a1")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(report.render())
        [found] = read(GradingReader(run, PLAN)).reports
        assert found.state == state


def test_no_score_says_why(run: RunFolder) -> None:
    """While answers are generated, and when they only wait to be graded."""
    counts = read(GradingReader(run, PLAN))
    assert shown(counts, done=5).score_note == "graded after generation"
    assert shown(counts).score_note == "not graded yet"
    assert shown(counts).score is None


def test_answers_that_nobody_grades_are_a_failure(run: RunFolder) -> None:
    """With the last grader's reason where there is one, once every answer is there."""
    counts = read(GradingReader(run, PLAN))
    assert ungraded([shown(counts, done=7)]) == ()
    [group] = ungraded([shown(counts)])
    assert (str(group.kind), group.count, group.reason) == ("ungraded", 8, NOBODY_GRADED)
    report = ReplicaReport("r900", 1, "n1", 7, "9", 900.0, state="failed", error="no key")
    counts.reports.append(report)
    [group] = ungraded([shown(counts)])
    assert group.reason == "no key"


def test_failures_of_graders_name_node_and_log(run: RunFolder) -> None:
    """As those of replicas: who had the last one, and the lines of its log."""
    find(run, Outcome.SCORER_ERROR, Outcome.SCORER_ERROR)
    log = place_of(run).worker_log("r900", 1)
    log.parent.mkdir(parents=True)
    log.write_text("2026-01-31 23:59:59,000 ERROR scorer_error of ours\n")
    counts = read(GradingReader(run, PLAN))
    counts.reports.append(ReplicaReport("r900", 1, "n7", 7, "9", 900.0))
    sources = UnitSources({TASK.name: TaskProgress(done=8)}, {TASK.name: counts})
    [found] = unit_failures(run, sources)
    assert (found.n, found.failure.reason, found.failure.node) == (2, "scorer_error of ours", "n7")
    assert found.failure.log == str(log.relative_to(run.root))
    assert found.failure.lines == ("2026-01-31 23:59:59,000 ERROR scorer_error of ours",)


def test_tasks_that_nothing_grades(tmp_path: Path) -> None:
    """Those have no grading, and neither has one whose benchmark is not installed here."""
    plain = make_task()
    unknown = plain.model_copy(update={"name": "x", "benchmark": "not_installed"})
    plan = make_plan(plain, unknown)
    reader = GradingReader(write_run(tmp_path / "run", plan), plan)
    assert [reader.read(task) for task in plan.tasks] == [None, None]
