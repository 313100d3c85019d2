"""A verification as text: each score beside the published one, the checklist, and the verdict.

Rendering only. Scores and differences are percent and points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from evalkit.report.checklist import ORDER
from evalkit.report.compare_view import interval_of, p_of, points, table_of
from evalkit.report.tables import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType
    from rich.table import Table

    from evalkit.report.checklist import Check, State
    from evalkit.report.statistics import Interval
    from evalkit.report.verify import BenchmarkVerdict, Verification

WIDE = 140
"""Columns below which a row stacks its numbers."""
STYLES = {"consistent": "green", "not consistent": "bold red", "undecided": "yellow"}
STATES: dict[State, str] = {"same": "green", "differs": "red", "unknown": "yellow", "note": ""}


@dataclass(frozen=True, slots=True)
class Signs:
    """How an error and a bound are written."""

    error: str = "±"
    bound: str = "≤"


ASCII = Signs("+/-", "<=")


def verification_view(
    found: Verification, width: int, *, ascii_only: bool = False
) -> RenderableType:
    """Everything, for a terminal of `width` columns."""
    signs = ASCII if ascii_only else Signs()
    return Group(
        Text.assemble((found.run, "bold"), f" {found.run_id or ''} beside ", (found.card, "bold")),
        Text(),
        (_wide if width >= WIDE else _narrow)(found, signs),
        *_undecided(found),
        *_notes(found, signs),
        Text(),
        Text("how both were made", "bold"),
        _checklist(found.checks),
        Text(),
        *_verdict(found),
    )


def _wide(found: Verification, signs: Signs) -> Table:
    names = ("card %", "ours %", "diff.", "95 % interval", "p", "Holm p", "band", "k", "sees")
    table = table_of(("benchmark", "verdict"), (*names, _asked(found)))
    table.columns[1].no_wrap = True
    for each in found.benchmarks:
        card, *cells = _cells(each, signs)
        table.add_row(_name(each), _decided(each), card, cells[0], _difference(each), *cells[1:])
    return table


def _narrow(found: Verification, signs: Signs) -> Table:
    names = ("card %\nours %", "difference\n95 % interval", "p\nHolm p", "band\nk")
    table = table_of(("benchmark\nverdict",), (*names, f"sees\n{_asked(found)}"))
    for each in found.benchmarks:
        card, ours, interval, p, holm, band, repeats, sees, needed = _cells(each, signs)
        table.add_row(
            Text.assemble(_name(each), "\n", _decided(each)),
            f"{card}\n{ours}",
            Text.assemble(_difference(each), "\n", interval),
            f"{p}\n{holm}",
            f"{band}\n{repeats}",
            f"{sees}\n{needed}",
        )
    return table


def _asked(found: Verification) -> str:
    return f"k: {100 * found.detect:g} pt"


def _name(each: BenchmarkVerdict) -> Text:
    is_other = each.task is not None and each.task != each.benchmark
    return Text(f"{each.task} ({each.benchmark})" if is_other else each.benchmark)


def _decided(each: BenchmarkVerdict) -> Text:
    return Text(each.verdict, STYLES[each.verdict])


def _difference(each: BenchmarkVerdict) -> Text:
    agreement = each.agreement
    return Text(points(None if agreement is None else agreement.difference), "bold")


def _cells(each: BenchmarkVerdict, signs: Signs) -> list[str]:
    agreement = each.agreement
    repeats = f"{each.repeats or UNKNOWN} / {each.published_repeats}"
    card = f"{100 * each.published:.{_decimals(each)}f}"
    if agreement is None or each.value is None or each.standard_error is None:
        return [card, *[UNKNOWN] * 5, repeats, UNKNOWN, UNKNOWN]
    bound = signs.bound if each.is_bound else ""
    error = f"{signs.error}{bound}{points(each.standard_error, sign=False)}"
    return [
        card,
        f"{points(each.value, sign=False)} {error}",
        interval_of(agreement.interval),
        p_of(agreement.p_value),
        p_of(each.adjusted_p),
        _band(each, signs),
        repeats,
        f"{bound}{points(agreement.detectable, sign=False)}",
        "none" if each.repeats_needed is None else f"{bound}{each.repeats_needed}",
    ]


def _band(each: BenchmarkVerdict, signs: Signs) -> str:
    if each.band is None:
        return UNKNOWN
    return f"{'in' if each.within_band else 'out'} {signs.error}{100 * each.band:.1f}"


def _decimals(each: BenchmarkVerdict) -> int:
    """Digits of the published percentage."""
    unit, digits = 200 * each.rounding, 0
    while unit < 0.99 and digits < 6:
        unit, digits = unit * 10, digits + 1
    return digits


def _undecided(found: Verification) -> Iterator[Text]:
    """Why, with all benchmarks of one reason together."""
    reasons: dict[str, list[str]] = {}
    for each in found.benchmarks:
        if each.reason is not None:
            bounds = f"; ours lies in {_range(each.bounds)}" if each.bounds is not None else ""
            reasons.setdefault(f"{each.reason}{bounds}", []).append(each.benchmark)
    for reason, names in reasons.items():
        yield Text(f"undecided: {', '.join(names)}: {reason}", "yellow")


def _range(bounds: Interval) -> str:
    return f"{points(bounds.low, sign=False)} to {points(bounds.high, sign=False)} %"


def _notes(found: Verification, signs: Signs) -> Iterator[Text]:
    if all(each.agreement is None for each in found.benchmarks):
        return
    detect = f"{100 * found.detect:g} pt"
    yield Text(
        f"{signs.error}: standard error of ours, if the same samples are answered again. The interval is "
        "of the difference, with the card's own error and rounding in it. k: repeats, ours / the card's. "
        f"sees: the true difference that is found in 80 % of runs. k: {detect}: repeats that see "
        f"{detect} (none: the card's own error hides it).",
        "dim",
    )
    if any(each.is_bound for each in found.benchmarks):
        yield Text(
            f"{signs.bound}: one repeat does not tell the error; at most this. A difference is then more "
            "certain than its p says, and a consistent score says less.",
            "dim",
        )


def _checklist(checks: Sequence[Check]) -> Table:
    table = table_of(("state", "what", "which"), ())
    for name in ORDER:
        for state, text in _lines([check for check in checks if check.name == name]):
            table.add_row(Text(state, STATES[state]), name, Text(text))
    return table


def _lines(checks: Sequence[Check]) -> Iterator[tuple[State, str]]:
    """Equal texts together, with the tasks they are of; what differs first."""
    order: tuple[State, ...] = ("differs", "unknown", "note", "same")
    for state in order:
        texts: dict[str, list[str]] = {}
        for check in checks:
            if check.state == state:
                texts.setdefault(check.text, []).append(check.task or "")
        for text, tasks in texts.items():
            alone = tasks == [""] or len(tasks) == len(checks)
            yield state, text if alone else f"{', '.join(tasks)}: {text}"


def _verdict(found: Verification) -> Iterator[Text]:
    tests = [each for each in found.benchmarks if each.agreement is not None]
    outside = sum(each.verdict == "not consistent" for each in tests)
    said = "no score could be compared"
    if tests:
        of = f"{outside} of {len(tests)} {'score' if len(tests) == 1 else 'scores'}"
        said = f"{of} outside its own interval; over all of them adjusted by Holm"
    verdict = f"{found.verdict} at {100 * found.level:g} %"
    yield Text.assemble((verdict, STYLES[found.verdict]), f": {said}")
    if count := len(found.differs):
        yield Text(
            f"{count} {'thing is' if count == 1 else 'things are'} not as on the card", "red"
        )
