"""The survey: as many units owed as the union says, markers written back, damage named."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given

from evalkit.store.layout import RunFolder
from evalkit.store.markers import doubt_marker, read_marker, write_marker
from evalkit.store.run import load_plan
from evalkit.store.survey import survey_run
from evalkit.store.union import ShardUnion, list_journals
from tests.builders import answer_all, make_call, make_run, make_unit, units_of, write_journal
from tests.unit.store.test_union import ONE_SHARD, SHARD, TASK, histories

if TYPE_CHECKING:
    from evalkit.plan.model import Plan
    from evalkit.store.records import Record

SINGLE = {"addition": True}


def answered(root: Path) -> tuple[RunFolder, Plan]:
    """A run of 10 units in 2 shards with an answer to each, and no markers."""
    folder = make_run(root, 10, n_shards=2)
    answer_all(folder)
    return folder, load_plan(folder)


@given(histories)
def test_as_many_as_the_union_says(journals: dict[str, list[Record]]) -> None:
    """Whatever the journals hold, the survey owes what a full reading owes, and marks only the whole."""
    with TemporaryDirectory() as root:
        folder = RunFolder(Path(root))
        for attempt, written in journals.items():
            write_journal(folder, ONE_SHARD, SHARD, attempt, written)
        union = ShardUnion.read(folder, ONE_SHARD, SHARD, single_call=True)
        owed = union.owed(TASK, SHARD)
        assert survey_run(folder, ONE_SHARD, SINGLE).owed == {"addition": len(owed)}
        marker = read_marker(folder, SHARD)
        assert (marker is None) is bool(owed)
        if marker is not None:
            outcomes = [union.finished[key].outcome.value for key in TASK.units(SHARD)]
            assert marker["units"] == len(outcomes)
            assert marker["outcomes"] == {name: outcomes.count(name) for name in set(outcomes)}


def test_units_of_many_calls(tmp_path: Path) -> None:
    """A unit of many calls is finished by its own record, not by a call of it."""
    folder = RunFolder(tmp_path)
    first, second, *rest = units_of(TASK)
    records = [make_call(first), make_unit(first), make_call(second), *map(make_unit, rest)]
    write_journal(folder, ONE_SHARD, SHARD, "r0.a1", records)
    assert survey_run(folder, ONE_SHARD, {"addition": False}).owed == {"addition": 1}
    assert read_marker(folder, SHARD) is None


def test_complete_shards_are_marked_again(tmp_path: Path) -> None:
    """The second survey reads markers alone; a marker that cannot be written stops nothing."""
    folder, plan = answered(tmp_path)
    folder.leases.touch()
    assert survey_run(folder, plan, SINGLE).owed == {"addition": 0}
    folder.leases.unlink()
    survey_run(folder, plan, SINGLE)
    marked = [read_marker(folder, shard) for shard in plan.tasks[0].shards()]
    assert [marker["units"] for marker in marked if marker] == [5, 5]


def test_damage_is_named(tmp_path: Path) -> None:
    """A line that cannot be read is named by file and number; a torn last line is no damage."""
    folder, plan = answered(tmp_path)
    path = next(iter((folder.root / "journal").glob("*/*/*.jsonl")))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"x" + lines[2][1:], *lines[3:], b'{"crc":']))
    survey = survey_run(folder, plan, SINGLE)
    assert survey.total == 1
    (problem,) = survey.problems
    assert problem.startswith(f"{path.relative_to(folder.root)}:3: no checksum: skipped")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "gone, with"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "bytes, of"),
        (lambda path: None, None),
    ],
    ids=["deleted", "truncated", "whole"],
)
def test_doubts(tmp_path: Path, damage: object, words: str | None) -> None:
    """A marker that its journals do not bear out is doubted, with the journal and the marker named."""
    folder, plan = answered(tmp_path)
    survey_run(folder, plan, SINGLE)
    shard = plan.tasks[0].shards()[0]
    (path,) = list_journals(folder, shard)
    damage(path)  # type: ignore[operator]
    doubt = doubt_marker(folder, shard)
    if words is None:
        assert doubt is None
        return
    assert doubt is not None
    assert doubt.startswith(f"{path}: ")
    assert words in doubt
    assert doubt.endswith(f"{folder.marker(shard).name} tells of")
    assert (
        survey_run(folder, plan, SINGLE).problems[0].startswith(f"{path.relative_to(folder.root)}:")
    )


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"journals": 3}', b'{"journals": {}}'])
def test_a_marker_that_is_none(tmp_path: Path, content: bytes) -> None:
    """Whatever else is in its file is named, and counts for nothing."""
    folder, plan = answered(tmp_path)
    shard = plan.tasks[0].shards()[0]
    folder.marker(shard).parent.mkdir(parents=True)
    folder.marker(shard).write_bytes(content)
    assert str(folder.marker(shard)) in (doubt_marker(folder, shard) or "")
    assert survey_run(folder, plan, SINGLE).total == 0


def test_journals_that_a_listing_hides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the marker names is read although the folder does not list it yet."""
    folder, plan = answered(tmp_path)
    shard = plan.tasks[0].shards()[0]
    (path,) = list_journals(folder, shard)
    write_marker(folder, shard, {"units": 5})
    monkeypatch.setattr(type(path), "iterdir", lambda _: iter(()))
    assert list_journals(folder, shard) == [path]
    path.unlink()
    assert list_journals(folder, shard) == []
