"""Waiting for a fact, with a limit, where another process has to get there first."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")


def wait_for(what: str, probe: Callable[[], Value], limit_s: float = 200) -> Value:
    """The first truthy value of `probe`; the test fails when `limit_s` seconds bring none."""
    deadline = time.monotonic() + limit_s
    while not (value := probe()):
        assert time.monotonic() < deadline, f"not within {limit_s:.0f} s: {what}"
        time.sleep(0.05)
    return value
