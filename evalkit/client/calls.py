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

from evalkit.client.admission import Admission
from evalkit.client.completions import NoLogprobsError, parse_answer, without_logprobs
from evalkit.client.kept_tokens import Salvaged
from evalkit.client.limits import status_within
from evalkit.client.pace import Pace
from evalkit.client.replies import MalformedReplyError, WrongModelError
from evalkit.client.retry import RetryPolicy
from evalkit.client.salvage import Salvager
from evalkit.client.transport import AnsweredError, PassingFaultError, Refusal, Transport, refused
from evalkit.errors import EndpointError, EvalkitError, FailureKind, InfraError
from evalkit.store.records import Reply, Timing

if TYPE_CHECKING:
    from evalkit.client.kept_tokens import Tokens
    from evalkit.client.pace import Try
    from evalkit.client.replies import ThinkTags
    from evalkit.client.request import Request
    from evalkit.client.target import Target
    from evalkit.clock import Clock
    from evalkit.recipe.schema import Client
    from evalkit.store.records import Continuation, Usage

SPARE_CONNECTIONS = 8
"""For questions beside the calls: what a server shall stop, how it parses tokens."""
MAX_FAILURES_IN_A_ROW = 50
"""Calls that failed for good with no success between them: the endpoint is down, or the recipe asks
for something it never grants. Stopping then loses nothing; going on would fail every unit."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, how long it took, and whose it is."""

    reply: Reply
    timing: Timing
    continued: tuple[Continuation, ...] = ()
    server: int = 0
    """As `Target.server`, of the one that answered."""
    lender: str | None = None
    """As `Target.lender`."""


@dataclass(slots=True)
class _Failing:
    """The trouble of one call so far."""

    since: float
    """When its first try failed: the hours that a good answer takes are not the budget's."""
    retries: int = 0
    was_dropped: bool = False
    """Its connection was closed once. Mostly that is an idle connection that the server gave up as
    the request was on its way, so the first time it is sent again at once."""


@dataclass(slots=True)
class _Course:
    """One call on its way through its tries."""

    target: Target
    started: float = 0.0
    """When it was first sent, seconds since 1970: waiting for its turn before is not its time."""
    begin: float = 0.0
    """The same, on the monotonic clock."""
    retries: int = 0
    failing: _Failing | None = None
    had: int = 0
    """Tokens it had when its trouble began."""

    def answer(self, found: Reply | Salvaged, now: float) -> Answer:
        """What came of it."""
        latency = now - self.begin
        if isinstance(found, Salvaged):
            reply, continued, elapsed_s = found
            latency = elapsed_s if continued else latency
        else:
            reply, continued = found, ()
        timing = Timing(round(self.started, 3), round(latency, 6), self.retries)
        return Answer(reply, timing, continued, self.target.server, self.target.lender)


