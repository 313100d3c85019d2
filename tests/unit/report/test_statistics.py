"""Each statistic against numbers worked out elsewhere, and against its own definition."""

import math
import random
import statistics as library

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from evalkit.report import statistics as st
from tests.unit.vectors import Row, load_rows

SCORES = [[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]]
TABLES = hs.integers(2, 5).flatmap(
    lambda k: hs.lists(
        hs.lists(hs.sampled_from([0.0, 1.0]), min_size=k, max_size=k), min_size=2, max_size=8
    )
)


@pytest.mark.parametrize("row", load_rows("aggregation", kind="pass_at_k"), ids=lambda r: r.id)
def test_pass_at_k_vector(row: Row) -> None:
    """The unbiased estimate for n answers, c of them right."""
    value = st.pass_at_k(row.input["n"], row.input["c"], row.input["k"])
    assert value == pytest.approx(row.expected, abs=1e-10)


@pytest.mark.parametrize(
    "row", load_rows("aggregation", kind="standard_errors"), ids=lambda r: r.id
)
def test_standard_error_vector(row: Row) -> None:
    """Every standard error of the worked example."""
    scores = row.input["scores"]
    n_scores = sum(len(item) for item in scores)
    found = {
        "mean": st.avg_of_k(scores),
        "std_dev_across_runs": st.std_dev_across_runs(scores),
        "std_err_across_runs": st.std_err_across_runs(scores),
        "se_sampling_fixed_items": st.se_sampling_fixed_items(scores),
        "se_items_clustered": st.se_items_clustered(scores),
        "se_binomial_upper": st.se_binomial_upper(st.avg_of_k(scores), n_scores),
    }
    assert found == pytest.approx(row.expected, abs=1e-9)


