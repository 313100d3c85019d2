"""Attempts that left no record because nothing of evalkit ran on their node: lines of their batch scripts.

Where not even Python starts (its mount is missing, the interpreter is broken), a batch script adds a line
`RESTARTS EXIT_CODE TIME NODE` to `cluster/<job>.deaths`. Readers take each for a failed attempt, numbered
behind the replica's others; the next attempt of the job that does start makes records of them, and the
file goes (see `evalkit.cluster.attempts`). So they are counted, shown and blamed on their nodes like any failure.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.store.layout import RunFolder

DEATHS_SUFFIX = ".deaths"
SIGNALLED = 128
"""Shells add it to the number of the signal that ended a process."""
SIGNALS = frozenset(signal.Signals)


@dataclass(frozen=True, slots=True)
class Death:
    """One line of a batch script."""

    job_id: str
    """`123_4`, `123`."""
    restart_count: int
    code: int
    time: float
    """Unix time (s)."""
    node: str
    """As Slurm calls it; empty where it did not say."""


def parse_deaths(job_id: str, text: str) -> list[Death]:
    """The lines of one job's file; torn ones are left out."""
    found = []
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) == 4 and all(word.isascii() and word.isdecimal() for word in words[:3]):
            restarts, code, time = map(int, words[:3])
            found.append(Death(job_id, restarts, code, float(time), words[3]))
    return found


def deaths_file(folder: RunFolder, job_id: str) -> Path:
    """Where the batch script of a job or array element leaves its lines."""
    return folder.cluster / f"{job_id}{DEATHS_SUFFIX}"


def read_deaths(folder: RunFolder) -> list[Death]:
    """All lines of all jobs of a run, oldest first."""
    found: list[Death] = []
    for path in folder.cluster.glob(f"*{DEATHS_SUFFIX}"):
        try:
            found += parse_deaths(path.stem, path.read_text(errors="replace"))
        except OSError:
            continue
    return sorted(found, key=lambda death: death.time)


def ended_without_a_word(code: int) -> str:
    """What is known of a process that left an exit code alone, as shells report it."""
    if code > SIGNALLED and code - SIGNALLED in SIGNALS:
        return f"its worker was killed without a word ({signal.Signals(code - SIGNALLED).name})"
    return f"its worker ended without a word (exit code {code})"
