"""Calls to one endpoint: a keep-alive pool, a ceiling on what is in flight, retries, and the stop.

One event loop, one aiohttp session, no task or thread per request beyond the caller's own. When the
server is known to be dead, `abort` ends every waiting call at once instead of letting each retry
until its budget is spent.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from evalkit.client.replies import (
    MalformedReplyError,
    WrongModelError,
    error_message,
    overflow_reply,
    parse_reply,
)
from evalkit.client.retry import REFUSED_STATUS, RetryPolicy, is_retried, parse_retry_after
from evalkit.errors import EndpointError, InfraError
from evalkit.store.records import Reply, Timing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.client.request import Request
    from evalkit.clock import Clock
    from evalkit.recipe.schema import Client

MAX_FAILURES_IN_A_ROW = 50
"""Calls that failed for good with no success between them: the endpoint is down, or the recipe asks
for something it never grants. Stopping then loses nothing; going on would fail every unit."""

KEEP_ALIVE_S = 4.0
"""Idle connections are dropped before the server drops them: uvicorn, below vLLM and most others, does
so after 5 s, and a call sent at that moment fails."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply and how long it took."""

    reply: Reply
    timing: Timing


@dataclass(frozen=True, slots=True)
class Target:
    """Where calls go."""

    url: str
    headers: Mapping[str, str]
    model: str
    is_ours: bool = True
    """A server that this worker started: it must answer with our model id, and no proxy is used."""
    server: int = 0
    """How many servers this attempt started before this one."""


class _PassingFaultError(Exception):
    """A try that may succeed when repeated."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class CallClient:
    """Sends calls to one endpoint. An async context manager; use it from one event loop."""

    def __init__(self, target: Target, settings: Client, clock: Clock) -> None:
        self._target = target
        self._policy = RetryPolicy(settings.max_retries, settings.retry_budget_s)
        self._timeout = aiohttp.ClientTimeout(total=settings.timeout_s, sock_connect=30)
        self._parallelism = settings.parallelism
        self._slots = asyncio.Semaphore(settings.parallelism)
        self._clock = clock
        self._failures_in_a_row = 0
        self._jitter = random.Random().random
        self._proxy = None if target.is_ours else _find_proxy(target.url)
        self.in_flight = 0
        self.completed = 0
        self.completion_tokens = 0

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        connector = aiohttp.TCPConnector(
            limit=self._parallelism, keepalive_timeout=KEEP_ALIVE_S, enable_cleanup_closed=False
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            headers={"Content-Type": "application/json", **self._target.headers},
            auto_decompress=True,
            read_bufsize=2**18,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the pool; calls in flight fail."""
        await self._session.close()

    @property
    def server(self) -> int:
        """Number of the server within the attempt, from 0."""
        return self._target.server

    async def call(self, request: Request, think_tags: tuple[str, str] | None) -> Answer:
        """Send a request until it is answered.

        Raises InfraError when all tries failed or the server refused the request, EndpointError when
        no request can succeed: wrong key, wrong model, or too many failures in a row.
        """
        async with self._slots:
            try:
                answer = await self._with_retries(request, think_tags)
            except InfraError as error:
                self._note_failure(error)
                raise
        self._failures_in_a_row = 0
        self.completed += 1
        self.completion_tokens += answer.reply.usage.completion_tokens or 0
        return answer

    def _note_failure(self, error: InfraError) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            raise EndpointError(
                f"{self._failures_in_a_row} calls in a row failed; the last one: {error.message}",
                hint="Nothing is lost. Check the endpoint and the recipe, then `evalkit resume`.",
            ) from error

    async def _with_retries(self, request: Request, think_tags: tuple[str, str] | None) -> Answer:
        started, begin = self._clock.wall(), self._clock.monotonic()
        retries = 0
        while True:
            try:
                reply = await self._once(request, think_tags)
            except _PassingFaultError as fault:
                elapsed = self._clock.monotonic() - begin
                delay = self._policy.delay(retries, elapsed, self._jitter(), fault.retry_after_s)
                if delay is None:
                    raise InfraError(f"{fault} (after {retries} retries)") from fault
                retries += 1
                await asyncio.sleep(delay)
                continue
            latency = self._clock.monotonic() - begin
            return Answer(reply, Timing(round(started, 3), round(latency, 6), retries))

    async def _once(self, request: Request, think_tags: tuple[str, str] | None) -> Reply:
        self.in_flight += 1
        try:
            async with self._session.post(
                self._target.url, data=request.payload, proxy=self._proxy
            ) as response:
                body = await response.read()
                status, retry_after = response.status, response.headers.get("Retry-After")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _PassingFaultError(f"no answer from {self._target.url}: {error!r}") from error
        finally:
            self.in_flight -= 1
        if status == 200:
            return self._parse(body, think_tags)
        return self._refusal(status, body, retry_after)

    def _parse(self, body: bytes, think_tags: tuple[str, str] | None) -> Reply:
        model = self._target.model if self._target.is_ours else None
        try:
            return parse_reply(body, think_tags, model)
        except MalformedReplyError as error:
            raise _PassingFaultError(str(error)) from error
        except WrongModelError as error:
            raise EndpointError(
                f"{self._target.url} answers with another model's name: {error}",
                hint="Another server took the port, or served_model_name is wrong.",
            ) from error

    def _refusal(self, status: int, body: bytes, retry_after: str | None) -> Reply:
        if is_retried(status):
            message = f"status {status}: {error_message(body)[0]}"
            raise _PassingFaultError(message, parse_retry_after(retry_after))
        overflow = overflow_reply(status, body)
        if overflow is not None:
            return overflow
        message = f"{self._target.url} refused with status {status}: {error_message(body)[0]}"
        if status in REFUSED_STATUS:
            raise EndpointError(message, hint="Check the key, the model id and the base URL.")
        raise InfraError(message)


def _find_proxy(url: str) -> str | None:
    """The environment's proxy for a URL. Looked up once: aiohttp's `trust_env` starts two threads
    for every request, to read the environment and .netrc anew, which halves the throughput."""
    parts = urlsplit(url)
    if parts.hostname is not None and proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)
