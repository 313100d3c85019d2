"""When calls were made, how long they took and how much they gave: what a gather sees of them, in bins.

`traffic.json` is for plots. Tokens are spread evenly over the time of their call, for nobody wrote down
when each one came; a call that was interrupted counts with its last part's start and its whole time, and
one that was sent again with its retries. Nothing here moves a score.
"""

from __future__ import annotations

import math
from array import array
from itertools import accumulate, chain, count
from operator import add
from typing import TYPE_CHECKING, Literal

from evalkit.base import Frozen
from evalkit.report.histogram import Histogram, choose_edges, count_into

if TYPE_CHECKING:
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


class Bins:
    """Amounts spread evenly over the time they took, in `n` bins of `width` seconds from `start` on."""

    def __init__(self, start: int, width: int, n: int) -> None:
        self._start = start
        self._width = width
        self._parts = [0.0] * n
        self._changes = [0.0] * n
        """Of the rate that holds from the beginning of a bin on."""

    def add(self, start: float, end: float, amount: float) -> None:
        """Put `amount` down between two times (s), `start` <= `end`, both within the bins."""
        width = self._width
        start, end = start - self._start, end - self._start
        first, last = int(start // width), int(end // width)
        if first == last:
            self._parts[first] += amount
            return
        rate = amount / (end - start)
        self._parts[first] += rate * ((first + 1) * width - start)
        self._parts[last] += rate * (end - last * width)
        self._changes[first + 1] += rate
        self._changes[last] -= rate

    def rates(self) -> tuple[float, ...]:
        """Amount per second in each bin, to a thousandth."""
        running = accumulate(self._changes)
        pairs = zip(self._parts, running, strict=True)
        return tuple(max(0.0, round(part / self._width + rate, 3)) for part, rate in pairs)


class TrafficTally:
    """Takes the calls of the scored units of a task: 33 bytes of memory each."""

    def __init__(self) -> None:
        self._starts = array("d")
        self._latencies = array("d")
        self._tokens = array("d")
        """NaN where the server did not count them."""
        self._truncated = array("b")

    def add(self, call: CallRecord, *, truncated: bool) -> None:
        """Take one call."""
        timing, tokens = call.timing, call.reply.usage.completion_tokens
        self._starts.append(timing.started)
        self._latencies.append(max(0.0, timing.latency_s))
        self._tokens.append(math.nan if tokens is None else tokens)
        self._truncated.append(truncated)

    def traffic(self, task: str) -> Traffic:
        """All of it, in at most `MAX_BINS` bins."""
        ends = array("d", map(add, self._starts, self._latencies))
        start, width, n = cover(min(self._starts, default=1.0), max(ends, default=0.0))
        tokens, busy, finished = Bins(start, width, n), Bins(start, width, n), [0] * n
        for begin, end, many in zip(self._starts, ends, self._tokens, strict=True):
            busy.add(begin, end, end - begin)
            finished[int((end - start) // width)] += 1
            if not math.isnan(many):
                tokens.add(begin, end, many)
        lengths = self._lengths(truncated=False), self._lengths(truncated=True)
        edges = choose_edges([*lengths[0], *lengths[1]], whole=True)
        return Traffic(
            task=task,
            start=start if n else None,
            width_s=width,
            tokens_per_s=tokens.rates(),
            in_flight=busy.rates(),
            finished=tuple(finished),
            latency_s=count_into(self._latencies, choose_edges(self._latencies, whole=False)),
            completion_tokens=count_into(lengths[0], edges),
            truncated_tokens=count_into(lengths[1], edges),
        )

    def _lengths(self, *, truncated: bool) -> list[float]:
        pairs = zip(self._tokens, self._truncated, strict=True)
        return [many for many, was_cut in pairs if was_cut == truncated and not math.isnan(many)]


def cover(first: float, last: float) -> tuple[int, int, int]:
    """(start, width, number) of at most `MAX_BINS` bins from `first` to `last`; none for first > last."""
    if first > last:
        return 0, 1, 0
    widths = chain(WIDTHS, (DAY * n for n in count(1)))
    width = next(w for w in widths if _count(first, last, w) <= MAX_BINS)
    return math.floor(first / width) * width, width, _count(first, last, width)


def _count(first: float, last: float, width: int) -> int:
    return math.floor(last / width) - math.floor(first / width) + 1
