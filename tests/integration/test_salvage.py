"""Interrupted generations on a real vLLM: what comes out equals what nobody interrupted.

The model is greedy here, and in float32 on CPU a prefix gives the same next token whether it was
generated or read, so equal means equal in every byte.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from evalkit.client.calls import CallClient
from evalkit.client.continuable import continuation
from evalkit.client.request import Request, RequestBuilder
from evalkit.client.server_parsing import ServerParsing
from evalkit.client.target import Target
from evalkit.client.transport import Transport
from evalkit.clock import SYSTEM_CLOCK
from evalkit.errors import InfraError
from evalkit.recipe.schema import Client, Generation
from evalkit.store.tokens import TokenChain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.client.calls import Answer
    from evalkit.store.records import Reply
    from tests.integration.conftest import VllmServer

TAGS = ("<think>", "</think>")
INTERVAL = 64
LENGTH = 800
"""Tokens of a long answer: a dozen chunks."""
LONG = Generation(temperature=0, max_tokens=LENGTH, extra_body={"ignore_eos": True})
PENALISED = LONG.model_copy(update={"presence_penalty": 1.0})


class Memory:
    """The tokens of one call, kept from client to client."""

    def __init__(self) -> None:
        self.chain: TokenChain | None = None
        self.saved = 0

    def load(self) -> TokenChain | None:
        """What is there."""
        return self.chain

    def begin(self) -> TokenChain:
        """From nothing."""
        self.chain = TokenChain()
        return self.chain

    def save(self) -> None:
        """Count what a journal would have."""
        self.saved = self.count

    @property
    def count(self) -> int:
        """Tokens that are there."""
        return len(self.chain.tokens) if self.chain is not None else 0


def target(server: VllmServer, *, can_continue: bool = True) -> Target:
    """The server, as a worker that started it knows it."""
    endpoint = server.endpoint
    return Target(
        endpoint.base_url,
        endpoint.model,
        endpoint.request_headers(),
        can_continue=can_continue,
        can_continue_presence=endpoint.can_continue_presence,
        max_model_len=endpoint.max_model_len,
        stream_interval=INTERVAL,
    )


def requests(generation: Generation, count: int = 8) -> list[Request]:
    """Sums to ask for."""
    builder = RequestBuilder(generation, "demo")
    sums = [f"What is {n} + {7 * n % 97}?" for n in range(1, count + 1)]
    return [builder.chat([{"role": "user", "content": text}], repeat=3) for text in sums]


async def ask_all(
    server: VllmServer, asked: Sequence[Request], *, can_continue: bool
) -> list[Answer]:
    """All answers, undisturbed."""
    there = target(server, can_continue=can_continue)
    async with CallClient(there, Client(), SYSTEM_CLOCK) as client:
        return await asyncio.gather(*(client.call(r, TAGS, Memory()) for r in asked))


async def undisturbed(server: VllmServer, asked: Sequence[Request]) -> list[Reply]:
    """What the chat route says."""
    return [answer.reply for answer in await ask_all(server, asked, can_continue=False)]


def test_server_can_continue(vllm_server: VllmServer) -> None:
    """A vLLM that evalkit starts has the routes, and was asked for them."""
    assert vllm_server.endpoint.can_continue
    assert vllm_server.endpoint.can_continue_presence
    assert "--enable-scale-out" in vllm_server.facts.argv


@pytest.mark.parametrize(
    "generation",
    [
        Generation(temperature=0, max_tokens=160),
        Generation(temperature=1.0, top_p=0.9, max_tokens=160),
        Generation(temperature=0, max_tokens=12),
        LONG,
        PENALISED,
    ],
    ids=["greedy", "sampled", "cut short", "special tokens inside", "penalised"],
)
async def test_streamed_and_parsed_is_what_chat_says(
    vllm_server: VllmServer, generation: Generation
) -> None:
    """Content, reasoning, finish reason and usage of answers whose tokens are kept."""
    asked = requests(generation)
    kept = [answer.reply for answer in await ask_all(vllm_server, asked, can_continue=True)]
    assert kept == await undisturbed(vllm_server, asked)


async def interrupt_all(
    server: VllmServer, asked: Sequence[Request], kept: Sequence[Memory], at_least: int
) -> bool:
    """Go on with all calls until one has `at_least` new tokens, then take what there is of all.

    False when all ended before the server heard of it: on a busy machine tokens come in bursts.
    """
    wanted = [memory.count + at_least for memory in kept]
    async with CallClient(target(server), Client(), SYSTEM_CLOCK) as client:
        calls = [
            asyncio.create_task(client.call(request, TAGS, memory))
            for request, memory in zip(asked, kept, strict=True)
        ]
        while all(
            memory.count < count and not call.done()
            for memory, count, call in zip(kept, wanted, calls, strict=True)
        ):
            await asyncio.wait(calls, timeout=0.01)
        assert await client.interrupt(60) == 0
        for call in calls:
            call.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
    return any(isinstance(end, asyncio.CancelledError) for end in ended)


@pytest.mark.parametrize("generation", [LONG, PENALISED], ids=["plain", "penalised"])
async def test_interrupted_twice(vllm_server: VllmServer, generation: Generation) -> None:
    """Answers that were taken from two servers before a third one ended them."""
    asked, kept, taken = requests(generation), [Memory() for _ in range(8)], 0
    expected = await undisturbed(vllm_server, asked)
    while taken < 2:
        if await interrupt_all(vllm_server, asked, kept, INTERVAL + 1):
            taken += 1
        else:
            kept, taken = [Memory() for _ in range(8)], 0
    async with CallClient(target(vllm_server), Client(), SYSTEM_CLOCK) as client:
        answers = await asyncio.gather(
            *(client.call(r, TAGS, memory) for r, memory in zip(asked, kept, strict=True))
        )
    assert [answer.reply for answer in answers] == expected
    places = [[each.at for each in answer.continued] for answer in answers]
    assert any(places)
    assert all(0 < at < LENGTH for each in places for at in each)
    assert all(each == sorted(set(each)) for each in places)


async def test_worker_that_dies(vllm_server: VllmServer) -> None:
    """Without a chance to ask the server, no more than the last chunk is lost."""
    [request], memory = requests(LONG, 1), Memory()
    [expected] = await undisturbed(vllm_server, [request])
    async with CallClient(target(vllm_server), Client(), SYSTEM_CLOCK) as client:
        call = asyncio.create_task(client.call(request, TAGS, memory))
        while memory.saved <= 2 * INTERVAL and not call.done():
            await asyncio.wait([call], timeout=0.01)
        call.cancel()
        await asyncio.wait([call])
    has_all = memory.count == LENGTH  # they came in one burst, before we could look
    assert has_all or memory.saved % INTERVAL == 1, "the first token, then whole chunks"
    async with CallClient(target(vllm_server), Client(), SYSTEM_CLOCK) as client:
        answer = await client.call(request, TAGS, memory)
    assert answer.reply == expected
    assert len(answer.continued) == (0 if has_all else 1)


def chat_body(tools: bool, pattern: str) -> dict[str, Any]:
    """A request that is made to answer in a form."""
    function = {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    }
    body: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "user", "content": "What is 1 + 2?"}],
        "temperature": 0,
        "max_completion_tokens": 300,
        "return_token_ids": True,
        "structured_outputs": {"regex": pattern},
    }
    return {**body, "tools": [{"type": "function", "function": function}]} if tools else body


@pytest.mark.parametrize(
    ("tools", "pattern"),
    [
        (
            True,
            '<think>1\\+2</think><tool_call>\\{"name": "add", "arguments": \\{"a": 1\\}\\}</tool_call>',
        ),
        (True, "<think>1\\+2</think>no tool"),
        (False, "<think>1\\+2"),
        (False, "3"),
    ],
    ids=["tool call", "tools and no call", "never closed", "no reasoning"],
)
async def test_tokens_are_parsed_as_chat_parses_them(
    vllm_server: VllmServer, tools: bool, pattern: str
) -> None:
    """The reply made of token ids is the one that the chat route made of the same ids."""
    there = target(vllm_server)
    body = chat_body(tools, pattern)
    async with Transport(there, limit=4, timeout_s=60) as transport:
        said = orjson.loads(await transport.post(there.url, orjson.dumps(body)))
        choice = said["choices"][0]
        chain = TokenChain(finish_reason=choice["finish_reason"], usage=said["usage"])
        if choice["finish_reason"] == "tool_calls":
            chain.finish_reason = "stop"
        chain.begin(said["prompt_token_ids"])
        chain.add(choice["token_ids"])
        plain = {key: value for key, value in body.items() if key != "structured_outputs"}
        reply = await ServerParsing(transport, there).parse(plain, chain, None)
    message = choice["message"]
    assert (reply.content, reply.reasoning) == (message["content"] or "", message["reasoning"])
    assert reply.finish_reason == choice["finish_reason"]
    called = [replaced(call) for call in reply.tool_calls]
    assert called == [replaced(call) for call in message.get("tool_calls") or ()]
    assert bool(called) == ("tool_call" in pattern)


def replaced(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call without its id, which is random."""
    return {key: value for key, value in call.items() if key != "id"}


