"""The one number of a task, its uncertainty, and what it may still become while units are missing.

Pure. A headline has a value only when every planned unit is scored; until then it has bounds, with
every missing unit once wrong and once right.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from evalkit.report.aggregate import LEVEL, Aggregate, RepeatScores, headline_mode
from evalkit.report.results import Headline
from evalkit.report.statistics import Interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


def find_bounds(
    scores: Sequence[RepeatScores | None], repeats: int, metric: str, weight: str | None
) -> Interval | None:
    """[missing = wrong, missing = right] of the average over all units.

    `scores` come by sample, then repeat; `weight` names the score that says what `metric` may reach
    for a sample (1 without). Null where a sample's limit is not known, or a score is outside it.
    """
    known, possible, limit = [], [], []
    for start in range(0, len(scores), repeats):
        row = scores[start : start + repeats]
        highest = _highest(row, weight)
        values = [score.values[metric] for score in row if score is not None]
        if highest is None or not all(0.0 <= value <= highest for value in values):
            return None
        known.append(math.fsum(values))
        possible.append(highest * (repeats - len(values)))
        limit.append(highest * repeats)
    total = math.fsum(limit)
    if total <= 0:
        return None
    return Interval(math.fsum(known) / total, math.fsum([*known, *possible]) / total)


def split_by_subset(
    samples: Sequence[Sample], scores: Sequence[RepeatScores | None], repeats: int
) -> dict[str, list[RepeatScores | None]]:
    """The scores of each subset, by sample, then repeat; samples of none are left out."""
    subsets: dict[str, list[RepeatScores | None]] = {}
    for number, sample in enumerate(samples):
        if sample.subset is not None:
            row = scores[number * repeats : (number + 1) * repeats]
            subsets.setdefault(sample.subset, []).extend(row)
    return subsets


def count_parts(scores: Sequence[RepeatScores | None], repeats: int, weight: str | None) -> float:
    """The number of samples, or of their parts. A sample of which no unit has a score counts as one,
    so while units are missing this says only what there is; bounds do not rest on it then."""
    rows = (scores[start : start + repeats] for start in range(0, len(scores), repeats))
    return math.fsum(1.0 if (most := _highest(row, weight)) is None else most for row in rows)


def find_sum_bounds(
    subsets: Mapping[str, Sequence[RepeatScores | None]],
    weights: Mapping[str, float],
    repeats: int,
    metric: str,
    weight: str | None,
) -> Interval | None:
    """As `find_bounds`, of a sum of subsets' metrics by `weights`; null where one has no bounds."""
    low, high = [], []
    for name, share in weights.items():
        bounds = find_bounds(subsets[name], repeats, metric, weight)
        if bounds is None:
            return None
        low.append(share * bounds.low)
        high.append(share * bounds.high)
    return Interval(math.fsum(low), math.fsum(high))


def _highest(row: Sequence[RepeatScores | None], weight: str | None) -> float | None:
    if weight is None:
        return 1.0
    return next((score.values[weight] for score in row if score is not None), None)
