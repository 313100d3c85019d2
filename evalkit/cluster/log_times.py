"""Times in log lines, and the times people ask for (`--since`). Pure.

A worker writes `2026-01-31 23:59:59,123+0100`, vLLM `01-31 23:59:59` without a year, others ISO 8601 or
nothing at all. A line without a time has that of the line before it, and a time without an offset is
taken for local time here: what a container in UTC writes without one is hours off. Nothing is decided
by these times, they only choose what is shown.
"""

from __future__ import annotations

import calendar
import re
import time

from evalkit.errors import UsageError

WITH_YEAR = re.compile(
    r"(?<!\d)(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)"
    r"(?:[.,]\d+)? ?(?:(Z)\b|([+-])([01]\d):?([0-5]\d)(?!\d))?"
)
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
        return _with_offset(found)
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
    for form in OF_DAY:
        if (when := _last(given, form, now)) is not None:
            return when
    raise UsageError(
        f"--since: {text!r} is no time",
        hint="A time ago (90s, 10m, 2h, 1d, 1h30m), or local time: 2026-01-31T23:59, 2026-01-31, 23:59.",
    )


def _last(given: str, form: str, now: float) -> float | None:
    """When it was last so late in the day: today, or yesterday where that is still to come."""
    try:
        of_day = time.strptime(given, form)[3:6]
    except ValueError:
        return None
    today = time.localtime(now)
    day = (today.tm_year, today.tm_mon, today.tm_mday)
    when = time.mktime((*day, *of_day, 0, 0, -1))
    if when <= now:
        return when
    return time.mktime(
        (*day[:2], day[2] - 1, *of_day, 0, 0, -1)
    )  # the 0th is the day before the 1st


def _with_offset(found: re.Match[str]) -> float | None:
    """Unix time of a match of WITH_YEAR: exact with an offset, else of local time."""
    text, utc, sign = f"{found[1]}T{found[2]}", found[3], found[4]
    if utc is None and sign is None:
        return _parse(text, FORMATS[0])
    offset_s = 0 if utc else (int(found[5]) * 60 + int(found[6])) * (-60 if sign == "-" else 60)
    try:
        return calendar.timegm(time.strptime(text, FORMATS[0])) - float(offset_s)
    except (ValueError, OverflowError):
        return None


def _parse(text: str, form: str) -> float | None:
    try:
        return time.mktime(time.strptime(text, form))
    except (ValueError, OverflowError):
        return None
