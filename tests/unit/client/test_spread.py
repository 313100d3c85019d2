"""Calls over several servers: where they go, and that a loan which fails costs nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from evalkit.client.spread import MOST_FAILURES, SpreadClient
from evalkit.client.target import Target
from evalkit.clock import SYSTEM_CLOCK
from evalkit.errors import InfraError
from evalkit.recipe.schema import Client
from tests.unit.client.servers import (
    MODEL,
    Gate,
    Script,
    ask,
    client_of,
    drops,
    refuses,
    says,
    serve,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from evalkit.client.calls import Answer


async def test_calls_go_where_the_fewest_are() -> None:
    """Of ten calls at once each server has five in flight; both count as the own client's."""
    own, lent = Gate(5), Gate(5)
    async with (
        serve(own) as url,
        serve(lent) as other,
        client_of(url) as client,
        SpreadClient(client, Client(), SYSTEM_CLOCK) as spread,
    ):
        await spread.borrow({"a": Target(other, MODEL, server=2, lender="r1.a3")})
        answers = await asyncio.gather(*(spread.call(ask(number), None) for number in range(10)))
        assert (own.most, lent.most) == (5, 5)
        assert (client.completed, client.completion_tokens) == (10, 20)
        whose = sorted((answer.server, answer.lender or "") for answer in answers)
        assert whose == [(0, "")] * 5 + [(2, "r1.a3")] * 5
        assert spread.answered_by_others == 5


async def test_a_loan_that_comes_late() -> None:
    """All that a program asks at once waits in one line: a server that is lent later takes from it."""
    own, lent = Gate(7), Gate(4)
    settings = Client(parallelism=4)
    async with (
        serve(own) as url,
        serve(lent) as other,
        client_of(url, parallelism=4) as client,
        SpreadClient(client, settings, SYSTEM_CLOCK) as spread,
    ):
        calls = [asyncio.create_task(spread.call(ask(number), None)) for number in range(12)]
        while own.now < 4:
            await asyncio.sleep(0.001)
        calls[-1].cancel()
        await spread.borrow({"a": Target(other, MODEL, lender="r1.a1")})
        while spread.answered_by_others < 7:  # the own one answers none of them
            await asyncio.sleep(0.001)
        assert (own.most, lent.most) == (4, 4)
        own.open.set()
        answers = await asyncio.gather(*calls[:-1])
    assert [answer.lender for answer in answers[:4]] == [None] * 4


async def test_a_loan_that_hangs() -> None:
    """Who watches the lender gives it up: what it was asked is asked of the own server."""
    lent = Gate(100)
    async with (
        serve(Script(says("own"))) as url,
        serve(lent) as other,
        client_of(url, parallelism=1) as client,
        SpreadClient(client, Client(parallelism=1), SYSTEM_CLOCK) as spread,
    ):
        await spread.borrow({"a": Target(other, MODEL)})
        calls = [asyncio.create_task(spread.call(ask(number), None)) for number in range(6)]
        while not lent.now:
            await asyncio.sleep(0.001)
        assert (spread.in_flight("a"), spread.progress("a")) == (1, 0)
        spread.give_up("a", "it hangs")
        answers = await asyncio.gather(*calls)
        assert [answer.reply.content for answer in answers] == ["own"] * 6
        assert spread.in_flight("a") == 0
    assert lent.most == 1


async def test_what_is_refused_is_the_requests_fault() -> None:
    """The own server has the last word, and the lender stays."""
    lent = Script(refuses(400), says("theirs"))
    busy = Gate(2)
    async with (
        serve(busy) as url,
        serve(lent) as other,
        client_of(url) as client,
        SpreadClient(client, Client(), SYSTEM_CLOCK) as spread,
    ):
        await spread.borrow({"a": Target(other, MODEL)})
        await asyncio.gather(*(spread.call(ask(n), None) for n in range(2)))
        assert lent.received == 1
        busy.open.clear()
        busy.opens_at = 100
        first = asyncio.create_task(spread.call(ask(), None))
        while not busy.now:
            await asyncio.sleep(0.001)
        second = await spread.call(ask(1), None)
        assert second.reply.content == "theirs"
        busy.open.set()
        await first


