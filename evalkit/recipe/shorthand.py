"""The short forms of a recipe, written out: what follows sees one form only.

    model: ./checkpoint          models: {checkpoint: {path: ./checkpoint}}
    models: {a: owner/name}      models: {a: {hub: owner/name}}
    tasks: [a, {b: {limit: 3}}]  tasks: {a: {}, b: {limit: 3}}

Applied to each layer before it is merged. What has the wrong type is left for validation to name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from evalkit.errors import RecipeError
from evalkit.recipe.document import Document, Path
from evalkit.recipe.references import Substitution
from evalkit.recipe.sweep import WILDCARD
from evalkit.recipe.values import as_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path as File

HUB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def expand(document: Document, base: File, env: Mapping[str, str]) -> Document:
    """The layer with its short forms written out; paths are relative to `base`."""
    data = dict(document.data)
    sources = dict(document.sources)
    selects = set(document.selects)
    if "model" in data:
        _expand_model(data, sources, selects, base, env)
    if isinstance(models := data.get("models"), dict):
        data["models"] = {
            name: _source(value, base, env) if isinstance(value, str) else value
            for name, value in models.items()
        }
    if isinstance(data.get("tasks"), list):
        data["tasks"] = _expand_tasks(data["tasks"], sources)
        selects.add("tasks")
    return Document(data, sources, frozenset(selects))


def _expand_model(
    data: dict[str, Any],
    sources: dict[Path, str],
    selects: set[str],
    base: File,
    env: Mapping[str, str],
) -> None:
    place = sources.pop(("model",), "")
    if "models" in data:
        raise RecipeError(f"{place} model: give model or models, not both")
    text = data.pop("model")
    if not isinstance(text, str):
        raise RecipeError(
            f"{place} model: expected the path or the hub name of one model",
            hint="Write models: {NAME: {...}} to say more about it.",
        )
    name = model_name(_expanded(text, env))
    data["models"] = {name: text}
    sources |= {("models",): place, ("models", name): place}
    selects.add("models")


def model_name(source: str) -> str:
    """A name for a model from its path or hub name: the last part without a wildcard, and without odd
    characters."""
    parts = [part for part in source.split("/") if part and not WILDCARD.search(part)]
    last = parts[-1] if parts else ""
    return as_name(last, "model")


def _source(text: str, base: File, env: Mapping[str, str]) -> dict[str, str]:
    value = _expanded(text, env)
    is_path = value.startswith((".", "/", "~")) or (base / value).exists() or WILDCARD.search(value)
    return {"hub" if not is_path and HUB.fullmatch(value) else "path": text}


def _expanded(text: str, env: Mapping[str, str]) -> str:
    """The text with its references filled in; unset ones are named later, with all others."""
    return str(Substitution(env).text(text, ()))


def _expand_tasks(tasks: list[Any], sources: dict[Path, str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for index, item in enumerate(tasks):
        place = sources.get(("tasks", index), "")
        for name, value in _named(item, place).items():
            if name in result:
                raise RecipeError(f"{place} tasks: the task {name} is given twice")
            result[name] = {} if value is None else value
            sources[("tasks", name)] = place
    _move_items(sources)
    return result


def _named(item: Any, place: str) -> dict[str, Any]:
    if isinstance(item, str):
        return {item: None}
    if isinstance(item, dict):
        return item
    raise RecipeError(f"{place} tasks: a list of tasks holds names, or mappings NAME: {{...}}")


def _move_items(sources: dict[Path, str]) -> None:
    """From tasks.0.aime2025.limit to tasks.aime2025.limit."""
    for path in [path for path in sources if path[:1] == ("tasks",) and len(path) > 1]:
        if isinstance(path[1], int):
            place = sources.pop(path)
            if len(path) > 2:
                sources[("tasks", *path[2:])] = place
