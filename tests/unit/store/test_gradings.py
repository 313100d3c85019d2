"""What was found about answers: which finding stands, and when a marker is believed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from evalkit.store.codec import encode, header, seal
from evalkit.store.gradings import (
    GradingCounters,
    JudgeUsage,
    ShardGradings,
    mark_graded,
    read_graded,
)
from evalkit.store.layout import RunFolder
from evalkit.store.records import CallRecord, GradingRecord, Outcome, Reply, Timing, Usage
from tests.unit.cluster.builders import make_plan, make_task, write_run

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.plan.model import Shard

TASK = make_task(n_shards=1)
PLAN = make_plan(TASK)
[SHARD] = TASK.shards()


def write_findings(place: RunFolder, attempt: str, *records: Any) -> Path:
    """A journal of a grading."""
    path = place.journal(SHARD, attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = seal(header(PLAN.fingerprint, SHARD.task, SHARD.index, attempt))
    path.write_bytes(head + b"".join(seal(encode(record)) for record in records))
    return path


def finding(found: Any, sample: int = 0) -> GradingRecord:
    return GradingRecord(sample, 0, "answer", Outcome.OK, found)


def judged(tokens: int | None) -> CallRecord:
    reply = Reply(Outcome.OK, "yes", usage=Usage(10, tokens))
    return CallRecord(0, 0, 0, "hash", reply, Timing(0.0, 1.0))


def test_first_finding_that_does_stands(tmp_path: Path) -> None:
    """One that is too little for the scorer is none, and hides no later one."""
    place = RunFolder(tmp_path)
    write_findings(place, "r900.a1.0", finding({"said": 1}), finding({"said": 2}))
    everything = ShardGradings.read(place, PLAN, SHARD)
    assert list(everything.found.values()) == [{"said": 1}]
    chosen = ShardGradings.read(place, PLAN, SHARD, lambda found: found["said"] == 2)
    assert list(chosen.found.values()) == [{"said": 2}]
    assert not ShardGradings.read(place, PLAN, SHARD, lambda _: False).found


def test_every_call_of_a_judge_has_its_cost(tmp_path: Path) -> None:
    """Also those done twice and those that are to be made anew."""
    place = RunFolder(tmp_path)
    failed = GradingRecord(0, 0, "answer", Outcome.JUDGE_ERROR, detail="no verdict", anew=True)
    write_findings(place, "r900.a1.0", judged(5), failed)
    write_findings(place, "r900.a2.0", judged(7), judged(None))
    gradings = ShardGradings.read(place, PLAN, SHARD)
    assert gradings.usage == JudgeUsage(3, 1, 30, 12, 0, 1, 20, 12, 0)
    total = JudgeUsage()
    total.take(gradings.usage)
    total.take(gradings.usage)
    assert total.completion_tokens == 24


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with one answered shard."""
    folder = write_run(tmp_path / "run", PLAN)
    answers = folder.journal(SHARD, "r0.a1")
    answers.parent.mkdir(parents=True)
    answers.write_bytes(b"x" * 100)
    return folder


def marked(run: RunFolder, shard: Shard = SHARD) -> RunFolder:
    """The place of its grading, with a marker of three units."""
    place = run.grading(TASK.name, "f" * 64)
    write_findings(place, "r900.a1.0", finding(1))
    counters = GradingCounters()
    counters.add(1.0, 2.0)
    counters.add(0.0, 2.0)
    counters.add(None)
    mark_graded(run, place, shard, counters, "label")
    return place


def test_marker_has_counts_and_what_they_were_scored_as(run: RunFolder) -> None:
    """What a status shows without a look at the journals."""
    marker = read_graded(run, marked(run), SHARD)
    assert marker is not None
    names = ("units", "scored", "score_sum", "score_weight", "as")
    assert [marker[name] for name in names] == [3, 2, 1.0, 4.0, "label"]


@pytest.mark.parametrize("what", ["answer", "another", "finding", "none"])
def test_marker_is_believed_while_its_journals_are_as_they_were(run: RunFolder, what: str) -> None:
    """Another answer, or a finding that is gone, makes the shard unread again."""
    place = marked(run)
    if what == "answer":
        with run.journal(SHARD, "r0.a1").open("ab") as file:
            file.write(b"y")
    elif what == "another":
        run.journal(SHARD, "r0.a2").write_bytes(b"z")
    elif what == "finding":
        place.journal(SHARD, "r900.a1.0").unlink()
    assert (read_graded(run, place, SHARD) is not None) == (what == "none")
