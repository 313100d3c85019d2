"""The recipe that a launcher file becomes, key by key, each with the place it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from evalkit.recipe.document import Document, Path, merge, nested, walk


@dataclass
class Draft:
    """Data of a recipe under construction."""

    data: dict[str, Any] = field(default_factory=dict)
    sources: dict[Path, str] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    """Tasks that evalkit has not got, with the reason."""

    def put(self, path: Path, value: Any, place: str | None) -> None:
        """Set a key; a mapping merges into what is there."""
        self.data = merge(self.data, nested(path, value))
        for length in range(1, len(path) + 1):
            self.sources.setdefault(path[:length], place or "")
        self.sources |= {(*path, *below): place or "" for below in walk(value)}

    def document(self) -> Document:
        """The recipe as a layer; places that nobody knows are left out."""
        return Document(self.data, {path: place for path, place in self.sources.items() if place})
