"""Variables of a launcher file: `host:NAME`, `lit:TEXT`, `runtime:NAME`.

Only names are kept. What is `host:` must be set where the file is loaded to be run, so that a run does not
find out hours later; a name without a prefix, as in files of 2025, is taken for `host:`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from evalkit.recipe.nemo.interpolation import MISSING
from evalkit.recipe.secret_text import is_key_like, is_random_looking

if TYPE_CHECKING:
    from evalkit.recipe.document import Path
    from evalkit.recipe.nemo.source import Source

Kind: TypeAlias = Literal["host", "lit", "runtime"]
FORM = re.compile(r"(host|lit|runtime):(.*)", re.DOTALL)
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Variable:
    """One variable as a section gives it."""

    name: str
    kind: Kind
    text: str
    """The name it is read from, or the literal."""
    path: Path

    @property
    def is_renamed(self) -> bool:
        """It is read from a variable of another name."""
        return self.kind != "lit" and self.name != self.text


def read_variables(source: Source, *sections: Path) -> dict[str, Variable]:
    """The variables of some sections (`env_vars` below each), the later ones winning.

    Marks the keys; a variable that is not valid is a problem, and left out.
    """
    found: dict[str, Variable] = {}
    for section in sections:
        path = (*section, "env_vars")
        values = source.peek(*path)
        if not isinstance(values, dict):
            continue
        for name, value in values.items():
            if value == MISSING:
                source.get(*path, name)
                continue
            variable = _read(source, (*path, name), value)
            if variable is not None:
                found[name] = variable
    return found


def check_host(source: Source, variables: dict[str, Variable]) -> None:
    """Every `host:` variable is set here, or a problem that names it; a file that is shown needs none."""
    if source.only_shows:
        return
    for variable in variables.values():
        if variable.kind == "host" and variable.text not in source.env:
            source.problem(
                variable.path,
                f"the environment variable {variable.text} is not set. Set it, or give it in a file: "
                "--env-file FILE (or .env here)",
            )


def _read(source: Source, path: Path, value: Any) -> Variable | None:
    source.use(*path)
    name, text = str(path[-1]), "" if value is None else str(value)
    if "${" in text:
        source.problem(
            path, "a reference would write the value into the recipe. Write host:NAME instead"
        )
        return None
    if match := FORM.fullmatch(text):
        kind, rest = match[1], match[2]
        if kind == "lit":
            return Variable(name, "lit", rest, path)
        if NAME.fullmatch(rest) and not _is_secret(rest):
            return Variable(name, "host" if kind == "host" else "runtime", rest, path)
        source.problem(path, f"expected {kind}: and the name of an environment variable")
        return None
    if NAME.fullmatch(text) and not _is_secret(text):
        source.note(
            path, f"read as host:{text}; a value without a prefix is an old form", important=False
        )
        return Variable(name, "host", text, path)
    source.problem(
        path,
        "a value begins with host: (a variable here), lit: (text) or runtime: (a variable in the job). "
        f"Did you mean 'host:{name}'?",
    )
    return None


def _is_secret(text: str) -> bool:
    return is_key_like(text) or is_random_looking(text)
