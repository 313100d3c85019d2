"""Student's t against scipy's."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs
from scipy import special, stats

from evalkit.report.student import incomplete_beta, t_quantile, t_tail

FEW = settings(max_examples=30)


@FEW
@given(hs.floats(0.5, 1e5), hs.floats(-40, 40))
def test_tail(df: float, t: float) -> None:
    """The two-sided p-value, on both sides of the switch of the continued fraction."""
    assert t_tail(t, df) == pytest.approx(2 * stats.t.sf(abs(t), df), rel=1e-7, abs=1e-12)


@FEW
@given(hs.floats(0.5, 1e5), hs.floats(1e-4, 1 - 1e-4))
def test_quantile(df: float, probability: float) -> None:
    """The quantile is scipy's, and its tail is what was asked for."""
    found = t_quantile(probability, df)
    assert found == pytest.approx(stats.t.ppf(probability, df), rel=1e-6, abs=1e-9)
    assert t_tail(found, df) == pytest.approx(2 * min(probability, 1 - probability), rel=1e-9)


@FEW
@given(hs.floats(0.1, 500), hs.floats(0.1, 500), hs.floats(0, 1))
def test_incomplete_beta(a: float, b: float, x: float) -> None:
    """The function below both."""
    assert incomplete_beta(a, b, x, 1 - x) == pytest.approx(
        special.betainc(a, b, x), rel=1e-9, abs=1e-12
    )


def test_infinite_degrees_of_freedom_are_the_normal_distribution() -> None:
    """Of a variance that is known."""
    assert t_quantile(0.975, math.inf) == pytest.approx(1.959963984540054)
    assert t_tail(1.959963984540054, math.inf) == pytest.approx(0.05)


def test_extremes() -> None:
    """Nothing is surer than certain, and the median is 0."""
    assert t_tail(0.0, 7) == 1.0
    assert t_tail(math.inf, 7) == 0.0
    assert t_quantile(0.5, 7) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("probability", [0.0, 1.0, -1.0])
def test_no_probability(probability: float) -> None:
    """Quantiles of what is no probability do not exist."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        t_quantile(probability, 5)


def test_no_degrees_of_freedom() -> None:
    """One cluster has no error."""
    with pytest.raises(ValueError, match="must be positive"):
        t_tail(1.0, 0)
