"""Where ticks go on an axis, and how numbers read. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from evalkit.report.histogram import nice_step

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
_DURATIONS = (
    *(1, 2, 5, 10, 15, 30),
    *(MINUTE * n for n in (1, 2, 5, 10, 15, 30)),
    *(HOUR * n for n in (1, 2, 4, 6, 12)),
)


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, both included or just outside; at least two."""
    if high <= low:
        high = low + 1.0
    step = nice_step((high - low) / about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def time_ticks(span_s: float, about: int = 6) -> list[float]:
    """Round durations (s) from 0 on, within the span."""
    wanted = span_s / about
    step = next((d for d in _DURATIONS if d >= wanted), DAY * math.ceil(wanted / DAY))
    return [step * number for number in range(math.floor(span_s / step + 1e-9) + 1)]


def short_number(value: float) -> str:
    """At most three digits and a letter: 950, 1.5k, 131k, 2M."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """`0`, `45 s`, `90 min`, `2.5 h`, `3 d`."""
    for limit, unit, name in (
        (2 * DAY, DAY, "d"),
        (2 * HOUR, HOUR, "h"),
        (2 * MINUTE, MINUTE, "min"),
    ):
        if seconds >= limit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s" if seconds else "0"


def moment(seconds: float) -> str:
    """A Unix time, in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
