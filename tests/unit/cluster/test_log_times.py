"""Times in log lines, and times that people ask for."""

from __future__ import annotations

import calendar
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.cluster.log_times import line_time, parse_since
from evalkit.errors import UsageError


def local(text: str) -> float:
    """Unix time of a local time."""
    return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))


NOW = local("2026-03-10T12:00:00")


@pytest.mark.parametrize(
    ("line", "when"),
    [
        ("2026-01-31 23:59:59,123 INFO server starts", "2026-01-31T23:59:59"),
        ("[2026-01-31T23:59:59] slurmstepd: error", "2026-01-31T23:59:59"),
        ("(APIServer pid=7) INFO 03-10 11:59:00 [api.py:1] hello", "2026-03-10T11:59:00"),
        ("INFO 12-31 23:59:59 [api.py:1] last year", "2025-12-31T23:59:59"),
        ("INFO:     127.0.0.1:1234 - GET /health 200", None),
        ("2026-13-31 23:59:59 no such month", None),
        ("x" * 100 + " 2026-01-31 23:59:59", None),
        ("", None),
    ],
)
def test_time_of_a_line(line: str, when: str | None) -> None:
    """Workers, vLLM and Slurm write it near the front; a missing year is the last that fits."""
    assert line_time(line, NOW) == (None if when is None else local(when))


@pytest.mark.parametrize(
    ("line", "utc"),
    [
        ("2026-01-31T12:00:00Z INFO", "12:00"),
        ("2026-01-31T12:00:00.123456Z INFO", "12:00"),
        ("2026-01-31 12:00:00,123+0200 INFO a worker", "10:00"),
        ("[2026-01-31T12:00:00-05:30] ISO", "17:30"),
        ("2026-01-31 12:00:00 +0000 git", "12:00"),
    ],
)
def test_an_offset_is_exact(line: str, utc: str) -> None:
    """A node in another zone, or a container in UTC, that says so is understood."""
    when = calendar.timegm(time.strptime(f"2026-01-31T{utc}", "%Y-%m-%dT%H:%M"))
    assert line_time(line, NOW) == when


def test_what_is_no_offset() -> None:
    """Numbers after a time, and a month that does not exist, are not taken for anything else."""
    for tail in (" -12 degrees", " +9 more", "Zoo", " -9999"):
        assert line_time(f"2026-01-31 12:00:00{tail}", NOW) == local("2026-01-31T12:00:00")
    assert line_time("2026-13-31T12:00:00Z", NOW) is None


@pytest.mark.parametrize(
    ("now", "given", "when"),
    [
        ("2026-03-10T00:10:00", "23:50", "2026-03-09T23:50:00"),
        ("2026-03-01T00:10:00", "23:50", "2026-02-28T23:50:00"),
        ("2026-01-01T00:00:00", "00:00:01", "2025-12-31T00:00:01"),
        ("2026-03-10T00:10:00", "00:10", "2026-03-10T00:10:00"),
    ],
)
def test_a_time_of_day_that_is_still_to_come(now: str, given: str, when: str) -> None:
    """It was meant of yesterday: nothing is written in the future."""
    assert parse_since(given, local(now)) == local(when)


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("90s", NOW - 90),
        ("10m", NOW - 600),
        ("1h30m", NOW - 5400),
        ("1.5h", NOW - 5400),
        ("2d", NOW - 172_800),
        ("2026-03-09T08:00:30", local("2026-03-09T08:00:30")),
        ("2026-03-09 08:00", local("2026-03-09T08:00:00")),
        ("2026-03-09", local("2026-03-09T00:00:00")),
        ("08:00", local("2026-03-10T08:00:00")),
        (" 08:00:05 ", local("2026-03-10T08:00:05")),
    ],
)
def test_since(text: str, when: float) -> None:
    """A time ago, or local time of any day or of today."""
    assert parse_since(text, NOW) == when


@pytest.mark.parametrize("text", ["", "10", "m", "-5m", "5 weeks", "25:00", "yesterday"])
def test_no_time(text: str) -> None:
    """What is no time is refused with examples."""
    with pytest.raises(UsageError, match="is no time") as caught:
        parse_since(text, NOW)
    assert "10m" in (caught.value.hint or "")


@given(st.text(max_size=60))
def test_any_line(text: str) -> None:
    """No line breaks the reader."""
    found = line_time(text, NOW)
    assert found is None or found <= NOW + 10_000 * 366 * 86400
