"""Servers that fail in the middle of long answers: what the client keeps, asks again and gives up."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.client.calls import CallClient
from evalkit.client.request import RequestBuilder
from evalkit.client.target import Target
from evalkit.clock import SYSTEM_CLOCK
from evalkit.errors import InfraError
from evalkit.recipe.schema import Client, Generation
from evalkit.store.tokens import TokenChain
from tests.faults.harness import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from evalkit.client.calls import Answer
    from evalkit.client.request import Request
    from tests.faults.harness import Server

TAGS = ("<think>", "</think>")
INTERVAL = 16
SWITCHES = ("--scale-out", "200", "--stream-interval", str(INTERVAL), "--reasoning", "reasoning")


class Memory:
    """The tokens of one call, and what a journal would have of them."""

    def __init__(self) -> None:
        self.chain: TokenChain | None = None
        self.saved: list[int] = []

    def load(self) -> TokenChain | None:
        """What is there."""
        return self.chain

    def begin(self) -> TokenChain:
        """From nothing, as a journal has it."""
        before = self.chain
        begun = 0 if before is None else before.begun + bool(before.tokens)
        self.chain = TokenChain(begun=begun)
        return self.chain

    def save(self) -> None:
        """Note how many are there."""
        if self.chain is not None:
            self.saved.append(len(self.chain.tokens))


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that can be told to stop, at once and whole again after each test."""
    with serving(*SWITCHES) as running:
        yield running


@asynccontextmanager
async def client_of(server: Server, number: int = 0, **settings: Any) -> AsyncIterator[CallClient]:
    """A client that keeps tokens; `number` of the server within the attempt."""
    target = Target(
        server.base_url,
        "m",
        server=number,
        can_continue=True,
        max_model_len=4096,
        stream_interval=INTERVAL,
    )
    async with CallClient(target, Client(**settings), SYSTEM_CLOCK) as client:
        yield client


def ask(number: int = 12) -> Request:
    """A request with a long answer."""
    text = f"write in 200 tokens: what is {number} + 30?"
    builder = RequestBuilder(Generation(temperature=0, max_tokens=900), "m")
    return builder.chat([{"role": "user", "content": text}], repeat=0)


async def whole(server: Server, number: int = 12) -> Answer:
    """The undisturbed answer."""
    async with client_of(server) as client:
        return await client.call(ask(number), TAGS, Memory())


async def part(server: Server, memory: Memory, at_least: int = 3 * INTERVAL) -> None:
    """Some tokens of the answer, by a worker that is told to end."""
    server.hang_at_token(at_least + INTERVAL - 4)
    async with client_of(server) as client:
        call = asyncio.create_task(client.call(ask(), TAGS, memory))
        while not memory.saved or memory.saved[-1] < at_least:
            await asyncio.wait([call], timeout=0.01)
        assert await client.interrupt(10) == 0
        call.cancel()
        await asyncio.wait([call])
    server.go_on()


async def test_interrupted_answer_goes_on(server: Server) -> None:
    """Nothing that was generated is generated again, and the reply is that of one generation."""
    expected, memory = await whole(server), Memory()
    before = server.counts()["tokens"]
    await part(server, memory)
    taken = memory.saved[-1]
    async with client_of(server) as client:
        answer = await client.call(ask(), TAGS, memory)
    assert answer.reply == expected.reply
    assert [each.at for each in answer.continued] == [taken]
    used = expected.reply.usage.completion_tokens
    assert server.counts()["tokens"] - before == used, "each token was paid for once"


async def test_dropped_stream_goes_on(server: Server) -> None:
    """A connection that breaks costs nothing that came through it."""
    expected, memory = await whole(server), Memory()
    server.switch(drop_every=1, fail_times=2)
    async with client_of(server) as client:
        answer = await client.call(ask(), TAGS, memory)
    assert answer.reply == expected.reply
    assert 0 < len(answer.continued) <= answer.timing.retries


