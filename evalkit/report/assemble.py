"""One task's `results.json`, from what a gather collected. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.errors import ScorerError
from evalkit.recipe.serving import price_of
from evalkit.report.aggregate import Aggregate, ItemScores, SubsetSums, aggregate_scores
from evalkit.report.headline import (
    count_parts,
    find_bounds,
    find_sum_bounds,
    list_samples,
    make_headline,
    split_by_subset,
)
from evalkit.report.results import Breakdown, Counts, Results
from evalkit.report.settings import describe_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.benchmarks.contract import Benchmark, Sample
    from evalkit.plan.model import Plan, TaskPlan
    from evalkit.report.collect import Collector
    from evalkit.report.headline import SampleScores
    from evalkit.report.results import Provenance
    from evalkit.report.whole import Concluded


def aggregate_task(
    task: TaskPlan, samples: Sequence[Sample], found: Collector, benchmark: Benchmark[Any]
) -> Aggregate | None:
    """Metrics of a complete task; null while units are missing."""
    complete = [score for score in found.scores if score is not None]
    if len(complete) < task.n_units:
        return None
    k = task.repeats
    items = [
        ItemScores(s.id, complete[i * k : (i + 1) * k], s.subset, s.cluster)
        for i, s in enumerate(samples)
    ]
    try:
        return aggregate_scores(
            items,
            weights=benchmark.score_weights,
            means=benchmark.metric_means,
            sums=SubsetSums(benchmark.metric, benchmark.subset_weights),
            votes=benchmark.votes,
            calibration=benchmark.calibration,
        )
    except ValueError as error:
        raise ScorerError(
            f"task {task.name}: the scores of benchmark {task.benchmark} do not fit together: "
            f"{error}"
        ) from error


def make_results(
    plan: Plan,
    found: Collector,
    aggregate: Aggregate | None,
    benchmark: Benchmark[Any],
    provenance: Provenance,
    samples_sha256: str,
) -> Results:
    """Without an `aggregate` units are missing, or a harness scores the task as a whole."""
    task = found.task
    rows: list[SampleScores] = []
    if benchmark.subsets or (aggregate is None and not benchmark.whole):
        weight = benchmark.score_weights.get(task.metric)
        rows = list_samples(found.samples, found.scores, weight, benchmark.known_weight)
    subsets = split_by_subset(rows) if benchmark.subsets else {}
    totals = {name: count_parts(part) for name, part in subsets.items()}
    metric, of = next(iter(benchmark.subset_weights(totals).items()), (task.metric, None))
    bounds = None
    if aggregate is None and not benchmark.whole:
        bounds = (
            find_bounds(rows, task.metric)
            if of is None
            else find_sum_bounds(subsets, of, task.metric)
        )
    whole = _breakdown(aggregate) if aggregate else None
    return Results(
        run=plan.run,
        run_id=plan.run_id,
        recipe=plan.recipe,
        task=task.name,
        benchmark=task.benchmark,
        benchmark_version=task.benchmark_version,
        complete=aggregate is not None,
        headline=make_headline(task, aggregate, bounds, metric),
        not_run=tuple(name for name in benchmark.subsets if name not in subsets),
        metrics=whole.metrics if whole else None,
        statistics=whole.statistics if whole else None,
        totals=whole.totals if whole else None,
        subsets={n: _breakdown(a) for n, a in aggregate.subsets.items()} if aggregate else None,
        counts=_counts(found),
        missing=found.list_missing(),
        tokens=found.replied.tokens(),
        reasoning=found.replied.reasoning(),
        cost=found.replied.cost(price_of(plan.deployments[task.deployment].serving)),
        latency_s=found.replied.latency.distribution(),
        settings=describe_settings(plan, task, benchmark),
        provenance=provenance,
        samples_sha256=samples_sha256,
        problems=tuple(found.problems),
    )


def as_concluded(results: Results, task: TaskPlan, concluded: Concluded) -> Results:
    """With what the harness found."""
    aggregate = concluded.aggregate
    whole = None if aggregate is None else _breakdown(aggregate)
    subsets = {} if aggregate is None else aggregate.subsets
    update = {
        "complete": True,
        "headline": concluded.headline(task),
        "metrics": {} if whole is None else whole.metrics,
        "statistics": {} if whole is None else whole.statistics,
        "totals": {} if whole is None else whole.totals,
        "subsets": {name: _breakdown(part) for name, part in subsets.items()},
        "native": concluded.facts(task.benchmark),
    }
    return results.model_copy(update=update)


def _breakdown(aggregate: Aggregate) -> Breakdown:
    return Breakdown(
        n_samples=aggregate.n_items,
        metrics={mode: dict(scores) for mode, scores in aggregate.metrics.items()},
        statistics=dict(aggregate.statistics),
        totals=dict(aggregate.totals),
    )


def _counts(found: Collector) -> Counts:
    return Counts(
        expected=found.task.n_units,
        scored=found.scored,
        missing=found.missing,
        by_outcome=dict(sorted(found.by_outcome.items())),
        no_answer=found.no_answer,
        duplicates=found.duplicates,
        calls=found.replied.calls,
        retries=found.replied.retries,
        continued=found.continued,
    )
