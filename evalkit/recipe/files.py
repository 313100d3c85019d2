"""Recipe and template files: found by path or shipped name, read, and laid over what they extend.

Relative paths in a file belong to that file: those of an extended file in another folder are rewritten
for the folder of the file that extends it.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import RecipeError
from evalkit.recipe.document import Document
from evalkit.recipe.references import START
from evalkit.recipe.yaml_text import parse_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ENDINGS = (".yaml", ".yml")
SHIPPED_FOLDERS = (("recipes",), ("recipes", "cards"), ("slurm_templates",))


@dataclass(frozen=True)
class Kind:
    """What sort of file is read."""

    noun: str
    """`recipe`, `template` or `card`."""
    shipped: Mapping[str, Path]
    """Shipped files by name."""
    expand: Callable[[Document, Path], Document]
    """Writes out the short forms of one file that lies in a folder."""


@dataclass(frozen=True)
class ReadFile:
    """A file with all it extends."""

    path: Path
    text: str
    """As written, without what it extends."""
    document: Document


def find_file(source: str | Path, kind: Kind, base: Path = Path()) -> Path:
    """The file with this path (relative to `base`), or the shipped one of this name.

    Raises RecipeError that lists what is shipped and what has a similar name.
    """
    path = base / Path(source).expanduser()
    name = Path(source)
    is_bare = len(name.parts) == 1 or name.parts[:-1] in SHIPPED_FOLDERS
    bare = name.name.removesuffix(name.suffix) if name.suffix in ENDINGS else name.name
    is_shipped = is_bare and bare in kind.shipped
    # A folder `demo` beside us does not hide the shipped recipe `demo`.
    if path.is_file() or (path.exists() and not is_shipped):
        return path
    if is_shipped:
        return kind.shipped[bare]
    raise _not_found(source, path, bare, kind)


def read_file(path: Path, kind: Kind, chain: tuple[Path, ...] = ()) -> ReadFile:
    """Read a file and what it extends. Raises RecipeError; `chain` leads from the first file here."""
    _refuse_cycle(path, chain, kind)
    text = _read_text(path, kind)
    own = parse_yaml(text, str(path))
    _check_mapping(own.data, path, kind)
    extends = own.data.get("extends")
    bases = [extends] if isinstance(extends, str) else [] if extends is None else extends
    if not (isinstance(bases, list) and all(isinstance(each, str) for each in bases)):
        raise RecipeError(f"{own.where(('extends',))} extends: expected a file or a list of files")
    result = Document({})
    for each in bases:
        found = find_file(each, kind, path.parent)
        below = read_file(found, kind, (*chain, path)).document
        result = moved(below, found.parent, path.parent).over(result)
    document = Document({k: v for k, v in own.data.items() if k != "extends"}, own.sources)
    return ReadFile(path, text, kind.expand(document, path.parent).over(result))


def _not_found(source: str | Path, path: Path, bare: str, kind: Kind) -> RecipeError:
    beside = [p.name for ending in ENDINGS for p in sorted(path.parent.glob(f"*{ending}"))]
    near = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.6)
    near = near or difflib.get_close_matches(bare, [*kind.shipped], n=1, cutoff=0.6)
    guess = f"Did you mean '{near[0]}'? " if near else ""
    names = ", ".join(kind.shipped) or "none"
    return RecipeError(
        f"there is no {kind.noun} '{source}'", hint=f"{guess}Shipped {kind.noun}s: {names}."
    )


def _refuse_cycle(path: Path, chain: tuple[Path, ...], kind: Kind) -> None:
    if path.resolve() in [each.resolve() for each in chain]:
        links = " -> ".join(map(str, (*chain, path)))
        raise RecipeError(f"{path}: the {kind.noun} extends itself: {links}")


def _read_text(path: Path, kind: Kind) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path}: not UTF-8 text (byte {error.start})", hint=f"Save the {kind.noun} as UTF-8."
        ) from None
    except OSError as error:
        raise RecipeError(f"{path}: the {kind.noun} cannot be read: {error.strerror}") from None


def _check_mapping(data: Any, path: Path, kind: Kind) -> None:
    if data is None:
        raise RecipeError(f"{path}: the {kind.noun} is empty")
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a {kind.noun} is a mapping of keys to values, as in KEY: VALUE")


def moved(document: Document, old: Path, new: Path) -> Document:
    """The document with its relative paths, which start at `old`, made to start at `new`."""
    if old.resolve() == new.resolve():
        return document
    way = os.path.relpath(old.resolve(), new.resolve())
    data = dict(document.data)
    for section, inner in (("models", ()), ("judges", ()), ("tasks", ("data",))):
        if isinstance(data.get(section), dict):
            data[section] = {
                name: _moved_path(entry, inner, way) for name, entry in data[section].items()
            }
    if isinstance(scoring := data.get("scoring"), dict) and isinstance(scoring.get("image"), str):
        data["scoring"] = {**scoring, "image": _join(way, scoring["image"])}
    if isinstance(cluster := data.get("cluster"), dict) and _is_file(cluster.get("template")):
        data["cluster"] = {**cluster, "template": _join(way, cluster["template"])}
    return Document(data, document.sources, document.selects)


def _moved_path(entry: Any, inner: tuple[str, ...], way: str) -> Any:
    if not isinstance(entry, dict):
        return entry
    if inner:
        key = inner[0]
        return {**entry, key: _moved_path(entry[key], inner[1:], way)} if key in entry else entry
    if isinstance(path := entry.get("path"), str):
        return {**entry, "path": _join(way, path)}
    return entry


def _is_file(template: Any) -> bool:
    return isinstance(template, str) and ("/" in template or template.endswith(ENDINGS))


def _join(way: str, path: str) -> str:
    if path.startswith(("/", "~", START)):
        return path
    return os.path.normpath(os.path.join(way, path))  # noqa: PTH118
