"""Bounds of a headline that is withheld."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.benchmarks.contract import Sample
from evalkit.report.aggregate import ItemScores, RepeatScores, SubsetSums, aggregate_scores
from evalkit.report.headline import (
    SampleScores,
    count_parts,
    find_bounds,
    find_sum_bounds,
    list_samples,
    split_by_subset,
)
from evalkit.report.statistics import Interval
from evalkit.scoring.bfcl_categories import CATEGORIES, RELEVANCE, subset_weights


def row(
    *values: float | None, limit: float | None = 1.0, subset: str | None = None
) -> SampleScores:
    """Scores `c`, null where missing, of a sample with `w` parts."""
    scores = [
        None if v is None else RepeatScores("a", {"c": v, "w": 1.0 if limit is None else limit})
        for v in values
    ]
    return SampleScores(scores, limit, subset)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row(1.0, 0.0), row(1.0, 1.0)], (0.75, 0.75)),
        ([row(1.0, None), row(1.0, None)], (0.5, 1.0)),
        ([row(None, None), row(None, None)], (0.0, 1.0)),
        ([row(0.5, None), row(0.0, 0.0)], (0.125, 0.375)),
    ],
)
def test_missing_is_once_wrong_and_once_right(
    rows: list[SampleScores], expected: tuple[float, float]
) -> None:
    """Known scores count in both bounds, missing ones as 0 and as 1."""
    assert find_bounds(rows, "c") == Interval(*expected)


def test_a_missing_unit_of_a_counting_score_may_reach_its_parts() -> None:
    """One repeat of the first of three samples is missing, and the third as a whole."""
    rows = [row(3.0, None, limit=4.0), row(2.0, 0.0, limit=2.0), row(None, None, limit=4.0)]
    assert find_bounds(rows, "c") == Interval(5 / 20, 17 / 20)


def test_a_sample_of_unknown_size_may_outweigh_all_others() -> None:
    """Nobody knows its parts yet, so nothing is excluded but what is no fraction."""
    assert find_bounds([row(1.0), row(None, limit=None)], "c") == Interval(0.0, 1.0)


def test_no_bounds_where_the_range_is_not_known() -> None:
    """A score above what it may reach, or a task in which nothing can be reached."""
    assert find_bounds([row(7.0, None)], "c") is None
    assert find_bounds([row(7.0), row(None, limit=None)], "c") is None
    assert find_bounds([row(0.0, 0.0, limit=0.0)], "c") is None


def test_bounds_of_a_sum_are_the_sum_of_bounds() -> None:
    """Each subset has its share; one without bounds leaves the whole without, and so does one of
    unknown size, since the shares may depend on it."""
    subsets = {"a": [row(1.0), row(None)], "b": [row(0.0), row(0.0)]}
    assert find_sum_bounds(subsets, {"a": 0.6, "b": 0.4}, "c") == Interval(0.3, 0.6)
    assert find_sum_bounds(subsets, {"a": -0.6}, "c") == Interval(-0.6, -0.3)
    for odd in (row(7.0), row(None, limit=None)):
        assert find_sum_bounds({**subsets, "b": [odd]}, {"a": 0.6, "b": 0.4}, "c") is None


def test_samples_know_what_they_may_reach() -> None:
    """From a repeat that has a score, else from the benchmark; without a weight it is 1."""
    samples = [Sample("1", subset="a"), Sample("2"), Sample("3", subset="a"), Sample("4")]
    scored, missing = RepeatScores("a", {"c": 1.0, "w": 4.0}), None
    scores = [missing, scored, scored, scored, missing, missing, missing, missing]
    told = {"3": 2.0}
    rows = list_samples(samples, scores, "w", lambda sample: told.get(sample.id))
    assert [each.limit for each in rows] == [4.0, 4.0, 2.0, None]
    assert rows[0].scores == [missing, scored]
    subsets = split_by_subset(rows)
    assert subsets == {"a": [rows[0], rows[2]]}
    assert count_parts(subsets["a"]) == 6.0
    assert count_parts(rows) == 11.0
    plain = list_samples(samples, scores, None, lambda _: 7.0)
    assert {each.limit for each in plain} == {1.0}


@st.composite
def tasks(draw: st.DrawFn, subsets: list[str]) -> tuple[list[SampleScores], list[SampleScores]]:
    """Samples with one to three repeats, all scored; and the same with some scores missing."""
    repeats = draw(st.integers(1, 3))
    whole, part = [], []
    for _ in range(draw(st.integers(1, 8))):
        limit = draw(st.integers(1, 5))
        values = draw(st.lists(st.integers(0, limit), min_size=repeats, max_size=repeats))
        full = row(*map(float, values), limit=float(limit), subset=draw(st.sampled_from(subsets)))
        missing = draw(st.lists(st.booleans(), min_size=repeats, max_size=repeats))
        scores = [None if gone else s for s, gone in zip(full.scores, missing, strict=True)]
        whole.append(full)
        part.append(replace(full, scores=scores))
    return whole, part


def complete(rows: list[SampleScores], unit: float) -> list[SampleScores]:
    """Every missing unit with this share of what it may reach."""
    return [
        replace(
            each,
            scores=[
                s or RepeatScores("a", {"c": unit * (each.limit or 0.0), "w": each.limit or 0.0})
                for s in each.scores
            ],
        )
        for each in rows
    ]


def value_of(rows: list[SampleScores], sums: SubsetSums | None, metric: str) -> float:
    """What the gather makes of complete samples."""
    items = [
        ItemScores(str(n), [s for s in each.scores if s is not None], each.subset)
        for n, each in enumerate(rows)
    ]
    return aggregate_scores(items, weights={"c": "w"}, sums=sums).statistics[metric].avg


@given(tasks(["x"]))
def test_bounds_enclose_every_completion(
    given_: tuple[list[SampleScores], list[SampleScores]],
) -> None:
    """Whatever missing units will score, and both ends can be reached."""
    whole, part = given_
    bounds = find_bounds(part, "c")
    assert bounds is not None
    assert bounds.low - 1e-12 <= value_of(whole, None, "c") <= bounds.high + 1e-12
    assert value_of(complete(part, 0.0), None, "c") == pytest.approx(bounds.low)
    assert value_of(complete(part, 1.0), None, "c") == pytest.approx(bounds.high)


@given(tasks([name for name in CATEGORIES if name not in RELEVANCE]))
def test_bounds_of_the_sum_over_categories_enclose_every_completion(
    given_: tuple[list[SampleScores], list[SampleScores]],
) -> None:
    """With the weights of BFCL, of which those of `live` depend on the number of entries."""
    whole, part = given_
    subsets = split_by_subset(part)
    totals = {name: count_parts(rows) for name, rows in subsets.items()}
    metric, weights = next(iter(subset_weights(totals).items()))
    bounds = find_sum_bounds(subsets, weights, "c")
    assert bounds is not None
    sums = SubsetSums("c", subset_weights)
    assert bounds.low - 1e-12 <= value_of(whole, sums, metric) <= bounds.high + 1e-12
    assert value_of(complete(part, 0.0), sums, metric) == pytest.approx(bounds.low)
    assert value_of(complete(part, 1.0), sums, metric) == pytest.approx(bounds.high)
