"""The model for programs on this node that know nothing of evalkit: an OpenAI endpoint on localhost.

One server per worker, shared by the units whose programs run; each has a key of its own. What a request
asks is a durable call of its unit, so what is journaled is answered at once, and the client behind it has
the retries, time-outs and the limit of what is in flight: nothing of that is here, and however many
requests come, they wait there.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource
import secrets
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import orjson
from aiohttp import web

from evalkit.clock import SYSTEM_CLOCK, Clock
from evalkit.errors import EvalkitError
from evalkit.serving.gateway_wire import (
    ROUTES,
    RefusedError,
    check_model,
    events,
    read_body,
    read_request,
    refusal_in,
    refusal_of,
    whole,
)
from evalkit.serving.program import LOCALHOST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from evalkit.serving.gateway_wire import Asking, Route
    from evalkit.store.records import Reply

MOST_BODY = 2**26
"""Bytes of a request: dialogues with images are large."""
BACKLOG = 4096
KEEP_ALIVE_S = 3600.0
"""Idle connections of programs: they are on this host, and one that we closed first would be an error."""
COMMENT_S = 10.0
"""A stream that waits says so in comments, which clients drop: below the shortest usual time-out."""
MOST_FILES = 2**16
KNOWN = f"POST {', POST '.join(ROUTES)}, GET /v1/models and GET /health"
LOOKING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods of clients that look for what there is; what is sent with another one is a question."""
NO_RETRY = {"x-should-retry": "false"}
"""What OpenAI's own clients heed: tries are made behind the gateway."""
COMMENT = b": waiting\n\n"
END = b"data: [DONE]\n\n"
STREAM = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


class Relaying(Protocol):
    """A unit's calls."""

    def asking(self, route: Route, body: Mapping[str, Any]) -> AbstractAsyncContextManager[Reply]:
        """The answer to a request, for a block that hands it on."""
        ...

    def refuse(self, why: str) -> None:
        """A question got an error, and is no call: the unit cannot count."""
        ...


@dataclass(frozen=True, slots=True)
class Guest:
    """A unit whose program may ask."""

    model: str
    calls: Relaying
    max_model_len: int | None = None


