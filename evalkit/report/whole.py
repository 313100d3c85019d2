"""Tasks that a harness scores as a whole: its result, as results.json and samples.jsonl.zst have it.

The numbers are the harness's. Its samples are averaged once more, as those of any benchmark are: where the
two means agree the error and interval are ours, which know repeats and clusters; elsewhere the harness's
own standard error is all there is, and the result says where they differ.
"""

from __future__ import annotations

import errno
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.errors import EvalkitError, ScorerError
from evalkit.report.aggregate import (
    LEVEL,
    Aggregate,
    ItemScores,
    RepeatScores,
    ScoreStatistics,
    aggregate_scores,
    headline_mode,
)
from evalkit.report.headline import STANDARD_ERROR
from evalkit.report.results import Headline, NativeDifference, NativeFacts
from evalkit.report.scorer import GRADER_BUGS
from evalkit.report.statistics import normal_interval
from evalkit.store.publish import named_elsewhere, publishing_folder
from evalkit.store.replayed import data_now, is_replayed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from evalkit.benchmarks.contract import Answered, Benchmark
    from evalkit.benchmarks.native import NativeMetric, NativeResult, NativeSample
    from evalkit.plan.model import TaskPlan
    from evalkit.store.layout import RunFolder

TOLERANCE = 1e-9
"""Between a harness's mean and ours of the same scores."""
NATIVE = "native"
"""In place of a mode, for a number that is no mean of samples' scores."""

REPLAYED = (
    "the files of {n} of {of} units were lost and written again by a replay: judges that their programs ask "
    "themselves were asked again"
)
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})

UNCOUNTED = "of how many samples its number is the harness does not say: n is how often it was run"


@dataclass(frozen=True, slots=True)
class Concluded:
    """What a harness found, and the same averaged once more."""

    native: NativeResult
    aggregate: Aggregate | None
    """Over all samples, for the scores that all of them have; null where they tell none in common."""
    differences: tuple[NativeDifference, ...]
    files: tuple[str, ...]
    """Names of what the harness left, below `artifacts/<task>/native`."""
    title: str
    publishable: bool
    """Both of the benchmark: whoever reads the result need not have its harness."""

    def headline(self, task: TaskPlan) -> Headline:
        """The harness's number, with our error over the samples of the same subset, else over all."""
        metric = self._metric()
        part = None if self.aggregate is None else self.aggregate.subsets.get(metric.subset)
        own = part or self.aggregate
        known = None if own is None else own.statistics.get(metric.name)
        agrees = known is not None and math.isclose(known.avg, metric.value, abs_tol=TOLERANCE)
        mode = headline_mode(self.native.repeats) if agrees else NATIVE
        is_share = 0.0 <= metric.value <= 1.0
        is_all = part is None and agrees
        of = "" if is_all or metric.subset in ("", task.name) else f" of {metric.subset}"
        n_samples = part.n_items if part else self._n_samples
        return Headline(
            name=f"{mode} {metric.name}{of}",
            mode=mode,
            metric=metric.name,
            value=metric.value,
            percent=100 * metric.value if is_share else None,
            **_errors(metric, known if agrees else None),
            level=LEVEL,
            bounds=None,
            n_samples=task.n_samples if n_samples is None else n_samples,
            repeats=self.native.repeats,
            is_share=is_share,
        )

    @property
    def _n_samples(self) -> int | None:
        """Items behind the number, where the harness says so."""
        return self.native.n_samples or self._metric().n_samples

    def _metric(self) -> NativeMetric:
        return next(m for m in self.native.metrics if (m.subset, m.name) == self.native.headline)

    def facts(self, harness: str) -> NativeFacts:
        """What results.json says of it besides."""
        return NativeFacts(
            harness=harness,
            versions=dict(self.native.versions),
            metrics=tuple(self.native.metrics),
            differences=self.differences,
            files=self.files,
            problems=(*self.native.problems, *([] if self._n_samples else [UNCOUNTED])),
            title=self.title,
            publishable=self.publishable,
        )

    def lines(self) -> Iterator[bytes]:
        """Lines of samples.jsonl.zst, one for each answer as the harness scored it."""
        numbers: dict[str, int] = {}
        for sample in self.native.samples:
            name = sample_id(sample)
            yield _line(sample, name, numbers.setdefault(name, len(numbers)))


