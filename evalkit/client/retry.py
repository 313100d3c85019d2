"""What to do after a call failed: try again, and when, or stop.

Pure: the caller brings the clock and the random number. Retried are connection errors, 408, 409, 429
and 5xx, and answers that were cut off; never any other 4xx, which is the recipe's or the model's
fault and would fail again.
"""

from __future__ import annotations

from dataclasses import dataclass

RETRIED_STATUS = frozenset({408, 409, 429})
REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})
"""Never followed: a key goes to the address in the recipe and nowhere else."""
REFUSED_STATUS = frozenset({401, 402, 403, 404, 405}) | REDIRECT_STATUS
"""The key, the account, the model or the path is wrong: no other call can succeed either."""
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 60.0


def is_retried(status: int) -> bool:
    """Whether an HTTP status may pass on another try."""
    return status in RETRIED_STATUS or status >= 500


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounds of one call's retries."""

    max_retries: int
    budget_s: float
    """Longest time from the first failure to the start of the last try."""

    def delay(
        self, retries: int, elapsed_s: float, jitter: float, retry_after_s: float | None = None
    ) -> float | None:
        """Seconds to wait before the next try, or null when there is none.

        `retries` were made so far, `elapsed_s` is the time since the first failure; `jitter` is uniform in [0, 1). Exponential with full jitter over
        the upper half, and never sooner than the server asked for.
        """
        if retries >= self.max_retries:
            return None
        ceiling = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(retries, 30))
        delay = max(ceiling * (0.5 + 0.5 * jitter), retry_after_s or 0.0)
        return None if elapsed_s + delay > self.budget_s else delay
