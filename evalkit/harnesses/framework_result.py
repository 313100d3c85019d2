"""What a wheel's own reader found, in evalkit's form."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.native import NativeMetric, NativeResult, NativeSample
from evalkit.harnesses.driven import unit_error
from evalkit.store.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

WRONG_ERRORS = "simple_evals"
"""The framework whose standard errors of several repeats are of values in the order of their arrival, taken
for the order of samples: other groups than those of one sample. Its means are right."""


def check_answer(answer: Mapping[str, Any], folder: Path) -> None:
    """Raise InfraError where there is no number, or one that is none."""
    values = [score["value"] for score in answer["scores"]]
    if not values or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        raise unit_error(f"the wheel's reader found the numbers {values}", folder, "results.log")


def native_result(answer: Mapping[str, Any], versions: Mapping[str, str]) -> NativeResult:
    """The reader's numbers and the samples, where the framework leaves some that can be read."""
    repeats = answer["repeats"]
    distrusted = answer["package"] == WRONG_ERRORS and repeats > 1
    metrics = [_metric(score, distrusted=distrusted) for score in answer["scores"]]
    headline = (metrics[0].subset, metrics[0].name)
    samples = list(_samples(answer["samples"], headline))
    problems = list(answer["problems"])
    if distrusted:
        problems.append(
            "the wheel's standard errors of several repeats group values of different samples, and are "
            "left out"
        )
    return NativeResult(
        metrics=metrics,
        headline=headline,
        versions={**versions, **answer["versions"]},
        samples=samples,
        n_samples=len({sample.id for sample in samples}) or metrics[0].n_samples,
        repeats=repeats,
        problems=problems,
    )


def _metric(score: Mapping[str, Any], *, distrusted: bool) -> NativeMetric:
    stats = score["stats"]
    return NativeMetric(
        subset=score["task"],
        name=score["name"],
        value=score["value"],
        stderr=None if distrusted else stats.get("stderr"),
        n_samples=stats.get("count"),
    )


def _samples(rows: list[dict[str, Any]], headline: tuple[str, str]) -> Iterator[NativeSample]:
    """Answers, scored under the name of the headline, which is their mean."""
    subset, name = headline
    for row in rows:
        content = row["content"] or ""
        yield NativeSample(
            id=row["id"],
            repeat=row["repeat"],
            scores={name: row["score"]},
            subset=subset,
            messages=row["messages"],
            content=content,
            outcome=Outcome.OK if content else Outcome.EMPTY,
            data={"metrics": row["metrics"]},
        )