def conclude(
    folder: RunFolder, task: TaskPlan, benchmark: Benchmark[Any], answers: Sequence[Answered]
) -> Concluded:
    """Have a `whole` benchmark find its result, and keep its files.

    Raises ScorerError for whatever it raises or gives that cannot be a result, files that it cannot read
    among it, StoreError on a full disk.
    """
    again = sum(is_replayed(folder.root, each.solution.data) for each in answers)
    answers = [_as_now(folder, each) for each in answers]
    with publishing_folder(folder.native(task.name)) as out:
        try:
            native = benchmark.conclude(answers, folder.root, out)
            if again:
                said = REPLAYED.format(n=again, of=len(answers))
                native = replace(native, problems=(*native.problems, said))
            return _check(benchmark, native, out)
        except EvalkitError:
            raise
        except OSError as error:
            if error.errno in NO_SPACE or (
                error.filename is not None and named_elsewhere(error, out) is None
            ):
                raise
            raise ScorerError(f"{benchmark.name} failed: {error}") from error
        except GRADER_BUGS as error:
            text = f"{benchmark.name} failed: {type(error).__name__}: {error}"
            raise ScorerError(text) from error


def _as_now(folder: RunFolder, answered: Answered) -> Answered:
    """With the data that hold for its program's files, where those were lost and written again."""
    data = data_now(folder.root, answered.solution.data)
    return replace(answered, solution=replace(answered.solution, data=data))


def _check(benchmark: Benchmark[Any], native: NativeResult, out: Path) -> Concluded:
    for metric in native.metrics:
        if not math.isfinite(metric.value):
            raise ScorerError(f"{benchmark.name}: {metric.subset} {metric.name} = {metric.value}")
    names = [(metric.subset, metric.name) for metric in native.metrics]
    if native.headline not in names:
        raise ScorerError(
            f"{benchmark.name}: no metric {native.headline[1]!r} of {native.headline[0]!r}; there are "
            + ", ".join(f"{name} of {subset}" for subset, name in names)
        )
    parts = _by_subset(native.samples)
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return Concluded(
        native,
        _aggregate(native.samples),
        tuple(_differences(native, parts)),
        tuple(files),
        benchmark.title,
        benchmark.publishable,
    )


def sample_id(sample: NativeSample) -> str:
    """An item's name among all of the task."""
    return sample.id if sample.subset is None else f"{sample.subset}/{sample.id}"


def _by_subset(samples: Sequence[NativeSample]) -> dict[str, list[NativeSample]]:
    parts: dict[str, list[NativeSample]] = defaultdict(list)
    for sample in samples:
        parts[sample.subset or ""].append(sample)
    return parts


def _aggregate(samples: Sequence[NativeSample]) -> Aggregate | None:
    """Over all samples, for the scores that they share; null where repeats differ, too."""
    if not samples:
        return None
    shared = set.intersection(*(set(sample.scores) for sample in samples))
    items: dict[str, list[NativeSample]] = defaultdict(list)
    for sample in samples:
        items[sample_id(sample)].append(sample)
    if not shared or len({len(repeats) for repeats in items.values()}) != 1:
        return None
    subsets = {sample.subset for sample in samples}
    return aggregate_scores(
        [
            ItemScores(
                name,
                [RepeatScores(s.answer, {n: s.scores[n] for n in sorted(shared)}) for s in repeats],
                repeats[0].subset if len(subsets) > 1 else None,
            )
            for name, repeats in items.items()
        ],
        votes=any(sample.answer is not None for sample in samples),
    )


def _differences(
    native: NativeResult, parts: Mapping[str, Sequence[NativeSample]]
) -> Iterator[NativeDifference]:
    """Numbers of single tasks that are not the mean of their samples' scores."""
    for metric in native.metrics:
        samples = parts.get(metric.subset, ())
        values = [s.scores[metric.name] for s in samples if metric.name in s.scores]
        if not values:
            continue
        mean = math.fsum(values) / len(values)
        if not math.isclose(mean, metric.value, abs_tol=TOLERANCE):
            yield NativeDifference(
                subset=metric.subset, metric=metric.name, native=metric.value, recomputed=mean
            )


def _errors(metric: NativeMetric, known: ScoreStatistics | None) -> dict[str, Any]:
    """Standard error and interval of a headline, with how they were made."""
    if known is not None:
        error = known.se_items_clustered
        return {
            "standard_error": error,
            "standard_error_method": None if error is None else STANDARD_ERROR,
            "interval": known.interval,
            "interval_method": known.interval_method,
        }
    error = metric.stderr
    return {
        "standard_error": error,
        "standard_error_method": None if error is None else "the harness's own",
        "interval": None if error is None else normal_interval(metric.value, error, LEVEL),
        "interval_method": None if error is None else "normal, with the harness's standard error",
    }


def _line(sample: NativeSample, name: str, number: int) -> bytes:
    usage = sample.usage
    line = {
        "id": name,
        "sample": number,
        "repeat": sample.repeat,
        "subset": sample.subset,
        "cluster": None,
        "outcome": sample.outcome,
        "answer": sample.answer,
        "target": sample.target,
        "scores": sample.scores,
        "detail": None,
        "content": sample.content,
        "data": sample.data,
        "grading": None,
        "reasoning": sample.reasoning,
        "tool_calls": (),
        "finish_reason": None,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
        },
        "calls": 1,
        "steps": [],
        "messages": sample.messages,
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
