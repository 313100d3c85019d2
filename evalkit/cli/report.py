"""`evalkit report`: a run, or several side by side, as a page, Markdown or text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from evalkit.cli.console import out, print_json, say, skip_note
from evalkit.cli.runs import runs_named
from evalkit.errors import UsageError
from evalkit.report.page.markdown import render_markdown
from evalkit.report.page.sources import read_run, run_labels
from evalkit.report.page.views import (
    learning_curves,
    score_view,
    task_heading,
    task_names,
    task_view,
)
from evalkit.report.page.write import DEFAULT_MB, default_path, make_page, title_of
from evalkit.report.rescore import rescored
from evalkit.report.tables import row_of, show_results
from evalkit.store.publish import publish
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from evalkit.report.page.sources import RunReport
    from evalkit.report.page.units import Group
    from evalkit.store.layout import RunFolder


def command_report(arguments: argparse.Namespace) -> int:
    """Write or print the report; nothing is gathered, scored or generated."""
    _check(arguments)
    runs = _read(arguments)
    _check_place(arguments)
    match arguments.format:
        case "html":
            _write_page(arguments, runs)
        case "markdown":
            _give(arguments, render_markdown(runs, title_of(runs)))
        case "text":
            _show(runs)
        case _:
            tasks = (task.results for run in runs for task in run.tasks)
            print_json([results.model_dump(mode="json") for results in tasks if results])
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """No option without effect. Raises UsageError."""
    is_page = arguments.format == "html"
    given = {
        "--max-mb": arguments.max_mb is not None and not is_page,
        "--include-restricted": arguments.include_restricted and not is_page,
        "--out": arguments.out is not None and arguments.format in ("text", "json"),
    }
    for name, is_idle in given.items():
        if is_idle:
            raise UsageError(
                f"{name} has no effect with --format {arguments.format}",
                hint="--max-mb and --include-restricted are for html, --out for html and markdown.",
            )


def _check_place(arguments: argparse.Namespace) -> None:
    if arguments.format == "html" and arguments.task and arguments.out is None:
        raise UsageError(
            "a page of some tasks needs --out FILE", hint="report.html is that of the whole run."
        )


def _read(arguments: argparse.Namespace) -> list[RunReport]:
    """All runs that have results; the others are said. Raises UsageError where none has."""
    folders = [run for text in arguments.runs for run in runs_named(text, Path(arguments.output))]
    folders = list(dict.fromkeys(folders))
    found = []
    for folder in folders:
        try:
            found.append(_read_one(folder, arguments))
        except UsageError as error:
            if len(folders) == 1:
                raise
            skip_note(error)
    if not found:
        raise UsageError("none of these runs has results", hint="`evalkit gather RUN` makes them.")
    return sorted(found, key=lambda run: (run.step is not None, run.step or 0))


def _read_one(folder: RunFolder, arguments: argparse.Namespace) -> RunReport:
    plan = load_plan(folder)
    if arguments.profile is not None:
        folder, plan = replace(folder, profile=arguments.profile), rescored(plan, arguments.profile)
    return read_run(folder, plan, arguments.task)


def _write_page(arguments: argparse.Namespace, runs: Sequence[RunReport]) -> None:
    shows_all: bool = arguments.include_restricted
    restricted = [t for run in runs for t in run.tasks if t.results is not None and t.is_restricted]
    if shows_all and not restricted:
        raise UsageError("--include-restricted: no task here has data that may not be published")
    path = _page_path(arguments, runs)
    page = make_page(
        runs,
        title_of(runs),
        max_mb=DEFAULT_MB if arguments.max_mb is None else arguments.max_mb,
        include_restricted=shows_all,
    )
    publish(path, page.content)
    _say_what_is_left_out(page.groups)
    if shows_all:
        say("warning: the page holds data that may not be published; do not pass it on")
    out().print(Text(str(path)), soft_wrap=True)


def _page_path(arguments: argparse.Namespace, runs: Sequence[RunReport]) -> Path:
    if arguments.out is not None:
        return Path(arguments.out)
    if len(arguments.runs) > 1:
        raise UsageError(
            "the report of several runs has no place of its own",
            hint="Say where with --out FILE, or name the folder of a sweep.",
        )
    return default_path(runs, restricted=arguments.include_restricted)


def _say_what_is_left_out(groups: Sequence[Group]) -> None:
    for group in groups:
        if group.kept < group.total:
            say(
                f"{group.source.task.plan.name}: {group.kept:,} of {group.total:,} units are in the page; "
                "--max-mb takes more"
            )


def _give(arguments: argparse.Namespace, text: str) -> None:
    if arguments.out is not None:
        publish(Path(arguments.out), text.encode())
    else:
        out().print(Text(text), soft_wrap=True, end="")


def _show(runs: Sequence[RunReport]) -> None:
    """Tables, each run's own below those of all."""
    labels = run_labels(runs)
    if len(runs) > 1:
        _show_side_by_side(runs, labels)
    for run, label in zip(runs, labels, strict=True):
        if len(runs) > 1:
            out().print(Text(f"\n{label}", "bold"))
        show_results(out(), [row_of(task.results) for task in run.tasks if task.results])
        for task in run.tasks:
            for note in task_view(task).notes:
                out().print(Text(f"{task.plan.name}: {note}"), soft_wrap=True)


def _show_side_by_side(runs: Sequence[RunReport], labels: Sequence[str]) -> None:
    names = task_names(runs)
    has_steps = any(learning_curves(runs, name) for name in names)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("model", overflow="fold")
    for head in (*(["step"] if has_steps else []), *(task_heading(runs, name) for name in names)):
        table.add_column(Text(head), justify="right", overflow="fold")
    for run, label in zip(runs, labels, strict=True):
        step = ["-" if run.step is None else f"{run.step:,}"] if has_steps else []
        tasks = [run.task(name) for name in names]
        scores = [score_view(task.results if task else None) for task in tasks]
        cells = [f"{s.value} ± {s.error}" if s.error else s.value for s in scores]
        table.add_row(*(Text(cell) for cell in (label, *step, *cells)))
    out().print(table)
