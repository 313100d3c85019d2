"""One recipe that means several runs: families of models by a pattern, and a matrix of overrides.

    models: {demo: {path: ./checkpoints/step-*}}        a model for each folder
    sweep: {matrix: {generation.temperature: [0, 0.6]}} a run for each value

A pattern is filled in when the recipe is loaded: what it means is what is there now. A folder counts as
a checkpoint when it has a `config.json`; whether it is a whole one is for whoever reads its weights.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import RecipeError
from evalkit.recipe.document import Document, get, nested, walk
from evalkit.recipe.overrides import resolve_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from evalkit.recipe.document import Path as Key

WILDCARD = re.compile(r"[*?\[]")
FIXED = ("models", "model", "name", "output", "sweep", "extends")
"""Keys that say which runs there are, and where: they cannot vary between runs of one recipe."""
MOST_CELLS = 1000
_UNSAFE = re.compile(r"[^A-Za-z0-9._+=,-]+")


@dataclass(frozen=True, slots=True)
class Variant:
    """Overrides that make one run of a sweep, for each of its models."""

    label: str
    layer: Document


@dataclass(frozen=True, slots=True)
class Expanded:
    """A recipe without patterns."""

    document: Document
    families: frozenset[str]
    """Models that a pattern stands for."""


def expand_patterns(raw: Document, resolved: Document, base: Path) -> tuple[Document, Expanded]:
    """Both documents with a model for each folder that a path with a wildcard matches.

    `raw` has references to the environment by name, `resolved` filled in; `base` is where paths
    begin. Raises RecipeError where nothing matches, or two models would have one name.
    """
    models = get(resolved.data, ("models",))
    patterns = {
        name: text
        for name, entry in (models.items() if isinstance(models, dict) else ())
        if isinstance(text := get(entry, ("path",)), str) and _is_pattern(text, base)
    }
    names = [name for name in models if name not in patterns] if patterns else []
    families: list[str] = []
    for name, text in patterns.items():
        found = _matches(name, text, base, resolved.where(("models", name, "path")))
        families += [model for model, _ in found]
        raw, resolved = (_with_family(each, name, found) for each in (raw, resolved))
    twice = next((name for name, n in Counter([*names, *families]).items() if n > 1), None)
    if twice is not None:
        raise RecipeError(f"models: two models would be called {twice}; rename one of the keys")
    return raw, Expanded(resolved, frozenset(families))


def find_variants(document: Document) -> list[Variant]:
    """The variants that `sweep` names: each of `variants` with each combination of `matrix`.

    Raises RecipeError for keys that cannot be or may not vary, and for what is no list of values.
    """
    sweep = get(document.data, ("sweep",))
    if not isinstance(sweep, dict):
        return []
    named = _named(sweep.get("variants"), document)
    combined = _combinations(sweep.get("matrix"), document)
    cells = [
        Variant(",".join(filter(None, (a.label, b.label))), b.layer.over(a.layer))
        for a in named or [Variant("", Document({}))]
        for b in combined or [Variant("", Document({}))]
    ]
    if len(cells) > MOST_CELLS:
        raise RecipeError(f"sweep: {len(cells):,} combinations, at most {MOST_CELLS:,} are allowed")
    labels = Counter(cell.label for cell in cells)
    if twice := next((label for label, count in labels.items() if count > 1), None):
        raise RecipeError(
            f"sweep: two variants would be called {twice!r}",
            hint="Give values that differ, or use sweep.variants, where each has a name.",
        )
    return cells if named or combined else []


def without_sweep(document: Document) -> Document:
    """The recipe of one run."""
    data = {key: value for key, value in document.data.items() if key != "sweep"}
    sources = {path: place for path, place in document.sources.items() if path[:1] != ("sweep",)}
    return Document(data, sources, document.selects)


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts `step-900` before `step-1000`."""
    parts = re.split(r"(\d+)", text)
    return tuple((1, int(p), p) if p.isdigit() else (0, 0, p) for p in parts)


def _is_pattern(text: str, base: Path) -> bool:
    """Whether a path has a wildcard, and is not the name of a folder that has one in it."""
    if not WILDCARD.search(text):
        return False
    try:
        return not (base / Path(text).expanduser()).is_dir()
    except (OSError, ValueError, RuntimeError):
        return True


