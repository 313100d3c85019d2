"""The one look of a list of things."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Columns with these headings; without any heading, no line of them. Nothing is cut off."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(names))
    for name in names:
        made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made
