"""Scoring in this process and in workers."""

import pytest

from evalkit.benchmarks.contract import Sample, Score, Solution
from evalkit.benchmarks.registry import make_benchmark
from evalkit.errors import ScorerError
from evalkit.report.aggregate import RepeatScores
from evalkit.report.scorer import Scorer, score_unit
from tests.unit.report.run_builder import Echo, echo

SAMPLES = [Sample(id=str(i), target=str(i)) for i in range(5)]


def test_workers_score_as_this_process_does() -> None:
    """The same scores in the same order, with the benchmark made anew in each worker."""
    benchmark = make_benchmark("addition", {"form": "open"}, "card")
    items = [(s, Solution(f"\\boxed{{{i % 3}}}")) for i, s in enumerate(SAMPLES)]
    with Scorer(benchmark, parallel=False) as here:
        expected = here.score(items)
    with Scorer(benchmark, parallel=True) as there:
        assert there.score(items) == expected
    assert expected[4] == RepeatScores("1", {"correct": 0.0})


def test_one_failing_grader_fails_one_unit() -> None:
    """The others are scored, in order."""
    items = [
        (SAMPLES[0], Solution("0")),
        (SAMPLES[1], Solution("bug")),
        (SAMPLES[2], Solution("2")),
    ]
    with Scorer(echo(), parallel=False) as scorer:
        first, second, third = scorer.score(items)
    assert isinstance(second, ScorerError)
    assert first == RepeatScores("0", {"correct": 1.0})
    assert third == RepeatScores("2", {"correct": 1.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise", "asked to fail"),
        ("bug", "failed on sample 0: KeyError: 'a bug'"),
        ("nan", "correct = nan"),
        ("nothing", "no correct, only other"),
    ],
)
def test_what_is_no_score_is_an_error(text: str, message: str) -> None:
    """The message names the benchmark's fault and the sample."""
    with pytest.raises(ScorerError, match=message):
        score_unit(echo(), SAMPLES[0], Solution(text))


def test_a_keyboard_interrupt_is_not_a_score() -> None:
    """Ctrl-C ends the gather, it does not fail a unit."""

    class Interrupted(Echo):
        """Is interrupted."""

        def score(self, sample: Sample, solution: Solution) -> Score:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_unit(echo(Interrupted), SAMPLES[0], Solution(""))
