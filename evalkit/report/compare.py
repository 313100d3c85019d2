"""Runs side by side: what differs in how they were made, and how their scores differ, with evidence.

Each run is compared with the first one, task by task, over the samples both have (docs/adr/0023). What
cannot be compared is named with its reason, and counts as untested wherever a verdict is asked for.
Values in, values out: artifacts were read before (`evalkit.report.scored`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evalkit.base import Frozen
from evalkit.report.aggregate import LEVEL
from evalkit.report.differences import SettingDifference, setting_differences
from evalkit.report.paired import Pair, PairedDifference, holm, paired_difference
from evalkit.report.scored import ScoredTask, Unscored
from evalkit.report.statistics import Interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.report.results import Results
    from evalkit.report.scored import AnyTask, LoadedRun

REGRESSION = 11
"""Exit code of a proven regression."""
UNTESTED = 10
"""Exit code where something could not be tested and nothing worse is known: that of units missing."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How a comparison decides."""

    alpha: float = 1 - LEVEL
    margin: float = 0.0
    """A regression is a loss beyond this (fraction)."""


class Flip(Frozen):
    """A sample that scored otherwise."""

    sample: str
    first: float
    """Mean over the repeats."""
    second: float


class TaskComparison(Frozen):
    """One task of two runs. Values are fractions."""

    task: str
    metric: str | None
    """The headline's; null where neither run has results."""
    reason: str | None
    """Why it was not compared; null where it was."""
    first: float | None
    """The headline over the common samples."""
    second: float | None
    common: int
    """Samples that both have."""
    only_first: int
    """Samples that only the first run has; they are in no number here."""
    only_second: int
    altered: int
    """Samples of one id with two targets; they are in no number here."""
    difference: PairedDifference | None
    adjusted_p: float | None
    """`difference.p_value` among all of the comparison (Holm)."""
    regression: bool | None
    """Worse than the first run beyond the margin, by the adjusted test; null: not tested."""
    bounds: Interval | None
    """Of the difference, where units are missing and both sides have bounds."""
    flips: tuple[Flip, ...]
    """Worse ones first, the largest change first."""


class RunComparison(Frozen):
    """One run against the first."""

    run: str
    run_id: str | None
    settings: tuple[SettingDifference, ...]
    settings_of: int
    """Tasks whose settings are known of both; the others were not gathered."""
    tasks: tuple[TaskComparison, ...]


class Comparison(Frozen):
    """Runs against the first of them."""

    first: str
    first_id: str | None
    runs: tuple[RunComparison, ...]
    alpha: float
    margin: float
    correction: Literal["holm"] = "holm"
    tests: int
    """How many p-values were adjusted together."""

    def exit_code(self) -> int:
        """0: no regression; `REGRESSION`; or `UNTESTED` where something was not compared."""
        found = [task.regression for run in self.runs for task in run.tasks]
        if True in found:
            return REGRESSION
        return UNTESTED if None in found or not found else 0


def compare_runs(runs: Sequence[LoadedRun], rules: Rules) -> Comparison:
    """Every run but the first against the first; at least two."""
    first, *others = runs
    named = [(other, _names(first, other)) for other in others]
    tests = [
        _compare_task(name, _task(first, name), _task(other, name), rules)
        for other, names in named
        for name in names
    ]
    done = iter(_adjusted(tests, rules))
    return Comparison(
        first=first.label,
        first_id=first.run_id,
        runs=tuple(
            RunComparison(
                run=other.label,
                run_id=other.run_id,
                settings=setting_differences(_results(first, other)),
                settings_of=len(_results(first, other)),
                tasks=tuple(next(done) for _ in names),
            )
            for other, names in named
        ),
        alpha=rules.alpha,
        margin=rules.margin,
        tests=sum(test.difference is not None for test in tests),
    )


@dataclass(frozen=True, slots=True)
class _Test:
    """A task before the p-values are adjusted."""

    comparison: TaskComparison
    difference: PairedDifference | None = None
    gate: PairedDifference | None = None
    """The test of the margin: of no difference where that is 0."""


def _names(first: LoadedRun, other: LoadedRun) -> list[str]:
    return [*first.tasks, *(name for name in other.tasks if name not in first.tasks)]


def _task(run: LoadedRun, name: str) -> AnyTask:
    return run.tasks.get(name) or Unscored("no such task", None)


def _results(first: LoadedRun, other: LoadedRun) -> dict[str, tuple[Results, Results]]:
    """The results that both have, complete or not."""
    both = {
        name: (first.tasks[name].results, other.tasks[name].results)
        for name in first.tasks
        if name in other.tasks
    }
    return {name: (a, b) for name, (a, b) in both.items() if a is not None and b is not None}


