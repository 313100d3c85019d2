"""Exact statistics of token counts and latencies."""

import random

from hypothesis import given
from hypothesis import strategies as st

from evalkit.report.distribution import Tally, nearest_rank
from evalkit.report.results import Distribution


def tally(values: list[float | None], *, whole: bool = False) -> Distribution:
    """The distribution of the values."""
    collected = Tally(whole=whole)
    for value in values:
        collected.add(value)
    return collected.distribution()


def test_known_numbers() -> None:
    """1 to 20: the median by nearest rank is 10, the 95th percentile 19."""
    found = tally([float(x) for x in range(1, 21)], whole=True)
    assert (found.total, found.mean, found.p50, found.p95, found.max) == (210, 10.5, 10, 19, 20)
    assert isinstance(found.total, int)


def test_unknown_numbers_are_in_no_statistic() -> None:
    """Null is counted apart and does not pull the mean to 0."""
    found = tally([None, 4.0, None])
    assert (found.count, found.unknown, found.mean) == (1, 2, 4.0)


def test_nothing_known_is_null() -> None:
    """No number, no statistic."""
    found = tally([None])
    assert (found.count, found.unknown) == (0, 1)
    assert found.total is found.mean is found.p50 is found.p95 is found.max is None


@given(st.lists(st.floats(0, 1e6), min_size=1), st.randoms(use_true_random=False))
def test_order_does_not_matter(values: list[float], rng: random.Random) -> None:
    """Any order of the same numbers gives the same statistics to the last bit."""
    shuffled = values.copy()
    rng.shuffle(shuffled)
    assert tally([*values]) == tally([*shuffled])


@given(st.lists(st.integers(0, 50), min_size=1), st.floats(0.01, 1))
def test_nearest_rank_is_the_least_value_that_covers_the_share(
    values: list[int], share: float
) -> None:
    """At least the share is not above it, and less than the share is below it."""
    ordered = sorted(float(v) for v in values)
    found = nearest_rank(ordered, share)
    assert sum(v <= found for v in ordered) >= share * len(ordered) * (1 - 1e-12)
    assert sum(v < found for v in ordered) < share * len(ordered) or found == ordered[0]
