"""Relayed calls: k equal requests are k answers, and the same k after any kill; no answer is asked twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.client.calls import Answer
from evalkit.client.durable import DurableModel
from evalkit.client.request import Request, RequestBuilder
from evalkit.errors import InfraError, ScorerError
from evalkit.plan.model import UnitKey
from evalkit.recipe.schema import Generation
from evalkit.store.records import RELAYED, CallRecord, Outcome, Reply, Timing, UnitRecord
from tests.unit.store.test_union import read

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY = UnitKey(1, 0)
BODIES: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": "a"}], "seed": 0},
    {"messages": [{"role": "user", "content": "a"}], "seed": 1},
    {"messages": [{"role": "user", "content": "b"}]},
)
SEEDLESS = Generation(seed=None)
numbers = count()


class Client:
    """Answers what it is told to, each time with another text."""

    keeps_tokens = False

    def __init__(self) -> None:
        self.sent: list[Request] = []
        self.waiting: list[tuple[Request, asyncio.Future[Exception | None]]] = []

    async def call(self, request: Request, think_tags: object, tokens: object) -> Answer:
        """Wait until it is told how this one ends."""
        self.sent.append(request)
        end: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.waiting.append((request, end))
        if (error := await end) is not None:
            raise error
        return Answer(Reply(Outcome.OK, f"answer {next(numbers)}"), Timing(1.0, 0.5))

    def answer(self, index: int, error: Exception | None = None) -> None:
        """Let a waiting call end."""
        self.waiting.pop(index)[1].set_result(error)


class Unit:
    """What one attempt knows and writes of a unit."""

    def __init__(self, journals: dict[str, list[CallRecord | UnitRecord]], attempt: str) -> None:
        self.finished_calls = {
            (r.call, r.request): r
            for written in journals.values()
            for r in reversed(written)
            if isinstance(r, CallRecord)
        }
        self.finished_steps: dict[tuple[int, str], Any] = {}
        self.written = journals.setdefault(attempt, [])

    def keep(self, record: CallRecord) -> None:
        """Journal a call."""
        self.written.append(record)
        self.finished_calls[record.call, record.request] = record


def make(unit: Unit, generation: Generation = SEEDLESS) -> tuple[DurableModel, Client]:
    """The model of one attempt."""
    client = Client()
    return DurableModel(client, RequestBuilder(generation, "m"), None, KEY, unit), client  # type: ignore[arg-type]


async def run_for(
    unit: Unit, order: Sequence[int], moves: Sequence[int], generation: Generation
) -> tuple[list[str | None], DurableModel, Client]:
    """Ask for bodies in this order, at once; as many calls end as there are moves, then it is killed.
    The texts that callers got."""
    model, client = make(unit, generation)
    tasks = [asyncio.create_task(model.relay("chat/completions", BODIES[index])) for index in order]
    await settle()
    for move in moves:
        if client.waiting:
            client.answer(move % len(client.waiting))
            await settle()
    for task in tasks:
        task.cancel()
    await settle()
    texts = [None if t.cancelled() else t.result().content for t in tasks]
    await model.end()
    return texts, model, client


async def settle() -> None:
    """Let all tasks go as far as they can."""
    for _ in range(8):
        await asyncio.sleep(0)


orders = st.lists(st.integers(0, len(BODIES) - 1), min_size=1, max_size=7)
kills = st.lists(
    st.tuples(
        st.sampled_from(["r0.a1", "r0.a2", "r1.a1"]), st.lists(st.integers(0, 9), max_size=6)
    ),
    max_size=3,
)


@given(orders, kills, st.randoms(), st.sampled_from([SEEDLESS, Generation(), Generation(seed=7)]))
def test_k_equal_requests_are_the_same_k_answers(
    tmp_path_factory: pytest.TempPathFactory,
    order: list[int],
    attempts: list[tuple[str, list[int]]],
    random: Any,
    generation: Generation,
) -> None:
    """However often it is killed, in whatever order it asks: what is journaled is never sent again, each
    request gets an answer of its own, and the finished unit holds exactly those."""

    async def play() -> None:
        journals: dict[str, list[CallRecord | UnitRecord]] = {}
        for attempt, moves in attempts:
            random.shuffle(order)
            unit = Unit(journals, attempt)
            before = set(unit.finished_calls)
            _, model, client = await run_for(unit, order, moves, generation)
            known = sum(1 for key in before if key[0] in model.relays._begun)
            assert len(client.sent) == len(order) - known
        random.shuffle(order)
        unit = Unit(journals, "r2.a1")
        texts, model, _ = await run_for(unit, order, [0] * len(order), generation)
        assert len(set(texts)) == len(order), "each has an answer of its own"
        again, other, client = await run_for(unit, order, [], generation)
        assert client.sent == []
        assert list(zip(order, again, strict=True)) == [*zip(order, texts, strict=True)]
        assert other.relays.answered == model.relays.answered
        assert other.relays.traffic.unasked == 0
        relayed = tuple(sorted(model.relays.answered))
        unit.written.append(UnitRecord(*KEY, Outcome.OK, "end", relayed=relayed))
        union = read(tmp_path_factory.mktemp("union"), journals, single_call=False)
        calls = union.finished[KEY].calls
        assert sorted(call.reply.content for call in calls) == sorted(map(str, texts))

    asyncio.run(play())


def test_two_live_attempts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two attempts that never saw each other write the same numbers for the same requests: a third one
    takes the first's, and a unit that one of them finishes is made of its own."""

    async def play() -> None:
        journals: dict[str, list[CallRecord | UnitRecord]] = {}
        one, other = Unit({}, "r0.a1"), Unit({}, "r1.a1")
        first, _, _ = await run_for(one, [0, 0, 2], [0] * 3, SEEDLESS)
        second, model, _ = await run_for(other, [2, 0, 0], [2, 1, 0], SEEDLESS)
        journals |= {"r0.a1": one.written, "r1.a1": other.written}
        assert {r.call for r in one.written} == {r.call for r in other.written}  # type: ignore[union-attr]
        third, _, client = await run_for(Unit(journals, "r2.a1"), [2, 0, 0], [], SEEDLESS)
        assert client.sent == []
        assert Counter(third) in (Counter(first), Counter(second))
        relayed = tuple(sorted(model.relays.answered))
        other.written.append(UnitRecord(*KEY, Outcome.OK, "end", relayed=relayed))
        union = read(tmp_path_factory.mktemp("union"), journals, single_call=False)
        assert {c.reply.content for c in union.finished[KEY].calls} == set(second)

    asyncio.run(play())