def _compare_task(name: str, first: AnyTask, second: AnyTask, rules: Rules) -> _Test:
    if isinstance(first, Unscored) or isinstance(second, Unscored):
        return _Test(_excluded(name, first, second, _why(first, second)))
    one, two = first.results, second.results
    for what, a, b in (
        ("benchmark", one.benchmark, two.benchmark),
        ("metric", one.headline.metric, two.headline.metric),
    ):
        if a != b:
            return _Test(_excluded(name, first, second, f"another {what}: {a} and {b}"))
    shared = [i for i in first.samples if i in second.samples]
    common = [i for i in shared if _same_target(first, second, i)]
    counted = {
        "common": len(common),
        "only_first": len(first.samples) - len(shared),
        "only_second": len(second.samples) - len(shared),
        "altered": len(shared) - len(common),
    }
    excluded = _excluded(name, first, second, "", **counted)
    try:
        difference = _difference(first, second, common, rules, 0.0)
        gate = _difference(first, second, common, rules, -rules.margin)
    except ValueError as error:
        reason = f"of {len(common)} common samples: {error}"
        return _Test(excluded.model_copy(update={"reason": reason}))
    update = {
        "reason": None,
        "first": first.value(common),
        "second": second.value(common),
        "flips": _flips(first, second, common),
    }
    return _Test(excluded.model_copy(update=update), difference, gate)


def _difference(
    first: ScoredTask, second: ScoredTask, ids: Sequence[str], rules: Rules, null: float
) -> PairedDifference:
    """Raises ValueError where these samples are too few, or make another headline."""
    if not ids:
        raise ValueError("nothing to compare")
    strata = first.strata(ids)
    pairs = [
        Pair(
            first=one.mean,
            second=second.samples[i].mean,
            weight=one.weight,
            cluster=one.cluster,
            stratum="" if strata is None else one.subset or "",
        )
        for i, one in ((i, first.samples[i]) for i in ids)
    ]
    repeats = min(first.results.headline.repeats, second.results.headline.repeats)
    return paired_difference(
        pairs, step=1 / repeats, strata=strata, level=1 - rules.alpha, null=null
    )


def _same_target(first: ScoredTask, second: ScoredTask, sample: str) -> bool:
    """False where one id stands for two questions, as far as their targets tell."""
    one, two = first.samples[sample].target, second.samples[sample].target
    return one is None or two is None or one == two


def _flips(first: ScoredTask, second: ScoredTask, ids: Sequence[str]) -> tuple[Flip, ...]:
    flips = [
        Flip(sample=i, first=first.samples[i].mean, second=second.samples[i].mean) for i in ids
    ]
    changed = [flip for flip in flips if flip.first != flip.second]
    return tuple(sorted(changed, key=lambda f: (f.second > f.first, -abs(f.second - f.first))))


def _why(first: AnyTask, second: AnyTask) -> str:
    sides = (("the first run", first), ("this run", second))
    return "; ".join(f"{which}: {s.reason}" for which, s in sides if isinstance(s, Unscored))


def _excluded(
    name: str, first: AnyTask, second: AnyTask, reason: str, **counted: int
) -> TaskComparison:
    known = [side.results for side in (first, second) if side.results is not None]
    counts = {"common": 0, "only_first": 0, "only_second": 0, "altered": 0, **counted}
    return TaskComparison(
        task=name,
        metric=known[0].headline.metric if known else None,
        reason=reason,
        first=None,
        second=None,
        difference=None,
        adjusted_p=None,
        regression=None,
        bounds=_bounds(first, second),
        flips=(),
        **counts,
    )


def _bounds(first: AnyTask, second: AnyTask) -> Interval | None:
    """What the difference may still become; null when both are complete, or nothing is known."""
    if isinstance(first, ScoredTask) and isinstance(second, ScoredTask):
        return None
    one, two = _range(first), _range(second)
    if one is None or two is None:
        return None
    return Interval(two.low - one.high, two.high - one.low)


def _range(task: AnyTask) -> Interval | None:
    if task.results is None:
        return None
    value = task.results.headline.value
    return task.results.headline.bounds if value is None else Interval(value, value)


def _adjusted(tests: Sequence[_Test], rules: Rules) -> list[TaskComparison]:
    """With the p-values of all tests adjusted together, and what they say of regressions."""
    done = [test for test in tests if test.difference is not None]
    adjusted = iter(holm([test.difference.p_value for test in done if test.difference]))
    gates = iter(holm([test.gate.p_value for test in done if test.gate]))
    found = []
    for test in tests:
        if test.difference is None:
            found.append(test.comparison)
            continue
        below = test.difference.value < -rules.margin
        update = {
            "difference": test.difference,
            "adjusted_p": next(adjusted),
            "regression": next(gates) < rules.alpha and below,
        }
        found.append(test.comparison.model_copy(update=update))
    return found