@given(hs.integers(1, 7), hs.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(n: int, data: hs.DataObject) -> None:
    """pass@k equals the count over all k-subsets of the n answers."""
    from itertools import combinations

    correct = data.draw(hs.integers(0, n))
    k = data.draw(hs.integers(1, n))
    answers = [1] * correct + [0] * (n - correct)
    hits = [any(chosen) for chosen in combinations(answers, k)]
    assert st.pass_at_k(n, correct, k) == pytest.approx(sum(hits) / len(hits))


@given(TABLES)
def test_spreads_agree_with_the_standard_library(scores: list[list[float]]) -> None:
    """The fast variance gives what the exact one of the library gives."""
    runs = [library.fmean(run) for run in zip(*scores, strict=True)]
    assert st.run_means(scores) == pytest.approx(runs)
    assert st.std_dev_across_runs(scores) == pytest.approx(library.stdev(runs), abs=1e-12)
    inside = library.fmean(library.stdev(item) for item in scores)
    assert st.avg_sample_std_dev(scores) == pytest.approx(inside, abs=1e-12)


@given(TABLES)
def test_each_item_its_own_cluster_is_the_default(scores: list[list[float]]) -> None:
    """Naming every item's cluster apart changes nothing; the usual formula results."""
    means = [library.fmean(item) for item in scores]
    usual = library.stdev(means) / math.sqrt(len(means))
    assert st.se_items_clustered(scores) == pytest.approx(usual, abs=1e-12)
    named = st.se_items_clustered(scores, clusters=[f"c{i}" for i in range(len(scores))])
    assert named == pytest.approx(usual, abs=1e-12)


@given(TABLES)
def test_items_twice_in_one_cluster_teach_nothing_new(scores: list[list[float]]) -> None:
    """Doubling every item inside its cluster leaves the standard error as it was."""
    doubled = [item for item in scores for _ in range(2)]
    clusters = [i for i in range(len(scores)) for _ in range(2)]
    once, twice = st.se_items_clustered(scores), st.se_items_clustered(doubled, clusters=clusters)
    assert twice == pytest.approx(once, abs=1e-12)


@given(TABLES)
def test_equal_weights_change_nothing(scores: list[list[float]]) -> None:
    """Scores that count three parts of three are the same fractions as scores out of one."""
    thirds = [[3 * score for score in item] for item in scores]
    threes = [3.0] * len(scores)
    assert st.avg_of_k(thirds, threes) == pytest.approx(st.avg_of_k(scores))
    for spread in (st.std_dev_across_runs, st.se_items_clustered, st.se_sampling_fixed_items):
        assert spread(thirds, threes) == pytest.approx(spread(scores), abs=1e-12)


def test_weights_count_parts_not_items() -> None:
    """One of three steps and one of one step are half of four steps, not two thirds of two items."""
    assert st.avg_of_k([[1.0], [1.0]], [3.0, 1.0]) == 0.5


def test_standard_errors_foresee_what_they_claim() -> None:
    """Simulated: the sampling error predicts the spread of reruns on fixed items, within a tenth."""
    rng = random.Random(7)
    chances = [rng.random() for _ in range(40)]

    def rerun() -> list[list[float]]:
        return [[float(rng.random() < p) for _ in range(4)] for p in chances]

    runs = [rerun() for _ in range(600)]
    spread = library.stdev(st.avg_of_k(run) for run in runs)
    claimed = math.sqrt(library.fmean(st.se_sampling_fixed_items(run) ** 2 for run in runs))
    assert claimed == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize(
    ("answers", "scores", "expected"),
    [
        (["A", "B", "A"], [1.0, 0.0, 1.0], 1.0),
        (["A", "B"], [1.0, 0.0], 0.5),
        ([None, None, "B"], [0.0, 0.0, 1.0], 1.0),
        ([None, None], [0.0, 0.0], 0.0),
        (["12", "12.0", "13", "13"], [1.0, 1.0, 0.0, 0.0], 0.0),
    ],
)
def test_majority(answers: list[str | None], scores: list[float], expected: float) -> None:
    """The most frequent answer decides; ties share; missing answers do not vote."""
    assert st.majority_at_k(answers, scores) == expected


def test_no_answer_counts_repeats_or_items() -> None:
    """The share of empty repeats, and of items with nothing but empty repeats."""
    answers: list[list[str | None]] = [["A", None], [None, None]]
    assert st.no_answer(answers) == 0.75
    assert st.no_answer_at_all(answers) == 0.5


@pytest.mark.parametrize(
    ("p", "n", "low", "high"),
    [
        (0.5, 10, 0.2366, 0.7634),
        (0.0, 10, 0.0, 0.2775),
        (1.0, 30, 0.8865, 1.0),
        (0.9, 100, 0.8256, 0.9448),
    ],
)
def test_wilson_interval(p: float, n: float, low: float, high: float) -> None:
    """Published values of Wilson's 95 % interval, also where the normal one has no width."""
    assert st.wilson_interval(p, n) == pytest.approx((low, high), abs=2e-4)


def test_normal_interval_is_not_clipped() -> None:
    """p -+ 1.96 SE, even where that leaves the range of a fraction."""
    assert st.normal_interval(0.99, 0.01) == pytest.approx((0.9704, 1.0096), abs=1e-4)


@given(hs.floats(0.01, 0.99), hs.integers(1, 1000), hs.integers(1, 64))
def test_effective_n_undoes_the_binomial_error(p: float, n_items: int, k: int) -> None:
    """Independent scores are worth their number, and no error makes them worth more."""
    se = st.se_binomial_upper(p, n_items)
    assert st.effective_n(p, se, n_items, n_items * k) == pytest.approx(n_items)
    assert st.effective_n(p, se / 100, n_items, n_items * k) <= n_items * k
    assert st.effective_n(p, 0.0, n_items, n_items * k) == n_items


NOT_DEFINED = {
    "mean of nothing": lambda: st.mean([]),
    "average over no items": lambda: st.avg_of_k([]),
    "average over no repeats": lambda: st.avg_of_k([[]]),
    "ragged repeats": lambda: st.avg_of_k([[1.0], [1.0, 0.0]]),
    "weights of zero": lambda: st.avg_of_k([[0.0]], [0.0]),
    "too few weights": lambda: st.avg_of_k([[0.0], [1.0]], [1.0]),
    "pass@3 of two": lambda: st.pass_at_k(2, 1, 3),
    "pass@0": lambda: st.item_pass_at_k([1.0], 0),
    "three right of two": lambda: st.pass_at_k(2, 3, 1),
    "majority of nothing": lambda: st.majority_at_k([], []),
    "no answer of nothing": lambda: st.no_answer([]),
    "spread of one run": lambda: st.std_dev_across_runs([[1.0], [0.0]]),
    "spread inside one repeat": lambda: st.avg_sample_std_dev([[1.0], [0.0]]),
    "sampling error of one repeat": lambda: st.se_sampling_fixed_items([[1.0], [0.0]]),
    "one cluster": lambda: st.se_items_clustered([[1.0], [0.0]], clusters=["a", "a"]),
    "binomial of nothing": lambda: st.se_binomial_upper(0.5, 0),
    "binomial of a count": lambda: st.se_binomial_upper(2.0, 10),
    "wilson of nothing": lambda: st.wilson_interval(0.5, 0),
    "level of one": lambda: st.wilson_interval(0.5, 10, 1.0),
    "negative error": lambda: st.normal_interval(0.5, -0.1),
}


@pytest.mark.parametrize("undefined", NOT_DEFINED.values(), ids=NOT_DEFINED)
def test_what_is_undefined_raises(undefined: object) -> None:
    """Nothing that has no value becomes 0."""
    assert callable(undefined)
    with pytest.raises(ValueError, match=r"\w"):
        undefined()
