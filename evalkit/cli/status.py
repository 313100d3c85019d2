"""`evalkit status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from evalkit.cli.console import out, print_json, skip_note
from evalkit.cli.runs import runs_of
from evalkit.cli.status_view import status_view
from evalkit.cli.watch import watch
from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.runs import readable_runs
from evalkit.cluster.status import run_status
from evalkit.cluster.survey import survey
from evalkit.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from evalkit.cluster.status_values import RunStatus
    from evalkit.store.layout import RunFolder


def command_status(arguments: argparse.Namespace) -> int:
    """Status of one run, of a sweep's runs, or of all runs in short."""
    if arguments.run is None:
        return _all(arguments)
    runs = runs_of(arguments)
    if arguments.watch:
        _watch(runs)
    # what is wrong with the only run is an error; one of a sweep hides none of the others
    is_one = len(runs) == 1
    statuses = [run_status(runs[0], clock=SYSTEM_CLOCK)] if is_one else _survey(runs)
    if arguments.json:
        print_json([status.to_json() for status in statuses])
    else:
        for status in statuses:
            out().print(status_view(status))
    return 0


def _all(arguments: argparse.Namespace) -> int:
    output = Path(arguments.output)
    if arguments.watch:
        raise UsageError(
            "--watch is for one run or one sweep",
            hint="`evalkit status RUN --watch`; `evalkit status` lists the runs.",
        )
    statuses = _survey(run for run, _ in readable_runs(output, skip_note))
    if arguments.json:
        print_json([status.to_json() for status in statuses])
        return 0
    if not statuses:
        out().print(Text(f"no runs in {output.absolute()}"), soft_wrap=True)
        return 0
    out().print(_table(statuses))
    return 0


def _watch(runs: Sequence[RunFolder]) -> None:
    """One after the other; of a sweep only the runs that are not over."""
    if len(runs) > 1:
        over = {status.folder for status in _survey(runs) if status.is_over}
        runs = [run for run in runs if str(run.root) not in over]
    for run in runs:
        watch(run)


def _survey(runs: Iterable[RunFolder]) -> list[RunStatus]:
    return survey(runs, clock=SYSTEM_CLOCK, on_problem=skip_note)


def _table(statuses: list[RunStatus]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("id", "run", "phase"):
        table.add_column(name, overflow="fold")
    table.add_column("done", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for status in statuses:
        done = f"{status.done:,}/{status.expected:,}"
        table.add_row(status.run_id, status.run, status.phase, done, Text(status.message))
    return table