def test_calls_that_were_not_asked_again_are_not_the_units(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A program that asks otherwise after a restart: its unit is complete without what it asked before,
    and the traffic says so."""

    async def play() -> None:
        journals: dict[str, list[CallRecord | UnitRecord]] = {}
        await run_for(Unit(journals, "r0.a1"), [0, 1], [0, 0], SEEDLESS)
        unit = Unit(journals, "r0.a2")
        texts, model, _ = await run_for(unit, [1, 2], [0, 0], SEEDLESS)
        assert model.relays.traffic.to_json() == {
            "requests": 2,
            "repeated": 0,
            "failed": 0,
            "replayed": 1,
            "unasked": 1,
        }
        relayed = tuple(sorted(model.relays.answered))
        unit.written.append(UnitRecord(*KEY, Outcome.OK, "end", relayed=relayed))
        union = read(tmp_path_factory.mktemp("union"), journals, single_call=False)
        assert {c.reply.content for c in union.finished[KEY].calls} == set(texts)

    asyncio.run(play())


async def test_request_that_was_given_up_answers_the_next_equal_one() -> None:
    """It is sent once, goes on while nobody waits, and a third request is another question."""
    model, client = make(Unit({}, "r0.a1"), Generation())
    first = asyncio.create_task(model.relay("chat/completions", BODIES[0]))
    await settle()
    first.cancel()
    await settle()
    second = asyncio.create_task(model.relay("chat/completions", BODIES[0] | {"stream": True}))
    third = asyncio.create_task(model.relay("chat/completions", BODIES[0]))
    await settle()
    assert len(client.sent) == 2
    client.answer(0)
    client.answer(0)
    assert (await second).content != (await third).content
    assert model.relays.traffic.repeated == 1


async def test_given_up_request_may_have_ended_before_the_next_one() -> None:
    """What was answered while nobody waited is not lost."""
    model, client = make(Unit({}, "r0.a1"))
    first = asyncio.create_task(model.relay("chat/completions", BODIES[0]))
    await settle()
    first.cancel()
    client.answer(0)
    await settle()
    assert (await model.relay("chat/completions", BODIES[0])).outcome is Outcome.OK
    assert len(client.sent) == 1


async def test_failed_call_ends_the_unit_and_its_retry_is_no_other_question() -> None:
    """The failure is noted, and heard by who waits for it; the same request has the same seed again."""
    model, client = make(Unit({}, "r0.a1"), Generation())
    asked = asyncio.create_task(model.relay("chat/completions", BODIES[2]))
    hearing = asyncio.create_task(model.failed())
    await settle()
    client.answer(0, InfraError("down"))
    with pytest.raises(InfraError):
        await asked
    assert await hearing is model.failure
    again = asyncio.create_task(model.relay("chat/completions", BODIES[2]))
    await settle()
    client.answer(0)
    await again
    assert client.sent[0] == client.sent[1]
    assert model.relays.traffic.failed == 1


async def test_numbers_are_above_those_of_other_calls() -> None:
    """Calls in order keep their numbers, whatever is relayed between them; `n` is refused."""
    unit = Unit({}, "r0.a1")
    model, client = make(unit)
    for ask in (
        model.chat([{"role": "user", "content": "a"}]),
        model.relay("completions", {"prompt": "x"}),
        model.chat([{"role": "user", "content": "a"}]),
    ):
        task = asyncio.ensure_future(ask)
        await settle()
        client.answer(0)
        await task
    first, relayed, second = [r.call for r in unit.written if isinstance(r, CallRecord)]
    assert (first, second, model.calls) == (0, 1, 2)
    assert RELAYED <= relayed < 2 * RELAYED
    with pytest.raises(ScorerError, match="for n: 2 answers"):
        await model.relay("completions", {"prompt": "x", "n": 2})
