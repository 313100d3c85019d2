"""The difference of two runs against scipy, closed forms, brute force and simulations with fixed seeds."""

import itertools
import math
import statistics as library

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs
from scipy import optimize, stats

from evalkit.report import statistics as st
from evalkit.report.paired import (
    Pair,
    holm,
    paired_difference,
    sign_flip_p,
)

FEW = settings(max_examples=30)
NO_STEP = 1e-12
"""As good as no answer added to the variance: then the formulas are the usual ones."""


def pairs_of(changes: list[float]) -> list[Pair]:
    """Pairs of these changes."""
    return [Pair(0.0, change) for change in changes]


def test_paired_t_is_scipys() -> None:
    """Difference, interval and p-value of the paired t test, from 300 samples on."""
    rng = np.random.default_rng(1)
    first, second = rng.random(400), rng.random(400)
    pairs = [Pair(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    found = paired_difference(pairs, step=NO_STEP)
    expected = stats.ttest_rel(second, first)
    assert found.test == "paired t"
    assert found.df == 399
    assert found.value == pytest.approx(second.mean() - first.mean())
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-7)
    assert tuple(found.interval) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_another_null_is_tested_with_t() -> None:
    """The test of a margin is a t test also of few samples."""
    changes = [0.1, -0.2, 0.4, 0.3, 0.0, 0.2]
    found = paired_difference(pairs_of(changes), step=NO_STEP, null=-0.1)
    assert found.test == "paired t"
    assert found.p_value == pytest.approx(stats.ttest_1samp(changes, -0.1).pvalue, rel=1e-7)


@FEW
@given(hs.integers(1, 60), hs.data())
def test_sign_flip_of_single_answers_is_mcnemars_exact_test(n: int, data: hs.DataObject) -> None:
    """Changes of -1, 0 and 1."""
    worse = data.draw(hs.integers(0, n))
    changes = [-1.0] * worse + [1.0] * (n - worse) + [0.0] * 5
    assert sign_flip_p(changes) == pytest.approx(stats.binomtest(worse, n).pvalue)


@FEW
@given(hs.lists(hs.integers(-8, 8), min_size=1, max_size=9), hs.sampled_from([1.0, 0.125, 1 / 3]))
def test_sign_flip_counts_all_signs(numbers: list[int], unit: float) -> None:
    """The share of all choices of signs that are as far out."""
    changes = [number * unit for number in numbers]
    seen = abs(sum(numbers))
    signs = itertools.product((1, -1), repeat=len(numbers))
    hits = [abs(sum(s * n for s, n in zip(each, numbers, strict=True))) >= seen for each in signs]
    assert sign_flip_p(changes) == pytest.approx(library.fmean(hits))


def test_sign_flip_without_a_common_measure() -> None:
    """Changes of any size: near what all signs give."""
    changes = np.random.default_rng(2).normal(0.3, 1, 12).tolist()
    sums = np.array(list(itertools.product((1, -1), repeat=12))) @ np.array(changes)
    exact = (np.abs(sums) >= abs(sum(changes)) - 1e-12).mean()
    assert sign_flip_p(changes) == pytest.approx(exact, abs=0.002)


def test_samples_that_all_agree_do_not_prove_that_all_others_would() -> None:
    """No change anywhere: p is 1, and the interval is one answer's, not a point."""
    found = paired_difference(pairs_of([0.0] * 50), step=1.0)
    assert (found.value, found.p_value) == (0.0, 1.0)
    half = stats.t.ppf(0.975, 49) / math.sqrt(50 * 49)
    assert tuple(found.interval) == pytest.approx((-half, half))


@FEW
@given(
    hs.lists(
        hs.tuples(hs.floats(-1, 1), hs.integers(1, 9), hs.integers(0, 3)), min_size=3, max_size=20
    ).filter(lambda rows: len({row[2] for row in rows}) > 1)
)
def test_clusters_and_weights(rows: list[tuple[float, int, int]]) -> None:
    """The error is that of a headline made of the changes, clustered (of scores that have no edge)."""
    pairs = [Pair(-2.0, change - 2, float(weight), cluster) for change, weight, cluster in rows]
    found = paired_difference(pairs, step=NO_STEP)
    error = st.se_items_clustered(
        [[p.change] for p in pairs], [p.weight for p in pairs], [p.cluster for p in pairs]
    )
    assert found.standard_error == pytest.approx(error, abs=1e-9)
    assert found.df == len({row[2] for row in rows}) - 1


def test_strata() -> None:
    """A weighted sum of independent differences; samples of no stratum that counts are left out."""
    one, two = [0.1, 0.3, -0.2, 0.0], [0.5, 0.1, 0.9]
    pairs = [
        Pair(0.0, change, stratum=name)
        for name, part in (("a", one), ("b", two))
        for change in part
    ]
    pairs.append(Pair(0.0, 1.0, stratum="other"))
    found = paired_difference(pairs, step=NO_STEP, strata={"a": 0.25, "b": 0.75})
    variances = [(0.25, library.variance(one) / 4), (0.75, library.variance(two) / 3)]
    variance = sum(share**2 * v for share, v in variances)
    assert found.value == pytest.approx(0.25 * library.fmean(one) + 0.75 * library.fmean(two))
    assert found.standard_error == pytest.approx(math.sqrt(variance))
    welch = variance**2 / sum(
        (share**2 * v) ** 2 / (n - 1) for (share, v), n in zip(variances, (4, 3), strict=True)
    )
    assert found.df == pytest.approx(welch)


@pytest.mark.parametrize(
    ("pairs", "strata", "message"),
    [
        ([Pair(0, 1)], None, "two independent samples"),
        ([Pair(0, 1, cluster="x"), Pair(0, 0, cluster="x")], None, "two independent samples"),
        ([], None, "no samples"),
        ([Pair(0, 1, stratum="a")] * 2, {"a": 0.5, "b": 0.5}, "no samples b"),
    ],
)
def test_undefined(pairs: list[Pair], strata: dict[str, float] | None, message: str) -> None:
    """Where no error can be told, there is no number."""
    with pytest.raises(ValueError, match=message):
        paired_difference(pairs, step=1.0, strata=strata)


@pytest.mark.parametrize("n", [8, 30, 500])
def test_detectable_effect_has_the_power_it_says(n: int) -> None:
    """Against the noncentral t distribution: what is detectable is found in 80 %."""
    changes = np.random.default_rng(n).normal(0, 1, n)
    found = paired_difference(pairs_of(changes.tolist()), step=NO_STEP)

    def power(effect: float) -> float:
        centre, limit = effect / found.standard_error, stats.t.ppf(0.975, n - 1)
        return float(
            stats.nct.sf(limit, n - 1, centre) - 0.8
        )  # hardly ever found on the other side

    exact = optimize.brentq(power, found.standard_error, 10 * found.standard_error)
    assert found.detectable == pytest.approx(exact, rel=0.02)


def test_holm_by_hand() -> None:
    """The worked example of the step-down procedure, in another order."""
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@FEW
@given(hs.lists(hs.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_none_and_bonferroni(p_values: list[float]) -> None:
    """And keeps the order of the p-values."""
    found = holm(p_values)
    for p, adjusted in zip(p_values, found, strict=True):
        assert p <= adjusted <= min(1.0, len(p_values) * p)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [found[i] for i in order] == sorted(found)


def draw_means(
    rng: np.random.Generator, n: int, repeats: int, shift: float
) -> tuple[np.ndarray, np.ndarray]:
    """Means of n samples of varied difficulty in two runs; the second model is shifted on the scale of
    log odds."""
    log_odds = rng.normal(1.0, 1.5, n)
    rates = 1 / (1 + np.exp(-np.stack([log_odds, log_odds + shift])))
    first, second = rng.binomial(repeats, rates) / repeats
    return first, second


@pytest.mark.parametrize(("n", "repeats", "seed"), [(60, 1, 3), (100, 4, 4), (320, 1, 5)])
def test_coverage_and_size(n: int, repeats: int, seed: int) -> None:
    """Of 150 pairs of runs: 95 % of the intervals hold the true difference, at most 5 % of the tests of
    equal models err. The limits are three standard errors of 150 draws (0.053) away."""
    rng = np.random.default_rng(seed)
    shift = -0.4
    truth_of = np.random.default_rng(0).normal(1.0, 1.5, 100_000)
    truth = float((1 / (1 + np.exp(-truth_of - shift)) - 1 / (1 + np.exp(-truth_of))).mean())
    covered = errors = 0
    for _ in range(150):
        found = [
            paired_difference(
                [Pair(a, b) for a, b in zip(*map(np.ndarray.tolist, means), strict=True)],
                step=1 / repeats,
            )
            for means in (draw_means(rng, n, repeats, shift), draw_means(rng, n, repeats, 0.0))
        ]
        low, high = found[0].interval
        covered += low <= truth <= high
        errors += found[1].p_value < 0.05
    assert covered / 150 >= 0.897
    assert errors / 150 <= 0.103


def cover(n: int, repeats: int, law: tuple[float, float], shift: float, draws: int) -> float:
    """The share of intervals that hold the true difference, of samples whose log odds follow this law; the
    second model finds some of them easier and others harder."""

    def draw_rates(rng: np.random.Generator, n: int) -> np.ndarray:
        log_odds = rng.normal(*law, n)
        return 1 / (1 + np.exp(-np.stack([log_odds, log_odds + rng.normal(shift, 1.0, n)])))

    rng, wide = np.random.default_rng(9), draw_rates(np.random.default_rng(0), 200_000)
    truth = float((wide[1] - wide[0]).mean())
    covered = 0
    for _ in range(draws):
        rates = draw_rates(rng, n)
        first, second = (rng.binomial(repeats, rates) / repeats).tolist()
        pairs = [Pair(a, b) for a, b in zip(first, second, strict=True)]
        low, high = paired_difference(pairs, step=1 / repeats).interval
        covered += low <= truth <= high
    return covered / draws


@pytest.mark.parametrize(
    ("n", "repeats", "law", "shift"),
    [
        (30, 64, (5.5, 2.5), -0.4),
        (30, 64, (-5.5, 2.5), 0.4),
        (10, 4, (5.5, 2.5), -1.5),
        (30, 1, (5.5, 2.5), -1.5),
    ],
)
def test_coverage_of_few_samples_near_the_edge(
    n: int, repeats: int, law: tuple[float, float], shift: float
) -> None:
    """96 % right (or wrong), most of the samples always: 95 % of the intervals, three standard errors of 400
    draws less, hold the truth. Student's t alone holds it in 87 to 90 % of the first three."""
    assert cover(n, repeats, law, shift, 400) >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 400)


def test_the_general_case_is_students_t() -> None:
    """From 20 open samples on, and with half of all open, and where an answer is not repeated."""
    rng = np.random.default_rng(4)
    for n, repeats, rate in ((120, 8, 0.93), (12, 8, 0.6), (30, 1, 0.96)):
        first, second = (rng.binomial(repeats, rate, (2, n)) / repeats).tolist()
        found = paired_difference(
            [Pair(a, b) for a, b in zip(first, second, strict=True)], step=1 / repeats
        )
        changes = np.subtract(second, first)
        squares = ((changes - changes.mean()) ** 2).sum() + 1 / repeats**2
        assert found.df == n - 1
        assert found.standard_error == pytest.approx(math.sqrt(squares / (n * (n - 1))))


def test_samples_that_never_differ_leave_room_for_those_that_do() -> None:
    """30 samples, all of 64 answers right in both runs: not a tenth of a point, but five points."""
    found = paired_difference([Pair(1.0, 1.0)] * 30, step=1 / 64)
    assert (found.value, found.p_value, found.df) == (0.0, 1.0, 1.0)
    assert 0.04 < found.interval.high < 0.07


def test_holm_keeps_the_family() -> None:
    """Of 2,000 families of eight tests, two of them of real effects: one of the six true hypotheses is
    refused in at most 5 % (three standard errors: 0.015), and Holm finds no less than Bonferroni."""
    rng = np.random.default_rng(6)
    p_values = rng.random((2000, 8))
    p_values[:, 6:] = 2 * stats.norm.sf(np.abs(rng.normal(3.0, 1.0, (2000, 2))))
    adjusted = np.array([holm(row) for row in p_values.tolist()])
    assert (adjusted[:, :6] < 0.05).any(axis=1).mean() <= 0.065
    assert (adjusted < 0.05).sum() >= (8 * p_values < 0.05).sum()
