"""Durable calls and steps: the model handle a benchmark's solve holds.

A call is identified by its number inside the unit and the hash of its request, a step by a number of
its own and the hash of what it does. One that is in the journal already is answered from there; a new
one is done, and is in the journal before its caller sees what came of it. So a solve that runs again
after an interruption passes through what is finished at once and goes on where it stopped.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from evalkit.client.relayed import Relays
from evalkit.client.salvage import UNIT_ENDED
from evalkit.client.steps import DurableSession, Facilities, Step, encode_json
from evalkit.errors import EvalkitError, ScorerError
from evalkit.store.records import CallRecord, StepRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from evalkit.client.calls import Answer
    from evalkit.client.drive import Drive
    from evalkit.client.kept_tokens import Tokens
    from evalkit.client.relayed import Asked
    from evalkit.client.replies import ThinkTags
    from evalkit.client.request import Request, RequestBuilder
    from evalkit.client.target import Route
    from evalkit.plan.model import UnitKey
    from evalkit.scoring.sandbox import Program, ProgramResult
    from evalkit.store.records import Reply

_running: ContextVar[str | None] = ContextVar("_running", default=None)
"""Name of the step whose `run` is being awaited."""


class UnitJournal(Protocol):
    """What is journaled of one unit."""

    @property
    def finished_calls(self) -> Mapping[tuple[int, str], CallRecord]:
        """Finished calls by number and request hash."""
        ...

    @property
    def finished_steps(self) -> Mapping[tuple[int, str], StepRecord]:
        """Finished steps by number and digest."""
        ...

    def tokens(self, call: int, request: str) -> Tokens:
        """The tokens of a call that is not finished."""
        ...

    def keep(self, record: CallRecord) -> None:
        """Journal a finished call."""
        ...

    def keep_step(self, record: StepRecord) -> None:
        """Journal a finished step."""
        ...


class Calling(Protocol):
    """What makes calls, as `CallClient` does."""

    @property
    def max_model_len(self) -> int | None:
        """Context length of the model (tokens), where it is known."""
        ...

    @property
    def keeps_tokens(self) -> bool:
        """Whether calls are given a place for their tokens."""
        ...

    def call(
        self, request: Request, think_tags: ThinkTags | None, tokens: Tokens | None = None
    ) -> Coroutine[Any, Any, Answer]:
        """Make one call. Raises InfraError, ScorerError, ServingError."""
        ...


class _Numbers:
    """The numbers of a unit's calls, or of its steps: which were taken, and which have an answer."""

    def __init__(self) -> None:
        self.taken = 0
        self._answered: set[int] = set()

    def take(self) -> int:
        self.taken += 1
        return self.taken - 1

    def answer(self, number: int) -> None:
        self._answered.add(number)

    @property
    def unanswered(self) -> tuple[int, ...]:
        return tuple(number for number in range(self.taken) if number not in self._answered)


