"""What all parts of a recipe have in common."""

from __future__ import annotations

from typing import Any, TypeAlias, get_args

from pydantic import ConfigDict, model_validator

from evalkit.base import Frozen

Scalar: TypeAlias = str | int | float | bool


class Section(Frozen):
    """Base of all parts of a recipe."""

    model_config = ConfigDict(allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_bool_as_number(cls, data: Any) -> Any:
        """`replicas: true` is a slip, though Python calls true a 1: as text it is no number."""
        if not isinstance(data, dict):
            return data
        wrong = [
            key
            for key, value in data.items()
            if isinstance(value, bool) and key in cls.model_fields and _is_number(cls, key)
        ]
        return data | {key: str(data[key]).lower() for key in wrong}


def _is_number(section: type[Section], key: str) -> bool:
    annotation = section.model_fields[key].annotation
    kinds = {annotation, *get_args(annotation)}
    return bool(kinds & {int, float}) and bool not in kinds
