"""The calls of one unit whose requests something else makes, in whatever order: which are equal.

A relayed call is known by what it asks and by how many equal ones came before it. Its number in the
journal is made of both, so that no order of requests and no second attempt gives it another one, or the
same to two of them. A request that its sender gave up goes on: the equal one that comes next is the same
question once more, and gets its answer.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.client.request import encode_fields, relayed_fields
from evalkit.errors import EvalkitError, FailureKind, InfraError
from evalkit.store.records import RELAYED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping

    from evalkit.client.target import Route
    from evalkit.store.records import Reply


@dataclass(frozen=True, slots=True)
class Asked:
    """One relayed call."""

    route: Route
    body: Mapping[str, Any]
    identity: bytes
    """Hash of what is asked."""
    nth: int
    """How many equal ones came before."""
    number: int
    """Its number in the unit."""


@dataclass(slots=True)
class Traffic:
    """What came of the requests so far."""

    requests: int = 0
    repeated: int = 0
    """Those that took the place of one that was given up."""
    failed: int = 0
    replayed: int = 0
    """Calls that the journal answered."""
    unasked: int = 0
    """Calls in the journal that were not asked for again."""

    def __str__(self) -> str:
        """For a log."""
        return (
            f"{self.requests} requests: {self.replayed} answered from the journal, {self.failed} failed, "
            f"{self.repeated} repeated; {self.unasked} answers in the journal not asked for again"
        )

    def to_json(self) -> dict[str, int]:
        """As the unit's data has it."""
        return {
            "requests": self.requests,
            "repeated": self.repeated,
            "failed": self.failed,
            "replayed": self.replayed,
            "unasked": self.unasked,
        }


@dataclass(slots=True, eq=False)
class _Going:
    """A call that was begun, in a task of its own."""

    asked: Asked
    task: asyncio.Task[Reply]


@dataclass(slots=True)
class _Equals:
    """The calls that ask one thing."""

    begun: int = 0
    failed: list[int] = field(default_factory=list)
    """Which of them got no answer: a request in the place of one is not another one."""
    given_up: list[_Going] = field(default_factory=list)


class Relays:
    """The relayed calls of one unit. Used from one event loop."""

    def __init__(
        self,
        call: Callable[[Asked], Coroutine[Any, Any, Reply]],
        known: Collection[int],
        fail: Callable[[EvalkitError], object],
    ) -> None:
        """`call` makes one durable call; `known` are the numbers that the journal answers; `fail` is told
        why the unit cannot count."""
        self._call = call
        self._fail = fail
        self._known = frozenset(number for number in known if number >= RELAYED)
        self._equals: dict[bytes, _Equals] = {}
        self._going: set[_Going] = set()
        self._counts: Counter[str] = Counter()
        self._begun: set[int] = set()
        self.moves = 0
        """Raised with each request and each end of a call: who looks twice sees whether something happened."""
        self.answered: set[int] = set()
        """Numbers of the calls whose senders got their answers: those that the unit is made of."""

    @property
    def traffic(self) -> Traffic:
        """What came of the requests so far."""
        replayed = len(self._begun & self._known)
        return Traffic(**self._counts, replayed=replayed, unasked=len(self._known) - replayed)

    @property
    def in_flight(self) -> int:
        """Calls without an answer, whether or not their sender still waits."""
        return sum(not going.task.done() for going in self._going)

    @asynccontextmanager
    async def asking(self, route: Route, body: Mapping[str, Any]) -> AsyncIterator[Reply]:
        """The answer to a request, for a block that hands it on: where that fails, or its caller is
        cancelled, the request counts as given up by its sender. Raises as `ModelHandle.chat`."""
        going = self._begin(route, body)
        equals = self._equals[going.asked.identity]
        try:
            await asyncio.wait({going.task})
            reply = going.task.result()
            yield reply
        except EvalkitError:
            self._counts["failed"] += 1
            equals.failed.append(going.asked.nth)
            raise
        except BaseException:
            equals.given_up.append(going)
            raise
        self.answered.add(going.asked.number)
        self._going.discard(going)

    def refuse(self, why: str) -> None:
        """A question to the model that got an error before it could be a call, such as one to another
        model: what a program makes of that in place of an answer must not count."""
        self.moves += 1
        self._counts["requests"] += 1
        self._counts["failed"] += 1
        self._fail(
            InfraError(
                f"the program asked what cannot be answered: {why}", kind=FailureKind.CLIENT_ERROR
            )
        )

    def _begin(self, route: Route, body: Mapping[str, Any]) -> _Going:
        identity = hashlib.sha256(route.encode() + encode_fields(relayed_fields(body))).digest()
        equals = self._equals.setdefault(identity, _Equals())
        self.moves += 1
        self._counts["requests"] += 1
        if equals.given_up:
            self._counts["repeated"] += 1
            return equals.given_up.pop(0)
        if equals.failed:
            nth = equals.failed.pop()
        else:
            nth, equals.begun = equals.begun, equals.begun + 1
        asked = Asked(route, body, identity, nth, number_of(identity, nth))
        self._begun.add(asked.number)
        going = _Going(asked, asyncio.create_task(self._call(asked)))
        going.task.add_done_callback(self._note_end)
        self._going.add(going)
        return going

    def _note_end(self, task: asyncio.Task[Reply]) -> None:
        """An error of a call that nobody waits for any more is noted where it is made, not by asyncio."""
        self.moves += 1
        if not task.cancelled():
            task.exception()

    async def end(self, why: str | None) -> None:
        """End the calls that nobody waits for."""
        left = [going.task for going in self._going if not going.task.done()]
        for task in left:
            task.cancel(why)
        if left:
            await asyncio.wait(left)
        self._going.clear()


def number_of(identity: bytes, nth: int) -> int:
    """The number of the `nth` call that asks one thing: above those of other calls, and whole in a double.

    Two of a million calls share one with a probability of 1 in 10,000; their requests tell them apart.
    """
    digest = hashlib.sha256(identity + nth.to_bytes(8, "big")).digest()
    return RELAYED + int.from_bytes(digest[:8], "big") % RELAYED
