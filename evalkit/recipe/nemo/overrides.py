"""`-o` and `-t` as the launcher's command line has them, on a composed configuration.

    -o PATH=VALUE    sets a key that is there or that the schema knows
    -o +PATH=VALUE   adds one that is not there          -o ++PATH=VALUE   sets any
    -o ~PATH         deletes one                         -o ~PATH=VALUE    if it has this value

Values are YAML, an empty one is empty text, and a mapping merges into what is there. Below
`evaluation.tasks` a task is named by its name, by the unique end of it behind a dot, or by its position
in the list.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from evalkit.errors import RecipeError
from evalkit.recipe.document import Document, Path, dotted, merge, walk
from evalkit.recipe.nemo.keys import is_known, unknown_key
from evalkit.recipe.problems import nearest
from evalkit.recipe.yaml_text import parse_yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

FORM = re.compile(r"(?P<sign>~|\+\+|\+|)(?P<key>[^=+~][^=]*)(?P<equals>=?)(?P<value>.*)", re.DOTALL)
TASKS: Path = ("evaluation", "tasks")


class Override(NamedTuple):
    """One `-o`, taken apart."""

    sign: str
    """`~`, `++`, `+` or nothing."""
    key: str
    value: str | None
    """YAML text; null where there is no `=`."""
    origin: str
    """How errors name it."""


def parse(text: str) -> Override:
    """Raises RecipeError for what is no override."""
    match = FORM.fullmatch(text.strip())
    if match is None or not (match["equals"] or match["sign"] == "~"):
        raise RecipeError(
            f"-o {text}: not of the form PATH=VALUE", hint="To delete a key, write -o '~PATH'."
        )
    sign, key = match["sign"], match["key"].strip()
    value = match["value"] if match["equals"] else None
    return Override(sign, key, value, f"-o {sign}{key}")


def first_key(text: str) -> str:
    """The first part of an override's path."""
    return parse(text).key.partition(".")[0]


def apply(text: str, document: Document) -> Document:
    """The configuration with one override. Raises RecipeError."""
    override = parse(text)
    path = _path(override, document.data)
    if override.sign == "~":
        return _delete(override, path, document)
    there = _has(document.data, path)
    if override.sign == "+" and there:
        raise RecipeError(
            f"{override.origin}: the key is there",
            hint=f"Write -o {override.key}=... to change it.",
        )
    if override.sign == "" and not there and not is_known(path):
        raise RecipeError(
            f"{override.origin}: {unknown_key(path).text}",
            hint=f"To add a key that evalkit does not know, write -o ++{override.key}=...",
        )
    return assigned(document, path, _value(override), override.origin)


def assigned(document: Document, path: Path, value: Any, place: str) -> Document:
    """The document with a value set; mappings merge. Raises RecipeError where it cannot stand."""
    data = _with(document.data, path, value, place)
    sources = {p: where for p, where in document.sources.items() if p[: len(path)] != path}
    if isinstance(value, dict):
        sources = dict(document.sources)
    return Document(
        data,
        sources | {path: place} | {(*path, *below): place for below in walk(value)},
        document.selects,
    )


def _value(override: Override) -> Any:
    text = override.value or ""
    return parse_yaml(text, override.origin).data if text.strip() else ""


def _path(override: Override, data: Any) -> Path:
    """The path of a dotted key; names that are there may hold dots."""
    parts = override.key.split(".")
    path: list[str | int] = []
    while parts:
        if tuple(path) == TASKS:
            index, count = _task(parts, task_names(data), override)
            path.append(index)
        else:
            here = _at(data, tuple(path))
            if isinstance(here, list):
                count = 1
                path.append(_position(parts[0], here, override))
            else:
                count = _longest(parts, here)
                path.append(".".join(parts[:count]))
        parts = parts[count:]
    return tuple(path)


def _position(text: str, items: list[Any], override: Override) -> int:
    if text.isdecimal() and int(text) < len(items):
        return int(text)
    raise RecipeError(
        f"{override.origin}: the list has no item {text}. Items: 0 to {len(items) - 1}"
        if items
        else f"{override.origin}: the list is empty"
    )


