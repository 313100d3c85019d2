"""Which units a page of limited size holds: all, or every n-th of the tasks that are too large.

Every task gets the same share of the page; what a small one leaves goes to the others. Taking every n-th
unit shows all parts of a data set that is sorted, which its first units do not. Pure, but for reading.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from evalkit.report.page.units import Group, collect, measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.report.page.units import Source

MAX_UNITS = 50_000
"""Units in one page, whatever their size: the list of them is decoded at once."""
MARGIN = 1.15
"""A group may be so much larger than estimated before it is cut short."""


def select(sources: Sequence[Source], limit: float) -> list[Group]:
    """The units of each source, at most about `limit` bytes of them together. Raises StoreError."""
    sizes = [measure(source) for source in sources]
    by_bytes = share_out(limit, [size.units * size.bytes_each for size in sizes])
    by_units = share_out(MAX_UNITS, [size.units for size in sizes])
    groups = []
    for source, size, room, units in zip(sources, sizes, by_bytes, by_units, strict=True):
        ratios = _ratio(size.units * size.bytes_each, room), _ratio(size.units, units)
        every = max(ratios) if all(ratios) else 0
        groups.append(collect(source, size, every, room * MARGIN))
    return groups


def share_out(total: float, needs: Sequence[float]) -> list[float]:
    """`total` shared out evenly, to none more than it needs."""
    shares = [0.0] * len(needs)
    left = total
    for done, number in enumerate(sorted(range(len(needs)), key=needs.__getitem__)):
        shares[number] = min(needs[number], left / (len(needs) - done))
        left -= shares[number]
    return shares


def _ratio(need: float, room: float) -> int:
    """Of how many one fits; 0 where none does."""
    if need > 0 and room <= 0:
        return 0
    return math.ceil(need / room - 1e-9) if need > room else 1
