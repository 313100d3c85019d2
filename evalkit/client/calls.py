"""Calls to one endpoint: a keep-alive pool, a ceiling on what is in flight, retries, and the stop.

One event loop, one aiohttp session, no task or thread per request beyond the caller's own. It does
not watch the server: who finds it dead cancels the callers, and their calls end at once instead of
being tried again until their budget is spent.
"""

from __future__ import annotations

import asyncio
import errno
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import aiohttp

from evalkit.client.replies import (
    MalformedReplyError,
    WrongModelError,
    error_message,
    filtered_reply,
    overflow_reply,
    parse_reply,
)
from evalkit.client.retry import REFUSED_STATUS, RetryPolicy, is_retried, parse_retry_after
from evalkit.errors import EndpointError, InfraError
from evalkit.store.records import Reply, Timing

if TYPE_CHECKING:
    from evalkit.client.request import Request
    from evalkit.client.target import Target
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


class _PassingFaultError(Exception):
    """A try that may succeed when repeated."""

    def __init__(
        self, message: str, retry_after_s: float | None = None, *, dropped: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.dropped = dropped
        """The server closed the connection without a word."""


@dataclass(slots=True)
class _Failing:
    """The trouble of one call so far."""

    since: float
    """When its first try failed: the hours that a good answer takes are not the budget's."""
    retries: int = 0
    was_dropped: bool = False
    """Its connection was closed once. Mostly that is an idle connection that the server gave up as
    the request was on its way, so the first time it is sent again at once."""


class CallClient:
    """Sends calls to one endpoint. An async context manager; use it from one event loop."""

    def __init__(self, target: Target, settings: Client, clock: Clock) -> None:
        self._target = target
        self._url = target.url
        self._policy = RetryPolicy(settings.max_retries, settings.retry_budget_s)
        self._timeout = aiohttp.ClientTimeout(total=settings.timeout_s, sock_connect=30)
        self._parallelism = settings.parallelism
        self._slots = asyncio.Semaphore(settings.parallelism)
        self._clock = clock
        self._failures_in_a_row = 0
        self._jitter = random.Random().random
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
        sent_again = 0
        failing: _Failing | None = None
        while True:
            try:
                reply = await self._once(request, think_tags)
            except _PassingFaultError as fault:
                if failing is None:
                    failing = _Failing(self._clock.monotonic())
                delay = self._delay(failing, fault)
                if delay is None:
                    raise InfraError(f"{fault} (after {sent_again} retries)") from fault
                sent_again += 1
                await asyncio.sleep(delay)
                continue
            latency = self._clock.monotonic() - begin
            return Answer(reply, Timing(round(started, 3), round(latency, 6), sent_again))

    def _delay(self, failing: _Failing, fault: _PassingFaultError) -> float | None:
        """Seconds until the next try; null when there is none."""
        if fault.dropped and not failing.was_dropped:
            failing.was_dropped = True
            return 0.0
        elapsed = self._clock.monotonic() - failing.since
        delay = self._policy.delay(failing.retries, elapsed, self._jitter(), fault.retry_after_s)
        failing.retries += 1
        return delay

    async def _once(self, request: Request, think_tags: tuple[str, str] | None) -> Reply:
        self.in_flight += 1
        try:
            async with self._session.post(
                self._url, data=request.payload, proxy=self._target.proxy, allow_redirects=False
            ) as response:
                body = await response.read()
                status, retry_after = response.status, response.headers.get("Retry-After")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            message = f"no answer from {self._url}: {error!r}"
            raise _PassingFaultError(message, dropped=_is_drop(error)) from error
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
                f"{self._url} answers with another model's name: {error}",
                hint="Another server took the port, or served_model_name is wrong.",
            ) from error

    def _refusal(self, status: int, body: bytes, retry_after: str | None) -> Reply:
        if is_retried(status):
            message = f"status {status}: {error_message(body)[0]}"
            raise _PassingFaultError(message, parse_retry_after(retry_after))
        models_own = overflow_reply(status, body) or filtered_reply(status, body)
        if models_own is not None:
            return models_own
        message = f"{self._url} refused with status {status}: {error_message(body)[0]}"
        if status in REFUSED_STATUS:
            raise EndpointError(message, hint="Check the key, the model id and the base URL.")
        raise InfraError(message)


def _is_drop(error: Exception) -> bool:
    """Whether the server closed a connection that was open."""
    reset = isinstance(error, OSError) and error.errno == errno.ECONNRESET
    return reset or isinstance(error, (aiohttp.ServerDisconnectedError, ConnectionResetError))
