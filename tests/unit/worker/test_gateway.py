"""The gateway as programs meet it: through the official client, with durable calls behind it."""

from __future__ import annotations

import asyncio
import io
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import openai
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from evalkit.client.calls import CallClient
from evalkit.client.durable import DurableModel
from evalkit.client.request import RequestBuilder
from evalkit.client.target import Target
from evalkit.clock import SYSTEM_CLOCK
from evalkit.errors import FailureKind
from evalkit.plan.model import UnitKey
from evalkit.recipe.schema import Client, Generation
from evalkit.serving.gateway import MOST_BODY, Gateway, Guest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from openai.types.chat import ChatCompletion

    from evalkit.store.records import CallRecord

KEY = UnitKey(0, 0)
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
ASK: Any = [{"role": "user", "content": "hello"}]


class Upstream:
    """An endpoint that answers with how many requests came, and says what a request asks it to say."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.hold: asyncio.Event | None = None
        self.fault: web.Response | None = None

    def app(self) -> web.Application:
        """The application."""
        app = web.Application(client_max_size=2**27)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.complete)
        return app

    async def _take(self, request: web.Request) -> int:
        self.bodies.append(await request.json())
        number = len(self.bodies)
        if self.hold is not None:
            await self.hold.wait()
        return number

    async def chat(self, request: web.Request) -> web.Response:
        """A chat answer with reasoning, and a tool call where tools are offered."""
        number = await self._take(request)
        if self.fault is not None:
            return self.fault
        message: dict[str, Any] = {"content": f"answer {number}", "reasoning": "hm"}
        if self.bodies[-1].get("tools"):
            message |= {"content": None, "tool_calls": [CALL]}
        choice = {"message": message, "finish_reason": "stop", "logprobs": {"content": []}}
        return self._answer(choice)

    async def complete(self, request: web.Request) -> web.Response:
        """A text."""
        number = await self._take(request)
        prompt = self.bodies[number - 1]["prompt"]
        return self._answer({"text": f"{prompt}:{number}", "finish_reason": "length"})

    @staticmethod
    def _answer(choice: dict[str, Any]) -> web.Response:
        used = {"prompt_tokens": 5, "completion_tokens": 2}
        used |= {"completion_tokens_details": {"reasoning_tokens": 1}}  # type: ignore[dict-item]
        return web.json_response({"model": "tiny", "choices": [choice], "usage": used})


@dataclass
class Unit:
    """What is journaled of a unit."""

    finished_calls: dict[tuple[int, str], CallRecord] = field(default_factory=dict)
    written: int = 0

    def keep(self, record: CallRecord) -> None:
        """Journal a call."""
        self.written += 1
        self.finished_calls[record.call, record.request] = record


@dataclass
class House:
    """A gateway in use."""

    upstream: Upstream
    gateway: Gateway
    model: DurableModel
    unit: Unit
    key: str
    programs: list[openai.AsyncOpenAI] = field(default_factory=list)

    def program(self, **options: Any) -> openai.AsyncOpenAI:
        """The official client, as a program makes it."""
        options = {"api_key": self.key, "max_retries": 0} | options
        self.programs.append(openai.AsyncOpenAI(base_url=self.gateway.base_url, **options))
        return self.programs[-1]


@asynccontextmanager
async def opened(
    unit: Unit | None = None, generation: Generation | None = None, comment_s: float = 10.0
) -> AsyncIterator[House]:
    """A gateway for one unit, before an endpoint."""
    upstream, unit = Upstream(), unit or Unit()
    settings = Client(parallelism=2048, max_retries=0)
    async with TestServer(upstream.app()) as server:
        target = Target(str(server.make_url("/v1")), "tiny", max_model_len=4096)
        async with (
            CallClient(target, settings, SYSTEM_CLOCK) as client,
            Gateway(comment_s=comment_s) as gateway,
        ):
            builder = RequestBuilder(generation or Generation(), "tiny")
            model = DurableModel(client, builder, None, KEY, unit)  # type: ignore[arg-type]
            with gateway.admit(Guest("tiny", model.relays, model.max_model_len)) as key:
                house = House(upstream, gateway, model, unit, key)
                yield house
                for program in house.programs:
                    await program.close()
            await model.end()


async def ask(program: openai.AsyncOpenAI, **options: Any) -> ChatCompletion:
    """The usual question."""
    found: ChatCompletion = await program.chat.completions.create(
        **({"model": "tiny", "messages": ASK} | options)
    )
    return found


async def test_whole_answer() -> None:
    """The official client reads all of it: reasoning under both names, tokens, log-probabilities."""
    async with opened(generation=Generation(temperature=0.5, max_tokens=7)) as house:
        answer = await ask(house.program(), max_tokens=99, user="me", top_p=0.1)
        [choice] = answer.choices
        assert (choice.message.content, choice.finish_reason) == ("answer 1", "stop")
        extra = choice.message.model_extra
        assert extra == {"reasoning": "hm", "reasoning_content": "hm"}
        assert answer.model == "tiny"
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (5, 7)
        assert answer.usage.completion_tokens_details.reasoning_tokens == 1  # type: ignore[union-attr]
        assert choice.logprobs is not None
        assert house.upstream.bodies == [
            {
                "model": "tiny",
                "messages": ASK,
                "stream": False,
                "temperature": 0.5,
                "max_completion_tokens": 7,
                "top_p": 0.1,
                "seed": 0,
            }
        ]


async def test_equal_requests_and_a_restart() -> None:
    """Three equal requests have three answers and seeds; after a restart the same three, and no request
    reaches the endpoint."""
    async with opened() as house:
        program = house.program()
        first = await asyncio.gather(*(ask(program) for _ in range(3)))
        assert [body["seed"] for body in house.upstream.bodies] == [0, 1, 2]
    async with opened(house.unit) as again:
        program = again.program()
        second = [await ask(program) for _ in range(3)]
        assert again.upstream.bodies == []
        assert again.model.relays.traffic.replayed == 3
    texts = [{answer.choices[0].message.content for answer in each} for each in (first, second)]
    assert texts[0] == texts[1] == {"answer 1", "answer 2", "answer 3"}


async def test_streams() -> None:
    """The official client reads a stream as it reads any: role, reasoning, text, end, usage."""
    async with opened() as house:
        stream = await house.program().chat.completions.create(
            model="tiny", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
        assert deltas[0].role == "assistant"
        assert deltas[1].model_extra == {"reasoning": "hm", "reasoning_content": "hm"}
        assert "".join(delta.content or "" for delta in deltas) == "answer 1"
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 7
        assert chunks[-1].choices == []
        text = await house.program().completions.create(model="tiny", prompt="p", stream=True)
        assert "".join([chunk.choices[0].text async for chunk in text]) == "p:2"
        # a streamed question is the same question
        assert (await ask(house.program())).choices[0].message.content == "answer 3"
        assert house.upstream.bodies[2]["seed"] == 1


async def test_tool_calls() -> None:
    """They come whole, and in a stream with their places."""
    tools: Any = [{"type": "function", "function": {"name": "add", "parameters": {"b": 1, "a": 2}}}]
    async with opened() as house:
        answer = await ask(house.program(), tools=tools)
        assert answer.choices[0].message.content is None
        [call] = answer.choices[0].message.tool_calls or []
        assert call.model_dump() == CALL
        stream = await house.program().chat.completions.create(
            model="tiny", messages=ASK, tools=tools, stream=True
        )
        deltas = [c.choices[0].delta.tool_calls async for c in stream]
        [[part]] = [delta for delta in deltas if delta]
        assert (part.index, part.id) == (0, "c1")
        assert part.function is not None
        assert part.function.arguments == CALL["function"]["arguments"]  # type: ignore[index]
        sent = house.upstream.bodies[0]["tools"][0]["function"]["parameters"]
        assert list(sent) == ["b", "a"], "templates show a tool's parameters in the order given"


async def test_many_answers_of_one_request() -> None:
    """`n` and a list of prompts are calls of their own, whose answers come in order."""
    async with opened() as house:
        answer = await ask(house.program(), n=2)
        assert [c.index for c in answer.choices] == [0, 1]
        assert {c.message.content for c in answer.choices} == {"answer 1", "answer 2"}
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 4)
        texts = await house.program().completions.create(
            model="tiny", prompt=["a", "b"], n=2, max_tokens=3
        )
        assert [c.text.partition(":")[0] for c in texts.choices] == ["a", "a", "b", "b"]
        assert texts.usage is not None
        assert texts.usage.prompt_tokens == 10
        ids = await house.program().completions.create(model="tiny", prompt=[1, 2, 3])
        assert len(ids.choices) == 1
        assert house.unit.written == 7


async def test_refusals() -> None:
    """A wrong key, and looking for what is not there: each says what is right, in OpenAI's form, and fails
    nothing."""
    async with opened() as house:
        with pytest.raises(openai.AuthenticationError, match="the key that it was given"):
            await ask(house.program(api_key="other"))
        with pytest.raises(openai.NotFoundError, match="there is POST /v1/chat/completions"):
            await house.program().files.list()
        [model] = (await house.program().models.list()).data
        assert (model.id, model.model_extra) == ("tiny", {"max_model_len": 4096})
        root = house.gateway.base_url.removesuffix("/v1")
        headers = {"Authorization": f"Bearer {house.key}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            assert (await session.get(f"{root}/health")).status == 200
            assert (await session.get(f"{root}/v1/chat/completions")).status == 405
        assert house.model.failure is None
        assert house.upstream.bodies == []


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/embeddings", "/chat/completions"])
async def test_question_to_another_route_fails_the_unit(path: str) -> None:
    """A program may swallow the 404: its unit cannot count, and says which route, and which there are."""
    async with opened() as house:
        root = house.gateway.base_url.removesuffix("/v1")
        async with aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {house.key}"}
        ) as session:
            refused = await session.post(f"{root}{path}", json={"model": "tiny", "input": "x"})
            assert refused.status == 404
            assert refused.headers["x-should-retry"] == "false"
        failure = await house.model.failed()
        assert (
            f"POST {path} is not served here; there is POST /v1/chat/completions" in failure.message
        )
        assert failure.kind is FailureKind.CLIENT_ERROR
        assert house.upstream.bodies == []


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (b'{"model": "huge", "messages": []}', 404, "`huge` is not served here; ask for `tiny`"),
        (b'{"messages": [], "n": 0}', 400, "n is a whole number"),
        (b"{", 400, "the body is no JSON"),
        (bytes(MOST_BODY + 1), 413, "more than 67,108,864 bytes"),
    ],
)
async def test_refused_question_fails_the_unit(data: bytes, status: int, says: str) -> None:
    """A program may take the error for an empty answer and score that: its unit cannot count."""
    async with opened() as house:
        headers = {"Authorization": f"Bearer {house.key}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            url = f"{house.gateway.base_url}/chat/completions"
            refused = await session.post(url, data=io.BytesIO(data))
            assert refused.status == status
            assert says in (await refused.json())["error"]["message"]
        failure = await house.model.failed()
        assert says in failure.message
        assert failure.kind is FailureKind.CLIENT_ERROR
        assert house.model.relays.traffic.failed == 1
        assert house.upstream.bodies == []


async def test_key_ends_with_its_unit() -> None:
    """A program that outlives its unit asks in vain."""
    async with opened() as house:
        with house.gateway.admit(Guest("tiny", house.model.relays)) as key:
            program = house.program(api_key=key)
            await ask(program)
        with pytest.raises(openai.AuthenticationError):
            await ask(program)


@pytest.mark.parametrize("streams", [False, True])
async def test_too_long_is_the_models_answer(streams: bool) -> None:
    """It comes as servers say it, is journaled, and does not fail the unit."""
    async with opened() as house:
        said = {"error": {"message": "maximum context length is 5", "code": "x"}}
        house.upstream.fault = web.json_response(said, status=400)
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(house.program(), stream=streams)
        assert caught.value.code == "context_length_exceeded"
        assert house.model.failure is None
        assert len(house.model.relays.answered) == house.unit.written == 1


async def test_failure_is_told_and_ends_the_unit() -> None:
    """After the client's own tries there is nothing to try: the program hears 503, the unit is owed."""
    async with opened() as house:
        house.upstream.fault = web.json_response({"error": {"message": "broken"}}, status=500)
        with pytest.raises(openai.InternalServerError, match="broken") as caught:
            await ask(house.program(max_retries=3))
        assert caught.value.status_code == 503
        assert len(house.upstream.bodies) == 1, "OpenAI's client heeds that it shall not try again"
        assert house.model.failure is not None
        assert house.model.relays.traffic.failed == 1


