"""A run beside a published card: for each score whether both can be of one model, and how both were made.

The statistics are those of docs/adr/0023: the samples are the same, so only answering again moves the
difference. What cannot be decided is named with its reason and never guessed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from evalkit.base import Frozen
from evalkit.report.aggregate import LEVEL
from evalkit.report.checklist import Check, check_run, check_task, other_judge
from evalkit.report.paired import holm
from evalkit.report.repeatability import (
    Agreement,
    Published,
    Row,
    compare_published,
    repeats_needed,
    within_variance,
)
from evalkit.report.scored import ScoredTask, Unscored
from evalkit.report.statistics import Interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.recipe.schema import Client
    from evalkit.report.card import Card, CardBenchmark
    from evalkit.report.scored import AnyTask, LoadedRun

Verdict: TypeAlias = Literal["consistent", "not consistent", "undecided"]
CONSISTENT: Final = "consistent"
INCONSISTENT: Final = "not consistent"
UNDECIDED: Final = "undecided"
EXIT_CODES: Mapping[Verdict, int] = {CONSISTENT: 0, INCONSISTENT: 12, UNDECIDED: 10}
OTHER_SETTINGS = 13
"""Exit code of a consistent run with other settings than the card's, where that is asked for."""
DETECT = 0.03
"""A difference of three points: about what scores of one recipe differ by between two harnesses."""


class BenchmarkVerdict(Frozen):
    """One published score and ours. Values are fractions."""

    benchmark: str
    task: str | None
    """Its name in the run; null where there is none."""
    metric: str
    verdict: Verdict
    """At 95 %, of this benchmark alone."""
    reason: str | None
    """Why it is undecided."""
    published: float
    rounding: float
    """Half a unit of the published value's last digit."""
    published_repeats: int
    value: float | None = None
    repeats: int | None = None
    standard_error: float | None = None
    """Of ours, when the same samples are answered again."""
    is_bound: bool | None = None
    """From one repeat: errors are at most what is given, and a difference is more certain than it looks."""
    agreement: Agreement | None = None
    adjusted_p: float | None = None
    """`agreement.p_value` among all benchmarks (Holm)."""
    band: float | None = None
    """The card file's band around the published value."""
    within_band: bool | None = None
    repeats_needed: int | None = None
    """How many repeats would find a difference of `Verification.detect` in 80 % of runs; null: no number
    would, or it is not known."""
    bounds: Interval | None = None
    """What ours may still become, while units are missing."""


class Verification(Frozen):
    """One run against one card."""

    run: str
    run_id: str | None
    card: str
    source: tuple[str, ...]
    verdict: Verdict
    """Over all benchmarks; `not consistent` where one is after Holm's adjustment."""
    level: float
    detect: float
    """The difference of `repeats_needed`."""
    benchmarks: tuple[BenchmarkVerdict, ...]
    checks: tuple[Check, ...]

    @property
    def differs(self) -> tuple[Check, ...]:
        """Settings that are not the card's."""
        return tuple(check for check in self.checks if check.state == "differs")

    def exit_code(self, *, strict: bool) -> int:
        """0 for a consistent run; `strict` wants the card's settings, too."""
        code = EXIT_CODES[self.verdict]
        return OTHER_SETTINGS if code == 0 and strict and self.differs else code


def verify_run(
    run: LoadedRun,
    card: Card,
    client: Client,
    *,
    missing_files: Mapping[str, Sequence[str]],
    benchmarks: Sequence[str] | None = None,
    detect: float = DETECT,
) -> Verification:
    """All benchmarks of the card, or those named. `missing_files` are each task's missing artifacts."""
    names = [name for name in card.benchmarks if benchmarks is None or name in benchmarks]
    verdicts: list[BenchmarkVerdict] = []
    known = [task.results for task in run.tasks.values() if task.results is not None]
    checks = list(check_run(card, known, client))
    for name in names:
        tasks = _tasks_of(run, name)
        if not tasks:
            verdicts.append(
                _undecided(name, card.benchmarks[name], None, "no task of the run", None)
            )
        for task_name, task in tasks.items():
            verdicts.append(_decide(name, card.benchmarks[name], task_name, task, detect))
            if task.results is not None:
                checks += check_task(card, task.results, missing_files.get(task_name, ()))
    verdicts = _adjusted(verdicts)
    return Verification(
        run=run.label,
        run_id=run.run_id,
        card=card.name,
        source=card.source,
        verdict=_overall(verdicts),
        level=LEVEL,
        detect=detect,
        benchmarks=tuple(verdicts),
        checks=tuple(checks),
    )


