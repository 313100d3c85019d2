"""References in the values of a launcher file, resolved without OmegaConf, only where they are read.

`${a.b}` is another key, `${oc.env:NAME}` and `${oc.env:NAME,default}` a variable, and
`${select_not_null:a.b,text}` the first of its arguments that is not null, each a key or a literal.
A value that is one reference keeps the type of what it refers to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.recipe.document import Path, dotted
from evalkit.recipe.problems import Problem, nearest
from evalkit.recipe.yaml_text import parse_scalar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REFERENCE = re.compile(r"\$\{([^${}]*)\}")
DOTTED = re.compile(r"[A-Za-z_][\w-]*(?:\.[\w-]+)+|[a-z_]+")
START = "${"
MISSING = "???"
FORMS = "${a.b}, ${oc.env:NAME} and ${select_not_null:a.b,text}"


@dataclass
class Interpolation:
    """Resolves values of one configuration; `problems` collects what cannot be."""

    data: Any
    env: Mapping[str, str]
    problems: list[Problem] = field(default_factory=list)
    on_unset: Callable[[Path, str], None] | None = None
    """Told of variables that are not set, which are problems else."""

    def value(self, value: Any, path: Path, chain: tuple[str, ...] = ()) -> Any:
        """The value that stands at `path`, with every reference in it resolved."""
        if isinstance(value, dict):
            return {key: self.value(each, (*path, key), chain) for key, each in value.items()}
        if isinstance(value, list):
            return [self.value(each, (*path, i), chain) for i, each in enumerate(value)]
        if isinstance(value, str) and START in value:
            return self._text(value, path, chain)
        return value

    def _text(self, text: str, path: Path, chain: tuple[str, ...]) -> Any:
        while found := REFERENCE.search(text):
            result = self._one(found[1].strip(), path, chain)
            if found[0] == text:
                return result
            shown = "" if result is None else str(result)
            text = text[: found.start()] + shown + text[found.end() :]
        if START in text:
            self.problem(path, f"a reference that is not closed; those that are read: {FORMS}")
        return text

    def _one(self, expression: str, path: Path, chain: tuple[str, ...]) -> Any:
        resolver, colon, rest = expression.partition(":")
        if not colon:
            return self._key(expression, path, chain)
        if resolver == "oc.env":
            return self._variable(rest, path)
        if resolver == "select_not_null":
            candidates = (self._argument(each.strip(), path, chain) for each in rest.split(","))
            return next((each for each in candidates if each not in (None, MISSING)), None)
        self.problem(path, f"there is no resolver '{resolver}'; references that are read: {FORMS}")
        return None

    def _key(self, name: str, path: Path, chain: tuple[str, ...]) -> Any:
        if name in chain:
            self.problem(path, f"refers to itself: {' -> '.join((*chain, name))}")
            return None
        found = self._find(name)
        if found is None:
            near = nearest(name, [dotted(each) for each in _paths(self.data)])
            self.problem(path, f"${{{name}}}: there is no such key. {near}".strip())
            return None
        return self.value(found[0], path, (*chain, name))

    def _argument(self, text: str, path: Path, chain: tuple[str, ...]) -> Any:
        """A key of the configuration, null where it reads as one and is not there; else the text."""
        if self._find(text) is not None:
            return self._key(text, path, chain)
        return None if DOTTED.fullmatch(text) and "." in text else parse_scalar(text)

    def _find(self, name: str) -> tuple[Any] | None:
        value = self.data
        for part in name.split("."):
            if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            elif isinstance(value, dict) and part in value:
                value = value[part]
            else:
                return None
        return (value,)

    def _variable(self, text: str, path: Path) -> Any:
        name, comma, default = text.partition(",")
        value = self.env.get(name.strip(), default if comma else None)
        if value is None:
            tell = self.on_unset or self.problem
            tell(path, f"the environment variable {name.strip()} is not set")
        return value

    def problem(self, path: Path, text: str) -> None:
        """A problem of a key; the same one is told once."""
        problem = Problem(path, text)
        if problem not in self.problems:
            self.problems.append(problem)


def _paths(data: Any, path: Path = ()) -> list[Path]:
    if not isinstance(data, dict):
        return []
    below = [each for key, value in data.items() for each in _paths(value, (*path, key))]
    return [*((*path, key) for key in data), *below]
