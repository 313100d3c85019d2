"""The union of a shard's journals: every finished unit once, by a rule that no order changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import StoreError
from evalkit.plan.model import Shard, UnitKey
from evalkit.store.codec import Record, encode, seal
from evalkit.store.layout import RunFolder
from evalkit.store.markers import write_marker
from evalkit.store.records import RELAYED, CallRecord, Outcome, Timing
from evalkit.store.run import load_plan
from evalkit.store.survey import survey_run
from evalkit.store.union import ShardUnion, attempt_order
from tests.builders import (
    make_call,
    make_plan,
    make_prepared,
    make_run,
    make_step,
    make_unit,
    units_of,
    write_journal,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PLAN = make_plan(make_prepared(n_samples=4, repeats=1))
TASK = PLAN.tasks[0].model_copy(update={"n_shards": 1})
SHARD = Shard("addition", 0)
ONE_SHARD = PLAN.model_copy(update={"tasks": (TASK,)})
ATTEMPTS = ("r0.a1", "r0.a2", "r0.a10", "r1.a1", "r10.a1", "r2.a1")

keys = st.builds(UnitKey, st.integers(0, 3), st.just(0))
outcomes = st.sampled_from(Outcome)
some_calls = st.builds(
    lambda key, outcome, text: make_call(key, text, outcome=outcome, detail=text),
    keys,
    outcomes,
    st.sampled_from("abc"),
)
histories = st.dictionaries(
    st.sampled_from(ATTEMPTS), st.lists(some_calls, max_size=5), min_size=1, max_size=4
)


def read(
    root: Path, journals: Mapping[str, Sequence[Record]], *, single_call: bool = True
) -> ShardUnion:
    """The union of these journals, written into a fresh folder."""
    folder = RunFolder(root)
    for attempt, written in journals.items():
        write_journal(folder, ONE_SHARD, SHARD, attempt, written)
    return ShardUnion.read(folder, ONE_SHARD, SHARD, single_call=single_call)


@given(histories, st.randoms())
def test_no_listing_order_changes_the_union(
    tmp_path_factory: pytest.TempPathFactory, history: dict[str, list[Record]], random: object
) -> None:
    """However the file system lists the journals, the same records win."""
    root = tmp_path_factory.mktemp("union")
    expected = read(root, history)
    original = Path.iterdir

    def shuffled(path: Path) -> list[Path]:
        found = list(original(path))
        random.shuffle(found)  # type: ignore[attr-defined]
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "iterdir", shuffled)
        again = ShardUnion.read(RunFolder(root), ONE_SHARD, SHARD, single_call=True)
    assert again == expected


@given(histories)
def test_union_by_definition(
    tmp_path_factory: pytest.TempPathFactory, history: dict[str, list[Record]]
) -> None:
    """Finished is the first own outcome in the order of attempts; the rest of them are duplicates;
    a unit with nothing but failures of ours is owed and shows the last one."""
    union = read(tmp_path_factory.mktemp("union"), history)
    order = [a for a in ("r0.a1", "r0.a2", "r0.a10", "r1.a1", "r2.a1", "r10.a1") if a in history]
    written = [(a, record) for a in order for record in history[a]]
    for key in units_of(TASK):
        mine = [(a, r) for a, r in written if (r.sample, r.repeat) == key]
        done = [(a, r) for a, r in mine if r.reply.outcome.is_models_own]  # type: ignore[union-attr]
        failed = [r for _, r in mine if not r.reply.outcome.is_models_own]  # type: ignore[union-attr]
        if done:
            attempt, record = done[0]
            assert union.finished[key].attempt == attempt
            assert union.finished[key].calls == (record,)
            assert key not in union.errors
        else:
            assert key not in union.finished
            assert (key in union.errors) == bool(failed)
        if failed and not done:
            assert union.errors[key][1] == failed[-1].reply.detail  # type: ignore[union-attr]
    assert union.owed(TASK, SHARD) == [k for k in units_of(TASK) if k not in union.finished]
    total = sum(r.reply.outcome.is_models_own for _, r in written)  # type: ignore[union-attr]
    assert union.duplicates == total - len(union.finished)


def test_order_of_attempts() -> None:
    """Numbers are compared as numbers: the tenth attempt comes after the ninth."""
    names = ["r10.a1.jsonl", "r2.a1.jsonl", "r0.a10.jsonl", "r0.a9.jsonl"]
    assert sorted(names, key=attempt_order) == [
        "r0.a9.jsonl",
        "r0.a10.jsonl",
        "r2.a1.jsonl",
        "r10.a1.jsonl",
    ]


def test_unplanned_units_are_ignored(tmp_path: Path) -> None:
    """Records of samples, repeats or shards that are not planned here count as nothing."""
    strangers = [UnitKey(4, 0), UnitKey(0, 1), UnitKey(-1, 0), UnitKey(0, -1)]
    union = read(tmp_path, {"r0.a1": [make_call(key) for key in strangers]})
    assert union.finished == {}
    assert len(union.owed(TASK, SHARD)) == 4


def test_calls_of_unfinished_units_are_kept(tmp_path: Path) -> None:
    """A many-call unit without its end gives its finished calls back, failed ones left out."""
    key = UnitKey(0, 0)
    first = make_call(key, "one")
    failed = make_call(key, "", call=1, request="b", outcome=Outcome.INFRA_ERROR, detail="down")
    union = read(tmp_path, {"r0.a1": [first, failed]}, single_call=False)
    assert union.calls == {key: {(0, "hash"): first}}
    assert union.errors == {key: (Outcome.INFRA_ERROR, "down")}
    assert key in union.owed(TASK, SHARD)


def test_unit_record_ends_a_unit(tmp_path: Path) -> None:
    """The end of a unit takes its calls along, in their order and up to their number."""
    key = UnitKey(0, 0)
    calls = [make_call(key, f"{n}", call=n, request=f"h{n}") for n in range(3)]
    written: list[Record] = [calls[1], calls[0], calls[2], make_unit(key, "the end", 2)]
    union = read(tmp_path, {"r0.a1": written}, single_call=False)
    assert union.finished[key].text == "the end"
    assert union.finished[key].calls == (calls[0], calls[1])
    assert union.calls == {}


def test_split_brain_keeps_each_story_together(tmp_path: Path) -> None:
    """Two live attempts were told different things: a unit's calls are those its own attempt saw."""
    key = UnitKey(0, 0)
    theirs = [
        make_call(key, "X0", call=0, request="start"),
        make_call(key, "X1", call=1, request="after X0"),
    ]
    ours = [
        make_call(key, "Y0", call=0, request="start"),
        make_call(key, "Y1", call=1, request="after Y0"),
    ]
    journals: dict[str, list[Record]] = {
        "r0.a1": [*theirs],
        "r1.a1": [*ours, make_unit(key, "Y", 2)],
    }
    union = read(tmp_path, journals, single_call=False)
    assert union.finished[key].calls == tuple(ours)