def _tasks_of(run: LoadedRun, benchmark: str) -> dict[str, AnyTask]:
    """The run's tasks of a benchmark; one that has its name stands before variants of it."""
    found = {name: task for name, task in run.tasks.items() if run.benchmarks[name] == benchmark}
    return {benchmark: found[benchmark]} if benchmark in found else found


def _decide(
    name: str, entry: CardBenchmark, task_name: str, task: AnyTask, detect: float
) -> BenchmarkVerdict:
    if isinstance(task, Unscored):
        bounds = None if task.results is None else task.results.headline.bounds
        return _undecided(name, entry, task_name, task.reason, bounds)
    if reason := _incomparable(entry, task):
        return _undecided(name, entry, task_name, reason, None)
    strata = task.strata(list(task.samples))
    rows = [
        Row(s.scores, s.weight, "" if strata is None else s.subset or "")
        for s in task.samples.values()
    ]
    within = within_variance(rows, strata)
    published = _published(entry)
    value, repeats = task.value(list(task.samples)), task.results.headline.repeats
    agreement = compare_published(value, repeats, within, published)
    given = _undecided(name, entry, task_name, None, None)
    update = {
        "verdict": CONSISTENT if agreement.consistent else INCONSISTENT,
        "value": value,
        "repeats": repeats,
        "standard_error": math.sqrt(within.variance / repeats),
        "is_bound": within.is_bound,
        "agreement": agreement,
        "within_band": None
        if entry.band is None
        else abs(agreement.difference) <= entry.band / 100 + 1e-12,
        "repeats_needed": repeats_needed(detect, within, published),
    }
    return given.model_copy(update=update)


def _incomparable(entry: CardBenchmark, task: ScoredTask) -> str | None:
    """Why these are not the card's samples, or not its metric: a judge is a part of that."""
    headline = task.results.headline
    if headline.metric != entry.metric:
        left = f": {', '.join(task.results.not_run)} not run" if task.results.not_run else ""
        return f"the metric is {headline.metric}, the card's is {entry.metric}{left}"
    if judge := other_judge(entry.judge, task.results):
        return f"the judge is {judge}, the card's is {entry.judge}"
    parts = round(math.fsum(sample.weight for sample in task.samples.values()))
    for what, found, wanted in (
        ("samples", headline.n_samples, entry.samples),
        ("parts", parts, entry.parts),
    ):
        if wanted is not None and found != wanted:
            return f"{found} {what}, the card has {wanted}"
    return None


def _published(entry: CardBenchmark) -> Published:
    return Published(entry.value / 100, entry.repeats, 0.5 * 10.0**-entry.decimals / 100)


def _undecided(
    name: str,
    entry: CardBenchmark,
    task: str | None,
    reason: str | None,
    bounds: Interval | None,
) -> BenchmarkVerdict:
    published = _published(entry)
    return BenchmarkVerdict(
        benchmark=name,
        task=task,
        metric=entry.metric,
        verdict=UNDECIDED,
        reason=reason,
        published=published.value,
        rounding=published.rounding,
        published_repeats=published.repeats,
        band=None if entry.band is None else entry.band / 100,
        bounds=bounds,
    )


def _adjusted(verdicts: Sequence[BenchmarkVerdict]) -> list[BenchmarkVerdict]:
    p_values = [each.agreement.p_value for each in verdicts if each.agreement is not None]
    adjusted = iter(holm(p_values))
    return [
        each if each.agreement is None else each.model_copy(update={"adjusted_p": next(adjusted)})
        for each in verdicts
    ]


def _overall(verdicts: Sequence[BenchmarkVerdict]) -> Verdict:
    if any(v.adjusted_p is not None and v.adjusted_p < 1 - LEVEL for v in verdicts):
        return INCONSISTENT
    return UNDECIDED if any(v.verdict == UNDECIDED for v in verdicts) else CONSISTENT