class Gateway:
    """The server. An async context manager; use it from one event loop."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK, comment_s: float = COMMENT_S) -> None:
        """`comment_s` is the time between two comments of a stream that waits."""
        self._clock = clock
        self._comment_s = comment_s
        self._guests: dict[str, Guest] = {}
        self._runner: web.AppRunner | None = None
        self._name = secrets.token_hex(4)
        self._numbers = itertools.count()
        self.base_url = ""
        """OpenAI-compatible, up to and including `/v1`; empty before it is open."""

    async def __aenter__(self) -> Self:
        """Listen on a free port of localhost."""
        allow_files()
        app = web.Application(client_max_size=MOST_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # A request whose sender is gone is cancelled: only so is it known that it was given up.
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_S,
            shutdown_timeout=0.0,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, LOCALHOST, 0, backlog=BACKLOG)
        await site.start()
        port = self._runner.addresses[0][1]
        self.base_url = f"http://{LOCALHOST}:{port}/v1"
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close all connections."""
        if self._runner is not None:
            await self._runner.cleanup()

    @contextmanager
    def admit(self, guest: Guest) -> Iterator[str]:
        """A key that this unit's program asks with, as long as the block lasts."""
        key = f"evalkit-{secrets.token_hex(24)}"
        self._guests[key] = guest
        try:
            yield key
        finally:
            del self._guests[key]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except RefusedError as refused:
            return _refusal(refused)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.rstrip("/")
        if path == "/health":
            return web.Response()
        guest = self._guest(request)
        if path in ROUTES:
            if request.method != "POST":
                raise RefusedError(405, f"{path} takes POST", "method_not_allowed")
            asking = await self._read(request, guest, path)
            return await self._ask(request, guest.calls, asking)
        if request.method == "GET" and path.startswith("/v1/models"):
            return _models(guest, path.removeprefix("/v1/models").strip("/"), self._clock.wall())
        refused = RefusedError(
            404, f"{request.method} {path} is not served here; there is {KNOWN}", "not_found"
        )
        if request.method not in LOOKING:
            guest.calls.refuse(str(refused))
        raise refused

    async def _read(self, request: web.Request, guest: Guest, path: str) -> Asking:
        """What is asked. Raises RefusedError, which the unit hears of, too: programs score what they make
        of an error."""
        try:
            body = read_body(await request.read())
            number = f"{self._name}-{next(self._numbers)}"
            created = int(self._clock.wall())
            return read_request(ROUTES[path], body, guest.model, number, created)
        except web.HTTPRequestEntityTooLarge:
            text = f"the body has more than {MOST_BODY:,} bytes"
            refused = RefusedError(413, text, "body_too_large")
        except RefusedError as error:
            refused = error
        guest.calls.refuse(f"{path}: {refused}")
        raise refused

    def _guest(self, request: web.Request) -> Guest:
        kind, _, key = request.headers.get("Authorization", "").partition(" ")
        guest = self._guests.get(key.strip()) if kind.lower() == "bearer" else None
        if guest is None:
            raise RefusedError(
                401,
                "no key, or one that is not (or no longer) of a unit that runs here: each program asks "
                "with the key that it was given, as `Authorization: Bearer KEY`",
                "invalid_api_key",
                "authentication_error",
            )
        return guest

    async def _ask(
        self, request: web.Request, calls: Relaying, asking: Asking
    ) -> web.StreamResponse:
        """Answer one request; it counts as answered when the answer is on its way."""
        if asking.streams:
            return await self._stream(request, calls, asking)
        async with _replies(calls, asking) as replies:
            refused = refusal_in(replies)
            response = _whole(whole(asking, replies), 200) if refused is None else _refusal(refused)
            await _send(request, response)
        return response

    async def _stream(
        self, request: web.Request, calls: Relaying, asking: Asking
    ) -> web.StreamResponse:
        """As a stream. One that begins before its answer is there can tell of an error in it only."""
        stream = web.StreamResponse(headers=STREAM)
        commenting = asyncio.create_task(self._comment(request, stream))
        try:
            async with _replies(calls, asking) as replies:
                await _end(commenting)
                refused = refusal_in(replies)
                if refused is not None:
                    return await _tell(request, stream, refused)
                lines = [_event(event) for event in events(asking, replies)]
                await _send(request, stream, b"".join((*lines, END)))
        except RefusedError as error:
            await _end(commenting)
            return await _tell(request, stream, error)
        finally:
            await _end(commenting)
        return stream

    async def _comment(self, request: web.Request, stream: web.StreamResponse) -> None:
        """Keep a client's patience while its answer is made."""
        with contextlib.suppress(ConnectionResetError):  # the handler hears of it, too
            while True:
                await asyncio.sleep(self._comment_s)
                if not stream.prepared:
                    await stream.prepare(request)
                await stream.write(COMMENT)


@asynccontextmanager
async def _replies(calls: Relaying, asking: Asking) -> AsyncIterator[Sequence[Reply]]:
    """The answers to all that a request asks, for a block that hands them on. Raises RefusedError."""
    async with AsyncExitStack() as stack:

        async def ask(body: Mapping[str, Any]) -> Reply:
            return await stack.enter_async_context(calls.asking(asking.route, body))

        try:
            if len(asking.bodies) == 1:
                replies = [await ask(asking.bodies[0])]
            else:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(ask(body)) for body in asking.bodies]
                replies = [task.result() for task in tasks]
        except* EvalkitError as errors:
            first = errors.exceptions[0]
            assert isinstance(first, EvalkitError)
            raise refusal_of(first) from None
        yield replies


async def _send(request: web.Request, response: web.StreamResponse, content: bytes = b"") -> None:
    if not response.prepared:
        await response.prepare(request)
    await response.write_eof(content)


async def _tell(
    request: web.Request, stream: web.StreamResponse, refused: RefusedError
) -> web.StreamResponse:
    """An error where a stream was asked for: with its status, unless the stream has begun."""
    if not stream.prepared:
        response = _refusal(refused)
        await _send(request, response)
        return response
    await _send(request, stream, _event(refused.body) + END)
    return stream


async def _end(task: asyncio.Task[None]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task})


def _event(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _whole(value: Any, status: int, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(value), status=status, headers=headers, content_type="application/json"
    )


def _refusal(refused: RefusedError) -> web.Response:
    return _whole(refused.body, refused.status, NO_RETRY)


def _models(guest: Guest, name: str, now: float) -> web.Response:
    model = {"id": guest.model, "object": "model", "created": int(now), "owned_by": "evalkit"}
    if guest.max_model_len is not None:
        model["max_model_len"] = guest.max_model_len
    if not name:
        return _whole({"object": "list", "data": [model]}, 200)
    check_model(name, guest.model)
    return _whole(model, 200)


def allow_files() -> None:
    """As many open files as this process may have, up to `MOST_FILES`: each request in flight takes two
    connections, and 1,024 is the usual limit where nobody asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
