"""What is wrong with a recipe, in sentences: place, key, what was expected, the nearest valid key.

Turns pydantic's errors into `Problem`s and problems into one `RecipeError` that fits a screen. Text
that looks like a secret is never repeated whole.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.errors import RecipeError
from evalkit.recipe.document import Document, Path, dotted, get
from evalkit.recipe.secret_text import hidden, is_key_like
from evalkit.recipe.serving import SERVING_SECTIONS
from evalkit.recipe.shape import Shape, kind_of, shape_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

MOST_SHOWN = 10
LONGEST_VALUE = 60
TOP_LEVEL_SHORTHANDS = ("model", "extends")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    path: Path
    """The key the place is looked up with."""
    text: str
    shown: Path | None = None
    """The key that is named, where it is not `path` itself."""

    def sentence(self, document: Document) -> str:
        """`recipes/nano.yaml:14 tasks.gpqa: unknown key 'repeat'. ...`"""
        name = dotted(self.path if self.shown is None else self.shown)
        start = " ".join(filter(None, (document.where(self.path), name)))
        return f"{start}: {self.text}" if start else self.text


def recipe_error(problems: Iterable[Problem], document: Document, origin: str) -> RecipeError:
    """One error that lists the problems, the first ten at most."""
    sentences = list(dict.fromkeys(problem.sentence(document) for problem in problems))
    if len(sentences) == 1:
        return RecipeError(sentences[0])
    shown = [f"  {sentence}" for sentence in sentences[:MOST_SHOWN]]
    if len(sentences) > MOST_SHOWN:
        shown.append(f"  and {len(sentences) - MOST_SHOWN} more")
    return RecipeError("\n".join([f"{origin}: {len(sentences)} problems", *shown]))


def nearest(name: str, valid: Sequence[str]) -> str:
    """`Did you mean 'repeats'? ` or nothing."""
    found = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    return f"Did you mean '{found[0]}'? " if found else ""


def unknown_key(path: Path, shape: Shape, kind: str | None = None) -> Problem:
    """The problem of a key that is not valid; `shape` is the section's, `kind` that of a serving."""
    name, keys = str(path[-1]), shape.keys or {}
    valid, other = [*keys], ""
    for section in SERVING_SECTIONS if kind is not None else ():
        if kind_of(section) == kind:
            valid = [*section.model_fields]
        elif name in section.model_fields:
            other = f"It belongs to kind {kind_of(section)}, and this is {kind}. "
    if len(path) == 1 and "tasks" in keys:
        valid += TOP_LEVEL_SHORTHANDS
    inside = [f"{key}.{name}" for key, below in keys.items() if name in (below.keys or {})]
    guess = f"Did you mean '{inside[0]}'? " if inside else other or nearest(name, valid)
    return Problem(path, f"unknown key '{name}'. {guess}Valid keys: {', '.join(valid)}", path[:-1])


def problems_of(error: ValidationError, data: Any, shape: Shape, root: Path = ()) -> list[Problem]:
    """The problems pydantic found in `data`, which stands at `root` of a recipe."""
    found: dict[Path, Problem] = {}
    for detail in error.errors(include_url=False):
        problem = _problem(detail, data, shape, root)
        found.setdefault(problem.path, problem)
    return list(found.values())


def found_value(value: Any, *, is_name: bool = False) -> str:
    """What was given, short, and never a secret. `is_name`: a variable's name was asked for."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = str(value)
    if is_name or is_key_like(text):
        return f"text that may be a secret, {hidden(text)}"
    if len(text) > LONGEST_VALUE:
        text = text[:LONGEST_VALUE] + "..."
    return f"'{text}'" if isinstance(value, str) else text


def _problem(detail: ErrorDetails, data: Any, shape: Shape, root: Path) -> Problem:
    kind, location = detail["type"], detail["loc"]
    path = _path_in(data, location)
    if kind == "extra_forbidden":
        section = shape_at(path[:-1], shape) or shape
        serving = get(data, path[:-1]) if "base_url" in (section.keys or {}) else None
        problem = unknown_key(path, section, None if serving is None else serving["kind"])
        return Problem(root + path, problem.text, root + path[:-1])
    if kind == "missing" and isinstance(location[-1], str):
        path = (*path, location[-1])
        below = shape_at(path, shape)
        return Problem(
            root + path, f"missing. It takes {'a value' if below is None else below.words}"
        )
    if kind == "value_error":
        return Problem(root + path, str(detail["ctx"]["error"]))
    return Problem(root + path, _expectation(detail, data, shape, path))


def _expectation(detail: ErrorDetails, data: Any, shape: Shape, path: Path) -> str:
    if detail["loc"][-1] == "[key]":
        names = "variable" if detail["ctx"]["pattern"].startswith("^[A-Za-z_]") else "name"
        first = "letter or '_'" if names == "variable" else "letter or digit"
        more = "" if names == "variable" else ", '.', '-'"
        return f"not a {names}: it begins with a {first} and holds letters, digits, '_'{more} only"
    below = shape_at(path, shape)
    words = "another value" if below is None else below.words
    is_name = "environment variable" in words
    return f"expected {words}, found {found_value(get(data, path), is_name=is_name)}"


def _path_in(data: Any, location: tuple[int | str, ...]) -> Path:
    """The part of pydantic's location that is a key of the data: it adds kinds and types of unions."""
    path: list[int | str] = []
    for key in location:
        is_item = isinstance(data, list | tuple) and isinstance(key, int) and key < len(data)
        if is_item or (isinstance(data, dict) and key in data):
            data = data[key]
            path.append(key)
        elif not (isinstance(data, dict) and key == data.get("kind")):
            break
    return tuple(path)
