"""Calls over several servers: where they go, and that a loan which fails costs nothing."""

from __future__ import annotations

import asyncio

import pytest

from evalkit.client.spread import SpreadClient
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


@pytest.mark.parametrize("fault", [drops, refuses(503), refuses(401)], ids=["drop", "503", "401"])
async def test_a_loan_that_fails(fault: object) -> None:
    """The own server answers at once; the other one is not asked again, though it is still lent."""
    lent = Script(fault)  # type: ignore[arg-type]
    busy = Gate(2)
    async with (
        serve(busy) as url,
        serve(lent) as other,
        client_of(url) as client,
        SpreadClient(client, Client(), SYSTEM_CLOCK) as spread,
    ):
        loans = {"a": Target(other, MODEL)}
        await spread.borrow(loans)
        first, second = await asyncio.gather(*(spread.call(ask(n), None) for n in range(2)))
        assert first.reply.content == second.reply.content == "42"
        asked = lent.received
        await spread.borrow(loans)
        await asyncio.gather(*(spread.call(ask(n), None) for n in range(4)))
        assert lent.received == asked


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
