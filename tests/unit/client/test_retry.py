"""Retries are bounded in number and time, and never sooner than the server asked."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.client.retry import (
    FIRST_DELAY_S,
    LONGEST_DELAY_S,
    REFUSED_STATUS,
    RetryPolicy,
    is_retried,
)

jitters = st.floats(0, 1, exclude_max=True)
seconds = st.floats(0, 1e6)


@given(st.integers(0, 20), seconds, st.lists(st.tuples(jitters, st.none() | seconds), min_size=60))
def test_retries_are_bounded(
    most: int, budget: float, faults: list[tuple[float, float | None]]
) -> None:
    """However a server fails, a call ends after `max_retries` retries or when its budget is spent."""
    policy = RetryPolicy(most, budget)
    elapsed, retries = 0.0, 0
    for jitter, retry_after in faults:
        delay = policy.delay(retries, elapsed, jitter, retry_after)
        if delay is None:
            break
        assert delay >= (retry_after or 0.0)
        elapsed += delay
        retries += 1
        assert elapsed <= budget
    assert retries <= most


@given(st.integers(0, 1000), jitters)
def test_delay_grows_and_is_capped(retries: int, jitter: float) -> None:
    """Without a word from the server the wait doubles up to a minute; half of it is random."""
    delay = RetryPolicy(10**6, 1e9).delay(retries, 0.0, jitter)
    assert delay is not None
    ceiling = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(retries, 30))
    assert ceiling / 2 <= delay <= ceiling


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_passing_status(status: int) -> None:
    """Overload and failures of the server pass."""
    assert is_retried(status)
    assert status not in REFUSED_STATUS


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 413, 422])
def test_status_that_stays(status: int) -> None:
    """A request that was refused is refused again."""
    assert not is_retried(status)


def test_endless_retry_after() -> None:
    """A server that asks for more than the budget ends the call."""
    assert RetryPolicy(9, 100.0).delay(0, 0.0, 0.0, math.inf) is None
    assert RetryPolicy(9, 100.0).delay(0, 0.0, 0.0, 101.0) is None
