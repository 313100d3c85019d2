"""Data of a recipe together with where each key was written, and how layers of it are merged.

A recipe is made of layers: the files it extends, the file itself, each `-o`. A layer over another
merges mapping into mapping; anything else replaces. Three rules keep keys together that mean nothing
apart: another `kind` of serving replaces the whole serving, another source of a model (`path`, `hub`,
`id`) replaces the old one with its revision, and a list of names for `tasks` (or `model: TEXT`) leaves
no others over.

Nothing here knows which keys are valid.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Path: TypeAlias = tuple[str | int, ...]

MODEL_SOURCES = ("path", "hub", "id")


@dataclass(frozen=True)
class Document:
    """Plain data (dict, list, scalar) and the place of each key as `file:line` or `-o key`."""

    data: Any
    sources: Mapping[Path, str] = field(default_factory=dict)
    selects: frozenset[str] = frozenset()
    """Top-level keys whose names are all that is kept of a layer below."""

    def where(self, path: Path) -> str | None:
        """Place of the key, or of the nearest one around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.sources:
                return self.sources[path[:length]]
        return None

    def over(self, base: Document) -> Document:
        """This layer merged over another."""
        below = {
            key: _only(value, self.data[key]) if key in self.selects else value
            for key, value in base.data.items()
        }
        data = merge(below, self.data)
        sources = {
            path: place for path in walk(data) if (place := self._place(path, base)) is not None
        }
        return Document(data, sources, base.selects | self.selects)

    def _place(self, path: Path, base: Document) -> str | None:
        """Of a key in both layers this one's place, but a mapping stays where it began."""
        own, below = self.sources.get(path), base.sources.get(path)
        is_shared = isinstance(get(self.data, path), dict) and isinstance(
            get(base.data, path), dict
        )
        return below or own if is_shared else own or below


def dotted(path: Path) -> str:
    """A path as people write it: `tasks.aime2025.repeats`."""
    return ".".join(map(str, path))


def walk(data: Any, path: Path = ()) -> Iterator[Path]:
    """Paths of all keys and list items, parents first."""
    items: Any = ()
    if isinstance(data, dict):
        items = data.items()
    elif isinstance(data, list | tuple):
        items = enumerate(data)
    for key, value in items:
        yield (*path, key)
        yield from walk(value, (*path, key))


def get(data: Any, path: Path) -> Any:
    """The value at a path, null where there is none."""
    for key in path:
        if isinstance(data, dict):
            data = data.get(key)
        elif isinstance(data, list | tuple) and isinstance(key, int) and key < len(data):
            data = data[key]
        else:
            return None
    return data


def nested(path: Path, value: Any) -> Any:
    """The value inside mappings, one for each key of the path."""
    for key in reversed(path):
        value = {key: value}
    return value


def merge(base: Any, over: Any, path: Path = ()) -> Any:
    """`over` on top of `base`, neither changed. `path` says where in a recipe both belong."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    if path[-1:] == ("serving",) and len(path) in (1, 3) and _is_other_kind(base, over, path):
        return over
    if (
        len(path) == 2
        and path[0] in ("models", "judges")
        and any(over.get(k) for k in MODEL_SOURCES)
    ):
        base = {k: v for k, v in base.items() if k not in (*MODEL_SOURCES, "revision")}
    result = dict(base)
    for key, value in over.items():
        result[key] = merge(base[key], value, (*path, key)) if key in base else value
    return result


def _is_other_kind(base: dict[str, Any], over: dict[str, Any], path: Path) -> bool:
    """Whether keys of two servings cannot be mixed. Those of models and tasks have no default."""
    default = "vllm" if path == ("serving",) or path[0] == "judges" else None
    return "kind" in over and over["kind"] != base.get("kind", default)


def _only(value: Any, names: Any) -> Any:
    if not (isinstance(value, dict) and isinstance(names, dict)):
        return None
    return {name: value[name] for name in names if name in value}
