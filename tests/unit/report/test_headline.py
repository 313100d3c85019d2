"""Bounds of a headline that is withheld."""

import pytest

from evalkit.benchmarks.contract import Sample
from evalkit.report.aggregate import RepeatScores
from evalkit.report.headline import (
    count_parts,
    find_bounds,
    find_sum_bounds,
    split_by_subset,
)
from evalkit.report.statistics import Interval


def scores(*values: float | None, weight: float | None = None) -> list[RepeatScores | None]:
    """Scores `c`, null where missing, of items with `w` parts."""
    extra = {} if weight is None else {"w": weight}
    return [None if v is None else RepeatScores("a", {"c": v, **extra}) for v in values]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1.0, 0.0, 1.0, 1.0), (0.75, 0.75)),
        ((1.0, None, 1.0, None), (0.5, 1.0)),
        ((None, None, None, None), (0.0, 1.0)),
        ((0.5, None, 0.0, 0.0), (0.125, 0.375)),
    ],
)
def test_missing_is_once_wrong_and_once_right(
    values: tuple[float | None, ...], expected: tuple[float, float]
) -> None:
    """Known scores count in both bounds, missing ones as 0 and as 1."""
    assert find_bounds(scores(*values), 2, "c", None) == Interval(*expected)


def test_a_missing_repeat_of_a_counting_score_may_reach_its_weight() -> None:
    """Two items of 4 and 2 steps, one repeat of the first missing."""
    known = scores(3.0, None, weight=4.0) + scores(2.0, 0.0, weight=2.0)
    assert find_bounds(known, 2, "c", "w") == Interval(5 / 12, 9 / 12)


def test_no_bounds_where_the_range_is_not_known() -> None:
    """A score above 1 without a weight, or an item whose weight nobody knows yet."""
    assert find_bounds(scores(7.0, None), 2, "c", None) is None
    assert find_bounds(scores(None, None), 2, "c", "w") is None
    assert find_bounds(scores(0.0, 0.0, weight=0.0), 2, "c", "w") is None


def test_bounds_of_a_sum_are_the_sum_of_bounds() -> None:
    """Each subset has its share; one without bounds leaves the whole without."""
    subsets = {"a": scores(1.0, None), "b": scores(0.0, 0.0)}
    found = find_sum_bounds(subsets, {"a": 0.6, "b": 0.4}, 1, "c", None)
    assert found == Interval(0.3, 0.6)
    assert (
        find_sum_bounds({**subsets, "b": scores(7.0)}, {"a": 0.6, "b": 0.4}, 1, "c", None) is None
    )


def test_scores_are_split_by_subset_with_all_repeats() -> None:
    """In order; samples of no subset are left out. A sample without any score counts as one part."""
    samples = [Sample("1", subset="a"), Sample("2"), Sample("3", subset="a")]
    all_scores = scores(1.0, 2.0, weight=4.0) + scores(9.0, 9.0) + scores(None, None)
    subsets = split_by_subset(samples, all_scores, 2)
    assert subsets == {"a": [*all_scores[:2], None, None]}
    assert count_parts(subsets["a"], 2, "w") == 5.0
    assert count_parts(subsets["a"], 2, None) == 2.0