def _task(parts: list[str], names: list[str], override: Override) -> tuple[int, int]:
    """Index of a task in the list, and how many parts of the key named it."""
    if parts[0].isdecimal():
        return _position(parts[0], names, override), 1
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecipeError(
            f"{override.origin}: the tasks {', '.join(twice)} are there several times, so tasks cannot "
            "be named",
            hint=f"Write the position instead: {_positions(names)}.",
        )
    both = ".".join(parts[:2])
    if len(parts) > 1 and both in names:
        return names.index(both), 2
    if parts[0] in names:
        return names.index(parts[0]), 1
    ends = [name for name in names if name.endswith(f".{parts[0]}")]
    if len(ends) == 1:
        return names.index(ends[0]), 1
    found = "no task" if not ends else f"more than one task ({', '.join(ends)})"
    raise RecipeError(
        f"{override.origin}: {found} is named {parts[0]}. {nearest(parts[0], names)}".strip(),
        hint=f"Tasks: {', '.join(names) or 'none'}.",
    )


def task_names(data: Any) -> list[str]:
    """Names of the tasks in the list, in order; text for what is no name."""
    tasks = _at(data, TASKS)
    items = tasks if isinstance(tasks, list) else []
    return [str(item.get("name", "")) if isinstance(item, dict) else str(item) for item in items]


def selected(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Positions of the tasks that `-t` names: `NAME` all of that name, `NAME.N` the one at position N.

    All tasks where nothing is wanted. Raises RecipeError for what is not there.
    """
    if not wanted:
        return list(range(len(names)))
    found: set[int] = set()
    for text in wanted:
        head, _, tail = text.rpartition(".")
        same = [i for i, name in enumerate(names) if text in (name, name.rpartition(".")[2])]
        if not same and tail.isdecimal() and int(tail) < len(names):
            same = [i for i in [int(tail)] if head in (names[i], names[i].rpartition(".")[2])]
        if not same:
            raise RecipeError(
                f"-t {text}: the file has no such task. {nearest(text, names)}".strip(),
                hint=f"Tasks: {_positions(names) or 'none'}.",
            )
        found.update(same)
    return sorted(found)


def _positions(names: Sequence[str]) -> str:
    return ", ".join(f"{name}.{index}" for index, name in enumerate(names))


def _longest(parts: list[str], data: Any) -> int:
    if isinstance(data, dict):
        for count in range(len(parts), 0, -1):
            if ".".join(parts[:count]) in data:
                return count
    return 1


def _at(data: Any, path: Path) -> Any:
    for key in path:
        is_item = isinstance(data, list) and isinstance(key, int) and key < len(data)
        if not (is_item or (isinstance(data, dict) and key in data)):
            return None
        data = data[key]
    return data


def _has(data: Any, path: Path) -> bool:
    above = _at(data, path[:-1])
    if isinstance(above, list):
        return isinstance(path[-1], int) and path[-1] < len(above)
    return isinstance(above, dict) and path[-1] in above


def _with(data: Any, path: Path, value: Any, place: str) -> Any:
    if not path:
        return merge(data, value, ("any",))
    key, rest = path[0], path[1:]
    if isinstance(data, list) and isinstance(key, int):
        return [*data[:key], _with(data[key], rest, value, place), *data[key + 1 :]]
    if data is not None and not isinstance(data, dict):
        raise RecipeError(f"{place}: there are no keys below a value; set it as a whole")
    below = (data or {}).get(key)
    return {**(data or {}), key: _with(below, rest, value, place)}


def _delete(override: Override, path: Path, document: Document) -> Document:
    if not _has(document.data, path):
        near = nearest(override.key, [dotted(each) for each in walk(document.data)])
        raise RecipeError(
            f"{override.origin}: there is no {override.key} to delete. {near}".strip()
        )
    if override.value is not None and _at(document.data, path) != _value(override):
        raise RecipeError(f"{override.origin}: its value is another one; nothing was deleted")
    if isinstance(path[-1], int):
        raise RecipeError(
            f"{override.origin}: items of a list keep their positions", hint="Choose tasks with -t."
        )
    sources = {p: place for p, place in document.sources.items() if p[: len(path)] != path}
    return Document(_without(document.data, path), sources, document.selects)


def _without(data: Any, path: Path) -> Any:
    key, rest = path[0], path[1:]
    if isinstance(data, list) and isinstance(key, int):
        return [*data[:key], _without(data[key], rest), *data[key + 1 :]]
    if not rest:
        return {name: value for name, value in data.items() if name != key}
    return {**data, key: _without(data[key], rest)}
