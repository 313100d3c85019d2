"""The allowed rate is found from refusals, against a simulated endpoint with a simulated clock."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass

import pytest

from evalkit.client.pace import FIRST_WINDOW, Pace

RTT_S = 0.02


@dataclass
class Endpoint:
    """A token bucket of requests, or an endpoint that refuses by chance."""

    per_s: float
    burst: float
    says: bool = True
    """Whether a refusal says when to come back, in whole seconds."""
    lowers: tuple[float, float] = (math.inf, 0.0)
    """When its rate becomes another one."""
    by_chance: float = 0.0
    last: float = 0.0

    def __post_init__(self) -> None:
        self.level = self.burst
        self.random = random.Random(1)

    def take(self, now: float) -> float | None:
        """Null, or how long to wait; -1 says nothing."""
        if self.by_chance:
            return 1.0 if self.random.random() < self.by_chance else None
        rate = self.per_s if now < self.lowers[0] else self.lowers[1]
        self.level = min(self.burst, self.level + (now - self.last) * rate)
        self.last = now
        if self.level >= 1:
            self.level -= 1
            return None
        return max(1.0, math.ceil((1 - self.level) / rate)) if self.says else -1.0


def simulate(endpoint: Endpoint, calls: int, latency_s: float) -> tuple[float, int]:
    """Seconds until so many calls are answered, 256 at once at most, and the refusals."""
    pace = Pace(256, is_known=False)
    events: list[tuple[float, int, str, object]] = []
    now, to_send, done, number = 0.0, calls, 0, 0
    while done < calls:
        wait = pace.wait(now)
        while to_send and wait <= 0:
            number += 1
            heapq.heappush(events, (now + RTT_S, number, "arrives", pace.send(now)))
            to_send -= 1
            wait = pace.wait(now)
        if to_send and now + wait < (events[0][0] if events else math.inf):
            now += wait
            continue
        now, _, event, tried = heapq.heappop(events)
        number += 1
        if event == "arrives":
            asked = endpoint.take(now)
            if asked is None:
                heapq.heappush(events, (now + latency_s, number, "answered", tried))
            elif pace.refuse(tried, now, None if asked < 0 else asked):  # type: ignore[arg-type]
                to_send += 1
            else:
                heapq.heappush(events, (now + max(0.75, asked), number, "again", tried))
        elif event == "again":
            to_send += 1
        else:
            pace.end(now)
            done += 1
    return now, pace.refused


@pytest.mark.parametrize("says", [True, False], ids=["retry-after", "silent"])
@pytest.mark.parametrize("latency_s", [0.2, 20.0])
@pytest.mark.parametrize(("per_s", "burst"), [(0.67, 10), (5.0, 10), (5.0, 60), (50.0, 60)])
def test_near_the_allowed_rate(per_s: float, burst: float, latency_s: float, says: bool) -> None:
    """Ten minutes of calls at 40 a minute to 50 a second: most of what is allowed is used, and few are
    refused."""
    if per_s * latency_s > 256:
        per_s = 10.0  # more would need more than 256 calls at once
    calls = int(600 * per_s + burst)
    seconds, refused = simulate(Endpoint(per_s, burst, says), calls, latency_s)
    assert (calls - burst) / per_s / (seconds - latency_s) > 0.9
    assert refused / (calls + refused) < 0.08


def test_lowered_and_raised_limits_are_found() -> None:
    """A limit that falls to a quarter, and one that becomes four times as high."""
    seconds, refused = simulate(Endpoint(20, 20, lowers=(60, 5)), 20 * 60 + 5 * 300, 1.0)
    assert 360 < seconds < 400
    assert refused < 100
    seconds, _ = simulate(Endpoint(5, 10, lowers=(60, 20)), 5 * 60 + 20 * 300, 1.0)
    assert seconds < 600, "at the old rate it would be 1260"


@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
def test_refusals_by_chance_are_no_limit(share: float) -> None:
    """One call in some is refused whatever the rate: calls do not come to a standstill. Rare refusals
    are the hardest to tell from a limit."""
    seconds, refused = simulate(Endpoint(1, 1, by_chance=share), 3000, 0.5)
    assert seconds < 1500
    assert refused / (3000 + refused) == pytest.approx(share, rel=0.3)


def test_an_unknown_endpoint_is_tried_carefully() -> None:
    """Some calls at once, more with answers, more with time; a known one gets all at once."""
    pace = Pace(256, is_known=False)
    tries = 0
    while pace.wait(0.0) <= 0:
        pace.send(0.0)
        tries += 1
    assert tries == FIRST_WINDOW
    assert pace.wait(3.0) == 0, "time doubles the window"
    known = Pace(256)
    for _ in range(256):
        assert known.wait(0.0) <= 0
        known.send(0.0)
    assert known.wait(0.0) == math.inf


def test_pauses_double_while_nothing_is_accepted() -> None:
    """An endpoint that says no to everything is asked ever less often, by one call at a time."""
    pace, now, pauses = Pace(64, is_known=False), 0.0, []
    for _ in range(8):
        tried = pace.send(now)
        assert pace.refuse(tried, now, None)
        pauses.append(pace.opens - now)
        now = pace.opens
        assert pace.window == 1
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert pace.rate is None
