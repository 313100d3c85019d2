"""Durable calls: a finished call is answered from the journal, and its number never depends on luck."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.client.calls import Answer
from evalkit.client.durable import DurableModel
from evalkit.client.request import Request, RequestBuilder
from evalkit.errors import InfraError
from evalkit.plan.model import UnitKey
from evalkit.recipe.schema import Generation
from evalkit.store.records import CallRecord, Outcome, Reply, Timing

if TYPE_CHECKING:
    from collections.abc import Mapping


class FakeClient:
    """Answers each request with how many came before it."""

    keeps_tokens = True

    def __init__(self) -> None:
        self.sent: list[Request] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.fails_at: set[int] = set()

    async def call(self, request: Request, think_tags: object, tokens: object) -> Answer:
        """Note the request, wait while held, answer."""
        number = len(self.sent)
        self.sent.append(request)
        if number in self.fails_at:
            raise InfraError("down")
        await self.hold.wait()
        reply = Reply(Outcome.OK, f"reply {number}")
        return Answer(reply, Timing(1.0, 0.5), server=3, lender="r1.a2" if number else None)


class FakeUnit:
    """What is journaled of one unit."""

    def __init__(self, finished: Mapping[tuple[int, str], CallRecord]) -> None:
        self.finished_calls = finished
        self.written: list[CallRecord] = []
        self.asked: list[tuple[int, str]] = []

    def tokens(self, call: int, request: str) -> str:
        """Name the call."""
        self.asked.append((call, request))
        return f"tokens of {call}"

    def keep(self, record: CallRecord) -> None:
        """Take a finished call."""
        self.written.append(record)


def make_model(
    client: FakeClient,
    finished: Mapping[tuple[int, str], CallRecord] | None = None,
    repeat: int = 2,
) -> tuple[DurableModel, list[CallRecord]]:
    """A model handle of one unit, and what it journals."""
    unit = FakeUnit(finished or {})
    builder = RequestBuilder(Generation(), "tiny")
    return DurableModel(client, builder, None, UnitKey(7, repeat), unit), unit.written  # type: ignore[arg-type]


def say(text: str) -> list[dict[str, Any]]:
    """A user's message."""
    return [{"role": "user", "content": text}]


async def test_call_is_journaled() -> None:
    """A new call is sent once and recorded with its unit, number, hash and the server that answered."""
    client = FakeClient()
    model, journal = make_model(client)
    assert (await model.chat(say("a"))).content == "reply 0"
    assert (await model.chat(say("b"))).content == "reply 1"
    assert [(r.sample, r.repeat, r.call, r.server) for r in journal] == [(7, 2, 0, 3), (7, 2, 1, 3)]
    assert [r.lender for r in journal] == [None, "r1.a2"]
    assert [r.request for r in journal] == [r.digest for r in client.sent]
    assert (model.calls, model.repeat) == (2, 2)


async def test_finished_calls_are_not_sent_again() -> None:
    """After an interruption the finished calls are answered from the journal, the rest is sent."""
    first, journal = make_model(FakeClient())
    for text in "ab":
        await first.chat(say(text))
    client = FakeClient()
    finished = {(r.call, r.request): r for r in journal}
    second, written = make_model(client, finished)
    replies = [await second.chat(say(text)) for text in "abc"]
    assert [r.content for r in replies] == ["reply 0", "reply 1", "reply 0"]
    assert len(client.sent) == 1
    assert [r.call for r in written] == [2]


async def test_other_request_under_the_same_number_is_sent() -> None:
    """A call that asks something else than the journaled one of its number is a new call."""
    first, journal = make_model(FakeClient())
    await first.chat(say("a"))
    client = FakeClient()
    second, written = make_model(client, {(r.call, r.request): r for r in journal})
    await second.chat(say("other"))
    assert len(client.sent) == len(written) == 1


async def test_numbers_are_given_when_calls_are_made() -> None:
    """Concurrent calls are numbered in the order they are written down, not in which they end."""
    client = FakeClient()
    model, journal = make_model(client)
    later, sooner = model.chat(say("later")), model.chat(say("sooner"))
    await sooner
    await later
    digests = [
        RequestBuilder(Generation(), "x").chat(say(t), 2).digest for t in ("later", "sooner")
    ]
    assert {r.call: r.request for r in journal} == dict(enumerate(digests))


async def test_calls_beside_a_failed_one_end() -> None:
    """When one of several concurrent calls fails, the others end with the unit and journal nothing."""
    client = FakeClient()
    client.hold.clear()
    client.fails_at = {1}
    model, journal = make_model(client)
    with pytest.raises(InfraError):
        await asyncio.gather(*(model.chat(say(text)) for text in "abc"))
    await model.end()
    client.hold.set()
    await asyncio.sleep(0)
    assert len(client.sent) == 3
    assert journal == []
    await model.end()


async def test_failed_call_can_be_tried_by_the_solve() -> None:
    """A call that fails journals nothing, and its number is spent."""
    client = FakeClient()
    client.fails_at = {0}
    model, journal = make_model(client)
    with pytest.raises(InfraError):
        await model.chat(say("a"))
    await model.chat(say("a"))
    assert [r.call for r in journal] == [1]