def _matches(name: str, pattern: str, base: Path, place: str | None) -> list[tuple[str, str]]:
    """Name and path of each model, in the order of their numbers."""
    path = Path(pattern).expanduser()
    # the parts before the first wildcard are a folder that must be there
    parts = path.parts
    first = next(i for i, part in enumerate(parts) if WILDCARD.search(part))
    root = base.joinpath(*parts[:first])
    where = f"{place or 'recipe'} models.{name}.path"
    try:
        found = sorted(
            (f for f in root.glob(str(Path(*parts[first:]))) if (f / "config.json").is_file()),
            key=lambda folder: natural(str(folder.relative_to(root))),
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"{where}: cannot look for {pattern}: {error}") from error
    if not found:
        raise RecipeError(
            f"{where}: no checkpoint matches {pattern}",
            hint=f"Looked for folders with a config.json in {root}, "
            f"which {'has none that match' if root.is_dir() else 'is not there'}.",
        )
    given = Path(*parts[:first])
    return [
        (
            f"{name}-{_label('-'.join(f.relative_to(root).parts))}",
            _as_path(given / f.relative_to(root)),
        )
        for f in found
    ]


def _as_path(path: Path) -> str:
    """With a beginning that says it is a path."""
    text = str(path)
    return text if text.startswith(("/", ".", "~")) else f"./{text}"


def _with_family(document: Document, name: str, found: list[tuple[str, str]]) -> Document:
    models: dict[str, Any] = {}
    sources = dict(document.sources)
    for each, entry in document.data["models"].items():
        if each != name:
            models[each] = entry
            continue
        for model, path in found:
            models[model] = {**entry, "path": path}
            for key, place in document.sources.items():
                if key[:2] == ("models", name):
                    sources[("models", model, *key[2:])] = place
    kept = {key: place for key, place in sources.items() if key[:2] != ("models", name)}
    return Document({**document.data, "models": models}, kept, document.selects)


def _named(variants: Any, document: Document) -> list[Variant]:
    if not isinstance(variants, dict):
        return []
    return [
        Variant(_label(str(name)), _layer(overrides, ("sweep", "variants", name), document))
        for name, overrides in variants.items()
        if isinstance(overrides, dict)
    ]


def _combinations(matrix: Any, document: Document) -> list[Variant]:
    if not isinstance(matrix, dict) or not matrix:
        return []
    short = _short_names([*matrix])
    columns = []
    for key, values in matrix.items():
        if not isinstance(values, list):
            return []  # its type is told by the schema
        if not values:
            place = document.where(("sweep", "matrix", key)) or "sweep"
            raise RecipeError(f"{place} sweep.matrix.{key}: give at least one value")
        columns.append([(key, value) for value in values])
    return [
        Variant(
            ",".join(_label(f"{short[key]}={_text(value)}") for key, value in cell),
            _layer(dict(cell), ("sweep", "matrix"), document),
        )
        for cell in itertools.product(*columns)
    ]


def _layer(overrides: Mapping[str, Any], at: Key, document: Document) -> Document:
    layer = Document({})
    for key, value in overrides.items():
        place = document.where((*at, key)) or "sweep"
        path = resolve_path(str(key), document.data, f"{place} sweep: {key}")
        if path[0] in FIXED:
            raise RecipeError(
                f"{place} sweep: {key} cannot vary within a recipe",
                hint="Models vary by several entries of `models`, or by a pattern in a path.",
            )
        data = nested(path, value)
        layer = Document(data, dict.fromkeys(walk(data), place)).over(layer)
    return layer


def _short_names(keys: list[str]) -> dict[str, str]:
    """Each key by as many of its last parts as tell it from the others."""

    def tail(key: str, length: int) -> str:
        return ".".join(key.split(".")[-length:])

    def shortest(key: str) -> Iterator[str]:
        for length in range(1, key.count(".") + 2):
            if sum(tail(other, length) == tail(key, length) for other in keys) == 1:
                yield tail(key, length)
        yield key

    return {key: next(shortest(key)) for key in keys}


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, dict):
        return "+".join(f"{key}-{_text(each)}" for key, each in value.items())
    if isinstance(value, list):
        return "+".join(map(_text, value))
    return str(value)


def _label(text: str) -> str:
    """What may be a folder's name."""
    return _UNSAFE.sub("-", text).strip("-.")[:100] or "x"
