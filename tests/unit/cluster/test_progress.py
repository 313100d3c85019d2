"""Progress: what is counted while journals grow is what a reader of the whole journals counts."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.cluster import progress
from evalkit.cluster.progress import OpenJournal, ProgressReader
from evalkit.plan.model import Shard
from evalkit.store.codec import encode, header, seal
from evalkit.store.records import CallRecord, Outcome, Reply, Timing, UnitRecord, Usage
from evalkit.store.survey import survey_run
from evalkit.store.union import ShardUnion
from tests.faults.many_calls import Chain
from tests.unit.cluster.builders import FINGERPRINT, make_plan, make_task, write_marker, write_run

if TYPE_CHECKING:
    from evalkit.store.layout import RunFolder

SHARD = Shard("sums", 0)
TASK = make_task(n_shards=1)
PLAN = make_plan(TASK)
SAMPLES = st.integers(-1, TASK.n_samples)
OUTCOMES = st.sampled_from(list(Outcome))


def call(sample: int, outcome: Outcome) -> bytes:
    """The line of a finished call."""
    reply = Reply(outcome, "x", usage=Usage(1, 1))
    return seal(encode(CallRecord(sample, 0, 0, "hash", reply, Timing(0.0, 1.0))))


def unit(sample: int, outcome: Outcome) -> bytes:
    """The line of a finished unit."""
    return seal(encode(UnitRecord(sample, 0, outcome, "x", None, 0, None)))


def head(attempt: str, plan: str = FINGERPRINT) -> bytes:
    """The first line of a journal."""
    return seal(header(plan, "sums", 0, attempt))


LINES = st.one_of(
    st.builds(call, SAMPLES, OUTCOMES),
    st.builds(unit, SAMPLES, OUTCOMES),
    st.just(b"not a record\n"),
    st.just(seal({"kind": "other", "sample": 0, "repeat": 0})),
)
ATTEMPTS = st.sampled_from(["r0.a1", "r0.a2", "r0.a10", "r1.a1"])
WRITES = st.lists(st.tuples(ATTEMPTS, LINES, st.integers(0, 200), st.booleans()), max_size=30)


def append(folder: RunFolder, attempt: str, text: bytes) -> None:
    """More bytes of a journal, which begins with its header."""
    path = folder.journal(SHARD, attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(head(attempt) + text if file.tell() == 0 else text)


def check(folder: RunFolder, reader: ProgressReader) -> None:
    """A look with a memory counts what a reader of everything counts."""
    found = reader.read(TASK)
    union = ShardUnion.read(folder, PLAN, SHARD, single_call=True)
    outcomes = Counter(str(unit.outcome) for unit in union.finished.values())
    outcomes.update(str(outcome) for outcome, _ in union.errors.values())
    assert (found.done, dict(found.outcomes)) == (len(union.finished), dict(outcomes))


@given(WRITES)
def test_looks_in_between_change_nothing(writes: list[tuple[str, bytes, int, bool]]) -> None:
    """Lines of many attempts in any order, cut anywhere, are counted as by one reader at the end."""
    with tempfile.TemporaryDirectory() as root:
        folder = write_run(Path(root) / "demo", PLAN)
        reader = ProgressReader(folder, PLAN)
        for attempt, line, cut, look in writes:
            append(folder, attempt, line[:cut])
            if look:
                check(folder, reader)
            append(folder, attempt, line[cut:])
        check(folder, reader)


def test_only_new_lines_are_read(run_folder: RunFolder) -> None:
    """A journal is read from where the last look ended; a line without its end waits."""
    line = call(0, Outcome.OK)
    append(run_folder, "r0.a1", line[:20])
    path = run_folder.journal(SHARD, "r0.a1")
    journal = OpenJournal(path, ())
    assert journal.new_lines() == [head("r0.a1")[:-1]]
    assert journal.new_lines() == []
    append(run_folder, "r0.a1", line[20:])
    assert journal.new_lines() == [line[:-1]]


@pytest.mark.parametrize("how", ["shorter", "gone"])
def test_a_journal_that_shrank_is_read_again(tmp_path: Path, how: str) -> None:
    """What is no longer on disk is no longer counted."""
    folder = write_run(tmp_path / "demo", PLAN)
    reader = ProgressReader(folder, PLAN)
    for sample in range(3):
        append(folder, "r0.a1", call(sample, Outcome.OK))
    append(folder, "r0.a2", call(5, Outcome.OK))
    assert reader.read(TASK).done == 4
    path = folder.journal(SHARD, "r0.a1")
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(head("r0.a1") + call(0, Outcome.OK))
    assert reader.read(TASK).done == (1 if how == "gone" else 2)


def test_a_journal_of_another_plan_counts_nothing(tmp_path: Path) -> None:
    """As for a gather: a header of another plan, or none, makes all lines foreign."""
    folder = write_run(tmp_path / "demo", PLAN)
    path = folder.journal(SHARD, "r0.a1")
    path.parent.mkdir(parents=True)
    path.write_bytes(head("r0.a1", "0" * 64) + call(0, Outcome.OK))
    folder.journal(SHARD, "r0.a2").write_bytes(b"no header\n" + call(1, Outcome.OK))
    assert ProgressReader(folder, PLAN).read(TASK).done == 0


def test_a_shard_that_is_finished_meanwhile(tmp_path: Path) -> None:
    """A marker takes over from the journals, and its removal gives back to them."""
    folder = write_run(tmp_path / "demo", PLAN)
    reader = ProgressReader(folder, PLAN)
    append(folder, "r0.a2", call(0, Outcome.OK))
    assert reader.read(TASK).done == 1
    write_marker(folder, TASK, 0)
    assert [reader.read(TASK).shards_done for _ in range(2)] == [1, 1]
    folder.marker(SHARD).unlink()
    assert reader.read(TASK).done == 1


def test_a_unit_that_lost_a_call_is_not_done(tmp_path: Path) -> None:
    """Progress and what a submit owes agree when a line of a many-call unit is corrupt."""
    task = make_task("chain", n_shards=1)
    plan = make_plan(task)
    folder = write_run(tmp_path, plan)
    lines = [
        seal(header(FINGERPRINT, "chain", 0, "r0.a1")),
        call(0, Outcome.OK).replace(b"hash", b"hosh"),
        seal(encode(UnitRecord(0, 0, Outcome.OK, "x", None, 1, None))),
    ]
    shard = Shard("chain", 0)
    path = folder.journal(shard, "r0.a1")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "installed_class", lambda _: Chain)
        found = ProgressReader(folder, plan).read(task)
    assert found.done == 0
    assert survey_run(folder, plan, {"chain": False}).owed == {"chain": task.n_units}