def test_resumed_unit_has_calls_of_both_attempts(tmp_path: Path) -> None:
    """Calls that an earlier attempt finished belong to the unit that a later one ended."""
    key = UnitKey(0, 0)
    first = make_call(key, "0", call=0, request="a")
    second = make_call(key, "1", call=1, request="b")
    journals: dict[str, list[Record]] = {
        "r0.a1": [first],
        "r0.a2": [second, make_unit(key, calls=2)],
    }
    assert read(tmp_path, journals, single_call=False).finished[key].calls == (first, second)


def test_unit_has_the_calls_of_an_attempt_that_comes_later_in_order(tmp_path: Path) -> None:
    """An attempt went on from calls of one that stands behind it: they are the unit's all the same."""
    key = UnitKey(0, 0)
    first = make_call(key, "0", call=0, request="a")
    second = make_call(key, "1", call=1, request="b")
    journals: dict[str, list[Record]] = {
        "r0.a1": [second, make_unit(key, calls=2)],
        "r1.a1": [first, make_call(key, "other", call=1, request="b"), make_unit(key, calls=2)],
    }
    union = read(tmp_path, journals, single_call=False)
    assert union.finished[key].calls == (first, second)
    assert union.duplicates == 1


def test_failed_unit_stays_owed(tmp_path: Path) -> None:
    """The end of a unit by a failure of ours is no end."""
    key = UnitKey(0, 0)
    end = replace(make_unit(key, ""), outcome=Outcome.SCORER_ERROR, detail="bug")
    union = read(tmp_path, {"r0.a1": [end]}, single_call=False)
    assert union.errors == {key: (Outcome.SCORER_ERROR, "bug")}
    assert key in union.owed(TASK, SHARD)


def test_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    """A whole line of an unknown kind is a problem; the records around it count."""
    folder = RunFolder(tmp_path)
    path = write_journal(folder, ONE_SHARD, SHARD, "r0.a1", [])
    with path.open("ab") as file:
        file.write(seal({"kind": "new", "sample": 0, "repeat": 0}))
        file.write(seal(encode(make_call(UnitKey(1, 0)))))
    union = ShardUnion.read(folder, ONE_SHARD, SHARD, single_call=True)
    assert list(union.finished) == [UnitKey(1, 0)]
    assert "unknown kind of record 'new'" in str(union.problems[0])
    assert union.journals == {"r0.a1.jsonl": path.stat().st_size}


