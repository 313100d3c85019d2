"""Samples in the page: whole, in order, small enough, and nothing that may not be there."""

import base64
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from evalkit.plan.model import UnitKey
from evalkit.report.artifacts import write_samples
from evalkit.report.frames import iter_samples
from evalkit.report.page import restricted, units
from evalkit.report.page.clip import UNIT_LIMIT, clip, clip_unit
from evalkit.report.page.selection import MARGIN, select, share_out
from evalkit.report.page.units import Group, Source, share_of
from evalkit.store.codec import encode, header, seal
from evalkit.store.gradings import grading_plan, solution_hash
from evalkit.store.records import GradingRecord, Outcome
from evalkit.store.union import FinishedUnit
from tests.unit.report.page_builder import HOSTILE, as_report, make_report, with_units
from tests.unit.report.run_builder import PrivateEcho, echo, make_run


def unpack(group: Group) -> list[dict[str, Any]]:
    """All units of a group as the page reads them."""
    found: list[dict[str, Any]] = []
    for start, chunk in zip(group.starts, group.chunks, strict=True):
        assert start == len(found)
        found += orjson.loads(zlib.decompress(base64.b64decode(chunk)))
    return found


def test_all_units_come_back_whole_and_in_order(tmp_path: Path) -> None:
    """What a chunk gives is what samples.jsonl.zst has, hostile characters and all."""
    report = with_units(make_report(tmp_path), 2_000)
    (group,) = select([Source(0, report, report.tasks[0], False)], 1e9)
    lines = list(iter_samples(report.folder, "echo"))
    assert (group.kept, group.total, group.every, group.cut) == (2_000, 2_000, 1, 0)
    assert len(group.chunks) > 3
    for unit, line in zip(unpack(group), lines, strict=True):
        assert unit == {key: line[key] for key in unit}
        assert {"messages", "reasoning", "content", "answer", "target", "scores"} <= unit.keys()
    assert all(text in unpack(group)[500]["reasoning"] for text in HOSTILE)
    assert group.columns["id"] == [line["id"] for line in lines]
    assert group.columns["score"][:2] == [1.0, 0.0]
    assert group.columns["preview"][1].startswith("What is 1 + 1?")


def test_a_page_that_is_too_small_holds_every_nth_unit(tmp_path: Path) -> None:
    """Evenly through the data, within the limit; a task that is small keeps all of its units."""
    large = with_units(make_report(tmp_path / "a"), 2_000)
    small = with_units(make_report(tmp_path / "b"), 20)
    sources = [Source(n, run, run.tasks[0], False) for n, run in enumerate((large, small))]
    limit = 60_000.0
    groups = select(sources, limit)
    every = groups[0].every
    assert every > 1
    assert groups[0].columns["id"] == [f"s{n:05d}" for n in range(0, 2_000, every)]
    assert groups[1].kept == 20
    size = sum(len(chunk) for group in groups for chunk in group.chunks)
    assert 0.6 * limit < size < MARGIN * limit


def test_no_room_is_no_sample(tmp_path: Path) -> None:
    """--max-mb 0: nothing is in the page, and it is known how many there are."""
    report = with_units(make_report(tmp_path), 50)
    (group,) = select([Source(0, report, report.tasks[0], False)], 0.0)
    assert (group.kept, group.total, group.chunks) == (0, 50, [])


@pytest.mark.parametrize(
    ("needs", "shares"),
    [([10, 10], [10, 10]), ([90, 10], [90, 10]), ([500, 10, 500], [45, 10, 45]), ([], [])],
)
def test_room_is_shared_out(needs: list[float], shares: list[float]) -> None:
    """Evenly, and nobody has more than it needs."""
    assert share_out(100, needs) == shares


def test_long_texts_lose_their_middle() -> None:
    """The head, the tail, and how much is not there; other values as they were."""
    text = "a" * 5_000 + "z" * 5_000
    cut = clip({"x": [text, 3, None], "y": "short"}, 3_000)
    assert cut["y"] == "short"
    assert cut["x"][1:] == [3, None]
    assert cut["x"][0].startswith("a" * 2_000 + "\n\n[ 7,000 letters left out here ]")
    assert cut["x"][0].endswith("z" * 1_000)


