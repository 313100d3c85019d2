"""The table of results, for a terminal of any width, a pipe or a file.

Rendering only: rows come from published results, or from whoever counts a run that is still going.
What is not known is shown as a dash; a score that is withheld says so and shows its bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from evalkit.store.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from evalkit.recipe.schema import Profile
    from evalkit.report.results import Counts, Headline, Results
    from evalkit.report.statistics import Interval

WIDE = 110
"""Columns below which a row stacks its numbers; the wide table needs about 105."""
UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class Row:
    """One task. Shares are percent, other numbers as they are; null is not known."""

    task: str
    profile: Profile
    expected: int
    """Planned units."""
    mode: str | None = None
    """`pass@1[avg-of-8]`."""
    metric: str | None = None
    done: int | None = None
    """Scored units."""
    percent: float | None = None
    standard_error: float | None = None
    interval: tuple[float, float] | None = None
    bounds: tuple[float, float] | None = None
    """Given instead of a score while units are missing."""
    n_samples: int | None = None
    truncated: int | None = None
    empty: int | None = None
    errors: int | None = None
    """Units that failed for a reason of ours."""
    is_share: bool = True

    def text(self, number: float) -> str:
        """A score, its error or a bound: percent with two digits, other numbers with four that count."""
        return f"{number:.2f}" if self.is_share else f"{number:.4g}"


def row_of(results: Results) -> Row:
    """The row of a task's results."""
    return _row(
        results.task,
        results.settings.profile,
        results.counts.expected,
        results.headline,
        results.counts,
    )


def _row(
    task: str, profile: Profile, expected: int, headline: Headline | None, counts: Counts | None
) -> Row:
    if headline is None or counts is None:
        return Row(task, profile, expected)
    outcomes, scale = counts.by_outcome, headline.scale
    return Row(
        task,
        profile,
        expected,
        mode=headline.mode,
        metric=headline.metric,
        done=counts.scored,
        percent=headline.shown,
        standard_error=_scaled(headline.standard_error, scale),
        interval=_span(headline.interval, scale),
        bounds=_span(headline.bounds, scale),
        n_samples=headline.n_samples,
        is_share=headline.is_share,
        truncated=outcomes.get("truncated", 0),
        empty=outcomes.get("empty", 0),
        errors=sum(n for name, n in outcomes.items() if not Outcome(name).is_models_own),
    )


def results_table(rows: Sequence[Row], width: int, *, ascii_only: bool = False) -> Table:
    """The table for a terminal of `width` columns; below `WIDE` each row stacks its numbers."""
    signs = "+/-" if ascii_only else "±"
    return _wide(rows, signs) if width >= WIDE else _narrow(rows, signs)


def show_results(console: Console, rows: Sequence[Row]) -> None:
    """Print the table, as wide as the console; without colour where it has none."""
    options = console.options
    ascii_only = not options.encoding.startswith("utf")
    console.print(results_table(rows, options.max_width, ascii_only=ascii_only))


def _wide(rows: Sequence[Row], signs: str) -> Table:
    table = plain_table("task\nprofile", "metric")
    for name in ("score %", "95 % interval", "n", "done", "trunc.", "empty", "errors"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            _stack(row.task, row.profile),
            _stack(row.mode, row.metric),
            _score(row, signs),
            _interval(row),
            _number(row.n_samples),
            _done(row),
            *_outcomes(row),
        )
    return table


def _narrow(rows: Sequence[Row], signs: str) -> Table:
    table = plain_table("task\nmetric")
    for name in ("score %\n95 % interval", "done\nn", "trunc.", "empty", "errors"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            _stack(f"{row.task} ({row.profile})", row.mode, row.metric),
            _stack(_score(row, signs), _interval(row)),
            _stack(_done(row), _number(row.n_samples)),
            *_outcomes(row),
        )
    return table


def plain_table(*names: str) -> Table:
    """A table as all of evalkit's are, with these columns of text."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def _stack(*parts: str | Text | None) -> Text:
    """Parts one below the other; markup in names is text."""
    known = [part if isinstance(part, Text) else Text(part) for part in parts if part is not None]
    return Text("\n").join(known) if known else Text(UNKNOWN)


def _score(row: Row, signs: str) -> Text:
    if row.percent is None:
        return Text("withheld", "yellow") if row.done is not None else Text(UNKNOWN)
    error = "" if row.standard_error is None else f" {signs} {row.text(row.standard_error)}"
    return Text(f"{row.text(row.percent)}{error}", "bold")


def _interval(row: Row) -> Text:
    if row.interval is not None:
        return Text(f"[{row.text(row.interval[0])}, {row.text(row.interval[1])}]")
    if row.bounds is not None:
        return Text(f"{row.bounds[0]:.2f} to {row.bounds[1]:.2f}", "yellow")
    return Text(UNKNOWN)


def _done(row: Row) -> Text:
    style = "yellow" if row.done is not None and row.done < row.expected else ""
    return Text(f"{UNKNOWN if row.done is None else row.done}/{row.expected}", style)


def _outcomes(row: Row) -> list[Text]:
    errors = _number(row.errors)
    errors.style = "red" if row.errors else ""
    return [_number(row.truncated), _number(row.empty), errors]


def _number(value: int | None) -> Text:
    return Text(UNKNOWN if value is None else str(value))


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else scale * value


def _span(interval: Interval | None, scale: float) -> tuple[float, float] | None:
    return None if interval is None else (scale * interval.low, scale * interval.high)
