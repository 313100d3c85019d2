"""A sweep in the terminal: its runs below each other, a column for each task, bars to see the curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from evalkit.cli.console import out
from evalkit.report.artifacts import render_json
from evalkit.report.sweep import SUMMARY, Cell, published, read_cells, summarise
from evalkit.report.tables import plain_table
from evalkit.store.publish import publish
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.table import Table

    from evalkit.report.results import Results
    from evalkit.store.layout import RunFolder

BAR = 10
"""Columns of a bar from 0 to 100 %."""
EIGHTHS = " ▏▎▍▌▋▊▉"


def show_sweeps(folders: Sequence[RunFolder]) -> None:
    """Each sweep that several of these runs belong to: its table, and its `summary.json`.

    Raises StoreError.
    """
    roots = list(dict.fromkeys(folder.root.parent for folder in folders))
    for root in roots:
        mine = {folder.root.name for folder in folders if folder.root.parent == root}
        cells = [cell for cell in read_cells(root) if cell.label in mine]
        if len(cells) > 1:
            _show(root, cells, next(f for f in folders if f.root.parent == root))


def _show(root: Path, cells: Sequence[Cell], first: RunFolder) -> None:
    tasks = [task.name for task in load_plan(first).tasks]
    rows = [(cell, published(root, cell.label, tasks)) for cell in cells]
    publish(root / SUMMARY, render_json(summarise(rows)))
    console = out()
    ascii_only = not console.options.encoding.startswith("utf")
    out().print(sweep_table(rows, tasks, ascii_only=ascii_only))
    out().print(Text(f"side by side: {root / SUMMARY}"), soft_wrap=True)


def sweep_table(
    rows: Sequence[tuple[Cell, dict[str, Results]]],
    tasks: Sequence[str],
    *,
    ascii_only: bool = False,
) -> Table:
    """One row for each run; scores in per cent with their standard error."""
    table = plain_table("run")
    for task in tasks:
        table.add_column(f"{task} %", justify="right", no_wrap=True)
        if not ascii_only:
            table.add_column("", no_wrap=True)
    for cell, found in rows:
        columns: list[Text] = []
        for task in tasks:
            score, bar = _score(found.get(task), "+/-" if ascii_only else "±")
            columns += [score] if ascii_only else [score, bar]
        table.add_row(Text(cell.label), *columns)
    return table


def _score(results: Results | None, signs: str) -> tuple[Text, Text]:
    if results is None:
        return Text("-"), Text("")
    headline = results.headline
    if headline.shown is None:
        return Text("withheld", "yellow"), Text("")
    error = headline.standard_error
    bar = "" if headline.percent is None else bar_of(headline.percent)
    said = "" if error is None else f" {signs} {headline.text(headline.scale * error)}"
    return Text(f"{headline.words}{said}", "bold"), Text(bar, "cyan")


def bar_of(percent: float) -> str:
    """A bar of `BAR` columns for 100 %, in eighths of a column."""
    eighths = round(max(0.0, min(100.0, percent)) / 100 * BAR * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (EIGHTHS[rest] if rest else "")).ljust(BAR)