def test_a_unit_is_never_large() -> None:
    """Thousands of steps, or one text of megabytes: it fits, and says what is not there."""
    line, was_cut = clip_unit({"content": "x" * 3_000_000, "answer": "7"})
    assert was_cut
    assert len(line) < UNIT_LIMIT
    steps = [{"name": "run", "result": {"out": "y" * 300}} for _ in range(5_000)]
    line, was_cut = clip_unit({"steps": steps, "answer": "7"})
    assert was_cut
    assert orjson.loads(line)["answer"] == "7"
    assert "bytes left out here" in orjson.loads(line)["steps"]
    assert clip_unit({"answer": "7"}) == (b'{"answer":"7"}', False)


def test_scores_are_shares_of_what_is_possible() -> None:
    """Steps solved of steps; no score, and no step, is no share."""
    assert share_of({"solved": 2.0, "steps": 4.0}, "solved", "steps") == 0.5
    assert share_of({"correct": 1.0}, "correct", None) == 1.0
    assert share_of(None, "correct", None) is None
    assert share_of({"solved": 0.0, "steps": 0.0}, "solved", "steps") is None


def test_restricted_data_leaves_no_text(tmp_path: Path) -> None:
    """Neither question nor answer, and nothing that the model or a judge wrote."""
    report = with_units(make_report(tmp_path, restricted=True), 50)
    (group,) = select([Source(0, report, report.tasks[0], False)], 1e9)
    assert all(u.keys() == {"scores", "finish_reason", "usage", "calls"} for u in unpack(group))
    assert set(group.columns["preview"]) == {""}
    assert set(group.columns["answer"]) == {None}
    assert group.columns["outcome"][7] == "truncated"
    assert group.index(0)["withheld"]


def test_restricted_data_is_restored_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frozen request and its target are in the page again, though no artifact has them."""
    run = make_run(tmp_path)
    run.write_all(wrong=[UnitKey(1, 0)])
    run.gather(echo(PrivateEcho))
    assert all(line["target"] is None and "messages" not in line for line in run.read_samples())
    monkeypatch.setattr(restricted, "benchmark_for", lambda _task: echo(PrivateEcho))
    report = as_report(run, restricted=True)
    (group,) = select([Source(0, report, report.tasks[0], True)], 1e9)
    unit = unpack(group)[2]
    assert unit["messages"] == [{"role": "user", "content": "say t1"}]
    assert (unit["content"], unit["target"]) == ("no", "t1")
    assert group.index(0)["restricted"]
    assert not group.index(0)["withheld"]


class JudgedEcho(PrivateEcho):
    """Answers that a judge reads."""

    grader = "judge"


def test_the_words_of_a_judge_are_restored_for_their_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the gradings' journals; what was found about another answer is not taken for this one's."""
    run = make_run(tmp_path, repeats=1, n_shards=1)
    run.write_all()
    own = grading_plan(run.plan, run.task, ())
    shard = run.task.shards()[0]
    reply = FinishedUnit(UnitKey(0, 0), Outcome.OK, "t0", None, None, (), "r0.a1")
    found = {0: solution_hash(reply), 1: "of another answer"}
    path = run.folder.grading("echo", own.fingerprint).journal(shard, "g0.a1")
    path.parent.mkdir(parents=True)
    lines = [seal(header(own.fingerprint, "echo", 0, "g0.a1"))]
    for sample, name in found.items():
        record = GradingRecord(sample, 0, name, Outcome.OK, {"text": "it is right"})
        lines.append(seal(encode(record)))
    path.write_bytes(b"".join(lines))
    run.gather(echo(PrivateEcho))
    monkeypatch.setattr(restricted, "benchmark_for", lambda _task: echo(JudgedEcho))
    report = as_report(run, restricted=True)
    (group,) = select([Source(0, report, report.tasks[0], True)], 1e9)
    assert [unit.get("grading") for unit in unpack(group)] == [
        *({"text": "it is right"}, None, None, None),
    ]


def test_damaged_samples_are_named(tmp_path: Path) -> None:
    """A line that is no JSON is the artifact's damage, not a missing unit."""
    report = make_report(tmp_path)
    write_samples(report.folder.samples("echo"), [b"{\n"])
    source = Source(0, report, replace(report.tasks[0]), False)
    with pytest.raises(units.StoreError, match=r"samples\.jsonl\.zst is damaged"):
        select([source], 1e9)
