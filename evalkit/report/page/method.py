"""How a task was measured, as a page tells it: settings, data, all metrics, and numbers per call. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from evalkit.report.page.sources import TaskReport
    from evalkit.report.results import Cost, Distribution, Results

Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class MethodView:
    """How one task was measured."""

    task: str
    title: str
    facts: Pairs
    differences: list[tuple[str, str, str]]
    """Key, value of the profile, value here."""
    settings: str
    """YAML."""
    metrics: list[tuple[str, str, str]]
    """Mode, score, percent."""
    subsets: list[tuple[str, str, str]]
    """Subset, samples, percent of the headline's metric."""
    distributions: list[tuple[str, ...]]
    """Number, calls, mean, median, 95 %, largest."""


def method_view(task: TaskReport, results: Results) -> MethodView:
    """How one task was measured."""
    settings, headline = results.settings, results.headline
    shown = settings.model_dump(mode="json", exclude={"differs_from_profile", "identity"})
    differs = settings.differs_from_profile
    return MethodView(
        task=results.task,
        title=task.title,
        facts=_method_facts(results),
        differences=[(d.key, as_yaml(d.profile), as_yaml(d.value)) for d in differs],
        settings=as_yaml(shown),
        metrics=[
            (mode, name, f"{100 * value:.2f}")
            for mode, scores in (results.metrics or {}).items()
            for name, value in scores.items()
        ],
        subsets=[
            (name, f"{part.n_samples:,}", _percent(part.metrics.get(headline.mode, {}), task))
            for name, part in (results.subsets or {}).items()
        ],
        distributions=[
            _distribution("prompt tokens", results.tokens.prompt),
            _distribution("completion tokens", results.tokens.completion),
            _distribution("reasoning tokens", results.tokens.reasoning),
            _distribution("latency, s", results.latency_s),
        ],
    )


def _percent(scores: dict[str, float], task: TaskReport) -> str:
    value = scores.get(task.plan.metric)
    return "-" if value is None else f"{100 * value:.2f}"


def _method_facts(results: Results) -> Pairs:
    headline, data, counts = results.headline, results.provenance.data, results.counts
    judge = results.provenance.judge
    facts = [
        ("benchmark", f"{results.benchmark}, version {results.benchmark_version}"),
        ("profile", results.settings.profile),
        ("headline", headline.name),
        ("standard error", headline.standard_error_method),
        (
            "interval",
            headline.interval_method and f"{headline.level:.0%}, {headline.interval_method}",
        ),
        ("samples, repeats", f"{headline.n_samples:,}, {headline.repeats:,}"),
        ("data", f"{data.source} {data.revision or ''}".strip()),
        ("data's sha256", data.sha256 + (" (altered)" if data.altered else "")),
        ("data's licence", data.licence),
        ("calls, retries", f"{counts.calls:,}, {counts.retries:,}"),
        ("continued after an interruption", f"{counts.continued:,} units"),
        ("finished twice", f"{counts.duplicates:,} units, one of each scored"),
        ("cost", _cost(results.cost)),
        ("judge's cost", None if judge is None else _cost(judge.cost)),
        ("requests' sha256", results.settings.requests_sha256),
        ("fingerprint", results.settings.fingerprint),
        ("grader", results.settings.grader),
        ("samples' sha256", results.samples_sha256),
    ]
    return [(name, value) for name, value in facts if value]


def _cost(cost: Cost | None) -> str | None:
    """In the currency of the prices, and of how many calls it is not known."""
    if cost is None:
        return None
    left = f", without {cost.uncounted:,} calls that were not counted" if cost.uncounted else ""
    return (
        "not known" if cost.value is None else f"{cost.value:,.4f}{left}"
    ) + ", by serving.price"


def _distribution(name: str, found: Distribution) -> tuple[str, ...]:
    numbers = (found.mean, found.p50, found.p95, found.max)
    shown = ["-" if n is None else f"{n:,.1f}".removesuffix(".0") for n in numbers]
    return (name, f"{found.count:,}", *shown)


def as_yaml(value: Any) -> str:
    """A value as a person writes it."""
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
    return text.removesuffix("\n").removesuffix("\n...")
