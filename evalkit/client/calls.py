"""Calls to one endpoint: a keep-alive pool, a ceiling on what is in flight, retries, and the stop.

One event loop, one aiohttp session, no task or thread per request beyond the caller's own. It does
not watch the server: who finds it dead cancels the callers, and their calls end at once instead of
being tried again until their budget is spent.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from evalkit.client.kept_tokens import Salvaged
from evalkit.client.replies import MalformedReplyError, WrongModelError, parse_reply
from evalkit.client.retry import RetryPolicy
from evalkit.client.salvage import Salvager
from evalkit.client.transport import AnsweredError, PassingFaultError, Transport
from evalkit.errors import EndpointError, InfraError
from evalkit.store.records import Reply, Timing

if TYPE_CHECKING:
    from evalkit.client.kept_tokens import Tokens
    from evalkit.client.request import Request
    from evalkit.client.target import Target
    from evalkit.clock import Clock
    from evalkit.recipe.schema import Client
    from evalkit.store.records import Continuation

SPARE_CONNECTIONS = 8
"""For questions beside the calls: what a server shall stop, how it parses tokens."""
MAX_FAILURES_IN_A_ROW = 50
"""Calls that failed for good with no success between them: the endpoint is down, or the recipe asks
for something it never grants. Stopping then loses nothing; going on would fail every unit."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply and how long it took."""

    reply: Reply
    timing: Timing
    continued: tuple[Continuation, ...] = ()


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
        self._policy = RetryPolicy(settings.max_retries, settings.retry_budget_s)
        self._slots = asyncio.Semaphore(settings.parallelism)
        self._clock = clock
        self._failures_in_a_row = 0
        self._jitter = random.Random().random
        self._transport = Transport(
            target, limit=settings.parallelism + SPARE_CONNECTIONS, timeout_s=settings.timeout_s
        )
        self._salvager: Salvager | None = None
        if settings.salvage and target.can_continue:
            self._salvager = Salvager(self._transport, target, clock.monotonic, self._note_tokens)
        self.in_flight = 0
        self.completed = 0
        self.progress = 0
        """Grows with every sign of life: a finished call, a chunk of a stream."""
        self.completion_tokens = 0

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the pool; calls in flight fail."""
        await self._transport.__aexit__(*exc)

    @property
    def server(self) -> int:
        """Number of the server within the attempt, from 0."""
        return self._target.server

    @property
    def keeps_tokens(self) -> bool:
        """Whether calls are given a place for their tokens."""
        return self._salvager is not None

    async def call(
        self,
        request: Request,
        think_tags: tuple[str, str] | None,
        tokens: Tokens | None = None,
    ) -> Answer:
        """Send a request until it is answered.

        `tokens` keeps what is generated of it, where the server can go on from that. Raises
        InfraError when all tries failed or the server refused the request, EndpointError when no
        request can succeed: wrong key, wrong model, or too many failures in a row.
        """
        async with self._slots:
            try:
                answer = await self._with_retries(request, think_tags, tokens)
            except InfraError as error:
                self._note_failure(error)
                raise
        self._failures_in_a_row = 0
        self.completed += 1
        self.progress += 1
        return answer

    async def interrupt(self, within_s: float) -> int:
        """Keep the tokens of all calls in flight; those calls never return, so cancel them.

        Returns how many did not give theirs in time.
        """
        return 0 if self._salvager is None else await self._salvager.interrupt(within_s)

    def _note_failure(self, error: InfraError) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            raise EndpointError(
                f"{self._failures_in_a_row} calls in a row failed; the last one: {error.message}",
                hint="Nothing is lost. Check the endpoint and the recipe, then `evalkit resume`.",
                kind=error.kind,
            ) from error

    def _note_tokens(self, count: int) -> None:
        self.progress += 1
        self.completion_tokens += count

    async def _with_retries(
        self, request: Request, think_tags: tuple[str, str] | None, tokens: Tokens | None
    ) -> Answer:
        started, begin = self._clock.wall(), self._clock.monotonic()
        sent_again = had = 0
        failing: _Failing | None = None
        while True:
            try:
                found = await self._once(request, think_tags, tokens)
            except PassingFaultError as fault:
                has = _count(tokens)
                if failing is None or has > had:  # it went on for a while: trouble begins anew
                    failing, had = _Failing(self._clock.monotonic()), has
                delay = self._delay(failing, fault)
                if delay is None:
                    raise InfraError(f"{fault} (after {sent_again} retries)") from fault
                sent_again += 1
                await asyncio.sleep(delay)
                continue
            latency = self._clock.monotonic() - begin
            if isinstance(found, Salvaged):
                reply, continued, elapsed_s = found
                latency = elapsed_s if continued else latency
            else:
                reply, continued = found, ()
            return Answer(
                reply, Timing(round(started, 3), round(latency, 6), sent_again), continued
            )

    def _delay(self, failing: _Failing, fault: PassingFaultError) -> float | None:
        """Seconds until the next try; null when there is none."""
        if fault.dropped and not failing.was_dropped:
            failing.was_dropped = True
            return 0.0
        elapsed = self._clock.monotonic() - failing.since
        delay = self._policy.delay(failing.retries, elapsed, self._jitter(), fault.retry_after_s)
        failing.retries += 1
        return delay

    async def _once(
        self, request: Request, think_tags: tuple[str, str] | None, tokens: Tokens | None
    ) -> Reply | Salvaged:
        """One try."""
        self.in_flight += 1
        try:
            if self._salvager is not None and tokens is not None:
                salvaged = await self._salvager.answer(request, think_tags, tokens)
                if salvaged is not None:
                    return salvaged
            reply = self._parse(
                await self._transport.post(self._target.url, request.payload), think_tags
            )
            self.completion_tokens += reply.usage.completion_tokens or 0
            return reply
        except AnsweredError as answered:
            return answered.reply
        except MalformedReplyError as error:
            raise PassingFaultError(self._target.hide(str(error))) from None
        except WrongModelError as error:
            raise EndpointError(
                f"{self._target.url} answers with another model's name: "
                f"{self._target.hide(str(error))}",
                hint="Another server took the port, or served_model_name is wrong.",
            ) from None
        finally:
            self.in_flight -= 1

    def _parse(self, body: bytes, think_tags: tuple[str, str] | None) -> Reply:
        model = self._target.model if self._target.is_ours else None
        try:
            return parse_reply(body, think_tags, model)
        except MalformedReplyError:
            # what it says of the body is cut, maybe in the middle of a key
            return parse_reply(self._target.hide_in(body), think_tags, model)


def _count(tokens: Tokens | None) -> int:
    """Tokens that a call has so far."""
    chain = None if tokens is None else tokens.load()
    return 0 if chain is None else len(chain.tokens)
