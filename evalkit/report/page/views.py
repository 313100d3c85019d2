"""What a report says in words and numbers, for whatever renders it: HTML, Markdown or a terminal. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.plan.fingerprint import flatten
from evalkit.report.checklist import stand_in_text
from evalkit.report.page.plots import Curve, CurvePoint, ScorePoint
from evalkit.report.tables import UNKNOWN, row_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.report.page.sources import RunReport, TaskReport
    from evalkit.report.results import Results

MODELS = ("model.", "serving.served_model_name")
"""Keys in which runs of several models differ, of course."""
FIRST = 5
"""Missing units that a note names."""


@dataclass(frozen=True, slots=True)
class ScoreView:
    """A score as it is quoted."""

    value: str
    """`43.21`, `withheld`, or a dash."""
    error: str
    """`0.87`, or empty."""
    span: str
    """`[41.2, 45.1]`, or `41.20 to 45.10` for bounds."""
    is_withheld: bool


@dataclass(frozen=True, slots=True)
class TaskView:
    """One row of the table of results."""

    task: str
    title: str
    profile: str
    metric: str
    score: ScoreView
    n: str
    done: str
    truncated: str
    empty: str
    no_answer: str
    errors: str
    complete: bool
    notes: tuple[str, ...]
    """What a reader of the score must know."""


def task_view(task: TaskReport) -> TaskView:
    """The row of a task."""
    plan, results = task.plan, task.results
    if results is None:
        return TaskView(
            task=plan.name,
            title=task.title,
            profile=plan.profile,
            metric=plan.metric,
            score=score_view(None),
            n=UNKNOWN,
            done=f"{UNKNOWN}/{plan.n_units:,}",
            truncated=UNKNOWN,
            empty=UNKNOWN,
            no_answer=UNKNOWN,
            errors=UNKNOWN,
            complete=False,
            notes=("not gathered yet",),
        )
    row = row_of(results)
    return TaskView(
        task=plan.name,
        title=task.title,
        profile=results.settings.profile,
        metric=results.headline.name,
        score=score_view(results),
        n=f"{results.headline.n_samples:,}",
        done=f"{results.counts.scored:,}/{results.counts.expected:,}",
        truncated=_count(row.truncated),
        empty=_count(row.empty),
        no_answer=_count(results.counts.no_answer),
        errors=_count(row.errors),
        complete=results.complete,
        notes=tuple(task_notes(task, results)),
    )


def _count(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"


def score_view(results: Results | None) -> ScoreView:
    """A task's score, percent with two digits."""
    if results is None:
        return ScoreView(UNKNOWN, "", UNKNOWN, is_withheld=False)
    row = row_of(results)
    if row.percent is None:
        bounds = row.bounds
        span = "no bounds" if bounds is None else f"{bounds[0]:.2f} to {bounds[1]:.2f}"
        return ScoreView("withheld", "", span, is_withheld=True)
    error = "" if row.standard_error is None else row.text(row.standard_error)
    interval = row.interval
    span = UNKNOWN if interval is None else f"[{row.text(interval[0])}, {row.text(interval[1])}]"
    return ScoreView(row.text(row.percent), error, span, is_withheld=False)


def task_notes(task: TaskReport, results: Results) -> list[str]:
    """What is missing, not as in the profile, or not as it was planned."""
    notes = []
    if not results.complete:
        notes.append(_missing(results, names=not task.is_restricted))
    if results.not_run:
        notes.append(f"not run: {', '.join(results.not_run)}; the score does not count them")
    if differs := results.settings.differs_from_profile:
        keys = ", ".join(difference.key for difference in differs)
        notes.append(f"differs from the profile {results.settings.profile}: {keys}")
    notes += [stand_in_text(name, other) for name, other in results.settings.stand_ins.items()]
    if results.provenance.data.altered:
        notes.append("the data is not the one that the benchmark pins")
    if results.problems:
        lines = "line or file" if len(results.problems) == 1 else "lines or files"
        notes.append(f"{len(results.problems):,} damaged {lines} of the run left out")
    if task.traffic is None:
        notes.append("no traffic.json: gather again for lengths, latency and throughput")
    return notes


