"""A converted recipe as a file: every key, and a comment for all that does not carry over."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from evalkit.recipe.document import Document
from evalkit.recipe.files import moved
from evalkit.recipe.yaml_text import render_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from evalkit.recipe.load import LoadedRecipe
    from evalkit.recipe.nemo.source import Note

ORDER = (
    *("name", "description", "profile", "models", "serving", "generation", "tasks", "unavailable"),
    *("judges", "client", "scoring", "cluster", "output"),
)
WIDTH = 110


def render_recipe(loaded: LoadedRecipe, notes: Sequence[Note], folder: Path) -> str:
    """The text of a recipe that lies in `folder` and means what the launcher file does."""
    document = moved(Document(loaded.raw), loaded.base, folder)
    data = {key: document.data[key] for key in ORDER if key in document.data}
    missing = [note for note in notes if note.is_missing]
    rest = [note for note in notes if not note.is_missing]
    lines = [
        f"# {loaded.path.name} of the NeMo Evaluator launcher, as a recipe (evalkit convert).",
        *_comments("Values to fill in; they are left out here, or MISSING:", missing),
        *_comments("Keys that mean something else here:", (n for n in rest if n.has_effect)),
        *_comments("Keys without effect here:", (n for n in rest if not n.has_effect)),
    ]
    return "\n".join([*lines, "", render_yaml(data)])


def _comments(title: str, notes: Iterable[Note]) -> list[str]:
    lines: list[str] = []
    for note in notes:
        text = f"{_place(note.place)}{note.key}: {note.text}"
        lines += textwrap.wrap(
            text,
            WIDTH,
            initial_indent="#   ",
            subsequent_indent="#     ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return ["#", f"# {title}", *lines] if lines else []


def _place(place: str) -> str:
    """`line 12, ` for a line of the file; a key of the command line or of a group stands for itself."""
    line = place.rpartition(":")[2]
    return f"line {line}, " if line.isdigit() else "-o " if place.startswith("-o ") else ""
