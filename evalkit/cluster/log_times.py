"""Times in log lines, and the times people ask for (`--since`). Pure.

A worker writes `2026-01-31 23:59:59,123`, vLLM `01-31 23:59:59` without a year, others ISO 8601 or
nothing at all. A line without a time has that of the line before it. All are local time of the node
that wrote them; nothing is decided by them, they only choose what is shown.
"""

from __future__ import annotations

import re
import time

from evalkit.errors import UsageError

WITH_YEAR = re.compile(r"(?<!\d)(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)")
WITHOUT_YEAR = re.compile(r"(?<![\d-])(\d\d-\d\d) (\d\d:\d\d:\d\d)")
HEAD_CHARS = 80
"""A time further along the line is part of what it says."""
DAY_S = 86400.0
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S}
DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")
PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
FORMATS = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
OF_DAY = ("%H:%M:%S", "%H:%M")


def line_time(text: str, now: float) -> float | None:
    """Unix time (s) that a line begins with; None when it has none. `now` tells a missing year."""
    head = text[:HEAD_CHARS]
    if (found := WITH_YEAR.search(head)) is not None:
        return _parse(f"{found[1]}T{found[2]}", FORMATS[0])
    if (found := WITHOUT_YEAR.search(head)) is not None:
        year = time.localtime(now).tm_year
        when = _parse(f"{year}-{found[1]}T{found[2]}", FORMATS[0])
        if when is not None and when > now + DAY_S:  # written before the year's end
            return _parse(f"{year - 1}-{found[1]}T{found[2]}", FORMATS[0])
        return when
    return None


def parse_since(text: str, now: float) -> float:
    """Unix time (s) of `10m`, `1h30m`, `2026-01-31T23:59`, `23:59`. Raises UsageError."""
    given = text.strip()
    if DURATION.fullmatch(given):
        return now - sum(float(number) * UNITS[unit] for number, unit in PART.findall(given))
    for form in FORMATS:
        if (when := _parse(given.replace(" ", "T"), form)) is not None:
            return when
    today = time.strftime("%Y-%m-%d", time.localtime(now))
    for form in OF_DAY:
        if (when := _parse(f"{today}T{given}", f"%Y-%m-%dT{form}")) is not None:
            return when
    raise UsageError(
        f"--since: {text!r} is no time",
        hint="A time ago (90s, 10m, 2h, 1d, 1h30m), or local time: 2026-01-31T23:59, 2026-01-31, 23:59.",
    )


def _parse(text: str, form: str) -> float | None:
    try:
        return time.mktime(time.strptime(text, form))
    except (ValueError, OverflowError):
        return None