async def test_penalty_that_begins_anew_shows(vllm_server: VllmServer) -> None:
    """Without our processor's help the rest would be another one: what these tests compare depends on it."""
    [request], memory, there = requests(PENALISED, 1), Memory(), target(vllm_server)
    async with CallClient(there, Client(), SYSTEM_CLOCK) as client:
        expected = (await client.call(request, TAGS, memory)).reply
    assert memory.chain is not None
    assert memory.count == LENGTH
    begun = TokenChain()
    begun.begin(memory.chain.prompt.tolist())
    begun.add(memory.chain.tokens.tolist()[: LENGTH // 2])
    body = orjson.loads(request.payload)
    fields = continuation(body, begun, LENGTH // 2, None)
    texts = []
    async with Transport(there, limit=4, timeout_s=60) as transport:
        for own in (fields, {k: v for k, v in fields.items() if k != "vllm_xargs"}):
            payload = orjson.dumps({**own, "return_token_ids": True})
            said = orjson.loads(await transport.post(f"{there.base_url}/completions", payload))
            chain = TokenChain(finish_reason="length")
            chain.begin(begun.prompt.tolist())
            chain.add(begun.tokens.tolist() + said["choices"][0]["token_ids"])
            reply = await ServerParsing(transport, there).parse(body, chain, TAGS)
            texts.append((reply.reasoning, reply.content))
    whole, halved = texts
    assert whole == (expected.reasoning, expected.content)
    assert halved != whole


async def test_bad_arguments_of_a_continuation_are_refused(vllm_server: VllmServer) -> None:
    """The client is told, and the engine lives on."""
    there = target(vllm_server)
    fields = {"model": "demo", "prompt": [1, 2], "max_tokens": 1, "presence_penalty": 1.0}
    async with Transport(there, limit=4, timeout_s=60) as transport:
        for given in ("text", [1, 1], [-1]):
            extra = {"evalkit_generated": given, "evalkit_prompt": 2}
            with pytest.raises(InfraError, match="evalkit_generated"):
                await transport.post(
                    f"{there.base_url}/completions", orjson.dumps({**fields, "vllm_xargs": extra})
                )
        await transport.post(f"{there.base_url}/completions", orjson.dumps(fields))


async def test_grammar_is_not_continued(vllm_server: VllmServer) -> None:
    """A request under a grammar is sent as it is, and no token of it is kept."""
    generation = Generation(
        temperature=0, max_tokens=300, extra_body={"structured_outputs": {"regex": "12"}}
    )
    [request], memory = requests(generation, 1), Memory()
    async with CallClient(target(vllm_server), Client(), SYSTEM_CLOCK) as client:
        answer = await client.call(request, TAGS, memory)
    assert answer.reply.content == "12"
    assert memory.chain is None


async def test_old_server_is_asked_again(vllm_server: VllmServer) -> None:
    """Where a server cannot go on from tokens, those of another one change nothing."""
    [request], memory = requests(LONG, 1), Memory()
    [expected] = await undisturbed(vllm_server, [request])
    chain = memory.begin()
    chain.begin([1])
    chain.add([2, 3])
    there = replace(target(vllm_server), can_continue=False)
    async with CallClient(there, Client(), SYSTEM_CLOCK) as client:
        answer = await client.call(request, TAGS, memory)
    assert (answer.reply, answer.continued) == (expected, ())
