"""Agreement with a published score: the formulas against others, and the error rates by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs
from scipy import optimize

from evalkit.report import statistics as st
from evalkit.report.repeatability import (
    Published,
    Row,
    Within,
    compare_published,
    repeats_needed,
    within_variance,
)

FEW = settings(max_examples=30)
TABLES = hs.integers(2, 5).flatmap(
    lambda k: hs.lists(
        hs.lists(hs.sampled_from([0.0, 1.0]), min_size=k, max_size=k), min_size=2, max_size=8
    )
)


@FEW
@given(TABLES)
def test_within_variance_is_that_of_answering_again(scores: list[list[float]]) -> None:
    """k times the squared standard error for fixed items, where any sample varies."""
    k = len(scores[0])
    found = within_variance([Row(row) for row in scores])
    least = 1 / k / len(scores) ** 2
    expected = k * st.se_sampling_fixed_items(scores) ** 2
    assert found.variance == pytest.approx(max(expected, least))
    assert not found.is_bound
    assert 0 < found.df <= len(scores) * (k - 1) + 1e-9


def test_degrees_of_freedom_by_hand() -> None:
    """Satterthwaite: two samples of one variance have twice the degrees of freedom of one."""
    assert within_variance([Row([0.0, 1.0, 1.0]), Row([1.0, 0.0, 1.0])]).df == pytest.approx(4)
    assert within_variance([Row([0.0, 1.0, 1.0]), Row([1.0, 1.0, 1.0])]).df == pytest.approx(2)


def test_samples_that_never_vary_are_taken_to_have_one_odd_answer() -> None:
    """No spread was seen in eight answers: that does not prove that there is none."""
    found = within_variance([Row([1.0] * 8)] * 10)
    odd = within_variance([Row([1.0] * 7 + [0.0]), *[Row([1.0] * 8)] * 9])
    assert found.variance == pytest.approx(odd.variance)


@FEW
@given(hs.lists(hs.integers(1, 6), min_size=1, max_size=6), hs.data())
def test_one_repeat_gives_a_bound(weights: list[int], data: hs.DataObject) -> None:
    """No rates of single answers with this average have a larger variance (found by an optimiser)."""
    counts = [data.draw(hs.integers(0, w)) for w in weights]
    found = within_variance(
        [Row([float(c)], float(w)) for c, w in zip(counts, weights, strict=True)]
    )
    total = sum(weights)
    average = (sum(counts) + 1) / (total + 2) * total
    limits = np.array(weights, dtype=float)
    start = limits * average / total
    best = optimize.minimize(
        lambda mu: float(-(mu * (limits - mu)).sum()),
        start,
        constraints=[{"type": "eq", "fun": lambda mu: mu.sum() - average}],
        bounds=[(0, w) for w in weights],
    )
    assert found.is_bound
    assert math.isinf(found.df)
    assert found.variance >= -best.fun / total**2 - 1e-6


def test_strata_add_up() -> None:
    """A weighted sum of independent parts."""
    one = [Row([0.0, 1.0], stratum="a"), Row([1.0, 1.0], stratum="a")]
    two = [Row([0.0, 1.0], stratum="b")] * 3
    found = within_variance([*one, *two], {"a": 0.25, "b": 0.75})
    alone = [within_variance([row._replace(stratum="") for row in part]) for part in (one, two)]
    expected = 0.25**2 * alone[0].variance + 0.75**2 * alone[1].variance
    assert found.variance == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rows", "strata", "message"),
    [
        ([Row([1.0]), Row([1.0, 0.0])], None, "same number of repeats"),
        ([], None, "same number of repeats"),
        ([Row([1.0], stratum="a")], {"a": 0.5, "b": 0.5}, "no samples b"),
    ],
)
def test_undefined(rows: list[Row], strata: dict[str, float] | None, message: str) -> None:
    """Where nothing is known there is no number."""
    with pytest.raises(ValueError, match=message):
        within_variance(rows, strata)


def test_both_errors_and_the_rounding_count() -> None:
    """S (1/k + 1/k_c), and half a unit of the last digit at both ends."""
    within = Within(0.04 / 100, math.inf, False)
    found = compare_published(0.75, 4, within, Published(0.731, 8, 0.0005))
    error = math.sqrt(0.0004 * (1 / 4 + 1 / 8))
    half = 1.959963984540054 * error + 0.0005
    assert found.standard_error == pytest.approx(error)
    assert tuple(found.interval) == pytest.approx((0.019 - half, 0.019 + half))
    assert found.consistent
    assert not compare_published(
        0.731 + half + 1e-6, 4, within, Published(0.731, 8, 0.0005)
    ).consistent


@FEW
@given(hs.floats(-0.1, 0.1), hs.integers(1, 64), hs.floats(2, 1e4))
def test_interval_and_p_value_say_the_same(difference: float, repeats: int, df: float) -> None:
    """Consistent means p >= 0.05 means 0 in the interval."""
    within = Within(0.0005, df, False)
    found = compare_published(0.5 + difference, repeats, within, Published(0.5, 8, 0.0005))
    assert found.consistent == (found.interval.low <= 0 <= found.interval.high)
    if abs(found.p_value - 0.05) > 1e-9:
        assert found.consistent == (found.p_value > 0.05)


def test_needed_repeats_are_enough_and_one_less_is_not() -> None:
    """At so many repeats the power of the z test is 80 %, with the rounding against us."""
    within, published = Within(0.0003, math.inf, False), Published(0.73, 64, 0.0005)
    needed = repeats_needed(0.01, within, published)
    assert needed is not None

    def power_gap(repeats: int) -> float:
        error = math.sqrt(within.variance * (1 / repeats + 1 / 64))
        return (0.01 - 0.0005) / error - (1.959963984540054 + 0.8416212335729143)

    assert power_gap(needed) >= 0 > power_gap(needed - 1)


def test_no_number_of_repeats_beats_the_published_error() -> None:
    """The card's own sampling error, or its rounding, is in every comparison."""
    assert repeats_needed(0.01, Within(0.0008, math.inf, False), Published(0.73, 1, 0.0005)) is None
    assert repeats_needed(0.004, Within(1e-9, math.inf, False), Published(0.73, 8, 0.005)) is None


