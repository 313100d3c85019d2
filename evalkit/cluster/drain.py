"""The order to stop: given by any thread or signal handler, heard by the event loop.

It says how long calls in flight may still take. Orders add up to the strictest: a time limit that is
minutes away leaves minutes, and a TERM in between cuts them short.

After a TERM, Slurm kills what is left when KillWait is over, which is a setting of the site (30 s by
default). `fit_drain` divides that time: calls in flight may finish for a while, then the tokens of those
that did not are taken from the server, then everything is flushed and the server stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from evalkit.clock import SYSTEM_CLOCK, Clock
from evalkit.errors import EvalkitError

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

DEFAULT_KILL_WAIT_S = 30.0
"""Slurm's own default of KillWait, and what is assumed where nobody says."""
LONGEST_GRACE_S = 8.0
"""Calls in flight get no more after a TERM: few more would end, and their tokens are saved anyhow."""
SALVAGE_S = 3.0
"""To take the tokens of calls in flight from a server; about 2 s for some hundred calls."""
FLUSH_S = 1.0
"""Last flush of the journals, release of the leases, and the attempt's record."""
REQUEUE_S = 2.0
"""To ask Slurm and to requeue, and for a server that is slow to go when it is killed."""
END_MARGIN_S = 20.0
"""What is kept free before the end of a job, for the last flush, the requeue and a late signal."""
GRACE_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class DrainTimes:
    """How the time between a TERM and the KILL that follows is used (s)."""

    grace_s: float
    """Calls in flight may still finish."""
    salvage_s: float
    """Then the tokens so far of the others are taken from the server."""
    stop_s: float
    """What is left then until the server must have ended: it is killed in time."""


def fit_drain(kill_wait_s: float) -> DrainTimes:
    """Divide KillWait. What is saved comes first: with a short one calls get little or no grace.

    30 s: 8 s grace, 3 s salvage, 16 s to stop. 10 s: 2, 3 and 2 s. 5 s: 0.3, 3 and 0 s.
    """
    spare_s = max(0.0, kill_wait_s - SALVAGE_S - FLUSH_S)
    grace_s = min(LONGEST_GRACE_S, spare_s / 3)
    salvage_s = max(0.0, min(SALVAGE_S, kill_wait_s - FLUSH_S))
    return DrainTimes(grace_s, salvage_s, max(0.0, spare_s - grace_s - REQUEUE_S))


def grace_before_end(left_s: float, shutdown_s: float) -> float:
    """Time for calls in flight (s) when a job ends in `left_s` and its server takes `shutdown_s`."""
    return max(0.0, left_s - shutdown_s - END_MARGIN_S)


class DrainedError(EvalkitError):
    """Waiting was given up because a drain was requested."""


class Drain:
    """One request to stop. Make it anywhere; `attach` it inside the loop that shall hear it."""

    def __init__(
        self, clock: Clock = SYSTEM_CLOCK, kill_wait_s: float = DEFAULT_KILL_WAIT_S
    ) -> None:
        """`kill_wait_s`: time from a TERM to the KILL on this cluster (s)."""
        self.times = fit_drain(kill_wait_s)
        self.reason: str | None = None
        self._now = clock.monotonic
        self._deadline = math.inf
        self.stop_s: float | None = None
        """Time that the server has to end after the drain; null: as long as it needs."""
        self._event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def requested(self) -> bool:
        """Whether somebody asked to stop."""
        return self.reason is not None

    def attach(self) -> None:
        """Hear requests in the running loop from now on, and an earlier one at once.

        Of several loops, one after the other, each attaches it.
        """
        self._loop, self._event = asyncio.get_running_loop(), asyncio.Event()
        if self.requested:
            self._event.set()

    def request(self, reason: str, grace_s: float | None = None) -> None:
        """Ask to stop; calls in flight have `grace_s`, or what an earlier order has left them.

        Without `grace_s` it is the grace after a TERM.

        The first reason is kept. Safe in signal handlers and other threads.
        """
        if grace_s is None:
            self.stop_s = self.times.stop_s
        given_s = self.times.grace_s if grace_s is None else grace_s
        self._deadline = min(self._deadline, self._now() + given_s)
        self.reason = self.reason or reason
        if self._loop is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it was closed just now: all is done
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