def _missing(results: Results, *, names: bool) -> str:
    """`names`: with the words of failures, which may repeat what must not be shown."""
    missing = results.missing
    reasons = ", ".join(
        f"{part.count:,} {reason}" + (f" ({part.message})" if names and part.message else "")
        for reason, part in missing.by_reason.items()
    )
    first = ", ".join(f"{unit.sample} repeat {unit.repeat}" for unit in missing.first[:FIRST])
    more = ", \N{HORIZONTAL ELLIPSIS}" if missing.count > FIRST else ""
    return (
        f"incomplete: {missing.count:,} of {results.counts.expected:,} units are missing "
        f"({reasons}); the score is withheld, and its bounds take every missing unit as wrong, then "
        f"as right; first: {first}{more}"
    )


def task_names(runs: Sequence[RunReport]) -> list[str]:
    """All tasks of all runs, in the order they first come."""
    return list(dict.fromkeys(task.plan.name for run in runs for task in run.tasks))


def task_heading(runs: Sequence[RunReport], name: str) -> str:
    """A task with its profile, or the profiles that runs have it by."""
    profiles = {
        task.results.settings.profile if task.results else task.plan.profile
        for run in runs
        if (task := run.task(name)) is not None
    }
    return f"{name} ({', '.join(sorted(profiles))})"


def find_differences(runs: Sequence[RunReport], name: str) -> list[str]:
    """Dotted keys of a task's identity, other than its model's, in which runs differ: then their scores
    do not compare as they stand."""
    found = [task for run in runs if (task := run.task(name)) is not None]
    plans = [_identity(task) for task in found]
    keys = sorted({key for plan in plans for key in plan if not key.startswith(MODELS)})
    return [key for key in keys if any(p.get(key) != plans[0].get(key) for p in plans)]


def _identity(task: TaskReport) -> dict[str, object]:
    judge = None if task.plan.judge is None else task.plan.judge.identity
    whole = {**task.plan.identity, "profile": task.plan.profile, "judge": judge}
    return dict(flatten(whole))


def score_points(runs: Sequence[RunReport], names: Sequence[str]) -> list[ScorePoint]:
    """The points of the plot of scores: by task, then run. Tasks without results are left out, and those
    whose score is no share: the axis is percent."""
    return [
        _point(number, run, task.results)
        for name in names
        for number, run in enumerate(runs)
        if (task := run.task(name)) is not None
        and task.results is not None
        and task.results.headline.is_share
    ]


def _point(number: int, run: RunReport, results: Results) -> ScorePoint:
    row = row_of(results)
    low, high = row.interval or row.bounds or (None, None)
    score = score_view(results)
    error = f" ± {score.error}" if score.error else ""
    profile = results.settings.profile
    title = f"{run.plan.model.name}, {results.task} ({profile}): {score.value}{error}, {score.span}"
    return ScorePoint(results.task, number, row.percent, low, high, title)


def learning_curves(runs: Sequence[RunReport], name: str) -> list[Curve]:
    """The learning curves of a task, one for each way in which it was measured: a line through different
    settings would show as progress what they did. Complete results of runs whose step is known are their
    points; fewer than two steps are no curve."""
    variants: dict[str, list[RunReport]] = {}
    for run in runs:
        task = run.task(name)
        if task is not None and run.step is not None:
            variants.setdefault(repr(_variant(task)), []).append(run)
    differing = find_differences([run for found in variants.values() for run in found], name)
    curves = [
        Curve(_label(found[0], name, differing), _points(found, name))
        for found in variants.values()
    ]
    return [curve for curve in curves if len({point.step for point in curve.points}) > 1]


def _variant(task: TaskReport) -> list[tuple[str, object]]:
    """How a task was measured, whatever its model."""
    return sorted((k, v) for k, v in _identity(task).items() if not k.startswith(MODELS))


def _label(run: RunReport, name: str, keys: Sequence[str]) -> str:
    """A variant by the values of these keys; checksums come last, for they tell a person least."""
    task = run.task(name)
    identity = {} if task is None else _identity(task)
    checksums = [key for key in keys if key.endswith("sha256")]
    said = [
        *(f"{k} {identity[k]}" if k in identity else f"no {k}" for k in keys if k not in checksums),
        *(f"{key} {str(identity.get(key, UNKNOWN))[:8]}" for key in checksums),
    ]
    return ", ".join(said)


def _points(runs: Sequence[RunReport], name: str) -> list[CurvePoint]:
    points = []
    for run in runs:
        task = run.task(name)
        if run.step is None or task is None or task.results is None:
            continue
        row = row_of(task.results)
        if row.percent is None:
            continue
        low, high = row.interval or (None, None)
        score = score_view(task.results)
        title = f"{run.plan.model.name}: {score.value}, {score.span}"
        points.append(CurvePoint(run.step, row.percent, low, high, title))
    return points
