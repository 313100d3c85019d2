"""Metrics of a task, under the field's names."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from evalkit.report.aggregate import (
    Aggregate,
    ItemScores,
    RepeatScores,
    SubsetSums,
    aggregate_scores,
    exported_name,
    headline_mode,
    prefix_lengths,
)
from tests.unit.vectors import Row, load_rows

COUNTS = {"num_prompts", "num_instructions", "num_problems", "num_subtasks"}


def make_item(name: str, *pairs: tuple[str | None, float], **changes: Any) -> ItemScores:
    """An item with one score, `correct`, per repeat."""
    repeats = [RepeatScores(answer, {"correct": score}) for answer, score in pairs]
    return ItemScores(name, repeats, **changes)


def math_repeat(repeat: dict[str, Any]) -> RepeatScores:
    """A repeat of the mathematics vectors."""
    return RepeatScores(repeat["predicted_answer"], {"symbolic_correct": repeat["correct"]})


def ifbench_repeat(repeat: dict[str, list[bool]]) -> RepeatScores:
    """A repeat of the instruction-following vectors: how many instructions were followed."""
    values: dict[str, float] = {"num_instructions": len(repeat["strict"])}
    for kind in ("strict", "loose"):
        values[f"prompt_{kind}_accuracy"] = float(all(repeat[kind]))
        values[f"instruction_{kind}_accuracy"] = float(sum(repeat[kind]))
    return RepeatScores("", values)


def scicode_repeat(steps: list[bool]) -> RepeatScores:
    """A repeat of the SciCode vectors: how many steps passed."""
    values = {
        "problem_accuracy": float(all(steps)),
        "subtask_accuracy": float(sum(steps)),
        "num_subtasks": float(len(steps)),
    }
    return RepeatScores("", values)


def aggregate_row(
    row: Row, read: Any, weights: dict[str, str], means: dict[str, list[str]] | None = None
) -> Aggregate:
    """The aggregate of a vector's items."""
    items = [
        ItemScores(str(i), [read(repeat) for repeat in item])
        for i, item in enumerate(row.input["items"])
    ]
    return aggregate_scores(items, weights=weights, means=means)


@pytest.mark.parametrize("row", load_rows("aggregation", kind="math"), ids=lambda r: r.id)
def test_math_vector(row: Row) -> None:
    """Every mode, no_answer included, and the statistics over all repeats."""
    found = aggregate_row(row, math_repeat, {})
    for mode, expected in row.expected.items():
        statistics = expected.pop("symbolic_correct_statistics", None)
        percent = {name: 100 * value for name, value in found.metrics[mode].items()}
        assert percent == pytest.approx(expected, abs=1e-8), mode
        if mode == headline_mode(found.repeats):
            own = found.statistics["symbolic_correct"]
            for name, value in statistics.items():
                assert getattr(own, name) == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("row", load_rows("aggregation", kind="math"), ids=lambda r: r.id)
def test_math_vector_statistics_of_fewer_repeats(row: Row) -> None:
    """The statistics of the first k repeats are those of a task with k repeats."""
    for mode, expected in row.expected.items():
        if "symbolic_correct_statistics" not in expected:
            continue
        k = int(mode.removeprefix("pass@1[avg-of-").removesuffix("]"))
        items = [
            ItemScores(str(i), [math_repeat(repeat) for repeat in item[:k]])
            for i, item in enumerate(row.input["items"])
        ]
        own = aggregate_scores(items).statistics["symbolic_correct"]
        for name, value in expected["symbolic_correct_statistics"].items():
            assert getattr(own, name) == pytest.approx(value, abs=1e-9), (mode, name)


@pytest.mark.parametrize("row", load_rows("aggregation", kind="ifbench"), ids=lambda r: r.id)
def test_ifbench_vector(row: Row) -> None:
    """Prompts are counted by item, instructions by their number, and the average is over all four."""
    names = {f"instruction_{kind}_accuracy": "num_instructions" for kind in ("strict", "loose")}
    four = [*names, "prompt_strict_accuracy", "prompt_loose_accuracy"]
    found = aggregate_row(row, ifbench_repeat, names, {"average_score": four})
    for mode, expected in row.expected.items():
        accuracies = {n: 100 * v for n, v in found.metrics[mode].items() if n != "no_answer"}
        counts = {"num_prompts": found.n_items, **found.totals}
        assert accuracies | counts == pytest.approx(expected), mode
    assert "average_score" not in found.statistics


@pytest.mark.parametrize(
    "means", [{"mean": ["correct", "other"]}, {"mean": []}, {"correct": ["correct"]}]
)
def test_a_mean_needs_scores_and_a_name_of_its_own(means: dict[str, list[str]]) -> None:
    """A mean of what is not there, of nothing, or under a score's own name is refused."""
    with pytest.raises(ValueError, match=r"is no mean of .*; the scores are \['correct'\]"):
        aggregate_scores([make_item("a", ("1", 1.0))], means=means)