async def test_storm_does_not_cost_tokens(server: Server) -> None:
    """503 is about the moment, not about the prompt: however often, the tokens are kept."""
    expected, memory = await whole(server), Memory()
    await part(server, memory)
    taken = memory.saved[-1]
    server.switch(fail_status=503, fail_times=4)
    async with client_of(server) as client:
        answer = await client.call(ask(), TAGS, memory)
    assert answer.reply == expected.reply
    assert [each.at for each in answer.continued] == [taken], "counted once"
    assert answer.timing.retries == 4


async def test_prompt_that_kills(server: Server) -> None:
    """When two servers fail on a continuation before a token, the call begins anew on the third."""
    expected, memory = await whole(server), Memory()
    await part(server, memory)
    server.switch(fail_status=500, fail_times=10**6)
    async with client_of(server, number=1, max_retries=2) as client:
        with pytest.raises(InfraError, match="after 2 retries"):
            await client.call(ask(), TAGS, memory)
    assert memory.chain is not None
    assert memory.chain.stuck == 1, "once for each server"
    async with client_of(server, number=2, max_retries=0) as client:
        with pytest.raises(InfraError):
            await client.call(ask(), TAGS, memory)
    server.switch(fail_status=0)
    async with client_of(server, number=3) as client:
        answer = await client.call(ask(), TAGS, memory)
    assert answer.reply == expected.reply
    assert answer.continued == (), "nothing of it is of the first part"


async def test_server_that_cannot_parse(server: Server) -> None:
    """What the server refuses to read is not the model's: the call begins anew, once."""
    expected, memory = await whole(server), Memory()
    used = expected.reply.usage.completion_tokens or 0
    before = server.counts()["tokens"]
    server.switch(parses=False)
    async with client_of(server) as client:
        with pytest.raises(InfraError, match="does not parse what it generated: max_model_len"):
            await client.call(ask(), TAGS, memory)
    assert server.counts()["tokens"] - before == 2 * used, "two generations, and no third"
    server.switch(parses=True)
    async with client_of(server) as client:
        answer = await client.call(ask(), TAGS, memory)
    assert answer.reply == expected.reply


async def test_drain_is_no_failure_of_the_server(server: Server) -> None:
    """A continuation that was given up before its first token accuses nobody."""
    memory = Memory()
    await part(server, memory)
    server.switch(latency_s=1000.0)
    for number in (1, 2):
        async with client_of(server, number=number, parallelism=1) as client:
            call = asyncio.create_task(client.call(ask(), TAGS, memory))
            while server.counts()["in_flight"] == 0:
                await asyncio.sleep(0.01)
            await client.interrupt(10)
            call.cancel()
            await asyncio.wait([call])
    assert memory.chain is not None
    assert (memory.chain.stuck, len(memory.chain.tokens)) == (0, memory.saved[-1])


async def test_limit_of_the_server(server: Server) -> None:
    """An answer that the server's own defaults end is as long when it was interrupted."""
    server.switch(max_new_tokens=120)
    expected, memory = await whole(server), Memory()
    assert expected.reply.usage.completion_tokens == 120
    await part(server, memory)
    async with client_of(server) as client:
        answer = await client.call(ask(), TAGS, memory)
    assert len(answer.continued) == 1
    assert answer.reply == expected.reply


async def test_penalty_of_the_server(server: Server) -> None:
    """What the server would count anew is not gone on from, though the request does not ask for it."""
    server.switch(penalty=0.5)
    memory = Memory()
    async with client_of(server) as client:
        await client.call(ask(), TAGS, memory)
    assert memory.chain is None


async def test_server_that_recovers(server: Server) -> None:
    """A server that fails for a moment is no reason to give tokens up."""
    expected, memory = await whole(server), Memory()
    await part(server, memory)
    taken = memory.saved[-1]
    server.switch(fail_status=500, fail_times=3)
    async with client_of(server) as client:
        answer = await client.call(ask(), TAGS, memory)
    assert answer.reply == expected.reply
    assert [each.at for each in answer.continued] == [taken]


