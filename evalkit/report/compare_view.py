"""A comparison as text: settings that differ first, then the table, then what was not compared and why.

Rendering only. Scores and differences are percent and points; the runs have letters, A is the first.
"""

from __future__ import annotations

from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from evalkit.report.differences import fold_servings
from evalkit.report.paired import POWER
from evalkit.report.tables import UNKNOWN, WIDE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from evalkit.report.compare import Comparison, Flip, TaskComparison
    from evalkit.report.differences import SettingDifference
    from evalkit.report.statistics import Interval

LONG = 40
"""Characters of a setting that are shown."""
HASH = 12
"""Characters of a checksum that are shown."""


def comparison_view(
    found: Comparison, width: int, flips: int, *, all_settings: bool = False
) -> RenderableType:
    """Everything, for a terminal of `width` columns; `flips` samples of each task are named, and with
    `all_settings` each setting of servers of different kinds."""
    letters = letters_of(len(found.runs))
    return Group(
        _legend(found, letters),
        Text(),
        *_settings(found, letters, all_settings=all_settings),
        Text(),
        _scores(found, letters, width),
        *_not_compared(found, letters),
        *_changed(found, letters, flips),
        Text(),
        Text(_method(found), "dim"),
        *_verdict(found, letters),
    )


def letters_of(others: int) -> list[str]:
    """Short names of the runs but the first: B, C, ..., Z, then R27, R28, ..."""
    return [
        ascii_uppercase[number] if number < len(ascii_uppercase) else f"R{number + 1}"
        for number in range(1, others + 1)
    ]


