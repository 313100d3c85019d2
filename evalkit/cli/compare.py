"""`evalkit compare`: how runs differ, and what that proves."""

from __future__ import annotations

from dataclasses import dataclass
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

    from evalkit.plan.model import Plan
    from evalkit.report.results import Results
    from evalkit.store.layout import RunFolder


@dataclass(frozen=True, slots=True)
class _Run:
    """A run that was named."""

    label: str
    folder: RunFolder
    plan: Plan

    @property
    def tasks(self) -> list[str]:
        return [task.name for task in self.plan.tasks]

    def load(self, names: Sequence[str] | None) -> LoadedRun:
        return load_run(self.folder, self.plan, self.label, names)


@dataclass(frozen=True, slots=True)
class _File:
    """A results.json that was named: a run of one task."""

    path: Path
    results: Results

    @property
    def tasks(self) -> list[str]:
        return [self.results.task]

    def load(self, _names: Sequence[str] | None) -> LoadedRun:
        task = self.results.task
        return LoadedRun(
            str(self.path),
            self.results.run_id,
            {task: load_scored(self.path)},
            {task: self.results.benchmark},
        )


def command_compare(arguments: argparse.Namespace) -> int:
    """Each run against the first; with --fail-on-regression the exit code is the verdict."""
    sources = list(_sources(arguments))
    _refuse_unknown(arguments.task, sources)
    if len(sources) < 2:
        raise UsageError(
            f"only one run: {arguments.runs[0]}", hint="Name two runs, or a sweep of several."
        )
    with err().status("reading samples"):
        runs = [source.load(arguments.task or None) for source in sources]
    rules = Rules(alpha=arguments.alpha, margin=arguments.margin / 100)
    found = compare_runs(_paired_files(runs), rules)
    if arguments.json:
        print_json(found.model_dump(mode="json"))
    else:
        console = out()
        everything: bool = arguments.all_settings
        view = comparison_view(found, console.width, arguments.flips, all_settings=everything)
        console.print(view)
    return found.exit_code() if arguments.fail_on_regression else 0


def _sources(arguments: argparse.Namespace) -> Iterator[_Run | _File]:
    """What was named, in order; a sweep is all of its runs. Raises UsageError, StoreError."""
    output = Path(arguments.output)
    for text in arguments.runs:
        path = Path(text).expanduser()
        if path.suffix == ".json" and path.is_file():
            yield _File(path, _results_of(path))
        else:
            for folder in runs_named(text, output):
                yield _Run(label_of(folder, output), folder, load_plan(folder))


def _results_of(path: Path) -> Results:
    results = read_results(path)
    if results is None:
        raise UsageError(
            f"{path} is no results.json of this version of evalkit",
            hint="Give runs, or files artifacts/TASK/results.json.",
        )
    return results


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


def _refuse_unknown(tasks: Sequence[str], sources: Sequence[_Run | _File]) -> None:
    known = list(dict.fromkeys(name for source in sources for name in source.tasks))
    for name in tasks:
        if name not in known:
            raise UsageError(f"no task {name!r} in these runs", hint=f"Tasks: {', '.join(known)}.")