async def test_retry_after_a_time_out_is_the_same_question() -> None:
    """A client that gives up and asks again gets the answer to its first request."""
    async with opened() as house:
        house.upstream.hold = asyncio.Event()
        first = asyncio.create_task(ask(house.program()))
        while not house.upstream.bodies:  # a time-out of the client's own could come before
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        while not house.model.relays._equals or not any(
            equals.given_up for equals in house.model.relays._equals.values()
        ):
            await asyncio.sleep(0)
        again = asyncio.create_task(ask(house.program()))
        while house.model.relays.traffic.requests < 2:
            await asyncio.sleep(0)
        house.upstream.hold.set()
        assert (await again).choices[0].message.content == "answer 1"
        assert len(house.upstream.bodies) == house.unit.written == 1
        assert house.model.relays.traffic.repeated == 1


async def test_waiting_streams_say_so() -> None:
    """Comments come while an answer is made; an error after them is an event of the stream."""
    async with opened(comment_s=0.01) as house:
        house.upstream.hold = asyncio.Event()
        headers = {"Authorization": f"Bearer {house.key}"}
        url = f"{house.gateway.base_url}/chat/completions"
        body = {"model": "tiny", "messages": ASK, "stream": True}
        async with aiohttp.ClientSession(headers=headers) as session:
            response = await session.post(url, json=body)
            assert await response.content.readexactly(20) == b": waiting\n\n: waiting"
            house.upstream.hold.set()
            rest = (await response.read()).decode()
            events = re.findall(r"^data: (.*)$", rest, re.M)
            assert events[-1] == "[DONE]"
            assert orjson.loads(events[2])["choices"][0]["delta"]["content"] == "answer 1"
        house.upstream.hold = asyncio.Event()
        house.upstream.fault = web.json_response({"error": {"message": "broken"}}, status=500)
        stream = await house.program().chat.completions.create(
            model="tiny", messages=ASK, stream=True, seed=3
        )
        house.upstream.hold.set()
        with pytest.raises(openai.APIError, match="broken"):
            async for _ in stream:
                pass


async def test_a_thousand_at_once() -> None:
    """All of them are on their way to the endpoint before the first is answered."""
    async with opened() as house:
        house.upstream.hold = asyncio.Event()
        headers = {"Authorization": f"Bearer {house.key}"}
        url = f"{house.gateway.base_url}/completions"
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session:

            async def complete(number: int) -> str:
                async with session.post(url, json={"model": "tiny", "prompt": f"p{number}"}) as got:
                    text: str = (await got.json())["choices"][0]["text"]
                    return text

            tasks = [asyncio.create_task(complete(number)) for number in range(1000)]
            while len(house.upstream.bodies) < 1000:
                await asyncio.sleep(0.01)
            house.upstream.hold.set()
            texts = await asyncio.gather(*tasks)
        assert [text.partition(":")[0] for text in texts] == [f"p{n}" for n in range(1000)]
        assert len(house.model.relays.answered) == 1000
