"""`evalkit compare`: how runs differ, and what that proves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cli.console import err, out, print_json
from evalkit.cli.runs import label_of, runs_named
from evalkit.errors import UsageError
from evalkit.report.artifacts import read_results
from evalkit.report.compare import Rules, compare_runs
from evalkit.report.compare_view import comparison_view
from evalkit.report.scored import LoadedRun, load_run, load_scored
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence


def command_compare(arguments: argparse.Namespace) -> int:
    """Each run against the first; with --fail-on-regression the exit code is the verdict."""
    with err().status("reading samples"):
        runs = list(_load(arguments))
    if len(runs) < 2:
        raise UsageError(
            f"only one run: {runs[0].label}", hint="Name two runs, or a sweep of several."
        )
    _refuse_unknown(arguments.task, runs)
    rules = Rules(alpha=arguments.alpha, margin=arguments.margin / 100)
    found = compare_runs(_paired_files(runs), rules)
    if arguments.json:
        print_json(found.model_dump(mode="json"))
    else:
        console = out()
        console.print(comparison_view(found, console.width, arguments.flips))
    return found.exit_code() if arguments.fail_on_regression else 0


def _load(arguments: argparse.Namespace) -> Iterator[LoadedRun]:
    """The runs in the order they were named; a sweep is all of its runs. Raises UsageError."""
    output = Path(arguments.output)
    for text in arguments.runs:
        path = Path(text).expanduser()
        if path.suffix == ".json" and path.is_file():
            yield _load_file(path)
            continue
        for folder in runs_named(text, output):
            plan = load_plan(folder)
            yield load_run(folder, plan, label_of(folder, output), arguments.task or None)


def _load_file(path: Path) -> LoadedRun:
    """One task by its results.json. Raises UsageError for another file, StoreError."""
    results = read_results(path)
    if results is None:
        raise UsageError(
            f"{path} is no results.json of this version of evalkit",
            hint="Give runs, or files artifacts/TASK/results.json.",
        )
    task = results.task
    tasks, benchmarks = {task: load_scored(path)}, {task: results.benchmark}
    return LoadedRun(str(path), results.run_id, tasks, benchmarks)


def _paired_files(runs: Sequence[LoadedRun]) -> list[LoadedRun]:
    """Runs of one task each are compared, whatever the task is called: under the first one's name."""
    first = next(iter(runs[0].tasks), None)
    if first is None or any(len(run.tasks) != 1 for run in runs):
        return list(runs)
    return [
        LoadedRun(run.label, run.run_id, {first: task}, {first: run.benchmarks[name]})
        for run in runs
        for name, task in run.tasks.items()
    ]


def _refuse_unknown(tasks: Sequence[str], runs: Sequence[LoadedRun]) -> None:
    known = list(dict.fromkeys(name for run in runs for name in run.tasks))
    for name in tasks:
        if name not in known:
            raise UsageError(f"no task {name!r} in these runs")
