"""A gathered task as comparisons need it: its results, and the scores of every sample.

Read from the published artifacts alone, so a copy of them is enough. What is read is what was gathered:
the checksum of the samples is checked, and that the headline is made of them.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from evalkit.benchmarks.registry import make_benchmark
from evalkit.errors import EvalkitError, StoreError
from evalkit.report.artifacts import read_results
from evalkit.report.frames import read_samples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from evalkit.benchmarks.contract import Benchmark
    from evalkit.plan.model import Plan
    from evalkit.report.results import Results
    from evalkit.store.layout import RunFolder

SAMPLES = "samples.jsonl.zst"
"""Name of the samples artifact, which lies beside results.json."""


@dataclass(frozen=True, slots=True)
class SampleScores:
    """What one sample scored in the headline's terms."""

    scores: tuple[float, ...]
    """By repeat."""
    weight: float
    """What a repeat may reach: 1, or the number of the sample's parts."""
    subset: str | None
    cluster: str | None
    target: Any
    """Null where the data may not be republished."""

    @property
    def mean(self) -> float:
        """Over repeats."""
        return math.fsum(self.scores) / len(self.scores)


@dataclass(frozen=True, slots=True)
class Unscored:
    """A task that has no scores to compare."""

    reason: str
    results: Results | None
    """As far as there are any."""


@dataclass(frozen=True, slots=True)
class ScoredTask:
    """One complete task."""

    results: Results
    samples: Mapping[str, SampleScores]
    """By id, in data-set order."""
    benchmark: Benchmark[Any] | None
    """How its headline is made of scores; null where it is a harness's, which need not be installed."""

    def strata(self, ids: Sequence[str]) -> Mapping[str, float] | None:
        """The headline as a weighted sum over subsets, of these samples: each one's share.

        Null where it is no such sum. Raises ValueError where these samples make another headline.
        """
        totals: dict[str, float] = {}
        for sample in (self.samples[i] for i in ids):
            if sample.subset is not None:
                totals[sample.subset] = totals.get(sample.subset, 0.0) + sample.weight
        sums = {} if self.benchmark is None else self.benchmark.subset_weights(totals)
        metric = self.results.headline.metric
        first = next(iter(sums), scored_metric(self.benchmark, self.results))
        if first != metric:
            raise ValueError(f"these samples make {first}, and not {metric}")
        return sums.get(metric)

    def value(self, ids: Sequence[str]) -> float:
        """The headline over these samples. Raises ValueError as `strata`."""
        strata = self.strata(ids)
        parts: dict[str, list[SampleScores]] = {}
        for sample in (self.samples[i] for i in ids):
            parts.setdefault("" if strata is None else sample.subset or "", []).append(sample)
        return math.fsum(
            share
            * math.fsum(s.mean for s in parts[name])
            / math.fsum(s.weight for s in parts[name])
            for name, share in ({"": 1.0} if strata is None else strata).items()
        )


AnyTask: TypeAlias = "ScoredTask | Unscored"


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """One run's tasks, as they were read."""

    label: str
    """What it is called here."""
    run_id: str | None
    tasks: Mapping[str, AnyTask]
    benchmarks: Mapping[str, str]
    """The benchmark of each task."""


def load_run(
    folder: RunFolder, plan: Plan, label: str, names: Sequence[str] | None = None
) -> LoadedRun:
    """A run's tasks, or those of these names that it has, in the plan's order."""
    chosen = [task for task in plan.tasks if names is None or task.name in names]
    return LoadedRun(
        label,
        plan.run_id,
        {task.name: load_scored(folder.results(task.name)) for task in chosen},
        {task.name: task.benchmark for task in chosen},
    )


def missing_artifacts(folder: RunFolder, task: str) -> tuple[str, ...]:
    """Names of a task's artifacts that are not there."""
    paths = (
        folder.results(task),
        folder.samples(task),
        folder.metrics(task),
        folder.run_config(task),
    )
    return tuple(path.name for path in paths if not path.is_file())


def load_scored(path: Path) -> ScoredTask | Unscored:
    """A task by its results.json, with the samples beside it; or why it has no scores to compare.

    That is no error: a comparison goes on with the other tasks, and names this one.
    """
    try:
        results = read_results(path)
        if results is None:
            there = path.exists()
            reason = f"{path} is of another version" if there else "not gathered: no results.json"
            return Unscored(reason, None)
        if not results.complete:
            counts = results.counts
            return Unscored(
                f"incomplete: {counts.missing} of {counts.expected} units are missing", results
            )
    except StoreError as error:
        return Unscored(error.message, None)
    try:
        return _load(path, results)
    except EvalkitError as error:
        return Unscored(error.message, results)


def _load(path: Path, results: Results) -> ScoredTask:
    """Raises StoreError where an artifact is missing, damaged or not of the other; RecipeError or
    PlanError where its benchmark is not installed."""
    settings, benchmark, weight = results.settings, None, None
    if results.native is None:
        benchmark = make_benchmark(results.benchmark, settings.params, settings.profile)
        weight = benchmark.score_weights.get(benchmark.metric)
    samples_path = path.parent / SAMPLES
    samples, digest = _read(samples_path, scored_metric(benchmark, results), weight)
    if digest != results.samples_sha256:
        raise StoreError(f"{samples_path} is not the file that {path} was made with")
    task = ScoredTask(results, samples, benchmark)
    _check_headline(task, path)
    return task


def scored_metric(benchmark: Benchmark[Any] | None, results: Results) -> str:
    """The score of samples that a headline is made of: what a harness calls its own is in its result."""
    return results.headline.metric if benchmark is None else benchmark.metric


def _read(path: Path, metric: str, weight: str | None) -> tuple[dict[str, SampleScores], str]:
    """The scores by sample, and the checksum of the lines."""
    digest = hashlib.sha256()
    found: dict[str, SampleScores] = {}
    rows: dict[str, list[float]] = {}
    for line, text in read_samples(path):
        digest.update(text + b"\n")
        scores, name = line["scores"], line["id"]
        if scores is None or metric not in scores:
            raise StoreError(f"{path}: sample {name} has no {metric}")
        rows.setdefault(name, []).append(float(scores[metric]))
        found[name] = SampleScores(
            scores=(),
            weight=1.0 if weight is None else float(scores[weight]),
            subset=line["subset"],
            cluster=line.get("cluster"),
            target=line["target"],
        )
    full = {name: _with_scores(sample, rows[name]) for name, sample in found.items()}
    return full, digest.hexdigest()


def _with_scores(sample: SampleScores, scores: list[float]) -> SampleScores:
    return SampleScores(tuple(scores), sample.weight, sample.subset, sample.cluster, sample.target)


def _check_headline(task: ScoredTask, path: Path) -> None:
    """That the samples make the headline. Raises StoreError."""
    try:
        value = task.value(list(task.samples))
    except ValueError as error:
        raise StoreError(f"{path}: {error}") from error
    stated = task.results.headline.value
    if stated is None or not math.isclose(value, stated, abs_tol=1e-9):
        raise StoreError(
            f"{path} says {stated} and its samples make {value}: the installed benchmark "
            f"{task.results.benchmark} makes another headline",
        )
