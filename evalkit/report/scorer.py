"""Scores units with a benchmark: in this process, or in workers for graders that need them.

A grader that fails is not a wrong answer: whatever goes wrong, the unit gets a ScorerError in place
of a score. So does a score that cannot be one (not a finite number, or without the benchmark's
metric). Nothing here retries or reads a file.
"""

from __future__ import annotations

import math
import os
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import orjson

from evalkit.benchmarks.registry import make_benchmark
from evalkit.errors import ScorerError
from evalkit.report.aggregate import RepeatScores
from evalkit.scoring.pool import DEFAULT_DEADLINE_S, ScoringPool

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from evalkit.benchmarks.contract import Benchmark, Sample, Solution
    from evalkit.recipe.schema import Profile

Item: TypeAlias = "tuple[Sample, Solution]"

GRADER_BUGS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a grader raises by its own fault on a strange answer. The contract asks for ScorerError; one
unit that breaks it must not stop the gather of all the others."""


class Scorer:
    """Scores batches of units; use it as a context manager."""

    def __init__(
        self,
        benchmark: Benchmark[Any],
        *,
        parallel: bool,
        workers: int | None = None,
        deadline_s: float = DEFAULT_DEADLINE_S,
    ) -> None:
        """`parallel`: in `workers` processes, by default one per CPU core, where no unit takes longer
        than `deadline_s`; the benchmark must then be registered."""
        self._benchmark = benchmark
        self._pool: ScoringPool[Item, RepeatScores] | None = None
        if parallel:
            params = orjson.dumps(benchmark.params.model_dump(mode="json"))
            function = partial(score_in_worker, benchmark.name, params, benchmark.profile)
            workers = workers or len(os.sched_getaffinity(0))
            self._pool = ScoringPool(function, workers=workers, deadline_s=deadline_s)

    def __enter__(self) -> Self:
        if self._pool is not None:
            self._pool.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.__exit__(kind, error, trace)

    def score(self, items: Sequence[Item]) -> list[RepeatScores | ScorerError]:
        """The scores of each (sample, solution), in order; a ScorerError where the grader failed."""
        if self._pool is not None:
            return self._pool.score(items)
        return [self._score(sample, solution) for sample, solution in items]

    def abort(self) -> None:
        """End the worker processes at once, from any thread; what they are at is a ScorerError."""
        if self._pool is not None:
            self._pool.abort()

    def _score(self, sample: Sample, solution: Solution) -> RepeatScores | ScorerError:
        try:
            return score_unit(self._benchmark, sample, solution)
        except ScorerError as error:
            return error


def score_unit(benchmark: Benchmark[Any], sample: Sample, solution: Solution) -> RepeatScores:
    """The checked scores of one unit. Raises ScorerError, whatever the grader raised."""
    try:
        score = benchmark.score(sample, solution)
    except GRADER_BUGS as error:
        raise ScorerError(
            f"the grader of {benchmark.name} failed on sample {sample.id}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if benchmark.metric not in score.values:
        raise ScorerError(
            f"the grader of {benchmark.name} gave sample {sample.id} no {benchmark.metric}, "
            f"only {', '.join(sorted(score.values)) or 'nothing'}"
        )
    for name, value in score.values.items():
        if not math.isfinite(value):
            raise ScorerError(
                f"the grader of {benchmark.name} gave sample {sample.id} {name} = {value}"
            )
    weight, expected = benchmark.score_weights.get(benchmark.metric), benchmark.known_weight(sample)
    if weight is not None and expected is not None and score.values.get(weight) != expected:
        raise ScorerError(
            f"the grader of {benchmark.name} gave sample {sample.id} {weight} = "
            f"{score.values.get(weight)}, it has {expected:g}"
        )
    return RepeatScores(score.answer, score.values)


def score_in_worker(name: str, params: bytes, profile: Profile, item: Item) -> RepeatScores:
    """`score_unit` in a worker process, which makes its own benchmark once."""
    return score_unit(_benchmark(name, params, profile), *item)


@lru_cache(maxsize=1)
def _benchmark(name: str, params: bytes, profile: Profile) -> Benchmark[Any]:
    return make_benchmark(name, orjson.loads(params), profile)
