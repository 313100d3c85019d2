"""Tokens of unfinished calls: what journals keep of them, and which of them the next attempt gets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from evalkit.plan.model import Shard, UnitKey
from evalkit.store.layout import RunFolder
from evalkit.store.records import Continuation, PartialRecord
from evalkit.store.tokens import TokenChain
from evalkit.store.union import ShardUnion
from evalkit.store.work import OpenShard, WorkItem
from tests.builders import make_call, make_plan, make_prepared, make_unit, write_journal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from evalkit.store.codec import Record

PLAN = make_plan(make_prepared(n_samples=4, repeats=1))
TASK = PLAN.tasks[0].model_copy(update={"n_shards": 1})
ONE_SHARD = PLAN.model_copy(update={"tasks": (TASK,)})
SHARD = Shard("addition", 0)
KEY = UnitKey(2, 0)
chunks = st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=5), max_size=6)


class Appended:
    """Takes records, as a journal's writer."""

    def __init__(self) -> None:
        self.records: list[PartialRecord] = []

    def append(self, record: PartialRecord) -> None:
        """Take one."""
        self.records.append(record)


def part(start: int, *tokens: int, call: int = 0, request: str = "hash") -> PartialRecord:
    """A partial record of the unit."""
    prompt = (7, 8) if start == 0 else ()
    return PartialRecord(KEY.sample, KEY.repeat, call, request, start, tokens, prompt)


def union_of(
    root: Path, journals: Mapping[str, Sequence[Record]], *, single_call: bool = True
) -> ShardUnion:
    """The union of these journals."""
    folder = RunFolder(root)
    for attempt, written in journals.items():
        write_journal(folder, ONE_SHARD, SHARD, attempt, written)
    return ShardUnion.read(folder, ONE_SHARD, SHARD, single_call=single_call)


@given(chunks, st.lists(st.booleans(), min_size=6, max_size=6))
def test_what_is_saved_is_what_came(pieces: list[list[int]], saves: list[bool]) -> None:
    """Whenever it is saved, the records give the same tokens again, each once."""
    chain, read = TokenChain(), TokenChain()
    chain.begin([1, 2, 3])
    written: list[PartialRecord] = []
    for piece, save in zip(pieces, saves, strict=False):
        chain.add(piece)
        record = chain.unsaved(0, 0, 0, "x") if save else None
        written += [record] if record is not None else []
    last = chain.unsaved(0, 0, 0, "x")
    written += [last] if last is not None else []
    for record in written:
        read.take(record)
    assert read.tokens == chain.tokens
    assert not written or list(read.prompt) == [1, 2, 3]
    assert sum(len(record.tokens) for record in written) == len(chain.tokens)


def test_another_attempt_journals_everything_again() -> None:
    """A chain that was read begins at 0 in the journal of the attempt that goes on from it."""
    chain = TokenChain()
    chain.take(part(0, 1, 2))
    chain.add([3])
    chain.continued = (Continuation(2, 99),)
    record = chain.unsaved(2, 0, 0, "hash")
    assert record is not None
    assert (record.start, record.tokens, record.prompt) == (0, (1, 2, 3), (7, 8))
    assert record.continued == (Continuation(2, 99),)


def test_lost_line_ends_the_chain() -> None:
    """Tokens after a line that is lost are left out: they would not follow."""
    chain = TokenChain()
    for record in (part(0, 1, 2), part(4, 5, 6), part(2, 3)):
        chain.take(record)
    assert list(chain.tokens) == [1, 2, 3]


def test_longest_stands(tmp_path: Path) -> None:
    """Of two attempts at a call the one with more tokens is gone on from."""
    union = union_of(tmp_path, {"r0.a1": [part(0, 1), part(1, 2, 3)], "r1.a1": [part(0, 9)]})
    assert list(union.partial[KEY][0, "hash"].tokens) == [1, 2, 3]
    assert union.partial[KEY][0, "hash"].journaled == 0


def test_start_over_counts(tmp_path: Path) -> None:
    """An attempt that began a call anew has only what came since."""
    union = union_of(tmp_path, {"r0.a1": [part(0, 1, 2, 3), part(0, 9)]})
    assert list(union.partial[KEY][0, "hash"].tokens) == [9]