async def test_suspects_go_one_by_one(server: Server) -> None:
    """After a server failed on continuations, the next gets a suspect only when the one before has
    its first token: the one that kills takes no other along."""
    kept = [Memory() for _ in range(3)]
    for number, memory in enumerate(kept):
        chain = memory.begin()
        chain.begin([1, 2, 3 + number])
        chain.add([4])
        chain.stuck, chain.blamed = 1, 0
    server.switch(latency_s=1000.0)
    async with client_of(server, number=1) as client:
        calls = [asyncio.create_task(client.call(ask(n), TAGS, m)) for n, m in enumerate(kept)]
        while server.counts()["in_flight"] == 0:
            await asyncio.sleep(0.01)
        await asyncio.wait(calls, timeout=0.2)
        assert server.counts()["in_flight"] == 1
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
    assert sorted(memory.chain.stuck for memory in kept if memory.chain) == [1, 1, 2]


async def test_abort_that_fails(server: Server) -> None:
    """A server that does not give its tokens is waited for no longer than said; whole chunks stay."""
    memory = Memory()
    server.switch(abort_status=500)
    server.hang_at_token(INTERVAL + 4)
    async with client_of(server) as client:
        call = asyncio.create_task(client.call(ask(), TAGS, memory))
        while not memory.saved or memory.saved[-1] < INTERVAL:
            await asyncio.wait([call], timeout=0.01)
        assert await client.interrupt(0.5) == 1
        assert not call.done()
        call.cancel()
        await asyncio.wait([call])
    assert memory.chain is not None
    assert memory.saved[-1] == len(memory.chain.tokens) > 0
    assert await finished(server, memory) == (await whole(server)).reply


async def finished(server: Server, memory: Memory) -> object:
    """The reply of the call, on a server that works."""
    server.switch(abort_status=0)
    server.go_on()
    async with client_of(server) as client:
        return (await client.call(ask(), TAGS, memory)).reply


async def test_nothing_is_sent_after_an_interrupt(server: Server) -> None:
    """Calls that wait for a place, or to be tried again, stay unsent."""
    server.hang_at_token(1)
    async with client_of(server, parallelism=1) as client:
        calls = [asyncio.create_task(client.call(ask(n), TAGS, Memory())) for n in range(3)]
        while server.counts()["in_flight"] == 0:
            await asyncio.sleep(0.01)
        assert await client.interrupt(10) == 0
        received = server.counts()["received"]
        calls[0].cancel()  # its place goes to the next
        await asyncio.wait(calls, timeout=0.3)
        assert server.counts()["received"] == received
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)


async def test_limit_was_reached_when_it_was_interrupted(server: Server) -> None:
    """An answer that lacks only its end is parsed, and nothing is generated."""
    memory = Memory()
    request = RequestBuilder(Generation(temperature=0, max_tokens=40), "m").chat(
        [{"role": "user", "content": "write in 200 tokens: what is 1 + 2?"}], repeat=0
    )
    async with client_of(server) as client:
        expected = await client.call(request, TAGS, memory)
        assert memory.chain is not None
        memory.chain.finish_reason = None  # as if the last event had not come
        before = server.counts()["tokens"]
        answer = await client.call(request, TAGS, memory)
    assert answer.reply.finish_reason == "length"
    assert answer.reply == expected.reply
    assert server.counts()["tokens"] == before


async def test_interrupt_waits_for_no_suspect(server: Server) -> None:
    """Suspects that wait for their turn were not sent: an interrupt neither waits for them nor sends
    them when the one before is taken."""
    await_turn = [Memory() for _ in range(5)]
    for number, memory in enumerate(await_turn):
        chain = memory.begin()
        chain.begin([1, 2, 3 + number])
        chain.add([4])
        chain.stuck, chain.blamed = 1, 0
    server.switch(latency_s=1000.0)
    async with client_of(server, number=1) as client:
        calls = [
            asyncio.create_task(client.call(ask(n), TAGS, m)) for n, m in enumerate(await_turn)
        ]
        while server.counts()["in_flight"] == 0:
            await asyncio.sleep(0.01)
        received = server.counts()["received"]
        assert await client.interrupt(5) == 0
        await asyncio.wait(calls, timeout=0.2)
        assert server.counts()["received"] == received
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
