"""The order to stop: given by any thread or signal handler, heard by the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from evalkit.errors import EvalkitError

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class DrainedError(EvalkitError):
    """Waiting was given up because a drain was requested."""


class Drain:
    """One request to stop. Make it anywhere; `attach` it inside the loop that shall hear it."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def requested(self) -> bool:
        """Whether somebody asked to stop."""
        return self.reason is not None

    def attach(self) -> None:
        """Hear requests in the running loop from now on, and an earlier one at once."""
        self._loop = asyncio.get_running_loop()
        if self.requested:
            self._event.set()

    def request(self, reason: str) -> None:
        """Ask to stop; the first reason is kept. Safe in signal handlers and other threads."""
        self.reason = self.reason or reason
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        """Return when a stop was requested."""
        await self._event.wait()

    async def unless(self, work: Coroutine[object, object, T]) -> T:
        """The result of `work`, or DrainedError as soon as a stop is requested."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise DrainedError(f"interrupted: {self.reason}")
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
