"""Calls of one worker over several servers: its own, and those that others lend it.

A call goes where the fewest are in flight. What a borrowed server does not answer is asked of the own one at
once, and that server is not asked again: nothing depends on a loan.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from evalkit.client.calls import CallClient
from evalkit.errors import EvalkitError

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


@dataclass(slots=True, eq=False)
class _Borrowed:
    """A server of somebody else's."""

    name: str
    client: CallClient
    waiting: int = 0
    """Calls that were given to it and have no answer yet."""


class SpreadClient:
    """As a `CallClient`, over several servers. An async context manager."""

    def __init__(self, own: CallClient, settings: Client, clock: Clock) -> None:
        """`own` stays its owner's to close."""
        self._own = own
        self._waiting = 0
        # A lender that fails is not waited for: the own server is there.
        self._settings = settings.model_copy(
            update={"max_retries": 0, "retry_budget_s": 0.0, "salvage": False}
        )
        self._clock = clock
        self._stack = AsyncExitStack()
        self._borrowed: dict[str, _Borrowed] = {}
        self._given_up: set[str] = set()

    async def __aenter__(self) -> Self:
        """Nothing is borrowed yet."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the connections to what was borrowed."""
        await self._stack.aclose()

    @property
    def server(self) -> int:
        """Number of the own server within the attempt."""
        return self._own.server

    @property
    def max_model_len(self) -> int | None:
        """Context length of the model (tokens), where it is known."""
        return self._own.max_model_len

    @property
    def keeps_tokens(self) -> bool:
        """Whether calls are given a place for their tokens."""
        return self._own.keeps_tokens

    async def borrow(self, lent: Mapping[str, Target]) -> None:
        """What is lent now, by a name that no two servers share; what is not any more is asked no more."""
        for name in self._borrowed.keys() - lent.keys():
            del self._borrowed[name]
        for name in lent.keys() - self._borrowed.keys() - self._given_up:
            client = CallClient(lent[name], self._settings, self._clock)
            await self._stack.enter_async_context(client)
            self._borrowed[name] = _Borrowed(name, client)
            log.info("borrowed the server at %s", lent[name].base_url)

    async def call(
        self, request: Request, think_tags: ThinkTags | None, tokens: Tokens | None = None
    ) -> Answer:
        """As `CallClient.call`. Tokens of an answer by a borrowed server are not kept."""
        place = min(self._borrowed.values(), key=lambda each: each.waiting, default=None)
        begun = tokens is not None and tokens.load() is not None
        if place is None or begun or self._waiting <= place.waiting:
            return await self._of_own(request, think_tags, tokens)
        place.waiting += 1
        try:
            answer = await place.client.call(request, think_tags)
        except EvalkitError as error:
            self._give_up(place, error)
        else:
            self._own.completion_tokens += answer.reply.usage.completion_tokens or 0
            self._own.completed += 1
            return answer
        finally:
            place.waiting -= 1
        return await self._of_own(request, think_tags, tokens)

    async def _of_own(
        self, request: Request, think_tags: ThinkTags | None, tokens: Tokens | None
    ) -> Answer:
        self._waiting += 1
        try:
            return await self._own.call(request, think_tags, tokens)
        finally:
            self._waiting -= 1

    def _give_up(self, place: _Borrowed, error: EvalkitError) -> None:
        if place.name not in self._given_up:
            log.info("a borrowed server is given up: %s", error.message)
        self._given_up.add(place.name)
        self._borrowed.pop(place.name, None)
