"""How fast one endpoint may be asked: found out from what it refuses. Pure; the caller brings the time.

Providers limit requests and tokens per minute, or calls at once; few say how much, and none says it
like another. All of these look the same from here: calls are accepted until one is refused. Between
two refusals for rate the endpoint's bucket went from empty to empty, so what it accepted in between,
over the time that took, is what it allows. Calls are then spaced a little below that; the spacing
shrinks along a cubic, slowly around the rate that was found and faster after, so that a limit that
was raised is found again (the idea of CUBIC, RFC 9438, for a rate instead of a window).

Some refusals are not about our rate: a provider behind the endpoint is busy, and says no to one call in
ten however seldom it is asked. Where calls are refused at a small part of the pace that was fine before,
slower ones would be refused, too: then only the refused call waits, unless most calls are refused then.

The window is for the first seconds: it starts small and grows with answers and with time, so that a
first refusal costs some calls and not hundreds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST_WINDOW = 8
"""Calls that are sent to an unknown endpoint at once."""
PER_ANSWER = 0.25
"""Calls that an answer adds to them; time doubles them every second, for answers that take minutes."""
SHORTEST_S = 1.0
"""Between two refusals, for a rate to be measured: of what was sent just now, nobody knows yet whether it
was accepted."""
BELOW = 0.97
"""Where the spacing begins, as a share of the rate that was found."""
RETURN_S = 30.0
"""Most seconds until it is at that rate again; it is 20 % above it after twice as long. Less after a
short time between two refusals: what was measured then is not known well."""
FIRST_GATE_S = 1.0
LATE_S = 0.05
"""So late a call may be without moving the next one: event loops are."""
LONGEST_GATE_S = 60.0
"""Pauses after refusals that say no time: they double while nothing is accepted in between."""
FALLEN = 4.0
"""So many times lower than it was, a rate is no limit that was found: refusals then have another reason,
or the limit was lowered. Which of the two, some calls without a pace tell; the next time it takes more."""
BURST = 1
"""Measurements of the start, when a full bucket lets anything through."""
LOOK_AT = 32
"""Calls without a pace after which it is seen whether that goes well."""
MANY_NEWS = 8
"""Refusals, each after a pause, among so many calls with a pace: slower ones would not be fewer."""
MOST_REFUSED = 0.75


@dataclass(frozen=True, slots=True)
class Try:
    """One request that was sent."""

    number: int
    started: float


class Pace:
    """What may be sent to one endpoint, and when. Times are of one monotonic clock (s)."""

    def __init__(self, most: int, *, is_known: bool = True) -> None:
        """`most` calls at once are allowed in any case; an endpoint that is not `is_known` is tried
        carefully."""
        self._most = most
        self._window = float(most if is_known else min(FIRST_WINDOW, most))
        self._grows = not is_known
        self._grown: float | None = None
        """When the window last grew with time; null before the first try."""
        self.rate: float | None = None
        """Calls per second that were found to be allowed; null while nothing limits them."""
        self._from = 0.0
        """When the bucket was last known to be empty."""
        self.opens = 0.0
        """When calls are sent again after a refusal."""
        self._next = 0.0
        self._sent = 0
        self._numbers = 0
        self._since = 0
        """Number of the first try after the last reaction: older ones say nothing new."""
        self._pauses = 0
        self._return_s = RETURN_S
        self._measured, self._best = 0, 0.0
        self._fallen = FALLEN
        self._is_free = False
        """Refusals are not about the rate: each call waits for itself."""
        self._seen = [0, 0]
        """Calls that were sent, and refused, of those that are looked at now."""
        self.in_flight = 0
        self.refused = 0
        """Refusals so far."""
        self.accepted = -math.inf
        """When something was last known to be accepted, or the first try was sent."""

    @property
    def window(self) -> int:
        """Calls that may be in flight."""
        return max(1, min(self._most, int(self._window)))

    def wait(self, now: float) -> float:
        """Seconds until a call may be sent; infinite until one of those in flight has ended."""
        since = self._grown
        if self._grows and self._window < self._most and since is not None and since < now:
            self._window = min(self._most, self._window * 2.0 ** min(now - since, 60.0))
            self._grown = now
        if self.in_flight >= self.window:
            return 1.0 if self._grows and self._window < self._most else math.inf
        return max(0.0, self.opens - now, self._next - now)

    def send(self, now: float) -> Try:
        """A call is sent."""
        if self.accepted == -math.inf:
            self.accepted = self._from = now
        if self._grown is None:
            self._grown = now
        self.in_flight += 1
        self._sent += 1
        self._numbers += 1
        self._seen[0] += 1
        if self.rate is not None:
            self._next = max(self._next, now - LATE_S) + 1.0 / self._spaced(self.rate, now)
        return Try(self._numbers, now)

    def _spaced(self, rate: float, now: float) -> float:
        """Calls per second at this moment."""
        elapsed = max(0.0, now - self.opens)
        return rate * (BELOW + (1.0 - BELOW) * (elapsed / self._return_s) ** 3)

    def end(self, now: float) -> None:
        """A call has ended in any way but a refusal for rate; the endpoint had taken it."""
        self.in_flight -= 1
        self.accepted = now
        if self._grows:
            self._window = min(self._most, self._window + PER_ANSWER)

    def drop(self) -> None:
        """A call has ended of which nobody knows whether it was taken."""
        self.in_flight -= 1

    def refuse(self, tried: Try, now: float, after_s: float | None) -> bool:
        """A call was refused for rate; `after_s` is what the endpoint asked to wait.

        Returns whether all calls wait for that, and not only this one.
        """
        self.in_flight -= 1
        self.refused += 1
        self._seen[1] += self._is_free or tried.number >= self._since
        if self._is_free and not self._goes_wrong():
            return False
        if tried.number < self._since:  # sent before the last reaction
            if after_s is not None:
                self.opens = max(self.opens, now + after_s)
            return True
        self._react(now)
        if self._is_free:
            return False
        self.opens = now + self._pause(after_s)
        if self.rate is None:  # too early to say; where nothing was accepted, one call finds out
            window = max(1.0, self._window / 2) if self._sent > 0 else 1.0
            self._grows, self._window, self._grown = True, window, self.opens
        else:
            self._grows, self._window = False, float(self._most)
        return True

    def _react(self, now: float) -> None:
        """Learn from a refusal that is news."""
        self._since = self._numbers + 1
        self._sent -= 1
        if self._sent <= 0:
            return
        self._pauses, self.accepted = 0, now
        if now - self._from >= SHORTEST_S:
            self._measure(now)
        if not self._is_free and self._is_senseless():
            self._set_free(now)

    def _set_free(self, now: float) -> None:
        """Send without a pace, carefully at first, and see."""
        self._is_free, self.rate, self._seen = True, None, [0, 0]
        self._next = self.opens = 0.0
        self._grows, self._window, self._grown = True, float(min(FIRST_WINDOW, self._most)), now

    def _goes_wrong(self) -> bool:
        """Whether calls without a pace are mostly refused: then there is a limit after all."""
        sent, refused = self._seen
        if sent < LOOK_AT:
            return False
        self._seen = [0, 0]
        if refused < MOST_REFUSED * sent:
            return False
        self._is_free, self._since = False, 0
        self._best, self._measured, self._fallen = 0.0, 0, self._fallen * 2
        self._sent = max(self._sent - refused, 0)
        return True

    def _is_senseless(self) -> bool:
        """Whether a pace does not help: of some calls, still many are refused."""
        sent, news = self._seen
        if sent > LOOK_AT:
            self._seen = [0, 0]
        return news * FALLEN >= MANY_NEWS * self._fallen and sent <= LOOK_AT

    def _measure(self, now: float) -> None:
        """Take what was accepted since the bucket was last empty for the rate that is allowed."""
        span = now - self._from
        active = max(now - max(self.opens, self._from), SHORTEST_S)
        # The first misses what a full bucket lost; the second counts what it had saved up.
        least = self._sent / span
        rate = (least + min(self._sent / active, 2 * least)) / 2
        self._return_s = min(RETURN_S, 1.5 * span)
        self._from, self._sent = now, 0
        self._measured += 1
        if self._measured > BURST:
            self._best = max(self._best, rate)
        self.rate = rate
        if self._fallen * rate < self._best:
            self._set_free(now)

    def _pause(self, after_s: float | None) -> float:
        """Seconds without a call. One that was long enough let something through; else it doubles."""
        self._pauses += 1
        doublings = self._pauses - (1 if after_s is None else 2)
        doubled = min(LONGEST_GATE_S, FIRST_GATE_S * 2.0**doublings) if doublings >= 0 else 0.0
        return max(after_s or 0.0, doubled)