def test_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    """No folder of journals means none; one that is no folder is an error that names it."""
    folder = RunFolder(tmp_path)
    assert read(tmp_path, {}).finished == {}
    folder.journals(SHARD).parent.mkdir(parents=True)
    folder.journals(SHARD).touch()
    with pytest.raises(StoreError, match=f"cannot list {folder.journals(SHARD)}"):
        read(tmp_path, {})


def test_owed_units_of_a_run(tmp_path: Path) -> None:
    """Owed is what no journal finishes; a marker is believed without reading, while it holds."""
    folder = make_run(tmp_path, 24)
    plan = load_plan(folder)
    task = plan.tasks[0]
    assert task.n_shards == 8
    assert survey_run(folder, plan, {"addition": True}).owed == {"addition": 24}
    shard = task.shards()[0]
    path = write_journal(folder, plan, shard, "r0.a1", map(make_call, task.units(shard)))
    assert survey_run(folder, plan, {"addition": True}).owed == {"addition": 21}
    write_marker(folder, shard, {"units": 3})
    assert survey_run(folder, plan, {"addition": True}).owed == {"addition": 21}
    path.write_bytes(path.read_bytes()[:-1])
    assert survey_run(folder, plan, {"addition": True}).owed == {"addition": 22}


def test_lost_call_of_a_finished_unit_is_made_again(tmp_path: Path) -> None:
    """Of a unit that ended, a call whose line was corrupted is owed, and the others are known."""
    folder, key = RunFolder(tmp_path), UnitKey(1, 0)
    records = [make_call(key, "a"), make_call(key, "b", call=1), make_unit(key, calls=2)]
    path = write_journal(folder, ONE_SHARD, SHARD, "r0.a1", records)
    whole = ShardUnion.read(folder, ONE_SHARD, SHARD, single_call=False)
    assert len(whole.finished[key].calls) == 2
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"\0" * 50, *lines[2:]]))
    damaged = ShardUnion.read(folder, ONE_SHARD, SHARD, single_call=False)
    assert key in damaged.owed(TASK, SHARD)
    assert [call.reply.content for call in damaged.calls[key].values()] == ["b"]
    assert [problem.line for problem in damaged.problems] == [2]
    mended = [make_call(key, "a"), make_unit(key, calls=2)]
    write_journal(folder, ONE_SHARD, SHARD, "r0.a2", mended)
    union = ShardUnion.read(folder, ONE_SHARD, SHARD, single_call=False)
    assert [call.reply.content for call in union.finished[key].calls] == ["a", "b"]


def test_steps_of_unfinished_units_are_kept(tmp_path: Path) -> None:
    """A unit without its end gives its finished steps back, the first where two attempts made one."""
    key = UnitKey(0, 0)
    first, other = make_step(key, "one"), make_step(key, "other")
    second = make_step(key, 2, step=1, digest="b")
    union = read(tmp_path, {"r0.a1": [first], "r1.a1": [other, second]}, single_call=False)
    assert union.steps == {key: {(0, "hash"): first, (1, "b"): second}}
    assert key in union.owed(TASK, SHARD)


def test_unit_has_its_steps_beside_its_calls(tmp_path: Path) -> None:
    """Calls and steps have numbers of their own; a unit's steps are those its own attempt saw."""
    key = UnitKey(0, 0)
    theirs, mine = make_step(key, "theirs"), make_step(key, "mine")
    early = make_step(key, "early", step=1, digest="b")
    journals: dict[str, list[Record]] = {
        "r0.a1": [theirs, early],
        "r1.a1": [make_call(key), mine, make_unit(key, steps=2), mine],
    }
    union = read(tmp_path, journals, single_call=False)
    assert union.finished[key].steps == (mine, early)
    assert [call.call for call in union.finished[key].calls] == [0]
    assert union.steps == {}


def test_step_of_an_attempt_that_comes_later_in_order(tmp_path: Path) -> None:
    """A step that stands behind the unit's end, in another attempt's journal, is the unit's."""
    key = UnitKey(0, 0)
    steps = [make_step(key, n, step=n, digest=f"h{n}") for n in range(3)]
    journals: dict[str, list[Record]] = {
        "r0.a1": [steps[0], steps[2], make_unit(key, calls=0, steps=3)],
        "r1.a1": [steps[1]],
    }
    assert read(tmp_path, journals, single_call=False).finished[key].steps == tuple(steps)


