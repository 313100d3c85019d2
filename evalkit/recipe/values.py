"""Types of single values in a recipe, and the markers that describe them in words.

Text takes whole numbers, names of variables refuse what looks like a secret, and a free part of the
request body refuses what evalkit sends itself. What a recipe is made of is in `evalkit.recipe.schema`.
"""

from __future__ import annotations

import re
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


SENT_AS_IS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
"""Keys of `generation` that are fields of a request under the same name."""

SENT_BY_US = {
    "model": "serving.served_model_name",
    "messages": "request.system_message, or the benchmark's params",
    "stream": "nothing: evalkit decides how answers are sent",
    "n": "tasks.NAME.repeats",
    "max_tokens": "generation.max_tokens",
    "max_completion_tokens": "generation.max_tokens",
    "system_message": "request.system_message",
    **{name: f"generation.{name}" for name in (*SENT_AS_IS, "seed", "stop")},
}
"""Fields of a request that have a key of their own, and which one: set twice, one would win in silence."""


def _not_sent_by_us(body: dict[str, Any]) -> dict[str, Any]:
    if given := [name for name in body if name in SENT_BY_US]:
        raise ValueError(f"{given[0]} does not belong here; use {SENT_BY_US[given[0]]}")
    return body


FreeBody: TypeAlias = Annotated[dict[str, Any], AfterValidator(_not_sent_by_us)]

Text: TypeAlias = Annotated[str, BeforeValidator(_int_as_text)]
EnvName: TypeAlias = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), Words("the name of an environment variable")
]
SecretName: TypeAlias = Annotated[EnvName, AfterValidator(_not_a_key)]
MAX_NAME = 100
Name: TypeAlias = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MAX_NAME),
    Words("a name of letters, digits, '.', '_' and '-' that starts with a letter or digit"),
]


def as_name(text: str, default: str) -> str:
    """A `Name` close to a text: what it may not hold becomes `-`; `default` where nothing is left."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")[:MAX_NAME] or default