def shifted(rates: np.ndarray, by: float) -> np.ndarray:
    """The rates, lowered on the scale of log odds until their mean is `by` less."""
    log_odds = np.log(rates / (1 - rates))

    def gap(shift: float) -> float:
        return float((1 / (1 + np.exp(-(log_odds - shift)))).mean() - rates.mean() + by)

    return np.asarray(1 / (1 + np.exp(-(log_odds - optimize.brentq(gap, 0, 20)))))


@pytest.mark.parametrize(
    ("n", "ours", "theirs", "mean", "most", "power"),
    [
        (30, 64, 64, 0.891, 0.12, 0.9),  # AIME 2025
        (198, 8, 8, 0.73, 0.12, 0.75),  # GPQA Diamond
        (2158, 1, 1, 0.106, 0.05, 0.95),  # HLE: the bound of one repeat
    ],
)
def test_error_rates(
    n: int, ours: int, theirs: int, mean: float, most: float, power: float
) -> None:
    """Runs of the card's model are refused in 5 % (less by the bound), runs 5 points worse nearly
    always; the published value rounded to one decimal."""
    rng = np.random.default_rng(n)
    rates = np.clip(rng.beta(2 * mean, 2 * (1 - mean), n), 1e-6, 1 - 1e-6)
    worse = shifted(rates, 0.05)
    refused = [0, 0]
    draws = 80 if n < 1000 else 20
    for _ in range(draws):
        card = round(100 * float(rng.binomial(theirs, rates).sum()) / (n * theirs), 1) / 100
        for index, model in enumerate((rates, worse)):
            scores = (rng.random((n, ours)) < model[:, None]).astype(float)
            within = within_variance([Row(row) for row in scores.tolist()])
            found = compare_published(
                float(scores.mean()), ours, within, Published(card, theirs, 0.0005)
            )
            refused[index] += not found.consistent
    assert refused[0] / draws <= most
    assert refused[1] / draws >= power
