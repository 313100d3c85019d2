"""`evalkit status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from evalkit.cli.console import out, print_json
from evalkit.cli.runs import runs_of
from evalkit.cli.status_view import status_view
from evalkit.cli.watch import watch
from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.runs import all_runs
from evalkit.cluster.status import run_status

if TYPE_CHECKING:
    import argparse

    from evalkit.cluster.status import RunStatus


def command_status(arguments: argparse.Namespace) -> int:
    """Status of one run, of a sweep's runs, or of all runs in short."""
    if arguments.run is None:
        return _all(arguments)
    runs = runs_of(arguments)
    if arguments.watch:
        for run in runs:
            watch(run)
    statuses = [run_status(run, clock=SYSTEM_CLOCK) for run in runs]
    if arguments.json:
        print_json([status.to_json() for status in statuses])
    else:
        for status in statuses:
            out().print(status_view(status))
    return 0


def _all(arguments: argparse.Namespace) -> int:
    output = Path(arguments.output)
    statuses = [run_status(run, clock=SYSTEM_CLOCK) for run in all_runs(output)]
    if arguments.json:
        print_json([status.to_json() for status in statuses])
        return 0
    if not statuses:
        out().print(Text(f"no runs in {output.absolute()}"))
        return 0
    out().print(_table(statuses))
    return 0


def _table(statuses: list[RunStatus]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("id", "run", "phase"):
        table.add_column(name, overflow="fold")
    table.add_column("done", justify="right")
    table.add_column("", overflow="fold")
    for status in statuses:
        done = f"{status.done:,}/{status.expected:,}"
        table.add_row(status.run_id, status.run, status.phase, done, Text(status.message))
    return table
