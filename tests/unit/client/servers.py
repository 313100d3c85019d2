"""Small servers for tests of the client: each answers as a test tells it to."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.test_utils import RawTestServer, TestServer

from evalkit.client.calls import CallClient
from evalkit.client.request import RequestBuilder
from evalkit.client.target import Target
from evalkit.clock import SYSTEM_CLOCK
from evalkit.recipe.schema import Client, Generation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from evalkit.client.request import Request

MODEL = "tiny"


def completion(text: str = "42", model: str = MODEL) -> dict[str, Any]:
    """A chat completion."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": text}}
    used = {"prompt_tokens": 3, "completion_tokens": 2}
    return {"id": "x", "model": model, "choices": [choice], "usage": used}


def ask(number: int = 0) -> Request:
    """A request of its own for each number."""
    messages = [{"role": "user", "content": f"What is {number} + 1?"}]
    return RequestBuilder(Generation(), MODEL).chat(messages, 0)


class Script:
    """Answers from a list, in order; the last one again and again."""

    def __init__(self, *answers: Callable[[], web.Response]) -> None:
        self.answers = answers
        self.received = 0

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """The next answer; None drops the connection."""
        await request.read()
        make = self.answers[min(self.received, len(self.answers) - 1)]
        self.received += 1
        response = make()
        if response.headers.get("X-Drop"):
            assert request.transport is not None
            request.transport.close()
        return response


def says(text: str = "42", model: str = MODEL, **options: Any) -> Callable[[], web.Response]:
    """A completion."""
    return lambda: web.json_response(completion(text, model), **options)


def refuses(status: int, text: str = "no", **headers: str) -> Callable[[], web.Response]:
    """An error."""
    body = {"error": {"message": text}}
    return lambda: web.json_response(body, status=status, headers=headers)


def drops() -> web.Response:
    """The connection ends without an answer."""
    return web.Response(headers={"X-Drop": "1"})


def cut_short() -> web.Response:
    """Half of an answer."""
    return web.Response(
        text='{"model": "tiny", "choices": [{"mess', content_type="application/json"
    )


@asynccontextmanager
async def serve(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    """Base URL of a server whose chat completions come from `handler`."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("/v1"))


@asynccontextmanager
async def client_of(
    base_url: str,
    *,
    is_ours: bool = True,
    headers: dict[str, str] | None = None,
    proxy: str | None = None,
    **settings: Any,
) -> AsyncIterator[CallClient]:
    """A client of that server."""
    target = Target(base_url, MODEL, headers or {}, proxy, is_ours)
    async with CallClient(target, Client(**settings), SYSTEM_CLOCK) as client:
        yield client


@asynccontextmanager
async def serve_anything(
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    """URL of a server that answers every request with `handler`, as a proxy does."""
    async with RawTestServer(handler) as server:
        yield str(server.make_url("/")).rstrip("/")


class Gate:
    """A server that lets nothing through until so many requests are there, and notes the most."""

    def __init__(self, opens_at: int) -> None:
        self.opens_at = opens_at
        self.now = self.most = 0
        self.open = asyncio.Event()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Wait at the gate, then answer."""
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now >= self.opens_at:
            self.open.set()
        await self.open.wait()
        await asyncio.sleep(0)
        self.now -= 1
        return web.json_response(completion())