class DurableModel:
    """The model as one unit sees it. Not shared between units."""

    def __init__(
        self,
        client: Calling,
        builder: RequestBuilder,
        think_tags: ThinkTags | None,
        key: UnitKey,
        unit: UnitJournal,
        facilities: Facilities | None = None,
    ) -> None:
        """`unit` has the calls and steps of earlier attempts, and takes new ones; without `facilities`
        there are no steps."""
        self._client = client
        self._builder = builder
        self._think_tags = think_tags
        self._key = key
        self._unit = unit
        self._facilities = facilities
        self._calls = _Numbers()
        self._steps = _Numbers()
        known = [number for number, _ in unit.finished_calls]
        self.relays = Relays(self._relay, known, self._fail)
        self._has_session = False
        self._ended = False
        self.failure: EvalkitError | None = None
        """Why the first of its calls or steps got no answer, whatever its solve made of that."""
        self._failing: asyncio.Future[EvalkitError] | None = None
        self._callers: set[asyncio.Task[Any]] = set()

    @property
    def repeat(self) -> int:
        """Index of this independent generation."""
        return self._key.repeat

    @property
    def max_tokens(self) -> int | None:
        """The task's limit of one call's answer."""
        return self._builder.max_tokens

    @property
    def max_model_len(self) -> int | None:
        """Context length of the model (tokens), where it is known."""
        return self._client.max_model_len

    @property
    def calls(self) -> int:
        """Calls made so far, answered from the journal or not; without those that were relayed."""
        return self._calls.taken

    @property
    def unanswered(self) -> tuple[int, ...]:
        """Numbers of the calls that have no answer so far."""
        return self._calls.unanswered

    @property
    def steps(self) -> int:
        """Steps begun so far, answered from the journal or not."""
        return self._steps.taken

    @property
    def undone(self) -> tuple[int, ...]:
        """Numbers of the steps that have no result so far."""
        return self._steps.unanswered

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Awaitable[Reply]:
        """One durable call; its number is taken now, not when it is awaited."""
        self._refuse_in_step("a call")
        number = self._calls.take()
        request = self._builder.chat(messages, self._key.repeat, tools, overrides)
        return self._answer(number, request)

    async def relay(self, route: Route, body: Mapping[str, Any]) -> Reply:
        """One durable call whose body something else made; how many equal ones came before is settled
        when it is first awaited."""
        self._refuse_in_step("a call")
        async with self.relays.asking(route, body) as reply:
            return reply

    def loglikelihood(
        self, context: Sequence[int], continuation: Sequence[int]
    ) -> Awaitable[Reply]:
        """One durable call about a given text; its number is taken now, not when it is awaited."""
        self._refuse_in_step("a call")
        number = self._calls.take()
        try:
            request = self._builder.loglikelihood(context, continuation)
        except ScorerError as error:
            raise self._fail(error) from None
        return self._answer(number, request)

    def drive(self) -> AbstractAsyncContextManager[Drive]:
        """A gateway and a place for a program that asks the model."""
        driver = None if self._facilities is None else self._facilities.driver
        if driver is None:
            raise self._fail(ScorerError("a program: the benchmark does not say `drives`"))
        return driver.drive(self._key, self)

    def step(self, name: str, arguments: Any, run: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
        """One durable step; its number is taken now, not when it is awaited."""
        self._refuse_in_step(f"step {name!r}")
        facilities = self._facilities
        if facilities is None:
            raise self._fail(ScorerError(f"step {name!r}: a benchmark with steps has many calls"))
        try:
            step = Step.of(self._steps.take(), name, arguments)
        except ScorerError as error:
            raise self._fail(error) from error.__cause__
        return self._do(step, run, facilities)

    async def run(self, program: Program) -> ProgramResult:
        """Run a program in the sandbox, within the `run` of a step."""
        programs = None if self._facilities is None else self._facilities.programs
        if programs is None:
            raise self._fail(ScorerError("a program: the benchmark does not say `uses_programs`"))
        if _running.get() is None:
            raise self._fail(ScorerError("a program outside of a step: nothing would journal it"))
        return await programs.run(program)

    def session(self) -> DurableSession:
        """A Python session; only one at a time, so that no two units wait for each other's place."""
        sessions = None if self._facilities is None else self._facilities.sessions
        if sessions is None:
            raise self._fail(ScorerError("a session: the benchmark does not say `uses_sessions`"))
        if self._has_session:
            raise self._fail(ScorerError("a second session of a unit, beside one that is open"))
        self._has_session = True
        return DurableSession(self, sessions.session(), self._end_session)

    def _end_session(self) -> None:
        self._has_session = False

    async def end(self, why: str | None = UNIT_ENDED) -> None:
        """End calls and steps that nobody waits for any more: those beside one that failed in a
        `gather`, and relayed ones. `why` is null where the server may be to blame.

        They would go on in tasks of their own, and write into a journal that is closed by then.
        """
        self._ended = True
        left = self._callers - {asyncio.current_task()}
        for caller in left:
            caller.cancel(why)
        if left:
            await asyncio.wait(left)
        await self.relays.end(why)

    async def _relay(self, asked: Asked) -> Reply:
        try:
            request = self._builder.relay(asked.route, asked.body, self._key.repeat, asked.nth)
        except ScorerError as error:
            raise self._fail(error) from None
        return await self._answer(asked.number, request)

    async def _answer(self, number: int, request: Request) -> Reply:
        known = self._unit.finished_calls.get((number, request.digest))
        if known is not None:
            self._calls.answer(number)
            return known.reply
        with self._waiting():
            keeps = self._client.keeps_tokens
            tokens = self._unit.tokens(number, request.digest) if keeps else None
            answer = await self._client.call(request, self._think_tags, tokens)
        self._unit.keep(
            CallRecord(
                sample=self._key.sample,
                repeat=self._key.repeat,
                call=number,
                request=request.digest,
                reply=answer.reply,
                timing=answer.timing,
                server=answer.server,
                lender=answer.lender,
                continued=answer.continued,
            )
        )
        self._calls.answer(number)
        return answer.reply

    async def _do(
        self, step: Step, run: Callable[[], Awaitable[Any]], facilities: Facilities
    ) -> Any:
        known = self._unit.finished_steps.get((step.number, step.digest))
        if known is not None:
            self._steps.answer(step.number)
            return orjson.loads(orjson.dumps(known.result))
        started, begin = facilities.clock.wall(), facilities.clock.monotonic()
        with self._waiting():
            mark = _running.set(step.name)
            try:
                result = encode_json(await run(), f"the result of step {step.name!r}")
            finally:
                _running.reset(mark)
        seconds = facilities.clock.monotonic() - begin
        self._unit.keep_step(step.record(self._key, result, started, seconds))
        self._steps.answer(step.number)
        # What the journal will say, not what `run` said: a tuple comes back as a list.
        return orjson.loads(result)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """While the current task waits for something outside: `end` can end that, and a failure of it
        is noted."""
        caller = asyncio.current_task()
        assert caller is not None
        if self._ended:  # a task that its solve made and never waited for
            raise asyncio.CancelledError(UNIT_ENDED)
        self._callers.add(caller)
        try:
            yield
        except EvalkitError as error:
            self._fail(error)
            raise
        finally:
            self._callers.discard(caller)

    async def failed(self) -> EvalkitError:
        """Return when one of its calls or steps has failed, with the reason."""
        if self.failure is not None:
            return self.failure
        if self._failing is None:
            self._failing = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._failing)

    def _fail(self, error: EvalkitError) -> EvalkitError:
        self.failure = self.failure or error
        if self._failing is not None and not self._failing.done():
            self._failing.set_result(error)
        return error

    def _refuse_in_step(self, what: str) -> None:
        """When the journal answers a step, nothing within it happens: numbers taken there would be
        other ones after an interruption."""
        if (name := _running.get()) is not None:
            raise self._fail(
                ScorerError(f"{what} within step {name!r}: only its solve may do that")
            )