def table_of(names: Sequence[str], numbers: Sequence[str]) -> Table:
    """An empty table as evalkit's are: words on the left, numbers on the right."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )
    for name in names:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def points(value: float | None, *, sign: bool = True) -> str:
    """A fraction as points."""
    return UNKNOWN if value is None else f"{100 * value:{'+' if sign else ''}.2f}"


def interval_of(interval: Interval | None) -> str:
    """An interval in points."""
    if interval is None:
        return UNKNOWN
    return f"[{points(interval.low)}, {points(interval.high)}]"


def p_of(value: float | None) -> str:
    """A p-value; never shown as 0."""
    if value is None:
        return UNKNOWN
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _legend(found: Comparison, letters: Sequence[str]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_row("A", Text(found.first), Text(found.first_id or ""))
    for letter, run in zip(letters, found.runs, strict=True):
        table.add_row(letter, Text(run.run), Text(run.run_id or ""))
    return table


def _settings(
    found: Comparison, letters: Sequence[str], *, all_settings: bool
) -> Iterator[RenderableType]:
    for letter, run in zip(letters, found.runs, strict=True):
        if not run.settings_of:
            yield Text(
                f"settings of A and {letter} are not known: no task of both was gathered", "yellow"
            )
            continue
        if not run.settings:
            of = (
                ""
                if run.settings_of == len(run.tasks)
                else f", in the {run.settings_of} tasks of both"
            )
            yield Text(f"no settings differ between A and {letter}{of}")
            continue
        yield Text(f"settings that differ between A and {letter}", "bold")
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        for column in range(4):
            table.add_column(overflow="fold", ratio=None if column else 1)
        tasks = [task.task for task in run.tasks]
        settings, folded = (run.settings, 0) if all_settings else fold_servings(run.settings)
        for each in settings:
            table.add_row(
                Text(f"  {each.key}"),
                Text(f"A {_value(each.first)}"),
                Text(f"{letter} {_value(each.second)}"),
                Text(_where(each, tasks), "dim"),
            )
        yield table
        if folded:
            text = (
                f"  {folded} further settings of these kinds of server: --all-settings, or --json"
            )
            yield Text(text, "dim")


def _where(each: SettingDifference, tasks: Sequence[str]) -> str:
    if len(each.tasks) == len(tasks):
        return "all tasks" if len(tasks) > 1 else ""
    return ", ".join(each.tasks)


def _value(value: Any) -> str:
    if value is None:
        return "none"
    text = str(value)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:HASH]
    return text if len(text) <= LONG else f"{text[: LONG - 3]}..."


def _scores(found: Comparison, letters: Sequence[str], width: int) -> Table:
    rows = [
        (letter, task)
        for name in _task_names(found)
        for letter, run in zip(letters, found.runs, strict=True)
        for task in run.tasks
        if task.task == name and task.difference is not None
    ]
    level = f"{100 * (1 - found.alpha):g} % interval"
    return (_wide if width >= WIDE else _narrow)(rows, level)


def _task_names(found: Comparison) -> list[str]:
    return list(dict.fromkeys(task.task for run in found.runs for task in run.tasks))


def _wide(rows: Sequence[tuple[str, TaskComparison]], level: str) -> Table:
    table = table_of(
        ("task", "run"),
        ("A %", "run %", "diff.", level, "p", "Holm p", "detectable", "n", "worse", "better"),
    )
    for letter, task in rows:
        cells = _cells(task)
        table.add_row(Text(task.task), letter, *cells[:2], _difference(task), *cells[2:])
    return table


def _narrow(rows: Sequence[tuple[str, TaskComparison]], level: str) -> Table:
    table = table_of(
        ("task\nrun",),
        ("A %\nrun %", f"difference\n{level}", "p\nHolm p", "detectable\nn", "worse\nbetter"),
    )
    for letter, task in rows:
        first, second, interval, p, holm, detectable, n, worse, better = _cells(task)
        table.add_row(
            Text(f"{task.task}\n{letter}"),
            f"{first}\n{second}",
            Text.assemble(_difference(task), "\n", interval),
            f"{p}\n{holm}",
            f"{detectable}\n{n}",
            f"{worse}\n{better}",
        )
    return table


def _cells(task: TaskComparison) -> list[str]:
    difference = task.difference
    worse = sum(flip.second < flip.first for flip in task.flips)
    return [
        points(task.first, sign=False),
        points(task.second, sign=False),
        interval_of(None if difference is None else difference.interval),
        p_of(None if difference is None else difference.p_value),
        p_of(task.adjusted_p),
        points(None if difference is None else difference.detectable, sign=False),
        f"{task.common}",
        f"{worse}",
        f"{len(task.flips) - worse}",
    ]


def _difference(task: TaskComparison) -> Text:
    value = None if task.difference is None else task.difference.value
    style = "bold red" if task.regression else "bold"
    return Text(points(value), style)


def _not_compared(found: Comparison, letters: Sequence[str]) -> Iterator[Text]:
    for letter, run in zip(letters, found.runs, strict=True):
        for task in run.tasks:
            if task.reason is not None:
                bounds = f"; {letter} - A lies in {interval_of(task.bounds)}" if task.bounds else ""
                text = f"not compared: {task.task} (A, {letter}): {task.reason}{bounds}"
                yield Text(text, "yellow")
            elif apart := _apart(task):
                yield Text(f"{task.task} (A, {letter}): {apart}", "yellow")


def _apart(task: TaskComparison) -> str:
    """Samples that are in no number."""
    counts = (
        (task.only_first, "only in A"),
        (task.only_second, "only in the other run"),
        (task.altered, "with another target"),
    )
    left = ", ".join(f"{count} {what}" for count, what in counts if count)
    return f"samples left out: {left}" if left else ""


def _changed(found: Comparison, letters: Sequence[str], most: int) -> Iterator[Text]:
    """The samples that changed most, by task."""
    if most == 0:
        return
    for letter, run in zip(letters, found.runs, strict=True):
        for task in run.tasks:
            for what, flips in _by_direction(task):
                if flips:
                    shown = ", ".join(_flip(flip) for flip in flips[:most])
                    more = f", and {len(flips) - most} more" if len(flips) > most else ""
                    yield Text(f"{task.task} {what} in {letter}: {shown}{more}", "dim")


def _by_direction(task: TaskComparison) -> list[tuple[str, list[Flip]]]:
    return [
        ("worse", [flip for flip in task.flips if flip.second < flip.first]),
        ("better", [flip for flip in task.flips if flip.second > flip.first]),
    ]


def _flip(flip: Flip) -> str:
    return f"{flip.sample} ({flip.first:.4g} to {flip.second:.4g})"


def _method(found: Comparison) -> str:
    tests = {task.difference.test for run in found.runs for task in run.tasks if task.difference}
    how = {"sign-flip": "exact sign-flip", "paired t": "paired t"}
    names = " and ".join(how[name] for name in sorted(tests, reverse=True)) or "no test"
    of = "1 test" if found.tests == 1 else f"{found.tests} tests"
    return (
        f"{names} over common samples, repeats averaged first; adjusted for {of} by Holm. detectable: "
        f"the true difference that is found at p < {found.alpha:g} in {100 * POWER:.0f} % of runs, "
        "before the adjustment."
    )


def _verdict(found: Comparison, letters: Sequence[str]) -> Iterator[Text]:
    margin = f" by more than {points(found.margin, sign=False)} points" if found.margin else ""
    for letter, run in zip(letters, found.runs, strict=True):
        worse = [task.task for task in run.tasks if task.regression]
        untested = sum(task.regression is None for task in run.tasks)
        left = f"; {untested} not compared" if untested else ""
        if worse:
            text = f"{letter} is worse than A{margin}: {', '.join(worse)}{left}"
            yield Text(text, "bold red")
        else:
            yield Text(f"no regression of {letter} is proven{margin}{left}", "bold")
