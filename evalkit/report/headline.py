"""The one number of a task, its uncertainty, and what it may still become while units are missing.

Pure. A headline has a value only when every planned unit is scored; until then it has bounds, with
every missing unit once wrong and once right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.report.aggregate import LEVEL, Aggregate, RepeatScores, headline_mode
from evalkit.report.results import Headline
from evalkit.report.statistics import Interval

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evalkit.benchmarks.contract import Sample
    from evalkit.plan.model import TaskPlan

STANDARD_ERROR = "se_items_clustered"


def make_headline(
    task: TaskPlan, aggregate: Aggregate | None, bounds: Interval | None, metric: str
) -> Headline:
    """The headline of a complete task (`aggregate`), or of one with missing units (null)."""
    mode = headline_mode(task.repeats)
    stats = aggregate.statistics[metric] if aggregate else None
    # verdicts of two judges are two metrics
    judge = "" if task.judge is None else f"[{task.judge.deployment.served_model_name}]"
    error = stats.se_items_clustered if stats else None
    return Headline(
        name=f"{mode} {metric}{judge}",
        mode=mode,
        metric=metric,
        value=stats.avg if stats else None,
        percent=100 * stats.avg if stats else None,
        standard_error=error,
        standard_error_method=STANDARD_ERROR if error is not None else None,
        interval=stats.interval if stats else None,
        interval_method=stats.interval_method if stats else None,
        level=stats.level if stats else LEVEL,
        bounds=bounds,
        n_samples=task.n_samples,
        repeats=task.repeats,
    )


@dataclass(frozen=True, slots=True)
class SampleScores:
    """All repeats of one sample, as far as they have scores."""

    scores: Sequence[RepeatScores | None]
    limit: float | None
    """What the metric may reach for it: 1, or its number of parts; null where that is not known."""
    subset: str | None


def list_samples(
    samples: Sequence[Sample],
    scores: Sequence[RepeatScores | None],
    weight: str | None,
    known_weight: Callable[[Sample], float | None],
) -> list[SampleScores]:
    """The scores (by sample, then repeat) of each sample. `weight` names the score that counts parts
    (none without); a sample without any score has the number of parts that the benchmark tells."""
    repeats = len(scores) // max(1, len(samples))
    found = []
    for number, sample in enumerate(samples):
        row = scores[number * repeats : (number + 1) * repeats]
        limit: float | None = 1.0
        if weight is not None:
            seen = next((score.values[weight] for score in row if score is not None), None)
            limit = known_weight(sample) if seen is None else seen
        found.append(SampleScores(row, limit, sample.subset))
    return found


def find_bounds(rows: Sequence[SampleScores], metric: str) -> Interval | None:
    """[missing = wrong, missing = right] of the average over all units, each sample weighing what it
    may reach.

    Where a sample's limit is not known, neither is what it weighs, and only [0, 1] holds. Null where
    a score is outside of its range, for then the others' ranges are not known either.
    """
    known, possible, limits = [], [], []
    unknown = False
    for row in rows:
        values = [score.values[metric] for score in row.scores if score is not None]
        if row.limit is None:
            unknown = True
            continue
        if not all(0.0 <= value <= row.limit for value in values):
            return None
        known.append(math.fsum(values))
        possible.append(row.limit * (len(row.scores) - len(values)))
        limits.append(row.limit * len(row.scores))
    if unknown:
        return Interval(0.0, 1.0)
    total = math.fsum(limits)
    if total <= 0:
        return None
    return Interval(math.fsum(known) / total, math.fsum([*known, *possible]) / total)


def split_by_subset(rows: Sequence[SampleScores]) -> dict[str, list[SampleScores]]:
    """The samples of each subset, in order; those of none are left out."""
    subsets: dict[str, list[SampleScores]] = {}
    for row in rows:
        if row.subset is not None:
            subsets.setdefault(row.subset, []).append(row)
    return subsets


def count_parts(rows: Sequence[SampleScores]) -> float:
    """The number of samples, or of their parts. One whose parts are not known counts as one, and then
    `find_sum_bounds` gives none."""
    return math.fsum(1.0 if row.limit is None else row.limit for row in rows)


def find_sum_bounds(
    subsets: Mapping[str, Sequence[SampleScores]], weights: Mapping[str, float], metric: str
) -> Interval | None:
    """As `find_bounds`, of a sum of subsets' metrics by `weights`; null where one has no bounds, and
    where a limit is not known in any subset, because weights may depend on all of them."""
    if any(row.limit is None for rows in subsets.values() for row in rows):
        return None
    low, high = [], []
    for name, share in weights.items():
        bounds = find_bounds(subsets[name], metric)
        if bounds is None:
            return None
        ends = sorted((share * bounds.low, share * bounds.high))
        low.append(ends[0])
        high.append(ends[1])
    return Interval(math.fsum(low), math.fsum(high))
