"""Changes from the command line: `-o key=value`, `-o ~key`, `-t TASK` and `--limit N`.

A key is a dotted path; one that starts with the name of a task, and with no key of a recipe, is the
task's. Names may hold dots: the longest that exists wins. A value is YAML, and an empty one is empty
text. A mapping is merged into what is there, as from another file; anything else replaces it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.errors import RecipeError
from evalkit.recipe.document import Document, Path, dotted, get, nested, walk
from evalkit.recipe.problems import nearest, unknown_key
from evalkit.recipe.shape import Shape, recipe_shape
from evalkit.recipe.yaml_text import parse_yaml

if TYPE_CHECKING:
    from collections.abc import Sequence


def parse_override(text: str, document: Document) -> Document:
    """The layer that one `-o KEY=VALUE` is. Raises RecipeError for a key that cannot exist."""
    key, equals, value = text.partition("=")
    origin = f"-o {key}"
    if not equals or not key.strip():
        raise RecipeError(
            f"-o {text}: not of the form KEY=VALUE", hint="To delete a key, write -o '~KEY'."
        )
    path = resolve_path(key.strip(), document.data, origin)
    parsed = parse_yaml(value, origin).data if value.strip() else ""
    layer = nested(path, parsed)
    return Document(layer, dict.fromkeys(walk(layer), origin))


def delete(text: str, document: Document) -> Document:
    """The document without the key of `~KEY`. Raises RecipeError where there is no such key."""
    key = text.removeprefix("~")
    if "=" in key:
        raise RecipeError(f"-o {text}: a deletion takes no value", hint="Write -o '~KEY'.")
    path = _split(key, document.data)
    parent = get(document.data, path[:-1])
    if not isinstance(parent, dict) or path[-1] not in parent:
        present = [dotted(each) for each in walk(document.data)]
        raise RecipeError(
            f"-o {text}: there is no {key} to delete. {nearest(key, present)}".strip()
        )
    sources = {p: place for p, place in document.sources.items() if p[: len(path)] != path}
    return Document(_without(document.data, path), sources, document.selects)


def select_tasks(document: Document, names: Sequence[str]) -> Document:
    """Only the named tasks, in the recipe's order. Raises RecipeError for an unknown one."""
    tasks = get(document.data, ("tasks",))
    if not names or not isinstance(tasks, dict):
        return document
    for name in names:
        if name not in tasks:
            raise RecipeError(
                f"-t {name}: the recipe has no such task. {nearest(name, [*tasks])}"
                f"Tasks: {', '.join(tasks)}"
            )
    kept = {name: task for name, task in tasks.items() if name in names}
    return Document({**document.data, "tasks": kept}, document.sources, document.selects)


def limits(data: Any, limit: int | None) -> dict[str, int]:
    """The limit of each task under `--limit`: the smaller of its own and this one."""
    tasks = get(data, ("tasks",))
    if limit is None or not isinstance(tasks, dict):
        return {}
    if limit < 1:
        raise RecipeError(f"--limit {limit}: expected a whole number of at least 1")
    own = {name: get(task, ("limit",)) for name, task in tasks.items()}
    return {name: min(n, limit) if isinstance(n, int) else limit for name, n in own.items()}


def with_limits(document: Document, limits: dict[str, int]) -> Document:
    """The document with these limits."""
    if not limits:
        return document
    layer = {"tasks": {name: {"limit": n} for name, n in limits.items()}}
    sources: dict[Path, str] = {("tasks", name, "limit"): "--limit" for name in limits}
    return Document(layer, sources).over(document)


def resolve_path(key: str, data: Any, origin: str) -> Path:
    """The path of a dotted key, checked against the schema. Raises RecipeError."""
    path = _split(key, data)
    if path == ("model",):
        return path
    shape: Shape | None = recipe_shape()
    for depth, name in enumerate(path):
        above, shape = shape, None if shape is None else shape.child(name)
        if above is not None and shape is None:
            raise _no_such_key(path[: depth + 1], above, origin)
    return path


def _no_such_key(path: Path, above: Shape, origin: str) -> RecipeError:
    if above.keys is None:
        name = dotted(path[:-1])
        return RecipeError(
            f"{origin}: {name} takes {above.words}; it has no keys. Set it as a whole."
        )
    problem = unknown_key(path, above)
    where = f"{origin}: " + (f"{dotted(path[:-1])}: " if len(path) > 1 else "")
    return RecipeError(where + problem.text)


def _split(key: str, data: Any) -> Path:
    """The keys of a dotted path. Names that exist may hold dots, and so may the last free key."""
    parts = key.split(".")
    path: list[str] = []
    shape: Shape | None = recipe_shape()
    if parts[0] not in (recipe_shape().keys or {}):
        task = _longest(parts, get(data, ("tasks",)))
        if task is not None:
            path, shape = ["tasks"], (recipe_shape().keys or {})["tasks"]
    while parts:
        count = _next_key(parts, get(data, tuple(path)), shape)
        path.append(".".join(parts[:count]))
        shape = None if shape is None else shape.child(path[-1])
        parts = parts[count:]
    return tuple(path)


def _next_key(parts: list[str], data: Any, shape: Shape | None) -> int:
    """How many of the parts are the next key."""
    existing = _longest(parts, data)
    if existing is not None:
        return existing
    is_leaf = shape is not None and shape.values is not None and shape.values.keys is None
    return len(parts) if is_leaf else 1


def _longest(parts: list[str], data: Any) -> int | None:
    for count in range(len(parts), 0, -1):
        if isinstance(data, dict) and ".".join(parts[:count]) in data:
            return count
    return None


def _without(data: Any, path: Path) -> Any:
    if len(path) == 1:
        return {key: value for key, value in data.items() if key != path[0]}
    return {**data, path[0]: _without(data[path[0]], path[1:])}
