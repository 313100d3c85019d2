"""The report as Markdown: the tables, and what a reader of them must know. Pure.

For a pull request or a wiki. Samples and plots are in the page.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from evalkit.report.page.sources import run_labels
from evalkit.report.page.views import (
    find_differences,
    learning_curves,
    score_view,
    task_heading,
    task_names,
    task_view,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from evalkit.report.page.sources import RunReport
    from evalkit.report.page.views import ScoreView, TaskView

HEADS = (
    *("task", "profile", "metric", "score %", "95 % interval", "n", "done"),
    *("truncated", "empty", "no answer", "errors"),
)
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def render_markdown(runs: Sequence[RunReport], title: str) -> str:
    """Tables of all runs, side by side first where there are several."""
    lines = [f"# {escape(title)}", ""]
    labels = run_labels(runs)
    if len(runs) > 1:
        lines += _side_by_side(runs, labels)
    for run, label in zip(runs, labels, strict=True):
        views = [task_view(task) for task in run.tasks]
        lines += [f"## {escape(label)}", "", *_facts(run), ""]
        lines += [*_table(HEADS, [_row(view) for view in views]), ""]
        notes = [f"- **{escape(v.task)}**: {escape(note)}" for v in views for note in v.notes]
        lines += [*notes, ""] if notes else []
    return "\n".join(lines).rstrip("\n") + "\n"


def escape(text: str) -> str:
    """Text on one line that Markdown and HTML take for text."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _facts(run: RunReport) -> list[str]:
    step = "" if run.step is None else f", training step {run.step:,}"
    state = "complete" if run.complete else "**incomplete**"
    plan = run.plan
    return [
        f"Run {escape(plan.run)} ({plan.run_id}), model {escape(plan.model.name)}{step}, "
        f"recipe {escape(plan.recipe)}: {state}."
    ]


def _row(view: TaskView) -> list[str]:
    return [
        *(view.task, view.profile, view.metric, _score(view.score), _span(view.score)),
        *(view.n, view.done, view.truncated, view.empty, view.no_answer, view.errors),
    ]


def _score(score: ScoreView) -> str:
    return f"{score.value} ± {score.error}" if score.error else score.value


def _span(score: ScoreView) -> str:
    return f"bounds {score.span}" if score.is_withheld else score.span


def _side_by_side(runs: Sequence[RunReport], labels: Sequence[str]) -> list[str]:
    names = task_names(runs)
    has_steps = any(learning_curves(runs, name) for name in names)
    rows = []
    for run, label in zip(runs, labels, strict=True):
        step = [] if not has_steps else ["-" if run.step is None else f"{run.step:,}"]
        tasks = [run.task(name) for name in names]
        scores = [score_view(task.results if task else None) for task in tasks]
        cells = [f"{_score(s)} ({s.span})" if s.is_withheld else _score(s) for s in scores]
        rows.append([label, *step, *cells])
    tasks_heads = [escape(task_heading(runs, name)) for name in names]
    heads = ["model", *(["step"] if has_steps else []), *tasks_heads]
    differing = [(name, find_differences(runs, name)) for name in names]
    warnings = [
        f"- **{escape(name)}** was not measured alike in all runs. Differing: {escape(', '.join(keys))}"
        for name, keys in differing
        if keys
    ]
    return [*_table(heads, rows), "", *([*warnings, ""] if warnings else [])]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads)]
    return [
        *(f"| {' | '.join(cells)} |" for cells in lines),
        *(f"| {' | '.join(escape(cell) for cell in row)} |" for row in rows),
    ]
