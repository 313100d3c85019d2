"""Times of Slurm: in UTC where it was asked, in local time where it wrote on a node."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from evalkit.cluster.slurm_times import SETTINGS, parse_log_time, parse_time, render_time

if TYPE_CHECKING:
    from collections.abc import Iterator

TWICE = (1_792_890_600.0, 1_792_894_200.0)
"""Both are 02:30 on 25 October 2026 in Berlin."""


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A login node with summer time."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_no_time() -> None:
    """Slurm's words for no time are none."""
    for parse in (parse_time, parse_log_time):
        assert [parse(text) for text in ("Unknown", "None", "", "31 Jan 23:59")] == [None] * 4


@pytest.mark.parametrize("when", [100_000.0, *TWICE])
def test_no_hour_comes_twice(berlin: None, when: float) -> None:
    """A time that a command wrote under our settings is exact, also when the clocks go back."""
    command = ["date", "-d", f"@{when:.0f}", "+%Y-%m-%dT%H:%M:%S"]
    env = {**os.environ, **SETTINGS}
    said = subprocess.run(command, env=env, capture_output=True, check=True, text=True).stdout
    assert parse_time(said.strip()) == when
    assert said.strip() == render_time(when)


def test_a_jobs_output_is_in_local_time(berlin: None) -> None:
    """slurmstepd writes its node's time."""
    assert parse_log_time("2026-01-31T13:00:00") == parse_time("2026-01-31T12:00:00")
