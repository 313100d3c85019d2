"""What the page's template is filled with: everything but the samples. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.report.page.axes import duration, moment, short_number
from evalkit.report.page.method import MethodView, Pairs, as_yaml, method_view
from evalkit.report.page.plots import (
    curve_plot,
    histogram_plot,
    outcome_bar,
    outcome_class,
    score_plot,
)
from evalkit.report.page.sources import run_labels
from evalkit.report.page.speed import run_span, time_plots
from evalkit.report.page.views import (
    ScoreView,
    TaskView,
    find_differences,
    learning_curves,
    score_points,
    score_view,
    task_heading,
    task_names,
    task_view,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from evalkit.report.page.sources import Held, RunReport, TaskReport
    from evalkit.report.page.units import Group
    from evalkit.report.results import Results


@dataclass(frozen=True, slots=True)
class Drawn:
    """A plot and the name above it."""

    name: str
    plot: Markup


@dataclass(frozen=True, slots=True)
class OutcomeView:
    """Where the units of a task went."""

    task: str
    bar: Markup
    counts: list[tuple[str, str, str]]
    """Outcome, class of its colour, units and share."""


@dataclass(frozen=True, slots=True)
class RunView:
    """One run."""

    name: str
    label: str
    complete: bool
    facts: Pairs
    rows: list[TaskView]
    outcomes: list[OutcomeView]
    lengths: list[Drawn]
    latencies: list[Drawn]
    over_time: list[Markup]
    methods: list[MethodView]
    attempts: list[tuple[str, ...]]
    servers: list[tuple[str, str]]
    made_by: str
    problems: list[str]


@dataclass(frozen=True, slots=True)
class ColumnView:
    """One run in the table that sets runs side by side."""

    run: str
    step: str
    scores: list[ScoreView]


@dataclass(frozen=True, slots=True)
class KeptView:
    """Which units of a task are in the page."""

    run: str
    task: str
    kept: str
    total: str
    every: int
    cut: str
    is_whole: bool
    where: str
    withheld: bool


@dataclass(frozen=True, slots=True)
class PageView:
    """The whole page."""

    title: str
    complete: bool
    runs: list[RunView]
    tasks: list[str]
    headings: list[str]
    """Tasks with their profiles."""
    columns: list[ColumnView]
    """Empty for one run."""
    differing: list[tuple[str, str]]
    """Tasks whose settings differ between runs, with the keys."""
    scores: Markup | None
    curves: list[Drawn]
    kept: list[KeptView]
    shows_restricted: bool
    restricted: list[str]
    """Tasks whose data may not be republished."""


def page_view(runs: Sequence[RunReport], title: str, groups: Sequence[Group]) -> PageView:
    """Everything the template shows."""
    names, labels = task_names(runs), run_labels(runs)
    headings = {name: task_heading(runs, name) for name in names}
    points = score_points(runs, names)
    columns = [_column(run, label, names) for run, label in zip(runs, labels, strict=True)]
    several = len(runs) > 1
    curves = {name: learning_curves(runs, name) for name in names} if several else {}
    differing = [(name, ", ".join(find_differences(runs, name))) for name in names]
    restricted = {t.plan.name for run in runs for t in run.tasks if t.is_restricted}
    return PageView(
        title=title,
        complete=all(run.complete for run in runs),
        runs=[run_view(run, label) for run, label in zip(runs, labels, strict=True)],
        tasks=names,
        headings=list(headings.values()),
        columns=columns if several else [],
        differing=[(name, keys) for name, keys in differing if keys] if several else [],
        scores=score_plot(points) if points else None,
        curves=[
            Drawn(headings[name], curve_plot(headings[name], found))
            for name, found in curves.items()
            if found
        ],
        kept=[_kept(group, labels[group.source.run]) for group in groups],
        shows_restricted=bool(restricted) and any(group.source.shows_all for group in groups),
        restricted=[name for name in names if name in restricted],
    )


def run_view(run: RunReport, label: str) -> RunView:
    """One run, by the name it has in this report."""
    gathered = [(task, task.results) for task in run.tasks if task.results is not None]
    servers = [server for _, results in gathered[:1] for server in results.provenance.servers]
    made_by = next((results.provenance.made_by for _, results in gathered), None)
    return RunView(
        name=run.plan.run,
        label=label,
        complete=run.complete,
        facts=_run_facts(run),
        rows=[task_view(task) for task in run.tasks],
        outcomes=[_outcomes(results) for _, results in gathered],
        lengths=[drawn for task, _ in gathered for drawn in _lengths(task)],
        latencies=[drawn for task, _ in gathered for drawn in _latencies(task)],
        over_time=time_plots(run),
        methods=[method_view(task, results) for task, results in gathered],
        attempts=[_attempt(held) for held in run.attempts],
        servers=[(f"{s.replica} attempt {s.attempt}", as_yaml(s.facts)) for s in servers],
        made_by=as_yaml(made_by) if made_by else "",
        problems=list(dict.fromkeys(p for _, results in gathered for p in results.problems)),
    )


def _run_facts(run: RunReport) -> Pairs:
    model, span = run.plan.model, run_span(run)
    gathered = [task.results for task in run.tasks if task.results is not None]
    gpu_s = gathered[0].provenance.run_gpu_seconds if gathered else None
    facts = [
        ("model", model.name),
        ("source", model.source),
        ("revision", model.revision),
        ("weights", model.weights),
        ("tokenizer", model.tokenizer),
        ("chat template", model.chat_template),
        ("training step", None if run.step is None else f"{run.step:,}"),
        ("recipe", run.plan.recipe),
        ("run", run.plan.run),
        ("run id", run.plan.run_id),
        ("plan", run.plan.fingerprint),
        ("first call or attempt", None if span is None else moment(span[0])),
        ("last", None if span is None else moment(span[1])),
        ("GPU-hours", None if gpu_s is None else f"{gpu_s / 3600:.2f}"),
    ]
    return [(name, value) for name, value in facts if value is not None]


def _outcomes(results: Results) -> OutcomeView:
    counts, expected = results.counts.by_outcome, results.counts.expected
    rest = expected - sum(counts.values())
    rows = [*counts.items(), *([("no record", rest)] if rest else [])]
    shown = [
        (
            name,
            "o-rest" if name == "no record" else outcome_class(name),
            f"{n:,} ({100 * n / max(expected, 1):.1f} %)",
        )
        for name, n in rows
    ]
    return OutcomeView(results.task, outcome_bar(results.task, counts, expected), shown)


def _lengths(task: TaskReport) -> list[Drawn]:
    traffic = task.traffic
    if traffic is None or not traffic.completion_tokens.edges:
        return []
    label = f"Length of answers of {task.plan.name}, and which were truncated"
    whole, cut = traffic.completion_tokens, traffic.truncated_tokens
    plot = histogram_plot(label, "tokens of one call", whole, cut, short_number)
    return [Drawn(task.plan.name, plot)]


def _latencies(task: TaskReport) -> list[Drawn]:
    traffic = task.traffic
    if traffic is None or not traffic.latency_s.edges:
        return []
    label = f"Latency of calls of {task.plan.name}"
    return [
        Drawn(
            task.plan.name,
            histogram_plot(label, "seconds of one call", traffic.latency_s, None, short_number),
        )
    ]


def _attempt(held: Held) -> tuple[str, ...]:
    return (
        f"{held.replica} attempt {held.attempt}",
        held.host,
        f"{held.gpus} GPUs" if held.gpus else f"{held.nodes} nodes",
        moment(held.started),
        duration(held.ended - held.started),
        held.end or "not known",
    )


def _column(run: RunReport, label: str, names: Sequence[str]) -> ColumnView:
    scores = [score_view(task.results if (task := run.task(name)) else None) for name in names]
    step = "" if run.step is None else f"step {run.step:,}"
    return ColumnView(label, step, scores)


def _kept(group: Group, label: str) -> KeptView:
    source = group.source
    path = source.of.folder.samples(source.task.plan.name)
    return KeptView(
        run=label,
        task=source.task.plan.name,
        kept=f"{group.kept:,}",
        total=f"{group.total:,}",
        every=group.every,
        cut=f"{group.cut:,}" if group.cut else "",
        is_whole=group.kept == group.total and not group.cut,
        where=str(path.relative_to(source.of.folder.root)),
        withheld=source.withholds,
    )
