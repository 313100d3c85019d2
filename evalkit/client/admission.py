"""Lets calls to one endpoint wait for their turn: those that were refused before first, then in order.

The pace decides when one may be sent; here is the waiting, on one event loop.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalkit.client.pace import Pace, Try


class Admission:
    """The door of one endpoint. Whoever entered says how it ended: `ended`, `refused` or `dropped`."""

    def __init__(self, pace: Pace, clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds."""
        self.pace = pace
        self._clock = clock
        self._line: list[tuple[bool, int, asyncio.Future[Try]]] = []
        self._numbers = 0
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, *, again: bool) -> Try:
        """Wait until a call may be sent; it then counts as sent. `again`: it was sent before."""
        now = self._clock()
        if not self._line and self.pace.wait(now) <= 0:
            return self.pace.send(now)
        turn: asyncio.Future[Try] = asyncio.get_running_loop().create_future()
        self._numbers += 1
        heapq.heappush(self._line, (not again, self._numbers, turn))
        self._admit()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # cancelled as its turn came
                self.dropped()
            raise

    def ended(self) -> None:
        """A call that was sent has its answer, whatever that is."""
        self.pace.end(self._clock())
        self._admit()

    def refused(self, tried: Try, after_s: float | None) -> bool:
        """A call was refused for rate; `after_s`: the endpoint asked to wait so long. Returns whether all
        wait; else only this call is to."""
        all_wait = self.pace.refuse(tried, self._clock(), after_s)
        self._admit()
        return all_wait

    def dropped(self) -> None:
        """A call ended without a word of the endpoint."""
        self.pace.drop()
        self._admit()

    def close(self) -> None:
        """Forget the timer; whoever still waits is cancelled by who made it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _admit(self) -> None:
        """Send as many as may be sent, and look again when the next may."""
        self.close()
        while self._line:
            if self._line[0][2].done():  # given up
                heapq.heappop(self._line)
                continue
            now = self._clock()
            delay = self.pace.wait(now)
            if delay > 0:
                if delay < math.inf:
                    loop = asyncio.get_running_loop()
                    self._timer = loop.call_later(delay, self._admit)
                return
            heapq.heappop(self._line)[2].set_result(self.pace.send(now))
