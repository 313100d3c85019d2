"""Times as Slurm writes them: in UTC where it was asked for them, in local time in a job's output.

Slurm prints local time without an offset, and in one night of autumn an hour of that comes twice: a
start would be an hour off, more than any margin that attempts and executions are matched with. So its
commands run under UTC (see `SETTINGS`), and only what it wrote on a node is read as local time. Pure.
"""

from __future__ import annotations

import calendar
import time

FORMAT = "%Y-%m-%dT%H:%M:%S"
SETTINGS = {"SLURM_TIME_FORMAT": "standard", "TZ": "UTC0"}
"""Variables of a command whose times are read here. Sites set the first to `relative`."""


def parse_time(text: str) -> float | None:
    """Unix time (s) of `2026-01-31T23:59:59` in UTC; None for Slurm's words for none."""
    try:
        return float(calendar.timegm(time.strptime(text, FORMAT)))
    except (ValueError, OverflowError):
        return None


def parse_log_time(text: str) -> float | None:
    """Unix time (s) of what Slurm wrote into a job's output, in local time; None for what is none."""
    try:
        return time.mktime(time.strptime(text, FORMAT))
    except (ValueError, OverflowError):
        return None


def render_time(when: float) -> str:
    """A Unix time (s) as an argument of a command."""
    return time.strftime(FORMAT, time.gmtime(when))