async def ask_both(spread: SpreadClient, own: Gate) -> Answer:
    """Ask while the own server has a call in flight, which may end after that: what came of the second."""
    own.open.clear()
    first = asyncio.create_task(spread.call(ask(), None))
    while not own.now:
        await asyncio.sleep(0.001)
    second = await spread.call(ask(1), None)
    own.open.set()
    await first
    return second


@pytest.mark.parametrize(
    ("fault", "asked"),
    [(drops, 2 * MOST_FAILURES), (refuses(503), MOST_FAILURES), (refuses(401), 1)],
    ids=["drop", "503", "401"],
)
async def test_a_loan_that_fails(fault: Callable[[], web.Response], asked: int) -> None:
    """The own server answers at once; a key that is not taken ends a loan, as some failures in a row do:
    then the other server is not asked again, though it is still lent. What is dropped is sent twice."""
    lent = Script(fault)
    busy = Gate(2)
    async with (
        serve(busy) as url,
        serve(lent) as other,
        client_of(url) as client,
        SpreadClient(client, Client(), SYSTEM_CLOCK) as spread,
    ):
        for _ in range(MOST_FAILURES + 2):
            await spread.borrow({"a": Target(other, MODEL, lender="r1.a1")})
            answer = await ask_both(spread, busy)
            assert (answer.reply.content, answer.lender) == ("42", None)
        assert lent.received == asked


async def test_a_loan_that_fails_now_and_then() -> None:
    """Fewer failures in a row than end it, again and again."""
    few = [refuses(503)] * (MOST_FAILURES - 1)
    lent = Script(*few, says("theirs"), *few, says("theirs"))
    busy = Gate(2)
    async with (
        serve(busy) as url,
        serve(lent) as other,
        client_of(url) as client,
        SpreadClient(client, Client(), SYSTEM_CLOCK) as spread,
    ):
        await spread.borrow({"a": Target(other, MODEL)})
        found = [(await ask_both(spread, busy)).reply.content for _ in range(2 * MOST_FAILURES)]
    assert found == [*["42"] * len(few), "theirs"] * 2


class Kept:
    """Tokens of a call that was interrupted."""

    def load(self) -> object:
        """There are some."""
        return object()


async def test_the_line_moves_when_a_continued_call_ends() -> None:
    """Calls that go on do not stand in line, and leave their place to the next in it all the same."""
    own = Gate(100)
    async with (
        serve(own) as url,
        client_of(url, parallelism=1) as client,
        SpreadClient(client, Client(parallelism=1), SYSTEM_CLOCK) as spread,
    ):
        goes_on = asyncio.create_task(spread.call(ask(), None, Kept()))  # type: ignore[arg-type]
        while not own.now:
            await asyncio.sleep(0.001)
        waiting = [asyncio.create_task(spread.call(ask(n), None)) for n in range(3)]
        await asyncio.sleep(0)
        own.open.set()
        answers = await asyncio.gather(goes_on, *waiting)
        assert len(answers) == 4
    assert own.most == 1


async def test_a_loan_that_ended() -> None:
    """What is lent no more is asked no more; an error of the own server is the caller's."""
    lent = Script(says("theirs"))
    async with (
        serve(Script(refuses(400))) as url,
        serve(lent) as other,
        client_of(url) as client,
        SpreadClient(client, Client(), SYSTEM_CLOCK) as spread,
    ):
        await spread.borrow({"a": Target(other, MODEL)})
        await spread.borrow({})
        with pytest.raises(InfraError, match="refused with status 400"):
            await spread.call(ask(), None)
    assert lent.received == 0
