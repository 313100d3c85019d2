"""Benchmarks against their own gold answers."""

from pathlib import Path

import pytest

from evalkit.benchmarks.contract import Sample, Score, Solution
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.registry import make_benchmark
from evalkit.cli.doctor import describe_gold
from evalkit.recipe.schema import DataOverride
from evalkit.report.gold import gold_check
from tests.unit.report.run_builder import Echo, echo, make_samples


class Gullible(Echo):
    """Accepts anything, and can make a wrong answer that shows it."""

    def score(self, sample: Sample, solution: Solution) -> Score:
        """Always right."""
        return Score({"correct": 1.0}, solution.text)

    def wrong(self, sample: Sample) -> Solution | None:
        """Wrong for the first sample only."""
        return Solution("wrong") if sample.id == "s0" else None


class Broken(Echo):
    """Its gold answers make its grader fail."""

    def gold(self, sample: Sample) -> Solution:
        """A text the grader fails on."""
        return Solution("bug")


class Steps(Echo):
    """A score that counts parts."""

    score_weights = {"correct": "steps"}  # noqa: RUF012

    def score(self, sample: Sample, solution: Solution) -> Score:
        """Three of three steps."""
        return Score({"correct": 3.0, "steps": 3.0})


@pytest.mark.parametrize("form", ["open", "choice"])
def test_addition_scores_its_gold_answers(tmp_path: Path, form: str) -> None:
    """Every gold answer of the demo benchmark gets full marks, every wrong one none."""
    benchmark = make_benchmark("addition", {"form": form, "n": 50}, "card")
    samples = benchmark.load(DataAccess("addition", DataOverride(), tmp_path)).samples
    report = gold_check(benchmark, samples)
    assert report.ok
    assert (report.n_samples, report.n_gold, report.n_wrong) == (50, 50, 50)


def test_a_gold_answer_that_is_not_right_is_listed() -> None:
    """The sample, what it scored and the answer as extracted."""
    samples = [*make_samples(2), Sample(id="odd", target="raise")]
    report = gold_check(echo(), samples)
    assert not report.ok
    assert [(f.sample, f.kind, f.value) for f in report.failures] == [("odd", "gold", None)]
    assert report.failures[0].message == "asked to fail"


def test_an_accepted_wrong_answer_is_listed() -> None:
    """A grader that accepts everything is found by an answer that must score 0."""
    report = gold_check(echo(Gullible), make_samples(2))
    assert report.n_wrong == 1
    failure = report.failures[0]
    assert (failure.kind, failure.expected, failure.value, failure.answer) == (
        "wrong",
        0.0,
        1.0,
        "wrong",
    )


def test_no_gold_answers_prove_nothing() -> None:
    """A report without any gold answer is not ok."""
    report = gold_check(echo(), [Sample(id="s0")])
    assert (report.n_gold, report.failures, report.ok) == (0, (), False)


def test_a_failing_grader_is_a_failure_with_its_message() -> None:
    """A grader's bug on its own gold answer is reported, not raised."""
    report = gold_check(echo(Broken), make_samples(1))
    assert "KeyError" in (report.failures[0].message or "")


def test_full_marks_of_a_counting_score_are_its_weight() -> None:
    """Three of three steps is right."""
    assert gold_check(echo(Steps), make_samples(1)).ok


class Selective(Steps):
    """Has a gold answer for the first sample only, and says why for the second."""

    subsets = ("even", "odd", "none")

    def known_weight(self, sample: Sample) -> float:
        """Three steps."""
        return 3.0

    def gold(self, sample: Sample) -> Solution | None:
        """Of the first."""
        return Solution("x") if sample.id == "s0" else None

    def why_no_gold(self, sample: Sample) -> str | None:
        """Of the second."""
        return "it is odd" if sample.id == "s1" else None


def test_what_is_not_in_it_is_said() -> None:
    """Samples without a gold answer by reason, subsets without samples, and parts that were counted."""
    report = gold_check(echo(Selective), make_samples(3))
    assert report.without_gold == {"it is odd": ("s1",), "the data has none": ("s2",)}
    assert report.not_run == ("none",)
    assert (report.right_parts, report.n_parts) == (3.0, 3.0)
    assert list(describe_gold(report, "card")) == [
        "echo (card): 1 of 1 gold: 100.0 % (3 of 3 parts)",
        "  0 of 0 wrong answers got marks or failed",
        "  without gold: s1: it is odd",
        "  without gold: s2: the data has none",
        "  not included, because it does not run here: none",
    ]
