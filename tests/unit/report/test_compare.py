"""Comparisons of runs: what is tested, what is named instead, and the verdict of a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from evalkit.report.compare import REGRESSION, UNTESTED, Rules, compare_runs
from evalkit.report.differences import flat_settings, setting_differences
from evalkit.report.scored import Unscored
from evalkit.report.statistics import Interval
from tests.unit.report.scored_builder import Halves, Tasks, loaded

if TYPE_CHECKING:
    from evalkit.report.compare import Comparison, TaskComparison
    from evalkit.report.scored import AnyTask


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Tasks:
    """What tasks are made from."""
    return Tasks(tmp_path_factory.mktemp("run"))


def rows(right: int, n: int = 40) -> dict[str, list[float]]:
    """n samples of one repeat, the first of them right."""
    return {f"s{i}": [float(i < right)] for i in range(n)}


def compare(first: AnyTask, second: AnyTask, **rules: float) -> Comparison:
    """One task of two runs."""
    return compare_runs([loaded("a", t=first), loaded("b", t=second)], Rules(**rules))


def only(found: Comparison) -> TaskComparison:
    """The one task."""
    [[task]] = [run.tasks for run in found.runs]
    return task


def test_a_loss_is_a_regression(tasks: Tasks) -> None:
    """Ten samples of forty worse and none better: McNemar's 2/1024, and the samples by name."""
    found = compare(tasks.scored(rows(30)), tasks.scored(rows(20)))
    task = only(found)
    assert task.difference is not None
    assert (task.first, task.second) == (0.75, 0.5)
    assert task.difference.value == -0.25
    assert task.difference.p_value == pytest.approx(2 / 1024)
    assert [flip.sample for flip in task.flips] == [f"s{i}" for i in range(20, 30)]
    assert task.regression
    assert found.exit_code() == REGRESSION


def test_a_gain_is_none(tasks: Tasks) -> None:
    """Better is no regression, however sure."""
    found = compare(tasks.scored(rows(20)), tasks.scored(rows(30)))
    assert only(found).regression is False
    assert found.exit_code() == 0


@pytest.mark.parametrize(("margin", "code"), [(0.05, REGRESSION), (0.2, 0)])
def test_margin(tasks: Tasks, margin: float, code: int) -> None:
    """A loss of 25 points is proven to exceed 5 points, and not to exceed 20."""
    found = compare(tasks.scored(rows(30)), tasks.scored(rows(20)), margin=margin)
    assert found.exit_code() == code


def test_alpha_sets_the_level_of_the_interval(tasks: Tasks) -> None:
    """At 1 % the same loss has a wider interval."""
    wide, usual = (
        only(compare(tasks.scored(rows(30)), tasks.scored(rows(20)), alpha=alpha)).difference
        for alpha in (0.01, 0.05)
    )
    assert wide is not None
    assert usual is not None
    assert wide.level == 0.99
    assert wide.interval.low < usual.interval.low


def test_p_values_of_all_tasks_and_runs_are_adjusted_together(tasks: Tasks) -> None:
    """A loss with p = 0.016 alone is none beside three other tests."""
    same, worse = tasks.scored(rows(30)), tasks.scored(rows(23))
    alone = compare_runs([loaded("a", t=same), loaded("b", t=worse)], Rules())
    assert only(alone).regression
    runs = [loaded("a", t=same, u=same), loaded("b", t=worse, u=same), loaded("c", t=same, u=same)]
    found = compare_runs(runs, Rules())
    assert found.tests == 4
    assert [task.regression for task in found.runs[0].tasks] == [False, False]
    assert found.runs[0].tasks[0].adjusted_p == pytest.approx(4 * 2 / 128)


def test_repeats_are_reduced_to_means_first(tasks: Tasks) -> None:
    """Eight repeats of four samples are four samples: no test of them can be significant."""
    first = tasks.scored({f"s{i}": [1.0] * 8 for i in range(4)})
    second = tasks.scored({f"s{i}": [1.0] * 2 + [0.0] * 6 for i in range(4)})
    task = only(compare(first, second))
    assert task.difference is not None
    assert task.difference.p_value == 2 / 16
    assert task.regression is False


def test_clusters_count_once(tasks: Tasks) -> None:
    """Ten losses in two groups are two losses."""
    groups = {f"s{i}": {"cluster": f"g{i % 2}"} for i in range(20, 30)}
    found = compare(tasks.scored(rows(30), samples=groups), tasks.scored(rows(20), samples=groups))
    assert only(found).difference.p_value == 0.5  # type: ignore[union-attr]


def test_only_common_samples_count(tasks: Tasks) -> None:
    """Others are counted apart; so are ids that stand for two questions."""
    first = tasks.scored(rows(30), samples={"s0": {"target": 1}, "s1": {"target": 1}})
    second = tasks.scored(
        {**dict(list(rows(25).items())[:38]), "new": [0.0]},
        samples={"s0": {"target": 2}, "s1": {"target": 1}},
    )
    task = only(compare(first, second))
    assert (task.common, task.only_first, task.only_second, task.altered) == (37, 2, 1, 1)
    assert task.first == pytest.approx(29 / 37)
    assert task.second == pytest.approx(24 / 37)


def test_a_headline_of_subsets(tasks: Tasks) -> None:
    """The difference of a mean of subsets is not that of all samples."""
    parts = {f"s{i}": {"subset": "even" if i < 30 else "odd"} for i in range(40)}

    def made(right: int) -> AnyTask:
        return tasks.scored(rows(right), cls=Halves, headline={"metric": "halves"}, samples=parts)

    task = only(compare(made(35), made(31)))
    assert task.first == pytest.approx((1 + 0.5) / 2)
    assert task.difference is not None
    assert task.difference.value == pytest.approx(-0.4 / 2)


