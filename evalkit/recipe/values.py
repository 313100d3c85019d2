"""Types of single values in a recipe, and the markers that describe them in words.

Text takes whole numbers, names of variables refuse what looks like a secret. What a recipe is made of
is in `evalkit.recipe.schema`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from evalkit.recipe.secret_text import is_key_like, is_random_looking


@dataclass(frozen=True, slots=True)
class Words:
    """Marker: what a value is, in words, for the reference and for error messages."""

    text: str


@dataclass(frozen=True, slots=True)
class Partial:
    """Marker: a mapping with any of the keys of these sections, merged later."""

    sections: tuple[type[BaseModel], ...]
    more: tuple[str, ...] = ()
    """Keys that the sections do not have."""


def _int_as_text(value: Any) -> Any:
    """`account: 1234` is text; only integers read back as they were written, so only they pass."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _not_a_key(value: str) -> str:
    if is_key_like(value) or is_random_looking(value):
        raise ValueError("this looks like a secret itself; write the name of its variable")
    return value


def _no_key_inside(value: str) -> str:
    if is_key_like(value):
        raise ValueError("this looks like a secret, and it would be recorded; name it in secrets")
    return value


Text: TypeAlias = Annotated[str, BeforeValidator(_int_as_text)]
RecordedText: TypeAlias = Annotated[Text, AfterValidator(_no_key_inside)]
EnvName: TypeAlias = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), Words("the name of an environment variable")
]
SecretName: TypeAlias = Annotated[EnvName, AfterValidator(_not_a_key)]
Name: TypeAlias = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100),
    Words("a name of letters, digits, '.', '_' and '-' that starts with a letter or digit"),
]
