"""`${env:NAME}` and `${env:NAME:-default}` in the values of a recipe.

The environment is an argument. A value that is one reference and nothing else is read like an unquoted
YAML scalar, so that a number stays a number. As in a shell, the default also stands for a variable
that is set but empty. `$${env:NAME}` is the text `${env:NAME}`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.recipe.document import Document, Path
from evalkit.recipe.problems import Problem
from evalkit.recipe.yaml_text import parse_scalar

if TYPE_CHECKING:
    from collections.abc import Mapping

START = "${env:"
REFERENCE = re.compile(r"(\$?)\$\{env:(?:([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\})?")


@dataclass
class Substitution:
    """One walk over a document; `problems` collects what is missing on the way."""

    env: Mapping[str, str]
    problems: list[Problem] = field(default_factory=list)

    def document(self, document: Document) -> Document:
        """The document with every reference replaced."""
        return Document(self.value(document.data, ()), document.sources, document.selects)

    def value(self, value: Any, path: Path) -> Any:
        """A value with every reference replaced."""
        if isinstance(value, dict):
            return {key: self.value(each, (*path, key)) for key, each in value.items()}
        if isinstance(value, list):
            return [self.value(each, (*path, i)) for i, each in enumerate(value)]
        return self.text(value, path) if isinstance(value, str) and START in value else value

    def text(self, text: str, path: Path) -> Any:
        """One text; a number, boolean or null where a whole text is one reference."""
        whole = REFERENCE.fullmatch(text)
        result = REFERENCE.sub(lambda match: self._one(match, path), text)
        return parse_scalar(result) if whole and not whole[1] and result else result

    def _one(self, match: re.Match[str], path: Path) -> str:
        escaped, name, has_default, default = match.groups()
        if escaped:
            return match[0][1:]
        if name is None:
            self.problems.append(
                Problem(path, "a reference reads ${env:NAME} or ${env:NAME:-default}")
            )
            return ""
        value = self.env.get(name)
        if has_default and not value:
            return str(default)
        if value is None:
            self.problems.append(
                Problem(
                    path,
                    f"the environment variable {name} is not set. "
                    f"Set it, or give a default: ${{env:{name}:-...}}",
                )
            )
            return ""
        return value
