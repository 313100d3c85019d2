"""Feeds a benchmark its own gold answers: the quickest proof that a grader and its data fit.

A gold answer that does not get full marks means a broken grader, a broken data set or a missing
package; a wrong answer that gets marks means a grader that cannot tell. Neither needs a model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.errors import ScorerError
from evalkit.report.scorer import Scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeAlias

    from evalkit.benchmarks.contract import Benchmark, Sample, Solution
    from evalkit.report.aggregate import RepeatScores

    Item: TypeAlias = tuple[Sample, Solution]
    Grade: TypeAlias = Callable[[Sequence[Item]], Sequence[Solution | ScorerError]]


@dataclass(frozen=True, slots=True)
class GoldFailure:
    """One answer that did not score what it must."""

    sample: str
    kind: str
    """`gold` (must get full marks) or `wrong` (must get none)."""
    expected: float
    value: float | None
    """What it scored; null when the grader failed."""
    answer: str | None
    """The answer as extracted."""
    message: str | None = None
    """Why the grader failed."""


@dataclass(frozen=True, slots=True)
class GoldReport:
    """What a benchmark makes of its own answers."""

    benchmark: str
    n_samples: int
    n_gold: int
    """Samples with a gold answer."""
    n_wrong: int
    """Samples with a deliberately wrong one."""
    failures: tuple[GoldFailure, ...]
    n_parts: float
    """What the right answers may reach together: their number, or that of their parts (entries, steps)."""
    right_parts: float
    """What they did reach."""
    without_gold: Mapping[str, tuple[str, ...]]
    """Samples that have no gold answer, by reason."""
    not_run: tuple[str, ...]
    """Subsets of the benchmark that have no samples here."""

    @property
    def ok(self) -> bool:
        """There were gold answers, and every answer scored what it must."""
        return self.n_gold > 0 and not self.failures


def gold_check(
    benchmark: Benchmark[Any], samples: Sequence[Sample], grade: Grade | None = None
) -> GoldReport:
    """Score each sample's gold answer, and a wrong one where the benchmark makes one.

    `grade` runs the grading stage of a benchmark that has one.
    """
    gold = [(s, x) for s in samples if (x := benchmark.gold(s)) is not None]
    wrong = [(s, x) for s in samples if (x := benchmark.wrong(s)) is not None]
    items = [*gold, *wrong]
    with Scorer(benchmark, parallel=benchmark.parallel_scoring) as scorer:
        scored = _score(items, grade, scorer)
    failures = []
    for number, ((sample, _), score) in enumerate(zip(items, scored, strict=True)):
        failure = _judge(benchmark, sample, score, "gold" if number < len(gold) else "wrong")
        if failure is not None:
            failures.append(failure)
    ofs = [
        (_limit(benchmark, s, score), score) for (s, _), score in zip(gold, scored, strict=False)
    ]
    got = [0.0 if isinstance(x, ScorerError) else x.values[benchmark.metric] for _, x in ofs]
    there = {sample.subset for sample in samples}
    return GoldReport(
        benchmark=benchmark.name,
        n_samples=len(samples),
        n_gold=len(gold),
        n_wrong=len(wrong),
        failures=tuple(failures),
        n_parts=math.fsum(limit for limit, _ in ofs),
        right_parts=math.fsum(got),
        without_gold=_without(benchmark, samples, {sample.id for sample, _ in gold}),
        not_run=tuple(name for name in benchmark.subsets if name not in there),
    )


def _without(
    benchmark: Benchmark[Any], samples: Sequence[Sample], have: set[str]
) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for sample in samples:
        if sample.id not in have:
            reason = benchmark.why_no_gold(sample) or "the data has none"
            found.setdefault(reason, []).append(sample.id)
    return {reason: tuple(ids) for reason, ids in found.items()}


def _limit(benchmark: Benchmark[Any], sample: Sample, score: RepeatScores | ScorerError) -> float:
    """What a right answer reaches. One that could not be scored counts as told by the benchmark."""
    weight = benchmark.score_weights.get(benchmark.metric)
    if weight is None:
        return 1.0
    if isinstance(score, ScorerError):
        return benchmark.known_weight(sample) or 1.0
    return score.values[weight]


def _score(
    items: Sequence[Item], grade: Grade | None, scorer: Scorer
) -> list[RepeatScores | ScorerError]:
    """The scores of graded answers; the error of one that could not be graded."""
    graded = [solution for _, solution in items] if grade is None else grade(items)
    ready = [
        (sample, solution)
        for (sample, _), solution in zip(items, graded, strict=True)
        if not isinstance(solution, ScorerError)
    ]
    scores = iter(scorer.score(ready))
    return [each if isinstance(each, ScorerError) else next(scores) for each in graded]


def _judge(
    benchmark: Benchmark[Any], sample: Sample, score: RepeatScores | ScorerError, kind: str
) -> GoldFailure | None:
    expected = _limit(benchmark, sample, score) if kind == "gold" else 0.0
    if isinstance(score, ScorerError):
        return GoldFailure(sample.id, kind, expected, None, None, score.message)
    value = score.values[benchmark.metric]
    if value == expected:
        return None
    return GoldFailure(sample.id, kind, expected, value, score.answer)
