"""Strings below fields: what the reference, the schema and `evalkit ls task` show."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from evalkit.base import Frozen
from evalkit.meanings import field_meanings


class Base(Frozen):
    """A class with a field for others."""

    seed: int = 0
    """Sent with
    the first answer."""
    plain: int = 0


class Derived(Base):
    """Says the one thing anew, and more."""

    seed: int = 1
    wide: str = Field("", description="Said in the field.")
    """Not this."""


@dataclass(frozen=True)
class Data:
    """A class without pydantic."""

    level: float
    """A fraction."""


def test_meanings_of_a_model() -> None:
    """Inherited fields keep theirs; a description wins; a field without a word is left out."""
    assert field_meanings(Base) == {"seed": "Sent with\nthe first answer."}


def test_a_description_wins() -> None:
    """What stands in the field itself counts, and an inherited field keeps its meaning."""
    assert field_meanings(Derived) == {
        "seed": "Sent with\nthe first answer.",
        "wide": "Said in the field.",
    }


def test_meanings_of_a_data_class() -> None:
    """Data classes are read, too."""
    assert field_meanings(Data) == {"level": "A fraction."}


def test_no_source() -> None:
    """A class that was made from no file says nothing."""
    names: dict[str, object] = {}
    exec("class Made:\n    a: int\n    'Text.'", {"__name__": "nowhere"}, names)
    assert field_meanings(names["Made"]) == {}  # type: ignore[arg-type]
