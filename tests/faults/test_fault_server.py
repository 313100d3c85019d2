"""The fault server speaks vLLM's way to stop and continue a generation: the client is built on it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.faults.harness import Server, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

QUESTION = "write in 300 tokens: what is 12 + 30?"
TOOL = {"type": "function", "function": {"name": "calculate", "parameters": {}}}
SWITCHES = ("--scale-out", "200", "--stream-interval", "16")


class Vllm:
    """A client that knows vLLM's routes."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def post(self, path: str, body: dict[str, Any], id: str = "") -> Any:
        """JSON of an answer, or all its events; the status where there is no body."""
        headers = {"X-Request-Id": id} if id else {}
        async with self._session.post(path, json=body, headers=headers) as response:
            if response.content_type == "text/event-stream":
                lines = [line[6:] async for line in response.content if line.startswith(b"data: ")]
                return [json.loads(line) for line in lines if line.strip() != b"[DONE]"]
            text = await response.text()
            return json.loads(text) if text else response.status

    async def abort_after(self, tokens: int, id: str) -> None:
        """Abort a request once the server has made so many tokens."""
        async with asyncio.timeout(100):
            while await self._tokens() < tokens:
                await asyncio.sleep(0.005)
        assert await self.post("/inference/v1/abort_requests", {"request_ids": [id]}) == 200

    async def _tokens(self) -> int:
        async with self._session.get("/_counts") as response:
            found: int = (await response.json())["tokens"]
            return found


@pytest.fixture(params=["reasoning", "inline", "none"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that reasons in one of the ways there are."""
    with serving(*SWITCHES, "--reasoning", request.param) as running:
        yield running


@pytest.fixture
async def vllm(server: Server) -> AsyncIterator[Vllm]:
    """A client of it."""
    url = f"http://127.0.0.1:{server.port}"
    async with aiohttp.ClientSession(base_url=url) as session:
        yield Vllm(session)


@pytest.mark.parametrize("tools", [None, [TOOL]], ids=["plain", "tools"])
async def test_a_generation_in_three_parts(
    vllm: Vllm, server: Server, tools: list[Any] | None
) -> None:
    """Streamed, aborted, continued, aborted, continued: the tokens and the message of one piece."""
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": QUESTION}]}
    body |= {"max_tokens": 900, "return_token_ids": True} | ({"tools": tools} if tools else {})
    whole = await vllm.post("/v1/chat/completions", body)
    made = whole["usage"]["completion_tokens"]
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    server.hang_at_token(90)
    events, _ = await asyncio.gather(
        vllm.post("/v1/chat/completions", streamed, "abc"),
        vllm.abort_after(made + 90, "chatcmpl-abc"),
    )
    prompt = events[0]["prompt_token_ids"]
    choices = [choice for event in events for choice in event["choices"]]
    tokens = [token for choice in choices for token in choice.get("token_ids") or []]
    assert choices[-1]["finish_reason"] == "abort"
    assert len(tokens) == events[-1]["usage"]["completion_tokens"] == 90 < made
    server.hang_at_token(60)
    rest = {"model": "m", "prompt": prompt + tokens, "max_tokens": 900, "return_token_ids": True}
    part, _ = await asyncio.gather(
        vllm.post("/v1/completions", rest, "def"),
        vllm.abort_after(made + 90 + 60, "cmpl-def-0"),
    )
    server.go_on()
    assert part["choices"][0]["finish_reason"] == "abort"
    assert part["choices"][0]["prompt_token_ids"] == prompt + tokens
    tokens += part["choices"][0]["token_ids"]
    last = await vllm.post("/v1/completions", {**rest, "prompt": prompt + tokens})
    tokens += last["choices"][0]["token_ids"]
    assert tokens == whole["choices"][0]["token_ids"]
    finish = last["choices"][0]["finish_reason"]
    generated = {
        "request_id": "x",
        "choices": [{"index": 0, "token_ids": tokens, "finish_reason": finish}],
        "prompt_token_ids": prompt,
    }
    derendered = await vllm.post(
        "/v1/chat/completions/derender",
        {
            "model": "m",
            "generate_response": generated,
            "prompt_tokens": len(prompt),
            "chat_request": body,
        },
    )
    assert derendered["choices"][0]["message"] == whole["choices"][0]["message"]
    assert derendered["usage"].items() <= whole["usage"].items()


async def test_abort_before_the_first_token(vllm: Vllm, server: Server) -> None:
    """A stream that ends before its first token has no chunk with a reason; a whole answer is empty."""
    server.switch(latency_s=1000.0)
    body = {"model": "m", "messages": [{"role": "user", "content": QUESTION}]}

    async def interrupted(body: dict[str, Any], id: str) -> Any:
        async with asyncio.timeout(100):
            answer = asyncio.create_task(vllm.post("/v1/chat/completions", body, id))
            while not answer.done():
                await vllm.post("/inference/v1/abort_requests", {"request_ids": [f"chatcmpl-{id}"]})
                await asyncio.sleep(0.02)
            return await answer

    events = await interrupted({**body, "stream": True}, "abc")
    assert [choice["finish_reason"] for event in events for choice in event["choices"]] == [None]
    answer = await interrupted({**body, "return_token_ids": True}, "def")
    assert answer["choices"][0]["finish_reason"] == "abort"
    assert answer["choices"][0]["token_ids"] == []


async def test_a_server_without_the_routes(vllm: Vllm, server: Server) -> None:
    """403 as from a vLLM that was started without `--enable-scale-out`."""
    server.switch(scale_out=403)
    for path in ("/inference/v1/abort_requests", "/v1/chat/completions/derender"):
        answer = await vllm.post(path, {"request_ids": []})
        assert answer["error"]["code"] == 403
