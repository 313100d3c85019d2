"""When calls were made, how long they took and how much they gave: what a gather sees of them, in bins.

`traffic.json` is for plots. Tokens are spread evenly over the time of their call, for nobody wrote down
when each one came; a call that was interrupted counts with its last part's start and its whole time, and
one that was sent again with its retries. Nothing here moves a score.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from itertools import chain, count, pairwise
from typing import TYPE_CHECKING, Literal

from evalkit.base import Frozen
from evalkit.report.histogram import Histogram, choose_edges, count_into

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.store.records import CallRecord

MAX_BINS = 240
"""A plot is a few hundred pixels wide."""
MINUTE, HOUR, DAY = 60, 3600, 86_400
WIDTHS = (
    *(1, 2, 5, 10, 15, 30),
    *(MINUTE * n for n in (1, 2, 5, 10, 15, 30)),
    *(HOUR * n for n in (1, 2, 4, 8, 12)),
)


class Traffic(Frozen):
    """One task's `traffic.json`. Bins are `width_s` wide, from `start` on."""

    schema_version: Literal[1] = 1
    task: str
    start: int | None
    """Unix time (s); null without calls."""
    width_s: int
    tokens_per_s: tuple[float, ...]
    """Generated tokens, where the server counted them."""
    in_flight: tuple[float, ...]
    """Calls of scored units in flight, on average."""
    finished: tuple[int, ...]
    """Calls that ended."""
    latency_s: Histogram
    completion_tokens: Histogram
    """Tokens of calls that the model ended itself."""
    truncated_tokens: Histogram
    """Tokens of calls that the limit ended; the same edges."""


class Spread:
    """Amounts spread evenly over the time they took; kept by the second."""

    def __init__(self) -> None:
        self._parts: defaultdict[int, float] = defaultdict(float)
        self._changes: defaultdict[int, float] = defaultdict(float)

    def add(self, start: float, end: float, amount: float) -> None:
        """Put `amount` down between two times (s), `start` <= `end`."""
        first, last = math.floor(start), math.floor(end)
        if first == last:
            self._parts[first] += amount
            return
        rate = amount / (end - start)
        self._parts[first] += rate * (first + 1 - start)
        self._parts[last] += rate * (end - last)
        self._changes[first + 1] += rate
        self._changes[last] -= rate

    def bins(self, start: int, width: int, n: int) -> list[float]:
        """Amount in each of `n` bins of `width` seconds; all that was put down lies in them."""
        found = [0.0] * n
        for second, amount in self._parts.items():
            found[(second - start) // width] += amount
        rate = 0.0
        for here, there in pairwise(sorted(self._changes)):
            rate += self._changes[here]
            for number in range((here - start) // width, (there - 1 - start) // width + 1):
                begin = max(here, start + number * width)
                end = min(there, start + (number + 1) * width)
                found[number] += rate * (end - begin)
        return found


class TrafficTally:
    """Takes the calls of the scored units of a task."""

    def __init__(self) -> None:
        self._tokens = Spread()
        self._busy = Spread()
        self._ended: Counter[int] = Counter()
        self._first = math.inf
        self._last = -math.inf
        self._truncated = array("d")
        self._whole = array("d")
        self._latencies = array("d")

    def add(self, call: CallRecord, *, truncated: bool) -> None:
        """Take one call."""
        latency = max(0.0, call.timing.latency_s)
        start, end = call.timing.started, call.timing.started + latency
        tokens = call.reply.usage.completion_tokens
        self._first, self._last = min(self._first, start), max(self._last, end)
        self._ended[math.floor(end)] += 1
        self._latencies.append(latency)
        self._busy.add(start, end, latency)
        if tokens is not None:
            self._tokens.add(start, end, tokens)
            (self._truncated if truncated else self._whole).append(tokens)

    def traffic(self, task: str) -> Traffic:
        """All of it, in at most `MAX_BINS` bins."""
        start, width, n = cover(self._first, self._last)
        finished = [0] * n
        for second, calls in self._ended.items():
            finished[(second - start) // width] += calls
        edges = choose_edges([*self._whole, *self._truncated], whole=True)
        return Traffic(
            task=task,
            start=start if n else None,
            width_s=width,
            tokens_per_s=_rates(self._tokens.bins(start, width, n), width),
            in_flight=_rates(self._busy.bins(start, width, n), width),
            finished=tuple(finished),
            latency_s=count_into(self._latencies, choose_edges(self._latencies, whole=False)),
            completion_tokens=count_into(self._whole, edges),
            truncated_tokens=count_into(self._truncated, edges),
        )


def cover(first: float, last: float) -> tuple[int, int, int]:
    """(start, width, number) of at most `MAX_BINS` bins from `first` to `last`; none for first > last."""
    if first > last:
        return 0, 1, 0
    widths = chain(WIDTHS, (DAY * n for n in count(1)))
    width = next(w for w in widths if _count(first, last, w) <= MAX_BINS)
    return math.floor(first / width) * width, width, _count(first, last, width)


def _count(first: float, last: float, width: int) -> int:
    return math.floor(last / width) - math.floor(first / width) + 1


def _rates(amounts: Sequence[float], width: int) -> tuple[float, ...]:
    return tuple(max(0.0, round(amount / width, 3)) for amount in amounts)
