"""Calls of one worker over several servers: its own, and those that others lend it.

All calls wait in one line, and the first goes where the fewest are in flight: a program that asks all it has at
once is helped by a server that is lent later, too. What a borrowed server does not answer is asked of the own one at
once, and after three such failures in a row that server is not asked again: nothing depends on a loan. What a
borrowed server refuses is asked of the own one, too, but then the request is to blame, not the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from evalkit.client.calls import CallClient
from evalkit.errors import EvalkitError, FailureKind, InfraError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.client.calls import Answer
    from evalkit.client.kept_tokens import Tokens
    from evalkit.client.replies import ThinkTags
    from evalkit.client.request import Request
    from evalkit.client.target import Target
    from evalkit.clock import Clock
    from evalkit.recipe.schema import Client

log = logging.getLogger("evalkit.worker")

MOST_FAILURES = 3
"""Of a borrowed server, in a row: one may be a moment's."""


@dataclass(slots=True, eq=False)
class _Borrowed:
    """A server of somebody else's."""

    name: str
    client: CallClient
    asked: set[asyncio.Timeout] = field(default_factory=set)
    """What ends the calls that were given to it and have no answer yet."""
    failures: int = 0
    """In a row."""


class SpreadClient:
    """As a `CallClient`, over several servers. An async context manager."""

    def __init__(self, own: CallClient, settings: Client, clock: Clock) -> None:
        """`own` stays its owner's to close."""
        self._own = own
        self._asked = 0
        """Calls that were given to the own server and have no answer yet."""
        self._line: deque[asyncio.Future[None]] = deque()
        self._called = 0
        """Those whose turn has come, and that have no place yet."""
        # A lender that fails is not waited for: the own server is there.
        self._settings = settings.model_copy(
            update={"max_retries": 0, "retry_budget_s": 0.0, "salvage": False}
        )
        self._clock = clock
        self._stack = AsyncExitStack()
        self._known: dict[str, _Borrowed] = {}
        self._lent: set[str] = set()
        self._given_up: set[str] = set()
        self.answered_by_others = 0
        """Calls that borrowed servers answered."""

    async def __aenter__(self) -> Self:
        """Nothing is borrowed yet."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the connections to what was borrowed."""
        await self._stack.aclose()

    @property
    def max_model_len(self) -> int | None:
        """Context length of the model (tokens), where it is known."""
        return self._own.max_model_len

    @property
    def keeps_tokens(self) -> bool:
        """Whether calls are given a place for their tokens."""
        return self._own.keeps_tokens

    async def borrow(self, lent: Mapping[str, Target]) -> None:
        """What is lent now, by a name that no two servers share; what is not any more is asked no more, and
        may still answer what it was asked."""
        for name in lent.keys() - self._known.keys():
            client = CallClient(lent[name], self._settings, self._clock)
            await self._stack.enter_async_context(client)
            self._known[name] = _Borrowed(name, client)
            log.info("borrowed the server at %s", lent[name].base_url)
        self._lent = set(lent)
        self._call_up()

    def in_flight(self, name: str) -> int:
        """Calls that a borrowed server has not answered yet."""
        return len(self._known[name].asked)

    def progress(self, name: str) -> int:
        """Grows with every answer of a borrowed server."""
        return self._known[name].client.progress

    def give_up(self, name: str, why: str) -> None:
        """Never ask a borrowed server again; what it was asked is asked of the own one."""
        if name in self._given_up or name not in self._known:
            return
        log.info("a borrowed server is given up: %s", why)
        self._given_up.add(name)
        now = asyncio.get_running_loop().time()
        for patience in self._known[name].asked:
            patience.reschedule(now)

    async def call(
        self, request: Request, think_tags: ThinkTags | None, tokens: Tokens | None = None
    ) -> Answer:
        """As `CallClient.call`. Tokens of an answer by a borrowed server are not kept."""
        goes_on = tokens is not None and tokens.load() is not None
        place = None if goes_on else await self._place()
        try:
            answer = await self._of_borrowed(place, request, think_tags) if place else None
            return answer or await self._of_own(request, think_tags, tokens)
        finally:
            self._call_up()

    async def _place(self) -> _Borrowed | None:
        """Wait in line for a server that has room: a borrowed one, or null for the own."""
        is_next = not self._line
        while not (is_next and self._room() > 0):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            (self._line.appendleft if is_next else self._line.append)(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():  # its turn had come
                    self._called -= 1
                    self._call_up()
                raise
            self._called -= 1
            is_next = True
        place = min(self._borrowed(), key=lambda each: len(each.asked), default=None)
        # the own server has calls of other tasks, too, which do not stand in this line
        own = max(self._asked, self._own.in_flight)
        return None if place is None or own <= len(place.asked) else place

    def _borrowed(self) -> list[_Borrowed]:
        return [self._known[name] for name in self._lent - self._given_up]

    def _room(self) -> int:
        """How many calls more may be sent."""
        taken = (self._asked, *(len(each.asked) for each in self._borrowed()))
        free = sum(max(0, self._settings.parallelism - each) for each in taken)
        return free - self._called

    def _call_up(self) -> None:
        """As many of those in line as there is room for."""
        room = self._room()
        while self._line and room > 0:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                self._called += 1
                room -= 1

    async def _of_borrowed(
        self, place: _Borrowed, request: Request, think_tags: ThinkTags | None
    ) -> Answer | None:
        """Null where it gave none."""
        try:
            async with asyncio.timeout(None) as patience:
                place.asked.add(patience)
                try:
                    answer = await place.client.call(request, think_tags)
                finally:
                    place.asked.discard(patience)
        except TimeoutError:  # it was given up meanwhile
            return None
        except EvalkitError as error:
            self._failed(place, error)
            return None
        place.failures = 0
        self._own.completion_tokens += answer.reply.usage.completion_tokens or 0
        self._own.completed += 1
        self.answered_by_others += 1
        return answer

    def _failed(self, place: _Borrowed, error: EvalkitError) -> None:
        """Give a server up that takes no key or model of ours, or failed too often; not for a refusal."""
        if not isinstance(error, InfraError):
            self.give_up(place.name, error.message)
        elif error.kind is not FailureKind.CLIENT_ERROR:
            place.failures += 1
            if place.failures >= MOST_FAILURES:
                self.give_up(place.name, error.message)

    async def _of_own(
        self, request: Request, think_tags: ThinkTags | None, tokens: Tokens | None
    ) -> Answer:
        self._asked += 1
        try:
            return await self._own.call(request, think_tags, tokens)
        finally:
            self._asked -= 1
