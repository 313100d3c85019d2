"""Calibration error: bins of equal size, by hand and by its properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.report.aggregate import ItemScores, RepeatScores, aggregate_scores
from evalkit.report.statistics import calibration_error

FRACTIONS = st.floats(0, 1)
PAIRS = st.lists(st.tuples(FRACTIONS, st.sampled_from([0.0, 1.0])), min_size=1, max_size=50)


def test_two_bins_by_hand() -> None:
    """The less confident half says 0.2 and is right half of the time, the other says 0.9 and is."""
    confidences = [0.9, 0.2, 0.9, 0.2]
    correct = [1.0, 0.0, 1.0, 1.0]
    expected = math.sqrt(0.5 * (0.2 - 0.5) ** 2 + 0.5 * (0.9 - 1.0) ** 2)
    assert calibration_error(confidences, correct, bin_size=2) == pytest.approx(expected)


def test_last_bin_takes_the_rest() -> None:
    """Five answers in bins of two are a bin of two and one of three."""
    confidences = [0.1, 0.2, 0.3, 0.4, 0.5]
    correct = [0.0, 0.0, 1.0, 1.0, 1.0]
    expected = math.sqrt(2 / 5 * 0.15**2 + 3 / 5 * 0.6**2)
    assert calibration_error(confidences, correct, bin_size=2) == pytest.approx(expected)


def test_fewer_answers_than_a_bin() -> None:
    """They are one bin."""
    assert calibration_error([1.0, 1.0], [1.0, 0.0], bin_size=100) == pytest.approx(0.5)


def test_authors_variant_leaves_the_last_bin_out() -> None:
    """Of five answers in bins of two the three most confident; they stay in the number of answers."""
    confidences = [0.5, 0.1, 0.4, 0.2, 0.3]
    correct = [1.0, 0.0, 1.0, 0.0, 1.0]
    found = calibration_error(confidences, correct, bin_size=2, without_last=True)
    assert found == pytest.approx(math.sqrt(2 / 5 * 0.15**2))
    with pytest.raises(ValueError, match="3 answers are one bin"):
        calibration_error([0.1] * 3, [1.0] * 3, bin_size=2, without_last=True)


@given(PAIRS, st.integers(1, 20))
def test_without_the_last_bin_it_is_never_larger(
    pairs: list[tuple[float, float]], bin_size: int
) -> None:
    """A sum of squares without one of them."""
    confidences, correct = zip(*pairs, strict=True)
    if len(pairs) >= 2 * bin_size:
        part = calibration_error(confidences, correct, bin_size=bin_size, without_last=True)
        assert part <= calibration_error(confidences, correct, bin_size=bin_size)


def test_no_answers() -> None:
    """Nothing is no zero."""
    with pytest.raises(ValueError, match="no answers"):
        calibration_error([], [], bin_size=100)


@given(PAIRS, st.integers(1, 20))
def test_bounds(pairs: list[tuple[float, float]], bin_size: int) -> None:
    """A fraction, and 0 where everybody is as right as sure."""
    confidences, correct = zip(*pairs, strict=True)
    assert 0 <= calibration_error(confidences, correct, bin_size=bin_size) <= 1
    assert calibration_error(correct, correct, bin_size=bin_size) == 0


def test_among_the_metrics() -> None:
    """Over all repeats, under the mode of the headline only."""
    items = [
        ItemScores(
            f"s{i}", [RepeatScores(None, {"right": float(i % 2), "sure": 0.75}) for _ in range(2)]
        )
        for i in range(4)
    ]
    found = aggregate_scores(items, calibration=("right", "sure"))
    assert found.metrics["pass@1[avg-of-2]"]["calibration_error"] == pytest.approx(0.25)
    assert "calibration_error" not in found.metrics["pass@1"]
    assert "calibration_error_without_last_bin" not in found.metrics["pass@1[avg-of-2]"]
    assert "calibration_error" not in found.statistics
    with pytest.raises(ValueError, match="calibration names"):
        aggregate_scores(items, calibration=("right", "certain"))


def test_both_variants_are_named() -> None:
    """From two bins of a hundred on: the first is half of the answers, and 0.5 too sure."""
    items = [
        ItemScores(f"s{i}", [RepeatScores(None, {"right": float(i > 99), "sure": 0.5 + i / 1e6})])
        for i in range(200)
    ]
    metrics = aggregate_scores(items, calibration=("right", "sure")).metrics["pass@1"]
    assert metrics["calibration_error"] == pytest.approx(0.5, abs=1e-3)
    expected = math.sqrt(0.5 * 0.5**2)
    assert metrics["calibration_error_without_last_bin"] == pytest.approx(expected, abs=1e-3)
