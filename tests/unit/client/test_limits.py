"""What refusals of providers say about their limits, in all the ways they say it."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.client.limits import (
    is_used_up,
    parse_duration,
    parse_retry_after,
    status_within,
    wait_asked,
)
from evalkit.client.transport import PassingFaultError, Refusal, refused
from evalkit.errors import EndpointError

NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("3", 3.0),
        ("0.5", 0.5),
        ("-1", 0.0),
        ("nan", 0.0),
        ("soon", None),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
    ],
)
def test_retry_after(value: str | None, expected: float | None) -> None:
    """Seconds or a date; nonsense is no number and no reason to fail."""
    assert parse_retry_after(value, NOW) == expected


@pytest.mark.parametrize(
    ("headers", "error", "expected"),
    [
        ({}, {}, None),
        ({"Retry-After": "7"}, {}, 7.0),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, {}, 1.5),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, {}, 360.0),
        (
            {
                "x-ratelimit-reset-requests": "2h",
                "x-ratelimit-remaining-requests": "14000",
                "x-ratelimit-reset-tokens": "20ms",
                "x-ratelimit-remaining-tokens": "0",
            },
            {},
            0.02,
        ),
        ({"X-RateLimit-Reset": str(int((NOW + 5) * 1000))}, {}, 5.0),
        ({"X-RateLimit-Reset": str(int(NOW + 6))}, {}, 6.0),
        ({"ratelimit-reset": "55"}, {}, 55.0),
        ({}, {"error": "Model x is currently loading", "estimated_time": 20.5}, 20.5),
        ({}, {"error": {"metadata": {"headers": {"X-RateLimit-Reset": "9"}}}}, 9.0),
        ({}, {"error": {"message": "Please retry in 34.07s."}}, 34.07),
        ({}, {"error": {"message": "Please try again in 6m0s. Visit us."}}, 360.0),
        ({}, {"error": "Try again in 20 seconds"}, 20.0),
        ({}, {"error": "Retry after 2 minutes."}, 120.0),
        ({}, {"error": "Retry after 2 moons"}, None),
    ],
)
def test_how_long_to_wait(
    headers: dict[str, str], error: dict[str, Any], expected: float | None
) -> None:
    """The most precise word counts, and a limit that was not reached says nothing."""
    assert wait_asked(headers, orjson.dumps(error), NOW) == expected


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (402, {"message": "Insufficient credits"}, True),
        (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, True),
        (429, {"message": "Rate limit reached", "code": "rate_limit_exceeded"}, False),
        (429, {"message": "Cloud credits expired"}, True),
        (403, {"message": "Your input was flagged"}, False),
        (400, {"message": "insufficient credits"}, False),
        (429, "quota exhausted", True),
        (429, "You exceeded your current quota. Please retry in 34.07s.", False),
        (429, {"message": "quota exhausted, try again in 2 minutes"}, False),
        (429, {"message": "Please retry in 34s", "code": "insufficient_quota"}, True),
        (403, "Quota exhausted. Please retry in 34s.", True),
    ],
)
def test_used_up_is_not_too_fast(status: int, error: Any, expected: bool) -> None:
    """Credits that are gone do not come back by waiting."""
    assert is_used_up(status, orjson.dumps({"error": error})) is expected


@pytest.mark.parametrize(
    ("headers", "code", "is_limit"),
    [
        ({}, None, False),
        ({"Retry-After": "0"}, None, False),
        ({"Retry-After": "34"}, None, True),
        ({"Retry-After": "34"}, "insufficient_quota", False),
    ],
)
def test_quota_that_comes_back_is_a_limit(
    headers: dict[str, str], code: str | None, is_limit: bool
) -> None:
    """Words about a quota decide only where no wait is named; a code decides in any case."""
    error = {"message": "You exceeded your current quota", "code": code}
    refusal = Refusal(429, orjson.dumps({"error": error}), headers)
    found = refused("http://x", refusal, NOW)
    assert isinstance(found, PassingFaultError if is_limit else EndpointError)
    if isinstance(found, PassingFaultError):
        assert (found.limited, found.retry_after_s) == (True, 34.0)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"choices": [{"message": {"content": "42"}}]}, None),
        ({"error": None, "choices": []}, None),
        ({"error": {"code": 429, "message": "slow down"}}, 429),
        ({"error": {"code": "502", "message": "provider is down"}}, 502),
        ({"error": {"code": "rate_limit_exceeded"}}, 429),
        ({"error": {"type": "insufficient_quota"}}, 429),
        ({"error": "boom"}, 500),
        ({"choices": [{"error": {"code": 503}, "message": None}]}, 503),
        ([], None),
    ],
)
def test_error_inside_of_a_200(body: Any, status: int | None) -> None:
    """A provider behind the endpoint failed, and the endpoint says so in the body alone."""
    assert status_within(orjson.dumps(body)) == status


@given(st.integers(0, 40), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_durations(hours: int, minutes: int, seconds: int, milliseconds: int) -> None:
    """As Go writes them."""
    text = f"{hours}h{minutes}m{seconds}s{milliseconds}ms"
    expected = hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
    assert parse_duration(text) == pytest.approx(expected)


@given(st.text() | st.binary().map(repr))
def test_nonsense_is_no_duration(text: str) -> None:
    """Whatever a header holds, it is a number or nothing."""
    found = parse_duration(text)
    assert found is None or isinstance(found, float)