def test_samples_that_make_another_headline(tasks: Tasks) -> None:
    """Without a subset in common there is no such headline."""
    parts = {f"s{i}": {"subset": "even" if i < 30 else "odd"} for i in range(40)}
    whole = tasks.scored(rows(35), cls=Halves, headline={"metric": "halves"}, samples=parts)
    part = tasks.scored(rows(20, 30), cls=Halves, headline={"metric": "halves"}, samples=parts)
    assert "these samples make rest, and not halves" in str(only(compare(whole, part)).reason)


def test_incomplete_tasks_are_named_and_bounded(tasks: Tasks) -> None:
    """No p-value; the difference lies between the bounds; a gate does not pass."""
    complete = tasks.scored(rows(30), headline={"value": 0.75})
    found = compare(complete, tasks.missing(0.5, 0.8))
    task = only(found)
    assert task.reason == "this run: incomplete: 3 of 9 units are missing"
    assert task.bounds == pytest.approx(Interval(-0.25, 0.05))
    assert (task.difference, task.adjusted_p, task.regression) == (None, None, None)
    assert found.tests == 0
    assert found.exit_code() == UNTESTED


def test_a_regression_beats_what_was_not_tested(tasks: Tasks) -> None:
    """The worse news is the exit code."""
    runs = [
        loaded("a", t=tasks.scored(rows(30)), u=Unscored("not gathered", None)),
        loaded("b", t=tasks.scored(rows(20))),
    ]
    found = compare_runs(runs, Rules())
    assert [task.reason for task in found.runs[0].tasks] == [
        None,
        "the first run: not gathered; this run: no such task",
    ]
    assert found.exit_code() == REGRESSION


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"benchmark": "other"}, "another benchmark: echo and other"),
        ({"headline": {"metric": "else"}}, "another metric: correct and else"),
    ],
)
def test_other_things_are_not_compared(tasks: Tasks, changes: dict[str, str], reason: str) -> None:
    """Two benchmarks or metrics under one task's name."""
    found = compare(tasks.scored(rows(30)), tasks.scored(rows(30), **changes))  # type: ignore[arg-type]
    assert only(found).reason == reason


def test_no_common_sample(tasks: Tasks) -> None:
    """Nothing to compare, said so."""
    second = tasks.scored({f"x{i}": [1.0] for i in range(5)})
    assert (
        only(compare(tasks.scored(rows(3)), second)).reason
        == "of 0 common samples: nothing to compare"
    )


TOLD_OTHERWISE = {
    "differs_from_profile": "says what generation, request, reasoning and params say",
    "identity": "is made of the others",
    "fingerprint": "hashes identity",
    "plan_fingerprint": "is every run's own",
    "stand_ins": "follows from the prompts",
}
"""Settings that a comparison does not list, and why."""


def test_every_setting_is_compared(tasks: Tasks) -> None:
    """A field that is added to the results either shows where it differs, or is named above."""
    flat = flat_settings(tasks.results)
    settings = tasks.results.settings
    marks = {
        "profile": "custom",
        "served_model_name": "else",
        "grader": "g",
        "requests_sha256": "r",
        "judge": {"identity": {"x": 1}, "deployment": {"served_model_name": "gpt"}},
    }
    for name in type(settings).model_fields:
        value = marks.get(name, {"mark": "m"})
        changed = settings.model_copy(update={name: value})
        shows = flat_settings(tasks.results.model_copy(update={"settings": changed})) != flat
        assert shows == (name not in TOLD_OTHERWISE), name


def test_what_old_results_do_not_say_was_the_default(tasks: Tasks) -> None:
    """Results of before there were adapters compare equal to those of runs without any."""
    settings = tasks.results.settings
    old = settings.model_copy(update={"request": {}, "reasoning": {}})
    new = tasks.results.model_copy(update={"settings": old})
    assert flat_settings(new) == flat_settings(tasks.results)
    added = old.model_copy(update={"request": {"add": {"top": 1}}, "reasoning": {"strip": False}})
    pairs = {"t": (new, new.model_copy(update={"settings": added}))}
    assert sorted((d.key, d.first, d.second) for d in setting_differences(pairs)) == [
        ("reasoning.strip", True, False),
        ("request.add.top", None, 1),
    ]


def test_settings_that_differ(tasks: Tasks) -> None:
    """By dotted key, with the tasks they differ in; of tasks without a score, too."""
    settings = tasks.results.settings
    hotter = settings.model_copy(update={"generation": {**settings.generation, "temperature": 0.2}})
    same, other = tasks.scored(rows(30)), tasks.scored(rows(30), settings=hotter, recipe="else")
    runs = [loaded("a", t=same, u=same), loaded("b", t=other, u=same)]
    [run] = compare_runs(runs, Rules()).runs
    assert [(d.key, d.first, d.second, d.tasks) for d in run.settings] == [
        ("recipe", "test", "else", ("t",)),
        ("generation.temperature", 1.0, 0.2, ("t",)),
    ]
    judged = settings.model_copy(
        update={
            "judge": {
                "identity": {"generation": {"temperature": 0.0}},
                "deployment": {"served_model_name": "gpt"},
            }
        }
    )
    runs = [loaded("a", t=same), loaded("b", t=tasks.scored(rows(30), settings=judged))]
    assert [(d.key, d.second) for d in compare_runs(runs, Rules()).runs[0].settings] == [
        ("judge.generation.temperature", 0.0),
        ("judge.served_model_name", "gpt"),
    ]
    runs = [loaded("a", t=same), loaded("b", t=tasks.missing(0, 1))]
    assert "repeats" in {d.key for d in compare_runs(runs, Rules()).runs[0].settings}
