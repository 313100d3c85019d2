"""Exact totals, means and percentiles of millions of numbers in eight bytes each.

Never an average of averages: every number is kept until the end. Order does not matter (sums are
correctly rounded), so journals read in another order give the same bytes.
"""

from __future__ import annotations

import math
from array import array

from evalkit.report.results import Distribution


class Tally:
    """Collects one kind of number; null counts as unknown."""

    def __init__(self, *, whole: bool) -> None:
        """`whole` numbers are given back as integers."""
        self._values = array("d")
        self._unknown = 0
        self._whole = whole

    def add(self, value: float | None) -> None:
        """Take one number, or note that it is unknown."""
        if value is None:
            self._unknown += 1
        else:
            self._values.append(value)

    def distribution(self) -> Distribution:
        """Statistics of all numbers so far; null fields where there are none."""
        ordered = sorted(self._values)
        if not ordered:
            return Distribution(
                count=0,
                unknown=self._unknown,
                total=None,
                mean=None,
                p50=None,
                p95=None,
                max=None,
            )
        total = math.fsum(ordered)
        return Distribution(
            count=len(ordered),
            unknown=self._unknown,
            total=self._number(total),
            mean=total / len(ordered),
            p50=self._number(nearest_rank(ordered, 0.5)),
            p95=self._number(nearest_rank(ordered, 0.95)),
            max=self._number(ordered[-1]),
        )

    def _number(self, value: float) -> int | float:
        return int(value) if self._whole else value


def nearest_rank(ordered: list[float], share: float) -> float:
    """The least of the ascending, non-empty values that at least `share` of them do not exceed."""
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]
