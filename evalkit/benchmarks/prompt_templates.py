"""Prompt templates by name, as shipped in `prompts/`, or from a user's file.

A prompt is part of what a score means: a byte more or less is another benchmark. So templates are
files, not strings in code; shipped ones are checked against their sha256 on every load, and the
sha256 of any template is there to be recorded beside the score. Syntax is `str.format`, applied once;
values are inserted verbatim. Which values a benchmark offers is said by the benchmark.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from string import Formatter
from typing import Self

import yaml

from evalkit.errors import DataError, RecipeError

_FOLDER = "prompts"


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A template and what it was read from."""

    name: str
    """Shipped name, or the path as the user gave it."""
    text: str
    sha256: str
    """Of the UTF-8 bytes of `text`."""
    fields: frozenset[str]
    """What it needs filled in."""

    @classmethod
    def of(cls, name: str, text: str) -> Self:
        """Parse a template. Raises RecipeError for braces that are no field."""
        return cls(name, text, hashlib.sha256(text.encode()).hexdigest(), _fields(name, text))

    def render(self, **values: str) -> str:
        """Fill in the fields once; values not asked for are ignored. Raises RecipeError for a gap."""
        gaps = sorted(self.fields - values.keys())
        if gaps:
            raise RecipeError(
                f"prompt {self.name}: no value for {_braced(gaps)}",
                hint=f"This benchmark fills in: {_braced(sorted(values))}.",
            )
        return self.text.format(**values)

    def require(self, *fields: str) -> None:
        """Refuse a template that leaves out what the benchmark must show. Raises RecipeError."""
        gaps = sorted(set(fields) - self.fields)
        if gaps:
            raise RecipeError(
                f"prompt {self.name}: the template never shows {_braced(gaps)}",
                hint=f"It must hold {_braced(gaps)} where that text belongs.",
            )


def load_prompt(name_or_path: str, base: Path = Path()) -> PromptTemplate:
    """The shipped template of that name, or the UTF-8 text file at that path, bytes unchanged.

    A relative path starts at `base`. Raises RecipeError for a name that is neither, and for a file that is no template.
    """
    shipped = _shipped()
    if name_or_path in shipped:
        return _load_shipped(name_or_path, shipped[name_or_path])
    path = base / Path(name_or_path).expanduser()
    if not path.is_file():
        raise RecipeError(
            f"there is no prompt {name_or_path!r}, neither shipped nor a file",
            hint="Shipped prompts: " + ", ".join(prompt_names()),
        )
    try:
        return PromptTemplate.of(name_or_path, path.read_bytes().decode())
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"prompt {name_or_path}: cannot be read as UTF-8: {error}") from error


def prompt_names() -> list[str]:
    """Names of the shipped templates, sorted."""
    return sorted(_shipped())


def stands_in_for(name: str) -> str | None:
    """The prompt that was never published, in whose place a shipped template is used; null: it is the one
    it says, or a user's file."""
    return _shipped().get(name, {}).get("stands_in_for")


@cache
def _shipped() -> Mapping[str, Mapping[str, str]]:
    index = resources.files("evalkit.benchmarks") / _FOLDER / "index.yaml"
    entries = yaml.safe_load(index.read_text(encoding="utf-8"))
    return {entry["name"]: entry for entry in entries}


def _load_shipped(name: str, entry: Mapping[str, str]) -> PromptTemplate:
    file = resources.files("evalkit.benchmarks") / _FOLDER / entry["file"]
    template = PromptTemplate.of(name, file.read_bytes().decode())
    if template.sha256 != entry["sha256"]:
        raise DataError(
            f"prompt {name}: {entry['file']} has sha256 {template.sha256}, "
            f"evalkit ships {entry['sha256']}",
            hint="The installed package was altered: install it again, or name your own file.",
        )
    return template


def _fields(name: str, text: str) -> frozenset[str]:
    try:
        found = {field for _, field, _, _ in Formatter().parse(text) if field is not None}
    except ValueError as error:
        raise _not_a_template(name, str(error)) from error
    for field in found:
        if not field.isidentifier():
            raise _not_a_template(name, f"{{{field}}} is not a field name")
    return frozenset(found)


def _not_a_template(name: str, reason: str) -> RecipeError:
    return RecipeError(
        f"prompt {name}: {reason}",
        hint="Fields look like {problem}; write a literal brace twice, as in \\boxed{{}}.",
    )


def _braced(names: list[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names) or "nothing"
