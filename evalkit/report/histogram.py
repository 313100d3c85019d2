"""Counts of numbers in bins whose edges a person can read.

Bins are equally wide, or equally wide as ratios where the numbers span more than one order of
magnitude (the E6 series of electronics: 1, 1.5, 2.2, 3.3, 4.7, 6.8, 10). Pure.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING

from evalkit.base import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

E6 = (1.0, 1.5, 2.2, 3.3, 4.7, 6.8)
STEPS = (1.0, 2.0, 2.5, 5.0)
LINEAR_BINS = 16
"""About so many bins where they are equally wide."""
WIDE_RATIO = 12.0
"""Largest to least number, above which bins are ratios."""


class Histogram(Frozen):
    """How many numbers fall between edges: counts[i] of those in [edges[i], edges[i + 1])."""

    edges: tuple[float, ...]
    """Ascending, one more than counts; () without numbers."""
    counts: tuple[int, ...]


def choose_edges(values: Sequence[float], *, whole: bool) -> tuple[float, ...]:
    """Edges around all values, which are not negative; whole ones for `whole` values. () for none."""
    if not values:
        return ()
    low, high = min(values), max(values)
    least = min((value for value in values if value > 0), default=0.0)
    if least and high / least > WIDE_RATIO:
        edges = _ratio_edges(least, high)
        if low < edges[0]:
            edges.insert(0, 0.0)
    else:
        edges = _equal_edges(low, high, whole=whole)
    if whole:
        edges = sorted({float(math.ceil(edge)) for edge in edges})
    return tuple(edges)


def count_into(values: Iterable[float], edges: tuple[float, ...]) -> Histogram:
    """The histogram of values that all lie within the edges."""
    counts = [0] * max(len(edges) - 1, 0)
    for value in values:
        counts[bisect_right(edges, value) - 1] += 1
    return Histogram(edges=edges, counts=tuple(counts))


def _ratio_edges(least: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(least)) - 1, math.ceil(math.log10(high)) + 2)
    every = [float(f"{step}e{decade}") for decade in decades for step in E6]
    first = bisect_right(every, least) - 1
    return every[first : bisect_right(every, high) + 1]


def _equal_edges(low: float, high: float, *, whole: bool) -> list[float]:
    step = nice_step((high - low) / LINEAR_BINS)
    if whole:
        step = max(1.0, step)
    first = math.floor(low / step)
    last = math.floor(high / step) + 1
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def nice_step(least: float) -> float:
    """The least of 1, 2, 2.5 and 5 times a power of ten that is not below `least`; 1 for 0."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(
        (step * power for step in STEPS if step * power >= least * (1 - 1e-9)), 10.0 * power
    )