def test_finished_call_needs_no_tokens(tmp_path: Path) -> None:
    """Whichever attempt finished a call, tokens of it are forgotten."""
    done = make_call(KEY)
    for journals in (
        {"r0.a1": [part(0, 1), done]},
        {"r0.a1": [part(0, 1)], "r0.a2": [done]},
        {"r0.a1": [done], "r0.a2": [part(0, 1)]},
    ):
        union = union_of(tmp_path / str(len(journals)) / str(len(journals["r0.a1"])), journals)
        assert KEY in union.finished
        assert union.partial == {}


def test_calls_of_one_unit_are_told_apart(tmp_path: Path) -> None:
    """Of a unit with many calls, the unfinished one keeps its tokens beside finished ones."""
    done = make_call(KEY, call=0, request="first")
    records = [part(0, 1, request="first"), done, part(0, 5, call=1, request="second")]
    union = union_of(tmp_path / "open", {"r0.a1": records}, single_call=False)
    assert {call: list(c.tokens) for call, c in union.partial[KEY].items()} == {(1, "second"): [5]}
    ended = [*records, make_unit(KEY, calls=2)]
    assert union_of(tmp_path / "ended", {"r0.a1": ended}, single_call=False).partial == {}


def test_what_was_begun_anew_stands(tmp_path: Path) -> None:
    """Tokens that were given up do not come back because they are more; how they failed is kept."""
    given_up = replace(part(0, 1, 2, 3), stuck=2)
    anew = replace(part(0, 9), begun=1)
    union = union_of(tmp_path / "a", {"r0.a1": [part(0, 1, 2, 3), given_up], "r0.a2": [anew]})
    assert list(union.partial[KEY][0, "hash"].tokens) == [9]
    union = union_of(tmp_path / "b", {"r0.a1": [given_up]})
    assert union.partial[KEY][0, "hash"].stuck == 2


def test_what_was_begun_anew_stays_begun_anew(tmp_path: Path) -> None:
    """A try without a token between two others does not bring back what was given up before."""
    union = union_of(tmp_path / "old", {"r0.a1": [replace(part(0, 1, 2, 3), stuck=2)]})
    writer = Appended()
    opened = OpenShard(SHARD, writer, {KEY}, {}, union.partial, {})  # type: ignore[arg-type]
    tokens = WorkItem(KEY, opened).tokens(0, "hash")
    tokens.begin()  # the server died before the first token
    chain = tokens.begin()
    chain.begin([7, 8])
    chain.add([9])
    tokens.save()
    [anew] = writer.records
    old = replace(part(0, 1, 2, 3), stuck=2)
    union = union_of(tmp_path / "new", {"r0.a1": [old], "r0.a2": [anew]})
    assert list(union.partial[KEY][0, "hash"].tokens) == [9]


def test_what_servers_failed_on_is_known_to_the_next_attempt(tmp_path: Path) -> None:
    """Of equal tokens in two journals, those that servers failed on since stand."""
    again = replace(part(0, 1, 2, 3), stuck=1)
    union = union_of(tmp_path, {"r0.a1": [part(0, 1, 2, 3)], "r0.a2": [again]})
    assert union.partial[KEY][0, "hash"].stuck == 1


def test_no_line_joins_two_generations() -> None:
    """Where the first line of a new generation is lost, its other lines do not go on from the old."""
    chain = TokenChain()
    for record in (part(0, 1, 2), replace(part(2, 3), begun=1)):
        chain.take(record)
    assert list(chain.tokens) == [1, 2]


def test_an_end_without_tokens_is_journaled() -> None:
    """That a server had ended an answer is kept, or the next attempt would go on past its end."""
    chain, read = TokenChain(), TokenChain()
    chain.begin([7])
    chain.add([1, 2])
    first = chain.unsaved(2, 0, 0, "hash")
    chain.finish_reason = "stop"
    last = chain.unsaved(2, 0, 0, "hash")
    assert chain.unsaved(2, 0, 0, "hash") is None
    assert first is not None
    assert last is not None
    for record in (first, last):
        read.take(record)
    assert (list(read.tokens), read.finish_reason) == ([1, 2], "stop")