def test_subsets_have_the_means_too() -> None:
    """A mean is given for all items and for each subset."""
    items = [make_item("a", ("1", 1.0), subset="x"), make_item("b", ("2", 0.0))]
    found = aggregate_scores(items, means={"mean": ["correct"]})
    assert found.metrics["pass@1"]["mean"] == 0.5
    assert found.subsets["x"].metrics["pass@1"]["mean"] == 1.0


@pytest.mark.parametrize("row", load_rows("aggregation", kind="scicode"), ids=lambda r: r.id)
def test_scicode_vector(row: Row) -> None:
    """Steps are counted over all problems, problems by item."""
    found = aggregate_row(row, scicode_repeat, {"subtask_accuracy": "num_subtasks"})
    for mode, expected in row.expected.items():
        accuracies = {n: 100 * v for n, v in found.metrics[mode].items() if n != "no_answer"}
        counts = {"num_problems": found.n_items, **found.totals}
        assert accuracies | counts == pytest.approx(expected), mode


def test_all_aggregation_vectors_are_used() -> None:
    """No kind of vector is left out here or in test_statistics."""
    kinds = {row.kind for row in load_rows("aggregation")}
    assert kinds == {"math", "ifbench", "scicode", "pass_at_k", "standard_errors"}


def test_subsets_are_aggregates_of_their_own_items() -> None:
    """A subset's numbers are those of a task that has only its items; items without one are in none."""
    algebra = [make_item("a", ("1", 1.0)), make_item("b", ("2", 0.0))]
    tagged = [ItemScores(i.item, i.repeats, subset="algebra") for i in algebra]
    found = aggregate_scores([*tagged, make_item("c", ("3", 1.0))])
    assert found.metrics["pass@1"]["correct"] == pytest.approx(2 / 3)
    assert list(found.subsets) == ["algebra"]
    assert found.subsets["algebra"] == aggregate_scores(algebra)


def test_one_repeat_has_no_spread_over_repeats() -> None:
    """With k = 1 what needs repeats is null, not 0."""
    found = aggregate_scores([make_item("a", ("1", 1.0)), make_item("b", (None, 0.0))])
    own = found.statistics["correct"]
    assert list(found.metrics) == ["pass@1"]
    assert own.std_dev_across_runs is own.std_err_across_runs is own.avg_sample_std_dev is None
    assert own.se_sampling_fixed_items is None
    assert own.se_binomial_upper == pytest.approx(math.sqrt(0.25 / 2))


def test_one_item_has_no_error_over_items() -> None:
    """One item says nothing about other items: no standard error and no interval."""
    own = aggregate_scores([make_item("a", ("1", 1.0), ("2", 0.0))]).statistics["correct"]
    assert (own.se_items_clustered, own.interval, own.interval_method) == (None, None, None)


def test_few_items_get_a_wilson_interval_with_effective_n() -> None:
    """Thirty items of 64 repeats that all agree are worth thirty scores, not 1920."""
    items = [make_item(str(i), *[("1", float(i < 27))] * 64) for i in range(30)]
    own = aggregate_scores(items).statistics["correct"]
    assert own.interval_method == "wilson, effective n = 29.0"
    assert own.interval == pytest.approx((0.7404, 0.9660), abs=1e-4)


def test_many_items_get_a_normal_interval() -> None:
    """Three hundred items and more: p -+ 1.96 standard errors over items."""
    own = aggregate_scores([make_item(str(i), ("1", float(i % 2))) for i in range(300)])
    interval = own.statistics["correct"].interval
    assert own.statistics["correct"].interval_method == "normal"
    assert interval == pytest.approx((0.4433, 0.5567), abs=1e-3)


def test_related_items_widen_the_error() -> None:
    """Items of one cluster that agree count as one."""
    alone = [make_item(str(i), ("1", float(i < 10))) for i in range(20)]
    paired = [ItemScores(i.item, i.repeats, cluster=f"c{n // 2}") for n, i in enumerate(alone)]
    errors = [aggregate_scores(x).statistics["correct"].se_items_clustered for x in (alone, paired)]
    assert errors == pytest.approx([math.sqrt(20 / 19 * 5) / 20, math.sqrt(10 / 9 * 10) / 20])


def test_scores_that_are_no_fractions_get_no_binomial_bound() -> None:
    """A score above its weight has no binomial error and a normal interval."""
    items = [make_item("a", (None, 5.0)), make_item("b", (None, 7.0))]
    own = aggregate_scores(items).statistics["correct"]
    assert (own.avg, own.se_binomial_upper, own.interval_method) == (6.0, None, "normal")


@given(hs.integers(1, 300))
def test_prefixes_are_powers_of_two_and_all(repeats: int) -> None:
    """Modes are given for 1, 2, 4, ... and for all repeats, each once."""
    lengths = prefix_lengths(repeats)
    assert lengths == sorted(set(lengths))
    assert (lengths[0], lengths[-1]) == (1, repeats)
    assert all(k & (k - 1) == 0 for k in lengths[:-1])


