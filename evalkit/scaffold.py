"""Writing the beginning of a plug-in from `evalkit/templates`: a package that works, with its tests."""

from __future__ import annotations

import hashlib
import keyword
import re
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Literal, TypeAlias

from evalkit.benchmarks.registry import benchmark_names, harness_names
from evalkit.errors import UsageError

Kind: TypeAlias = Literal["benchmark", "harness"]

TEMPLATES = Path(__file__).with_name("templates")
SUFFIX = ".tmpl"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def write_plugin(kind: Kind, name: str, folder: Path | None) -> list[Path]:
    """Write the package; returns its files, sorted. Raises UsageError where the name or folder will not do.

    `folder` is by default `evalkit-NAME` where the command is typed.
    """
    _check_name(name)
    place = Path(f"evalkit-{_dist(name)}") if folder is None else folder.expanduser()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(
            f"{place} is there already", hint="Name another folder with --dir, or remove it."
        )
    values = {
        "name": name,
        "dist": _dist(name),
        "module": _module(name),
        "cls": "".join(part.capitalize() for part in name.split("_")),
        "title": name.replace("_", " ").strip().capitalize(),
    }
    sources = sorted((TEMPLATES / kind).rglob(f"*{SUFFIX}"))
    if kind == "benchmark":
        [data] = [path for path in sources if path.name == f"__name__.jsonl{SUFFIX}"]
        values["sha256"] = hashlib.sha256(_filled(data, values).encode()).hexdigest()
    written = []
    try:
        for path in sources:
            target = place / _target(path.relative_to(TEMPLATES / kind), name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_filled(path, values), "utf-8")
            written.append(target)
    except OSError as error:
        raise UsageError(f"{place} cannot be written: {error.strerror}") from error
    return sorted(written)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise UsageError(
            f"{name!r} cannot be a name of a plug-in",
            hint="Small letters, digits and underscores, a letter first, and no word of Python's.",
        )
    taken = {"benchmark": benchmark_names(), "harness": harness_names()}
    for kind, names in taken.items():
        if name in names:
            raise UsageError(f"there is a {kind} {name} already", hint="Choose another name.")
    if find_spec(_module(name)) is not None:
        raise UsageError(
            f"a package {_module(name)} is installed already", hint="Choose another name."
        )


def _filled(path: Path, values: dict[str, str]) -> str:
    return Template(path.read_text("utf-8")).substitute(values)


def _target(path: Path, name: str) -> str:
    return str(path).removesuffix(SUFFIX).replace("__name__", name)


def _dist(name: str) -> str:
    return name.strip("_").replace("_", "-")


def _module(name: str) -> str:
    return f"evalkit_{name}"
