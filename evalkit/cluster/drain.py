"""The order to stop: given by any thread or signal handler, heard by the event loop.

It says how long calls in flight may still take. Orders add up to the strictest: a time limit that is
minutes away leaves minutes, and a TERM in between cuts them short.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, TypeVar

from evalkit.clock import SYSTEM_CLOCK, Clock
from evalkit.errors import EvalkitError

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

TERM_GRACE_S = 8.0
"""Time for calls in flight after a TERM. With the stop of the server it must fit into Slurm's
KillWait, 30 s by default."""
END_MARGIN_S = 20.0
"""What is kept free before the end of a job, for the last flush, the requeue and a late signal."""
GRACE_POLL_S = 0.5


def grace_before_end(left_s: float, shutdown_s: float) -> float:
    """Time for calls in flight (s) when a job ends in `left_s` and its server takes `shutdown_s`."""
    return max(0.0, left_s - shutdown_s - END_MARGIN_S)


class DrainedError(EvalkitError):
    """Waiting was given up because a drain was requested."""


class Drain:
    """One request to stop. Make it anywhere; `attach` it inside the loop that shall hear it."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self.reason: str | None = None
        self._now = clock.monotonic
        self._deadline = math.inf
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

    def request(self, reason: str, grace_s: float = TERM_GRACE_S) -> None:
        """Ask to stop; calls in flight have `grace_s`, or what an earlier order has left them.

        The first reason is kept. Safe in signal handlers and other threads.
        """
        self._deadline = min(self._deadline, self._now() + grace_s)
        self.reason = self.reason or reason
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        """Return when a stop was requested."""
        await self._event.wait()

    async def end_of_grace(self) -> None:
        """Return when calls in flight have had their time after a request to stop."""
        await self.wait()
        while (left_s := self._deadline - self._now()) > 0:
            await asyncio.sleep(min(left_s, GRACE_POLL_S))

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