def test_exported_names() -> None:
    """Names as other tools write them."""
    name = exported_name("aime", headline_mode(64), "symbolic_correct")
    assert name == "aime_pass_at_1_avg-of-64_symbolic_correct"
    assert exported_name("aime", "majority@64", "x") == "aime_majority_at_64_x"
    assert headline_mode(1) == "pass@1"


REFUSED = {
    "no items": ([], "no items"),
    "no repeats": ([ItemScores("a", [])], "'a' has no scores"),
    "no scores": ([ItemScores("a", [RepeatScores("x", {})])], "'a' has no scores"),
    "a missing repeat": (
        [make_item("a", ("1", 1.0), ("1", 1.0)), make_item("b", ("1", 1.0))],
        "'b' has 1 repeats, others have 2",
    ),
    "another score": (
        [make_item("a", ("1", 1.0)), ItemScores("b", [RepeatScores("1", {"other": 1.0})])],
        "'b', repeat 0: scores",
    ),
    "not a number": ([make_item("a", ("1", math.nan))], "'a', repeat 0: a score is not a finite"),
    "an item twice": ([make_item("a", ("1", 1.0))] * 2, "'a' is there twice"),
}


@pytest.mark.parametrize(("items", "reason"), REFUSED.values(), ids=REFUSED)
def test_incomplete_scores_are_refused(items: list[ItemScores], reason: str) -> None:
    """Whatever is missing is named, and never averaged over."""
    with pytest.raises(ValueError, match=reason):
        aggregate_scores(items)


def test_a_weight_must_be_a_score_and_constant() -> None:
    """A weight that no unit has, or that differs between repeats of an item, is refused."""
    with pytest.raises(ValueError, match="weights name"):
        aggregate_scores([make_item("a", ("1", 1.0))], weights={"correct": "parts"})
    repeats = [RepeatScores("1", {"correct": 1.0, "parts": parts}) for parts in (2.0, 3.0)]
    with pytest.raises(ValueError, match="'a': 'parts' differs between its repeats"):
        aggregate_scores([ItemScores("a", repeats)], weights={"correct": "parts"})


def make_subsets() -> list[ItemScores]:
    """Subset `a` of two items with 2 of 4 and 1 of 1 parts right, subset `b` with 0 and 1 of 1."""
    parts = [("a", 2.0, 4.0), ("a", 1.0, 1.0), ("b", 0.0, 1.0), ("b", 1.0, 1.0)]
    return [
        ItemScores(str(n), [RepeatScores("x", {"c": c, "w": w})], subset)
        for n, (subset, c, w) in enumerate(parts)
    ]


def test_weighted_sums_of_subsets_are_metrics_with_errors() -> None:
    """0.7 of 3/5 and 0.3 of 1/2; the errors are those of independent estimates."""
    seen: list[dict[str, float]] = []

    def weigh(totals: Mapping[str, float]) -> dict[str, dict[str, float]]:
        seen.append(dict(totals))
        return {"overall": {"a": 0.7, "b": 0.3}}

    found = aggregate_scores(make_subsets(), weights={"c": "w"}, sums=SubsetSums("c", weigh))
    assert seen == [{"a": 5.0, "b": 2.0}]
    assert found.metrics["pass@1"]["overall"] == pytest.approx(0.7 * 0.6 + 0.3 * 0.5)
    statistics = found.statistics["overall"]
    errors = [found.subsets[name].statistics["c"].se_items_clustered for name in "ab"]
    assert statistics.avg == found.metrics["pass@1"]["overall"]
    assert statistics.se_items_clustered == pytest.approx(
        math.hypot(0.7 * (errors[0] or 0.0), 0.3 * (errors[1] or 0.0))
    )
    assert statistics.interval is not None
    assert statistics.interval_method == "normal, weighted sum of subsets"
    assert "overall" not in found.subsets["a"].metrics["pass@1"]


def test_a_sum_with_a_subset_of_one_item_has_no_error() -> None:
    """Nobody knows how other items would differ from it."""
    sums = SubsetSums("c", lambda _totals: {"overall": {"a": 0.5, "b": 0.5}})
    found = aggregate_scores(make_subsets()[:3], weights={"c": "w"}, sums=sums)
    assert found.statistics["overall"].se_items_clustered is None
    assert found.statistics["overall"].interval is None


@pytest.mark.parametrize("sums", [{"c": {"a": 1.0}}, {"o": {"x": 1.0}}, {"o": {}}])
def test_a_sum_needs_subsets_and_a_name_of_its_own(sums: dict[str, dict[str, float]]) -> None:
    """A score's name, an unknown subset and none at all are refused."""
    with pytest.raises(ValueError, match="is no sum of"):
        aggregate_scores(
            make_subsets(), weights={"c": "w"}, sums=SubsetSums("c", lambda _totals: sums)
        )
