"""Notice a server that hangs: alive, healthy by its own account, and producing nothing.

Long answers take hours, so no single call can tell. What tells is the server as a whole: requests
in flight, and for a long time neither a finished call nor a token on vLLM's counters. Before the
verdict the server is asked for one token, because silence may also be ours. A server that is not silent
but answers with errors is found sooner: see `evalkit.serving.checkup`.

`judge` decides, on values; `ProgressWatchdog` only looks and asks. It never ends a server itself.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from evalkit.errors import FailureKind
from evalkit.serving.checkup import EVERY_S, Checkup, Moved
from evalkit.serving.trouble import Trouble
from evalkit.serving.wire import Answer, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalkit.serving.endpoint import Endpoint

ALIVE_S = 0.5
# A saturated engine answers a new request after a scheduling round or two: seconds.
PROBE_S = 60.0
# A server that answers probes and none of our calls has lost them; probing on would wait for ever.
MAX_PROBES = 2
COUNTER = re.compile(
    r"^vllm:(?:generation|prompt)_tokens(?:_total)?(?:\{[^\n]*\})? +([0-9.eE+-]+)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the server. `tokens` is null where there are no counters."""

    at: float
    in_flight: int
    completed: int
    tokens: float | None

    @property
    def moved(self) -> Moved:
        """What grows while it works."""
        return Moved(self.completed, self.tokens)


@dataclass(frozen=True, slots=True)
class Progress:
    """The last time something moved, and what the counters were then."""

    since: float
    completed: int
    tokens: float | None
    probes: int = 0
    """Probes answered since then."""


class Judgement(NamedTuple):
    """`suspect`: nothing moved for the stall time; ask for a token before calling it a hang."""

    verdict: Literal["healthy", "suspect"]
    progress: Progress


def judge(progress: Progress, reading: Reading, stall_timeout_s: float) -> Judgement:
    """Whether the server still gets on with its work. Times in seconds of one clock."""
    moved = (
        reading.in_flight == 0
        or reading.completed != progress.completed
        or (reading.tokens is not None and reading.tokens != progress.tokens)
    )
    if moved:
        tokens = progress.tokens if reading.tokens is None else reading.tokens
        return Judgement("healthy", Progress(reading.at, reading.completed, tokens))
    stalled = reading.at - progress.since >= stall_timeout_s
    return Judgement("suspect" if stalled else "healthy", progress)


def read_tokens(answer: Answer) -> float | None:
    """Tokens read and written by the engine so far; None when the page does not say."""
    found = COUNTER.findall(answer.text) if answer.ok else []
    return sum(map(float, found)) if found else None


class ProgressWatchdog:
    """Watches one endpoint while calls are in flight."""

    def __init__(
        self,
        endpoint: Endpoint,
        stall_timeout_s: float,
        clock: Callable[[], float],
        failure: Callable[[], Trouble | None] = lambda: None,
        probe_timeout_s: float = PROBE_S,
        look_s: float = EVERY_S,
    ) -> None:
        """`failure` is the deployment's: why its process is dead."""
        self._look_s = min(look_s, stall_timeout_s / 4)
        self._checkup = Checkup(endpoint, clock, look_s)
        self._probe_timeout_s = probe_timeout_s
        self._endpoint = endpoint
        self._stall_timeout_s = stall_timeout_s
        self._clock = clock
        self._failure = failure

    async def watch(self, in_flight: Callable[[], int], completed: Callable[[], int]) -> Trouble:
        """Return only when the server is dead, hangs or fails: which of these, and why."""
        async with Wire(self._endpoint) as wire:

            async def look() -> Reading:
                return await self._look(wire, in_flight, completed)

            reading = await look()
            progress = Progress(reading.at, reading.completed, reading.tokens)
            while True:
                if (why := await self._wait()) is not None:
                    return why
                reading = await look()
                verdict, progress = judge(progress, reading, self._stall_timeout_s)
                if verdict == "suspect":
                    if (why := await self._probe(wire, reading, progress)) is not None:
                        return why
                    # The probe moved the counters itself: start again from where they are now.
                    after = await look()
                    progress = replace(
                        progress, since=after.at, tokens=after.tokens, probes=progress.probes + 1
                    )
                elif self._checkup.is_due:
                    if (why := await self._checkup.examine(wire, reading.moved)) is not None:
                        return why
                    # Nor is this token a sign of work; the time of the last one stays.
                    after = await look()
                    self._checkup.last = after.moved
                    progress = replace(progress, tokens=after.tokens or progress.tokens)

    async def _wait(self) -> Trouble | None:
        """Until the next look; earlier with the reason when the process is dead."""
        until = self._clock() + self._look_s
        while self._clock() < until:
            if (why := self._failure()) is not None:
                return why
            await asyncio.sleep(min(ALIVE_S, self._look_s))
        return self._failure()

    async def _look(
        self, wire: Wire, in_flight: Callable[[], int], completed: Callable[[], int]
    ) -> Reading:
        url = self._endpoint.metrics_url
        tokens = None if url is None else read_tokens(await wire.get(url, key=False))
        return Reading(self._clock(), in_flight(), completed(), tokens)

    async def _probe(self, wire: Wire, reading: Reading, progress: Progress) -> Trouble | None:
        """The reason when the server hangs or died; None when it answers."""
        task = asyncio.create_task(wire.one_token(self._probe_timeout_s))
        try:
            while not task.done():
                if (why := self._failure()) is not None:
                    return why
                await asyncio.wait({task}, timeout=ALIVE_S)
            answer = task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})
        silence = (
            f"the server hangs: {reading.in_flight} requests in flight, and no answer and no "
            f"token for {reading.at - progress.since:.0f} s"
        )
        if answer.status is None or answer.status >= 500:
            return _hang(f"{silence}; a request for one token failed ({answer.brief()})")
        if reading.tokens is not None and progress.probes >= MAX_PROBES:
            return _hang(
                f"{silence}; it answers new requests ({progress.probes} times), but not these"
            )
        return None


def _hang(reason: str) -> Trouble:
    return Trouble(FailureKind.SERVER_HANG, reason)