def test_lost_step_of_a_finished_unit_is_made_again(tmp_path: Path) -> None:
    """Of a unit that ended, a step whose line was corrupted is owed; calls and other steps are known."""
    folder, key = RunFolder(tmp_path), UnitKey(1, 0)
    lost, left = make_step(key, "a"), make_step(key, "b", step=1)
    records = [lost, make_call(key), left, make_unit(key, steps=3, undone=(2,))]
    path = write_journal(folder, ONE_SHARD, SHARD, "r0.a1", records)
    whole = ShardUnion.read(folder, ONE_SHARD, SHARD, single_call=False)
    assert whole.finished[key].steps == (lost, left)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"\0" * 50, *lines[2:]]))
    damaged = ShardUnion.read(folder, ONE_SHARD, SHARD, single_call=False)
    assert key in damaged.owed(TASK, SHARD)
    assert damaged.steps[key] == {(1, "hash"): left}
    assert [call.reply.content for call in damaged.calls[key].values()] == ["42"]
    mended = [make_step(key, "again"), make_unit(key, steps=3, undone=(2,))]
    write_journal(folder, ONE_SHARD, SHARD, "r0.a2", mended)
    union = ShardUnion.read(folder, ONE_SHARD, SHARD, single_call=False)
    assert [step.result for step in union.finished[key].steps] == ["again", "b"]


@pytest.mark.parametrize("damage", [b"", b'{"crc":"0123'], ids=["whole", "torn"])
def test_a_call_that_was_given_up_is_not_lost(tmp_path: Path, damage: bytes) -> None:
    """Of a call that its solve gave up no line is missing, whatever happened to the journal's end."""
    key = UnitKey(1, 0)
    folder = RunFolder(tmp_path)
    unit = make_unit(key, calls=2, unanswered=(0,))
    written = [make_call(key, call=1), unit]
    path = write_journal(folder, ONE_SHARD, SHARD, "r0.a1", written)
    with path.open("ab") as file:
        file.write(damage)
    union = ShardUnion.read(folder, ONE_SHARD, SHARD, single_call=False)
    assert [call.call for call in union.finished[key].calls] == [1]


def relayed(key: UnitKey, nth: int, text: str) -> CallRecord:
    """A relayed call."""
    return make_call(key, text, call=RELAYED + nth, request=f"h{nth}")


def test_relayed_calls_are_those_that_the_unit_names(tmp_path: Path) -> None:
    """Whoever journaled them, before or after the unit's end; others of the unit are not its."""
    key = UnitKey(0, 0)
    journals: dict[str, list[Record]] = {
        "r0.a1": [relayed(key, 5, "not asked again"), relayed(key, 3, "theirs")],
        "r0.a2": [
            make_call(key, "counted"),
            relayed(key, 3, "mine"),
            make_unit(key, relayed=(RELAYED + 3, RELAYED + 9)),
        ],
        "r1.a1": [relayed(key, 9, "of a later one"), relayed(key, 7, "nobody's")],
    }
    unit = read(tmp_path, journals, single_call=False).finished[key]
    texts = [call.reply.content for call in unit.calls]
    assert texts == ["counted", "mine", "of a later one"]


def test_lost_relayed_call_is_made_again(tmp_path: Path) -> None:
    """Of a unit that ended, a relayed call whose line was corrupted is owed, and the others are known."""
    folder, key = RunFolder(tmp_path), UnitKey(1, 0)
    unit = make_unit(key, calls=0, relayed=(RELAYED + 1, RELAYED + 2))
    records = [relayed(key, 1, "a"), relayed(key, 2, "b"), unit]
    path = write_journal(folder, ONE_SHARD, SHARD, "r0.a1", records)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"\0" * 50, *lines[2:]]))
    damaged = ShardUnion.read(folder, ONE_SHARD, SHARD, single_call=False)
    assert key in damaged.owed(TASK, SHARD)
    assert [call.reply.content for call in damaged.calls[key].values()] == ["b"]
    write_journal(folder, ONE_SHARD, SHARD, "r0.a2", [relayed(key, 1, "again"), unit])
    union = ShardUnion.read(folder, ONE_SHARD, SHARD, single_call=False)
    assert [call.reply.content for call in union.finished[key].calls] == ["again", "b"]


def test_last_reply_of_relayed_calls_is_the_last_in_time(tmp_path: Path) -> None:
    """Their numbers are in no order."""
    key = UnitKey(0, 0)
    late = replace(relayed(key, 1, "late"), timing=Timing(9.0, 1.0))
    early = replace(relayed(key, 2, "early"), timing=Timing(3.0, 1.0))
    unit = make_unit(key, calls=0, relayed=(RELAYED + 1, RELAYED + 2))
    union = read(tmp_path, {"r0.a1": [late, early, unit]}, single_call=False)
    assert union.finished[key].reply == late.reply
