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
        await spread.borrow({"a": Target(other, MODEL)})
        await asyncio.gather(*(spread.call(ask(number), None) for number in range(10)))
        assert (own.most, lent.most) == (5, 5)
        assert (client.completed, client.completion_tokens) == (10, 20)


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
