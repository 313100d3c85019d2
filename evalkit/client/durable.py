"""Durable calls: the model handle a benchmark's solve holds.

A call is identified by its number inside the unit and the hash of its request. One that is in the
journal already is answered from there and never sent; a new one is sent, and is in the journal before
its caller sees the reply. So a solve that runs again after an interruption passes through its
finished calls at once and goes on where it stopped.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from evalkit.client.salvage import UNIT_ENDED
from evalkit.errors import EvalkitError
from evalkit.store.records import CallRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from evalkit.client.calls import CallClient
    from evalkit.client.kept_tokens import Tokens
    from evalkit.client.request import Request, RequestBuilder
    from evalkit.plan.model import UnitKey
    from evalkit.store.records import Reply


class UnitJournal(Protocol):
    """What is journaled of one unit."""

    @property
    def finished_calls(self) -> Mapping[tuple[int, str], CallRecord]:
        """Finished calls by number and request hash."""
        ...

    def tokens(self, call: int, request: str) -> Tokens:
        """The tokens of a call that is not finished."""
        ...

    def keep(self, record: CallRecord) -> None:
        """Journal a finished call."""
        ...


class DurableModel:
    """The model as one unit sees it. Not shared between units."""

    def __init__(
        self,
        client: CallClient,
        builder: RequestBuilder,
        think_tags: tuple[str, str] | None,
        key: UnitKey,
        unit: UnitJournal,
    ) -> None:
        """`unit` has the calls of earlier attempts, and takes new ones."""
        self._client = client
        self._builder = builder
        self._think_tags = think_tags
        self._key = key
        self._unit = unit
        self._calls = 0
        self._answered: set[int] = set()
        self._ended = False
        self.failure: EvalkitError | None = None
        """Why the first of its calls got no answer, whatever its solve made of that."""
        self._callers: set[asyncio.Task[Any]] = set()

    @property
    def repeat(self) -> int:
        """Index of this independent generation."""
        return self._key.repeat

    @property
    def calls(self) -> int:
        """Calls made so far, answered from the journal or not."""
        return self._calls

    @property
    def unanswered(self) -> tuple[int, ...]:
        """Numbers of the calls that have no answer so far."""
        return tuple(number for number in range(self._calls) if number not in self._answered)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Awaitable[Reply]:
        """One durable call; its number is taken now, not when it is awaited."""
        number = self._calls
        self._calls += 1
        request = self._builder.chat(messages, self._key.repeat, tools, overrides)
        return self._answer(number, request)

    async def end(self) -> None:
        """End calls that nobody waits for any more: those beside one that failed in a `gather`.

        They would go on in tasks of their own, and write into a journal that is closed by then.
        """
        self._ended = True
        left = self._callers - {asyncio.current_task()}
        for caller in left:
            caller.cancel(UNIT_ENDED)
        if left:
            await asyncio.wait(left)

    async def _answer(self, number: int, request: Request) -> Reply:
        known = self._unit.finished_calls.get((number, request.digest))
        if known is not None:
            self._answered.add(number)
            return known.reply
        caller = asyncio.current_task()
        assert caller is not None
        if self._ended:  # a task that its solve made and never waited for
            raise asyncio.CancelledError(UNIT_ENDED)
        self._callers.add(caller)
        try:
            keeps = self._client.keeps_tokens
            tokens = self._unit.tokens(number, request.digest) if keeps else None
            answer = await self._client.call(request, self._think_tags, tokens)
        except EvalkitError as error:
            self.failure = self.failure or error
            raise
        finally:
            self._callers.discard(caller)
        self._unit.keep(
            CallRecord(
                sample=self._key.sample,
                repeat=self._key.repeat,
                call=number,
                request=request.digest,
                reply=answer.reply,
                timing=answer.timing,
                server=self._client.server,
                continued=answer.continued,
            )
        )
        self._answered.add(number)
        return answer.reply
