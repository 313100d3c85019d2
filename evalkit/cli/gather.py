"""`evalkit gather` and `evalkit score`: journals to artifacts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from evalkit.cli.console import err, out, print_json
from evalkit.cli.runs import runs_of
from evalkit.clock import SYSTEM_CLOCK
from evalkit.report.gather import GatherProgress, RunResults, gather_run
from evalkit.report.tables import row_of, show_results
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from evalkit.store.layout import RunFolder


def command_gather(arguments: argparse.Namespace) -> int:
    """Score everything; exit code 10 while units are missing, unless --allow-partial."""
    results = [gather(run, arguments.task, as_json=arguments.json) for run in runs_of(arguments)]
    if not arguments.allow_partial:
        for result in results:
            result.require_complete()
    return 0


def command_score(arguments: argparse.Namespace) -> int:
    """Score what is there; what is missing is said, and is no error."""
    for run in runs_of(arguments):
        gather(run, arguments.task, as_json=arguments.json)
    return 0


def gather(folder: RunFolder, tasks: Sequence[str] = (), *, as_json: bool = False) -> RunResults:
    """Gather one run and print its results. Raises StoreError, PlanError, UsageError."""
    console = err()
    with console.status("reading journals") as spinner:

        def show(progress: GatherProgress) -> None:
            spinner.update(
                f"gathering {progress.task}: shard {progress.shards}/{progress.of_shards}, "
                f"{progress.scored:,} units scored"
            )

        results = gather_run(
            folder,
            load_plan(folder),
            tasks=list(tasks) or None,
            allow_partial=True,
            on_progress=show,
            clock=SYSTEM_CLOCK.wall,
        )
    if as_json:
        print_json([task.model_dump(mode="json") for task in results.tasks])
        return results
    show_results(out(), [row_of(task) for task in results.tasks])
    out().print(Text(f"artifacts: {folder.artifacts()}"), soft_wrap=True)
    return results