class CallClient:
    """Sends calls to one endpoint. An async context manager; use it from one event loop."""

    def __init__(self, target: Target, settings: Client, clock: Clock) -> None:
        self._target = target
        self._policy = RetryPolicy(settings.max_retries, settings.retry_budget_s)
        # Beside the pace, which counts requests: a call keeps its slot while it waits for its next try,
        # so that in an outage the calls behind it do not begin to spend their own retries.
        self._slots = asyncio.Semaphore(settings.parallelism)
        self._clock = clock
        self._failures_in_a_row = 0
        self._jitter = random.Random().random
        self._transport = Transport(
            target,
            limit=settings.parallelism + SPARE_CONNECTIONS,
            timeout_s=settings.timeout_s,
            now=clock.wall,
        )
        self._pace = Pace(settings.parallelism, is_known=target.is_ours)
        self._admission = Admission(self._pace, clock.monotonic)
        self._salvager: Salvager | None = None
        if settings.salvage and target.can_continue:
            self._salvager = Salvager(self._transport, target, clock.monotonic, self._note_tokens)
        self.in_flight = 0
        self.completed = 0
        self.progress = 0
        """Grows with every sign of life: a finished call, a chunk of a stream."""
        self.completion_tokens = 0
        self.cost = 0.0
        """What the answers cost, by the target's price; 0 without one."""

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the pool; calls in flight fail."""
        self._admission.close()
        await self._transport.__aexit__(*exc)

    @property
    def max_model_len(self) -> int | None:
        """Context length of the model (tokens), where it is known."""
        return self._target.max_model_len

    @property
    def pace(self) -> str | None:
        """How fast the endpoint lets itself be asked, in words; null while it refused nothing."""
        pace = self._pace
        if not pace.refused:
            return None
        left = pace.opens - self._clock.monotonic()
        state = (
            f"waits {left:.0f} s, as the endpoint asks" if left >= 1 else "asks as it is allowed"
        )
        rate = "" if pace.rate is None else f": about {60 * pace.rate:.3g} calls a minute"
        return f"{state}{rate} ({pace.refused:,} refused so far)"

    @property
    def keeps_tokens(self) -> bool:
        """Whether calls are given a place for their tokens."""
        return self._salvager is not None

    async def call(
        self,
        request: Request,
        think_tags: ThinkTags | None,
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
        self, request: Request, think_tags: ThinkTags | None, tokens: Tokens | None
    ) -> Answer:
        course = _Course(self._target)
        while True:
            tried = await self._admission.enter(again=course.retries > 0)
            if not course.retries:
                course.started, course.begin = self._clock.wall(), tried.started
            try:
                found = await self._admitted(tried, request, think_tags, tokens)
            except PassingFaultError as fault:
                if not fault.limited:
                    await self._wait_out(course, fault, tokens)
                course.retries += 1
            else:
                return course.answer(found, self._clock.monotonic())

    async def _admitted(
        self, tried: Try, request: Request, think_tags: ThinkTags | None, tokens: Tokens | None
    ) -> Reply | Salvaged:
        """One try, whose end is told to those who wait."""
        try:
            found = await self._once(request, think_tags, tokens)
        except PassingFaultError as fault:
            if fault.limited:
                fault.limited = self._admission.refused(tried, fault.retry_after_s)
                self._stop_where_endless(fault)
            else:
                self._admission.dropped()
            raise
        except BaseException as error:
            if isinstance(error, EvalkitError):
                self._admission.ended()
            else:
                self._admission.dropped()
            raise
        self._admission.ended()
        return found

    async def _wait_out(
        self, course: _Course, fault: PassingFaultError, tokens: Tokens | None
    ) -> None:
        """Wait for the next try. Raises InfraError when there is none."""
        has = _count(tokens)
        if (
            course.failing is None or has > course.had
        ):  # it went on for a while: trouble begins anew
            course.failing, course.had = _Failing(self._clock.monotonic()), has
        delay = self._delay(course.failing, fault)
        if delay is None:
            raise InfraError(f"{fault} (after {course.retries} retries)") from fault
        await asyncio.sleep(delay)

    def _stop_where_endless(self, fault: PassingFaultError) -> None:
        """Raise EndpointError where a limit will not pass within the budget of a retry."""
        silent_s = self._clock.monotonic() - self._pace.accepted
        if (fault.retry_after_s or 0.0) > self._policy.budget_s:
            said = f"asks to wait {fault.retry_after_s:,.0f} s"
        elif silent_s > self._policy.budget_s and not self._pace.in_flight:
            said = f"has accepted no call for {silent_s:,.0f} s"
        else:
            return
        raise EndpointError(
            f"{self._target.url} {said}, longer than client.retry_budget_s "
            f"({self._policy.budget_s:g}): {fault}",
            hint="Nothing is lost: the same command or `evalkit resume` goes on when its limit allows.",
            kind=FailureKind.ENDPOINT,
        ) from fault

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
        self, request: Request, think_tags: ThinkTags | None, tokens: Tokens | None
    ) -> Reply | Salvaged:
        """One try."""
        url = self._target.url_of(request.route)
        self.in_flight += 1
        try:
            is_chat = request.route == "chat/completions"
            if is_chat and self._salvager is not None and tokens is not None:
                salvaged = await self._salvager.answer(request, think_tags, tokens)
                if salvaged is not None:
                    return salvaged
            answer = await self._transport.post(url, request.payload)
            reply = self._parse(request, answer, think_tags)
            self.completion_tokens += reply.usage.completion_tokens or 0
            self._charge(reply.usage)
            return reply
        except AnsweredError as answered:
            return answered.reply
        except MalformedReplyError as error:
            raise PassingFaultError(self._target.hide(str(error))) from None
        except NoLogprobsError as error:
            raise without_logprobs(url, self._target.hide(str(error))) from None
        except WrongModelError as error:
            raise EndpointError(
                f"{self._target.url} answers with another model's name: "
                f"{self._target.hide(str(error))}",
                hint="Another server took the port, or served_model_name is wrong.",
            ) from None
        finally:
            self.in_flight -= 1

    def _parse(self, request: Request, body: bytes, think_tags: ThinkTags | None) -> Reply:
        model = self._target.model if self._target.is_ours else None
        try:
            return parse_answer(request, body, think_tags, model)
        except MalformedReplyError:
            # what it says of the body is cut, maybe in the middle of a key
            hidden = self._target.hide_in(body)
            if (status := status_within(body)) is not None:
                url = self._target.url_of(request.route)
                raise refused(url, Refusal(status, hidden), self._clock.wall()) from None
            return parse_answer(request, hidden, think_tags, model)

    def _charge(self, usage: Usage) -> None:
        price, prompt = self._target.price, usage.prompt_tokens or 0
        if price is not None:
            cached = min(usage.cached_tokens or 0, prompt)
            self.cost += price.cost(prompt, usage.completion_tokens or 0, cached)


def _count(tokens: Tokens | None) -> int:
    """Tokens that a call has so far."""
    chain = None if tokens is None else tokens.load()
    return 0 if chain is None else len(chain.tokens)
